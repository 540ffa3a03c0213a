//! What is counted and measured, and its text for Prometheus.
//!
//! The rooms are handed a [`Metrics`] or, for one lane, a [`LaneMetrics`], and tell it what happened; that costs an atomic
//! addition or a short lock and never waits for a scrape's network. What is a state rather than an event comes from the
//! [`Report`] at each scrape. Memory is bounded: labels are lanes and words from fixed lists, never values from outside.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use hdrhistogram::Histogram as Percentiles;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry},
};

use super::{
    Report,
    status::{ScanToOpenMs, ScannerState},
};

/// What became of an admitted scan's opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// The relay opened, so long after the last byte of the scan.
    Opened {
        /// From the last byte to the open relay.
        scan_to_open: Duration,
    },
    /// It could not start in time and did not happen.
    Late,
    /// A clean stop came first.
    NotOpened,
}

/// What the passage sensor told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassageResult {
    /// Somebody passed his opening.
    Passed,
    /// Nobody passed an opening in time.
    None,
    /// Somebody passed an opening that was passed already.
    Tailgate,
    /// Somebody passed without an opening.
    Intrusion,
}

impl PassageResult {
    const ALL: [Self; 4] = [Self::Passed, Self::None, Self::Tailgate, Self::Intrusion];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::None => "none",
            Self::Tailgate => "tailgate",
            Self::Intrusion => "intrusion",
        }
    }
}

/// All that is counted and measured. Clones share their numbers.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

/// One lane's part of [`Metrics`]. Clones share their numbers.
#[derive(Clone)]
pub struct LaneMetrics {
    metrics: Metrics,
    lane: Arc<str>,
    opened: Counter,
    late: Counter,
    not_opened: Counter,
    /// In the order of [`PassageResult::ALL`].
    passages: [Counter; 4],
    frames: Counter,
    undecodable: Counter,
    dropped_bytes: Counter,
    reopens: Counter,
}

/// The text format of a scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// The format that every Prometheus and every look-alike reads.
    Prometheus,
    /// Its successor, for those that ask for it.
    OpenMetrics,
}

impl Exposition {
    /// The value of `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("faregate");
        let events = Events::register(&mut registry);
        let states = States::register(&mut registry);
        Self(Arc::new(Inner { events, states, scan_to_open: ScanToOpen::new(), registry: Mutex::new(registry) }))
    }

    /// The part for the lane of this name; its counters exist, at zero, from now on.
    #[must_use]
    pub fn lane(&self, name: &str) -> LaneMetrics {
        let (lane, events) = (label_value(name), &self.0.events);
        for verdict in ["admitted", "repeat"] {
            let _ = events.scans.get_or_create(&LaneVerdict { lane: lane.clone(), verdict });
        }
        let opening = |result| events.openings.get_or_create_owned(&LaneResult { lane: lane.clone(), result });
        let passage = |result| events.passages.get_or_create_owned(&LaneResult { lane: lane.clone(), result });
        let of_lane = |family: &Family<OfLane, Counter>| family.get_or_create_owned(&OfLane { lane: lane.clone() });
        LaneMetrics {
            opened: opening("opened"),
            late: opening("late"),
            not_opened: opening("not-opened"),
            passages: PassageResult::ALL.map(|result| passage(result.as_str())),
            frames: of_lane(&events.scanner_frames),
            undecodable: of_lane(&events.scanner_undecodable),
            dropped_bytes: of_lane(&events.scanner_dropped_bytes),
            reopens: of_lane(&events.scanner_reopens),
            metrics: self.clone(),
            lane,
        }
    }

    /// Sends since the start, by the class of what came of them: a word from a fixed list.
    pub fn upload_attempts(&self, class: &'static str, total: u64) {
        self.0.events.upload_attempts.get_or_create(&OfClass { class }).inner().store(total, Ordering::Relaxed);
    }

    /// A commit of the ledger: how many operations it joined, and how long it took, its sync included.
    pub fn ledger_commit(&self, operations: u64, took: Duration) {
        let events = &self.0.events;
        events.ledger_commits.inc();
        events.ledger_operations.inc_by(operations);
        events.ledger_commit_seconds.observe(took.as_secs_f64());
    }

    /// The ledger was closed and opened again after a fault.
    pub fn ledger_reopened(&self) {
        self.0.events.ledger_reopens.inc();
    }

    /// Callbacks are taken: their counters exist, at zero, from now on.
    pub fn callbacks_begin(&self, kinds: &[&'static str], causes: &[&'static str]) {
        let events = &self.0.events;
        for kind in kinds {
            let _ = events.callbacks.get_or_create(&OfKind { kind });
        }
        for result in ORDER_RESULTS {
            let _ = events.callback_orders.get_or_create(&OfResult { result });
        }
        for cause in causes {
            let _ = events.callbacks_refused.get_or_create(&OfCause { cause });
        }
    }

    /// A callback of this kind was taken, with so many orders that changed, that did not, and that are not in the ledger.
    pub fn callback(&self, kind: &'static str, orders: [u64; 3]) {
        let events = &self.0.events;
        events.callbacks.get_or_create(&OfKind { kind }).inc();
        for (result, count) in ORDER_RESULTS.into_iter().zip(orders) {
            events.callback_orders.get_or_create(&OfResult { result }).inc_by(count);
        }
    }

    /// A callback was refused for this cause: a word from a fixed list.
    pub fn callback_refused(&self, cause: &'static str) {
        self.0.events.callbacks_refused.get_or_create(&OfCause { cause }).inc();
    }

    /// The percentiles since the start.
    #[must_use]
    pub fn scan_to_open_ms(&self) -> ScanToOpenMs {
        self.0.scan_to_open.percentiles()
    }

    /// Everything as text, the states as the report has them.
    #[must_use]
    pub fn encode(&self, report: &Report, exposition: Exposition) -> String {
        // The lock keeps two scrapes from mixing their states; no room ever takes it.
        let registry = lock(&self.0.registry);
        self.0.states.set(report);
        self.0.events.log_records_dropped.inner().store(report.log_records_dropped, Ordering::Relaxed);
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = match exposition {
            Exposition::OpenMetrics => text::encode(&mut text, &registry),
            Exposition::Prometheus => text::encode_registry(&mut text, &registry),
        };
        drop(registry);
        if exposition == Exposition::Prometheus { with_counters_named_in_full(&text) } else { text }
    }
}

impl LaneMetrics {
    /// A scan was judged: `admitted`, `repeat` or the word of the refusal.
    pub fn scan(&self, verdict: &'static str) {
        self.metrics.0.events.scans.get_or_create(&LaneVerdict { lane: self.lane.clone(), verdict }).inc();
    }

    /// An admitted scan's opening came, or did not.
    pub fn opening(&self, opening: Opening) {
        match opening {
            Opening::Opened { scan_to_open } => {
                self.opened.inc();
                self.metrics.0.events.scan_to_open_seconds.observe(scan_to_open.as_secs_f64());
                self.metrics.0.scan_to_open.record(scan_to_open);
            }
            Opening::Late => {
                self.late.inc();
            }
            Opening::NotOpened => {
                self.not_opened.inc();
            }
        }
    }

    /// The passage sensor told something.
    pub fn passage(&self, result: PassageResult) {
        self.passages[result as usize].inc();
    }

    /// What the lane's scanner has counted since the start: frames, frames not in the encoding that the settings name, bytes that
    /// belonged to no frame, and openings of the device after the first.
    pub fn scanner(&self, frames: u64, undecodable: u64, dropped_bytes: u64, reopens: u64) {
        let set = |counter: &Counter, value| counter.inner().store(value, Ordering::Relaxed);
        set(&self.frames, frames);
        set(&self.undecodable, undecodable);
        set(&self.dropped_bytes, dropped_bytes);
        set(&self.reopens, reopens);
    }
}

/// Percentiles of scan-to-open since the start, in memory that does not grow (70 KB, of which what is used is resident).
struct ScanToOpen(Mutex<Option<Percentiles<u32>>>);

const SCAN_TO_OPEN_US_MAX: u64 = 60_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

impl ScanToOpen {
    fn new() -> Self {
        // The bounds are constants, and the tests show that they are valid: there is always a histogram.
        Self(Mutex::new(Percentiles::new_with_bounds(1, SCAN_TO_OPEN_US_MAX, SIGNIFICANT_DIGITS).ok()))
    }

    fn record(&self, time: Duration) {
        if let Some(histogram) = lock(&self.0).as_mut() {
            histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        }
    }

    fn percentiles(&self) -> ScanToOpenMs {
        let guard = lock(&self.0);
        let Some(histogram) = guard.as_ref().filter(|histogram| !histogram.is_empty()) else { return ScanToOpenMs::default() };
        let ms_at = |quantile| Some(Duration::from_micros(histogram.value_at_quantile(quantile)).as_secs_f64() * 1000.0);
        ScanToOpenMs { p50: ms_at(0.5), p99: ms_at(0.99), p999: ms_at(0.999), count: histogram.len() }
    }
}

struct Inner {
    events: Events,
    states: States,
    scan_to_open: ScanToOpen,
    registry: Mutex<Registry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaneVerdict {
    lane: Arc<str>,
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaneResult {
    lane: Arc<str>,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLane {
    lane: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfClass {
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResult {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCause {
    cause: &'static str,
}

/// What a callback can do to an order.
const ORDER_RESULTS: [&str; 3] = ["changed", "unchanged", "unknown"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    state: &'static str,
}

/// From 0.1 ms, below a good disk's commit, to 3 s, where an opening no longer happens.
const SECONDS_BUCKETS: [f64; 14] = [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0];

/// What the rooms tell.
struct Events {
    scans: Family<LaneVerdict, Counter>,
    openings: Family<LaneResult, Counter>,
    passages: Family<LaneResult, Counter>,
    scan_to_open_seconds: Histogram,
    scanner_frames: Family<OfLane, Counter>,
    scanner_undecodable: Family<OfLane, Counter>,
    scanner_dropped_bytes: Family<OfLane, Counter>,
    scanner_reopens: Family<OfLane, Counter>,
    upload_attempts: Family<OfClass, Counter>,
    callbacks: Family<OfKind, Counter>,
    callback_orders: Family<OfResult, Counter>,
    callbacks_refused: Family<OfCause, Counter>,
    ledger_commits: Counter,
    ledger_operations: Counter,
    ledger_commit_seconds: Histogram,
    ledger_reopens: Counter,
    log_records_dropped: Counter,
}

impl Events {
    fn register(to: &mut Registry) -> Self {
        let seconds = || Histogram::new(SECONDS_BUCKETS);
        Self {
            scans: add(to, "scans", "Scans judged, by lane and verdict", Family::default()),
            openings: add(to, "openings", "Openings of admitted scans, by lane and result", Family::default()),
            passages: add(to, "passages", "What the passage sensor told, by lane and result", Family::default()),
            scan_to_open_seconds: add(to, "scan_to_open_seconds", "From the last byte of a scan to the open relay", seconds()),
            scanner_frames: add(to, "scanner_frames", "Frames read, by lane", Family::default()),
            scanner_undecodable: add(to, "scanner_undecodable", "Frames not in the encoding of the settings", Family::default()),
            scanner_dropped_bytes: add(to, "scanner_dropped_bytes", "Bytes that belonged to no frame", Family::default()),
            scanner_reopens: add(to, "scanner_reopens", "Times that a scanner came back", Family::default()),
            upload_attempts: add(to, "upload_attempts", "Tries to send a deduction, by class of outcome", Family::default()),
            callbacks: add(to, "callbacks", "Callbacks of WeChat that were taken, by kind", Family::default()),
            callback_orders: add(to, "callback_orders", "Orders in those callbacks, by what came of them", Family::default()),
            callbacks_refused: add(to, "callbacks_refused", "Callbacks that were refused, by cause", Family::default()),
            ledger_commits: add(to, "ledger_commits", "Durable commits", Counter::default()),
            ledger_operations: add(to, "ledger_operations", "Operations in those commits", Counter::default()),
            ledger_commit_seconds: add(to, "ledger_commit_seconds", "Length of a commit with its sync", seconds()),
            ledger_reopens: add(to, "ledger_reopens", "Times that the ledger was opened again after a fault", Counter::default()),
            log_records_dropped: add(to, "log_records_dropped", "Log records that nothing took in time", Counter::default()),
        }
    }
}

/// What the report tells.
struct States {
    queue_rows: Family<OfState, Gauge>,
    pending_fen: Gauge,
    at_risk_fen: Gauge,
    oldest_pending_seconds: Gauge,
    ledger_up: Gauge,
    lanes: Gauge,
    lanes_ready: Gauge,
    scanner_up: Family<OfLane, Gauge>,
    clock_synchronized: Gauge,
    alarms: Gauge,
    uptime_seconds: Gauge,
}

impl States {
    fn register(to: &mut Registry) -> Self {
        Self {
            queue_rows: add(to, "queue_rows", "Deductions in the ledger, by state", Family::default()),
            pending_fen: add(to, "pending_fen", "Sum of the pending deductions", Gauge::default()),
            at_risk_fen: add(to, "at_risk_fen", "Sum of what is held, pending or parked: not yet accepted", Gauge::default()),
            oldest_pending_seconds: add(
                to,
                "oldest_pending_seconds",
                "Age of the oldest pending deduction, or 0",
                Gauge::default(),
            ),
            ledger_up: add(to, "ledger_up", "Whether the ledger can be written and answers", Gauge::default()),
            lanes: add(to, "lanes", "Lanes in the settings", Gauge::default()),
            lanes_ready: add(to, "lanes_ready", "Lanes that can open for a code", Gauge::default()),
            scanner_up: add(to, "scanner_up", "Whether the lane's scanner is there", Family::default()),
            clock_synchronized: add(to, "clock_synchronized", "Whether the clock is synchronized", Gauge::default()),
            alarms: add(to, "alarms", "Alarms that are raised", Gauge::default()),
            uptime_seconds: add(to, "uptime_seconds", "Since the start of the program", Gauge::default()),
        }
    }

    fn set(&self, report: &Report) {
        let status = &report.status;
        for (state, rows) in status.queue.rows() {
            self.queue_rows.get_or_create(&OfState { state }).set(clamped(rows));
        }
        for lane in &status.lanes {
            let gauge = self.scanner_up.get_or_create_owned(&OfLane { lane: label_value(&lane.name) });
            gauge.set(i64::from(lane.scanner == ScannerState::Up));
        }
        self.pending_fen.set(status.queue.pending_fen);
        self.at_risk_fen.set(status.queue.at_risk_fen);
        self.oldest_pending_seconds.set(clamped(status.queue.oldest_pending_s.unwrap_or(0)));
        self.ledger_up.set(i64::from(report.ledger_up));
        self.lanes.set(clamped(status.lanes.len() as u64));
        self.lanes_ready.set(clamped(report.lanes_ready as u64));
        self.clock_synchronized.set(i64::from(status.clock.synchronized));
        self.alarms.set(clamped(status.alarms.len() as u64));
        self.uptime_seconds.set(clamped(status.uptime_s));
    }
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn clamped(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Numbers are valid after a panic in another thread, too.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The encoder writes label values as they are.
fn label_value(name: &str) -> Arc<str> {
    name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").into()
}

/// `OpenMetrics` declares a counter without its `_total`, the older format with it; the samples have it in both.
fn with_counters_named_in_full(text: &str) -> String {
    let mut full = String::with_capacity(text.len());
    let mut help = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest;
            continue;
        }
        let Some(rest) = line.strip_prefix("# TYPE ") else {
            full.extend([line, "\n"]);
            continue;
        };
        let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
        let suffix = if kind == "counter" { "_total" } else { "" };
        let help = help.strip_prefix(name).unwrap_or_default();
        full.extend(["# HELP ", name, suffix, help, "\n# TYPE ", name, suffix, " ", kind, "\n"]);
    }
    full
}

#[cfg(test)]
mod tests {
    use super::{
        super::status::{ClockStatus, LaneStatus, QueueStatus, Status, TurnstileState, UploadState, UploadStatus},
        *,
    };

    fn report() -> Report {
        let lane = |name: &str, scanner| LaneStatus { name: name.into(), scanner, turnstile: TurnstileState::Ok };
        let status = Status {
            gate: "S14-G03".into(),
            version: "0.1.0".into(),
            uptime_s: 61,
            lanes: vec![lane("in", ScannerState::Up), lane("out", ScannerState::Absent)],
            queue: QueueStatus {
                pending: 12,
                paid: 3,
                oldest_pending_s: Some(185),
                pending_fen: 2405,
                at_risk_fen: 3005,
                ..QueueStatus::default()
            },
            upload: UploadStatus { state: UploadState::Idle, reason: None },
            clock: ClockStatus { synchronized: true },
            scan_to_open_ms: ScanToOpenMs::default(),
            alarms: vec!["an alarm".into()],
        };
        Report { status, ready: false, lanes_ready: 1, ledger_up: true, log_records_dropped: 9 }
    }

    fn told_everything() -> Metrics {
        let metrics = Metrics::new();
        let lane = metrics.lane("in");
        for verdict in ["admitted", "admitted", "repeat", "duplicate"] {
            lane.scan(verdict);
        }
        lane.opening(Opening::Opened { scan_to_open: Duration::from_micros(700) });
        lane.opening(Opening::Late);
        lane.opening(Opening::NotOpened);
        lane.passage(PassageResult::Tailgate);
        lane.scanner(3, 2, 17, 1);
        metrics.upload_attempts("transient", 1);
        metrics.ledger_commit(5, Duration::from_micros(300));
        metrics.ledger_reopened();
        metrics
    }

    #[test]
    fn everything_that_was_told_is_in_the_text() {
        let text = told_everything().encode(&report(), Exposition::Prometheus);
        for line in [
            r#"faregate_scans_total{lane="in",verdict="admitted"} 2"#,
            r#"faregate_scans_total{lane="in",verdict="repeat"} 1"#,
            r#"faregate_scans_total{lane="in",verdict="duplicate"} 1"#,
            r#"faregate_openings_total{lane="in",result="opened"} 1"#,
            r#"faregate_openings_total{lane="in",result="late"} 1"#,
            r#"faregate_openings_total{lane="in",result="not-opened"} 1"#,
            r#"faregate_passages_total{lane="in",result="tailgate"} 1"#,
            r#"faregate_scan_to_open_seconds_bucket{le="0.0005"} 0"#,
            r#"faregate_scan_to_open_seconds_bucket{le="0.001"} 1"#,
            "faregate_scan_to_open_seconds_count 1",
            r#"faregate_scanner_frames_total{lane="in"} 3"#,
            r#"faregate_scanner_undecodable_total{lane="in"} 2"#,
            r#"faregate_scanner_dropped_bytes_total{lane="in"} 17"#,
            r#"faregate_scanner_reopens_total{lane="in"} 1"#,
            r#"faregate_upload_attempts_total{class="transient"} 1"#,
            "faregate_ledger_commits_total 1",
            "faregate_ledger_operations_total 5",
            r#"faregate_ledger_commit_seconds_bucket{le="0.00025"} 0"#,
            "faregate_ledger_commit_seconds_sum 0.0003",
            "faregate_ledger_reopens_total 1",
            "faregate_log_records_dropped_total 9",
            r#"faregate_queue_rows{state="pending"} 12"#,
            r#"faregate_queue_rows{state="void"} 0"#,
            "faregate_pending_fen 2405",
            "faregate_at_risk_fen 3005",
            "faregate_oldest_pending_seconds 185",
            "faregate_ledger_up 1",
            "faregate_lanes 2",
            "faregate_lanes_ready 1",
            r#"faregate_scanner_up{lane="in"} 1"#,
            r#"faregate_scanner_up{lane="out"} 0"#,
            "faregate_clock_synchronized 1",
            "faregate_alarms 1",
            "faregate_uptime_seconds 61",
        ] {
            assert!(text.lines().any(|present| present == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn every_family_is_described_with_its_type_and_nothing_else_is() {
        let described = include_str!("../../docs/metrics.md");
        let metrics = told_everything();
        metrics.callbacks_begin(&["payment"], &["sign"]);
        let text = metrics.encode(&report(), Exposition::Prometheus);
        let families: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
        for (name, kind) in &families {
            assert!(described.contains(&format!("\n| `{name}` | {kind} |")), "{name} ({kind}) is not in docs/metrics.md");
        }
        assert_eq!(described.matches("\n| `faregate_").count(), families.len(), "docs/metrics.md describes what is not there");
    }

    #[test]
    fn the_two_formats_declare_counters_each_in_its_own_way() {
        let metrics = told_everything();
        let old = metrics.encode(&report(), Exposition::Prometheus);
        assert!(
            old.contains("# HELP faregate_ledger_commits_total Durable commits.\n# TYPE faregate_ledger_commits_total counter\n")
        );
        assert!(old.contains("# HELP faregate_ledger_up Whether") && old.contains("# TYPE faregate_ledger_up gauge\n"), "{old}");
        assert!(!old.contains("# EOF"));
        let new = metrics.encode(&report(), Exposition::OpenMetrics);
        assert!(
            new.contains("# TYPE faregate_ledger_commits counter\nfaregate_ledger_commits_total 1\n") && new.ends_with("# EOF\n")
        );
        assert_eq!(
            old.lines().filter(|line| !line.starts_with('#')).count(),
            new.lines().filter(|line| !line.starts_with('#')).count()
        );
    }

    #[test]
    fn a_lanes_counters_are_there_before_its_first_scan() {
        let metrics = Metrics::new();
        let _lane = metrics.lane("in");
        let text = metrics.encode(&report(), Exposition::Prometheus);
        for line in [r#"scans_total{lane="in",verdict="admitted"} 0"#, r#"openings_total{lane="in",result="late"} 0"#] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn a_lanes_name_cannot_break_the_text() {
        let metrics = Metrics::new();
        metrics.lane("a\"b\\c\nd").scanner(1, 0, 0, 0);
        let text = metrics.encode(&report(), Exposition::Prometheus);
        assert!(text.contains("faregate_scanner_frames_total{lane=\"a\\\"b\\\\c\\nd\"} 1\n"), "{text}");
    }

    #[test]
    fn percentiles_are_null_before_the_first_opening_and_in_milliseconds_after() {
        let metrics = Metrics::new();
        assert_eq!(metrics.scan_to_open_ms(), ScanToOpenMs::default());
        let lane = metrics.lane("in");
        for ms in 1..=1000 {
            lane.opening(Opening::Opened { scan_to_open: Duration::from_millis(ms) });
        }
        let times = metrics.scan_to_open_ms();
        assert_eq!(times.count, 1000);
        for (percentile, expected) in [(times.p50, 500.0), (times.p99, 990.0), (times.p999, 999.0)] {
            let ms = percentile.unwrap();
            assert!((ms - expected).abs() <= expected / 1000.0, "{ms} is not about {expected}");
        }
    }

    #[test]
    fn measuring_takes_bounded_memory_and_any_time() {
        let measured = ScanToOpen::new();
        measured.record(Duration::ZERO);
        measured.record(Duration::MAX);
        let guard = lock(&measured.0);
        let histogram = guard.as_ref().unwrap();
        assert_eq!(histogram.len(), 2);
        assert!(histogram.distinct_values() * size_of::<u32>() <= 70 * 1024, "{}", histogram.distinct_values());
    }
}
