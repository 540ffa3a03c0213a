//! `[wechat]`, `[upload]`, `[callback]` and `[monitor]`: the sides of the daemon that face a network.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use toml::de::DeValue;

use super::{
    Auth, Callback, Encoding, ErrorClass, Monitor, Sign, UnknownOrder, Upload, WeChat,
    files::{self, Places},
    lanes::ENCODINGS,
    limits::{
        ALARM_AFTER, CA_BYTES_MAX, CONCURRENCY, LATITUDE, LONGITUDE, MAX_AGE, RETRY_INITIAL, RETRY_MAX, TEXT_CHARS_MAX, TIMEOUT,
        UNKNOWN_ATTEMPTS,
    },
    reader::Section,
    report::{Unique, quoted},
    secret::{SecretError, is_readable_by_others, read_aes_key, read_secret},
    values::{
        Choices, Parsed, assigned_id, base_url, boolean, choice, file_name, ip, is_loopback, listen, names, number, reject,
        show_duration, text, url_path,
    },
};

const AUTHS: Choices<AuthName> =
    &[("stable-token", AuthName::StableToken), ("static-token", AuthName::StaticToken), ("none", AuthName::None)];
const ERROR_CLASSES: Choices<ErrorClass> = &[
    ("accepted", ErrorClass::Accepted),
    ("token", ErrorClass::Token),
    ("transient", ErrorClass::Transient),
    ("slow-down", ErrorClass::SlowDown),
    ("operator", ErrorClass::Operator),
    ("park", ErrorClass::Park),
];
const SIGNS: Choices<SignName> = &[("hmac-sha256", SignName::HmacSha256), ("md5", SignName::Md5), ("none", SignName::None)];
const UNKNOWN_ORDERS: Choices<UnknownOrder> = &[("accept", UnknownOrder::Accept), ("refuse", UnknownOrder::Refuse)];

/// The fields of a callback's envelope, in the order in which they are signed unless the settings say otherwise.
const SIGN_FIELDS: &[&str] = &["appid", "mch_id", "nonce_str", "encrypted_data", "iv"];
const TOKEN_PATH: &str = "/cgi-bin/stable_token";
const LISTEN: Unique = Unique { what: "listened at", mend: "give each its own port" };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AuthName {
    StableToken,
    StaticToken,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SignName {
    HmacSha256,
    Md5,
    None,
}

/// `[wechat]`
pub(super) fn wechat(wechat: &mut Section<'_, '_>, places: Places<'_>) -> Option<WeChat> {
    let base_url = wechat.required("base_url", text(base_url));
    let deduct_path = wechat.required("deduct_path", text(url_path));
    let auth = auth(wechat, places);
    let appid = wechat.required("appid", text(assigned_id(TEXT_CHARS_MAX)));
    let mch_id = wechat.required("mch_id", text(assigned_id(TEXT_CHARS_MAX)));
    let timeout = wechat.duration("timeout", TIMEOUT);
    let ca_file = ca_file(wechat, places);
    let machine_ip = wechat.optional("machine_ip", text(ip));
    let machine_latitude = wechat.optional("machine_latitude", number(LATITUDE));
    let machine_longitude = wechat.optional("machine_longitude", number(LONGITUDE));
    let errcodes = wechat.entries("errcodes", errcode);
    Some(WeChat {
        base_url: base_url?,
        deduct_path: deduct_path?,
        auth: auth?,
        appid: appid?,
        mch_id: mch_id?,
        timeout: timeout?,
        ca_file,
        machine_ip,
        machine_latitude,
        machine_longitude,
        errcodes,
    })
}

fn auth(wechat: &mut Section<'_, '_>, places: Places<'_>) -> Option<Auth> {
    let name = wechat.or("auth", AuthName::StableToken, choice(AUTHS));
    let secret_file = secret(wechat, "secret_file", places, name == Some(AuthName::StableToken));
    let token_file = secret(wechat, "token_file", places, name == Some(AuthName::StaticToken));
    let token_path = wechat.or("token_path", TOKEN_PATH.to_owned(), text(url_path));
    match name? {
        AuthName::StableToken => Some(Auth::StableToken { secret_file: secret_file?, token_path: token_path? }),
        AuthName::StaticToken => Some(Auth::StaticToken { token_file: token_file? }),
        AuthName::None => Some(Auth::None),
    }
}

/// The path of a text secret; the file is looked at only when it is needed.
fn secret(section: &mut Section<'_, '_>, key: &str, places: Places<'_>, is_needed: bool) -> Option<PathBuf> {
    let path = secret_path(section, key, places, is_needed)?;
    if is_needed {
        check_secret(section, key, &path, places, read_secret);
    }
    Some(path)
}

fn secret_path(section: &mut Section<'_, '_>, key: &str, places: Places<'_>, is_needed: bool) -> Option<PathBuf> {
    if is_needed {
        section.require(key);
    }
    section.optional(key, text(|name| file_name(name).map(|name| places.secret(name))))
}

fn check_secret<T>(
    section: &mut Section<'_, '_>,
    key: &str,
    path: &Path,
    places: Places<'_>,
    read: impl FnOnce(&Path) -> Result<T, SecretError>,
) {
    if !places.are_checked() {
        return;
    }
    if let Err(error) = read(path) {
        return section.error(key, error.to_string(), error.mend());
    }
    // systemd shows the access list that lets the service read a credential as rights of the group.
    let group_too = !places.is_credential(path);
    if is_readable_by_others(path, group_too) {
        let problem = format!("{} can be read by {}", path.display(), if group_too { "group or others" } else { "others" });
        section.warn(key, problem, format!("chmod 0600 {}", path.display()));
    }
}

fn ca_file(wechat: &mut Section<'_, '_>, places: Places<'_>) -> Option<PathBuf> {
    let name = wechat.optional("ca_file", text(|name| Ok(name.to_owned()))).filter(|name| !name.is_empty())?;
    let parsed = file_name(&name).map(|name| places.path(name));
    let parsed = if places.are_checked() { parsed.and_then(checked_ca_file) } else { parsed };
    wechat.reject("ca_file", parsed)
}

fn checked_ca_file(path: PathBuf) -> Parsed<PathBuf> {
    let pem = match files::read_bytes(&path, CA_BYTES_MAX) {
        Ok(pem) => pem,
        Err(error) => return reject(error.to_string(), error.mend()),
    };
    let mut store = RootCertStore::empty();
    let is_good = CertificateDer::pem_slice_iter(&pem).all(|der| der.is_ok_and(|der| store.add(der).is_ok()));
    if is_good && !store.is_empty() {
        return Ok(path);
    }
    reject(format!("{} does not hold certificates", path.display()), "name a file with PEM certificates of the authority")
}

fn errcode(name: &str, value: &DeValue<'_>) -> Parsed<(i64, ErrorClass)> {
    let code = name.parse::<i64>().ok().filter(|code| code.to_string() == name);
    let Some(code) = code else {
        return reject(format!("{} is not a whole number", quoted(name)), "write the error code, as in 61010 = \"park\"");
    };
    Ok((code, choice(ERROR_CLASSES)(value)?))
}

/// `[upload]`
pub(super) fn upload(upload: &mut Section<'_, '_>) -> Option<Upload> {
    let concurrency = upload.whole("concurrency", CONCURRENCY);
    let retry_initial = upload.duration("retry_initial", RETRY_INITIAL);
    let retry_max = upload.duration("retry_max", RETRY_MAX);
    if let (Some(initial), Some(max)) = (retry_initial, retry_max) {
        if initial > max {
            let key = if upload.has("retry_initial") { "retry_initial" } else { "retry_max" };
            let problem = format!("retry_initial, {}, is longer than retry_max, {}", show_duration(initial), show_duration(max));
            upload.error(key, problem, "make retry_initial the shorter one");
        }
    }
    let unknown_attempts = upload.whole("unknown_attempts", UNKNOWN_ATTEMPTS);
    let max_age = upload.duration("max_age", MAX_AGE);
    let alarm_after = upload.whole("alarm_after", ALARM_AFTER);
    Some(Upload {
        concurrency: concurrency?,
        retry_initial: retry_initial?,
        retry_max: retry_max?,
        unknown_attempts: unknown_attempts?,
        max_age: max_age?,
        alarm_after: alarm_after?,
    })
}

/// `[callback]`
pub(super) fn callback(callback: &mut Section<'_, '_>, gate_id: Option<&str>, places: Places<'_>) -> Option<Callback> {
    let listen = listen_address(callback, None);
    let payment_path = callback.required("payment_path", text(url_path));
    let arrears_path = callback.required("arrears_path", text(url_path));
    if payment_path.is_some() && payment_path == arrears_path {
        callback.error("arrears_path", "is the same as payment_path", "give each kind of callback its own path");
    }
    let (aes_key_file, aes_key_encoding) = aes_key(callback, places);
    let sign = sign(callback, listen, places);
    let sign_fields = sign_fields(callback);
    let unknown_order = unknown_order(callback, payment_path.as_deref(), gate_id);
    Some(Callback {
        listen: listen?,
        payment_path: payment_path?,
        arrears_path: arrears_path?,
        aes_key_file: aes_key_file?,
        aes_key_encoding: aes_key_encoding?,
        sign: sign?,
        sign_fields: sign_fields?,
        unknown_order: unknown_order?,
    })
}

fn aes_key(callback: &mut Section<'_, '_>, places: Places<'_>) -> (Option<PathBuf>, Option<Encoding>) {
    let path = secret_path(callback, "aes_key_file", places, true);
    let encoding = callback.or("aes_key_encoding", Encoding::Base64, choice(ENCODINGS));
    if let (Some(path), Some(encoding)) = (&path, encoding) {
        check_secret(callback, "aes_key_file", path, places, |path| read_aes_key(path, encoding));
    }
    (path, encoding)
}

fn sign(callback: &mut Section<'_, '_>, listen: Option<SocketAddr>, places: Places<'_>) -> Option<Sign> {
    let name = callback.or("sign", SignName::HmacSha256, choice(SIGNS));
    let key_file = secret(callback, "sign_key_file", places, name.is_some_and(|name| name != SignName::None));
    let allow_unsigned = callback.or("allow_unsigned", false, boolean);
    match name? {
        SignName::HmacSha256 => key_file.map(Sign::HmacSha256),
        SignName::Md5 => key_file.map(Sign::Md5),
        SignName::None => {
            judge_unsigned(callback, listen, allow_unsigned);
            Some(Sign::None)
        }
    }
}

fn judge_unsigned(callback: &mut Section<'_, '_>, listen: Option<SocketAddr>, allow_unsigned: Option<bool>) {
    if allow_unsigned == Some(false) {
        callback.error("sign", "unsigned callbacks are not allowed", "set allow_unsigned = true too if they must be");
    }
    if let Some(open) = listen.filter(|listen| !is_loopback(listen.ip())) {
        let mend = "listen at 127.0.0.1 or [::1] and let a proxy check who calls, or set sign";
        callback.error("listen", format!("{open} takes unsigned callbacks from other machines"), mend);
    }
    callback.warn("sign", "callbacks are not signed: whatever reaches the port is believed", "set sign to what WeChat uses");
}

fn sign_fields(callback: &mut Section<'_, '_>) -> Option<Vec<String>> {
    let default = SIGN_FIELDS.iter().map(ToString::to_string).collect();
    let fields = callback.or("sign_fields", default, names(SIGN_FIELDS))?;
    for content in ["encrypted_data", "iv"].into_iter().filter(|content| !fields.iter().any(|field| field == content)) {
        let problem = format!("leaves out {content}: the signature does not protect what a callback says");
        callback.warn("sign_fields", problem, format!("add {content:?} if WeChat signs it"));
    }
    Some(fields)
}

fn unknown_order(callback: &mut Section<'_, '_>, payment_path: Option<&str>, gate_id: Option<&str>) -> Option<UnknownOrder> {
    let unknown_order = callback.or("unknown_order", UnknownOrder::Accept, choice(UNKNOWN_ORDERS))?;
    let is_own_path = payment_path.zip(gate_id).is_some_and(|(path, id)| path.contains(id));
    if unknown_order == UnknownOrder::Accept && !is_own_path {
        let problem = "\"accept\" loses callbacks for other gates when several gates stand behind one URL";
        callback.warn("unknown_order", problem, "then set \"refuse\", or put gate.id into payment_path");
    }
    Some(unknown_order)
}

/// `[monitor]`
pub(super) fn monitor(monitor: &mut Section<'_, '_>) -> Option<Monitor> {
    let default = SocketAddr::from(([127, 0, 0, 1], 9480));
    listen_address(monitor, Some(default)).map(|listen| Monitor { listen })
}

/// `listen`, which nothing else may listen at; port 0 is any free one.
fn listen_address(section: &mut Section<'_, '_>, default: Option<SocketAddr>) -> Option<SocketAddr> {
    let address = match default {
        Some(default) => section.or("listen", default, text(listen)),
        None => section.required("listen", text(listen)),
    };
    if let Some(address) = address.filter(|address| address.port() != 0) {
        section.claim("listen", &LISTEN, &address.to_string());
    }
    address
}
