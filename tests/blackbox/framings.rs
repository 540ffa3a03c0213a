//! What readers send: every framing and encoding, with noise, cuts and haste. Each code in it opens once; nothing else does.

use std::{thread, time::Duration};

use data_encoding::{BASE64, HEXLOWER, HEXUPPER};

use crate::support::{Gate, Random, WeChat, code, codes};

/// Long enough that a busy machine does not cut a frame that is sent byte by byte.
const IDLE_GAP: &str = "400ms";
const SILENCE: Duration = Duration::from_millis(900);

/// Lengths of the issuer's own data in a ride code.
const CUSTOM_BYTES_MAX: usize = 32;

struct Bench {
    wechat: WeChat,
    gate: Gate,
}

impl Bench {
    fn new(framing: &str, encoding: &str) -> Self {
        let wechat = WeChat::start();
        let builder = Gate::beside(&wechat).set("scanner", "framing", framing).set("scanner", "encoding", encoding);
        let gate = builder.set("scanner", "idle_gap", IDLE_GAP).set("turnstile", "pulse", "30ms").start();
        Self { wechat, gate }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.gate.send("in", bytes);
    }

    fn send_byte_by_byte(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.gate.send("in", &[*byte]);
        }
    }

    /// These codes opened and were charged, and nothing else; `last` must be the last one sent, so that all before it has been judged.
    fn assert_exactly(&self, codes: &[Vec<u8>]) {
        self.gate.wait_opens(codes.len());
        self.gate.wait("all are charged", || self.wechat.charged().len() >= codes.len());
        self.wechat.assert_charged_exactly(codes);
        assert_eq!(self.gate.opens().len(), codes.len());
    }
}

/// The reader says nothing: the pause is the input.
fn silence() {
    thread::sleep(SILENCE);
}

/// A frame of the form of a JT/T 1179 ride code, with `custom` bytes of the issuer's; all else is noise.
pub(crate) fn ride_code(random: &mut Random, custom: usize) -> Vec<u8> {
    let mut frame = random.bytes(332 + custom);
    let length = u16::try_from(329 + custom).unwrap();
    frame[0] = 0x80;
    frame[1..3].copy_from_slice(&length.to_be_bytes());
    frame[3] = 0x24;
    frame[197] = u8::try_from(custom).unwrap();
    frame[198 + custom] = 0x15;
    frame[267 + custom] = 0x15;
    frame
}

fn stx(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0x02], &length[..], payload, &[0x03]].concat()
}

/// Every byte value, line ends and control characters included.
fn binary(number: u8) -> Vec<u8> {
    (0..=255).chain([number]).collect()
}

#[test]
fn a_line_ends_at_cr_lf_or_crlf_and_empty_lines_are_nothing() {
    let mut bench = Bench::new("line", "raw");
    let codes = codes("LINE", 0..4);
    let ends: [&[u8]; 4] = [b"\r", b"\n", b"\r\n", b"\r\n\r\n\n\n\r\r"];
    let sent: Vec<u8> = codes.iter().zip(ends).flat_map(|(code, end)| [code, end].concat()).collect();
    bench.send(b"\r\n\n\r");
    bench.send(&sent);
    bench.assert_exactly(&codes);
    assert_eq!(bench.gate.denials(), Vec::<String>::new());
}

#[test]
fn a_line_may_come_byte_by_byte() {
    let mut bench = Bench::new("line", "raw");
    bench.send_byte_by_byte(&[&code("SLOW", 1)[..], b"\r\n", &code("SLOW", 2), b"\r\n"].concat());
    bench.assert_exactly(&codes("SLOW", 1..3));
}

#[test]
fn base64_lines_are_charged_as_the_bytes_that_they_stand_for() {
    let mut bench = Bench::new("line", "base64");
    let codes: Vec<_> = (1..4).map(binary).collect();
    for code in &codes {
        bench.send(format!("{}\r\n", BASE64.encode(code)).as_bytes());
    }
    bench.assert_exactly(&codes);
}

#[test]
fn hex_lines_of_either_case_are_charged_as_the_bytes_that_they_stand_for() {
    let mut bench = Bench::new("line", "hex");
    let codes = [binary(1), binary(2)];
    bench.send(format!("{}\r{}\r", HEXLOWER.encode(&codes[0]), HEXUPPER.encode(&codes[1])).as_bytes());
    bench.assert_exactly(&codes);
}

#[test]
fn a_line_that_is_not_in_the_encoding_is_refused_and_costs_only_itself() {
    let mut bench = Bench::new("line", "base64");
    let codes = [binary(1), binary(2)];
    bench.send(format!("{}\r", BASE64.encode(&codes[0])).as_bytes());
    bench.send(b"QUJD##noise##QUJD\r");
    bench.send(format!("{}\r", BASE64.encode(&codes[1])).as_bytes());
    bench.assert_exactly(&codes);
    assert_eq!(bench.gate.denials(), ["format"]);
}

#[test]
fn noise_without_an_end_is_dropped_and_the_next_line_counts() {
    let mut bench = Bench::new("line", "base64");
    bench.send(&[b'#'; 10_000]);
    bench.send(format!("\r{}\r", BASE64.encode(&binary(1))).as_bytes());
    bench.assert_exactly(&[binary(1)]);
}

#[test]
fn an_stx_frame_may_hold_every_byte_and_stand_in_noise() {
    let mut bench = Bench::new("stx", "raw");
    let codes: Vec<_> = (1..5).map(binary).collect();
    bench.send(&[b"noise\r\n", &stx(&codes[0])[..]].concat());
    bench.send(&[stx(&codes[1]), stx(&codes[2]), b"noise\xff\x03\x03".to_vec()].concat());
    bench.send_byte_by_byte(&stx(&codes[3]));
    bench.assert_exactly(&codes);
}

#[test]
fn an_stx_frame_cut_by_silence_or_without_its_end_costs_only_itself() {
    let mut bench = Bench::new("stx", "raw");
    bench.send(&stx(&binary(1))[..100]);
    silence();
    bench.send(&stx(&binary(2)));
    let mut without_end = stx(b"NO END");
    *without_end.last_mut().unwrap() = b'!';
    bench.send(&without_end);
    bench.send(&stx(&binary(3)));
    bench.assert_exactly(&[binary(2), binary(3)]);
}

#[test]
fn an_stx_frame_may_hold_hex() {
    let mut bench = Bench::new("stx", "hex");
    bench.send(&stx(HEXUPPER.encode(&binary(1)).as_bytes()));
    bench.assert_exactly(&[binary(1)]);
}

#[test]
fn silence_ends_an_idle_frame_however_it_came() {
    let mut bench = Bench::new("idle", "raw");
    let codes: Vec<_> = (1..4).map(binary).collect();
    bench.send(&codes[0]);
    silence();
    bench.send_byte_by_byte(&codes[1]);
    silence();
    let (head, tail) = codes[2].split_at(100);
    bench.send(head);
    bench.send(tail);
    bench.assert_exactly(&codes);
}

#[test]
fn an_idle_frame_may_hold_base64() {
    let mut bench = Bench::new("idle", "base64");
    bench.send(b"##noise##");
    silence();
    bench.send(BASE64.encode(&binary(1)).as_bytes());
    bench.assert_exactly(&[binary(1)]);
    assert_eq!(bench.gate.denials(), ["format"]);
}

#[test]
fn a_ride_code_is_framed_by_its_own_length_whatever_its_bytes() {
    let mut bench = Bench::new("ride-code", "raw");
    let random = &mut Random::new(1);
    let mut codes: Vec<_> = [0, 1, 17, CUSTOM_BYTES_MAX].map(|custom| ride_code(random, custom)).to_vec();
    codes[0][20..40].copy_from_slice(b"\r\n\0\x02\x03\r\n\0\x02\x03\r\n\0\x02\x03\r\n\0\x02\x03");
    bench.send(&codes[..2].concat());
    bench.send_byte_by_byte(&codes[2]);
    bench.send(&codes[3]);
    bench.assert_exactly(&codes);
}

#[test]
fn noise_before_and_after_a_ride_code_costs_nothing() {
    let mut bench = Bench::new("ride-code", "raw");
    let random = &mut Random::new(2);
    let codes: Vec<_> = (0..3).map(|_| ride_code(random, 11)).collect();
    // The middle one looks like the beginning of a code, but for byte 3.
    let noises: [&[u8]; 3] = [b"\r\nhello\r\n", &[0x80, 0x01, 0x49, 0x00], &[0xff, 0xff, 0x80, 0x80, 0x01]];
    for (noise, code) in noises.iter().zip(&codes) {
        bench.send(&[noise, &code[..], b"\r\n"].concat());
    }
    bench.assert_exactly(&codes);
}

#[test]
fn a_damaged_ride_code_costs_only_itself() {
    let mut bench = Bench::new("ride-code", "raw");
    let random = &mut Random::new(3);
    let codes: Vec<_> = (0..4).map(|_| ride_code(random, 7)).collect();
    let mut tag_lost = ride_code(random, 7);
    tag_lost[205] ^= 0xff;
    let mut with_a_byte_too_many = ride_code(random, 7);
    with_a_byte_too_many.insert(150, 0x55);
    let mut with_a_byte_too_few = ride_code(random, 7);
    with_a_byte_too_few.remove(250);
    for (damaged, code) in [tag_lost, with_a_byte_too_many, with_a_byte_too_few].iter().zip(&codes) {
        bench.send(&[&damaged[..], code].concat());
    }
    bench.send(&ride_code(random, 7)[..200]);
    silence();
    bench.send(&codes[3]);
    bench.assert_exactly(&codes);
}
