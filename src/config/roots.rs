//! The trust roots of JT/T 1179 ride codes, `roots.toml`. Whether a key is a point on the curve is the ride code's business.

use std::path::Path;

use data_encoding::HEXLOWER_PERMISSIVE;
use toml::de::DeTable;

use super::{
    files,
    finding::Finding,
    limits::{Bounds, ROOTS_BYTES_MAX},
    reader::{Element, Section},
    report::{Report, Unique, quoted},
    schema, syntax,
    values::{Parsed, reject, text, whole},
};

/// Bytes of an uncompressed public key: 04, X, Y.
const PUBLIC_KEY_BYTES: usize = 65;
/// Certificates have years of two digits.
const YEARS: std::ops::RangeInclusive<u16> = 2000..=2099;
const INDEX: Unique = Unique { what: "the index of a root", mend: "give each root the index that its operator gave it" };

/// One trust root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The index by which issuer certificates name it.
    pub index: u8,
    /// Uncompressed: 04, X, Y.
    pub public_key: [u8; PUBLIC_KEY_BYTES],
    /// The root is good to the end of `expires_month` of this year.
    pub expires_year: u16,
    /// 1 to 12.
    pub expires_month: u8,
}

/// Reads `roots.toml`: `[[root]]` with `index`, `public_key` (130 hexadecimal digits) and `expires` (`2030-12`).
///
/// # Errors
/// Everything that is wrong with the file.
pub fn read_roots(path: &Path) -> Result<Vec<Root>, Vec<Finding>> {
    match files::read_text(path, ROOTS_BYTES_MAX) {
        Ok(text) => parse(&text, path),
        Err(error) => Err(vec![files::finding(path, &error)]),
    }
}

/// As [`read_roots`], from the file's text.
pub(super) fn parse(text: &str, path: &Path) -> Result<Vec<Root>, Vec<Finding>> {
    let mut report = Report::new(path, text);
    let roots = syntax::parse(text, &mut report).map(|document| read(&document, &mut report));
    match roots {
        Some(roots) if !report.has_errors() => Ok(roots),
        _ => Err(report.finish()),
    }
}

fn read(document: &DeTable<'_>, report: &mut Report) -> Vec<Root> {
    let mut file = Section::root(document, schema::ROOTS_FILE, report);
    let elements = file.required_elements("root");
    elements.iter().enumerate().filter_map(|(position, element)| root(&mut file, position, element)).collect()
}

fn root<'d>(file: &mut Section<'d, '_>, position: usize, element: &Element<'d>) -> Option<Root> {
    let mut root = file.element(format!("root[{position}]"), element, schema::TRUST_ROOT);
    let index = root.required("index", whole(Bounds { min: 0, max: u8::MAX }));
    if let Some(index) = index {
        root.claim("index", &INDEX, &index.to_string());
    }
    let public_key = root.required("public_key", text(public_key));
    let expires = root.required("expires", text(year_and_month));
    let (expires_year, expires_month) = expires?;
    Some(Root { index: index?, public_key: public_key?, expires_year, expires_month })
}

fn public_key(text: &str) -> Parsed<[u8; PUBLIC_KEY_BYTES]> {
    let bytes: Option<[u8; PUBLIC_KEY_BYTES]> =
        HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    match bytes {
        Some(key @ [0x04, ..]) => Ok(key),
        Some(_) => reject("does not begin with 04", "write the uncompressed key: 04 and two coordinates"),
        None => {
            let problem = format!("is not a public key: {} characters", text.chars().count());
            reject(problem, "write 130 hexadecimal digits, beginning with 04")
        }
    }
}

fn year_and_month(text: &str) -> Parsed<(u16, u8)> {
    let parts = text.split_once('-').filter(|(year, month)| year.len() == 4 && month.len() == 2);
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let numbers = parts
        .filter(|(year, month)| is_digits(year) && is_digits(month))
        .and_then(|(year, month)| Some((year.parse().ok()?, month.parse().ok()?)));
    numbers.filter(|(year, month)| YEARS.contains(year) && (1..=12).contains(month)).map_or_else(
        || reject(format!("{} is not a month", quoted(text)), "write year and month, from 2000-01 to 2099-12, as in \"2030-12\""),
        Ok,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: &str, expires: &str) -> String {
        format!("[[root]]\nindex = {index}\npublic_key = \"04{}\"\nexpires = \"{expires}\"\n", "aB".repeat(64))
    }

    fn problems(text: &str) -> Vec<String> {
        parse(text, Path::new("roots.toml")).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_root_is_read() {
        let roots = parse(&(entry("0", "2030-12") + &entry("255", "2031-01")), Path::new("roots.toml")).unwrap();
        assert_eq!(roots.iter().map(|root| root.index).collect::<Vec<_>>(), [0, 255]);
        assert_eq!((roots[0].expires_year, roots[0].expires_month), (2030, 12));
        assert_eq!(roots[1].public_key[..2], [0x04, 0xab]);
    }

    #[test]
    fn an_index_twice_is_told_with_both_lines() {
        let problems = problems(&(entry("1", "2030-12") + &entry("1", "2030-12")));
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0].starts_with("roots.toml:6: error: root[1].index: \"1\" is already the index of a root"),
            "{problems:?}"
        );
        assert!(problems[0].contains("on line 2"), "{problems:?}");
    }

    #[test]
    fn everything_that_is_wrong_with_a_root_is_told_at_once() {
        let problems = problems("[[root]]\nindex = 256\npublic_key = \"04ab\"\nexpires = \"2030-13\"\nexpire = 1\n");
        let lines: Vec<_> = problems.iter().map(|problem| problem.split(": ").take(3).collect::<Vec<_>>().join(": ")).collect();
        assert_eq!(
            lines,
            [
                "roots.toml:2: error: root[0].index",
                "roots.toml:3: error: root[0].public_key",
                "roots.toml:4: error: root[0].expires",
                "roots.toml:5: error: root[0].expire"
            ]
        );
    }

    #[test]
    fn a_compressed_key_is_not_taken_for_an_uncompressed_one() {
        assert!(public_key(&("02".to_owned() + &"ab".repeat(64))).is_err());
        assert!(public_key(&("04".to_owned() + &"ab".repeat(63))).is_err());
        assert!(public_key(&("04".to_owned() + &"xy".repeat(64))).is_err());
    }

    #[test]
    fn months_have_two_digits_and_years_four() {
        for text in ["2030-1", "30-12", "2030-00", "+203-01", "2030-+1", "1999-12", "2030", ""] {
            assert!(year_and_month(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_without_roots_is_an_error() {
        assert_eq!(problems("").len(), 1);
        assert_eq!(problems("root = []").len(), 1);
        assert_eq!(problems("root = 1").len(), 1);
        let absent = tempfile::tempdir().unwrap().path().join("roots.toml");
        assert!(read_roots(&absent).unwrap_err()[0].problem.contains("no such file"));
    }
}
