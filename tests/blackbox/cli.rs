//! The commands: their exit codes, their JSON, and what they must never say.

use std::{fs, os::unix::fs::PermissionsExt};

use data_encoding::{BASE64, HEXLOWER, HEXUPPER};
use serde_json::Value;

use crate::support::{Answer, Gate, QUEUE_KEYS, WeChat, code, codes};

/// An order number that no gate made.
const UNKNOWN_ORDER: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

fn assert_has(value: &Value, keys: &[&str]) {
    let missing: Vec<_> = keys.iter().filter(|&&key| value.get(key).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?} are not in {value}");
}

/// The 1-based number of the line of the settings that begins with `key`.
fn line_of(settings: &str, key: &str) -> usize {
    1 + settings.lines().position(|line| line.starts_with(key)).expect("the key is in the settings")
}

#[test]
fn wrong_usage_ends_with_64_and_says_what_is_wrong() {
    let wechat = WeChat::start();
    let gate = Gate::beside(&wechat).prepare();
    let long = "x".repeat(201);
    let wrong: [&[&str]; 11] = [
        &["fly"],
        &["queue", "retry"],
        &["queue", "retry", UNKNOWN_ORDER, "--all-parked"],
        &["queue", "void", UNKNOWN_ORDER],
        &["queue", "void", UNKNOWN_ORDER, "--reason", " "],
        &["queue", "void", UNKNOWN_ORDER, "--reason", "a\u{1b}[2Jb"],
        &["queue", "void", UNKNOWN_ORDER, "--reason", &long],
        &["status", "--fly"],
        &["queue", "show"],
        &["queue", "list", "--state", "flying"],
        &["queue", "list", "--limit", "x"],
    ];
    for args in wrong {
        let said = gate.cli(args);
        assert_eq!(said.code, Some(64), "faregate {args:?}: {said:?}");
        assert!(!said.stderr.trim().is_empty(), "faregate {args:?} says nothing");
        assert_eq!(said.stdout, "", "faregate {args:?}");
    }
}

#[test]
fn version_and_help_need_nothing() {
    let wechat = WeChat::start();
    let gate = Gate::beside(&wechat).prepare();
    fs::remove_file(gate.settings_file()).unwrap();
    let version = gate.cli(&["--version"]);
    assert_eq!((version.code, version.stdout.trim()), (Some(0), concat!("faregate ", env!("CARGO_PKG_VERSION"))));
    let help = gate.cli(&["--help"]);
    assert_eq!(help.code, Some(0));
    for command in ["run", "check", "status", "queue"] {
        assert!(help.stdout.contains(command), "{command} is not in {}", help.stdout);
    }
}

#[test]
fn check_accepts_good_settings() {
    let wechat = WeChat::start();
    let gate = Gate::beside(&wechat).prepare();
    let said = gate.cli(&["check"]);
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[test]
fn check_warns_of_a_secret_that_others_can_read() {
    let wechat = WeChat::start();
    let gate = Gate::beside(&wechat).prepare();
    fs::set_permissions(gate.path("secret"), fs::Permissions::from_mode(0o644)).unwrap();
    let said = gate.cli(&["check"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!((said.stdout + &said.stderr).contains("secret_file"), "the key is not named");
}

#[test]
fn a_wrong_setting_ends_with_78_and_is_named_by_file_line_and_key() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).set("turnstile", "pulse", "soon").prepare();
    let place = format!("faregate.toml:{}", line_of(&gate.settings(), "pulse ="));
    let said = gate.cli(&["check"]);
    assert_eq!(said.code, Some(78), "{said:?}");
    assert!(said.stderr.contains(&place) && said.stderr.contains("pulse"), "no {place} in {}", said.stderr);
    gate.spawn();
    assert_eq!(gate.wait_ended(), Some(78));
    assert!(gate.log().contains(&place), "run says {}", gate.log());
}

#[test]
fn check_tells_every_error_at_once() {
    let wechat = WeChat::start();
    let builder = Gate::beside(&wechat).set("gate", "duplicate_windows", "5m").set("fare", "flat_fen", -1);
    let gate = builder.set("wechat", "base_url", "http://api.example.com").prepare();
    let said = gate.cli(&["check"]);
    assert_eq!(said.code, Some(78), "{said:?}");
    for key in ["duplicate_windows", "flat_fen", "base_url"] {
        let place = format!("faregate.toml:{}", line_of(&gate.settings(), key));
        assert!(said.stderr.contains(&place) && said.stderr.contains(key), "no {place} {key} in {}", said.stderr);
    }
}

#[test]
fn check_names_a_required_setting_that_is_missing() {
    let wechat = WeChat::start();
    let gate = Gate::beside(&wechat).prepare();
    let settings = gate.settings();
    let without: Vec<_> = settings.lines().filter(|line| !line.starts_with("flat_fen")).collect();
    gate.write_settings(&without.join("\n"));
    let said = gate.cli(&["check"]);
    assert_eq!(said.code, Some(78), "{said:?}");
    assert!(said.stderr.contains("flat_fen"), "{}", said.stderr);
}

#[test]
fn a_settings_file_that_is_missing_or_no_toml_ends_with_78() {
    let wechat = WeChat::start();
    let gate = Gate::beside(&wechat).prepare();
    gate.write_settings("[gate\nid = 1");
    let said = gate.cli(&["check"]);
    assert_eq!(said.code, Some(78), "{said:?}");
    assert!(said.stderr.contains("faregate.toml:1"), "{}", said.stderr);
    fs::remove_file(gate.settings_file()).unwrap();
    let said = gate.cli(&["check"]);
    assert_eq!(said.code, Some(78), "{said:?}");
    assert!(said.stderr.contains("faregate.toml"), "{}", said.stderr);
}

#[test]
fn status_without_a_daemon_ends_with_69() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).prepare();
    assert_eq!(gate.cli(&["status"]).code, Some(69));
    gate.start();
    assert_eq!(gate.cli(&["status"]).code, Some(0));
    gate.kill9();
    let said = gate.cli(&["status", "--json"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(69), ""), "after kill -9 its socket is still there: {said:?}");
}

#[test]
fn an_order_number_that_is_none_ends_with_66_and_does_nothing_to_the_terminal() {
    let wechat = WeChat::start();
    let gate = Gate::beside(&wechat).prepare();
    for nonsense in ["", "12", "\u{1b}[2J\u{1b}[2J\u{1b}[2J\u{1b}[2J\u{1b}[2J", "订单"] {
        let said = gate.cli(&["queue", "show", nonsense]);
        assert_eq!((said.code, said.stdout.as_str()), (Some(66), ""), "{said:?}");
        assert!(said.stderr.lines().count() == 1 && !said.stderr.contains('\u{1b}'), "{said:?}");
    }
}

#[test]
fn an_unknown_order_ends_with_66_with_a_daemon_and_without() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).start();
    let unknown: [&[&str]; 4] = [
        &["queue", "show", UNKNOWN_ORDER],
        &["queue", "retry", UNKNOWN_ORDER],
        &["queue", "void", UNKNOWN_ORDER, "--reason", "mistake"],
        &["queue", "void", "12", "--reason", "mistake"],
    ];
    let assert_not_found = |gate: &Gate| {
        for args in unknown {
            assert_eq!(gate.cli(args).code, Some(66), "{args:?}");
        }
    };
    assert_not_found(&gate);
    gate.stop_cleanly();
    assert_not_found(&gate);
}

#[test]
fn a_second_instance_ends_with_73_and_does_not_disturb_the_first() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).start();
    let second = gate.cli(&["run"]);
    assert_eq!(second.code, Some(73), "{second:?}");
    assert_eq!(gate.status()["gate"], "T1");
    assert_eq!(gate.health(), Some(200));
    gate.scan("in", &code("FIRST", 1));
    gate.wait_opens(1);
}

#[test]
fn the_queue_reads_the_same_through_the_daemon_and_without_it() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).start();
    let codes = codes("LIST", 0..5);
    for (number, code) in codes.iter().enumerate() {
        gate.scan("in", code);
        gate.wait_opens(number + 1);
    }
    gate.wait("all are accepted", || gate.rows_in("accepted").len() == 5);
    let orders: Vec<_> = codes.iter().map(|code| wechat.order_of(code)).collect();
    let (through, order) = (gate.queue(), orders[0].as_str());
    assert_eq!(through.iter().map(|row| row["order"].as_str().unwrap()).collect::<Vec<_>>(), orders, "oldest first");
    let shown = gate.ask(&["queue", "show", order]);
    gate.stop_cleanly();
    assert_eq!(gate.queue(), through);
    assert_eq!(gate.ask(&["queue", "show", order]), shown);
    assert_eq!(gate.ask(&["queue", "list", "--limit", "2"]).as_array().unwrap()[..], through[..2]);
    assert_eq!(gate.ask(&["queue", "list", "--state", "accepted"]).as_array().unwrap().len(), 5);
    assert_eq!(gate.ask(&["queue", "list", "--state", "parked"]), Value::Array(Vec::new()));
    let is_cut = |limit| gate.cli(&["queue", "list", "--limit", limit]).stdout.contains("--limit 0");
    assert_eq!(["4", "5", "6", "0"].map(is_cut), [true, false, false, false], "whether there are more");
    let table = gate.cli(&["queue", "list"]);
    assert!(table.code == Some(0) && orders.iter().all(|order| table.stdout.contains(order)), "{table:?}");
}

#[test]
fn a_row_is_shown_with_its_history() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).start();
    gate.scan("in", &code("SHOW", 1));
    gate.wait_opens(1);
    gate.wait("it is accepted", || gate.rows_in("accepted").len() == 1);
    let shown = gate.ask(&["queue", "show", &wechat.order_of(&code("SHOW", 1))]);
    assert_has(&shown, &QUEUE_KEYS);
    let events = shown["events"].as_array().expect("events");
    assert!(!events.is_empty());
    for event in events {
        assert_has(event, &["at", "event", "detail"]);
    }
}

#[test]
fn a_story_is_told_in_the_order_of_time_with_what_each_step_means_and_what_to_do() {
    let wechat = WeChat::start();
    wechat.answer(Answer::ErrCode(47001));
    let mut gate = Gate::beside(&wechat).start();
    gate.scan("in", &code("STORY", 1));
    gate.wait("it is parked", || gate.rows_in("parked").len() == 1);
    let order = gate.queue()[0]["order"].as_str().unwrap().to_owned();
    wechat.answer(Answer::Ok);
    let parked = gate.cli(&["queue", "show", &order]).stdout;
    assert!(parked.contains("state      parked") && parked.contains("queue retry, or queue void"), "{parked}");
    assert_eq!(gate.cli(&["queue", "retry", &order]).code, Some(0));
    gate.wait("it is accepted", || gate.rows_in("accepted").len() == 1);
    let told = gate.cli(&["queue", "show", &order]).stdout;
    let steps: Vec<_> =
        told.split_once("\n\n").unwrap().1.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(
        steps.iter().map(|step| step[1]).collect::<Vec<_>>(),
        ["recorded", "opened", "parked", "retried", "accepted"],
        "{told}"
    );
    assert!(steps.is_sorted_by_key(|step| step[0]), "{told}");
    assert!(told.contains("before anything opened: ") && told.contains("47001") && told.contains("taken by WeChat"), "{told}");
}

#[test]
fn the_status_has_every_part_that_the_contract_names() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).lanes(&["in", "out"]).start();
    let latency = gate.status()["scan_to_open_ms"].clone();
    assert_eq!(latency, serde_json::json!({"p50": null, "p99": null, "p999": null, "count": 0}));
    gate.scan("in", &code("STATUS", 1));
    gate.wait_opens(1);
    gate.wait("it is accepted", || gate.status()["queue"]["accepted"] == 1);
    gate.wait("the opening is counted", || gate.status()["scan_to_open_ms"]["count"] == 1);
    let status = gate.status();
    assert_has(&status, &["gate", "version", "uptime_s", "lanes", "queue", "upload", "clock", "scan_to_open_ms", "alarms"]);
    let stages = ["held", "pending", "accepted", "paid", "unpaid", "parked", "void"];
    assert_has(&status["queue"], &stages);
    assert_has(&status["queue"], &["oldest_pending_s", "pending_fen"]);
    assert_eq!(stages.iter().map(|&state| status["queue"][state].as_u64().unwrap()).sum::<u64>(), 1, "recorded");
    assert_has(&status["upload"], &["state", "reason"]);
    assert!(status["clock"]["synchronized"].is_boolean());
    assert!(status["scan_to_open_ms"]["p50"].is_number(), "{status}");
    let lane = |name: &str| serde_json::json!({"name": name, "scanner": "up", "turnstile": "ok"});
    assert_eq!(status["lanes"], serde_json::json!([lane("in"), lane("out")]));
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(gate.cli(&["status"]).code, Some(0));
    assert!(gate.get("/metrics").is_some_and(|(status, _)| status == 200));
    let health: Value = serde_json::from_str(&gate.get("/health").unwrap().1).unwrap();
    assert_eq!(health, serde_json::json!({"ready": true, "alarms": []}));
}

#[test]
fn the_ledger_is_for_its_owner_and_the_control_socket_for_its_group() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).start();
    gate.scan("in", &code("MODE", 1));
    gate.wait_opens(1);
    let mode = |name: &str| fs::metadata(gate.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ledger.db"), mode("ledger.db-wal"), mode("control.sock")), (0o600, 0o600, 0o660));
}

/// Every form in which bytes could be written somewhere by mistake.
fn disguises(secret: &[u8]) -> Vec<String> {
    let decimal: Vec<_> = secret.iter().map(ToString::to_string).collect();
    vec![
        String::from_utf8_lossy(secret).into_owned(),
        HEXLOWER.encode(secret),
        HEXUPPER.encode(secret),
        BASE64.encode(&secret[..secret.len() / 3 * 3]),
        decimal.join(", "),
    ]
}

#[test]
fn no_code_passenger_or_secret_is_ever_told_in_clear() {
    let wechat = WeChat::start();
    let builder = Gate::beside(&wechat).lanes(&["in", "out"]).set("gate", "passenger_interval", "5m");
    let passenger = serde_json::json!({"offset": 0, "length": 20});
    let mut gate = builder.set("ride_code", "opaque_passenger", passenger).start();
    let (good, next) = (b"91237654321001000042-CODE-OF-TODAY".to_vec(), b"91237654321001000042-CODE-OF-TOMORROW".to_vec());
    let parked = b"91237654321001000043-CODE-OF-ANOTHER".to_vec();
    let too_short = b"TOO-SHORT-A-CODE".to_vec();
    let bad = parked.clone();
    wechat.answer_with(move |deduction| if deduction.code() == bad { Answer::ErrCode(47001) } else { Answer::Ok });
    gate.scan("in", &good);
    gate.wait_opens(1);
    for (number, refused) in [&good, &next, &too_short].into_iter().enumerate() {
        gate.scan("out", refused);
        gate.wait_denials(number + 1);
    }
    assert_eq!(gate.denials(), ["duplicate", "too-soon", "format"]);
    gate.scan("in", &parked);
    gate.wait("it is parked", || gate.rows_in("parked").len() == 1);
    let mut told = vec![gate.cli(&["status"]).stdout, gate.status().to_string(), gate.get("/metrics").unwrap().1];
    told.extend([gate.cli(&["queue", "list"]).stdout, gate.ask(&["queue", "list"]).to_string()]);
    for row in gate.queue() {
        told.push(gate.ask(&["queue", "show", row["order"].as_str().unwrap()]).to_string());
    }
    gate.stop_cleanly();
    told.extend([gate.log(), fs::read_to_string(gate.path("trace.jsonl")).unwrap()]);
    let told = told.join("\n");
    let secrets: [&[u8]; 8] =
        [&good, &next, &parked, &too_short, &good[..20], &parked[..20], b"s3cret-of-the-app", b"TOKEN-OF-THE-GATE-1"];
    for secret in secrets {
        for disguise in disguises(secret) {
            assert!(!told.contains(&disguise), "{disguise} is told in clear");
        }
    }
    assert!(told.contains("****************0042"), "the passenger's last digits are for people");
}

#[test]
fn a_gpio_chip_that_is_not_there_ends_the_start_with_70_and_one_sentence() {
    let wechat = WeChat::start();
    let gate = Gate::beside(&wechat).prepare();
    let gpio = gate.settings().replace("driver = \"simulated\"", "driver = \"gpio\"\nchip = \"no-gpiochip\"\nopen = 17");
    gate.write_settings(&gpio.lines().filter(|line| !line.starts_with("trace")).collect::<Vec<_>>().join("\n"));
    let said = gate.cli(&["run"]);
    assert_eq!(said.code, Some(70), "{said:?}");
    let told = said.stderr.lines().last().unwrap_or_default();
    assert!(told.contains("lane in: there is no GPIO chip") && told.contains("no-gpiochip"), "{said:?}");
}
