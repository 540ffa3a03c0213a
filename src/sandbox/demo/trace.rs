//! Reads the trace of the simulated turnstiles while it grows: the demo's eyes.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use serde::Deserialize;

/// One change of a line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Edge {
    /// The lane's name.
    pub lane: String,
    /// The output's.
    pub line: String,
    /// 1: active.
    pub level: u8,
    /// Why, of the deny light.
    pub reason: Option<String>,
}

impl Edge {
    /// The gate opens.
    #[must_use]
    pub fn is_opening(&self) -> bool {
        self.line == "open" && self.level == 1
    }

    /// The gate closes.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.line == "open" && self.level == 0
    }

    /// Somebody goes through without an opening of their own.
    #[must_use]
    pub fn is_uninvited(&self) -> bool {
        matches!(self.refusal(), Some("tailgate" | "intrusion"))
    }

    /// Why somebody was refused, if this says so.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        self.reason.as_deref().filter(|_| self.line == "light_deny" && self.level == 1)
    }
}

/// The trace, and how far it was read.
#[derive(Debug)]
pub(super) struct TraceReader {
    file: File,
    /// The beginning of a line whose end is not there yet.
    rest: Vec<u8>,
}

impl TraceReader {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, rest: Vec::new() })
    }

    /// What was written since the last look.
    pub(super) fn more(&mut self) -> io::Result<Vec<Edge>> {
        self.file.read_to_end(&mut self.rest)?;
        let whole = self.rest.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        let lines = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        Ok(lines.map(serde_json::from_slice).collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_line_is_read_once_and_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace");
        let mut file = File::create(&path).unwrap();
        let mut trace = TraceReader::open(&path).unwrap();
        writeln!(file, r#"{{"at":"x","lane":"left","line":"open","level":1}}"#).unwrap();
        write!(file, r#"{{"at":"x","lane":"left","line":"light_deny","#).unwrap();
        let edges = trace.more().unwrap();
        assert!(edges.len() == 1 && edges[0].is_opening(), "{edges:?}");
        writeln!(file, r#""level":1,"reason":"duplicate"}}"#).unwrap();
        let edges = trace.more().unwrap();
        assert_eq!(edges.iter().map(Edge::refusal).collect::<Vec<_>>(), [Some("duplicate")]);
        assert_eq!(trace.more().unwrap(), []);
    }
}
