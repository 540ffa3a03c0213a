//! A lane's GPIO lines: looked at, never taken.

use std::{error::Error, path::Path};

use gpio_cdev::{Chip, LineInfo};
use nix::errno::Errno;

use super::{
    Look,
    account::{Account, Barred, Want},
};
use crate::config::{Gpio, Line, LineId};

/// Chip, rights, the kernel's interface, then each line.
pub(super) fn look(at: String, settings: &Gpio, account: Option<&Account>) -> Look {
    let path = settings.chip.display();
    let chip = match Chip::new(&settings.chip) {
        Ok(chip) => chip,
        Err(error) => {
            return Look::bad(at, format!("{path} cannot be opened: {error}"), "correct chip (ls /dev/gpiochip*), or look as root");
        }
    };
    if let Some(Err(Barred { by, rights })) = account.map(|account| account.reach(&settings.chip, Want::ReadWrite)) {
        let found = format!("the user faregate may not open {path} ({} has mode {rights})", by.display());
        return Look::bad(at, found, "see /lib/udev/rules.d/70-faregate.rules, or put the user into the group of the chip");
    }
    match lines(&chip) {
        Ok(lines) => judge(at, &settings.chip, &lines, &wanted(settings)),
        Err(problem) => Look::bad(at, problem, "use a kernel with CONFIG_GPIO_CDEV_V1=y"),
    }
}

/// What the kernel tells of one line.
#[derive(Debug, Clone, Default)]
struct Told {
    name: Option<String>,
    /// Who holds it; empty for somebody without a name.
    holder: Option<String>,
}

impl From<LineInfo> for Told {
    fn from(info: LineInfo) -> Self {
        let holder = info.is_used().then(|| info.consumer().unwrap_or_default().to_owned());
        Self { name: info.name().map(str::to_owned), holder }
    }
}

fn lines(chip: &Chip) -> Result<Vec<Told>, String> {
    chip.lines().map(|line| line.info().map(Told::from).map_err(|error| refusal(error.source()))).collect()
}

/// EINVAL is what a kernel answers that knows only version 2 of the interface.
fn refusal(cause: Option<&(dyn Error + 'static)>) -> String {
    match cause.and_then(|cause| cause.downcast_ref::<Errno>()) {
        Some(Errno::EINVAL) => "this kernel lacks version 1 of the GPIO interface".to_owned(),
        Some(errno) => format!("the kernel tells nothing of the lines: {errno}"),
        None => "the kernel tells nothing of the lines".to_owned(),
    }
}

/// The lines that the settings name, each with its key.
fn wanted(settings: &Gpio) -> Vec<(&'static str, &Line)> {
    let Gpio { open, light_pass, light_deny, buzzer, passage, fire_alarm, exit_button, .. } = settings;
    let others = [
        ("light_pass", light_pass),
        ("light_deny", light_deny),
        ("buzzer", buzzer),
        ("passage", passage),
        ("fire_alarm", fire_alarm),
        ("exit_button", exit_button),
    ];
    let others = others.into_iter().filter_map(|(key, line)| Some((key, line.as_ref()?)));
    std::iter::once(("open", open)).chain(others).collect()
}

fn judge(at: String, chip: &Path, lines: &[Told], wanted: &[(&str, &Line)]) -> Look {
    let chip = chip.display();
    for (key, line) in wanted {
        let (name, found) = match &line.id {
            LineId::Offset(offset) => (offset.to_string(), lines.get(*offset as usize)),
            LineId::Name(name) => (name.clone(), lines.iter().find(|line| line.name.as_ref() == Some(name))),
        };
        let Some(found) = found else {
            let problem = format!("{key}: {chip} has no line {name}, but {} lines from 0", lines.len());
            return Look::bad(at, problem, "correct it; see: gpioinfo");
        };
        if let Some(holder) = &found.holder {
            let holder = if holder.is_empty() { "somebody without a name" } else { holder };
            return Look::bad(at, format!("{key}: line {name} of {chip} is held by {holder}"), "free it, or use another line");
        }
    }
    Look::good(at, format!("{chip}: {} lines of {} are free for it", wanted.len(), lines.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    fn told(name: &str, holder: Option<&str>) -> Told {
        Told { name: Some(name.to_owned()), holder: holder.map(str::to_owned) }
    }

    fn line(id: LineId) -> Line {
        Line { id, active_low: false }
    }

    fn found(wanted: &[(&str, &Line)]) -> Look {
        let lines = [told("RELAY", None), told("LED", Some("heartbeat")), told("SENSOR", Some(""))];
        judge("lane in, turnstile".to_owned(), Path::new("/dev/gpiochip0"), &lines, wanted)
    }

    #[test]
    fn lines_are_found_by_offset_and_by_name_and_a_missing_one_is_named() {
        let (offset, name) = (line(LineId::Offset(0)), line(LineId::Name("RELAY".to_owned())));
        for line in [&offset, &name] {
            assert_eq!(found(&[("open", line)]).verdict, Verdict::Good);
        }
        for missing in [LineId::Offset(3), LineId::Name("relay".to_owned())] {
            let look = found(&[("open", &offset), ("buzzer", &line(missing))]);
            assert!(look.verdict == Verdict::Bad && look.found.starts_with("buzzer: /dev/gpiochip0 has no line"), "{look}");
        }
    }

    #[test]
    fn a_line_that_somebody_holds_is_named_with_its_holder() {
        let look = found(&[("open", &line(LineId::Name("LED".to_owned())))]);
        assert_eq!((look.verdict, look.found.as_str()), (Verdict::Bad, "open: line LED of /dev/gpiochip0 is held by heartbeat"));
        assert!(found(&[("passage", &line(LineId::Offset(2)))]).found.ends_with("held by somebody without a name"));
    }

    #[test]
    fn a_kernel_with_the_new_interface_only_is_told_as_such() {
        assert_eq!(refusal(Some(&Errno::EINVAL)), "this kernel lacks version 1 of the GPIO interface");
        assert!(refusal(Some(&Errno::EIO)).starts_with("the kernel tells nothing of the lines: EIO"));
    }
}
