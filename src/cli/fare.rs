//! `faregate fare`: what a journey between two stations would be charged, and why.

use std::{
    io::{Write, stdout},
    path::Path,
    sync::Arc,
    time::Duration,
};

use serde::Serialize;

use super::{
    check,
    exit::{Code, Failure},
};
use crate::{
    config::{self, Fare, read_fares, station_id},
    journey::{Age, Basis, Price, Tariff},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The station of the entry.
    #[arg(value_parser = station)]
    from: String,
    /// The station of the exit.
    #[arg(value_parser = station)]
    to: String,
    /// As one JSON document.
    #[arg(long)]
    json: bool,
}

/// What is shown: one answer, or two where leaving soon has a fare of its own.
#[derive(Debug, Serialize)]
struct Answer {
    from: String,
    to: String,
    /// Only for journeys so old at most, in words; absent where the age does not matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    within: Option<String>,
    original_fen: i64,
    total_fen: i64,
    why: String,
}

fn station(text: &str) -> Result<String, String> {
    station_id(text).ok_or_else(|| "this is no station; use 1 to 16 of A-Z a-z 0-9 and -".to_owned())
}

pub(super) fn run(arguments: &Arguments, config: &Path) -> Result<(), Failure> {
    let loaded = config::load_without_named_files(config);
    let Some(settings) = &loaded.settings else { return Err(check::failure(&loaded)) };
    let fare = &settings.fare;
    let table = fare.table.as_deref().map(read_fares).transpose().map_err(|findings| {
        let messages = findings.iter().map(ToString::to_string).collect();
        Failure { code: Code::Settings, messages }
    })?;
    let tariff = Tariff::new(fare, table.map(Arc::new));
    let answers = answers(&tariff, fare, arguments);
    let mut out = stdout().lock();
    if arguments.json {
        let text = serde_json::to_string_pretty(&answers).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
        return Ok(writeln!(out, "{text}")?);
    }
    for answer in &answers {
        let Answer { from, to, within, original_fen, total_fen, why } = answer;
        let within = within.as_ref().map_or(String::new(), |within| format!(", {within}"));
        let discount = if original_fen == total_fen { String::new() } else { format!(", {total_fen} fen after the discount") };
        writeln!(out, "{from} to {to}{within}: {original_fen} fen{discount} ({why})")?;
    }
    Ok(())
}

fn answers(tariff: &Tariff, fare: &Fare, arguments: &Arguments) -> Vec<Answer> {
    let Arguments { from, to, .. } = arguments;
    let answer = |within, age| answer(fare, from, to, within, tariff.trip(from, to, age));
    match fare.same_station.filter(|_| from == to) {
        None => vec![answer(None, Age::ThisBoot { ms: 0 })],
        Some(same) => vec![
            answer(Some(format!("within {}", shown(same.within))), Age::ThisBoot { ms: 0 }),
            answer(Some("later".to_owned()), Age::ThisBoot { ms: i64::MAX }),
        ],
    }
}

fn answer(fare: &Fare, from: &str, to: &str, within: Option<String>, price: Price) -> Answer {
    let table = fare.table.as_deref().map(|table| table.display().to_string()).unwrap_or_default();
    let why = match price.basis {
        Basis::Flat => format!("flat_fen, discount_percent = {}", fare.discount_percent),
        Basis::Table { line } => format!("{table}:{line}, discount_percent = {}", fare.discount_percent),
        Basis::UnknownPair => format!("max_fen without discount, because {table} lacks the pair"),
        Basis::SameStation => format!("same_station, discount_percent = {}", fare.discount_percent),
        Basis::MissingTap => "max_fen".to_owned(),
    };
    Answer { from: from.to_owned(), to: to.to_owned(), within, original_fen: price.original.0, total_fen: price.total.0, why }
}

/// A duration as the settings write it.
fn shown(duration: Duration) -> String {
    let s = duration.as_secs();
    match s {
        _ if duration.subsec_millis() > 0 => format!("{}ms", duration.as_millis()),
        _ if s % 3600 == 0 => format!("{}h", s / 3600),
        _ if s % 60 == 0 => format!("{}m", s / 60),
        _ => format!("{s}s"),
    }
}
