//! Moves the write-ahead log back into the ledger's file, on a thread and a connection of its own, when the gate is quiet: a scan
//! never waits for it.
//!
//! A log that is written to without a pause is moved back as well, every [`BUSY_OPERATIONS`]; but it can be begun anew only when
//! nothing was added meanwhile. Where it has grown past [`LOG_PAGES_MAX`], the writer itself moves the short remainder
//! back ([`Checkpointer::take_remainder`]), so that the log stays bounded.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags};

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
/// A log of more pages than this (16 MiB) must be begun anew soon.
const LOG_PAGES_MAX: u64 = 4096;

pub(super) struct Checkpointer {
    operations: usize,
    quiet_since: Instant,
    /// Whether the log still has to be given its length.
    is_log_short: bool,
    is_running: Arc<AtomicBool>,
    /// Pages of a log that was too long and could not be moved back as a whole; 0 otherwise.
    remainder_of_pages: Arc<AtomicU64>,
    requests: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    pub(super) fn new(path: &Path) -> Self {
        let (requests, received) = sync_channel::<()>(1);
        let is_running = Arc::new(AtomicBool::new(false));
        let remainder_of_pages = Arc::new(AtomicU64::new(0));
        let (file, flag, remainder) = (path.to_owned(), is_running.clone(), remainder_of_pages.clone());
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(move || {
            while received.recv().is_ok() {
                match checkpoint(&file) {
                    Ok(pages) => remainder.store(pages, Ordering::Release),
                    Err(error) => log::warn!("the ledger's log could not be moved back and will be later: {error}"),
                }
                flag.store(false, Ordering::Release);
            }
        });
        let (requests, thread) = (Some(requests), thread.ok());
        Self { operations: 0, quiet_since: Instant::now(), is_log_short: true, is_running, remainder_of_pages, requests, thread }
    }

    pub(super) fn gate_is_busy(&mut self) {
        self.quiet_since = Instant::now();
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
        self.is_log_short
    }

    /// Whether the writer must now move the rest of the log back itself.
    pub(super) fn take_remainder(&self) -> bool {
        !self.is_running.load(Ordering::Acquire) && self.remainder_of_pages.swap(0, Ordering::AcqRel) > 0
    }

    fn start(&mut self) {
        self.operations = 0;
        self.quiet_since = Instant::now();
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

/// Returns the log's length in pages if it is too long and was not moved back as a whole, else 0.
fn checkpoint(path: &Path) -> rusqlite::Result<u64> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // FULL: the log is synced before its pages are copied, and the file before the log is used again.
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA mmap_size = 0; PRAGMA cache_size = -256;")?;
    let (log, moved) =
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))?;
    let pages = if moved < log { u64::try_from(log).unwrap_or(0) } else { 0 };
    Ok(if pages > LOG_PAGES_MAX { pages } else { 0 })
}
