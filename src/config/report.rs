//! Collects the findings about one file, and remembers on which line each key stood and which values are taken already.
//!
//! Whoever reports names only the key; the line is found here: the key's own, or that of the nearest table around it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::finding::{Finding, Severity};

/// So many findings about one file are told singly; the rest are counted.
const FINDINGS_MAX: usize = 100;

/// The findings about one file, as they come.
#[derive(Debug)]
pub(super) struct Report {
    file: PathBuf,
    /// The byte offset of each newline, ascending.
    newlines: Vec<usize>,
    key_lines: BTreeMap<String, usize>,
    /// What a value is used for, and the value: the key that has it.
    claims: BTreeMap<(&'static str, String), String>,
    findings: Vec<Finding>,
    untold: usize,
    has_errors: bool,
}

/// A value that only one key may have.
#[derive(Debug)]
pub(super) struct Unique {
    /// What the value is, as in "is already {what} …".
    pub(super) what: &'static str,
    /// What to do when it is taken.
    pub(super) mend: &'static str,
}

impl Report {
    pub(super) fn new(file: &Path, text: &str) -> Self {
        let newlines = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(offset, _)| offset).collect();
        Self {
            file: file.to_owned(),
            newlines,
            key_lines: BTreeMap::new(),
            claims: BTreeMap::new(),
            findings: Vec::new(),
            untold: 0,
            has_errors: false,
        }
    }

    /// Remembers that `key` stands at this byte of the text.
    pub(super) fn place(&mut self, key: String, offset: usize) {
        let line = self.line_at(offset);
        self.key_lines.insert(key, line);
    }

    /// The line, counted from 1, of a byte of the text.
    pub(super) fn line_at(&self, offset: usize) -> usize {
        self.newlines.partition_point(|&newline| newline < offset) + 1
    }

    pub(super) fn error(&mut self, key: &str, problem: impl Into<String>, mend: impl Into<String>) {
        let line = self.line_of(key);
        self.push(Severity::Error, line, key, problem.into(), mend.into());
    }

    pub(super) fn warn(&mut self, key: &str, problem: impl Into<String>, mend: impl Into<String>) {
        let line = self.line_of(key);
        self.push(Severity::Warning, line, key, problem.into(), mend.into());
    }

    /// An error on a line, counted from 1, of a file that has lines instead of keys.
    pub(super) fn error_at(&mut self, line: usize, key: &str, problem: impl Into<String>, mend: impl Into<String>) {
        self.push(Severity::Error, Some(line), key, problem.into(), mend.into());
    }

    /// Reports an error at `key` when another key has claimed this value for the same use.
    pub(super) fn claim(&mut self, unique: &Unique, value: &str, key: &str) {
        let Some(holder) = self.claims.get(&(unique.what, value.to_owned())) else {
            self.claims.insert((unique.what, value.to_owned()), key.to_owned());
            return;
        };
        let place = self.line_of(holder).map_or_else(String::new, |line| format!(" on line {line}"));
        let problem = format!("{} is already {} in {holder}{place}", quoted(value), unique.what);
        self.error(key, problem, unique.mend);
    }

    /// Takes in what was found in another file.
    pub(super) fn extend(&mut self, findings: Vec<Finding>) {
        self.has_errors |= findings.iter().any(|finding| finding.severity == Severity::Error);
        self.findings.extend(findings);
    }

    pub(super) fn has_errors(&self) -> bool {
        self.has_errors
    }

    /// All findings: this file's first, by line.
    pub(super) fn finish(mut self) -> Vec<Finding> {
        let file = &self.file;
        self.findings.sort_by_key(|finding| (finding.file != *file, finding.file.clone(), finding.line));
        if self.untold > 0 {
            let problem = format!("{} more problems are not shown", self.untold);
            self.findings.push(Finding {
                severity: Severity::Warning,
                file: self.file,
                line: None,
                key: String::new(),
                problem,
                mend: "mend those shown and check again".to_owned(),
            });
        }
        self.findings
    }

    fn push(&mut self, severity: Severity, line: Option<usize>, key: &str, problem: String, mend: String) {
        self.has_errors |= severity == Severity::Error;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { severity, file: self.file.clone(), line, key: key.to_owned(), problem, mend });
        } else {
            self.untold += 1;
        }
    }

    /// The line of the key, else of the nearest table around it that is in the text.
    fn line_of(&self, key: &str) -> Option<usize> {
        let parents = std::iter::successors(Some(key), |key| key.rsplit_once('.').map(|(parent, _)| parent));
        parents.filter_map(|key| self.key_lines.get(key)).copied().next()
    }
}

/// The text in quotes, control characters escaped, long ones cut.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    if text.chars().count() <= SHOWN_MAX {
        return format!("{text:?}");
    }
    format!("{:?}…", text.chars().take(SHOWN_MAX).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_not_there_is_reported_at_the_table_around_it() {
        let mut report = Report::new(Path::new("x.toml"), "\n[a]\nb = 1\n");
        report.place("a".into(), 2);
        report.place("a.b".into(), 5);
        report.error("a.b", "", "");
        report.error("a.c.d", "", "");
        report.error("e", "", "");
        let lines: Vec<_> = report.finish().into_iter().map(|finding| (finding.key, finding.line)).collect();
        assert_eq!(lines, [("e".into(), None), ("a.c.d".into(), Some(2)), ("a.b".into(), Some(3))]);
    }

    #[test]
    fn a_thousand_problems_do_not_flood_the_screen() {
        let mut report = Report::new(Path::new("x.toml"), "");
        (0..1000).for_each(|_| report.error("a", "", ""));
        let findings = report.finish();
        assert_eq!(findings.len(), FINDINGS_MAX + 1);
        assert!(findings[FINDINGS_MAX].problem.starts_with("900 more"));
    }

    #[test]
    fn what_is_quoted_is_cut_and_escaped() {
        assert_eq!(quoted("a\nb"), r#""a\nb""#);
        assert!(quoted(&"x".repeat(1000)).chars().count() < 70);
    }
}
