//! Threads that may not be there: a process has limits of threads and memory.

use std::io;
use std::thread::{Builder, Scope};

/// Starts up to `count` threads, each with what `work` gives. Fewer do, if there is one.
///
/// # Errors
/// Where not even one can be started.
pub(crate) fn start_some<'scope, F>(
    scope: &'scope Scope<'scope, '_>,
    count: usize,
    mut work: impl FnMut() -> F,
) -> io::Result<()>
where
    F: FnOnce() + Send + 'scope,
{
    for index in 0..count {
        match Builder::new().spawn_scoped(scope, work()) {
            Ok(_) => {}
            Err(error) if index == 0 => return Err(error),
            Err(error) => {
                tracing::debug!(%error, index, "fewer threads than processors");
                break;
            }
        }
    }
    Ok(())
}
