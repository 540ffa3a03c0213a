//! What WeChat's callbacks say about deductions, and what came of it, as plain values.

use std::fmt;

use crate::ride_code::CodeDigest;

/// The names that somebody else has for a deduction, in the order in which they are tried.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct OrderNames {
    /// What was sent along with it: its order number, if nobody changed it.
    pub attach: Option<String>,
    /// Its order number, or one of WeChat's own.
    pub out_trade_no: Option<String>,
    /// One of WeChat's own, as a rule.
    pub order_no: Option<String>,
    /// Names its code.
    pub code: Option<CodeDigest>,
}

impl fmt::Debug for OrderNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [&self.attach, &self.out_trade_no, &self.order_no];
        let [attach, out_trade_no, order_no] = names.map(|name| name.as_deref().unwrap_or("none"));
        let code = self.code.map_or_else(|| "none".to_owned(), |code| code.to_string());
        write!(f, "attach {attach}, out_trade_no {out_trade_no}, order_no {order_no}, code {code}")
    }
}

/// The result of one payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// Of which order.
    pub order: OrderNames,
    /// Paid, or not.
    pub outcome: PaymentOutcome,
    /// How much, as told.
    pub fen: i64,
    /// WeChat's number of the payment.
    pub transaction_id: Option<String>,
    /// When, as told: any words.
    pub time_end: Option<String>,
}

/// Whether a payment came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PaymentOutcome {
    /// It did.
    Paid,
    /// It did not.
    Failed {
        /// In WeChat's words.
        why: Option<String>,
    },
}

/// One payment for trips that were not paid before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repayment {
    /// Of which orders.
    pub orders: Vec<OrderNames>,
    /// How much for all of them, as told.
    pub fen: i64,
    /// WeChat's number of the payment.
    pub transaction_id: Option<String>,
    /// WeChat's number of the repayment.
    pub repay_no: Option<String>,
    /// When, as told: any words.
    pub time_end: Option<String>,
}

/// What a callback says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Callback {
    /// Whether one order was paid.
    Payment(Payment),
    /// Orders that were paid later.
    Repayment(Repayment),
}

/// What becomes of a callback for an order that is not in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfUnknown {
    /// It is kept as evidence.
    Keep,
    /// Nothing: it is for another gate.
    Leave,
}

/// What came of a callback, order by order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// Orders that became paid or unpaid.
    pub changed: usize,
    /// Orders of which it was no news, or came too late.
    pub unchanged: usize,
    /// Orders that are not in the ledger.
    pub unknown: usize,
    /// Numbers of the orders that became paid with another amount.
    pub mismatched: Vec<String>,
    /// Numbers of the orders that became paid although they were void.
    pub paid_after_void: Vec<String>,
    /// Numbers of the orders that were paid before, by another payment.
    pub paid_again: Vec<String>,
}

/// A payment that does not fit what was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettlementAlarm {
    /// When it was told.
    pub at_utc_ms: i64,
    /// What does not fit.
    pub cause: SettlementAlarmCause,
    /// Number of the order.
    pub order: String,
}

/// What does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettlementAlarmCause {
    /// Another amount than recorded.
    Amount,
    /// The order was void.
    PaidAfterVoid,
    /// The order was paid before, by another payment.
    PaidAgain,
}

impl SettlementAlarmCause {
    const ALL: [Self; 3] = [Self::Amount, Self::PaidAfterVoid, Self::PaidAgain];

    /// As the ledger keeps it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amount => "amount",
            Self::PaidAfterVoid => "paid-after-void",
            Self::PaidAgain => "paid-again",
        }
    }

    pub(super) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == word)
    }
}

impl Settled {
    /// Whether none of its orders is here.
    #[must_use]
    pub fn is_for_others(&self) -> bool {
        self.unknown > 0 && self.changed + self.unchanged == 0
    }
}
