//! What `export` reads, through the daemon or in the file.

use super::{Place, Source};
use crate::{
    cli::exit::Failure,
    control::{Answer, Question},
    ledger::{ExportPage, ExportRequest, LedgerError, NetworkLedger, RemovedRequest, RemovedSum},
};

/// Pages that are read from the file before it is let go of: opening it costs more than reading one.
const PAGES_PER_OPENING: usize = 16;

impl Source {
    /// The next rows of an export, and where the rest begins.
    pub(in crate::cli) fn export(&self, request: ExportRequest) -> Result<ExportPage, Failure> {
        match self.find()? {
            Place::Daemon(mut client) => match client.ask(&Question::Export(request))? {
                Answer::Export(page) => Ok(page),
                _ => Err(Failure::strange_answer()),
            },
            Place::File(file) => file.read(|ledger| some_pages(ledger, request)),
        }
    }

    /// Sums of what was removed.
    pub(in crate::cli) fn removed(&self, request: RemovedRequest) -> Result<Vec<RemovedSum>, Failure> {
        match self.find()? {
            Place::Daemon(mut client) => match client.ask(&Question::Removed(request))? {
                Answer::Removed(sums) => Ok(sums),
                _ => Err(Failure::strange_answer()),
            },
            Place::File(file) => file.read(|ledger| async move { ledger.removed(request).await }),
        }
    }
}

async fn some_pages(ledger: NetworkLedger, mut request: ExportRequest) -> Result<ExportPage, LedgerError> {
    let mut all = ledger.export(request).await?;
    for _ in 1..PAGES_PER_OPENING {
        let Some(after_id) = all.next_after_id else { break };
        request.after_id = after_id;
        let page = ledger.export(request).await?;
        all.rows.extend(page.rows);
        all.next_after_id = page.next_after_id;
    }
    Ok(all)
}
