//! The control socket: how the commands of `faregate` ask the running daemon.
//!
//! One JSON document a line, both ways; a connection may ask several times. Whoever can open the socket (mode 0660, group
//! `faregate`) may read; only root and the daemon's own user, known by the credentials of the connection, may change anything. What is asked for in pages is asked for page by page, so that no question holds the ledger for long, and
//! a connection that asks nothing is soon closed, so that nobody keeps others out.

mod client;
mod deny;
mod server;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use client::{Client, ClientError};
pub use deny::{DenyAnswer, DenyQuestion};
pub use server::{ControlError, Server};

use crate::{
    ledger::{
        Decided, ExportPage, ExportRequest, JourneyRow, LedgerError, QueueRow, QueueStory, RemovedRequest, RemovedSum, Requests,
        RetriedBatch,
    },
    monitor::Status,
};

/// Rows in one page of a listing: what a scan may have to wait for.
pub const PAGE_ROWS: usize = 64;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Question {
    /// The daemon's status.
    Status,
    /// At most [`PAGE_ROWS`] rows above a row.
    QueuePage {
        /// Only rows of this state.
        state: Option<String>,
        /// Where the last page ended; 0 at first.
        after_id: i64,
        /// Rows at most.
        limit: usize,
    },
    /// One row and its story.
    QueueShow {
        /// The order's number.
        order: String,
    },
    /// At most [`PAGE_ROWS`] journeys above one.
    JourneysPage {
        /// Only those that are open.
        open_only: bool,
        /// Where the last page ended; 0 at first.
        after_id: i64,
    },
    /// Which ledger the daemon holds.
    Ledger,
    /// Have a parked order sent again. Only for root and the daemon's own user, as the next two.
    QueueRetry {
        /// The order's number.
        order: String,
    },
    /// Have some of the parked orders sent again.
    QueueRetryParked {
        /// Where the last step ended; 0 at first.
        after_id: i64,
    },
    /// Make an order void.
    QueueVoid {
        /// The order's number.
        order: String,
        /// Why, for people.
        reason: String,
        /// Although WeChat may have taken it.
        even_if_sent: bool,
    },
    /// A page of an export. With requests, which hold ride codes, only for root and the daemon's own user.
    Export(ExportRequest),
    /// Sums of deductions that were removed.
    Removed(RemovedRequest),
    /// About the deny-list. Only for root and the daemon's own user.
    Deny(DenyQuestion),
}

impl Question {
    /// Whether whoever can open the socket may ask it; the others are for root and the daemon's own user.
    fn is_for_everybody(&self) -> bool {
        match self {
            Self::Status
            | Self::QueuePage { .. }
            | Self::QueueShow { .. }
            | Self::JourneysPage { .. }
            | Self::Ledger
            | Self::Removed(_) => true,
            Self::Export(request) => request.requests == Requests::Without,
            Self::QueueRetry { .. } | Self::QueueRetryParked { .. } | Self::QueueVoid { .. } | Self::Deny(_) => false,
        }
    }
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", content = "value", rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Question::Status`].
    Status(Box<Status>),
    /// To [`Question::QueuePage`].
    QueuePage {
        /// Oldest first.
        rows: Vec<QueueRow>,
        /// The last row's place, to ask for the next page; `None` when this was the last.
        next_after_id: Option<i64>,
    },
    /// To [`Question::QueueShow`]; `None` when there is no such order.
    QueueShow(Option<Box<QueueStory>>),
    /// To [`Question::JourneysPage`].
    JourneysPage {
        /// Oldest first.
        rows: Vec<JourneyRow>,
        /// The last row's place, to ask for the next page; `None` when this was the last.
        next_after_id: Option<i64>,
    },
    /// To [`Question::Ledger`].
    Ledger(PathBuf),
    /// To [`Question::QueueRetry`] and [`Question::QueueVoid`].
    Decided(Decided),
    /// To [`Question::QueueRetryParked`].
    RetriedParked(RetriedBatch),
    /// To [`Question::Export`].
    Export(ExportPage),
    /// To [`Question::Removed`].
    Removed(Vec<RemovedSum>),
    /// To [`Question::Deny`].
    Deny(DenyAnswer),
    /// The question could not be answered.
    Refused {
        /// What is in the way.
        #[serde(default)]
        trouble: Trouble,
        /// One sentence.
        message: String,
    },
}

/// What keeps the daemon from answering, so that a command ends as it would without a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// The ledger is damaged, or newer than the program.
    Ledger,
    /// Whoever asks may not.
    NotAllowed,
    /// Anything else.
    #[default]
    Internal,
}

impl From<&LedgerError> for Answer {
    fn from(error: &LedgerError) -> Self {
        let trouble = match error {
            LedgerError::Damaged { .. } | LedgerError::Newer { .. } => Trouble::Ledger,
            LedgerError::Held { .. } | LedgerError::Missing { .. } | LedgerError::Unavailable { .. } => Trouble::Internal,
        };
        Self::Refused { trouble, message: error.to_string() }
    }
}

/// Where the control socket is: `${RUNTIME_DIRECTORY}/control.sock`, or `/run/faregate/control.sock`.
#[must_use]
pub fn socket_path() -> PathBuf {
    // systemd lists several directories with colons; the first is ours.
    let directory = std::env::var("RUNTIME_DIRECTORY").ok().and_then(|all| all.split(':').next().map(str::to_owned));
    let directory = directory.filter(|first| !first.is_empty()).unwrap_or_else(|| "/run/faregate".to_owned());
    Path::new(&directory).join("control.sock")
}
