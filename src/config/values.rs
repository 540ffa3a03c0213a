//! Turns single values into typed ones, or says what was found and what is allowed. Pure: no files, no keys, no lines.

use std::{
    collections::BTreeSet,
    fmt::Display,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use data_encoding::HEXLOWER_PERMISSIVE;
use reqwest::Url;
use toml::de::{DeInteger, DeValue};

use super::{
    limits::{BAUD_RATES, Bounds, ID_CHARS_MAX},
    report::quoted,
};

/// A value that is not allowed: what was found, and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reject {
    pub(super) problem: String,
    pub(super) mend: String,
}

/// The typed value, or why there is none.
pub(super) type Parsed<T> = Result<T, Reject>;

pub(super) fn reject<T>(problem: impl Into<String>, mend: impl Into<String>) -> Parsed<T> {
    Err(Reject { problem: problem.into(), mend: mend.into() })
}

/// The names of a choice and what each stands for.
pub(super) type Choices<T> = &'static [(&'static str, T)];

// From TOML values.

/// A value of another type than expected. Tells only the types: the value may be a secret in the wrong place.
pub(super) fn unexpected(value: &DeValue<'_>, expected: &str) -> Reject {
    let found = value.type_str();
    let article = if matches!(found, "array" | "integer") { "an" } else { "a" };
    Reject { problem: format!("is {article} {found}"), mend: format!("write {expected}") }
}

fn wrong_type<T>(value: &DeValue<'_>, expected: &str) -> Parsed<T> {
    Err(unexpected(value, expected))
}

/// Text that `parse` takes.
pub(super) fn text<T>(parse: impl Fn(&str) -> Parsed<T>) -> impl Fn(&DeValue<'_>) -> Parsed<T> {
    move |value| value.as_str().map_or_else(|| wrong_type(value, "text in double quotes"), &parse)
}

/// One of a few names.
pub(super) fn choice<T: Copy>(choices: Choices<T>) -> impl Fn(&DeValue<'_>) -> Parsed<T> {
    text(move |name| {
        let chosen = choices.iter().find(|(choice, _)| *choice == name);
        chosen.map_or_else(
            || unknown_choice(name, &choices.iter().map(|(choice, _)| *choice).collect::<Vec<_>>()),
            |(_, value)| Ok(*value),
        )
    })
}

pub(super) fn boolean(value: &DeValue<'_>) -> Parsed<bool> {
    value.as_bool().map_or_else(|| wrong_type(value, "true or false"), Ok)
}

/// A whole number within its bounds.
pub(super) fn whole<T: TryFrom<i64> + PartialOrd + Copy + Display>(bounds: Bounds<T>) -> impl Fn(&DeValue<'_>) -> Parsed<T> {
    move |value| {
        let Some(integer) = value.as_integer() else { return wrong_type(value, "a whole number") };
        let number = as_i64(integer).and_then(|number| T::try_from(number).ok());
        number
            .filter(|number| *number >= bounds.min && *number <= bounds.max)
            .map_or_else(|| reject(format!("{integer} is out of range"), format!("use {} to {}", bounds.min, bounds.max)), Ok)
    }
}

/// A number with or without a fraction, within its bounds.
pub(super) fn number(bounds: Bounds<f64>) -> impl Fn(&DeValue<'_>) -> Parsed<f64> {
    move |value| {
        let number = match value {
            DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
            // An f64 holds whole numbers up to 2^53; degrees are far smaller.
            #[allow(clippy::cast_precision_loss)]
            DeValue::Integer(integer) => as_i64(integer).map(|number| number as f64),
            _ => return wrong_type(value, "a number"),
        };
        number
            .filter(|number| (bounds.min..=bounds.max).contains(number))
            .map_or_else(|| reject("is out of range", format!("use {} to {}", bounds.min, bounds.max)), Ok)
    }
}

/// A duration within its bounds, `5s`.
pub(super) fn duration(bounds: Bounds<Duration>) -> impl Fn(&DeValue<'_>) -> Parsed<Duration> {
    move |value| {
        let Some(text) = value.as_str() else { return wrong_type(value, DURATION_FORM) };
        bounded_duration(text, bounds)
    }
}

/// A size in bytes within its bounds: `64MiB`, or plain bytes as text or number.
pub(super) fn size(bounds: Bounds<u64>) -> impl Fn(&DeValue<'_>) -> Parsed<u64> {
    move |value| {
        let bytes = match value {
            DeValue::String(text) => parse_size(text),
            DeValue::Integer(integer) => as_i64(integer).and_then(|bytes| bytes.try_into().ok()),
            _ => return wrong_type(value, SIZE_FORM),
        };
        match bytes {
            None => reject("is not a size", format!("write {SIZE_FORM}")),
            Some(bytes) if bytes < bounds.min || bytes > bounds.max => {
                reject(format!("{bytes} bytes are out of range"), format!("use {} to {} bytes", bounds.min, bounds.max))
            }
            Some(bytes) => Ok(bytes),
        }
    }
}

/// One of the rates that serial ports have.
pub(super) fn baud(value: &DeValue<'_>) -> Parsed<u32> {
    let Some(integer) = value.as_integer() else { return wrong_type(value, "a whole number") };
    let rate = as_i64(integer).and_then(|rate| u32::try_from(rate).ok());
    rate.filter(|rate| BAUD_RATES.contains(rate)).map_or_else(
        || reject(format!("{integer} is not a rate that serial ports have"), format!("use one of {}", list(&BAUD_RATES))),
        Ok,
    )
}

/// A list of different names, each one of the known ones.
pub(super) fn names(known: &'static [&'static str]) -> impl Fn(&DeValue<'_>) -> Parsed<Vec<String>> {
    move |value| {
        let Some(array) = value.as_array() else { return wrong_type(value, "a list of names in square brackets") };
        let mut names = Vec::new();
        for item in array {
            let Some(name) = item.get_ref().as_str() else { return wrong_type(item.get_ref(), "names in double quotes only") };
            if !known.contains(&name) {
                return unknown_choice(name, known);
            }
            names.push(name.to_owned());
        }
        match names.iter().collect::<BTreeSet<_>>().len() {
            0 => reject("is empty", format!("name at least one of {}", list(known))),
            different if different < names.len() => reject("names a field twice", "name each field once"),
            _ => Ok(names),
        }
    }
}

fn as_i64(integer: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn unknown_choice<T>(name: &str, known: &[&str]) -> Parsed<T> {
    let hint = nearest(name, known).map_or_else(String::new, |near| format!("did you mean {near:?}? "));
    let quoted_names: Vec<_> = known.iter().map(|name| format!("{name:?}")).collect();
    reject(format!("{} is not known here", quoted(name)), format!("{hint}use one of {}", list(&quoted_names)))
}

// From text.

/// A station's name as the settings and the fare table may have it; `None` when it cannot be one.
#[must_use]
pub fn station_id(text: &str) -> Option<String> {
    id(text).ok()
}

/// `[A-Za-z0-9-]{1,16}`
pub(super) fn id(text: &str) -> Parsed<String> {
    let mend = format!("use 1 to {ID_CHARS_MAX} of A-Z a-z 0-9 and -");
    if text.is_empty() {
        return reject("is empty", mend);
    }
    if !text.chars().all(|character| character.is_ascii_alphanumeric() || character == '-') {
        return reject(format!("{} has a character that is not allowed", quoted(text)), mend);
    }
    if text.len() > ID_CHARS_MAX {
        return reject(format!("{} is too long", quoted(text)), mend);
    }
    Ok(text.to_owned())
}

/// Text of one line, in any script.
pub(super) fn label(max_chars: usize) -> impl Fn(&str) -> Parsed<String> {
    move |text| {
        let mend = format!("use 1 to {max_chars} characters on one line");
        match text.chars().count() {
            0 => reject("is empty", mend),
            count if count > max_chars => reject(format!("has {count} characters"), mend),
            _ if text.trim() != text => reject("begins or ends with white space", mend),
            _ if text.chars().any(char::is_control) => reject("has a control character", mend),
            _ => Ok(text.to_owned()),
        }
    }
}

/// A word that somebody else assigned: visible ASCII characters.
pub(super) fn assigned_id(max_chars: usize) -> impl Fn(&str) -> Parsed<String> {
    move |text| {
        if (1..=max_chars).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(text.to_owned());
        }
        let problem = if text.is_empty() { "is empty".to_owned() } else { format!("{} cannot be one", quoted(text)) };
        reject(problem, format!("write what you were assigned: 1 to {max_chars} visible ASCII characters"))
    }
}

/// The name of a file; not whether there is one.
pub(super) fn file_name(text: &str) -> Parsed<&str> {
    if text.is_empty() || text.contains('\0') {
        return reject("is not the name of a file", "name a file, relative to the folder of the settings or absolute");
    }
    Ok(text)
}

/// The path of a URL.
pub(super) fn url_path(text: &str) -> Parsed<String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()+,;=@".contains(&byte);
    if text.starts_with('/') && text.bytes().all(is_allowed) {
        return Ok(text.to_owned());
    }
    let mend = "begin with / and use letters, digits and -._~%!$&'()+,;=@ only, no query";
    reject(format!("{} is not the path of a URL", quoted(text)), mend)
}

/// `https://host[:port][/path]` without a trailing slash; `http` to this machine only.
pub(super) fn base_url(text: &str) -> Parsed<String> {
    let mend = "write https://, the host, and a port and a path if needed";
    if text.contains('@') {
        return reject("holds a user name or password", mend);
    }
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\?#".contains(&byte)) && !text.contains(":///");
    let url = Url::parse(text).ok().filter(|url| is_plain && text.contains("://") && matches!(url.scheme(), "http" | "https"));
    let Some(url) = url else { return reject(format!("{} is not a base URL", quoted(text)), mend) };
    if url.scheme() == "http" && !url.host_str().is_some_and(is_loopback_host) {
        let mend = "use https; http is for 127.0.0.1, [::1] and localhost only";
        return reject(format!("{} is plain http to another machine", quoted(text)), mend);
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn is_loopback_host(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse();
    host == "localhost" || address.is_ok_and(is_loopback)
}

/// Whether only this machine can reach the address; IPv4 written as IPv6 counts as what it is.
pub(super) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// `127.0.0.1:8480`, `[::1]:8480`
pub(super) fn listen(text: &str) -> Parsed<SocketAddr> {
    let mend = "write an IP address and a port, as in \"127.0.0.1:8480\" or \"[::1]:8480\"";
    text.parse().or_else(|_| reject(format!("{} is not an address to listen at", quoted(text)), mend))
}

pub(super) fn ip(text: &str) -> Parsed<String> {
    let address = text.parse::<IpAddr>().map(|address| address.to_string());
    address.or_else(|_| reject(format!("{} is not an IP address", quoted(text)), "write it as in \"10.1.14.3\""))
}

/// Pairs of hexadecimal digits, possibly none.
pub(super) fn hex_bytes(max_bytes: usize) -> impl Fn(&str) -> Parsed<Vec<u8>> {
    move |text| {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok().filter(|bytes| bytes.len() <= max_bytes);
        let mend = format!("write up to {max_bytes} bytes as pairs of hexadecimal digits, without spaces, as in \"16540d\"");
        bytes.map_or_else(|| reject(format!("{} is not hexadecimal", quoted(text)), mend), Ok)
    }
}

const DURATION_FORM: &str = "a whole number with ms, s, m, h or d in double quotes, as in \"250ms\"";
const SIZE_FORM: &str = "a whole number with KiB, MiB, GiB or nothing (bytes) in double quotes, as in \"64MiB\"";

/// Units of a duration and their milliseconds, the longest first.
const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// A difference of whole seconds between two clocks, `8h` or `-8h`, up to `bounds.max` both ways.
pub(super) fn clock_offset_seconds(text: &str, bounds: Bounds<Duration>) -> Parsed<i64> {
    let (sign, magnitude) = text.strip_prefix('-').map_or((1, text), |magnitude| (-1, magnitude));
    let offset = bounded_duration(magnitude, bounds)?;
    if offset.subsec_millis() > 0 {
        return reject(format!("{} is not a number of whole seconds", quoted(text)), "write it as in \"8h\" or \"-8h\"");
    }
    Ok(sign * i64::try_from(offset.as_secs()).unwrap_or(i64::MAX))
}

pub(super) fn bounded_duration(text: &str, bounds: Bounds<Duration>) -> Parsed<Duration> {
    let Some(duration) = parse_duration(text) else {
        return reject(format!("{} is not a duration", quoted(text)), format!("write {DURATION_FORM}"));
    };
    if duration < bounds.min || duration > bounds.max {
        let mend = format!("use {} to {}", show_duration(bounds.min), show_duration(bounds.max));
        return reject(format!("{text} is out of range"), mend);
    }
    Ok(duration)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (count, unit) = split_number(text)?;
    let (_, unit_ms) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
    count.checked_mul(*unit_ms).map(Duration::from_millis)
}

/// In the largest unit that needs no fraction.
pub(super) fn show_duration(duration: Duration) -> String {
    let duration_ms = duration.as_millis();
    let unit =
        DURATION_UNITS.iter().find(|(_, unit_ms)| duration_ms >= u128::from(*unit_ms) && duration_ms % u128::from(*unit_ms) == 0);
    unit.map_or_else(|| "0s".to_owned(), |(name, unit_ms)| format!("{}{name}", duration_ms / u128::from(*unit_ms)))
}

fn parse_size(text: &str) -> Option<u64> {
    let (count, unit) = split_number(text)?;
    let shift = match unit {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    count.checked_mul(1 << shift)
}

/// `"250ms"` is 250 and `ms`.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

// For people.

/// The items with commas between them.
pub(super) fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// The known word that was probably meant.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    const DISTANCE_MAX: usize = 2;
    let word = word.to_lowercase();
    let scored = known.iter().map(|candidate| (edit_distance(&word, candidate), *candidate));
    let close = scored.filter(|(distance, candidate)| *distance <= DISTANCE_MAX && 2 * distance < candidate.len());
    close.min().map(|(_, candidate)| candidate)
}

/// How many letters must be added, removed or changed; at least the difference of the lengths.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for column in 0..right.len() {
            let changed = diagonal + usize::from(letter != right[column]);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANY: Bounds<Duration> = Bounds { min: Duration::ZERO, max: Duration::MAX };

    #[test]
    fn durations_are_whole_numbers_with_a_unit() {
        for (text, duration_ms) in
            [("250ms", 250), ("5s", 5000), ("2m", 120_000), ("4h", 14_400_000), ("5d", 432_000_000), ("0s", 0)]
        {
            assert_eq!(bounded_duration(text, ANY), Ok(Duration::from_millis(duration_ms)), "{text}");
        }
        for text in ["", "5", "s", "5 s", "1.5s", "-5s", "5S", "5min", "999999999999999999d", "99999999999999999999s", "٣s"] {
            assert!(bounded_duration(text, ANY).is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_out_of_range_is_told_what_is_allowed() {
        let bounds = Bounds { min: Duration::from_millis(10), max: Duration::from_secs(90) };
        let rejected = bounded_duration("1h", bounds).unwrap_err();
        assert_eq!((rejected.problem.as_str(), rejected.mend.as_str()), ("1h is out of range", "use 10ms to 90s"));
    }

    #[test]
    fn sizes_are_binary() {
        let cases = [
            ("64MiB", Some(67_108_864)),
            ("1KiB", Some(1024)),
            ("2GiB", Some(2_147_483_648)),
            ("17", Some(17)),
            ("1MB", None),
            ("", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
        assert_eq!(parse_size("99999999999999GiB"), None);
    }

    #[test]
    fn ids_are_short_and_plain() {
        assert_eq!(id("S14-G03"), Ok("S14-G03".to_owned()));
        for text in ["", "S14 G03", "S14_G03", "站", "12345678901234567"] {
            assert_eq!(id(text).unwrap_err().mend, "use 1 to 16 of A-Z a-z 0-9 and -", "{text}");
        }
    }

    #[test]
    fn a_base_url_is_https_or_on_this_machine() {
        for (text, url) in [
            ("https://api.weixin.qq.com", "https://api.weixin.qq.com"),
            ("https://api.weixin.qq.com/", "https://api.weixin.qq.com"),
            ("https://proxy.example:8443/wx/", "https://proxy.example:8443/wx"),
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
            ("http://127.8.9.1", "http://127.8.9.1"),
            ("http://[::1]:9000/a", "http://[::1]:9000/a"),
            ("http://localhost:80", "http://localhost"),
        ] {
            assert_eq!(base_url(text), Ok(url.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_base_url_is_nothing_else() {
        for text in [
            "",
            "api.weixin.qq.com",
            "https://",
            "https:///x",
            "https:api.weixin.qq.com",
            "ftp://127.0.0.1",
            "https://a b",
            "https://a/?x=1",
            "https://a/#x",
            "https://a:99999",
            "https:\\\\a",
            "http://10.0.0.1",
            "http://api.weixin.qq.com",
            "http://localhost.example.com",
            "http://[::2]",
            "http://127.0.0.1.example.com",
        ] {
            assert!(base_url(text).is_err(), "{text}");
        }
        let rejected = base_url("https://me:hunter2@a").unwrap_err();
        assert!(!format!("{rejected:?}").contains("hunter2"), "{rejected:?}");
    }

    #[test]
    fn only_addresses_of_this_machine_are_loopback() {
        for (address, expected) in
            [("127.0.0.1", true), ("127.1.2.3", true), ("::1", true), ("::ffff:127.0.0.1", true), ("0.0.0.0", false), ("::", false)]
        {
            assert_eq!(is_loopback(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn a_url_path_has_no_query_and_no_placeholder() {
        assert_eq!(url_path("/a/b-c_d.e"), Ok("/a/b-c_d.e".to_owned()));
        for text in ["", "a", "/a?b", "/a#b", "/a b", "/…", "/{a}", "/*"] {
            assert!(url_path(text).is_err(), "{text}");
        }
    }

    #[test]
    fn clock_offsets_go_both_ways_in_whole_seconds() {
        let bounds = Bounds { min: Duration::ZERO, max: Duration::from_secs(14 * 3600) };
        assert_eq!(clock_offset_seconds("8h", bounds), Ok(28_800));
        assert_eq!(clock_offset_seconds("-8h", bounds), Ok(-28_800));
        for text in ["--8h", "+8h", "15h", "-15h", "8", "1ms"] {
            assert!(clock_offset_seconds(text, bounds).is_err(), "{text}");
        }
    }

    #[test]
    fn a_misspelt_word_finds_the_one_that_was_meant() {
        let known = ["pulse", "pulse_gap", "baud", "id"];
        for (word, meant) in [
            ("puls", Some("pulse")),
            ("pulse-gap", Some("pulse_gap")),
            ("Baud", Some("baud")),
            ("buad", None),
            ("x", None),
            ("idle", None),
        ] {
            assert_eq!(nearest(word, &known), meant, "{word}");
        }
    }

    proptest! {
        #[test]
        fn a_shown_duration_reads_back_as_itself(duration_ms in 0_u64..1_000_000_000_000) {
            let duration = Duration::from_millis(duration_ms);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC*") {
            let _ = (bounded_duration(&text, ANY), parse_size(&text), base_url(&text), url_path(&text), listen(&text), ip(&text));
            let _ = (id(&text), label(9)(&text), assigned_id(9)(&text), hex_bytes(9)(&text), nearest(&text, &["id"]));
        }
    }
}
