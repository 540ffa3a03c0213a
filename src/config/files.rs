//! Reads the files that the settings name: only regular ones, only up to a limit.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::finding::{Finding, Severity};

/// Why a file cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not there. Tells only a folder that is: somebody may have written the secret itself where its file's name belongs.
    #[error("there is no such file under {}", .0.display())]
    Missing(PathBuf),
    /// It is a folder, a device, a FIFO.
    #[error("{} is not a regular file", .0.display())]
    NotRegular(PathBuf),
    /// The system refuses.
    #[error("{} cannot be read: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It is larger than any such file can sensibly be.
    #[error("{} is larger than {max_bytes} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        max_bytes: u64,
    },
    /// It is not UTF-8.
    #[error("{} is not UTF-8 text: line {line} holds other bytes", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// Of the first such byte, counted from 1.
        line: usize,
    },
}

impl FileError {
    /// What to do about it.
    #[must_use]
    pub fn mend(&self) -> &'static str {
        match self {
            Self::Missing(_) => "make it there, or correct the name",
            Self::NotRegular(_) => "name a regular file",
            Self::Unreadable { .. } => "let the user faregate read it",
            Self::TooLarge { .. } => "name the right file",
            Self::NotText { .. } => "save it as UTF-8",
        }
    }
}

/// What becomes of the files that the settings name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NamedFiles {
    /// They are read, and what is wrong with them is reported.
    Checked,
    /// Only their names are taken.
    LeftAlone,
}

/// Where files are looked for that are not named by an absolute path, and whether they are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    /// The settings file's folder.
    pub(super) folder: &'a Path,
    /// `${CREDENTIALS_DIRECTORY}`
    pub(super) credentials: Option<&'a Path>,
    pub(super) named_files: NamedFiles,
}

impl Places<'_> {
    /// Relative paths are relative to the settings file's folder.
    pub(super) fn path(self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A secret's bare name is looked up among the credentials first. One of a single byte is the unit's stand-in for a file that
    /// is not there: systemd before 254 cannot leave such a credential out.
    pub(super) fn secret(self, name: &str) -> PathBuf {
        let credential = self.credentials.filter(|_| !name.contains('/')).map(|credentials| credentials.join(name));
        credential.filter(|path| path.metadata().is_ok_and(|file| file.len() > 1)).unwrap_or_else(|| self.path(name))
    }

    /// Whether the files that the settings name are read.
    pub(super) fn are_checked(self) -> bool {
        self.named_files == NamedFiles::Checked
    }

    /// Whether the service manager handed over this file, and so keeps other users from its folder.
    pub(super) fn is_credential(self, path: &Path) -> bool {
        self.credentials.is_some_and(|credentials| path.parent() == Some(credentials))
    }
}

/// The bytes of a regular file.
pub(super) fn read_bytes(path: &Path, max_bytes: u64) -> Result<Vec<u8>, FileError> {
    let unreadable = |error| file_error(path, error);
    // Opening a FIFO would wait for its writer for ever.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(FileError::NotRegular(path.to_owned()));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(max_bytes + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > max_bytes {
        return Err(FileError::TooLarge { path: path.to_owned(), max_bytes });
    }
    Ok(bytes)
}

fn file_error(path: &Path, error: io::Error) -> FileError {
    let names_nothing = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(libc::ENAMETOOLONG);
    if !names_nothing {
        return FileError::Unreadable { path: path.to_owned(), error };
    }
    let folder = path.ancestors().skip(1).find(|folder| folder.is_dir());
    FileError::Missing(folder.unwrap_or(Path::new(".")).to_owned())
}

/// The text of a regular file.
pub(super) fn read_text(path: &Path, max_bytes: u64) -> Result<String, FileError> {
    String::from_utf8(read_bytes(path, max_bytes)?).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.split(|&byte| byte == b'\n').count();
        FileError::NotText { path: path.to_owned(), line }
    })
}

/// What is wrong with a file as a whole.
pub(super) fn finding(path: &Path, error: &FileError) -> Finding {
    let line = if let FileError::NotText { line, .. } = error { Some(*line) } else { None };
    Finding {
        severity: Severity::Error,
        file: path.to_owned(),
        line,
        key: String::new(),
        problem: error.to_string(),
        mend: error.mend().to_owned(),
    }
}

/// The folder that a file is in, `.` for a bare name.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
        assert!(matches!(read_text(&path, 4), Err(FileError::TooLarge { max_bytes: 4, .. })));
        assert!(matches!(read_text(folder.path(), 4), Err(FileError::NotRegular(_))));
        assert!(matches!(read_text(Path::new("/dev/zero"), 4), Err(FileError::NotRegular(_))));
    }

    #[test]
    fn a_credential_goes_before_the_file_beside_the_settings_unless_it_only_stands_in_for_one() {
        let (folder, credentials) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let places = Places { folder: folder.path(), credentials: Some(credentials.path()), named_files: NamedFiles::LeftAlone };
        let (beside, credential) = (folder.path().join("appsecret"), credentials.path().join("appsecret"));
        assert_eq!(places.secret("appsecret"), beside);
        fs::write(&credential, "\n").unwrap();
        assert_eq!(places.secret("appsecret"), beside);
        fs::write(&credential, "s3cret\n").unwrap();
        assert_eq!(places.secret("appsecret"), credential);
        assert_eq!(places.secret("./appsecret"), folder.path().join("./appsecret"));
    }

    #[test]
    fn a_name_of_nothing_is_not_told_because_it_may_be_the_secret_itself() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        for name in ["8f3ac0ffee", "dGhl/c0ffee", "file/c0ffee", &"c0ffee".repeat(100)] {
            let message = read_text(&folder.path().join(name), 4).unwrap_err().to_string();
            assert_eq!(message, format!("there is no such file under {}", folder.path().display()));
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_told_with_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"a\nb\n\xff\n").unwrap();
        assert!(matches!(read_text(&path, 99), Err(FileError::NotText { line: 3, .. })));
    }
}
