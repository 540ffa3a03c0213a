//! One POST to WeChat and what came back, as far as it can be told without knowing what was asked.
//!
//! Promises: a request ends within the time-out of the settings, from connecting to the last byte; at most [`ANSWER_BYTES_MAX`]
//! of an answer are kept; redirects are never followed; no proxy of the environment is used; nothing that is told to people
//! holds the URL (it carries the token), a token or a code.

use std::{error::Error, path::PathBuf, time::Duration};

use jiff::{Timestamp, fmt::rfc2822};
use reqwest::{
    Certificate, Client, Response, StatusCode, Url,
    header::{CONTENT_TYPE, DATE, HeaderName, RETRY_AFTER},
    redirect, retry,
};
use serde_json::{Map, Value};

use crate::config;

/// More of an answer than this is not read.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What is told to people about one answer is cut to this many characters.
const DETAIL_CHARS_MAX: usize = 200;

/// A run of this many letters and digits in a text of WeChat's may be a token or a code.
const SECRET_CHARS_MIN: usize = 40;

/// Idle connections are closed before servers and mobile networks usually forget them: a connection that went unnoticed costs a
/// send that has to be repeated.
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(15);

/// The part of the time-out that connecting may take, so that "not connected" can be told from "connected, then silence".
const CONNECT_SHARE: f64 = 0.9;

/// Why a request has no answer that could be judged. All of these pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAnswer {
    /// What happened.
    pub kind: NoAnswerKind,
    /// A clause for people, without secrets.
    pub detail: String,
    /// What the answer's `Retry-After` asks for.
    pub retry_after: Option<Duration>,
}

/// What happened instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswerKind {
    /// No connection (name, route, TCP, TLS): the request was never sent.
    Connect,
    /// Connected, but no whole answer in time.
    Timeout,
    /// The connection broke before the whole answer was there.
    Cut,
    /// A redirect, which is not followed.
    Redirect {
        /// 3xx.
        status: u16,
    },
    /// An HTTP status that passes: 408, 429, 5xx.
    Http {
        /// The status.
        status: u16,
    },
    /// An answer that is not a JSON object, or lacks what it must hold.
    NotJson,
    /// An answer of more than 64 KiB.
    TooLarge,
}

impl NoAnswer {
    pub(super) fn new(kind: NoAnswerKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), retry_after: None }
    }

    /// Whether WeChat may have got the request.
    #[must_use]
    pub fn may_have_been_taken(&self) -> bool {
        self.kind != NoAnswerKind::Connect
    }
}

/// What came back, sorted by its HTTP status. It has no `Debug`: it may hold a token.
pub(super) enum Reply {
    /// 2xx with a JSON object.
    Json(Map<String, Value>),
    /// Nothing that could be judged.
    NoAnswer(NoAnswer),
    /// A 4xx that does not pass by itself.
    Refused { status: u16, detail: String, retry_after: Option<Duration> },
}

/// Why the client cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// `base_url` with one of the paths is not a URL.
    #[error("wechat.base_url and a path do not make a URL ({0}); check wechat.base_url, deduct_path and token_path")]
    Url(String),
    /// The extra trust anchor cannot be read.
    #[error("the trust anchor {} cannot be read ({source}); check wechat.ca_file", path.display())]
    CaFile {
        /// `wechat.ca_file`
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The extra trust anchor holds no certificate.
    #[error("{} holds no certificate in PEM form; check wechat.ca_file", path.display())]
    CaContent {
        /// `wechat.ca_file`
        path: PathBuf,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up ({0}); install the package ca-certificates or set wechat.ca_file")]
    Tls(String),
}

/// The HTTP client.
#[derive(Debug, Clone)]
pub(super) struct Http {
    client: Client,
    timeout: Duration,
}

impl Http {
    /// `connections`: how many idle connections are kept.
    pub(super) fn new(settings: &config::WeChat, connections: usize) -> Result<Self, ClientError> {
        // Fails when a provider is already installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let anchors = extra_anchors(settings)?;
        let builder = Client::builder()
            .user_agent(concat!("faregate/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .http1_only()
            .tcp_nodelay(true)
            .timeout(settings.timeout)
            .connect_timeout(settings.timeout.mul_f64(CONNECT_SHARE))
            .pool_max_idle_per_host(connections)
            .pool_idle_timeout(IDLE_CONNECTION_MAX);
        // Without TLS the system's anchors are not needed, and a machine that has none must start all the same.
        let builder = if is_tls(settings) { builder.tls_certs_merge(anchors) } else { builder.tls_certs_only(anchors) };
        let client = builder.build().map_err(|error| ClientError::Tls(innermost(&error)))?;
        Ok(Self { client, timeout: settings.timeout })
    }

    /// Sends `body` as JSON. `secret`: left out wherever it turns up in what is told to people.
    pub(super) async fn post(&self, url: Url, body: Vec<u8>, secret: Option<&str>) -> Reply {
        let sent = self.client.post(url).header(CONTENT_TYPE, "application/json").body(body).send().await;
        match sent {
            Ok(response) => self.sort(response, secret).await,
            Err(error) => Reply::NoAnswer(self.failure(&error)),
        }
    }

    async fn sort(&self, mut response: Response, secret: Option<&str>) -> Reply {
        let status = response.status();
        let retry_after = retry_after(&response);
        let body = self.read(&mut response).await;
        let reply = if status.is_success() {
            body.and_then(|body| json(&body)).map_or_else(Reply::NoAnswer, Reply::Json)
        } else {
            refusal(status, &body.unwrap_or_default(), secret)
        };
        match reply {
            Reply::NoAnswer(no_answer) => Reply::NoAnswer(NoAnswer { retry_after, ..no_answer }),
            Reply::Refused { status, detail, .. } => Reply::Refused { status, detail, retry_after },
            Reply::Json(object) => Reply::Json(object),
        }
    }

    async fn read(&self, response: &mut Response) -> Result<Vec<u8>, NoAnswer> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failure(&error))? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(NoAnswer::new(NoAnswerKind::TooLarge, "an answer of more than 64 KiB"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn failure(&self, error: &reqwest::Error) -> NoAnswer {
        if error.is_connect() || error.is_builder() {
            let why = if error.is_timeout() { "timed out".to_owned() } else { innermost(error) };
            NoAnswer::new(NoAnswerKind::Connect, format!("no connection: {why}"))
        } else if error.is_timeout() {
            NoAnswer::new(NoAnswerKind::Timeout, format!("no answer within {:?}", self.timeout))
        } else {
            NoAnswer::new(NoAnswerKind::Cut, format!("the connection broke: {}", innermost(error)))
        }
    }
}

/// The integer `errcode` of an answer and its `errmsg`, fit for people; `None` without an integer `errcode`.
pub(super) fn errcode(object: &Map<String, Value>, secret: Option<&str>) -> Option<(i64, String)> {
    let errcode = object.get("errcode")?.as_i64()?;
    let errmsg = object.get("errmsg").and_then(Value::as_str).unwrap_or_default();
    Some((errcode, for_people(errmsg, secret)))
}

/// `text` of somebody else's without control characters, secrets and excess length.
fn for_people(text: &str, secret: Option<&str>) -> String {
    let text = match secret {
        Some(secret) if !secret.is_empty() => text.replace(secret, "…"),
        _ => text.to_owned(),
    };
    let mut clean = String::new();
    for run in text.split_inclusive(|c: char| !is_secret_char(c)) {
        let word = run.trim_end_matches(|c: char| !is_secret_char(c));
        if word.len() >= SECRET_CHARS_MIN {
            clean.push('…');
            clean.push_str(&run[word.len()..]);
        } else {
            clean.push_str(run);
        }
    }
    clean.chars().filter(|c| !c.is_control()).take(DETAIL_CHARS_MAX).collect()
}

fn is_secret_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '-' | '_')
}

fn json(body: &[u8]) -> Result<Map<String, Value>, NoAnswer> {
    serde_json::from_slice(body).map_err(|_| NoAnswer::new(NoAnswerKind::NotJson, "an answer that is not a JSON object"))
}

/// An answer whose status decides, whatever its body says; an `errcode` in it is remembered as evidence.
fn refusal(status: StatusCode, body: &[u8], secret: Option<&str>) -> Reply {
    let said = json(body).ok().and_then(|object| errcode(&object, secret));
    let said = said.map_or_else(String::new, |(errcode, errmsg)| format!(" (errcode {errcode} {errmsg})"));
    let code = status.as_u16();
    let detail = format!("HTTP status {code}{said}");
    match code {
        300..=399 => Reply::NoAnswer(NoAnswer::new(NoAnswerKind::Redirect { status: code }, format!("{detail}, not followed"))),
        400..=499 if code != 408 && code != 429 => Reply::Refused { status: code, detail, retry_after: None },
        _ => Reply::NoAnswer(NoAnswer::new(NoAnswerKind::Http { status: code }, detail)),
    }
}

/// `Retry-After`, as seconds or as a date. A date is held against the answer's own `Date`: the server's clock against itself, because
/// this machine's may stand at 1970.
fn retry_after(response: &Response) -> Option<Duration> {
    let header = |name: HeaderName| Some(response.headers().get(name)?.to_str().ok()?.trim());
    let now = header(DATE).and_then(parse_date).unwrap_or_else(Timestamp::now);
    parse_retry_after(header(RETRY_AFTER)?, now)
}

fn parse_date(value: &str) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new().parse_timestamp(value).ok()
}

fn parse_retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = parse_date(value)?;
    Some(Duration::try_from(until.duration_since(now)).unwrap_or_default())
}

/// The cause at the bottom of `error`: the only part that says something to people, and one that never holds the URL.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = match error.source() {
        Some(source) => source,
        None => return "the request could not be made".to_owned(),
    };
    while let Some(source) = cause.source() {
        cause = source;
    }
    match distrust(cause) {
        Some(why) => {
            format!("the server's certificate is not trusted ({why:?}); check wechat.ca_file, the network and this machine's clock")
        }
        None => for_people(&cause.to_string(), None),
    }
}

/// Why the server's certificate was not accepted, if that is the cause.
fn distrust<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a rustls::CertificateError> {
    if let Some(rustls::Error::InvalidCertificate(why)) = cause.downcast_ref() {
        return Some(why);
    }
    distrust(cause.downcast_ref::<std::io::Error>()?.get_ref()?)
}

fn is_tls(settings: &config::WeChat) -> bool {
    !settings.base_url.starts_with("http://")
}

/// The certificates of `wechat.ca_file`; none without it.
fn extra_anchors(settings: &config::WeChat) -> Result<Vec<Certificate>, ClientError> {
    let Some(path) = &settings.ca_file else { return Ok(Vec::new()) };
    let pem = std::fs::read(path).map_err(|source| ClientError::CaFile { path: path.clone(), source })?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(anchors) if !anchors.is_empty() => Ok(anchors),
        _ => Err(ClientError::CaContent { path: path.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_to_people_has_no_secret_and_no_control_character() {
        assert_eq!(for_people("bad\r\n token s3cret!", Some("s3cret")), "bad token …!");
        assert_eq!(for_people("rid: 5f3c9d8c-1a2b3c4d", Some("")), "rid: 5f3c9d8c-1a2b3c4d");
        let code = "gP/+".repeat(20);
        assert_eq!(for_people(&format!("invalid qrcode {code}, 二维码"), None), "invalid qrcode …, 二维码");
        assert_eq!(for_people(&"二 ".repeat(500), None).chars().count(), DETAIL_CHARS_MAX);
    }

    #[test]
    fn only_an_integer_errcode_in_an_object_counts() {
        for body in ["[0,\"ok\"]", "0", "null", "\"errcode\"", "{\"errcode\":0", "", "<html>errcode 0</html>"] {
            assert!(json(body.as_bytes()).is_err(), "{body}");
        }
        for body in ["{}", "{\"errcode\":\"0\"}", "{\"errcode\":0.0}", "{\"errcode\":null}", "{\"errcode\":99999999999999999999}"] {
            assert_eq!(errcode(&json(body.as_bytes()).unwrap(), None), None, "{body}");
        }
        let object = json(b"{\"errcode\":40003,\"errmsg\":\"invalid openid\",\"more\":{}}").unwrap();
        assert_eq!(errcode(&object, None), Some((40003, "invalid openid".to_owned())));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2026-11-23T05:34:30Z".parse().unwrap();
        assert_eq!(parse_retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(parse_retry_after("Mon, 23 Nov 2026 05:35:00 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(parse_retry_after("Mon, 23 Nov 2026 05:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(parse_retry_after("soon", now), None);
        assert_eq!(parse_retry_after("-5", now), None);
    }

    #[test]
    fn the_status_decides_about_everything_but_2xx() {
        let told = |code: u16| refusal(StatusCode::from_u16(code).unwrap(), b"{\"errcode\":0,\"errmsg\":\"ok\"}", None);
        for code in [408, 429, 500, 502, 503, 504] {
            assert!(matches!(told(code), Reply::NoAnswer(NoAnswer { kind: NoAnswerKind::Http { status }, .. }) if status == code));
        }
        for code in [301, 302, 304, 307, 308] {
            assert!(matches!(told(code), Reply::NoAnswer(NoAnswer { kind: NoAnswerKind::Redirect { .. }, .. })), "{code}");
        }
        for code in [400, 401, 403, 404, 413, 451] {
            let Reply::Refused { status, detail, .. } = told(code) else { panic!("{code} must be refused") };
            assert_eq!((status, detail), (code, format!("HTTP status {code} (errcode 0 ok)")));
        }
    }
}
