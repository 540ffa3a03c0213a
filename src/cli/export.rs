//! `faregate export`: the deductions of some days, for a spreadsheet or a program, to be compared with WeChat's bill.
//!
//! Rows stream through in pages, whatever their number. Sums go into a file of their own, never among the rows.

mod summary;
mod table;

use std::{
    fs::File,
    io::stdout,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use jiff::{
    Timestamp,
    civil::Date,
    tz::{Offset, TimeZone},
};

use self::{
    summary::{Days, Summary},
    table::Table,
};
use super::{
    exit::{Code, Failure},
    source::Source,
};
use crate::ledger::{EXPORT_ROWS, ExportRequest, RemovedRequest, RemovedSum, Requests};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Recorded at this time or later: a Beijing day such as 2026-11-23, or RFC 3339.
    #[arg(long, value_name = "T", value_parser = utc_ms)]
    from: i64,
    /// Recorded before this time.
    #[arg(long, value_name = "T", value_parser = utc_ms)]
    to: i64,
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

pub(super) fn run(arguments: &Arguments, config: &Path) -> Result<(), Failure> {
    if arguments.from >= arguments.to {
        return Err(Failure::new(Code::Usage, "--from is not before --to, so nothing is meant; --to itself is left out"));
    }
    if arguments.bom && arguments.format != Format::Csv {
        return Err(Failure::new(Code::Usage, "--bom is for CSV; JSON has none"));
    }
    let source = Source::new(config)?;
    // One that cannot be written is told before the rows are.
    let file = arguments.summary.as_deref().map(create).transpose()?;
    let mut summary = Summary::new(arguments.summary.is_some());
    write_rows(arguments, &source, &mut summary)?;
    take_removed(arguments, &source, &mut summary)?;
    summary.tell_what_is_missing();
    match file {
        Some((path, file)) => summary.write(file).map_err(|error| unwritable(path, &error)),
        None => Ok(()),
    }
}

fn create(path: &Path) -> Result<(&Path, File), Failure> {
    File::create(path).map(|file| (path, file)).map_err(|error| unwritable(path, &error))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    let path = path.display();
    Failure::new(Code::Internal, format!("the summary {path} cannot be written: {error}; name a file in a folder of yours"))
}

fn write_rows(arguments: &Arguments, source: &Source, summary: &mut Summary) -> Result<(), Failure> {
    let requests = if arguments.with_codes { Requests::With } else { Requests::Without };
    let mut request = ExportRequest { after_id: 0, from_utc_ms: arguments.from, to_utc_ms: arguments.to, requests };
    // A failure before the first row leaves the output empty.
    let mut page = source.export(request)?;
    let mut table = Table::new(stdout().lock(), arguments.format, arguments.bom, requests)?;
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

/// What was removed of these days.
fn take_removed(arguments: &Arguments, source: &Source, summary: &mut Summary) -> Result<(), Failure> {
    let days = Days::new(arguments.from, arguments.to);
    let mut after: Option<RemovedSum> = None;
    loop {
        let request = RemovedRequest { from_day: days.first.clone(), to_day: days.last.clone(), after: after.take() };
        let sums = source.removed(request)?;
        for sum in &sums {
            summary.add_removed(sum, &days);
        }
        after = sums.last().filter(|_| sums.len() == EXPORT_ROWS).cloned();
        if after.is_none() {
            return Ok(());
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
