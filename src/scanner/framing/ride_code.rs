//! `ride-code`: by the length and tags of the JT/T 1179 ride code itself (offsets: `facts`, ride code).
//!
//! Every byte of the last 364 is a possible beginning, and a code is handed out when its last byte arrives, whatever unfinished
//! beginnings lie before it: a false header costs neither time nor the good code behind it. Nor does a code that lost its last bytes,
//! which the next one's first bytes then complete: what was handed out is searched on. A silence ends what is unfinished.

use std::collections::VecDeque;

use super::{Output, Rule, Verdict};

/// Version and length field, which the length does not count.
const HEADER_BYTES: usize = 3;
/// Fields 1 to 17 without custom data: length field 329.
const CODE_BYTES_MIN: usize = 332;
/// The same with the most custom data, 32 bytes: length field 361.
const CODE_BYTES_MAX: usize = 364;
const VERSION_MIN: u8 = 0x80;
const CERTIFICATE_AT: usize = 3;
const CERTIFICATE_TAG: usize = 0x24;
const CUSTOM_LENGTH_AT: usize = 197;
/// Behind these, custom data moves what follows.
const ISSUER_SIGNATURE_AT: usize = 198;
const USER_SIGNATURE_AT: usize = 267;
const SIGNATURE_TAG: usize = 0x15;

#[derive(Default)]
pub(super) struct RideCode {
    /// Empty, or begins with what may still be a code: fewer than [`CODE_BYTES_MAX`] bytes.
    held: VecDeque<u8>,
    /// So many of the first bytes held have been handed out in a code before.
    handed_out: usize,
}

impl Rule for RideCode {
    fn take(&mut self, byte: u8, out: &mut Output) {
        self.held.push_back(byte);
        // One byte can complete a false code and the good one within it.
        while let Some(start) = self.start_of_complete() {
            out.drop_bytes(start.saturating_sub(self.handed_out));
            out.frames.push(self.held.range(start..).copied().collect());
            self.held.drain(..=start);
            self.handed_out = self.held.len();
        }
        while judge(&self.held, 0) == Verdict::Never {
            self.held.pop_front();
            out.drop_bytes(usize::from(self.handed_out == 0));
            self.handed_out = self.handed_out.saturating_sub(1);
        }
    }

    fn silence(&mut self, out: &mut Output) {
        out.drop_bytes(self.abandon());
    }

    fn is_waiting(&self) -> bool {
        !self.held.is_empty()
    }

    fn abandon(&mut self) -> usize {
        let Self { held, handed_out } = std::mem::take(self);
        held.len() - handed_out
    }
}

impl RideCode {
    /// Where the code begins that the last byte completes. Earlier bytes have completed none, or it would be gone.
    fn start_of_complete(&self) -> Option<usize> {
        (CODE_BYTES_MIN..=CODE_BYTES_MAX).rev().find_map(|code_bytes| {
            let start = self.held.len().checked_sub(code_bytes)?;
            (judge(&self.held, start) == Verdict::Complete(code_bytes)).then_some(start)
        })
    }
}

fn judge(held: &VecDeque<u8>, start: usize) -> Verdict {
    let at = |offset: usize| held.get(start + offset).copied();
    if at(0).is_some_and(|version| version < VERSION_MIN) {
        return Verdict::Never;
    }
    let (Some(high), Some(low)) = (at(1), at(2)) else { return Verdict::Unfinished };
    let code_bytes = usize::from(u16::from_be_bytes([high, low])) + HEADER_BYTES;
    if !(CODE_BYTES_MIN..=CODE_BYTES_MAX).contains(&code_bytes) {
        return Verdict::Never;
    }
    let custom_bytes = code_bytes - CODE_BYTES_MIN;
    let marks = [
        (CERTIFICATE_AT, CERTIFICATE_TAG),
        (CUSTOM_LENGTH_AT, custom_bytes),
        (ISSUER_SIGNATURE_AT + custom_bytes, SIGNATURE_TAG),
        (USER_SIGNATURE_AT + custom_bytes, SIGNATURE_TAG),
    ];
    if marks.iter().any(|&(offset, mark)| at(offset).is_some_and(|byte| usize::from(byte) != mark)) {
        return Verdict::Never;
    }
    if at(code_bytes - 1).is_some() { Verdict::Complete(code_bytes) } else { Verdict::Unfinished }
}

/// A code with `custom_bytes` of custom data and `filler` wherever the framing looks at nothing.
#[cfg(test)]
pub(in super::super) fn test_code(version: u8, custom_bytes: u8, filler: u8) -> Vec<u8> {
    marked(version, custom_bytes, vec![filler; 364])
}

#[cfg(test)]
fn marked(version: u8, custom_bytes: u8, mut content: Vec<u8>) -> Vec<u8> {
    let custom = usize::from(custom_bytes);
    content.truncate(332 + custom);
    content[0] = version;
    content[1..3].copy_from_slice(&(329 + u16::from(custom_bytes)).to_be_bytes());
    content[3] = 0x24;
    content[197] = custom_bytes;
    content[198 + custom] = 0x15;
    content[267 + custom] = 0x15;
    content
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            Dropped, Framer,
            test_support::{chunks, frames_of},
        },
        *,
    };
    use crate::config::Framing;

    fn framer() -> Framer {
        Framer::new(Framing::RideCode)
    }

    #[test]
    fn codes_of_every_length_arrive_back_to_back_and_nothing_is_waited_for() {
        let codes: Vec<_> = (0..=32).map(|custom| test_code(0x80 + custom, custom, custom)).collect();
        let mut framer = framer();
        assert_eq!(framer.push(&codes.concat()), codes);
        assert!(!framer.is_waiting());
        assert_eq!(framer.take_dropped(), Dropped::default());
    }

    #[test]
    fn a_code_with_a_mark_out_of_place_is_none() {
        for offset in [0, 1, 2, 3, 197, 203, 272] {
            let mut code = test_code(0x80, 5, 0);
            code[offset] ^= 0x81;
            let mut framer = framer();
            assert!(framer.push(&code).is_empty(), "byte {offset}");
            framer.abandon();
            assert_eq!(framer.take_dropped().bytes, code.len() as u64);
        }
    }

    #[test]
    fn a_length_field_outside_329_to_361_begins_nothing() {
        for length in [328_u16, 362] {
            let mut code = test_code(0x80, 0, 0);
            code[1..3].copy_from_slice(&length.to_be_bytes());
            assert!(framer().push(&[&code[..], &[0; 64]].concat()).is_empty(), "{length}");
        }
    }

    #[test]
    fn a_silence_ends_an_unfinished_code_and_costs_only_it() {
        let (cut, whole) = (test_code(0x80, 0, 0), test_code(0x81, 7, 0));
        let mut framer = framer();
        assert!(framer.push(&cut[..331]).is_empty());
        assert!(framer.is_waiting());
        assert!(framer.silence().is_empty());
        assert!(!framer.is_waiting());
        assert_eq!(framer.take_dropped(), Dropped { bytes: 331, overflows: 0 });
        assert_eq!(framer.push(&whole), [whole]);
    }

    #[test]
    fn a_false_header_costs_no_silence() {
        let code = test_code(0x80, 0, 0);
        assert_eq!(framer().push(&[&[0x80, 0x01, 0x69, 0x24][..], &code].concat()), [code]);
    }

    #[test]
    fn a_false_header_that_fits_to_the_end_of_the_good_code_behind_it_does_not_hold_it_back() {
        let false_header = [0x80, 0x01, 0x69, 0x24];
        let mut code = test_code(0x80, 0, 0);
        for (offset, mark) in [(197, 32), (230, 0x15), (299, 0x15)] {
            code[offset - false_header.len()] = mark;
        }
        assert_eq!(framer().push(&[&false_header[..], &code].concat()), [code]);
    }

    #[test]
    fn a_good_code_comes_out_of_a_false_one_that_ends_with_the_same_byte() {
        let false_header = [0x80, 0x01, 0x5b, 0x24, 0, 0, 0, 0, 0];
        let mut code = test_code(0xb8, 9, 0);
        for (offset, mark) in [(197, 18), (216, 0x15), (285, 0x15)] {
            code[offset - false_header.len()] = mark;
        }
        let whole = [&false_header[..], &code].concat();
        assert_eq!(framer().push(&whole), [whole, code]);
    }

    #[test]
    fn a_code_without_its_last_bytes_costs_only_itself_however_soon_the_next_one_comes() {
        let (cut, code) = (test_code(0x80, 0, 0), test_code(0x81, 9, 0));
        for kept in 1..cut.len() {
            let mut framer = framer();
            let codes = framer.push(&[&cut[..kept], &code].concat());
            assert_eq!(codes.last(), Some(&code), "{kept} bytes");
            assert_eq!(codes.len(), 1 + usize::from(kept >= 268), "{kept} bytes");
            let is_counted = if kept >= 268 { 0 } else { kept };
            assert_eq!(framer.take_dropped().bytes, is_counted as u64);
        }
    }

    fn codes() -> impl Strategy<Value = Vec<u8>> {
        (0x80_u8.., 0..=32_u8, prop::collection::vec(any::<u8>(), 364))
            .prop_map(|(version, custom, content)| marked(version, custom, content))
    }

    fn noise() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            prop::collection::vec(prop::sample::select(vec![0x80, 0xff, 0x01, 0x49, 0x69, 0x24, 0x15, 0]), 0..400),
            (codes(), 0..364_usize).prop_map(|(code, cut)| code.into_iter().take(cut).collect()),
        ]
    }

    /// Where complete codes lie in a stream, true ones and accidents.
    fn complete_starts(stream: &[u8]) -> Vec<usize> {
        let is_code = |rest: &[u8]| {
            let custom = usize::from(rest[1]) * 256 + usize::from(rest[2]);
            let Some(custom) = custom.checked_sub(329).filter(|custom| *custom <= 32) else { return false };
            rest.len() >= 332 + custom
                && rest[0] > 127
                && (rest[3], usize::from(rest[197])) == (0x24, custom)
                && (rest[198 + custom], rest[267 + custom]) == (0x15, 0x15)
        };
        (0..stream.len().saturating_sub(331)).filter(|start| is_code(&stream[*start..])).collect()
    }

    proptest! {
        #[test]
        fn every_code_comes_out_of_noise_and_nothing_that_does_not_look_like_one(parts in prop::collection::vec((noise(), prop::option::of(codes())), 0..8), sizes in chunks()) {
            let (mut stream, mut codes) = (Vec::new(), Vec::new());
            for (noise, code) in parts {
                stream.extend(noise);
                if let Some(code) = code {
                    stream.extend_from_slice(&code);
                    codes.push(code);
                }
            }
            let mut framer = framer();
            let frames = frames_of(&mut framer, &stream, &sizes);
            prop_assert!(framer.silence().is_empty());
            prop_assert!(codes.iter().all(|code| frames.contains(code)));
            // What is more than was put in are cut codes that the bytes behind them completed.
            prop_assert_eq!(frames.len(), complete_starts(&stream).len());
        }
    }
}
