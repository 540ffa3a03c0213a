//! SIGHUP: what is read again, what of it holds at once, and what is said of the rest.
//!
//! Promises: settings with an error change nothing, each error is in the log with its file and line; a changed key that needs a
//! restart is named, every time until the restart. Nothing here stops a gate.

use std::{path::Path, rc::Rc, sync::Arc};

use super::{deny::DenyFile, fare_table};
use crate::{
    config::{self, Change, Format, Settings, Severity, Takes, take_over},
    journey::Rules,
    ledger::NetworkLedger,
    ride_code::{Checker, jtt1179::TrustStore},
    wechat::WeChatClient,
};

/// What a running daemon takes without a restart.
const AT_ONCE: &[Takes] = &[Takes::Roots, Takes::Rules];

/// The parts of the daemon that take something new.
pub(super) struct Reload {
    /// What the daemon lives by.
    running: Settings,
    client: WeChatClient,
    checker: Arc<Checker>,
    ledger: NetworkLedger,
    deny: Option<Rc<DenyFile>>,
}

impl Reload {
    pub(super) fn new(
        running: &Settings,
        client: WeChatClient,
        checker: Arc<Checker>,
        ledger: NetworkLedger,
        deny: Option<Rc<DenyFile>>,
    ) -> Self {
        Self { running: running.clone(), client, checker, ledger, deny }
    }

    /// Reads everything again.
    pub(super) async fn all(&mut self, settings_file: &Path) {
        self.client.reload();
        self.settings(settings_file).await;
        // A file of its own, kept up by others: wrong settings are no reason to let somebody ride.
        if let Some(file) = &self.deny {
            file.read_again();
        }
        log::info!("SIGHUP: a static access token is read again");
    }

    async fn settings(&mut self, file: &Path) {
        let loaded = config::load(file);
        let Some(new) = &loaded.settings else {
            for error in loaded.findings.iter().filter(|finding| finding.severity == Severity::Error) {
                log::error!("{error}");
            }
            let message = "the settings, the fares and the roots stay as they were; mend what is named above and reload again";
            return log::error!("SIGHUP: {message}");
        };
        let changes = take_over(&mut self.running, new, AT_ONCE);
        self.roots();
        self.rules(&changes).await;
        changes.iter().for_each(tell);
    }

    /// The fare table may have changed although no setting has.
    async fn rules(&self, changes: &[Change]) {
        let table = match fare_table(&self.running) {
            Ok(table) => table,
            Err(error) => return log::error!("SIGHUP: the fares and limits stay as they were: {error}"),
        };
        if table.is_none() && changes.iter().all(|change| change.takes != Takes::Rules) {
            return;
        }
        let read = table.as_ref().map(|table| format!("SIGHUP: the fare table is read again: {}", table.digest()));
        // A ledger whose thread has ended judges nothing any more.
        if self.ledger.set_rules(Rules::new(&self.running, table)).await.is_ok() {
            if let Some(read) = read {
                log::info!("{read}");
            }
        }
    }

    /// They may have changed although no setting has.
    fn roots(&self) {
        let Format::Jtt1179 { roots } = &self.running.ride_code.format else { return };
        match TrustStore::read(roots) {
            Ok(roots) => {
                self.checker.replace_roots(roots);
                log::info!("SIGHUP: the roots are read again");
            }
            Err(error) => log::error!("SIGHUP: the roots stay as they were: {error}"),
        }
    }
}

fn tell(change: &Change) {
    if AT_ONCE.contains(&change.takes) {
        log::info!("SIGHUP: {change} has changed, and holds from now on");
    } else {
        log::warn!("SIGHUP: {change} has changed, which holds only after: systemctl restart faregate");
    }
}
