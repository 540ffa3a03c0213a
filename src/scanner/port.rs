//! The serial port of one reader: opened, read, and opened again for ever.
//!
//! Whatever goes wrong with the device is one thing, it is absent: the port is closed, that is said once, and opening is tried
//! again with growing pauses, which shrink only after the device has proved to be there ([`Pauses`]). Everything that waited in
//! the device before it was opened is thrown away, since nobody knows how old it is; so is what arrived while the receiver of the
//! readings kept the port unread for longer than [`UNREAD_MAX`]: a stale code must not open a gate.
//!
//! Opening runs on a thread of the runtime's, because a sick USB adapter can hold it for seconds. What the frames mean, this
//! file must not know.

use std::{
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use log::{info, warn};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc::Sender,
    time::{sleep, timeout},
};
use tokio_serial::{
    ClearBuffer, DataBits, ErrorKind, FlowControl, Parity, SerialPort, SerialPortBuilderExt, SerialStream, StopBits,
};

use super::{Framer, Reading, ScannerStats, decode};
use crate::config::Scanner;

/// The pause before the first new try, and the longest one.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A device that stays open so long is there, though it sends nothing.
const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// A device that does not take its start bytes within this is taken for absent.
const START_BYTES_WAIT_MAX: Duration = Duration::from_secs(1);
/// Up to this, bytes that wait in the device count as just arrived; after it they are thrown away.
const UNREAD_MAX: Duration = Duration::from_secs(1);
/// As many bytes as the kernel's line discipline holds.
const READ_BYTES: usize = 4096;
/// The major device numbers of pseudo-terminals (Linux, `admin-guide/devices.txt`: Unix98 PTY slaves).
const PSEUDO_TERMINAL_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

/// Opens the device as [`run`] does, and closes it again. May block for as long as the driver likes.
///
/// # Errors
/// The device cannot be had: one sentence, what to do after its semicolon.
pub fn try_open(settings: &Scanner) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(|error| error.to_string())?;
    let _inside = runtime.enter();
    Port::open(&settings.device, settings.baud).map(drop).map_err(|error| error.to_string())
}

/// Reads the scanner's device and hands out what it says, until the receiver is dropped.
///
/// Needs a tokio runtime with I/O and time. When the receiver is slow, reading waits for it: up to a second nothing is lost; after
/// it, what waited in the device is dropped and counted, since its age is unknown. With room for some readings in the
/// channel that never happens at a passenger's pace.
pub async fn run(settings: Scanner, readings: Sender<Reading>, stats: Arc<ScannerStats>) {
    let mut link = Link {
        framer: Framer::new(settings.framing),
        settings,
        readings: readings.clone(),
        stats: Arc::clone(&stats),
        pauses: Pauses::default(),
        reason: None,
        was_open: false,
    };
    tokio::select! {
        () = readings.closed() => {}
        () = link.keep_reading() => {}
    }
    stats.up.store(false, Relaxed);
}

/// One reader's device over all its absences.
struct Link {
    settings: Scanner,
    readings: Sender<Reading>,
    stats: Arc<ScannerStats>,
    framer: Framer,
    pauses: Pauses,
    /// Why the device is absent, while it is.
    reason: Option<String>,
    was_open: bool,
}

impl Link {
    async fn keep_reading(&mut self) {
        loop {
            let error = match self.open().await {
                Ok(port) => self.read_until_lost(port).await,
                Err(error) => error,
            };
            self.tell_absent(&error).await;
            sleep(self.pauses.next()).await;
        }
    }

    async fn open(&self) -> Result<Port, ScannerError> {
        let (device, baud) = (self.settings.device.clone(), self.settings.baud);
        let opened = tokio::task::spawn_blocking(move || Port::open(&device, baud)).await;
        let mut port = opened.unwrap_or_else(|error| Err(self.unusable(&error)))?;
        match timeout(START_BYTES_WAIT_MAX, port.0.write_all(&self.settings.start_bytes)).await {
            Ok(Ok(())) => Ok(port),
            Ok(Err(error)) => Err(self.unusable(&error)),
            Err(_) => Err(self.unusable(&"it does not take its start bytes")),
        }
    }

    /// Consumes the port, so that it is closed before anything else is tried.
    async fn read_until_lost(&mut self, port: Port) -> ScannerError {
        let opened_at = Instant::now();
        let mut session = Session { port, last_byte_at: opened_at, buffer: vec![0; READ_BYTES], has_heard: false };
        self.tell_up().await;
        let mut heard_at = opened_at;
        let error = loop {
            if heard_at.elapsed() > UNREAD_MAX {
                self.drop_unread(&session.port);
            }
            match session.hear(&self.framer, self.settings.idle_gap).await {
                Ok(heard) => {
                    heard_at = Instant::now();
                    self.hand_over(&session, heard).await;
                }
                Err(error) => break ScannerError::Lost { device: self.device(), cause: error.to_string() },
            }
        };
        self.framer.abandon();
        self.count_dropped();
        self.pauses.session_ended(opened_at.elapsed(), session.has_heard);
        error
    }

    async fn hand_over(&mut self, session: &Session, heard: Heard) {
        let frames = match heard {
            Heard::Bytes(count) => self.framer.push(&session.buffer[..count]),
            Heard::Silence => self.framer.silence(),
        };
        self.count_dropped();
        let has_frames = !frames.is_empty();
        for frame in frames {
            let reading = self.reading(frame, session.last_byte_at);
            self.send(reading).await;
        }
        if has_frames {
            // The lane goes first: that there are no more bytes yet can be found out while the disk works.
            tokio::task::yield_now().await;
        }
    }

    fn reading(&self, frame: Vec<u8>, last_byte_at: Instant) -> Reading {
        self.stats.frames.fetch_add(1, Relaxed);
        decode(self.settings.encoding, frame).map_or_else(
            |_| {
                self.stats.undecodable.fetch_add(1, Relaxed);
                Reading::Unreadable { last_byte_at }
            },
            |bytes| Reading::Code { bytes, last_byte_at },
        )
    }

    fn drop_unread(&mut self, port: &Port) {
        let count = port.drop_unread();
        self.stats.dropped_bytes.fetch_add(count.into(), Relaxed);
        self.framer.abandon();
        self.count_dropped();
        if count > 0 {
            warn!("scanner {}: left unread for too long, {count} bytes of unknown age dropped", self.device());
        }
    }

    fn count_dropped(&mut self) {
        let dropped = self.framer.take_dropped();
        self.stats.dropped_bytes.fetch_add(dropped.bytes, Relaxed);
        self.stats.overflows.fetch_add(dropped.overflows, Relaxed);
    }

    async fn tell_up(&mut self) {
        if std::mem::replace(&mut self.was_open, true) {
            self.stats.reopens.fetch_add(1, Relaxed);
        }
        self.reason = None;
        self.stats.up.store(true, Relaxed);
        info!("scanner {}: open", self.device());
        self.send(Reading::Up).await;
    }

    /// The reading goes out once per absence; the log hears of a new reason too.
    async fn tell_absent(&mut self, error: &ScannerError) {
        let reason = error.to_string();
        self.stats.up.store(false, Relaxed);
        if self.reason.as_ref() != Some(&reason) {
            warn!("{reason}");
        }
        if self.reason.replace(reason.clone()).is_none() {
            self.send(Reading::Absent { reason }).await;
        }
    }

    /// Without a receiver there is nobody to tell, and [`run`] is about to end.
    async fn send(&self, reading: Reading) {
        let _ = self.readings.send(reading).await;
    }

    fn unusable(&self, cause: &dyn std::fmt::Display) -> ScannerError {
        ScannerError::Unusable { device: self.device(), cause: cause.to_string() }
    }

    fn device(&self) -> String {
        self.settings.device.display().to_string()
    }
}

/// The device from one opening to its loss.
struct Session {
    port: Port,
    last_byte_at: Instant,
    buffer: Vec<u8>,
    has_heard: bool,
}

/// What came out of waiting for the device.
enum Heard {
    /// So many bytes, in [`Session::buffer`].
    Bytes(usize),
    /// Nothing for `idle_gap`.
    Silence,
}

impl Session {
    /// Waits for bytes, or for silence if the framer waits for it.
    async fn hear(&mut self, framer: &Framer, idle_gap: Duration) -> io::Result<Heard> {
        let read = self.port.0.read(&mut self.buffer);
        let read = if framer.is_waiting() {
            match timeout(idle_gap.saturating_sub(self.last_byte_at.elapsed()), read).await {
                Ok(read) => read,
                Err(_) => return self.look_once_more(),
            }
        } else {
            read.await
        };
        self.heard(read)
    }

    /// A busy processor may be late for bytes that are there already: silence is what the device itself says it is.
    fn look_once_more(&mut self) -> io::Result<Heard> {
        match self.port.0.try_read(&mut self.buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Heard::Silence),
            read => self.heard(read),
        }
    }

    /// A tty that hung up reads as an end of file, for ever.
    fn heard(&mut self, read: io::Result<usize>) -> io::Result<Heard> {
        let count = read?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the line hung up"));
        }
        self.last_byte_at = Instant::now();
        self.has_heard = true;
        Ok(Heard::Bytes(count))
    }
}

/// An open device, ours alone.
struct Port(SerialStream);

impl Port {
    /// Opens it raw, 8N1, without flow control, exclusively (`TIOCEXCL` and a lock), without waiting for a carrier, and throws away
    /// what it received before. May block for as long as the driver likes.
    fn open(device: &Path, baud: u32) -> Result<Self, ScannerError> {
        let is_pseudo_terminal = check_is_tty(device).map_err(|error| error.explain(device))?;
        let stream = Self::open_stream(device, baud, is_pseudo_terminal).map_err(|error| Refused::Port(error).explain(device))?;
        Ok(Self(stream))
    }

    fn open_stream(device: &Path, baud: u32, is_pseudo_terminal: bool) -> tokio_serial::Result<SerialStream> {
        let name = device.to_str().ok_or_else(|| tokio_serial::Error::new(ErrorKind::InvalidInput, "its name is not UTF-8"))?;
        let mut stream = tokio_serial::new(name, baud)
            .data_bits(DataBits::Eight)
            .parity(Parity::None)
            .stop_bits(StopBits::One)
            .flow_control(FlowControl::None)
            .exclusive(true)
            .open_native_async()?;
        if is_pseudo_terminal {
            // Whoever made the pseudo-terminal may hold it open, and then TIOCEXCL would outlive us if we are killed and lock us
            // out. This gives it back and keeps the lock as a shared one, against which the next exclusive opening fails.
            stream.set_exclusive(false)?;
        }
        stream.clear(ClearBuffer::Input)?;
        Ok(stream)
    }

    /// Throws away what has been received; returns how much that is, as far as the kernel tells.
    fn drop_unread(&self) -> u32 {
        let count = self.0.bytes_to_read().unwrap_or(0);
        let _ = self.0.clear(ClearBuffer::Input);
        count
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // Closing waits up to 30 s for output that a sick device does not take. The rest (TIOCEXCL, the lock) the library gives back.
        let _ = self.0.clear(ClearBuffer::Output);
    }
}

/// Looks before opening: opening has effects on things that are no ttys. Returns whether it is a pseudo-terminal.
fn check_is_tty(device: &Path) -> Result<bool, Refused> {
    let metadata = std::fs::metadata(device).map_err(|error| Refused::Port(error.into()))?;
    let file_type = metadata.file_type();
    if file_type.is_char_device() {
        Ok(PSEUDO_TERMINAL_MAJORS.contains(&rustix::fs::major(metadata.rdev())))
    } else if file_type.is_dir() {
        Err(Refused::OtherThing("a directory"))
    } else if file_type.is_file() {
        Err(Refused::OtherThing("a regular file"))
    } else {
        Err(Refused::OtherThing("no character device"))
    }
}

/// Why an opening failed, before it is put into words.
enum Refused {
    OtherThing(&'static str),
    Port(tokio_serial::Error),
}

impl Refused {
    fn explain(self, device: &Path) -> ScannerError {
        let device = device.display().to_string();
        let error = match self {
            Self::OtherThing(thing) => return ScannerError::OtherThing { device, thing },
            Self::Port(error) => error,
        };
        match error.kind() {
            ErrorKind::Io(io::ErrorKind::NotFound) => ScannerError::Missing { device },
            ErrorKind::Io(io::ErrorKind::PermissionDenied) => ScannerError::NoRights { device },
            // The library's kind for EBUSY and for a lock that is held.
            ErrorKind::NoDevice => ScannerError::InUse { device },
            _ => ScannerError::Unusable { device, cause: error.to_string() },
        }
    }
}

/// Why the device is absent.
#[derive(Debug, thiserror::Error)]
enum ScannerError {
    #[error("scanner {device}: no such device; plug the reader in, or correct scanner.device")]
    Missing { device: String },
    #[error("scanner {device}: no right to open it; add this user to the group of the device (dialout on Debian) and restart")]
    NoRights { device: String },
    #[error("scanner {device}: another program or lane uses it; end that one (`fuser -v {device}` names it)")]
    InUse { device: String },
    #[error("scanner {device}: this is {thing}, not a serial device; correct scanner.device")]
    OtherThing { device: String, thing: &'static str },
    #[error("scanner {device}: it cannot be used as a serial port ({cause}); check scanner.device, scanner.baud and the adapter")]
    Unusable { device: String, cause: String },
    #[error("scanner {device}: gone ({cause}); plug the reader in again, it is used as soon as it is back")]
    Lost { device: String, cause: String },
}

/// How long to wait between tries: longer each time, until the device has proved to be there.
struct Pauses {
    next: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: PAUSE_MIN }
    }
}

impl Pauses {
    fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(PAUSE_MAX);
        pause
    }

    /// A device that opens and fails at once has proved nothing.
    fn session_ended(&mut self, lasted: Duration, has_heard: bool) {
        if has_heard || lasted >= SETTLED_AFTER {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{File, OpenOptions},
        io::{Read, Write},
        os::{
            fd::OwnedFd,
            unix::{
                fs::{OpenOptionsExt, symlink},
                process::CommandExt,
            },
        },
        path::PathBuf,
        process::Command,
    };

    use rustix::{
        pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
        termios::{OptionalActions, tcgetattr, tcsetattr},
    };
    use tokio::{sync::mpsc::Receiver, task::JoinHandle};

    use super::{super::framing::test_code, *};
    use crate::config::{Encoding, Framing};

    const DEADLINE: Duration = Duration::from_secs(20);

    /// The far end of a pseudo-terminal: the reader's side of the cable.
    struct Reader {
        master: File,
        device: PathBuf,
    }

    impl Reader {
        fn plugged_in() -> Self {
            let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
            grantpt(&master).unwrap();
            unlockpt(&master).unwrap();
            let device = ptsname(&master, Vec::new()).unwrap().into_string().unwrap().into();
            let mut termios = tcgetattr(&master).unwrap();
            termios.make_raw();
            tcsetattr(&master, OptionalActions::Now, &termios).unwrap();
            Self { master: master.into(), device }
        }

        fn send(&mut self, bytes: &[u8]) {
            self.master.write_all(bytes).unwrap();
        }

        /// Keeps the near end open beside the scanner, as a tester's library may.
        fn held_open(&self) -> File {
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(&self.device).unwrap()
        }
    }

    /// A running scanner.
    struct Scan {
        readings: Receiver<Reading>,
        stats: Arc<ScannerStats>,
        task: JoinHandle<()>,
    }

    impl Scan {
        fn of(device: &Path) -> Self {
            Self::with(settings(device), 64)
        }

        fn with(settings: Scanner, room: usize) -> Self {
            let (sender, readings) = tokio::sync::mpsc::channel(room);
            let stats = Arc::new(ScannerStats::default());
            let task = tokio::spawn(run(settings, sender, Arc::clone(&stats)));
            Self { readings, stats, task }
        }

        async fn next(&mut self) -> Reading {
            timeout(DEADLINE, self.readings.recv()).await.expect("a reading in time").expect("the scanner runs")
        }

        async fn up(&mut self) {
            assert_eq!(self.next().await, Reading::Up);
        }

        async fn code(&mut self) -> Vec<u8> {
            match self.next().await {
                Reading::Code { bytes, .. } => bytes,
                other => panic!("not a code: {other:?}"),
            }
        }

        async fn absent(&mut self) -> String {
            match self.next().await {
                Reading::Absent { reason } => reason,
                other => panic!("not an absence: {other:?}"),
            }
        }

        async fn ended(self) {
            drop(self.readings);
            timeout(DEADLINE, self.task).await.expect("an end in time").unwrap();
        }
    }

    fn settings(device: &Path) -> Scanner {
        Scanner {
            device: device.into(),
            baud: 115_200,
            framing: Framing::Line,
            encoding: Encoding::Raw,
            idle_gap: Duration::from_millis(50),
            start_bytes: Vec::new(),
        }
    }

    #[tokio::test]
    async fn codes_come_in_and_noise_between_them_does_not() {
        let mut reader = Reader::plugged_in();
        let mut scan = Scan::with(Scanner { framing: Framing::RideCode, ..settings(&reader.device) }, 64);
        scan.up().await;
        let codes: Vec<_> = (0..4).map(|n| test_code(0x80, 8, n)).collect();
        reader.send(&[&b"noise\x80\x01\x49\x24"[..], &codes[0], b"\r\n", &codes[1], &codes[2]].concat());
        for byte in &codes[3] {
            reader.send(&[*byte]);
            tokio::task::yield_now().await;
        }
        for code in codes {
            assert_eq!(scan.code().await, code);
        }
        assert_eq!(scan.stats.frames.load(Relaxed), 4);
        scan.ended().await;
    }

    #[tokio::test]
    async fn every_byte_value_passes_the_tty_unchanged() {
        let mut reader = Reader::plugged_in();
        let mut scan = Scan::with(Scanner { framing: Framing::Idle, ..settings(&reader.device) }, 64);
        scan.up().await;
        let all: Vec<u8> = (0..=255).collect();
        reader.send(&all);
        assert_eq!(scan.code().await, all);
        scan.ended().await;
    }

    #[tokio::test]
    async fn a_silence_ends_a_cut_code_and_the_next_one_is_whole() {
        let mut reader = Reader::plugged_in();
        let mut scan = Scan::with(Scanner { framing: Framing::RideCode, ..settings(&reader.device) }, 64);
        scan.up().await;
        let code = test_code(0x80, 8, 1);
        reader.send(&code[..330]);
        let deadline = Instant::now() + DEADLINE;
        while scan.stats.dropped_bytes.load(Relaxed) < 330 && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(scan.stats.dropped_bytes.load(Relaxed), 330);
        reader.send(&code);
        assert_eq!(scan.code().await, code);
        scan.ended().await;
    }

    #[tokio::test]
    async fn what_waited_in_the_device_before_it_was_opened_is_not_a_scan() {
        let mut reader = Reader::plugged_in();
        let _held = reader.held_open();
        reader.send(&b"stale\n".repeat(2000)[..8000]);
        let mut scan = Scan::of(&reader.device);
        scan.up().await;
        reader.send(b"fresh\n");
        assert_eq!(scan.code().await, b"fresh");
        scan.ended().await;
    }

    #[tokio::test]
    async fn a_reader_that_is_plugged_in_again_under_the_same_link_is_used() {
        let place = tempfile::tempdir().unwrap();
        let link = place.path().join("scanner");
        let first = Reader::plugged_in();
        symlink(&first.device, &link).unwrap();
        let mut scan = Scan::of(&link);
        scan.up().await;
        // The name goes first: another test's terminal may get its number at once.
        std::fs::remove_file(&link).unwrap();
        drop(first);
        let reason = scan.absent().await;
        assert!(reason.contains("gone") && reason.contains("plug"), "{reason}");
        assert!(!scan.stats.up.load(Relaxed));

        let mut second = Reader::plugged_in();
        symlink(&second.device, &link).unwrap();
        scan.up().await;
        second.send(b"again\n");
        assert_eq!(scan.code().await, b"again");
        assert_eq!(scan.stats.reopens.load(Relaxed), 1);
        assert!(scan.stats.up.load(Relaxed));
        scan.ended().await;
    }

    #[tokio::test]
    async fn half_a_line_from_before_an_absence_is_not_glued_to_what_follows() {
        let place = tempfile::tempdir().unwrap();
        let link = place.path().join("scanner");
        let mut first = Reader::plugged_in();
        symlink(&first.device, &link).unwrap();
        let mut scan = Scan::of(&link);
        scan.up().await;
        first.send(b"whole\nhalf");
        assert_eq!(scan.code().await, b"whole");
        std::fs::remove_file(&link).unwrap();
        drop(first);
        scan.absent().await;
        let mut second = Reader::plugged_in();
        symlink(&second.device, &link).unwrap();
        scan.up().await;
        second.send(b"next\n");
        assert_eq!(scan.code().await, b"next");
        scan.ended().await;
    }

    #[tokio::test]
    async fn a_device_that_is_missing_is_said_once_and_used_when_it_comes() {
        let place = tempfile::tempdir().unwrap();
        let link = place.path().join("scanner");
        let mut scan = Scan::of(&link);
        let reason = scan.absent().await;
        assert!(reason.contains("no such device") && reason.contains("scanner.device"), "{reason}");
        sleep(PAUSE_MIN * 4).await;
        let mut reader = Reader::plugged_in();
        symlink(&reader.device, &link).unwrap();
        scan.up().await;
        reader.send(b"here\n");
        assert_eq!(scan.code().await, b"here");
        scan.ended().await;
    }

    #[tokio::test]
    async fn what_is_no_serial_device_is_named() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        std::fs::write(&file, "kept").unwrap();
        for (path, word) in [(place.path(), "directory"), (&file, "regular file"), (Path::new("/dev/null"), "serial port")] {
            let mut scan = Scan::of(path);
            let reason = scan.absent().await;
            assert!(reason.contains(word) && reason.contains("scanner.device"), "{reason}");
            scan.ended().await;
        }
        assert_eq!(std::fs::read(file).unwrap(), b"kept");
    }

    #[tokio::test]
    async fn a_device_in_use_is_left_to_the_one_that_has_it() {
        let mut reader = Reader::plugged_in();
        let _held = reader.held_open();
        let mut first = Scan::of(&reader.device);
        first.up().await;
        let mut second = Scan::of(&reader.device);
        let reason = second.absent().await;
        assert!(reason.contains("uses it") && reason.contains("fuser"), "{reason}");
        reader.send(b"mine\n");
        assert_eq!(first.code().await, b"mine");
        first.ended().await;
        second.up().await;
        second.ended().await;
    }

    /// Opens the device as an ordinary user, for whom `TIOCEXCL` counts.
    fn an_ordinary_user_can_open(device: &Path) -> bool {
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec 3<> \"$0\""]).arg(device);
        if rustix::process::getuid().is_root() {
            std::fs::set_permissions(device, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
            shell.uid(65534);
        }
        shell.status().unwrap().success()
    }

    #[tokio::test]
    async fn a_pseudo_terminal_that_its_maker_holds_does_not_lock_out_a_restart_after_a_kill() {
        let reader = Reader::plugged_in();
        let _held = reader.held_open();
        let mut scan = Scan::of(&reader.device);
        scan.up().await;
        assert!(an_ordinary_user_can_open(&reader.device), "TIOCEXCL is left on it while the scanner runs");
        scan.ended().await;
    }

    #[tokio::test]
    async fn start_bytes_are_sent_after_each_opening() {
        let mut reader = Reader::plugged_in();
        let mut scan = Scan::with(Scanner { start_bytes: vec![0x16, 0x54, 0x0d], ..settings(&reader.device) }, 64);
        scan.up().await;
        let mut got = [0; 3];
        reader.master.read_exact(&mut got).unwrap();
        assert_eq!(got, [0x16, 0x54, 0x0d]);
        scan.ended().await;
    }

    #[tokio::test]
    async fn a_frame_that_cannot_be_decoded_is_told_and_counted() {
        let mut reader = Reader::plugged_in();
        let mut scan = Scan::with(Scanner { encoding: Encoding::Hex, ..settings(&reader.device) }, 64);
        scan.up().await;
        reader.send(b"no hex\n00fF\n");
        assert!(matches!(scan.next().await, Reading::Unreadable { .. }));
        assert_eq!(scan.code().await, [0, 0xff]);
        assert_eq!(scan.stats.undecodable.load(Relaxed), 1);
        assert_eq!(scan.stats.frames.load(Relaxed), 2);
        scan.ended().await;
    }

    #[tokio::test]
    async fn a_receiver_that_is_a_little_slow_loses_nothing() {
        let mut reader = Reader::plugged_in();
        let mut scan = Scan::with(settings(&reader.device), 1);
        scan.up().await;
        let lines: Vec<_> = (0..200).map(|n| format!("code {n}")).collect();
        reader.send((lines.join("\n") + "\n").as_bytes());
        for line in lines {
            tokio::task::yield_now().await;
            assert_eq!(scan.code().await, line.as_bytes());
        }
        scan.ended().await;
    }

    #[tokio::test]
    async fn what_waited_unread_for_too_long_is_not_taken_for_a_fresh_scan() {
        let mut reader = Reader::plugged_in();
        let mut scan = Scan::with(settings(&reader.device), 1);
        scan.up().await;
        reader.send(b"one\ntwo\nthree\n");
        let deadline = Instant::now() + DEADLINE;
        while scan.stats.frames.load(Relaxed) < 2 && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
        reader.send(b"stale\n");
        sleep(UNREAD_MAX * 2).await;
        for line in ["one", "two", "three"] {
            assert_eq!(scan.code().await, line.as_bytes());
        }
        while scan.stats.dropped_bytes.load(Relaxed) == 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
        reader.send(b"fresh\n");
        assert_eq!(scan.code().await, b"fresh");
        scan.ended().await;
    }

    #[test]
    fn pauses_grow_to_their_limit_and_shrink_only_for_a_device_that_proved_to_be_there() {
        let mut pauses = Pauses::default();
        let first: Vec<_> = (0..7).map(|_| pauses.next().as_millis()).collect();
        assert_eq!(first, [100, 200, 400, 800, 1600, 2000, 2000]);
        pauses.session_ended(SETTLED_AFTER / 2, false);
        assert_eq!(pauses.next(), PAUSE_MAX, "it opened and failed at once");
        pauses.session_ended(Duration::ZERO, true);
        assert_eq!(pauses.next(), PAUSE_MIN, "it delivered bytes");
        pauses.next();
        pauses.session_ended(SETTLED_AFTER, false);
        assert_eq!(pauses.next(), PAUSE_MIN, "it stayed");
    }
}
