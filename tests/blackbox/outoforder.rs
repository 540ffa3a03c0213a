//! The ledger cannot be used: no code opens, the program says so, and nothing is overwritten.

use std::{fs, thread, time::Duration};

use rusqlite::Connection;
use serde_json::Value;

use crate::support::{Cli, Gate, Random, WeChat, code};

/// More than any disk has.
const NEVER_FREE: &str = "100000GiB";

#[test]
fn without_room_on_the_disk_a_lane_is_out_of_order_and_the_program_lives_on() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).set("ledger", "min_free", NEVER_FREE).prepare();
    gate.spawn();
    gate.wait_answering();
    gate.wait("the lane shows that it is out of order", || gate.denials().contains(&"out-of-order".to_owned()));
    gate.scan("in", &code("NO-ROOM", 1));
    gate.scan("in", &code("NO-ROOM", 2));
    // That nothing happens has no end to wait for.
    thread::sleep(Duration::from_millis(300));
    assert_eq!(gate.opens().len(), 0);
    assert_eq!(gate.health(), Some(503));
    assert_ne!(gate.status()["alarms"], Value::Array(Vec::new()), "alarms");
    let light = gate.trace().into_iter().rfind(|edge| edge.line == "light_deny").unwrap();
    assert_eq!(light.level, 1, "the light is steady");
    gate.stop_cleanly();
    assert_eq!(gate.queue().len(), 0);

    gate.write_settings(&gate.settings().replace(NEVER_FREE, "1MiB"));
    gate.start();
    gate.scan("in", &code("NO-ROOM", 1));
    gate.wait_opens(1);
}

/// A stopped gate with a ledger that it once wrote and that `spoil` changed; the ledger's bytes.
fn gate_with_a_spoilt_ledger(wechat: &WeChat, spoil: impl Fn(&Gate)) -> (Gate, Vec<u8>) {
    let mut gate = Gate::beside(wechat).start();
    gate.scan("in", &code("SPOILT", 1));
    gate.wait_opens(1);
    gate.wait_drained();
    gate.stop_cleanly();
    spoil(&gate);
    let bytes = fs::read(gate.path("ledger.db")).unwrap();
    (gate, bytes)
}

fn assert_queue_says(gate: &Gate, why: &str) {
    let Cli { code, stderr, .. } = gate.cli(&["queue", "list"]);
    assert!(code == Some(65) && stderr.contains(why), "queue list ends with {code:?} and says {stderr}");
}

fn assert_said(said: &str, why: &str) {
    assert!(said.contains("ledger.db") && said.contains(why), "it does not say what is wrong with which file: {said:?}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn with_a_damaged_ledger_the_lanes_are_out_of_order_and_the_file_is_left_as_it_is() {
    let wechat = WeChat::start();
    let (mut gate, before) = gate_with_a_spoilt_ledger(&wechat, |gate| {
        for name in ["ledger.db-wal", "ledger.db-shm"] {
            let _ = fs::remove_file(gate.path(name));
        }
        fs::write(gate.path("ledger.db"), Random::new(7).bytes(64 * 1024)).unwrap();
    });
    let log_before = gate.log().len();
    gate.spawn();
    gate.wait_answering();
    gate.wait("the lane shows that it is out of order", || gate.denials().contains(&"out-of-order".to_owned()));
    assert_eq!(gate.health(), Some(503));
    assert_said(&gate.log()[log_before..], "is damaged");
    assert_queue_says(&gate, "is damaged");
    assert_eq!(gate.stop(), Some(65));
    assert_queue_says(&gate, "is damaged");
    assert!(fs::read(gate.path("ledger.db")).unwrap() == before, "the file was changed");
}

#[test]
fn a_ledger_newer_than_the_program_is_refused_with_a_sentence_and_left_as_it_is() {
    let wechat = WeChat::start();
    let (mut gate, before) = gate_with_a_spoilt_ledger(&wechat, |gate| {
        let ledger = Connection::open(gate.path("ledger.db")).unwrap();
        ledger.pragma_update(None, "user_version", 999_000).unwrap();
    });
    let log_before = gate.log().len();
    gate.spawn();
    assert_eq!(gate.wait_ended(), Some(65), "{}", gate.log_tail());
    assert_said(&gate.log()[log_before..], "newer than this program");
    assert_queue_says(&gate, "newer than this program");
    assert!(fs::read(gate.path("ledger.db")).unwrap() == before, "the file was changed");
}

/// Every write beyond this fails: one admission takes more of the ledger's log, wherever it begins; the trace and the program's own
/// log stay shorter.
const FAILING_BEYOND_BYTES: u64 = 8 << 10;

/// A gate whose ledger is long enough to fail, with one trip in it.
fn gate_that_can_fail(wechat: &WeChat) -> Gate {
    let mut gate = Gate::beside(wechat).start();
    gate.scan("in", &code("BEFORE", 1));
    gate.wait_opens(1);
    let log_bytes = || fs::metadata(gate.path("ledger.db-wal")).map_or(0, |log| log.len());
    gate.wait("the ledger's log has its length", || log_bytes() > 4 << 20);
    gate
}

#[test]
fn a_disk_that_fails_opens_nothing_charges_nobody_and_heals_by_itself() {
    let wechat = WeChat::start();
    let mut gate = gate_that_can_fail(&wechat);
    gate.fail_writes_beyond(Some(FAILING_BEYOND_BYTES));
    gate.scan("in", &code("FAILED", 1));
    gate.wait("the passenger is refused", || gate.log().contains("refused: out-of-order"));
    gate.wait("the lane cannot open", || gate.health() == Some(503));
    gate.scan("in", &code("FAILED", 2));
    gate.wait_denials(2);
    assert_eq!(gate.opens().len(), 1);
    gate.fail_writes_beyond(None);
    gate.wait("it has healed", || gate.health() == Some(200));
    gate.scan("in", &code("FAILED", 1));
    gate.wait_opens(2);
    gate.wait("both trips are charged", || wechat.charged().len() == 2);
    gate.wait_drained();
    wechat.assert_charged_exactly(&[code("BEFORE", 1), code("FAILED", 1)]);
    gate.stop_cleanly();
}

#[test]
fn a_passenger_refused_by_a_failing_disk_is_not_charged_although_the_program_is_stopped() {
    let wechat = WeChat::start();
    let mut gate = gate_that_can_fail(&wechat);
    gate.fail_writes_beyond(Some(FAILING_BEYOND_BYTES));
    gate.scan("in", &code("FAILED", 1));
    // Of this very scan: the lane may be out of order by a write of the ledger's own before it is read.
    gate.wait("the passenger is refused", || gate.log().contains("refused: out-of-order"));
    gate.fail_writes_beyond(None);
    gate.stop_cleanly();
    gate.start();
    gate.scan("in", &code("AFTER", 1));
    gate.wait_opens(2);
    gate.wait("the others are charged", || wechat.charged().len() == 2);
    gate.wait_drained();
    wechat.assert_charged_exactly(&[code("BEFORE", 1), code("AFTER", 1)]);
}

/// Another program's lock on the ledger, as of a sqlite3 shell in the middle of a transaction.
fn locked(gate: &Gate) -> Connection {
    let shell = Connection::open(gate.path("ledger.db")).unwrap();
    shell.busy_timeout(Duration::from_secs(10)).unwrap();
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    shell
}

#[test]
fn while_another_program_locks_the_ledger_the_lane_says_so_and_comes_back_by_itself() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).start();
    let shell = locked(&gate);
    gate.scan("in", &code("LOCKED", 1));
    gate.wait("the lane is out of order", || gate.health() == Some(503));
    assert!(gate.status()["alarms"].to_string().contains("another program holds"), "{}", gate.status());
    assert_eq!(gate.opens().len(), 0);
    drop(shell);
    gate.wait("the lane is in order again", || gate.health() == Some(200));
    gate.scan("in", &code("LOCKED", 2));
    gate.wait_opens(1);
    gate.wait_drained();
    wechat.assert_charged_exactly(&[code("LOCKED", 2)]);
    gate.stop_cleanly();
}

#[test]
fn a_scan_that_did_not_open_is_not_charged_though_the_ledger_is_locked_when_that_is_known() {
    let wechat = WeChat::start();
    let builder = Gate::beside(&wechat).set("turnstile", "pulse", "20s").set("gate", "open_within", "50s");
    let mut gate = builder.start();
    gate.scan("in", &code("STOPPED", 1));
    gate.wait_opens(1);
    gate.scan("in", &code("STOPPED", 2));
    gate.wait("the second waits for its pulse", || gate.queue().len() == 2);
    let shell = locked(&gate);
    let releasing = thread::spawn(move || {
        thread::sleep(Duration::from_millis(2_500));
        drop(shell);
    });
    gate.stop_cleanly();
    releasing.join().unwrap();
    let row = &gate.queue()[1];
    assert_eq!((&row["state"], &row["reason"]), (&"void".into(), &"not-opened".into()));
    gate.start();
    gate.wait_drained();
    wechat.assert_charged_exactly(&[code("STOPPED", 1)]);
}

#[test]
fn a_gate_whose_disk_failed_heals_while_somebody_reads_the_ledger() {
    let wechat = WeChat::start();
    let mut gate = gate_that_can_fail(&wechat);
    let reader = Connection::open(gate.path("ledger.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM deduction").unwrap();
    gate.fail_writes_beyond(Some(FAILING_BEYOND_BYTES));
    gate.scan("in", &code("READ", 1));
    gate.wait("the lane cannot open", || gate.health() == Some(503));
    gate.fail_writes_beyond(None);
    gate.wait("it has healed", || gate.health() == Some(200));
    gate.scan("in", &code("READ", 2));
    gate.wait_opens(2);
    drop(reader);
    gate.wait_drained();
    wechat.assert_charged_exactly(&[code("BEFORE", 1), code("READ", 2)]);
    gate.stop_cleanly();
}
