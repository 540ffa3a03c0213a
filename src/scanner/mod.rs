//! From a tty to the bytes of codes: frames, text encodings, unplugging.
//!
//! [`run`] owns one serial port for ever and hands out [`Reading`]s. It promises that a reader which is unplugged and plugged in
//! again works again without help, that noise costs only itself, and that nothing here grows without bound. What a code means,
//! it must not know.

mod encoding;
mod framing;
mod port;

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU64},
    time::Instant,
};

pub use encoding::{Undecodable, decode};
pub use framing::{Dropped, FRAME_BYTES_MAX, Framer};
pub use port::{run, try_open};

/// What a scanner has to say. Its `Debug` shows the length of a code, never its bytes.
#[derive(Clone, PartialEq, Eq)]
pub enum Reading {
    /// A code, decoded from the reader's encoding.
    Code {
        /// At least 1, at most [`FRAME_BYTES_MAX`].
        bytes: Vec<u8>,
        /// When the read that brought the last byte returned.
        last_byte_at: Instant,
    },
    /// A frame that its encoding cannot decode.
    Unreadable {
        /// When the read that brought the last byte returned.
        last_byte_at: Instant,
    },
    /// The device is open; whatever it held from before has been thrown away.
    Up,
    /// The device cannot be had. Said once, then followed by [`Reading::Up`] when it is back.
    Absent {
        /// For people: what, why, what to do.
        reason: String,
    },
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code { bytes, .. } => write!(f, "Code(<{} bytes>)", bytes.len()),
            Self::Unreadable { .. } => f.write_str("Unreadable"),
            Self::Up => f.write_str("Up"),
            Self::Absent { reason } => write!(f, "Absent({reason:?})"),
        }
    }
}

/// What a scanner counts, since the start of the program. Written by [`run`] alone.
#[derive(Debug, Default)]
pub struct ScannerStats {
    /// Complete frames, decodable or not.
    pub frames: AtomicU64,
    /// Frames that their encoding cannot decode.
    pub undecodable: AtomicU64,
    /// Bytes that belong to no frame: noise, cut frames, too long ones, and what waited longer than its time is known.
    pub dropped_bytes: AtomicU64,
    /// Frames dropped because they had more than [`FRAME_BYTES_MAX`] bytes.
    pub overflows: AtomicU64,
    /// Openings of the device after the first.
    pub reopens: AtomicU64,
    /// Whether the device is open.
    pub up: AtomicBool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_that_is_printed_shows_no_code() {
        let code = Reading::Code { bytes: b"secret".to_vec(), last_byte_at: Instant::now() };
        assert_eq!(format!("{code:?}"), "Code(<6 bytes>)");
    }
}
