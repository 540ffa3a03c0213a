//! The seam to the ledger: what the uploader asks of it, and what it tells it.
//!
//! The ledger implements [`Queue`]; the uploader knows no SQL, and the ledger knows nothing of when and how rows are sent.

use std::{fmt, future::Future};

/// The ledger cannot answer now; the uploader waits and asks again. The ledger itself tells people why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the ledger cannot be used now")]
pub struct Unavailable;

/// A row that is about to be sent. Its `Debug` leaves out the body, which holds codes.
#[derive(Clone, PartialEq, Eq)]
pub struct PendingRow {
    /// The ledger's name for the row; rows recorded later have higher ones.
    pub id: i64,
    /// `out_order_no`, for people.
    pub order: String,
    /// The bytes to send.
    pub body: Vec<u8>,
    /// Answers of an unknown class so far, since the row last became pending.
    pub unknown_answers: u32,
}

impl fmt::Debug for PendingRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingRow").field("id", &self.id).field("order", &self.order).finish_non_exhaustive()
    }
}

/// Why the uploader parks a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkReason {
    /// WeChat said that this row can never succeed.
    Refused,
    /// `unknown_attempts` answers that nobody has explained.
    UnknownErrcode,
}

impl ParkReason {
    /// The word for it, as stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::UnknownErrcode => "unknown-errcode",
        }
    }
}

/// What has become of a row by one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// pending → accepted
    Accepted,
    /// pending → parked
    Parked {
        /// Why.
        reason: ParkReason,
    },
    /// It will be sent again.
    StillPending,
}

/// The end of one claim: what one attempt has brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    /// Which row.
    pub id: i64,
    /// attempts += 1: WeChat may have got the request.
    pub counted: bool,
    /// Whether WeChat may charge it although it did not say so: no clear refusal came back.
    pub doubtful: bool,
    /// `unknown_answers` += 1.
    pub unknown: bool,
    /// The row's new state.
    pub settlement: Settlement,
    /// For people: what WeChat said or what went wrong. `None`: the same kind of trouble as recorded before and not counted, so
    /// nothing needs to be written and the record only ends the claim.
    pub answer: Option<String>,
}

/// The ledger's pending rows. Clones are the same queue. Calls are carried out in the order in which they are made: a `load` or
/// `claim` made after a `record` was taken sees it, durable or not.
pub trait Queue: Clone + Send + Sync + 'static {
    /// The IDs of at most `limit` pending rows above `after_id`, ascending. Fewer than `limit`: there are no more.
    fn load(&self, after_id: i64, limit: usize) -> impl Future<Output = Result<Vec<i64>, Unavailable>> + Send;

    /// The row, just before it is sent; `None` when it is no longer pending. From here to its `record`, or to the end of the
    /// program, the row counts as one that may have been sent: it must not become `void` as "pending with no attempt". Nothing
    /// else may stop: callbacks, `max_age`.
    fn claim(&self, id: i64) -> impl Future<Output = Result<Option<PendingRow>, Unavailable>> + Send;

    /// Whether a claimed row is still pending: a callback may have settled it while a token was waited for. A ledger that cannot answer
    /// has settled nothing.
    fn is_pending(&self, id: i64) -> impl Future<Output = bool> + Send;

    /// Ends the claim; made once for each claimed row, but for one that is no longer pending. Returns when the ledger has taken the record, which joins its next commit.
    /// A row that has left `pending` meanwhile (a callback was faster) keeps its new state.
    fn record(&self, record: AttemptRecord) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// Waits until rows may have become pending since it last returned, and gives the lowest of their IDs. May be dropped while waiting without losing anything.
    fn changed(&self) -> impl Future<Output = i64> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_printed_does_not_show_its_body() {
        let row = PendingRow { id: 1, order: "ORDER".to_owned(), body: b"secret".to_vec(), unknown_answers: 0 };
        assert_eq!(format!("{row:?}"), "PendingRow { id: 1, order: \"ORDER\", .. }");
    }
}
