//! The settings as typed, checked values. A [`Settings`] that exists is valid in itself: ranges, combinations and references
//! have been checked. Paths are absolute or relative to the working directory, never to the settings file.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

/// Everything that `faregate.toml` says.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `[gate]`
    pub gate: Gate,
    /// `[[lane]]`, at least one; names are unique.
    pub lanes: Vec<Lane>,
    /// `[ride_code]`
    pub ride_code: RideCode,
    /// `[fare]`
    pub fare: Fare,
    /// `[ledger]`
    pub ledger: Ledger,
    /// `[wechat]`
    pub wechat: WeChat,
    /// `[upload]`
    pub upload: Upload,
    /// `[callback]`, off when absent.
    pub callback: Option<Callback>,
    /// `[exposure]`, off when absent.
    pub exposure: Option<Exposure>,
    /// `[deny]`
    pub deny: Deny,
    /// `[monitor]`, off when absent.
    pub monitor: Option<Monitor>,
}

/// `[gate]`: this gate computer and what holds for all its lanes.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    /// Unique in the network, `[A-Za-z0-9-]{1,16}`.
    pub id: String,
    /// Where the gate stands, `[A-Za-z0-9-]{1,16}`.
    pub station: String,
    /// How long an admitted code is refused as `duplicate`.
    pub duplicate_window: Duration,
    /// How long an admitted passenger is refused as `too-soon`.
    pub passenger_interval: Duration,
    /// An opening that cannot start so long after the scan's last byte does not happen.
    pub open_within: Duration,
}

/// One `[[lane]]`: one reader, one turnstile.
#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    /// Unique on this computer.
    pub name: String,
    /// What a tap on this lane means.
    pub mode: Mode,
    /// `gate.station` unless the lane has its own.
    pub station: String,
    /// `[lane.scanner]`
    pub scanner: Scanner,
    /// `[lane.turnstile]`
    pub turnstile: Turnstile,
}

/// What a tap on a lane means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Each tap is a trip with its fare.
    Single,
    /// A tap begins a journey.
    Entry,
    /// A tap ends a journey.
    Exit,
    /// A passenger's first tap begins a journey, the next ends it.
    Both,
}

/// `[lane.scanner]`
#[derive(Debug, Clone, PartialEq)]
pub struct Scanner {
    /// Any tty: USB, UART, pseudo-terminal.
    pub device: PathBuf,
    /// Bits per second, 8N1.
    pub baud: u32,
    /// Where one code ends and the next begins.
    pub framing: Framing,
    /// How the reader writes the code's bytes.
    pub encoding: Encoding,
    /// The silence that ends a frame (see [`Framing`]).
    pub idle_gap: Duration,
    /// Sent to the reader after each opening of the device; may be empty.
    pub start_bytes: Vec<u8>,
}

/// Where one code ends and the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By the length and tags of the JT/T 1179 ride code itself.
    RideCode,
    /// By CR, LF or CRLF.
    Line,
    /// 02, length (2 bytes, big-endian), payload, 03.
    Stx,
    /// By silence alone.
    Idle,
}

/// How the reader writes the code's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Raw,
    /// Standard base64.
    Base64,
    /// Hexadecimal digits of either case.
    Hex,
}

/// `[lane.turnstile]`
#[derive(Debug, Clone, PartialEq)]
pub struct Turnstile {
    /// What moves the lines.
    pub driver: Driver,
    /// How long `open` is active for one admission.
    pub pulse: Duration,
    /// How long `open` is inactive between two pulses.
    pub pulse_gap: Duration,
    /// How long after the opening's edge a passage is waited for.
    pub passage_timeout: Duration,
    /// What becomes of the deduction when nobody passes.
    pub no_passage: NoPassage,
    /// Which inputs exist. For `gpio`, these are lines in [`Gpio`]; for `simulated`, just their presence.
    pub inputs: Inputs,
}

/// Which inputs a turnstile has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inputs {
    /// A sensor that is active while somebody passes.
    pub passage: bool,
    /// Active while the fire alarm is on: every lane opens.
    pub fire_alarm: bool,
    /// Opens once, without a code.
    pub exit_button: bool,
}

/// What moves a turnstile's lines.
#[derive(Debug, Clone, PartialEq)]
pub enum Driver {
    /// Lines of a GPIO chip.
    Gpio(Box<Gpio>),
    /// No hardware: changes are written to a trace, inputs come from a FIFO.
    Simulated {
        /// A JSON line per change of an output.
        trace: Option<PathBuf>,
        /// A FIFO, made if missing, that takes a JSON line per change of an input.
        inputs: Option<PathBuf>,
    },
}

/// The lines of a `gpio` turnstile. An output or input exists when it is named.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpio {
    /// Such as `/dev/gpiochip0`.
    pub chip: PathBuf,
    /// The relay.
    pub open: Line,
    /// Output.
    pub light_pass: Option<Line>,
    /// Output.
    pub light_deny: Option<Line>,
    /// Output.
    pub buzzer: Option<Line>,
    /// Input.
    pub passage: Option<Line>,
    /// Input.
    pub fire_alarm: Option<Line>,
    /// Input.
    pub exit_button: Option<Line>,
    /// How long a level of an input must last to count.
    pub debounce: Duration,
}

/// One line of a GPIO chip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// By offset or by name.
    pub id: LineId,
    /// Whether the line is active when low.
    pub active_low: bool,
}

/// How a line is found on its chip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineId {
    /// Its offset.
    Offset(u32),
    /// The name that the device tree gives it.
    Name(String),
}

/// What becomes of a deduction when nobody passes within `passage_timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPassage {
    /// It becomes `void`.
    Void,
    /// It is charged.
    Charge,
}

/// `[ride_code]`
#[derive(Debug, Clone, PartialEq)]
pub struct RideCode {
    /// What a code is.
    pub format: Format,
    /// How far phone and gate may differ, both ways.
    pub clock_tolerance: Duration,
    /// What to do with codes while this machine's clock is not synchronized.
    pub unsynchronized_clock: UnsynchronizedClock,
    /// Issuers (8 digits) that write local time as epoch, and how far ahead of UTC that is, in seconds.
    pub issuer_clock_offset_seconds: BTreeMap<String, i64>,
}

/// What a code is.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    /// JT/T 1179-2018, verified against these roots.
    Jtt1179 {
        /// `roots.toml`.
        roots: PathBuf,
    },
    /// Bytes that nothing is known of. No protection against forgery.
    Opaque {
        /// Which bytes are the passenger.
        passenger: OpaquePassenger,
    },
}

/// Which bytes of an opaque code are the passenger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpaquePassenger {
    /// All of them.
    Whole,
    /// A part, in bytes of the decoded code.
    Slice {
        /// First byte.
        offset: usize,
        /// Number of bytes, at least 1.
        length: usize,
    },
}

/// What to do with codes while this machine's clock is not synchronized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsynchronizedClock {
    /// Judge them by the clock as it is.
    Accept,
    /// Refuse them.
    Deny,
}

/// `[fare]`
#[derive(Debug, Clone, PartialEq)]
pub struct Fare {
    /// `trade_scene`.
    pub scene: Scene,
    /// `body` of a deduction.
    pub body: String,
    /// `line_name` of a deduction.
    pub line_name: String,
    /// What a trip costs without a table, in fen.
    pub flat_fen: i64,
    /// What a missing tap costs, in fen. Required unless every lane is `single`.
    pub max_fen: Option<i64>,
    /// 0 to 100: total = original × this / 100, half up.
    pub discount_percent: u8,
    /// `from,to,fen`.
    pub table: Option<PathBuf>,
    /// After this a journey is unfinished.
    pub max_journey: Duration,
    /// A second entry at the same station within this replaces the first.
    pub reentry_within: Duration,
    /// What an exit without entry means.
    pub unmatched_exit: UnmatchedExit,
    /// What an entry without exit means.
    pub unfinished_entry: UnfinishedEntry,
    /// A fare of its own for leaving where one entered.
    pub same_station: Option<SameStation>,
}

/// `trade_scene`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// `METRO`
    Metro,
    /// `BUS`
    Bus,
}

/// What an exit without entry means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnmatchedExit {
    /// The gate opens, the deduction waits for a person.
    Hold,
    /// The gate opens, `max_fen` is charged.
    ChargeMax,
    /// The gate stays closed.
    Deny,
}

/// What an entry without exit means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnfinishedEntry {
    /// Nothing is charged.
    Void,
    /// `max_fen` is charged.
    ChargeMax,
}

/// A fare of its own for leaving where one entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SameStation {
    /// Up to this age of the journey.
    pub within: Duration,
    /// In fen; 0 is free.
    pub fen: i64,
}

/// `[ledger]`
#[derive(Debug, Clone, PartialEq)]
pub struct Ledger {
    /// The SQLite file.
    pub path: PathBuf,
    /// Below this many free bytes the lanes are out of order.
    pub min_free_bytes: u64,
    /// How long settled rows are kept.
    pub keep: Duration,
    /// How long denied scans are kept.
    pub keep_denied: Duration,
}

/// `[wechat]`
#[derive(Debug, Clone, PartialEq)]
pub struct WeChat {
    /// `https://…`, or `http://` to a loopback address; without a trailing slash.
    pub base_url: String,
    /// Begins with a slash.
    pub deduct_path: String,
    /// How requests are authorized.
    pub auth: Auth,
    /// The mini-program's or official account's ID.
    pub appid: String,
    /// The merchant.
    pub mch_id: String,
    /// For one request, from connecting to the last byte of the answer.
    pub timeout: Duration,
    /// An additional trust anchor, PEM.
    pub ca_file: Option<PathBuf>,
    /// `machine_ip` of a deduction.
    pub machine_ip: Option<String>,
    /// `machine_latitude` of a deduction, degrees.
    pub machine_latitude: Option<f64>,
    /// `machine_longitude` of a deduction, degrees.
    pub machine_longitude: Option<f64>,
    /// Classes of error codes beside the documented ones.
    pub errcodes: BTreeMap<i64, ErrorClass>,
}

/// How requests to WeChat are authorized.
#[derive(Debug, Clone, PartialEq)]
pub enum Auth {
    /// `access_token` from the stable-token interface.
    StableToken {
        /// The file with the appsecret.
        secret_file: PathBuf,
        /// Begins with a slash.
        token_path: String,
    },
    /// `access_token` from a file that somebody else keeps fresh.
    StaticToken {
        /// The file with the token.
        token_file: PathBuf,
    },
    /// None: `base_url` is a proxy of the operator's that adds what is needed.
    None,
}

/// What an answer's `errcode` means for the row and for the queue (`facts`: WeChat, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorClass {
    /// Taken; not yet paid.
    Accepted,
    /// The token is no longer good.
    Token,
    /// A fault that passes.
    Transient,
    /// Too many requests.
    SlowDown,
    /// Somebody must set something right at WeChat's side or here.
    Operator,
    /// This row can never succeed.
    Park,
}

/// `[upload]`
#[derive(Debug, Clone, PartialEq)]
pub struct Upload {
    /// Requests in flight at most, at least 1.
    pub concurrency: usize,
    /// First wait after a failure.
    pub retry_initial: Duration,
    /// Longest wait between two tries.
    pub retry_max: Duration,
    /// Answers of an unknown class after which a row is parked.
    pub unknown_attempts: u32,
    /// Rows older than this are parked, not sent.
    pub max_age: Duration,
    /// Failed sends in a row that raise an alarm.
    pub alarm_after: u32,
}

/// `[callback]`
#[derive(Debug, Clone, PartialEq)]
pub struct Callback {
    /// Where WeChat's callbacks, or the proxy that passes them on, arrive.
    pub listen: SocketAddr,
    /// Begins with a slash.
    pub payment_path: String,
    /// Begins with a slash.
    pub arrears_path: String,
    /// The file with the AES key.
    pub aes_key_file: PathBuf,
    /// How the key is written in its file.
    pub aes_key_encoding: Encoding,
    /// How callbacks are signed.
    pub sign: Sign,
    /// The signed fields, in order.
    pub sign_fields: Vec<String>,
    /// What to answer for an order that this gate does not know.
    pub unknown_order: UnknownOrder,
}

/// How callbacks are signed.
#[derive(Debug, Clone, PartialEq)]
pub enum Sign {
    /// HMAC-SHA256, keyed with the key in this file.
    HmacSha256(PathBuf),
    /// MD5, with the key in this file.
    Md5(PathBuf),
    /// Not at all (`allow_unsigned`, loopback only).
    None,
}

/// What to answer for an order that this gate does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownOrder {
    /// Received; kept as evidence.
    Accept,
    /// Refused, so that it is sent again: several gates stand behind one URL.
    Refuse,
}

/// `[exposure]`: limits on what is recorded but not yet accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct Exposure {
    /// Rows per passenger.
    pub passenger_count: u32,
    /// Fen per passenger.
    pub passenger_fen: i64,
    /// Fen on this gate.
    pub gate_fen: i64,
    /// Age of the oldest row.
    pub oldest: Duration,
    /// What happens at a limit.
    pub at_limit: AtLimit,
}

/// What happens at an exposure limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtLimit {
    /// An alarm.
    Alarm,
    /// An alarm, and entries and single taps are refused.
    Deny,
}

/// `[deny]`: who is not let in. What is on the deny-list holds whether this table is there or not.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Deny {
    /// A list that is imported when it has changed. Not read with the settings: one that is bad leaves the last good list.
    pub file: Option<PathBuf>,
    /// Whether a passenger with an unpaid deduction is refused until it is repaid.
    pub unpaid: bool,
}

/// `[monitor]`
#[derive(Debug, Clone, PartialEq)]
pub struct Monitor {
    /// Where `/metrics` and `/health` are served.
    pub listen: SocketAddr,
}
