//! Progress on the terminal, for work that takes long enough to wonder.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ipfs_exec_node::Cancel;
use ipfs_exec_node::progress::{Event, Reporter};

/// Work that is done before this shows nothing.
const QUIET: Duration = Duration::from_millis(700);

/// The progress line that is on the terminal now.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Does `work`, which writes to the terminal, while the progress line is taken away.
pub(crate) fn aside<T>(work: impl FnOnce() -> T) -> T {
    let shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    // Released first: `work` may take long.
    let bar = shown.clone();
    drop(shown);
    match bar {
        Some(bar) => bar.suspend(work),
        None => work(),
    }
}

/// Bytes and entries done, shown on stderr when that is a terminal.
pub(crate) struct Progress {
    cancel: Cancel,
    started: Instant,
    total: AtomicU64,
    bytes: AtomicU64,
    entries: AtomicU64,
    bar: Mutex<Option<ProgressBar>>,
}

impl Progress {
    pub(crate) fn new(cancel: Cancel) -> Progress {
        Progress {
            cancel,
            started: Instant::now(),
            total: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            bar: Mutex::new(None),
        }
    }

    /// Takes the bar off the terminal.
    pub(crate) fn finish(&self) {
        if let Ok(Some(bar)) = self.bar.lock().as_deref_mut().map(Option::take) {
            bar.finish_and_clear();
            SHOWN.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    fn show(&self) {
        // Another thread draws at this moment: that is enough.
        let Ok(mut bar) = self.bar.try_lock() else {
            return;
        };
        let bar = bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            bar.set_style(ProgressStyle::with_template("{msg}").expect("the template is valid"));
            let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
            *shown = Some(bar.clone());
            bar
        });
        bar.set_message(self.line());
    }

    fn line(&self) -> String {
        let bytes = self.bytes.load(Ordering::Relaxed);
        let total = self.total.load(Ordering::Relaxed);
        let entries = self.entries.load(Ordering::Relaxed);
        let rate = bytes as f64 / self.started.elapsed().as_secs_f64();
        let of = if total > bytes {
            format!(" of {}", indicatif::BinaryBytes(total))
        } else {
            String::new()
        };
        format!(
            "{}{of}, {entries} entries, {}/s",
            indicatif::BinaryBytes(bytes),
            indicatif::BinaryBytes(rate as u64)
        )
    }
}

impl Reporter for Progress {
    fn report(&self, event: Event) {
        match event {
            Event::Total { bytes } => {
                self.total.fetch_max(bytes, Ordering::Relaxed);
            }
            Event::Advanced { bytes } => {
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            Event::Entry => {
                self.entries.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        if self.started.elapsed() > QUIET {
            self.show();
        }
    }

    fn cancel(&self) -> &Cancel {
        &self.cancel
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
