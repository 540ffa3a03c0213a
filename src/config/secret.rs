//! Reads secrets from their files, at `check` and again at run time. Nothing that this file prints holds a secret.

use std::{os::unix::fs::PermissionsExt, path::Path};

use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER_PERMISSIVE};
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::{
    Encoding,
    files::{FileError, read_bytes, read_text},
    limits::SECRET_BYTES_MAX,
};

/// Bytes of an AES-128, AES-192 or AES-256 key.
const AES_KEY_BYTES: [usize; 3] = [16, 24, 32];

/// Why a secret cannot be had. Never holds the secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be had.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is nothing but white space in it.
    #[error("the file is empty")]
    Empty,
    /// The key is not written as the settings say.
    #[error("the key in the file is not {0}")]
    NotEncoded(&'static str),
    /// The key does not have the length of an AES key.
    #[error("the key in the file has {0} bytes, an AES key has 16, 24 or 32")]
    KeyLength(usize),
}

impl SecretError {
    /// What to do about it.
    #[must_use]
    pub fn mend(&self) -> &'static str {
        match self {
            Self::File(error) => error.mend(),
            Self::Empty => "write the secret into it as one line of text",
            Self::NotEncoded(_) => "write the key so, or correct aes_key_encoding",
            Self::KeyLength(_) => "write the whole key and nothing else, or correct aes_key_encoding",
        }
    }
}

/// The secret in a text file of at most 64 KiB, without the white space at its end.
///
/// # Errors
/// The file cannot be read, is not UTF-8, or is empty.
pub fn read_secret(path: &Path) -> Result<SecretString, SecretError> {
    let mut text = read_text(path, SECRET_BYTES_MAX)?;
    text.truncate(text.trim_end().len());
    if text.is_empty() { Err(SecretError::Empty) } else { Ok(text.into()) }
}

/// The AES key in a file: `raw` takes the file's bytes as they are, base64 may lack its padding.
///
/// # Errors
/// The file cannot be read, is not written in that encoding, or does not hold 16, 24 or 32 bytes.
pub fn read_aes_key(path: &Path, encoding: Encoding) -> Result<SecretSlice<u8>, SecretError> {
    let key: SecretSlice<u8> = match encoding {
        Encoding::Raw => read_bytes(path, SECRET_BYTES_MAX)?.into(),
        Encoding::Base64 => decode_base64(&read_secret(path)?)?.into(),
        Encoding::Hex => decode_hex(&read_secret(path)?)?.into(),
    };
    let length = key.expose_secret().len();
    if AES_KEY_BYTES.contains(&length) { Ok(key) } else { Err(SecretError::KeyLength(length)) }
}

/// Whether users other than the owner may read the file; with `group_too`, whether the owner's group may.
pub(super) fn is_readable_by_others(path: &Path, group_too: bool) -> bool {
    let mask = if group_too { 0o044 } else { 0o004 };
    path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & mask != 0)
}

fn decode_base64(text: &SecretString) -> Result<Vec<u8>, SecretError> {
    let text = text.expose_secret().as_bytes();
    let encoding = if text.ends_with(b"=") { BASE64 } else { BASE64_NOPAD };
    encoding.decode(text).map_err(|_| SecretError::NotEncoded("base64"))
}

fn decode_hex(text: &SecretString) -> Result<Vec<u8>, SecretError> {
    HEXLOWER_PERMISSIVE.decode(text.expose_secret().as_bytes()).map_err(|_| SecretError::NotEncoded("hexadecimal"))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use tempfile::TempDir;

    use super::*;

    fn file(content: &[u8]) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, content).unwrap();
        (folder, path)
    }

    #[test]
    fn a_secret_loses_white_space_at_its_end_only() {
        let (_folder, path) = file(b" top secret \r\n\n");
        assert_eq!(read_secret(&path).unwrap().expose_secret(), " top secret");
    }

    #[test]
    fn a_secret_that_is_empty_not_text_or_too_large_is_refused() {
        let (_folder, path) = file(b" \n");
        assert!(matches!(read_secret(&path), Err(SecretError::Empty)));
        let (_folder, path) = file(b"\xff\xfe");
        assert!(matches!(read_secret(&path), Err(SecretError::File(FileError::NotText { .. }))));
        let (_folder, path) = file(&vec![b'x'; 64 * 1024 + 1]);
        assert!(matches!(read_secret(&path), Err(SecretError::File(FileError::TooLarge { .. }))));
    }

    #[test]
    fn an_aes_key_is_read_in_each_encoding() {
        let key: Vec<u8> = (0..32).collect();
        let padded = BASE64.encode(&key) + "\n";
        let unpadded = BASE64_NOPAD.encode(&key);
        let hex = data_encoding::HEXUPPER.encode(&key) + "\r\n";
        let written: [(&[u8], Encoding); 4] = [
            (&key, Encoding::Raw),
            (padded.as_bytes(), Encoding::Base64),
            (unpadded.as_bytes(), Encoding::Base64),
            (hex.as_bytes(), Encoding::Hex),
        ];
        for (content, encoding) in written {
            let (_folder, path) = file(content);
            assert_eq!(read_aes_key(&path, encoding).unwrap().expose_secret(), key, "{encoding:?}");
        }
    }

    #[test]
    fn a_raw_aes_key_keeps_its_bytes_as_they_are() {
        let (_folder, path) = file(b"fifteen letters\n");
        assert_eq!(read_aes_key(&path, Encoding::Raw).unwrap().expose_secret(), b"fifteen letters\n");
        let (_folder, path) = file(b"0123456789abcdef\n");
        assert!(matches!(read_aes_key(&path, Encoding::Raw), Err(SecretError::KeyLength(17))));
    }

    #[test]
    fn an_aes_key_of_another_length_or_encoding_is_refused() {
        let (_folder, path) = file(b"00ff");
        assert!(matches!(read_aes_key(&path, Encoding::Hex), Err(SecretError::KeyLength(2))));
        let (_folder, path) = file(b"not hex!");
        assert!(matches!(read_aes_key(&path, Encoding::Hex), Err(SecretError::NotEncoded(_))));
        assert!(matches!(read_aes_key(&path, Encoding::Base64), Err(SecretError::NotEncoded(_))));
    }

    #[test]
    fn no_error_and_no_debug_output_holds_the_secret() {
        let (_folder, path) = file(b"hunter2hunter2");
        let error = read_aes_key(&path, Encoding::Hex).unwrap_err();
        assert!(!format!("{error} {error:?} {:?}", read_secret(&path)).contains("hunter2"));
    }
}
