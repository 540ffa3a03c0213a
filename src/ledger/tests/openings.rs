//! Openings that a crash left undecided: each one is found by the next start, in whatever order those around it were decided; and what
//! a scan does not wait for.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::ledger::{
    store::{BootName, Context, IfMissing, LastRun, Store},
    types::Passage,
};

// ---- what a start finds --------------------------------------------------------------------------------------------------------

#[derive(Debug, Clone, Copy)]
enum Step {
    Tap(Mode),
    /// Of those that wait, this one, counted round and round.
    Open(usize),
    TakeBack(usize),
    /// The program is killed and starts again.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop_oneof![Just(Mode::Single), Just(Mode::Entry), Just(Mode::Exit)].prop_map(Step::Tap),
        3 => any::<usize>().prop_map(Step::Open),
        2 => any::<usize>().prop_map(Step::TakeBack),
        1 => Just(Step::Crash),
    ]
}

/// A ledger without its thread, and the records whose turnstile has not answered.
struct Killed {
    folder: TempDir,
    context: Context,
    store: Option<Store>,
    waiting: Vec<RecordId>,
    taps: u8,
}

impl Killed {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let bench = Bench::new();
        let options = bench.options();
        let context = Context {
            rules: Rules { windows: Windows { duplicate_ms: 0, passenger_interval_ms: 0 }, ..options.rules },
            gate: options.gate,
            line: options.line,
            unpaid: options.unpaid,
            body_maker: Arc::new(options.body_maker),
        };
        let mut killed = Self { folder, context, store: None, waiting: Vec::new(), taps: 0 };
        killed.start();
        killed
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("ledger.db")
    }

    fn start(&mut self) {
        self.store = None;
        let boot = BootName { id: "boot".to_owned(), is_machines: true };
        let mut store = Store::open(&self.path(), &boot, IfMissing::Create, LastRun::MayHaveCrashed).unwrap();
        store.transact(|store| store.settle_unseen_passages(1).and_then(|()| store.settle_unconfirmed(1))).unwrap();
        self.store = Some(store);
        self.waiting.clear();
    }

    fn write<T>(&mut self, work: impl FnOnce(&Store, &Context) -> rusqlite::Result<T>) -> T {
        let context = &self.context;
        self.store.as_mut().unwrap().transact(|store| work(store, context)).unwrap()
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Tap(mode) => self.tap(mode),
            Step::Open(which) => {
                let Some(record) = self.decide(which) else { return };
                self.write(|store, _| store.opened(&Opened { record, at_utc_ms: 1, detail: String::new() }));
            }
            Step::TakeBack(which) => {
                let Some(record) = self.decide(which) else { return };
                self.write(|store, _| store.take_back(record, Untaken::Late, 1));
            }
            Step::Crash => self.start(),
        }
    }

    /// Passengers come again, so that entries meet exits.
    fn tap(&mut self, mode: Mode) {
        self.taps += 1;
        let tap = Tap { mode, ..tap("in", &format!("code {}", self.taps), &format!("passenger {}", self.taps % 3)) };
        match self.write(|store, context| store.admit(&tap, context)).0 {
            Admission::Admitted(admitted) => self.waiting.push(admitted.id.into()),
            Admission::Entered(entered) => self.waiting.push(entered.journey.into()),
            other => panic!("{other:?}"),
        }
    }

    fn decide(&mut self, which: usize) -> Option<RecordId> {
        (!self.waiting.is_empty()).then(|| self.waiting.remove(which % self.waiting.len()))
    }

    /// Rows of both tables whose opening is so, found by looking at every row.
    fn count(&self, opening: &str) -> usize {
        let sql = "SELECT (SELECT count(*) FROM deduction WHERE opening = ?1) + (SELECT count(*) FROM journey WHERE opening = ?1)";
        let count: i64 = Connection::open(self.path()).unwrap().query_row(sql, [opening], |row| row.get(0)).unwrap();
        usize::try_from(count).unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(48), ..ProptestConfig::default() })]

    #[test]
    fn a_start_finds_every_opening_that_was_left_undecided(steps in prop::collection::vec(step(), 1..40)) {
        let mut ledger = Killed::new();
        for step in steps {
            ledger.take(step);
        }
        let (undecided, known) = (ledger.count("waiting"), ledger.count("unconfirmed"));
        prop_assert!(undecided >= ledger.waiting.len());
        ledger.take(Step::Crash);
        prop_assert_eq!((ledger.count("waiting"), ledger.count("unconfirmed")), (0, known + undecided));
    }
}

// ---- what a scan does not wait for ---------------------------------------------------------------------------------------------

#[test]
fn a_scan_alone_does_not_wait_for_what_others_left_to_be_written() {
    let joined = Arc::new(Mutex::new(Vec::new()));
    let mut bench = Bench::new();
    bench.stop();
    let told = joined.clone();
    let observer: Observer = Box::new(move |event| {
        if let LedgerEvent::Committed { operations, .. } = event {
            told.lock().unwrap().push(operations);
        }
    });
    bench.handles = Some(start(Options { observer, ..bench.options() }).unwrap());
    let first = bench.admitted("a");
    bench.opened(first.id);
    bench.admitted("b");
    assert_eq!(bench.story(&first.order).events.last().unwrap().event, "opened");
    assert_eq!(*joined.lock().unwrap(), [1, 1, 1], "two scans, and an opening of its own");
}

#[test]
fn a_scan_is_judged_by_a_passage_that_is_not_written_yet() {
    let bench = Bench::new();
    let at = |mode, code: &str| Tap { mode, awaits_passage: true, ..tap("gate", code, code) };
    let Admission::Entered(entered) = bench.runtime.block_on(bench.gate().admit(at(Mode::Entry, "a"))).unwrap() else { panic!() };
    let passage = Passage {
        record: entered.journey.into(),
        outcome: PassageOutcome::NotPassed(crate::config::NoPassage::Void),
        at_utc_ms: 1,
    };
    let exit = bench.runtime.block_on(async {
        bench.gate().opened(Opened { record: entered.journey.into(), at_utc_ms: 1, detail: String::new() }).await;
        bench.gate().passage(passage).await;
        let later = Tap { code: VerifiedCode::opaque(b"another".to_vec(), PassengerId::new(b"a", "0042")), ..at(Mode::Exit, "a") };
        bench.shell().execute("UPDATE seen SET at_boottime_ms = at_boottime_ms - 6000", []).unwrap();
        bench.gate().admit(later).await.unwrap()
    });
    let Admission::Admitted(exit) = exit else { panic!("{exit:?}") };
    assert_eq!(exit.kind, crate::journey::Kind::UnmatchedExit, "nobody has gone in");
}

#[test]
fn a_limit_on_exposure_counts_an_answer_that_is_not_written_yet() {
    let none = i64::MAX;
    let limits = Limits {
        passenger_count: u32::MAX,
        passenger: Fen(none),
        gate: Fen(300),
        oldest_ms: none,
        at_limit: crate::config::AtLimit::Deny,
    };
    let bench = Bench::with(|bench| bench.exposure = Some(limits));
    let row = bench.sendable_row("a");
    assert_eq!(bench.tap("in", "b", "b").unwrap(), Admission::Refused(Refusal::Exposure));
    bench.record(row.id, Outcome::Accepted, "errcode 0");
    // Asked after the answer, on the same way, and answered from the file as it is: the answer has come.
    bench.sendable(0);
    assert!(matches!(bench.tap("in", "b", "b").unwrap(), Admission::Admitted(_)));
}
