//! Watches the inputs of one lane, from a thread of its own, and tells what counts of them.
//!
//! The thread sleeps until a line changes, a level has to be looked at, or it is to end. Each level is also looked at every
//! [`LOOK_EVERY`], so that a change which a chip does not tell costs a second and not an alarm. An input that cannot be read is told
//! once, keeps its last level, and is tried again as often.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
};

use super::debounce::Debouncer;
use crate::turnstile::driver::{InputLine, InputSink};

/// How often a level is looked at although nothing was told.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Changes of one line that are taken in a row; the other lines and the end come next.
const CHANGES_IN_A_ROW_MAX: usize = 64;

/// A line has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edge {
    /// To this level: whether it is active.
    pub(super) level: bool,
    /// When.
    pub(super) at: Instant,
}

/// An input line that tells its changes. No method ever waits.
pub(super) trait Source: Send {
    /// Readable when there is a change to take.
    fn ready(&self) -> BorrowedFd<'_>;
    /// Takes the oldest change that was not taken yet.
    fn next(&mut self) -> io::Result<Option<Edge>>;
    /// Whether the line is active now.
    fn level(&self) -> io::Result<bool>;
}

/// Watches until it is dropped.
#[derive(Debug)]
pub(super) struct Inputs {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Inputs {
    /// `debounce`: how long a level must last to count.
    ///
    /// # Errors
    /// The thread cannot be had.
    pub(super) fn watch<S: Source + 'static>(
        lane: &str,
        lines: Vec<(InputLine, S)>,
        debounce: Duration,
        sink: InputSink,
    ) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let now = Instant::now();
        let watched =
            |(line, source)| Watched { line, source, debouncer: Debouncer::new(debounce, now), tells: true, failed: false };
        let watch = Watch { lane: lane.to_owned(), lines: lines.into_iter().map(watched).collect(), sink, stop: stop.clone() };
        let thread = std::thread::Builder::new().name("inputs".to_owned()).spawn(move || watch.run())?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Inputs {
    fn drop(&mut self) {
        let woken = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes()).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

struct Watched<S> {
    line: InputLine,
    source: S,
    debouncer: Debouncer,
    /// Whether its changes can be taken; else its level is looked at only.
    tells: bool,
    /// Whether its level could not be read the last time.
    failed: bool,
}

struct Watch<S> {
    lane: String,
    lines: Vec<Watched<S>>,
    sink: InputSink,
    stop: Arc<OwnedFd>,
}

impl<S: Source> Watch<S> {
    fn run(mut self) {
        let mut look_at_all = Instant::now();
        loop {
            let now = Instant::now();
            let all = look_at_all <= now;
            for index in 0..self.lines.len() {
                if all || self.lines[index].debouncer.look_at().is_some_and(|at| at <= now) {
                    self.look(index);
                }
            }
            if all {
                look_at_all = now + LOOK_EVERY;
            }
            match self.wait(look_at_all) {
                Ok(Woken::Stop) => return,
                Ok(Woken::Lines(ready)) => ready.into_iter().for_each(|index| self.take(index)),
                Err(error) => {
                    log::error!(
                        "lane {}: the inputs cannot be watched: {error}; their levels are looked at every second",
                        self.lane
                    );
                    std::thread::sleep(LOOK_EVERY);
                }
            }
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&self, look_at_all: Instant) -> io::Result<Woken> {
        let due = self.lines.iter().filter_map(|line| line.debouncer.look_at()).chain([look_at_all]).min();
        let patience = due.unwrap_or(look_at_all).saturating_duration_since(Instant::now());
        let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
        let telling: Vec<_> = (0..self.lines.len()).filter(|index| self.lines[*index].tells).collect();
        let fds = telling.iter().map(|index| self.lines[*index].source.ready()).chain([self.stop.as_fd()]);
        let mut fds: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&patience)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Woken::Lines(Vec::new())),
            Err(error) => return Err(error.into()),
        }
        if fds.last().is_some_and(|stop| !stop.revents().is_empty()) {
            return Ok(Woken::Stop);
        }
        Ok(Woken::Lines(telling.into_iter().zip(fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(index, _)| index).collect()))
    }

    /// Takes the changes that a line has told.
    fn take(&mut self, index: usize) {
        for _ in 0..CHANGES_IN_A_ROW_MAX {
            let line = &mut self.lines[index];
            match line.source.next() {
                Ok(Some(Edge { level, at })) => {
                    let counts = line.debouncer.change(level, at);
                    self.tell(index, counts);
                }
                Ok(None) => return,
                Err(error) => {
                    log::error!(
                        "lane {}: the input {} no longer tells its changes: {error}; its level is looked at every second",
                        self.lane,
                        line.line.as_str()
                    );
                    line.tells = false;
                    return;
                }
            }
        }
    }

    fn look(&mut self, index: usize) {
        let line = &mut self.lines[index];
        let level = line.source.level();
        let failed = level.is_err();
        if std::mem::replace(&mut line.failed, failed) != failed {
            self.sink.tell_unreadable(line.line, failed);
        }
        let counts = match level {
            Ok(level) => line.debouncer.look(level, Instant::now()),
            Err(_) => None,
        };
        self.tell(index, counts);
    }

    fn tell(&self, index: usize, counts: Option<bool>) {
        if let Some(active) = counts {
            self.sink.tell(self.lines[index].line, active);
        }
    }
}

/// What ended a sleep.
enum Woken {
    /// The thread is to end.
    Stop,
    /// Maybe some of the lines have changed.
    Lines(Vec<usize>),
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use super::*;
    use crate::turnstile::thread::Message;

    const PATIENCE: Duration = Duration::from_secs(10);
    const DEBOUNCE: Duration = Duration::from_millis(1);

    /// A line that a test moves. An event descriptor stands for the character device: it counts the changes that wait.
    #[derive(Clone)]
    struct FakeLine {
        waiting: Arc<OwnedFd>,
        changes: Arc<Mutex<std::collections::VecDeque<Edge>>>,
        level: Arc<Mutex<Result<bool, ()>>>,
        looks: Arc<AtomicUsize>,
    }

    impl FakeLine {
        fn new(level: bool) -> Self {
            let waiting = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE | EventfdFlags::CLOEXEC).unwrap();
            let level = Arc::new(Mutex::new(Ok(level)));
            Self { waiting: Arc::new(waiting), changes: Arc::default(), level, looks: Arc::default() }
        }

        /// Changes the level and tells it.
        fn change(&self, level: bool) {
            self.move_silently(Ok(level));
            self.changes.lock().unwrap().push_back(Edge { level, at: Instant::now() });
            rustix::io::write(&*self.waiting, &1_u64.to_ne_bytes()).unwrap();
        }

        fn move_silently(&self, level: Result<bool, ()>) {
            *self.level.lock().unwrap() = level;
        }
    }

    impl Source for FakeLine {
        fn ready(&self) -> BorrowedFd<'_> {
            self.waiting.as_fd()
        }

        fn next(&mut self) -> io::Result<Option<Edge>> {
            match rustix::io::read(&*self.waiting, &mut [0; 8]) {
                Ok(_) => Ok(self.changes.lock().unwrap().pop_front()),
                Err(Errno::AGAIN) => Ok(None),
                Err(error) => Err(error.into()),
            }
        }

        fn level(&self) -> io::Result<bool> {
            self.looks.fetch_add(1, Ordering::SeqCst);
            self.level.lock().unwrap().map_err(|()| Errno::NODEV.into())
        }
    }

    struct Bench {
        _inputs: Inputs,
        told: mpsc::Receiver<Message>,
    }

    impl Bench {
        fn watching<const LINES: usize>(lines: [(InputLine, FakeLine); LINES]) -> Self {
            let (sender, told) = mpsc::channel();
            let inputs = Inputs::watch("in", lines.into(), DEBOUNCE, InputSink::new(3, sender)).unwrap();
            Self { _inputs: inputs, told }
        }

        fn next(&self) -> (InputLine, bool) {
            match self.told.recv_timeout(PATIENCE).unwrap() {
                Message::Line { lane: 3, line, active } => (line, active),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_a_line_does_is_told_in_its_order() {
        let (passage, button) = (FakeLine::new(false), FakeLine::new(false));
        let bench = Bench::watching([(InputLine::Passage, passage.clone()), (InputLine::ExitButton, button.clone())]);
        for _ in 0..3 {
            passage.change(true);
            assert_eq!(bench.next(), (InputLine::Passage, true));
            button.change(true);
            assert_eq!(bench.next(), (InputLine::ExitButton, true));
            passage.change(false);
            assert_eq!(bench.next(), (InputLine::Passage, false));
            button.change(false);
            assert_eq!(bench.next(), (InputLine::ExitButton, false));
        }
    }

    #[test]
    fn an_alarm_that_is_on_at_the_start_is_told() {
        let bench = Bench::watching([(InputLine::FireAlarm, FakeLine::new(true))]);
        assert_eq!(bench.next(), (InputLine::FireAlarm, true));
    }

    #[test]
    fn a_change_that_the_chip_does_not_tell_is_found_by_looking() {
        let alarm = FakeLine::new(false);
        let bench = Bench::watching([(InputLine::FireAlarm, alarm.clone())]);
        alarm.move_silently(Ok(true));
        assert_eq!(bench.next(), (InputLine::FireAlarm, true));
        alarm.move_silently(Ok(false));
        assert_eq!(bench.next(), (InputLine::FireAlarm, false));
    }

    #[test]
    fn a_line_that_cannot_be_read_is_told_once_and_again_when_it_can() {
        let alarm = FakeLine::new(false);
        let bench = Bench::watching([(InputLine::FireAlarm, alarm.clone())]);
        alarm.move_silently(Err(()));
        let told = bench.told.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(told, Message::Unreadable { lane: 3, line: InputLine::FireAlarm, unreadable: true }), "{told:?}");
        alarm.move_silently(Ok(true));
        let told = bench.told.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(told, Message::Unreadable { line: InputLine::FireAlarm, unreadable: false, .. }), "{told:?}");
        assert_eq!(bench.next(), (InputLine::FireAlarm, true));
    }

    #[test]
    fn a_line_that_keeps_changing_neither_starves_the_others_nor_the_end() {
        let (noisy, alarm) = (FakeLine::new(false), FakeLine::new(false));
        let bench = Bench::watching([(InputLine::Passage, noisy.clone()), (InputLine::FireAlarm, alarm.clone())]);
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let storm = std::thread::spawn({
            let stop = stop.clone();
            move || {
                while !stop.load(Ordering::SeqCst) {
                    noisy.change(true);
                    noisy.change(false);
                }
            }
        });
        alarm.change(true);
        let told = std::iter::from_fn(|| bench.told.recv_timeout(PATIENCE).ok());
        let alarm_told =
            told.into_iter().any(|told| matches!(told, Message::Line { line: InputLine::FireAlarm, active: true, .. }));
        drop(bench);
        stop.store(true, Ordering::SeqCst);
        storm.join().unwrap();
        assert!(alarm_told);
    }

    #[test]
    fn dropping_it_ends_the_thread() {
        let Bench { _inputs: inputs, told } = Bench::watching([(InputLine::Passage, FakeLine::new(false))]);
        drop(inputs);
        assert!(told.recv().is_err(), "the thread has let go of the sink");
    }
}
