//! What is asked of the deny-list through the control socket. All of it, looking included, is only for root and the daemon's own
//! user: card account numbers are passengers'.

use serde::{Deserialize, Serialize};

use super::{Answer, Trouble};
use crate::{
    ledger::{
        DenyChange, DenyChangeKind, DenyChanged, DenyPage, DenyPageRequest, FinishImport, ImportStep, ImportedBy, LedgerError,
        NetworkLedger, Reason,
    },
    ride_code::CardAccount,
};

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "deny", rename_all = "kebab-case")]
pub enum DenyQuestion {
    /// Begin an import.
    Begin,
    /// Load some cards of it, at most [`crate::ledger::DENY_BATCH_MAX`].
    Load {
        /// As the import began with.
        version: i64,
        /// Ascending.
        cards: Vec<CardAccount>,
    },
    /// Make the list that was loaded the one that counts.
    Finish {
        /// As the import began with.
        version: i64,
        /// Cards that must have been loaded.
        cards: u64,
        /// From where, for people.
        detail: String,
    },
    /// Add or remove some cards.
    Change {
        /// Which of the two.
        kind: DenyChangeKind,
        /// At most [`crate::ledger::DENY_BATCH_MAX`].
        cards: Vec<CardAccount>,
        /// Why, for people.
        reason: String,
    },
    /// A page of it.
    Page(DenyPageRequest),
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "deny", content = "list", rename_all = "kebab-case")]
pub enum DenyAnswer {
    /// To [`DenyQuestion::Begin`]: the version.
    Begun(i64),
    /// To [`DenyQuestion::Load`] and [`DenyQuestion::Finish`].
    Step(ImportStep),
    /// To [`DenyQuestion::Change`].
    Changed(DenyChanged),
    /// To [`DenyQuestion::Page`].
    Page(DenyPage),
}

/// Answers whoever may ask.
pub(super) async fn answer(ledger: &NetworkLedger, question: DenyQuestion, uid: u32) -> Answer {
    let answered = match question {
        DenyQuestion::Begin => ledger.begin_deny_import().await.map(DenyAnswer::Begun),
        DenyQuestion::Load { version, cards } => ledger.load_deny_cards(version, cards).await.map(DenyAnswer::Step),
        DenyQuestion::Finish { version, cards, detail } => {
            let by = ImportedBy { uid, detail, file_digest: None };
            ledger.finish_deny_import(FinishImport { version, cards, by }).await.map(DenyAnswer::Step)
        }
        DenyQuestion::Change { kind, cards, reason } => return change(ledger, kind, cards, &reason, uid).await,
        DenyQuestion::Page(request) => ledger.deny_page(request).await.map(DenyAnswer::Page),
    };
    told(answered)
}

async fn change(ledger: &NetworkLedger, kind: DenyChangeKind, cards: Vec<CardAccount>, reason: &str, uid: u32) -> Answer {
    match Reason::parse(reason) {
        Ok(reason) => told(ledger.change_deny_list(DenyChange { kind, cards, reason, uid }).await.map(DenyAnswer::Changed)),
        Err(message) => Answer::Refused { trouble: Trouble::Internal, message: message.to_owned() },
    }
}

fn told(answered: Result<DenyAnswer, LedgerError>) -> Answer {
    answered.map_or_else(|error| Answer::from(&error), Answer::Deny)
}
