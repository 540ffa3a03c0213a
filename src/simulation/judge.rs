//! Compares, when everything has come to its end, what was seen at the gate, what WeChat has charged, and what the ledger says.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use data_encoding::BASE64;
use rusqlite::{Connection, Row};

use super::{
    wechat::{Charge, Money},
    world::{Passage, Shown, Shows, World},
};
use crate::{ledger, ride_code::CodeDigest, wechat::is_request_of};

/// What is said of records whose turnstile did not open.
const UNOPENED: [&str; 2] = ["late", "not-opened"];

/// A sensor that was silent for fewer openings is not doubted.
const SURELY_TRUSTED: usize = 10;

/// What was seen, and what people have decided.
pub(super) struct Evidence<'a> {
    pub(super) world: &'a World,
    pub(super) book: &'a BTreeMap<String, Charge>,
    /// Orders that a person made void because nothing was sent of them.
    pub(super) voided: &'a BTreeSet<String>,
    pub(super) ledger: &'a Path,
    /// Which lanes charge nobody who does not pass.
    pub(super) voids_unpassed: &'a [bool],
}

#[derive(Debug)]
struct Deduction {
    order: String,
    state: String,
    kind: String,
    reason: String,
    total_fen: i64,
    paid_fen: Option<i64>,
    digest: Vec<u8>,
    journey: Option<i64>,
}

#[derive(Debug)]
struct Journey {
    id: i64,
    state: String,
    opening: String,
    digest: Vec<u8>,
}

struct Books {
    deductions: Vec<Deduction>,
    journeys: Vec<Journey>,
    /// Codes that opened once more for a deduction.
    again: BTreeSet<Vec<u8>>,
}

impl Evidence<'_> {
    pub(super) fn judge(&self) {
        let report = ledger::fsck(self.ledger, is_request_of).unwrap();
        if !report.broken.is_empty() || !report.damage.is_empty() {
            self.world.is_wrong(format_args!("fsck: {:?} {:?}", report.broken, report.damage));
        }
        let books = Books::read(self.ledger);
        self.compare_with_wechat(&books);
        books.deductions.iter().for_each(|row| self.is_settled(row));
        let mut by_code: BTreeMap<Vec<u8>, Vec<Shows>> = BTreeMap::new();
        for shows in self.world.shows() {
            by_code.entry(shows.code.clone()).or_default().push(shows);
        }
        for (code, shows) in by_code {
            self.is_explained(&books, &code, &shows);
        }
        if !self.world.wrong().is_empty() {
            books.deductions.iter().for_each(|row| self.world.tell(format_args!("{row:?}")));
            books.journeys.iter().for_each(|row| self.world.tell(format_args!("{row:?}")));
        }
    }

    /// WeChat's charges are the ledger's, of the same amount, and end as WeChat told.
    fn compare_with_wechat(&self, books: &Books) {
        for (order, charge) in self.book {
            let Some(row) = books.deductions.iter().find(|row| row.order == *order) else {
                self.world.is_wrong(format_args!("WeChat charges order {order}, which is not in the ledger"));
                continue;
            };
            let wanted = match charge.money {
                Money::NotTold => "accepted",
                Money::Paid => "paid",
                Money::Unpaid => "unpaid",
            };
            let is_paid_right = charge.money != Money::Paid || row.paid_fen == Some(charge.fen);
            if row.state != wanted || row.total_fen != charge.fen || !is_paid_right {
                self.world.is_wrong(format_args!("WeChat has {charge:?}, the ledger {row:?}"));
            }
            if !books.names_codes_of(row, charge) {
                self.world.is_wrong(format_args!("WeChat was sent the codes of other taps: {charge:?}, {row:?}"));
            }
            if self.voided.contains(order) {
                self.world.is_wrong(format_args!("order {order} was made void as never sent, and is charged"));
            }
        }
    }

    /// Nothing waits any more but for a person.
    fn is_settled(&self, row: &Deduction) {
        let is_charged = ["accepted", "paid", "unpaid"].contains(&row.state.as_str());
        let waits_for_person = ["held", "parked"].contains(&row.state.as_str()) && row.reason == "unmatched";
        if is_charged && !self.book.contains_key(&row.order) {
            self.world.is_wrong(format_args!("the ledger calls charged what WeChat has not: {row:?}"));
        }
        if !is_charged && row.state != "void" && !waits_for_person {
            self.world.is_wrong(format_args!("in the end this still waits: {row:?}"));
        }
    }

    /// What became of a code follows from what was seen of it.
    fn is_explained(&self, books: &Books, code: &[u8], shows: &[Shows]) {
        let name = String::from_utf8_lossy(code).into_owned();
        let digest = CodeDigest::of(code).0.to_vec();
        let has_opened = |shows: &&Shows| shows.shown == Some(Shown::Opened);
        if !shows.iter().any(|shows| matches!(shows.shown, Some(Shown::Opened | Shown::Unclear))) {
            let charged = books.deductions.iter().find(|row| row.digest == digest && row.state != "void");
            if let Some(row) = charged {
                self.world.is_wrong(format_args!("{name} did not open, and there is {row:?}"));
            }
            return;
        }
        let Some(opened) = shows.iter().find(has_opened) else { return };
        // What was taken back before is not what opened.
        let has_opened_for = |row: &&Deduction| {
            let is_exits_own = row.journey.is_none_or(|id| !books.begins(id, &digest));
            row.digest == digest && is_exits_own && !(row.state == "void" && UNOPENED.contains(&row.reason.as_str()))
        };
        let row = books.deductions.iter().rev().find(has_opened_for);
        let journey =
            books.journeys.iter().rev().find(|journey| journey.digest == digest && !UNOPENED.contains(&journey.opening.as_str()));
        let must_pay =
            shows.iter().any(|shows| has_opened(&shows) && (shows.passage == Passage::Seen || !self.world.has_sensor(shows.lane)));
        if self.must_not_pay(shows) {
            self.costs_nothing(&name, row, journey);
        }
        match (row, journey) {
            (Some(row), _) if must_pay => self.is_paid_for(&name, row),
            (None, Some(journey)) if must_pay => self.has_ended(&name, journey, books),
            (None, None) if !books.again.contains(&digest) => {
                self.world.is_wrong(format_args!("{name} opened lane {} and is nowhere in the books", opened.lane));
            }
            _ => {}
        }
    }

    /// Whether everybody to whom this code opened was surely seen not to pass, where that means that nothing is charged.
    fn must_not_pay(&self, shows: &[Shows]) -> bool {
        let is_unpassed = |shows: &Shows| shows.shown == Some(Shown::Opened) && shows.passage == Passage::None;
        let is_trusted = |lane: usize| {
            let unpassed = self.world.shows().iter().filter(|shows| shows.lane == lane && shows.passage != Passage::Seen).count();
            unpassed < SURELY_TRUSTED
        };
        shows.iter().all(|shows| is_unpassed(shows) && self.voids_unpassed[shows.lane] && is_trusted(shows.lane))
    }

    /// An exit may have been passed by another opening for it, or be known from a later entry.
    fn costs_nothing(&self, name: &str, row: Option<&Deduction>, journey: Option<&Journey>) {
        let single = row.filter(|row| row.kind == "single" && row.state != "void");
        let begun = journey.filter(|journey| row.is_none() && !["taken-back", "exited"].contains(&journey.state.as_str()));
        if single.is_some() || begun.is_some() {
            self.world.is_wrong(format_args!("{name} opened and nobody passed, and there is {single:?} {begun:?}"));
        }
    }

    fn is_paid_for(&self, name: &str, row: &Deduction) {
        let is_free = row.state == "void" && (row.total_fen == 0 || ["free", "already-charged"].contains(&row.reason.as_str()));
        let is_void_by_person = self.voided.contains(&row.order);
        if row.state == "void" && !is_free && !is_void_by_person {
            self.world.is_wrong(format_args!("{name} opened and its passenger passed, and nothing is charged: {row:?}"));
        }
    }

    /// A charge, or a reason why not that is none of the gate's doing.
    fn is_accounted_for(&self, row: &Deduction) -> bool {
        let is_void_by_rule = ["unfinished", "free", "already-charged"].contains(&row.reason.as_str());
        row.state != "void" || is_void_by_rule || self.voided.contains(&row.order)
    }

    fn has_ended(&self, name: &str, journey: &Journey, books: &Books) {
        let mut rows = books.deductions.iter().filter(|row| row.journey == Some(journey.id));
        let is_explained = match journey.state.as_str() {
            "exited" => rows.any(|row| row.kind != "unfinished-entry"),
            "unfinished" => rows.any(|row| row.kind == "unfinished-entry" && self.is_accounted_for(row)),
            "replaced" => true,
            _ => false,
        };
        if !is_explained {
            let rows: Vec<_> = books.deductions.iter().filter(|row| row.journey == Some(journey.id)).collect();
            self.world.is_wrong(format_args!("{name} began {journey:?}, which ends with {rows:?}"));
        }
    }
}

impl Books {
    fn read(path: &Path) -> Self {
        let ledger = Connection::open(path).unwrap();
        let deductions = rows(
            &ledger,
            "SELECT order_number, state, kind, coalesce(reason, ''), total_fen, paid_fen, code_digest, journey FROM deduction ORDER BY id",
            |row| {
                Ok(Deduction {
                    order: row.get(0)?,
                    state: row.get(1)?,
                    kind: row.get(2)?,
                    reason: row.get(3)?,
                    total_fen: row.get(4)?,
                    paid_fen: row.get(5)?,
                    digest: row.get(6)?,
                    journey: row.get(7)?,
                })
            },
        );
        let journeys = rows(&ledger, "SELECT id, state, opening, code_digest FROM journey ORDER BY id", |row| {
            Ok(Journey { id: row.get(0)?, state: row.get(1)?, opening: row.get(2)?, digest: row.get(3)? })
        });
        let again = rows(&ledger, "SELECT code_digest FROM seen WHERE deduction IS NOT NULL", |row| row.get(0));
        Self { deductions, journeys, again: again.into_iter().collect() }
    }

    /// Whether WeChat was sent the codes of this row's own taps: an exit's together with that of its entry.
    fn names_codes_of(&self, row: &Deduction, charge: &Charge) -> bool {
        let digest = |code: &String| CodeDigest::of(&BASE64.decode(code.as_bytes()).unwrap()).0.to_vec();
        let entry = self.journeys.iter().find(|journey| row.kind == "exit" && Some(journey.id) == row.journey);
        digest(&charge.code) == row.digest && charge.start_code.as_ref().map(digest) == entry.map(|journey| journey.digest.clone())
    }

    /// Whether the journey began with this code: its deduction then carries the code of its entry.
    fn begins(&self, id: i64, digest: &[u8]) -> bool {
        self.journeys.iter().any(|journey| journey.id == id && journey.digest == digest)
    }
}

fn rows<T>(ledger: &Connection, sql: &str, read: impl Fn(&Row<'_>) -> rusqlite::Result<T>) -> Vec<T> {
    ledger.prepare(sql).unwrap().query_map([], read).unwrap().collect::<Result<_, _>>().unwrap()
}
