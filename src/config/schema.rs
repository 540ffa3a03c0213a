//! The keys of every table: what is not listed here is an unknown key.

/// The keys of one table.
pub(super) type Keys = &'static [&'static str];

pub(super) const ROOT: Keys =
    &["gate", "lane", "ride_code", "fare", "ledger", "wechat", "upload", "callback", "exposure", "deny", "monitor"];
pub(super) const GATE: Keys = &["id", "station", "duplicate_window", "passenger_interval", "open_within"];
pub(super) const LANE: Keys = &["name", "mode", "station", "scanner", "turnstile"];
pub(super) const SCANNER: Keys = &["device", "baud", "framing", "encoding", "idle_gap", "start_bytes"];
pub(super) const TURNSTILE: Keys = &[
    "driver",
    "chip",
    "open",
    "light_pass",
    "light_deny",
    "buzzer",
    "pulse",
    "pulse_gap",
    "passage",
    "fire_alarm",
    "exit_button",
    "debounce",
    "passage_timeout",
    "no_passage",
    "trace",
    "inputs",
];
pub(super) const LINE: Keys = &["line", "active_low"];
pub(super) const RIDE_CODE: Keys =
    &["format", "roots", "clock_tolerance", "unsynchronized_clock", "issuer_clock_offset", "opaque_passenger"];
pub(super) const OPAQUE_PASSENGER: Keys = &["offset", "length"];
pub(super) const FARE: Keys = &[
    "scene",
    "body",
    "line_name",
    "flat_fen",
    "max_fen",
    "discount_percent",
    "table",
    "max_journey",
    "reentry_within",
    "unmatched_exit",
    "unfinished_entry",
    "same_station",
];
pub(super) const SAME_STATION: Keys = &["within", "fen"];
pub(super) const LEDGER: Keys = &["path", "min_free", "keep", "keep_denied"];
pub(super) const WECHAT: Keys = &[
    "base_url",
    "deduct_path",
    "auth",
    "appid",
    "mch_id",
    "secret_file",
    "token_file",
    "token_path",
    "timeout",
    "ca_file",
    "machine_ip",
    "machine_latitude",
    "machine_longitude",
    "errcodes",
];
pub(super) const UPLOAD: Keys = &["concurrency", "retry_initial", "retry_max", "unknown_attempts", "max_age", "alarm_after"];
pub(super) const CALLBACK: Keys = &[
    "listen",
    "payment_path",
    "arrears_path",
    "aes_key_file",
    "aes_key_encoding",
    "sign",
    "allow_unsigned",
    "sign_fields",
    "sign_key_file",
    "unknown_order",
];
pub(super) const EXPOSURE: Keys = &["passenger_count", "passenger_fen", "gate_fen", "oldest", "at_limit"];
pub(super) const DENY: Keys = &["file", "unpaid"];
pub(super) const MONITOR: Keys = &["listen"];

/// `roots.toml`
pub(super) const ROOTS_FILE: Keys = &["root"];
/// One `[[root]]`.
pub(super) const TRUST_ROOT: Keys = &["index", "public_key", "expires"];
