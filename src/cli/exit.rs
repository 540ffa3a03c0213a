//! Exit codes, and the errors of all rooms as codes and sentences.

use std::io;

use crate::{
    control::{ClientError, ControlError},
    ledger::LedgerError,
    turnstile::TurnstileError,
};

/// Why the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// Something was found that is not as it should be.
    Found,
    /// The command line makes no sense.
    Usage,
    /// The ledger is damaged or newer than the program.
    Ledger,
    /// What was asked for is not there.
    NotFound,
    /// There is no daemon.
    NotRunning,
    /// Something failed.
    Internal,
    /// Another instance holds the ledger.
    Held,
    /// The user may not.
    NotAllowed,
    /// The settings are wrong.
    Settings,
    /// Standard output was closed by its reader: no failure.
    OutputClosed,
}

impl Code {
    /// The contract's number.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Found => 1,
            Self::Usage => 64,
            Self::Ledger => 65,
            Self::NotFound => 66,
            Self::NotRunning => 69,
            Self::Internal => 70,
            Self::Held => 73,
            Self::NotAllowed => 77,
            Self::Settings => 78,
        }
    }
}

/// Why a command failed, for people and for scripts.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) messages: Vec<String>,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, messages: vec![message.into()] }
    }
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        let code = match error {
            LedgerError::Held { .. } => Code::Held,
            LedgerError::Damaged { .. } | LedgerError::Newer { .. } => Code::Ledger,
            LedgerError::Missing { .. } => Code::NotFound,
            LedgerError::Unavailable { .. } => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match error {
            ClientError::NotRunning { .. } => Code::NotRunning,
            ClientError::NotAllowed { .. } => Code::NotAllowed,
            ClientError::Broken { .. } | ClientError::Refused(_) => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let code = if matches!(error, ControlError::InUse { .. }) { Code::Held } else { Code::Internal };
        Self::new(code, error.to_string())
    }
}

impl From<TurnstileError> for Failure {
    fn from(error: TurnstileError) -> Self {
        Self::new(Code::Internal, error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let code = if error.kind() == io::ErrorKind::BrokenPipe { Code::OutputClosed } else { Code::Internal };
        Self::new(code, error.to_string())
    }
}
