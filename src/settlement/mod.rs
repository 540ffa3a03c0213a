//! WeChat's way back: callbacks in, results into the ledger.
//!
//! # Promises
//! - A callback is answered as received only after what it says is durable. One that is told again changes nothing.
//! - Everything that is wrong with one has the same answer, changes nothing, and is counted by its cause: whoever has not signed
//!   learns nothing about why.
//! - Nobody can hold it up: places, times and sizes are bounded ([`LIMITS`]); who finds no place is refused and, being WeChat,
//!   comes again.
//!
//! It knows WeChat's envelope and the ledger's callbacks, and nothing of SQL, lanes or turnstiles.

mod refusal;

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{Request, State},
    http::{Method, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, time::timeout};

use crate::{
    clock::Stamp,
    config::{self, UnknownOrder},
    ledger::{
        Callback, IfUnknown, NetworkLedger, OrderNames, Payment, PaymentOutcome, Repayment, Settled, SettlementAlarm,
        SettlementAlarmCause,
    },
    monitor::{self, HttpLimits, Metrics, Turned},
    ride_code::CodeDigest,
    wechat::{self, ArrearsResult, Letter, Opener, PaymentResult, TradeState},
};
use refusal::{Cause, Refusals};

/// What callers may take. WeChat's other callbacks wait 5 s for an answer.
pub const LIMITS: HttpLimits = HttpLimits {
    header_read_timeout: Duration::from_secs(5),
    request_timeout: Duration::from_secs(5),
    connection_age_max: Duration::from_secs(10),
    connections_max: 64,
    // Read and thrown away beyond CALLBACK_BYTES_MAX, so that the refusal can be heard.
    body_bytes_max: 1024 * 1024,
};

/// A callback is no longer than this.
pub const CALLBACK_BYTES_MAX: usize = 64 * 1024;
/// How long a callback waits for the ledger: less than its request may take.
const LEDGER_WAIT: Duration = Duration::from_secs(4);
/// How long it waits then for what the ledger says of others, for people only.
const RECALL_WAIT: Duration = Duration::from_millis(500);
/// An alarm about a payment lasts so long: nobody can say that it was seen.
const ALARM_MS: i64 = 24 * 60 * 60 * 1000;

/// What the room tells people.
#[derive(Debug, Default)]
pub struct SettlementMonitor {
    /// Payments that did not fit, those of earlier runs included.
    alarms: Mutex<Vec<SettlementAlarm>>,
}

impl SettlementMonitor {
    /// The alarm that is raised, one sentence.
    #[must_use]
    pub fn alarm(&self) -> Option<String> {
        let since_utc_ms = Stamp::now().utc_ms - ALARM_MS;
        let alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        let mut recent = alarms.iter().filter(|alarm| alarm.at_utc_ms > since_utc_ms);
        let SettlementAlarm { cause, order, .. } = recent.next_back()?;
        let before = match recent.count() {
            0 => String::new(),
            count => format!(", and {count} more within 24 hours that do not fit"),
        };
        let what = words(*cause);
        Some(format!("settlement: order {order} {what}{before}; compare it with WeChat's bill: faregate queue show {order}"))
    }

    fn show(&self, alarms: Vec<SettlementAlarm>) {
        *self.alarms.lock().unwrap_or_else(PoisonError::into_inner) = alarms;
    }
}

/// What became of an order that does not fit.
fn words(cause: SettlementAlarmCause) -> &'static str {
    match cause {
        SettlementAlarmCause::Amount => "was paid with another amount than recorded",
        SettlementAlarmCause::PaidAfterVoid => "was void and is paid all the same",
        SettlementAlarmCause::PaidAgain => "was paid before and is paid again, by another payment",
    }
}

/// Takes callbacks. Clones are the same receiver.
#[derive(Clone)]
pub struct Receiver(Arc<Inner>);

struct Inner {
    opener: Opener,
    payment_path: String,
    arrears_path: String,
    unknown_order: UnknownOrder,
    ledger: NetworkLedger,
    metrics: Metrics,
    refusals: Refusals,
    monitor: Arc<SettlementMonitor>,
}

/// What kind of callback comes at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Payment,
    Arrears,
}

impl Receiver {
    /// Of `[callback]`; `opener` has its keys.
    #[must_use]
    pub fn new(
        settings: &config::Callback,
        opener: Opener,
        ledger: NetworkLedger,
        metrics: Metrics,
        monitor: Arc<SettlementMonitor>,
    ) -> Self {
        metrics.callbacks_begin(&[Kind::Payment.as_str(), Kind::Arrears.as_str()], &Cause::ALL.map(Cause::as_str));
        Self(Arc::new(Inner {
            opener,
            payment_path: settings.payment_path.clone(),
            arrears_path: settings.arrears_path.clone(),
            unknown_order: settings.unknown_order,
            ledger,
            refusals: Refusals::new(metrics.clone()),
            metrics,
            monitor,
        }))
    }

    /// Whether a callback is received that comes without a network.
    #[cfg(test)]
    #[cfg(feature = "sandbox")]
    pub(crate) async fn receives(&self, path: &str, envelope: &Value) -> bool {
        let request = Request::post(path).body(Body::from(envelope.to_string())).unwrap();
        self.0.take(request).await.is_ok()
    }

    /// Serves until `stop` is true or its sender is gone.
    pub async fn serve(self, listener: TcpListener, stop: watch::Receiver<bool>) {
        self.0.recall().await;
        let turned = self.clone();
        let turn_away = Arc::new(move |why: Turned| turned.0.refused(Cause::from(why)));
        let router = Router::new().fallback(receive).with_state(self);
        monitor::serve_or_turn_away(listener, router, LIMITS, turn_away, stop).await;
    }
}

/// One callback. Every path and method leads here: what is none of ours has the same answer as everything that is wrong.
async fn receive(State(Receiver(inner)): State<Receiver>, request: Request) -> Response {
    match inner.take(request).await {
        Ok(nonce) => answer(&json!({ "errcode": 0, "errmsg": "ok", "nonce_str": nonce })),
        Err(cause) => inner.refused(cause),
    }
}

fn answer(document: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], document.to_string()).into_response()
}

impl Inner {
    /// The nonce to repeat, when what was told is durable.
    async fn take(&self, request: Request) -> Result<String, Cause> {
        let (head, body) = request.into_parts();
        // First the body, so that who sends one hears the answer.
        let body = read(body).await?;
        let kind = self.kind(head.uri.path()).ok_or(Cause::Path)?;
        if head.method != Method::POST {
            return Err(Cause::Method);
        }
        let Letter { nonce, content } = self.opener.open(&body).map_err(Cause::NotOpened)?;
        let callback = kind.read(&content).ok_or(Cause::Content)?;
        let settled = self.settle(callback).await?;
        self.tell(kind, &settled).await;
        // Of a repayment for trips at several gates none knows all: who knows one has received it.
        if settled.is_for_others() && self.unknown_order == UnknownOrder::Refuse {
            return Err(Cause::UnknownOrder);
        }
        Ok(nonce)
    }

    fn kind(&self, path: &str) -> Option<Kind> {
        match path {
            _ if path == self.payment_path => Some(Kind::Payment),
            _ if path == self.arrears_path => Some(Kind::Arrears),
            _ => None,
        }
    }

    async fn settle(&self, callback: Callback) -> Result<Settled, Cause> {
        let if_unknown = match self.unknown_order {
            UnknownOrder::Accept => IfUnknown::Keep,
            UnknownOrder::Refuse => IfUnknown::Leave,
        };
        let settled = timeout(LEDGER_WAIT, self.ledger.settle(callback, if_unknown)).await;
        // The ledger itself tells people why; WeChat comes again.
        settled.map_err(|_| Cause::Ledger)?.map_err(|_| Cause::Ledger)
    }

    async fn tell(&self, kind: Kind, settled: &Settled) {
        let Settled { changed, unchanged, unknown, mismatched, paid_after_void, paid_again } = settled;
        self.metrics.callback(kind.as_str(), [*changed, *unchanged, *unknown].map(|count| count as u64));
        if *unknown > 0 && self.unknown_order == UnknownOrder::Accept {
            self.refusals.tell_of_unknown();
        }
        let unfit = [
            (SettlementAlarmCause::Amount, mismatched),
            (SettlementAlarmCause::PaidAfterVoid, paid_after_void),
            (SettlementAlarmCause::PaidAgain, paid_again),
        ];
        for (cause, orders) in unfit {
            let what = words(cause);
            for order in orders {
                log::error!("order {order} {what}; see: faregate queue show {order}");
            }
        }
        if unfit.iter().any(|(_, orders)| !orders.is_empty()) {
            self.recall().await;
        }
    }

    /// Shows people what the ledger has. One that cannot be read has an alarm of its own, and is asked again.
    async fn recall(&self) {
        if let Ok(Ok(alarms)) = timeout(RECALL_WAIT, self.ledger.settlement_alarms()).await {
            self.monitor.show(alarms);
        }
    }

    fn refused(&self, cause: Cause) -> Response {
        self.refusals.note(cause);
        answer(&json!({ "errcode": 1, "errmsg": "refused" }))
    }
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Payment => "payment",
            Self::Arrears => "arrears",
        }
    }

    /// `None` when it is not what WeChat documents.
    fn read(self, content: &[u8]) -> Option<Callback> {
        match self {
            Self::Payment => PaymentResult::read(content).ok().map(|result| Callback::Payment(payment(result))),
            Self::Arrears => ArrearsResult::read(content).ok().map(|result| Callback::Repayment(repayment(result))),
        }
    }
}

fn payment(result: PaymentResult) -> Payment {
    Payment {
        order: names(result.order),
        outcome: match result.state {
            TradeState::Success => PaymentOutcome::Paid,
            TradeState::Fail { why } => PaymentOutcome::Failed { why },
        },
        fen: result.total_fen,
        transaction_id: result.transaction_id,
        time_end: result.time_end,
    }
}

fn repayment(result: ArrearsResult) -> Repayment {
    let ArrearsResult { orders, total_fen, transaction_id, repay_no, time_end } = result;
    Repayment { orders: orders.into_iter().map(names).collect(), fen: total_fen, transaction_id, repay_no, time_end }
}

fn names(names: wechat::OrderNames) -> OrderNames {
    let wechat::OrderNames { attach, out_trade_no, order_no, code } = names;
    OrderNames { attach, out_trade_no, order_no, code: code.map(|code| CodeDigest::of(&code)) }
}

/// The whole body; what is beyond [`CALLBACK_BYTES_MAX`] is thrown away as it comes.
async fn read(body: Body) -> Result<Vec<u8>, Cause> {
    let (mut body, mut bytes, mut length) = (pin!(body), Vec::new(), 0_usize);
    while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
        let is_long = length > CALLBACK_BYTES_MAX;
        let frame = frame.map_err(|_| if is_long { Cause::TooLarge } else { Cause::Unreadable })?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length <= CALLBACK_BYTES_MAX {
            bytes.extend_from_slice(&data);
        }
    }
    if length > CALLBACK_BYTES_MAX { Err(Cause::TooLarge) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_that_does_not_fit_is_an_alarm_that_names_the_order() {
        let monitor = SettlementMonitor::default();
        let alarm = |order: &str, age_ms, cause| SettlementAlarm {
            at_utc_ms: Stamp::now().utc_ms - age_ms,
            cause,
            order: order.to_owned(),
        };
        let old = alarm("A1", ALARM_MS + 1, SettlementAlarmCause::Amount);
        monitor.show(vec![old.clone()]);
        assert_eq!(monitor.alarm(), None);
        monitor.show(vec![old.clone(), alarm("A2", 2, SettlementAlarmCause::Amount)]);
        assert!(monitor.alarm().unwrap().contains("order A2 was paid with another amount than recorded; compare"));
        let last = alarm("A3", 1, SettlementAlarmCause::PaidAgain);
        monitor.show(vec![old, alarm("A2", 2, SettlementAlarmCause::Amount), last]);
        let told = monitor.alarm().unwrap();
        assert!(told.contains("order A3 was paid before and is paid again, by another payment, and 1 more"), "{told}");
        assert!(told.ends_with("faregate queue show A3"));
    }

    #[tokio::test]
    async fn a_body_is_taken_up_to_its_limit_and_not_a_byte_longer() {
        let length = |bytes: usize| async move { read(Body::from(vec![b'x'; bytes])).await.map(|body| body.len()) };
        assert_eq!(length(CALLBACK_BYTES_MAX).await, Ok(CALLBACK_BYTES_MAX));
        assert_eq!(length(CALLBACK_BYTES_MAX + 1).await, Err(Cause::TooLarge));
        assert_eq!(length(0).await, Ok(0));
    }

    #[test]
    fn what_is_told_for_an_order_reaches_the_ledger_with_the_digest_of_its_code_only() {
        let content = br#"{"total_fee":160,"trade_state":"FAIL","trade_msg":"no money","attach":"A1","qrcode":"gP/+AQ=="}"#;
        let Some(Callback::Payment(told)) = Kind::Payment.read(content) else { panic!("no payment") };
        assert_eq!(told.order.code, Some(CodeDigest::of(&[0x80, 0xff, 0xfe, 1])));
        assert_eq!((told.outcome, told.fen), (PaymentOutcome::Failed { why: Some("no money".to_owned()) }, 160));
        assert_eq!(Kind::Arrears.read(b"{}"), None);
    }
}
