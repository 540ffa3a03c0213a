//! Imports of the deny-list, and what they leave behind.
//!
//! One import goes on at a time; it is known to this thread only, so that one that was cut by a stop is never gone on with. The rows
//! of lists that count no more are removed in quiet moments, a few at a time.

use std::time::{Duration, Instant};

use super::{File, Reply, Writer, read};
use crate::{
    clock::{Stamp, monotonic_now},
    ledger::{
        DENY_BATCH_MAX, DenyChange, DenyChangeKind, DenyChanged, DenyPage, DenyPageRequest, DenyState, FinishImport, ImportStep,
        store::Store, types::LedgerError,
    },
    ride_code::CardAccount,
};

/// An import that stands still for so long has ended.
const IMPORT_IDLE_MAX: Duration = Duration::from_secs(60);
/// From one step of removing outdated rows to the next.
const SWEEP_EVERY: Duration = Duration::from_millis(100);

/// What is asked of the deny-list.
pub(in crate::ledger) enum DenyOp {
    State(Reply<DenyState>),
    FileDigest(Reply<Option<[u8; 32]>>),
    Begin(Reply<i64>),
    Load { version: i64, cards: Vec<CardAccount>, reply: Reply<ImportStep> },
    Finish(FinishImport, Reply<ImportStep>),
    Change(DenyChange, Reply<DenyChanged>),
    Page(DenyPageRequest, Reply<DenyPage>),
}

impl DenyOp {
    pub(super) fn refuse(self, error: LedgerError) {
        match self {
            Self::State(reply) => drop(reply.send(Err(error))),
            Self::FileDigest(reply) => drop(reply.send(Err(error))),
            Self::Begin(reply) => drop(reply.send(Err(error))),
            Self::Load { reply, .. } | Self::Finish(_, reply) => drop(reply.send(Err(error))),
            Self::Change(_, reply) => drop(reply.send(Err(error))),
            Self::Page(_, reply) => drop(reply.send(Err(error))),
        }
    }
}

/// The import that goes on.
struct Loading {
    version: i64,
    /// Cards that are in the file.
    cards: u64,
    touched: Instant,
}

/// What this thread knows of the deny-list beside the file.
pub(super) struct DenyKeeping {
    loading: Option<Loading>,
    /// When outdated rows are looked for; `None` when there are none.
    sweep_at: Option<Instant>,
}

impl DenyKeeping {
    /// The last run may have left an import behind.
    pub(super) fn new() -> Self {
        Self { loading: None, sweep_at: Some(monotonic_now() + SWEEP_EVERY) }
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.sweep_at
    }

    /// The import of this version, if it is the one that goes on.
    fn import(&mut self, version: i64) -> Option<&mut Loading> {
        self.loading.as_mut().filter(|loading| loading.version == version)
    }

    fn end_idle_import(&mut self, now: Instant) {
        self.loading = self.loading.take().filter(|loading| now < loading.touched + IMPORT_IDLE_MAX);
    }

    /// When to look next, after a look that found outdated rows or none.
    fn next_sweep_at(&self, now: Instant, has_more: bool) -> Option<Instant> {
        let when_idle = || self.loading.as_ref().map(|loading| loading.touched + IMPORT_IDLE_MAX);
        if has_more { Some(now + SWEEP_EVERY) } else { when_idle() }
    }
}

impl Writer {
    pub(super) fn serve_deny(&mut self, op: DenyOp) {
        match op {
            DenyOp::State(reply) => {
                let state = read(&self.file, Store::deny_state);
                self.answer(reply, state);
            }
            DenyOp::FileDigest(reply) => {
                let digest = read(&self.file, Store::deny_file_digest);
                self.answer(reply, digest);
            }
            DenyOp::Page(request, reply) => {
                let page = read(&self.file, |store| store.deny_page(&request));
                self.answer(reply, page);
            }
            // Whoever asked for one of these may have gone; what was done stands.
            DenyOp::Begin(reply) => drop(reply.send(self.begin_deny_import())),
            DenyOp::Load { version, cards, reply } => drop(reply.send(self.load_deny_cards(version, &cards))),
            DenyOp::Finish(import, reply) => drop(reply.send(self.finish_deny_import(&import))),
            DenyOp::Change(change, reply) => drop(reply.send(self.change_deny_list(&change))),
        }
    }

    fn begin_deny_import(&mut self) -> Result<i64, LedgerError> {
        let version = self.write_for(Store::begin_deny_import)?;
        let now = monotonic_now();
        self.deny.loading = Some(Loading { version, cards: 0, touched: now });
        self.deny.sweep_at = Some(now + SWEEP_EVERY);
        Ok(version)
    }

    fn load_deny_cards(&mut self, version: i64, cards: &[CardAccount]) -> Result<ImportStep, LedgerError> {
        if self.deny.import(version).is_none() {
            return Ok(ImportStep::Superseded);
        }
        let cards = &cards[..cards.len().min(DENY_BATCH_MAX)];
        let new = self.write_for(|store| store.load_deny_cards(version, cards))?;
        if let Some(loading) = self.deny.import(version) {
            loading.cards += new;
            loading.touched = monotonic_now();
        }
        Ok(ImportStep::Taken)
    }

    fn finish_deny_import(&mut self, import: &FinishImport) -> Result<ImportStep, LedgerError> {
        let Some(loaded) = self.deny.import(import.version).map(|loading| loading.cards) else {
            return Ok(ImportStep::Superseded);
        };
        if loaded != import.cards {
            let wanted = import.cards;
            let reason = format!("of {wanted} cards {loaded} were loaded; the deny-list stays as it was: import it again");
            return Err(LedgerError::unavailable(reason));
        }
        self.write_for(|store| store.finish_deny_import(import, Stamp::now().utc_ms))?;
        self.deny.loading = None;
        self.deny.sweep_at = Some(monotonic_now() + SWEEP_EVERY);
        let (version, uid) = (import.version, import.by.uid);
        log::info!("the deny-list has {loaded} imported cards, version {version}: imported by uid {uid}");
        Ok(ImportStep::Taken)
    }

    fn change_deny_list(&mut self, change: &DenyChange) -> Result<DenyChanged, LedgerError> {
        let changed = self.write_for(|store| store.change_deny_list(change, Stamp::now().utc_ms))?;
        let word = match change.kind {
            DenyChangeKind::Add => "added to",
            DenyChangeKind::Remove => "removed from",
        };
        log::info!("{} cards were {word} the deny-list by uid {}", changed.changed, change.uid);
        Ok(changed)
    }

    /// One step of removing outdated rows, when it is due and the gate is quiet.
    pub(super) fn keep_deny_list(&mut self, now: Instant) {
        if self.deny.sweep_at.is_none_or(|at| now < at) || !matches!(self.file, File::Open(_)) {
            return;
        }
        if let Some(quiet_at) = self.checkpointer.quiet_at(now) {
            self.deny.sweep_at = Some(quiet_at);
            return;
        }
        self.deny.end_idle_import(now);
        let loading = self.deny.loading.as_ref().map(|loading| loading.version);
        // A file that failed is closed, and looked at again when it is open.
        let has_more = self.write_for(|store| store.sweep_deny_cards(loading)).unwrap_or(true);
        self.deny.sweep_at = self.deny.next_sweep_at(now, has_more);
    }
}
