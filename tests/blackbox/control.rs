//! The control socket, and what the commands do beside it: nobody keeps others out, whether a daemon runs or not.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rusqlite::Connection;

use crate::support::{Cli, DEADLINE, Gate, WeChat, code, gate::Builder, holds_within};

/// Rows whose listing fits neither a page nor a pipe.
const MANY_ROWS: usize = 3000;
/// A user that owns nothing here.
const STRANGER: u32 = 65534;

/// A stopped gate with one recorded ride.
fn gate_with_a_ride(builder: Builder) -> Gate {
    let mut gate = builder.start();
    gate.scan("in", &code("RIDE", 1));
    gate.wait_opens(1);
    gate.wait("it is accepted", || gate.rows_in("accepted").len() == 1);
    gate.stop_cleanly();
    gate
}

/// Copies the one row until there are `rows`.
fn multiply_rows(gate: &Gate, rows: usize) {
    let ledger = Connection::open(gate.path("ledger.db")).unwrap();
    let columns = "state, kind, reason, flags, gate, lane, station, line, passenger, passenger_tail, code_digest, original_fen, total_fen, \
         start_utc_ms, body, opening, created_utc_ms, created_boot, created_boottime_ms, clock_synchronized, settled_utc_ms";
    let copy = format!(
        "WITH RECURSIVE number(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM number WHERE n < {rows})
         INSERT INTO deduction (order_number, {columns}) SELECT printf('%026d', n), {columns} FROM number, deduction"
    );
    assert_eq!(ledger.execute(&copy, []).unwrap(), rows - 1);
}

/// Runs a command as somebody who has no rights but those of everybody.
pub(crate) fn as_stranger(gate: &Gate, args: &[&str]) -> Cli {
    let usual = gate.command(args);
    let program = gate.path("faregate-of-all");
    if !program.exists() {
        fs::copy(usual.get_program(), &program).unwrap();
        fs::set_permissions(gate.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(&program);
    command.args(usual.get_args()).env("RUNTIME_DIRECTORY", gate.path("")).env_remove("CREDENTIALS_DIRECTORY");
    if rustix::process::getuid().is_root() {
        command.uid(STRANGER);
    }
    command.current_dir("/");
    let output = loop {
        match command.output() {
            // A process that another test has just begun may still hold the copy open for writing.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => thread::yield_now(),
            output => break output.unwrap(),
        }
    };
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Cli { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn set_mode(gate: &Gate, name: &str, mode: u32) {
    fs::set_permissions(gate.path(name), fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_listing_that_nobody_reads_on_does_not_keep_the_gate_from_starting() {
    let wechat = WeChat::start();
    let mut gate = gate_with_a_ride(Gate::beside(&wechat));
    multiply_rows(&gate, MANY_ROWS);
    let mut listing = gate.command(&["queue", "list", "--limit", "0", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut pager = listing.stdout.take().unwrap();
    let mut text = vec![0];
    pager.read_exact(&mut text).unwrap();
    gate.start();
    pager.read_to_end(&mut text).unwrap();
    assert_eq!(listing.wait().unwrap().code(), Some(0));
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
    assert_eq!(rows.len(), MANY_ROWS, "the rest comes through the daemon");
}

#[test]
fn idle_connections_keep_nobody_from_the_daemon() {
    let wechat = WeChat::start();
    let gate = Gate::beside(&wechat).start();
    let idle: Vec<_> = (0..64).map(|_| UnixStream::connect(gate.path("control.sock")).unwrap()).collect();
    assert_eq!(gate.status()["gate"], "T1");
    assert_eq!(gate.cli(&["queue", "list"]).code, Some(0));
    drop(idle);
}

#[test]
fn a_connection_that_asks_nothing_is_closed() {
    let wechat = WeChat::start();
    let gate = Gate::beside(&wechat).start();
    let mut silent = UnixStream::connect(gate.path("control.sock")).unwrap();
    let mut slow = UnixStream::connect(gate.path("control.sock")).unwrap();
    slow.write_all(b"{\"ask\":").unwrap();
    for connection in [&mut silent, &mut slow] {
        connection.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        assert!(holds_within(DEADLINE, || matches!(connection.read(&mut [0]), Ok(0))), "it is still open");
    }
}

#[test]
fn what_is_no_socket_is_kept_and_told() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).prepare();
    fs::write(gate.path("control.sock"), "precious").unwrap();
    gate.spawn();
    assert_eq!(gate.wait_ended(), Some(70));
    assert_eq!(fs::read_to_string(gate.path("control.sock")).unwrap(), "precious");
    assert!(gate.log().contains("control.sock"), "{}", gate.log());
}

#[test]
fn the_ledger_of_a_mistyped_path_is_not_found_though_a_daemon_runs() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).start();
    let settings = gate.settings();
    for mistyped in ["legder.db", "nowhere/ledger.db", "ledger.db/ledger.db"] {
        gate.write_settings(&settings.replace("\"ledger.db\"", &format!("{mistyped:?}")));
        for args in [["queue", "list"].as_slice(), &["queue", "show", "01ARZ3NDEKTSV4RRFFQ69G5FAV"]] {
            let said = gate.cli(args);
            assert_eq!((said.code, said.stdout.as_str()), (Some(66), ""), "{said:?}");
            assert!(said.stderr.contains(mistyped) && said.stderr.contains("daemon's is"), "{said:?}");
        }
    }
    gate.stop_cleanly();
    assert_eq!(gate.cli(&["queue", "list"]).code, Some(66));
}

#[test]
fn the_ledger_that_settings_elsewhere_name_is_read_beside_a_daemon() {
    let wechat = WeChat::start();
    let copied = gate_with_a_ride(Gate::beside(&wechat));
    let gate = Gate::beside(&wechat).start();
    let copy = format!("{:?}", copied.path("ledger.db").to_str().unwrap());
    gate.write_settings(&gate.settings().replace("\"ledger.db\"", &copy));
    assert_eq!(gate.queue(), copied.queue());
    assert_eq!(gate.queue().len(), 1);
}

#[test]
fn the_queue_can_be_seen_without_the_secrets() {
    let wechat = WeChat::start();
    let mut gate = gate_with_a_ride(Gate::beside(&wechat));
    let order = wechat.order_of(&code("RIDE", 1));
    gate.start();
    fs::remove_file(gate.path("secret")).unwrap();
    assert_eq!(gate.cli(&["queue", "show", &order]).code, Some(0));
    gate.stop_cleanly();
    assert_eq!(gate.queue().len(), 1);
    assert_eq!(gate.cli(&["queue", "show", &order]).code, Some(0));
    for strict in ["check", "run"] {
        assert_eq!(gate.cli(&[strict]).code, Some(78), "{strict}");
    }
}

#[test]
fn a_user_without_rights_is_told_so_with_77() {
    let wechat = WeChat::start();
    let mut gate = gate_with_a_ride(Gate::beside(&wechat).set("ledger", "path", "var/ledger.db"));
    let expect_refusal = |gate: &Gate, args: &[&str]| {
        let said = as_stranger(gate, args);
        assert_eq!((said.code, said.stdout.as_str(), said.stderr.lines().count()), (Some(77), "", 1), "{args:?}: {said:?}");
    };
    for (name, mode) in [("var", 0o000), ("var/ledger.db", 0o000), ("faregate.toml", 0o000)] {
        let usual = fs::metadata(gate.path(name)).unwrap().permissions();
        set_mode(&gate, name, mode);
        expect_refusal(&gate, &["queue", "list"]);
        fs::set_permissions(gate.path(name), usual).unwrap();
    }
    gate.start();
    set_mode(&gate, "control.sock", 0o000);
    for args in [["status"].as_slice(), &["queue", "list"]] {
        expect_refusal(&gate, args);
    }
    set_mode(&gate, "control.sock", 0o666);
    assert_eq!(as_stranger(&gate, &["queue", "list"]).code, Some(0), "who may use the socket needs no other right");
}

#[test]
fn who_may_only_read_can_neither_retry_nor_void() {
    if !rustix::process::getuid().is_root() {
        return; // Nobody else can become a stranger.
    }
    let wechat = WeChat::start();
    let mut gate = gate_with_a_ride(Gate::beside(&wechat));
    let order = wechat.order_of(&code("RIDE", 1));
    let changes: [&[&str]; 3] =
        [&["queue", "retry", &order], &["queue", "retry", "--all-parked"], &["queue", "void", &order, "--reason", "mine"]];
    gate.start();
    set_mode(&gate, "control.sock", 0o666);
    for args in changes {
        let said = as_stranger(&gate, args);
        assert_eq!((said.code, said.stdout.as_str(), said.stderr.lines().count()), (Some(77), "", 1), "{args:?}: {said:?}");
    }
    gate.stop_cleanly();
    for args in changes {
        assert_eq!(as_stranger(&gate, args).code, Some(77), "without a daemon: {args:?}");
    }
}

#[test]
fn a_listing_that_fails_at_once_prints_nothing() {
    let wechat = WeChat::start();
    let gate = gate_with_a_ride(Gate::beside(&wechat));
    let ledger = Connection::open(gate.path("ledger.db")).unwrap();
    ledger.execute_batch("ALTER TABLE deduction RENAME COLUMN last_error TO first_error").unwrap();
    drop(ledger);
    for args in [["queue", "list", "--json"].as_slice(), &["queue", "list"]] {
        let said = gate.cli(args);
        assert_eq!((said.code, said.stdout.as_str()), (Some(70), ""), "{said:?}");
    }
}

#[test]
fn a_listing_that_fails_in_the_middle_says_so() {
    let wechat = WeChat::start();
    let gate = gate_with_a_ride(Gate::beside(&wechat));
    multiply_rows(&gate, MANY_ROWS);
    let mut listing = gate.command(&["queue", "list", "--limit", "0", "--json"]);
    let mut listing = listing.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    listing.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    // In one go: a file that is empty for a moment would be a ledger that was never begun.
    fs::write(gate.path("other"), "this is no SQLite file".repeat(1000)).unwrap();
    fs::rename(gate.path("other"), gate.path("ledger.db")).unwrap();
    let output = listing.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(65), "{stderr}");
    assert!(stderr.contains("ends early, after ") && stderr.lines().count() == 1, "{stderr}");
    assert!(serde_json::from_slice::<serde_json::Value>(&output.stdout).is_err(), "half a list looks whole");
}
