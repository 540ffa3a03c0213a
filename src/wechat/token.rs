//! The access token: got when needed, kept while good, renewed by one caller (`facts`: WeChat, section 2).
//!
//! Promises: a token is used to its real end unless it was refused: while it is renewed early the other callers go on with it, and a
//! renewal that fails costs nothing but another try; without a good one all wait for the same renewal; `force_refresh` is never asked for, so gates that share an appid do not take each other's token away; the secret is
//! read from its file at each renewal, so it can be rotated under a running gate; neither secret nor token is ever printed.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use tokio::sync;

use super::{
    class::{Class, Classes},
    http::{self, Http, NoAnswer, NoAnswerKind, Reply},
};

/// Longer tokens and secrets are refused; WeChat asks for room for 512 characters.
const SECRET_BYTES_MAX: u64 = 4096;

/// The documented longest life of a token; an answer that claims more is taken to mean this.
const LIFE_MAX: Duration = Duration::from_secs(7200);

/// From here to the end of its life, the old token and its successor are both good.
const OVERLAP: Duration = Duration::from_secs(300);

/// After an early renewal that failed the next is tried after a part of what is left of the old token, between these.
const EARLY_AGAIN_PART: u32 = 4;
const EARLY_AGAIN_MIN: Duration = Duration::from_secs(1);
const EARLY_AGAIN_MAX: Duration = Duration::from_secs(60);

/// Why there is no access token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoToken {
    /// The file with the secret or the token cannot be used.
    File {
        /// Which setting names it.
        setting: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The token interface answered with an error.
    Errcode {
        /// As answered.
        errcode: i64,
        /// As answered, fit for people.
        errmsg: String,
        /// What it means.
        class: Class,
    },
    /// The token interface answered with an HTTP status that does not pass by itself.
    HttpRefused {
        /// For people.
        detail: String,
        /// What the answer's `Retry-After` asks for.
        retry_after: Option<Duration>,
    },
    /// The token interface did not answer.
    NoAnswer(NoAnswer),
}

impl fmt::Display for NoToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { setting, path, reason } => write!(f, "no access token: {} ({setting}) {reason}", path.display()),
            Self::Errcode { errcode, errmsg, .. } => write!(f, "no access token: errcode {errcode} {errmsg}"),
            Self::HttpRefused { detail, .. } => write!(f, "no access token: {detail}"),
            Self::NoAnswer(no_answer) => write!(f, "no access token: {}", no_answer.detail),
        }
    }
}

/// Where tokens come from.
#[derive(Debug)]
pub(super) enum Source {
    /// The stable-token interface.
    Stable { url: Url, appid: String, secret_file: PathBuf },
    /// A file that somebody else keeps fresh.
    File { token_file: PathBuf },
    /// Requests go without a token.
    None,
}

/// One access token. Its `Debug` does not show it.
#[derive(Debug)]
pub(super) struct Token {
    text: SecretString,
    number: u64,
    /// `None`: nobody knows.
    ends_at: Option<Instant>,
}

impl Token {
    pub(super) fn expose(&self) -> &str {
        self.text.expose_secret()
    }

    fn is_over(&self) -> bool {
        self.ends_at.is_some_and(|at| at <= Instant::now())
    }
}

/// The one owner of the token.
#[derive(Debug)]
pub(super) struct Tokens {
    source: Source,
    classes: Classes,
    /// Locked for moments only, never over a request.
    state: Mutex<State>,
    /// Held by whoever renews the token.
    renewing: sync::Mutex<()>,
    /// Renewals that have ended, well or not.
    renewals: AtomicU64,
    stale: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Arc<Token>>,
    renew_at: Option<Instant>,
    /// Of the last renewal.
    failure: Option<NoToken>,
}

impl State {
    /// The token, unless it has ended or is the one that was refused.
    fn usable(&mut self, refused: Option<u64>) -> Option<Arc<Token>> {
        self.current.take_if(|token| Some(token.number) == refused || token.is_over());
        self.current.clone()
    }

    fn is_renewal_due(&self) -> bool {
        self.renew_at.is_some_and(|at| at <= Instant::now())
    }
}

/// A token as it was handed out.
struct Granted {
    text: SecretString,
    ends_at: Option<Instant>,
    renew_at: Option<Instant>,
}

impl Tokens {
    pub(super) fn new(source: Source, classes: Classes) -> Self {
        Self {
            source,
            classes,
            state: Mutex::default(),
            renewing: sync::Mutex::default(),
            renewals: AtomicU64::new(0),
            stale: AtomicBool::new(false),
        }
    }

    /// The next request gets its token anew; one of the stable-token interface is kept if that fails.
    pub(super) fn reload(&self) {
        self.stale.store(true, Ordering::Relaxed);
    }

    /// The current token, `None` where requests go without one.
    pub(super) async fn current(&self, http: &Http) -> Result<Option<Arc<Token>>, NoToken> {
        self.obtain(http, None).await
    }

    /// The successor of a token that WeChat refused; the current one when somebody else has renewed it meanwhile.
    pub(super) async fn renewed(&self, http: &Http, refused: &Token) -> Result<Option<Arc<Token>>, NoToken> {
        self.obtain(http, Some(refused.number)).await
    }

    async fn obtain(&self, http: &Http, refused: Option<u64>) -> Result<Option<Arc<Token>>, NoToken> {
        if matches!(self.source, Source::None) {
            return Ok(None);
        }
        let renewals_before = self.renewals.load(Ordering::Acquire);
        let (usable, is_due) = self.look(refused);
        match usable {
            Some(token) if !is_due => Ok(Some(token)),
            Some(token) => Ok(Some(self.renew_early(http, token).await)),
            None => self.wait_for_another(http, refused, renewals_before).await.map(Some),
        }
    }

    /// The token that can be used now, and whether it is time to renew it.
    fn look(&self, refused: Option<u64>) -> (Option<Arc<Token>>, bool) {
        let mut state = self.lock();
        if self.stale.swap(false, Ordering::Relaxed) {
            state.renew_at = Some(Instant::now());
            // A file is at hand, and what it held before is not what it holds now.
            state.current.take_if(|_| matches!(self.source, Source::File { .. }));
        }
        (state.usable(refused), state.is_renewal_due())
    }

    /// Renews a token that is still good, if nobody does; that one is used if the renewal fails.
    async fn renew_early(&self, http: &Http, old: Arc<Token>) -> Arc<Token> {
        let Ok(_renewing) = self.renewing.try_lock() else { return old };
        // Somebody may have renewed it between the look and the lock.
        if let (Some(token), false) = self.look(None) {
            return token;
        }
        match self.renew(http).await {
            Ok(token) => token,
            Err(failure) => {
                self.put_off(&old, &failure);
                old
            }
        }
    }

    fn put_off(&self, old: &Token, failure: &NoToken) {
        let left = old.ends_at.map_or(EARLY_AGAIN_MAX, |at| at.saturating_duration_since(Instant::now()));
        let again_in = (left / EARLY_AGAIN_PART).clamp(EARLY_AGAIN_MIN, EARLY_AGAIN_MAX);
        self.lock().renew_at = Instant::now().checked_add(again_in);
        log::debug!("the access token is good for {left:.0?} and could not be renewed: {failure}");
    }

    async fn wait_for_another(&self, http: &Http, refused: Option<u64>, renewals_before: u64) -> Result<Arc<Token>, NoToken> {
        let _renewing = self.renewing.lock().await;
        if let (Some(token), _) = self.look(refused) {
            return Ok(token);
        }
        // Who waited for a renewal that failed shares its outcome: sixteen sends are not sixteen failing renewals.
        let waited = self.renewals.load(Ordering::Acquire) != renewals_before;
        if let Some(failure) = self.lock().failure.clone().filter(|_| waited) {
            return Err(failure);
        }
        self.renew(http).await
    }

    /// Called by whoever holds `renewing`.
    async fn renew(&self, http: &Http) -> Result<Arc<Token>, NoToken> {
        let fetched = self.fetch(http).await;
        let number = self.renewals.fetch_add(1, Ordering::AcqRel) + 1;
        let mut state = self.lock();
        state.failure = fetched.as_ref().err().cloned();
        let Granted { text, ends_at, renew_at } = fetched?;
        let token = Arc::new(Token { text, number, ends_at });
        (state.current, state.renew_at) = (Some(Arc::clone(&token)), renew_at);
        Ok(token)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of the state is one assignment: it is whole after a panic in another task, too.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self, http: &Http) -> Result<Granted, NoToken> {
        match &self.source {
            Source::Stable { url, appid, secret_file } => {
                let secret = read_secret("wechat.secret_file", secret_file)?;
                // From before the request: the life that it tells began somewhere on the way.
                let asked_at = Instant::now();
                let reply = http.post(url.clone(), request(appid, &secret), Some(secret.expose_secret())).await;
                let (text, life) = self.granted(reply, &secret)?;
                Ok(Granted { text, ends_at: asked_at.checked_add(life), renew_at: asked_at.checked_add(kept(life)) })
            }
            Source::File { token_file } => {
                Ok(Granted { text: read_secret("wechat.token_file", token_file)?, ends_at: None, renew_at: None })
            }
            Source::None => Ok(Granted { text: SecretString::from(""), ends_at: None, renew_at: None }),
        }
    }

    fn granted(&self, reply: Reply, secret: &SecretString) -> Result<(SecretString, Duration), NoToken> {
        let object = match reply {
            Reply::Json(object) => object,
            Reply::NoAnswer(no_answer) => return Err(NoToken::NoAnswer(no_answer)),
            Reply::Refused { detail, retry_after, .. } => return Err(NoToken::HttpRefused { detail, retry_after }),
        };
        match http::errcode(&object, Some(secret.expose_secret())) {
            Some((errcode, errmsg)) if errcode != 0 => {
                Err(NoToken::Errcode { errcode, errmsg, class: self.classes.classify(errcode) })
            }
            _ => token_of(object).ok_or_else(|| {
                NoToken::NoAnswer(NoAnswer::new(NoAnswerKind::NotJson, "an answer without access_token and expires_in"))
            }),
        }
    }
}

fn request(appid: &str, secret: &SecretString) -> Vec<u8> {
    let body = json!({
        "grant_type": "client_credential",
        "appid": appid,
        "secret": secret.expose_secret(),
        "force_refresh": false,
    });
    body.to_string().into_bytes()
}

fn token_of(mut object: Map<String, Value>) -> Option<(SecretString, Duration)> {
    let life = Duration::from_secs(object.get("expires_in")?.as_u64().filter(|seconds| *seconds > 0)?);
    let Value::String(token) = object.remove("access_token")? else { return None };
    let fits = !token.is_empty() && token.len() as u64 <= SECRET_BYTES_MAX;
    fits.then(|| (SecretString::from(token), life.min(LIFE_MAX)))
}

/// After how long a token of this life is renewed: when the overlap with its successor begins, or after half of a life too short for that.
fn kept(life: Duration) -> Duration {
    life.saturating_sub(OVERLAP).max(life / 2)
}

fn read_secret(setting: &'static str, path: &Path) -> Result<SecretString, NoToken> {
    read_text(path).map(SecretString::from).map_err(|error| NoToken::File {
        setting,
        path: path.to_owned(),
        reason: format!("cannot be used: {error}"),
    })
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it holds more than {SECRET_BYTES_MAX} bytes")));
    }
    text.truncate(text.trim_end().len());
    if text.is_empty() { Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty")) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_kept_until_its_successor_exists_or_half_its_life() {
        assert_eq!(kept(LIFE_MAX), Duration::from_secs(6900));
        assert_eq!(kept(Duration::from_secs(600)), Duration::from_secs(300));
        assert_eq!(kept(Duration::from_secs(60)), Duration::from_secs(30));
        assert_eq!(kept(Duration::from_secs(1)), Duration::from_millis(500));
    }

    #[test]
    fn a_token_may_have_512_characters_and_more_but_not_any_number() {
        let granted = |token: String, life: Value| {
            let Value::Object(object) = json!({"access_token": token, "expires_in": life}) else { panic!("an object") };
            token_of(object).map(|(token, life)| (token.expose_secret().len(), life.as_secs()))
        };
        assert_eq!(granted("t".repeat(1000), json!(7200)), Some((1000, 7200)));
        assert_eq!(granted("t".repeat(5000), json!(7200)), None);
        assert_eq!(granted("t".to_owned(), json!(999_999)), Some((1, 7200)));
        assert_eq!(granted("t".to_owned(), json!(0)), None);
        assert_eq!(granted("t".to_owned(), json!("7200")), None);
        assert_eq!(granted(String::new(), json!(7200)), None);
    }

    #[test]
    fn a_secret_file_loses_white_space_at_its_end_and_may_not_be_empty() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("appsecret");
        std::fs::write(&path, " s3cret \r\n").unwrap();
        assert_eq!(read_secret("wechat.secret_file", &path).unwrap().expose_secret(), " s3cret");
        std::fs::write(&path, " \n").unwrap();
        let trouble = read_secret("wechat.secret_file", &path).unwrap_err().to_string();
        assert!(trouble.contains("(wechat.secret_file) cannot be used: it is empty"), "{trouble}");
    }

    #[test]
    fn nothing_that_is_printed_holds_a_token() {
        let token = Token { text: SecretString::from("t0ken"), number: 1, ends_at: None };
        assert!(!format!("{token:?}").contains("t0ken"));
    }
}
