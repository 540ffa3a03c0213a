//! What people decide about rows, and when it is refused.

use super::*;

impl Bench {
    pub(super) fn retry(&self, order: &OrderNumber) -> Decided {
        self.runtime.block_on(self.network().retry(order.clone(), 1000)).unwrap()
    }

    pub(super) fn void(&self, order: &OrderNumber, even_if_sent: bool) -> Decided {
        let reason = Reason::parse("test ride").unwrap();
        let order = VoidOrder { order: order.clone(), reason, even_if_sent, uid: 1000 };
        self.runtime.block_on(self.network().void(order)).unwrap()
    }

    fn came_to_nothing(&self, id: DeductionId, is_counted: bool) {
        let (outcome, answer) = (Outcome::StillPending, Some("no route".to_owned()));
        let attempt = Attempt { id, is_counted, is_doubtful: is_counted, is_unknown: is_counted, outcome, answer, at_utc_ms: 5 };
        self.runtime.block_on(self.network().attempt(attempt)).unwrap();
    }

    fn parked_row(&self, code: &str) -> Admitted {
        let admitted = self.sendable_row(code);
        self.record(admitted.id, Outcome::Parked { reason: "refused" }, "errcode 47001");
        admitted
    }

    pub(super) fn state(&self, order: &OrderNumber) -> String {
        self.story(order).row.state
    }
}

fn is_refused(decided: &Decided, why: &str) -> bool {
    matches!(decided, Decided::Refused(sentence) if sentence.contains(why))
}

#[test]
fn a_parked_row_that_is_retried_is_announced_and_begins_anew() {
    let bench = Bench::new();
    let row = bench.sendable_row("a");
    bench.runtime.block_on(bench.network().pending_since());
    bench.came_to_nothing(row.id, true);
    bench.record(row.id, Outcome::Parked { reason: "unknown-errcode" }, "errcode 1");
    assert_eq!(bench.retry(&row.order), Decided::Done);
    assert_eq!(bench.runtime.block_on(bench.network().pending_since()), row.id);
    assert_eq!(bench.sendable(0), [row.id]);
    assert_eq!(bench.claim(row.id).unwrap().unknown_answers, 0);
    let story = bench.story(&row.order);
    assert_eq!((story.row.state.as_str(), story.row.reason), ("pending", None));
    assert_eq!(story.events.last().unwrap().detail.as_deref(), Some("retried by uid 1000"));
}

#[test]
fn only_a_parked_row_that_has_not_been_paid_is_retried() {
    let bench = Bench::new();
    let (pending, parked) = (bench.sendable_row("a"), bench.parked_row("b"));
    assert!(is_refused(&bench.retry(&pending.order), "is pending"));
    assert_eq!(bench.state(&parked.order), "parked");
    bench.shell().execute("UPDATE deduction SET transaction_id = 'T' WHERE id = ?", [parked.id]).unwrap();
    assert!(is_refused(&bench.retry(&parked.order), "transaction_id"));
    let batch = bench.runtime.block_on(bench.network().retry_parked(0, 0)).unwrap();
    assert_eq!(batch, RetriedBatch { retried: 0, refused: 1, next_after_id: None });
    assert_eq!(bench.retry(&OrderNumber::generate(0).unwrap()), Decided::NotFound);
}

#[test]
fn all_parked_rows_are_retried_in_small_steps() {
    let bench = Bench::new();
    let rows: Vec<_> = (0..70).map(|number| bench.parked_row(&number.to_string())).collect();
    let step = |after_id| bench.runtime.block_on(bench.network().retry_parked(after_id, 0)).unwrap();
    assert_eq!(step(0), RetriedBatch { retried: 64, refused: 0, next_after_id: Some(rows[63].id) });
    assert_eq!(step(rows[63].id), RetriedBatch { retried: 6, refused: 0, next_after_id: None });
    assert_eq!(bench.sendable(0).len(), 70);
}

#[test]
fn a_row_that_was_never_handed_out_becomes_void() {
    let bench = Bench::new();
    let row = bench.sendable_row("a");
    assert_eq!(bench.void(&row.order, false), Decided::Done);
    let story = bench.story(&row.order);
    assert_eq!((story.row.state.as_str(), story.row.reason.as_deref()), ("void", Some("test ride")));
    assert!(story.row.settled_at.is_some());
    assert_eq!(story.events.last().unwrap().detail.as_deref(), Some("voided by uid 1000: test ride"));
    assert_eq!(bench.claim(row.id), None);
}

#[test]
fn what_may_have_been_sent_becomes_void_only_when_a_person_insists() {
    let bench = Bench::new();
    let rows: Vec<_> = ["a", "b", "c"].iter().map(|code| bench.sendable_row(code)).collect();
    for row in &rows {
        bench.claim(row.id).unwrap();
    }
    bench.came_to_nothing(rows[1].id, true);
    bench.came_to_nothing(rows[2].id, true);
    bench.record(rows[2].id, Outcome::Parked { reason: "refused" }, "errcode 47001");
    for row in &rows {
        assert!(is_refused(&bench.void(&row.order, false), "--even-if-sent"));
        assert_eq!(bench.void(&row.order, true), Decided::Done);
    }
}

#[test]
fn what_was_only_ever_refused_clearly_becomes_void_without_insisting() {
    let bench = Bench::new();
    let row = bench.parked_row("a");
    assert_eq!(bench.void(&row.order, false), Decided::Done);
}

#[test]
fn what_was_accepted_never_becomes_void() {
    let bench = Bench::new();
    let row = bench.sendable_row("a");
    bench.record(row.id, Outcome::Accepted, "errcode 0");
    assert!(is_refused(&bench.void(&row.order, true), "is accepted"));
}

#[test]
fn a_request_that_reached_nobody_leaves_the_row_unsent_unless_an_earlier_one_may_have() {
    let mut bench = Bench::new();
    let (row, doubtful, at_the_stop) = (bench.sendable_row("a"), bench.sendable_row("b"), bench.sendable_row("c"));
    for row in [&row, &doubtful, &at_the_stop] {
        bench.claim(row.id).unwrap();
    }
    bench.came_to_nothing(row.id, false);
    bench.came_to_nothing(doubtful.id, true);
    // At a clean stop what is still being sent may have been taken.
    bench.restart();
    bench.claim(doubtful.id).unwrap();
    bench.came_to_nothing(doubtful.id, false);
    assert_eq!(bench.void(&row.order, false), Decided::Done);
    assert!(is_refused(&bench.void(&doubtful.order, false), "was sent"));
    assert!(is_refused(&bench.void(&at_the_stop.order, false), "may have been sent"));
}

#[test]
fn a_line_that_is_away_writes_nothing_to_the_card_probe_after_probe() {
    let bench = Bench::new();
    let row = bench.sendable_row("a");
    bench.claim(row.id).unwrap();
    bench.came_to_nothing(row.id, false);
    bench.totals();
    let shell = bench.shell();
    let before: i64 = shell.query_row("PRAGMA data_version", [], |row| row.get(0)).unwrap();
    for _ in 0..3 {
        bench.claim(row.id).unwrap();
        bench.came_to_nothing(row.id, false);
        bench.totals();
    }
    let after: i64 = shell.query_row("PRAGMA data_version", [], |row| row.get(0)).unwrap();
    assert_eq!(before, after);
}

#[test]
fn after_an_unclean_end_every_earlier_row_may_have_been_sent() {
    let mut bench = Bench::new();
    let (before, clean) = (bench.sendable_row("a"), bench.sendable_row("b"));
    bench.restart();
    assert_eq!(bench.void(&clean.order, false), Decided::Done, "nothing was handed out");
    let claimed = bench.sendable_row("c");
    bench.claim(claimed.id).unwrap();
    // What the file holds while a run hands out rows, and nothing of what is deferred: as after a power cut.
    let copy = bench.folder.path().join("copy.db");
    bench.shell().execute("VACUUM INTO ?", [copy.to_str().unwrap()]).unwrap();
    bench.stop();
    for name in ["ledger.db-wal", "ledger.db-shm"] {
        let _ = fs::remove_file(bench.folder.path().join(name));
    }
    fs::rename(copy, bench.path()).unwrap();
    for _ in 0..2 {
        bench.handles = Some(start(bench.options()).unwrap());
        for row in [&before, &claimed] {
            assert!(is_refused(&bench.void(&row.order, false), "may have been sent"));
        }
        bench.stop();
    }
    bench.handles = Some(start(bench.options()).unwrap());
    let after = bench.sendable_row("d");
    assert_eq!(bench.void(&after.order, false), Decided::Done);
}

#[test]
fn a_file_that_was_closed_by_a_fault_is_told_again_that_rows_are_handed_out() {
    let mut bench = Bench::new();
    let is_delivering =
        |bench: &Bench| -> bool { bench.shell().query_row("SELECT is_delivering FROM delivery", [], |row| row.get(0)).unwrap() };
    let (before, after) = (bench.sendable_row("a"), bench.sendable_row("b"));
    bench.totals();
    assert!(!is_delivering(&bench));
    bench.claim(before.id).unwrap();
    assert!(is_delivering(&bench));
    bench.remove_file();
    assert!(bench.tap("in", "c", "c").is_err());
    bench.put_file_back();
    bench.wait_up();
    bench.claim(after.id).unwrap();
    assert!(is_delivering(&bench), "a crash now would leave no doubt");
    bench.stop();
    assert!(!is_delivering(&bench));
}

#[test]
fn the_answer_to_a_row_that_became_void_meanwhile_is_kept_as_evidence() {
    let bench = Bench::new();
    let row = bench.sendable_row("a");
    bench.claim(row.id).unwrap();
    assert_eq!(bench.void(&row.order, true), Decided::Done);
    bench.record(row.id, Outcome::Accepted, "errcode 0");
    let story = bench.story(&row.order);
    assert_eq!((story.row.state.as_str(), story.events.last().unwrap().event.as_str()), ("void", "accepted-after-void"));
}

#[test]
fn a_reason_is_short_plain_text() {
    assert_eq!(Reason::parse("  读卡器故障 ").unwrap().as_str(), "读卡器故障");
    for bad in ["", " \t", "two\nlines", "\u{1b}[2J", &"x".repeat(201)] {
        assert!(Reason::parse(bad).is_err(), "{bad:?}");
    }
}
