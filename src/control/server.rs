//! The answering side, on the network's runtime.

use std::{
    cell::Cell,
    collections::VecDeque,
    fs::Permissions,
    future::Future,
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    task::AbortHandle,
};

use super::{Answer, PAGE_ROWS, Question, Trouble, deny};
use crate::{
    ledger::{Decided, JourneysPage, JourneysRequest, NetworkLedger, OrderNumber, Page, PageRequest, Reason, VoidOrder},
    monitor::Status,
};

/// Connections at once; for one more the oldest that waits for a question is closed.
const CONNECTIONS_MAX: usize = 32;
/// A question is a line of at most so many bytes: the longest loads a batch of the deny-list.
const QUESTION_BYTES_MAX: u64 = 16 << 10;
/// A connection that does not ask its first question within this is closed.
const FIRST_QUESTION_WITHIN: Duration = Duration::from_secs(2);
/// One that asks nothing more for so long, or does not take its answer, is closed.
const IDLE_MAX: Duration = Duration::from_secs(10);
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
    /// Something else has its place.
    #[error(
        "{path}, where the control socket belongs, is something else and is kept; move it away, or give the daemon a RUNTIME_DIRECTORY of its own"
    )]
    NotSocket {
        /// The socket's place.
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
    /// Another daemon answers there, something else than a socket is there, or the file cannot be made.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let io_error = |source| ControlError::Io { path: path.to_owned(), source };
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(ControlError::InUse { path: path.to_owned() });
        }
        match path.symlink_metadata() {
            Ok(metadata) if !metadata.file_type().is_socket() => return Err(ControlError::NotSocket { path: path.to_owned() }),
            Ok(_) => std::fs::remove_file(path).map_err(io_error)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(error)),
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
        let ledger_path: Rc<Path> = ledger_path.into();
        let mut seats = Seats::default();
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let peer = Peer::of(&stream);
                    // A stranger who finds others who may change something in every seat comes again.
                    let Some(seat) = seats.vacate(peer) else { continue };
                    let answers = Answers {
                        ledger: ledger.clone(),
                        ledger_path: ledger_path.clone(),
                        status: status.clone(),
                        is_answering: seat.clone(),
                    };
                    // A client that goes away in the middle has nobody left to be told.
                    let task = tokio::task::spawn_local(async move { drop(answers.converse(stream).await) });
                    seats.take(Seat { task: task.abort_handle(), peer, is_answering: seat });
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

/// Who is at the other end; those who may only read give way first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Peer {
    MayRead,
    MayChange,
}

impl Peer {
    fn of(stream: &UnixStream) -> Self {
        if stream.peer_cred().is_ok_and(|peer| may_change(peer.uid())) { Self::MayChange } else { Self::MayRead }
    }
}

/// The connections, oldest first. Nobody can keep others out by holding many open, and no reader ends a conversation, such as an
/// import, of those who may change something.
#[derive(Default)]
struct Seats(VecDeque<Seat>);

struct Seat {
    task: AbortHandle,
    peer: Peer,
    is_answering: Rc<Cell<bool>>,
}

impl Seats {
    /// Sees to it that a seat is free, and gives the new connection's mark; none when nobody gives way to it.
    fn vacate(&mut self, newcomer: Peer) -> Option<Rc<Cell<bool>>> {
        self.0.retain(|seat| !seat.task.is_finished());
        if self.0.len() >= CONNECTIONS_MAX {
            let place = gives_way(newcomer, self.0.iter().map(|seat| (seat.peer, seat.is_answering.get())))?;
            self.0.remove(place)?.task.abort();
        }
        Some(Rc::default())
    }

    fn take(&mut self, seat: Seat) {
        self.0.push_back(seat);
    }
}

/// Of the seats, the oldest first, which is left to a newcomer: a reader's before others', one that waits for a question before one
/// that is being answered. When all are being answered the oldest has waited longest, and its client is about to give up.
fn gives_way(newcomer: Peer, seats: impl Iterator<Item = (Peer, bool)>) -> Option<usize> {
    let (place, (peer, _)) = seats.enumerate().min_by_key(|(_, seat)| *seat)?;
    (peer <= newcomer).then_some(place)
}

struct Answers<S> {
    ledger: NetworkLedger,
    ledger_path: Rc<Path>,
    status: S,
    /// Set while a question is being answered.
    is_answering: Rc<Cell<bool>>,
}

impl<S, F> Answers<S>
where
    S: Fn() -> F,
    F: Future<Output = Status>,
{
    async fn converse(&self, stream: UnixStream) -> io::Result<()> {
        let uid = stream.peer_cred()?.uid();
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let mut patience = FIRST_QUESTION_WITHIN;
        loop {
            let mut line = Vec::new();
            let mut bounded = (&mut reader).take(QUESTION_BYTES_MAX);
            let read = bounded.read_until(b'\n', &mut line);
            let length = tokio::time::timeout(patience, read).await.map_err(io::Error::from)??;
            patience = IDLE_MAX;
            if length == 0 {
                return Ok(());
            }
            self.is_answering.set(true);
            let answer = match serde_json::from_slice(&line) {
                Ok(question) => self.answer(question, uid).await,
                Err(_) => strange_question(),
            };
            self.is_answering.set(false);
            let mut text = serde_json::to_vec(&answer)?;
            text.push(b'\n');
            tokio::time::timeout(IDLE_MAX, writer.write_all(&text)).await.map_err(io::Error::from)??;
            if line.last() != Some(&b'\n') {
                return Ok(());
            }
        }
    }

    async fn answer(&self, question: Question, uid: u32) -> Answer {
        match question {
            question if !question.is_for_everybody() && !may_change(uid) => not_allowed(&question),
            Question::Status => Answer::Status(Box::new((self.status)().await)),
            Question::Ledger => Answer::Ledger(self.ledger_path.to_path_buf()),
            Question::QueuePage { state, after_id, limit } => self.page(state, after_id, limit.min(PAGE_ROWS)).await,
            Question::QueueShow { order } => self.show(&order).await,
            Question::JourneysPage { open_only, after_id } => self.journeys(open_only, after_id).await,
            Question::Export(request) => {
                self.ledger.export(request).await.map_or_else(|error| Answer::from(&error), Answer::Export)
            }
            Question::Removed(request) => {
                self.ledger.removed(request).await.map_or_else(|error| Answer::from(&error), Answer::Removed)
            }
            Question::QueueRetry { order } => self.retry(&order, uid).await,
            Question::QueueRetryParked { after_id } => {
                self.ledger.retry_parked(after_id, uid).await.map_or_else(|error| Answer::from(&error), Answer::RetriedParked)
            }
            Question::QueueVoid { order, reason, even_if_sent } => self.void(&order, &reason, even_if_sent, uid).await,
            Question::Deny(question) => deny::answer(&self.ledger, question, uid).await,
        }
    }

    async fn retry(&self, order: &str, uid: u32) -> Answer {
        let Some(order) = OrderNumber::parse(order) else { return Answer::Decided(Decided::NotFound) };
        self.ledger.retry(order, uid).await.map_or_else(|error| Answer::from(&error), Answer::Decided)
    }

    async fn void(&self, order: &str, reason: &str, even_if_sent: bool, uid: u32) -> Answer {
        let Some(order) = OrderNumber::parse(order) else { return Answer::Decided(Decided::NotFound) };
        let reason = match Reason::parse(reason) {
            Ok(reason) => reason,
            Err(message) => return Answer::Refused { trouble: Trouble::Internal, message: message.to_owned() },
        };
        let order = VoidOrder { order, reason, even_if_sent, uid };
        self.ledger.void(order).await.map_or_else(|error| Answer::from(&error), Answer::Decided)
    }

    async fn page(&self, state: Option<String>, after_id: i64, limit: usize) -> Answer {
        match self.ledger.page(PageRequest { state, after_id, limit }).await {
            Ok(Page { rows, next_after_id }) => Answer::QueuePage { rows, next_after_id },
            Err(error) => Answer::from(&error),
        }
    }

    async fn journeys(&self, open_only: bool, after_id: i64) -> Answer {
        match self.ledger.journeys(JourneysRequest { open_only, after_id, limit: PAGE_ROWS }).await {
            Ok(JourneysPage { rows, next_after_id }) => Answer::JourneysPage { rows, next_after_id },
            Err(error) => Answer::from(&error),
        }
    }

    async fn show(&self, order: &str) -> Answer {
        let Some(order) = OrderNumber::parse(order) else { return Answer::QueueShow(None) };
        match self.ledger.story(order).await {
            Ok(story) => Answer::QueueShow(story.map(Box::new)),
            Err(error) => Answer::from(&error),
        }
    }
}

/// The group may read; what is charged is decided by root and by the user that the daemon runs as.
fn may_change(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

fn not_allowed(question: &Question) -> Answer {
    let command = match question {
        Question::Deny(_) => "deny",
        Question::Export(_) => "export --with-codes",
        Question::QueueVoid { .. } => "queue void",
        _ => "queue retry",
    };
    let message = format!("{command} is only for root and the user faregate; use sudo");
    Answer::Refused { trouble: Trouble::NotAllowed, message }
}

fn strange_question() -> Answer {
    let message = "this is not a question that this version knows; use the faregate command of the same version";
    Answer::Refused { trouble: Trouble::Internal, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::{Peer::*, *};

    #[test]
    fn a_reader_never_ends_the_conversation_of_one_who_may_change_something() {
        let of = |newcomer, seats: &[(Peer, bool)]| gives_way(newcomer, seats.iter().copied());
        assert_eq!(of(MayRead, &[(MayChange, false), (MayRead, true), (MayRead, false), (MayRead, false)]), Some(2));
        assert_eq!(of(MayRead, &[(MayChange, false), (MayRead, true), (MayRead, true)]), Some(1));
        assert_eq!(of(MayRead, &[(MayChange, false), (MayChange, true)]), None);
        assert_eq!(of(MayChange, &[(MayChange, true), (MayChange, false), (MayRead, true)]), Some(2));
        assert_eq!(of(MayChange, &[(MayChange, true), (MayChange, false)]), Some(1));
    }
}
