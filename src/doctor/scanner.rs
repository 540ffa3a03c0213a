//! A lane's reader.

use super::{
    Look,
    account::{Account, Barred, Want},
    within_patience,
};
use crate::{config::Scanner, scanner};

/// One that the daemon cannot have: why is found without opening it.
pub(super) fn absent(at: String, settings: &Scanner, account: Option<&Account>) -> Look {
    let device = settings.device.display();
    if !settings.device.exists() {
        return Look::bad(
            at,
            format!("{device} is not there"),
            "plug the reader in, or correct device; see: ls /dev/faregate /dev/serial/by-id",
        );
    }
    barred(&at, settings, account).unwrap_or_else(|| {
        Look::bad(at, format!("{device} is there, but the daemon cannot have it"), "look at: journalctl -u faregate")
    })
}

/// Nobody holds it for the gate: it is opened, and closed again.
pub(super) fn look(at: String, settings: &Scanner, account: Option<&Account>) -> Look {
    if let Some(barred) = barred(&at, settings, account) {
        return barred;
    }
    let (device, tried) = (settings.device.display(), settings.clone());
    match within_patience(move || scanner::try_open(&tried)) {
        Some(Ok(())) => Look::good(at, format!("{device} opens at {} baud", settings.baud)),
        Some(Err(sentence)) => {
            let sentence = sentence.strip_prefix("scanner ").unwrap_or(&sentence);
            let (found, mend) = sentence.split_once("; ").unwrap_or((sentence, "try another reader"));
            Look::bad(at, found, mend)
        }
        None => {
            Look::bad(at, format!("{device} does not open within 5 s"), "unplug the reader and plug it in again, or try another")
        }
    }
}

fn barred(at: &str, settings: &Scanner, account: Option<&Account>) -> Option<Look> {
    let Barred { by, rights } = account?.reach(&settings.device, Want::ReadWrite).err()?;
    let found = format!("the user faregate may not open {} ({} has mode {rights})", settings.device.display(), by.display());
    Some(Look::bad(at, found, "put it into the group of the device (usermod -aG GROUP faregate), then restart the service"))
}
