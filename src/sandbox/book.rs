//! What the sandbox charged: one charge per order number, with the digest of the bytes that ordered it. Pure.
//!
//! It keeps no code and no passenger: a code is named by the beginning of its digest, as in the gate's own log.

use std::collections::HashMap;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{callbacks::Money, fields::Fields};
use crate::{clock::rfc3339_ms, ride_code::CodeDigest};

/// Charges that are kept; at the limit new orders are refused as beyond the daily quota.
pub const CHARGES_MAX: usize = 1_000_000;

/// One charge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Charge {
    /// `out_order_no`; `None` when the request had none: then each request is a charge of its own.
    pub order: Option<String>,
    /// `attach`.
    pub attach: Option<String>,
    /// Names the code: the first 8 hex digits of its SHA-256.
    pub code: String,
    /// Names the code of the journey's entry likewise; `None` when the request had none.
    pub start_code: Option<String>,
    /// `total_fee`.
    pub total_fen: i64,
    /// `original_fee`.
    pub original_fen: i64,
    /// As in the request.
    pub start_time: String,
    /// RFC 3339.
    pub charged_at: String,
    /// Whether it was paid.
    pub money: Money,
    /// Whether the gate has received that.
    pub told: bool,
    /// Requests of these very bytes, the first included.
    pub requests: u64,
    #[serde(skip)]
    body: [u8; 32],
}

/// What a deduction is to the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// Charged now.
    New,
    /// Charged before, by the same bytes.
    Repeated,
    /// The number was used by other bytes.
    Conflict,
    /// No room.
    Full,
}

/// Every charge, in order.
#[derive(Debug, Default)]
pub(super) struct Book {
    charges: Vec<Charge>,
    by_order: HashMap<String, usize>,
}

impl Book {
    /// Charges, unless it did so before.
    pub(super) fn enter(&mut self, fields: Fields, body: &[u8], at_utc_ms: i64) -> Entry {
        let digest: [u8; 32] = Sha256::digest(body).into();
        let known = fields.order.as_ref().and_then(|order| self.by_order.get(order));
        if let Some(charge) = known.and_then(|&at| self.charges.get_mut(at)) {
            if charge.body != digest {
                return Entry::Conflict;
            }
            charge.requests += 1;
            return Entry::Repeated;
        }
        if self.charges.len() >= CHARGES_MAX {
            return Entry::Full;
        }
        self.by_order.extend(fields.order.clone().map(|order| (order, self.charges.len())));
        self.charges.push(charge(fields, digest, at_utc_ms));
        Entry::New
    }

    /// What became of a charge, by its place.
    pub(super) fn decide(&mut self, at: usize, money: Money) {
        if let Some(charge) = self.charges.get_mut(at) {
            (charge.money, charge.told) = (money, false);
        }
    }

    /// The gate has heard of it.
    pub(super) fn told(&mut self, at: usize, is_repayment: bool) {
        if let Some(charge) = self.charges.get_mut(at) {
            charge.told |= is_repayment == (charge.money == Money::Repaid);
        }
    }

    pub(super) fn charges(&self) -> &[Charge] {
        &self.charges
    }

    pub(super) fn total_fen(&self) -> i64 {
        self.charges.iter().map(|charge| charge.total_fen).sum()
    }
}

fn charge(fields: Fields, body: [u8; 32], at_utc_ms: i64) -> Charge {
    Charge {
        order: fields.order,
        attach: fields.attach,
        code: CodeDigest::of(&fields.code).to_string(),
        start_code: fields.start_code.map(|code| CodeDigest::of(&code).to_string()),
        total_fen: fields.total_fen,
        original_fen: fields.original_fen,
        start_time: fields.start_time,
        charged_at: rfc3339_ms(at_utc_ms),
        money: Money::NotTold,
        told: false,
        requests: 1,
        body,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn charge(order: &str, code: &str, total_fen: i64) -> Charge {
        Charge {
            order: Some(order.to_owned()),
            attach: Some(order.to_owned()),
            code: code.to_owned(),
            start_code: None,
            total_fen,
            original_fen: total_fen,
            start_time: String::new(),
            charged_at: String::new(),
            money: Money::NotTold,
            told: false,
            requests: 1,
            body: [0; 32],
        }
    }

    #[test]
    fn requests_without_a_number_are_charges_of_their_own() {
        let fields = Fields {
            code: b"code".to_vec(),
            start_code: None,
            total_fen: 200,
            original_fen: 200,
            start_time: "20261123133430".to_owned(),
            order: None,
            attach: None,
        };
        let mut book = Book::default();
        assert_eq!((book.enter(fields.clone(), b"body", 0), book.enter(fields, b"body", 0)), (Entry::New, Entry::New));
        assert_eq!((book.charges().len(), book.total_fen()), (2, 400));
    }
}
