//! The client: one deduction out, one [`Answer`] back.
//!
//! Promises: the bytes of a deduction are sent exactly as given; a token that WeChat refuses is renewed once and the same bytes
//! are sent again, so an answer of class [`Class::Token`] that comes out of here has come twice in a row; accepted is only what a
//! 2xx with `errcode` 0 says.

use std::{
    fmt,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::Url;

pub use super::http::ClientError;
use super::{
    class::{Class, Classes},
    http::{self, Http, NoAnswer, NoAnswerKind, Reply},
    token::{NoToken, Source, Token, Tokens},
};
use crate::config::{Auth, WeChat};

/// A token that was waited for for longer: the deduction may have been settled meanwhile.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What came of one deduction. `Display` is the evidence for people, without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// WeChat answered.
    Errcode {
        /// As answered.
        errcode: i64,
        /// As answered, fit for people; may be empty.
        errmsg: String,
        /// What it means. `Token`: refused twice in a row, or there is no token to renew.
        class: Class,
    },
    /// No answer that could be judged.
    NoAnswer(NoAnswer),
    /// An HTTP status that does not pass by itself (4xx other than 408 and 429).
    HttpRefused {
        /// 4xx
        status: u16,
        /// For people.
        detail: String,
        /// What the answer's `Retry-After` asks for.
        retry_after: Option<Duration>,
    },
    /// The deduction was not sent, or was refused for its token and not sent again: there is no token for it.
    NoToken(NoToken),
}

impl Answer {
    /// Whether WeChat may have taken the deduction. When not, it was never sent or was refused for certain.
    #[must_use]
    pub fn may_have_been_taken(&self) -> bool {
        match self {
            Self::Errcode { class, .. } => matches!(class, Class::Accepted | Class::Transient | Class::Unknown),
            Self::NoAnswer(no_answer) => no_answer.may_have_been_taken(),
            Self::HttpRefused { .. } | Self::NoToken(_) => false,
        }
    }

    fn is_about_the_token(&self) -> bool {
        matches!(self, Self::Errcode { class: Class::Token, .. })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errcode { errcode, errmsg, .. } if errmsg.is_empty() => write!(f, "errcode {errcode}"),
            Self::Errcode { errcode, errmsg, .. } => write!(f, "errcode {errcode} {errmsg}"),
            Self::NoAnswer(no_answer) => f.write_str(&no_answer.detail),
            Self::HttpRefused { detail, .. } => f.write_str(detail),
            Self::NoToken(no_token) => no_token.fmt(f),
        }
    }
}

/// Talks to WeChat. Clones share connections and token.
#[derive(Debug, Clone)]
pub struct WeChatClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    http: Http,
    deduct_url: Url,
    classes: Classes,
    tokens: Tokens,
}

impl WeChatClient {
    /// `connections`: how many requests run at once, so many idle connections are kept. Reads `ca_file` and, for https, the
    /// system's trust anchors; connects to nothing.
    ///
    /// # Errors
    /// When the settings name something that cannot be used.
    pub fn new(settings: &WeChat, connections: usize) -> Result<Self, ClientError> {
        let classes = Classes::new(&settings.errcodes);
        let inner = Inner {
            http: Http::new(settings, connections)?,
            deduct_url: url(settings, &settings.deduct_path)?,
            tokens: Tokens::new(source(settings)?, classes.clone()),
            classes,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The next request gets its token anew: from `token_file`, or from the stable-token interface, whose old one is kept if that fails.
    pub fn reload(&self) {
        self.inner.tokens.reload();
    }

    /// Sends one deduction. It may be dropped at any time; what has become of the deduction is then not known.
    ///
    /// `is_wanted` is asked before anything is sent after a token was waited for: a callback may have settled the deduction meanwhile.
    /// `None` when it is wanted no more; what was sent before that was refused for its token.
    pub async fn deduct_if<F: Future<Output = bool> + Send>(
        &self,
        body: Vec<u8>,
        is_wanted: impl Fn() -> F + Send + Sync,
    ) -> Option<Answer> {
        self.inner.deduct(body, is_wanted).await.unwrap_or_else(|no_token| Some(Answer::NoToken(no_token)))
    }
}

impl Inner {
    async fn deduct<F: Future<Output = bool> + Send>(
        &self,
        body: Vec<u8>,
        is_wanted: impl Fn() -> F + Send + Sync,
    ) -> Result<Option<Answer>, NoToken> {
        let asked = Instant::now();
        let token = self.tokens.current(&self.http).await?;
        if asked.elapsed() > ASK_AGAIN_AFTER && !is_wanted().await {
            return Ok(None);
        }
        let Some(token) = token else { return Ok(Some(self.send(body, None).await)) };
        let answer = self.send(body.clone(), Some(&token)).await;
        if !answer.is_about_the_token() {
            return Ok(Some(answer));
        }
        let renewed = self.tokens.renewed(&self.http, &token).await?;
        Ok(if is_wanted().await { Some(self.send(body, renewed.as_deref()).await) } else { None })
    }

    async fn send(&self, body: Vec<u8>, token: Option<&Token>) -> Answer {
        let mut url = self.deduct_url.clone();
        let token = token.map(Token::expose);
        if let Some(token) = token {
            url.query_pairs_mut().append_pair("access_token", token);
        }
        match self.http.post(url, body, token).await {
            Reply::Json(object) => match http::errcode(&object, token) {
                Some((errcode, errmsg)) => Answer::Errcode { errcode, errmsg, class: self.classes.classify(errcode) },
                None => Answer::NoAnswer(NoAnswer::new(NoAnswerKind::NotJson, "an answer without an integer errcode")),
            },
            Reply::NoAnswer(no_answer) => Answer::NoAnswer(no_answer),
            Reply::Refused { status, detail, retry_after } => Answer::HttpRefused { status, detail, retry_after },
        }
    }
}

fn url(settings: &WeChat, path: &str) -> Result<Url, ClientError> {
    Url::parse(&format!("{}{path}", settings.base_url)).map_err(|error| ClientError::Url(error.to_string()))
}

fn source(settings: &WeChat) -> Result<Source, ClientError> {
    Ok(match &settings.auth {
        Auth::StableToken { secret_file, token_path } => {
            Source::Stable { url: url(settings, token_path)?, appid: settings.appid.clone(), secret_file: secret_file.clone() }
        }
        Auth::StaticToken { token_file } => Source::File { token_file: token_file.clone() },
        Auth::None => Source::None,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        io::{Read, Write},
        net::TcpListener,
        path::Path,
        process::Command,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
    };

    use super::*;
    use crate::{
        config::ErrorClass,
        wechat::test_server::{Reaction, Request, TestServer},
    };

    const BODY: &[u8] = "{\"body\":\"地铁代扣\"}".as_bytes();
    const OK: &str = "{\"errcode\":0,\"errmsg\":\"ok\"}";

    fn settings(base_url: String, auth: Auth) -> WeChat {
        WeChat {
            base_url,
            deduct_path: "/deduct".to_owned(),
            auth,
            appid: "wx1234".to_owned(),
            mch_id: "1900000001".to_owned(),
            timeout: Duration::from_secs(10),
            ca_file: None,
            machine_ip: None,
            machine_latitude: None,
            machine_longitude: None,
            errcodes: BTreeMap::from([(61010, ErrorClass::Park)]),
        }
    }

    fn client(settings: &WeChat) -> WeChatClient {
        WeChatClient::new(settings, 16).unwrap()
    }

    fn plain_client(server: &TestServer) -> WeChatClient {
        client(&settings(server.base_url(), Auth::None))
    }

    fn impatient_client(server: &TestServer) -> WeChatClient {
        client(&WeChat { timeout: Duration::from_millis(300), ..settings(server.base_url(), Auth::None) })
    }

    fn stable(directory: &Path) -> Auth {
        let secret_file = directory.join("appsecret");
        std::fs::write(&secret_file, "s3cret\n").unwrap();
        Auth::StableToken { secret_file, token_path: "/cgi-bin/stable_token".to_owned() }
    }

    fn is_token_request(request: &Request) -> bool {
        request.line == "POST /cgi-bin/stable_token"
    }

    /// A WeChat that hands out `token-1`, `token-2`, … and takes only the latest.
    fn wechat_that_takes_only_the_latest_token() -> (TestServer, Arc<AtomicUsize>) {
        let latest = Arc::new(AtomicUsize::new(0));
        let shared = latest.clone();
        let server = TestServer::start(move |request| {
            if is_token_request(request) {
                let number = shared.fetch_add(1, Ordering::SeqCst) + 1;
                return Reaction::json(&format!("{{\"access_token\":\"token-{number}\",\"expires_in\":7200}}"));
            }
            let wanted = format!("POST /deduct?access_token=token-{}", shared.load(Ordering::SeqCst));
            Reaction::json(if request.line == wanted { OK } else { "{\"errcode\":42001,\"errmsg\":\"access_token expired\"}" })
        });
        (server, latest)
    }

    impl WeChatClient {
        /// One that is wanted whatever happens.
        async fn deduct(&self, body: Vec<u8>) -> Answer {
            self.deduct_if(body, || async { true }).await.unwrap()
        }
    }

    fn count(server: &TestServer, wanted: impl Fn(&Request) -> bool) -> usize {
        server.requests().iter().filter(|request| wanted(request)).count()
    }

    async fn answer_to(reaction: impl Fn() -> Reaction + Send + Sync + 'static) -> Answer {
        let server = TestServer::start(move |_| reaction());
        impatient_client(&server).deduct(BODY.to_vec()).await
    }

    fn kind_of(answer: &Answer) -> NoAnswerKind {
        let Answer::NoAnswer(no_answer) = answer else { panic!("expected no answer, got {answer:?}") };
        no_answer.kind
    }

    #[tokio::test]
    async fn the_bytes_are_sent_exactly_as_given() {
        let server = TestServer::start(|_| Reaction::json(OK));
        let answer = plain_client(&server).deduct(BODY.to_vec()).await;
        assert_eq!(answer, Answer::Errcode { errcode: 0, errmsg: "ok".to_owned(), class: Class::Accepted });
        let request = &server.requests()[0];
        assert_eq!(request.line, "POST /deduct");
        assert_eq!(request.body, BODY);
        assert!(request.headers.contains(&"content-type: application/json".to_owned()));
    }

    #[tokio::test]
    async fn an_errcode_is_sorted_and_told_without_secrets() {
        let answer = answer_to(|| Reaction::json("{\"errcode\":61010,\"errmsg\":\"code\\u0007 expired\"}")).await;
        assert_eq!(answer, Answer::Errcode { errcode: 61010, errmsg: "code expired".to_owned(), class: Class::Park });
        assert_eq!(answer.to_string(), "errcode 61010 code expired");
        assert_eq!(answer_to(|| Reaction::json("{\"errcode\":-1}")).await.to_string(), "errcode -1");
    }

    #[tokio::test]
    async fn connections_are_kept_for_the_next_deduction() {
        let server = TestServer::start(|_| Reaction::json(OK));
        let client = plain_client(&server);
        for _ in 0..5 {
            client.deduct(BODY.to_vec()).await;
        }
        assert_eq!((server.requests().len(), server.connections()), (5, 1));
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_cannot_have_taken_anything() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let answer = client(&settings(base_url, Auth::None)).deduct(BODY.to_vec()).await;
        assert_eq!(kind_of(&answer), NoAnswerKind::Connect);
        assert!(!answer.may_have_been_taken());
        assert_eq!(answer.to_string(), "no connection: Connection refused (os error 111)");
    }

    #[tokio::test]
    async fn silence_after_connecting_may_have_been_taken() {
        let answer = answer_to(|| Reaction::Hang).await;
        assert_eq!(kind_of(&answer), NoAnswerKind::Timeout);
        assert!(answer.may_have_been_taken());
        assert_eq!(answer.to_string(), "no answer within 300ms");
    }

    #[tokio::test]
    async fn an_answer_that_does_not_end_in_time_is_none() {
        let server = TestServer::start(|_| Reaction::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{\"errcode\":0".to_vec()));
        let answer = impatient_client(&server).deduct(BODY.to_vec()).await;
        assert_eq!(kind_of(&answer), NoAnswerKind::Timeout);
    }

    #[tokio::test]
    async fn a_line_that_is_cut_may_have_been_taken_wherever_it_is_cut() {
        let before_reading = TestServer::start_cutting(1, |_| Reaction::json(OK));
        let answer = plain_client(&before_reading).deduct(BODY.to_vec()).await;
        assert!(matches!(kind_of(&answer), NoAnswerKind::Cut), "{answer:?}");
        assert_eq!(before_reading.connections(), 1, "nothing is resent behind the caller's back");

        let after_reading = answer_to(|| Reaction::Cut).await;
        let within_the_answer =
            answer_to(|| Reaction::SendAndClose(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{\"errcode\":0".to_vec())).await;
        for answer in [after_reading, within_the_answer] {
            assert_eq!(kind_of(&answer), NoAnswerKind::Cut);
            assert!(answer.may_have_been_taken());
        }
    }

    #[tokio::test]
    async fn a_status_that_passes_is_no_answer_whatever_its_body_says() {
        let answer = answer_to(|| Reaction::status("500 Oops", "", OK)).await;
        assert_eq!(kind_of(&answer), NoAnswerKind::Http { status: 500 });
        assert_eq!(answer.to_string(), "HTTP status 500 (errcode 0 ok)");

        let busy = answer_to(|| Reaction::status("429 Too Many Requests", "Retry-After: 7\r\n", "")).await;
        let Answer::NoAnswer(no_answer) = busy else { panic!("{busy:?}") };
        assert_eq!(no_answer.kind, NoAnswerKind::Http { status: 429 });
        assert_eq!(no_answer.retry_after, Some(Duration::from_secs(7)));
    }

    #[tokio::test]
    async fn a_4xx_is_for_the_operator() {
        let answer = answer_to(|| Reaction::status("403 Forbidden", "", "<html>")).await;
        assert_eq!(answer, Answer::HttpRefused { status: 403, detail: "HTTP status 403".to_owned(), retry_after: None });
        assert!(!answer.may_have_been_taken());
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let server = TestServer::start(|request| match request.line.as_str() {
            "POST /deduct" => Reaction::status("307 Temporary Redirect", "Location: /elsewhere\r\n", ""),
            _ => Reaction::json(OK),
        });
        let answer = plain_client(&server).deduct(BODY.to_vec()).await;
        assert_eq!(kind_of(&answer), NoAnswerKind::Redirect { status: 307 });
        assert_eq!(server.requests().len(), 1);
    }

    #[tokio::test]
    async fn a_date_to_come_back_at_is_held_against_the_servers_own_clock() {
        let headers = "Date: Thu, 01 Jan 2037 00:00:00 GMT\r\nRetry-After: Thu, 01 Jan 2037 00:02:00 GMT\r\n";
        let asked = Some(Duration::from_secs(120));
        let Answer::NoAnswer(busy) = answer_to(move || Reaction::status("503 Busy", headers, "")).await else { panic!("busy") };
        assert_eq!(busy.retry_after, asked);
        let refused = answer_to(move || Reaction::status("403 Forbidden", headers, "")).await;
        assert_eq!(refused, Answer::HttpRefused { status: 403, detail: "HTTP status 403".to_owned(), retry_after: asked });
    }

    #[tokio::test]
    async fn a_page_instead_of_json_is_no_answer() {
        for body in ["<html>errcode 0</html>", "", "[0]", "{\"errcode\":\"0\"}", "{}"] {
            let answer = answer_to(move || Reaction::json(body)).await;
            assert_eq!(kind_of(&answer), NoAnswerKind::NotJson, "{body}");
        }
    }

    #[tokio::test]
    async fn an_answer_of_a_megabyte_is_not_read_to_its_end() {
        let big = || Reaction::json(&format!("{{\"errcode\":0,\"errmsg\":\"{}\"}}", "x".repeat(1024 * 1024)));
        assert_eq!(kind_of(&answer_to(big).await), NoAnswerKind::TooLarge);
        let fits = || Reaction::json(&format!("{{\"errcode\":0,\"errmsg\":\"{}\"}}", "x".repeat(60 * 1024)));
        assert_eq!(answer_to(fits).await.to_string(), "errcode 0 …");
    }

    #[tokio::test]
    async fn sixteen_sends_at_once_ask_for_one_token() {
        let directory = tempfile::tempdir().unwrap();
        let (server, _) = wechat_that_takes_only_the_latest_token();
        let client = client(&settings(server.base_url(), stable(directory.path())));
        let mut sends = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let client = client.clone();
            sends.spawn(async move { client.deduct(BODY.to_vec()).await });
        }
        for answer in sends.join_all().await {
            assert_eq!(answer.to_string(), "errcode 0 ok");
        }
        assert_eq!(count(&server, is_token_request), 1);
        let asked = server.requests().into_iter().find(is_token_request).unwrap();
        let asked: serde_json::Value = serde_json::from_slice(&asked.body).unwrap();
        let documented = r#"{"grant_type":"client_credential","appid":"wx1234","secret":"s3cret","force_refresh":false}"#;
        assert_eq!(asked, serde_json::from_str::<serde_json::Value>(documented).unwrap());
    }

    #[tokio::test]
    async fn what_is_settled_while_a_token_is_renewed_is_not_sent_again() {
        let directory = tempfile::tempdir().unwrap();
        let (server, latest) = wechat_that_takes_only_the_latest_token();
        let client = client(&settings(server.base_url(), stable(directory.path())));
        assert_eq!(client.deduct(BODY.to_vec()).await.to_string(), "errcode 0 ok");
        latest.fetch_add(1, Ordering::SeqCst);
        assert_eq!(client.deduct_if(BODY.to_vec(), || async { false }).await, None);
        assert_eq!(count(&server, |request| !is_token_request(request)), 2, "the first, and the one whose token was refused");
    }

    #[tokio::test]
    async fn a_token_that_ends_in_the_middle_is_renewed_once_and_the_same_bytes_are_resent() {
        let directory = tempfile::tempdir().unwrap();
        let (server, latest) = wechat_that_takes_only_the_latest_token();
        let client = client(&settings(server.base_url(), stable(directory.path())));
        assert_eq!(client.deduct(BODY.to_vec()).await.to_string(), "errcode 0 ok");

        // Somebody else's call has taken the token away; all sixteen notice.
        latest.fetch_add(1, Ordering::SeqCst);
        let mut sends = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let client = client.clone();
            sends.spawn(async move { client.deduct(BODY.to_vec()).await });
        }
        for answer in sends.join_all().await {
            assert_eq!(answer.to_string(), "errcode 0 ok");
        }
        assert_eq!(count(&server, is_token_request), 2);
        assert!(server.requests().iter().filter(|request| !is_token_request(request)).all(|request| request.body == BODY));
    }

    #[tokio::test]
    async fn a_token_refused_twice_in_a_row_is_told_as_such() {
        let directory = tempfile::tempdir().unwrap();
        let server = TestServer::start(|request| {
            Reaction::json(if is_token_request(request) {
                "{\"access_token\":\"t0ken\",\"expires_in\":7200}"
            } else {
                "{\"errcode\":40001,\"errmsg\":\"invalid credential t0ken\"}"
            })
        });
        let answer = client(&settings(server.base_url(), stable(directory.path()))).deduct(BODY.to_vec()).await;
        assert_eq!(answer, Answer::Errcode { errcode: 40001, errmsg: "invalid credential …".to_owned(), class: Class::Token });
        assert_eq!((count(&server, is_token_request), server.requests().len()), (2, 4));
    }

    #[tokio::test]
    async fn trouble_at_the_token_interface_is_sorted_and_nothing_is_sent() {
        let directory = tempfile::tempdir().unwrap();
        let auth = stable(directory.path());
        for (body, class) in [
            ("{\"errcode\":40125,\"errmsg\":\"invalid appsecret s3cret\"}", Class::Operator),
            ("{\"errcode\":45009,\"errmsg\":\"\"}", Class::SlowDown),
            ("{\"errcode\":-1,\"errmsg\":\"system error\"}", Class::Transient),
        ] {
            let server = TestServer::start(move |_| Reaction::json(body));
            let answer = client(&settings(server.base_url(), auth.clone())).deduct(BODY.to_vec()).await;
            let Answer::NoToken(NoToken::Errcode { class: told, errmsg, .. }) = &answer else { panic!("{answer:?}") };
            assert_eq!(*told, class);
            assert!(!errmsg.contains("s3cret"));
            assert!(!answer.may_have_been_taken());
            assert_eq!(count(&server, |request| !is_token_request(request)), 0);
        }
    }

    #[tokio::test]
    async fn sixteen_sends_share_one_failing_renewal() {
        let directory = tempfile::tempdir().unwrap();
        let server = TestServer::start(|_| Reaction::status("503 Busy", "", ""));
        let client = client(&settings(server.base_url(), stable(directory.path())));
        let mut sends = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let client = client.clone();
            sends.spawn(async move { client.deduct(BODY.to_vec()).await });
        }
        for answer in sends.join_all().await {
            assert_eq!(answer.to_string(), "no access token: HTTP status 503");
        }
        assert_eq!(server.requests().len(), 1);
        client.deduct(BODY.to_vec()).await;
        assert_eq!(server.requests().len(), 2, "a later send asks again");
    }

    /// A WeChat whose first token lives so long; it takes every token, and answers further token requests with `to_renewals`.
    fn wechat_whose_token_lives_s(life_s: u64, to_renewals: impl Fn() -> Reaction + Send + Sync + 'static) -> TestServer {
        let tokens = AtomicUsize::new(0);
        TestServer::start(move |request| match is_token_request(request) {
            false => Reaction::json(OK),
            true if tokens.fetch_add(1, Ordering::SeqCst) > 0 => to_renewals(),
            true => Reaction::json(&format!("{{\"access_token\":\"first\",\"expires_in\":{life_s}}}")),
        })
    }

    #[tokio::test]
    async fn a_token_that_could_not_be_renewed_early_is_used_to_its_end_and_not_a_moment_longer() {
        let directory = tempfile::tempdir().unwrap();
        let server = wechat_whose_token_lives_s(4, || Reaction::status("503 Busy", "", ""));
        let client = client(&settings(server.base_url(), stable(directory.path())));
        let asked_at = Instant::now();
        let mut answer = client.deduct(BODY.to_vec()).await;
        while answer.to_string() == "errcode 0 ok" {
            assert!(asked_at.elapsed() < Duration::from_secs(60), "it ends");
            tokio::time::sleep(Duration::from_millis(20)).await;
            answer = client.deduct(BODY.to_vec()).await;
        }
        assert!(asked_at.elapsed() >= Duration::from_secs(4), "used to its end");
        assert_eq!(answer.to_string(), "no access token: HTTP status 503");
        assert!((2..=6).contains(&count(&server, is_token_request)), "not with each send: {}", count(&server, is_token_request));
    }

    #[tokio::test]
    async fn while_a_good_token_is_renewed_the_others_go_on_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let server = wechat_whose_token_lives_s(7200, || Reaction::Hang);
        let client = client(&settings(server.base_url(), stable(directory.path())));
        assert_eq!(client.deduct(BODY.to_vec()).await.to_string(), "errcode 0 ok");
        client.reload();
        let renewing = tokio::spawn({
            let client = client.clone();
            async move { client.deduct(BODY.to_vec()).await }
        });
        while count(&server, is_token_request) < 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        for _ in 0..16 {
            assert_eq!(client.deduct(BODY.to_vec()).await.to_string(), "errcode 0 ok");
        }
        assert!(!renewing.is_finished(), "the renewal is still under way");
        renewing.abort();
        assert_eq!(count(&server, is_token_request), 2);
    }

    #[tokio::test]
    async fn a_token_that_was_refused_is_not_used_again_though_it_cannot_be_renewed() {
        let directory = tempfile::tempdir().unwrap();
        let tokens = AtomicUsize::new(0);
        let server = TestServer::start(move |request| match is_token_request(request) {
            false => Reaction::json("{\"errcode\":40001}"),
            true if tokens.fetch_add(1, Ordering::SeqCst) > 0 => Reaction::status("503 Busy", "", ""),
            true => Reaction::json("{\"access_token\":\"first\",\"expires_in\":7200}"),
        });
        let client = client(&settings(server.base_url(), stable(directory.path())));
        for _ in 0..3 {
            assert_eq!(client.deduct(BODY.to_vec()).await.to_string(), "no access token: HTTP status 503");
        }
        assert_eq!(count(&server, |request| !is_token_request(request)), 1);
    }

    #[tokio::test]
    async fn a_rotated_secret_is_used_at_the_next_renewal() {
        let directory = tempfile::tempdir().unwrap();
        let (server, latest) = wechat_that_takes_only_the_latest_token();
        let client = client(&settings(server.base_url(), stable(directory.path())));
        client.deduct(BODY.to_vec()).await;
        std::fs::write(directory.path().join("appsecret"), "rotated").unwrap();
        latest.fetch_add(1, Ordering::SeqCst);
        client.deduct(BODY.to_vec()).await;
        let secrets = server.requests().into_iter().filter(is_token_request);
        let secrets: Vec<_> = secrets.map(|request| String::from_utf8(request.body).unwrap()).collect();
        assert!(secrets[0].contains("\"s3cret\"") && secrets[1].contains("\"rotated\""), "{secrets:?}");
    }

    #[tokio::test]
    async fn a_token_file_is_reread_after_a_token_error_and_after_a_reload() {
        let directory = tempfile::tempdir().unwrap();
        let token_file = directory.path().join("token");
        let good = Arc::new(Mutex::new("a+b &c=".to_owned()));
        let shared = good.clone();
        let server = TestServer::start(move |request| {
            let (_, token) = request.line.split_once("access_token=").unwrap();
            let encoded = shared.lock().unwrap().replace('+', "%2B").replace('&', "%26").replace('=', "%3D").replace(' ', "+");
            Reaction::json(if token == encoded { OK } else { "{\"errcode\":40014}" })
        });
        let mut settings = settings(server.base_url(), Auth::StaticToken { token_file: token_file.clone() });
        settings.deduct_path = "/deduct?version=1".to_owned();
        let client = client(&settings);

        std::fs::write(&token_file, "a+b &c=\n").unwrap();
        assert_eq!(client.deduct(BODY.to_vec()).await.to_string(), "errcode 0 ok");
        assert_eq!(server.requests()[0].line, "POST /deduct?version=1&access_token=a%2Bb+%26c%3D");

        std::fs::write(&token_file, "second").unwrap();
        *good.lock().unwrap() = "second".to_owned();
        assert_eq!(client.deduct(BODY.to_vec()).await.to_string(), "errcode 0 ok", "reread after a token error");

        std::fs::write(&token_file, "third").unwrap();
        *good.lock().unwrap() = "third".to_owned();
        client.reload();
        let before = server.requests().len();
        assert_eq!(client.deduct(BODY.to_vec()).await.to_string(), "errcode 0 ok");
        assert_eq!(server.requests().len(), before + 1, "reread before the first send");

        std::fs::remove_file(&token_file).unwrap();
        client.reload();
        let answer = client.deduct(BODY.to_vec()).await;
        assert!(matches!(answer, Answer::NoToken(NoToken::File { setting: "wechat.token_file", .. })), "{answer:?}");
    }

    #[test]
    fn nothing_that_the_client_prints_holds_its_secrets() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let server = TestServer::start(|request| {
            if is_token_request(request) {
                Reaction::json("{\"access_token\":\"t0ken\",\"expires_in\":7200}")
            } else {
                Reaction::Cut
            }
        });
        let client = client(&settings(server.base_url(), stable(directory.path())));
        let answer = runtime.block_on(client.deduct(BODY.to_vec()));
        let printed = format!("{client:?} {answer:?} {answer}");
        assert!(!printed.contains("t0ken") && !printed.contains("s3cret"), "{printed}");
    }

    /// A certificate authority: what signs, and its own certificate in PEM form.
    fn authority(name: &str) -> (rcgen::Issuer<'static, rcgen::KeyPair>, String) {
        let mut parameters = rcgen::CertificateParams::new([]).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = parameters.self_signed(&key).unwrap().pem();
        (rcgen::Issuer::new(parameters, key), pem)
    }

    /// An https server with a certificate for 127.0.0.1 signed by `issuer`; answers one request with [`OK`].
    fn tls_server(issuer: &rcgen::Issuer<'_, rcgen::KeyPair>) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
        let private_key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private_key.into())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base_url = format!("https://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = rustls::StreamOwned::new(rustls::ServerConnection::new(Arc::new(config)).unwrap(), stream);
            if stream.read(&mut [0; 4096]).is_ok() {
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{OK}", OK.len());
                let _ = stream.flush();
            }
        });
        base_url
    }

    #[tokio::test]
    async fn a_server_of_an_authority_in_ca_file_is_trusted_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let ca_file = directory.path().join("ca.pem");
        let deduct = async |ca: String, base_url: String| {
            std::fs::write(&ca_file, ca).unwrap();
            let settings = WeChat { ca_file: Some(ca_file.clone()), ..settings(base_url, Auth::None) };
            client(&settings).deduct(BODY.to_vec()).await
        };
        let (issuer, ours) = authority("ours");
        let (_, another) = authority("another");
        assert_eq!(deduct(format!("{another}\n{ours}"), tls_server(&issuer)).await.to_string(), "errcode 0 ok");

        let answer = deduct(another, tls_server(&issuer)).await;
        assert_eq!(kind_of(&answer), NoAnswerKind::Connect);
        assert!(answer.to_string().contains("UnknownIssuer"), "{answer}");
    }

    #[tokio::test]
    async fn a_handshake_that_never_ends_cannot_have_taken_anything() {
        // The kernel completes the TCP connection; nobody ever answers on it.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let ca_file = directory.path().join("ca.pem");
        std::fs::write(&ca_file, authority("ours").1).unwrap();
        let settings = WeChat {
            timeout: Duration::from_secs(2),
            ca_file: Some(ca_file),
            ..settings(format!("https://{}", silent.local_addr().unwrap()), Auth::None)
        };
        let answer = client(&settings).deduct(BODY.to_vec()).await;
        assert_eq!((kind_of(&answer), answer.may_have_been_taken()), (NoAnswerKind::Connect, false));
        assert_eq!(answer.to_string(), "no connection: timed out");
    }

    #[test]
    fn settings_that_cannot_be_used_are_told_with_the_setting() {
        let directory = tempfile::tempdir().unwrap();
        let ca_file = directory.path().join("ca.pem");
        let with_ca = WeChat { ca_file: Some(ca_file.clone()), ..settings("https://127.0.0.1".to_owned(), Auth::None) };
        assert!(matches!(WeChatClient::new(&with_ca, 8), Err(ClientError::CaFile { .. })));
        std::fs::write(&ca_file, "no certificate").unwrap();
        assert!(matches!(WeChatClient::new(&with_ca, 8), Err(ClientError::CaContent { .. })));
        let trouble = WeChatClient::new(&settings("https://127.0.0.1:port".to_owned(), Auth::None), 8).unwrap_err().to_string();
        assert!(trouble.contains("wechat.base_url"), "{trouble}");
    }

    /// Runs in a process of its own, started by the next test.
    #[test]
    #[ignore = "needs an environment without trust anchors"]
    fn without_trust_anchors() {
        let http = settings("http://127.0.0.1:9".to_owned(), Auth::None);
        assert!(WeChatClient::new(&http, 8).is_ok());
        let https = WeChatClient::new(&settings("https://127.0.0.1:9".to_owned(), Auth::None), 8);
        let trouble = https.unwrap_err().to_string();
        assert!(trouble.contains("install the package ca-certificates or set wechat.ca_file"), "{trouble}");
    }

    #[test]
    fn a_machine_without_trust_anchors_starts_with_plain_http() {
        let empty = tempfile::tempdir().unwrap();
        let test = "wechat::client::tests::without_trust_anchors";
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "--ignored", test])
            .env("SSL_CERT_DIR", empty.path())
            .env("SSL_CERT_FILE", empty.path().join("none"));
        let output = child.output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && told.contains("1 passed"), "{told}");
    }
}
