//! The promises of the whole room: every setting, every check, the shipped example.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, TestRunner},
};
use tempfile::TempDir;

use super::{
    schema::{
        CALLBACK, DENY, EXPOSURE, FARE, GATE, Keys, LANE, LEDGER, LINE, MONITOR, OPAQUE_PASSENGER, RIDE_CODE, ROOT, SAME_STATION,
        SCANNER, TURNSTILE, UPLOAD, WECHAT,
    },
    *,
};

/// The shipped example.
const EXAMPLE: &str = include_str!("../../config/faregate.toml");

/// The fewest settings with which a gate runs.
const BASE: &str = r#"[gate]
id = "G1"
station = "S1"
[[lane]]
name = "in"
mode = "single"
[lane.scanner]
device = "/dev/ttyUSB0"
[lane.turnstile]
driver = "simulated"
[ride_code]
format = "opaque"
[fare]
scene = "METRO"
body = "地铁代扣"
line_name = "2号线"
flat_fen = 200
[wechat]
base_url = "https://api.weixin.qq.com"
deduct_path = "/deduct"
appid = "wx1"
mch_id = "1"
secret_file = "appsecret"
"#;

/// Another lane for `BASE`.
const SECOND_LANE: &str = r#"[[lane]]
name = "out"
mode = "single"
[lane.scanner]
device = "/dev/ttyUSB1"
[lane.turnstile]
driver = "simulated"
"#;

/// A self-signed one.
const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBmTCCAT+gAwIBAgIUKorcvriHn8T4IsDmQC+wvFPWErIwCgYIKoZIzj0EAwIw\n\
IjEgMB4GA1UEAwwXRmFyZWdhdGUgdGVzdCBhdXRob3JpdHkwHhcNMjYxMTIzMDYy\n\
MDA0WhcNMzYxMTIwMDYyMDA0WjAiMSAwHgYDVQQDDBdGYXJlZ2F0ZSB0ZXN0IGF1\n\
dGhvcml0eTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKKQBkfDTk/E1qghbOrJ\n\
MBuGNDAbmSllF18kwB20rqEHTmc0SL/6S6rjhGzrj00jL8p6vdemb+g08t5VbxK2\n\
wkejUzBRMB0GA1UdDgQWBBSp0yBZQBM5A5RMBkKvt6X0ia6oEzAfBgNVHSMEGDAW\n\
gBSp0yBZQBM5A5RMBkKvt6X0ia6oEzAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49\n\
BAMCA0gAMEUCIQCP82zR7zxPo7Lml3Y/UmNCfBDYEAh/KtqGY8z4OugFCwIgMp/h\n\
Zc+8wkaJy5iRosCdG5To6LsAAr+869buHIOOmYg=\n\
-----END CERTIFICATE-----\n";

/// What no output may hold.
const SECRET: &str = "s3cr3t-c0nt3nt-0f-a-f1le";

/// A folder with every file that settings name.
struct Site {
    folder: TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        let root = format!("[[root]]\nindex = 1\npublic_key = \"04{}\"\nexpires = \"2030-12\"\n", "ab".repeat(64));
        for (name, content) in [
            ("appsecret", SECRET),
            ("token", SECRET),
            ("callback-aes", "AAECAwQFBgcICQoLDA0ODw==\n"),
            ("callback-sign", SECRET),
            ("roots.toml", &root),
            ("fares.csv", "from,to,fen\nS1,S2,300\n"),
        ] {
            site.write(name, content.as_bytes(), 0o600);
        }
        site
    }

    fn write(&self, name: &str, content: &[u8], mode: u32) {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn load(&self, text: &str) -> Loaded {
        let loaded = load_text(text, &self.path("faregate.toml"), None);
        let has_errors = loaded.findings.iter().any(|finding| finding.severity == Severity::Error);
        assert_eq!(loaded.settings.is_none(), has_errors, "{:#?}", loaded.findings);
        loaded
    }

    fn settings(&self, text: &str) -> Settings {
        let loaded = self.load(text);
        loaded.settings.unwrap_or_else(|| panic!("{}", shown(&loaded.findings)))
    }
}

fn shown(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// `text` with the only `old` replaced.
fn with(text: &str, old: &str, new: &str) -> String {
    assert_eq!(text.matches(old).count(), 1, "{old}");
    text.replace(old, new)
}

/// `BASE` with this line after the header of its table, or with the line of the same key replaced.
fn base_with(header: &str, line: &str) -> String {
    let key = line.split(" =").next().unwrap();
    let rest = BASE.split(&format!("{header}\n")).nth(1).unwrap().split("\n[").next().unwrap();
    match rest.lines().find(|old| old.starts_with(&format!("{key} ="))) {
        Some(old) => with(BASE, &format!("{old}\n"), &format!("{line}\n")),
        None => with(BASE, &format!("{header}\n"), &format!("{header}\n{line}\n")),
    }
}

/// The example with every setting in use.
fn full() -> String {
    let is_setting = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
    let lines = EXAMPLE.lines().map(|line| if is_setting(line) { &line[1..] } else { line });
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The settings in a text: number of the line from 1, dotted path of the table, key.
fn keys_of(text: &str) -> Vec<(usize, String, String)> {
    let mut table = String::new();
    let mut keys = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        if line.starts_with('[') {
            table = line.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            keys.push((number, table.clone(), key.to_owned()));
        }
    }
    keys
}

fn with_line(text: &str, number: usize, new: &str) -> String {
    let lines = text.lines().zip(1..).map(|(line, here)| if here == number { new } else { line });
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// Expects one finding of this severity, at this key.
fn expect_one(loaded: &Loaded, severity: Severity, key: &str, problem: &str) {
    let found: Vec<_> = loaded.findings.iter().filter(|finding| finding.severity == severity).collect();
    assert_eq!(found.len(), 1, "{}", shown(&loaded.findings));
    assert_eq!(found[0].key, key, "{}", found[0]);
    assert!(found[0].problem.contains(problem), "{}", found[0]);
    assert!(found[0].line.is_some() && !found[0].mend.is_empty(), "{}", found[0]);
}

fn expect_error(site: &Site, text: &str, key: &str, problem: &str) {
    expect_one(&site.load(text), Severity::Error, key, problem);
}

fn expect_warning(site: &Site, text: &str, key: &str, problem: &str) {
    expect_one(&site.load(text), Severity::Warning, key, problem);
}

#[test]
fn the_fewest_settings_load_without_a_finding() {
    let loaded = Site::new().load(BASE);
    assert_eq!(shown(&loaded.findings), "");
}

#[test]
fn the_shipped_example_has_no_errors_as_it_is_and_with_every_setting_in_use() {
    let site = Site::new();
    fs::write(site.path("faregate.toml"), EXAMPLE).unwrap();
    let loaded = load_with(&site.path("faregate.toml"), None);
    assert!(loaded.settings.is_some(), "{}", shown(&loaded.findings));
    let settings = site.settings(&full());
    assert!(settings.callback.is_some() && settings.exposure.is_some() && settings.monitor.is_some());
}

#[test]
fn the_shipped_example_has_every_key_and_no_other() {
    const TABLES: [(&str, Keys); 14] = [
        ("gate", GATE),
        ("lane", LANE),
        ("lane.scanner", SCANNER),
        ("lane.turnstile", TURNSTILE),
        ("ride_code", RIDE_CODE),
        ("fare", FARE),
        ("ledger", LEDGER),
        ("wechat", WECHAT),
        ("upload", UPLOAD),
        ("callback", CALLBACK),
        ("exposure", EXPOSURE),
        ("deny", DENY),
        ("monitor", MONITOR),
        ("", ROOT),
    ];
    let text = full();
    let path = |table: &str, key: &str| if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
    let headers = text.lines().filter(|line| line.starts_with('[')).map(|line| line.trim_matches(['[', ']']).to_owned());
    let shown: BTreeSet<_> = headers.chain(keys_of(&text).into_iter().map(|(_, table, key)| path(&table, &key))).collect();
    let known: BTreeSet<_> = TABLES.iter().flat_map(|(table, keys)| keys.iter().map(|key| path(table, key))).collect();
    assert_eq!(shown, known);
    for key in [LINE, OPAQUE_PASSENGER, SAME_STATION].into_iter().flatten() {
        assert!(EXAMPLE.contains(&format!("{key} = ")), "{key}");
    }
}

/// Takes each line out of the example: only what is required is missed, only what is off when absent changes anything, and so
/// whatever else the example shows is the default.
#[test]
fn what_the_example_shows_is_required_or_off_when_absent_or_the_default() {
    const REQUIRED: [&str; 24] = [
        "gate.id",
        "gate.station",
        "lane.name",
        "lane.mode",
        "lane.scanner.device",
        "lane.turnstile.driver",
        "lane.turnstile.chip",
        "lane.turnstile.open",
        "ride_code.roots",
        "fare.scene",
        "fare.body",
        "fare.line_name",
        "fare.flat_fen",
        "fare.max_fen",
        "wechat.base_url",
        "wechat.deduct_path",
        "wechat.appid",
        "wechat.mch_id",
        "wechat.secret_file",
        "callback.listen",
        "callback.payment_path",
        "callback.arrears_path",
        "callback.aes_key_file",
        "callback.sign_key_file",
    ];
    const OFF: [&str; 15] = [
        "lane.turnstile.light_pass",
        "lane.turnstile.light_deny",
        "lane.turnstile.buzzer",
        "lane.turnstile.passage",
        "lane.turnstile.fire_alarm",
        "lane.turnstile.exit_button",
        "lane.turnstile.trace",
        "lane.turnstile.inputs",
        "fare.table",
        "fare.same_station",
        "wechat.machine_ip",
        "wechat.machine_latitude",
        "wechat.machine_longitude",
        "wechat.errcodes",
        "deny.file",
    ];
    let site = Site::new();
    let text = full();
    let all = format!("{:?}", site.settings(&text));
    for (number, table, key) in keys_of(&text) {
        let path = format!("{table}.{key}");
        let loaded = site.load(&with_line(&text, number, ""));
        match &loaded.settings {
            None => {
                assert!(REQUIRED.contains(&path.as_str()), "{path}: {}", shown(&loaded.findings));
                assert_eq!(shown(&loaded.findings).matches("is missing").count(), 1, "{path}: {}", shown(&loaded.findings));
            }
            Some(settings) => {
                assert!(!REQUIRED.contains(&path.as_str()), "{path} is required");
                assert_eq!(format!("{settings:?}") == all, !OFF.contains(&path.as_str()), "{path}");
            }
        }
    }
}

#[test]
fn a_missing_required_key_names_the_line_of_its_table() {
    let site = Site::new();
    for (number, table, key) in keys_of(BASE) {
        let header_at = BASE.lines().take(number).collect::<Vec<_>>().iter().rposition(|line| line.starts_with('[')).unwrap() + 1;
        let path = format!("{table}.{key}").replace("lane.", if key == "name" { "lane[0]." } else { "lane[in]." });
        let path = if path == "ride_code.format" { "ride_code.roots".to_owned() } else { path };
        let loaded = site.load(&with_line(BASE, number, ""));
        expect_one(&loaded, Severity::Error, &path, "is missing");
        assert_eq!(loaded.findings[0].line, Some(header_at), "{}", loaded.findings[0]);
    }
}

#[test]
fn an_absent_table_misses_each_of_its_required_keys() {
    let findings = Site::new().load("").findings;
    let keys: Vec<_> = findings.iter().map(|finding| finding.key.as_str()).collect();
    let expected = [
        "gate.id",
        "gate.station",
        "lane",
        "ride_code.roots",
        "fare.scene",
        "fare.body",
        "fare.line_name",
        "fare.flat_fen",
        "wechat.base_url",
        "wechat.deduct_path",
        "wechat.secret_file",
        "wechat.appid",
        "wechat.mch_id",
    ];
    assert_eq!(keys, expected);
}

#[test]
fn callbacks_need_addresses_paths_and_keys() {
    let text = BASE.to_owned() + "[callback]\n";
    let findings = Site::new().load(&text).findings;
    let missing = findings.iter().filter(|finding| finding.problem == "is missing").map(|finding| finding.key.as_str());
    let expected =
        ["callback.listen", "callback.payment_path", "callback.arrears_path", "callback.aes_key_file", "callback.sign_key_file"];
    assert_eq!(missing.collect::<Vec<_>>(), expected);
}

#[test]
fn an_unknown_key_is_an_error_in_every_table() {
    let site = Site::new();
    let text = full();
    for (line, number) in text.lines().zip(1..).filter(|(line, _)| line.starts_with('[')) {
        let loaded = site.load(&with_line(&text, number, &format!("{line}\nnonsense_key = 1")));
        let errors: Vec<_> = loaded.findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
        assert_eq!(errors.len(), 1, "{line}: {}", shown(&loaded.findings));
        assert!(errors[0].key.ends_with(".nonsense_key"), "{}", errors[0]);
        assert_eq!(errors[0].line, Some(number + 1), "{}", errors[0]);
    }
    expect_error(&site, &("nonsense_key = 1\n".to_owned() + BASE), "nonsense_key", "is not a setting");
    expect_error(&site, &(BASE.to_owned() + "[wallet]\na = 1\n"), "wallet", "is not a setting");
    let line = "buzzer = { line = 24, active_low = true, nonsense_key = 1 }";
    expect_error(
        &site,
        &with(&text, "buzzer = { line = 24, active_low = true }", line),
        "lane[in].turnstile.buzzer.nonsense_key",
        "is not a setting",
    );
    let line = "opaque_passenger = { offset = 0, length = 16, nonsense_key = 1 }";
    expect_error(&site, &base_with("[ride_code]", line), "ride_code.opaque_passenger.nonsense_key", "is not a setting");
    let line = r#"same_station = { within = "1m", fen = 0, nonsense_key = 1 }"#;
    expect_error(&site, &base_with("[fare]", line), "fare.same_station.nonsense_key", "is not a setting");
}

#[test]
fn a_misspelt_key_is_told_the_one_that_was_meant() {
    let loaded = Site::new().load(&base_with("[gate]", r#"open_wihin = "3s""#));
    assert_eq!(
        loaded.findings[0].to_string().split(": ").skip(1).collect::<Vec<_>>().join(": "),
        r#"error: gate.open_wihin: "open_wihin" is not a setting; did you mean "open_within"?"#
    );
}

#[test]
fn a_value_of_the_wrong_type_is_an_error_at_every_key() {
    let site = Site::new();
    let text = full();
    for (number, table, key) in keys_of(&text) {
        for (value, found) in [("1979-05-27", "is a datetime"), ("[[]]", "")] {
            let loaded = site.load(&with_line(&text, number, &format!("{key} = {value}")));
            let errors: Vec<_> = loaded.findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
            let told = errors.iter().any(|error| {
                error.line == Some(number) && error.key.ends_with(&format!(".{key}")) && error.problem.contains(found)
            });
            assert!(told, "{table}.{key} = {value}: {}", shown(&loaded.findings));
        }
    }
}

#[test]
fn more_lanes_than_a_computer_can_serve_are_an_error() {
    let lanes: String =
        (1..=16).map(|number| SECOND_LANE.replace("out", &number.to_string()).replace("ttyUSB1", &number.to_string())).collect();
    expect_error(&Site::new(), &(BASE.to_owned() + &lanes), "lane", "has 17 lanes");
}

#[test]
fn a_table_that_is_no_table_is_told_once() {
    let site = Site::new();
    for table in ["gate", "ride_code", "fare", "wechat"] {
        let start = BASE.find(&format!("[{table}]")).unwrap();
        let end = BASE[start + 1..].find("\n[").map_or(BASE.len(), |end| start + 1 + end + 1);
        let text = format!("{table} = 1\n{}{}", &BASE[..start], &BASE[end..]);
        let loaded = site.load(&text);
        assert_eq!(loaded.findings.iter().map(|finding| finding.key.as_str()).collect::<Vec<_>>(), [table]);
    }
    for table in ["ledger", "upload", "callback", "exposure", "deny", "monitor"] {
        expect_error(&site, &format!("{table} = 1\n{BASE}"), table, "is an integer");
    }
    let single_brackets = with(BASE, "[[lane]]", "[lane]");
    expect_error(&site, &single_brackets, "lane", "is a table");
    let no_lanes = BASE.split("[[lane]]").next().unwrap().to_owned() + BASE.split_once("[ride_code]").map_or("", |(_, rest)| rest);
    expect_error(&site, &format!("lane = []\n{}", with(&no_lanes, "format =", "[ride_code]\nformat =")), "lane", "is empty");
}

#[test]
fn values_out_of_range_are_told_what_is_allowed() {
    let site = Site::new();
    for (header, line, mend) in [
        ("[gate]", r#"duplicate_window = "8d""#, "use 100ms to 7d"),
        ("[gate]", r#"passenger_interval = "2h""#, "use 0s to 1h"),
        ("[gate]", r#"open_within = "99ms""#, "use 100ms to 1m"),
        ("[gate]", r#"id = "S14 G03""#, "use 1 to 16 of A-Z a-z 0-9 and -"),
        ("[gate]", r#"station = "12345678901234567""#, "use 1 to 16 of A-Z a-z 0-9 and -"),
        ("[[lane]]", r#"mode = "enty""#, r#"did you mean "entry"? use one of "single", "entry", "exit", "both""#),
        ("[[lane]]", r#"name = """#, "use 1 to 32 characters on one line"),
        ("[lane.scanner]", r#"idle_gap = "11s""#, "use 1ms to 10s"),
        ("[lane.scanner]", r#"idle_gap = "0ms""#, "use 1ms to 10s"),
        ("[lane.scanner]", "baud = 115201", "use one of 1200, 1800, 2400, 4800, 9600, 19200, 38400, 57600, 115200"),
        ("[lane.scanner]", r#"start_bytes = "1""#, "write up to 256 bytes as pairs of hexadecimal digits"),
        ("[lane.turnstile]", r#"pulse = "9ms""#, "use 10ms to 1m"),
        ("[lane.turnstile]", r#"pulse_gap = "61s""#, "use 0s to 1m"),
        ("[lane.turnstile]", r#"passage_timeout = "99ms""#, "use 100ms to 10m"),
        ("[ride_code]", r#"clock_tolerance = "2d""#, "use 0s to 1d"),
        ("[ride_code]", "opaque_passenger = { offset = 4096, length = 1 }", "use 0 to 4095"),
        ("[ride_code]", "opaque_passenger = { offset = 0, length = 0 }", "use 1 to 4096"),
        ("[ride_code]", "opaque_passenger = { offset = 4000, length = 97 }", "use at most 4096 for offset and length together"),
        ("[ride_code]", r#"opaque_passenger = "hole""#, r#"did you mean "whole"? use one of "whole""#),
        ("[ride_code]", r#"issuer_clock_offset = { "03664530" = "15h" }"#, "use 0s to 14h"),
        ("[ride_code]", r#"issuer_clock_offset = { "3664530" = "8h" }"#, "write its 8 digits in double quotes"),
        ("[fare]", "flat_fen = -1", "use 0 to 1000000"),
        ("[fare]", "flat_fen = 1000001", "use 0 to 1000000"),
        ("[fare]", "max_fen = 99999999999999999999", "use 0 to 1000000"),
        ("[fare]", "discount_percent = 101", "use 0 to 100"),
        ("[fare]", r#"max_journey = "8d""#, "use 1s to 7d"),
        ("[fare]", r#"reentry_within = "25h""#, "use 0s to 1d"),
        ("[fare]", r#"same_station = { within = "25h", fen = 0 }"#, "use 0s to 1d"),
        ("[fare]", r#"body = "a\nb""#, "use 1 to 128 characters on one line"),
        ("[wechat]", r#"timeout = "6m""#, "use 100ms to 5m"),
        ("[wechat]", r#"machine_ip = "10.1.14""#, r#"write it as in "10.1.14.3""#),
        ("[wechat]", "machine_latitude = 90.5", "use -90 to 90"),
        ("[wechat]", "machine_latitude = nan", "use -90 to 90"),
        ("[wechat]", "machine_longitude = -181", "use -180 to 180"),
        ("[wechat]", r#"errcodes = { 61010 = "parc" }"#, r#"did you mean "park"?"#),
        ("[wechat]", r#"errcodes = { many = "park" }"#, "write the error code"),
        ("[wechat]", r#"token_path = "token""#, "begin with /"),
        ("[wechat]", r#"deduct_path = "/…""#, "begin with /"),
        ("[wechat]", r#"appid = "wx…""#, "write what you were assigned"),
    ] {
        let loaded = site.load(&base_with(header, line));
        assert_eq!(loaded.findings.len(), 1, "{line}: {}", shown(&loaded.findings));
        assert!(loaded.findings[0].mend.starts_with(mend), "{}", loaded.findings[0]);
    }
}

#[test]
fn values_out_of_range_in_tables_with_defaults_are_told_what_is_allowed() {
    let site = Site::new();
    for (table, line, mend) in [
        ("[ledger]", r#"min_free = "64MB""#, "write a whole number with KiB, MiB, GiB"),
        ("[ledger]", "min_free = -1", "write a whole number with KiB, MiB, GiB"),
        ("[ledger]", r#"min_free = "2000000GiB""#, "use 0 to 1125899906842624 bytes"),
        ("[ledger]", r#"keep = "0s""#, "use 1s to 3650d"),
        ("[ledger]", r#"keep_denied = "3651d""#, "use 1s to 3650d"),
        ("[ledger]", r#"path = """#, "name a file"),
        ("[upload]", "concurrency = 0", "use 1 to 256"),
        ("[upload]", "concurrency = 257", "use 1 to 256"),
        ("[upload]", r#"retry_initial = "9ms""#, "use 10ms to 1h"),
        ("[upload]", r#"retry_max = "25h""#, "use 10ms to 1d"),
        ("[upload]", "unknown_attempts = 0", "use 1 to 1000000"),
        ("[upload]", r#"max_age = "0s""#, "use 1s to 3650d"),
        ("[upload]", "alarm_after = 0", "use 1 to 1000000"),
        ("[deny]", "unpaid = 1", "write true or false"),
        ("[exposure]", "passenger_count = 0", "use 1 to 1000000"),
        ("[exposure]", "passenger_fen = 0", "use 1 to 1000000000"),
        ("[exposure]", "gate_fen = 0", "use 1 to 1000000000000"),
        ("[exposure]", r#"oldest = "0s""#, "use 1s to 3650d"),
        ("[exposure]", r#"at_limit = "hold""#, r#"use one of "alarm", "deny""#),
        ("[monitor]", r#"listen = "localhost:9480""#, "write an IP address and a port"),
    ] {
        let loaded = site.load(&format!("{BASE}{table}\n{line}\n"));
        assert_eq!(loaded.findings.len(), 1, "{line}: {}", shown(&loaded.findings));
        assert!(loaded.findings[0].mend.starts_with(mend), "{}", loaded.findings[0]);
    }
}

#[test]
fn every_unit_and_form_of_a_value_is_read() {
    let site = Site::new();
    let text = base_with("[wechat]", r#"errcodes = { 61010 = "park", -1 = "slow-down" }"#)
        + "machine_latitude = 31\nmachine_longitude = 121.5\n[ledger]\nmin_free = 4096\nkeep = \"1d\"\n";
    let settings = site.settings(&text);
    assert_eq!(settings.ledger.min_free_bytes, 4096);
    assert_eq!(settings.ledger.keep, Duration::from_secs(86_400));
    assert_eq!(settings.wechat.errcodes.into_iter().collect::<Vec<_>>(), [(-1, ErrorClass::SlowDown), (61_010, ErrorClass::Park)]);
    assert_eq!((settings.wechat.machine_latitude, settings.wechat.machine_longitude), (Some(31.0), Some(121.5)));
    let settings = site.settings(&base_with("[ride_code]", r#"issuer_clock_offset = { "03664530" = "8h", "12345678" = "-90m" }"#));
    let offsets: Vec<_> = settings.ride_code.issuer_clock_offset_seconds.into_values().collect();
    assert_eq!(offsets, [28_800, -5400]);
    let settings = site.settings(&base_with("[lane.scanner]", r#"start_bytes = "16540D""#));
    assert_eq!(settings.lanes[0].scanner.start_bytes, [0x16, 0x54, 0x0d]);
}

#[test]
fn paths_are_relative_to_the_settings_file() {
    let site = Site::new();
    let text = base_with("[lane.turnstile]", "trace = \"t.jsonl\"\ninputs = \"/run/in\"") + "[ledger]\npath = \"data/l.db\"\n";
    let settings = site.settings(&with(&text, "/dev/ttyUSB0", "pty"));
    assert_eq!(settings.ledger.path, site.path("data/l.db"));
    assert_eq!(settings.lanes[0].scanner.device, site.path("pty"));
    let Driver::Simulated { trace, inputs } = &settings.lanes[0].turnstile.driver else { panic!("not simulated") };
    assert_eq!((trace.as_deref(), inputs.as_deref()), (Some(site.path("t.jsonl").as_path()), Some(Path::new("/run/in"))));
}

#[test]
fn a_lane_stands_at_the_gates_station_unless_it_has_its_own() {
    let site = Site::new();
    assert_eq!(site.settings(BASE).lanes[0].station, "S1");
    assert_eq!(site.settings(&base_with("[[lane]]", r#"station = "S2""#)).lanes[0].station, "S2");
}

#[test]
fn base_urls_must_be_https_or_on_this_machine() {
    let site = Site::new();
    let url = |url: &str| base_with("[wechat]", &format!("base_url = {url:?}"));
    expect_error(&site, &url("http://10.0.0.1"), "wechat.base_url", "plain http to another machine");
    expect_error(&site, &url("api.weixin.qq.com"), "wechat.base_url", "is not a base URL");
    assert_eq!(site.settings(&url("http://[::1]:8000/")).wechat.base_url, "http://[::1]:8000");
}

#[test]
fn ride_code_framing_needs_raw_bytes() {
    let site = Site::new();
    expect_error(&site, &base_with("[lane.scanner]", r#"encoding = "hex""#), "lane[in].scanner.encoding", "framing \"ride-code\"");
    site.settings(&base_with("[lane.scanner]", "framing = \"line\"\nencoding = \"hex\""));
}

#[test]
fn lanes_cannot_share_names_devices_or_input_fifos() {
    let site = Site::new();
    let two = BASE.to_owned() + SECOND_LANE;
    site.settings(&two);
    expect_error(&site, &with(&two, "\"out\"", "\"in\""), "lane[1].name", "already the name of a lane in lane[in].name on line 5");
    expect_error(&site, &with(&two, "/dev/ttyUSB1", "/dev//./ttyUSB0"), "lane[out].scanner.device", "on line 8");
    let fifo = two.replace("driver = \"simulated\"", "driver = \"simulated\"\ninputs = \"fifo\"");
    expect_error(&site, &fifo, "lane[out].turnstile.inputs", "already the FIFO of a lane's inputs");
    site.settings(&two.replace("driver = \"simulated\"", "driver = \"simulated\"\ntrace = \"trace\""));
}

#[test]
fn a_broken_lane_does_not_hide_that_another_uses_its_device() {
    let text = with(&(base_with("[lane.scanner]", "baud = 1") + SECOND_LANE), "/dev/ttyUSB1", "/dev/ttyUSB0");
    let findings = Site::new().load(&text).findings;
    assert_eq!(
        findings.iter().map(|finding| finding.key.as_str()).collect::<Vec<_>>(),
        ["lane[in].scanner.baud", "lane[out].scanner.device"]
    );
}

fn gpio_base() -> String {
    with(BASE, "driver = \"simulated\"", "driver = \"gpio\"\nchip = \"/dev/gpiochip0\"\nopen = 17")
}

#[test]
fn gpio_needs_a_chip_and_the_open_line() {
    let site = Site::new();
    let settings = site.settings(&with(&gpio_base(), "open = 17", "open = { line = \"RELAY\", active_low = true }\npassage = 27"));
    let Driver::Gpio(gpio) = &settings.lanes[0].turnstile.driver else { panic!("not gpio") };
    assert_eq!(gpio.open, Line { id: LineId::Name("RELAY".into()), active_low: true });
    assert_eq!(gpio.passage, Some(Line { id: LineId::Offset(27), active_low: false }));
    assert_eq!(settings.lanes[0].turnstile.inputs, Inputs { passage: true, fire_alarm: false, exit_button: false });
    assert_eq!(gpio.debounce, Duration::from_millis(20));
    expect_error(&site, &with(&gpio_base(), "open = 17\n", ""), "lane[in].turnstile.open", "is missing");
    expect_error(&site, &with(&gpio_base(), "chip = \"/dev/gpiochip0\"\n", ""), "lane[in].turnstile.chip", "is missing");
    expect_error(&site, &with(&gpio_base(), "open = 17", "open = -1"), "lane[in].turnstile.open", "out of range");
    expect_error(&site, &with(&gpio_base(), "open = 17", "open = {}"), "lane[in].turnstile.open.line", "is missing");
}

#[test]
fn a_gpio_line_is_used_once_on_its_chip() {
    let site = Site::new();
    let twice = with(&gpio_base(), "open = 17", "open = 17\nbuzzer = { line = 17 }");
    expect_error(&site, &twice, "lane[in].turnstile.buzzer", "already in use in lane[in].turnstile.open on line 12");
    let second = with(SECOND_LANE, "driver = \"simulated\"", "driver = \"gpio\"\nchip = \"/dev/gpiochip0\"\nopen = 17");
    expect_error(&site, &(gpio_base() + &second), "lane[out].turnstile.open", "already in use");
    site.settings(&(gpio_base() + &with(&second, "gpiochip0", "gpiochip1")));
}

#[test]
fn trace_and_inputs_are_for_the_simulated_turnstile_only() {
    let site = Site::new();
    for key in ["trace", "inputs"] {
        let text = with(&gpio_base(), "open = 17", &format!("open = 17\n{key} = \"file\""));
        expect_error(&site, &text, &format!("lane[in].turnstile.{key}"), "simulated");
    }
}

#[test]
fn a_simulated_input_exists_when_its_key_is_present_and_outputs_are_ignored() {
    let site = Site::new();
    assert_eq!(site.settings(BASE).lanes[0].turnstile.inputs, Inputs::default());
    for value in ["27", "0", "\"SENSOR\"", "{ line = 27, active_low = true }", "true"] {
        let text = base_with("[lane.turnstile]", &format!("fire_alarm = {value}"));
        let inputs = site.settings(&text).lanes[0].turnstile.inputs;
        assert_eq!(inputs, Inputs { passage: false, fire_alarm: true, exit_button: false }, "{value}");
    }
    expect_error(&site, &base_with("[lane.turnstile]", "passage = false"), "lane[in].turnstile.passage", "is false");
    site.settings(&base_with(
        "[lane.turnstile]",
        "chip = \"/dev/gpiochip0\"\nopen = 17\nlight_pass = 1\nlight_deny = 1\nbuzzer = 1",
    ));
}

#[test]
fn a_missing_tap_has_a_price_unless_every_lane_is_single() {
    let site = Site::new();
    for mode in ["entry", "exit", "both"] {
        let second = with(SECOND_LANE, "single", mode);
        let text = base_with("[ride_code]", "opaque_passenger = { offset = 0, length = 16 }") + &second;
        expect_error(&site, &text, "fare.max_fen", "is missing");
        site.settings(&with(&text, "flat_fen = 200", "flat_fen = 200\nmax_fen = 900"));
    }
}

#[test]
fn journeys_need_passengers_that_can_be_told_apart() {
    let site = Site::new();
    for mode in ["entry", "exit", "both"] {
        let text = with(&base_with("[fare]", "max_fen = 900"), "single", mode);
        expect_error(&site, &text, "ride_code.opaque_passenger", "whole");
        site.settings(&with(&text, "format = \"opaque\"", "format = \"jtt1179\"\nroots = \"roots.toml\""));
    }
}

#[test]
fn nobody_is_charged_for_taps_that_no_lane_here_could_see() {
    let site = Site::new();
    let text = |mode: &str, policy: &str| {
        let text = base_with("[ride_code]", "opaque_passenger = { offset = 0, length = 16 }");
        with(&with(&text, "single", mode), "flat_fen = 200", &format!("flat_fen = 200\nmax_fen = 900\n{policy} = \"charge-max\""))
    };
    for (mode, policy) in
        [("single", "unmatched_exit"), ("exit", "unmatched_exit"), ("single", "unfinished_entry"), ("entry", "unfinished_entry")]
    {
        expect_error(&site, &text(mode, policy), &format!("fare.{policy}"), "no lane here sees");
    }
    for (mode, policy) in
        [("entry", "unmatched_exit"), ("both", "unmatched_exit"), ("exit", "unfinished_entry"), ("both", "unfinished_entry")]
    {
        site.settings(&text(mode, policy));
    }
}

#[test]
fn an_invalid_mode_is_told_without_errors_that_it_could_have_caused() {
    let text = with(&base_with("[fare]", "unmatched_exit = \"charge-max\""), "single", "enter");
    expect_error(&Site::new(), &text, "lane[in].mode", "\"enter\" is not known here");
}

#[test]
fn the_first_wait_is_not_longer_than_the_longest() {
    let text = BASE.to_owned() + "[upload]\nretry_max = \"500ms\"\n";
    expect_error(&Site::new(), &text, "upload.retry_max", "retry_initial, 1s, is longer than retry_max, 500ms");
}

#[test]
fn each_auth_mode_needs_its_own_secret_and_looks_at_no_other() {
    let site = Site::new();
    let auth = |auth: &str, line: &str| with(BASE, "secret_file = \"appsecret\"", &format!("auth = {auth:?}\n{line}"));
    expect_error(&site, &auth("static-token", "secret_file = \"appsecret\""), "wechat.token_file", "is missing");
    expect_error(&site, &auth("stable-token", "token_file = \"token\""), "wechat.secret_file", "is missing");
    let settings = site.settings(&auth("static-token", "token_file = \"token\"\nsecret_file = \"nowhere\""));
    assert!(matches!(settings.wechat.auth, Auth::StaticToken { token_file } if token_file == site.path("token")));
    assert!(matches!(site.settings(&auth("none", "")).wechat.auth, Auth::None));
}

#[test]
fn a_secret_that_cannot_be_had_is_told_at_its_key() {
    let site = Site::new();
    let file = |name: &str| base_with("[wechat]", &format!("secret_file = {name:?}"));
    expect_error(&site, &file("nowhere"), "wechat.secret_file", "there is no such file ");
    expect_error(&site, &file("."), "wechat.secret_file", "is not a regular file");
    expect_error(&site, &file("/dev/null"), "wechat.secret_file", "is not a regular file");
    expect_error(&site, &file(""), "wechat.secret_file", "is not the name of a file");
    site.write("empty", b" \n", 0o600);
    expect_error(&site, &file("empty"), "wechat.secret_file", "is empty");
}

#[test]
fn a_bare_secret_name_is_looked_up_among_the_credentials_first() {
    let site = Site::new();
    let credentials = tempfile::tempdir().unwrap();
    let load = |text: &str| load_text(text, &site.path("faregate.toml"), Some(credentials.path())).settings.unwrap();
    let secret_file = |settings: Settings| match settings.wechat.auth {
        Auth::StableToken { secret_file, .. } => secret_file,
        auth => panic!("{auth:?}"),
    };
    assert_eq!(secret_file(load(BASE)), site.path("appsecret"));
    fs::write(credentials.path().join("appsecret"), SECRET).unwrap();
    assert_eq!(secret_file(load(BASE)), credentials.path().join("appsecret"));
    assert_eq!(secret_file(load(&with(BASE, "\"appsecret\"", "\"./appsecret\""))), site.path("./appsecret"));
}

#[test]
fn a_secret_that_others_can_read_is_a_warning() {
    let site = Site::new();
    for mode in [0o640, 0o604, 0o644] {
        site.write("appsecret", SECRET.as_bytes(), mode);
        expect_warning(&site, BASE, "wechat.secret_file", "can be read by group or others");
    }
    for (name, key) in [("callback-aes", "aes_key_file"), ("callback-sign", "sign_key_file")] {
        let site = Site::new();
        fs::set_permissions(site.path(name), fs::Permissions::from_mode(0o644)).unwrap();
        expect_warning(&site, &callback_with(""), &format!("callback.{key}"), "can be read by group or others");
    }
}

#[test]
fn settings_read_without_the_files_that_they_name_are_the_same_settings() {
    let site = Site::new();
    let jtt1179 = with(&callback_with(""), "format = \"opaque\"", "roots = \"roots.toml\"");
    let text = with(
        &with(&jtt1179, "flat_fen = 200", "flat_fen = 200\ntable = \"fares.csv\""),
        "[wechat]",
        "[wechat]\nca_file = \"ca.pem\"",
    );
    site.write("faregate.toml", text.as_bytes(), 0o600);
    site.write("ca.pem", rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap().cert.pem().as_bytes(), 0o600);
    let settings = format!("{:?}", load(&site.path("faregate.toml")).settings.expect("good settings"));
    for name in ["appsecret", "callback-aes", "callback-sign", "roots.toml", "fares.csv", "ca.pem"] {
        fs::remove_file(site.path(name)).unwrap();
        assert!(load(&site.path("faregate.toml")).settings.is_none(), "{name}");
    }
    let unread = load_without_named_files(&site.path("faregate.toml")).settings.expect("good settings");
    assert_eq!(format!("{unread:?}"), settings);
    site.write("faregate.toml", with(&text, "flat_fen = 200", "flat_fen = -1").as_bytes(), 0o600);
    assert!(load_without_named_files(&site.path("faregate.toml")).settings.is_none());
}

#[test]
fn the_rights_that_systemd_gives_a_credential_are_no_warning() {
    let site = Site::new();
    for (mode, warnings) in [(0o440, 0), (0o444, 1)] {
        site.write("appsecret", SECRET.as_bytes(), mode);
        let loaded = load_text(BASE, Path::new("/nowhere/faregate.toml"), Some(site.folder.path()));
        assert_eq!(loaded.findings.len(), warnings, "{}", shown(&loaded.findings));
    }
}

#[test]
fn a_slow_reader_is_a_warning() {
    let site = Site::new();
    expect_warning(&site, &base_with("[lane.scanner]", "baud = 9600"), "lane[in].scanner.baud", "at 9600 baud a code takes 357 ms");
    expect_warning(&site, &base_with("[lane.scanner]", "baud = 38400"), "lane[in].scanner.baud", "38400");
    assert!(site.load(&base_with("[lane.scanner]", "baud = 57600")).findings.is_empty());
}

#[test]
fn raw_ride_codes_read_line_by_line_are_a_warning() {
    let site = Site::new();
    let jtt1179 = with(BASE, "format = \"opaque\"", "roots = \"roots.toml\"");
    let text = |encoding: &str| with(&jtt1179, "ttyUSB0\"", &format!("ttyUSB0\"\nframing = \"line\"\nencoding = {encoding:?}"));
    expect_warning(&site, &text("raw"), "lane[in].scanner.framing", "line ends of their own");
    assert!(!shown(&site.load(&text("base64")).findings).contains("line ends"));
}

/// `BASE` with callbacks that cause no finding of their own, this line replaced or added.
fn callback_with(line: &str) -> String {
    const LINES: [&str; 6] = [
        r#"listen = "127.0.0.1:8480""#,
        r#"payment_path = "/wechat/payment/G1""#,
        r#"arrears_path = "/wechat/arrears""#,
        r#"aes_key_file = "callback-aes""#,
        r#"sign_key_file = "callback-sign""#,
        r#"sign = "hmac-sha256""#,
    ];
    let key = line.split(" =").next().unwrap();
    let kept = LINES.into_iter().filter(|old| old.split(" =").next() != Some(key));
    let table: String = kept.chain([line]).flat_map(|line| [line, "\n"]).collect();
    format!("{BASE}[callback]\n{table}")
}

#[test]
fn callbacks_are_checked() {
    let site = Site::new();
    site.settings(&callback_with(""));
    for (line, key, problem) in [
        ("listen = \"8480\"", "listen", "is not an address"),
        ("payment_path = \"wechat\"", "payment_path", "is not the path of a URL"),
        ("arrears_path = \"/wechat/payment/G1\"", "arrears_path", "is the same as payment_path"),
        ("aes_key_encoding = \"hex\"", "aes_key_file", "is not hexadecimal"),
        ("aes_key_encoding = \"raw\"", "aes_key_file", "has 25 bytes"),
        ("sign = \"sha1\"", "sign", "is not known here"),
        ("sign_key_file = \"nowhere\"", "sign_key_file", "there is no such file"),
        ("sign_fields = []", "sign_fields", "is empty"),
        ("sign_fields = [\"iv\", \"iv\"]", "sign_fields", "names a field twice"),
        ("sign_fields = [\"mchid\"]", "sign_fields", "\"mchid\" is not known here"),
    ] {
        expect_error(&site, &callback_with(line), &format!("callback.{key}"), problem);
    }
}

#[test]
fn unsigned_callbacks_need_consent_and_a_loopback_address() {
    let site = Site::new();
    let unsigned = "sign = \"none\"\nallow_unsigned = true";
    expect_error(&site, &callback_with("sign = \"none\""), "callback.sign", "unsigned callbacks are not allowed");
    expect_warning(&site, &callback_with(unsigned), "callback.sign", "callbacks are not signed");
    let without_key = with(&callback_with(unsigned), "sign_key_file = \"callback-sign\"\n", "");
    assert!(matches!(site.settings(&without_key).callback.unwrap().sign, Sign::None));
    let open = with(&callback_with(unsigned), "127.0.0.1:8480", "0.0.0.0:8480");
    expect_error(&site, &open, "callback.listen", "takes unsigned callbacks from other machines");
    site.settings(&with(&callback_with(unsigned), "127.0.0.1:8480", "[::1]:8480"));
}

#[test]
fn accepting_orders_of_other_gates_is_a_warning_unless_the_path_is_this_gates_own() {
    let site = Site::new();
    let shared = with(&callback_with(""), "/wechat/payment/G1", "/wechat/payment");
    expect_warning(&site, &shared, "callback.unknown_order", "several gates stand behind one URL");
    let told = with(&shared, "[callback]", "[callback]\nunknown_order = \"accept\"");
    expect_warning(&site, &told, "callback.unknown_order", "several gates");
    let refused = site.load(&with(&shared, "[callback]", "[callback]\nunknown_order = \"refuse\""));
    assert!(!shown(&refused.findings).contains("several gates"));
}

#[test]
fn signed_fields_that_leave_out_the_content_are_a_warning() {
    let text = callback_with("sign_fields = [\"appid\", \"iv\"]");
    expect_warning(&Site::new(), &text, "callback.sign_fields", "leaves out encrypted_data");
}

#[test]
fn two_servers_cannot_listen_at_one_address() {
    let site = Site::new();
    let text = callback_with("") + "[monitor]\nlisten = \"127.0.0.1:8480\"\n";
    expect_error(&site, &text, "monitor.listen", "already listened at in callback.listen");
    site.settings(&text.replace(":8480", ":0"));
}

#[test]
fn limits_and_monitoring_are_off_without_their_table_and_on_with_it() {
    let site = Site::new();
    let settings = site.settings(BASE);
    assert!(settings.exposure.is_none() && settings.monitor.is_none() && settings.callback.is_none());
    let settings = site.settings(&(BASE.to_owned() + "[exposure]\n[monitor]\n"));
    assert_eq!(settings.exposure.map(|exposure| exposure.gate_fen), Some(1_000_000));
    assert_eq!(settings.monitor.map(|monitor| monitor.listen.to_string()), Some("127.0.0.1:9480".into()));
}

#[test]
fn files_with_lines_of_their_own_are_reported_by_their_lines() {
    let site = Site::new();
    site.write("fares.csv", b"S1,S2,1\nS1,S2,2\n", 0o644);
    site.write("roots.toml", b"[[root]]\nindex = 1\n", 0o644);
    let text = with(&base_with("[fare]", "table = \"fares.csv\""), "format = \"opaque\"", "roots = \"roots.toml\"");
    let findings = site.load(&text).findings;
    let places: Vec<_> =
        findings.iter().map(|finding| (finding.file.file_name().unwrap().to_str().unwrap(), finding.line)).collect();
    assert_eq!(places, [("fares.csv", Some(2)), ("roots.toml", Some(1)), ("roots.toml", Some(1))]);
}

#[test]
fn files_that_cannot_be_had_are_told_at_the_key_that_names_them() {
    let site = Site::new();
    expect_error(&site, &base_with("[fare]", "table = \"nowhere.csv\""), "fare.table", "there is no such file");
    let jtt1179 = with(BASE, "format = \"opaque\"", "roots = \"nowhere.toml\"");
    expect_error(&site, &jtt1179, "ride_code.roots", "there is no such file");
    site.write("fares.csv", b"\xff", 0o644);
    expect_error(&site, &base_with("[fare]", "table = \"fares.csv\""), "fare.table", "is not UTF-8 text: line 1");
    expect_error(&site, &base_with("[wechat]", "ca_file = \"nowhere.pem\""), "wechat.ca_file", "there is no such file");
}

#[test]
fn a_trust_anchor_must_be_a_certificate() {
    let site = Site::new();
    for content in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        site.write("ca.pem", content.as_bytes(), 0o644);
        expect_error(&site, &base_with("[wechat]", "ca_file = \"ca.pem\""), "wechat.ca_file", "does not hold certificates");
    }
    assert_eq!(site.settings(&base_with("[wechat]", "ca_file = \"\"")).wechat.ca_file, None);
    site.write("ca.pem", CERTIFICATE.as_bytes(), 0o644);
    let settings = site.settings(&base_with("[wechat]", "ca_file = \"ca.pem\""));
    assert_eq!(settings.wechat.ca_file, Some(site.path("ca.pem")));
}

#[test]
fn everything_that_is_wrong_is_told_at_once_with_its_line() {
    let text = r#"[gate]
id = "S14 G03"
statoin = "S14"
open_within = 3

[[lane]]
name = "in"
mode = "single"
[lane.scanner]
device = "/dev/ttyUSB0"
baud = 9600
[lane.turnstile]
driver = "simulated"
pulse = "5 s"

[ride_code]
format = "opaque"

[fare]
scene = "TRAM"
body = "地铁代扣"
line_name = "2号线"
flat_fen = 2.5

[wechat]
base_url = "http://example.com"
deduct_path = "/deduct"
appid = "wx1"
mch_id = "1"
secret_file = "nowhere"

[upload]
retry_initial = "1m"
"#;
    let site = Site::new();
    let told: Vec<_> = site.load(text).findings.iter().map(|finding| (finding.line.unwrap(), finding.key.clone())).collect();
    let expected = [
        (1, "gate.station"),
        (2, "gate.id"),
        (3, "gate.statoin"),
        (4, "gate.open_within"),
        (11, "lane[in].scanner.baud"),
        (14, "lane[in].turnstile.pulse"),
        (20, "fare.scene"),
        (23, "fare.flat_fen"),
        (26, "wechat.base_url"),
        (30, "wechat.secret_file"),
        (33, "upload.retry_initial"),
    ];
    assert_eq!(told, expected.map(|(line, key)| (line, key.to_owned())));
}

#[test]
fn a_file_that_is_not_toml_is_told_by_its_lines() {
    let loaded = Site::new().load("[gate]\nid = \"S14\nstation = \"S14\"\n[gate\n");
    let lines: Vec<_> = loaded.findings.iter().map(|finding| finding.line).collect();
    assert_eq!(lines, [Some(2), Some(4)], "{}", shown(&loaded.findings));
}

#[test]
fn a_settings_file_that_cannot_be_read_is_a_finding() {
    let site = Site::new();
    let path = site.path("faregate.toml");
    assert!(load(&path).findings[0].to_string().contains("error: there is no such file"));
    fs::write(&path, b"[gate]\nid = \"\xff\"\n").unwrap();
    assert_eq!(load(&path).findings[0].line, Some(2));
    assert!(load(site.folder.path()).findings[0].problem.contains("is not a regular file"));
    let too_many_bytes = usize::try_from(limits::SETTINGS_BYTES_MAX).unwrap() + 1;
    fs::write(&path, vec![b'#'; too_many_bytes]).unwrap();
    assert!(load(&path).findings[0].problem.contains("is larger than"));
}

#[test]
fn a_station_that_the_fare_table_does_not_name_is_a_warning() {
    let site = Site::new();
    site.write("fares.csv", b"S1,S2,300\n", 0o644);
    let with_table = base_with("[fare]", "table = \"fares.csv\"\nmax_fen = 1000");
    let warned = |text: &str| {
        let loaded = site.load(text);
        assert!(loaded.settings.is_some(), "{}", shown(&loaded.findings));
        loaded.findings.iter().any(|finding| finding.key == "fare.table" && finding.problem.contains("station S1"))
    };
    let journeys = with(&with_table, "mode = \"single\"", "mode = \"entry\"");
    let journeys = with(&journeys, "[ride_code]", "[ride_code]\nopaque_passenger = { offset = 0, length = 4 }");
    assert!(!warned(&journeys), "the table names it");
    site.write("fares.csv", b"S2,S3,300\n", 0o644);
    assert!(warned(&journeys));
    assert!(!warned(&with_table), "single taps need no table");
}

#[test]
fn no_finding_and_no_debug_output_holds_a_secret() {
    let site = Site::new();
    for name in ["appsecret", "callback-aes", "callback-sign"] {
        site.write(name, SECRET.as_bytes(), 0o644);
    }
    let misplaced = base_with("[wechat]", &format!("secret_file = {SECRET:?}")) + &format!("secret = {SECRET:?}\n");
    for text in [BASE.to_owned(), callback_with(""), callback_with("aes_key_encoding = \"raw\""), misplaced] {
        let loaded = site.load(&text);
        assert!(!loaded.findings.is_empty());
        assert!(!format!("{}{loaded:?}", shown(&loaded.findings)).contains(SECRET), "{}", shown(&loaded.findings));
    }
}

#[test]
fn no_text_makes_loading_panic() {
    let site = Site::new();
    let words = prop::sample::select(vec![
        "[",
        "]",
        "[[lane]]\n",
        "=",
        "\"",
        "{",
        "}",
        ",",
        "\n",
        "#",
        ".",
        "-",
        "9",
        "id",
        "lane",
        "ms",
        "é",
    ]);
    let text = prop_oneof!["(?s).{0,200}", prop::collection::vec(words, 0..60).prop_map(|words| words.concat())];
    let run = TestRunner::new(Config { failure_persistence: None, ..Config::default() }).run(&text, |text| {
        site.load(&text);
        Ok(())
    });
    run.unwrap();
}

#[test]
fn no_change_of_the_example_makes_loading_panic() {
    let site = Site::new();
    let full = full();
    let change = (any::<Index>(), any::<Index>(), "[\\PC\n]{0,8}|-1|\"\"|99999999999999999999|\\{\\}|\\[\\]|true|1e400|nan");
    let changes = prop::collection::vec(change, 1..4);
    let run = TestRunner::new(Config { failure_persistence: None, ..Config::default() }).run(&changes, |changes| {
        let mut text: Vec<char> = full.chars().collect();
        for (start, length, new) in changes {
            let start = start.index(text.len());
            let end = (start + length.index(12)).min(text.len());
            text.splice(start..end, new.chars());
        }
        site.load(&text.into_iter().collect::<String>());
        Ok(())
    });
    run.unwrap();
}

#[test]
fn no_value_of_a_setting_makes_loading_panic() {
    let site = Site::new();
    let full = full();
    let keys = keys_of(&full);
    let value = concat!(
        r#"-?[0-9]{1,20}|-?[0-9]{1,3}\.[0-9]e[0-9]{1,3}|"[0-9]{0,20}(ms|s|m|h|d|KiB)?"|"#,
        r#""[a-z:/.@\[\]0-9]{0,30}"|\{\}|\[1\]|true|nan"#
    );
    let run = TestRunner::new(Config { failure_persistence: None, ..Config::default() }).run(
        &(any::<Index>(), value),
        |(index, value)| {
            let (number, _, key) = index.get(&keys);
            site.load(&with_line(&full, *number, &format!("{key} = {value}")));
            Ok(())
        },
    );
    run.unwrap();
}

#[test]
fn a_deny_list_that_can_have_no_effect_is_a_warning() {
    let site = Site::new();
    let opaque = BASE.to_owned() + "[deny]\nfile = \"deny.txt\"\n";
    expect_warning(&site, &opaque, "deny.file", "tells no card account number");
    let jtt1179 = with(&opaque, "format = \"opaque\"", "roots = \"roots.toml\"");
    assert_eq!(shown(&site.load(&jtt1179).findings), "");
    expect_warning(&site, &(BASE.to_owned() + "[deny]\nunpaid = true\n"), "deny.unpaid", "without [callback]");
    let deny = site.settings(BASE).deny;
    assert!(deny.file.is_none() && !deny.unpaid);
}

#[test]
fn every_setting_is_in_the_manual_page() {
    let page = include_str!("../../docs/man/faregate.toml.5.md");
    let tables = [GATE, LANE, SCANNER, TURNSTILE, RIDE_CODE, FARE, LEDGER, WECHAT, UPLOAD, CALLBACK, EXPOSURE, DENY, MONITOR];
    let subtables = ["scanner", "turnstile"];
    for key in tables.into_iter().flatten().filter(|key| !subtables.contains(key)) {
        assert!(page.contains(&format!("**{key}**")), "{key}");
    }
}
