//! The trace of a simulated turnstile: a JSON line per change of an output, for people and tests to watch.
//!
//! - Each line is one `write` to a file opened for append, so lines of several lanes in one file stay whole.
//! - Never truncated. A reader is never waited for: lines that a pipe cannot take are lost, which is no error.

use std::{
    fs::File,
    io::{self, ErrorKind, Write},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use serde::Serialize;

use super::driver::Output;
use crate::clock;

/// Of one lane.
#[derive(Debug)]
pub(super) struct Trace {
    path: PathBuf,
    lane: String,
    /// `None`: a FIFO without a reader, or the last write failed.
    file: Option<File>,
    /// Whether the last line in the file lacks its end.
    cut: bool,
}

#[derive(Serialize)]
struct Entry<'a> {
    at: String,
    lane: &'a str,
    line: &'static str,
    level: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl Trace {
    /// Makes the file, mode 0640, if it is missing. A FIFO without a reader is opened at the first change that finds one.
    pub(super) fn open(path: &Path, lane: &str) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), lane: lane.to_owned(), file: open_for_append(path)?, cut: false })
    }

    /// Writes that an output has changed just now.
    ///
    /// # Errors
    /// The line is not in the file, or not whole; the next starts on a line of its own.
    pub(super) fn write(&mut self, output: Output, active: bool, reason: Option<&str>) -> io::Result<()> {
        if self.file.is_none() {
            self.file = open_for_append(&self.path)?;
        }
        let Some(file) = &self.file else { return Ok(()) };
        let bytes = self.line(output, active, reason)?;
        match write_once(file, &bytes) {
            Ok(written) => {
                self.cut = written < bytes.len();
                if self.cut {
                    Err(io::Error::new(ErrorKind::StorageFull, "only a part of a line could be written"))
                } else {
                    Ok(())
                }
            }
            // The pipe stays open: its reader, or the next one, gets the lines that are still to come.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::WouldBlock) => Ok(()),
            Err(error) => {
                self.file = None;
                Err(error)
            }
        }
    }

    fn line(&self, output: Output, active: bool, reason: Option<&str>) -> io::Result<Vec<u8>> {
        let at = clock::rfc3339_us_now().to_string();
        let entry = Entry { at, lane: &self.lane, line: output.as_str(), level: u8::from(active), reason };
        let mut bytes = if self.cut { vec![b'\n'] } else { Vec::new() };
        serde_json::to_writer(&mut bytes, &entry)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

fn write_once(mut file: &File, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match file.write(bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

fn open_for_append(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::from_raw_mode(0o640)) {
        Ok(file) => Ok(Some(file.into())),
        Err(Errno::NXIO) if path.metadata()?.file_type().is_fifo() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rustix::fs::{CWD, mkfifoat};

    use super::*;

    fn open_reader(path: &Path) -> File {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap().into()
    }

    fn read(file: &mut File) -> String {
        let mut bytes = vec![0; 1 << 20];
        let count = file.read(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    #[test]
    fn a_line_says_when_where_what_and_why() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.jsonl");
        let mut trace = Trace::open(&path, "in").unwrap();
        trace.write(Output::LightDeny, true, Some("expired")).unwrap();
        trace.write(Output::Open, false, None).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split_at(34)).collect();
        assert_eq!(lines[0].1, r#"","lane":"in","line":"light_deny","level":1,"reason":"expired"}"#);
        assert_eq!(lines[1].1, r#"","lane":"in","line":"open","level":0}"#);
        let at = lines[0].0.strip_prefix(r#"{"at":""#).unwrap();
        assert!(
            at.ends_with('Z') && at.len() == "2026-11-23T05:34:30.123456Z".len() && at.parse::<jiff::Timestamp>().is_ok(),
            "{at}"
        );
    }

    #[test]
    fn what_the_file_held_before_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.jsonl");
        std::fs::write(&path, "before\n").unwrap();
        let mut trace = Trace::open(&path, "in").unwrap();
        trace.write(Output::Open, true, None).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("before\n{"));
    }

    #[test]
    fn a_fifo_without_a_reader_loses_lines_and_a_reader_gets_those_after_it_came() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
        let mut trace = Trace::open(&path, "in").unwrap();
        for _ in 0..2 {
            trace.write(Output::LightPass, true, None).unwrap();
            let mut reader = open_reader(&path);
            trace.write(Output::Open, true, None).unwrap();
            let text = read(&mut reader);
            assert!(text.contains(r#""line":"open""#) && text.lines().count() == 1, "{text}");
        }
    }

    #[test]
    fn a_reader_that_does_not_read_loses_whole_lines_and_is_never_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
        let mut reader = open_reader(&path);
        let mut trace = Trace::open(&path, "in").unwrap();
        (0..2000).for_each(|_| trace.write(Output::LightPass, true, None).unwrap());
        let kept = read(&mut reader);
        assert!(kept.ends_with("}\n") && kept.lines().count() < 2000);
        trace.write(Output::Open, true, None).unwrap();
        assert!(read(&mut reader).contains(r#""line":"open""#));
    }

    #[test]
    fn a_write_that_fails_is_told_and_the_file_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut trace = Trace::open(&path, "in").unwrap();
        assert_eq!(trace.write(Output::Open, true, None).unwrap_err().kind(), ErrorKind::StorageFull);
        std::fs::remove_file(&path).unwrap();
        trace.write(Output::Open, true, None).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
    }

    #[test]
    fn the_line_after_one_that_was_cut_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.jsonl");
        std::fs::write(&path, r#"{"at":"20"#).unwrap();
        let mut trace = Trace::open(&path, "in").unwrap();
        trace.cut = true;
        trace.write(Output::Open, true, None).unwrap();
        trace.write(Output::Open, false, None).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().filter(|line| line.ends_with('}')).count(), 2);
        assert_eq!(text.lines().count(), 3);
    }
}
