//! Tap-in, tap-out: real taps on two lanes, passages through the inputs FIFO, fares from a file, kill -9 in between.

use std::{fs, io::Write as _, time::Duration};

use jiff::Timestamp;
use serde_json::Value;

use crate::support::{Gate, WeChat, gate::Builder};

/// A code of a passenger, who is its first four bytes.
fn code(passenger: &str, number: usize) -> Vec<u8> {
    format!("{passenger:0>4}-{number:04}").into_bytes()
}

/// A gate with an entry lane `in` at S1 and an exit lane `out` at S2, both without sensors unless said otherwise.
fn builder(wechat: &WeChat) -> Builder {
    Gate::beside(wechat)
        .lanes(&["in", "out"])
        .of_lane("in", "lane", "mode", "entry")
        .of_lane("out", "lane", "mode", "exit")
        .of_lane("out", "lane", "station", "S2")
        .set("ride_code", "opaque_passenger", serde_json::json!({"offset": 0, "length": 4}))
        .set("gate", "passenger_interval", "0s")
        .set("fare", "max_fen", 1000)
}

fn with_sensors(builder: Builder) -> Builder {
    let builder = builder.set("turnstile", "passage", 1).set("turnstile", "passage_timeout", "400ms");
    builder.of_lane("in", "turnstile", "inputs", "inputs-in").of_lane("out", "turnstile", "inputs", "inputs-out")
}

/// Somebody passes the lane's sensor.
fn pass(gate: &Gate, lane: &str) {
    let mut inputs = fs::OpenOptions::new().write(true).open(gate.path(&format!("inputs-{lane}"))).unwrap();
    inputs.write_all(b"{\"line\":\"passage\",\"level\":1}\n{\"line\":\"passage\",\"level\":0}\n").unwrap();
}

fn journeys(gate: &Gate) -> Vec<Value> {
    gate.ask(&["journeys", "list"]).as_array().unwrap().clone()
}

fn tap(gate: &mut Gate, lane: &str, code: &[u8]) {
    let before = gate.opens_of(lane);
    gate.scan(lane, code);
    gate.wait("it opens", || gate.opens_of(lane) > before);
}

fn beijing(rfc3339: &Value) -> String {
    let at: Timestamp = rfc3339.as_str().unwrap().parse().unwrap();
    at.to_zoned(jiff::tz::TimeZone::fixed(jiff::tz::offset(8))).strftime("%Y%m%d%H%M%S").to_string()
}

#[test]
fn a_journey_is_charged_once_at_its_exit_with_both_codes_and_both_times() {
    let wechat = WeChat::start();
    let mut gate = builder(&wechat).set("fare", "discount_percent", 85).start();
    tap(&mut gate, "in", &code("A", 1));
    assert_eq!(gate.queue().len(), 0, "an open journey is no deduction");
    let open = &journeys(&gate)[0];
    assert_eq!((&open["state"], &open["entry_station"], &open["entry_lane"]), (&"open".into(), &"S1".into(), &"in".into()));
    assert_eq!((&open["order"], &open["passenger"]), (&Value::Null, &"****************000A".into()));
    tap(&mut gate, "out", &code("A", 2));
    gate.wait("it is accepted", || gate.rows_in("accepted").len() == 1);
    let row = &gate.queue()[0];
    assert_eq!((&row["kind"], &row["has_start_code"], &row["original_fen"]), (&"exit".into(), &true.into(), &200.into()));
    let sent = &wechat.deductions()[0].json;
    let base64 = |code: &[u8]| Value::from(data_encoding::BASE64.encode(code));
    assert_eq!((&sent["qrcode"], &sent["start_qrcode"]), (&base64(&code("A", 2)), &base64(&code("A", 1))));
    assert_eq!((&sent["total_fee"], &sent["original_fee"]), (&170.into(), &200.into()));
    assert_eq!((&sent["start_time"], &sent["end_time"]), (&beijing(&row["start_time"]).into(), &beijing(&row["end_time"]).into()));
    let left = &journeys(&gate)[0];
    assert_eq!((&left["state"], &left["order"]), (&"exited".into(), &row["order"]));
    assert!(gate.ask(&["journeys", "list", "--open"]).as_array().unwrap().is_empty());
    let events = gate.ask(&["queue", "show", row["order"].as_str().unwrap()])["events"].clone();
    assert_eq!(
        (&events[0]["event"], &events[1]["event"], &events[2]["event"]),
        (&"entered".into(), &"opened".into(), &"recorded".into())
    );
}

#[test]
fn fares_come_from_the_table_which_is_read_again_without_stopping_a_lane() {
    let wechat = WeChat::start();
    let mut gate = builder(&wechat).set("fare", "table", "fares.csv").prepare();
    fs::write(gate.path("fares.csv"), "from,to,fen\nS1,S2,350\n").unwrap();
    gate.start();
    let journey = |gate: &mut Gate, passenger: &str| {
        tap(gate, "in", &code(passenger, 1));
        tap(gate, "out", &code(passenger, 2));
    };
    journey(&mut gate, "A");
    assert!(gate.cli(&["fare", "S2", "S1"]).stdout.starts_with("S2 to S1: 350 fen"), "{:?}", gate.cli(&["fare", "S2", "S1"]));
    fs::write(gate.path("fares.csv"), "S1,S2,-1\n").unwrap();
    gate.hang_up();
    gate.wait("it says what is wrong", || gate.log().contains("fares.csv:1"));
    journey(&mut gate, "B");
    fs::write(gate.path("fares.csv"), "S1,S3,400\n").unwrap();
    gate.hang_up();
    gate.wait("they are read", || gate.log().contains("the fare table is read again"));
    journey(&mut gate, "C");
    let rows: Vec<_> = gate.queue().iter().map(|row| (row["total_fen"].clone(), row["flags"].clone())).collect();
    let plain = || serde_json::json!([]);
    assert_eq!(rows, [(350.into(), plain()), (350.into(), plain()), (1000.into(), serde_json::json!(["unknown-pair"]))]);
    let told = gate.cli(&["fare", "S1", "S9", "--json"]).json();
    assert_eq!((&told[0]["total_fen"], told[0]["why"].as_str().unwrap().contains("lacks the pair")), (&1000.into(), true));
    gate.stop_cleanly();
}

#[test]
fn an_exit_without_entry_opens_and_waits_for_a_person() {
    let wechat = WeChat::start();
    let mut gate = builder(&wechat).set("fare", "max_journey", "1s").start();
    tap(&mut gate, "out", &code("A", 1));
    let row = &gate.queue()[0];
    assert_eq!((&row["kind"], &row["reason"], &row["total_fen"]), (&"unmatched-exit".into(), &"unmatched".into(), &1000.into()));
    gate.wait("it is parked", || gate.rows_in("parked").len() == 1);
    assert_eq!(gate.rows_in("parked")[0]["reason"], "unmatched");
    assert_eq!(wechat.requests(), 0);
    let order = gate.queue()[0]["order"].as_str().unwrap().to_owned();
    assert_eq!(gate.cli(&["queue", "retry", &order]).code, Some(0));
    gate.wait("what a person decided is charged", || gate.rows_in("accepted").len() == 1);
    assert_eq!(wechat.deductions()[0].json["start_qrcode"], Value::Null);
}

#[test]
fn an_exit_without_entry_can_be_denied_and_says_so() {
    let wechat = WeChat::start();
    let mut gate = builder(&wechat).set("fare", "unmatched_exit", "deny").start();
    gate.scan("out", &code("A", 1));
    gate.wait_denials(1);
    assert_eq!((gate.denials(), gate.opens().len(), gate.queue().len()), (vec!["unmatched".to_owned()], 0, 0));
}

#[test]
fn the_code_of_the_entry_does_not_open_the_exit() {
    let wechat = WeChat::start();
    let mut gate = builder(&wechat).set("gate", "duplicate_window", "100ms").start();
    tap(&mut gate, "in", &code("A", 1));
    std::thread::sleep(Duration::from_millis(200));
    gate.scan("out", &code("A", 1));
    gate.wait_denials(1);
    assert_eq!(gate.denials(), ["duplicate"]);
    tap(&mut gate, "out", &code("A", 2));
}

#[test]
fn an_entry_that_is_never_left_is_charged_the_most_where_the_settings_say_so() {
    let wechat = WeChat::start();
    let mut gate = builder(&wechat).set("fare", "max_journey", "1s").set("fare", "unfinished_entry", "charge-max").start();
    tap(&mut gate, "in", &code("A", 1));
    gate.wait("it is given up and accepted", || gate.rows_in("accepted").len() == 1);
    let row = &gate.queue()[0];
    assert_eq!((&row["kind"], &row["end_time"], &row["total_fen"]), (&"unfinished-entry".into(), &Value::Null, &1000.into()));
    let sent = &wechat.deductions()[0];
    assert_eq!((sent.code(), &sent.json["end_time"]), (code("A", 1), &Value::Null));
    assert_eq!(journeys(&gate)[0]["state"], "unfinished");
}

#[test]
fn only_who_passes_is_charged_and_who_does_not_can_leave_again() {
    let wechat = WeChat::start();
    let mut gate = with_sensors(builder(&wechat)).start();
    tap(&mut gate, "in", &code("A", 1));
    pass(&gate, "in");
    tap(&mut gate, "out", &code("A", 2));
    gate.wait("nobody passed", || gate.rows_in("void").len() == 1);
    assert_eq!(gate.queue()[0]["reason"], "no-passage");
    assert_eq!(journeys(&gate)[0]["state"], "open");
    tap(&mut gate, "out", &code("A", 3));
    assert_eq!(wechat.requests(), 0, "nothing is sent before the passage");
    pass(&gate, "out");
    gate.wait("it is accepted", || gate.rows_in("accepted").len() == 1);
    let orders: Vec<_> = gate.queue().iter().map(|row| row["order"].clone()).collect();
    assert_ne!(orders[0], orders[1]);
    wechat.assert_charged_exactly(&[code("A", 3)]);
}

#[test]
fn an_entry_that_nobody_passes_never_was() {
    let wechat = WeChat::start();
    let mut gate = with_sensors(builder(&wechat)).start();
    tap(&mut gate, "in", &code("A", 1));
    gate.wait("it is taken back", || journeys(&gate)[0]["state"] == "taken-back");
    tap(&mut gate, "out", &code("A", 2));
    assert_eq!(gate.queue()[0]["kind"], "unmatched-exit");
}

#[test]
fn who_passes_uninvited_is_shown_and_counted_and_charged_to_nobody() {
    let wechat = WeChat::start();
    let mut gate = with_sensors(builder(&wechat)).set("turnstile", "passage_timeout", "20s").start();
    pass(&gate, "in");
    gate.wait("the intrusion is shown", || gate.denials() == ["intrusion"]);
    tap(&mut gate, "in", &code("A", 1));
    pass(&gate, "in");
    pass(&gate, "in");
    gate.wait("the tailgate is shown", || gate.denials() == ["intrusion", "tailgate"]);
    let (_, metrics) = gate.get("/metrics").unwrap();
    for line in [r#"passages_total{lane="in",result="intrusion"} 1"#, r#"passages_total{lane="in",result="tailgate"} 1"#] {
        assert!(metrics.contains(line), "{metrics}");
    }
    assert_eq!(gate.queue().len(), 0);
}

#[test]
fn ten_openings_without_a_passage_are_an_alarm_and_then_everybody_is_charged() {
    let wechat = WeChat::start();
    let builder = with_sensors(Gate::beside(&wechat).lanes(&["in", "out"])).set("turnstile", "passage_timeout", "100ms");
    let mut gate = builder.start();
    for number in 0..10 {
        tap(&mut gate, "in", &code("A", number));
        gate.wait("nobody passed", || gate.rows_in("void").len() > number);
    }
    gate.wait("it is an alarm", || gate.status()["alarms"].to_string().contains("passage-sensor"));
    tap(&mut gate, "in", &code("A", 10));
    gate.wait("it is charged all the same", || gate.rows_in("accepted").len() == 1);
    tap(&mut gate, "in", &code("A", 11));
    pass(&gate, "in");
    gate.wait("the alarm is over", || !gate.status()["alarms"].to_string().contains("passage-sensor"));
}

#[test]
fn a_journey_survives_kill_9_between_and_within_its_taps() {
    let wechat = WeChat::start();
    let mut gate = with_sensors(builder(&wechat)).set("turnstile", "passage_timeout", "20s").start();
    let passengers = ["A", "B", "C"];
    for passenger in passengers {
        tap(&mut gate, "in", &code(passenger, 1));
        pass(&gate, "in");
        gate.kill9();
        gate.start();
        tap(&mut gate, "out", &code(passenger, 2));
        assert!(gate.rows_in("held").len() == 1, "it waits for the passage");
        gate.kill9();
        // Nobody saw whether the passenger passed: he counts as having passed.
        gate.start();
    }
    gate.wait("all are accepted", || gate.rows_in("accepted").len() == passengers.len());
    wechat.assert_charged_exactly(&passengers.map(|passenger| code(passenger, 2)));
    for passenger in passengers {
        let start = data_encoding::BASE64.encode(&code(passenger, 1));
        let sent: Vec<_> = wechat.deductions().into_iter().filter(|sent| sent.code() == code(passenger, 2)).collect();
        assert!(!sent.is_empty() && sent.iter().all(|sent| sent.json["start_qrcode"].as_str() == Some(start.as_str())));
    }
}

#[test]
fn on_a_lane_for_both_the_first_tap_enters_and_the_next_leaves() {
    let wechat = WeChat::start();
    let mut gate = builder(&wechat).lanes(&["in"]).of_lane("in", "lane", "mode", "both").start();
    for round in 0..2 {
        tap(&mut gate, "in", &code("A", 2 * round));
        tap(&mut gate, "in", &code("A", 2 * round + 1));
        gate.wait("it is accepted", || gate.rows_in("accepted").len() == round + 1);
    }
    assert!(journeys(&gate).iter().all(|journey| journey["state"] == "exited"));
}

#[test]
fn who_taps_out_again_before_he_has_passed_pays_once_and_is_let_out() {
    let wechat = WeChat::start();
    let mut gate =
        with_sensors(builder(&wechat)).set("turnstile", "passage_timeout", "20s").set("fare", "unmatched_exit", "deny").start();
    tap(&mut gate, "in", &code("A", 1));
    pass(&gate, "in");
    tap(&mut gate, "out", &code("A", 2));
    tap(&mut gate, "out", &code("A", 3));
    pass(&gate, "out");
    gate.wait("it is accepted", || gate.rows_in("accepted").len() == 1);
    wechat.assert_charged_exactly(&[code("A", 2)]);
    assert_eq!(gate.queue().len(), 1);
    let order = gate.queue()[0]["order"].as_str().unwrap().to_owned();
    let events = gate.ask(&["queue", "show", &order])["events"].to_string();
    assert!(events.contains("opened-again"), "{events}");
}

#[test]
fn who_never_went_in_owes_nothing_however_often_he_tapped() {
    let wechat = WeChat::start();
    let builder = with_sensors(builder(&wechat)).set("fare", "max_journey", "1s").set("fare", "unfinished_entry", "charge-max");
    let mut gate = builder.start();
    tap(&mut gate, "in", &code("A", 1));
    tap(&mut gate, "in", &code("A", 2));
    gate.wait("both are taken back", || journeys(&gate).iter().all(|journey| journey["state"] == "taken-back"));
    tap(&mut gate, "in", &code("B", 1));
    pass(&gate, "in");
    gate.wait("who went in and never left is charged", || gate.rows_in("accepted").len() == 1);
    wechat.assert_charged_exactly(&[code("B", 1)]);
}

#[test]
fn a_trip_that_costs_nothing_and_is_not_passed_goes_on() {
    let wechat = WeChat::start();
    let same = serde_json::json!({"within": "15m", "fen": 0});
    let builder = with_sensors(builder(&wechat)).set("fare", "same_station", same).of_lane("out", "lane", "station", "S1");
    let mut gate = builder.set("fare", "unmatched_exit", "deny").start();
    tap(&mut gate, "in", &code("A", 1));
    pass(&gate, "in");
    tap(&mut gate, "out", &code("A", 2));
    assert_eq!(gate.queue()[0]["reason"], "free");
    gate.wait("nobody passed, and the journey goes on", || journeys(&gate)[0]["state"] == "open");
    tap(&mut gate, "out", &code("A", 3));
}
