//! A reader is pulled out, put back, or missing from the start: its lane says so, the others work on, the processor rests.

use std::{fs, thread, time::Duration};

use crate::support::{Gate, WeChat, code};

/// The kernel's unit of `utime` and `stime` in `/proc/PID/stat`, for every program on Linux.
const TICKS_PER_SECOND: u64 = 100;

/// User and system time that the daemon used so far, in ticks.
fn cpu_ticks(gate: &Gate) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", gate.pid())).unwrap();
    let after_name = &stat[stat.rfind(')').unwrap() + 2..];
    // Fields 14 and 15 of proc(5); the first after the name is field 3.
    after_name.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

/// The second that passes here is what is measured, not what is waited for.
fn assert_processor_rests(gate: &Gate) {
    let before = cpu_ticks(gate);
    thread::sleep(Duration::from_secs(1));
    let used = cpu_ticks(gate) - before;
    assert!(used * 10 < TICKS_PER_SECOND * 3, "{used} of {TICKS_PER_SECOND} ticks used while nothing happened");
}

fn scanner_state(gate: &Gate, lane: &str) -> String {
    let status = gate.status();
    let lanes = status["lanes"].as_array().expect("lanes in the status");
    let lane = lanes.iter().find(|entry| entry["name"] == lane).unwrap_or_else(|| panic!("no lane {lane} in {status}"));
    lane["scanner"].as_str().expect("a scanner's state").to_owned()
}

#[test]
fn an_unplugged_reader_is_absent_and_works_again_when_replugged() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).lanes(&["in", "out"]).start();
    gate.scan("in", &code("UNPLUG", 1));
    gate.wait_opens(1);
    for round in 0..2 {
        gate.unplug("in");
        gate.wait("the reader is absent", || scanner_state(&gate, "in") == "absent");
        assert_eq!(scanner_state(&gate, "out"), "up");
        gate.wait("/health says so", || gate.health() == Some(503));
        assert_processor_rests(&gate);
        gate.scan("out", &code("UNPLUG-OUT", round));
        gate.wait_opens(2 + 2 * round);
        gate.plug("in");
        gate.wait("the reader is back", || scanner_state(&gate, "in") == "up");
        gate.wait_healthy();
        gate.scan("in", &code("UNPLUG-BACK", round));
        gate.wait_opens(3 + 2 * round);
    }
    gate.stop_cleanly();
}

#[test]
fn a_reader_absent_at_start_is_taken_when_it_comes() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).prepare();
    gate.unplug("in");
    gate.spawn();
    gate.wait_answering();
    assert_eq!(gate.health(), Some(503));
    assert_eq!(scanner_state(&gate, "in"), "absent");
    assert_processor_rests(&gate);
    gate.plug("in");
    gate.wait_healthy();
    gate.scan("in", &code("ABSENT", 1));
    gate.wait_opens(1);
}

#[test]
fn half_a_code_before_the_plug_was_pulled_is_not_joined_to_the_next() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).start();
    gate.send("in", b"HALF-A-");
    gate.unplug("in");
    gate.wait("the reader is absent", || scanner_state(&gate, "in") == "absent");
    gate.plug("in");
    gate.wait_healthy();
    gate.scan("in", &code("WHOLE", 1));
    gate.wait("it is charged", || wechat.charged().len() == 1);
    wechat.assert_charged_exactly(&[code("WHOLE", 1)]);
}

#[test]
fn an_idle_gate_leaves_the_processor_alone() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).start();
    gate.scan("in", &code("IDLE", 1));
    gate.wait_opens(1);
    gate.wait_drained();
    assert_processor_rests(&gate);
}
