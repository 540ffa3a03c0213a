//! `stx`: 02, length (2 bytes, big-endian), payload, 03.
//!
//! A 02 in the noise may promise a long frame. When the byte at its end is not 03, the search goes on at the byte after that 02,
//! so that it costs none of the good frames behind it. While its end has not come, a silence hands out a good frame that is
//! complete behind it; without one, it may be a good frame that dribbles, and is waited for.

use std::collections::VecDeque;

use super::{FRAME_BYTES_MAX, Output, Rule, Verdict};

const START: u8 = 0x02;
const END: u8 = 0x03;
const HEADER_BYTES: usize = 3;

#[derive(Default)]
pub(super) struct Stx {
    /// Empty, or begins with what may still be a frame.
    held: VecDeque<u8>,
    /// The silence after the last byte has been heard already.
    heard_silence: bool,
}

impl Rule for Stx {
    fn take(&mut self, byte: u8, out: &mut Output) {
        self.heard_silence = false;
        self.held.push_back(byte);
        self.settle_front(out);
    }

    fn silence(&mut self, out: &mut Output) {
        self.heard_silence = true;
        while let Some((start, frame_bytes)) = self.complete_behind_front() {
            out.drop_bytes(start);
            self.held.drain(..start);
            self.hand_out(frame_bytes, out);
            self.settle_front(out);
        }
    }

    fn is_waiting(&self) -> bool {
        self.held.len() > HEADER_BYTES && !self.heard_silence
    }

    fn abandon(&mut self) -> usize {
        std::mem::take(self).held.len()
    }
}

impl Stx {
    fn settle_front(&mut self, out: &mut Output) {
        loop {
            match judge(&self.held, 0) {
                Verdict::Never => {
                    self.held.pop_front();
                    out.drop_bytes(1);
                }
                Verdict::Complete(frame_bytes) => self.hand_out(frame_bytes, out),
                Verdict::Unfinished => return,
            }
        }
    }

    fn complete_behind_front(&self) -> Option<(usize, usize)> {
        (1..self.held.len()).find_map(|start| match judge(&self.held, start) {
            Verdict::Complete(frame_bytes) => Some((start, frame_bytes)),
            Verdict::Never | Verdict::Unfinished => None,
        })
    }

    fn hand_out(&mut self, frame_bytes: usize, out: &mut Output) {
        let mut frame = self.held.drain(..frame_bytes);
        let payload = frame.by_ref().skip(HEADER_BYTES).take(frame_bytes - HEADER_BYTES - 1).collect();
        out.frames.push(payload);
    }
}

fn judge(held: &VecDeque<u8>, start: usize) -> Verdict {
    let at = |offset: usize| held.get(start + offset).copied();
    if at(0).is_some_and(|byte| byte != START) {
        return Verdict::Never;
    }
    let (Some(high), Some(low)) = (at(1), at(2)) else { return Verdict::Unfinished };
    let payload_bytes = usize::from(u16::from_be_bytes([high, low]));
    if !(1..=FRAME_BYTES_MAX).contains(&payload_bytes) {
        return Verdict::Never;
    }
    match at(HEADER_BYTES + payload_bytes) {
        None => Verdict::Unfinished,
        Some(END) => Verdict::Complete(HEADER_BYTES + payload_bytes + 1),
        Some(_) => Verdict::Never,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            Dropped, Framer,
            test_support::{chunks, split},
        },
        *,
    };
    use crate::config::Framing;

    fn enclosed(payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap();
        [&[2][..], &length.to_be_bytes(), payload, &[3]].concat()
    }

    fn framer() -> Framer {
        Framer::new(Framing::Stx)
    }

    #[test]
    fn frames_back_to_back_are_two_and_noise_around_them_is_dropped() {
        let stream = [b"noise\x03".to_vec(), enclosed(b"\x02\x03"), enclosed(b"two"), b"\r\n".to_vec()].concat();
        let mut framer = framer();
        assert_eq!(framer.push(&stream), [&b"\x02\x03"[..], b"two"]);
        assert_eq!(framer.take_dropped(), Dropped { bytes: 8, overflows: 0 });
    }

    #[test]
    fn a_slow_dribble_with_silences_is_one_frame() {
        let mut framer = framer();
        let mut payloads = Vec::new();
        for byte in enclosed(b"slow") {
            payloads.extend(framer.push(&[byte]));
            payloads.extend(framer.silence());
        }
        assert_eq!(payloads, [b"slow"]);
    }

    #[test]
    fn a_false_header_whose_end_is_wrong_costs_no_silence() {
        let mut framer = framer();
        assert_eq!(framer.push(&[&[2, 0, 4][..], &enclosed(b"good")].concat()), [b"good"]);
        assert!(!framer.is_waiting());
    }

    #[test]
    fn a_long_false_header_costs_a_silence_and_no_frame() {
        let mut framer = framer();
        assert!(framer.push(&[&[2, 0x10, 0][..], &enclosed(b"one"), &enclosed(b"two"), &[2, 0, 9]].concat()).is_empty());
        assert!(framer.is_waiting());
        assert_eq!(framer.silence(), [b"one", b"two"]);
        assert_eq!(framer.push(&[9, 9, 9, 9, 9, 9, 9, 9, 9, 3]), [[9; 9]], "what began behind them goes on");
    }

    #[test]
    fn lengths_of_0_and_above_the_limit_are_no_headers() {
        let mut framer = framer();
        assert_eq!(framer.push(&[&[2, 0, 0, 3, 2, 0x10, 1][..], &enclosed(b"good")].concat()), [b"good"]);
        let longest = vec![2; FRAME_BYTES_MAX];
        assert_eq!(framer.push(&enclosed(&longest)), [longest]);
    }

    /// Noise with false headers, and frames between it.
    fn parts() -> impl Strategy<Value = Vec<(Vec<u8>, Option<Vec<u8>>)>> {
        let noise = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            prop::collection::vec(prop::sample::select(vec![0, 1, 2, 2, 2, 16, 200]), 0..60),
            (1..=4200_u16).prop_map(|length| [&[2][..], &length.to_be_bytes()].concat()),
        ];
        prop::collection::vec((noise, prop::option::of(prop::collection::vec(any::<u8>(), 1..500))), 0..8)
    }

    /// Where complete frames lie in a stream, true ones and accidents.
    fn complete_starts(stream: &[u8]) -> Vec<usize> {
        let is_complete = |start: &usize| {
            let rest = &stream[*start..];
            let payload_bytes = rest.get(..3).map_or(0, |header| usize::from(header[1]) << 8 | usize::from(header[2]));
            rest[0] == 2 && (1..=4096).contains(&payload_bytes) && rest.get(payload_bytes + 3) == Some(&3)
        };
        (0..stream.len()).filter(is_complete).collect()
    }

    proptest! {
        #[test]
        fn exactly_the_frames_come_out_of_noise(parts in parts(), sizes in chunks(), quiet in prop::collection::vec(any::<bool>(), 1..20)) {
            let (mut stream, mut starts, mut payloads) = (Vec::new(), Vec::new(), Vec::new());
            for (noise, payload) in parts {
                stream.extend(noise);
                if let Some(payload) = payload {
                    starts.push(stream.len());
                    stream.extend(enclosed(&payload));
                    payloads.push(payload);
                }
            }
            prop_assume!(complete_starts(&stream) == starts);
            let (mut framer, mut frames) = (framer(), Vec::new());
            for (part, &quiet) in split(&stream, &sizes).into_iter().zip(quiet.iter().cycle()) {
                frames.extend(framer.push(part));
                if quiet && framer.is_waiting() {
                    frames.extend(framer.silence());
                }
            }
            frames.extend(framer.silence());
            prop_assert_eq!(frames, payloads);
        }
    }
}
