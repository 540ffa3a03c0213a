//! The inputs of a simulated turnstile: a FIFO that takes a JSON line per change, `{"line":"passage","level":1}`.
//!
//! A thread of its own sleeps until a line comes or it is to end. What cannot be understood is ignored, with one warning per
//! episode. The FIFO is made if it is missing, and stays.

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileTypeExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fs::{CWD, Mode, OFlags, mkfifoat},
    io::Errno,
};
use serde::Deserialize;

use super::{
    TurnstileError,
    driver::{InputLine, InputSink},
};
use crate::config;

/// A line that is longer is dropped.
const LINE_BYTES_MAX: usize = 4096;
const READ_BYTES: usize = 4096;

/// Reads the FIFO until it is dropped.
#[derive(Debug)]
pub(super) struct Inputs {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Inputs {
    /// `present`: the inputs that the lane has.
    pub(super) fn open(path: &Path, lane: &str, present: config::Inputs, sink: InputSink) -> Result<Self, TurnstileError> {
        let failed = |source| TurnstileError::Inputs { lane: lane.to_owned(), path: path.to_owned(), source };
        make_fifo(path).map_err(failed)?;
        let fifo = open_fifo(path).map_err(failed)?;
        if !fifo.metadata().map_err(failed)?.file_type().is_fifo() {
            return Err(TurnstileError::NotAFifo { lane: lane.to_owned(), path: path.to_owned() });
        }
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?);
        let reader = Reader { fifo, stop: stop.clone(), lines: Lines::default(), taker: Taker::new(path, lane, present, sink) };
        let thread =
            std::thread::Builder::new().name("inputs".to_owned()).spawn(move || reader.run()).map_err(TurnstileError::Thread)?;
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

fn make_fifo(path: &Path) -> io::Result<()> {
    match mkfifoat(CWD, path, Mode::from_raw_mode(0o660)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Also open for writing, so that the end of the last writer is not an end of file.
fn open_fifo(path: &Path) -> io::Result<File> {
    let file = rustix::fs::open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    Ok(file.into())
}

struct Reader {
    fifo: File,
    stop: Arc<OwnedFd>,
    lines: Lines,
    taker: Taker,
}

impl Reader {
    fn run(mut self) {
        loop {
            match self.read_once() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    let Taker { lane, path, .. } = &self.taker;
                    log::error!(
                        "lane {lane}: the inputs FIFO {} cannot be read: {error}; restart to read it again",
                        path.display()
                    );
                    return;
                }
            }
        }
    }

    /// Waits for bytes and takes them; `false` when it is to end.
    fn read_once(&mut self) -> io::Result<bool> {
        let mut ready = [PollFd::new(&self.fifo, PollFlags::IN), PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN)];
        match poll(&mut ready, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        if !ready[1].revents().is_empty() {
            return Ok(false);
        }
        let mut bytes = [0; READ_BYTES];
        match self.fifo.read(&mut bytes) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.lines.push(&bytes[..count], |line| self.taker.take(line)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

/// Cuts what is read into lines.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
    overlong: bool,
}

impl Lines {
    /// Hands on each line that ends in `bytes`, without its end; `None` for one that was too long.
    fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Option<&[u8]>)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            self.overlong |= self.begun.len() + text.len() > LINE_BYTES_MAX;
            if !self.overlong {
                self.begun.extend_from_slice(text);
            }
            if ended {
                each((!self.overlong).then_some(&self.begun));
                self.begun.clear();
                self.overlong = false;
            }
        }
    }
}

#[derive(Deserialize)]
struct Change {
    line: InputLine,
    level: u8,
}

/// Understands lines and tells what they set.
struct Taker {
    path: PathBuf,
    lane: String,
    present: config::Inputs,
    sink: InputSink,
    /// Whether the last line was not understood.
    puzzled: bool,
    /// Whether an input that the lane lacks has been set.
    absent_told: bool,
}

impl Taker {
    fn new(path: &Path, lane: &str, present: config::Inputs, sink: InputSink) -> Self {
        Self { path: path.to_owned(), lane: lane.to_owned(), present, sink, puzzled: false, absent_told: false }
    }

    fn take(&mut self, line: Option<&[u8]>) {
        if line.is_some_and(|line| line.trim_ascii().is_empty()) {
            return;
        }
        let change = line.and_then(|line| serde_json::from_slice(line).ok()).filter(|change: &Change| change.level <= 1);
        let was_puzzled = std::mem::replace(&mut self.puzzled, change.is_none());
        match change {
            Some(change) if self.has(change.line) => self.sink.tell(change.line, change.level == 1),
            Some(change) => self.warn_of_absent(change.line),
            None if !was_puzzled => self.warn_of_nonsense(),
            None => {}
        }
    }

    fn has(&self, line: InputLine) -> bool {
        match line {
            InputLine::Passage => self.present.passage,
            InputLine::FireAlarm => self.present.fire_alarm,
            InputLine::ExitButton => self.present.exit_button,
        }
    }

    fn warn_of_absent(&mut self, line: InputLine) {
        if !std::mem::replace(&mut self.absent_told, true) {
            let Self { lane, path, .. } = self;
            log::warn!(
                "lane {lane}: {line:?} came through {}, but this lane has no such input; such lines are ignored",
                path.display()
            );
        }
    }

    fn warn_of_nonsense(&self) {
        let Self { lane, path, .. } = self;
        log::warn!(
            "lane {lane}: a line from {} was not understood and is ignored; write {{\"line\":\"passage\",\"level\":1}}",
            path.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::turnstile::thread::Message;

    const ALL: config::Inputs = config::Inputs { passage: true, fire_alarm: true, exit_button: true };

    /// What a taker of `present` inputs tells, given these bytes in these pieces.
    fn told(present: config::Inputs, pieces: &[&[u8]]) -> Vec<(InputLine, bool)> {
        let (sender, messages) = mpsc::channel();
        let mut taker = Taker::new(Path::new("gate-inputs"), "in", present, InputSink::new(0, sender));
        let mut lines = Lines::default();
        for piece in pieces {
            lines.push(piece, |line| taker.take(line));
        }
        let level = |message| match message {
            Message::Line { lane: 0, line, active } => (line, active),
            other => panic!("{other:?}"),
        };
        messages.try_iter().map(level).collect()
    }

    #[test]
    fn each_line_sets_the_input_that_it_names() {
        let text = br#"{"line":"passage","level":1}
            {"line":"fire_alarm","level":0}
            {"level":1,"line":"exit_button"}
        "#;
        let expected = [(InputLine::Passage, true), (InputLine::FireAlarm, false), (InputLine::ExitButton, true)];
        assert_eq!(told(ALL, &[text]), expected);
    }

    #[test]
    fn a_line_may_come_in_pieces() {
        let pieces: Vec<_> = b"{\"line\":\"passage\",\"level\":1}\n".chunks(1).collect();
        assert_eq!(told(ALL, &pieces), [(InputLine::Passage, true)]);
        assert_eq!(told(ALL, &pieces[..pieces.len() - 1]), []);
    }

    #[test]
    fn nonsense_costs_only_itself() {
        let good = br#"{"line":"passage","level":1}"#;
        for bad in [&b"{"[..], b"\xff", b"{\"line\":\"door\",\"level\":1}", b"{\"line\":\"passage\",\"level\":2}", b"", b"[]"] {
            assert_eq!(told(ALL, &[bad, b"\n", good, b"\n", bad, b"\n"]), [(InputLine::Passage, true)], "{bad:?}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_whole() {
        let long = vec![b' '; LINE_BYTES_MAX];
        let good = b"{\"line\":\"passage\",\"level\":1}\n";
        assert_eq!(told(ALL, &[&long, good, good]), [(InputLine::Passage, true)]);
        let padding = vec![b' '; LINE_BYTES_MAX - good.len() + 1];
        assert_eq!(told(ALL, &[&padding, good]), [(InputLine::Passage, true)], "as long as it may be");
    }

    #[test]
    fn inputs_that_the_lane_lacks_are_ignored() {
        let present = config::Inputs { passage: true, ..config::Inputs::default() };
        let text =
            b"{\"line\":\"fire_alarm\",\"level\":1}\n{\"line\":\"exit_button\",\"level\":1}\n{\"line\":\"passage\",\"level\":1}\n";
        assert_eq!(told(present, &[text]), [(InputLine::Passage, true)]);
    }

    #[test]
    fn the_fifo_is_read_until_dropped_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gate-inputs");
        let (sender, messages) = mpsc::channel();
        let inputs = Inputs::open(&path, "in", ALL, InputSink::new(7, sender)).unwrap();
        for _ in 0..2 {
            std::fs::write(&path, "{\"line\":\"exit_button\",\"level\":1}\n").unwrap();
            let message = messages.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
            assert!(matches!(message, Message::Line { lane: 7, line: InputLine::ExitButton, active: true }));
        }
        drop(inputs);
        assert!(messages.recv().is_err(), "the thread has ended");
        assert!(path.metadata().unwrap().file_type().is_fifo());
    }

    #[test]
    fn another_file_in_the_place_of_the_fifo_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gate-inputs");
        std::fs::write(&path, "precious").unwrap();
        let error = Inputs::open(&path, "in", ALL, InputSink::new(0, mpsc::channel().0)).unwrap_err();
        assert!(matches!(error, TurnstileError::NotAFifo { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let nowhere = dir.path().join("missing/gate-inputs");
        let error = Inputs::open(&nowhere, "in", ALL, InputSink::new(0, mpsc::channel().0)).unwrap_err();
        assert!(error.to_string().contains("create its directory"), "{error}");
    }
}
