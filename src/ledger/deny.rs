//! The deny-list: card accounts that entries and single taps refuse.
//!
//! Two sources stand side by side: a list that is imported as a whole, and what people here added one by one. An import replaces
//! the imported list only; what was added here stays until it is removed.
//!
//! # Promises
//! - The list that counts changes in one step: it is loaded in small commits beside the old one, under a version of its own, and
//!   then that version is made the one that counts. A cut at any moment leaves the old list whole.
//! - No operation handles more than [`DENY_BATCH_MAX`] cards, so that a scan waits for no more than that.
//! - Who changed it, and why, is kept.

use serde::{Deserialize, Serialize};

use super::{
    NetworkLedger, ask,
    types::{LedgerError, Reason},
    writer::{DenyOp, NetworkOp},
};
use crate::ride_code::CardAccount;

/// Cards in one operation at most.
pub const DENY_BATCH_MAX: usize = 500;

/// What the deny-list is at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenyState {
    /// Of the imported list that counts; 0 before the first import.
    pub version: i64,
    /// Cards of that list.
    pub imported: u64,
    /// Cards that were added here.
    pub local: u64,
}

/// Where a card on the deny-list comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DenySource {
    /// From the list that was imported as a whole.
    Imported,
    /// Somebody here added it.
    Local,
}

/// A card on the deny-list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenyCard {
    /// Its number.
    pub card: CardAccount,
    /// Where it comes from.
    pub source: DenySource,
    /// Why it was added here.
    pub reason: Option<String>,
    /// Who added it here.
    pub uid: Option<u32>,
    /// When it was added here, RFC 3339.
    pub added_at: Option<String>,
}

/// Which page of the deny-list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenyPageRequest {
    /// Which part of it.
    pub source: DenySource,
    /// The last card of the page before; `None` at first.
    pub after: Option<CardAccount>,
}

/// A page of the deny-list, ascending by number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenyPage {
    /// The list when this page was read.
    pub state: DenyState,
    /// At most [`DENY_BATCH_MAX`].
    pub cards: Vec<DenyCard>,
    /// Whether there may be more.
    pub has_more: bool,
}

/// Who imports a list, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedBy {
    /// Who.
    pub uid: u32,
    /// From where, for people.
    pub detail: String,
    /// Of the file, when it is the one that the settings name.
    pub file_digest: Option<[u8; 32]>,
}

/// The end of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishImport {
    /// As the import began with.
    pub version: i64,
    /// Cards that must have been loaded.
    pub cards: u64,
    /// Who.
    pub by: ImportedBy,
}

/// What came of a step of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImportStep {
    /// It is done, durably.
    Taken,
    /// Another import has begun since, the daemon was started anew, or this one stood still too long: the old list stays.
    Superseded,
}

/// What a person does to the deny-list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DenyChangeKind {
    /// Puts cards on it.
    Add,
    /// Takes cards off it, whatever they came from; the next import may bring them back.
    Remove,
}

/// A person's change of the deny-list.
#[derive(Debug, Clone)]
pub struct DenyChange {
    /// What.
    pub kind: DenyChangeKind,
    /// At most [`DENY_BATCH_MAX`].
    pub cards: Vec<CardAccount>,
    /// Why.
    pub reason: Reason,
    /// Who.
    pub uid: u32,
}

/// What came of a [`DenyChange`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenyChanged {
    /// Cards that are on or off the list now and were not before.
    pub changed: usize,
    /// Those with which nothing was to be done, counted from 0 in the order of the change.
    pub unchanged: Vec<usize>,
}

impl NetworkLedger {
    /// What the deny-list is at the moment.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn deny_state(&self) -> Result<DenyState, LedgerError> {
        ask(&self.ops, |reply| NetworkOp::Deny(DenyOp::State(reply))).await
    }

    /// The digest of the file that the settings name, as it was imported last.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn deny_file_digest(&self) -> Result<Option<[u8; 32]>, LedgerError> {
        ask(&self.ops, |reply| NetworkOp::Deny(DenyOp::FileDigest(reply))).await
    }

    /// Begins an import, and ends any other that goes on. The version that its list will have.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub async fn begin_deny_import(&self) -> Result<i64, LedgerError> {
        ask(&self.ops, |reply| NetworkOp::Deny(DenyOp::Begin(reply))).await
    }

    /// Loads some cards, at most [`DENY_BATCH_MAX`] (more are left out, and missed at the end). Quick when they ascend.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub async fn load_deny_cards(&self, version: i64, cards: Vec<CardAccount>) -> Result<ImportStep, LedgerError> {
        ask(&self.ops, |reply| NetworkOp::Deny(DenyOp::Load { version, cards, reply })).await
    }

    /// Makes the list that was loaded the one that counts.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub async fn finish_deny_import(&self, import: FinishImport) -> Result<ImportStep, LedgerError> {
        ask(&self.ops, |reply| NetworkOp::Deny(DenyOp::Finish(import, reply))).await
    }

    /// A whole import. `cards` ascend and no two are alike.
    ///
    /// # Errors
    /// The ledger cannot be written: the old list stays.
    pub async fn import_deny_list(&self, cards: &[CardAccount], by: ImportedBy) -> Result<ImportStep, LedgerError> {
        let version = self.begin_deny_import().await?;
        for batch in cards.chunks(DENY_BATCH_MAX) {
            if self.load_deny_cards(version, batch.to_vec()).await? == ImportStep::Superseded {
                return Ok(ImportStep::Superseded);
            }
        }
        self.finish_deny_import(FinishImport { version, cards: cards.len() as u64, by }).await
    }

    /// Adds or removes cards. Durable when this returns.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub async fn change_deny_list(&self, change: DenyChange) -> Result<DenyChanged, LedgerError> {
        ask(&self.ops, |reply| NetworkOp::Deny(DenyOp::Change(change, reply))).await
    }

    /// A page of the deny-list.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn deny_page(&self, request: DenyPageRequest) -> Result<DenyPage, LedgerError> {
        ask(&self.ops, |reply| NetworkOp::Deny(DenyOp::Page(request, reply))).await
    }
}
