//! A scanner's bytes: whatever comes, in whatever chunks, with whatever silences, frames are found or their bytes are counted.
//!
//! The first bytes choose the framing, the encoding, how the rest is cut into chunks, after which of them there is silence, and how
//! many equal bytes come before it, so that an input need not be long to reach the limit of a frame.

#![no_main]

use std::sync::LazyLock;

use faregate::{
    config::{Encoding, Framing},
    issuer::{CodeTerms, Passenger, Root},
    scanner::{FRAME_BYTES_MAX, Framer, decode},
};
use libfuzzer_sys::fuzz_target;

static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let issuer = Root::from_seed(1, 1).certify(1, 3_664_530, 1235);
    issuer.issue(&Passenger::from_seed(1, 1), &CodeTerms::at(1_795_412_070))
});

fuzz_target!(|input: &[u8]| {
    let [how, chunk, silences, high, low, rest @ ..] = input else { return };
    let equal_bytes = usize::from(u16::from_be_bytes([*high, *low])) % (FRAME_BYTES_MAX + 10);
    let stream = &[&vec![b'x'; equal_bytes], rest].concat()[..];
    let framing = [Framing::RideCode, Framing::Line, Framing::Stx, Framing::Idle][usize::from(how & 3)];
    let encoding = [Encoding::Raw, Encoding::Base64, Encoding::Hex][usize::from(how >> 2) % 3];
    let chunk_bytes = usize::from(*chunk) + 1;
    chunks_change_nothing(framing, stream, chunk_bytes);
    let frames = every_byte_is_in_a_frame_or_counted(framing, stream, chunk_bytes, *silences);
    for frame in frames {
        assert!((1..=FRAME_BYTES_MAX).contains(&frame.len()));
        assert!(decode(encoding, frame).is_ok_and(|code| !code.is_empty()) || encoding != Encoding::Raw);
    }
    nothing_before_a_silence_costs_the_code_behind_it(framing, stream);
});

fn chunks_change_nothing(framing: Framing, stream: &[u8], chunk_bytes: usize) {
    let (mut whole, mut parts) = (Framer::new(framing), Framer::new(framing));
    let frames: Vec<_> = stream.chunks(chunk_bytes).flat_map(|part| parts.push(part)).collect();
    assert_eq!(whole.push(stream), frames);
    assert_eq!((whole.is_waiting(), whole.take_dropped()), (parts.is_waiting(), parts.take_dropped()));
}

fn every_byte_is_in_a_frame_or_counted(framing: Framing, stream: &[u8], chunk_bytes: usize, silences: u8) -> Vec<Vec<u8>> {
    let (mut framer, mut frames) = (Framer::new(framing), Vec::new());
    for (number, part) in stream.chunks(chunk_bytes).enumerate() {
        frames.extend(framer.push(part));
        if silences >> (number % 8) & 1 == 1 {
            frames.extend(framer.silence());
            assert!(!framer.is_waiting(), "silence was asked for and changed nothing");
        }
    }
    frames.extend(framer.silence());
    framer.abandon();
    let handed_out: usize = frames.iter().map(Vec::len).sum();
    let dropped = framer.take_dropped().bytes;
    let accounted = handed_out as u64 + dropped;
    match framing {
        Framing::Idle => assert_eq!(accounted, stream.len() as u64),
        Framing::Stx => assert_eq!(accounted + 4 * frames.len() as u64, stream.len() as u64),
        // Line ends are nobody's.
        Framing::Line => assert!(accounted <= stream.len() as u64),
        // A code that lost its end is completed by the beginning of the next one, which is a code of its own.
        Framing::RideCode => assert!(accounted >= stream.len() as u64),
    }
    frames
}

fn nothing_before_a_silence_costs_the_code_behind_it(framing: Framing, stream: &[u8]) {
    let mut framer = Framer::new(framing);
    framer.push(stream);
    framer.silence();
    match framing {
        Framing::RideCode => assert_eq!(framer.push(&GOOD), [&GOOD[..]]),
        Framing::Idle => {
            assert!(framer.push(&GOOD).is_empty());
            assert_eq!(framer.silence(), [&GOOD[..]]);
        }
        Framing::Line => {
            framer.push(b"\r\n");
            assert_eq!(framer.push(b"a code\r\n"), [b"a code"]);
        }
        // What waits for its end may be a frame that dribbles, and takes what comes as its own.
        Framing::Stx => {}
    }
}
