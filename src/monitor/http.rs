//! A small HTTP/1.1 server for the network's current-thread runtime: the monitor's, and that of every other room that listens.
//!
//! Promises: no client can hold it up for others for long. The number of connections is bounded, and so is everything that one
//! of them can do: the time for a request's head (and the silence before it), the time for the whole request, the size of head
//! and body, and the connection's age, which ends even clients that never read their answers. It ends within about a second
//! when told to stop. It knows nothing of what is served.
//!
//! At the limit of connections, further ones are not accepted: they wait in the kernel's backlog, which costs neither
//! descriptors nor CPU here, and are served when one ends, which the time-outs make soon. Closing them at once would turn a
//! burst of honest clients into errors. A room whose clients try again by themselves may have them [turned away](TurnAway) instead,
//! and hears of everybody whose request its router never sees.

use std::{future::poll_fn, io, pin::pin, sync::Arc, time::Duration};

use axum::{
    RequestExt, Router,
    body::{Body, HttpBody},
    extract::{DefaultBodyLimit, Request},
    http::{StatusCode, header::CONNECTION},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

/// What clients may take.
#[derive(Debug, Clone, Copy)]
pub struct HttpLimits {
    /// From the connection, or from the answer before, to the end of a request's head. Also ends idle connections.
    pub header_read_timeout: Duration,
    /// From the end of the head to the answer, reading the body included; then the answer is 408.
    pub request_timeout: Duration,
    /// After so long a connection is closed when its request is answered, or [`STOP_GRACE`] later: ends clients that never read
    /// their answers.
    pub connection_age_max: Duration,
    /// Connections at once, at least 1; more wait unaccepted.
    pub connections_max: usize,
    /// Of a request's body, as handlers take it through axum's extractors; a longer one is answered with 413.
    pub body_bytes_max: usize,
}

/// Whose request a router never sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// All places were taken.
    TooMany,
    /// It took longer than it may.
    TooSlow,
    /// What came was no HTTP, or was cut: nothing can be answered.
    Unreadable,
}

/// What such a client is answered, where it can be answered.
pub type TurnAway = Arc<dyn Fn(Turned) -> Response + Send + Sync>;

/// Head of a request at most, and what is buffered per connection; a longer one is answered with 431.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a request that is under way may go on after a stop, or beyond the connection's age.
pub const STOP_GRACE: Duration = Duration::from_secs(1);

/// Connections beyond the limit that are answered at the same time; further ones are closed at once.
const TURNED_AWAY_MAX: usize = 64;
/// What a client may take to hear that there is no room.
const TURNED_AWAY_LIMITS: HttpLimits = HttpLimits {
    header_read_timeout: Duration::from_secs(1),
    request_timeout: Duration::from_secs(1),
    connection_age_max: Duration::from_secs(2),
    connections_max: TURNED_AWAY_MAX,
    body_bytes_max: 1024 * 1024,
};

const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(20);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Serves the router until `stop` is true or its sender is gone. Errors of single connections end these connections only; when
/// none can be accepted (no descriptors left), it logs that once and tries again with a growing pause.
pub async fn serve(listener: TcpListener, router: Router, limits: HttpLimits, mut stop: watch::Receiver<bool>) {
    let room = Room { router: limited(router, &limits, None), limits, turn_away: None };
    let mut acceptor = Acceptor { listener, failures: 0 };
    let mut connections = JoinSet::new();
    let connections_max = limits.connections_max.max(1);
    loop {
        select! {
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next() => {}
            stream = acceptor.next(), if connections.len() < connections_max => {
                connections.spawn(room.clone().converse(stream, stop.clone()));
            }
        }
    }
    drop(acceptor);
    while connections.join_next().await.is_some() {}
}

/// As [`serve`], but whoever the router does not see is turned away, and each connection carries one request, so that its place is
/// free again when that is answered.
pub async fn serve_or_turn_away(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    turn_away: TurnAway,
    mut stop: watch::Receiver<bool>,
) {
    let room = Room { router: limited(router, &limits, Some(&turn_away)), limits, turn_away: Some(turn_away.clone()) };
    let door = limited(closed_door(&turn_away), &TURNED_AWAY_LIMITS, Some(&turn_away));
    let door = Room { router: door, limits: TURNED_AWAY_LIMITS, turn_away: Some(turn_away.clone()) };
    let mut acceptor = Acceptor { listener, failures: 0 };
    let (mut inside, mut outside) = (JoinSet::new(), JoinSet::new());
    loop {
        select! {
            () = stopped(&mut stop) => break,
            Some(_) = inside.join_next() => {}
            Some(_) = outside.join_next() => {}
            stream = acceptor.next() => {
                if inside.len() < limits.connections_max.max(1) {
                    inside.spawn(room.clone().converse(stream, stop.clone()));
                } else if outside.len() < TURNED_AWAY_MAX {
                    outside.spawn(door.clone().converse(stream, stop.clone()));
                } else {
                    drop(turn_away(Turned::TooMany));
                }
            }
        }
    }
    drop(acceptor);
    while inside.join_next().await.is_some() || outside.join_next().await.is_some() {}
}

/// Answers every request in the same way. The body is read all the same: closing with it unread would be a reset, which may
/// overtake the answer.
fn closed_door(turn_away: &TurnAway) -> Router {
    let turn_away = turn_away.clone();
    Router::new().fallback(move |request: Request| async move {
        throw_away(request.into_body()).await;
        turn_away(Turned::TooMany)
    })
}

/// Takes a body to its end, or to its limit, and keeps none of it: so many who are turned away cost no memory.
async fn throw_away(body: Body) {
    let mut body = pin!(body);
    while let Some(Ok(_)) = poll_fn(|context| body.as_mut().poll_frame(context)).await {}
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that whoever could say it is gone.
    let _ = stop.wait_for(|&stop| stop).await;
}

/// What serves connections, and how.
#[derive(Clone)]
struct Room {
    router: Router,
    limits: HttpLimits,
    turn_away: Option<TurnAway>,
}

impl Room {
    /// One connection, to its end.
    async fn converse(self, stream: TcpStream, mut stop: watch::Receiver<bool>) {
        // Answers are small and written at once; without it they are slower, not wrong.
        let _ = stream.set_nodelay(true);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_read_timeout)
            .max_buf_size(HEAD_BYTES_MAX)
            .keep_alive(self.turn_away.is_none())
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(self.router));
        let mut connection = pin!(connection);
        select! {
            // What a client does wrong, or that it went away, concerns nobody else.
            ended = connection.as_mut() => return note(ended, self.turn_away.as_ref()),
            () = stopped(&mut stop) => {}
            () = sleep(self.limits.connection_age_max) => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = timeout(STOP_GRACE, connection).await;
    }
}

/// Tells of a request that came to nothing before the router could see it.
fn note(ended: hyper::Result<()>, turn_away: Option<&TurnAway>) {
    if let (Err(error), Some(turn_away)) = (ended, turn_away) {
        drop(turn_away(if error.is_timeout() { Turned::TooSlow } else { Turned::Unreadable }));
    }
}

fn limited(router: Router, limits: &HttpLimits, turn_away: Option<&TurnAway>) -> Router {
    let (request_timeout, turn_away) = (limits.request_timeout, turn_away.cloned());
    let bounded = from_fn(move |request: Request, next: Next| {
        let turn_away = turn_away.clone();
        async move {
            let answer = timeout(request_timeout, next.run(request.with_limited_body())).await;
            answer.unwrap_or_else(|_| too_slow(turn_away.as_ref()))
        }
    });
    router.layer(bounded).layer(DefaultBodyLimit::max(limits.body_bytes_max))
}

fn too_slow(turn_away: Option<&TurnAway>) -> Response {
    let answer = turn_away.map_or_else(|| StatusCode::REQUEST_TIMEOUT.into_response(), |turn_away| turn_away(Turned::TooSlow));
    ([(CONNECTION, "close")], answer).into_response()
}

struct Acceptor {
    listener: TcpListener,
    failures: u32,
}

impl Acceptor {
    /// The next connection, however long it takes.
    async fn next(&mut self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    self.failures = 0;
                    return stream;
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => self.pause_after(&error).await,
            }
        }
    }

    async fn pause_after(&mut self, error: &io::Error) {
        if self.failures == 0 {
            let place = self.listener.local_addr().map_or_else(|_| "a listener".to_owned(), |address| address.to_string());
            log::warn!("{place} cannot accept connections: {error}; trying again until it can");
        }
        self.failures = self.failures.saturating_add(1);
        sleep(accept_pause(self.failures)).await;
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// After the first failure, the second, and so on.
fn accept_pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (ACCEPT_PAUSE_MIN * (1 << doublings)).min(ACCEPT_PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, future::Future, net::SocketAddr, process::Command, sync::Mutex};

    use axum::routing::{get, post};
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::Notify,
        task::JoinHandle,
    };

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);
    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(100);
    const PATIENT: HttpLimits = HttpLimits {
        header_read_timeout: LONG,
        request_timeout: LONG,
        connection_age_max: LONG,
        connections_max: 64,
        body_bytes_max: 1000,
    };
    const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    struct Server {
        address: SocketAddr,
        stop: watch::Sender<bool>,
        task: JoinHandle<()>,
    }

    async fn started(limits: HttpLimits) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/large", get(|| async { vec![b'x'; 32 << 20] }))
            .route("/never", get(std::future::pending::<()>))
            .route("/body", post(|body: String| async move { body.len().to_string() }));
        let (stop, stopped) = watch::channel(false);
        Server { address, stop, task: tokio::spawn(serve(listener, router, limits, stopped)) }
    }

    impl Server {
        async fn connected(&self) -> TcpStream {
            in_time(TcpStream::connect(self.address)).await.unwrap()
        }

        async fn sent(&self, text: &str) -> TcpStream {
            let mut stream = self.connected().await;
            stream.write_all(text.as_bytes()).await.unwrap();
            stream
        }
    }

    async fn in_time<F: Future>(future: F) -> F::Output {
        timeout(DEADLINE, future).await.expect("not within the deadline")
    }

    /// One answer with the body `here`.
    async fn answered(stream: &mut TcpStream) {
        let mut text = String::new();
        while !text.ends_with("here") {
            let mut bytes = [0; 1024];
            let length = in_time(stream.read(&mut bytes)).await.unwrap();
            assert!(length > 0, "closed after {text:?}");
            text.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
        }
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    }

    /// Everything until the server closes; a reset is a close.
    async fn until_closed(stream: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        let _ = in_time(stream.read_to_end(&mut bytes)).await;
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn a_client_that_drips_its_request_is_cut() {
        let server = started(HttpLimits { header_read_timeout: SHORT, ..PATIENT }).await;
        let mut stream = server.sent("GET / HTTP/1.1\r\n").await;
        let (mut reader, mut writer) = stream.split();
        let dripping = async {
            while writer.write_all(b"x: y\r\n").await.is_ok() {
                sleep(SHORT / 10).await;
            }
        };
        let mut bytes = [0; 1024];
        in_time(async {
            select! {
                () = dripping => {}
                () = async { while reader.read(&mut bytes).await.is_ok_and(|length| length > 0) {} } => {}
            }
        })
        .await;
    }

    #[tokio::test]
    async fn an_idle_connection_is_closed_before_and_after_its_request() {
        let server = started(HttpLimits { header_read_timeout: SHORT, ..PATIENT }).await;
        assert_eq!(until_closed(&mut server.connected().await).await, "");
        let answer = until_closed(&mut server.sent(GET).await).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("here"), "{answer}");
    }

    #[tokio::test]
    async fn a_request_that_takes_too_long_is_answered_with_408_and_closed() {
        let server = started(HttpLimits { request_timeout: SHORT, ..PATIENT }).await;
        let answer = until_closed(&mut server.sent("GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        let slow_body = "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nslow";
        let answer = until_closed(&mut server.sent(slow_body).await).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }

    #[tokio::test]
    async fn a_body_and_a_head_beyond_the_limit_are_refused() {
        let server = started(PATIENT).await;
        let body = |length: usize| {
            format!("POST /body HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{}", "x".repeat(length))
        };
        let answer = until_closed(&mut server.sent(&body(1000)).await).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("1000"), "{answer}");
        let answer = until_closed(&mut server.sent(&body(1001)).await).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        let answer = until_closed(&mut server.sent(&format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(HEAD_BYTES_MAX))).await).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    #[tokio::test]
    async fn the_65th_connection_waits_and_disturbs_none_of_the_64() {
        let server = started(PATIENT).await;
        let mut first = server.sent(GET).await;
        answered(&mut first).await;
        let mut others = Vec::new();
        for _ in 1..64 {
            let mut other = server.sent(GET).await;
            answered(&mut other).await;
            others.push(other);
        }
        let mut excess = server.sent(GET).await;
        first.write_all(GET.as_bytes()).await.unwrap();
        answered(&mut first).await;
        let mut byte = [0];
        assert!(timeout(SHORT, excess.read(&mut byte)).await.is_err(), "more connections than the limit are served");
        drop(others.pop());
        answered(&mut excess).await;
    }

    #[tokio::test]
    async fn a_client_that_never_reads_its_answer_does_not_keep_its_place() {
        let server = started(HttpLimits { connections_max: 1, connection_age_max: SHORT, ..PATIENT }).await;
        let _stuck = server.sent("GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await;
        answered(&mut server.sent(GET).await).await;
    }

    #[tokio::test]
    async fn a_stop_ends_it_at_once_though_clients_are_connected_and_a_request_never_ends() {
        let server = started(PATIENT).await;
        let mut idle = server.sent(GET).await;
        answered(&mut idle).await;
        let mut endless = server.sent("GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await;
        server.stop.send(true).unwrap();
        in_time(server.task).await.unwrap();
        assert_eq!(until_closed(&mut idle).await, "");
        assert_eq!(until_closed(&mut endless).await, "");
        assert!(TcpStream::connect(server.address).await.is_err(), "still listening");
    }

    #[tokio::test]
    async fn a_request_under_way_is_answered_though_the_stop_comes() {
        let (entered, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (enter, go) = (entered.clone(), go_on.clone());
        let slow = move || async move {
            enter.notify_one();
            go.notified().await;
            "here"
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve(listener, Router::new().route("/", get(slow)), PATIENT, stopped));
        stream.write_all(GET.as_bytes()).await.unwrap();
        in_time(entered.notified()).await;
        stop.send(true).unwrap();
        go_on.notify_one();
        answered(&mut stream).await;
        in_time(server).await.unwrap();
    }

    /// A server that turns away, and why it did so far.
    async fn turning_away(limits: HttpLimits) -> (Server, Arc<Mutex<Vec<Turned>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/never", get(std::future::pending::<()>))
            .route("/body", post(|body: String| async move { body.len().to_string() }));
        let turned = Arc::new(Mutex::new(Vec::new()));
        let note = turned.clone();
        let turn_away: TurnAway = Arc::new(move |why| {
            note.lock().unwrap().push(why);
            "go away".into_response()
        });
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(serve_or_turn_away(listener, router, limits, turn_away, stopped));
        (Server { address, stop, task }, turned)
    }

    fn why(turned: &Mutex<Vec<Turned>>) -> Vec<Turned> {
        turned.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn who_finds_no_place_is_turned_away_and_disturbs_nobody() {
        let (server, turned) = turning_away(HttpLimits { connections_max: 1, ..PATIENT }).await;
        let mut first = server.sent("GET / HTTP/1.1\r\n").await;
        let body = "x".repeat(100_000);
        let mut excess = server.sent(&format!("POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n{body}")).await;
        let answer = until_closed(&mut excess).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("go away"), "{answer}");
        first.write_all(b"host: x\r\n\r\n").await.unwrap();
        let answer = until_closed(&mut first).await;
        assert!(answer.ends_with("here"), "{answer}");
        assert_eq!(why(&turned), [Turned::TooMany]);
        answered(&mut server.sent(GET).await).await;
    }

    #[tokio::test]
    async fn who_comes_in_a_crowd_is_closed_and_told_of() {
        let (server, turned) = turning_away(HttpLimits { connections_max: 1, ..PATIENT }).await;
        let mut silent = Vec::new();
        for _ in 0..=TURNED_AWAY_MAX {
            silent.push(server.connected().await);
        }
        let mut excess = server.connected().await;
        assert_eq!(until_closed(&mut excess).await, "");
        assert!(why(&turned).contains(&Turned::TooMany));
    }

    #[tokio::test]
    async fn who_is_too_slow_is_turned_away_and_told_of() {
        let (server, turned) = turning_away(HttpLimits { request_timeout: SHORT, ..PATIENT }).await;
        let slow_body = "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nslow";
        let answer = until_closed(&mut server.sent(slow_body).await).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("go away"), "{answer}");
        assert_eq!(why(&turned), [Turned::TooSlow]);
        let (server, turned) = turning_away(HttpLimits { header_read_timeout: SHORT, ..PATIENT }).await;
        until_closed(&mut server.sent("GET / HTTP/1.1\r\n").await).await;
        assert_eq!(why(&turned), [Turned::TooSlow]);
    }

    #[tokio::test]
    async fn what_is_no_http_is_closed_and_told_of() {
        let (server, turned) = turning_away(PATIENT).await;
        until_closed(&mut server.sent("\x01\x02\x03 no http\r\n\r\n").await).await;
        assert_eq!(why(&turned), [Turned::Unreadable]);
    }

    #[tokio::test]
    async fn a_stop_ends_those_outside_too() {
        let (server, _) = turning_away(HttpLimits { connections_max: 1, ..PATIENT }).await;
        let mut waiting = server.sent("GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut outside = server.connected().await;
        server.stop.send(true).unwrap();
        in_time(server.task).await.unwrap();
        assert_eq!(until_closed(&mut waiting).await, "");
        assert_eq!(until_closed(&mut outside).await, "");
    }

    static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

    struct Collector;

    impl log::Log for Collector {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            WARNINGS.lock().unwrap().push(record.args().to_string());
        }

        fn flush(&self) {}
    }

    /// In a process of its own: both the limit and the log belong to the whole process.
    async fn served_through_a_lack_of_descriptors() {
        log::set_logger(&Collector).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
        let server = started(PATIENT).await;
        let mut early = server.sent(GET).await;
        answered(&mut early).await;
        let mut client = std::net::TcpStream::connect(server.address).unwrap();
        let limits = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..limits }).unwrap();
        let hogs: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        in_time(async {
            while WARNINGS.lock().unwrap().is_empty() {
                sleep(SHORT / 10).await;
            }
        })
        .await;
        sleep(SHORT).await;
        drop(hogs);
        io::Write::write_all(&mut client, GET.as_bytes()).unwrap();
        client.set_nonblocking(true).unwrap();
        answered(&mut TcpStream::from_std(client).unwrap()).await;
        let warnings = WARNINGS.lock().unwrap();
        assert!(warnings.len() == 1 && warnings[0].contains("cannot accept connections"), "{warnings:?}");
    }

    #[test]
    fn a_lack_of_descriptors_is_told_once_and_survived() {
        const CHILD_VARIABLE: &str = "FAREGATE_TEST_CHILD";
        if std::env::var_os(CHILD_VARIABLE).is_some() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            return runtime.block_on(served_through_a_lack_of_descriptors());
        }
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "monitor::http::tests::a_lack_of_descriptors_is_told_once_and_survived", "--nocapture"]);
        let output = child.env(CHILD_VARIABLE, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "the child ran nothing");
    }

    #[test]
    fn accepting_is_tried_again_with_a_pause_that_grows_to_a_second() {
        assert_eq!(accept_pause(1), ACCEPT_PAUSE_MIN);
        assert_eq!(accept_pause(2), ACCEPT_PAUSE_MIN * 2);
        assert_eq!(accept_pause(u32::MAX), ACCEPT_PAUSE_MAX);
    }
}
