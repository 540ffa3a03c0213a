//! A reader at the end of a lane's cable: the master of a pseudo-terminal whose other side the daemon opens like any serial device.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
    path::PathBuf,
};

use rustix::{
    io::ioctl_fionbio,
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};

/// One reader.
#[derive(Debug)]
pub(super) struct Reader {
    master: File,
    device: PathBuf,
    /// Held, so that the terminal is there before the daemon opens it.
    _slave: OwnedFd,
}

impl Reader {
    pub(super) fn new() -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        let mut settings = tcgetattr(&slave)?;
        settings.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &settings)?;
        ioctl_fionbio(&master, true)?;
        let device = ptsname(&master, Vec::new())?.into_string().map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self { master: File::from(master), device: PathBuf::from(device), _slave: slave })
    }

    /// What the settings call it.
    pub(super) fn device(&self) -> &PathBuf {
        &self.device
    }

    /// Sends bytes as the reader would. A daemon that has stopped reading is an error, not a wait.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.master.write_all(bytes)
    }
}
