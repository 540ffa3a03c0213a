//! `faregate queue`: the deductions, one by one.

use std::{
    io::{self, BufWriter, Write, stdout},
    path::Path,
};

use clap::{Subcommand, builder::PossibleValuesParser};

use super::{
    exit::{Code, Failure},
    source::Source,
    story,
};
use crate::ledger::{Decided, OrderNumber, QueueRow, Reason, STATES};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List deductions, oldest first.
    List {
        /// Only those in this state.
        #[arg(long, value_parser = PossibleValuesParser::new(STATES))]
        state: Option<String>,
        /// At most so many; 0 for all.
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = row_count)]
        limit: usize,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Show one deduction and its story.
    Show {
        /// The order's number, 26 characters.
        order: String,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Have a parked deduction sent again, whatever its age. For root and the user faregate.
    Retry {
        /// The order's number, 26 characters.
        #[arg(required_unless_present = "all_parked")]
        order: Option<String>,
        /// Every deduction that is parked.
        #[arg(long, conflicts_with = "order")]
        all_parked: bool,
    },
    /// Let a deduction that is held, pending or parked never be charged. For root and the user faregate.
    Void {
        /// The order's number, 26 characters.
        order: String,
        /// Why, in a few words; kept with the deduction.
        #[arg(long, value_name = "TEXT", value_parser = Reason::parse)]
        reason: Reason,
        /// Although it was sent, or may have been: WeChat may charge it all the same.
        #[arg(long)]
        even_if_sent: bool,
    },
}

fn row_count(text: &str) -> Result<usize, &'static str> {
    text.parse().map_err(|_| "this is no number of rows; give a whole number, or 0 for all")
}

pub(super) fn run(command: &Command, config: &Path) -> Result<(), Failure> {
    match command {
        Command::List { state, limit, json } => list(config, state.as_deref(), *limit, *json),
        Command::Show { order, json } => show(config, order, *json),
        Command::Retry { order: Some(order), .. } => retry(config, order),
        Command::Retry { order: None, .. } => retry_all_parked(config),
        Command::Void { order, reason, even_if_sent } => void(config, order, reason, *even_if_sent),
    }
}

fn retry(config: &Path, order: &str) -> Result<(), Failure> {
    let number = parse(order)?;
    conclude(Source::new(config)?.retry(&number)?, &number, "will be sent again")
}

fn retry_all_parked(config: &Path) -> Result<(), Failure> {
    let source = Source::new(config)?;
    let (mut retried, mut refused, mut after_id) = (0, 0, 0);
    loop {
        let batch = source.retry_parked(after_id)?;
        retried += batch.retried;
        refused += batch.refused;
        match batch.next_after_id {
            Some(next) => after_id = next,
            None => break,
        }
    }
    writeln!(stdout(), "{retried} orders will be sent again")?;
    if refused == 0 {
        return Ok(());
    }
    let message = format!("{refused} orders stay parked; faregate queue retry ORDER says why, for each");
    Err(Failure::new(Code::Found, message))
}

fn void(config: &Path, order: &str, reason: &Reason, even_if_sent: bool) -> Result<(), Failure> {
    let number = parse(order)?;
    conclude(Source::new(config)?.void(&number, reason, even_if_sent)?, &number, "is void")
}

/// Tells what became of the order.
fn conclude(decided: Decided, order: &OrderNumber, done: &str) -> Result<(), Failure> {
    match decided {
        Decided::Done => Ok(writeln!(stdout(), "order {order} {done}")?),
        Decided::NotFound => Err(not_found(&format!("there is no order {order}"))),
        Decided::Refused(why) => Err(Failure::new(Code::Found, why)),
    }
}

fn parse(order: &str) -> Result<OrderNumber, Failure> {
    OrderNumber::parse(order).ok_or_else(|| not_found("this is no order's number, which has 26 letters and digits"))
}

fn not_found(what: &str) -> Failure {
    Failure::new(Code::NotFound, format!("{what}; faregate queue list --limit 0 shows all"))
}

fn list(config: &Path, state: Option<&str>, limit: usize, json: bool) -> Result<(), Failure> {
    let source = Source::new(config)?;
    let left = |written| if limit == 0 { usize::MAX } else { limit - written };
    // One row more than is shown tells whether there are more.
    let page = |after, written| source.page(state, after, left(written).saturating_add(1));
    // A failure before the first row leaves the output empty.
    let (mut rows, mut after_id) = page(0, 0)?;
    let mut out = BufWriter::new(stdout().lock());
    let mut written = 0;
    write_head(&mut out, json)?;
    let is_cut = loop {
        let shown = rows.len().min(left(written));
        for row in &rows[..shown] {
            write_row(&mut out, row, json, written == 0)?;
            written += 1;
        }
        let is_cut = shown < rows.len();
        let Some(after) = after_id.filter(|_| !is_cut) else { break is_cut };
        (rows, after_id) = page(after, written).map_err(|failure| failure.after_rows(written))?;
    };
    write_foot(&mut out, json, written, is_cut)?;
    Ok(out.flush()?)
}

fn write_foot(out: &mut impl Write, json: bool, written: usize, is_cut: bool) -> io::Result<()> {
    if json {
        writeln!(out, "{}]", if written == 0 { "" } else { "\n" })?;
    } else if written == 0 {
        writeln!(out, "none")?;
    } else if is_cut {
        writeln!(out, "the first {written}; --limit 0 shows all")?;
    }
    Ok(())
}

fn write_head(out: &mut impl Write, json: bool) -> Result<(), Failure> {
    if json {
        write!(out, "[")?;
    } else {
        writeln!(out, "{:<26} {:<8} {:<8} {:>7} {:>5}  {:<24}  note", "order", "state", "lane", "fen", "tries", "recorded")?;
    }
    Ok(())
}

fn write_row(out: &mut impl Write, row: &QueueRow, json: bool, is_first: bool) -> Result<(), Failure> {
    if json {
        let text = serde_json::to_string(row).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
        write!(out, "{}\n{text}", if is_first { "" } else { "," })?;
    } else {
        let QueueRow { order, state, lane, total_fen, attempts, created_at, .. } = row;
        writeln!(out, "{order:<26} {state:<8} {lane:<8} {total_fen:>7} {attempts:>5}  {created_at:<24}  {}", note(row))?;
    }
    Ok(())
}

/// What a person must know of a row beside its state.
fn note(row: &QueueRow) -> String {
    let unsettled_error = row.last_error.as_deref().filter(|_| matches!(row.state.as_str(), "pending" | "parked"));
    let parts = [row.reason.as_deref(), unsettled_error].into_iter().flatten().chain(row.flags.iter().map(String::as_str));
    parts.collect::<Vec<_>>().join("; ")
}

fn show(config: &Path, order: &str, json: bool) -> Result<(), Failure> {
    let number = parse(order)?;
    let story = Source::new(config)?.story(&number)?.ok_or_else(|| not_found(&format!("there is no order {number}")))?;
    let mut out = stdout().lock();
    if json {
        let text = serde_json::to_string_pretty(&story).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
        return Ok(writeln!(out, "{text}")?);
    }
    Ok(story::write(&mut out, &story)?)
}
