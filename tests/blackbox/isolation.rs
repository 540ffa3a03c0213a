//! The network never delays a gate.

use crate::support::{Answer, Gate, WeChat, codes};

const SCANS: usize = 20;

#[test]
fn a_gate_opens_for_everyone_while_wechat_answers_nobody() {
    let wechat = WeChat::start();
    wechat.answer(Answer::Hang);
    let builder = Gate::beside(&wechat).set("wechat", "timeout", "60s").set("upload", "concurrency", 2);
    let mut gate = builder.set("turnstile", "pulse", "30ms").start();
    let codes = codes("ISOLATED", 0..SCANS);
    gate.scan("in", &codes[0]);
    gate.wait("a request hangs", || wechat.requests() > 0);
    for (number, code) in codes.iter().enumerate().skip(1) {
        gate.scan("in", code);
        gate.wait_opens(number + 1);
    }
    assert_eq!(wechat.answers(), 0, "answers from a WeChat that gives none");
    assert_eq!(gate.queue().len(), SCANS);
}

#[test]
fn a_clean_stop_does_not_wait_for_wechat_and_loses_nothing() {
    let wechat = WeChat::start();
    wechat.answer(Answer::Hang);
    let mut gate = Gate::beside(&wechat).set("wechat", "timeout", "60s").start();
    let codes = codes("HANGING", 0..3);
    for code in &codes {
        gate.scan("in", code);
    }
    gate.wait_opens(3);
    gate.wait("a request hangs", || wechat.requests() > 0);
    gate.stop_cleanly();
    wechat.answer(Answer::Ok);
    gate.start();
    gate.wait("all are accepted", || gate.rows_in("accepted").len() == 3);
    wechat.assert_charged_exactly(&codes);
}
