//! Who is let in: one opening for one code and one passenger at a time, on all lanes together, whatever happens to the program.

use std::{thread, time::Duration};

use jiff::Timestamp;

use crate::support::{DEADLINE, Gate, WeChat, code, codes, gate::Builder, holds_within};

/// Two lanes, and windows that outlast the test.
fn two_lanes(wechat: &WeChat) -> Builder {
    Gate::beside(wechat).lanes(&["in", "out"]).set("gate", "duplicate_window", "10m").set("gate", "passenger_interval", "5m")
}

/// As [`two_lanes`], with the first 16 bytes of a code as its passenger.
fn two_lanes_with_passengers(wechat: &WeChat) -> Builder {
    two_lanes(wechat).set("ride_code", "opaque_passenger", serde_json::json!({"offset": 0, "length": 16}))
}

/// The passenger's `number`-th code.
fn code_of(passenger: &str, number: usize) -> Vec<u8> {
    format!("{passenger:P>16}{number:020}").into_bytes()
}

fn start_times(gate: &Gate) -> Vec<Timestamp> {
    gate.queue().iter().map(|row| row["start_time"].as_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn a_code_opens_once_and_is_then_refused_as_duplicate() {
    let wechat = WeChat::start();
    let mut gate = two_lanes(&wechat).start();
    gate.scan("in", &code("ONCE", 1));
    gate.wait_opens(1);
    gate.scan("out", &code("ONCE", 1));
    gate.wait_denials(1);
    assert_eq!(gate.denials(), ["duplicate"]);
    gate.stop_cleanly();
    assert_eq!((gate.opens().len(), gate.queue().len()), (1, 1));
}

#[test]
fn a_code_held_before_the_same_reader_is_ignored_without_signal_or_record() {
    let wechat = WeChat::start();
    let mut gate = two_lanes(&wechat).start();
    let codes = codes("HELD", 0..2);
    for _ in 0..6 {
        gate.scan("in", &codes[0]);
    }
    gate.scan("in", &codes[1]);
    gate.wait_opens(2);
    gate.wait("both are charged", || wechat.charged().len() == 2);
    gate.stop_cleanly();
    assert_eq!(gate.denials(), Vec::<String>::new());
    assert_eq!((gate.opens().len(), gate.queue().len()), (2, 2));
}

#[test]
fn a_code_held_longer_than_the_passenger_interval_is_refused() {
    let wechat = WeChat::start();
    let mut gate = two_lanes(&wechat).set("gate", "passenger_interval", "300ms").start();
    gate.scan("in", &code("HELD-LONG", 1));
    gate.wait_opens(1);
    let refused = holds_within(DEADLINE, || {
        gate.scan("in", &code("HELD-LONG", 1));
        thread::sleep(Duration::from_millis(40));
        !gate.denials().is_empty()
    });
    assert!(refused, "never refused in {DEADLINE:?}\n{}", gate.log_tail());
    assert_eq!((gate.denials()[0].as_str(), gate.opens().len()), ("duplicate", 1));
}

#[test]
fn a_frozen_screenshot_between_two_phones_is_refused() {
    let wechat = WeChat::start();
    let mut gate = two_lanes(&wechat).start();
    let codes = codes("FROZEN", 0..2);
    gate.scan("in", &codes[0]);
    gate.scan("in", &codes[1]);
    gate.scan("in", &codes[0]);
    gate.wait_denials(1);
    gate.wait_opens(2);
    assert_eq!(gate.denials(), ["duplicate"]);
    assert_eq!(gate.queue().len(), 2);
}

#[test]
fn a_passengers_next_code_is_too_soon_on_every_lane_and_another_passengers_is_not() {
    let wechat = WeChat::start();
    let mut gate = two_lanes_with_passengers(&wechat).start();
    gate.scan("in", &code_of("A", 1));
    gate.wait_opens(1);
    gate.scan("in", &code_of("A", 2));
    gate.wait_denials(1);
    gate.scan("out", &code_of("A", 3));
    gate.wait_denials(2);
    gate.scan("in", &code_of("B", 1));
    gate.wait_opens(2);
    assert_eq!(gate.denials(), ["too-soon", "too-soon"]);
    gate.wait("both are charged", || wechat.charged().len() == 2);
    wechat.assert_charged_exactly(&[code_of("A", 1), code_of("B", 1)]);
}

/// Both windows hold over what `interrupt` does to the daemon.
fn windows_survive(interrupt: impl Fn(&mut Gate)) {
    let wechat = WeChat::start();
    let mut gate = two_lanes_with_passengers(&wechat).start();
    gate.scan("in", &code_of("A", 1));
    gate.wait_opens(1);
    for round in 0..2 {
        interrupt(&mut gate);
        gate.start();
        gate.scan("out", &code_of("A", 1));
        gate.wait_denials(2 * round + 1);
        gate.scan("out", &code_of("A", 2 + round));
        gate.wait_denials(2 * round + 2);
    }
    assert_eq!(gate.denials(), ["duplicate", "too-soon", "duplicate", "too-soon"]);
    assert_eq!(gate.opens().len(), 1);
    gate.scan("out", &code_of("B", 1));
    gate.wait_opens(2);
    gate.wait("both are charged", || wechat.charged().len() == 2);
    wechat.assert_charged_exactly(&[code_of("A", 1), code_of("B", 1)]);
}

#[test]
fn windows_hold_across_a_restart() {
    windows_survive(Gate::stop_cleanly);
}

#[test]
fn windows_hold_across_kill_9() {
    windows_survive(Gate::kill9);
}

#[test]
fn one_code_on_two_lanes_at_once_opens_exactly_one() {
    let wechat = WeChat::start();
    let mut gate = two_lanes(&wechat).start();
    let codes = codes("BOTH", 0..12);
    for (count, code) in codes.iter().enumerate() {
        gate.scan("in", code);
        gate.scan("out", code);
        gate.wait_denials(count + 1);
        gate.wait_opens(count + 1);
    }
    assert_eq!(gate.denials(), vec!["duplicate"; 12]);
    gate.wait("all are charged", || wechat.charged().len() == 12);
    wechat.assert_charged_exactly(&codes);
}

#[test]
fn one_passenger_on_two_lanes_at_once_opens_exactly_one() {
    let wechat = WeChat::start();
    let mut gate = two_lanes_with_passengers(&wechat).start();
    for count in 0..12 {
        let passenger = format!("P{count}");
        gate.scan("in", &code_of(&passenger, 1));
        gate.scan("out", &code_of(&passenger, 2));
        gate.wait_denials(count + 1);
        gate.wait_opens(count + 1);
    }
    assert_eq!(gate.denials(), vec!["too-soon"; 12]);
    gate.wait("all are charged", || wechat.charged().len() == 12);
    wechat.assert_one_order_per_code_and_one_body_per_order();
}

/// Sends `scan` again and again until the gate opens for the second time. Were the window extended by refused scans, it never would.
fn insist(gate: &mut Gate, mut scan: impl FnMut(&mut Gate)) {
    let admitted = holds_within(DEADLINE, || {
        scan(gate);
        thread::sleep(Duration::from_millis(40));
        gate.opens().len() > 1
    });
    assert!(admitted, "still refused after {DEADLINE:?}: {:?}\n{}", gate.denials(), gate.log_tail());
}

#[test]
fn a_code_is_admitted_again_after_its_window_however_often_it_was_refused_within() {
    let wechat = WeChat::start();
    let builder = two_lanes(&wechat).set("gate", "duplicate_window", "1500ms").set("gate", "passenger_interval", "200ms");
    let mut gate = builder.start();
    gate.scan("in", &code("AGAIN", 1));
    gate.wait_opens(1);
    insist(&mut gate, |gate| gate.scan("out", &code("AGAIN", 1)));
    assert!(gate.denials().contains(&"duplicate".to_owned()), "never refused");
    let times = start_times(&gate);
    assert!(times[1].as_millisecond() - times[0].as_millisecond() >= 1490, "admitted within the window: {times:?}");
}

#[test]
fn a_refused_code_is_not_consumed_and_extends_no_interval() {
    let wechat = WeChat::start();
    let mut gate = two_lanes_with_passengers(&wechat).set("gate", "passenger_interval", "1s").start();
    gate.scan("in", &code_of("A", 1));
    gate.wait_opens(1);
    insist(&mut gate, |gate| gate.scan("out", &code_of("A", 2)));
    let denials = gate.denials();
    assert!(!denials.is_empty() && denials.iter().all(|reason| reason == "too-soon"), "refused as {denials:?}");
    let times = start_times(&gate);
    assert!(times[1].as_millisecond() - times[0].as_millisecond() >= 990, "admitted within the interval: {times:?}");
    gate.wait("both are charged", || wechat.charged().len() == 2);
    wechat.assert_charged_exactly(&[code_of("A", 1), code_of("A", 2)]);
}

#[test]
fn an_opening_that_comes_too_late_does_not_come_is_not_charged_and_leaves_its_code_good() {
    let wechat = WeChat::start();
    let builder = Gate::beside(&wechat).set("turnstile", "pulse", "400ms").set("turnstile", "pulse_gap", "100ms");
    let mut gate = builder.set("gate", "open_within", "500ms").start();
    let codes = codes("LATE", 0..4);
    // In one write, so that all are read at the same time: the second is at the limit, the fourth far beyond it.
    gate.send("in", &[codes.join(&b'\r'), b"\r".to_vec()].concat());
    gate.wait("the fate of all four is settled", || {
        let queue = gate.queue();
        queue.len() == 4 && queue.iter().all(|row| row["state"] == "accepted" || row["state"] == "void")
    });
    gate.wait_closed();
    let (opened, void) = (gate.opens().len(), gate.rows_in("void"));
    assert!((1..4).contains(&opened), "{opened} of 4 opened");
    assert_eq!(void.len(), 4 - opened, "void deductions");
    assert!(void.iter().all(|row| row["reason"] == "late"), "{void:?}");
    wechat.assert_charged_exactly(&codes[..opened]);
    gate.scan("in", &codes[3]);
    gate.wait_opens(opened + 1);
    gate.wait("the second try is charged", || wechat.charged().len() == opened + 1);
    assert!(wechat.charged_codes().contains(&codes[3]));
    wechat.assert_one_order_per_code_and_one_body_per_order();
}
