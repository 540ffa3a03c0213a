//! A gate that may not ask the kernel whether the clock is synchronized, as under its unit, and the watcher that asks for it.
//!
//! A small library before libc answers in the kernel's place (`support/faults.c`).

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::{
    faults::library,
    support::{Gate, WeChat},
};

/// States of adjtimex(2), and the answer of a filter of system calls.
const TIME_OK: &str = "0";
const TIME_ERROR: &str = "5";
const REFUSED: &str = "-1";

/// Not started yet.
fn confined_gate(wechat: &WeChat) -> Gate {
    let mut gate = Gate::beside(wechat).prepare();
    gate.set_env("LD_PRELOAD", library());
    gate.set_env("FAREGATE_ADJTIMEX", REFUSED);
    gate.set_env("FAREGATE_CLOCK_STATE", gate.path("clock-state"));
    gate
}

/// A command on a machine whose kernel answers this.
fn command(gate: &Gate, words: &[&str], kernel: &str) -> Command {
    let mut command = gate.command(words);
    command.env("LD_PRELOAD", library()).env("FAREGATE_ADJTIMEX", kernel).env("FAREGATE_CLOCK_STATE", gate.path("clock-state"));
    command
}

struct Watcher(Child);

impl Watcher {
    fn start(gate: &Gate, kernel: &str) -> Self {
        Self(command(gate, &["clock-watch"], kernel).spawn().unwrap())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_synchronized(gate: &Gate) -> bool {
    gate.status()["clock"]["synchronized"] == true
}

#[test]
fn a_gate_that_may_not_ask_the_kernel_knows_by_its_watcher_whether_the_clock_is_synchronized() {
    let wechat = WeChat::start();
    let mut gate = confined_gate(&wechat);
    gate.start();
    assert!(!is_synchronized(&gate), "nobody has looked");

    let watcher = Watcher::start(&gate, TIME_OK);
    gate.wait("the clock is synchronized", || is_synchronized(&gate));
    gate.scan("in", b"SYNCHRONIZED");
    gate.wait_opens(1);
    let shown = gate.cli(&["queue", "show", gate.queue()[0]["order"].as_str().unwrap()]);
    assert!(shown.stdout.contains("clock synchronized"), "{shown:?}");

    drop(watcher);
    assert!(is_synchronized(&gate), "its last look holds for a while");
    let _watcher = Watcher::start(&gate, TIME_ERROR);
    gate.wait("the clock is no longer synchronized", || !is_synchronized(&gate));
    assert_eq!(gate.status()["alarms"], Value::Array(Vec::new()));
}

#[test]
fn a_watcher_that_hangs_is_an_unsynchronized_clock_an_alarm_and_a_line_in_the_log() {
    let wechat = WeChat::start();
    let mut gate = confined_gate(&wechat);
    fs::write(gate.path("clock-state"), "1 0000000000000000001\n").unwrap();
    gate.start();
    assert!(!is_synchronized(&gate));
    let is_told = |text: &str| text.contains("systemctl status faregate-clock");
    gate.wait("the alarm", || is_told(&gate.status()["alarms"].to_string()));
    assert!(is_told(&gate.log()), "{}", gate.log());
    let doctor = command(&gate, &["doctor"], TIME_OK).output().unwrap();
    let said = String::from_utf8(doctor.stdout).unwrap();
    assert!(said.contains("synchronized, but the daemon does not know it; "), "{said}");

    let _watcher = Watcher::start(&gate, TIME_OK);
    gate.wait("the clock is synchronized", || is_synchronized(&gate));
    assert_eq!(gate.status()["alarms"], Value::Array(Vec::new()));
    assert!(gate.log().contains("faregate-clock tells again"), "{}", gate.log());
}

#[test]
fn a_watcher_that_cannot_do_its_work_ends_with_one_sentence() {
    let wechat = WeChat::start();
    let gate = confined_gate(&wechat);
    let ended = |command: &mut Command| {
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = ended(&mut command(&gate, &["clock-watch"], REFUSED));
    assert!(code == Some(70) && said.contains("does not tell whether the clock is synchronized"), "{code:?} {said}");
    let nowhere = gate.path("no-folder/state");
    let (code, said) = ended(command(&gate, &["clock-watch"], TIME_OK).env("FAREGATE_CLOCK_STATE", nowhere));
    assert!(code == Some(70) && said.contains("no-folder/state cannot be written") && said.lines().count() == 1, "{code:?} {said}");
}
