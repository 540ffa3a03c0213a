//! `faregate export`: what was recorded within a time, in a form that spreadsheets and programs take, and sums that agree with it.

use std::fs;

use data_encoding::BASE64;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::{
    control::as_stranger,
    support::{Answer, Cli, Gate, QUEUE_KEYS, WeChat, backlog::fill, codes},
};

/// Beijing days: all of them.
const ALL: [&str; 5] = ["export", "--from", "1970-01-01", "--to", "2100-01-01"];
const MIDNIGHT_MS: i64 = 1_795_449_600_000; // 2026-11-24 in Beijing

/// A gate with so many accepted deductions; it runs.
fn gate_with(scans: usize) -> (WeChat, Gate, Vec<Vec<u8>>) {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).set("fare", "discount_percent", 90).start();
    let codes = codes("EXPORT", 0..scans);
    for code in &codes {
        gate.scan("in", code);
    }
    gate.wait("all are accepted", || gate.rows_in("accepted").len() == scans);
    (wechat, gate, codes)
}

fn export(gate: &Gate, args: &[&str]) -> Cli {
    let cli = gate.cli(&[&ALL, args].concat());
    assert_eq!(cli.code, Some(0), "{cli:?}");
    cli
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Recorded at these times, in the order of the rows.
fn record_at(gate: &Gate, times_ms: &[i64]) {
    let ledger = Connection::open(gate.path("ledger.db")).unwrap();
    for (time_ms, id) in times_ms.iter().zip(1_i64..) {
        ledger.execute("UPDATE deduction SET created_utc_ms = ? WHERE id = ?", [*time_ms, id]).unwrap();
    }
}

fn orders(rows: &[Value]) -> Vec<String> {
    rows.iter().map(|row| row["order"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_row_is_there_once_with_a_daemon_and_without_in_csv_and_in_json() {
    let (_wechat, mut gate, _) = gate_with(3);
    let (csv, jsonl) = (export(&gate, &[]).stdout, export(&gate, &["--format", "jsonl"]).stdout);
    gate.stop_cleanly();
    assert_eq!((export(&gate, &[]).stdout, export(&gate, &["--format", "jsonl"]).stdout), (csv.clone(), jsonl.clone()));
    let queue = gate.queue();
    let rows = json_lines(&jsonl);
    assert_eq!(orders(&rows), orders(&queue));
    for (row, queued) in rows.iter().zip(&queue) {
        for key in QUEUE_KEYS {
            assert_eq!(row[key], queued[key], "{key}");
        }
        assert_eq!((&row["station"], &row["line"], &row["total_fen"]), (&json!("S1"), &json!("2号线"), &json!(180)));
    }
    let head = [&QUEUE_KEYS[..], &["day", "station", "start_station", "line"]].concat().join(",");
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!((lines[0], lines.len()), (head.as_str(), 4), "{csv}");
    assert!(lines[1].starts_with(&format!("{},accepted,single,", orders(&queue)[0])), "{csv}");
}

#[test]
fn a_day_goes_from_midnight_to_midnight_in_beijing_and_the_end_is_left_out() {
    let (_wechat, mut gate, _) = gate_with(4);
    gate.stop_cleanly();
    // A clock that went back: the order of recording is not that of the time.
    record_at(&gate, &[MIDNIGHT_MS, MIDNIGHT_MS - 1, MIDNIGHT_MS + 86_399_999, MIDNIGHT_MS + 86_400_000]);
    let all = orders(&json_lines(&export(&gate, &["--format", "jsonl"]).stdout));
    let within = |from, to| orders(&json_lines(&gate.cli(&["export", "--from", from, "--to", to, "--format", "jsonl"]).stdout));
    assert_eq!(within("2026-11-24", "2026-11-25"), [all[0].clone(), all[2].clone()]);
    assert_eq!(within("2026-11-23", "2026-11-24"), [all[1].clone()]);
    assert_eq!(within("2026-11-23T15:59:59.999Z", "2026-11-24T00:00:00.001+08:00"), [all[0].clone(), all[1].clone()]);
}

#[test]
fn the_summary_has_the_sums_of_the_rows_and_of_those_that_were_removed() {
    let (_wechat, mut gate, _) = gate_with(3);
    gate.stop_cleanly();
    record_at(&gate, &[MIDNIGHT_MS, MIDNIGHT_MS, MIDNIGHT_MS + 86_400_000]);
    let removed = "INSERT INTO daily (day, state, line, deductions, original_fen, total_fen, paid_fen)
         VALUES ('2026-11-24', 'paid', '2号线', 5, 1000, 900, 880)";
    Connection::open(gate.path("ledger.db")).unwrap().execute(removed, []).unwrap();
    let told = export(&gate, &[]);
    assert!(told.stderr.contains("5 settled deductions") && told.stderr.contains("--summary"), "{told:?}");
    let file = gate.path("summary.csv");
    let told = export(&gate, &["--summary", file.to_str().unwrap()]);
    assert_eq!((told.stderr.as_str(), told.stdout.lines().count()), ("", 4), "sums among the rows: {told:?}");
    let expected = "day,line,state,source,rows,original_fen,total_fen,paid_fen\n\
         2026-11-24,2号线,accepted,rows,2,400,360,0\n\
         2026-11-24,2号线,paid,removed,5,1000,900,880\n\
         2026-11-25,2号线,accepted,rows,1,200,180,0\n";
    assert_eq!(fs::read_to_string(file).unwrap(), expected);
}

/// The daemon may remove what was kept long enough at any time.
#[test]
fn what_is_removed_during_an_export_is_not_counted_twice_but_told() {
    let (_wechat, mut gate, _) = gate_with(1);
    gate.stop_cleanly();
    fill(&gate.path("ledger.db"), 20_000);
    let summary = gate.path("summary.csv");
    let mut command = gate.command(&[&ALL[..], &["--summary", summary.to_str().unwrap()]].concat());
    let mut exporting = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut rows = exporting.stdout.take().unwrap();
    // It has begun, and cannot end before its rows are read.
    std::io::Read::read_exact(&mut rows, &mut [0; 100]).unwrap();
    let removed = "INSERT INTO daily (day, state, line, deductions, original_fen, total_fen, paid_fen)
         VALUES ('2026-11-24', 'paid', 'in', 5, 1000, 900, 880)";
    let ledger = Connection::open(gate.path("ledger.db")).unwrap();
    ledger.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
    ledger.execute(removed, []).unwrap();
    std::io::copy(&mut rows, &mut std::io::sink()).unwrap();
    let said = exporting.wait_with_output().unwrap();
    let told = String::from_utf8(said.stderr).unwrap();
    assert_eq!((said.status.code(), told.contains("run it again")), (Some(1), true), "{told}");
    let left: Vec<_> =
        fs::read_dir(gate.path("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.starts_with("summary.csv")), "{left:?}");
}

#[test]
fn a_summary_never_replaces_a_file_of_the_ledger() {
    let (_wechat, mut gate, _) = gate_with(1);
    gate.stop_cleanly();
    let before = fs::read(gate.path("ledger.db")).unwrap();
    std::os::unix::fs::symlink(gate.path("ledger.db"), gate.path("link.csv")).unwrap();
    for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db.lock", "link.csv"] {
        let refused = gate.cli(&[&ALL[..], &["--summary", gate.path(name).to_str().unwrap()]].concat());
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(64), ""), "{name}: {refused:?}");
    }
    assert_eq!(fs::read(gate.path("ledger.db")).unwrap(), before);
    assert_eq!(export(&gate, &["--summary", "/dev/null"]).stderr, "");
}

#[test]
fn a_cell_is_never_a_formula_and_a_spreadsheet_is_told_the_encoding() {
    let wechat = WeChat::start();
    wechat.answer(Answer::ErrCode(47001));
    let mut gate = Gate::beside(&wechat).set("fare", "line_name", "=1+2").start();
    gate.scan("in", &codes("FORMULA", 0..1)[0]);
    gate.wait("it is parked", || gate.rows_in("parked").len() == 1);
    let order = orders(&gate.queue())[0].clone();
    assert_eq!(gate.cli(&["queue", "void", &order, "--reason", "@SUM(A1), \"x\"", "--even-if-sent"]).code, Some(0));
    let plain = export(&gate, &[]).stdout;
    assert!(plain.contains(",\"'@SUM(A1), \"\"x\"\"\",") && plain.trim_end().ends_with(",'=1+2"), "{plain}");
    assert_eq!(export(&gate, &["--bom"]).stdout, format!("\u{feff}{plain}"));
    let ledger = Connection::open(gate.path("ledger.db")).unwrap();
    for sign in ["＝", "＋", "－", "＠"] {
        ledger.execute("UPDATE deduction SET line = ?", [format!("{sign}1")]).unwrap();
        let wide = export(&gate, &[]).stdout;
        assert!(wide.trim_end().ends_with(&format!(",'{sign}1")), "{wide}");
    }
}

#[test]
fn codes_are_exported_as_they_were_sent_and_only_when_they_are_asked_for() {
    let (_wechat, gate, codes) = gate_with(2);
    let plain = export(&gate, &["--format", "jsonl"]).stdout;
    let rows = json_lines(&export(&gate, &["--format", "jsonl", "--with-codes"]).stdout);
    for (row, code) in rows.iter().zip(&codes) {
        assert_eq!((&row["qrcode"], &row["start_qrcode"]), (&json!(BASE64.encode(code)), &Value::Null));
        assert!(!plain.contains(&BASE64.encode(code)));
    }
    let csv = export(&gate, &["--with-codes"]).stdout;
    assert!(csv.lines().next().unwrap().ends_with(",line,qrcode,start_qrcode") && csv.contains(&BASE64.encode(&codes[1])), "{csv}");
}

#[test]
fn the_group_may_read_rows_but_no_codes() {
    if !rustix::process::geteuid().is_root() {
        return; // Nobody else can become a stranger.
    }
    let (_wechat, gate, _) = gate_with(1);
    fs::set_permissions(gate.path("control.sock"), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let rows = as_stranger(&gate, &ALL);
    assert_eq!((rows.code, rows.stdout.lines().count()), (Some(0), 2), "{rows:?}");
    let refused = as_stranger(&gate, &[&ALL[..], &["--with-codes"]].concat());
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(77), ""), "{refused:?}");
}

#[test]
fn many_rows_stream_through_beside_a_gate_that_works() {
    const ROWS: usize = 20_000;
    let wechat = WeChat::start();
    wechat.answer(Answer::Hang);
    let mut gate = Gate::beside(&wechat).start();
    gate.stop_cleanly();
    fill(&gate.path("ledger.db"), ROWS);
    let without = export(&gate, &["--format", "jsonl"]).stdout;
    assert_eq!(without.lines().count(), ROWS);
    gate.start();
    let all = gate.path("all.csv");
    let mut command = gate.command(&ALL);
    let mut exporting = command.stdout(fs::File::create(&all).unwrap()).spawn().unwrap();
    for (code, count) in codes("BESIDE", 0..5).iter().zip(1..) {
        gate.scan("in", code);
        gate.wait_opens(count);
    }
    gate.wait("it ends", || exporting.try_wait().unwrap().is_some());
    assert!(exporting.wait().unwrap().success());
    let lines = fs::read_to_string(all).unwrap().lines().count();
    assert!((ROWS + 1..=ROWS + 6).contains(&lines), "{lines} lines");
}

#[test]
fn what_makes_no_sense_is_a_mistake_of_the_command_line_and_an_unwritable_summary_is_told_first() {
    let (_wechat, gate, _) = gate_with(1);
    for args in [
        &["export"][..],
        &["export", "--from", "2026-11-24", "--to", "2026-11-24"],
        &["export", "--from", "2026-11-31", "--to", "2026-12-01"],
        &["export", "--from", "2026-11-24T00:00:00", "--to", "2026-12-01"],
        &[&ALL[..], &["--format", "xml"]].concat(),
        &[&ALL[..], &["--format", "jsonl", "--bom"]].concat(),
    ] {
        let refused = gate.cli(args);
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(64), ""), "{args:?}: {refused:?}");
    }
    let refused = gate.cli(&[&ALL[..], &["--summary", "/nowhere/summary.csv"]].concat());
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(70), ""), "{refused:?}");
}
