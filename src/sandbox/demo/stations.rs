//! The demo's little network: which lanes stand at which stations, and what a trip between them costs. Pure.
//!
//! The settings and the fare table are written from it, and the books say by it what each passenger owes.

use super::Direction;

/// One lane.
pub(super) struct Stand {
    pub(super) name: &'static str,
    pub(super) station: &'static str,
    pub(super) direction: Direction,
}

const fn stand(name: &'static str, station: &'static str, direction: Direction) -> Stand {
    Stand { name, station, direction }
}

/// Every lane.
pub(super) const LANES: [Stand; 5] = [
    stand("Port-in", "Port", Direction::In),
    stand("Zoo-in", "Zoo", Direction::In),
    stand("Park-in", "Park", Direction::In),
    stand("Zoo-out", "Zoo", Direction::Out),
    stand("Park-out", "Park", Direction::Out),
];
/// From, to, fen; for both directions.
const FARES: [(&str, &str, i64); 3] = [("Port", "Zoo", 300), ("Port", "Park", 500), ("Zoo", "Park", 400)];
/// Leaving where one came in.
pub(super) const SAME_STATION_FEN: i64 = 0;
/// What a missing tap costs.
pub(super) const MAX_FEN: i64 = 1000;

/// What a trip costs.
pub(super) fn fare(from: &str, to: &str) -> i64 {
    let is_pair = |(a, b, _): &&(&str, &str, i64)| (*a == from && *b == to) || (*a == to && *b == from);
    match FARES.iter().find(is_pair) {
        _ if from == to => SAME_STATION_FEN,
        Some((_, _, fen)) => *fen,
        None => MAX_FEN,
    }
}

/// What a `fares.csv` must hold.
pub(super) fn table() -> String {
    let lines = FARES.iter().map(|(from, to, fen)| format!("{from},{to},{fen}\n"));
    std::iter::once("from,to,fen\n".to_owned()).chain(lines).collect()
}
