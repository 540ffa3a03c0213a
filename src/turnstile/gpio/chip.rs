//! The only place where the GPIO character device is spoken to: finding lines, holding them, setting and reading them.
//!
//! It knows nothing of turnstiles. Its errors say what is the matter with the chip or the line, and what to do.

use std::{
    error::Error,
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use gpio_cdev::{EventRequestFlags, EventType, LineEventHandle, LineHandle, LineRequestFlags};
use nix::errno::Errno;
use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    time::{ClockId, clock_gettime},
};

use super::inputs::{Edge, Source};
use crate::config::{self, LineId};

/// An event that seems to be older was stamped by a clock that has been set since.
const STAMP_AGE_MAX: Duration = Duration::from_secs(60);

/// Which line, for people: the setting, the line, the chip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinePlace {
    /// The key in `[lane.turnstile]`.
    pub key: &'static str,
    /// As in the settings.
    pub id: LineId,
    /// As in the settings.
    pub chip: PathBuf,
}

impl fmt::Display for LinePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, id, chip } = self;
        match id {
            LineId::Offset(offset) => write!(f, "turnstile.{key}: line {offset} of {}", chip.display()),
            LineId::Name(name) => write!(f, "turnstile.{key}: line {name:?} of {}", chip.display()),
        }
    }
}

/// Why a GPIO line cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum GpioError {
    /// There is no such file.
    #[error(
        "there is no GPIO chip {}; mend turnstile.chip (ls /dev/gpiochip* shows those that are there), or load the chip's driver",
        chip.display()
    )]
    NoChip {
        /// As in the settings.
        chip: PathBuf,
    },
    /// The user has no right to the chip.
    #[error(
        "this user may not use the GPIO chip {}; give it to a group that the user is in, such as with a udev rule",
        chip.display()
    )]
    NotAllowed {
        /// As in the settings.
        chip: PathBuf,
    },
    /// The file is something else, or fails.
    #[error("{} cannot be used as a GPIO chip: {source}; mend turnstile.chip", chip.display())]
    NotAChip {
        /// As in the settings.
        chip: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The kernel was built without version 1 of the interface.
    #[error(
        "this kernel does not offer version 1 of the GPIO interface on {}; use a kernel that is built with CONFIG_GPIO_CDEV_V1",
        chip.display()
    )]
    NoVersion1 {
        /// As in the settings.
        chip: PathBuf,
    },
    /// The chip has fewer lines.
    #[error("{place} does not exist, because the chip has lines 0 to {last} only; correct the number, or turnstile.chip")]
    NoSuchOffset {
        /// Which.
        place: LinePlace,
        /// The chip's last line.
        last: u32,
    },
    /// No line has this name.
    #[error(
        "{place} does not exist, because no line of the chip has that name; gpioinfo lists the names, or use the line's number"
    )]
    NoSuchName {
        /// Which.
        place: LinePlace,
    },
    /// Somebody else holds the line.
    #[error("{place} is in use by {holder}; stop that, or use another line")]
    Taken {
        /// Which.
        place: LinePlace,
        /// As the kernel names it.
        holder: String,
    },
    /// The line has no interrupt.
    #[error("{place} cannot tell when it changes ({source}); use a line with an interrupt for an input")]
    NoInterrupt {
        /// Which.
        place: LinePlace,
        /// What the system says.
        source: io::Error,
    },
    /// Anything else.
    #[error("{place} cannot be had: {source}; look at the kernel's log for what its driver says")]
    Line {
        /// Which.
        place: LinePlace,
        /// What the system says.
        source: io::Error,
    },
}

/// A GPIO chip that is open.
pub(super) struct Chip {
    chip: gpio_cdev::Chip,
    path: PathBuf,
}

impl Chip {
    pub(super) fn open(path: &Path) -> Result<Self, GpioError> {
        let chip = gpio_cdev::Chip::new(path).map_err(|error| chip_trouble(path, system_error(&error)))?;
        Ok(Self { chip, path: path.to_owned() })
    }

    /// Finds a line, which may be in use. `key`: the setting that names it.
    pub(super) fn find(&mut self, key: &'static str, line: &config::Line) -> Result<Line, GpioError> {
        let place = LinePlace { key, id: line.id.clone(), chip: self.path.clone() };
        let found = match &line.id {
            LineId::Offset(offset) => self.at(*offset, &place)?,
            LineId::Name(name) => self.named(name, &place)?,
        };
        Ok(Line { found, active_low: line.active_low, place })
    }

    fn at(&mut self, offset: u32, place: &LinePlace) -> Result<gpio_cdev::Line, GpioError> {
        let lines = self.chip.num_lines();
        let found = self.chip.get_line(offset).ok().filter(|_| offset < lines);
        let line = found.ok_or_else(|| GpioError::NoSuchOffset { place: place.clone(), last: lines.saturating_sub(1) })?;
        info(&line, place)?;
        Ok(line)
    }

    fn named(&self, name: &str, place: &LinePlace) -> Result<gpio_cdev::Line, GpioError> {
        for line in self.chip.lines() {
            if info(&line, place)?.name() == Some(name) {
                return Ok(line);
            }
        }
        Err(GpioError::NoSuchName { place: place.clone() })
    }
}

/// The first question that only version 1 answers.
fn info(line: &gpio_cdev::Line, place: &LinePlace) -> Result<gpio_cdev::LineInfo, GpioError> {
    line.info().map_err(|error| info_trouble(place, system_error(&error)))
}

/// A line that was found.
pub(super) struct Line {
    found: gpio_cdev::Line,
    active_low: bool,
    place: LinePlace,
}

impl Line {
    /// Takes the line as an output, inactive from the same moment on.
    pub(super) fn hold_as_output(&self, consumer: &str) -> Result<HeldOutput, GpioError> {
        let handle = self.found.request(self.flags(LineRequestFlags::OUTPUT), 0, consumer);
        handle.map(HeldOutput).map_err(|error| self.trouble(&error))
    }

    /// Takes the line as an input that tells its changes.
    pub(super) fn hold_as_input(&self, consumer: &str) -> Result<HeldInput, GpioError> {
        let events = self.found.events(self.flags(LineRequestFlags::INPUT), EventRequestFlags::BOTH_EDGES, consumer);
        let handle = events.map_err(|error| self.trouble(&error))?;
        never_wait(&handle).map_err(|source| GpioError::Line { place: self.place.clone(), source })?;
        Ok(HeldInput(handle))
    }

    /// Whether nobody holds the line, without taking it.
    pub(super) fn is_free(&self) -> Result<(), GpioError> {
        let info = info(&self.found, &self.place)?;
        if info.is_used() { Err(taken(self.place.clone(), info.consumer())) } else { Ok(()) }
    }

    fn flags(&self, direction: LineRequestFlags) -> LineRequestFlags {
        if self.active_low { direction | LineRequestFlags::ACTIVE_LOW } else { direction }
    }

    fn trouble(&self, error: &gpio_cdev::Error) -> GpioError {
        let info = self.found.info().ok();
        line_trouble(self.place.clone(), system_error(error), info.as_ref().and_then(gpio_cdev::LineInfo::consumer))
    }
}

fn never_wait(handle: &LineEventHandle) -> io::Result<()> {
    Ok(fcntl_setfl(handle, fcntl_getfl(handle)? | OFlags::NONBLOCK)?)
}

/// An output that is held.
#[derive(Debug)]
pub(super) struct HeldOutput(LineHandle);

impl HeldOutput {
    pub(super) fn set(&self, active: bool) -> io::Result<()> {
        self.0.set_value(u8::from(active)).map_err(|error| system_error(&error))
    }
}

/// An input that is held.
#[derive(Debug)]
pub(super) struct HeldInput(LineEventHandle);

impl Source for HeldInput {
    fn ready(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn next(&mut self) -> io::Result<Option<Edge>> {
        let event = match self.0.get_event().map_err(|error| system_error(&error)) {
            Ok(event) => event,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return Ok(None),
            Err(error) => return Err(error),
        };
        let age = age(event.timestamp(), clock_ns(ClockId::Monotonic), clock_ns(ClockId::Realtime));
        let now = Instant::now();
        Ok(Some(Edge { level: event.event_type() == EventType::RisingEdge, at: now.checked_sub(age).unwrap_or(now) }))
    }

    fn level(&self) -> io::Result<bool> {
        self.0.get_value().map(|level| level != 0).map_err(|error| system_error(&error))
    }
}

fn clock_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let part = |part: i64| u64::try_from(part).unwrap_or(0);
    part(time.tv_sec).saturating_mul(1_000_000_000).saturating_add(part(time.tv_nsec))
}

/// How long ago a stamp was made. Kernels before 5.7 stamp with the time of day, later ones with the monotonic clock.
fn age(stamp_ns: u64, monotonic_ns: u64, time_of_day_ns: u64) -> Duration {
    let ages = [monotonic_ns, time_of_day_ns].into_iter().filter_map(|now_ns| now_ns.checked_sub(stamp_ns));
    ages.map(Duration::from_nanos).find(|age| *age <= STAMP_AGE_MAX).unwrap_or_default()
}

// ---- what goes wrong ------------------------------------------------------------------------------------------------------------

/// The system's own error inside the crate's.
fn system_error(error: &gpio_cdev::Error) -> io::Error {
    let cause = error.source();
    let number = cause.and_then(|cause| cause.downcast_ref::<Errno>()).map(|errno| *errno as i32);
    let number = number.or_else(|| cause.and_then(|cause| cause.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error));
    number.map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_i32(error.raw_os_error().unwrap_or(0))
}

fn chip_trouble(path: &Path, source: io::Error) -> GpioError {
    let chip = path.to_owned();
    match errno(&source) {
        Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => GpioError::NoChip { chip },
        Errno::EACCES | Errno::EPERM => GpioError::NotAllowed { chip },
        _ => GpioError::NotAChip { chip, source },
    }
}

/// The chip has said that it has the line, so that it is not the line that is wrong.
fn info_trouble(place: &LinePlace, source: io::Error) -> GpioError {
    match errno(&source) {
        Errno::EINVAL | Errno::ENOTTY => GpioError::NoVersion1 { chip: place.chip.clone() },
        _ => GpioError::Line { place: place.clone(), source },
    }
}

/// `holder`: who the kernel says holds it.
fn line_trouble(place: LinePlace, source: io::Error, holder: Option<&str>) -> GpioError {
    match errno(&source) {
        Errno::EBUSY => taken(place, holder),
        Errno::EACCES | Errno::EPERM => GpioError::NotAllowed { chip: place.chip },
        Errno::ENODEV | Errno::ENXIO => GpioError::NoInterrupt { place, source },
        _ => GpioError::Line { place, source },
    }
}

fn taken(place: LinePlace, holder: Option<&str>) -> GpioError {
    let holder = holder.map_or_else(|| "something that gives no name".to_owned(), |name| format!("{name:?}"));
    GpioError::Taken { place, holder }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> LinePlace {
        LinePlace { key: "open", id: LineId::Offset(17), chip: "/dev/gpiochip0".into() }
    }

    fn error(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno as i32)
    }

    #[test]
    fn a_chip_that_is_not_there_is_named_with_what_to_do() {
        let error = Chip::open(Path::new("/dev/gpiochip-of-nobody")).map(|_| ()).unwrap_err();
        assert!(matches!(error, GpioError::NoChip { .. }));
        let told = error.to_string();
        assert!(told.starts_with("there is no GPIO chip /dev/gpiochip-of-nobody; ") && told.contains("turnstile.chip"), "{told}");
    }

    #[test]
    fn another_file_in_the_place_of_the_chip_is_no_chip() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Chip::open(file.path()).map(|_| ()).unwrap_err();
        assert!(
            matches!(&error, GpioError::NotAChip { source, .. } if source.raw_os_error() == Some(Errno::ENOTTY as i32)),
            "{error}"
        );
        let error = Chip::open(Path::new("/dev/null")).map(|_| ()).unwrap_err();
        assert!(matches!(error, GpioError::NotAChip { .. }), "{error}");
    }

    #[test]
    fn each_trouble_is_one_sentence_with_its_cause_and_what_to_do() {
        let chip = Path::new("/dev/gpiochip0");
        let named = LinePlace { id: LineId::Name("RELAY".into()), ..place() };
        let cases = [
            (chip_trouble(chip, error(Errno::EACCES)), "may not use the GPIO chip /dev/gpiochip0"),
            (info_trouble(&place(), error(Errno::EINVAL)), "version 1 of the GPIO interface on /dev/gpiochip0"),
            (line_trouble(place(), error(Errno::EBUSY), Some("led")), "line 17 of /dev/gpiochip0 is in use by \"led\""),
            (line_trouble(place(), error(Errno::EBUSY), None), "in use by something that gives no name"),
            (line_trouble(place(), error(Errno::ENODEV), None), "cannot tell when it changes"),
            (line_trouble(place(), error(Errno::EIO), None), "turnstile.open: line 17 of /dev/gpiochip0 cannot be had"),
            (GpioError::NoSuchOffset { place: place(), last: 7 }, "lines 0 to 7 only"),
            (GpioError::NoSuchName { place: named }, "turnstile.open: line \"RELAY\" of /dev/gpiochip0 does not exist"),
        ];
        for (error, cause) in cases {
            let told = error.to_string();
            assert!(told.contains(cause) && told.contains("; ") && !told.contains('\n') && !told.ends_with('.'), "{told}");
        }
    }

    #[test]
    fn the_age_of_an_event_is_that_of_the_clock_that_stamped_it() {
        let (monotonic, time_of_day) = (5_000_000_000, 1_790_000_000_000_000_000);
        assert_eq!(age(monotonic - 3_000_000, monotonic, time_of_day), Duration::from_millis(3));
        assert_eq!(age(time_of_day - 3_000_000, monotonic, time_of_day), Duration::from_millis(3));
        assert_eq!(age(monotonic, monotonic, time_of_day), Duration::ZERO);
    }

    #[test]
    fn a_stamp_of_a_clock_that_was_set_since_counts_as_now() {
        let (monotonic, time_of_day) = (5_000_000_000, 1_790_000_000_000_000_000);
        assert_eq!(age(time_of_day + 3_600_000_000_000, monotonic, time_of_day), Duration::ZERO);
        assert_eq!(age(time_of_day - 3_600_000_000_000, monotonic, time_of_day), Duration::ZERO);
        assert_eq!(age(0, u64::MAX, u64::MAX), Duration::ZERO);
    }
}
