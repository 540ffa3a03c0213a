//! `faregate journeys`: trips that begin with one tap and end with another.

use std::{
    io::{BufWriter, Write, stdout},
    path::Path,
};

use clap::Subcommand;

use super::{
    exit::{Code, Failure},
    source::Source,
};
use crate::ledger::JourneyRow;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List journeys, oldest first.
    List {
        /// Only those that no exit has ended yet.
        #[arg(long)]
        open: bool,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: &Command, config: &Path) -> Result<(), Failure> {
    let Command::List { open, json } = command;
    list(&Source::new(config)?, *open, *json)
}

fn list(source: &Source, open_only: bool, json: bool) -> Result<(), Failure> {
    // A failure before the first row leaves the output empty.
    let (mut rows, mut after_id) = source.journeys(open_only, 0)?;
    let mut out = BufWriter::new(stdout().lock());
    let mut written = 0;
    write_head(&mut out, json)?;
    loop {
        for row in &rows {
            write_row(&mut out, row, json, written == 0)?;
            written += 1;
        }
        let Some(after) = after_id else { break };
        (rows, after_id) = source.journeys(open_only, after).map_err(|failure| failure.after_rows(written))?;
    }
    match (json, written) {
        (true, 0) => writeln!(out, "]")?,
        (true, _) => writeln!(out, "\n]")?,
        (false, 0) => writeln!(out, "none")?,
        (false, _) => {}
    }
    Ok(out.flush()?)
}

fn write_head(out: &mut impl Write, json: bool) -> Result<(), Failure> {
    if json {
        Ok(write!(out, "[")?)
    } else {
        Ok(writeln!(out, "{:<26} {:<10} {:<16} {:<8} {:<24}  order", "journey", "state", "from", "lane", "since")?)
    }
}

fn write_row(out: &mut impl Write, row: &JourneyRow, json: bool, is_first: bool) -> Result<(), Failure> {
    if json {
        let text = serde_json::to_string(row).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
        return Ok(write!(out, "{}\n{text}", if is_first { "" } else { "," })?);
    }
    let JourneyRow { journey, state, entry_station, entry_lane, entry_at, order, .. } = row;
    let order = order.as_deref().unwrap_or("-");
    Ok(writeln!(out, "{journey:<26} {state:<10} {entry_station:<16} {entry_lane:<8} {entry_at:<24}  {order}")?)
}
