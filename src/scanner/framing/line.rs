//! `line`: a frame ends at CR, LF or CRLF, which are removed; empty lines are nothing. Silence means nothing: a reader that
//! dribbles still writes one line. A line that is too long is dropped up to and with its end.

use super::{FRAME_BYTES_MAX, Output, Rule};

#[derive(Default)]
pub(super) struct Line {
    held: Vec<u8>,
    /// Inside a line that was too long.
    skips: bool,
}

impl Rule for Line {
    fn take(&mut self, byte: u8, out: &mut Output) {
        let ends = matches!(byte, b'\r' | b'\n');
        if self.skips {
            out.drop_bytes(1);
            self.skips = !ends;
        } else if !ends {
            self.hold(byte, out);
        } else if !self.held.is_empty() {
            out.frames.push(std::mem::take(&mut self.held));
        }
    }

    fn silence(&mut self, _: &mut Output) {}

    fn is_waiting(&self) -> bool {
        false
    }

    fn abandon(&mut self) -> usize {
        std::mem::take(self).held.len()
    }
}

impl Line {
    fn hold(&mut self, byte: u8, out: &mut Output) {
        if self.held.len() < FRAME_BYTES_MAX {
            self.held.push(byte);
            return;
        }
        out.drop_bytes(self.held.len() + 1);
        out.dropped.overflows += 1;
        *self = Self { held: Vec::new(), skips: true };
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXUPPER;
    use proptest::prelude::*;

    use super::{
        super::{
            Dropped, Framer,
            test_support::{chunks, frames_of},
        },
        *,
    };
    use crate::config::Framing;

    #[test]
    fn lines_end_at_cr_lf_or_both_and_empty_ones_are_nothing() {
        let mut framer = Framer::new(Framing::Line);
        assert_eq!(framer.push(b"\r\n\none\rtwo\nthree\r\n\r\n\0 four\n\r"), [&b"one"[..], b"two", b"three", b"\0 four"]);
        assert_eq!(framer.take_dropped(), Dropped::default());
    }

    #[test]
    fn a_slow_dribble_is_one_line() {
        let mut framer = Framer::new(Framing::Line);
        framer.push(b"slo");
        assert!(!framer.is_waiting());
        assert!(framer.silence().is_empty());
        assert_eq!(framer.push(b"w\n"), [b"slow"]);
    }

    #[test]
    fn the_longest_line_passes_and_a_longer_one_costs_only_itself() {
        let mut framer = Framer::new(Framing::Line);
        let longest = vec![b'x'; FRAME_BYTES_MAX];
        assert_eq!(framer.push(&[&longest[..], b"\n"].concat()).concat(), longest);
        assert!(framer.push(&[&longest[..], b"y\n"].concat()).is_empty());
        assert_eq!(framer.take_dropped(), Dropped { bytes: FRAME_BYTES_MAX as u64 + 2, overflows: 1 });
        assert_eq!(framer.push(&[&longest[..], b"yyy\r\nnext\n"].concat()), [b"next"]);
        assert_eq!(framer.take_dropped(), Dropped { bytes: FRAME_BYTES_MAX as u64 + 4, overflows: 1 });
    }

    proptest! {
        #[test]
        fn codes_as_hex_lines_come_out_as_they_went_in(
            codes in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..400), 0..6),
            ends in prop::collection::vec(prop::sample::select(vec!["\r", "\n", "\r\n", "\r\n\r\n"]), 6),
            sizes in chunks(),
        ) {
            let lines: Vec<_> = codes.iter().map(|code| HEXUPPER.encode(code).into_bytes()).collect();
            let stream: Vec<u8> = lines.iter().zip(&ends).flat_map(|(line, end)| [line, end.as_bytes()].concat()).collect();
            prop_assert_eq!(frames_of(&mut Framer::new(Framing::Line), &stream, &sizes), lines);
        }
    }
}
