//! The reader at the end of a lane's cable: a pseudo-terminal under a link whose name stays.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::symlink},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::ioctl_fionbio,
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt},
    termios::{OptionalActions, QueueSelector, ioctl_tiocnxcl, tcflush, tcgetattr, tcsetattr},
};

use super::DEADLINE;

/// A reader that can be pulled out and put back.
pub(crate) struct Reader {
    link: PathBuf,
    pty: Option<Pty>,
}

/// The slave stays open here, so that the terminal outlives the daemon as a real device does.
struct Pty {
    master: File,
    slave: OwnedFd,
}

impl Reader {
    /// Plugged in under `link`.
    pub(crate) fn new(link: PathBuf) -> Self {
        let mut reader = Self { link, pty: None };
        reader.plug();
        reader
    }

    /// The name that the settings use.
    pub(crate) fn link(&self) -> &Path {
        &self.link
    }

    /// Puts in a new device under the old name.
    pub(crate) fn plug(&mut self) {
        assert!(self.pty.is_none(), "{} is plugged in already", self.link.display());
        self.pty = Some(Pty::open(&self.link));
    }

    /// The device and its name go: what was not read is lost.
    pub(crate) fn unplug(&mut self) {
        fs::remove_file(&self.link).unwrap();
        self.pty = None;
    }

    /// What the last close of a real tty does when its program ends: exclusive use ends, unread bytes are gone.
    pub(crate) fn closed_by_its_program(&self) {
        if let Some(pty) = &self.pty {
            ioctl_tiocnxcl(&pty.slave).unwrap();
            tcflush(&pty.slave, QueueSelector::IFlush).unwrap();
        }
    }

    /// Sends bytes as the reader would. A daemon that never reads is a failure, not a test that hangs.
    pub(crate) fn send(&mut self, mut bytes: &[u8]) {
        let pty = self.pty.as_mut().expect("the reader is plugged in");
        let end = Instant::now() + DEADLINE;
        while !bytes.is_empty() {
            match pty.master.write(bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("cannot write to {}: {error}", self.link.display()),
            }
            assert!(Instant::now() < end, "nobody reads {}", self.link.display());
        }
    }
}

impl Pty {
    fn open(link: &Path) -> Self {
        // Close-on-exec: a descriptor that leaked into another test's daemon would keep an unplugged terminal alive.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        let mut settings = tcgetattr(&slave).unwrap();
        settings.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &settings).unwrap();
        ioctl_fionbio(&master, true).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        symlink(std::ffi::OsStr::from_bytes(name.as_bytes()), link).unwrap();
        Self { master: File::from(master), slave }
    }
}
