//! The deny-list, through the daemon or in the file.

use super::{Place, Source, own_uid};
use crate::{
    cli::exit::{Code, Failure},
    control::{Answer, Client, DenyAnswer, DenyQuestion, Question},
    ledger::{DENY_BATCH_MAX, DenyChange, DenyChangeKind, DenyChanged, DenyPage, DenyPageRequest, ImportStep, ImportedBy, Reason},
    ride_code::CardAccount,
};

/// Without a daemon an import holds the ledger, so a gate that is started meanwhile waits for it: no longer than for these.
const CARDS_WITHOUT_DAEMON_MAX: usize = 5000;

impl Source {
    /// Imports these cards, which ascend, in place of those that were imported before; says whether it came to its end.
    pub(in crate::cli) fn import_deny_list(&self, cards: &[CardAccount], detail: String) -> Result<ImportStep, Failure> {
        match self.find()? {
            Place::Daemon(client) => import_through(client, cards, detail),
            Place::File(_) if cards.len() > CARDS_WITHOUT_DAEMON_MAX => Err(too_many_without_daemon(cards.len())),
            Place::File(file) => {
                let by = ImportedBy { uid: own_uid(), detail, file_digest: None };
                file.read(|ledger| async move { ledger.import_deny_list(cards, by).await })
            }
        }
    }

    /// Adds or removes cards.
    pub(in crate::cli) fn change_deny_list(
        &self,
        kind: DenyChangeKind,
        cards: Vec<CardAccount>,
        reason: Reason,
    ) -> Result<DenyChanged, Failure> {
        match self.find()? {
            Place::Daemon(mut client) => {
                let reason = reason.as_str().to_owned();
                match ask(&mut client, DenyQuestion::Change { kind, cards, reason })? {
                    DenyAnswer::Changed(changed) => Ok(changed),
                    _ => Err(Failure::strange_answer()),
                }
            }
            Place::File(file) => {
                let change = DenyChange { kind, cards, reason, uid: own_uid() };
                file.read(|ledger| async move { ledger.change_deny_list(change).await })
            }
        }
    }

    /// A page of the deny-list.
    pub(in crate::cli) fn deny_page(&self, request: DenyPageRequest) -> Result<DenyPage, Failure> {
        match self.find()? {
            Place::Daemon(mut client) => match ask(&mut client, DenyQuestion::Page(request))? {
                DenyAnswer::Page(page) => Ok(page),
                _ => Err(Failure::strange_answer()),
            },
            Place::File(file) => file.read(|ledger| async move { ledger.deny_page(request).await }),
        }
    }
}

fn too_many_without_daemon(cards: usize) -> Failure {
    let message = format!(
        "{cards} numbers are too many without a running daemon, at most {CARDS_WITHOUT_DAEMON_MAX}: a gate could not start meanwhile; \
         start the daemon and import them then, or name the file in [deny] file"
    );
    Failure::new(Code::NotRunning, message)
}

/// An import is one conversation with one daemon: another one knows nothing of it.
fn import_through(mut client: Client, cards: &[CardAccount], detail: String) -> Result<ImportStep, Failure> {
    let DenyAnswer::Begun(version) = ask(&mut client, DenyQuestion::Begin)? else { return Err(Failure::strange_answer()) };
    for batch in cards.chunks(DENY_BATCH_MAX) {
        let step = step(&mut client, DenyQuestion::Load { version, cards: batch.to_vec() })?;
        if step == ImportStep::Superseded {
            return Ok(step);
        }
    }
    step(&mut client, DenyQuestion::Finish { version, cards: cards.len() as u64, detail })
}

fn step(client: &mut Client, question: DenyQuestion) -> Result<ImportStep, Failure> {
    if let DenyAnswer::Step(step) = ask(client, question)? { Ok(step) } else { Err(Failure::strange_answer()) }
}

fn ask(client: &mut Client, question: DenyQuestion) -> Result<DenyAnswer, Failure> {
    if let Answer::Deny(answer) = client.ask(&Question::Deny(question))? { Ok(answer) } else { Err(Failure::strange_answer()) }
}
