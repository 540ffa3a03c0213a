//! The deny-list as a file: card account numbers of 20 digits, one a line; what follows a `#` is a comment.
//!
//! Reads it as a whole or not at all, and tells everything that is wrong with it, by line; never a number. It knows nothing of where
//! the list is kept.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use sha2::{Digest, Sha256};

use crate::{
    config::{Finding, Severity},
    ride_code::CardAccount,
};

/// Cards of one list at most: ten times what terminals are asked to hold.
pub const CARDS_MAX: usize = 1_000_000;
/// A file of that many cards, each with a comment.
const FILE_BYTES_MAX: u64 = 128 << 20;
/// Bytes of a line that are looked at; a longer one has a longer comment.
const LINE_BYTES_MAX: u64 = 4096;
/// So many bad lines are told singly; the rest are counted.
const FINDINGS_MAX: usize = 20;

/// A list that was read.
#[derive(Clone, PartialEq, Eq)]
pub struct DenyList {
    /// Ascending, no two alike.
    pub cards: Vec<CardAccount>,
    /// SHA-256 of the file's bytes: whether it has changed.
    pub digest: [u8; 32],
}

impl std::fmt::Debug for DenyList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DenyList({} cards)", self.cards.len())
    }
}

/// Why there is no list.
#[derive(Debug)]
pub enum DenyListError {
    /// The file cannot be had: what is wrong with it as a whole.
    Unreadable(Finding),
    /// Its content cannot be used: everything that is wrong with it, by line.
    Bad(Vec<Finding>),
}

impl DenyListError {
    /// Everything that is wrong.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        match self {
            Self::Unreadable(finding) => std::slice::from_ref(finding),
            Self::Bad(findings) => findings,
        }
    }
}

/// Reads the list at `path`.
///
/// # Errors
/// See [`DenyListError`].
pub fn read(path: &Path) -> Result<DenyList, DenyListError> {
    let unreadable = |error: io::Error| {
        DenyListError::Unreadable(finding(path, None, format!("cannot be read: {error}"), "name a file that this user may read"))
    };
    // Opening a FIFO would wait for its writer for ever.
    let file = path.metadata().map_err(unreadable)?;
    if !file.is_file() || file.len() > FILE_BYTES_MAX {
        let problem = if file.is_file() { "is larger than any such list" } else { "is not a regular file" };
        return Err(DenyListError::Unreadable(finding(path, None, problem, "name a file of 20 digits a line")));
    }
    let mut reading = Reading::new(path);
    reading.read(BufReader::new(File::open(path).map_err(unreadable)?.take(FILE_BYTES_MAX))).map_err(unreadable)?;
    reading.finish()
}

/// A list that is being read.
struct Reading<'a> {
    path: &'a Path,
    cards: Vec<CardAccount>,
    digest: Sha256,
    lines: usize,
    findings: Vec<Finding>,
    untold: usize,
}

impl<'a> Reading<'a> {
    fn new(path: &'a Path) -> Self {
        Self { path, cards: Vec::new(), digest: Sha256::new(), lines: 0, findings: Vec::new(), untold: 0 }
    }

    fn read(&mut self, mut file: impl BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            if file.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            self.digest.update(&line);
            self.lines += 1;
            if !line.ends_with(b"\n") {
                self.skip_line(&mut file)?;
            }
            self.take(&line);
        }
    }

    /// The rest of a line that is longer than it need be.
    fn skip_line(&mut self, file: &mut impl BufRead) -> io::Result<()> {
        loop {
            let bytes = file.fill_buf()?;
            let end = bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let (count, is_end) = (end.unwrap_or(bytes.len()), end.is_some() || bytes.is_empty());
            self.digest.update(&bytes[..count]);
            file.consume(count);
            if is_end {
                return Ok(());
            }
        }
    }

    fn take(&mut self, line: &[u8]) {
        // Spreadsheets put a byte order mark before the first line.
        let line = line.strip_prefix(b"\xef\xbb\xbf".as_slice()).filter(|_| self.lines == 1).unwrap_or(line);
        let number = line.split(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii();
        if number.is_empty() {
            return;
        }
        let card = std::str::from_utf8(number).ok().and_then(CardAccount::from_digits);
        match card {
            Some(_) if self.cards.len() >= CARDS_MAX => self.reject(format!("is beyond {CARDS_MAX} numbers"), "shorten the list"),
            Some(card) => self.cards.push(card),
            None => self.reject(what_is_wrong(number), "write one card account number of 20 digits a line"),
        }
    }

    fn reject(&mut self, problem: impl Into<String>, mend: &str) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding(self.path, Some(self.lines), problem, mend));
        } else {
            self.untold += 1;
        }
    }

    fn finish(mut self) -> Result<DenyList, DenyListError> {
        if self.cards.is_empty() && self.lines == 0 {
            let mend = "a list for nobody has at least a line that begins with #";
            return Err(DenyListError::Bad(vec![finding(self.path, None, "is empty", mend)]));
        }
        if self.untold > 0 {
            let problem = format!("{} more lines are wrong", self.untold);
            self.findings.push(finding(self.path, None, problem, "mend those shown and try again"));
        }
        if !self.findings.is_empty() {
            return Err(DenyListError::Bad(self.findings));
        }
        self.cards.sort_unstable();
        self.cards.dedup();
        Ok(DenyList { cards: self.cards, digest: self.digest.finalize().into() })
    }
}

/// Never the number itself: it is somebody's.
fn what_is_wrong(number: &[u8]) -> String {
    if number.iter().all(u8::is_ascii_digit) {
        format!("has {} digits instead of 20", number.len())
    } else {
        "is not a number of 20 digits".to_owned()
    }
}

fn finding(path: &Path, line: Option<usize>, problem: impl Into<String>, mend: &str) -> Finding {
    Finding {
        severity: Severity::Error,
        file: path.to_owned(),
        line,
        key: String::new(),
        problem: problem.into(),
        mend: mend.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn list(text: &[u8]) -> Result<DenyList, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deny.txt");
        fs::write(&path, text).unwrap();
        let told = |finding: &Finding| finding.to_string().replace(folder.path().to_str().unwrap(), "");
        read(&path).map_err(|error| error.findings().iter().map(told).collect())
    }

    fn numbers(list: &DenyList) -> Vec<String> {
        list.cards.iter().map(CardAccount::digits).collect()
    }

    const A: &str = "91237654321001000042";
    const B: &str = "01234567890123456789";

    #[test]
    fn numbers_come_out_in_order_and_once_whatever_stands_around_them() {
        let text = format!("\u{feff}# lost cards\r\n{A}\r\n\r\n  {B}\t# since May\n{A}\n#{}\n{B}", "x".repeat(10_000));
        assert_eq!(numbers(&list(text.as_bytes()).unwrap()), [B, A]);
    }

    #[test]
    fn every_bad_line_is_told_with_its_number_and_without_its_content() {
        let text = format!("{A}\n{A}1\n{}\n{A} {B}\n+{}\n\u{0663}\n\n{B}\n", &A[1..], &A[1..]);
        let problems = list(text.as_bytes()).unwrap_err();
        let places: Vec<_> = problems.iter().map(|problem| problem.split(": ").next().unwrap()).collect();
        assert_eq!(places, (2..=6).map(|line| format!("/deny.txt:{line}")).collect::<Vec<_>>(), "{problems:#?}");
        assert!(problems[0].contains("has 21 digits instead of 20") && !problems.concat().contains(&A[1..]), "{problems:#?}");
        assert!(list(&b"\xff\xfe\x00".repeat(5_000)).is_err());
    }

    #[test]
    fn a_thousand_bad_lines_do_not_flood_the_screen() {
        let problems = list("x\n".repeat(1000).as_bytes()).unwrap_err();
        assert_eq!(problems.len(), FINDINGS_MAX + 1);
        assert!(problems[FINDINGS_MAX].contains("980 more lines"), "{problems:#?}");
    }

    #[test]
    fn a_file_that_was_cut_to_nothing_is_no_list_and_a_comment_alone_is_a_list_for_nobody() {
        assert_eq!(list(b"").unwrap_err().len(), 1);
        assert_eq!(list(b"# nobody\n").unwrap().cards.len(), 0);
    }

    #[test]
    fn a_folder_and_nothing_at_all_are_no_list() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("absent")] {
            assert!(matches!(read(&path), Err(DenyListError::Unreadable(_))), "{}", path.display());
        }
    }

    #[test]
    fn the_digest_changes_with_any_byte_of_the_file() {
        let digest = |text: String| list(text.as_bytes()).unwrap().digest;
        let long = "x".repeat(9_000);
        assert_ne!(digest(format!("{A}\n#{long}a\n")), digest(format!("{A}\n#{long}b\n")));
        assert_eq!(format!("{:?}", list(A.as_bytes()).unwrap()), "DenyList(1 cards)");
    }
}
