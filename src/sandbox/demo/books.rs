//! The books of a demo: what was seen from outside the gate against what the gate itself recorded. Pure.
//!
//! Outside is what was written to the readers and the passage sensors, the trace of the turnstiles, what each passenger owes by the
//! fare table (`owed`), and the charges of the sandbox; inside is the ledger's own listing of deductions and journeys. Neither is made
//! from the other, so a bug in the gate shows as a difference: a scan without an answer, an opening without a record, a row that
//! went, a journey that was charged twice, from a wrong start, under another amount, or not at all.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use super::{
    Answer, Direction, Kind, Scan,
    owed::{Accounts, Debt},
    scene::PASSENGER_INTERVAL,
    trace::Edge,
};
use crate::{
    ledger::{JourneyRow, QueueRow, STATES},
    ride_code::Refusal,
    sandbox::{Charge, Money},
};

/// The states of a journey, in the contract's order.
const JOURNEY_STATES: [&str; 5] = ["open", "exited", "replaced", "unfinished", "taken-back"];

/// Everything that the books are made from.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What was written to the readers.
    pub scans: Vec<Scan>,
    /// Who has gone through a gate that was not opened for them: behind a passenger, or too late.
    pub uninvited: u64,
    /// What the turnstiles did.
    pub trace: Vec<Edge>,
    /// What the ledger lists.
    pub rows: Vec<QueueRow>,
    /// The journeys that it lists.
    pub journeys: Vec<JourneyRow>,
    /// What the ledger counts, in the order of [`STATES`].
    pub tally: [u64; 7],
    /// What the sandbox charged.
    pub charges: Vec<Charge>,
    /// Whether the end was waited for.
    pub patience: Patience,
}

/// Whether the end of the demo was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Patience {
    /// All that was to be told has been.
    #[default]
    ToTheEnd,
    /// Somebody wanted out at once: what was not told yet is no difference.
    CutShort,
}

/// A number of deductions and their sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub count: u64,
    /// How much.
    pub fen: i64,
}

/// The sums, and what is wrong with them. [`fmt::Display`] is the page for people.
#[derive(Debug, Clone, Default)]
pub struct Books {
    /// Codes that were shown to readers.
    pub scans: u64,
    /// Refusals that the turnstiles showed, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Codes that had to be refused: forged, out of time, damaged, or shown before.
    pub bad: u64,
    /// Codes that a reader read twice.
    pub repeats: u64,
    /// Openings in the trace.
    pub opened: u64,
    /// Of these, openings that somebody went through.
    pub passed: u64,
    /// Who went through without an opening, as the turnstiles showed it.
    pub uninvited: u64,
    /// Journeys by state, in the order of the contract.
    pub journeys: [u64; 5],
    /// Deductions that the ledger lists.
    pub recorded: u64,
    /// Of these, taken back because nothing opened.
    pub not_opened: u64,
    /// Deductions by state, in the order of [`STATES`].
    pub states: [u64; 7],
    /// What the passengers owe.
    pub owed: Sum,
    /// Accepted, paid and unpaid.
    pub settled: Sum,
    /// Charged by the sandbox, while the gate still asks whether.
    pub in_doubt: Sum,
    /// Charged by the sandbox.
    pub charged: Sum,
    /// Paid by the sandbox's book.
    pub paid: Sum,
    /// Not paid by the sandbox's book.
    pub unpaid: Sum,
    /// Recorded as paid, with what was told.
    pub recorded_paid: Sum,
    /// Recorded as unpaid.
    pub recorded_unpaid: Sum,
    /// Charges of which the gate has not heard whether they were paid.
    pub not_told: u64,
    /// One sentence each; empty when the books balance.
    pub differences: Vec<String>,
}

impl Evidence {
    /// Closes the books.
    #[must_use]
    pub fn books(&self) -> Books {
        let orders: HashMap<_, _> = self.rows.iter().map(|row| (row.order.as_str(), row)).collect();
        let accounts = Accounts::of(&self.scans);
        let mut books = self.sums(&orders, &accounts);
        let mut differences = books.differing_sums(self.patience);
        differences.extend(self.differing_lanes());
        differences.extend(self.differing_tally(&books));
        differences.extend(self.differing_charges(&orders));
        differences.extend(self.differing_payments(&orders));
        differences.extend(self.differing_money(&books));
        differences.extend(self.differing_debts(&accounts));
        differences.extend(self.differing_refusals(&books));
        differences.extend(self.differing_intruders(&books));
        if self.patience == Patience::ToTheEnd {
            differences.extend(books.differing_journeys(&accounts));
            differences.extend(self.differing_records(&accounts));
        }
        books.differences = differences;
        books
    }

    fn sums(&self, orders: &HashMap<&str, &QueueRow>, accounts: &Accounts) -> Books {
        let is_in_doubt = |charge: &&Charge| row_of(orders, charge).is_some_and(|row| row.state == "pending");
        let charged =
            |is_counted: &dyn Fn(&&Charge) -> bool| sum(self.charges.iter().filter(is_counted).map(|charge| charge.total_fen));
        Books {
            scans: count(self.scans.iter()),
            refused: self.refusals(),
            bad: count(self.scans.iter().filter(|scan| scan.kind.refusal().is_some())),
            repeats: count(self.scans.iter().filter(|scan| scan.is_repeat())),
            opened: count(self.trace.iter().filter(|edge| edge.is_opening())),
            passed: count(self.scans.iter().filter(|scan| scan.is_passed)),
            uninvited: count(self.trace.iter().filter(|edge| edge.is_uninvited())),
            journeys: JOURNEY_STATES.map(|state| count(self.journeys.iter().filter(|journey| journey.state == state))),
            recorded: count(self.rows.iter()),
            not_opened: count(self.rows.iter().filter(|row| never_opened(row))),
            states: STATES.map(|state| count(self.rows_in(state))),
            owed: sum(accounts.debts.iter().map(|debt| debt.fen)),
            settled: sum(self.rows.iter().filter(|row| is_settled(row)).map(|row| row.total_fen)),
            in_doubt: charged(&is_in_doubt),
            charged: charged(&|_| true),
            paid: charged(&|charge| is_paid(charge)),
            unpaid: charged(&|charge| charge.money == Money::Unpaid),
            recorded_paid: sum(self.rows_in("paid").map(|row| row.paid_fen.unwrap_or(0))),
            recorded_unpaid: sum(self.rows_in("unpaid").map(|row| row.total_fen)),
            not_told: count(self.charges.iter().filter(|charge| is_not_told(charge))),
            differences: Vec::new(),
        }
    }

    /// What the deny lights showed to who had shown a code.
    fn refusals(&self) -> BTreeMap<String, u64> {
        let mut refused = BTreeMap::new();
        for reason in self.trace.iter().filter(|edge| !edge.is_uninvited()).filter_map(Edge::refusal) {
            *refused.entry(reason.to_owned()).or_default() += 1;
        }
        refused
    }

    /// An opening on a way in is a journey, one on a way out a deduction, unless somebody who has not passed yet tapped again.
    fn differing_lanes(&self) -> Vec<String> {
        let of_lane = |(lane, direction): (&str, Direction)| {
            let here = || self.trace.iter().filter(move |edge| edge.lane == lane);
            let opened = count(here().filter(|edge| edge.is_opening()));
            let late = count(here().filter(|edge| edge.refusal() == Some(Refusal::Late.as_str())));
            let (least, recorded) = match direction {
                Direction::In => {
                    let journeys = count(self.journeys.iter().filter(|journey| journey.entry_lane == lane));
                    (journeys.saturating_sub(late), journeys)
                }
                Direction::Out => {
                    let is_exit = |row: &&QueueRow| row.lane == lane && row.kind != "unfinished-entry" && !never_opened(row);
                    let exits = count(self.rows.iter().filter(is_exit));
                    (exits, exits + self.opened_again(lane))
                }
            };
            let is_explained = (least..=recorded).contains(&opened);
            (!is_explained).then(|| format!("lane {lane} opened {opened} times, for {recorded} records"))
        };
        let lanes: BTreeSet<_> = self.scans.iter().map(|scan| (scan.lane.as_str(), scan.direction)).collect();
        lanes.into_iter().filter_map(of_lane).collect()
    }

    fn opened_again(&self, lane: &str) -> u64 {
        let is_again = |scan: &&Scan| scan.lane == lane && scan.kind == Kind::Again && scan.answer == Answer::Opened;
        count(self.scans.iter().filter(is_again))
    }

    fn differing_tally(&self, books: &Books) -> Vec<String> {
        let counts = STATES.iter().zip(books.states).zip(self.tally);
        let differing = counts.filter(|((_, listed), counted)| listed != counted);
        differing
            .map(|((state, listed), counted)| format!("the ledger lists {listed} rows as {state} and counts {counted}"))
            .collect()
    }

    /// Every deduction that is not to be charged has a reason that was seen.
    fn differing_records(&self, accounts: &Accounts) -> Vec<String> {
        // What an entry left unfinished goes with that entry, when nobody passes it.
        let exits = || self.rows.iter().filter(|row| row.kind != "unfinished-entry");
        let with_reason = |reason: &str| count(exits().filter(|row| row.reason.as_deref() == Some(reason)));
        let again = count(self.scans.iter().filter(|scan| scan.kind == Kind::Again && scan.answer == Answer::Opened));
        let (free, unmatched, unpassed) = (accounts.free, accounts.unmatched, accounts.unpassed_exits);
        // The first of two taps before one passage may have been given up just before the second.
        let pairs = [("free", free, free), ("unmatched", unmatched, unmatched), ("no-passage", unpassed, unpassed + again)];
        let differing = pairs.into_iter().filter_map(|(reason, least, most)| {
            let found = with_reason(reason);
            let is_so = (least..=most).contains(&found);
            (!is_so).then(|| format!("{least} deductions must be {reason} by what was seen, and the ledger lists {found}"))
        });
        differing.collect()
    }

    /// Passenger by passenger: each ride is charged once, from its own start, at its fare, and nobody else is.
    fn differing_debts(&self, accounts: &Accounts) -> Vec<String> {
        let mut by_code: HashMap<&str, Vec<&Charge>> = HashMap::new();
        for charge in &self.charges {
            by_code.entry(&charge.code).or_default().push(charge);
        }
        let mut missing = Vec::new();
        let mut differences = Vec::new();
        for debt in &accounts.debts {
            let charges: Vec<_> = debt.codes.iter().filter_map(|code| by_code.remove(code.as_str())).flatten().collect();
            match charges.as_slice() {
                [] => missing.push(format!("{}, {} with code {}, was not charged", debt.what, yuan(debt.fen), debt.code())),
                [charge] => differences.extend(debt.differing(charge)),
                more => differences.push(format!("{}, with code {}, was charged {} times", debt.what, debt.code(), more.len())),
            }
        }
        // What waits to be sent is going to be charged.
        if missing.len() as u64 > count(self.rows_in("pending")) && self.patience == Patience::ToTheEnd {
            differences.append(&mut missing);
        }
        differences.extend(self.nobodys(&by_code));
        differences.extend(self.started_twice());
        differences
    }

    fn nobodys(&self, by_code: &HashMap<&str, Vec<&Charge>>) -> Vec<String> {
        let shown: BTreeSet<_> = self.scans.iter().map(|scan| scan.code.as_str()).collect();
        let why = |code| if shown.contains(code) { "who showed it owes nothing" } else { "nobody showed it" };
        let codes: BTreeSet<_> = by_code.keys().copied().collect();
        codes.into_iter().map(|code| format!("code {code} was charged, and {}", why(code))).collect()
    }

    /// A journey has one entry: two charges from the same are one too many.
    fn started_twice(&self) -> Vec<String> {
        let mut starts: BTreeMap<&str, u64> = BTreeMap::new();
        for start in self.charges.iter().filter_map(|charge| charge.start_code.as_deref()) {
            *starts.entry(start).or_default() += 1;
        }
        let twice = starts.into_iter().filter(|(_, times)| *times > 1);
        twice.map(|(start, times)| format!("the journey that began with code {start} was charged {times} times")).collect()
    }

    /// Order by order, both ways.
    fn differing_charges(&self, orders: &HashMap<&str, &QueueRow>) -> Vec<String> {
        let charged: HashMap<_, _> = self.charges.iter().filter_map(|charge| Some((charge.order.as_deref()?, charge))).collect();
        let of_charges = self.charges.iter().filter_map(|charge| {
            let order = charge.order.as_deref().unwrap_or("without a number");
            match row_of(orders, charge) {
                None => Some(format!("order {order} was charged, and the ledger has no such record")),
                Some(row) if row.total_fen != charge.total_fen => {
                    Some(format!("order {order} was charged {} fen, and {} fen are recorded", charge.total_fen, row.total_fen))
                }
                Some(row) if !is_settled(row) && row.state != "pending" => {
                    Some(format!("order {order} was charged, and is recorded as {}", row.state))
                }
                Some(_) => None,
            }
        });
        let of_rows = self.rows.iter().filter(|row| is_settled(row) && !charged.contains_key(row.order.as_str()));
        of_charges
            .chain(of_rows.map(|row| format!("order {} is recorded as {}, and was not charged", row.order, row.state)))
            .collect()
    }

    fn rows_in(&self, state: &'static str) -> impl Iterator<Item = &QueueRow> {
        self.rows.iter().filter(move |row| row.state == state)
    }

    /// Whether each charge was paid, and that the gate knows.
    fn differing_payments(&self, orders: &HashMap<&str, &QueueRow>) -> Vec<String> {
        let is_excused = |charge: &Charge| is_not_told(charge) && self.patience == Patience::CutShort;
        let of_charge = |charge: &Charge| {
            let (row, order) = (row_of(orders, charge)?, charge.order.as_deref()?);
            let expected = match charge.money {
                Money::NotTold => return None,
                Money::Paid | Money::Repaid => "paid",
                Money::Unpaid => "unpaid",
            };
            let state = &row.state;
            (state != expected).then(|| format!("order {order} is {expected} by WeChat's book, and is recorded as {state}"))
        };
        self.charges.iter().filter(|charge| !is_excused(charge)).filter_map(of_charge).collect()
    }

    /// The same as sums.
    fn differing_money(&self, books: &Books) -> Vec<String> {
        let Books { paid, unpaid, recorded_paid, recorded_unpaid, .. } = books;
        let is_excused = self.patience == Patience::CutShort && books.not_told > 0;
        let pairs = [("paid", paid, recorded_paid), ("unpaid", unpaid, recorded_unpaid)];
        let differing = pairs.into_iter().filter(|(_, by_book, recorded)| !is_excused && by_book != recorded);
        differing
            .map(|(what, by_book, recorded)| {
                format!(
                    "{} orders of {} are {what} by WeChat's book, but {} of {} are recorded so",
                    by_book.count,
                    yuan(by_book.fen),
                    recorded.count,
                    yuan(recorded.fen)
                )
            })
            .collect()
    }

    /// Every code that must not open was refused by the reason that is its own, and by no other.
    fn differing_refusals(&self, books: &Books) -> Vec<String> {
        let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
        for scan in self.scans.iter().filter(|scan| !self.may_open(scan)) {
            if let Some(refusal) = scan.kind.refusal() {
                *expected.entry(refusal.as_str()).or_default() += 1;
            }
        }
        let refused = |reason: &str| books.refused.get(reason).copied().unwrap_or(0);
        // What the history refuses depends on what came before having opened.
        let is_sure = |reason: &str| refused(Refusal::Late.as_str()) == 0 || !["duplicate", "too-soon"].contains(&reason);
        let is_cut_short = self.patience == Patience::CutShort;
        expected
            .into_iter()
            .filter(|(reason, count)| !is_cut_short && is_sure(reason) && refused(reason) != *count)
            .map(|(reason, count)| format!("{count} codes had to be refused as {reason}, and {} were", refused(reason)))
            .collect()
    }

    fn differing_intruders(&self, books: &Books) -> Option<String> {
        let (went, shown) = (self.uninvited, books.uninvited);
        (went != shown && self.patience == Patience::ToTheEnd)
            .then(|| format!("{went} went through uninvited, and the turnstiles showed {shown}"))
    }

    /// Whether a second code of the same passenger came too late to be too soon, on a machine that is very busy.
    fn may_open(&self, scan: &Scan) -> bool {
        let is_before = |other: &&Scan| other.passenger == scan.passenger && other.shown_at < scan.shown_at;
        let before = self.scans.iter().rev().filter(is_before).find(|other| other.answer == Answer::Opened);
        let is_slow = |before: &Scan| scan.answered_at.saturating_sub(before.shown_at) >= PASSENGER_INTERVAL;
        scan.kind == Kind::Refreshed && scan.answer == Answer::Opened && before.is_some_and(is_slow)
    }
}

impl Debt {
    fn code(&self) -> &str {
        self.codes.first().map_or("", String::as_str)
    }

    fn differing(&self, charge: &Charge) -> Option<String> {
        let Self { what, start, fen, .. } = self;
        let named = |code: &Option<String>| code.clone().unwrap_or_else(|| "none".to_owned());
        if charge.total_fen != *fen {
            Some(format!("{what} costs {}, and code {} was charged {}", yuan(*fen), charge.code, yuan(charge.total_fen)))
        } else if charge.start_code != *start {
            let (right, wrong) = (named(start), named(&charge.start_code));
            Some(format!("{what} began with code {right}, and was charged with start code {wrong}"))
        } else {
            None
        }
    }
}

impl Books {
    fn differing_sums(&self, patience: Patience) -> Vec<String> {
        let Self { scans, repeats, opened, settled, in_doubt, charged, .. } = self;
        let refused: u64 = self.refused.values().sum();
        let answered = opened + refused + repeats;
        let known = Sum { count: settled.count + in_doubt.count, fen: settled.fen + in_doubt.fen };
        let mut differences = Vec::new();
        if *scans != answered && (patience == Patience::ToTheEnd || answered > *scans) {
            differences.push(format!("{scans} scans, but {opened} opened + {refused} refused + {repeats} repeats = {answered}"));
        }
        if known != *charged {
            differences.push(format!(
                "{} orders of {} are recorded as charged, but the sandbox charged {} of {}",
                known.count,
                yuan(known.fen),
                charged.count,
                yuan(charged.fen)
            ));
        }
        differences
    }

    /// Every passenger who has gone in is somewhere. What was late may be listed as taken back, or not at all.
    fn differing_journeys(&self, accounts: &Accounts) -> Vec<String> {
        let late = self.refused.get(Refusal::Late.as_str()).copied().unwrap_or(0);
        let of_state = |(state, found): (&str, u64)| {
            let expected = accounts.journeys.get(state).copied().unwrap_or(0);
            let spare = if state == "taken-back" { late } else { 0 };
            let is_so = (expected..=expected + spare).contains(&found);
            (!is_so).then(|| format!("{expected} journeys must be {state} by what was seen, and the ledger lists {found}"))
        };
        JOURNEY_STATES.into_iter().zip(self.journeys).filter_map(of_state).collect()
    }

    fn fate_of_bad(&self) -> &'static str {
        if self.differences.is_empty() { "every one refused, by the reason that is its own" } else { "see the differences" }
    }

    fn refused_by_reason(&self) -> String {
        self.refused.iter().map(|(reason, count)| format!("{reason} {count}")).collect::<Vec<_>>().join(", ")
    }

    fn write_gate(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused: u64 = self.refused.values().sum();
        row(f, "codes shown to the readers", self.scans, "")?;
        row(f, "  = opened", self.opened, "")?;
        row(f, "  + refused", refused, &self.refused_by_reason())?;
        row(f, "  + read twice by the reader", self.repeats, "")?;
        row(f, "codes that must not open", self.bad, self.fate_of_bad())?;
        row(f, "opened", self.opened, "")?;
        row(f, "  = somebody went through", self.passed, "")?;
        row(f, "  + nobody did", self.opened.saturating_sub(self.passed), "")?;
        row(f, "went through uninvited", self.uninvited, "charged to nobody")?;
        row(f, "journeys begun", self.journeys.iter().sum(), "")?;
        writeln!(f, "  = {}", by_state(&JOURNEY_STATES, &self.journeys))
    }

    fn write_money(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        row(f, "deductions recorded", self.recorded, "")?;
        writeln!(f, "  = {}", by_state(&STATES, &self.states))?;
        row(f, "passengers owe by the fare table", self.owed.count, &yuan(self.owed.fen))?;
        row(f, "accepted, paid or unpaid", self.settled.count, &yuan(self.settled.fen))?;
        if self.in_doubt.count > 0 {
            row(f, "  + charged, answer not known yet", self.in_doubt.count, &yuan(self.in_doubt.fen))?;
        }
        row(f, "  = charged by WeChat (sandbox)", self.charged.count, &yuan(self.charged.fen))?;
        row(f, "recorded as paid", self.recorded_paid.count, &yuan(self.recorded_paid.fen))?;
        row(f, "  = paid by WeChat's book", self.paid.count, &yuan(self.paid.fen))?;
        row(f, "recorded as unpaid", self.recorded_unpaid.count, &yuan(self.recorded_unpaid.fen))?;
        row(f, "  = without money at WeChat", self.unpaid.count, &yuan(self.unpaid.fen))
    }
}

impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "The books: what was seen from outside, against the ledger's own listing")?;
        self.write_gate(f)?;
        self.write_money(f)?;
        if self.differences.is_empty() {
            return writeln!(
                f,
                "They balance: every opening is recorded, every ride is charged once, from its start, at its fare, and paid or owed."
            );
        }
        writeln!(f, "THEY DO NOT BALANCE:")?;
        self.differences.iter().try_for_each(|difference| writeln!(f, "  ! {difference}"))
    }
}

fn by_state(states: &[&str], counts: &[u64]) -> String {
    let parts: Vec<_> = states.iter().zip(counts).map(|(state, count)| format!("{state} {count}")).collect();
    parts.join(" + ")
}

fn row(f: &mut fmt::Formatter<'_>, label: &str, count: u64, remark: &str) -> fmt::Result {
    writeln!(f, "{}", format!("{label:<34}{count:>7}   {remark}").trim_end())
}

/// An amount for people.
pub(super) fn yuan(fen: i64) -> String {
    format!("{}.{:02} yuan", fen / 100, (fen % 100).abs())
}

fn count<T>(items: impl Iterator<Item = T>) -> u64 {
    items.fold(0, |count, _| count + 1)
}

fn sum(fens: impl Iterator<Item = i64>) -> Sum {
    fens.fold(Sum::default(), |sum, fen| Sum { count: sum.count + 1, fen: sum.fen + fen })
}

fn row_of<'a>(orders: &HashMap<&str, &'a QueueRow>, charge: &Charge) -> Option<&'a QueueRow> {
    orders.get(charge.order.as_deref()?).copied()
}

fn is_settled(row: &QueueRow) -> bool {
    matches!(row.state.as_str(), "accepted" | "paid" | "unpaid")
}

fn is_paid(charge: &Charge) -> bool {
    matches!(charge.money, Money::Paid | Money::Repaid)
}

fn is_not_told(charge: &Charge) -> bool {
    charge.money != Money::NotTold && !charge.told
}

fn never_opened(row: &QueueRow) -> bool {
    row.state == "void" && matches!(row.reason.as_deref(), Some("late" | "not-opened"))
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use serde_json::{from_value, json};

    use super::*;
    use crate::sandbox::demo::stations::LANES;

    type Spoil<'a> = &'a dyn Fn(&mut Evidence);

    fn scan(lane: &str, passenger: u64, code: &str, kind: Kind, answer: Answer) -> Scan {
        let stand = LANES.iter().find(|stand| stand.name == lane).unwrap();
        Scan {
            lane: lane.to_owned(),
            station: stand.station.to_owned(),
            direction: stand.direction,
            kind,
            passenger,
            code: code.to_owned(),
            is_passed: answer == Answer::Opened,
            answer,
            shown_at: Duration::ZERO,
            answered_at: Duration::ZERO,
        }
    }

    /// A tap that the gate has opened for.
    pub(crate) fn tap(passenger: u64, lane: &str, code: &str, is_passed: bool) -> Scan {
        Scan { is_passed, ..scan(lane, passenger, code, Kind::Fresh, Answer::Opened) }
    }

    fn edge(lane: &str, output: &str, reason: Option<&str>) -> Edge {
        Edge { lane: lane.to_owned(), line: output.to_owned(), level: 1, reason: reason.map(str::to_owned) }
    }

    fn row(order: &str, fen: i64, state: &str, reason: Option<&str>) -> QueueRow {
        from_value(json!({
            "order": order, "state": state, "kind": "exit", "reason": reason, "flags": [], "gate": "G", "lane": "Park-out",
            "passenger": "", "original_fen": fen, "total_fen": fen, "paid_fen": null, "start_time": "", "end_time": null,
            "has_start_code": false, "attempts": 1, "last_error": null, "created_at": "", "accepted_at": null, "settled_at": null,
            "transaction_id": null,
        }))
        .unwrap()
    }

    fn journey(state: &str) -> JourneyRow {
        from_value(json!({
            "journey": "J", "passenger": "", "entry_station": "Port", "entry_lane": "Port-in", "entry_at": "", "state": state,
            "order": null,
        }))
        .unwrap()
    }

    fn charge(order: &str, code: &str, start: &str) -> Charge {
        let mut charge = crate::sandbox::book::tests::charge(order, code, 500);
        charge.start_code = Some(start.to_owned());
        charge
    }

    /// Two have ridden from Port to Park, of whom the second is not charged yet; a third taps out too late. One code is read twice, one
    /// shown to another reader too.
    fn evidence() -> Evidence {
        let refused = |reason: &str| Answer::Refused(reason.to_owned());
        Evidence {
            scans: vec![
                tap(1, "Port-in", "a", true),
                scan("Port-in", 1, "a", Kind::Repeat, Answer::None),
                tap(2, "Port-in", "b", true),
                scan("Park-out", 2, "b", Kind::Screenshot, refused("duplicate")),
                tap(3, "Port-in", "c", true),
                tap(1, "Park-out", "x", true),
                tap(2, "Park-out", "y", true),
                scan("Park-out", 3, "z", Kind::Fresh, refused("late")),
            ],
            uninvited: 1,
            trace: vec![
                edge("Port-in", "open", None),
                edge("Port-in", "open", None),
                edge("Park-out", "light_deny", Some("duplicate")),
                edge("Port-in", "open", None),
                edge("Park-out", "open", None),
                edge("Park-out", "light_deny", Some("tailgate")),
                edge("Park-out", "open", None),
                edge("Park-out", "light_deny", Some("late")),
            ],
            rows: vec![row("X", 500, "accepted", None), row("Y", 500, "pending", None), row("Z", 500, "void", Some("late"))],
            journeys: vec![journey("exited"), journey("exited"), journey("open")],
            tally: [0, 1, 1, 0, 0, 0, 1],
            charges: vec![charge("X", "x", "a")],
            patience: Patience::ToTheEnd,
        }
    }

    fn differences(spoil: impl FnOnce(&mut Evidence)) -> String {
        let mut evidence = evidence();
        spoil(&mut evidence);
        evidence.books().differences.join("\n")
    }

    #[test]
    fn books_of_a_gate_that_works_balance() {
        let books = evidence().books();
        assert_eq!(books.differences, Vec::<String>::new());
        assert_eq!((books.scans, books.opened, books.repeats, books.recorded, books.not_opened), (8, 5, 1, 3, 1));
        assert_eq!((books.owed, books.journeys), (Sum { count: 2, fen: 1000 }, [1, 2, 0, 0, 0]));
        assert!(books.to_string().contains("They balance"), "{books}");
    }

    #[test]
    fn a_charge_whose_answer_was_lost_is_in_doubt_and_no_difference() {
        let mut evidence = evidence();
        evidence.charges.push(charge("Y", "y", "b"));
        let books = evidence.books();
        assert_eq!((books.differences.len(), books.in_doubt), (0, Sum { count: 1, fen: 500 }), "{books}");
    }

    /// The charge of order X, with what became of it.
    fn money(money: Money, told: bool) -> impl FnOnce(&mut Evidence) {
        move |evidence| (evidence.charges[0].money, evidence.charges[0].told) = (money, told)
    }

    #[test]
    fn what_was_paid_and_what_was_not_must_be_recorded_so() {
        let paid = |evidence: &mut Evidence| {
            money(Money::Repaid, true)(evidence);
            (evidence.rows[0].state, evidence.rows[0].paid_fen) = ("paid".to_owned(), Some(500));
            evidence.tally = [0, 1, 0, 1, 0, 0, 1];
        };
        assert_eq!(differences(paid), "");
        let too_little = |evidence: &mut Evidence| {
            paid(evidence);
            evidence.rows[0].paid_fen = Some(499);
        };
        assert!(differences(too_little).contains("1 orders of 5.00 yuan are paid by WeChat's book, but 1 of 4.99 yuan"));
        let forgotten = differences(money(Money::Unpaid, true));
        assert!(forgotten.contains("order X is unpaid by WeChat's book, and is recorded as accepted"), "{forgotten}");
    }

    #[test]
    fn what_was_not_told_yet_is_a_difference_unless_the_end_was_not_waited_for() {
        assert!(differences(money(Money::Paid, false)).contains("order X is paid by WeChat's book"));
        let cut_short = |evidence: &mut Evidence| {
            money(Money::Paid, false)(evidence);
            evidence.patience = Patience::CutShort;
        };
        assert_eq!(differences(cut_short), "");
    }

    #[test]
    fn a_second_code_is_not_too_soon_when_the_machine_was_too_slow_to_show_it_soon() {
        let slow = |answered_at: Duration| {
            differences(|evidence| {
                // Where somebody was late, nothing is sure.
                evidence.scans.pop();
                evidence.trace.pop();
                evidence.rows.pop();
                evidence.tally[6] = 0;
                let refreshed = scan("Port-in", 2, "r", Kind::Refreshed, Answer::Opened);
                let shown_at = Duration::from_millis(1);
                evidence.scans.insert(3, Scan { is_passed: false, shown_at, answered_at, ..refreshed });
                evidence.trace.push(edge("Port-in", "open", None));
                evidence.journeys.push(journey("taken-back"));
            })
        };
        assert!(slow(PASSENGER_INTERVAL / 2).contains("1 codes had to be refused as too-soon, and 0 were"));
        assert_eq!(slow(PASSENGER_INTERVAL), "");
    }

    #[test]
    fn each_kind_of_bug_is_named() {
        let lost_row = |evidence: &mut Evidence| drop(evidence.rows.remove(0));
        let double_order = |evidence: &mut Evidence| evidence.charges.push(charge("V", "x", "a"));
        let two_exits = |evidence: &mut Evidence| evidence.charges.push(charge("V", "b", "a"));
        let opening = |evidence: &mut Evidence| evidence.trace.push(edge("Port-in", "open", None));
        let unanswered = |evidence: &mut Evidence| drop(evidence.trace.remove(2));
        let wrong_amount = |evidence: &mut Evidence| evidence.charges[0].total_fen = 100;
        let wrong_fare = |evidence: &mut Evidence| (evidence.charges[0].total_fen, evidence.rows[0].total_fen) = (400, 400);
        let wrong_start = |evidence: &mut Evidence| evidence.charges[0].start_code = Some("b".to_owned());
        let not_charged = |evidence: &mut Evidence| evidence.charges.clear();
        let forgotten = |evidence: &mut Evidence| {
            evidence.rows.truncate(0);
            evidence.charges.clear();
        };
        let charged_void = |evidence: &mut Evidence| evidence.charges.push(charge("Z", "z", "c"));
        let opened_for_a_forgery = |evidence: &mut Evidence| {
            evidence.scans.push(scan("Park-out", 0, "f", Kind::Forged, Answer::Opened));
            evidence.trace.push(edge("Park-out", "open", None));
        };
        let wrong_tally = |evidence: &mut Evidence| evidence.tally[2] = 7;
        let lost_journey = |evidence: &mut Evidence| drop(evidence.journeys.pop());
        let unseen = |evidence: &mut Evidence| evidence.uninvited = 2;
        let free = |evidence: &mut Evidence| evidence.rows[2].reason = Some("free".to_owned());
        let spoils: [(Spoil<'_>, &str); 16] = [
            (&opened_for_a_forgery, "1 codes had to be refused as certificate-signature, and 0 were"),
            (&lost_row, "order X was charged, and the ledger has no such record"),
            (&double_order, "the ride from Port to Park, with code x, was charged 2 times"),
            (&two_exits, "the journey that began with code a was charged 2 times"),
            (&two_exits, "code b was charged, and who showed it owes nothing"),
            (&opening, "lane Port-in opened 4 times, for 3 records"),
            (&unanswered, "8 scans, but 5 opened + 1 refused + 1 repeats = 7"),
            (&wrong_amount, "order X was charged 100 fen, and 500 fen are recorded"),
            (&wrong_fare, "the ride from Port to Park costs 5.00 yuan, and code x was charged 4.00 yuan"),
            (&wrong_start, "the ride from Port to Park began with code a, and was charged with start code b"),
            (&not_charged, "order X is recorded as accepted, and was not charged"),
            (&forgotten, "the ride from Port to Park, 5.00 yuan with code x, was not charged"),
            (&charged_void, "order Z was charged, and is recorded as void"),
            (&wrong_tally, "lists 1 rows as accepted and counts 7"),
            (&lost_journey, "1 journeys must be open by what was seen, and the ledger lists 0"),
            (&unseen, "2 went through uninvited, and the turnstiles showed 1"),
        ];
        for (spoil, sentence) in spoils {
            let said = differences(spoil);
            assert!(said.contains(sentence), "no {sentence:?} in {said:?}");
        }
        assert!(differences(free).contains("0 deductions must be free by what was seen, and the ledger lists 1"));
    }
}
