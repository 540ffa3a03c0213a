//! A lane's GPIO lines: looked at, never taken.

use super::{
    Look,
    account::{Account, Barred, Want},
};
use crate::{config::Gpio, turnstile::look_at_lines};

/// The rights of the service, then what the turnstile's own driver says of the chip and of each line.
pub(super) fn look(at: String, settings: &Gpio, account: Option<&Account>) -> Look {
    let path = settings.chip.display();
    if let Some(Err(Barred { by, rights })) = account.map(|account| account.reach(&settings.chip, Want::ReadWrite)) {
        let found = format!("the user faregate may not open {path} ({} has mode {rights})", by.display());
        return Look::bad(at, found, "see /lib/udev/rules.d/70-faregate.rules, or put the user into the group of the chip");
    }
    match look_at_lines(settings) {
        Ok(count) => Look::good(at, format!("{path}: {count} lines are there and free for it")),
        Err(error) => Look::bad_as_told(at, &error),
    }
}
