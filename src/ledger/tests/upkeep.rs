//! What becomes of old rows.

use super::*;

/// Until a condition holds.
pub(super) fn wait(what: &str, mut condition: impl FnMut() -> bool) {
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

/// What the shell answers to a query for one number.
fn number(bench: &Bench, sql: &str) -> i64 {
    bench.shell().query_row(sql, [], |row| row.get(0)).unwrap()
}

fn void_row(bench: &Bench, code: &str) -> Admitted {
    let row = bench.admitted(code);
    bench.runtime.block_on(bench.gate().take_back(row.id.into(), Untaken::Late)).unwrap();
    row
}

#[test]
fn what_was_kept_long_enough_leaves_the_sums_of_its_day_and_nothing_unsettled_goes() {
    let mut bench = Bench::new();
    (0..70).for_each(|number| drop(void_row(&bench, &number.to_string())));
    let accepted = bench.sendable_row("accepted");
    bench.record(accepted.id, Outcome::Accepted, "errcode 0");
    let (parked, pending) = (bench.sendable_row("parked"), bench.sendable_row("pending"));
    bench.record(parked.id, Outcome::Parked { reason: "refused" }, "errcode 47001");
    bench.stop();
    bench.keeping.keep_ms = -1;
    bench.handles = Some(start(bench.options()).unwrap());
    wait("the settled ones are gone", || number(&bench, "SELECT count(*) FROM deduction") == 3);
    assert_eq!(bench.totals().deductions, [0, 1, 1, 0, 0, 1, 0]);
    for row in [&accepted, &parked, &pending] {
        assert!(bench.story(&row.order).events.len() > 1, "their stories stay");
    }
    assert_eq!(number(&bench, "SELECT count(*) FROM event WHERE deduction <= 70"), 0);
    let sums: (i64, i64, i64) = bench
        .shell()
        .query_row("SELECT sum(deductions), sum(total_fen), count(*) FROM daily WHERE state = 'void' AND line = '2'", [], |row| {
            row.try_into()
        })
        .unwrap();
    assert!((sums.0, sums.1) == (70, 70 * 200) && sums.2 <= 2, "{sums:?}");
}

#[test]
fn a_day_of_the_sums_is_beijings() {
    let mut bench = Bench::new();
    let row = void_row(&bench, "a");
    void_row(&bench, "b");
    bench.shell().execute("UPDATE deduction SET created_utc_ms = 1795449600000 WHERE id = ?", [row.id]).unwrap();
    bench.stop();
    bench.keeping.keep_ms = -1;
    bench.handles = Some(start(bench.options()).unwrap());
    wait("it is gone", || number(&bench, "SELECT count(*) FROM daily") == 1);
    let day: String = bench.shell().query_row("SELECT day FROM daily", [], |row| row.get(0)).unwrap();
    assert_eq!(day, "2026-11-24", "16:00 UTC is midnight in Beijing");
}

#[test]
fn what_was_settled_lately_is_kept_however_old_the_ride() {
    let mut bench = Bench::new();
    let (lately, long_ago) = (void_row(&bench, "a"), void_row(&bench, "b"));
    void_row(&bench, "newest");
    let shell = bench.shell();
    shell.execute("UPDATE deduction SET created_boottime_ms = created_boottime_ms - ?", [2 * DAY_MS]).unwrap();
    shell.execute("UPDATE deduction SET settled_utc_ms = settled_utc_ms - ? WHERE id = ?", [2 * DAY_MS, long_ago.id]).unwrap();
    drop(shell);
    bench.stop();
    bench.keeping.keep_ms = DAY_MS;
    bench.handles = Some(start(bench.options()).unwrap());
    wait("one is gone", || number(&bench, "SELECT count(*) FROM deduction") == 2);
    assert_eq!(bench.state(&lately.order), "void");
}

#[test]
fn a_row_whose_clock_tells_nothing_goes_with_a_later_one_whose_clock_does() {
    let mut bench = Bench::new();
    let (unsure, newest) = (void_row(&bench, "a"), void_row(&bench, "b"));
    from_another_boot(&bench, unsure.id, 20_000, false);
    bench.stop();
    bench.keeping.keep_ms = DAY_MS;
    bench.handles = Some(start(bench.options()).unwrap());
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(number(&bench, "SELECT count(*) FROM deduction"), 2, "nothing tells its age");
    bench.stop();
    let shell = bench.shell();
    let age = "UPDATE deduction SET created_boottime_ms = created_boottime_ms - ?1, settled_utc_ms = settled_utc_ms - ?1";
    shell.execute(age, [2 * DAY_MS]).unwrap();
    drop(shell);
    bench.handles = Some(start(bench.options()).unwrap());
    wait("it is gone", || number(&bench, "SELECT count(*) FROM deduction") == 1);
    assert_eq!(bench.state(&newest.order), "void", "the newest ID is not given away");
}

#[test]
fn refused_scans_are_removed_after_their_time() {
    let mut bench = Bench::new();
    let scanned = Stamp { boottime_ms: Stamp::now().boottime_ms - 2 * DAY_MS, ..Stamp::now() };
    let denial = |lane: usize, scanned| {
        let lane = format!("lane{}", lane % 3).into();
        bench.gate().denied(Denial { lane, refusal: Refusal::Format, digest: None, passenger: None, scanned });
        bench.totals();
    };
    (0..90).for_each(|number| denial(number, scanned));
    (0..5).for_each(|number| denial(number, Stamp::now()));
    bench.stop();
    assert_eq!(number(&bench, "SELECT count(*) FROM denied"), 95);
    bench.keeping.keep_denied_ms = DAY_MS;
    bench.handles = Some(start(bench.options()).unwrap());
    wait("the old ones are gone", || number(&bench, "SELECT count(*) FROM denied") == 5);
}
