//! Every default and every bound of a setting, in one place.

use std::time::Duration;

/// The smallest and the largest value that is allowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds<T> {
    pub(super) min: T,
    pub(super) max: T,
}

/// A default and its bounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limited<T> {
    pub(super) default: T,
    pub(super) bounds: Bounds<T>,
}

const fn limited<T: Copy>(default: T, min: T, max: T) -> Limited<T> {
    Limited { default, bounds: Bounds { min, max } }
}

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

const fn s(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn m(count: u64) -> Duration {
    s(60 * count)
}

const fn h(count: u64) -> Duration {
    m(60 * count)
}

const fn d(count: u64) -> Duration {
    h(24 * count)
}

const DECADE: Duration = d(3650);
const MIB_BYTES: u64 = 1 << 20;
const PIB_BYTES: u64 = 1 << 50;

/// Settings files are a few KiB.
pub(super) const SETTINGS_BYTES_MAX: u64 = MIB_BYTES;
/// At most 256 roots of 200 bytes.
pub(super) const ROOTS_BYTES_MAX: u64 = MIB_BYTES;
/// All pairs of 1000 stations, each with two names of 16 characters.
pub(super) const FARES_BYTES_MAX: u64 = 32 * MIB_BYTES;
/// A bundle of every public certification authority has about 250 KiB.
pub(super) const CA_BYTES_MAX: u64 = 4 * MIB_BYTES;
/// A secret is a line.
pub(super) const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Characters of a gate's ID and of a station.
pub(super) const ID_CHARS_MAX: usize = 16;
/// Characters of a lane's or a GPIO line's name.
pub(super) const NAME_CHARS_MAX: usize = 32;
/// Characters of `body`, `line_name`, `appid` and `mch_id`.
pub(super) const TEXT_CHARS_MAX: usize = 128;
/// Lanes of one gate computer.
pub(super) const LANES_MAX: usize = 16;
/// Line offsets of a GPIO chip.
pub(super) const LINE_OFFSET: Bounds<u32> = Bounds { min: 0, max: 65_535 };
/// Bytes sent to a reader after opening it.
pub(super) const START_BYTES_MAX: usize = 256;
/// Rates that the kernel's termios names: another number is a slip of the pen.
pub(super) const BAUD_RATES: [u32; 14] =
    [1200, 1800, 2400, 4800, 9600, 19_200, 38_400, 57_600, 115_200, 230_400, 460_800, 500_000, 576_000, 921_600];
pub(super) const BAUD_DEFAULT: u32 = 115_200;
/// Below this a code takes longer than 60 ms on the wire.
pub(super) const BAUD_WARN_BELOW: u32 = 57_600;

pub(super) const DUPLICATE_WINDOW: Limited<Duration> = limited(m(5), ms(100), d(7));
pub(super) const PASSENGER_INTERVAL: Limited<Duration> = limited(s(5), s(0), h(1));
pub(super) const OPEN_WITHIN: Limited<Duration> = limited(s(3), ms(100), s(60));

pub(super) const IDLE_GAP: Limited<Duration> = limited(ms(50), ms(1), s(10));
pub(super) const PULSE: Limited<Duration> = limited(ms(500), ms(10), s(60));
pub(super) const PULSE_GAP: Limited<Duration> = limited(ms(100), s(0), s(60));
/// Contacts bounce for up to 20 ms; nobody passes or presses in less than 100 ms.
pub(super) const DEBOUNCE: Limited<Duration> = limited(ms(20), ms(1), s(1));
pub(super) const PASSAGE_TIMEOUT: Limited<Duration> = limited(s(8), ms(100), m(10));

pub(super) const CLOCK_TOLERANCE: Limited<Duration> = limited(s(10), s(0), h(24));
/// Time zones lie between −12 and +14 hours.
pub(super) const CLOCK_OFFSET: Bounds<Duration> = Bounds { min: s(0), max: h(14) };
/// Bytes of an opaque code; longer frames are dropped by the scanner.
pub(super) const OPAQUE_BYTES_MAX: usize = 4096;
pub(super) const OPAQUE_OFFSET: Bounds<usize> = Bounds { min: 0, max: OPAQUE_BYTES_MAX - 1 };
pub(super) const OPAQUE_LENGTH: Bounds<usize> = Bounds { min: 1, max: OPAQUE_BYTES_MAX };

/// One fare: up to 10 000 yuan.
pub(super) const FARE_FEN: Bounds<i64> = Bounds { min: 0, max: 1_000_000 };
pub(super) const DISCOUNT_PERCENT: Limited<u8> = limited(100, 0, 100);
pub(super) const MAX_JOURNEY: Limited<Duration> = limited(h(4), s(1), d(7));
pub(super) const REENTRY_WITHIN: Limited<Duration> = limited(m(15), s(0), d(1));
pub(super) const SAME_STATION_WITHIN: Bounds<Duration> = Bounds { min: s(0), max: d(1) };

pub(super) const MIN_FREE_BYTES: Limited<u64> = limited(64 * MIB_BYTES, 0, PIB_BYTES);
pub(super) const KEEP: Limited<Duration> = limited(d(400), s(1), DECADE);
pub(super) const KEEP_DENIED: Limited<Duration> = limited(d(30), s(1), DECADE);

pub(super) const TIMEOUT: Limited<Duration> = limited(s(10), ms(100), m(5));
pub(super) const LATITUDE: Bounds<f64> = Bounds { min: -90.0, max: 90.0 };
pub(super) const LONGITUDE: Bounds<f64> = Bounds { min: -180.0, max: 180.0 };

pub(super) const CONCURRENCY: Limited<usize> = limited(8, 1, 256);
pub(super) const RETRY_INITIAL: Limited<Duration> = limited(s(1), ms(10), h(1));
pub(super) const RETRY_MAX: Limited<Duration> = limited(s(30), ms(10), d(1));
pub(super) const UNKNOWN_ATTEMPTS: Limited<u32> = limited(10, 1, 1_000_000);
pub(super) const MAX_AGE: Limited<Duration> = limited(d(5), s(1), DECADE);
pub(super) const ALARM_AFTER: Limited<u32> = limited(5, 1, 1_000_000);

pub(super) const PASSENGER_COUNT: Limited<u32> = limited(5, 1, 1_000_000);
pub(super) const PASSENGER_FEN: Limited<i64> = limited(5000, 1, 1_000_000_000);
pub(super) const GATE_FEN: Limited<i64> = limited(1_000_000, 1, 1_000_000_000_000);
pub(super) const OLDEST: Limited<Duration> = limited(d(2), s(1), DECADE);
