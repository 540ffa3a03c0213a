//! The way of a scan: from the reader through the gate to WeChat, and what the books say of it.

use jiff::{
    Timestamp,
    civil::DateTime,
    tz::{Offset, TimeZone},
};
use serde_json::{Value, json};

use crate::support::{Answer, Gate, QUEUE_KEYS, WeChat, code, codes};

const CROCKFORD: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The 48 bits of UTC milliseconds at the beginning of an order number.
fn time_in(order: &str) -> Timestamp {
    let digit = |letter| i64::try_from(CROCKFORD.find(letter).expect("Crockford's letters")).unwrap();
    Timestamp::from_millisecond(order[..10].chars().fold(0, |sum, letter| sum * 32 + digit(letter))).unwrap()
}

fn beijing(text: &str) -> Timestamp {
    assert!(text.len() == 14 && text.bytes().all(|byte| byte.is_ascii_digit()), "{text} is not yyyyMMddHHmmss");
    let time = DateTime::strptime("%Y%m%d%H%M%S", text).unwrap();
    time.to_zoned(TimeZone::fixed(Offset::constant(8))).unwrap().timestamp()
}

fn assert_between(from: Timestamp, time: Timestamp, to: Timestamp, what: &str) {
    let whole = |time: Timestamp| time.as_second();
    assert!(whole(from) <= whole(time) && whole(time) <= whole(to), "{what} {time} is not from {from} to {to}");
}

fn as_time(value: &Value) -> Timestamp {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is not RFC 3339"))
}

#[test]
fn a_valid_code_opens_the_gate_once_and_is_charged_with_exactly_the_documented_request() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).set("fare", "flat_fen", 210).set("fare", "discount_percent", 85).start();
    let code = code("WAY", 1);
    let scanned = Timestamp::now();
    gate.scan("in", &code);
    gate.wait_opens(1);
    let opened = Timestamp::now();
    gate.wait("it is charged", || wechat.charged().len() == 1);
    let request = wechat.deductions().remove(0);
    assert!(gate.opens()[0].at <= request.at, "sent before the gate opened");
    let sent = request.json;
    let (order, start_time) = (sent["out_order_no"].as_str().unwrap(), sent["start_time"].as_str().unwrap());
    let documented = json!({
        "qrcode": data_encoding::BASE64.encode(&code),
        "total_fee": 179, // 85 % of 210 is 178.5: half up
        "original_fee": 210,
        "body": "地铁代扣",
        "line_name": "2号线",
        "trade_scene": "METRO",
        "start_time": start_time,
        "out_order_no": order,
        "attach": order,
    });
    assert_eq!(sent, documented);
    assert!(order.len() == 26 && order.chars().all(|letter| CROCKFORD.contains(letter)), "order number {order}");
    assert_between(scanned, time_in(order), opened, "the time in the order number");
    assert_between(scanned, beijing(start_time), opened, "start_time in Beijing");
    gate.stop_cleanly();
    assert_eq!((gate.opens().len(), wechat.requests()), (1, 1));
}

#[test]
fn what_the_settings_say_of_the_machine_is_in_the_request() {
    let wechat = WeChat::start();
    let builder = Gate::beside(&wechat).set("wechat", "machine_ip", "10.1.14.3");
    let mut gate = builder.set("wechat", "machine_latitude", 23.125).set("wechat", "machine_longitude", 113.25).start();
    gate.scan("in", &code("MACHINE", 1));
    gate.wait("it is charged", || wechat.charged().len() == 1);
    let sent = &wechat.deductions()[0].json;
    assert_eq!(
        (&sent["machine_ip"], &sent["machine_latitude"], &sent["machine_longitude"]),
        (&json!("10.1.14.3"), &json!(23.125), &json!(113.25))
    );
}

#[test]
fn an_accepted_deduction_is_listed_with_all_that_the_contract_names() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).set("fare", "flat_fen", 210).set("fare", "discount_percent", 85).start();
    let began = Timestamp::now();
    gate.scan("in", b"PASSENGER-NUMBER-7042");
    gate.wait_opens(1);
    gate.wait("it is accepted", || gate.rows_in("accepted").len() == 1);
    let row = &gate.queue()[0];
    let missing: Vec<_> = QUEUE_KEYS.iter().filter(|&&key| row.get(key).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?} are not in {row}");
    let expected = json!({
        "order": wechat.order_of(b"PASSENGER-NUMBER-7042"), "state": "accepted", "kind": "single", "reason": null, "gate": "T1",
        "lane": "in", "passenger": "****************7042", "original_fen": 210, "total_fen": 179, "paid_fen": null,
        "end_time": null, "has_start_code": false, "attempts": 1, "last_error": null, "settled_at": null, "transaction_id": null,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&row[key], value, "{key}");
    }
    assert!(!row["flags"].to_string().contains("opening-unconfirmed"), "flags {}", row["flags"]);
    for key in ["start_time", "created_at", "accepted_at"] {
        assert_between(began, as_time(&row[key]), Timestamp::now(), key);
    }
}

#[test]
fn each_of_several_scans_in_a_row_has_a_whole_pulse_of_its_own_and_a_gap_before_the_next() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).set("turnstile", "pulse", "200ms").set("turnstile", "pulse_gap", "100ms").start();
    let codes = codes("PULSE", 0..3);
    for code in &codes {
        gate.scan("in", code);
    }
    gate.wait_opens(3);
    gate.wait_closed();
    let mut edges: Vec<_> = gate.trace().into_iter().filter(|edge| edge.line == "open").collect();
    edges.dedup_by_key(|edge| edge.level);
    assert_eq!(
        edges.iter().map(|edge| edge.level).collect::<Vec<_>>(),
        [0, 1, 0, 1, 0, 1, 0],
        "inactive at start, then three pulses"
    );
    for (at, pair) in edges.windows(2).enumerate().skip(1) {
        let (lasted_ms, set_ms) = (pair[1].at.as_millisecond() - pair[0].at.as_millisecond(), if at % 2 == 1 { 200 } else { 100 });
        // The trace's clock is the wall's, the pulse's is not, and each edge is written a moment after it happened.
        assert!(lasted_ms >= set_ms - 20, "level {} lasted {lasted_ms} ms, {set_ms} ms are set", pair[0].level);
    }
}

#[test]
fn every_output_is_inactive_in_the_trace_from_the_start() {
    let wechat = WeChat::start();
    let gate = Gate::beside(&wechat).start();
    for line in ["open", "light_pass", "light_deny", "buzzer"] {
        let first = gate.trace().into_iter().find(|edge| edge.line == line).unwrap_or_else(|| panic!("{line} is not in the trace"));
        assert_eq!((first.level, first.lane.as_str()), (0, "in"), "{line}");
    }
}

#[test]
fn one_token_serves_every_request() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).lanes(&["in", "out"]).start();
    let codes = codes("TOKEN", 0..8);
    for pair in codes.chunks(2) {
        gate.scan("in", &pair[0]);
        gate.scan("out", &pair[1]);
    }
    gate.wait("all are charged", || wechat.charged().len() == 8);
    gate.wait_drained();
    wechat.assert_charged_exactly(&codes);
    assert_eq!(wechat.token_requests(), 1);
}

#[test]
fn a_trip_that_costs_nothing_opens_and_is_not_sent() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).set("fare", "discount_percent", 0).start();
    gate.scan("in", &code("FREE", 1));
    gate.wait_opens(1);
    gate.wait("the deduction is void", || gate.rows_in("void").len() == 1);
    gate.stop_cleanly();
    let row = &gate.queue()[0];
    assert_eq!((&row["reason"], &row["original_fen"], &row["total_fen"]), (&json!("free"), &json!(200), &json!(0)));
    assert_eq!(wechat.requests(), 0);
}

#[test]
fn sigterm_during_a_pulse_ends_the_program_with_0_and_leaves_the_open_line_inactive() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).set("turnstile", "pulse", "3s").start();
    gate.scan("in", &code("STOP", 1));
    gate.wait_opens(1);
    gate.stop_cleanly();
    assert!(!gate.is_open("in"), "the open line is still active");
    gate.start();
    gate.wait("the passage is charged after the restart", || wechat.charged().len() == 1);
    wechat.assert_charged_exactly(&[code("STOP", 1)]);
}

#[test]
fn a_passenger_before_whom_the_gate_has_just_opened_gets_the_whole_pulse_although_the_program_stops() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).set("turnstile", "pulse", "700ms").start();
    gate.scan("in", &code("STOP", 1));
    gate.wait_opens(1);
    gate.stop_cleanly();
    let edges: Vec<_> = gate.trace().into_iter().filter(|edge| edge.line == "open").collect();
    let [.., opened, closed] = edges.as_slice() else { panic!("{edges:?}") };
    assert_eq!((opened.level, closed.level), (1, 0));
    let pulse_ms = closed.at.duration_since(opened.at).as_millis();
    assert!(pulse_ms >= 690, "{pulse_ms} ms");
}

#[test]
fn a_clean_stop_takes_back_what_still_waits_for_its_pulse() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).set("turnstile", "pulse", "4s").set("gate", "open_within", "20s").start();
    let codes = codes("WAITING", 0..2);
    gate.scan("in", &codes[0]);
    gate.wait_opens(1);
    gate.scan("in", &codes[1]);
    gate.wait("both are recorded", || gate.queue().len() == 2);
    gate.stop_cleanly();
    assert_eq!(gate.opens().len(), 1);
    let void = gate.rows_in("void");
    assert_eq!(void.iter().map(|row| &row["reason"]).collect::<Vec<_>>(), ["not-opened"]);
    gate.start();
    gate.scan("in", &codes[1]);
    gate.wait_opens(2);
    gate.wait("both passages are charged", || wechat.charged().len() == 2);
    wechat.assert_charged_exactly(&codes);
}

#[test]
fn after_a_crash_what_was_recorded_but_not_seen_to_open_is_charged_and_marked() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).set("turnstile", "pulse", "4s").set("gate", "open_within", "20s").start();
    let codes = codes("CRASH", 0..2);
    gate.scan("in", &codes[0]);
    gate.wait_opens(1);
    gate.scan("in", &codes[1]);
    gate.wait("both are recorded", || gate.queue().len() == 2);
    gate.kill9();
    assert_eq!(gate.opens().len(), 1);
    gate.start();
    gate.wait("both are accepted", || gate.rows_in("accepted").len() == 2);
    wechat.assert_charged_exactly(&codes);
    let flags = gate.queue()[1]["flags"].to_string();
    assert!(flags.contains("opening-unconfirmed"), "flags of the one that never opened: {flags}");
    assert_eq!(gate.opens().len(), 1, "nothing opens late after a crash");
}

#[test]
fn the_deduction_is_durable_before_the_gate_opens() {
    let wechat = WeChat::start();
    wechat.answer(Answer::Hang);
    let mut gate = Gate::beside(&wechat).start();
    for (count, code) in codes("DURABLE", 0..5).iter().enumerate() {
        gate.scan("in", code);
        gate.wait_opens(count + 1);
        gate.kill9();
        assert_eq!(gate.queue().len(), count + 1, "records after {} openings and a kill -9", count + 1);
        gate.start();
    }
}
