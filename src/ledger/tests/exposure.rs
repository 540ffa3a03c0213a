//! Limits on what is recorded but not yet accepted.

use super::*;
use crate::config::AtLimit;

const NO_LIMIT: Limits = Limits {
    passenger_count: u32::MAX,
    passenger: Fen(i64::MAX),
    gate: Fen(i64::MAX),
    oldest_ms: i64::MAX,
    at_limit: AtLimit::Deny,
};

fn limited(limits: Limits) -> Bench {
    Bench::with(|bench| bench.exposure = Some(limits))
}

const REFUSED: Admission = Admission::Refused(Refusal::Exposure);

/// As [`Bench::tap`], of a passenger whose last tap is long ago.
fn later_tap(bench: &Bench, code: &str, passenger: &str) -> Admission {
    bench.shell().execute("UPDATE seen SET at_boottime_ms = at_boottime_ms - 6000", []).unwrap();
    bench.tap("in", code, passenger).unwrap()
}

#[test]
fn a_passenger_is_refused_at_the_limit_until_a_row_is_accepted() {
    let bench = limited(Limits { passenger_count: 2, ..NO_LIMIT });
    let Admission::Admitted(first) = later_tap(&bench, "a1", "a") else { panic!() };
    bench.opened(first.id);
    assert!(matches!(later_tap(&bench, "a2", "a"), Admission::Admitted(_)));
    assert_eq!(later_tap(&bench, "a3", "a"), REFUSED);
    assert!(matches!(later_tap(&bench, "b1", "b"), Admission::Admitted(_)));
    bench.record(first.id, Outcome::Parked { reason: "refused" }, "errcode 47001");
    assert_eq!(later_tap(&bench, "a3", "a"), REFUSED, "what is parked is not accepted either");
    bench.retry(&first.order);
    bench.record(first.id, Outcome::Accepted, "errcode 0");
    bench.totals();
    assert!(matches!(later_tap(&bench, "a3", "a"), Admission::Admitted(_)));
}

#[test]
fn the_gates_limit_counts_all_that_is_not_accepted() {
    let bench = limited(Limits { gate: Fen(500), ..NO_LIMIT });
    let (first, second) = (bench.sendable_row("a"), bench.sendable_row("b"));
    assert_eq!(bench.tap("in", "c", "c").unwrap(), REFUSED);
    assert_eq!(bench.totals().at_risk_fen, 400);
    bench.record(first.id, Outcome::Accepted, "errcode 0");
    bench.totals();
    bench.admitted("c");
    assert_eq!(bench.void(&second.order, false), Decided::Done);
    assert_eq!(bench.totals().at_risk_fen, 200);
}

#[test]
fn a_line_that_stands_still_refuses_and_a_row_that_waits_for_a_person_does_not() {
    let bench = limited(Limits { oldest_ms: 200, ..NO_LIMIT });
    let row = bench.sendable_row("a");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(bench.tap("in", "b", "b").unwrap(), REFUSED);
    let alarm = bench.network().alarms().borrow().first().cloned().unwrap();
    assert!(alarm.contains("oldest") && alarm.contains("refused"), "{alarm}");
    bench.record(row.id, Outcome::Parked { reason: "refused" }, "errcode 47001");
    bench.totals();
    bench.admitted("b");
}

#[test]
fn a_duplicate_is_called_so_at_a_limit_too() {
    let bench = limited(Limits { gate: Fen(200), ..NO_LIMIT });
    bench.admitted("a");
    assert_eq!(bench.tap("out", "a", "a").unwrap(), Admission::Refused(Refusal::Duplicate));
    assert_eq!(bench.tap("out", "b", "b").unwrap(), REFUSED);
}

#[test]
fn a_passengers_rows_are_looked_up_in_an_index() {
    let bench = Bench::new();
    let shell = bench.shell();
    let mut statement = shell.prepare(&format!("EXPLAIN QUERY PLAN {}", store::OF_PASSENGER)).unwrap();
    let steps: Vec<String> = statement.query_map(("a", 1), |row| row.get("detail")).unwrap().map(Result::unwrap).collect();
    assert!(steps.iter().any(|step| step.contains("COVERING INDEX deduction_exposed")), "{steps:?}");
}

#[test]
fn a_row_whose_age_is_not_sure_hides_no_older_one_behind_it() {
    let bench = limited(Limits { oldest_ms: 60_000, ..NO_LIMIT });
    for number in 0..70 {
        bench.sendable_row(&number.to_string());
    }
    bench.totals();
    bench.shell().execute_batch("INSERT INTO boot (boot_id) VALUES ('another'); UPDATE deduction SET clock_synchronized = 0, created_boot = (SELECT id FROM boot WHERE boot_id = 'another')").unwrap();
    let told = |code: &str| bench.tap("in", code, code).unwrap();
    assert!(matches!(told("a"), Admission::Admitted(_)), "whose age nobody knows is no reason");
    bench.shell().execute("UPDATE deduction SET created_boottime_ms = created_boottime_ms - 70000 WHERE id = 71", []).unwrap();
    // Each look passes over a bounded number of rows.
    let answers = ["b", "c", "d"].map(told);
    assert_eq!(answers[2], REFUSED, "{answers:?}");
}
