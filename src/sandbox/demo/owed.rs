//! What passengers owe, told from outside: who tapped where, what the turnstile showed, who went through. Pure.
//!
//! A second opinion on journeys and fares, as simple as a person at the gate would reckon it; it knows nothing of the gate's own.

use std::collections::BTreeMap;

use super::{
    Answer, Direction, Kind, Scan,
    stations::{MAX_FEN, SAME_STATION_FEN, fare},
};

/// What one trip costs its passenger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Debt {
    /// In words, for people.
    pub(super) what: String,
    /// It is charged with one of these codes: who taps twice before passing is charged with either.
    pub(super) codes: Vec<String>,
    /// The code of the entry, where there was an exit too.
    pub(super) start: Option<String>,
    pub(super) fen: i64,
}

/// What must have been recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Accounts {
    pub(super) debts: Vec<Debt>,
    /// Exits whose fare is nothing.
    pub(super) free: u64,
    /// Exits without entry, for a person to decide.
    pub(super) unmatched: u64,
    /// Exits that nobody passed.
    pub(super) unpassed_exits: u64,
    /// Journeys by state.
    pub(super) journeys: BTreeMap<&'static str, u64>,
}

/// Somebody who has come in and not gone out.
struct Inside<'a> {
    station: &'a str,
    code: &'a str,
}

impl Accounts {
    /// Reckons.
    pub(super) fn of(scans: &[Scan]) -> Self {
        let mut by_passenger: BTreeMap<u64, Vec<&Scan>> = BTreeMap::new();
        for scan in scans.iter().filter(|scan| scan.answer == Answer::Opened) {
            by_passenger.entry(scan.passenger).or_default().push(scan);
        }
        let mut accounts = Self::default();
        for taps in by_passenger.values() {
            accounts.add(taps);
        }
        accounts
    }

    /// One passenger's taps that the gate has opened for.
    fn add(&mut self, taps: &[&Scan]) {
        let mut inside: Option<Inside<'_>> = None;
        // Taps at one gate before passing it belong together.
        for taps in taps.chunk_by(|tap, next| next.kind == Kind::Again && tap.direction == next.direction) {
            let Some(tap) = taps.first() else { continue };
            let is_passed = taps.iter().any(|tap| tap.is_passed);
            match (tap.direction, is_passed) {
                (Direction::In, true) => inside = Some(self.enter(tap, inside)),
                (Direction::In, false) => self.count("taken-back"),
                (Direction::Out, true) => self.leave(taps, inside.take()),
                (Direction::Out, false) => self.unpassed_exits += 1,
            }
        }
        if inside.is_some() {
            self.count("open");
        }
    }

    fn enter<'a>(&mut self, tap: &'a Scan, before: Option<Inside<'a>>) -> Inside<'a> {
        match before {
            Some(before) if before.station == tap.station => self.count("replaced"),
            Some(before) => {
                self.count("unfinished");
                let what = format!("the ride from {} that was never tapped out of", before.station);
                self.debts.push(Debt { what, codes: vec![before.code.to_owned()], start: None, fen: MAX_FEN });
            }
            None => {}
        }
        Inside { station: &tap.station, code: &tap.code }
    }

    fn leave(&mut self, taps: &[&Scan], inside: Option<Inside<'_>>) {
        let (Some(tap), Some(inside)) = (taps.first(), inside) else {
            self.unmatched += 1;
            return;
        };
        self.count("exited");
        let fen = fare(inside.station, &tap.station);
        if fen == SAME_STATION_FEN {
            self.free += 1;
            return;
        }
        let what = format!("the ride from {} to {}", inside.station, tap.station);
        let codes = taps.iter().map(|tap| tap.code.clone()).collect();
        self.debts.push(Debt { what, codes, start: Some(inside.code.to_owned()), fen });
    }

    fn count(&mut self, state: &'static str) {
        *self.journeys.entry(state).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::demo::books::tests::tap;

    /// Fen and start of each debt.
    type Debts = Vec<(i64, Option<&'static str>)>;

    /// The debts; free, unmatched and unpassed exits; the journeys.
    fn reckoned(taps: &[(&str, &str, bool)]) -> (Debts, [u64; 3], String) {
        let scans: Vec<_> = taps.iter().map(|(lane, code, is_passed)| tap(1, lane, code, *is_passed)).collect();
        let accounts = Accounts::of(&scans);
        let start = |debt: &Debt| debt.start.as_deref().map(|start| if start == "a" { "a" } else { "b" });
        let debts = accounts.debts.iter().map(|debt| (debt.fen, start(debt))).collect();
        let journeys: Vec<_> = accounts.journeys.iter().map(|(state, count)| format!("{state} {count}")).collect();
        (debts, [accounts.free, accounts.unmatched, accounts.unpassed_exits], journeys.join(", "))
    }

    #[test]
    fn each_kind_of_journey_costs_what_the_table_says() {
        let ride = reckoned(&[("Port-in", "a", true), ("Park-out", "z", true)]);
        assert_eq!(ride, (vec![(500, Some("a"))], [0; 3], "exited 1".to_owned()));
        let forgot = reckoned(&[("Zoo-out", "z", true)]);
        assert_eq!(forgot, (vec![], [0, 1, 0], String::new()));
        let elsewhere = reckoned(&[("Port-in", "a", true), ("Zoo-in", "b", true), ("Park-out", "z", true)]);
        assert_eq!(elsewhere, (vec![(1000, None), (400, Some("b"))], [0; 3], "exited 1, unfinished 1".to_owned()));
        let twice = reckoned(&[("Port-in", "a", true), ("Port-in", "b", true), ("Zoo-out", "z", true)]);
        assert_eq!(twice, (vec![(300, Some("b"))], [0; 3], "exited 1, replaced 1".to_owned()));
        let back = reckoned(&[("Zoo-in", "a", true), ("Zoo-out", "z", true)]);
        assert_eq!(back, (vec![], [1, 0, 0], "exited 1".to_owned()));
    }

    #[test]
    fn who_does_not_pass_owes_nothing_yet() {
        let stayed = reckoned(&[("Port-in", "a", true), ("Port-in", "b", false), ("Zoo-out", "y", false), ("Zoo-out", "z", true)]);
        assert_eq!(stayed, (vec![(300, Some("a"))], [0, 0, 1], "exited 1, taken-back 1".to_owned()));
        assert_eq!(reckoned(&[("Port-in", "a", true)]).2, "open 1");
    }

    #[test]
    fn who_taps_twice_before_passing_owes_once_and_is_charged_with_either_code() {
        let mut scans = [tap(1, "Port-in", "a", true), tap(1, "Zoo-out", "y", true), tap(1, "Zoo-out", "z", false)];
        scans[2].kind = Kind::Again;
        let debts = Accounts::of(&scans).debts;
        assert_eq!((debts.len(), &debts[0].codes), (1, &vec!["y".to_owned(), "z".to_owned()]));
    }
}
