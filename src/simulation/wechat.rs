//! WeChat, as far as the gate can tell: takes deductions or not, charges each number once, and tells later who has paid. It keeps
//! the book that the gate's is compared with in the end.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::plan::Weather;
use crate::{
    sandbox::Random,
    upload::{Deduct, Outcome, Verdict},
};

/// From the gate to WeChat, and back.
const WAY: Duration = Duration::from_millis(25);
/// `wechat.timeout`
const TIMEOUT: Duration = Duration::from_secs(10);

/// Clones are the same.
#[derive(Clone)]
pub(super) struct WeChat(Arc<Mutex<Inner>>);

struct Inner {
    random: Random,
    weather: Weather,
    book: BTreeMap<String, Charge>,
    letters: Vec<Letter>,
    wrong: Vec<String>,
}

/// What one order number was charged for.
#[derive(Debug, Clone)]
pub(super) struct Charge {
    body: Vec<u8>,
    pub(super) fen: i64,
    pub(super) code: String,
    pub(super) start_code: Option<String>,
    pub(super) money: Money,
}

/// What the gate was told, and has acknowledged, of a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Money {
    NotTold,
    Paid,
    Unpaid,
}

/// A callback to be sent.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub(super) order: String,
    pub(super) is_repayment: bool,
    pub(super) is_paid: bool,
    pub(super) content: Value,
    due: Instant,
}

enum Effect {
    Take,
    Leave,
}

impl WeChat {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            random: Random::new(seed),
            weather: Weather::Fine,
            book: BTreeMap::new(),
            letters: Vec::new(),
            wrong: Vec::new(),
        })))
    }

    pub(super) fn turn(&self, weather: Weather) {
        self.with(|inner| inner.weather = weather);
    }

    pub(super) fn book(&self) -> BTreeMap<String, Charge> {
        self.with(|inner| inner.book.clone())
    }

    /// What WeChat has seen that it must never see.
    pub(super) fn wrong(&self) -> Vec<String> {
        self.with(|inner| inner.wrong.clone())
    }

    /// The callbacks that are due.
    pub(super) fn letters_due(&self) -> Vec<Letter> {
        self.with(|inner| {
            let now = Instant::now();
            inner.letters.iter().filter(|letter| letter.due <= now).cloned().collect()
        })
    }

    pub(super) fn next_letter_at(&self) -> Option<Instant> {
        self.with(|inner| inner.letters.iter().map(|letter| letter.due).min())
    }

    /// The gate has acknowledged a callback, or has not and is told again later.
    pub(super) fn came_back(&self, letter: &Letter, is_received: bool) {
        self.with(|inner| inner.came_back(letter, is_received));
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.0.lock().unwrap())
    }
}

impl Inner {
    fn take(&mut self, body: &[u8]) {
        let request: Value = serde_json::from_slice(body).unwrap();
        let text = |name: &str| request[name].as_str().map(str::to_owned);
        let order = text("out_order_no").unwrap();
        if let Some(charge) = self.book.get(&order) {
            if charge.body != body {
                self.wrong.push(format!("order {order} came with other bytes than before"));
            }
            return;
        }
        let (code, start_code) = (text("qrcode").unwrap(), text("start_qrcode"));
        self.note_double(&order, &code, start_code.as_deref());
        let fen = request["total_fee"].as_i64().unwrap();
        self.post_letters(&order, &request, fen);
        self.book.insert(order, Charge { body: body.to_vec(), fen, code, start_code, money: Money::NotTold });
    }

    /// A tap is charged in one order, whatever part it has there.
    fn note_double(&mut self, order: &str, code: &str, start_code: Option<&str>) {
        for (other, charge) in &self.book {
            let theirs = [Some(charge.code.as_str()), charge.start_code.as_deref()];
            if theirs.iter().flatten().any(|their| *their == code || Some(*their) == start_code) {
                self.wrong.push(format!("orders {order} and {other} charge one tap twice"));
            }
        }
    }

    fn post_letters(&mut self, order: &str, request: &Value, fen: i64) {
        let now = Instant::now();
        let mut delay = |most_ms: u64| Duration::from_millis(self.random.below(most_ms));
        let (first, again, later) = (now + delay(20_000), now + delay(60_000), now + delay(90_000));
        let (is_paid, is_repeated, is_repaid) = (self.random.below(4) != 0, self.random.below(3) == 0, self.random.below(2) == 0);
        let mut content = json!({
            "openid": "o", "bank_type": "CFT", "total_fee": fen, "trade_state": if is_paid { "SUCCESS" } else { "FAIL" },
            "transaction_id": format!("42{order}"), "out_trade_no": order, "attach": order, "time_end": "20261126173000",
            "qrcode": request["qrcode"],
        });
        if !is_paid {
            content["trade_msg"] = "余额不足".into();
        }
        let letter = Letter { order: order.to_owned(), is_repayment: false, is_paid, content, due: first };
        if is_repeated {
            self.letters.push(Letter { due: again, ..letter.clone() });
        }
        self.letters.push(letter);
        if !is_paid && is_repaid {
            let content = json!({
                "out_user_id": "u", "openid": "o", "bank_type": "CFT", "total_fee": fen, "transaction_id": format!("43{order}"),
                "time_end": "2026112617300012", "repay_no": format!("R{order}"), "order_no": [order],
                "order": [{ "order_no": order, "attach": order, "base64_qrcode": request["qrcode"], "out_order_no": order }],
            });
            self.letters.push(Letter { order: order.to_owned(), is_repayment: true, is_paid: true, content, due: later });
        }
    }

    fn came_back(&mut self, letter: &Letter, is_received: bool) {
        let is_it =
            |other: &Letter| other.order == letter.order && other.due == letter.due && other.is_repayment == letter.is_repayment;
        let Some(at) = self.letters.iter().position(is_it) else { return };
        if !is_received {
            self.letters[at].due = Instant::now() + Duration::from_secs(7);
            return;
        }
        self.letters.remove(at);
        if let Some(charge) = self.book.get_mut(&letter.order) {
            let is_paid = letter.is_paid || charge.money == Money::Paid;
            charge.money = if is_paid { Money::Paid } else { Money::Unpaid };
        }
    }

    fn answer(&mut self) -> (Effect, Duration, Outcome) {
        let weather = match self.weather {
            Weather::Mixed => Weather::drawn(&mut self.random),
            weather => weather,
        };
        let outcome = |verdict| Outcome { verdict, evidence: format!("{weather:?}") };
        let none = |may_have_been_taken| Verdict::NoAnswer { may_have_been_taken, retry_after: None };
        match weather {
            Weather::Fine | Weather::Mixed => (Effect::Take, WAY, outcome(Verdict::Accepted)),
            Weather::Unreachable => (Effect::Leave, WAY, outcome(none(false))),
            Weather::AnswersLost => (Effect::Take, TIMEOUT, outcome(none(true))),
            Weather::Silent => (Effect::Leave, TIMEOUT, outcome(none(true))),
            Weather::Busy => (Effect::Leave, WAY, outcome(none(true))),
            Weather::SlowDown => (Effect::Leave, WAY, outcome(Verdict::SlowDown { pause: Duration::from_secs(60) })),
            Weather::Refuses => (Effect::Leave, WAY, outcome(Verdict::Park)),
            Weather::Unknown => (Effect::Leave, WAY, outcome(Verdict::Unknown)),
            Weather::Operator => (Effect::Leave, WAY, outcome(Verdict::Operator { retry_after: None })),
            Weather::Token => (Effect::Leave, WAY, outcome(Verdict::TokenTrouble { retry_after: None })),
        }
    }
}

impl Deduct for WeChat {
    async fn deduct<F: Future<Output = bool> + Send>(
        &self,
        body: Vec<u8>,
        is_wanted: impl Fn() -> F + Send + Sync,
    ) -> Option<Outcome> {
        // Now and then a token has to be got first, and meanwhile a callback may have settled the row.
        if self.with(|inner| inner.random.below(10)) == 0 {
            sleep(WAY * 4).await;
            if !is_wanted().await {
                return None;
            }
        }
        sleep(WAY).await;
        let (effect, answers_after, outcome) = self.with(Inner::answer);
        if matches!(effect, Effect::Take) {
            self.with(|inner| inner.take(&body));
        }
        sleep(answers_after).await;
        Some(outcome)
    }
}
