//! The settings, the files that they name, and the secrets.

use std::{os::unix::fs::PermissionsExt, path::Path};

use super::{
    Look,
    account::{Account, Barred, Want},
};
use crate::config::{self, Auth, Encoding, Format, SecretError, Settings, Sign};

/// What the unit hands over from `/etc/faregate`, so that root alone needs to read it.
const OF_THE_UNIT: [&str; 3] = ["appsecret", "callback-aes", "callback-sign"];
const FOLDER_OF_THE_UNIT: &str = "/etc/faregate";

pub(super) fn look(settings: &Settings, settings_file: &Path, account: Option<&Account>) -> Vec<Look> {
    let roots = if let Format::Jtt1179 { roots } = &settings.ride_code.format { Some(roots.as_path()) } else { None };
    let named = [Some(settings_file), roots, settings.fare.table.as_deref(), settings.wechat.ca_file.as_deref()];
    let plain = named.into_iter().flatten().map(|file| readable(file, account));
    plain.chain(secrets(settings).into_iter().map(|secret| secret.look(account))).collect()
}

fn readable(file: &Path, account: Option<&Account>) -> Look {
    let at = "file";
    if !file.is_file() {
        return Look::bad(at, format!("{} is not there", file.display()), "make it, or correct the settings: faregate check");
    }
    barred(at, file, account).unwrap_or_else(|| Look::good(at, format!("{} can be read", file.display())))
}

fn barred(at: &str, file: &Path, account: Option<&Account>) -> Option<Look> {
    let Barred { by, rights } = account?.reach(file, Want::Read).err()?;
    let found = format!("the user faregate may not read {} ({} has mode {rights})", file.display(), by.display());
    Some(Look::bad(at, found, format!("chgrp faregate {0} && chmod g+rX {0}", by.display())))
}

/// A secret that the settings name.
struct Secret<'a> {
    key: &'static str,
    path: &'a Path,
    form: Form,
}

/// How a secret is written.
#[derive(Clone, Copy)]
enum Form {
    Text,
    AesKey(Encoding),
}

fn secrets(settings: &Settings) -> Vec<Secret<'_>> {
    let text = |key, path| Secret { key, path, form: Form::Text };
    let mut secrets = Vec::new();
    match &settings.wechat.auth {
        Auth::StableToken { secret_file, .. } => secrets.push(text("secret_file", secret_file)),
        Auth::StaticToken { token_file } => secrets.push(text("token_file", token_file)),
        Auth::None => {}
    }
    if let Some(callback) = &settings.callback {
        let form = Form::AesKey(callback.aes_key_encoding);
        secrets.push(Secret { key: "aes_key_file", path: &callback.aes_key_file, form });
        if let Sign::HmacSha256(file) | Sign::Md5(file) = &callback.sign {
            secrets.push(text("sign_key_file", file));
        }
    }
    secrets
}

impl Secret<'_> {
    fn look(&self, account: Option<&Account>) -> Look {
        let at = format!("secret {}", self.key);
        let mode = match self.path.metadata() {
            Ok(file) => file.permissions().mode(),
            Err(error) => return Look::bad(at, format!("cannot be looked at: {error}"), "make the file; or look as root"),
        };
        if let Err(error) = self.read() {
            return Look::bad(at, error.to_string(), error.mend());
        }
        if self.is_handed_over() {
            return if mode & 0o077 > 0 {
                Look::doubtful(at, format!("others may read it: mode {:04o}", mode & 0o777), "chmod 600, owner root")
            } else {
                Look::good(at, "is root's alone, and handed over by the unit")
            };
        }
        if mode & 0o007 > 0 {
            return Look::doubtful(at, format!("everybody may read it: mode {:04o}", mode & 0o777), "chmod o= the file");
        }
        barred(&at, self.path, account).unwrap_or_else(|| Look::good(at, "can be read by the daemon"))
    }

    fn read(&self) -> Result<(), SecretError> {
        match self.form {
            Form::Text => config::read_secret(self.path).map(drop),
            Form::AesKey(encoding) => config::read_aes_key(self.path, encoding).map(drop),
        }
    }

    fn is_handed_over(&self) -> bool {
        let name = self.path.file_name().and_then(|name| name.to_str());
        self.path.parent() == Some(Path::new(FOLDER_OF_THE_UNIT)) && name.is_some_and(|name| OF_THE_UNIT.contains(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_hands_over_what_is_taken_for_handed_over_and_nothing_else() {
        let unit = include_str!("../../systemd/faregate.service");
        let loaded: Vec<_> = unit.lines().filter_map(|line| line.strip_prefix("LoadCredential=")).collect();
        assert_eq!(loaded, OF_THE_UNIT.map(|name| format!("{name}:{FOLDER_OF_THE_UNIT}/{name}")));
    }
}
