//! Keeps the ledger's deny-list in step with the file that the settings name: at the start and on SIGHUP, when the file has changed.
//!
//! A file that cannot be used leaves the list as it is and says so; the gate goes on meanwhile.

use std::{path::PathBuf, rc::Rc, time::Duration};

use tokio::sync::Notify;

use crate::{
    deny_list::{self, DenyList},
    ledger::{ImportStep, ImportedBy, LedgerError, NetworkLedger},
};

/// A ledger that cannot be written is tried again after this.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// The file and where its list goes.
pub(super) struct DenyFile {
    path: PathBuf,
    ledger: NetworkLedger,
    asked: Notify,
}

impl DenyFile {
    pub(super) fn new(path: PathBuf, ledger: NetworkLedger) -> Rc<Self> {
        Rc::new(Self { path, ledger, asked: Notify::new() })
    }

    /// Has the file looked at again; what was asked for while it was being read is not forgotten.
    pub(super) fn read_again(&self) {
        self.asked.notify_one();
    }

    /// Looks at the file now and whenever it is asked to, for ever.
    pub(super) async fn keep(self: Rc<Self>) {
        loop {
            let Err(error) = self.refresh().await else {
                self.asked.notified().await;
                continue;
            };
            log::error!("the deny-list stays as it was and is read again in a minute: {error}");
            tokio::select! {
                () = self.asked.notified() => {}
                () = tokio::time::sleep(TRY_AGAIN_AFTER) => {}
            }
        }
    }

    async fn refresh(&self) -> Result<(), LedgerError> {
        let path = self.path.clone();
        // A long list takes a slow machine a while, in which answers of WeChat should not wait.
        let list = match tokio::task::spawn_blocking(move || deny_list::read(&path)).await {
            Ok(Ok(list)) => list,
            Ok(Err(error)) => {
                error.findings().iter().for_each(|finding| log::error!("{finding}"));
                log::error!("the deny-list stays as it was; mend its file, then: systemctl reload faregate");
                return Ok(());
            }
            // The runtime is being stopped.
            Err(_) => return Ok(()),
        };
        if self.ledger.deny_file_digest().await? == Some(list.digest) {
            log::info!("the deny-list's file has not changed");
            return Ok(());
        }
        self.import(&list).await
    }

    async fn import(&self, list: &DenyList) -> Result<(), LedgerError> {
        let uid = rustix::process::geteuid().as_raw();
        let by = ImportedBy { uid, detail: "the file of the settings".to_owned(), file_digest: Some(list.digest) };
        if self.ledger.import_deny_list(&list.cards, by).await? == ImportStep::Superseded {
            log::warn!("the deny-list's file was not imported: somebody imports another list; to have it, reload again");
        }
        Ok(())
    }
}
