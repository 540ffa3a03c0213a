//! WeChat misbehaves, the program is killed in the middle: nothing is lost, nothing is charged twice, nothing changes on the way.

use serde_json::json;

use crate::support::{Answer, Gate, WeChat, code, codes, gate::Builder};

const SCANS: usize = 3;

/// What happens to the daemon while WeChat misbehaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Daemon {
    LivesOn,
    IsKilledTwice,
}

fn builder(wechat: &WeChat) -> Builder {
    Gate::beside(wechat).set("wechat", "timeout", "1s")
}

/// Until WeChat saw requests that it had not seen when this began.
fn wait_for_requests(gate: &Gate, wechat: &WeChat, more: usize) {
    let before = wechat.requests();
    gate.wait("more requests come", || wechat.requests() >= before + more);
}

/// Scans while WeChat gives `fault` to everything, then lets it recover, and compares the books.
fn a_fault_loses_nothing_and_doubles_nothing(fault: Answer, daemon: Daemon) {
    let wechat = WeChat::start();
    wechat.answer(fault);
    let mut gate = builder(&wechat).start();
    let codes = codes("FAULT", 0..SCANS);
    for code in &codes {
        gate.scan("in", code);
    }
    gate.wait_opens(SCANS);
    wait_for_requests(&gate, &wechat, 1);
    if daemon == Daemon::IsKilledTwice {
        for _ in 0..2 {
            gate.kill9();
            gate.start();
            wait_for_requests(&gate, &wechat, 1);
        }
    }
    wait_for_requests(&gate, &wechat, 2);
    wechat.answer(Answer::Ok);
    gate.wait("all are accepted", || gate.rows_in("accepted").len() == SCANS);
    gate.stop_cleanly();
    wechat.assert_charged_exactly(&codes);
    assert_eq!((gate.queue().len(), gate.opens().len()), (SCANS, SCANS));
}

/// Two promises per fault: with a daemon that lives on, and with one that is killed while it lasts.
macro_rules! faults {
    ($($fault:expr => $lives_on:ident, $killed:ident;)*) => {$(
        #[test]
        fn $lives_on() {
            a_fault_loses_nothing_and_doubles_nothing($fault, Daemon::LivesOn);
        }

        #[test]
        fn $killed() {
            a_fault_loses_nothing_and_doubles_nothing($fault, Daemon::IsKilledTwice);
        }
    )*};
}

faults! {
    Answer::Drop => a_line_cut_after_wechat_took_it_charges_once, a_kill_while_lines_are_cut_after_taking_charges_once;
    Answer::Refuse => a_line_cut_before_wechat_took_it_charges_once, a_kill_while_lines_are_cut_before_taking_charges_once;
    Answer::Hang => an_answer_that_never_comes_charges_once, a_kill_while_answers_never_come_charges_once;
    Answer::Http500 => an_answer_of_500_charges_once, a_kill_during_answers_of_500_charges_once;
    Answer::Html => a_captive_portals_page_is_no_answer, a_kill_behind_a_captive_portal_charges_once;
    Answer::Redirect => a_redirect_is_never_followed, a_kill_behind_a_redirect_charges_once;
    Answer::ErrCode(-1) => a_busy_wechat_is_asked_again, a_kill_while_wechat_is_busy_charges_once;
    Answer::ErrCode(48001) => an_operators_fault_burns_no_row_and_ends_by_itself, a_kill_during_an_operators_fault_charges_once;
}

/// Scans while nobody listens at WeChat's port.
fn an_outage_loses_nothing(daemon: Daemon) {
    let mut wechat = WeChat::start();
    wechat.down();
    let mut gate = builder(&wechat).start();
    let codes = codes("OUTAGE", 0..SCANS);
    for code in &codes {
        gate.scan("in", code);
    }
    gate.wait_opens(SCANS);
    if daemon == Daemon::IsKilledTwice {
        gate.kill9();
        gate.start();
        gate.kill9();
        gate.start();
    }
    gate.wait("sending was tried", || gate.status()["upload"]["state"] == "waiting");
    assert_eq!(gate.status()["queue"]["pending"], SCANS);
    wechat.up();
    gate.wait("all are accepted", || gate.rows_in("accepted").len() == SCANS);
    wechat.assert_charged_exactly(&codes);
}

#[test]
fn an_outage_loses_nothing_and_ends_by_itself() {
    an_outage_loses_nothing(Daemon::LivesOn);
}

#[test]
fn a_kill_during_an_outage_loses_nothing() {
    an_outage_loses_nothing(Daemon::IsKilledTwice);
}

#[test]
fn an_outage_in_the_middle_of_work_loses_nothing() {
    let mut wechat = WeChat::start();
    let mut gate = builder(&wechat).start();
    let codes = codes("MIDDLE", 0..6);
    for (number, code) in codes.iter().enumerate() {
        match number {
            2 => wechat.down(),
            4 => wechat.up(),
            _ => {}
        }
        gate.scan("in", code);
        gate.wait_opens(number + 1);
    }
    gate.wait("all are accepted", || gate.rows_in("accepted").len() == 6);
    wechat.assert_charged_exactly(&codes);
}

#[test]
fn a_row_that_can_never_succeed_is_parked_with_the_answer_and_the_others_go_on() {
    let wechat = WeChat::start();
    let codes = codes("BAD-ROW", 0..3);
    let bad = codes[1].clone();
    wechat.answer_with(move |deduction| if deduction.code() == bad { Answer::ErrCode(47001) } else { Answer::Ok });
    let mut gate = builder(&wechat).start();
    for code in &codes {
        gate.scan("in", code);
    }
    gate.wait("the others are accepted", || gate.rows_in("accepted").len() == 2);
    gate.wait("the bad one is parked", || gate.rows_in("parked").len() == 1);
    gate.stop_cleanly();
    let parked = &gate.rows_in("parked")[0];
    assert_eq!((&parked["order"], &parked["attempts"]), (&json!(wechat.order_of(&codes[1])), &json!(1)));
    assert!(parked["last_error"].to_string().contains("47001"), "last_error {}", parked["last_error"]);
    wechat.assert_charged_exactly(&[codes[0].clone(), codes[2].clone()]);
}

#[test]
fn an_error_nobody_knows_is_tried_a_bounded_number_of_times_then_parked() {
    let wechat = WeChat::start();
    let bad = code("UNKNOWN", 0);
    wechat.answer_with(move |deduction| if deduction.code() == bad { Answer::ErrCode(9_999_999) } else { Answer::Ok });
    let mut gate = builder(&wechat).set("upload", "unknown_attempts", 3).start();
    gate.scan("in", &code("UNKNOWN", 0));
    gate.scan("in", &code("UNKNOWN", 1));
    gate.wait("it is parked", || gate.rows_in("parked").len() == 1);
    gate.wait("the other is accepted", || gate.rows_in("accepted").len() == 1);
    assert_eq!(gate.rows_in("parked")[0]["attempts"], 3);
    gate.stop_cleanly();
    assert_eq!(wechat.requests(), 4, "three of the one, one of the other");
    wechat.assert_charged_exactly(&[code("UNKNOWN", 1)]);
}

#[test]
fn the_settings_say_what_an_error_code_means() {
    let wechat = WeChat::start();
    wechat.answer(Answer::ErrCode(61010));
    let mut gate = builder(&wechat).set("wechat", "errcodes", json!({"61010": "park"})).start();
    gate.scan("in", &code("ERRCODES", 1));
    gate.wait("it is parked", || gate.rows_in("parked").len() == 1);
    assert_eq!(wechat.requests(), 1);
}

#[test]
fn a_token_that_is_no_longer_good_is_renewed_and_the_same_bytes_are_sent_again() {
    let wechat = WeChat::start();
    let mut gate = builder(&wechat).start();
    gate.scan("in", &code("TOKEN-LOST", 0));
    gate.wait("the first is charged", || wechat.charged().len() == 1);
    wechat.invalidate_token();
    gate.scan("in", &code("TOKEN-LOST", 1));
    gate.wait("the second is charged", || wechat.charged().len() == 2);
    gate.wait("both are accepted", || gate.rows_in("accepted").len() == 2);
    wechat.assert_charged_exactly(&codes("TOKEN-LOST", 0..2));
    assert_eq!((wechat.token_requests(), wechat.requests()), (2, 3), "tokens asked for, deductions sent");
}
