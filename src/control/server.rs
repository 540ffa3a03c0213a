//! The answering side, on the network's runtime.

use std::{
    fs::Permissions,
    future::Future,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};

use super::{Answer, PAGE_ROWS, Question};
use crate::{
    ledger::{NetworkLedger, OrderNumber, Page, PageRequest},
    monitor::Status,
};

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16;
/// A question is a line of at most so many bytes.
const QUESTION_BYTES_MAX: u64 = 4096;
/// A connection that asks nothing for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// The socket can be used by its owner and its group.
const MODE: u32 = 0o660;

/// Why the control socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another daemon answers there.
    #[error("another faregate daemon answers at {path}; stop that one first, or give this one a RUNTIME_DIRECTORY of its own")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// It cannot be made.
    #[error(
        "the control socket {path} cannot be made: {source}; the folder must exist and be writable, systemd's RuntimeDirectory= sees to that"
    )]
    Io {
        /// The socket.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

/// The bound control socket; the file is removed when this is dropped.
pub struct Server {
    path: PathBuf,
    listener: UnixListener,
}

impl Server {
    /// Binds the socket, replacing one that a killed daemon left behind. Needs a runtime.
    ///
    /// # Errors
    /// Another daemon answers there, or the file cannot be made.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let io_error = |source| ControlError::Io { path: path.to_owned(), source };
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(ControlError::InUse { path: path.to_owned() });
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(error)),
            _ => {}
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io_error)?;
        }
        let listener = UnixListener::bind(path).map_err(io_error)?;
        std::fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(io_error)?;
        Ok(Self { path: path.to_owned(), listener })
    }

    /// Answers for ever. `status` makes the status of the moment.
    pub async fn serve<S, F>(self, ledger: NetworkLedger, ledger_path: PathBuf, status: S)
    where
        S: Fn() -> F + Clone + 'static,
        F: Future<Output = Status> + 'static,
    {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let ledger_path: Arc<Path> = ledger_path.into();
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let answers = Answers { ledger: ledger.clone(), ledger_path: ledger_path.clone(), status: status.clone() };
                    tokio::task::spawn_local(async move {
                        // A client that goes away in the middle has nobody left to be told.
                        let _ = answers.converse(stream).await;
                        drop(place);
                    });
                }
                // Too many open files: others must be closed first.
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that is already gone is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

struct Answers<S> {
    ledger: NetworkLedger,
    ledger_path: Arc<Path>,
    status: S,
}

impl<S, F> Answers<S>
where
    S: Fn() -> F,
    F: Future<Output = Status>,
{
    async fn converse(&self, stream: UnixStream) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        loop {
            let mut line = Vec::new();
            let mut bounded = (&mut reader).take(QUESTION_BYTES_MAX);
            let read = bounded.read_until(b'\n', &mut line);
            let length = tokio::time::timeout(IDLE_MAX, read).await.map_err(io::Error::from)??;
            if length == 0 {
                return Ok(());
            }
            let answer = match serde_json::from_slice(&line) {
                Ok(question) => self.answer(question).await,
                Err(_) => refused("this is not a question that this version knows; use the faregate command of the same version"),
            };
            let mut text = serde_json::to_vec(&answer)?;
            text.push(b'\n');
            tokio::time::timeout(IDLE_MAX, writer.write_all(&text)).await.map_err(io::Error::from)??;
            if line.last() != Some(&b'\n') {
                return Ok(());
            }
        }
    }

    async fn answer(&self, question: Question) -> Answer {
        match question {
            Question::Status => Answer::Status(Box::new((self.status)().await)),
            Question::Ledger => Answer::Ledger(self.ledger_path.to_path_buf()),
            Question::QueuePage { state, after_id, limit } => self.page(state, after_id, limit.min(PAGE_ROWS)).await,
            Question::QueueShow { order } => self.show(&order).await,
        }
    }

    async fn page(&self, state: Option<String>, after_id: i64, limit: usize) -> Answer {
        match self.ledger.page(PageRequest { state, after_id, limit }).await {
            Ok(Page { rows, next_after_id }) => Answer::QueuePage { rows, next_after_id },
            Err(error) => refused(&error.to_string()),
        }
    }

    async fn show(&self, order: &str) -> Answer {
        let Some(order) = OrderNumber::parse(order) else { return Answer::QueueShow(None) };
        match self.ledger.story(order).await {
            Ok(story) => Answer::QueueShow(story.map(Box::new)),
            Err(error) => refused(&error.to_string()),
        }
    }
}

fn refused(message: &str) -> Answer {
    Answer::Refused { message: message.to_owned() }
}
