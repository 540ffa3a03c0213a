//! How the gate is doing, for people and programs: status, metrics, health.
//!
//! The monitor is handed plain values by its [`Source`] and asks the ledger, through it, for the queue's numbers. It promises an
//! answer within [`QUEUE_WAIT`] even when the ledger gives none: then with the last known numbers, not ready, and an alarm. It
//! knows nothing of how to fix anything.

mod http;
mod metrics;
mod status;

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{
        HeaderMap, StatusCode,
        header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE},
    },
    response::IntoResponse,
    routing::get,
};
use serde::Serialize;
use tokio::{sync, time::timeout};

pub use http::{HEAD_BYTES_MAX, HttpLimits, STOP_GRACE, TurnAway, Turned, serve, serve_or_turn_away};
pub use metrics::{Exposition, LaneMetrics, Metrics, Opening, PassageResult};
pub use status::{
    ClockStatus, LaneStatus, QueueStatus, ScanToOpenMs, ScannerState, Status, TurnstileState, UploadState, UploadStatus,
};

/// How long a report waits for the ledger.
pub const QUEUE_WAIT: Duration = Duration::from_secs(2);

/// The limits of the monitor's own listener. A request takes [`QUEUE_WAIT`] at most, so that its time-out is never the ledger's fault.
pub const MONITOR_LIMITS: HttpLimits = HttpLimits {
    header_read_timeout: Duration::from_secs(5),
    request_timeout: Duration::from_secs(5),
    connection_age_max: Duration::from_secs(60),
    connections_max: 64,
    body_bytes_max: 1024,
};

const NO_ANSWER: &str = "the ledger does not answer: the numbers of the queue are the last known; look at the disk and the log";

/// One lane, as the program knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneFacts {
    /// What is shown.
    pub status: LaneStatus,
    /// Whether the lane can open for a code.
    pub ready: bool,
}

/// What the program knows of itself without asking the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// In the order of the settings.
    pub lanes: Vec<LaneFacts>,
    /// What the upload is doing.
    pub upload: UploadStatus,
    /// This machine's clock.
    pub clock: ClockStatus,
    /// Whether the ledger can be written.
    pub ledger_up: bool,
    /// Since the start.
    pub log_records_dropped: u64,
    /// One sentence each: what is wrong, and what to do.
    pub alarms: Vec<String>,
}

/// The ledger's answer to come; `None` when it cannot give one.
pub type QueueAnswer = Pin<Box<dyn Future<Output = Option<QueueStatus>> + Send>>;

/// Where the monitor learns what it tells. The daemon implements it.
pub trait Source: Send + Sync + 'static {
    /// At once; must not wait for anything but short locks.
    fn facts(&self) -> Facts;

    /// Asks the ledger. May take for ever: the monitor stops waiting and drops it. Asked once at a time.
    fn queue(&self) -> QueueAnswer;
}

/// The gate's state at one moment, with what the status does not show.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// What is shown.
    pub status: Status,
    /// Whether every lane can open for a code, and the ledger answers.
    pub ready: bool,
    /// Lanes that can open for a code.
    pub lanes_ready: usize,
    /// Whether the ledger can be written and answers.
    pub ledger_up: bool,
    /// Since the start.
    pub log_records_dropped: u64,
}

/// Status, metrics and health of one gate. Clones are the same monitor.
#[derive(Clone)]
pub struct Monitor(Arc<Inner>);

struct Inner {
    gate: String,
    started: Instant,
    metrics: Metrics,
    source: Box<dyn Source>,
    queue_wait: Duration,
    /// Held while the ledger is asked, so that a stuck one is not asked again and again.
    asking: sync::Mutex<()>,
    queue_last_known: Mutex<QueueStatus>,
}

impl Monitor {
    /// Of the gate with this ID; its uptime counts from now.
    #[must_use]
    pub fn new(gate: String, metrics: Metrics, source: impl Source) -> Self {
        Self::with_queue_wait(gate, metrics, source, QUEUE_WAIT)
    }

    fn with_queue_wait(gate: String, metrics: Metrics, source: impl Source, queue_wait: Duration) -> Self {
        Self(Arc::new(Inner {
            gate,
            started: Instant::now(),
            metrics,
            source: Box::new(source),
            queue_wait,
            asking: sync::Mutex::default(),
            queue_last_known: Mutex::default(),
        }))
    }

    /// The state now, within [`QUEUE_WAIT`]. Needs a tokio runtime with a timer.
    pub async fn report(&self) -> Report {
        let answer = timeout(self.0.queue_wait, self.0.ask()).await.ok().flatten();
        self.0.report(answer)
    }

    /// `/metrics` and `/health`, to be [served](serve).
    pub fn router(&self) -> Router {
        Router::new().route("/metrics", get(metrics_page)).route("/health", get(health_page)).with_state(self.clone())
    }
}

impl Inner {
    async fn ask(&self) -> Option<QueueStatus> {
        let _asking = self.asking.lock().await;
        self.source.queue().await
    }

    fn report(&self, answer: Option<QueueStatus>) -> Report {
        let mut facts = self.source.facts();
        if answer.is_none() {
            facts.alarms.push(NO_ANSWER.to_owned());
        }
        let lanes_ready = facts.lanes.iter().filter(|lane| lane.ready).count();
        let ledger_up = facts.ledger_up && answer.is_some();
        Report {
            ready: ledger_up && lanes_ready == facts.lanes.len(),
            lanes_ready,
            ledger_up,
            log_records_dropped: facts.log_records_dropped,
            status: self.status(facts, self.remembered(answer)),
        }
    }

    fn remembered(&self, answer: Option<QueueStatus>) -> QueueStatus {
        let mut last_known = self.queue_last_known.lock().unwrap_or_else(PoisonError::into_inner);
        *last_known = answer.unwrap_or(*last_known);
        *last_known
    }

    fn status(&self, facts: Facts, queue: QueueStatus) -> Status {
        Status {
            gate: self.gate.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            lanes: facts.lanes.into_iter().map(|lane| lane.status).collect(),
            queue,
            upload: facts.upload,
            clock: facts.clock,
            scan_to_open_ms: self.metrics.scan_to_open_ms(),
            alarms: facts.alarms,
        }
    }
}

async fn metrics_page(State(monitor): State<Monitor>, headers: HeaderMap) -> impl IntoResponse {
    let exposition = wanted_exposition(&headers);
    let text = monitor.0.metrics.encode(&monitor.report().await, exposition);
    ([(CONTENT_TYPE, exposition.content_type())], text)
}

/// The older format unless the client names the newer: everything reads it.
fn wanted_exposition(headers: &HeaderMap) -> Exposition {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let is_new = accepted.into_iter().any(|value| value.contains("application/openmetrics-text"));
    if is_new { Exposition::OpenMetrics } else { Exposition::Prometheus }
}

/// The body of `/health`.
#[derive(Serialize)]
struct Health {
    ready: bool,
    alarms: Vec<String>,
}

async fn health_page(State(monitor): State<Monitor>) -> impl IntoResponse {
    let report = monitor.report().await;
    let code = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let health = Health { ready: report.ready, alarms: report.status.alarms };
    // A bool and strings always have a JSON form.
    let body = serde_json::to_string(&health).unwrap_or_default();
    (code, [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], body)
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        sync::watch,
    };

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    /// What the ledger does when it is asked, one after the other; then it never answers.
    struct Gate {
        facts: Facts,
        answers: Mutex<Vec<Option<QueueStatus>>>,
        /// Questions that are open; each answer to come holds one.
        open: Arc<()>,
        open_max: Arc<AtomicUsize>,
    }

    impl Source for Gate {
        fn facts(&self) -> Facts {
            self.facts.clone()
        }

        fn queue(&self) -> QueueAnswer {
            let open = Arc::clone(&self.open);
            self.open_max.fetch_max(Arc::strong_count(&open) - 1, Ordering::SeqCst);
            let answer = self.answers.lock().unwrap().pop();
            Box::pin(async move {
                let answer = match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                };
                drop(open);
                answer
            })
        }
    }

    fn queue(pending: u64) -> QueueStatus {
        QueueStatus { pending, pending_fen: 200, oldest_pending_s: Some(3), ..QueueStatus::default() }
    }

    fn lane(name: &str, ready: bool) -> LaneFacts {
        let scanner = if ready { ScannerState::Up } else { ScannerState::Absent };
        LaneFacts { status: LaneStatus { name: name.into(), scanner, turnstile: TurnstileState::Ok }, ready }
    }

    fn gate(lanes: Vec<LaneFacts>, answers: Vec<Option<QueueStatus>>) -> Gate {
        let facts = Facts {
            lanes,
            upload: UploadStatus { state: UploadState::Idle, reason: None },
            clock: ClockStatus { synchronized: true },
            ledger_up: true,
            log_records_dropped: 0,
            alarms: Vec::new(),
        };
        Gate { facts, answers: Mutex::new(answers), open: Arc::default(), open_max: Arc::default() }
    }

    fn monitor(gate: Gate) -> Monitor {
        let metrics = Metrics::new();
        for lane in &gate.facts.lanes {
            let _ = metrics.lane(&lane.status.name);
        }
        // An answer that is there is taken at once, however short the wait.
        Monitor::with_queue_wait("S14-G03".into(), metrics, gate, Duration::from_millis(100))
    }

    /// Serves on a real socket for as long as the sender lives.
    async fn served(gate: Gate) -> (SocketAddr, watch::Sender<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(serve(listener, monitor(gate).router(), MONITOR_LIMITS, stopped));
        (address, stop)
    }

    /// Head in lower case, and body.
    async fn asked(address: SocketAddr, method: &str, path: &str, header: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(DEADLINE, stream.read_to_string(&mut answer)).await.expect("no answer").unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), body.to_owned())
    }

    #[tokio::test]
    async fn health_is_200_when_every_lane_can_open_and_503_else() {
        let (address, _stop) = served(gate(vec![lane("in", true), lane("out", true)], vec![Some(queue(1))])).await;
        let (head, body) = asked(address, "GET", "/health", "").await;
        assert!(head.starts_with("http/1.1 200 ") && head.contains("content-type: application/json"), "{head}");
        assert_eq!(body, r#"{"ready":true,"alarms":[]}"#);

        let mut half = gate(vec![lane("in", true), lane("out", false)], vec![Some(queue(1))]);
        half.facts.alarms.push("lane out: the scanner is absent".into());
        let (address, _stop) = served(half).await;
        let (head, body) = asked(address, "GET", "/health", "").await;
        assert!(head.starts_with("http/1.1 503 "), "{head}");
        assert_eq!(body, r#"{"ready":false,"alarms":["lane out: the scanner is absent"]}"#);
    }

    #[tokio::test]
    async fn a_ledger_that_cannot_be_written_is_not_ready() {
        let mut broken = gate(vec![lane("in", true)], vec![Some(queue(1))]);
        broken.facts.ledger_up = false;
        let report = monitor(broken).report().await;
        assert!(!report.ready && !report.ledger_up);
        assert!(report.status.alarms.is_empty(), "its alarm is raised by those who know why");
    }

    #[tokio::test]
    async fn metrics_come_in_the_format_that_is_asked_for() {
        let (address, _stop) = served(gate(vec![lane("in", true)], vec![Some(queue(7)), Some(queue(7))])).await;
        let (head, body) = asked(address, "GET", "/metrics", "").await;
        assert!(head.starts_with("http/1.1 200 ") && head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert!(body.contains("\nfaregate_queue_rows{state=\"pending\"} 7\n"), "{body}");
        assert!(body.contains("\nfaregate_lanes_ready 1\n") && body.contains("\nfaregate_ledger_up 1\n"), "{body}");
        let (head, body) = asked(address, "GET", "/metrics", "accept: application/openmetrics-text;version=1.0.0,*/*\r\n").await;
        assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
        assert!(body.ends_with("# EOF\n"), "{body}");
    }

    #[tokio::test]
    async fn other_paths_are_404_and_other_methods_405() {
        let (address, _stop) = served(gate(vec![lane("in", true)], Vec::new())).await;
        for path in ["/", "/health/", "/metrics2"] {
            let (head, _) = asked(address, "GET", path, "").await;
            assert!(head.starts_with("http/1.1 404 "), "{path}: {head}");
        }
        for path in ["/health", "/metrics"] {
            let (head, _) = asked(address, "POST", path, "content-length: 0\r\n").await;
            assert!(head.starts_with("http/1.1 405 ") && head.contains("allow: get"), "{path}: {head}");
        }
    }

    #[tokio::test]
    async fn a_ledger_that_does_not_answer_costs_readiness_not_the_answer() {
        let monitor = monitor(gate(vec![lane("in", true)], vec![Some(queue(7))]));
        assert!(monitor.report().await.ready);
        let report = timeout(DEADLINE, monitor.report()).await.expect("the monitor hangs with the ledger");
        assert!(!report.ready && !report.ledger_up);
        assert_eq!(report.lanes_ready, 1);
        assert_eq!(report.status.queue, queue(7), "the last known numbers");
        assert_eq!(report.status.alarms, [NO_ANSWER]);
    }

    #[tokio::test]
    async fn a_stuck_ledger_is_asked_once_at_a_time() {
        let gate = gate(vec![lane("in", true)], Vec::new());
        let open_max = Arc::clone(&gate.open_max);
        let monitor = monitor(gate);
        let reports = tokio::join!(monitor.report(), monitor.report(), monitor.report());
        assert!(!reports.0.ready && !reports.1.ready && !reports.2.ready);
        assert_eq!(open_max.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_ledger_that_refuses_is_not_waited_for() {
        let report = monitor(gate(vec![lane("in", true)], vec![None])).report().await;
        assert!(!report.ready);
        assert_eq!(report.status.alarms, [NO_ANSWER]);
    }
}
