//! The sandbox as an HTTP server: sockets and clocks around the pure [`WeChat`], and the paths that switch it.
//!
//! | path | does |
//! |---|---|
//! | `GET /sandbox/book` | what was charged |
//! | `GET /sandbox/faults`, `POST /sandbox/faults` | the faults that are set; sets them, all at once |
//! | `GET /sandbox/callbacks`, `POST /sandbox/callbacks` | what the gate is told of payments; sets it, where somebody is called back |
//! | `POST /sandbox/tokens/invalidate` | the tokens that were handed out are no longer good |
//!
//! These never have faults. It promises nothing about safety: whoever reaches it may switch it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::State,
    http::{Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, time::sleep};

use super::{
    callbacks::{CallbackRules, Errand},
    courier::{self, Callee},
    faults::Faults,
    wechat::{Answer, Moment, Options, Request, WeChat},
};
use crate::{
    clock::Stamp,
    monitor::{self, HttpLimits},
};

/// Generous, so that a silence of the sandbox's is a silence, and bounded, so that none lasts for ever.
const LIMITS: HttpLimits = HttpLimits {
    header_read_timeout: Duration::from_secs(60),
    request_timeout: Duration::from_secs(600),
    connection_age_max: Duration::from_secs(3600),
    connections_max: 512,
    body_bytes_max: 64 * 1024,
};

/// A running sandbox. Clones are the same one.
#[derive(Clone)]
pub struct Sandbox(Arc<Inner>);

struct Inner {
    wechat: Mutex<WeChat>,
    callee: Option<Callee>,
    started: Instant,
}

impl Sandbox {
    /// That does not serve yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self::with(WeChat::new(options), None)
    }

    /// As [`Self::new`], one that calls back.
    ///
    /// # Errors
    /// The rules make no sense.
    pub fn calling_back(options: Options, callee: Callee, rules: CallbackRules) -> Result<Self, String> {
        let mut wechat = WeChat::new(options);
        wechat.set_callbacks(rules)?;
        Ok(Self::with(wechat, Some(callee)))
    }

    fn with(wechat: WeChat, callee: Option<Callee>) -> Self {
        Self(Arc::new(Inner { wechat: Mutex::new(wechat), callee, started: Instant::now() }))
    }

    /// Serves until `stop` is true or its sender is gone.
    pub async fn serve(&self, listener: TcpListener, stop: watch::Receiver<bool>) {
        let carrying = async {
            if let Some(callee) = &self.0.callee {
                courier::run(self.clone(), callee.clone(), stop.clone()).await;
            }
        };
        tokio::join!(monitor::serve(listener, self.router(), LIMITS, stop.clone()), carrying);
    }

    /// The pure part, for whoever is in the same process. Hold it shortly.
    pub fn wechat(&self) -> MutexGuard<'_, WeChat> {
        // A handler that panicked has left a request half counted at worst.
        self.0.wechat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the faults.
    ///
    /// # Errors
    /// They make no sense; those that were set stay.
    pub fn set_faults(&self, faults: Faults) -> Result<(), String> {
        let now = self.now();
        self.wechat().set_faults(faults, now)
    }

    pub(super) fn next_errand(&self) -> Option<Errand> {
        let now = self.now();
        self.wechat().next_errand(now)
    }

    pub(super) fn errand_came_back(&self, errand: Errand, is_received: bool) {
        let now = self.now();
        self.wechat().errand_came_back(errand, is_received, now);
    }

    fn now(&self) -> Moment {
        let since_start_ms = u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Moment { since_start_ms, utc_ms: Stamp::now().utc_ms }
    }

    fn router(&self) -> Router {
        Router::new()
            .route("/sandbox/book", get(book))
            .route("/sandbox/faults", get(faults).post(set_faults))
            .route("/sandbox/callbacks", get(callbacks).post(set_callbacks))
            .route("/sandbox/tokens/invalidate", post(invalidate))
            .fallback(interface)
            .with_state(self.clone())
    }
}

async fn book(State(sandbox): State<Sandbox>) -> Response {
    json_of(&sandbox.wechat().book())
}

async fn faults(State(sandbox): State<Sandbox>) -> Response {
    json_of(&json!(sandbox.wechat().faults()))
}

async fn set_faults(State(sandbox): State<Sandbox>, body: Bytes) -> Response {
    let faults = serde_json::from_slice(&body).map_err(|error| error.to_string());
    match faults.and_then(|faults| sandbox.set_faults(faults)) {
        Ok(()) => json_of(&json!(sandbox.wechat().faults())),
        Err(problem) => (StatusCode::BAD_REQUEST, format!("{problem}\n")).into_response(),
    }
}

async fn callbacks(State(sandbox): State<Sandbox>) -> Response {
    let wechat = sandbox.wechat();
    wechat.callbacks().map_or_else(no_callee, |(rules, counts)| json_of(&json!({ "rules": rules, "counts": counts })))
}

async fn set_callbacks(State(sandbox): State<Sandbox>, body: Bytes) -> Response {
    if sandbox.0.callee.is_none() {
        return no_callee();
    }
    let rules = serde_json::from_slice(&body).map_err(|error| error.to_string());
    match rules.and_then(|rules| sandbox.wechat().set_callbacks(rules)) {
        Ok(()) => callbacks(State(sandbox)).await,
        Err(problem) => (StatusCode::BAD_REQUEST, format!("{problem}\n")).into_response(),
    }
}

fn no_callee() -> Response {
    (StatusCode::NOT_FOUND, "nobody is called back; start the sandbox with --callback-url\n").into_response()
}

async fn invalidate(State(sandbox): State<Sandbox>) -> StatusCode {
    sandbox.wechat().invalidate_tokens();
    StatusCode::NO_CONTENT
}

async fn interface(State(sandbox): State<Sandbox>, method: Method, uri: Uri, body: Bytes) -> Response {
    let request = Request { method: method.as_str(), path: uri.path(), query: uri.query().unwrap_or_default(), body: &body };
    let now = sandbox.now();
    let reply = sandbox.wechat().answer(&request, now);
    sleep(reply.after).await;
    match reply.answer {
        Answer::Json(value) => json_of(&value),
        Answer::Page(status, page) => page_of(status, page),
        Answer::Cut => Body::new(Cut).into_response(),
        Answer::Silence => std::future::pending().await,
    }
}

fn json_of(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn page_of(status: u16, page: &'static str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

/// A body that fails before its first byte: the server closes the connection without having sent even the head.
struct Cut;

impl HttpBody for Cut {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionAborted.into())))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        time::timeout,
    };

    use super::*;
    use crate::sandbox::faults::{Fault, On, Rule};

    const DEADLINE: Duration = Duration::from_secs(20);

    async fn started() -> (Sandbox, std::net::SocketAddr, watch::Sender<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, (stop, stopped)) = (listener.local_addr().unwrap(), watch::channel(false));
        let sandbox = Sandbox::new(Options::default());
        let serving = sandbox.clone();
        tokio::spawn(async move { serving.serve(listener, stopped).await });
        (sandbox, address, stop)
    }

    /// Everything that comes until the server closes.
    async fn exchange(address: std::net::SocketAddr, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all((head + body).as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let _ = timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("the connection is closed in time");
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn faults_are_switched_over_http_and_nonsense_changes_nothing() {
        let (sandbox, address, _stop) = started().await;
        let said = exchange(address, "POST", "/sandbox/faults", r#"{"rules":[{"fault":"html","on":"token"}]}"#).await;
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
        let said = exchange(address, "POST", "/sandbox/faults", r#"{"rules":[{"fault":"http"}]}"#).await;
        assert!(said.starts_with("HTTP/1.1 400") && said.contains("rules[0]: fault http needs status"), "{said}");
        let said = exchange(address, "POST", "/cgi-bin/stable_token", "{}").await;
        assert!(said.starts_with("HTTP/1.1 200") && said.contains("<!DOCTYPE"), "{said}");
        let said = exchange(address, "GET", "/sandbox/faults", "").await;
        assert!(said.contains(r#""used":[1]"#) && said.contains(r#""fault":"html""#), "{said}");
        assert_eq!(sandbox.wechat().faults().used, [1]);
    }

    #[tokio::test]
    async fn answers_are_as_slow_as_they_are_told_to_be() {
        let (_sandbox, address, _stop) = started().await;
        exchange(address, "POST", "/sandbox/faults", r#"{"latency_ms":{"p50":150,"p99":150}}"#).await;
        let began = Instant::now();
        exchange(address, "POST", "/cgi-bin/stable_token", "{}").await;
        assert!(began.elapsed() >= Duration::from_millis(150));
    }

    #[tokio::test]
    async fn a_cut_connection_carries_not_a_single_byte_and_the_book_can_still_be_read() {
        let (sandbox, address, _stop) = started().await;
        let rule = Rule { on: On::All, ..Rule::always(Fault::Refuse) };
        sandbox.set_faults(Faults { latency_ms: None, rules: vec![rule] }).unwrap();
        assert_eq!(exchange(address, "POST", "/deduct", "{}").await, "");
        assert_eq!(exchange(address, "POST", "/cgi-bin/stable_token", "{}").await, "");
        let said = exchange(address, "GET", "/sandbox/book", "").await;
        assert!(said.contains(r#""charged":{"count":0,"fen":0}"#), "{said}");
    }
}
