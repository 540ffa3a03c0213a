//! What becomes of old rows.

use super::*;

/// Until a condition holds.
fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn limited(max_age_ms: i64) -> Bench {
    Bench::with(|bench| bench.keeping.max_age_ms = max_age_ms)
}

const DAY_MS: i64 = 86_400_000;

/// A row as another boot of the machine left it, recorded `days` days ago by its clock.
fn from_another_boot(bench: &Bench, id: DeductionId, days: i64, is_synchronized: bool) {
    bench.totals();
    let shell = bench.shell();
    shell.execute("INSERT OR IGNORE INTO boot (boot_id) VALUES ('another')", []).unwrap();
    let update = "UPDATE deduction SET created_boot = (SELECT id FROM boot WHERE boot_id = 'another'), created_boottime_ms = 5,
         created_utc_ms = ?, clock_synchronized = ? WHERE id = ?";
    shell.execute(update, (Stamp::now().utc_ms - days * DAY_MS, is_synchronized, id)).unwrap();
}

#[test]
fn a_row_that_is_too_old_is_parked_and_not_handed_out() {
    let bench = limited(-1);
    let row = bench.sendable_row("a");
    bench.totals();
    assert_eq!(bench.claim(row.id), None);
    let story = bench.story(&row.order);
    assert_eq!((story.row.state.as_str(), story.row.reason.as_deref()), ("parked", Some("max-age")));
    assert_eq!(story.events.last().unwrap().event, "parked");
}

#[test]
fn old_rows_are_parked_though_nobody_asks_for_them() {
    let bench = limited(-1);
    let rows: Vec<_> = (0..70).map(|number| bench.sendable_row(&number.to_string())).collect();
    wait("all are parked", || bench.totals().deductions[5] == 70);
    assert_eq!(bench.story(&rows[69].order).row.reason.as_deref(), Some("max-age"));
}

#[test]
fn what_a_person_had_sent_again_is_sent_whatever_its_age() {
    let bench = limited(-1);
    let (retried, later) = (bench.sendable_row("a"), bench.sendable_row("b"));
    wait("both are parked", || bench.totals().deductions[5] == 2);
    assert_eq!(bench.retry(&retried.order), Decided::Done);
    let marker = bench.sendable_row("c");
    wait("the sweep has passed", || bench.state(&marker.order) == "parked");
    assert_eq!((bench.state(&retried.order).as_str(), bench.state(&later.order).as_str()), ("pending", "parked"));
    assert!(bench.claim(retried.id).is_some());
}

#[test]
fn a_row_that_is_being_sent_is_judged_by_its_answer() {
    let mut bench = Bench::new();
    let row = bench.sendable_row("a");
    bench.totals();
    bench.keeping.max_age_ms = 1_000;
    bench.restart();
    bench.claim(row.id).unwrap();
    std::thread::sleep(Duration::from_millis(1_100));
    let marker = bench.sendable_row("b");
    wait("the sweep has passed", || bench.state(&marker.order) == "parked");
    bench.record(row.id, Outcome::Accepted, "errcode 0");
    assert_eq!(bench.state(&row.order), "accepted");
}

#[test]
fn a_clock_that_jumped_from_1970_parks_nothing() {
    let bench = limited(DAY_MS);
    let (jumped, fresh) = (bench.sendable_row("a"), bench.sendable_row("b"));
    from_another_boot(&bench, jumped.id, 20_000, false);
    from_another_boot(&bench, fresh.id, 0, true);
    assert!(bench.claim(jumped.id).is_some() && bench.claim(fresh.id).is_some());
}

#[test]
fn across_boots_a_row_is_parked_by_age_only_when_both_clocks_are_synchronized() {
    let bench = limited(DAY_MS);
    let row = bench.sendable_row("a");
    from_another_boot(&bench, row.id, 2, true);
    assert_eq!(bench.claim(row.id).is_none(), Stamp::now().synchronized);
}
