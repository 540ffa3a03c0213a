//! Openings that a crash left undecided: each one is found by the next start, in whatever order those around it were decided.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::ledger::store::{BootName, Context, IfMissing, LastRun, Store};

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
