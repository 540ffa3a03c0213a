//! What WeChat's callbacks make of deductions, in whatever order they come: the contract's table of events. Nothing here lowers the
//! rank of a state (pending < accepted < unpaid < paid), and what changes nothing is still told in the order's story.

use std::fmt::Write as _;

use rusqlite::{OptionalExtension, Row, params};
use sha2::{Digest, Sha256};

use super::Store;
use crate::{
    ledger::{
        OrderNumber,
        results::{Callback, IfUnknown, OrderNames, Payment, PaymentOutcome, Repayment, Settled, SettlementAlarmCause},
        types::DeductionId,
    },
    ride_code::CodeDigest,
};

/// Callbacks for orders that are not in the ledger, of which the newest are kept.
const UNKNOWN_MAX: i64 = 10_000;
/// Callbacks without effect that one order's story tells; WeChat repeats itself some 15 times.
const REPEATED_EVENTS_MAX: u32 = 20;

/// Finds deductions by their code, best first. A code may be used for several rides: first the one that this very transaction paid,
/// of which it is a repeat; then those that nothing has settled, the oldest first, since each payment settles one; then what is
/// paid already; what is void last. A callback may overtake the answer to its deduction, so a pending row counts too: one of the
/// last hour at least by `seen`, else one of the oldest, which are sent first.
pub(in crate::ledger) const BY_CODE: &str =
    "SELECT id, order_number, state, total_fen, paid_fen, transaction_id FROM deduction WHERE id IN (
         SELECT deduction FROM seen WHERE code_digest = ?1
         UNION SELECT id FROM deduction WHERE code_digest = ?1 AND state IN ('accepted', 'paid', 'unpaid', 'parked', 'void')
         UNION SELECT id FROM (SELECT id, code_digest FROM deduction
             WHERE state = 'pending' AND state IN ('held', 'pending', 'unpaid', 'parked') ORDER BY id LIMIT 500) WHERE code_digest = ?1)
     ORDER BY CASE WHEN transaction_id = ?2 OR (state = 'paid' AND transaction_id IS ?2) THEN 0
         WHEN state NOT IN ('paid', 'void') THEN 1 WHEN state = 'paid' THEN 2 ELSE 3 END, id";

/// A deduction that a callback is about.
struct Owed {
    id: DeductionId,
    order: String,
    state: String,
    total_fen: i64,
    paid_fen: Option<i64>,
    transaction_id: Option<String>,
}

/// What makes a deduction paid.
struct Paying<'a> {
    /// The word of its event.
    event: &'static str,
    /// For this order, where it was told.
    paid_fen: Option<i64>,
    is_amount_right: bool,
    transaction_id: Option<&'a str>,
    detail: &'a str,
}

impl Paying<'_> {
    /// Whether what is paid already was paid by another payment than this one.
    fn is_another_than_of(&self, owed: &Owed) -> bool {
        fn differ<T: PartialEq>(told: Option<T>, known: Option<T>) -> bool {
            told.zip(known).is_some_and(|(told, known)| told != known)
        }
        differ(self.transaction_id, owed.transaction_id.as_deref()) || differ(self.paid_fen, owed.paid_fen)
    }
}

impl Store {
    /// Applies a callback. Orders that are not here are kept as evidence, if so wanted.
    pub(in crate::ledger) fn settle(
        &self,
        callback: &Callback,
        if_unknown: IfUnknown,
        at_utc_ms: i64,
    ) -> rusqlite::Result<Settled> {
        let mut settled = Settled::default();
        let mut unknown = Vec::new();
        match callback {
            Callback::Payment(payment) => match self.owed(&payment.order, payment.transaction_id.as_deref(), &[])? {
                Some(owed) => self.settle_payment(&owed, payment, at_utc_ms, &mut settled)?,
                None => unknown.push(&payment.order),
            },
            Callback::Repayment(repayment) => unknown = self.settle_repayment(repayment, at_utc_ms, &mut settled)?,
        }
        settled.unknown = unknown.len();
        if if_unknown == IfUnknown::Keep {
            unknown.into_iter().try_for_each(|names| self.keep_unknown(names, callback, at_utc_ms))?;
        }
        Ok(settled)
    }

    // ---- which order ---------------------------------------------------------------------------------------------------------

    /// By `attach`, then `out_trade_no`, then `order_no`, then the code. An `attach` in the form of an order number that is not here is another
    /// gate's: the code, which may have been tried at both, is then no proof. A code never means what is `taken`: two trips of one
    /// repayment are two.
    fn owed(&self, names: &OrderNames, transaction_id: Option<&str>, taken: &[Owed]) -> rusqlite::Result<Option<Owed>> {
        for number in [&names.attach, &names.out_trade_no, &names.order_no].into_iter().flatten() {
            if let Some(owed) = self.owed_under(number)? {
                return Ok(Some(owed));
            }
        }
        let is_others = names.attach.as_deref().is_some_and(|attach| OrderNumber::parse(attach).is_some());
        match names.code {
            Some(code) if !is_others => self.owed_with(code, transaction_id, taken),
            _ => Ok(None),
        }
    }

    /// The best that has this code; one that is taken, if there is no other.
    fn owed_with(&self, code: CodeDigest, transaction_id: Option<&str>, taken: &[Owed]) -> rusqlite::Result<Option<Owed>> {
        let mut best = None;
        for owed in self.connection.prepare_cached(BY_CODE)?.query_map(params![code.0, transaction_id], owed)? {
            let owed = owed?;
            if taken.iter().all(|taken| taken.id != owed.id) {
                return Ok(Some(owed));
            }
            best = best.or(Some(owed));
        }
        Ok(best)
    }

    fn owed_under(&self, number: &str) -> rusqlite::Result<Option<Owed>> {
        self.connection
            .prepare_cached(
                "SELECT id, order_number, state, total_fen, paid_fen, transaction_id FROM deduction WHERE order_number = ?",
            )?
            .query_row([number], owed)
            .optional()
    }

    // ---- what becomes of it --------------------------------------------------------------------------------------------------

    fn settle_payment(&self, owed: &Owed, payment: &Payment, at_utc_ms: i64, settled: &mut Settled) -> rusqlite::Result<()> {
        let detail = payment_detail(payment);
        match &payment.outcome {
            PaymentOutcome::Paid => {
                let paying = Paying {
                    event: "paid",
                    paid_fen: Some(payment.fen),
                    is_amount_right: payment.fen == owed.total_fen,
                    transaction_id: payment.transaction_id.as_deref(),
                    detail: &detail,
                };
                self.pay(owed, &paying, at_utc_ms, settled)
            }
            PaymentOutcome::Failed { .. } => self.leave_unpaid(owed, payment, &detail, at_utc_ms, settled),
        }
    }

    /// Settles the orders that are here; returns the names of the others. What was paid for each is known when the sum fits.
    fn settle_repayment<'a>(
        &self,
        repayment: &'a Repayment,
        at_utc_ms: i64,
        settled: &mut Settled,
    ) -> rusqlite::Result<Vec<&'a OrderNames>> {
        let (mut orders, mut unknown): (Vec<Owed>, Vec<_>) = (Vec::new(), Vec::new());
        for names in &repayment.orders {
            match self.owed(names, repayment.transaction_id.as_deref(), &orders)? {
                Some(owed) if orders.iter().any(|order| order.id == owed.id) => {}
                Some(owed) => orders.push(owed),
                None => unknown.push(names),
            }
        }
        let owed_fen: i64 = orders.iter().map(|order| order.total_fen).sum();
        let is_amount_right = if unknown.is_empty() { repayment.fen == owed_fen } else { repayment.fen >= owed_fen };
        let is_of_one = orders.len() == 1 && unknown.is_empty();
        let detail = repayment_detail(repayment, orders.len() + unknown.len());
        for owed in &orders {
            let paid_fen = if is_of_one { Some(repayment.fen) } else { Some(owed.total_fen).filter(|_| is_amount_right) };
            let transaction_id = repayment.transaction_id.as_deref();
            let paying = Paying { event: "repaid", paid_fen, is_amount_right, transaction_id, detail: &detail };
            self.pay(owed, &paying, at_utc_ms, settled)?;
        }
        Ok(unknown)
    }

    /// any but paid → paid.
    fn pay(&self, owed: &Owed, paying: &Paying<'_>, at_utc_ms: i64, settled: &mut Settled) -> rusqlite::Result<()> {
        if owed.state == "paid" && paying.is_another_than_of(owed) {
            return self.pay_again(owed, paying, at_utc_ms, settled);
        }
        if owed.state == "paid" {
            return self.no_news(owed, paying.event, paying.detail, at_utc_ms, settled);
        }
        let mut flags = String::new();
        if owed.state == "void" {
            flags.push_str(" paid-after-void");
            settled.paid_after_void.push(owed.order.clone());
            self.raise(SettlementAlarmCause::PaidAfterVoid, &owed.order, at_utc_ms)?;
        }
        if !paying.is_amount_right {
            flags.push_str(" amount-mismatch");
            settled.mismatched.push(owed.order.clone());
            self.raise(SettlementAlarmCause::Amount, &owed.order, at_utc_ms)?;
        }
        self.connection
            .prepare_cached(
                "UPDATE deduction SET state = 'paid', reason = NULL, after_passage = NULL, awaits = 0, paid_fen = ?2, flags = ltrim(flags || ?3), settled_utc_ms = ?4,
                     transaction_id = ifnull(?5, transaction_id) WHERE id = ?1",
            )?
            .execute(params![owed.id, paying.paid_fen, flags, at_utc_ms, paying.transaction_id])?;
        settled.changed += 1;
        self.event(owed.id, at_utc_ms, paying.event, Some(paying.detail))
    }

    /// The passenger may have paid twice. Told in the story whatever else that tells, once for each payment.
    fn pay_again(&self, owed: &Owed, paying: &Paying<'_>, at_utc_ms: i64, settled: &mut Settled) -> rusqlite::Result<()> {
        settled.unchanged += 1;
        let is_told = self
            .connection
            .prepare_cached("SELECT 1 FROM event WHERE deduction = ? AND event = 'paid-again' AND detail = ?")?
            .exists(params![owed.id, paying.detail])?;
        if is_told {
            return Ok(());
        }
        self.connection
            .prepare_cached(
                "UPDATE deduction SET flags = ltrim(flags || ' paid-again') WHERE id = ? AND instr(flags, 'paid-again') = 0",
            )?
            .execute([owed.id])?;
        self.event(owed.id, at_utc_ms, "paid-again", Some(paying.detail))?;
        settled.paid_again.push(owed.order.clone());
        self.raise(SettlementAlarmCause::PaidAgain, &owed.order, at_utc_ms)
    }

    /// pending, accepted, parked → unpaid.
    fn leave_unpaid(
        &self,
        owed: &Owed,
        payment: &Payment,
        detail: &str,
        at_utc_ms: i64,
        settled: &mut Settled,
    ) -> rusqlite::Result<()> {
        if !["pending", "accepted", "parked"].contains(&owed.state.as_str()) {
            return self.no_news(owed, "unpaid", detail, at_utc_ms, settled);
        }
        self.connection
            .prepare_cached("UPDATE deduction SET state = 'unpaid', reason = NULL, transaction_id = ?2 WHERE id = ?1")?
            .execute(params![owed.id, payment.transaction_id])?;
        settled.changed += 1;
        self.event(owed.id, at_utc_ms, "unpaid", Some(detail))
    }

    /// The order stays as it is; its story tells of the callback all the same, some of the times.
    fn no_news(&self, owed: &Owed, told: &str, detail: &str, at_utc_ms: i64, settled: &mut Settled) -> rusqlite::Result<()> {
        settled.unchanged += 1;
        let so_far: u32 = self
            .connection
            .prepare_cached("SELECT count(*) FROM event WHERE deduction = ? AND event = 'callback-without-effect'")?
            .query_row([owed.id], |row| row.get(0))?;
        if so_far >= REPEATED_EVENTS_MAX {
            return Ok(());
        }
        self.event(owed.id, at_utc_ms, "callback-without-effect", Some(&format!("told {told} while {}: {detail}", owed.state)))
    }

    // ---- what is not here ----------------------------------------------------------------------------------------------------

    /// Evidence for people; the same callback again is counted.
    fn keep_unknown(&self, names: &OrderNames, callback: &Callback, at_utc_ms: i64) -> rusqlite::Result<()> {
        let unknown = Unknown::new(names, callback);
        self.connection
            .prepare_cached(
                "INSERT INTO unknown_callback (fingerprint, first_utc_ms, last_utc_ms, told, attach, out_trade_no, order_no, code_digest,
                     fen, transaction_id, repay_no, time_end) VALUES (?1, ?2, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
                 ON CONFLICT (fingerprint) DO UPDATE SET times = times + 1, last_utc_ms = excluded.last_utc_ms",
            )?
            .execute(params![
                unknown.fingerprint(),
                at_utc_ms,
                unknown.told,
                names.attach,
                names.out_trade_no,
                names.order_no,
                names.code.map(|code| code.0),
                unknown.fen,
                unknown.transaction_id,
                unknown.repay_no,
                unknown.time_end,
            ])?;
        self.connection
            .prepare_cached("DELETE FROM unknown_callback WHERE id <= (SELECT max(id) FROM unknown_callback) - ?")?
            .execute([UNKNOWN_MAX])
            .map(drop)
    }
}

fn owed(row: &Row<'_>) -> rusqlite::Result<Owed> {
    Ok(Owed {
        id: row.get(0)?,
        order: row.get(1)?,
        state: row.get(2)?,
        total_fen: row.get(3)?,
        paid_fen: row.get(4)?,
        transaction_id: row.get(5)?,
    })
}

/// What is kept of a callback for an order that is not here.
struct Unknown<'a> {
    names: &'a OrderNames,
    told: &'static str,
    fen: i64,
    transaction_id: Option<&'a str>,
    repay_no: Option<&'a str>,
    time_end: Option<&'a str>,
}

impl<'a> Unknown<'a> {
    fn new(names: &'a OrderNames, callback: &'a Callback) -> Self {
        let (told, fen, transaction_id, repay_no, time_end) = match callback {
            Callback::Payment(payment) => {
                let told = if payment.outcome == PaymentOutcome::Paid { "paid" } else { "unpaid" };
                (told, payment.fen, &payment.transaction_id, None, &payment.time_end)
            }
            Callback::Repayment(repayment) => {
                let Repayment { fen, transaction_id, repay_no, time_end, .. } = repayment;
                ("repaid", *fen, transaction_id, repay_no.as_deref(), time_end)
            }
        };
        Self { names, told, fen, transaction_id: transaction_id.as_deref(), repay_no, time_end: time_end.as_deref() }
    }

    /// The same for every repeat of one callback.
    fn fingerprint(&self) -> [u8; 32] {
        let Self { names, told, fen, transaction_id, repay_no, .. } = self;
        let code = names.code.map(|code| code.0);
        let numbers = [&names.attach, &names.out_trade_no, &names.order_no];
        let said = format!("{told} {numbers:?} {code:?} {fen} {transaction_id:?} {repay_no:?}");
        Sha256::digest(said.as_bytes()).into()
    }
}

fn payment_detail(payment: &Payment) -> String {
    let mut detail = format!("callback: {} fen", payment.fen);
    if let PaymentOutcome::Failed { why: Some(why) } = &payment.outcome {
        detail.push_str(", ");
        detail.push_str(why);
    }
    push_numbers(&mut detail, payment.transaction_id.as_deref(), payment.time_end.as_deref());
    detail
}

fn repayment_detail(repayment: &Repayment, orders: usize) -> String {
    let repay_no = repayment.repay_no.as_deref().unwrap_or("not told");
    let mut detail = format!("callback: {} fen for {orders} orders, repay_no {repay_no}", repayment.fen);
    push_numbers(&mut detail, repayment.transaction_id.as_deref(), repayment.time_end.as_deref());
    detail
}

fn push_numbers(detail: &mut String, transaction_id: Option<&str>, time_end: Option<&str>) {
    for (name, value) in [("transaction", transaction_id), ("time_end", time_end)] {
        if let Some(value) = value {
            // Writing into a String cannot fail.
            let _ = write!(detail, ", {name} {value}");
        }
    }
}
