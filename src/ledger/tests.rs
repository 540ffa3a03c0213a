//! The ledger's promises, on real files.

mod decisions;
mod deny;
mod exposure;
mod journeys;
mod openings;
mod salvage;
mod settlement;
mod upkeep;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::{
    clock::Stamp,
    config::{Mode, UnfinishedEntry, UnmatchedExit},
    journey::{Fen, Holes, Limits, Tariff, Windows},
    ride_code::{PassengerId, Refusal, VerifiedCode},
};

/// Cases of a property that needs files of its own: fewer than usual, unless `PROPTEST_CASES` asks for a number.
fn cases(fewer: u32) -> u32 {
    if std::env::var_os("PROPTEST_CASES").is_some() { proptest::test_runner::Config::default().cases } else { fewer }
}

/// A ledger in a folder of its own, with a runtime to ask it from.
struct Bench {
    folder: TempDir,
    runtime: tokio::runtime::Runtime,
    handles: Option<(Running, GateLedger, NetworkLedger)>,
    flat: Fen,
    min_free_bytes: u64,
    keeping: Keeping,
    exposure: Option<Limits>,
    holes: Holes,
    unpaid: Unpaid,
    commits: Arc<AtomicUsize>,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut bench = Self {
            folder: TempDir::new().unwrap(),
            runtime,
            handles: None,
            flat: Fen(200),
            min_free_bytes: 0,
            keeping: Keeping { max_age_ms: i64::MAX, keep_ms: i64::MAX, keep_denied_ms: i64::MAX },
            exposure: None,
            holes: Holes {
                max_journey_ms: 4 * 3_600_000,
                reentry_within_ms: 900_000,
                unmatched_exit: UnmatchedExit::Hold,
                unfinished_entry: UnfinishedEntry::Void,
            },
            unpaid: Unpaid::Admits,
            commits: Arc::default(),
        };
        change(&mut bench);
        bench.handles = Some(start(bench.options()).unwrap());
        bench
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("ledger.db")
    }

    fn options(&self) -> Options {
        Options {
            path: self.path(),
            min_free_bytes: self.min_free_bytes,
            gate: "T1".to_owned(),
            line: "2".to_owned(),
            rules: self.rules(),
            unpaid: self.unpaid,
            keeping: self.keeping,
            body_maker: Box::new(|bill| format!("{} {}", bill.order, bill.total.0).into_bytes()),
            observer: self.observer(),
        }
    }

    fn observer(&self) -> Observer {
        let commits = self.commits.clone();
        Box::new(move |event| {
            if matches!(event, LedgerEvent::Committed { .. }) {
                commits.fetch_add(1, Ordering::SeqCst);
            }
        })
    }

    fn commits(&self) -> usize {
        self.commits.load(Ordering::SeqCst)
    }

    fn rules(&self) -> Rules {
        Rules {
            windows: Windows { duplicate_ms: 300_000, passenger_interval_ms: 5_000 },
            tariff: Tariff { flat: self.flat, max: Fen(1_000), discount_percent: 100, same_station: None, table: None },
            holes: self.holes,
            exposure: self.exposure,
        }
    }

    fn gate(&self) -> &GateLedger {
        &self.handles.as_ref().unwrap().1
    }

    fn network(&self) -> &NetworkLedger {
        &self.handles.as_ref().unwrap().2
    }

    fn stop(&mut self) {
        let (running, gate, network) = self.handles.take().unwrap();
        drop((gate, network));
        assert_eq!(running.join(), Written::All);
    }

    /// Takes the file away as a fault would; the same file can be put back.
    fn remove_file(&self) {
        fs::hard_link(self.path(), self.folder.path().join("kept")).unwrap();
        fs::remove_file(self.path()).unwrap();
    }

    fn put_file_back(&self) {
        fs::rename(self.folder.path().join("kept"), self.path()).unwrap();
    }

    fn wait_up(&self) {
        let mut health = self.gate().health();
        let up = async { health.wait_for(|health| *health == Health::Up).await.map(|_| ()) };
        self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), up).await }).unwrap().unwrap();
    }

    fn restart(&mut self) {
        self.stop();
        self.handles = Some(start(self.options()).unwrap());
    }

    fn tap(&self, lane: &str, code: &str, passenger: &str) -> Result<Admission, LedgerError> {
        self.runtime.block_on(self.gate().admit(tap(lane, code, passenger)))
    }

    fn sendable_row(&self, code: &str) -> Admitted {
        let admitted = self.admitted(code);
        self.opened(admitted.id);
        admitted
    }

    fn claim(&self, id: DeductionId) -> Option<PendingDeduction> {
        self.runtime.block_on(self.network().claim(id)).unwrap()
    }

    fn admitted(&self, code: &str) -> Admitted {
        match self.tap("in", code, code).unwrap() {
            Admission::Admitted(admitted) => admitted,
            other => panic!("{code}: {other:?}"),
        }
    }

    fn opened(&self, id: DeductionId) {
        self.runtime.block_on(self.gate().opened(Opened { record: id.into(), at_utc_ms: 1, detail: String::new() }));
    }

    fn sendable(&self, after_id: DeductionId) -> Vec<DeductionId> {
        self.runtime.block_on(self.network().pending(after_id, 100)).unwrap()
    }

    fn record(&self, id: DeductionId, outcome: Outcome, answer: &str) {
        let answer = Some(answer.to_owned());
        let attempt = Attempt { id, is_counted: true, is_doubtful: false, is_unknown: false, outcome, answer, at_utc_ms: 5 };
        self.runtime.block_on(self.network().attempt(attempt)).unwrap();
    }

    fn story(&self, order: &OrderNumber) -> QueueStory {
        self.runtime.block_on(self.network().story(order.clone())).unwrap().unwrap()
    }

    fn totals(&self) -> Totals {
        self.runtime.block_on(self.network().totals()).unwrap()
    }

    /// Another connection, as a person with the sqlite3 shell has it.
    fn shell(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.handles.is_some() {
            self.stop();
        }
    }
}

fn tap(lane: &str, code: &str, passenger: &str) -> Tap {
    Tap {
        lane: lane.into(),
        station: "S1".into(),
        mode: Mode::Single,
        awaits_passage: false,
        code: VerifiedCode::opaque(code.as_bytes().to_vec(), PassengerId::new(passenger.as_bytes(), "0042")),
        scanned: Stamp::now(),
    }
}

fn started_error(options: Options) -> LedgerError {
    start(options).map(|_| ()).unwrap_err()
}

#[test]
fn an_admission_is_in_the_file_when_it_is_answered() {
    let bench = Bench::new();
    let order = bench.admitted("a").order;
    let (state, body): (String, Vec<u8>) = bench
        .shell()
        .query_row("SELECT state, body FROM deduction WHERE order_number = ?", [order.as_str()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!((state.as_str(), body), ("pending", format!("{order} 200").into_bytes()));
}

#[test]
fn a_code_passes_once_on_any_lane_and_after_a_restart() {
    let mut bench = Bench::new();
    bench.admitted("a");
    assert_eq!(bench.tap("in", "a", "a").unwrap(), Admission::Repeat);
    assert_eq!(bench.tap("out", "a", "a").unwrap(), Admission::Refused(Refusal::Duplicate));
    bench.restart();
    assert_eq!(bench.tap("out", "a", "a").unwrap(), Admission::Refused(Refusal::Duplicate));
    assert_eq!(bench.tap("in", "b", "a").unwrap(), Admission::Refused(Refusal::TooSoon));
}

#[test]
fn a_code_is_a_repeat_only_while_it_is_the_lanes_latest() {
    let bench = Bench::new();
    bench.admitted("a");
    bench.admitted("b");
    assert_eq!(bench.tap("in", "a", "a").unwrap(), Admission::Refused(Refusal::Duplicate));
    assert_eq!(bench.tap("in", "b", "b").unwrap(), Admission::Repeat);
}

#[test]
fn one_code_on_many_lanes_at_once_is_admitted_once() {
    let bench = Bench::new();
    let ask = |lane: usize| {
        let gate = bench.gate().clone();
        async move { gate.admit(tap(&format!("lane{lane}"), "a", "a")).await.unwrap() }
    };
    let answers = bench.runtime.block_on(async {
        let asked: Vec<_> = (0..16).map(|lane| tokio::spawn(ask(lane))).collect();
        let mut answers = Vec::new();
        for task in asked {
            answers.push(task.await.unwrap());
        }
        answers
    });
    let admitted = answers.iter().filter(|answer| matches!(answer, Admission::Admitted(_))).count();
    assert_eq!((admitted, bench.totals().deductions[1]), (1, 1));
}

#[test]
fn a_row_is_not_sendable_before_its_turnstile_has_opened() {
    let bench = Bench::new();
    let (first, second) = (bench.admitted("a"), bench.admitted("b"));
    assert_eq!(bench.sendable(0), Vec::<DeductionId>::new());
    bench.opened(second.id);
    assert_eq!(bench.runtime.block_on(bench.network().pending_since()), second.id);
    assert_eq!(bench.sendable(0), [second.id]);
    bench.opened(first.id);
    assert_eq!(bench.runtime.block_on(bench.network().pending_since()), first.id);
    assert_eq!(bench.sendable(0), [first.id, second.id]);
    assert_eq!(bench.sendable(first.id), [second.id]);
}

#[test]
fn an_opening_that_did_not_happen_costs_nothing_and_frees_the_code() {
    let bench = Bench::new();
    let late = bench.admitted("a");
    bench.runtime.block_on(bench.gate().take_back(late.id.into(), Untaken::Late)).unwrap();
    let row = bench.story(&late.order).row;
    assert_eq!((row.state.as_str(), row.reason.as_deref()), ("void", Some("late")));
    bench.opened(bench.admitted("a").id);
    assert_eq!(bench.sendable(0).len(), 1);
}

#[test]
fn an_opening_that_happened_cannot_be_taken_back() {
    let bench = Bench::new();
    let admitted = bench.admitted("a");
    bench.opened(admitted.id);
    assert_eq!(bench.story(&admitted.order).events.last().unwrap().event, "opened");
    bench.runtime.block_on(bench.gate().take_back(admitted.id.into(), Untaken::Late)).unwrap();
    assert_eq!(bench.story(&admitted.order).row.state, "pending");
}

#[test]
fn an_opening_that_the_last_run_did_not_confirm_is_charged_and_says_so() {
    let mut bench = Bench::new();
    let (confirmed, unconfirmed) = (bench.admitted("a"), bench.admitted("b"));
    bench.opened(confirmed.id);
    bench.restart();
    assert_eq!(bench.story(&confirmed.order).row.flags, Vec::<String>::new());
    assert_eq!(bench.story(&unconfirmed.order).row.flags, ["opening-unconfirmed"]);
    assert_eq!(bench.sendable(0).len(), 2);
}

#[test]
fn a_free_trip_is_void_and_never_sent() {
    let bench = Bench::with(|bench| bench.flat = Fen(0));
    let free = bench.admitted("a");
    bench.opened(free.id);
    let row = bench.story(&free.order).row;
    assert_eq!((row.state.as_str(), row.reason.as_deref()), ("void", Some("free")));
    assert_eq!(bench.sendable(0), Vec::<DeductionId>::new());
}

#[test]
fn a_result_is_believed_before_it_is_durable_and_durable_after_a_stop() {
    let mut bench = Bench::new();
    let (good, bad) = (bench.admitted("a"), bench.admitted("b"));
    bench.opened(good.id);
    bench.opened(bad.id);
    bench.record(good.id, Outcome::Accepted, "errcode 0");
    bench.record(bad.id, Outcome::Parked { reason: "refused" }, "errcode 47001");
    assert_eq!(bench.sendable(0), Vec::<DeductionId>::new());
    bench.restart();
    let (good, bad) = (bench.story(&good.order), bench.story(&bad.order));
    assert_eq!((good.row.state.as_str(), good.row.attempts, good.row.accepted_at.is_some()), ("accepted", 1, true));
    assert_eq!((bad.row.state.as_str(), bad.row.reason.as_deref()), ("parked", Some("refused")));
    assert_eq!(bad.row.last_error.as_deref(), Some("errcode 47001"));
    assert_eq!(good.events.iter().map(|event| event.event.as_str()).collect::<Vec<_>>(), ["recorded", "opened", "accepted"]);
}

#[test]
fn a_failed_attempt_stays_pending_and_keeps_its_bytes() {
    let bench = Bench::new();
    let admitted = bench.admitted("a");
    bench.opened(admitted.id);
    let claim = || bench.runtime.block_on(bench.network().claim(admitted.id)).unwrap().unwrap();
    let before = claim();
    for _ in 0..60 {
        bench.record(admitted.id, Outcome::StillPending, "timed out");
    }
    let story = bench.story(&admitted.order);
    assert_eq!((claim().body, story.row.attempts), (before.body, 60));
    assert_eq!(bench.sendable(0), [admitted.id]);
    assert_eq!(story.events.iter().filter(|event| event.event == "attempt").count(), 50);
}

#[test]
fn a_probe_of_a_network_that_is_away_is_written_once() {
    let bench = Bench::new();
    let admitted = bench.admitted("a");
    bench.opened(admitted.id);
    for answer in ["no route", "no route", "no route", "refused"] {
        let attempt = Attempt {
            id: admitted.id,
            is_counted: false,
            is_doubtful: false,
            is_unknown: false,
            outcome: Outcome::StillPending,
            answer: Some(answer.to_owned()),
            at_utc_ms: 5,
        };
        bench.runtime.block_on(bench.network().attempt(attempt)).unwrap();
    }
    let story = bench.story(&admitted.order);
    assert_eq!((story.row.attempts, story.events.len()), (0, 4));
}

/// WeChat took the request of this row, perhaps, and said nothing.
fn silence(bench: &Bench, id: DeductionId, at_utc_ms: i64) {
    let (outcome, answer) = (Outcome::StillPending, Some("no answer".to_owned()));
    let attempt = Attempt { id, is_counted: true, is_doubtful: true, is_unknown: false, outcome, answer, at_utc_ms };
    bench.runtime.block_on(bench.network().attempt(attempt)).unwrap();
}

#[test]
fn a_wechat_that_stays_silent_costs_one_commit_and_none_for_each_repeat_of_it() {
    let mut bench = Bench::new();
    let row = bench.sendable_row("a");
    bench.claim(row.id).unwrap();
    silence(&bench, row.id, 1);
    bench.totals();
    let is_sent = "SELECT sent FROM deduction WHERE id = ?";
    assert!(bench.shell().query_row(is_sent, [row.id], |row| row.get::<_, bool>(0)).unwrap(), "the first is durable");
    let commits = bench.commits();
    for at_utc_ms in 2..=50 {
        assert_eq!(bench.sendable(0), [row.id]);
        bench.claim(row.id).unwrap();
        silence(&bench, row.id, at_utc_ms);
        bench.totals();
    }
    assert_eq!(bench.commits(), commits, "a commit was made for what only counts");
    bench.admitted("b");
    assert_eq!(bench.commits(), commits + 1, "it joins a commit that is made anyway");
    silence(&bench, row.id, 51);
    bench.record(row.id, Outcome::Accepted, "errcode 0");
    bench.restart();
    let story = bench.story(&row.order).row;
    assert_eq!((story.attempts, story.state.as_str()), (52, "accepted"));
}

#[test]
fn of_silence_without_end_some_is_written_from_time_to_time() {
    let bench = Bench::new();
    let row = bench.sendable_row("a");
    silence(&bench, row.id, 0);
    bench.totals();
    let commits = bench.commits();
    (1..=200).for_each(|at_utc_ms| silence(&bench, row.id, at_utc_ms));
    bench.totals();
    assert_eq!(bench.commits(), commits + 3);
}

#[test]
fn the_schema_refuses_what_must_never_happen() {
    let bench = Bench::new();
    let admitted = bench.admitted("a");
    bench.opened(admitted.id);
    bench.record(admitted.id, Outcome::Accepted, "errcode 0");
    bench.totals();
    let shell = bench.shell();
    for (statement, words) in [
        ("UPDATE deduction SET order_number = 'X'", "never changes"),
        ("UPDATE deduction SET body = x'00'", "never change"),
        ("UPDATE deduction SET total_fen = 1", "never changes"),
        ("UPDATE deduction SET state = 'pending'", "never goes back"),
        ("UPDATE deduction SET state = 'void'", "never goes back"),
        ("DELETE FROM deduction", "never removed"),
    ] {
        let refusal = shell.execute(statement, []).unwrap_err().to_string();
        assert!(refusal.contains(words), "{statement}: {refusal}");
    }
}

#[test]
fn totals_are_the_sum_of_the_rows() {
    let bench = Bench::new();
    let rows: Vec<_> = ["a", "b", "c", "d"].iter().map(|code| bench.admitted(code)).collect();
    rows.iter().take(3).for_each(|row| bench.opened(row.id));
    bench.runtime.block_on(bench.gate().take_back(rows[3].id.into(), Untaken::NotOpened)).unwrap();
    bench.record(rows[0].id, Outcome::Accepted, "errcode 0");
    bench.record(rows[1].id, Outcome::Parked { reason: "refused" }, "errcode 47001");
    let totals = bench.totals();
    assert_eq!(totals.deductions, [0, 1, 1, 0, 0, 1, 1]);
    assert_eq!(totals.pending_fen, 200);
    assert!(totals.oldest_pending.unwrap().age_ms < 60_000);
}

#[test]
fn a_listing_goes_page_by_page_and_by_state() {
    let bench = Bench::new();
    let rows: Vec<_> = (0..5).map(|number| bench.admitted(&number.to_string())).collect();
    bench.runtime.block_on(bench.gate().take_back(rows[1].id.into(), Untaken::Late)).unwrap();
    let page = |state: Option<&str>, after_id, limit| {
        let request = PageRequest { state: state.map(str::to_owned), after_id, limit };
        bench.runtime.block_on(bench.network().page(request)).unwrap()
    };
    let ids = |page: &Page| page.rows.iter().map(|row| row.id).collect::<Vec<_>>();
    assert_eq!(ids(&page(None, 0, 2)), [rows[0].id, rows[1].id]);
    assert_eq!(page(None, 0, 2).next_after_id, Some(rows[1].id));
    assert_eq!(ids(&page(None, rows[1].id, 9)), [rows[2].id, rows[3].id, rows[4].id]);
    assert_eq!(page(None, rows[1].id, 9).next_after_id, None);
    assert_eq!(ids(&page(Some("pending"), rows[0].id, 2)), [rows[2].id, rows[3].id]);
    assert_eq!(ids(&page(Some("void"), 0, 9)), [rows[1].id]);
}

#[test]
fn denied_scans_are_kept_with_their_reason_but_not_without_bound() {
    let mut bench = Bench::new();
    for _ in 0..100 {
        let (lane, scanned) = ("in".into(), Stamp::now());
        bench.gate().denied(Denial { lane, refusal: Refusal::Format, digest: None, passenger: None, scanned });
        bench.totals();
    }
    bench.stop();
    let (rows, reasons): (i64, i64) = bench
        .shell()
        .query_row("SELECT count(*), count(*) FILTER (WHERE reason = 'format') FROM denied", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!((rows, reasons), (60, 60));
}

#[test]
fn whether_the_clock_was_synchronized_is_in_each_record_and_refuses_only_what_the_check_says() {
    let mut bench = Bench::new();
    for (synchronized, code, words) in [(true, "a", "clock synchronized"), (false, "b", "clock not synchronized")] {
        let scanned = Stamp { synchronized, ..Stamp::now() };
        let answer = bench.runtime.block_on(bench.gate().admit(Tap { scanned, ..tap("in", code, code) })).unwrap();
        let Admission::Admitted(admitted) = answer else { panic!("{answer:?}") };
        let recorded = bench.story(&admitted.order).events.remove(0);
        assert!(recorded.detail.as_ref().is_some_and(|detail| detail.ends_with(words)), "{recorded:?}");
        bench.gate().denied(Denial { lane: "in".into(), refusal: Refusal::Format, digest: None, passenger: None, scanned });
        let mut denied = tap("in", words, words);
        denied.code.entry_refusal = (!synchronized).then_some(Refusal::ClockUnsynchronized);
        let answer = bench.runtime.block_on(bench.gate().admit(Tap { scanned, ..denied })).unwrap();
        let is_refused = matches!(answer, Admission::Refused(Refusal::ClockUnsynchronized));
        assert_eq!(is_refused, !synchronized, "{answer:?}");
    }
    bench.stop();
    let shell = bench.shell();
    let mut rows = shell.prepare("SELECT clock_synchronized FROM denied WHERE reason = 'format' ORDER BY id").unwrap();
    let states: Vec<bool> = rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(states, [true, false]);
}

#[test]
fn the_file_is_for_its_owner_only_and_one_process_holds_it() {
    let bench = Bench::new();
    for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db.lock"] {
        assert_eq!(fs::metadata(bench.folder.path().join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    assert!(matches!(started_error(bench.options()), LedgerError::Held { .. }));
}

#[test]
fn what_is_no_ledger_is_refused_with_a_sentence_and_left_as_it_is() {
    let mut bench = Bench::new();
    bench.stop();
    bench.shell().pragma_update(None, "user_version", 2000).unwrap();
    let refused = |bench: &Bench| start_existing(bench.options()).map(|_| ()).unwrap_err();
    assert!(matches!(refused(&bench), LedgerError::Newer { found: 2000, known: 1000, .. }));
    fs::write(bench.path(), [b'x'; 8192]).unwrap();
    assert!(matches!(refused(&bench), LedgerError::Damaged { .. }));
    assert_eq!(fs::read(bench.path()).unwrap(), [b'x'; 8192]);
    fs::remove_file(bench.path()).unwrap();
    bench.shell().execute_batch("CREATE TABLE somebody_elses (x)").unwrap();
    assert!(matches!(refused(&bench), LedgerError::Damaged { .. }));
    fs::remove_file(bench.path()).unwrap();
    assert!(matches!(refused(&bench), LedgerError::Missing { .. }));
}

#[test]
fn a_minor_step_by_a_newer_program_of_this_major_is_no_hindrance() {
    let mut bench = Bench::new();
    bench.stop();
    bench.shell().pragma_update(None, "user_version", 1007).unwrap();
    bench.handles = Some(start(bench.options()).unwrap());
    bench.admitted("a");
}

#[test]
fn without_free_space_nothing_is_admitted_but_results_still_go_in() {
    let mut bench = Bench::new();
    let admitted = bench.admitted("a");
    bench.opened(admitted.id);
    bench.stop();
    bench.min_free_bytes = u64::MAX;
    bench.handles = Some(start(bench.options()).unwrap());
    let error = bench.tap("in", "b", "b").unwrap_err();
    assert!(error.to_string().contains("free some space"), "{error}");
    assert!(matches!(&*bench.gate().health().borrow(), Health::Down { .. }));
    bench.record(admitted.id, Outcome::Accepted, "errcode 0");
    assert_eq!(bench.story(&admitted.order).row.state, "accepted");
}

#[test]
fn a_lock_of_another_program_refuses_scans_but_closes_nothing() {
    let bench = Bench::new();
    let shell = bench.shell();
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = bench.tap("in", "b", "b").unwrap_err().to_string();
    assert!(error.contains("another program"), "{error}");
    assert!(matches!(&*bench.gate().health().borrow(), Health::Down { reason } if reason.contains("another program")));
    shell.execute_batch("ROLLBACK").unwrap();
    bench.wait_up();
    bench.admitted("b");
}

#[test]
fn a_file_that_was_removed_takes_no_records_until_it_is_back() {
    let bench = Bench::new();
    let before = bench.admitted("a");
    bench.remove_file();
    let error = bench.tap("in", "b", "b").unwrap_err().to_string();
    assert!(error.contains("removed or replaced"), "{error}");
    assert!(matches!(&*bench.gate().health().borrow(), Health::Down { .. }));
    assert!(bench.tap("in", "c", "c").is_err());
    bench.opened(before.id);
    assert!(!bench.path().exists(), "a ledger was made anew");
    bench.put_file_back();
    bench.wait_up();
    bench.admitted("b");
    assert_eq!(bench.story(&before.order).events.last().unwrap().event, "opened");
    let incidents: i64 = bench.shell().query_row("SELECT count(*) FROM incident", [], |row| row.get(0)).unwrap();
    assert_eq!(incidents, 1);
}

#[test]
fn an_opening_that_failed_while_the_file_was_away_is_taken_back_when_it_is_back() {
    let bench = Bench::new();
    let admitted = bench.admitted("a");
    bench.remove_file();
    assert!(bench.tap("in", "b", "b").is_err());
    bench.runtime.block_on(bench.gate().take_back(admitted.id.into(), Untaken::NotOpened)).unwrap();
    bench.put_file_back();
    bench.wait_up();
    assert_eq!(bench.story(&admitted.order).row.state, "void");
    assert_eq!(bench.sendable(0), Vec::<DeductionId>::new());
}

#[test]
fn a_stop_waits_for_a_file_that_comes_back_and_says_so_when_it_does_not() {
    let mut bench = Bench::new();
    let admitted = bench.admitted("a");
    for comes_back in [false, true] {
        bench.remove_file();
        assert!(bench.tap("in", "b", "b").is_err());
        bench.runtime.block_on(bench.gate().take_back(admitted.id.into(), Untaken::NotOpened)).unwrap();
        let (running, gate, network) = bench.handles.take().unwrap();
        if comes_back {
            bench.put_file_back();
        }
        drop((gate, network));
        assert_eq!(running.join(), if comes_back { Written::All } else { Written::NotAll });
        if !comes_back {
            bench.put_file_back();
        }
        bench.handles = Some(start(bench.options()).unwrap());
    }
}

#[test]
fn a_disk_that_cannot_be_used_at_the_start_is_waited_for() {
    let mut bench = Bench::new();
    bench.stop();
    fs::create_dir(bench.folder.path().join("ledger.db-wal")).unwrap();
    bench.handles = Some(start(bench.options()).unwrap());
    assert!(bench.tap("in", "a", "a").is_err());
    fs::remove_dir(bench.folder.path().join("ledger.db-wal")).unwrap();
    bench.wait_up();
    bench.admitted("a");
}

#[test]
fn a_row_that_cannot_be_read_is_parked_and_the_others_go_on() {
    let bench = Bench::new();
    let (bad, good) = (bench.admitted("a"), bench.admitted("b"));
    bench.opened(bad.id);
    bench.opened(good.id);
    bench.totals();
    bench.shell().execute_batch("DROP TRIGGER body_fixed; PRAGMA ignore_check_constraints = ON; UPDATE deduction SET body = NULL WHERE id = 1; UPDATE deduction SET last_error = CAST(x'ff' AS TEXT)").unwrap();
    assert!(bench.runtime.block_on(bench.network().claim(bad.id)).unwrap().is_none());
    assert!(bench.runtime.block_on(bench.network().claim(good.id)).unwrap().is_some());
    let row = bench.story(&bad.order).row;
    assert_eq!((row.state.as_str(), row.reason.as_deref()), ("parked", Some("unreadable")));
    assert_eq!(bench.story(&good.order).row.last_error.as_deref(), Some("\u{fffd}"));
    assert_eq!(*bench.gate().health().borrow(), Health::Up);
}

#[test]
fn a_scan_whose_commit_was_in_doubt_is_taken_back() {
    let mut bench = Bench::new();
    let tap = tap("in", "a", "a");
    let Admission::Admitted(doubtful) = bench.runtime.block_on(bench.gate().admit(tap.clone())).unwrap() else { panic!() };
    bench.stop();
    let boot = boot_name().unwrap();
    let mut store = Store::open(&bench.path(), &boot, IfMissing::Fail, LastRun::IsThis).unwrap();
    store.transact(|store| store.take_back_doubtful(&tap, 5)).unwrap();
    drop(store);
    bench.handles = Some(start(bench.options()).unwrap());
    let row = bench.story(&doubtful.order).row;
    assert_eq!((row.state.as_str(), row.reason.as_deref()), ("void", Some("not-opened")));
    bench.admitted("a");
}

#[test]
fn the_log_gets_its_length_when_nobody_comes_and_is_then_used_from_its_beginning() {
    let bench = Bench::new();
    let log = bench.folder.path().join("ledger.db-wal");
    let length = || fs::metadata(&log).map_or(0, |log| log.len());
    let salt = || fs::read(&log).map_or(Vec::new(), |bytes| bytes.get(16..24).map_or(Vec::new(), <[u8]>::to_vec));
    let first_salt = {
        bench.admitted("a");
        salt()
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let mut number = 0;
    while length() < 4 << 20 || salt() == first_salt {
        assert!(std::time::Instant::now() < deadline, "the log has {} bytes", length());
        std::thread::sleep(Duration::from_millis(700));
        number += 1;
        bench.admitted(&number.to_string());
    }
    let grown = length();
    bench.admitted("b");
    assert_eq!(length(), grown);
}

#[test]
fn the_log_is_moved_back_in_a_quiet_moment() {
    let mut bench = Bench::new();
    (0..80).for_each(|number| bench.opened(bench.admitted(&number.to_string()).id));
    let file_bytes = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    let before = file_bytes(&bench.path());
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while file_bytes(&bench.path()) == before {
        assert!(std::time::Instant::now() < deadline, "the log was not moved back");
        std::thread::sleep(Duration::from_millis(20));
    }
    bench.stop();
    assert_eq!(file_bytes(&bench.folder.path().join("ledger.db-wal")), 0);
}
