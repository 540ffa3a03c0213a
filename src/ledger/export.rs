//! What `export` reads: deductions page by page, and the sums of those that were removed.
//!
//! A page looks at [`EXPORT_ROWS`] rows whatever it holds of them, so that a scan waits for no more than that; one may be empty although
//! there are more. Rows come in the order of recording, not of `created_at`: a clock may have been set back between two.

use serde::{Deserialize, Serialize};

use super::{
    NetworkLedger, ask,
    types::{DeductionId, LedgerError, QueueRow},
    writer::{ExportOp, NetworkOp},
};

/// Rows that a page looks at, and sums that it has, at most.
pub const EXPORT_ROWS: usize = 250;

/// Whether requests, which hold ride codes, are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Requests {
    /// They are.
    With,
    /// They are not.
    Without,
}

/// Which page of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRequest {
    /// Rows above this one.
    pub after_id: DeductionId,
    /// Recorded then or later, UTC milliseconds.
    pub from_utc_ms: i64,
    /// Recorded before then, UTC milliseconds.
    pub to_utc_ms: i64,
    /// Whether requests are wanted.
    pub requests: Requests,
}

impl ExportRequest {
    /// Every row, without its request.
    pub(super) const ALL: Self = Self { after_id: 0, from_utc_ms: i64::MIN, to_utc_ms: i64::MAX, requests: Requests::Without };

    /// Whether what was recorded then is meant.
    pub(super) fn is_of_time(&self, utc_ms: i64) -> bool {
        (self.from_utc_ms..self.to_utc_ms).contains(&utc_ms)
    }
}

/// The text of a request. Its `Debug` shows the length only: it holds ride codes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestText(pub String);

impl std::fmt::Debug for RequestText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

/// A deduction as it is exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRow {
    /// As `queue list` shows it.
    #[serde(flatten)]
    pub row: QueueRow,
    /// The Beijing day of its recording.
    pub day: String,
    /// The lane's station.
    pub station: String,
    /// Where the journey began, for one of two taps.
    pub start_station: Option<String>,
    /// `fare.line_name` when it was recorded.
    pub line: String,
    /// What is sent, where that is wanted and there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestText>,
}

/// A page of an export.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExportPage {
    /// In the order of recording.
    pub rows: Vec<ExportRow>,
    /// Where the next page begins; `None` after the last.
    pub next_after_id: Option<DeductionId>,
}

/// Sums of deductions that were removed, of one day, state and line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RemovedSum {
    /// The Beijing day of their recording.
    pub day: String,
    /// `paid` or `void`.
    pub state: String,
    /// `fare.line_name` when they were recorded.
    pub line: String,
    /// How many.
    pub deductions: u64,
    /// Before the discount.
    pub original_fen: i64,
    /// After the discount.
    pub total_fen: i64,
    /// As WeChat's callbacks told.
    pub paid_fen: i64,
}

/// Which page of the sums.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedRequest {
    /// From this Beijing day.
    pub from_day: String,
    /// To this one, included.
    pub to_day: String,
    /// The last of the page before.
    pub after: Option<RemovedSum>,
}

impl NetworkLedger {
    /// A page of an export.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn export(&self, request: ExportRequest) -> Result<ExportPage, LedgerError> {
        ask(&self.ops, |reply| NetworkOp::Export(ExportOp::Rows(request, reply))).await
    }

    /// Sums of what was removed, ascending by day, state and line; at most [`EXPORT_ROWS`], fewer after the last.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn removed(&self, request: RemovedRequest) -> Result<Vec<RemovedSum>, LedgerError> {
        ask(&self.ops, |reply| NetworkOp::Export(ExportOp::Removed(request, reply))).await
    }
}
