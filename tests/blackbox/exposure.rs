//! `[exposure]`: how much a gate lets ride that WeChat has not yet taken.

use serde_json::json;

use crate::support::{Gate, WeChat, code, codes, gate::Builder};

/// A gate that may have two trips, of 200 fen each, not yet accepted.
fn limited(wechat: &WeChat, at_limit: &str) -> Builder {
    Gate::beside(wechat).set("exposure", "gate_fen", 400).set("exposure", "at_limit", at_limit)
}

fn alarms(gate: &Gate) -> Vec<String> {
    let alarms = gate.status()["alarms"].as_array().unwrap().clone();
    let alarms = alarms.iter().map(|alarm| alarm.as_str().unwrap().to_owned());
    alarms.filter(|alarm| alarm.starts_with("exposure")).collect()
}

fn told_in_the_log(gate: &Gate) -> usize {
    gate.log().lines().filter(|line| line.contains("gate_fen")).count()
}

#[test]
fn at_the_limit_of_the_gate_single_taps_are_refused_until_wechat_takes_them() {
    let mut wechat = WeChat::start();
    wechat.down();
    let mut gate = limited(&wechat, "deny").start();
    assert!(alarms(&gate).is_empty());
    for (number, code) in codes("LIMIT", 0..2).iter().enumerate() {
        gate.scan("in", code);
        gate.wait_opens(number + 1);
    }
    for number in 2..4 {
        gate.scan("in", &code("LIMIT", number));
        gate.wait_denials(number - 1);
    }
    assert_eq!((gate.denials(), gate.opens().len()), (vec!["exposure".to_owned(); 2], 2));
    assert!(alarms(&gate).iter().any(|alarm| alarm.contains("gate_fen") && alarm.contains("refused")), "{:?}", alarms(&gate));
    assert!(gate.get("/metrics").unwrap().1.contains("\nfaregate_at_risk_fen 400\n"));
    assert_eq!(told_in_the_log(&gate), 1, "once per episode");
    wechat.up();
    gate.wait("all are accepted", || gate.rows_in("accepted").len() == 2);
    gate.wait("the alarm ends", || alarms(&gate).is_empty());
    gate.scan("in", &code("LIMIT", 2));
    gate.wait_opens(3);
}

#[test]
fn a_limit_that_only_alarms_refuses_nobody() {
    let mut wechat = WeChat::start();
    wechat.down();
    let mut gate = limited(&wechat, "alarm").start();
    for (number, code) in codes("ALARM", 0..4).iter().enumerate() {
        gate.scan("in", code);
        gate.wait_opens(number + 1);
    }
    assert!(alarms(&gate).iter().any(|alarm| alarm.contains("gate_fen")), "{:?}", alarms(&gate));
    assert_eq!(told_in_the_log(&gate), 1, "once per episode");
}

#[test]
fn a_passenger_at_the_limit_is_refused_and_the_others_are_not() {
    let mut wechat = WeChat::start();
    wechat.down();
    let builder = Gate::beside(&wechat).set("exposure", "passenger_count", 1).set("exposure", "at_limit", "deny");
    let builder = builder.set("gate", "passenger_interval", "1ms");
    let mut gate = builder.set("ride_code", "opaque_passenger", json!({"offset": 0, "length": 4})).start();
    gate.scan("in", b"ANNA-FIRST-RIDE-CODE-0001");
    gate.wait_opens(1);
    gate.scan("in", b"ANNA-SECOND-RIDE-CODE-0002");
    gate.wait_denials(1);
    gate.scan("in", b"BERT-FIRST-RIDE-CODE-0001");
    gate.wait_opens(2);
    assert_eq!(gate.denials(), ["exposure"]);
    assert!(alarms(&gate).iter().any(|alarm| alarm.contains("a passenger")), "{:?}", alarms(&gate));
}
