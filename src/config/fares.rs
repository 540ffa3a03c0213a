//! The fare table, `fares.csv`: `from,to,fen` a line. A pair costs the same in either direction.

use std::{collections::BTreeMap, path::Path};

use sha2::{Digest, Sha256};

use super::{
    Lane, Mode, Settings, files,
    finding::Finding,
    limits::{FARE_FEN, FARES_BYTES_MAX},
    report::{Report, quoted},
    values::{Parsed, Reject, id, reject},
};

const HEADER: &str = "from,to,fen";
const COLUMNS: [&str; 3] = ["from", "to", "fen"];

/// What a trip between two stations costs. Stations are numbered, so that a big network fits a small machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FareTable {
    stations: BTreeMap<String, u16>,
    /// By the lower and the higher number of the two stations: the fare in fen, and the line that says so.
    fares: BTreeMap<(u16, u16), (i32, u32)>,
    digest: String,
}

/// What a fare table says of a pair of stations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableFare {
    /// Before any discount.
    pub fen: i64,
    /// The line of the file, counted from 1.
    pub line: u32,
}

impl FareTable {
    /// Reads the text of `fares.csv`; `path` names it in the findings.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Vec<Finding>> {
        parse(text, path)
    }

    /// What a trip between these two stations costs, in either direction; `None` when the table lacks the pair.
    #[must_use]
    pub fn fare(&self, from: &str, to: &str) -> Option<TableFare> {
        let pair = ordered(*self.stations.get(from)?, *self.stations.get(to)?);
        self.fares.get(&pair).map(|(fen, line)| TableFare { fen: i64::from(*fen), line: *line })
    }

    /// Whether any fare begins or ends there.
    #[must_use]
    pub fn knows(&self, station: &str) -> bool {
        self.stations.contains_key(station)
    }

    /// Names the file's text: the first 16 hex digits of its SHA-256.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// Reads `fares.csv`: `from,to,fen` with an optional header; blank lines and lines that begin with `#` are skipped.
///
/// # Errors
/// Everything that is wrong with the file.
pub fn read_fares(path: &Path) -> Result<FareTable, Vec<Finding>> {
    match files::read_text(path, FARES_BYTES_MAX) {
        Ok(text) => parse(&text, path),
        Err(error) => Err(vec![files::finding(path, &error)]),
    }
}

/// As [`read_fares`], from the file's text.
pub(super) fn parse(text: &str, path: &Path) -> Result<FareTable, Vec<Finding>> {
    let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(text.as_bytes())[..8]);
    let mut rows = Rows { stations: BTreeMap::new(), fares: BTreeMap::new(), digest, report: Report::new(path, text) };
    // Spreadsheets put a byte order mark before the first line.
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim).zip(1..);
    let mut lines = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')).peekable();
    lines.next_if(|(line, _)| line.replace(' ', "").eq_ignore_ascii_case(HEADER));
    lines.for_each(|(line, number)| rows.add(line, number));
    rows.finish()
}

/// Journeys that begin or end at a station of which the table says nothing would all cost `max_fen`.
pub(super) fn warn_of_unknown_stations(settings: &Settings, report: &mut Report) {
    let Some(Ok(table)) = settings.fare.table.as_deref().map(read_fares) else { return };
    for lane in settings.lanes.iter().filter(|lane| lane.mode != Mode::Single && !table.knows(&lane.station)) {
        let Lane { name, station, .. } = lane;
        let problem = format!("no line names station {station} of lane {name}: every journey from or to it costs max_fen");
        report.warn("fare.table", problem, "add its fares to the file, or correct the station");
    }
}

/// The rows read so far.
#[derive(Debug)]
struct Rows {
    stations: BTreeMap<String, u16>,
    /// The fare in fen, and the line that says so.
    fares: BTreeMap<(u16, u16), (i32, u32)>,
    digest: String,
    report: Report,
}

impl Rows {
    fn add(&mut self, line: &str, number: usize) {
        let cells: Vec<_> = line.split(',').map(str::trim).collect();
        let [from, to, fare] = cells[..] else {
            let problem = format!("has {} values instead of 3", cells.len());
            return self.report.error_at(number, "", problem, format!("write {HEADER}"));
        };
        let from = self.checked(number, COLUMNS[0], id(from));
        let to = self.checked(number, COLUMNS[1], id(to));
        let fare_fen = self.checked(number, COLUMNS[2], fare_fen(fare));
        if let (Some(from), Some(to), Some(fare_fen)) = (from, to, fare_fen) {
            self.set(number, &from, &to, fare_fen);
        }
    }

    fn checked<T>(&mut self, number: usize, column: &str, parsed: Parsed<T>) -> Option<T> {
        parsed.map_err(|Reject { problem, mend }| self.report.error_at(number, column, problem, mend)).ok()
    }

    fn set(&mut self, number: usize, from: &str, to: &str, fare_fen: i32) {
        let (Some(from_number), Some(to_number)) = (self.station(from), self.station(to)) else {
            return self.report.error_at(number, "", "names more than 65535 stations", "check whether this is the right file");
        };
        let (first_fen, first_line) =
            *self.fares.entry(ordered(from_number, to_number)).or_insert((fare_fen, u32::try_from(number).unwrap_or(u32::MAX)));
        if first_fen != fare_fen {
            let problem = format!("{from},{to} costs {fare_fen} here and {first_fen} on line {first_line}");
            self.report.error_at(number, "", problem, "remove one of the two lines; a fare holds in both directions");
        }
    }

    fn station(&mut self, name: &str) -> Option<u16> {
        if let Some(number) = self.stations.get(name) {
            return Some(*number);
        }
        let number = u16::try_from(self.stations.len()).ok()?;
        self.stations.insert(name.to_owned(), number);
        Some(number)
    }

    fn finish(mut self) -> Result<FareTable, Vec<Finding>> {
        if self.fares.is_empty() && !self.report.has_errors() {
            self.report.error("", "the file has no fares", format!("write {HEADER} a line, or remove fare.table"));
        }
        if self.report.has_errors() {
            return Err(self.report.finish());
        }
        Ok(FareTable { stations: self.stations, fares: self.fares, digest: self.digest })
    }
}

fn ordered(one: u16, other: u16) -> (u16, u16) {
    (one.min(other), one.max(other))
}

fn fare_fen(text: &str) -> Parsed<i32> {
    let mend = format!("write whole fen, {} to {}", FARE_FEN.min, FARE_FEN.max);
    match text.parse::<i64>() {
        Err(_) => reject(format!("{} is not a whole number", quoted(text)), mend),
        Ok(negative) if negative < 0 => reject(format!("{negative} is negative"), mend),
        Ok(fare_fen) => match i32::try_from(fare_fen) {
            Ok(fare) if fare_fen <= FARE_FEN.max => Ok(fare),
            _ => reject(format!("{fare_fen} is out of range"), mend),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(text: &str) -> Result<FareTable, Vec<String>> {
        parse(text, Path::new("fares.csv")).map_err(|findings| findings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_pair_costs_the_same_in_either_direction() {
        let table = table("from,to,fen\r\nS1,S2,300\r\n\r\n# a comment\r\nS2, S3, 0\r\nS1,S1,50").unwrap();
        assert_eq!(table.fare("S1", "S2"), Some(TableFare { fen: 300, line: 2 }));
        assert_eq!(table.fare("S2", "S1"), table.fare("S1", "S2"));
        assert_eq!(table.fare("S3", "S2"), Some(TableFare { fen: 0, line: 5 }));
        assert_eq!(table.fare("S1", "S1"), Some(TableFare { fen: 50, line: 6 }));
        assert!(table.knows("S3") && !table.knows("S4"));
    }

    #[test]
    fn the_digest_names_the_files_text() {
        let digest = |text| table(text).unwrap().digest().to_owned();
        assert_eq!(digest("S1,S2,300\n"), digest("S1,S2,300\n"));
        assert_ne!(digest("S1,S2,300\n"), digest("S1,S2,301\n"));
        assert_eq!(digest("S1,S2,300\n").len(), 16);
    }

    #[test]
    fn an_unknown_pair_has_no_fare() {
        let table = table("S1,S2,300\nS2,S3,400\n").unwrap();
        assert_eq!((table.fare("S1", "S3"), table.fare("S1", "S9"), table.fare("S1", "S1")), (None, None, None));
    }

    #[test]
    fn a_header_and_a_byte_order_mark_may_be_there_or_not() {
        for head in ["", "from,to,fen\n", "\u{feff}From, To, Fen\n", "\u{feff}"] {
            assert_eq!(table(&format!("{head}S1,S2,300\n")).unwrap().fare("S1", "S2").map(|fare| fare.fen), Some(300), "{head}");
        }
        assert!(table("S1,S2,300\nfrom,to,fen\n").is_err());
    }

    #[test]
    fn a_pair_with_two_fares_names_both_lines() {
        let problems = table("S1,S2,300\nS1,S2,300\nS2,S1,400\n").unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("fares.csv:3: error: S2,S1 costs 400 here and 300 on line 1;"), "{problems:?}");
    }

    #[test]
    fn every_bad_row_is_told_with_its_line() {
        let problems = table("S1,S2,-5\nS1,S2\nS 1,S2,3\nS1,S2,1.5\nS1,,1\nS1,S2,1000001\nS1,S2,3,4\n").unwrap_err();
        let places: Vec<_> = problems.iter().map(|problem| problem.split(": ").next().unwrap()).collect();
        assert_eq!(places, (1..=7).map(|line| format!("fares.csv:{line}")).collect::<Vec<_>>());
        assert!(problems[0].contains("fen: -5 is negative"), "{problems:?}");
    }

    #[test]
    fn a_table_without_fares_is_an_error() {
        assert_eq!(table("from,to,fen\n# nothing\n").unwrap_err().len(), 1);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "(?s).{0,200}", rows in "([A-C]{0,2},[A-C]{1,2},-?[0-9]{1,8}\n){0,20}") {
            let _ = (table(&text), table(&rows));
        }
    }
}
