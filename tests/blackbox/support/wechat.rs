//! A WeChat of the tests' own: the token and deduction interfaces as their public pages describe them, with faults on demand.
//!
//! It keeps every request that it saw and whether it took it, as the other side of the books. It is down or up, always on the same
//! port; one thread per line, at most [`LINES_MAX`] lines.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use data_encoding::BASE64;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{DEADLINE, ports::free_port, wait_until};

/// What the gate's settings must present at the token interface.
pub(crate) const APPID: &str = "wxtest";
pub(crate) const SECRET: &str = "s3cret-of-the-app";

const TOKEN_PATH: &str = "/cgi-bin/stable_token";
const DEDUCT_PATH: &str = "/deduct";
/// More lines than this at once are cut: a gate must not need them.
const LINES_MAX: usize = 64;
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// How long the rest of a request that has begun may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What becomes of a deduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Taken: `errcode` 0.
    Ok,
    /// Taken, then the line is cut: the gate cannot know.
    Drop,
    /// The line is cut with the request unread: not taken.
    Refuse,
    /// Taken, but the answer is a 500.
    Http500,
    /// Taken, and never answered.
    Hang,
    /// A captive portal's page: not taken.
    Html,
    /// A captive portal's redirect: not taken.
    Redirect,
    /// Not taken: this `errcode`.
    ErrCode(i64),
    /// Not taken: 429 with this `Retry-After`.
    TooMany { retry_after_s: u64 },
    /// Not taken: refused with this HTTP status.
    Status(u16),
    /// Taken, and answered with 200 and this text.
    Says(&'static str),
    /// Taken, but the answer's `errcode` 0 is followed by a megabyte.
    Megabyte,
}

impl Answer {
    fn takes(self) -> bool {
        matches!(self, Self::Ok | Self::Drop | Self::Http500 | Self::Hang | Self::Says(_) | Self::Megabyte)
    }
}

/// What the query string of a deduction must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Demand {
    /// The token handed out last.
    LatestToken,
    /// This token, from wherever the gate has it.
    Token(&'static str),
    /// Nothing at all.
    NoQuery,
}

/// One deduction request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Deduction {
    /// The bytes.
    pub(crate) body: Vec<u8>,
    /// The bytes as JSON; null when they are none.
    pub(crate) json: Value,
    /// When.
    pub(crate) at: Timestamp,
    /// Whether WeChat will charge for it.
    pub(crate) taken: bool,
}

impl Deduction {
    /// `out_order_no`; empty when there is none.
    pub(crate) fn order(&self) -> &str {
        self.json["out_order_no"].as_str().unwrap_or_default()
    }

    /// The scanned code; empty when there is none.
    pub(crate) fn code(&self) -> Vec<u8> {
        BASE64.decode(self.json["qrcode"].as_str().unwrap_or_default().as_bytes()).unwrap_or_default()
    }
}

type Policy = Arc<dyn Fn(&Deduction) -> Answer + Send + Sync>;

struct Book {
    policy: Policy,
    deductions: Vec<Deduction>,
    answers: usize,
    tokens: Vec<Value>,
    token_number: u32,
    /// Deductions for which a token is good, and those left for the latest.
    token_uses: Option<(usize, usize)>,
    demand: Demand,
    latency: Duration,
    strays: Vec<String>,
    lines: HashMap<usize, TcpStream>,
    lines_seen: usize,
    up: bool,
}

type Shared = Arc<Mutex<Book>>;

impl Book {
    fn takes_token(&mut self, query: &str) -> bool {
        match self.demand {
            Demand::NoQuery => query.is_empty(),
            Demand::Token(token) => query == format!("access_token={token}"),
            Demand::LatestToken => query == format!("access_token={}", token_text(self.token_number)) && self.use_token(),
        }
    }

    /// Whether the latest token is good for one more deduction; if not, the next one will be another.
    fn use_token(&mut self) -> bool {
        let Some((each, left)) = self.token_uses else { return true };
        let is_good = left > 0;
        self.token_number += u32::from(!is_good);
        self.token_uses = Some((each, if is_good { left - 1 } else { each }));
        is_good
    }
}

/// The server. It ends with its value.
pub(crate) struct WeChat {
    port: u16,
    book: Shared,
    listening: Option<JoinHandle<()>>,
}

impl WeChat {
    /// Up, and answering [`Answer::Ok`].
    pub(crate) fn start() -> Self {
        let book = Book {
            policy: Arc::new(|_| Answer::Ok),
            deductions: Vec::new(),
            answers: 0,
            tokens: Vec::new(),
            token_number: 1,
            token_uses: None,
            demand: Demand::LatestToken,
            latency: Duration::ZERO,
            strays: Vec::new(),
            lines: HashMap::new(),
            lines_seen: 0,
            up: false,
        };
        let mut server = Self { port: free_port(), book: Arc::new(Mutex::new(book)), listening: None };
        server.up();
        server
    }

    /// The same while it is down.
    pub(crate) fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on every deduction gets this answer.
    pub(crate) fn answer(&self, answer: Answer) {
        self.answer_with(move |_| answer);
    }

    /// From now on each deduction gets the answer that `policy` gives for it.
    pub(crate) fn answer_with(&self, policy: impl Fn(&Deduction) -> Answer + Send + Sync + 'static) {
        locked(&self.book).policy = Arc::new(policy);
    }

    /// The token handed out last is no longer good.
    pub(crate) fn invalidate_token(&self) {
        locked(&self.book).token_number += 1;
    }

    /// From now on each token is good for so many deductions.
    pub(crate) fn wear_out_tokens_after(&self, deductions: usize) {
        locked(&self.book).token_uses = Some((deductions, deductions));
    }

    /// From now on a token lasts as long as it is not invalidated.
    pub(crate) fn keep_tokens(&self) {
        locked(&self.book).token_uses = None;
    }

    /// From now on deductions must carry this.
    pub(crate) fn demand(&self, demand: Demand) {
        locked(&self.book).demand = demand;
    }

    /// From now on every answer takes so long.
    pub(crate) fn answer_after(&self, latency: Duration) {
        locked(&self.book).latency = latency;
    }

    /// Nobody listens any more, and the lines that were open are cut.
    pub(crate) fn down(&mut self) {
        let Some(listening) = self.listening.take() else { return };
        {
            let mut book = locked(&self.book);
            book.up = false;
            for line in book.lines.values() {
                let _ = line.shutdown(Shutdown::Both);
            }
        }
        // Wakes the thread that waits for lines, so that it sees that it must end.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        listening.join().unwrap();
    }

    /// Listens again, on the same port.
    pub(crate) fn up(&mut self) {
        if self.listening.is_some() {
            return;
        }
        let mut listener = None;
        wait_until("WeChat's port can be had", DEADLINE, || {
            listener = TcpListener::bind(("127.0.0.1", self.port)).ok();
            listener.is_some()
        });
        locked(&self.book).up = true;
        let (book, listener) = (Arc::clone(&self.book), listener.unwrap());
        self.listening = Some(thread::spawn(move || listen(&listener, &book)));
    }

    /// Every deduction request, in the order in which they came.
    pub(crate) fn deductions(&self) -> Vec<Deduction> {
        locked(&self.book).deductions.clone()
    }

    /// Number of deduction requests.
    pub(crate) fn requests(&self) -> usize {
        locked(&self.book).deductions.len()
    }

    /// Number of deduction requests that got an answer.
    pub(crate) fn answers(&self) -> usize {
        locked(&self.book).answers
    }

    /// Number of token requests.
    pub(crate) fn token_requests(&self) -> usize {
        locked(&self.book).tokens.len()
    }

    /// Requests for anything that is no part of the interface, such as the target of a redirect.
    pub(crate) fn strays(&self) -> Vec<String> {
        locked(&self.book).strays.clone()
    }

    /// The orders that were taken, each with every body that was.
    pub(crate) fn charged(&self) -> BTreeMap<String, Vec<Vec<u8>>> {
        let mut orders: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for deduction in self.deductions().into_iter().filter(|deduction| deduction.taken) {
            orders.entry(deduction.order().to_owned()).or_default().push(deduction.body);
        }
        orders
    }

    /// The codes that were charged.
    pub(crate) fn charged_codes(&self) -> BTreeSet<Vec<u8>> {
        self.deductions().iter().filter(|deduction| deduction.taken).map(Deduction::code).collect()
    }

    /// The order under which a code came.
    pub(crate) fn order_of(&self, code: &[u8]) -> String {
        self.deductions().iter().find(|deduction| deduction.code() == code).expect("the code came").order().to_owned()
    }

    /// The law of retries, over every request there ever was: one order for a code, one content for an order, and nothing else asked.
    pub(crate) fn assert_one_order_per_code_and_one_body_per_order(&self) {
        let (mut order_of, mut body_of) = (HashMap::new(), HashMap::new());
        for deduction in self.deductions() {
            let order = deduction.order().to_owned();
            assert!(!order.is_empty() && !deduction.code().is_empty(), "no order or no code in {}", deduction.json);
            let first = order_of.entry(deduction.code()).or_insert_with(|| order.clone()).clone();
            assert_eq!(first, order, "two orders for one scan");
            let first = body_of.entry(order.clone()).or_insert_with(|| deduction.body.clone()).clone();
            assert_eq!(text(&first), text(&deduction.body), "the content of order {order} changed");
        }
        assert_eq!(self.strays(), Vec::<String>::new(), "something else was asked for");
    }

    /// Exactly these codes are charged, each under one order whose content never changed.
    pub(crate) fn assert_charged_exactly(&self, codes: &[Vec<u8>]) {
        self.assert_one_order_per_code_and_one_body_per_order();
        let (expected, charged): (BTreeSet<_>, _) = (codes.iter().map(|code| text(code)).collect(), self.charged_codes());
        assert_eq!(charged.iter().map(|code| text(code)).collect::<BTreeSet<_>>(), expected, "the charged codes");
        assert_eq!(self.charged().len(), codes.len(), "orders charged");
    }
}

impl Drop for WeChat {
    fn drop(&mut self) {
        self.down();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A failed assertion in one thread must not hide behind a poisoned lock in the others.
fn locked(book: &Shared) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn listen(listener: &TcpListener, book: &Shared) {
    for line in listener.incoming().flatten() {
        let Some(number) = enter(book, &line) else {
            if locked(book).up {
                continue;
            }
            return;
        };
        let book = Arc::clone(book);
        thread::spawn(move || {
            serve(line, &book);
            locked(&book).lines.remove(&number);
        });
    }
}

/// Notes a new line; `None` when there are too many or the server is going down.
fn enter(book: &Shared, line: &TcpStream) -> Option<usize> {
    let mut book = locked(book);
    if !book.up || book.lines.len() >= LINES_MAX {
        return None;
    }
    book.lines_seen += 1;
    let number = book.lines_seen;
    book.lines.insert(number, line.try_clone().ok()?);
    Some(number)
}

/// One line, request after request, until one side has enough.
fn serve(mut line: TcpStream, book: &Shared) {
    while let Some(request) = peek_request(&line) {
        let reply = reply_to(&request, book);
        if reply == Reply::Cut {
            // Closing with the request unread makes this a reset.
            return;
        }
        if line.read_exact(&mut vec![0; request.length]).is_err() {
            return;
        }
        match reply {
            Reply::CutAfterReading | Reply::Cut => return,
            Reply::Silence => return wait_for_the_end(&line),
            Reply::Say(answer) => {
                if line.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        }
    }
}

struct Request {
    method: String,
    target: String,
    body: Vec<u8>,
    /// Head and body together.
    length: usize,
}

/// The next whole request, left unread; `None` when the line ends first.
fn peek_request(line: &TcpStream) -> Option<Request> {
    let mut buffer = vec![0; REQUEST_BYTES_MAX];
    let mut begun: Option<Instant> = None;
    loop {
        let length = line.peek(&mut buffer).ok().filter(|&length| length > 0)?;
        if let Some(request) = parse(&buffer[..length]) {
            return Some(request);
        }
        if begun.get_or_insert_with(Instant::now).elapsed() > REQUEST_TIMEOUT {
            return None;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// `None` while a part is missing.
fn parse(bytes: &[u8]) -> Option<Request> {
    let head_length = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..head_length]).into_owned();
    let mut words = head.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let body_length = head.lines().find_map(content_length).unwrap_or(0);
    let body = bytes.get(head_length..head_length + body_length)?.to_vec();
    Some(Request { method, target, body, length: head_length + body_length })
}

fn content_length(line: &str) -> Option<usize> {
    let (name, value) = line.split_once(':')?;
    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok()).flatten()
}

#[derive(PartialEq, Eq)]
enum Reply {
    Say(String),
    Cut,
    CutAfterReading,
    Silence,
}

fn reply_to(request: &Request, book: &Shared) -> Reply {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    match (request.method.as_str(), path) {
        ("POST", TOKEN_PATH) => token(&request.body, book),
        ("POST", DEDUCT_PATH) => deduct(query, &request.body, book),
        _ => {
            locked(book).strays.push(format!("{} {}", request.method, request.target));
            say(200, "text/html", "", "<html>Welcome to the station's network</html>")
        }
    }
}

fn token(body: &[u8], book: &Shared) -> Reply {
    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
    let mut book = locked(book);
    book.tokens.push(asked.clone());
    let documented = json!({"grant_type": "client_credential", "appid": APPID, "secret": SECRET, "force_refresh": false});
    let mut without_refresh = documented.clone();
    without_refresh.as_object_mut().unwrap().remove("force_refresh");
    if asked != documented && asked != without_refresh {
        return errcode(40125);
    }
    let answer = json!({"access_token": token_text(book.token_number), "expires_in": 7200});
    say(200, "application/json", "", &answer.to_string())
}

fn token_text(number: u32) -> String {
    format!("TOKEN-OF-THE-GATE-{number}")
}

fn deduct(query: &str, body: &[u8], book: &Shared) -> Reply {
    let json = serde_json::from_slice(body).unwrap_or_default();
    let mut deduction = Deduction { body: body.to_vec(), json, at: Timestamp::now(), taken: false };
    let (policy, token_is_good, latency) = {
        let mut book = locked(book);
        (Arc::clone(&book.policy), book.takes_token(query), book.latency)
    };
    thread::sleep(latency);
    let answer = if token_is_good { policy(&deduction) } else { Answer::ErrCode(42001) };
    deduction.taken = answer.takes();
    let reply = reply_with(answer);
    let mut book = locked(book);
    book.deductions.push(deduction);
    book.answers += usize::from(matches!(reply, Reply::Say(_)));
    reply
}

fn reply_with(answer: Answer) -> Reply {
    match answer {
        Answer::Ok => errcode(0),
        Answer::ErrCode(number) => errcode(number),
        Answer::Drop => Reply::CutAfterReading,
        Answer::Refuse => Reply::Cut,
        Answer::Hang => Reply::Silence,
        Answer::Http500 => say(500, "text/plain", "", "oops"),
        Answer::Html => say(200, "text/html", "", "<html>Welcome to the station's network</html>"),
        Answer::Redirect => say(302, "text/html", "Location: /login\r\n", ""),
        Answer::TooMany { retry_after_s } => say(429, "text/plain", &format!("Retry-After: {retry_after_s}\r\n"), ""),
        Answer::Status(status) => say(status, "text/html", "", "<html>no</html>"),
        Answer::Says(text) => say(200, "application/json", "", text),
        Answer::Megabyte => {
            let errmsg = "x".repeat(1024 * 1024);
            say(200, "application/json", "", &json!({"errcode": 0, "errmsg": errmsg}).to_string())
        }
    }
}

fn errcode(number: i64) -> Reply {
    let errmsg = if number == 0 { "ok" } else { "no" };
    say(200, "application/json", "", &json!({"errcode": number, "errmsg": errmsg}).to_string())
}

fn say(status: u16, content_type: &str, more: &str, body: &str) -> Reply {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{more}\r\n");
    Reply::Say(head + body)
}

/// Until the other side, or the server going down, ends the line.
fn wait_for_the_end(line: &TcpStream) {
    let _ = line.peek(&mut [0]);
}
