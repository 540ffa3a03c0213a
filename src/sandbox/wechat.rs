//! WeChat's side of a deduction, as far as it is documented (`facts`: WeChat, sections 1 to 4): a request and the time in, an answer
//! out. Pure: sockets, waiting and clocks are `server`'s affair.
//!
//! - A deduction is charged once per `out_order_no`: the same bytes again get the same answer, other bytes are refused.
//! - What a fault spoils is charged or not as the fault says, so that the book is right whatever the gate saw.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    book::{Book, Charge, Entry},
    callbacks::{CallbackCounts, CallbackRules, Errand, Kind, Money, Outbox},
    faults::{Fault, Faults, FaultsInForce, On, Rule, Schedule},
    fields::{self, Fields},
    random::Random,
    token::{NoGood, Tokens, TooOften},
};

/// An order number that other bytes have used ("201 商户订单号重复" in sibling products).
pub const ERRCODE_ORDER_REUSED: i64 = 201;

const OK: i64 = 0;
const BAD_APPID: i64 = 40013;
const BAD_GRANT: i64 = 40002;
const BAD_SECRET: i64 = 40125;
const BAD_TOKEN: i64 = 40001;
const NO_TOKEN: i64 = 41001;
const TOKEN_EXPIRED: i64 = 42001;
const NEEDS_POST: i64 = 43002;
const TODAY: i64 = 45009;
const TOO_SOON: i64 = 45011;
const BAD_DATA: i64 = 47001;

/// What the sandbox takes for right.
#[derive(Clone)]
pub struct Options {
    /// Of the one app that it knows.
    pub appid: String,
    /// Of that app.
    pub secret: String,
    /// Where tokens are to be had.
    pub token_path: String,
    /// Where deductions go.
    pub deduct_path: String,
    /// How long a token is good.
    pub token_life: Duration,
    /// Whether deductions need one.
    pub token_use: TokenUse,
    /// Answers every repeat of a charged order; `None`: as the first time.
    pub duplicate_errcode: Option<i64>,
    /// Of everything that is left to chance.
    pub seed: u64,
}

/// Whether deductions need a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenUse {
    /// In the query, as `access_token`.
    Required,
    /// Not looked at: something before WeChat adds it.
    Ignored,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            appid: "wxsandbox".to_owned(),
            secret: "sandbox-secret".to_owned(),
            token_path: "/cgi-bin/stable_token".to_owned(),
            deduct_path: "/deduct".to_owned(),
            token_life: Duration::from_secs(7200),
            token_use: TokenUse::Required,
            duplicate_errcode: None,
            seed: 1,
        }
    }
}

/// One HTTP request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Upper case.
    pub method: &'a str,
    /// Without the query.
    pub path: &'a str,
    /// Without the question mark.
    pub query: &'a str,
    /// The bytes.
    pub body: &'a [u8],
}

/// When a request came.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Since the sandbox's start, by a clock that never jumps.
    pub since_start_ms: u64,
    /// By the real-time clock.
    pub utc_ms: i64,
}

/// What becomes of a request, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// How long it takes.
    pub after: Duration,
    /// What is sent, if anything.
    pub answer: Answer,
}

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 200 with this document.
    Json(Value),
    /// This status with a page.
    Page(u16, &'static str),
    /// The connection is closed without a byte.
    Cut,
    /// Nothing, and the connection stays.
    Silence,
}

/// Requests and what became of them, since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// For a token.
    pub token_requests: u64,
    /// With a deduction, spoilt ones included.
    pub deduct_requests: u64,
    /// Spoilt by a fault.
    pub spoilt: u64,
    /// Of an order that was charged before.
    pub repeated: u64,
    /// Refused, by errcode.
    pub refused: BTreeMap<i64, u64>,
}

/// The other side.
pub struct WeChat {
    options: Options,
    tokens: Tokens,
    schedule: Schedule,
    book: Book,
    counts: Counts,
    random: Random,
    /// Absent when nobody is called back.
    outbox: Option<Outbox>,
    /// How much later the answer under way is.
    answer_later: Duration,
}

impl WeChat {
    /// Without faults, with an empty book.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            tokens: Tokens::new(options.token_life),
            schedule: Schedule::default(),
            book: Book::default(),
            counts: Counts::default(),
            random: Random::new(options.seed),
            outbox: None,
            answer_later: Duration::ZERO,
            options,
        }
    }

    /// Answers one request.
    pub fn answer(&mut self, request: &Request<'_>, now: Moment) -> Reply {
        let on = match request.path {
            path if path == self.options.deduct_path => On::Deduct,
            path if path == self.options.token_path => On::Token,
            _ => return Reply { after: Duration::ZERO, answer: Answer::Page(404, "there is no such interface in the sandbox\n") },
        };
        match on {
            On::Deduct => self.counts.deduct_requests += 1,
            _ => self.counts.token_requests += 1,
        }
        let spoilt = self.schedule.spoil(on, now.since_start_ms, &mut self.random);
        let answer = match spoilt {
            Some(rule) => self.spoil(&rule, on, request, now),
            None => Answer::Json(self.serve(on, request, now)),
        };
        let answer_later = std::mem::take(&mut self.answer_later);
        Reply { after: self.schedule.latency(&mut self.random) + answer_later, answer }
    }

    /// Replaces the faults.
    ///
    /// # Errors
    /// They make no sense; those that were set stay.
    pub fn set_faults(&mut self, faults: Faults, now: Moment) -> Result<(), String> {
        faults.check()?;
        self.schedule.set(faults, now.since_start_ms);
        Ok(())
    }

    /// From now on charges are told to the gate by these rules.
    ///
    /// # Errors
    /// They make no sense; those that were set stay.
    pub fn set_callbacks(&mut self, rules: CallbackRules) -> Result<(), String> {
        rules.check()?;
        self.outbox.get_or_insert_default().set(rules);
        Ok(())
    }

    /// The rules for callbacks and what came of them; `None` when nobody is called back.
    #[must_use]
    pub fn callbacks(&self) -> Option<(&CallbackRules, CallbackCounts)> {
        self.outbox.as_ref().map(|outbox| (outbox.rules(), outbox.counts()))
    }

    /// The next callback that is due. A repayment happens now.
    pub(super) fn next_errand(&mut self, now: Moment) -> Option<Errand> {
        let errand = self.outbox.as_mut()?.take(now.since_start_ms)?;
        if errand.is_first() && errand.kind == Kind::Arrears {
            errand.charges.iter().for_each(|&charge| self.book.decide(charge, Money::Repaid));
        }
        Some(errand)
    }

    pub(super) fn errand_came_back(&mut self, errand: Errand, is_received: bool, now: Moment) {
        if is_received {
            errand.charges.iter().for_each(|&charge| self.book.told(charge, errand.kind == Kind::Arrears));
        }
        if let Some(outbox) = &mut self.outbox {
            outbox.came_back(errand, is_received, now.since_start_ms);
        }
    }

    /// The faults that are set.
    #[must_use]
    pub fn faults(&self) -> FaultsInForce {
        self.schedule.in_force()
    }

    /// The tokens that were handed out are no longer good.
    pub fn invalidate_tokens(&mut self) {
        self.tokens.invalidate();
    }

    /// What was charged, in order.
    #[must_use]
    pub fn charges(&self) -> &[Charge] {
        self.book.charges()
    }

    /// What came.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The book as a document: sums, counts, and every charge.
    #[must_use]
    pub fn book(&self) -> Value {
        json!({
            "charged": { "count": self.charges().len(), "fen": self.book.total_fen() },
            "counts": self.counts,
            "charges": self.charges(),
        })
    }

    fn spoil(&mut self, rule: &Rule, on: On, request: &Request<'_>, now: Moment) -> Answer {
        self.counts.spoilt += 1;
        if rule.takes() {
            self.serve(on, request, now);
        }
        match rule.fault {
            Fault::Drop | Fault::Refuse => Answer::Cut,
            Fault::Errcode => Answer::Json(self.refused(rule.errcode.unwrap_or(-1), "a fault of the sandbox")),
            Fault::Http => Answer::Page(rule.status.unwrap_or(500), "a fault of the sandbox\n"),
            Fault::Html => Answer::Page(200, "<!DOCTYPE html><title>Sign in</title><p>Sign in to use this network.\n"),
            Fault::Hang => Answer::Silence,
        }
    }

    fn serve(&mut self, on: On, request: &Request<'_>, now: Moment) -> Value {
        if request.method != "POST" {
            return self.refused(NEEDS_POST, "require POST method");
        }
        match on {
            On::Deduct => self.deduct(request, now),
            _ => self.token(request.body, now),
        }
    }

    fn refused(&mut self, errcode: i64, errmsg: &str) -> Value {
        *self.counts.refused.entry(errcode).or_default() += 1;
        json!({ "errcode": errcode, "errmsg": errmsg })
    }

    // ---- deductions ------------------------------------------------------------------------------------------------------------

    fn deduct(&mut self, request: &Request<'_>, now: Moment) -> Value {
        if self.options.token_use == TokenUse::Required {
            if let Err(no_good) = self.tokens.check(access_token(request.query), now.since_start_ms) {
                return self.bad_token(no_good);
            }
        }
        match fields::read(request.body) {
            Ok(fields) => self.charge(&fields, request.body, now),
            Err(problems) => self.refused(BAD_DATA, &problems),
        }
    }

    fn bad_token(&mut self, no_good: NoGood) -> Value {
        match no_good {
            NoGood::Missing => self.refused(NO_TOKEN, "access_token missing"),
            NoGood::Expired => self.refused(TOKEN_EXPIRED, "access_token expired"),
            NoGood::Unknown => self.refused(BAD_TOKEN, "invalid credential, access_token is invalid or not latest"),
        }
    }

    fn charge(&mut self, fields: &Fields, body: &[u8], now: Moment) -> Value {
        let entry = self.book.enter(fields.clone(), body, now.utc_ms);
        if entry == Entry::New {
            self.plan_callbacks(fields, now);
        }
        match (entry, self.options.duplicate_errcode) {
            (Entry::Repeated, Some(errcode)) => {
                self.counts.repeated += 1;
                json!({ "errcode": errcode, "errmsg": "this order is charged already" })
            }
            (Entry::Repeated, None) => {
                self.counts.repeated += 1;
                ok()
            }
            (Entry::New, _) => ok(),
            (Entry::Conflict, _) => self.refused(ERRCODE_ORDER_REUSED, "商户订单号重复: out_order_no was used with other content"),
            (Entry::Full, _) => self.refused(TODAY, "the sandbox's book is full; start it again"),
        }
    }

    fn plan_callbacks(&mut self, fields: &Fields, now: Moment) {
        let Some(outbox) = &mut self.outbox else { return };
        let charge = self.book.charges().len().saturating_sub(1);
        let decided = outbox.plan(charge, fields, (now.since_start_ms, now.utc_ms), &mut self.random);
        self.book.decide(charge, decided.money);
        self.answer_later = decided.answer_later;
    }

    // ---- tokens ----------------------------------------------------------------------------------------------------------------

    fn token(&mut self, body: &[u8], now: Moment) -> Value {
        let Ok(Value::Object(asked)) = serde_json::from_slice(body) else {
            return self.refused(BAD_DATA, "the body is no JSON object");
        };
        let is = |name: &str, value: &str| asked.get(name).and_then(Value::as_str) == Some(value);
        if !is("grant_type", "client_credential") {
            return self.refused(BAD_GRANT, "grant_type must be client_credential");
        }
        if !is("appid", &self.options.appid) {
            return self.refused(BAD_APPID, "invalid appid");
        }
        if !is("secret", &self.options.secret) {
            return self.refused(BAD_SECRET, "invalid appsecret");
        }
        match asked.get("force_refresh") {
            None | Some(Value::Bool(false)) => {}
            Some(Value::Bool(true)) => match self.tokens.force(now.since_start_ms) {
                Ok(()) => {}
                Err(TooOften::TooSoon) => return self.refused(TOO_SOON, "force_refresh: once in 30 s"),
                Err(TooOften::Today) => return self.refused(TODAY, "force_refresh: 20 times a day"),
            },
            Some(_) => return self.refused(BAD_DATA, "force_refresh must be true or false"),
        }
        let (token, expires_in) = self.tokens.issue(now.since_start_ms, &mut self.random);
        json!({ "access_token": token, "expires_in": expires_in })
    }
}

fn ok() -> Value {
    json!({ "errcode": OK, "errmsg": "ok" })
}

/// Tokens of the sandbox need no escapes in a query.
fn access_token(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("access_token="))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"qrcode":"gP/+AQ==","total_fee":160,"original_fee":200,"body":"地铁代扣","start_time":"20261123133430","line_name":"2号线","trade_scene":"METRO","out_order_no":"A1","attach":"A1"}"#;

    struct Bench {
        wechat: WeChat,
        now: Moment,
        token: String,
    }

    impl Bench {
        fn new(options: Options) -> Self {
            let mut bench = Self {
                wechat: WeChat::new(options),
                now: Moment { since_start_ms: 0, utc_ms: 1_795_412_070_123 },
                token: String::new(),
            };
            bench.renew();
            bench
        }

        fn ask(&mut self, method: &str, path: &str, query: &str, body: &str) -> Answer {
            let request = Request { method, path, query, body: body.as_bytes() };
            self.wechat.answer(&request, self.now).answer
        }

        fn renew(&mut self) {
            let body = r#"{"grant_type":"client_credential","appid":"wxsandbox","secret":"sandbox-secret","force_refresh":false}"#;
            let Answer::Json(answer) = self.ask("POST", "/cgi-bin/stable_token", "", body) else { panic!("no JSON") };
            answer["access_token"].as_str().unwrap().clone_into(&mut self.token);
        }

        fn deduct(&mut self, body: &str) -> Answer {
            let query = format!("access_token={}", self.token);
            self.ask("POST", "/deduct", &query, body)
        }

        fn errcode(&mut self, body: &str) -> i64 {
            code_of(&self.deduct(body))
        }

        fn charged(&self) -> (usize, i64) {
            (self.wechat.charges().len(), self.wechat.book.total_fen())
        }

        fn fault(&mut self, rule: Rule) {
            self.wechat.set_faults(Faults { latency_ms: None, rules: vec![rule] }, self.now).unwrap();
        }
    }

    fn code_of(answer: &Answer) -> i64 {
        let Answer::Json(answer) = answer else { panic!("no JSON: {answer:?}") };
        answer["errcode"].as_i64().unwrap()
    }

    #[test]
    fn the_same_bytes_are_charged_once_and_answered_the_same_and_other_bytes_are_refused() {
        let mut bench = Bench::new(Options::default());
        assert_eq!(bench.deduct(BODY), bench.deduct(BODY));
        assert_eq!(bench.charged(), (1, 160));
        assert_eq!(bench.errcode(&BODY.replace("160", "170")), ERRCODE_ORDER_REUSED);
        assert_eq!(bench.charged(), (1, 160));
        assert_eq!(bench.errcode(&BODY.replace("A1", "A2")), 0);
        let book = bench.wechat.book();
        assert_eq!((&book["charged"], &book["charges"][0]["requests"]), (&json!({"count": 2, "fen": 320}), &json!(2)));
        assert!(!book.to_string().contains("gP/+AQ"), "the book holds a code");
    }

    #[test]
    fn every_repeat_can_be_answered_with_an_errcode() {
        let mut bench = Bench::new(Options { duplicate_errcode: Some(61010), ..Options::default() });
        assert_eq!((bench.errcode(BODY), bench.errcode(BODY), bench.errcode(BODY)), (0, 61010, 61010));
        assert_eq!(bench.charged(), (1, 160));
    }

    #[test]
    fn a_deduction_needs_a_good_token() {
        let mut bench = Bench::new(Options { token_life: Duration::from_secs(60), ..Options::default() });
        assert_eq!(code_of(&bench.ask("POST", "/deduct", "", BODY)), NO_TOKEN);
        assert_eq!(code_of(&bench.ask("POST", "/deduct", "access_token=x", BODY)), BAD_TOKEN);
        bench.now.since_start_ms = 60_000;
        assert_eq!(bench.errcode(BODY), TOKEN_EXPIRED);
        bench.renew();
        bench.wechat.invalidate_tokens();
        assert_eq!(bench.errcode(BODY), BAD_TOKEN);
        assert_eq!(bench.charged(), (0, 0));
        bench.renew();
        assert_eq!(bench.errcode(BODY), 0);
        let mut without = Bench::new(Options { token_use: TokenUse::Ignored, ..Options::default() });
        assert_eq!(code_of(&without.ask("POST", "/deduct", "", BODY)), 0);
    }

    #[test]
    fn a_token_needs_the_right_app_and_secret() {
        let mut bench = Bench::new(Options::default());
        let good = r#"{"grant_type":"client_credential","appid":"wxsandbox","secret":"sandbox-secret"}"#;
        for (from, to, errcode) in [
            ("wxsandbox", "wxother", BAD_APPID),
            ("sandbox-secret", "guess", BAD_SECRET),
            ("client_credential", "password", BAD_GRANT),
            ("{", "", BAD_DATA),
            ("}", r#","force_refresh":1}"#, BAD_DATA),
        ] {
            let answer = bench.ask("POST", "/cgi-bin/stable_token", "", &good.replacen(from, to, 1));
            assert_eq!(code_of(&answer), errcode, "{from} as {to}");
        }
        assert_eq!(code_of(&bench.ask("GET", "/cgi-bin/stable_token", "", "")), NEEDS_POST);
        assert_eq!(bench.ask("POST", "/elsewhere", "", ""), Answer::Page(404, "there is no such interface in the sandbox\n"));
    }

    #[test]
    fn a_bad_deduction_is_refused_with_what_is_wrong() {
        let mut bench = Bench::new(Options::default());
        let Answer::Json(answer) = bench.deduct(&BODY.replace("160", "\"160\"")) else { panic!("no JSON") };
        assert_eq!(answer, json!({"errcode": BAD_DATA, "errmsg": "total_fee must be a whole number of fen from 0 to 2147483647"}));
        assert_eq!((bench.charged(), bench.wechat.counts().refused[&BAD_DATA]), ((0, 0), 1));
    }

    #[test]
    fn each_fault_charges_or_not_as_it_says() {
        let taken = |fault| Rule { taken: true, ..Rule::always(fault) };
        let http = Rule { status: Some(500), ..Rule::always(Fault::Http) };
        for (rule, charges) in [
            (Rule::always(Fault::Drop), 1),
            (Rule::always(Fault::Refuse), 0),
            (Rule { errcode: Some(-1), ..Rule::always(Fault::Errcode) }, 0),
            (http.clone(), 0),
            (Rule { taken: true, ..http }, 1),
            (Rule::always(Fault::Html), 0),
            (taken(Fault::Html), 1),
            (Rule::always(Fault::Hang), 0),
            (taken(Fault::Hang), 1),
        ] {
            let mut bench = Bench::new(Options::default());
            bench.fault(rule.clone());
            let answer = bench.deduct(BODY);
            assert_eq!(bench.charged().0, charges, "{rule:?}");
            let is_as_asked = match rule.fault {
                Fault::Drop | Fault::Refuse => answer == Answer::Cut,
                Fault::Errcode => code_of(&answer) == -1,
                Fault::Http => matches!(answer, Answer::Page(500, _)),
                Fault::Html => matches!(answer, Answer::Page(200, page) if page.contains("<!DOCTYPE")),
                Fault::Hang => answer == Answer::Silence,
            };
            assert!(is_as_asked, "{rule:?}: {answer:?}");
            bench.wechat.set_faults(Faults::default(), bench.now).unwrap();
            assert_eq!((bench.errcode(BODY), bench.charged().0), (0, 1), "sent again after {rule:?}");
        }
    }
}
