//! The settings file as typed, checked values.
//!
//! [`load`] reads `faregate.toml` and the files that it names, never devices, and reports everything that is wrong at once:
//! each [`Finding`] has file, line, key, what is wrong and how to mend it.
//!
//! The way of a setting through this room: `syntax` (TOML), `reader` (one table, key by key), `values` (one value), with the
//! keys in `schema` and the defaults and bounds in `limits`; `tables`, `lanes` and `network` say what belongs together.

mod changes;
mod fares;
mod files;
mod finding;
mod lanes;
mod limits;
mod network;
mod reader;
mod report;
mod roots;
mod schema;
mod secret;
mod settings;
mod syntax;
mod tables;
#[cfg(test)]
mod tests;
mod values;

use std::{
    env,
    path::{Path, PathBuf},
};

pub use changes::{Change, Takes, take_over};
pub use fares::{FareTable, TableFare, read_fares};
pub use files::FileError;
pub use finding::{Finding, Severity};
pub use roots::{Root, read_roots};
pub use secret::{SecretError, read_aes_key, read_secret};
pub use settings::*;
pub use values::station_id;

use files::{NamedFiles, Places};
use report::Report;

/// What became of reading the settings.
#[derive(Debug)]
pub struct Loaded {
    /// The settings: `Some` exactly when there is no error among the findings.
    pub settings: Option<Settings>,
    /// Everything that is wrong or that somebody should look at: the settings file's first, by line.
    pub findings: Vec<Finding>,
}

/// Reads the settings at `path` and the files that they name, never devices.
#[must_use]
pub fn load(path: &Path) -> Loaded {
    load_with(path, credentials().as_deref())
}

/// As [`load`], but the files that the settings name are not looked at: for commands that need to know only what the settings
/// say, run by people who may not read the secrets.
#[must_use]
pub fn load_without_named_files(path: &Path) -> Loaded {
    let credentials = credentials();
    read(path, |text| load_placed(text, path, places(path, credentials.as_deref(), NamedFiles::LeftAlone)))
}

fn credentials() -> Option<PathBuf> {
    env::var_os("CREDENTIALS_DIRECTORY").filter(|folder| !folder.is_empty()).map(PathBuf::from)
}

fn load_with(path: &Path, credentials: Option<&Path>) -> Loaded {
    read(path, |text| load_text(text, path, credentials))
}

fn load_text(text: &str, path: &Path, credentials: Option<&Path>) -> Loaded {
    load_placed(text, path, places(path, credentials, NamedFiles::Checked))
}

fn places<'a>(path: &'a Path, credentials: Option<&'a Path>, named_files: NamedFiles) -> Places<'a> {
    Places { folder: files::folder_of(path), credentials, named_files }
}

fn read(path: &Path, load: impl FnOnce(&str) -> Loaded) -> Loaded {
    match files::read_text(path, limits::SETTINGS_BYTES_MAX) {
        Ok(text) => load(&text),
        Err(error) => Loaded { settings: None, findings: vec![files::finding(path, &error)] },
    }
}

fn load_placed(text: &str, path: &Path, places: Places<'_>) -> Loaded {
    let mut report = Report::new(path, text);
    let document = syntax::parse(text, &mut report);
    let settings = document.and_then(|document| tables::settings(&document, places, &mut report));
    let settings = settings.filter(|_| !report.has_errors());
    if let Some(settings) = &settings {
        lanes::warn_of_cut_codes(settings, &mut report);
        if places.are_checked() {
            fares::warn_of_unknown_stations(settings, &mut report);
        }
        tables::warn_of_idle_denials(settings, &mut report);
    }
    Loaded { settings, findings: report.finish() }
}
