//! How a reader writes a code's bytes: as they are, or as text. Pure functions; knows neither frames nor devices.

use data_encoding::{BASE64_NOPAD, HEXLOWER_PERMISSIVE};

use crate::config::Encoding;

/// A frame that is no code in the encoding that the settings name. It does not repeat the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame from the scanner is not valid {}: set scanner.encoding to what the reader sends", name(*.0))]
pub struct Undecodable(pub Encoding);

/// The code in one frame. Text may have ASCII white space around it; base64 may have its padding or lack it; hex may be of either
/// case.
///
/// # Errors
/// [`Undecodable`] when the frame is not written in `encoding`, or holds no byte at all.
pub fn decode(encoding: Encoding, frame: Vec<u8>) -> Result<Vec<u8>, Undecodable> {
    let code = match encoding {
        Encoding::Raw => Some(frame),
        Encoding::Base64 => BASE64_NOPAD.decode(without_padding(frame.trim_ascii())).ok(),
        Encoding::Hex => HEXLOWER_PERMISSIVE.decode(frame.trim_ascii()).ok(),
    };
    code.filter(|code| !code.is_empty()).ok_or(Undecodable(encoding))
}

/// Padding fills up a group of four digits; anywhere else `=` is left in place, where it is an error.
fn without_padding(text: &[u8]) -> &[u8] {
    if text.len() % 4 != 0 {
        return text;
    }
    text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text)
}

fn name(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Raw => "raw",
        Encoding::Base64 => "base64",
        Encoding::Hex => "hex",
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, HEXLOWER, HEXUPPER};
    use proptest::prelude::*;

    use super::*;

    fn base64(text: &str) -> Option<Vec<u8>> {
        decode(Encoding::Base64, text.into()).ok()
    }

    fn hex(text: &str) -> Option<Vec<u8>> {
        decode(Encoding::Hex, text.into()).ok()
    }

    proptest! {
        #[test]
        fn every_code_comes_back_from_every_spelling(code in prop::collection::vec(any::<u8>(), 1..400)) {
            prop_assert_eq!(decode(Encoding::Raw, code.clone()), Ok(code.clone()));
            prop_assert_eq!(base64(&BASE64.encode(&code)), Some(code.clone()));
            prop_assert_eq!(base64(&BASE64_NOPAD.encode(&code)), Some(code.clone()));
            prop_assert_eq!(hex(&HEXUPPER.encode(&code)), Some(code.clone()));
            prop_assert_eq!(hex(&HEXLOWER.encode(&code)), Some(code));
        }

        #[test]
        fn no_frame_makes_it_panic(frame in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(Encoding::Base64, frame.clone());
            let _ = decode(Encoding::Hex, frame);
        }
    }

    #[test]
    fn white_space_around_text_is_ignored_and_within_it_is_not() {
        assert_eq!(base64(" \tAAEC/w==\r\n"), Some(vec![0, 1, 2, 255]));
        assert_eq!(hex(" 00fF \n"), Some(vec![0, 255]));
        assert_eq!(base64("AAEC /w=="), None);
        assert_eq!(hex("00 ff"), None);
    }

    #[test]
    fn raw_bytes_keep_their_white_space() {
        assert_eq!(decode(Encoding::Raw, b" \n".to_vec()), Ok(b" \n".to_vec()));
    }

    #[test]
    fn what_is_not_the_encoding_is_refused() {
        for text in ["A", "AAA==", "AA=", "A===", "AA==BBBB", "AAAA====", "AB==", "-_-_", "", " ", "===="] {
            assert_eq!(base64(text), None, "{text:?}");
        }
        for text in ["0", "0g", "0x00", "", "\r"] {
            assert_eq!(hex(text), None, "{text:?}");
        }
        assert_eq!(decode(Encoding::Raw, Vec::new()), Err(Undecodable(Encoding::Raw)));
    }

    #[test]
    fn the_error_names_the_encoding_and_the_mend() {
        let text = Undecodable(Encoding::Hex).to_string();
        assert!(text.contains("hex") && text.contains("scanner.encoding"), "{text}");
    }
}
