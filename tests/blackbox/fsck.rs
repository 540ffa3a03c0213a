//! `faregate fsck`: a ledger that is as it should be is called so, and each promise that is broken is named, with the way out.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::{
    control::as_stranger,
    support::{Answer, Cli, Gate, WeChat, backlog::fill, codes},
};

const ROWS: usize = 3;

/// A gate with so many accepted deductions, stopped.
fn gate_with_rows() -> (WeChat, Gate) {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).start();
    for code in codes("FSCK", 0..ROWS) {
        gate.scan("in", &code);
    }
    gate.wait("all are accepted", || gate.rows_in("accepted").len() == ROWS);
    gate.stop_cleanly();
    (wechat, gate)
}

/// The ledger, with nothing left of what it refuses.
fn unguarded(gate: &Gate) -> Connection {
    let ledger = Connection::open(gate.path("ledger.db")).unwrap();
    let mut triggers = ledger.prepare("SELECT 'DROP TRIGGER ' || name || ';' FROM sqlite_schema WHERE type = 'trigger'").unwrap();
    let drops: Vec<String> = triggers.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    drop(triggers);
    ledger.execute_batch(&drops.concat()).unwrap();
    ledger.execute_batch("PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF").unwrap();
    ledger
}

fn fsck(gate: &Gate) -> (Cli, Value) {
    let cli = gate.cli(&["fsck", "--json"]);
    let document = serde_json::from_str(&cli.stdout).unwrap_or_else(|error| panic!("{error}: {cli:?}"));
    (cli, document)
}

/// Breaks a promise with raw SQL: exactly that one is named, in the document and in a sentence.
fn breaks(sql: &str, invariant: &str, count: u64) {
    let (_wechat, gate) = gate_with_rows();
    unguarded(&gate).execute_batch(sql).unwrap();
    let (cli, document) = fsck(&gate);
    assert_eq!(cli.code, Some(1), "{cli:?}");
    let broken: Vec<_> =
        document["broken"].as_array().unwrap().iter().map(|broken| (&broken["invariant"], &broken["count"])).collect();
    assert_eq!(broken, [(&json!(invariant), &json!(count))], "{document:#}");
    assert_eq!((&document["ok"], &document["damage"]), (&json!(false), &json!([])));
    assert!(cli.stderr.starts_with(&format!("faregate: {invariant}: ")), "{cli:?}");
    assert!(document["broken"][0]["mend"].as_str().is_some_and(|mend| !mend.is_empty()));
}

macro_rules! promises {
    ($($name:ident: $sql:expr => $invariant:literal, $count:literal;)*) => {$(
        #[test]
        fn $name() {
            breaks($sql, $invariant, $count);
        }
    )*};
}

promises! {
    sums_that_differ_from_the_rows_are_named: "UPDATE tally SET fen = fen - 1 WHERE state = 'accepted'" => "tally", 1;
    a_deduction_that_lost_its_request_is_named: "UPDATE deduction SET body = NULL WHERE id = 1" => "body", 1;
    an_order_number_of_another_form_is_named: "
        UPDATE deduction SET body = CAST(replace(CAST(body AS TEXT), order_number, 'I' || substr(order_number, 2)) AS BLOB) WHERE id < 3;
        UPDATE deduction SET order_number = 'I' || substr(order_number, 2) WHERE id < 3" => "order-form", 2;
    an_order_number_that_is_used_twice_is_named: "
        CREATE TABLE copy AS SELECT * FROM deduction;
        DROP TABLE deduction;
        UPDATE copy SET (order_number, body) = (SELECT order_number, body FROM copy WHERE id = 1) WHERE id = 2;
        ALTER TABLE copy RENAME TO deduction" => "order-unique", 1;
    a_journey_that_is_charged_twice_is_named: "
        INSERT INTO journey SELECT 1, order_number, 'exited', gate, lane, station, passenger, passenger_tail, x'00', code_digest, 'opened', NULL, 0,
            NULL, NULL, 0, NULL, 1, 1, 0, created_boot, 0, 0 FROM deduction WHERE id = 1;
        UPDATE deduction SET journey = 1 WHERE id < 3" => "journey-once", 1;
    a_journey_that_is_not_there_is_named: "UPDATE deduction SET journey = 7 WHERE id = 1" => "journeys", 1;
    a_kind_that_nobody_knows_is_named: "UPDATE deduction SET kind = 'double' WHERE id = 2" => "words", 1;
    an_opening_that_nobody_knows_is_named: "UPDATE deduction SET opening = 'ajar' WHERE id = 2" => "words", 1;
    an_amount_that_grew_by_its_discount_is_named: "UPDATE deduction SET original_fen = 100 WHERE id = 1" => "amount", 1;
    a_request_of_another_amount_than_its_row_is_named: "
        UPDATE deduction SET body = CAST(replace(CAST(body AS TEXT), '\"total_fee\":200', '\"total_fee\":2000') AS BLOB) WHERE id = 1" => "request", 1;
    a_request_of_another_order_is_named: "
        UPDATE deduction SET body = (SELECT body FROM deduction WHERE id = 1) WHERE id < 3" => "request", 1;
    a_request_that_cannot_be_read_is_named: "UPDATE deduction SET body = x'7b7d' WHERE id = 3" => "request", 1;
    what_is_paid_with_another_amount_and_no_flag_is_named: "
        UPDATE deduction SET state = 'paid', settled_utc_ms = 1, paid_fen = 150 WHERE id = 1;
        UPDATE tally SET deductions = 2, fen = 400 WHERE state = 'accepted';
        UPDATE tally SET deductions = 1, fen = 200 WHERE state = 'paid'" => "paid", 1;
    a_negative_sum_of_what_was_removed_is_named: "
        INSERT INTO daily (day, state, line, deductions, original_fen, total_fen, paid_fen)
        VALUES ('2026-11-23', 'paid', 'in', 2, 400, 400, -400)" => "removed", 1;
    what_is_accepted_at_no_time_is_named: "UPDATE deduction SET accepted_utc_ms = NULL" => "accepted-at", 3;
    what_is_paid_with_no_amount_is_named: "
        UPDATE deduction SET state = 'paid', settled_utc_ms = 1 WHERE id = 1;
        UPDATE tally SET deductions = 2, fen = 400 WHERE state = 'accepted';
        UPDATE tally SET deductions = 1, fen = 200 WHERE state = 'paid'" => "paid", 1;
    a_step_of_a_story_without_a_deduction_is_named: "INSERT INTO event (deduction, at_utc_ms, event) VALUES (99, 1, 'opened')" => "events", 1;
    the_sum_of_something_unsettled_that_was_removed_is_named: "
        INSERT INTO daily (day, state, line, deductions, original_fen, total_fen, paid_fen)
        VALUES ('2026-11-23', 'parked', 'in', 2, 400, 400, 0)" => "removed", 1;
    an_opening_that_no_start_would_ask_about_is_named: "
        UPDATE deduction SET waiting_from = NULL;
        UPDATE deduction SET opening = 'waiting' WHERE id = 1" => "openings", 1;
    a_deny_list_that_lost_a_card_is_named: "UPDATE deny_list SET cards = 1" => "deny-list", 1;
}

#[test]
fn a_fen_in_no_known_state_is_named_and_told_as_unexplained() {
    let (_wechat, gate) = gate_with_rows();
    let sql =
        "UPDATE deduction SET state = 'lost' WHERE id = 3; UPDATE tally SET deductions = 2, fen = 400 WHERE state = 'accepted'";
    unguarded(&gate).execute_batch(sql).unwrap();
    let (cli, document) = fsck(&gate);
    assert_eq!((cli.code, &document["broken"][0]["invariant"]), (Some(1), &json!("explained")), "{document:#}");
    assert_eq!(document["unexplained"], json!({"rows": 1, "fen": 200}));
    let told = gate.cli(&["fsck"]).stdout;
    assert!(told.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == ["unexplained", "1", "200"]), "{told}");
}

#[test]
fn books_that_balance_are_printed_and_balance() {
    let (_wechat, gate) = gate_with_rows();
    let removed = "INSERT INTO daily (day, state, line, deductions, original_fen, total_fen, paid_fen)
         VALUES ('2026-11-23', 'paid', 'in', 2, 400, 380, 380), ('2026-11-24', 'void', 'in', 1, 200, 200, 0)";
    Connection::open(gate.path("ledger.db")).unwrap().execute(removed, []).unwrap();
    let (cli, document) = fsck(&gate);
    assert_eq!((cli.code, cli.stderr.as_str()), (Some(0), ""), "{cli:?}");
    assert_eq!((&document["ok"], &document["broken"]), (&json!(true), &json!([])), "{document:#}");
    assert_eq!(document["recorded"], json!({"rows": 3, "fen": 600}));
    let states = document["states"].as_object().unwrap();
    assert_eq!(states.len(), 7);
    assert_eq!(states.values().map(|state| state["fen"].as_i64().unwrap()).sum::<i64>(), 600);
    assert_eq!((&states["accepted"]["rows"], &document["removed"]), (&json!(3), &json!({"rows": 3, "fen": 580})));
    let told = gate.cli(&["fsck"]);
    assert!(told.code == Some(0) && told.stdout.contains("every fen is explained"), "{told:?}");
}

#[test]
fn what_only_wechat_can_explain_is_a_remark_and_no_broken_promise() {
    let (_wechat, gate) = gate_with_rows();
    let ledger = Connection::open(gate.path("ledger.db")).unwrap();
    let sql = "UPDATE deduction SET state = 'paid', settled_utc_ms = 1, paid_fen = 150, flags = 'amount-mismatch' WHERE id = 1;
         INSERT INTO unknown_callback (fingerprint, first_utc_ms, last_utc_ms, told, fen, transaction_id)
         VALUES (x'01', 1, 1, 'repaid', 400, 'T1'), (x'02', 1, 1, 'repaid', 400, 'T1'), (x'03', 1, 1, 'unpaid', 70, 'T2')";
    ledger.execute_batch(sql).unwrap();
    let (cli, document) = fsck(&gate);
    assert_eq!((cli.code, &document["ok"]), (Some(0), &json!(true)), "{document:#}");
    assert_eq!(document["mismatched"], json!({"rows": 1, "fen": 200}));
    assert_eq!(document["unknown_callbacks"], json!({"rows": 3, "fen": 400}));
    assert_eq!(gate.cli(&["fsck"]).stdout.matches("remark: ").count(), 2);
}

#[test]
fn a_damaged_page_is_told_in_a_sentence_with_the_way_out() {
    for part in ["deduction", "event_deduction"] {
        let (_wechat, gate) = gate_with_rows();
        let ledger = Connection::open(gate.path("ledger.db")).unwrap();
        let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?";
        let page: u32 = ledger.query_row(sql, [part], |row| row.get(0)).unwrap();
        let page_bytes: u32 = ledger.pragma_query_value(None, "page_size", |row| row.get(0)).unwrap();
        drop(ledger);
        let file = OpenOptions::new().write(true).open(gate.path("ledger.db")).unwrap();
        file.write_all_at(&vec![0xee; page_bytes as usize], u64::from(page - 1) * u64::from(page_bytes)).unwrap();
        let told = gate.cli(&["fsck"]);
        assert_eq!(told.code, Some(65), "{part}: {told:?}");
        for words in ["is damaged", "move it and", "fares that are not yet charged"] {
            assert!(told.stderr.contains(words), "{part}: {words}: {told:?}");
        }
        let (cli, document) = fsck(&gate);
        assert!(cli.code == Some(65) && !document["damage"].as_array().unwrap().is_empty(), "{part}: {document:#}");
    }
}

#[test]
fn a_file_that_is_none_and_one_that_is_not_there_end_with_their_own_codes() {
    let (_wechat, gate) = gate_with_rows();
    fs::write(gate.path("ledger.db"), "no ledger at all, only words".repeat(100)).unwrap();
    assert_eq!(gate.cli(&["fsck"]).code, Some(65));
    fs::remove_file(gate.path("ledger.db")).unwrap();
    assert_eq!(gate.cli(&["fsck"]).code, Some(66));
    // As a first start leaves it that is cut short.
    fs::write(gate.path("ledger.db"), "").unwrap();
    assert_eq!((gate.cli(&["fsck"]).code, gate.cli(&["queue", "list"]).code), (Some(66), Some(66)));
}

#[test]
fn a_ledger_that_works_is_looked_at_beside_the_gate_and_left_as_it_was() {
    let wechat = WeChat::start();
    wechat.answer(Answer::Hang);
    let mut gate = Gate::beside(&wechat).start();
    gate.stop_cleanly();
    fill(&gate.path("ledger.db"), 20_000);
    gate.start();
    let mut opened = 0;
    let mut looking =
        gate.command(&["fsck", "--json"]).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    for code in codes("BESIDE", 0..5) {
        gate.scan("in", &code);
        opened += 1;
        gate.wait_opens(opened);
    }
    gate.wait("it ends", || looking.try_wait().unwrap().is_some());
    let (_, document) = fsck(&gate);
    assert_eq!(document["recorded"]["rows"], 20_005, "{document:#}");
    assert_eq!(document["states"]["pending"]["rows"], 20_005);
    gate.stop_cleanly();
    gate.start();
    gate.scan("in", b"AFTER-FSCK-RIDE-CODE");
    gate.wait_opens(opened + 1);
}

#[test]
fn who_may_not_read_the_file_is_told_so() {
    if !rustix::process::geteuid().is_root() {
        return; // Nobody else can become a stranger.
    }
    let (_wechat, gate) = gate_with_rows();
    let refused = as_stranger(&gate, &["fsck"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(77), ""), "{refused:?}");
}
