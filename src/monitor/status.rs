//! The gate's state at one moment, as a value: what `faregate status` shows, as JSON for programs and as a page for people.
//!
//! The names of the fields and the words of the enums are the contract; its order of fields is kept too. The page for people is
//! 80 columns wide, alarms first, and shouts what is not as it should be, since it is read at two in the morning.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::journal::printable;

/// The gate's state at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The gate's ID.
    pub gate: String,
    /// Of the program that answers.
    pub version: String,
    /// Seconds since the program's start.
    pub uptime_s: u64,
    /// In the order of the settings.
    pub lanes: Vec<LaneStatus>,
    /// What the ledger holds.
    pub queue: QueueStatus,
    /// What the upload is doing.
    pub upload: UploadStatus,
    /// This machine's clock.
    pub clock: ClockStatus,
    /// From the last byte of a scan to the open relay.
    pub scan_to_open_ms: ScanToOpenMs,
    /// One sentence each: what is wrong, and what to do.
    pub alarms: Vec<String>,
}

/// One lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneStatus {
    /// Its name in the settings.
    pub name: String,
    /// Its reader.
    pub scanner: ScannerState,
    /// Its turnstile.
    pub turnstile: TurnstileState,
}

/// Whether a reader is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScannerState {
    /// Its device is open.
    Up,
    /// It is unplugged or cannot be opened; the program keeps trying.
    Absent,
}

/// What a turnstile is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TurnstileState {
    /// Its lines obey.
    Ok,
    /// The fire alarm holds it open.
    AlarmOpen,
    /// A line could not be set.
    Failed,
}

/// What the ledger holds: rows by state, and what waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Rows that wait for a passage or for a journey's end.
    pub held: u64,
    /// Rows that wait to be sent.
    pub pending: u64,
    /// Rows that were taken and are not yet paid.
    pub accepted: u64,
    /// Rows that are paid.
    pub paid: u64,
    /// Rows whose payment failed.
    pub unpaid: u64,
    /// Rows that wait for a person.
    pub parked: u64,
    /// Rows that are not charged.
    pub void: u64,
    /// Age of the oldest pending row in seconds; `None` when there is none.
    pub oldest_pending_s: Option<u64>,
    /// Sum of the pending rows in fen.
    pub pending_fen: i64,
    /// Sum of what is recorded but not yet accepted, in fen; for the metrics.
    #[serde(skip)]
    pub at_risk_fen: i64,
}

impl QueueStatus {
    /// Each state's word and its number of rows, in the order of the contract.
    #[must_use]
    pub fn rows(&self) -> [(&'static str, u64); 7] {
        [
            ("held", self.held),
            ("pending", self.pending),
            ("accepted", self.accepted),
            ("paid", self.paid),
            ("unpaid", self.unpaid),
            ("parked", self.parked),
            ("void", self.void),
        ]
    }
}

/// What the upload is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadStatus {
    /// In one word.
    pub state: UploadState,
    /// Why it waits or is paused.
    pub reason: Option<String>,
}

/// What the upload is doing, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UploadState {
    /// Nothing is pending.
    Idle,
    /// Requests are under way.
    Sending,
    /// The next try has its time.
    Waiting,
    /// Only probes are sent until a condition is gone.
    Paused,
}

/// This machine's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStatus {
    /// Whether the kernel holds it to be synchronized.
    pub synchronized: bool,
}

/// Percentiles since the program's start, in milliseconds; `None` when `count` is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ScanToOpenMs {
    /// Half were as fast as this.
    pub p50: Option<f64>,
    /// 99 of 100 were.
    pub p99: Option<f64>,
    /// 999 of 1000 were.
    pub p999: Option<f64>,
    /// Openings measured.
    pub count: u64,
}

impl fmt::Display for Status {
    /// The page for people, without a newline at its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heading = format!("Gate {}   faregate {}   up {}", self.gate, self.version, span(self.uptime_s));
        writeln!(f, "{}\n", plain(&heading))?;
        write_alarms(f, &self.alarms)?;
        write_lanes(f, &self.lanes)?;
        write_queue(f, &self.queue)?;
        write_labelled(f, "UPLOAD", &upload_text(&self.upload))?;
        write_labelled(f, "CLOCK", if self.clock.synchronized { "synchronized" } else { "NOT SYNCHRONIZED" })?;
        write!(f, "{}", hanging("OPENING   ", &opening_text(&self.scan_to_open_ms)))
    }
}

const COLUMNS: usize = 80;

fn write_alarms(f: &mut fmt::Formatter<'_>, alarms: &[String]) -> fmt::Result {
    if alarms.is_empty() {
        return writeln!(f, "No alarms.\n");
    }
    writeln!(f, "ALARMS ({})", alarms.len())?;
    alarms.iter().try_for_each(|alarm| writeln!(f, "{}", hanging("  ! ", alarm)))?;
    writeln!(f)
}

fn write_lanes(f: &mut fmt::Formatter<'_>, lanes: &[LaneStatus]) -> fmt::Result {
    writeln!(f, "LANES     scanner    turnstile")?;
    for lane in lanes {
        let scanner = match lane.scanner {
            ScannerState::Up => "up",
            ScannerState::Absent => "ABSENT",
        };
        let turnstile = match lane.turnstile {
            TurnstileState::Ok => "ok",
            TurnstileState::AlarmOpen => "OPEN (fire alarm)",
            TurnstileState::Failed => "FAILED",
        };
        writeln!(f, "  {:<7} {scanner:<10} {turnstile}", plain(&lane.name))?;
    }
    writeln!(f)
}

fn write_queue(f: &mut fmt::Formatter<'_>, queue: &QueueStatus) -> fmt::Result {
    writeln!(f, "QUEUE")?;
    for (state, rows) in queue.rows() {
        let remark = match state {
            "pending" if rows > 0 => pending_text(queue),
            "parked" if rows > 0 => "wait for a person: faregate queue list --state parked".to_owned(),
            _ => String::new(),
        };
        writeln!(f, "{}", format!("  {state:<9}{rows:>12}   {remark}").trim_end())?;
    }
    writeln!(f)
}

fn pending_text(queue: &QueueStatus) -> String {
    let yuan = format!("{}.{:02} yuan", queue.pending_fen / 100, (queue.pending_fen % 100).abs());
    queue.oldest_pending_s.map_or_else(|| yuan.clone(), |age_s| format!("{yuan}, oldest {}", span(age_s)))
}

fn upload_text(upload: &UploadStatus) -> String {
    let state = match upload.state {
        UploadState::Idle => "idle",
        UploadState::Sending => "sending",
        UploadState::Waiting => "waiting",
        UploadState::Paused => "PAUSED",
    };
    upload.reason.as_ref().map_or_else(|| state.to_owned(), |reason| format!("{state}: {reason}"))
}

fn opening_text(times: &ScanToOpenMs) -> String {
    match (times.p50, times.p99, times.p999) {
        (Some(p50), Some(p99), Some(p999)) => {
            format!("p50 {p50:.1} ms   p99 {p99:.1} ms   p999 {p999:.1} ms   of {}", times.count)
        }
        _ => "none since the start".to_owned(),
    }
}

fn write_labelled(f: &mut fmt::Formatter<'_>, label: &str, text: &str) -> fmt::Result {
    writeln!(f, "{}", hanging(&format!("{label:<10}"), text))
}

/// A length of time in its two largest units.
fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// Alarms and reasons can hold what a peer has sent.
fn plain(text: &str) -> String {
    text.chars().map(printable).collect()
}

/// The text behind its label, wrapped at 80 columns and aligned with where it began.
fn hanging(label: &str, text: &str) -> String {
    let indent = label.chars().count();
    let lines = wrapped(&plain(text), COLUMNS - indent);
    format!("{label}{}", lines.join(&format!("\n{}", " ".repeat(indent))))
}

/// At most `columns` wide lines, broken at spaces where there are any.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut rest = text;
    while !rest.is_empty() {
        let end = fitting_bytes(rest, columns);
        let end = if end == rest.len() { end } else { rest[..end].rfind(' ').filter(|&space| space > 0).unwrap_or(end) };
        lines.push(rest[..end].trim_end().to_owned());
        rest = rest[end..].trim_start();
    }
    lines.splice(..usize::from(lines.len() > 1), []);
    lines
}

/// How many bytes of the text fit; at least one character, so that wrapping ends.
fn fitting_bytes(text: &str, columns: usize) -> usize {
    let mut used = 0;
    for (at, character) in text.char_indices() {
        used += columns_of(character);
        if used > columns && at > 0 {
            return at;
        }
    }
    text.len()
}

/// Terminals show what comes from U+1100 on, Chinese among it, in two columns; narrower exceptions only break a line early.
fn columns_of(character: char) -> usize {
    if character < '\u{1100}' { 1 } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Status {
        Status {
            gate: "S14-G03".into(),
            version: "0.1.0".into(),
            uptime_s: 273_120,
            lanes: vec![
                LaneStatus { name: "in".into(), scanner: ScannerState::Up, turnstile: TurnstileState::Ok },
                LaneStatus { name: "out".into(), scanner: ScannerState::Absent, turnstile: TurnstileState::AlarmOpen },
            ],
            queue: QueueStatus {
                held: 1,
                pending: 12,
                accepted: 340,
                paid: 9120,
                unpaid: 2,
                parked: 3,
                void: 88,
                oldest_pending_s: Some(185),
                pending_fen: 2405,
                at_risk_fen: 0,
            },
            upload: UploadStatus { state: UploadState::Waiting, reason: Some("no answer from the server".into()) },
            clock: ClockStatus { synchronized: false },
            scan_to_open_ms: ScanToOpenMs { p50: Some(2.125), p99: Some(4.0), p999: Some(9.5), count: 1234 },
            alarms: vec!["lane out: the scanner is absent; look whether its plug is in".into()],
        }
    }

    const JSON: &str = concat!(
        r#"{"gate":"S14-G03","version":"0.1.0","uptime_s":273120,"#,
        r#""lanes":[{"name":"in","scanner":"up","turnstile":"ok"},{"name":"out","scanner":"absent","turnstile":"alarm-open"}],"#,
        r#""queue":{"held":1,"pending":12,"accepted":340,"paid":9120,"unpaid":2,"parked":3,"void":88,"#,
        r#""oldest_pending_s":185,"pending_fen":2405},"#,
        r#""upload":{"state":"waiting","reason":"no answer from the server"},"clock":{"synchronized":false},"#,
        r#""scan_to_open_ms":{"p50":2.125,"p99":4.0,"p999":9.5,"count":1234},"#,
        r#""alarms":["lane out: the scanner is absent; look whether its plug is in"]}"#
    );

    #[test]
    fn the_json_is_the_contracts_and_can_be_read_back() {
        assert_eq!(serde_json::to_string(&sample()).unwrap(), JSON);
        assert_eq!(serde_json::from_str::<Status>(JSON).unwrap(), sample());
    }

    #[test]
    fn what_is_absent_is_null() {
        let json = serde_json::to_string(&(
            ScanToOpenMs::default(),
            QueueStatus::default().oldest_pending_s,
            UploadStatus { state: UploadState::Idle, reason: None },
        ));
        let expected = r#"[{"p50":null,"p99":null,"p999":null,"count":0},null,{"state":"idle","reason":null}]"#;
        assert_eq!(json.unwrap(), expected);
    }

    #[test]
    fn each_state_has_the_contracts_word() {
        let words = serde_json::to_string(&(
            [TurnstileState::Ok, TurnstileState::AlarmOpen, TurnstileState::Failed],
            [UploadState::Idle, UploadState::Sending, UploadState::Waiting, UploadState::Paused],
        ));
        assert_eq!(words.unwrap(), r#"[["ok","alarm-open","failed"],["idle","sending","waiting","paused"]]"#);
    }

    const PAGE: &str = "\
Gate S14-G03   faregate 0.1.0   up 3 d 3 h

ALARMS (1)
  ! lane out: the scanner is absent; look whether its plug is in

LANES     scanner    turnstile
  in      up         ok
  out     ABSENT     OPEN (fire alarm)

QUEUE
  held                1
  pending            12   24.05 yuan, oldest 3 min 5 s
  accepted          340
  paid             9120
  unpaid              2
  parked              3   wait for a person: faregate queue list --state parked
  void               88

UPLOAD    waiting: no answer from the server
CLOCK     NOT SYNCHRONIZED
OPENING   p50 2.1 ms   p99 4.0 ms   p999 9.5 ms   of 1234";

    #[test]
    fn the_page_for_people_shows_alarms_first_and_shouts_what_is_wrong() {
        assert_eq!(sample().to_string(), PAGE);
        let quiet = Status { alarms: Vec::new(), scan_to_open_ms: ScanToOpenMs::default(), ..sample() }.to_string();
        assert!(quiet.contains("\nNo alarms.\n") && quiet.ends_with("OPENING   none since the start"), "{quiet}");
    }

    #[test]
    fn no_line_is_wider_than_80_columns_and_no_word_is_lost() {
        let words = "the upload has failed since Monday ".repeat(9);
        let chinese = "系统繁忙请稍候再试".repeat(20);
        let status = Status { alarms: vec![words.clone(), chinese.clone(), "x".repeat(200)], ..sample() };
        let page = status.to_string();
        for line in page.lines() {
            assert!(line.chars().map(columns_of).sum::<usize>() <= COLUMNS, "{line}");
        }
        let squeezed: String = page.split_whitespace().collect();
        for text in [words, chinese, "x".repeat(200)] {
            assert!(squeezed.contains(&text.split_whitespace().collect::<String>()), "{page}");
        }
    }

    #[test]
    fn a_peers_text_cannot_move_the_cursor() {
        let upload = UploadStatus { state: UploadState::Paused, reason: Some("\u{1b}[2J\u{7}gone\nCLOCK synchronized".into()) };
        let page = Status { upload, ..sample() }.to_string();
        assert!(page.contains("UPLOAD    PAUSED: ?[2J?gone CLOCK synchronized\n"), "{page}");
    }

    #[test]
    fn spans_show_their_two_largest_units() {
        let spans = [59, 61, 3600, 86_400 * 2 + 3600].map(span);
        assert_eq!(spans, ["59 s", "1 min 1 s", "1 h 0 min", "2 d 1 h"]);
    }
}
