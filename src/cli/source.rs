//! Where the commands that look at the ledger find it: through the running daemon, or, when there is none, in the file itself,
//! whose lock they then hold.

use std::path::Path;

use super::exit::{Code, Failure};
use crate::{
    config::{self, Settings},
    control::{Answer, Client, ClientError, PAGE_ROWS, Question, socket_path},
    daemon,
    ledger::{self, NetworkLedger, OrderNumber, PageRequest, QueueRow, QueueStory, Running},
};

/// Where rows come from.
pub(super) enum Source {
    /// The daemon.
    Daemon(Client),
    /// The file.
    File(OpenLedger),
}

/// A ledger that this command holds itself.
pub(super) struct OpenLedger {
    runtime: tokio::runtime::Runtime,
    ledger: Option<NetworkLedger>,
    running: Option<Running>,
}

impl Source {
    /// Finds the ledger that the settings name.
    pub(super) fn find(config: &Path) -> Result<Self, Failure> {
        let loaded = config::load(config);
        match Client::connect(&socket_path()) {
            Ok(mut client) => match &loaded.settings {
                Some(settings) if !holds(&mut client, settings)? => Ok(Self::File(OpenLedger::open(settings)?)),
                _ => Ok(Self::Daemon(client)),
            },
            Err(error @ ClientError::NotAllowed { .. }) => Err(error.into()),
            Err(_) => match &loaded.settings {
                Some(settings) => Ok(Self::File(OpenLedger::open(settings)?)),
                None => Err(super::check::failure(&loaded)),
            },
        }
    }

    /// A page of at most [`PAGE_ROWS`] rows above `after_id`, and where the next one begins.
    pub(super) fn page(
        &mut self,
        state: Option<&str>,
        after_id: i64,
        limit: usize,
    ) -> Result<(Vec<QueueRow>, Option<i64>), Failure> {
        let (state, limit) = (state.map(str::to_owned), limit.min(PAGE_ROWS));
        match self {
            Self::Daemon(client) => match client.ask(&Question::QueuePage { state, after_id, limit })? {
                Answer::QueuePage { rows, next_after_id } => Ok((rows, next_after_id)),
                _ => Err(strange()),
            },
            Self::File(file) => {
                let page = file.read(|ledger| async move { ledger.page(PageRequest { state, after_id, limit }).await })?;
                Ok((page.rows, page.next_after_id))
            }
        }
    }

    /// One order and its story.
    pub(super) fn story(&mut self, order: &OrderNumber) -> Result<Option<QueueStory>, Failure> {
        match self {
            Self::Daemon(client) => match client.ask(&Question::QueueShow { order: order.to_string() })? {
                Answer::QueueShow(story) => Ok(story.map(|story| *story)),
                _ => Err(strange()),
            },
            Self::File(file) => file.read(|ledger| async move { ledger.story(order.clone()).await }),
        }
    }
}

/// Whether the daemon holds the ledger that the settings name: a technician may look at the copy of another gate.
fn holds(client: &mut Client, settings: &Settings) -> Result<bool, Failure> {
    let own = settings.ledger.path.canonicalize();
    match client.ask(&Question::Ledger)? {
        Answer::Ledger(path) => Ok(own.map_or(true, |own| own == path)),
        _ => Err(strange()),
    }
}

fn strange() -> Failure {
    Failure::new(Code::Internal, "the daemon answered something else than was asked; is it of another version? Restart it")
}

impl OpenLedger {
    fn open(settings: &Settings) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (running, _, ledger) = ledger::start_existing(daemon::ledger_options(settings, Box::new(|_| ())))?;
        Ok(Self { runtime, ledger: Some(ledger), running: Some(running) })
    }

    fn read<T, F>(&self, work: impl FnOnce(NetworkLedger) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, ledger::LedgerError>>,
    {
        let ledger = self.ledger.clone().ok_or_else(strange)?;
        Ok(self.runtime.block_on(work(ledger))?)
    }
}

impl Drop for OpenLedger {
    fn drop(&mut self) {
        self.ledger = None;
        if let Some(running) = self.running.take() {
            // Nothing is written here but what a crash left to say; the next daemon says it again.
            let _ = running.join();
        }
    }
}
