//! Where one code ends and the next begins: bytes in, complete frames out.
//!
//! Pure: no I/O and no clock; who reads the port says when there was silence. Every byte value is legal inside a frame. Bytes are
//! judged one by one, so the way in which they arrive in chunks changes nothing; work per byte is bounded; and what is held is
//! bounded by [`FRAME_BYTES_MAX`] and the few bytes that enclose a frame. What a frame holds is not looked at, beside the
//! length and tags by which a ride code is known.

mod idle;
mod line;
mod ride_code;
mod stx;

use crate::config::Framing;

#[cfg(test)]
pub(super) use ride_code::test_code;

/// The longest frame. More bytes without an end are dropped and counted.
pub const FRAME_BYTES_MAX: usize = 4096;

/// What was not handed out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Bytes that belong to no frame.
    pub bytes: u64,
    /// Frames with more than [`FRAME_BYTES_MAX`] bytes; theirs are in `bytes` too.
    pub overflows: u64,
}

/// Cuts a stream of bytes into frames by one of the [`Framing`]s.
pub struct Framer {
    rule: Box<dyn Rule>,
    dropped: Dropped,
}

impl Framer {
    /// Holds nothing yet.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let rule: Box<dyn Rule> = match framing {
            Framing::RideCode => Box::<ride_code::RideCode>::default(),
            Framing::Line => Box::<line::Line>::default(),
            Framing::Stx => Box::<stx::Stx>::default(),
            Framing::Idle => Box::<idle::Idle>::default(),
        };
        Self { rule, dropped: Dropped::default() }
    }

    /// Takes bytes as they arrived; returns the frames that they complete, in order.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Output { frames: Vec::new(), dropped: &mut self.dropped };
        for &byte in bytes {
            self.rule.take(byte, &mut out);
        }
        out.frames
    }

    /// Says that nothing arrived for `idle_gap`; returns the frames that this completes, in order.
    pub fn silence(&mut self) -> Vec<Vec<u8>> {
        let mut out = Output { frames: Vec::new(), dropped: &mut self.dropped };
        self.rule.silence(&mut out);
        out.frames
    }

    /// Whether [`Self::silence`] would matter now.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.rule.is_waiting()
    }

    /// Drops and counts what is held: the rest of it will not come.
    pub fn abandon(&mut self) {
        self.dropped.bytes += self.rule.abandon() as u64;
    }

    /// What was dropped since this was last asked.
    pub fn take_dropped(&mut self) -> Dropped {
        std::mem::take(&mut self.dropped)
    }
}

/// One way of finding the frames in a stream.
trait Rule: Send + Sync {
    /// The next byte of the stream.
    fn take(&mut self, byte: u8, out: &mut Output);
    /// Nothing came for a while.
    fn silence(&mut self, out: &mut Output);
    /// Whether silence would change anything.
    fn is_waiting(&self) -> bool;
    /// Back to the beginning. Returns how many bytes were held.
    fn abandon(&mut self) -> usize;
}

/// Where a [`Rule`] puts what it finds.
struct Output<'a> {
    frames: Vec<Vec<u8>>,
    dropped: &'a mut Dropped,
}

impl Output<'_> {
    fn drop_bytes(&mut self, count: usize) {
        self.dropped.bytes += count as u64;
    }
}

/// What the bytes from some point on can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// No frame begins here.
    Never,
    /// A frame may begin here; its end has not arrived.
    Unfinished,
    /// A frame of so many bytes, enclosing bytes included, begins here.
    Complete(usize),
}

#[cfg(test)]
mod test_support {
    //! What the property tests of all framings share.

    use proptest::prelude::*;

    use super::*;

    pub(super) fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..=max)
    }

    /// Sizes of the chunks in which a stream arrives; used over and over until the stream ends.
    pub(super) fn chunks() -> impl Strategy<Value = Vec<usize>> {
        prop::collection::vec(prop_oneof![Just(1), 1..8_usize, 1..700_usize], 1..40)
    }

    /// Splits `stream` as `sizes` says.
    pub(super) fn split<'a>(mut stream: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
        let mut parts = Vec::new();
        for &size in sizes.iter().cycle() {
            if stream.is_empty() {
                break;
            }
            let (part, rest) = stream.split_at(size.min(stream.len()));
            parts.push(part);
            stream = rest;
        }
        parts
    }

    pub(super) fn frames_of(framer: &mut Framer, stream: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
        split(stream, sizes).into_iter().flat_map(|part| framer.push(part)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        test_support::{chunks, frames_of, split},
        *,
    };

    /// 02, two bytes of length, 03 around the longest payload.
    const HELD_BYTES_MAX: usize = FRAME_BYTES_MAX + 4;

    fn framings() -> impl Strategy<Value = Framing> {
        prop::sample::select(vec![Framing::RideCode, Framing::Line, Framing::Stx, Framing::Idle])
    }

    /// Bytes that look like parts of frames more often than chance would have it.
    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            4 => prop::collection::vec(any::<u8>(), 0..200),
            2 => prop::sample::select(vec![vec![2], vec![3], vec![13], vec![10], vec![2, 0, 1], vec![2, 16, 0], vec![0x80, 1, 0x49, 0x24]]),
            2 => (1..300_u16).prop_map(|length| [&[2][..], &length.to_be_bytes(), &vec![7; length.into()], &[3]].concat()),
            1 => Just(test_code(0x80, 5, 0x11)),
            1 => Just(vec![b'x'; 5000]),
        ];
        prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn chunks_change_nothing(framing in framings(), stream in streams(), sizes in chunks()) {
            let (mut whole, mut parts) = (Framer::new(framing), Framer::new(framing));
            prop_assert_eq!(whole.push(&stream), frames_of(&mut parts, &stream, &sizes));
            prop_assert_eq!(whole.is_waiting(), parts.is_waiting());
            prop_assert_eq!(whole.take_dropped(), parts.take_dropped());
            prop_assert_eq!(whole.silence(), parts.silence());
            prop_assert_eq!(whole.take_dropped(), parts.take_dropped());
        }

        #[test]
        fn no_bytes_make_it_panic_or_hold_more_than_the_limit(
            framing in framings(), stream in streams(), sizes in chunks(), quiet in prop::collection::vec(any::<bool>(), 1..20)
        ) {
            let mut framer = Framer::new(framing);
            for (part, &quiet) in split(&stream, &sizes).into_iter().zip(quiet.iter().cycle()) {
                let mut frames = framer.push(part);
                if quiet {
                    frames.extend(framer.silence());
                    prop_assert!(!framer.is_waiting(), "silence was asked for and changed nothing");
                }
                prop_assert!(frames.iter().all(|frame| (1..=FRAME_BYTES_MAX).contains(&frame.len())));
            }
            prop_assert!(framer.rule.abandon() <= HELD_BYTES_MAX);
        }

        #[test]
        fn every_byte_is_in_a_frame_or_counted(framing in framings(), stream in streams(), sizes in chunks()) {
            let enclosing_bytes = match framing {
                Framing::Stx => 4,
                Framing::RideCode | Framing::Idle => 0,
                Framing::Line => return Ok(()),
            };
            let mut framer = Framer::new(framing);
            let mut frames = frames_of(&mut framer, &stream, &sizes);
            frames.extend(framer.silence());
            framer.abandon();
            let handed_out: usize = frames.iter().map(|frame| frame.len() + enclosing_bytes).sum();
            prop_assert_eq!(handed_out as u64 + framer.take_dropped().bytes, stream.len() as u64);
        }
    }

    #[test]
    fn an_abandoned_frame_is_counted_and_forgotten() {
        let mut framer = Framer::new(Framing::Line);
        framer.push(b"half a ");
        framer.abandon();
        assert_eq!(framer.push(b"whole\n"), [b"whole"]);
        assert_eq!(framer.take_dropped(), Dropped { bytes: 7, overflows: 0 });
        assert_eq!(framer.take_dropped(), Dropped::default());
    }
}
