//! `idle`: everything up to a silence is one frame. One that is too long is dropped up to the silence.

use super::{FRAME_BYTES_MAX, Output, Rule};

#[derive(Default)]
pub(super) struct Idle {
    held: Vec<u8>,
    /// Inside a frame that was too long.
    skips: bool,
}

impl Rule for Idle {
    fn take(&mut self, byte: u8, out: &mut Output) {
        if self.skips {
            out.drop_bytes(1);
        } else if self.held.len() < FRAME_BYTES_MAX {
            self.held.push(byte);
        } else {
            out.drop_bytes(self.held.len() + 1);
            out.dropped.overflows += 1;
            *self = Self { held: Vec::new(), skips: true };
        }
    }

    fn silence(&mut self, out: &mut Output) {
        let ended = std::mem::take(self);
        if !ended.held.is_empty() {
            out.frames.push(ended.held);
        }
    }

    fn is_waiting(&self) -> bool {
        self.skips || !self.held.is_empty()
    }

    fn abandon(&mut self) -> usize {
        std::mem::take(self).held.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            Dropped, Framer,
            test_support::{bytes, chunks, frames_of},
        },
        *,
    };
    use crate::config::Framing;

    proptest! {
        #[test]
        fn what_lies_between_silences_is_a_frame(frames in prop::collection::vec(bytes(FRAME_BYTES_MAX), 0..5), sizes in chunks()) {
            let mut framer = Framer::new(Framing::Idle);
            for frame in frames {
                prop_assert!(frames_of(&mut framer, &frame, &sizes).is_empty());
                prop_assert_eq!(framer.is_waiting(), !frame.is_empty());
                prop_assert_eq!(framer.silence().concat(), frame);
                prop_assert!(!framer.is_waiting());
            }
            prop_assert_eq!(framer.take_dropped(), Dropped::default());
        }
    }

    #[test]
    fn a_frame_that_is_too_long_costs_only_itself() {
        let mut framer = Framer::new(Framing::Idle);
        framer.push(&[0; FRAME_BYTES_MAX]);
        assert_eq!(framer.silence().concat().len(), FRAME_BYTES_MAX);
        framer.push(&[0; FRAME_BYTES_MAX + 1]);
        assert!(framer.silence().is_empty());
        assert_eq!(framer.take_dropped(), Dropped { bytes: FRAME_BYTES_MAX as u64 + 1, overflows: 1 });
        framer.push(&[0; FRAME_BYTES_MAX + 10]);
        assert!(framer.is_waiting(), "its end is a silence too");
        assert!(framer.silence().is_empty());
        assert_eq!(framer.take_dropped(), Dropped { bytes: FRAME_BYTES_MAX as u64 + 10, overflows: 1 });
        framer.push(b"next");
        assert_eq!(framer.silence(), [b"next"]);
    }
}
