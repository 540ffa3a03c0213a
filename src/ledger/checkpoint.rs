//! Moves the write-ahead log back into the ledger's file, on a thread and a connection of its own, when the gate is quiet: a scan
//! never waits for it.
//!
//! A log that is written to without a pause is moved back as well, every [`BUSY_OPERATIONS`]; but it can be begun anew only when
//! nothing was added meanwhile. Where it has grown past [`LOG_BYTES_MAX`], the writer itself moves the short remainder back
//! ([`Checkpointer::take_finished`]), so that the log stays bounded.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags};

use crate::clock::monotonic_now;

/// The log is given this length in quiet moments after a start, in steps of [`GROWTH_BYTES`].
const LOG_BYTES_MIN: u64 = 4 << 20;
/// One step: as much as a slow card writes while a passenger comes to the reader.
pub(super) const GROWTH_BYTES: u32 = 512 << 10;
/// Operations after which a quiet moment is used.
const OPERATIONS_MIN: usize = 64;
/// The gate is quiet when nobody was admitted for so long.
const QUIET: Duration = Duration::from_millis(500);
/// Operations after which the log is moved back whatever the gate does.
const BUSY_OPERATIONS: usize = 256;
/// A log longer than this must be begun anew soon.
pub(super) const LOG_BYTES_MAX: u64 = 16 << 20;

/// Where checkpoints are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checkpoints {
    /// On a thread of their own.
    Aside,
    /// At once, by whoever begins them: in simulations, which have one thread.
    #[cfg(test)]
    #[cfg(feature = "sandbox")]
    Inline,
}

pub(super) struct Checkpointer {
    operations: usize,
    quiet_since: Instant,
    /// Whether the log still has to be given its length.
    is_log_short: bool,
    is_running: Arc<AtomicBool>,
    /// Whether a run has ended since it was last asked for.
    has_finished: Arc<AtomicBool>,
    requests: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    /// The file, where its owner's thread does the work.
    #[cfg(test)]
    #[cfg(feature = "sandbox")]
    inline: Option<std::path::PathBuf>,
}

impl Checkpointer {
    pub(super) fn new(path: &Path, checkpoints: Checkpoints) -> Self {
        let has_thread = checkpoints == Checkpoints::Aside;
        let (requests, received) = sync_channel::<()>(1);
        let is_running = Arc::new(AtomicBool::new(false));
        let has_finished = Arc::new(AtomicBool::new(false));
        let (file, running, finished) = (path.to_owned(), is_running.clone(), has_finished.clone());
        let work = move || {
            while received.recv().is_ok() {
                checkpoint_or_tell(&file);
                finished.store(true, Ordering::Release);
                running.store(false, Ordering::Release);
            }
        };
        // Without a thread the log grows until the writer moves it back itself.
        let spawn = || std::thread::Builder::new().name("checkpoint".to_owned()).spawn(work).ok();
        Self {
            operations: 0,
            quiet_since: monotonic_now(),
            is_log_short: true,
            is_running,
            has_finished,
            requests: has_thread.then_some(requests),
            thread: has_thread.then(spawn).flatten(),
            #[cfg(test)]
            #[cfg(feature = "sandbox")]
            inline: (!has_thread).then(|| path.to_owned()),
        }
    }

    pub(super) fn gate_is_busy(&mut self) {
        self.quiet_since = monotonic_now();
    }

    /// When the gate will be quiet; `None` when it is.
    pub(super) fn quiet_at(&self, now: Instant) -> Option<Instant> {
        Some(self.quiet_since + QUIET).filter(|at| *at > now)
    }

    pub(super) fn committed(&mut self, operations: usize) {
        self.operations += operations;
    }

    /// When a quiet moment will have come.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let is_wanted = self.operations >= OPERATIONS_MIN && !self.is_running.load(Ordering::Acquire);
        (is_wanted || self.is_log_short).then(|| self.quiet_since + QUIET)
    }

    pub(super) fn keep_house(&mut self, now: Instant) {
        let is_quiet = self.operations >= OPERATIONS_MIN && now >= self.quiet_since + QUIET;
        let is_overdue = self.operations >= BUSY_OPERATIONS;
        if (is_quiet || is_overdue) && !self.is_running.load(Ordering::Acquire) {
            self.start();
        }
    }

    /// Whether the writer should make the log longer now, which is `log_bytes` long.
    pub(super) fn wants_growth(&mut self, now: Instant, log_bytes: impl FnOnce() -> u64) -> bool {
        if !self.is_log_short || now < self.quiet_since + QUIET {
            return false;
        }
        self.is_log_short = log_bytes() < LOG_BYTES_MIN;
        if !self.is_log_short {
            // Only a log that has been moved back as a whole is begun anew, within the length that it has now.
            self.operations = self.operations.max(OPERATIONS_MIN);
        }
        self.is_log_short
    }

    /// Whether a run has ended since this was last asked.
    pub(super) fn take_finished(&self) -> bool {
        self.has_finished.swap(false, Ordering::AcqRel)
    }

    fn start(&mut self) {
        self.operations = 0;
        self.quiet_since = monotonic_now();
        #[cfg(test)]
        #[cfg(feature = "sandbox")]
        if let Some(file) = &self.inline {
            checkpoint_or_tell(file);
            return self.has_finished.store(true, Ordering::Release);
        }
        if let Some(requests) = &self.requests {
            self.is_running.store(true, Ordering::Release);
            if requests.try_send(()).is_err() {
                self.is_running.store(false, Ordering::Release);
            }
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported; there is nothing left to do about it here.
            let _ = thread.join();
        }
    }
}

fn checkpoint_or_tell(path: &Path) {
    if let Err(error) = checkpoint(path) {
        log::warn!("the ledger's log could not be moved back and will be later: {error}");
    }
}

fn checkpoint(path: &Path) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // FULL: the log is synced before its pages are copied, and the file before the log is used again.
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA mmap_size = 0; PRAGMA cache_size = -256;")?;
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}
