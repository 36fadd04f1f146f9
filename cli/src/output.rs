//! Writing to stdout: data only, one line a fact.

use std::io::{self, BufWriter, StdoutLock, Write};

use serde_json::{Map, Value, json};

use ipfs_exec_node::unixfs::Metadata;

/// Standard output, buffered.
pub(crate) fn stdout() -> BufWriter<StdoutLock<'static>> {
    BufWriter::with_capacity(64 * 1024, io::stdout().lock())
}

/// Writes one line.
pub(crate) fn line(text: impl std::fmt::Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// Adds mode (as octal text) and mtime to a JSON object, where they are recorded.
pub(crate) fn put_metadata(object: &mut Map<String, Value>, metadata: &Metadata) {
    if let Some(mode) = metadata.mode {
        object.insert("mode".to_owned(), json!(format!("{mode:04o}")));
    }
    if let Some(mtime) = metadata.mtime {
        object.insert("mtime".to_owned(), json!(mtime.seconds));
        if mtime.nanoseconds > 0 {
            object.insert("mtime_nsecs".to_owned(), json!(mtime.nanoseconds));
        }
    }
}

/// Text of a name or target that came as bytes, for JSON: exact where it is UTF-8.
pub(crate) fn json_text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!(ipfs_exec_node::path::escape(bytes)),
    }
}
