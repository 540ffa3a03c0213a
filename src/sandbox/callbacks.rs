//! What the sandbox tells the gate about payments, and when: who has no money, what is told late, twice, or before the deduction's
//! own answer, and what is repaid later. Pure values and a schedule; it knows neither HTTP nor keys.

use std::{collections::BTreeMap, time::Duration};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{faults::Latency, fields::Fields, random::Random};
use crate::clock::beijing_compact;

/// Copies of one callback at most.
pub const REPEAT_MAX: u32 = 20;
/// Trips of one repayment.
const REPAID_TOGETHER_MAX: usize = 20;
/// How much later the answer to a deduction is when its callback overtakes it.
const EARLY_BY: Duration = Duration::from_millis(300);
/// What the gate did not take is told again after this, then after twice as long, and so on.
const AGAIN_AFTER_MS: (u64, u64) = (250, 30_000);
/// Then nobody tells it any more.
const TRIES_MAX: u32 = 40;

/// Everything that can be switched: the body of `POST /sandbox/callbacks`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallbackRules {
    /// Nothing is sent while this is true; what is due waits.
    pub hold: bool,
    /// How long after its deduction a callback is sent; each copy has its own, so that they overtake each other.
    pub delay_ms: Latency,
    /// How often each is told again although it was received.
    pub repeat: u32,
    /// This part is sent before the answer to the deduction; of 0.25 it is every fourth, as below.
    pub early_share: f64,
    /// This part has no money: `FAIL`.
    pub fail_share: f64,
    /// After so many milliseconds what was not paid is repaid, several trips at once; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repay_after_ms: Option<u64>,
    /// This part of what was not paid is repaid.
    pub repay_share: f64,
}

impl Default for CallbackRules {
    fn default() -> Self {
        Self {
            hold: false,
            delay_ms: Latency { p50: 500, p99: 2000 },
            repeat: 0,
            early_share: 0.0,
            fail_share: 0.0,
            repay_after_ms: None,
            repay_share: 1.0,
        }
    }
}

impl CallbackRules {
    /// # Errors
    /// What makes no sense, in one sentence.
    pub fn check(&self) -> Result<(), String> {
        let shares = [("early_share", self.early_share), ("fail_share", self.fail_share), ("repay_share", self.repay_share)];
        if let Some((name, _)) = shares.iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            return Err(format!("{name} is from 0 to 1"));
        }
        if self.repeat > REPEAT_MAX {
            return Err(format!("repeat is at most {REPEAT_MAX}"));
        }
        self.delay_ms.check().map_err(|problem| format!("delay_ms: {problem}"))
    }
}

/// Which kind of callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Payment,
    Arrears,
}

/// What became of a charge, as the sandbox's book has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Money {
    /// Nobody is told: there are no callbacks.
    NotTold,
    /// Paid at once.
    Paid,
    /// The passenger had no money.
    Unpaid,
    /// Paid later.
    Repaid,
}

/// A callback that is to be sent.
#[derive(Clone, PartialEq)]
pub(super) struct Errand {
    pub(super) kind: Kind,
    /// What is to be encrypted.
    pub(super) content: Value,
    /// Which charges it is about.
    pub(super) charges: Vec<usize>,
    tries: u32,
}

impl Errand {
    /// Whether it was not sent before.
    pub(super) fn is_first(&self) -> bool {
        self.tries == 0
    }
}

/// Callbacks since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CallbackCounts {
    /// Sent, repeats and further tries included.
    pub sent: u64,
    /// Of these, received by the gate.
    pub received: u64,
    /// Given up.
    pub given_up: u64,
    /// Not yet received.
    pub outstanding: u64,
}

/// Picks a part of all, evenly: of 0.25 every fourth. By chance, a short story would lack one ending or the other.
#[derive(Debug, Clone, Copy, Default)]
struct Portion {
    picked: f64,
}

impl Portion {
    fn picks(&mut self, share: f64) -> bool {
        self.picked += share;
        let is_picked = self.picked >= 1.0 - f64::EPSILON;
        if is_picked {
            self.picked -= 1.0;
        }
        is_picked
    }
}

/// What is to be sent, by the time when it is due.
#[derive(Default)]
pub(super) struct Outbox {
    rules: CallbackRules,
    due: BTreeMap<(u64, u64), Errand>,
    /// The repayment that trips are still added to.
    open_repayment: Option<(u64, u64)>,
    planned: u64,
    under_way: u64,
    counts: CallbackCounts,
    early: Portion,
    without_money: Portion,
    repaying: Portion,
}

/// What is decided about a charge when it is made.
pub(super) struct Decided {
    pub(super) money: Money,
    /// How much later its answer is.
    pub(super) answer_later: Duration,
}

impl Outbox {
    pub(super) fn set(&mut self, rules: CallbackRules) {
        self.rules = rules;
    }

    pub(super) fn rules(&self) -> &CallbackRules {
        &self.rules
    }

    pub(super) fn counts(&self) -> CallbackCounts {
        CallbackCounts { outstanding: self.due.len() as u64 + self.under_way, ..self.counts }
    }

    /// Decides about a new charge, and plans what is told about it.
    pub(super) fn plan(&mut self, charge: usize, fields: &Fields, now: (u64, i64), random: &mut Random) -> Decided {
        let is_early = self.early.picks(self.rules.early_share);
        let money = if self.without_money.picks(self.rules.fail_share) { Money::Unpaid } else { Money::Paid };
        let content = payment(charge, fields, money, now.1);
        for copy in 0..=self.rules.repeat {
            let delay = self.rules.delay_ms.draw(random);
            let delay = if is_early && copy == 0 { Duration::ZERO } else { delay };
            let errand = Errand { kind: Kind::Payment, content: content.clone(), charges: vec![charge], tries: 0 };
            self.post(now.0 + whole_ms(delay), errand);
        }
        if money == Money::Unpaid {
            self.plan_repayment(charge, fields, now);
        }
        Decided { money, answer_later: if is_early { EARLY_BY } else { Duration::ZERO } }
    }

    fn plan_repayment(&mut self, charge: usize, fields: &Fields, (now_ms, now_utc_ms): (u64, i64)) {
        let Some(after_ms) = self.rules.repay_after_ms.filter(|_| self.repaying.picks(self.rules.repay_share)) else { return };
        let open = self.open_repayment.and_then(|place| self.due.get_mut(&place));
        if let Some(errand) = open.filter(|errand| errand.charges.len() < REPAID_TOGETHER_MAX) {
            errand.charges.push(charge);
            add_trip(&mut errand.content, charge, fields);
            return;
        }
        let mut content = repayment(charge, now_utc_ms);
        add_trip(&mut content, charge, fields);
        let errand = Errand { kind: Kind::Arrears, content, charges: vec![charge], tries: 0 };
        self.open_repayment = Some(self.post(now_ms + after_ms, errand));
    }

    fn post(&mut self, due_ms: u64, errand: Errand) -> (u64, u64) {
        self.planned += 1;
        self.due.insert((due_ms, self.planned), errand);
        (due_ms, self.planned)
    }

    /// The next callback that is due.
    pub(super) fn take(&mut self, now_ms: u64) -> Option<Errand> {
        if self.rules.hold {
            return None;
        }
        let entry = self.due.first_entry().filter(|entry| entry.key().0 <= now_ms)?;
        self.open_repayment = self.open_repayment.filter(|place| place != entry.key());
        self.under_way += 1;
        self.counts.sent += 1;
        Some(entry.remove())
    }

    /// What came of it.
    pub(super) fn came_back(&mut self, mut errand: Errand, is_received: bool, now_ms: u64) {
        self.under_way = self.under_way.saturating_sub(1);
        errand.tries += 1;
        if is_received {
            self.counts.received += 1;
        } else if errand.tries >= TRIES_MAX {
            self.counts.given_up += 1;
        } else {
            let (first_ms, longest_ms) = AGAIN_AFTER_MS;
            let pause_ms = first_ms.saturating_mul(1 << errand.tries.min(16)).min(longest_ms);
            self.post(now_ms + pause_ms, errand);
        }
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn payment(charge: usize, fields: &Fields, money: Money, utc_ms: i64) -> Value {
    let mut content = json!({
        "openid": format!("oSandbox{charge:010}"),
        "bank_type": "CFT",
        "total_fee": fields.total_fen,
        "trade_state": if money == Money::Paid { "SUCCESS" } else { "FAIL" },
        "transaction_id": format!("42000000{charge:012}"),
        "out_trade_no": fields.order,
        "attach": fields.attach,
        "time_end": beijing_compact(utc_ms),
        "qrcode": BASE64.encode(&fields.code),
    });
    if money != Money::Paid {
        content["trade_msg"] = "余额不足".into();
    }
    content
}

fn repayment(charge: usize, utc_ms: i64) -> Value {
    json!({
        "out_user_id": "sandbox",
        "openid": format!("oSandbox{charge:010}"),
        "bank_type": "CFT",
        "total_fee": 0,
        "transaction_id": format!("42000001{charge:012}"),
        // As in WeChat's own example: two digits too many.
        "time_end": format!("{}12", beijing_compact(utc_ms)),
        "repay_no": format!("R{charge:010}"),
        "order_no": [],
        "order": [],
    })
}

fn add_trip(content: &mut Value, charge: usize, fields: &Fields) {
    content["total_fee"] = (content["total_fee"].as_i64().unwrap_or(0) + fields.total_fen).into();
    let number = format!("W{charge:010}");
    let order = json!({
        "order_no": number,
        "attach": fields.attach,
        "base64_qrcode": BASE64.encode(&fields.code),
        "out_order_no": fields.order,
    });
    for (name, entry) in [("order_no", number.into()), ("order", order)] {
        if let Some(entries) = content[name].as_array_mut() {
            entries.push(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wechat::{ArrearsResult, PaymentResult, TradeState};

    const NOW: (u64, i64) = (1000, 1_795_412_070_123);

    fn fields(order: &str) -> Fields {
        Fields {
            code: order.as_bytes().to_vec(),
            start_code: None,
            total_fen: 200,
            original_fen: 200,
            start_time: String::new(),
            order: Some(order.to_owned()),
            attach: Some(order.to_owned()),
        }
    }

    fn outbox(rules: CallbackRules) -> (Outbox, Random) {
        let mut outbox = Outbox::default();
        outbox.set(rules);
        (outbox, Random::new(1))
    }

    fn at_once() -> CallbackRules {
        CallbackRules { delay_ms: Latency { p50: 0, p99: 0 }, ..CallbackRules::default() }
    }

    fn taken(outbox: &mut Outbox, now_ms: u64) -> Vec<Errand> {
        std::iter::from_fn(|| outbox.take(now_ms)).collect()
    }

    #[test]
    fn what_is_told_is_what_the_gate_reads() {
        let (mut outbox, mut random) = outbox(CallbackRules { fail_share: 1.0, repay_after_ms: Some(500), ..at_once() });
        outbox.plan(0, &fields("A0"), NOW, &mut random);
        assert_eq!(outbox.plan(1, &fields("A1"), NOW, &mut random).money, Money::Unpaid);
        let told = taken(&mut outbox, 1499);
        let read = PaymentResult::read(told[0].content.to_string().as_bytes()).unwrap();
        assert_eq!((told.len(), read.order.attach.as_deref(), read.total_fen), (2, Some("A0"), 200));
        assert!(matches!(read.state, TradeState::Fail { why: Some(_) }));
        let told = taken(&mut outbox, 1500);
        let read = ArrearsResult::read(told[0].content.to_string().as_bytes()).unwrap();
        assert_eq!((told.len(), told[0].charges.as_slice(), read.orders.len(), read.total_fen), (1, &[0, 1][..], 2, 400));
    }

    #[test]
    fn callbacks_are_late_repeated_and_overtake_each_other() {
        let delay_ms = Latency { p50: 100, p99: 1000 };
        let (mut outbox, mut random) = outbox(CallbackRules { delay_ms, repeat: 2, ..CallbackRules::default() });
        for charge in 0..20 {
            outbox.plan(charge, &fields("A"), NOW, &mut random);
        }
        assert_eq!(taken(&mut outbox, 1001).len(), 0);
        let order: Vec<_> = taken(&mut outbox, u64::MAX).into_iter().flat_map(|errand| errand.charges).collect();
        assert_eq!(order.len(), 60);
        assert!(!order.is_sorted(), "{order:?}");
    }

    #[test]
    fn a_part_is_picked_evenly() {
        let picked = |share: f64| {
            let mut portion = Portion::default();
            (0..12).filter(|_| portion.picks(share)).collect::<Vec<_>>()
        };
        assert_eq!((picked(0.25), picked(0.0), picked(1.0).len()), (vec![3, 7, 11], vec![], 12));
    }

    #[test]
    fn an_early_callback_is_due_before_its_answer() {
        let (mut outbox, mut random) = outbox(CallbackRules { early_share: 1.0, ..CallbackRules::default() });
        let decided = outbox.plan(0, &fields("A"), NOW, &mut random);
        assert_eq!((decided.answer_later, taken(&mut outbox, NOW.0).len()), (EARLY_BY, 1));
    }

    #[test]
    fn what_is_not_received_is_told_again_and_what_is_held_waits() {
        let (mut outbox, mut random) = outbox(at_once());
        outbox.plan(0, &fields("A"), NOW, &mut random);
        let errand = outbox.take(1001).unwrap();
        assert_eq!(outbox.counts().outstanding, 1);
        outbox.came_back(errand, false, 1000);
        assert!(outbox.take(1100).is_none());
        outbox.set(CallbackRules { hold: true, ..at_once() });
        assert!(outbox.take(9000).is_none());
        outbox.set(at_once());
        let errand = outbox.take(9000).unwrap();
        outbox.came_back(errand, true, 9000);
        let counts = CallbackCounts { sent: 2, received: 1, given_up: 0, outstanding: 0 };
        assert_eq!(outbox.counts(), counts);
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        let of = |text: &str| {
            serde_json::from_str::<CallbackRules>(text).map_err(|error| error.to_string()).and_then(|rules| rules.check())
        };
        assert_eq!(of("{}"), Ok(()));
        for (text, problem) in [
            (r#"{"fail_share":1.5}"#, "fail_share"),
            (r#"{"repeat":21}"#, "repeat"),
            (r#"{"delay_ms":{"p50":9,"p99":3}}"#, "delay_ms"),
            (r#"{"delay":1}"#, "unknown field"),
        ] {
            let said = of(text).unwrap_err();
            assert!(said.contains(problem), "{text}: {said}");
        }
    }
}
