//! `faregate export`: the deductions of some days, for a spreadsheet or a program, to be compared with WeChat's bill.
//!
//! Rows stream through in pages, whatever their number. Sums go into a file of their own, never among the rows.

mod damaged;
mod file;
mod summary;
mod table;

use std::{
    io::stdout,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum, builder::ArgPredicate};
use jiff::{
    Timestamp,
    civil::Date,
    tz::{Offset, TimeZone},
};

use self::{
    file::SummaryFile,
    summary::{Days, Summary},
    table::Table,
};
use super::{
    exit::{Code, Failure},
    source::Source,
};
use crate::ledger::{EXPORT_ROWS, ExportRequest, RemovedRequest, RemovedSum, Requests};

/// What stands for no beginning and no end.
const BEFORE_ALL: &str = "1970-01-01";
const AFTER_ALL: &str = "9999-01-01";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Recorded at this time or later: a Beijing day such as 2026-11-23, or RFC 3339.
    #[arg(long, value_name = "T", value_parser = utc_ms, required = false, required_unless_present = "damaged",
        default_value_if("damaged", ArgPredicate::IsPresent, BEFORE_ALL))]
    from: i64,
    /// Recorded before this time.
    #[arg(long, value_name = "T", value_parser = utc_ms, required = false, required_unless_present = "damaged",
        default_value_if("damaged", ArgPredicate::IsPresent, AFTER_ALL))]
    to: i64,
    /// Write what can be read of this damaged ledger, or copy of one, in place of the gate's own: of all times, if no other is given. What
    /// cannot be read is told, and exits 65.
    #[arg(long, value_name = "FILE", conflicts_with = "summary")]
    damaged: Option<PathBuf>,
    /// How to write the rows.
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Begin with a byte order mark, without which some spreadsheets spoil Chinese. CSV only.
    #[arg(long)]
    bom: bool,
    /// Write sums by day, line and state into this file (CSV), those of removed deductions included.
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// Add the ride codes in base64. Whoever holds one knows who rode: for root and the user faregate.
    #[arg(long)]
    with_codes: bool,
}

impl Arguments {
    /// What is asked of the ledger first.
    fn request(&self) -> ExportRequest {
        let requests = if self.with_codes { Requests::With } else { Requests::Without };
        ExportRequest { after_id: 0, from_utc_ms: self.from, to_utc_ms: self.to, requests }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Comma-separated values with a head.
    Csv,
    /// A JSON object a line.
    Jsonl,
}

/// A point in time as people write it.
fn utc_ms(text: &str) -> Result<i64, &'static str> {
    let beijing = || TimeZone::fixed(Offset::constant(8));
    let day = text.parse::<Date>().ok().filter(|_| text.len() == "2026-11-23".len());
    let time = match day {
        Some(day) => day.to_zoned(beijing()).map(|midnight| midnight.timestamp()).ok(),
        None => text.parse::<Timestamp>().ok(),
    };
    time.map(Timestamp::as_millisecond).ok_or("write a Beijing day, 2026-11-23, or a time as in 2026-11-23T08:00:00+08:00")
}

pub(super) use damaged::sentences as unreadable;

pub(super) fn run(arguments: &Arguments, config: &Path) -> Result<(), Failure> {
    if arguments.from >= arguments.to {
        return Err(Failure::new(Code::Usage, "--from is not before --to, so nothing is meant; --to itself is left out"));
    }
    if arguments.bom && arguments.format != Format::Csv {
        return Err(Failure::new(Code::Usage, "--bom is for CSV; JSON has none"));
    }
    if let Some(file) = &arguments.damaged {
        return damaged::write(arguments, file);
    }
    let source = Source::new(config)?;
    // One that cannot be written is told before the rows are.
    let file = arguments.summary.as_deref().map(|path| SummaryFile::beside(path, source.ledger())).transpose()?;
    let days = Days::new(arguments.from, arguments.to);
    let removed = removed_of(&days, &source)?;
    let mut summary = Summary::new(arguments.summary.is_some());
    write_rows(arguments, &source, &mut summary)?;
    // What was removed meanwhile may be both among the rows and in these sums, or in neither.
    if removed_of(&days, &source)? != removed {
        let message = "settled deductions of these days were removed while they were read, so the rows and the sums of what was removed \
             do not agree; throw this export away and run it again";
        return Err(Failure::new(Code::Found, message));
    }
    for sum in &removed {
        summary.add_removed(sum, &days);
    }
    summary.tell_what_is_missing();
    file.map_or(Ok(()), |file| file.put(|out| summary.write(out)))
}

fn write_rows(arguments: &Arguments, source: &Source, summary: &mut Summary) -> Result<(), Failure> {
    let mut request = arguments.request();
    // A failure before the first row leaves the output empty.
    let mut page = source.export(request)?;
    let mut table = Table::new(stdout().lock(), arguments.format, arguments.bom, request.requests)?;
    let mut written = 0;
    loop {
        for row in page.rows {
            summary.add(&row);
            table.write(row)?;
            written += 1;
        }
        let Some(after_id) = page.next_after_id else { return table.end() };
        request.after_id = after_id;
        page = source.export(request).map_err(|failure| failure.after_rows(written))?;
    }
}

/// What was removed of these days so far.
fn removed_of(days: &Days, source: &Source) -> Result<Vec<RemovedSum>, Failure> {
    let mut all = Vec::new();
    loop {
        let request = RemovedRequest { from_day: days.first.clone(), to_day: days.last.clone(), after: all.last().cloned() };
        let sums = source.removed(request)?;
        let is_last = sums.len() < EXPORT_ROWS;
        all.extend(sums);
        if is_last {
            return Ok(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_at_midnight_in_beijing_and_a_time_is_what_it_says() {
        assert_eq!(utc_ms("2026-11-24"), Ok(1_795_449_600_000));
        for same in ["2026-11-24T00:00:00+08:00", "2026-11-23T16:00:00Z", "2026-11-23T16:00:00.000Z"] {
            assert_eq!(utc_ms(same), Ok(1_795_449_600_000), "{same}");
        }
        for wrong in ["", "2026-11-31", "20261124", "2026-11-24T00:00:00", "yesterday", "24.11.2026"] {
            assert!(utc_ms(wrong).is_err(), "{wrong}");
        }
    }
}
