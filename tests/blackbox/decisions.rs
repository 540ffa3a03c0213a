//! What people decide: `queue retry` and `queue void`.

use crate::support::{Answer, Gate, WeChat, code, codes, gate::Builder};

fn builder(wechat: &WeChat) -> Builder {
    Gate::beside(wechat).set("wechat", "timeout", "1s")
}

/// A gate whose rides WeChat has refused for good.
fn gate_with_parked(wechat: &WeChat, codes: &[Vec<u8>]) -> Gate {
    wechat.answer(Answer::ErrCode(47001));
    let mut gate = builder(wechat).start();
    for code in codes {
        gate.scan("in", code);
    }
    gate.wait("all are parked", || gate.rows_in("parked").len() == codes.len());
    gate
}

/// The only order of the queue.
fn only_order(gate: &Gate) -> String {
    let rows = gate.queue();
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows[0]["order"].as_str().unwrap().to_owned()
}

/// The details of an order's events of this name.
fn told(gate: &Gate, order: &str, event: &str) -> Vec<String> {
    let events = gate.ask(&["queue", "show", order])["events"].as_array().unwrap().clone();
    events.iter().filter(|told| told["event"] == event).map(|told| told["detail"].as_str().unwrap().to_owned()).collect()
}

fn refused(gate: &Gate, args: &[&str], why: &str) {
    let said = gate.cli(args);
    assert_eq!((said.code, said.stdout.as_str(), said.stderr.lines().count()), (Some(1), "", 1), "{args:?}: {said:?}");
    assert!(said.stderr.contains(why), "{why} is not in {said:?}");
}

#[test]
fn a_parked_order_that_is_retried_is_charged_once() {
    let wechat = WeChat::start();
    let gate = gate_with_parked(&wechat, &[code("RETRY", 1)]);
    let order = only_order(&gate);
    wechat.answer(Answer::Ok);
    assert_eq!(gate.cli(&["queue", "retry", &order]).code, Some(0));
    gate.wait("it is accepted", || gate.rows_in("accepted").len() == 1);
    wechat.assert_charged_exactly(&[code("RETRY", 1)]);
    assert_eq!(told(&gate, &order, "retried"), [format!("retried by uid {}", rustix::process::geteuid().as_raw())]);
    refused(&gate, &["queue", "retry", &order], "is accepted");
    refused(&gate, &["queue", "void", &order, "--reason", "late", "--even-if-sent"], "is accepted");
}

#[test]
fn all_parked_orders_are_retried_at_once_with_a_daemon_and_without() {
    let wechat = WeChat::start();
    let codes = codes("ALL-PARKED", 0..3);
    let mut gate = gate_with_parked(&wechat, &codes);
    gate.stop_cleanly();
    assert_eq!(gate.cli(&["queue", "retry", "--all-parked"]).code, Some(0));
    assert_eq!(gate.rows_in("pending").len(), 3);
    gate.start();
    gate.wait("all are parked again", || gate.rows_in("parked").len() == 3);
    wechat.answer(Answer::Ok);
    let said = gate.cli(&["queue", "retry", "--all-parked"]);
    assert!(said.code == Some(0) && said.stdout.starts_with("3 orders"), "{said:?}");
    gate.wait("all are accepted", || gate.rows_in("accepted").len() == 3);
    wechat.assert_charged_exactly(&codes);
}

#[test]
fn an_order_that_was_sent_becomes_void_only_when_a_person_insists() {
    let wechat = WeChat::start();
    wechat.answer(Answer::Drop);
    let mut gate = builder(&wechat).start();
    gate.scan("in", &code("VOID", 1));
    let order = only_order(&gate);
    gate.wait("it was sent", || gate.rows_in("pending").first().is_some_and(|row| row["attempts"] != 0));
    let void = ["queue", "void", &order, "--reason", "the reader was broken"];
    refused(&gate, &void, "--even-if-sent");
    assert_eq!(gate.cli(&[&void[..], &["--even-if-sent"]].concat()).code, Some(0));
    let row = &gate.rows_in("void")[0];
    assert_eq!(row["reason"], "the reader was broken");
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(told(&gate, &order, "void"), [format!("voided by uid {uid}: the reader was broken")]);
    refused(&gate, &void, "is void");
    refused(&gate, &["queue", "retry", &order], "is void");
}

#[test]
fn an_order_that_was_refused_for_good_becomes_void_without_insisting() {
    let wechat = WeChat::start();
    let gate = gate_with_parked(&wechat, &[code("REFUSED", 1)]);
    assert_eq!(gate.cli(&["queue", "void", &only_order(&gate), "--reason", "paid in cash"]).code, Some(0));
    assert_eq!(gate.rows_in("void")[0]["reason"], "paid in cash");
}

#[test]
fn an_order_that_reached_nobody_becomes_void_and_is_never_sent() {
    let mut wechat = WeChat::start();
    wechat.down();
    let mut gate = builder(&wechat).start();
    gate.scan("in", &code("NEVER", 1));
    gate.wait("sending was tried", || gate.status()["upload"]["state"] == "waiting");
    let order = only_order(&gate);
    let void = ["queue", "void", &order, "--reason", "test ride"];
    // A probe may be under way just now; then it may have been sent.
    gate.wait("it is void", || gate.cli(&void).code == Some(0));
    wechat.up();
    gate.scan("in", &code("NEVER", 2));
    gate.wait("the next is accepted", || gate.rows_in("accepted").len() == 1);
    wechat.assert_charged_exactly(&[code("NEVER", 2)]);
}

#[test]
fn after_a_kill_what_may_have_been_sent_is_not_void_by_mistake() {
    let wechat = WeChat::start();
    wechat.answer(Answer::Hang);
    let mut gate = builder(&wechat).start();
    gate.scan("in", &code("KILLED", 1));
    gate.wait("it is sent", || wechat.requests() >= 1);
    gate.kill9();
    refused(&gate, &["queue", "void", &only_order(&gate), "--reason", "test ride"], "sent");
}

#[test]
fn a_queue_of_old_rows_is_parked_and_sent_only_when_a_person_says_so() {
    let mut wechat = WeChat::start();
    wechat.down();
    let mut gate = builder(&wechat).set("upload", "max_age", "1s").start();
    let codes = codes("OLD", 0..3);
    for code in &codes {
        gate.scan("in", code);
    }
    gate.wait("all are parked", || gate.rows_in("parked").iter().filter(|row| row["reason"] == "max-age").count() == 3);
    wechat.up();
    gate.scan("in", b"A-CODE-THAT-IS-NOT-OLD");
    gate.wait("the new one is accepted", || gate.rows_in("accepted").len() == 1);
    assert_eq!(wechat.charged().len(), 1, "the old ones are not sent");
    assert_eq!(gate.cli(&["queue", "retry", "--all-parked"]).code, Some(0));
    gate.wait("all are accepted", || gate.rows_in("accepted").len() == 4);
}
