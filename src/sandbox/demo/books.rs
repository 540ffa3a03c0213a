//! The books of a demo: what was seen from outside the gate against what the gate itself recorded. Pure.
//!
//! Outside is what was written to the readers, the trace of the turnstiles, and the charges of the sandbox; inside is the ledger's own
//! listing. Neither is made from the other, so a bug in the gate shows as a difference: a scan without an answer, an opening without
//! a record, a row that went, an order that was charged twice, under another amount, or not at all.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use super::{Scan, trace::Edge};
use crate::{
    ledger::{QueueRow, STATES},
    ride_code::Refusal,
    sandbox::{Charge, Money},
};

/// Everything that the books are made from.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What was written to the readers.
    pub scans: Vec<Scan>,
    /// What the turnstiles did.
    pub trace: Vec<Edge>,
    /// What the ledger lists.
    pub rows: Vec<QueueRow>,
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
    /// Deductions that the ledger lists.
    pub admitted: u64,
    /// Refusals that the turnstiles showed, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Codes that had to be refused: forged, out of time, damaged, or shown before.
    pub bad: u64,
    /// Codes that a reader read twice.
    pub repeats: u64,
    /// Openings in the trace.
    pub opened: u64,
    /// Deductions that were taken back because nothing opened.
    pub not_opened: u64,
    /// Deductions by state, in the order of [`STATES`].
    pub states: [u64; 7],
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
        let is_in_doubt = |charge: &&Charge| row_of(&orders, charge).is_some_and(|row| row.state == "pending");
        let mut books = Books {
            scans: count(self.scans.iter()),
            admitted: count(self.rows.iter()),
            refused: self.refusals(),
            bad: count(self.scans.iter().filter(|scan| scan.kind.refusal().is_some())),
            repeats: count(self.scans.iter().filter(|scan| scan.is_repeat())),
            opened: count(self.trace.iter().filter(|edge| edge.is_opening())),
            not_opened: count(self.rows.iter().filter(|row| never_opened(row))),
            states: STATES.map(|state| count(self.rows.iter().filter(|row| row.state == state))),
            settled: sum(self.rows.iter().filter(|row| is_settled(row)).map(|row| row.total_fen)),
            in_doubt: sum(self.charges.iter().filter(is_in_doubt).map(|charge| charge.total_fen)),
            charged: sum(self.charges.iter().map(|charge| charge.total_fen)),
            paid: sum(self.charges.iter().filter(|charge| is_paid(charge)).map(|charge| charge.total_fen)),
            unpaid: sum(self.charges.iter().filter(|charge| charge.money == Money::Unpaid).map(|charge| charge.total_fen)),
            recorded_paid: sum(self.rows_in("paid").map(|row| row.paid_fen.unwrap_or(0))),
            recorded_unpaid: sum(self.rows_in("unpaid").map(|row| row.total_fen)),
            not_told: count(self.charges.iter().filter(|charge| is_not_told(charge))),
            differences: Vec::new(),
        };
        let mut differences = books.differing_sums();
        differences.extend(self.differing_lanes());
        differences.extend(self.differing_tally(&books));
        differences.extend(self.differing_charges(&orders));
        differences.extend(self.differing_payments(&orders));
        differences.extend(self.differing_money(&books));
        differences.extend(self.differing_codes());
        differences.extend(self.differing_refusals(&books));
        books.differences = differences;
        books
    }

    /// What the deny lights showed. A scan that was admitted and came too late is no refusal: the ledger lists it.
    fn refusals(&self) -> BTreeMap<String, u64> {
        let mut refused = BTreeMap::new();
        let reasons = self.trace.iter().filter_map(Edge::refusal).filter(|reason| *reason != Refusal::Late.as_str());
        for reason in reasons {
            *refused.entry(reason.to_owned()).or_default() += 1;
        }
        refused
    }

    fn differing_lanes(&self) -> Vec<String> {
        let lanes: BTreeSet<_> = self.rows.iter().map(|row| &row.lane).chain(self.trace.iter().map(|edge| &edge.lane)).collect();
        let of_lane = |lane: &String| {
            let opened = count(self.trace.iter().filter(|edge| edge.lane == *lane && edge.is_opening()));
            let recorded = count(self.rows.iter().filter(|row| row.lane == *lane && !never_opened(row)));
            (opened != recorded).then(|| format!("lane {lane} opened {opened} times, for {recorded} records"))
        };
        lanes.into_iter().filter_map(of_lane).collect()
    }

    fn differing_tally(&self, books: &Books) -> Vec<String> {
        let counts = STATES.iter().zip(books.states).zip(self.tally);
        let differing = counts.filter(|((_, listed), counted)| listed != counted);
        differing
            .map(|((state, listed), counted)| format!("the ledger lists {listed} rows as {state} and counts {counted}"))
            .collect()
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
        for refusal in self.scans.iter().filter_map(|scan| scan.kind.refusal()) {
            *expected.entry(refusal.as_str()).or_default() += 1;
        }
        // What the history refuses depends on what came before having opened.
        let is_sure = |reason: &str| books.not_opened == 0 || !["duplicate", "too-soon"].contains(&reason);
        let refused = |reason: &str| books.refused.get(reason).copied().unwrap_or(0);
        expected
            .into_iter()
            .filter(|(reason, count)| is_sure(reason) && refused(reason) != *count)
            .map(|(reason, count)| format!("{count} codes had to be refused as {reason}, and {} were", refused(reason)))
            .collect()
    }

    /// One code, one order; and no code that nobody showed.
    fn differing_codes(&self) -> Vec<String> {
        let shown: BTreeSet<_> = self.scans.iter().map(|scan| scan.code.as_str()).collect();
        let mut charged: BTreeMap<&str, u64> = BTreeMap::new();
        for charge in &self.charges {
            *charged.entry(&charge.code).or_default() += 1;
        }
        let of_code = |(code, times): (&str, u64)| match times {
            _ if !shown.contains(code) => Some(format!("code {code} was charged, and nobody showed it")),
            1 => None,
            _ => Some(format!("code {code} was charged {times} times, under different orders")),
        };
        charged.into_iter().filter_map(of_code).collect()
    }
}

impl Books {
    fn differing_sums(&self) -> Vec<String> {
        let Self { scans, admitted, repeats, opened, not_opened, settled, in_doubt, charged, .. } = self;
        let refused: u64 = self.refused.values().sum();
        let answered = admitted + refused + repeats;
        let taken = admitted.saturating_sub(*not_opened);
        let known = Sum { count: settled.count + in_doubt.count, fen: settled.fen + in_doubt.fen };
        let mut differences = Vec::new();
        if *scans != answered {
            differences
                .push(format!("{scans} scans, but {admitted} admitted + {refused} refused + {repeats} repeats = {answered}"));
        }
        if *opened != taken {
            differences.push(format!("{opened} openings, but {admitted} admitted - {not_opened} late or not opened = {taken}"));
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

    fn fate_of_bad(&self) -> &'static str {
        if self.differences.is_empty() { "every one refused, by the reason that is its own" } else { "see the differences" }
    }

    fn refused_by_reason(&self) -> String {
        self.refused.iter().map(|(reason, count)| format!("{reason} {count}")).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused: u64 = self.refused.values().sum();
        let states: Vec<_> = STATES.iter().zip(self.states).map(|(state, count)| format!("{state} {count}")).collect();
        writeln!(f, "The books: what was seen from outside, against the ledger's own listing")?;
        row(f, "codes shown to the readers", self.scans, "")?;
        row(f, "  = admitted", self.admitted, "")?;
        row(f, "  + refused", refused, &self.refused_by_reason())?;
        row(f, "  + read twice by the reader", self.repeats, "")?;
        row(f, "codes that must not open", self.bad, self.fate_of_bad())?;
        row(f, "admitted", self.admitted, "")?;
        row(f, "  = opened", self.opened, "")?;
        row(f, "  + late or not opened", self.not_opened, "")?;
        row(f, "recorded", self.states.iter().sum(), "")?;
        writeln!(f, "  = {}", states.join(" + "))?;
        row(f, "accepted, paid or unpaid", self.settled.count, &yuan(self.settled.fen))?;
        if self.in_doubt.count > 0 {
            row(f, "  + charged, answer not known yet", self.in_doubt.count, &yuan(self.in_doubt.fen))?;
        }
        row(f, "  = charged by WeChat (sandbox)", self.charged.count, &yuan(self.charged.fen))?;
        row(f, "recorded as paid", self.recorded_paid.count, &yuan(self.recorded_paid.fen))?;
        row(f, "  = paid by WeChat's book", self.paid.count, &yuan(self.paid.fen))?;
        row(f, "recorded as unpaid", self.recorded_unpaid.count, &yuan(self.recorded_unpaid.fen))?;
        row(f, "  = without money at WeChat", self.unpaid.count, &yuan(self.unpaid.fen))?;
        if self.differences.is_empty() {
            return writeln!(
                f,
                "They balance: every opening is recorded, every record is explained, every fen is charged once and paid or owed."
            );
        }
        writeln!(f, "THEY DO NOT BALANCE:")?;
        self.differences.iter().try_for_each(|difference| writeln!(f, "  ! {difference}"))
    }
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
mod tests {
    use serde_json::{from_value, json};

    use super::*;
    use crate::sandbox::demo::Kind;

    type Spoil<'a> = &'a dyn Fn(&mut Evidence);

    fn scan(code: &str, kind: Kind) -> Scan {
        Scan { lane: "left".to_owned(), kind, code: code.to_owned() }
    }

    fn edge(line: &str, reason: Option<&str>) -> Edge {
        Edge { lane: "left".to_owned(), line: line.to_owned(), level: 1, reason: reason.map(str::to_owned) }
    }

    fn row(order: &str, state: &str, reason: Option<&str>) -> QueueRow {
        from_value(json!({
            "order": order, "state": state, "kind": "single", "reason": reason, "flags": [], "gate": "G", "lane": "left",
            "passenger": "", "original_fen": 200, "total_fen": 200, "paid_fen": null, "start_time": "", "end_time": null,
            "has_start_code": false, "attempts": 1, "last_error": null, "created_at": "", "accepted_at": null, "settled_at": null,
            "transaction_id": null,
        }))
        .unwrap()
    }

    fn charge(order: &str, code: &str) -> Charge {
        crate::sandbox::book::tests::charge(order, code, 200)
    }

    /// Three admitted, of which one came too late; one refused, one read twice.
    fn evidence() -> Evidence {
        Evidence {
            scans: vec![
                scan("a", Kind::Fresh),
                scan("a", Kind::Repeat),
                scan("b", Kind::Fresh),
                scan("b", Kind::Screenshot),
                scan("c", Kind::Fresh),
            ],
            trace: vec![
                edge("open", None),
                edge("open", None),
                edge("light_deny", Some("duplicate")),
                edge("light_deny", Some("late")),
            ],
            rows: vec![row("A", "accepted", None), row("B", "pending", None), row("C", "void", Some("late"))],
            tally: [0, 1, 1, 0, 0, 0, 1],
            charges: vec![charge("A", "a")],
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
        assert_eq!((books.scans, books.admitted, books.repeats, books.opened, books.not_opened), (5, 3, 1, 2, 1));
        assert!(books.to_string().contains("They balance"), "{books}");
    }

    #[test]
    fn a_charge_whose_answer_was_lost_is_in_doubt_and_no_difference() {
        let mut evidence = evidence();
        evidence.charges.push(charge("B", "b"));
        let books = evidence.books();
        assert_eq!((books.differences.len(), books.in_doubt), (0, Sum { count: 1, fen: 200 }), "{books}");
    }

    /// The charge of order A, with what became of it.
    fn money(money: Money, told: bool) -> impl FnOnce(&mut Evidence) {
        move |evidence| (evidence.charges[0].money, evidence.charges[0].told) = (money, told)
    }

    #[test]
    fn what_was_paid_and_what_was_not_must_be_recorded_so() {
        let paid = |evidence: &mut Evidence| {
            money(Money::Repaid, true)(evidence);
            (evidence.rows[0].state, evidence.rows[0].paid_fen) = ("paid".to_owned(), Some(200));
            evidence.tally = [0, 1, 0, 1, 0, 0, 1];
        };
        assert_eq!(differences(paid), "");
        let too_little = |evidence: &mut Evidence| {
            paid(evidence);
            evidence.rows[0].paid_fen = Some(199);
        };
        assert!(differences(too_little).contains("1 orders of 2.00 yuan are paid by WeChat's book, but 1 of 1.99 yuan"));
        let forgotten = differences(money(Money::Unpaid, true));
        assert!(forgotten.contains("order A is unpaid by WeChat's book, and is recorded as accepted"), "{forgotten}");
    }

    #[test]
    fn what_was_not_told_yet_is_a_difference_unless_the_end_was_not_waited_for() {
        assert!(differences(money(Money::Paid, false)).contains("order A is paid by WeChat's book"));
        let cut_short = |evidence: &mut Evidence| {
            money(Money::Paid, false)(evidence);
            evidence.patience = Patience::CutShort;
        };
        assert_eq!(differences(cut_short), "");
    }

    #[test]
    fn each_kind_of_bug_is_named() {
        let lost_row = |evidence: &mut Evidence| drop(evidence.rows.remove(0));
        let double_order = |evidence: &mut Evidence| evidence.charges.push(charge("Z", "a"));
        let opening = |evidence: &mut Evidence| evidence.trace.push(edge("open", None));
        let unanswered = |evidence: &mut Evidence| drop(evidence.trace.remove(2));
        let wrong_amount = |evidence: &mut Evidence| evidence.charges[0].total_fen = 100;
        let not_charged = |evidence: &mut Evidence| evidence.charges.clear();
        let charged_void = |evidence: &mut Evidence| evidence.charges.push(charge("C", "c"));
        let opened_for_a_forgery = |evidence: &mut Evidence| {
            evidence.scans.push(scan("f", Kind::Forged));
            evidence.trace.push(edge("open", None));
            evidence.rows.push(row("F", "accepted", None));
            evidence.tally[2] += 1;
            evidence.charges.push(charge("F", "f"));
        };
        let wrong_tally = |evidence: &mut Evidence| evidence.tally[2] = 7;
        let spoils: [(Spoil<'_>, &str); 9] = [
            (&opened_for_a_forgery, "1 codes had to be refused as certificate-signature, and 0 were"),
            (&lost_row, "order A was charged, and the ledger has no such record"),
            (&double_order, "code a was charged 2 times"),
            (&opening, "lane left opened 3 times, for 2 records"),
            (&unanswered, "5 scans, but 3 admitted + 0 refused + 1 repeats = 4"),
            (&wrong_amount, "order A was charged 100 fen, and 200 fen are recorded"),
            (&not_charged, "order A is recorded as accepted, and was not charged"),
            (&charged_void, "order C was charged, and is recorded as void"),
            (&wrong_tally, "lists 1 rows as accepted and counts 7"),
        ];
        for (spoil, sentence) in spoils {
            let said = differences(spoil);
            assert!(said.contains(sentence), "no {sentence:?} in {said:?}");
        }
    }
}
