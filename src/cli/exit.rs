//! Exit codes, and the errors of all rooms as codes and sentences.

use std::io;

use crate::{
    control::{ClientError, ControlError, Trouble},
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

    /// The daemon answered, but not the question.
    pub(super) fn strange_answer() -> Self {
        let message = "the daemon answered something else than was asked, so it is of another version; restart it";
        Self::new(Code::Internal, message)
    }

    /// The same failure, of a listing that has already shown `rows` rows.
    pub(super) fn after_rows(mut self, rows: usize) -> Self {
        if let Some(message) = self.messages.first_mut() {
            *message = format!("the list ends early, after {rows} rows: {message}");
        }
        self
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
            ClientError::NotAllowed { .. } | ClientError::Refused { trouble: Trouble::NotAllowed, .. } => Code::NotAllowed,
            ClientError::Refused { trouble: Trouble::Ledger, .. } => Code::Ledger,
            ClientError::Broken { .. } | ClientError::Refused { trouble: Trouble::Internal, .. } => Code::Internal,
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
    /// Commands meet no other error of I/O themselves than that of writing what they show.
    fn from(error: io::Error) -> Self {
        let code = if error.kind() == io::ErrorKind::BrokenPipe { Code::OutputClosed } else { Code::Internal };
        Self::new(code, format!("the output cannot be written: {error}; what was written so far is not all"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Answer;

    #[test]
    fn an_error_of_the_ledger_ends_a_command_alike_with_a_daemon_and_without() {
        let (path, detail) = (std::path::PathBuf::from("ledger.db"), "malformed".to_owned());
        let errors = [
            LedgerError::Damaged { path: path.clone(), detail },
            LedgerError::Newer { path, found: 2000, known: 1000 },
            LedgerError::Unavailable { reason: "the disk is full".into() },
        ];
        for error in errors {
            let Answer::Refused { trouble, message } = Answer::from(&error) else { panic!("no refusal") };
            let through = Failure::from(ClientError::Refused { trouble, message });
            let directly = Failure::from(error);
            assert_eq!(through.code, directly.code, "{through:?}");
            assert!(through.messages[0].ends_with(&directly.messages[0]), "{through:?}");
        }
    }
}
