//! The sums of an export by day, line and state. What was removed is marked as such: of it nothing but these sums is left.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write, stderr},
};

use super::table::guarded;
use crate::{
    clock::beijing_day,
    ledger::{ExportRow, RemovedSum, STATES},
};

const COLUMNS: [&str; 8] = ["day", "line", "state", "source", "rows", "original_fen", "total_fen", "paid_fen"];

/// The Beijing days of an export.
#[derive(Debug)]
pub(super) struct Days {
    /// The first, whole or in part.
    pub(super) first: String,
    /// The last, whole or in part.
    pub(super) last: String,
    is_first_whole: bool,
    is_last_whole: bool,
}

impl Days {
    pub(super) fn new(from_utc_ms: i64, to_utc_ms: i64) -> Self {
        let is_midnight = |utc_ms: i64| beijing_day(utc_ms) != beijing_day(utc_ms - 1);
        Self {
            first: beijing_day(from_utc_ms),
            last: beijing_day(to_utc_ms - 1),
            is_first_whole: is_midnight(from_utc_ms),
            is_last_whole: is_midnight(to_utc_ms),
        }
    }

    fn holds_all_of(&self, day: &str) -> bool {
        (day != self.first || self.is_first_whole) && (day != self.last || self.is_last_whole)
    }
}

/// Where rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// They are in the export.
    Rows,
    /// They were removed before.
    Removed,
}

/// Day, line, place of the state in [`STATES`], origin.
type Key = (String, String, usize, Origin);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sums {
    rows: u64,
    original_fen: i64,
    total_fen: i64,
    paid_fen: i64,
}

/// Sums as they grow: a few for each day, however many rows.
#[derive(Debug)]
pub(super) struct Summary {
    /// Whether it will be written.
    is_wanted: bool,
    sums: BTreeMap<Key, Sums>,
    /// Days of which rows were removed, but only a part was asked for.
    cut_days: BTreeSet<String>,
}

impl Summary {
    pub(super) fn new(is_wanted: bool) -> Self {
        Self { is_wanted, sums: BTreeMap::new(), cut_days: BTreeSet::new() }
    }

    pub(super) fn add(&mut self, row: &ExportRow) {
        let ExportRow { row, day, line, .. } = row;
        let sums = Sums { rows: 1, original_fen: row.original_fen, total_fen: row.total_fen, paid_fen: row.paid_fen.unwrap_or(0) };
        self.put(day, line, &row.state, Origin::Rows, sums);
    }

    pub(super) fn add_removed(&mut self, sum: &RemovedSum, days: &Days) {
        if !days.holds_all_of(&sum.day) {
            self.cut_days.insert(sum.day.clone());
            return;
        }
        let sums = Sums { rows: sum.deductions, original_fen: sum.original_fen, total_fen: sum.total_fen, paid_fen: sum.paid_fen };
        self.put(&sum.day, &sum.line, &sum.state, Origin::Removed, sums);
    }

    fn put(&mut self, day: &str, line: &str, state: &str, origin: Origin, more: Sums) {
        let place = STATES.iter().position(|known| *known == state).unwrap_or(STATES.len());
        let sums = self.sums.entry((day.to_owned(), line.to_owned(), place, origin)).or_default();
        sums.rows += more.rows;
        sums.original_fen += more.original_fen;
        sums.total_fen += more.total_fen;
        sums.paid_fen += more.paid_fen;
    }

    pub(super) fn write(&self, out: impl Write) -> io::Result<()> {
        let mut out = csv::Writer::from_writer(out);
        out.write_record(COLUMNS)?;
        for ((day, line, place, origin), sums) in &self.sums {
            let state = STATES.get(*place).copied().unwrap_or("unknown");
            let origin = match origin {
                Origin::Rows => "rows",
                Origin::Removed => "removed",
            };
            let numbers = [sums.original_fen, sums.total_fen, sums.paid_fen].map(|fen| fen.to_string());
            let words = [day.clone(), guarded(line.clone()), state.to_owned(), origin.to_owned(), sums.rows.to_string()];
            out.write_record(words.iter().chain(&numbers))?;
        }
        out.flush()
    }

    /// On standard error: what was recorded in this time and is neither among the rows nor in the sums.
    pub(super) fn tell_what_is_missing(&self) {
        let removed = self.sums.iter().filter(|((.., origin), _)| *origin == Origin::Removed);
        let rows: u64 = removed.map(|(_, sums)| sums.rows).sum();
        if rows > 0 && !self.is_wanted {
            let words = "settled deductions of these days were removed, see [ledger] keep; --summary FILE has their sums";
            // There is no other place to say it.
            let _ = writeln!(stderr(), "faregate: {rows} {words}");
        }
        for day in &self.cut_days {
            let words = "deductions of it were removed, and of these only sums of the whole day are left, which are left out";
            let _ = writeln!(stderr(), "faregate: {day} is exported in part: {words}; begin and end at whole days");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIDNIGHT: i64 = 1_795_449_600_000; // 2026-11-24 in Beijing
    const DAY: i64 = 86_400_000;

    fn removed(day: &str, state: &str, line: &str) -> RemovedSum {
        RemovedSum {
            day: day.to_owned(),
            state: state.to_owned(),
            line: line.to_owned(),
            deductions: 3,
            original_fen: 600,
            total_fen: 540,
            paid_fen: if state == "paid" { 540 } else { 0 },
        }
    }

    #[test]
    fn sums_of_removed_rows_are_taken_of_whole_days_only() {
        let whole = Days::new(MIDNIGHT, MIDNIGHT + DAY);
        assert_eq!((whole.first.as_str(), whole.last.as_str()), ("2026-11-24", "2026-11-24"));
        assert!(whole.holds_all_of("2026-11-24"));
        for (from, to) in [(MIDNIGHT + 1, MIDNIGHT + DAY), (MIDNIGHT, MIDNIGHT + DAY - 1)] {
            let days = Days::new(from, to);
            let mut summary = Summary::new(true);
            summary.add_removed(&removed("2026-11-24", "paid", "2号线"), &days);
            assert!(summary.sums.is_empty() && summary.cut_days.len() == 1, "{days:?}");
        }
        let long = Days::new(MIDNIGHT - 1, MIDNIGHT + DAY);
        assert!(!long.holds_all_of("2026-11-23") && long.holds_all_of("2026-11-24"), "{long:?}");
    }

    #[test]
    fn sums_come_by_day_line_and_state_and_removed_ones_are_marked() {
        let days = Days::new(MIDNIGHT, MIDNIGHT + 2 * DAY);
        let mut summary = Summary::new(true);
        let sums =
            [("2026-11-25", "void", "1"), ("2026-11-24", "void", "1"), ("2026-11-24", "paid", "=2"), ("2026-11-24", "paid", "1")];
        for (day, state, line) in sums {
            summary.add_removed(&removed(day, state, line), &days);
        }
        summary.put("2026-11-24", "1", "paid", Origin::Rows, Sums { rows: 1, original_fen: 200, total_fen: 180, paid_fen: 170 });
        let mut out = Vec::new();
        summary.write(&mut out).unwrap();
        let expected = "day,line,state,source,rows,original_fen,total_fen,paid_fen\n\
             2026-11-24,1,paid,rows,1,200,180,170\n\
             2026-11-24,1,paid,removed,3,600,540,540\n\
             2026-11-24,1,void,removed,3,600,540,0\n\
             2026-11-24,'=2,paid,removed,3,600,540,540\n\
             2026-11-25,1,void,removed,3,600,540,0\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
