//! `faregate fsck`: whether the ledger is whole, and every fen in it explained.

use std::{
    io::{self, Write, stdout},
    path::Path,
};

use serde_json::{Value, json};

use super::{
    exit::{Code, Failure},
    source,
};
use crate::{
    clock::{Stamp, rfc3339_ms},
    ledger::{self, Broken, FsckReport, LedgerError, STATES, Sum},
    wechat,
};

/// Whoever passes the gate comes before whoever looks at its books.
const NICENESS: i32 = 10;

pub(super) fn run(config: &Path, json: bool) -> Result<(), Failure> {
    let path = source::own_ledger(config)?;
    // Without it the check is only less polite.
    let _ = rustix::process::nice(NICENESS);
    let at = rfc3339_ms(Stamp::now().utc_ms);
    let report = ledger::fsck(&path, wechat::is_request_of)?;
    let mut out = stdout().lock();
    if json {
        let text = serde_json::to_string_pretty(&document(&path, &at, &report)).map_err(io::Error::from)?;
        writeln!(out, "{text}")?;
    } else {
        write_report(&mut out, &path, &at, &report)?;
    }
    conclude(&path, &report)
}

fn conclude(path: &Path, report: &FsckReport) -> Result<(), Failure> {
    if let Some(first) = report.damage.first() {
        let more = report.damage.len() - 1;
        let detail = if more == 0 { first.clone() } else { format!("{first}, and {more} more") };
        return Err(LedgerError::Damaged { path: path.to_owned(), detail }.into());
    }
    if report.is_clean() {
        return Ok(());
    }
    let messages = report.broken.iter().map(sentence).collect();
    Err(Failure { code: Code::Found, messages })
}

fn sentence(broken: &Broken) -> String {
    let Broken { invariant, count, examples } = broken;
    let among = if examples.len() as u64 == *count { "" } else { "among them " };
    format!("{}: {}: {count} ({among}{}); {}", invariant.as_str(), invariant.problem(), examples.join(", "), invariant.mend())
}

fn write_report(out: &mut impl Write, path: &Path, at: &str, report: &FsckReport) -> io::Result<()> {
    writeln!(out, "{} as of {at}", path.display())?;
    writeln!(out)?;
    writeln!(out, "{:<12} {:>10} {:>14}", "state", "rows", "fen")?;
    let mut line = |name: &str, sum: &Sum| writeln!(out, "{name:<12} {:>10} {:>14}", sum.rows, sum.fen);
    STATES.iter().zip(&report.states).try_for_each(|(state, sum)| line(state, sum))?;
    if report.unexplained() != Sum::default() {
        line("unexplained", &report.unexplained())?;
    }
    line("recorded", &report.recorded)?;
    line("removed", &report.removed)?;
    writeln!(out)?;
    writeln!(out, "the file: {}", if report.damage.is_empty() { "whole" } else { "damaged" })?;
    report.damage.iter().try_for_each(|line| writeln!(out, "  {line}"))?;
    let verdict = if report.broken.is_empty() { "every fen is explained, every promise of the ledger holds" } else { "see below" };
    writeln!(out, "the books: {verdict}")?;
    write_remarks(out, report)
}

/// What breaks no promise, and has to be looked up at WeChat all the same.
fn write_remarks(out: &mut impl Write, report: &FsckReport) -> io::Result<()> {
    let FsckReport { mismatched, unknown_callbacks, .. } = report;
    if mismatched.rows > 0 {
        let Sum { rows, fen } = mismatched;
        writeln!(out, "remark: {rows} deductions of {fen} fen were paid with another amount: compare them with WeChat's bill")?;
    }
    if unknown_callbacks.rows > 0 {
        let Sum { rows, fen } = unknown_callbacks;
        writeln!(
            out,
            "remark: {rows} callbacks were about orders that are not here, {fen} fen paid: see the table unknown_callback"
        )?;
    }
    Ok(())
}

fn document(path: &Path, at: &str, report: &FsckReport) -> Value {
    let sum = |sum: &Sum| json!({"rows": sum.rows, "fen": sum.fen});
    let states: serde_json::Map<_, _> =
        STATES.iter().zip(&report.states).map(|(state, of)| ((*state).to_owned(), sum(of))).collect();
    let broken = |broken: &Broken| {
        let Broken { invariant, count, examples } = broken;
        json!({
            "invariant": invariant.as_str(), "count": count, "examples": examples,
            "problem": invariant.problem(), "mend": invariant.mend(),
        })
    };
    json!({
        "ledger": path,
        "at": at,
        "ok": report.is_clean(),
        "damage": report.damage,
        "states": states,
        "unexplained": sum(&report.unexplained()),
        "recorded": sum(&report.recorded),
        "removed": sum(&report.removed),
        "mismatched": sum(&report.mismatched),
        "unknown_callbacks": sum(&report.unknown_callbacks),
        "broken": report.broken.iter().map(broken).collect::<Vec<_>>(),
    })
}
