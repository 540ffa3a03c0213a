//! The program's log: to journald when the service manager connected the program to it, else to stderr, one line per record.
//!
//! Promises: a log call never waits, whatever becomes of journald or of the pipe behind stderr. It formats one record and
//! offers it to a bounded queue; a thread of its own writes. What finds the queue full is dropped, counted, and the count is
//! logged when the queue flows again. Records keep their order. A record is one printable line of at most
//! [`TEXT_BYTES_MAX`] bytes, whatever a peer put into it. The last words before an exit or a panic are waited for, but not long.
//!
//! Other crates are heard from `warn` up only, whatever the level: below that HTTP clients print URLs, and ours hold tokens.
//! This room must not know what the records are about.

use std::{
    env,
    fmt::{self, Write as _},
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd, BorrowedFd},
    panic::{self, PanicHookInfo},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use systemd_journal_logger::{JournalLog, connected_to_journal};

use crate::clock::{Stamp, rfc3339_ms};

/// Records that wait for the writing thread at most; what comes when it is full is dropped and counted.
pub const QUEUE_RECORDS: usize = 1024;
/// Bytes of a record's text at most; longer ones are cut and end with `…`.
pub const TEXT_BYTES_MAX: usize = 4096;
/// The environment variable that sets the level: `error`, `warn`, `info`, `debug` or `trace`.
pub const LEVEL_VARIABLE: &str = "FAREGATE_LOG";

const LEVEL_DEFAULT: LevelFilter = LevelFilter::Info;
/// These report every single failure, which the room that uses them tells once per episode.
const TOLD_ELSEWHERE: [&str; 1] = ["rustls_platform_verifier"];
const FLUSH_WAIT: Duration = Duration::from_millis(500);
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(5);
const IDENTIFIER: &str = "faregate";
const CUT_MARK: char = '…';

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// stderr or the writing thread cannot be had.
    #[error("the log cannot start: {0}; the limits on open files and threads of this user may be too low")]
    Start(#[from] io::Error),
    /// A process has one log.
    #[error("the log is installed already; it can be installed once in a process")]
    Installed(#[from] log::SetLoggerError),
}

/// Installs the log for the whole process at the level that `FAREGATE_LOG` names, else at `info`. An unknown word there is
/// answered with a warning in the log, not with a refusal to start.
///
/// # Errors
/// As [`install`].
pub fn install_from_env() -> Result<JournalGuard, JournalError> {
    let wanted = env::var_os(LEVEL_VARIABLE).filter(|word| !word.is_empty()).map(|word| word.to_string_lossy().into_owned());
    let level = wanted.as_deref().map_or(Some(LEVEL_DEFAULT), level_of);
    let guard = install(level.unwrap_or(LEVEL_DEFAULT))?;
    if level.is_none() {
        log::warn!(
            "{LEVEL_VARIABLE} is {:?}, which is none of error, warn, info, debug, trace: logging at info",
            wanted.unwrap_or_default()
        );
    }
    Ok(guard)
}

/// Installs the log and the panic hook for the whole process. This crate's records are let through at `level` and above, those
/// of others at `warn` and above.
///
/// Keep the guard until the end of `main`: dropping it waits, for half a second at most, until everything is written.
///
/// # Errors
/// Stderr or a thread cannot be had, or the process has a log already. Journald out of reach is no error: stderr serves.
pub fn install(level: LevelFilter) -> Result<JournalGuard, JournalError> {
    let (sink, trouble) = system_sink()?;
    let queue = Queue::start(sink)?;
    log::set_boxed_logger(Box::new(Journal { level, queue: queue.clone() }))?;
    log::set_max_level(level);
    install_panic_hook(queue.clone());
    if let Some(error) = trouble {
        log::warn!("journald cannot be reached ({error}): logging to stderr; see whether systemd-journald.socket is active");
    }
    Ok(JournalGuard { queue })
}

/// Waits on drop, for a bounded time, until everything logged so far is written.
#[must_use = "the log's last records are lost unless the guard lives until the end of main"]
pub struct JournalGuard {
    queue: Queue,
}

impl JournalGuard {
    /// The count of dropped records, to be read later and elsewhere.
    #[must_use]
    pub fn dropped_records(&self) -> DroppedRecords {
        self.queue.dropped.clone()
    }
}

impl Drop for JournalGuard {
    fn drop(&mut self) {
        self.queue.flush(FLUSH_WAIT);
    }
}

/// How many records were dropped since the start, because the queue was full or nothing took them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct DroppedRecords(Arc<AtomicU64>);

impl DroppedRecords {
    /// The count since the start.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The character, or what stands for it in a line on somebody's terminal: white space becomes a space; control characters,
/// line separators and those that change the direction of writing become `?`.
pub(crate) fn printable(character: char) -> char {
    match character {
        '\n' | '\r' | '\t' => ' ',
        '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '?',
        other if other.is_control() => '?',
        other => other,
    }
}

fn level_of(word: &str) -> Option<LevelFilter> {
    word.trim().parse::<Level>().ok().map(|level| level.to_level_filter())
}

/// The end that the `log` macros call.
struct Journal {
    level: LevelFilter,
    queue: Queue,
}

impl Log for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let level = match metadata.target() {
            target if is_ours(target) => self.level,
            target if TOLD_ELSEWHERE.iter().any(|crate_name| target.starts_with(crate_name)) => LevelFilter::Off,
            _ => self.level.min(LevelFilter::Warn),
        };
        metadata.level() <= level
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.queue.offer(Entry::of(record));
        }
    }

    fn flush(&self) {
        self.queue.flush(FLUSH_WAIT);
    }
}

fn is_ours(target: &str) -> bool {
    target.strip_prefix(env!("CARGO_CRATE_NAME")).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// One record, owned.
#[derive(Debug)]
struct Entry {
    level: Level,
    utc_ms: i64,
    module: Option<&'static str>,
    file: Option<&'static str>,
    line: Option<u32>,
    text: String,
}

impl Entry {
    fn of(record: &Record<'_>) -> Self {
        let text = if is_ours(record.target()) {
            one_line(record.args())
        } else {
            one_line(&format_args!("{}: {}", record.target(), record.args()))
        };
        Self {
            module: record.module_path_static(),
            file: record.file_static(),
            line: record.line(),
            ..Self::new(record.level(), text)
        }
    }

    fn new(level: Level, text: String) -> Self {
        Self { level, utc_ms: Stamp::now().utc_ms, module: None, file: None, line: None, text }
    }

    fn to_line(&self) -> String {
        format!("{} {:<5} {}\n", rfc3339_ms(self.utc_ms), self.level, self.text)
    }
}

fn one_line(text: &dyn fmt::Display) -> String {
    let mut line = OneLine::default();
    // An error is the cut, or a Display that failed half-way: what came before it is worth a record.
    let _ = write!(line, "{text}");
    let mut text = line.text;
    text.truncate(text.trim_end().len());
    if line.is_cut {
        text.push(CUT_MARK);
    }
    text
}

/// Takes what is formatted into it as one printable line, and no more of it than a record may have.
#[derive(Default)]
struct OneLine {
    text: String,
    is_cut: bool,
}

impl fmt::Write for OneLine {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for character in part.chars().map(printable) {
            self.is_cut |= self.text.len() + character.len_utf8() + CUT_MARK.len_utf8() > TEXT_BYTES_MAX;
            if self.is_cut {
                return Err(fmt::Error);
            }
            self.text.push(character);
        }
        Ok(())
    }
}

/// Where the writing thread puts records.
type Sink = Box<dyn FnMut(&Entry) -> io::Result<()> + Send>;

enum Message {
    Entry(Box<Entry>),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// The sending end of the way to the writing thread. The thread ends when the last one is dropped.
#[derive(Clone)]
struct Queue {
    sender: SyncSender<Message>,
    dropped: DroppedRecords,
}

impl Queue {
    fn start(sink: Sink) -> io::Result<Self> {
        let (sender, receiver) = mpsc::sync_channel(QUEUE_RECORDS);
        let dropped = DroppedRecords::default();
        let writer = Writer { sink, dropped: dropped.clone(), reported: 0 };
        thread::Builder::new().name("log".into()).spawn(move || writer.run(&receiver))?;
        Ok(Self { sender, dropped })
    }

    fn offer(&self, entry: Entry) {
        if self.sender.try_send(Message::Entry(Box::new(entry))).is_err() {
            self.dropped.add_one();
        }
    }

    /// Whether everything offered so far was written within `wait`.
    fn flush(&self, wait: Duration) -> bool {
        self.flush_until(Instant::now() + wait)
    }

    /// Whether the entry, and everything before it, was written within `wait`.
    fn write_through(&self, entry: Entry, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        self.insist(Message::Entry(Box::new(entry)), deadline) && self.flush_until(deadline)
    }

    fn flush_until(&self, deadline: Instant) -> bool {
        let (done, written) = mpsc::sync_channel(1);
        self.insist(Message::Flush(done), deadline)
            && written.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok()
    }

    /// Tries again while the queue is full, until the deadline.
    fn insist(&self, mut message: Message, deadline: Instant) -> bool {
        loop {
            message = match self.sender.try_send(message) {
                Ok(()) => return true,
                Err(TrySendError::Full(message)) if Instant::now() < deadline => message,
                Err(_) => return false,
            };
            thread::sleep(FULL_QUEUE_PAUSE);
        }
    }
}

/// The writing thread.
struct Writer {
    sink: Sink,
    dropped: DroppedRecords,
    reported: u64,
}

impl Writer {
    fn run(mut self, receiver: &Receiver<Message>) {
        while let Ok(first) = receiver.recv() {
            self.handle(first);
            while let Ok(next) = receiver.try_recv() {
                self.handle(next);
            }
            self.report_dropped();
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Entry(entry) => {
                if (self.sink)(&entry).is_err() {
                    self.dropped.add_one();
                }
            }
            Message::Flush(done) => {
                self.report_dropped();
                // Whoever asked may have stopped waiting.
                let _ = done.try_send(());
            }
        }
    }

    /// Called when the queue is empty: what was dropped came after everything that was in it, so that the notice stands in the gap.
    fn report_dropped(&mut self) {
        let total = self.dropped.total();
        let count = total - self.reported;
        if count == 0 {
            return;
        }
        let text = format!("log records dropped here: {count}; journald or stderr did not take them fast enough, or not at all");
        if (self.sink)(&Entry::new(Level::Warn, text)).is_ok() {
            self.reported = total;
        }
    }
}

/// The best sink to be had, and what stood in the way of a better one.
fn system_sink() -> io::Result<(Sink, Option<io::Error>)> {
    if !connected_to_journal() {
        return Ok((stderr_sink()?, None));
    }
    match JournalLog::empty() {
        Ok(journal) => Ok((journald_sink(journal)?, None)),
        Err(error) => Ok((stderr_sink()?, Some(error))),
    }
}

fn journald_sink(journal: JournalLog) -> io::Result<Sink> {
    let journal = journal.with_syslog_identifier(IDENTIFIER.to_owned());
    let mut stderr = stderr_sink()?;
    Ok(Box::new(move |entry| send(&journal, entry).or_else(|_| stderr(entry))))
}

fn send(journal: &JournalLog, entry: &Entry) -> io::Result<()> {
    journal.journal_send(
        &Record::builder()
            .level(entry.level)
            .target(entry.module.unwrap_or(IDENTIFIER))
            .module_path_static(entry.module)
            .file_static(entry.file)
            .line(entry.line)
            .args(format_args!("{}", entry.text))
            .build(),
    )
}

/// A descriptor of our own: the standard library's stderr has a lock, which a write into a stuck pipe would hold.
fn stderr_sink() -> io::Result<Sink> {
    let mut stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    Ok(Box::new(move |entry| stderr.write_all(entry.to_line().as_bytes())))
}

fn install_panic_hook(queue: Queue) {
    panic::set_hook(Box::new(move |info| {
        let entry = panic_entry(info);
        let line = entry.to_line();
        if !queue.write_through(entry, FLUSH_WAIT) {
            write_unless_stuck(io::stderr().as_fd(), &line);
        }
    }));
}

fn panic_entry(info: &PanicHookInfo<'_>) -> Entry {
    let payload = info.payload();
    let message = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let current = thread::current();
    let thread = current.name().unwrap_or("unnamed");
    let message = message.unwrap_or("no message");
    Entry::new(
        Level::Error,
        one_line(&format_args!("panic in thread {thread} at {place}: {message}; this is a fault of the program")),
    )
}

/// Writes only when that cannot block: a panic must end the program even when nobody reads its stderr.
fn write_unless_stuck(fd: BorrowedFd<'_>, line: &str) {
    let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
    let is_writable = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0);
    if is_writable {
        // Nobody is left to be told of an error.
        let _ = fd.try_clone_to_owned().map(File::from).and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Command, Stdio},
        sync::{Mutex, atomic::AtomicBool},
    };

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn collecting() -> (Sink, Arc<Mutex<Vec<String>>>) {
        let texts = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&texts);
        let sink = move |entry: &Entry| {
            taken.lock().unwrap().push(entry.text.clone());
            Ok(())
        };
        (Box::new(sink), texts)
    }

    fn entry(text: impl fmt::Display) -> Entry {
        Entry::new(Level::Info, one_line(&text))
    }

    #[test]
    fn records_keep_their_order() {
        let (sink, texts) = collecting();
        let queue = Queue::start(sink).unwrap();
        (0..100).for_each(|number| queue.offer(entry(number)));
        assert!(queue.flush(DEADLINE));
        assert_eq!(*texts.lock().unwrap(), (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn a_stuck_writer_never_blocks_the_caller_and_the_lost_are_counted_where_they_are_missing() {
        let (mut collect, texts) = collecting();
        let (entered_tx, entered) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let sink = move |entry: &Entry| {
            let _ = entered_tx.send(());
            let _ = released.recv();
            collect(entry)
        };
        let queue = Queue::start(Box::new(sink)).unwrap();
        queue.offer(entry("first"));
        entered.recv_timeout(DEADLINE).unwrap();

        let (caller, (done, finished)) = (queue.clone(), mpsc::channel());
        thread::spawn(move || {
            (0..QUEUE_RECORDS + 7).for_each(|number| caller.offer(entry(number)));
            done.send(()).unwrap();
        });
        finished.recv_timeout(DEADLINE).expect("a log call waited for the writer");
        assert_eq!(queue.dropped.total(), 7);
        assert!(!queue.flush(Duration::from_millis(1)), "a flush must not claim what is not written");

        drop(release);
        assert!(queue.flush(DEADLINE));
        queue.offer(entry("after"));
        assert!(queue.flush(DEADLINE));
        let texts = texts.lock().unwrap();
        assert_eq!(texts.len(), QUEUE_RECORDS + 3);
        assert_eq!(texts[QUEUE_RECORDS], (QUEUE_RECORDS - 1).to_string());
        assert!(texts[QUEUE_RECORDS + 1].starts_with("log records dropped here: 7;"), "{}", texts[QUEUE_RECORDS + 1]);
        assert_eq!(texts[QUEUE_RECORDS + 2], "after");
    }

    #[test]
    fn a_sink_that_refuses_costs_the_record_only_and_is_told_of_when_it_takes_again() {
        let (mut collect, texts) = collecting();
        let is_broken = Arc::new(AtomicBool::new(true));
        let breaks = Arc::clone(&is_broken);
        let sink = move |entry: &Entry| {
            if breaks.load(Ordering::SeqCst) { Err(io::ErrorKind::BrokenPipe.into()) } else { collect(entry) }
        };
        let queue = Queue::start(Box::new(sink)).unwrap();
        queue.offer(entry("lost"));
        assert!(queue.flush(DEADLINE));
        is_broken.store(false, Ordering::SeqCst);
        queue.offer(entry("kept"));
        assert!(queue.flush(DEADLINE));
        let mut texts = texts.lock().unwrap().clone();
        texts.sort();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert_eq!(texts[0], "kept");
        assert!(texts[1].starts_with("log records dropped here: 1;"), "{texts:?}");
    }

    #[test]
    fn a_record_is_one_printable_line_whatever_a_peer_put_into_it() {
        assert_eq!(one_line(&"a\nb\r\nc\td\u{1b}[31me\u{0}\u{85}\u{202e}\u{2028}f 地铁\n"), "a b  c d?[31me????f 地铁");
        let line = Entry { utc_ms: 1_795_412_070_123, ..Entry::new(Level::Warn, one_line(&"lane in: x")) }.to_line();
        assert_eq!(line, "2026-11-23T05:34:30.123Z WARN  lane in: x\n");
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_marked() {
        for text in ["x".repeat(9000), "铁".repeat(3000)] {
            let cut = one_line(&text);
            assert!(cut.len() <= TEXT_BYTES_MAX && cut.len() > TEXT_BYTES_MAX - 4, "{}", cut.len());
            assert!(cut.ends_with(CUT_MARK));
        }
        assert_eq!(one_line(&"x".repeat(4000)).len(), 4000);
    }

    #[test]
    fn other_crates_are_heard_from_warn_up_even_at_trace() {
        let journal = |level| Journal { level, queue: Queue::start(collecting().0).unwrap() };
        let passes = |journal: &Journal, target, level| journal.enabled(&Metadata::builder().target(target).level(level).build());
        let trace = journal(LevelFilter::Trace);
        for target in ["reqwest::connect", "hyper", "hyper_util::client", "faregateway", ""] {
            assert!(!passes(&trace, target, Level::Info) && !passes(&trace, target, Level::Trace), "{target}");
            assert!(passes(&trace, target, Level::Warn), "{target}");
        }
        assert!(passes(&trace, "faregate::lane", Level::Trace) && passes(&trace, "faregate", Level::Trace));
        assert!(!passes(&trace, "rustls_platform_verifier::verification::others", Level::Error));
        let error = journal(LevelFilter::Error);
        assert!(!passes(&error, "hyper", Level::Warn) && !passes(&error, "faregate", Level::Warn));
    }

    #[test]
    fn the_level_is_one_of_five_words() {
        assert_eq!(level_of("warn"), Some(LevelFilter::Warn));
        assert_eq!(level_of(" TRACE "), Some(LevelFilter::Trace));
        assert_eq!(level_of("off"), None);
        assert_eq!(level_of("loud"), None);
    }

    const CHILD_VARIABLE: &str = "FAREGATE_TEST_CHILD";

    /// Runs the named test again in a process of its own, where it takes its other branch: the log belongs to a whole process.
    fn child(test: &str, level: &str) -> Command {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", &format!("journal::tests::{test}"), "--nocapture"]);
        command.env(CHILD_VARIABLE, "1").env(LEVEL_VARIABLE, level).env_remove("JOURNAL_STREAM");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn is_child() -> bool {
        env::var_os(CHILD_VARIABLE).is_some()
    }

    #[test]
    fn a_panic_and_the_last_words_before_it_are_in_the_log() {
        if is_child() {
            let _guard = install_from_env().unwrap();
            log::info!("lane in: last words");
            log::debug!("not these");
            log::info!(target: "reqwest", "nor these");
            panic!("broken\nbeyond repair");
        }
        let output = child("a_panic_and_the_last_words_before_it_are_in_the_log", "loud").output().unwrap();
        assert!(!output.status.success());
        let text = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("WARN  FAREGATE_LOG is \"loud\""), "{text}");
        assert_eq!(lines[1], "INFO  lane in: last words");
        assert!(lines[2].starts_with("ERROR panic in thread ") && lines[2].contains("src/journal.rs:"), "{text}");
        assert!(lines[2].contains(": broken beyond repair; "), "{text}");
    }

    #[test]
    fn the_guard_waits_for_the_last_words_before_an_exit() {
        if is_child() {
            let guard = install(LevelFilter::Debug).unwrap();
            (0..500).for_each(|number| log::debug!("record {number}"));
            assert!(install(LevelFilter::Debug).is_err(), "a process has one log");
            drop(guard);
            std::process::exit(3);
        }
        let output = child("the_guard_waits_for_the_last_words_before_an_exit", "").output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text.lines().count(), 500);
        assert!(text.ends_with("DEBUG record 499\n"), "{text}");
    }

    #[test]
    fn a_stderr_that_nobody_reads_stops_neither_the_program_nor_its_panic() {
        if is_child() {
            let _guard = install_from_env().unwrap();
            (0..20_000).for_each(|number| log::info!("record {number}"));
            panic!("in a program whose stderr is stuck");
        }
        let mut child = child("a_stderr_that_nobody_reads_stops_neither_the_program_nor_its_panic", "info").spawn().unwrap();
        let deadline = Instant::now() + DEADLINE;
        while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let has_ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(has_ended, "the program hangs in its log");
    }
}
