//! Journeys on real files: random taps, passages, sweeps, restarts, reboots and clocks that jump, against a naive model of what the
//! operator was promised; and the cases that an operator asks about, one by one.

use std::{cell::RefCell, sync::Arc};

use proptest::{prelude::*, test_runner::TestCaseError};

use super::*;
use crate::{
    config::{FareTable, NoPassage},
    journey::{SameStation, Tariff},
    ledger::{
        store::{BootName, Context, IfMissing, LastRun, Store},
        types::Passage,
    },
};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const MAX_JOURNEY_MS: i64 = 4 * HOUR_MS;
const MAX_FEN: i64 = 1_000;
const FARES: &str = "S1,S2,300\nS1,S3,400\nS2,S2,0\n";
/// 2026-11-26T00:00:00Z
const NOW_UTC_MS: i64 = 1_795_651_200_000;

// ---- the ledger at work --------------------------------------------------------------------------------------------------------

/// A ledger file that is judged by an injected clock.
struct Gate {
    _folder: TempDir,
    path: PathBuf,
    store: Option<Store>,
    context: Context,
    now: Stamp,
    boot: u32,
    codes: u32,
}

/// What the request of a deduction was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    code: String,
    start_code: Option<String>,
    start_utc_ms: i64,
    end_utc_ms: Option<i64>,
}

/// A deduction as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    kind: String,
    state: String,
    reason: Option<String>,
    original_fen: i64,
    total_fen: i64,
    is_unknown_pair: bool,
    start_utc_ms: i64,
    end_utc_ms: Option<i64>,
    request: Option<Request>,
}

fn body(bill: &Bill<'_>) -> Vec<u8> {
    let text = |code: &[u8]| String::from_utf8(code.to_vec()).unwrap();
    let start = bill.start_code.map(text).unwrap_or_default();
    format!("{}|{start}|{}|{}", text(bill.code), bill.start_utc_ms, bill.end_utc_ms.map_or(String::new(), |end| end.to_string()))
        .into_bytes()
}

fn request(body: &[u8]) -> Request {
    let text = String::from_utf8(body.to_vec()).unwrap();
    let parts: Vec<_> = text.split('|').collect();
    Request {
        code: parts[0].to_owned(),
        start_code: Some(parts[1].to_owned()).filter(|code| !code.is_empty()),
        start_utc_ms: parts[2].parse().unwrap(),
        end_utc_ms: parts[3].parse().ok(),
    }
}

fn rules(holes: Holes) -> Rules {
    Rules {
        windows: Windows { duplicate_ms: 5 * MINUTE_MS, passenger_interval_ms: 5_000 },
        tariff: Tariff {
            flat: Fen(200),
            max: Fen(MAX_FEN),
            discount_percent: 85,
            same_station: Some(SameStation { within_ms: 15 * MINUTE_MS, fare: Fen(0) }),
            table: Some(Arc::new(FareTable::parse(FARES, Path::new("fares.csv")).unwrap())),
        },
        holes,
        exposure: None,
    }
}

impl Gate {
    fn new(holes: Holes) -> Self {
        // In memory where that can be had: what is promised of disks is tested elsewhere.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let context = Context {
            rules: rules(holes),
            gate: "T1".to_owned(),
            line: "2".to_owned(),
            unpaid: Unpaid::Admits,
            body_maker: Arc::new(Box::new(|bill: &Bill<'_>| body(bill)) as BodyMaker),
        };
        let now = Stamp { utc_ms: NOW_UTC_MS, boottime_ms: 10 * HOUR_MS, synchronized: true };
        let path = folder.path().join("ledger.db");
        let mut gate = Self { _folder: folder, path, store: None, context, now, boot: 0, codes: 0 };
        gate.open();
        gate
    }

    fn open(&mut self) {
        self.store = None;
        let boot = BootName { id: format!("boot {}", self.boot), is_machines: true };
        let mut store = Store::open(&self.path, &boot, IfMissing::Create, LastRun::MayHaveCrashed).unwrap();
        let at_utc_ms = self.now.utc_ms;
        store.transact(|store| store.settle_unseen_passages(at_utc_ms)).unwrap();
        store.transact(|store| store.settle_unconfirmed(at_utc_ms)).unwrap();
        self.store = Some(store);
    }

    fn write<T>(&mut self, work: impl FnOnce(&Store, &Context, &Stamp) -> rusqlite::Result<T>) -> T {
        let (context, now) = (&self.context, &self.now);
        self.store.as_mut().unwrap().transact(|store| work(store, context, now)).unwrap()
    }

    fn code(&mut self, passenger: u8) -> String {
        self.codes += 1;
        format!("p{passenger}-{}", self.codes)
    }

    fn tap(&mut self, lane: &Lane, passenger: u8, code: &str) -> Admission {
        let tap = Tap {
            lane: lane.name.into(),
            station: lane.station.into(),
            mode: lane.mode,
            awaits_passage: lane.has_sensor,
            code: VerifiedCode::opaque(code.as_bytes().to_vec(), PassengerId::new(&[passenger], "0042")),
            scanned: self.now,
        };
        self.write(|store, context, _| store.admit(&tap, context)).0
    }

    fn opened(&mut self, record: RecordId) {
        self.write(|store, _, now| store.opened(&Opened { record, at_utc_ms: now.utc_ms, detail: String::new() }));
    }

    fn passage(&mut self, record: RecordId, outcome: PassageOutcome) {
        self.write(|store, _, now| store.passage(&Passage { record, outcome, at_utc_ms: now.utc_ms }));
    }

    fn sweep(&mut self) {
        self.write(|store, context, now| {
            let hold_ms = context.rules.holes.max_journey_ms;
            for id in store.overdue_journeys(0, context, now)?.due {
                store.sweep(id, context, now)?;
            }
            store.unmatched_over(0, hold_ms, now)?.due.into_iter().try_for_each(|id| store.park_unmatched(id, now.utc_ms))
        });
    }

    fn deductions(&self) -> Vec<Seen> {
        let shell = Connection::open(&self.path).unwrap();
        let mut statement = shell.prepare("SELECT * FROM deduction ORDER BY id").unwrap();
        let rows = statement.query_map([], |row| {
            let body: Option<Vec<u8>> = row.get("body")?;
            Ok(Seen {
                kind: row.get("kind")?,
                state: row.get("state")?,
                reason: row.get("reason")?,
                original_fen: row.get("original_fen")?,
                total_fen: row.get("total_fen")?,
                is_unknown_pair: row.get::<_, String>("flags")?.contains("unknown-pair"),
                start_utc_ms: row.get("start_utc_ms")?,
                end_utc_ms: row.get("end_utc_ms")?,
                request: body.map(|body| request(&body)),
            })
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    fn journeys(&self) -> Vec<String> {
        let shell = Connection::open(&self.path).unwrap();
        let mut statement = shell.prepare("SELECT state FROM journey ORDER BY id").unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    fn later(&mut self, ms: i64) {
        self.now.utc_ms += ms;
        self.now.boottime_ms += ms;
    }

    /// The machine is started again; its clock as it is, or in 1970 and unsynchronized until it is told.
    fn reboot(&mut self, clock: Clock, off_ms: i64) {
        self.later(off_ms);
        self.boot += 1;
        self.now.boottime_ms = 20_000;
        self.set_clock(clock);
        self.open();
    }

    fn set_clock(&mut self, clock: Clock) {
        self.now.synchronized = clock == Clock::Right;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    Right,
    Unsynchronized,
}

#[derive(Debug, Clone, Copy)]
struct Lane {
    name: &'static str,
    station: &'static str,
    mode: Mode,
    has_sensor: bool,
}

const LANES: [Lane; 6] = [
    Lane { name: "in1", station: "S1", mode: Mode::Entry, has_sensor: false },
    Lane { name: "in2", station: "S2", mode: Mode::Entry, has_sensor: true },
    Lane { name: "out1", station: "S1", mode: Mode::Exit, has_sensor: true },
    Lane { name: "out2", station: "S2", mode: Mode::Exit, has_sensor: false },
    Lane { name: "out3", station: "S3", mode: Mode::Exit, has_sensor: true },
    Lane { name: "both", station: "S1", mode: Mode::Both, has_sensor: false },
];

// ---- the naive model -----------------------------------------------------------------------------------------------------------

/// When something happened, so that the model can tell how long ago it was, and whether that is sure.
#[derive(Debug, Clone, Copy)]
struct Moment {
    at: Stamp,
    boot: u32,
}

#[derive(Debug, Clone)]
struct Trip {
    passenger: u8,
    station: &'static str,
    code: String,
    entered: Moment,
    state: &'static str,
    was_unfinished: bool,
    /// Nobody has passed the entry yet.
    waits: bool,
    /// Nobody has passed the entry in time.
    is_unpassed: bool,
    /// The trip that ended with this one's entry.
    ended: Option<usize>,
    /// The exit.
    left_by: Option<usize>,
}

#[derive(Debug, Clone)]
struct Due {
    seen: Seen,
    passenger: u8,
    trip: Option<usize>,
    recorded: Moment,
    /// While it waits for a passage: what follows.
    then: Option<&'static str>,
    /// Openings that nobody has passed yet.
    awaits: u32,
}

struct Model {
    holes: Holes,
    trips: Vec<Trip>,
    dues: Vec<Due>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Trip(usize),
    Due(usize),
    /// One more opening for a due.
    Again(usize),
    Nothing,
}

/// Before the discount, after it, and whether the table lacks the pair.
type Price = (i64, i64, bool);
const MOST: Price = (MAX_FEN, MAX_FEN, false);

impl Model {
    /// How long ago, and whether that is sure.
    fn age(moment: Moment, now: Moment) -> (i64, bool) {
        if moment.boot == now.boot {
            (now.at.boottime_ms - moment.at.boottime_ms, true)
        } else {
            (now.at.utc_ms - moment.at.utc_ms, moment.at.synchronized && now.at.synchronized)
        }
    }

    fn is_over(moment: Moment, now: Moment, limit_ms: i64) -> bool {
        let (ms, is_sure) = Self::age(moment, now);
        // What another boot left is at least as old as this one, once the clock is right.
        let is_older_than_boot = moment.boot != now.boot && now.at.synchronized && now.at.boottime_ms > limit_ms;
        is_older_than_boot || (is_sure && ms > limit_ms)
    }

    /// When a trip began, as well as it is known now.
    fn began(&self, trip: usize, now: Moment) -> i64 {
        let entered = self.trips[trip].entered;
        let is_known_better = entered.boot == now.boot && now.at.synchronized && !entered.at.synchronized;
        if is_known_better { now.at.utc_ms - (now.at.boottime_ms - entered.at.boottime_ms) } else { entered.at.utc_ms }
    }

    fn has_charge(&self, trip: usize) -> bool {
        self.dues.iter().any(|due| due.trip == Some(trip) && due.seen.state != "void")
    }

    fn due(&mut self, kind: &str, whose: (u8, Option<usize>), code: &str, price: Price, fate: (&str, Option<&str>), now: Moment) {
        let (passenger, trip) = whose;
        let began = trip.map_or(now.at.utc_ms, |trip| self.began(trip, now));
        let (start_utc_ms, end_utc_ms) = match kind {
            "exit" => (began, Some(now.at.utc_ms)),
            "unmatched-exit" => (now.at.utc_ms, Some(now.at.utc_ms)),
            _ => (began, None),
        };
        let start_code = trip.filter(|_| kind == "exit").map(|trip| self.trips[trip].code.clone());
        let (state, reason) = fate;
        let request = (state != "void").then(|| Request { code: code.to_owned(), start_code, start_utc_ms, end_utc_ms });
        let seen = Seen {
            kind: kind.to_owned(),
            state: state.to_owned(),
            reason: reason.map(ToOwned::to_owned),
            original_fen: price.0,
            total_fen: price.1,
            is_unknown_pair: price.2,
            start_utc_ms,
            end_utc_ms,
            request,
        };
        self.dues.push(Due { seen, passenger, trip, recorded: now, then: None, awaits: 0 });
    }

    /// The last due waits for a passage before what it would be.
    fn hold_last(&mut self) {
        let due = self.dues.last_mut().unwrap();
        due.then = match due.seen.state.as_str() {
            "void" => None,
            "held" => Some("held"),
            _ => Some("pending"),
        };
        if due.then.is_some() {
            due.seen.state = "held".to_owned();
        }
    }

    /// An entry that will have no exit.
    fn give_up(&mut self, trip: usize, now: Moment) {
        let fate = match self.holes.unfinished_entry {
            _ if self.has_charge(trip) => ("void", Some("already-charged")),
            UnfinishedEntry::Void => ("void", Some("unfinished")),
            UnfinishedEntry::ChargeMax => ("pending", None),
        };
        let Trip { code, passenger, .. } = self.trips[trip].clone();
        self.due("unfinished-entry", (passenger, Some(trip)), &code, MOST, fate, now);
        self.trips[trip].state = "unfinished";
        self.trips[trip].was_unfinished = true;
    }

    fn sweep(&mut self, now: Moment) {
        for trip in 0..self.trips.len() {
            let Trip { state, entered, waits, .. } = self.trips[trip];
            if state == "open" && !waits && Self::is_over(entered, now, MAX_JOURNEY_MS) {
                self.give_up(trip, now);
            }
        }
        for due in &mut self.dues {
            let is_held = due.seen.state == "held" && due.then.is_none();
            if is_held && Self::is_over(due.recorded, now, MAX_JOURNEY_MS) {
                due.seen.state = "parked".to_owned();
            }
        }
    }

    /// The passenger's last trip that a tap may have to do with, and the due by which he is leaving it.
    fn last_trip(&self, passenger: u8) -> Option<(usize, Option<usize>)> {
        let trips = self.trips.iter().enumerate().filter(|(_, trip)| trip.passenger == passenger);
        let (trip, found) = trips.rev().find(|(_, trip)| trip.state != "taken-back")?;
        let leaving = found.left_by.filter(|due| found.state == "exited" && self.dues[*due].awaits > 0);
        (leaving.is_some() || matches!(found.state, "open" | "unfinished")).then_some((trip, leaving))
    }

    fn tap(&mut self, lane: &Lane, passenger: u8, code: &str, now: Moment) -> Made {
        let last = self.last_trip(passenger);
        let can_be_left = |(trip, leaving): (usize, Option<usize>)| {
            leaving.is_some() || !Self::is_over(self.trips[trip].entered, now, 2 * MAX_JOURNEY_MS - 1)
        };
        let is_exit = lane.mode == Mode::Exit || (lane.mode == Mode::Both && last.is_some_and(can_be_left));
        if is_exit { self.exit(lane, passenger, last, code, now) } else { self.enter(lane, passenger, last, code, now) }
    }

    fn enter(&mut self, lane: &Lane, passenger: u8, last: Option<(usize, Option<usize>)>, code: &str, now: Moment) -> Made {
        let ended = last.filter(|(trip, leaving)| leaving.is_some() || self.trips[*trip].state == "open");
        match ended {
            // Whoever enters has left before, though nobody saw it.
            Some((_, Some(due))) => self.passed(Made::Due(due)),
            Some((trip, None)) => {
                let Trip { station, entered, .. } = self.trips[trip];
                let is_recent = !Self::is_over(entered, now, self.holes.reentry_within_ms);
                if station == lane.station && is_recent && !Self::is_over(entered, now, MAX_JOURNEY_MS) {
                    self.trips[trip].state = "replaced";
                } else {
                    self.give_up(trip, now);
                    if lane.has_sensor || self.trips[trip].waits {
                        self.hold_last();
                    }
                }
            }
            None => {}
        }
        let (station, code, ended) = (lane.station, code.to_owned(), ended.map(|(trip, _)| trip));
        let trip = Trip {
            passenger,
            station,
            code,
            entered: now,
            state: "open",
            was_unfinished: false,
            waits: lane.has_sensor,
            is_unpassed: false,
            ended,
            left_by: None,
        };
        self.trips.push(trip);
        Made::Trip(self.trips.len() - 1)
    }

    fn exit(&mut self, lane: &Lane, passenger: u8, last: Option<(usize, Option<usize>)>, code: &str, now: Moment) -> Made {
        if last.is_some_and(|(trip, _)| self.trips[trip].code == code) {
            return Made::Nothing;
        }
        let open = |model: &Self, trip: usize| model.trips[trip].state == "open";
        match last {
            Some((_, Some(leaving))) => {
                self.dues[leaving].awaits += 1;
                return Made::Again(leaving);
            }
            Some((trip, None)) if open(self, trip) && !Self::is_over(self.trips[trip].entered, now, MAX_JOURNEY_MS) => {
                let price =
                    fare(self.trips[trip].station, lane.station, Self::is_over(self.trips[trip].entered, now, 15 * MINUTE_MS));
                self.charge_exit(trip, price, code, now);
            }
            Some((trip, None)) if !Self::is_over(self.trips[trip].entered, now, 2 * MAX_JOURNEY_MS - 1) => {
                if open(self, trip) {
                    self.give_up(trip, now);
                }
                self.charge_exit(trip, MOST, code, now);
            }
            other => {
                let fate = match self.holes.unmatched_exit {
                    UnmatchedExit::Deny => return Made::Nothing,
                    UnmatchedExit::Hold => ("held", Some("unmatched")),
                    UnmatchedExit::ChargeMax => ("pending", None),
                };
                if let Some((trip, _)) = other.filter(|(trip, _)| open(self, *trip)) {
                    self.give_up(trip, now);
                }
                self.due("unmatched-exit", (passenger, None), code, MOST, fate, now);
            }
        }
        if lane.has_sensor {
            self.hold_last();
            self.dues.last_mut().unwrap().awaits = 1;
        }
        Made::Due(self.dues.len() - 1)
    }

    fn charge_exit(&mut self, trip: usize, price: Price, code: &str, now: Moment) {
        let fate = match price {
            _ if self.has_charge(trip) => ("void", Some("already-charged")),
            (_, 0, _) => ("void", Some("free")),
            _ => ("pending", None),
        };
        self.due("exit", (self.trips[trip].passenger, Some(trip)), code, price, fate, now);
        self.trips[trip].state = "exited";
        self.trips[trip].left_by = Some(self.dues.len() - 1);
    }

    fn make_void(&mut self, due: usize, reason: &str) {
        let due = &mut self.dues[due];
        due.seen.state = "void".to_owned();
        due.seen.reason = Some(reason.to_owned());
        (due.then, due.awaits) = (None, 0);
    }

    /// The turnstile did not open for it.
    fn late(&mut self, made: Made) {
        match made {
            Made::Nothing => {}
            Made::Again(_) => self.not_passed(made),
            Made::Due(due) => {
                self.make_void(due, "late");
                self.reenter(due);
            }
            Made::Trip(trip) => {
                self.trips[trip].state = "taken-back";
                self.trips[trip].waits = false;
                self.came_to_nothing(trip, "late");
            }
        }
    }

    /// Nobody passed in time.
    fn not_passed(&mut self, made: Made) {
        match made {
            Made::Due(due) | Made::Again(due) if self.dues[due].awaits > 0 => {
                self.dues[due].awaits -= 1;
                if self.dues[due].awaits == 0 {
                    if self.dues[due].then.is_some() {
                        self.make_void(due, "no-passage");
                    }
                    self.reenter(due);
                }
            }
            Made::Due(_) | Made::Again(_) | Made::Nothing => {}
            Made::Trip(trip) => {
                if !std::mem::take(&mut self.trips[trip].waits) {
                    return;
                }
                self.trips[trip].is_unpassed = true;
                if self.trips[trip].state == "exited" {
                    self.exit_decides(trip);
                    return;
                }
                self.trips[trip].state = "taken-back";
                if let Some(due) = self.held_for(trip) {
                    self.make_void(due, "no-passage");
                }
                self.came_to_nothing(trip, "no-passage");
            }
        }
    }

    /// An entry that was not made: what the trip before was to cost hangs on the passenger's next one, if there is one.
    fn came_to_nothing(&mut self, trip: usize, why: &str) {
        let Some(before) = self.ended_by(trip) else { return };
        let unsent = |due: &Due| {
            due.trip == Some(before) && due.seen.kind == "unfinished-entry" && matches!(due.seen.state.as_str(), "held" | "pending")
        };
        if let Some(due) = self.dues.iter().position(unsent) {
            match self.is_undecided_since(trip) {
                Some(true) => self.dues[due].then = Some("pending"),
                Some(false) => self.passed(Made::Due(due)),
                None => self.make_void(due, why),
            }
            if self.dues[due].then.is_some() {
                self.dues[due].seen.state = "held".to_owned();
            }
        }
        self.go_on(before);
    }

    /// Whether all entries of the passenger after this one are undecided; `None` when there are none.
    fn is_undecided_since(&self, trip: usize) -> Option<bool> {
        let passenger = self.trips[trip].passenger;
        let later = self.trips[trip + 1..].iter().filter(|trip| trip.passenger == passenger && trip.state != "taken-back");
        let is_undecided = |later: &Trip| {
            let is_leaving = later.left_by.is_some_and(|exit| self.dues[exit].awaits > 0);
            later.waits || (later.state == "exited" && later.is_unpassed && is_leaving)
        };
        later.map(is_undecided).min()
    }

    /// What the trip was to cost, if that waits and he is known to have come in then.
    fn release_of(&mut self, trip: usize) {
        if let Some(due) = self.held_for(trip).filter(|_| !self.trips[trip].waits) {
            self.passed(Made::Due(due));
        }
    }

    /// Nobody saw him come in, but he has tapped out: once he goes out, he was in.
    fn exit_decides(&mut self, trip: usize) {
        let is_gone = self.trips[trip].left_by.is_none_or(|exit| self.dues[exit].awaits == 0);
        if let Some(before) = self.ended_by(trip).filter(|_| is_gone) {
            self.release_of(before);
        }
    }

    fn held_for(&self, trip: usize) -> Option<usize> {
        self.dues.iter().position(|due| due.trip == Some(trip) && due.seen.kind == "unfinished-entry" && due.then.is_some())
    }

    /// The trip that this one's entry ended, over those that came to nothing.
    fn ended_by(&self, trip: usize) -> Option<usize> {
        let ended = self.trips[trip].ended?;
        if self.trips[ended].state == "taken-back" { self.ended_by(ended) } else { Some(ended) }
    }

    fn go_on(&mut self, trip: usize) {
        let is_elsewhere = self.has_entered_since(trip);
        if matches!(self.trips[trip].state, "replaced" | "unfinished") && !self.has_charge(trip) && !is_elsewhere {
            self.trips[trip].state = "open";
            self.trips[trip].was_unfinished = false;
        }
    }

    fn has_entered_since(&self, trip: usize) -> bool {
        let passenger = self.trips[trip].passenger;
        self.trips[trip + 1..].iter().any(|trip| trip.passenger == passenger && trip.state != "taken-back")
    }

    fn reenter(&mut self, due: usize) {
        let Some(trip) = self.trips.iter().position(|trip| trip.left_by == Some(due) && trip.state == "exited") else { return };
        let has_entered_since = self.has_entered_since(trip);
        self.trips[trip].left_by = None;
        self.trips[trip].state = match self.trips[trip].was_unfinished {
            _ if self.trips[trip].is_unpassed => "taken-back",
            true => "unfinished",
            false if has_entered_since => "replaced",
            false => "open",
        };
        if self.trips[trip].state == "taken-back" {
            self.came_to_nothing(trip, "no-passage");
        }
    }

    fn passed(&mut self, made: Made) {
        match made {
            Made::Due(due) | Made::Again(due) => {
                self.dues[due].awaits = 0;
                if let Some(then) = self.dues[due].then.take() {
                    self.dues[due].seen.state = then.to_owned();
                }
                let is_left = |trip: &Trip| trip.left_by == Some(due) && trip.state == "exited" && trip.is_unpassed;
                if let Some(trip) = self.trips.iter().position(is_left) {
                    self.exit_decides(trip);
                }
            }
            Made::Trip(trip) => {
                if std::mem::take(&mut self.trips[trip].waits) {
                    if self.is_undecided_since(trip) == Some(false) {
                        self.release_of(trip);
                    }
                    self.ended_by(trip).into_iter().for_each(|before| self.release_of(before));
                }
            }
            Made::Nothing => {}
        }
    }

    /// Whoever is waited for counts as having passed.
    fn restart(&mut self) {
        (0..self.dues.len()).for_each(|due| self.passed(Made::Due(due)));
        self.trips.iter_mut().for_each(|trip| trip.waits = false);
    }
}

fn fare(from: &str, to: &str, is_long: bool) -> Price {
    match (from, to) {
        _ if from == to && !is_long => (0, 0, false),
        ("S1", "S2") | ("S2", "S1") => (300, 255, false),
        ("S1", "S3") => (400, 340, false),
        ("S2", "S2") => (0, 0, false),
        _ => (MAX_FEN, MAX_FEN, true),
    }
}

// ---- both side by side ---------------------------------------------------------------------------------------------------------

#[derive(Debug, Clone)]
enum Step {
    /// A passenger shows a code of his own, and the turnstile opens or is late.
    Tap {
        lane: usize,
        passenger: u8,
        is_late: bool,
    },
    /// A passenger shows the code of his entry at an exit.
    OwnCode {
        lane: usize,
        passenger: u8,
    },
    /// The oldest opening that is waited for is passed, or not.
    Passage {
        is_passed: bool,
    },
    Later {
        ms: i64,
    },
    /// The real-time clock jumps.
    Jump {
        ms: i64,
    },
    Sweep,
    Restart,
    Reboot {
        is_synchronized: bool,
        off_ms: i64,
    },
    Synchronize,
}

fn step() -> impl Strategy<Value = Step> {
    let later = prop::sample::select(vec![6_000, 10 * MINUTE_MS, 20 * MINUTE_MS, HOUR_MS, 3 * HOUR_MS, 5 * HOUR_MS]);
    let jump = prop::sample::select(vec![-NOW_UTC_MS, -30 * HOUR_MS, -HOUR_MS, 9 * HOUR_MS, 700 * HOUR_MS]);
    prop_oneof![
        10 => (0..LANES.len(), 0..2_u8, prop::bool::weighted(0.15))
            .prop_map(|(lane, passenger, is_late)| Step::Tap { lane, passenger, is_late }),
        1 => (2..5_usize, 0..2_u8).prop_map(|(lane, passenger)| Step::OwnCode { lane, passenger }),
        4 => prop::bool::weighted(0.6).prop_map(|is_passed| Step::Passage { is_passed }),
        6 => later.clone().prop_map(|ms| Step::Later { ms }),
        1 => jump.prop_map(|ms| Step::Jump { ms }),
        2 => Just(Step::Sweep),
        1 => Just(Step::Restart),
        1 => (any::<bool>(), later).prop_map(|(is_synchronized, off_ms)| Step::Reboot { is_synchronized, off_ms }),
        1 => Just(Step::Synchronize),
    ]
}

struct Pair {
    gate: Gate,
    model: Model,
    /// Openings that are waited for, oldest first.
    waiting: Vec<(RecordId, Made, u8)>,
    /// Who may have gone through any turnstile.
    has_crossed: [bool; 2],
}

impl Pair {
    fn new(holes: Holes) -> Self {
        let model = Model { holes, trips: Vec::new(), dues: Vec::new() };
        Self { gate: Gate::new(holes), model, waiting: Vec::new(), has_crossed: [false; 2] }
    }

    fn moment(&self) -> Moment {
        Moment { at: self.gate.now, boot: self.gate.boot }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Tap { lane, passenger, is_late } => {
                self.gate.later(6_000);
                let code = self.gate.code(*passenger);
                self.tap(&LANES[*lane], *passenger, &code, *is_late);
            }
            Step::OwnCode { lane, passenger } => {
                self.take(&Step::Later { ms: 6 * MINUTE_MS });
                let open = self.model.last_trip(*passenger).filter(|(trip, _)| self.model.trips[*trip].state == "open");
                if let Some((trip, _)) = open {
                    let code = self.model.trips[trip].code.clone();
                    self.tap(&LANES[*lane], *passenger, &code, false);
                }
            }
            Step::Passage { is_passed } if !self.waiting.is_empty() => self.passage(*is_passed),
            Step::Passage { .. } => {}
            Step::Later { ms } => {
                // Nobody is waited for so long.
                while *ms >= MINUTE_MS && !self.waiting.is_empty() {
                    self.passage(false);
                }
                self.gate.later(*ms);
            }
            Step::Jump { ms } => self.gate.now.utc_ms += ms,
            Step::Sweep => {
                self.gate.sweep();
                self.model.sweep(self.moment());
            }
            Step::Restart => {
                self.gate.open();
                self.restart();
            }
            Step::Reboot { is_synchronized, off_ms } => {
                self.gate.reboot(if *is_synchronized { Clock::Right } else { Clock::Unsynchronized }, *off_ms);
                self.restart();
            }
            Step::Synchronize => self.gate.set_clock(Clock::Right),
        }
    }

    fn passage(&mut self, is_passed: bool) {
        let (record, made, passenger) = self.waiting.remove(0);
        if is_passed {
            self.gate.passage(record, PassageOutcome::Passed);
            self.model.passed(made);
            self.has_crossed[usize::from(passenger)] = true;
        } else {
            self.gate.passage(record, PassageOutcome::NotPassed(NoPassage::Void));
            self.model.not_passed(made);
        }
    }

    fn restart(&mut self) {
        self.model.restart();
        for (.., passenger) in self.waiting.drain(..) {
            self.has_crossed[usize::from(passenger)] = true;
        }
    }

    fn tap(&mut self, lane: &Lane, passenger: u8, code: &str, is_late: bool) {
        // Whoever enters after he tapped to leave has left.
        let is_leaving = self.model.last_trip(passenger).is_some_and(|(_, leaving)| leaving.is_some());
        self.has_crossed[usize::from(passenger)] |= is_leaving && lane.mode == Mode::Entry;
        let admission = self.gate.tap(lane, passenger, code);
        let made = self.model.tap(lane, passenger, code, self.moment());
        let record = match admission {
            Admission::Admitted(admitted) => RecordId::from(admitted.id),
            Admission::Entered(entered) => entered.journey.into(),
            Admission::Again(again) => RecordId::Again { deduction: again.deduction, mark: again.mark },
            Admission::Repeat | Admission::Refused(_) => {
                assert_eq!(made, Made::Nothing, "{admission:?}");
                return;
            }
        };
        assert_ne!(made, Made::Nothing);
        if is_late {
            self.gate.write(|store, _, now| store.take_back(record, Untaken::Late, now.utc_ms));
            return self.model.late(made);
        }
        self.gate.opened(record);
        if lane.has_sensor {
            return self.waiting.push((record, made, passenger));
        }
        self.has_crossed[usize::from(passenger)] = true;
        if matches!(made, Made::Again(_)) {
            self.gate.passage(record, PassageOutcome::Passed);
            self.model.passed(made);
        }
    }

    fn compare(&self, steps: &[Step]) -> Result<(), TestCaseError> {
        let trips: Vec<_> = self.model.trips.iter().map(|trip| trip.state).collect();
        prop_assert_eq!(self.gate.journeys(), trips, "after {:?}", steps);
        // What is void keeps the request that it once had.
        let shown = |seen: &Seen| Seen { request: seen.request.clone().filter(|_| seen.state != "void"), ..seen.clone() };
        let (have, want): (Vec<_>, Vec<_>) =
            (self.gate.deductions().iter().map(shown).collect(), self.model.dues.iter().map(|due| shown(&due.seen)).collect());
        prop_assert_eq!(have, want, "after {:?}", steps);
        Ok(())
    }

    /// What holds whatever the rules say.
    fn judge(&mut self, steps: &[Step]) -> Result<(), TestCaseError> {
        while !self.waiting.is_empty() {
            self.passage(false);
        }
        self.compare(steps)?;
        for trip in 0..self.model.trips.len() {
            let charges = self.model.dues.iter().filter(|due| due.trip == Some(trip) && due.seen.state != "void").count();
            prop_assert!(charges <= 1, "a journey is charged {} times after {:?}", charges, steps);
        }
        let is_owed = |due: &&Due| due.seen.state != "void" && !self.has_crossed[usize::from(due.passenger)];
        prop_assert!(self.model.dues.iter().find(is_owed).is_none(), "who never went through owes something after {:?}", steps);
        Ok(())
    }
}

fn holes() -> impl Strategy<Value = Holes> {
    let unmatched = prop::sample::select(vec![UnmatchedExit::Hold, UnmatchedExit::ChargeMax, UnmatchedExit::Deny]);
    let unfinished = prop::sample::select(vec![UnfinishedEntry::Void, UnfinishedEntry::ChargeMax]);
    (unmatched, unfinished).prop_map(|(unmatched_exit, unfinished_entry)| Holes {
        max_journey_ms: MAX_JOURNEY_MS,
        reentry_within_ms: 15 * MINUTE_MS,
        unmatched_exit,
        unfinished_entry,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(200), ..ProptestConfig::default() })]

    #[test]
    fn whatever_passengers_and_the_machine_do_each_journey_costs_what_the_model_says(
        holes in holes(), steps in prop::collection::vec(step(), 1..60)
    ) {
        let pair = RefCell::new(Pair::new(holes));
        for (count, step) in steps.iter().enumerate() {
            pair.borrow_mut().take(step);
            pair.borrow().compare(&steps[..=count])?;
        }
        pair.borrow_mut().judge(&steps)?;
    }
}

// ---- through the ledger's thread -------------------------------------------------------------------------------------------------

impl Bench {
    fn journey_tap(&self, mode: Mode, station: &str, awaits_passage: bool, code: &str) -> Admission {
        // The passenger's earlier taps are long enough ago.
        self.shell().execute("UPDATE seen SET at_boottime_ms = at_boottime_ms - 10000", []).unwrap();
        let tap = Tap { mode, station: station.into(), awaits_passage, ..tap("in", code, "p") };
        self.runtime.block_on(self.gate().admit(tap)).unwrap()
    }

    fn entered(&self, station: &str, code: &str) -> Entered {
        match self.journey_tap(Mode::Entry, station, false, code) {
            Admission::Entered(entered) => entered,
            other => panic!("{other:?}"),
        }
    }

    fn left(&self, awaits_passage: bool, code: &str) -> Admitted {
        match self.journey_tap(Mode::Exit, "S9", awaits_passage, code) {
            Admission::Admitted(admitted) => admitted,
            other => panic!("{other:?}"),
        }
    }

    fn opens(&self, record: impl Into<RecordId>) {
        let opened = Opened { record: record.into(), at_utc_ms: 1, detail: String::new() };
        self.runtime.block_on(self.gate().opened(opened));
    }

    fn passes(&self, record: impl Into<RecordId>, outcome: PassageOutcome) {
        self.runtime.block_on(self.gate().passage(Passage { record: record.into(), outcome, at_utc_ms: 7 }));
    }

    fn journeys(&self) -> Vec<JourneyRow> {
        let request = JourneysRequest { open_only: false, after_id: 0, limit: 100 };
        self.runtime.block_on(self.network().journeys(request)).unwrap().rows
    }

    fn first_order(&self) -> QueueRow {
        let page = PageRequest { limit: 1, ..PageRequest::default() };
        self.runtime.block_on(self.network().page(page)).unwrap().rows.remove(0)
    }
}

const CHARGE_MAX: fn(&mut Bench) = |bench| bench.holes.unfinished_entry = UnfinishedEntry::ChargeMax;

#[test]
fn what_an_entry_leaves_unfinished_is_not_sent_before_that_entry_has_opened() {
    let bench = Bench::with(CHARGE_MAX);
    let first = bench.entered("S1", "a");
    bench.opens(first.journey);
    let second = bench.entered("S2", "b");
    let due = second.also_due.unwrap();
    assert!(bench.sendable(0).is_empty());
    bench.opens(second.journey);
    assert_eq!(bench.runtime.block_on(bench.network().pending_since()), due);
    assert_eq!(bench.sendable(0), [due]);
}

#[test]
fn an_entry_that_did_not_open_leaves_everything_as_it_was() {
    let bench = Bench::with(CHARGE_MAX);
    let first = bench.entered("S1", "a");
    bench.opens(first.journey);
    let second = bench.entered("S2", "b");
    bench.runtime.block_on(bench.gate().take_back(second.journey.into(), Untaken::Late)).unwrap();
    let states: Vec<_> = bench.journeys().into_iter().map(|journey| journey.state).collect();
    assert_eq!(states, ["open", "taken-back"]);
    let row = bench.first_order();
    assert_eq!((row.state.as_str(), row.reason.as_deref()), ("void", Some("late")));
    assert!(bench.sendable(0).is_empty());
    assert!(matches!(bench.journey_tap(Mode::Entry, "S2", false, "b"), Admission::Entered(_)), "the code may be used again");
}

#[test]
fn an_entry_that_did_not_open_while_its_passenger_tapped_out_elsewhere_is_no_journey_unless_he_passes_there() {
    for is_passed in [false, true] {
        let mut bench = Bench::with(CHARGE_MAX);
        let before = bench.entered("S1", "a");
        bench.opens(before.journey);
        let entered = bench.entered("S2", "b");
        let left = bench.left(true, "c");
        bench.runtime.block_on(bench.gate().take_back(entered.journey.into(), Untaken::NotOpened)).unwrap();
        bench.opens(left.id);
        let outcome = if is_passed { PassageOutcome::Passed } else { PassageOutcome::NotPassed(NoPassage::Void) };
        bench.passes(left.id, outcome);
        let states: Vec<_> = bench.journeys().into_iter().map(|journey| journey.state).collect();
        assert_eq!(states, if is_passed { ["unfinished", "exited"] } else { ["open", "taken-back"] });
        // What the journey before was to cost hangs on whether he was in again.
        let before = bench.first_order();
        assert_eq!(before.state, if is_passed { "pending" } else { "void" });
        let sendable = bench.sendable(0);
        assert_eq!(sendable, if is_passed { vec![before.id, left.id] } else { Vec::new() });
        bench.restart();
        let sql = "SELECT opening FROM journey ORDER BY id DESC LIMIT 1";
        let opening: String = bench.shell().query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(opening, "not-opened", "nothing is left to be called unconfirmed");
    }
}

#[test]
fn who_enters_elsewhere_before_the_first_gate_has_opened_makes_one_journey_whichever_opens() {
    for is_first_taken_back in [true, false] {
        let bench = Bench::with(CHARGE_MAX);
        let first = bench.entered("S1", "a");
        let second = bench.entered("S2", "b");
        assert_eq!(second.also_due, None);
        let (taken_back, opened) = if is_first_taken_back { (first, second) } else { (second, first) };
        bench.runtime.block_on(bench.gate().take_back(taken_back.journey.into(), Untaken::NotOpened)).unwrap();
        bench.opens(opened.journey);
        let states: Vec<_> = bench.journeys().into_iter().map(|journey| journey.state).collect();
        assert_eq!(states, if is_first_taken_back { ["taken-back", "open"] } else { ["open", "taken-back"] });
        assert!(bench.sendable(0).is_empty());
    }
}

#[test]
fn who_taps_in_twice_before_he_passes_still_owes_the_exit_that_he_missed_before() {
    for (has_second_sensor, is_second_passed) in [(true, true), (true, false), (false, true)] {
        let bench = Bench::with(CHARGE_MAX);
        let missed = bench.entered("S1", "a");
        bench.opens(missed.journey);
        let enter = |code, has_sensor| match bench.journey_tap(Mode::Entry, "S2", has_sensor, code) {
            Admission::Entered(entered) => entered,
            other => panic!("{other:?}"),
        };
        let first = enter("b", true);
        bench.opens(first.journey);
        let second = enter("c", has_second_sensor);
        bench.passes(first.journey, PassageOutcome::NotPassed(NoPassage::Void));
        bench.opens(second.journey);
        if has_second_sensor {
            assert_eq!(bench.first_order().state, "held", "the second entry decides");
            let outcome = if is_second_passed { PassageOutcome::Passed } else { PassageOutcome::NotPassed(NoPassage::Void) };
            bench.passes(second.journey, outcome);
        }
        let owed = bench.first_order();
        assert_eq!(owed.state, if is_second_passed { "pending" } else { "void" });
        if is_second_passed {
            assert_eq!(bench.runtime.block_on(bench.network().pending_since()), owed.id, "the uploader is told");
        }
        let states: Vec<_> = bench.journeys().into_iter().map(|journey| journey.state).collect();
        let (before, last) = if is_second_passed { ("unfinished", "open") } else { ("open", "taken-back") };
        assert_eq!(states, [before, "taken-back", last]);
    }
}

#[test]
fn an_entry_that_nobody_passed_costs_nothing_though_another_gate_without_a_sensor_ended_it() {
    for is_passed in [true, false] {
        let bench = Bench::with(CHARGE_MAX);
        let Admission::Entered(first) = bench.journey_tap(Mode::Entry, "S1", true, "a") else { panic!("no entry") };
        bench.opens(first.journey);
        let second = bench.entered("S2", "b");
        bench.opens(second.journey);
        assert_eq!((bench.first_order().state.as_str(), second.also_due), ("held", None));
        let outcome = if is_passed { PassageOutcome::Passed } else { PassageOutcome::NotPassed(NoPassage::Void) };
        bench.passes(first.journey, outcome);
        assert_eq!(bench.first_order().state, if is_passed { "pending" } else { "void" });
    }
}

#[test]
fn a_deduction_is_sent_only_when_the_passenger_has_passed() {
    let bench = Bench::new();
    let entered = bench.entered("S1", "a");
    bench.opens(entered.journey);
    let left = bench.left(true, "b");
    bench.opens(left.id);
    assert_eq!((bench.state(&left.order).as_str(), bench.sendable(0)), ("held", Vec::new()));
    bench.passes(left.id, PassageOutcome::Passed);
    assert_eq!(bench.state(&left.order), "pending");
    assert_eq!(bench.sendable(0), [left.id]);
    let events: Vec<_> = bench.story(&left.order).events.into_iter().map(|event| event.event).collect();
    assert_eq!(events, ["entered", "opened", "recorded", "opened", "passed"]);
}

#[test]
fn who_did_not_pass_the_exit_is_still_on_his_journey_and_the_next_exit_is_a_new_order() {
    let bench = Bench::new();
    let entered = bench.entered("S1", "a");
    bench.opens(entered.journey);
    let first = bench.left(true, "b");
    bench.opens(first.id);
    bench.passes(first.id, PassageOutcome::NotPassed(NoPassage::Void));
    let row = bench.story(&first.order).row;
    assert_eq!((row.state.as_str(), row.reason.as_deref()), ("void", Some("no-passage")));
    assert_eq!(bench.journeys()[0].state, "open");
    let second = bench.left(true, "c");
    assert_ne!(first.order, second.order);
    assert_eq!(bench.journeys()[0].order.as_deref(), Some(second.order.as_str()));
}

#[test]
fn without_a_passage_the_settings_may_charge_all_the_same() {
    let bench = Bench::new();
    let left = bench.left(true, "a");
    bench.opens(left.id);
    bench.passes(left.id, PassageOutcome::NotPassed(NoPassage::Charge));
    let row = bench.story(&left.order).row;
    assert_eq!((row.state.as_str(), row.reason.as_deref()), ("held", Some("unmatched")), "it still waits for a person");
    assert_eq!(bench.void(&left.order, false), Decided::Done);
}

#[test]
fn after_a_restart_who_was_let_through_counts_as_having_passed() {
    let mut bench = Bench::new();
    let entered = bench.entered("S1", "a");
    bench.opens(entered.journey);
    let left = bench.left(true, "b");
    bench.opens(left.id);
    bench.restart();
    assert_eq!(bench.state(&left.order), "pending");
    assert_eq!(bench.story(&left.order).events.last().unwrap().event, "passage-unseen");
}

#[test]
fn journeys_that_are_too_old_are_given_up_though_nobody_taps() {
    let bench = Bench::with(|bench| {
        CHARGE_MAX(bench);
        bench.holes.max_journey_ms = 1;
    });
    let entered = bench.entered("S1", "a");
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(bench.totals().deductions[1], 0, "not while its turnstile has not answered");
    bench.opens(entered.journey);
    let id = bench
        .runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(20), bench.network().pending_since()).await.unwrap() });
    assert_eq!(bench.sendable(0), [id]);
    let row = bench.first_order();
    assert_eq!((row.kind.as_str(), row.total_fen, row.end_time), ("unfinished-entry", 1_000, None));
    assert_eq!(bench.journeys()[0].state, "unfinished");
}

#[test]
fn the_file_itself_refuses_a_second_charge_for_a_journey() {
    let bench = Bench::new();
    bench.entered("S1", "a");
    bench.left(false, "b");
    let shell = bench.shell();
    let columns = "state, kind, flags, gate, lane, station, line, journey, passenger, passenger_tail, code_digest, original_fen, \
         total_fen, start_utc_ms, body, opening, created_utc_ms, created_boot, created_boottime_ms, clock_synchronized";
    let again = format!("INSERT INTO deduction (order_number, {columns}) SELECT 'ANOTHER', {columns} FROM deduction");
    let error = shell.execute(&again, []).unwrap_err().to_string();
    assert!(error.contains("at most one deduction"), "{error}");
    let second_open = "INSERT INTO journey (number, state, gate, lane, station, passenger, passenger_tail, code, code_digest, opening,
             awaits_passage, created_utc_ms, created_boot, created_boottime_ms, clock_synchronized)
         SELECT number, 'open', gate, lane, station, passenger, passenger_tail, code, code_digest, opening, 0, 0, 1, 0, 0 FROM journey";
    shell.execute(second_open, []).unwrap();
    assert!(shell.execute(second_open, []).is_err(), "a passenger is on one journey at a time");
}

#[test]
fn journeys_that_were_kept_long_enough_go_when_their_deductions_have_gone() {
    let mut bench = Bench::new();
    bench.entered("S1", "a");
    let left = bench.left(false, "b");
    bench.runtime.block_on(bench.gate().take_back(left.id.into(), Untaken::Late)).unwrap();
    let left = bench.left(false, "c");
    bench.opens(left.id);
    bench.entered("S1", "d");
    bench.entered("S1", "e");
    bench.stop();
    bench.keeping.keep_ms = -1;
    bench.handles = Some(start(bench.options()).unwrap());
    upkeep::wait("the replaced one is gone", || bench.journeys().len() == 2);
    let states: Vec<_> = bench.journeys().into_iter().map(|journey| journey.state).collect();
    assert_eq!(states, ["exited", "open"], "one has a deduction that is not settled, one is not over");
}

#[test]
fn new_rules_hold_from_the_next_tap_on() {
    let bench = Bench::new();
    let mut rules = bench.rules();
    rules.holes.unmatched_exit = UnmatchedExit::Deny;
    bench.runtime.block_on(bench.network().set_rules(rules)).unwrap();
    bench.totals();
    assert_eq!(bench.journey_tap(Mode::Exit, "S1", false, "a"), Admission::Refused(Refusal::Unmatched));
}
