//! The asking side, for commands: plain blocking I/O with time-outs.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Answer, Question, Trouble};

/// A daemon that does not answer for so long is not well; `status` asks the ledger, which may be waiting for a slow disk.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no daemon.
    #[error("no daemon answers at {path} ({source}); start it with: systemctl start faregate")]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The socket may not be opened.
    #[error("the control socket {path} may not be used by this user; join the group faregate, or use sudo")]
    NotAllowed {
        /// The socket.
        path: PathBuf,
    },
    /// It answered, but not well.
    #[error("the daemon at {path} gave no answer: {source}; ask again, and look at: journalctl -u faregate")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// It refused to answer.
    #[error("the daemon says: {message}")]
    Refused {
        /// What was in its way.
        trouble: Trouble,
        /// Its sentence.
        message: String,
    },
}

/// A connection to the daemon.
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// Nobody listens there, or it may not be opened.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let owned = || path.to_owned();
        let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed { path: owned() },
            _ => ClientError::NotRunning { path: owned(), source: error },
        })?;
        let patience = Some(PATIENCE);
        stream
            .set_read_timeout(patience)
            .and_then(|()| stream.set_write_timeout(patience))
            .map_err(|source| ClientError::Broken { path: owned(), source })?;
        Ok(Self { path: owned(), stream: BufReader::new(stream) })
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The daemon went away, answered something else, or refused.
    pub fn ask(&mut self, question: &Question) -> Result<Answer, ClientError> {
        match self.exchange(question) {
            Ok(Answer::Refused { trouble, message }) => Err(ClientError::Refused { trouble, message }),
            Ok(answer) => Ok(answer),
            Err(error) => Err(ClientError::Broken { path: self.path.clone(), source: in_words(error) }),
        }
    }

    fn exchange(&mut self, question: &Question) -> io::Result<Answer> {
        let mut line = serde_json::to_vec(question)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        let mut answer = String::new();
        if self.stream.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&answer)?)
    }
}

/// The error as people understand it: what the system calls it says nothing about the daemon.
fn in_words(error: io::Error) -> io::Error {
    let words = match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("it was silent for {} s", PATIENCE.as_secs()),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            "it closed the connection".to_owned()
        }
        io::ErrorKind::InvalidData => "it spoke otherwise than this version does".to_owned(),
        _ => return error,
    };
    io::Error::new(error.kind(), words)
}
