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

/// Starts a gate on a ledger that it once wrote and that `spoil` changed, and expects it to refuse and to leave the file alone.
fn refuses_a_ledger(spoil: impl Fn(&Gate)) {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).start();
    gate.scan("in", &code("SPOILT", 1));
    gate.wait_opens(1);
    gate.wait_drained();
    gate.stop_cleanly();
    spoil(&gate);
    let before = fs::read(gate.path("ledger.db")).unwrap();
    let log_before = gate.log().len();
    gate.spawn();
    assert_eq!(gate.wait_ended(), Some(65), "{}", gate.log_tail());
    let said = gate.log()[log_before..].to_owned();
    assert!(said.contains("ledger.db"), "it does not name the file: {said:?}");
    assert!(!said.contains("panicked"), "{said}");
    let Cli { code, stderr, .. } = gate.cli(&["queue", "list"]);
    assert_eq!(code, Some(65), "queue list says {stderr}");
    assert!(fs::read(gate.path("ledger.db")).unwrap() == before, "the file was changed");
}

#[test]
fn a_damaged_ledger_is_refused_with_a_sentence_and_left_as_it_is() {
    refuses_a_ledger(|gate| {
        for name in ["ledger.db-wal", "ledger.db-shm"] {
            let _ = fs::remove_file(gate.path(name));
        }
        fs::write(gate.path("ledger.db"), Random::new(7).bytes(64 * 1024)).unwrap();
    });
}

#[test]
fn a_ledger_newer_than_the_program_is_refused_with_a_sentence_and_left_as_it_is() {
    refuses_a_ledger(|gate| {
        let ledger = Connection::open(gate.path("ledger.db")).unwrap();
        ledger.pragma_update(None, "user_version", 999_000).unwrap();
    });
}
