//! `faregate run`: the daemon.

use std::path::Path;

use super::{
    check,
    exit::{Code, Failure},
};
use crate::{
    config,
    daemon::{self, DaemonError},
};

pub(super) fn run(config: &Path) -> Result<(), Failure> {
    let loaded = config::load(config);
    let Some(settings) = &loaded.settings else { return Err(check::failure(&loaded)) };
    daemon::run(config, settings, &loaded.findings).map_err(Failure::from)
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        match error {
            DaemonError::Ledger(error) => error.into(),
            DaemonError::StillDamaged => Self::new(Code::Ledger, error.to_string()),
            DaemonError::Turnstile(error) => error.into(),
            DaemonError::Control(error) => error.into(),
            DaemonError::CallbackKey(_) => Self::new(Code::Settings, error.to_string()),
            DaemonError::Roots(error) => Self { code: Code::Settings, messages: error.messages },
            other => Self::new(Code::Internal, other.to_string()),
        }
    }
}
