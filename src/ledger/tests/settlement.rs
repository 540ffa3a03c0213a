//! What callbacks make of rows, in whatever order they come.

use proptest::{prelude::*, test_runner::Config};

use super::*;
use crate::{config::NoPassage, ledger::store::BY_CODE, ride_code::CodeDigest};

const FARE: i64 = 200;

fn named(order: &OrderNumber) -> OrderNames {
    OrderNames { attach: Some(order.to_string()), ..OrderNames::default() }
}

fn payment(order: OrderNames, outcome: PaymentOutcome, fen: i64) -> Callback {
    Callback::Payment(Payment { order, outcome, fen, transaction_id: Some("T1".to_owned()), time_end: Some("odd".to_owned()) })
}

fn success(order: OrderNames, fen: i64) -> Callback {
    payment(order, PaymentOutcome::Paid, fen)
}

fn fail(order: OrderNames) -> Callback {
    payment(order, PaymentOutcome::Failed { why: Some("余额不足".to_owned()) }, FARE)
}

fn repayment(orders: Vec<OrderNames>, fen: i64) -> Callback {
    let (transaction_id, repay_no) = (Some("T1".to_owned()), Some("R1".to_owned()));
    Callback::Repayment(Repayment { orders, fen, transaction_id, repay_no, time_end: None })
}

impl Bench {
    fn settle(&self, callback: Callback) -> Settled {
        self.settle_or(callback, IfUnknown::Keep)
    }

    fn settle_or(&self, callback: Callback, if_unknown: IfUnknown) -> Settled {
        self.runtime.block_on(self.network().settle(callback, if_unknown)).unwrap()
    }

    fn accepted_row(&self, code: &str) -> Admitted {
        let row = self.sendable_row(code);
        self.record(row.id, Outcome::Accepted, "errcode 0");
        row
    }

    fn told(&self, order: &OrderNumber) -> Vec<String> {
        self.story(order).events.into_iter().map(|event| event.event).collect()
    }

    fn unknown(&self) -> Vec<(String, Option<String>, i64)> {
        let shell = self.shell();
        let mut statement = shell.prepare("SELECT told, attach, times FROM unknown_callback ORDER BY id").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }
}

fn changed(count: usize) -> Settled {
    Settled { changed: count, ..Settled::default() }
}

#[test]
fn a_paid_order_tells_what_was_paid_and_by_which_transaction() {
    let bench = Bench::new();
    let row = bench.accepted_row("a");
    assert_eq!(bench.settle(success(named(&row.order), FARE)), changed(1));
    let story = bench.story(&row.order);
    assert_eq!((story.row.state.as_str(), story.row.paid_fen, story.row.flags.len()), ("paid", Some(FARE), 0));
    assert_eq!((story.row.transaction_id.as_deref(), story.row.settled_at.is_some()), (Some("T1"), true));
    let last = story.events.last().unwrap();
    let detail = last.detail.as_deref();
    assert_eq!((last.event.as_str(), detail), ("paid", Some("callback: 200 fen, transaction T1, time_end odd")));
}

#[test]
fn an_unpaid_order_says_why_and_is_not_settled_until_it_is_repaid() {
    let bench = Bench::new();
    let row = bench.accepted_row("a");
    bench.settle(fail(named(&row.order)));
    let story = bench.story(&row.order);
    assert_eq!((story.row.state.as_str(), story.row.settled_at, story.row.paid_fen), ("unpaid", None, None));
    assert!(story.events.last().unwrap().detail.as_deref().unwrap().contains("余额不足"));
    bench.settle(repayment(vec![named(&row.order)], FARE));
    let story = bench.story(&row.order);
    assert_eq!((story.row.state.as_str(), story.row.paid_fen), ("paid", Some(FARE)));
    assert!(story.events.last().unwrap().detail.as_deref().unwrap().contains("repay_no R1"));
}

#[test]
fn a_settlement_is_in_the_file_when_it_is_answered() {
    let bench = Bench::new();
    let row = bench.accepted_row("a");
    bench.settle(success(named(&row.order), FARE));
    let state: String = bench.shell().query_row("SELECT state FROM deduction", [], |row| row.get(0)).unwrap();
    assert_eq!(state, "paid");
}

#[test]
fn the_answer_that_comes_after_the_callback_changes_nothing_and_is_told() {
    let bench = Bench::new();
    let (paid, unpaid) = (bench.sendable_row("a"), bench.sendable_row("b"));
    for row in [&paid, &unpaid] {
        bench.claim(row.id).unwrap();
    }
    bench.settle(success(named(&paid.order), FARE));
    bench.settle(fail(named(&unpaid.order)));
    let before = bench.story(&paid.order).row;
    bench.record(paid.id, Outcome::Accepted, "errcode 0");
    bench.record(unpaid.id, Outcome::Parked { reason: "refused" }, "errcode 47001");
    assert_eq!(bench.story(&paid.order).row, before);
    assert_eq!(bench.told(&paid.order).last().unwrap(), "accepted-after-callback");
    assert_eq!((bench.state(&unpaid.order).as_str(), bench.sendable(0)), ("unpaid", Vec::new()));
    assert_eq!(bench.claim(paid.id), None);
}

#[test]
fn a_row_that_is_paid_before_its_opening_is_heard_of_stays_paid() {
    let bench = Bench::new();
    let (opens, fails) = (bench.admitted("a"), bench.admitted("b"));
    for row in [&opens, &fails] {
        bench.settle(success(named(&row.order), FARE));
    }
    bench.opened(opens.id);
    bench.runtime.block_on(bench.gate().take_back(fails.id.into(), Untaken::Late)).unwrap();
    assert_eq!((bench.state(&opens.order), bench.state(&fails.order)), ("paid".to_owned(), "paid".to_owned()));
    assert_eq!(bench.sendable(0), Vec::<DeductionId>::new());
}

#[test]
fn a_row_that_is_held_for_its_passage_can_be_paid_but_not_unpaid_and_the_passage_takes_nothing_back() {
    let mut bench = Bench::new();
    for (code, passes) in [("a", false), ("b", true)] {
        let tap = Tap { awaits_passage: true, ..tap("in", code, code) };
        let Admission::Admitted(row) = bench.runtime.block_on(bench.gate().admit(tap)).unwrap() else { panic!("refused") };
        bench.opened(row.id);
        assert_eq!(bench.settle(fail(named(&row.order))).unchanged, 1);
        assert_eq!(bench.state(&row.order), "held");
        assert_eq!(bench.settle(success(named(&row.order), FARE)), changed(1));
        let outcome = if passes { PassageOutcome::Passed } else { PassageOutcome::NotPassed(NoPassage::Void) };
        bench.runtime.block_on(bench.gate().passage(Passage { record: row.id.into(), outcome, at_utc_ms: 9 }));
        bench.restart();
        assert_eq!(bench.state(&row.order), "paid");
    }
}

#[test]
fn a_void_order_that_was_paid_says_so() {
    let bench = Bench::new();
    let row = bench.sendable_row("a");
    assert_eq!(bench.void(&row.order, true), Decided::Done);
    assert_eq!(bench.settle(fail(named(&row.order))).unchanged, 1);
    assert_eq!(bench.state(&row.order), "void");
    assert_eq!(bench.settle(success(named(&row.order), FARE)).paid_after_void, [row.order.to_string()]);
    let row = bench.story(&row.order).row;
    assert_eq!((row.state.as_str(), row.flags, row.reason), ("paid", vec!["paid-after-void".to_owned()], None));
}

#[test]
fn another_amount_is_recorded_as_told_and_flagged() {
    let bench = Bench::new();
    let row = bench.accepted_row("a");
    assert_eq!(bench.settle(success(named(&row.order), 150)).mismatched, [row.order.to_string()]);
    let row = bench.story(&row.order).row;
    assert_eq!((row.state.as_str(), row.paid_fen, row.flags), ("paid", Some(150), vec!["amount-mismatch".to_owned()]));
}

#[test]
fn a_second_payment_of_an_order_is_told_once_each_however_full_its_story_is_and_counts_as_an_alarm() {
    let mut bench = Bench::new();
    let row = bench.accepted_row("a");
    for _ in 0..30 {
        bench.settle(success_of("T1", named(&row.order)));
    }
    for transaction in ["T2", "T3"] {
        assert_eq!(bench.settle(success_of(transaction, named(&row.order))).paid_again, [row.order.to_string()]);
        assert_eq!(bench.settle(success_of(transaction, named(&row.order))).paid_again, [""; 0], "the same again");
    }
    assert_eq!(bench.told(&row.order).iter().filter(|event| *event == "paid-again").count(), 2);
    let shown = bench.story(&row.order).row;
    assert_eq!((shown.transaction_id.as_deref(), shown.flags), (Some("T1"), vec!["paid-again".to_owned()]));
    bench.restart();
    let alarms = bench.runtime.block_on(bench.network().settlement_alarms()).unwrap();
    let causes: Vec<_> = alarms.iter().map(|alarm| (alarm.cause.as_str(), alarm.order.as_str())).collect();
    assert_eq!(causes, [("paid-again", row.order.as_str()); 2]);
}

#[test]
fn what_is_told_again_and_again_is_told_in_the_story_some_of_the_times() {
    let bench = Bench::new();
    let row = bench.accepted_row("a");
    for _ in 0..30 {
        bench.settle(success(named(&row.order), FARE));
    }
    bench.settle(fail(named(&row.order)));
    let told = bench.told(&row.order);
    assert_eq!(told.iter().filter(|event| *event == "callback-without-effect").count(), 20, "{told:?}");
    assert_eq!(bench.state(&row.order), "paid");
}

#[test]
fn an_order_is_found_by_attach_then_by_number_then_by_code() {
    let bench = Bench::new();
    let rows: Vec<_> = ["a", "b", "c", "d"].iter().map(|code| bench.accepted_row(code)).collect();
    let [first, second, third, fourth] = rows.try_into().unwrap();
    let code = |code: &[u8]| Some(CodeDigest::of(code));
    let names = |attach: &str, out_trade_no: &str, code| OrderNames {
        attach: Some(attach.to_owned()),
        out_trade_no: Some(out_trade_no.to_owned()),
        order_no: None,
        code,
    };
    bench.settle(success(names(first.order.as_str(), second.order.as_str(), code(b"c")), FARE));
    bench.settle(success(names("changed", second.order.as_str(), code(b"c")), FARE));
    bench.settle(success(names("changed", "4200001", code(b"c")), FARE));
    bench.settle(success(OrderNames { code: code(b"d"), ..OrderNames::default() }, FARE));
    for row in [first, second, third, fourth] {
        assert_eq!(bench.told(&row.order).iter().filter(|event| *event == "paid").count(), 1);
    }
}

#[test]
fn a_code_that_another_gate_charged_settles_nothing_here() {
    let bench = Bench::new();
    let row = bench.accepted_row("a");
    let others = OrderNumber::generate(0).unwrap();
    let names = OrderNames { code: Some(CodeDigest::of(b"a")), ..named(&others) };
    assert_eq!(bench.settle(fail(names)).unknown, 1);
    assert_eq!(bench.state(&row.order), "accepted");
}

/// A code whose opening did not happen is used again: two rows have it, and the one that was charged is meant.
#[test]
fn of_two_rows_with_one_code_the_charged_one_is_settled_even_before_its_answer() {
    let bench = Bench::new();
    let late = bench.admitted("a");
    bench.runtime.block_on(bench.gate().take_back(late.id.into(), Untaken::Late)).unwrap();
    let charged = bench.sendable_row("a");
    let by_code = || OrderNames { code: Some(CodeDigest::of(b"a")), ..OrderNames::default() };
    bench.settle(fail(by_code()));
    assert_eq!((bench.state(&late.order).as_str(), bench.state(&charged.order).as_str()), ("void", "unpaid"));
    bench.shell().execute_batch("DELETE FROM seen").unwrap();
    bench.settle(success(by_code(), FARE));
    assert_eq!((bench.state(&late.order).as_str(), bench.state(&charged.order).as_str()), ("void", "paid"));
}

fn by_code(code: &str) -> OrderNames {
    OrderNames { code: Some(CodeDigest::of(code.as_bytes())), ..OrderNames::default() }
}

fn success_of(transaction: &str, order: OrderNames) -> Callback {
    let transaction_id = Some(transaction.to_owned());
    Callback::Payment(Payment { order, outcome: PaymentOutcome::Paid, fen: FARE, transaction_id, time_end: None })
}

impl Bench {
    /// Two rides with one code, both accepted.
    fn rides_with_one_code(&self) -> [Admitted; 2] {
        let rides = [self.accepted_row("a"), self.accepted_row("b")];
        let shell = self.shell();
        shell.execute("UPDATE deduction SET code_digest = ?", [CodeDigest::of(b"a").0]).unwrap();
        shell.execute_batch("DELETE FROM seen").unwrap();
        rides
    }

    fn states(&self, rides: &[Admitted; 2]) -> [String; 2] {
        [&rides[0], &rides[1]].map(|ride| self.state(&ride.order))
    }
}

#[test]
fn a_payment_that_names_only_a_code_settles_one_ride_of_it_however_often_it_is_told() {
    let bench = Bench::new();
    let rides = bench.rides_with_one_code();
    for _ in 0..3 {
        bench.settle(success_of("T1", by_code("a")));
    }
    assert_eq!(bench.states(&rides), ["paid", "accepted"]);
    for transaction in ["T2", "T1", "T2"] {
        bench.settle(success_of(transaction, by_code("a")));
    }
    assert_eq!(bench.states(&rides), ["paid", "paid"]);
    let transactions = rides.map(|ride| bench.story(&ride.order).row.transaction_id);
    assert_eq!(transactions, [Some("T1".to_owned()), Some("T2".to_owned())]);
}

#[test]
fn a_repayment_that_names_two_trips_by_one_code_settles_both_however_often_it_is_told() {
    let bench = Bench::new();
    let rides = bench.rides_with_one_code();
    let told = || repayment(vec![by_code("a"), by_code("a")], 2 * FARE);
    assert_eq!(bench.settle(told()), changed(2));
    assert_eq!(bench.settle(told()).unchanged, 2);
    assert_eq!(bench.states(&rides), ["paid", "paid"]);
}

#[test]
fn a_pending_row_is_found_by_its_code_when_its_tap_is_long_forgotten() {
    let bench = Bench::new();
    let row = bench.sendable_row("a");
    bench.totals();
    bench.shell().execute_batch("DELETE FROM seen").unwrap();
    bench.settle(success(OrderNames { code: Some(CodeDigest::of(b"a")), ..OrderNames::default() }, FARE));
    assert_eq!(bench.state(&row.order), "paid");
}

#[test]
fn looking_for_a_code_reads_no_table_as_a_whole() {
    let bench = Bench::new();
    let shell = bench.shell();
    let mut statement = shell.prepare(&format!("EXPLAIN QUERY PLAN {BY_CODE}")).unwrap();
    let names = rusqlite::params![[0_u8; 16], "T1"];
    let plan: Vec<String> = statement.query_map(names, |row| row.get(3)).unwrap().map(Result::unwrap).collect();
    let plan = plan.join("\n");
    assert!(plan.contains("deduction_code") && plan.contains("seen_code") && plan.contains("deduction_open"), "{plan}");
    assert!(!plan.contains("SCAN deduction") && !plan.contains("SCAN seen"), "{plan}");
}

#[test]
fn one_repayment_settles_several_trips_and_keeps_the_unknown_ones() {
    let bench = Bench::new();
    let rows: Vec<_> = ["a", "b", "c"].iter().map(|code| bench.accepted_row(code)).collect();
    bench.settle(success(named(&rows[0].order), FARE));
    let mut names: Vec<_> = rows.iter().map(|row| named(&row.order)).collect();
    names.push(names[1].clone());
    names.push(OrderNames { attach: Some("stranger".to_owned()), ..OrderNames::default() });
    let settled = bench.settle(repayment(names, 5 * FARE));
    assert_eq!((settled.changed, settled.unchanged, settled.unknown, settled.mismatched.len()), (2, 1, 1, 0));
    for row in &rows {
        let row = bench.story(&row.order).row;
        assert_eq!((row.state.as_str(), row.paid_fen, row.flags.len()), ("paid", Some(FARE), 0));
    }
    assert_eq!(bench.unknown(), [("repaid".to_owned(), Some("stranger".to_owned()), 1)]);
}

#[test]
fn a_repayment_whose_sum_does_not_fit_is_flagged_on_each_trip() {
    let bench = Bench::new();
    let rows: Vec<_> = ["a", "b"].iter().map(|code| bench.accepted_row(code)).collect();
    let names = || rows.iter().map(|row| named(&row.order)).collect();
    assert_eq!(bench.settle(repayment(names(), 2 * FARE - 1)).mismatched.len(), 2);
    for row in &rows {
        let row = bench.story(&row.order).row;
        assert_eq!((row.state.as_str(), row.paid_fen, row.flags), ("paid", None, vec!["amount-mismatch".to_owned()]));
    }
    let single = bench.accepted_row("c");
    bench.settle(repayment(vec![named(&single.order)], 1));
    assert_eq!(bench.story(&single.order).row.paid_fen, Some(1));
}

#[test]
fn callbacks_for_unknown_orders_are_kept_once_each_up_to_a_limit_or_left() {
    let bench = Bench::new();
    let names = |attach: &str| OrderNames { attach: Some(attach.to_owned()), ..OrderNames::default() };
    let unknown = Settled { unknown: 1, ..Settled::default() };
    assert_eq!(bench.settle_or(success(names("A"), FARE), IfUnknown::Leave), unknown);
    assert_eq!(bench.unknown(), []);
    for _ in 0..3 {
        assert_eq!(bench.settle(success(names("A"), FARE)), unknown);
    }
    bench.settle(fail(names("A")));
    let kept = |told: &str, times| (told.to_owned(), Some("A".to_owned()), times);
    assert_eq!(bench.unknown(), [kept("paid", 3), kept("unpaid", 1)]);
    bench.shell().execute_batch("UPDATE unknown_callback SET id = 20000 WHERE told = 'unpaid'").unwrap();
    bench.settle(success(names("B"), FARE));
    assert_eq!(bench.unknown().len(), 2, "the oldest is gone");
}

// ---- any order, any repetition -----------------------------------------------------------------------------------------------------

/// Everything that can happen to a row that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Happening {
    Accepted,
    Parked,
    NoAnswer,
    Success {
        fen: i64,
    },
    Fail,
    /// Of both rows at once.
    Repayment,
    Retry,
    Void,
    Restart,
}

/// The contract's table, as naively as it can be said.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Model {
    state: &'static str,
    paid_fen: Option<i64>,
    flags: Vec<String>,
}

impl Model {
    fn new() -> Self {
        Self { state: "pending", paid_fen: None, flags: Vec::new() }
    }

    fn pay(&mut self, fen: i64) {
        if self.state == "paid" {
            if self.paid_fen != Some(fen) && !self.flags.contains(&"paid-again".to_owned()) {
                self.flags.push("paid-again".to_owned());
            }
            return;
        }
        if self.state == "void" {
            self.flags.push("paid-after-void".to_owned());
        }
        if fen != FARE {
            self.flags.push("amount-mismatch".to_owned());
        }
        (self.state, self.paid_fen) = ("paid", Some(fen));
    }

    fn happens(&mut self, happening: Happening) {
        match (happening, self.state) {
            (Happening::Accepted, "pending") => self.state = "accepted",
            (Happening::Parked, "pending") => self.state = "parked",
            (Happening::Success { fen }, _) => self.pay(fen),
            (Happening::Repayment, _) => self.pay(FARE),
            (Happening::Fail, "pending" | "accepted" | "parked") => self.state = "unpaid",
            (Happening::Retry, "parked") => self.state = "pending",
            (Happening::Void, "pending" | "parked") => self.state = "void",
            _ => {}
        }
    }

    fn of(bench: &Bench, order: &OrderNumber) -> Self {
        let row = bench.story(order).row;
        let state = STATES.into_iter().find(|state| *state == row.state).unwrap();
        Self { state, paid_fen: row.paid_fen, flags: row.flags }
    }

    /// What never goes down; a row that is pending, parked or void has none.
    fn rank(&self) -> Option<usize> {
        ["accepted", "unpaid", "paid"].iter().position(|state| *state == self.state)
    }
}

impl Bench {
    fn happens(&mut self, happening: Happening, row: &Admitted, both: &[Admitted]) {
        let order = named(&row.order);
        match happening {
            Happening::Accepted => self.record(row.id, Outcome::Accepted, "errcode 0"),
            Happening::Parked => self.record(row.id, Outcome::Parked { reason: "refused" }, "errcode 47001"),
            Happening::NoAnswer => self.record(row.id, Outcome::StillPending, "time-out"),
            Happening::Success { fen } => drop(self.settle(success(order, fen))),
            Happening::Fail => drop(self.settle(fail(order))),
            Happening::Repayment => {
                let fen = FARE * i64::try_from(both.len()).unwrap();
                self.settle(repayment(both.iter().map(|row| named(&row.order)).collect(), fen));
            }
            Happening::Retry => drop(self.retry(&row.order)),
            Happening::Void => drop(self.void(&row.order, true)),
            Happening::Restart => self.restart(),
        }
    }
}

fn of_wechat() -> impl Strategy<Value = Happening> {
    prop_oneof![
        Just(Happening::Accepted),
        Just(Happening::NoAnswer),
        Just(Happening::Success { fen: FARE }),
        Just(Happening::Fail),
        Just(Happening::Restart),
    ]
}

fn any_happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => of_wechat(),
        1 => Just(Happening::Parked),
        1 => Just(Happening::Success { fen: 150 }),
        1 => Just(Happening::Repayment),
        1 => Just(Happening::Retry),
        1 => Just(Happening::Void),
    ]
}

proptest! {
    #![proptest_config(Config { cases: cases(40), ..Config::default() })]

    #[test]
    fn whatever_happens_in_whatever_order_a_row_is_what_the_contract_says_and_its_rank_never_falls(
        happenings in proptest::collection::vec((any_happening(), 0..2_usize), 1..24),
    ) {
        let mut bench = Bench::new();
        let rows = [bench.sendable_row("a"), bench.sendable_row("b")];
        let mut models = [Model::new(), Model::new()];
        for (happening, which) in happenings {
            bench.happens(happening, &rows[which], &rows);
            for (at, (row, model)) in rows.iter().zip(&mut models).enumerate() {
                let before = model.rank();
                if at == which || happening == Happening::Repayment {
                    model.happens(happening);
                }
                let is = Model::of(&bench, &row.order);
                prop_assert_eq!(&is, model, "after {:?}", happening);
                prop_assert!(is.rank() >= before, "{:?} fell", happening);
            }
        }
        let totals = bench.totals().deductions;
        for (state, count) in STATES.iter().zip(totals) {
            prop_assert_eq!(count, models.iter().filter(|model| model.state == *state).count() as u64);
        }
    }

    #[test]
    fn what_wechat_says_ends_the_same_in_every_order_and_however_often(
        (first, second) in proptest::collection::vec(of_wechat(), 1..8).prop_flat_map(|happenings| {
            let again = happenings.iter().chain(&happenings).copied().collect::<Vec<_>>();
            (Just(happenings).prop_shuffle(), Just(again).prop_shuffle())
        }),
    ) {
        let mut bench = Bench::new();
        let rows = [bench.sendable_row("a"), bench.sendable_row("b")];
        for (row, happenings) in rows.iter().zip([first, second]) {
            for happening in happenings {
                bench.happens(happening, row, &[]);
            }
        }
        let [one, other] = rows.map(|row| bench.story(&row.order).row);
        prop_assert_eq!((one.state, one.paid_fen, one.transaction_id), (other.state, other.paid_fen, other.transaction_id));
    }
}
