//! The TOML itself: a document, or a report of each line that is not TOML.

use toml::de::DeTable;

use super::report::Report;

/// After so many syntax errors the rest is most likely their consequence.
const SYNTAX_ERRORS_MAX: usize = 20;

/// The document; `None` when there are syntax errors, which are reported.
pub(super) fn parse<'d>(text: &'d str, report: &mut Report) -> Option<DeTable<'d>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Some(document.into_inner());
    }
    let mut told: Vec<(usize, String)> = errors
        .iter()
        .map(|error| (report.line_at(error.span().map_or(0, |span| span.start)), error.message().to_owned()))
        .collect();
    // One slip can be reported several times on its line: the first is the cause.
    told.sort_by_key(|(line, _)| *line);
    told.dedup_by_key(|(line, _)| *line);
    for (line, message) in told.into_iter().take(SYNTAX_ERRORS_MAX) {
        report.error_at(line, "", format!("not TOML: {message}"), "correct this line");
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn each_line_that_is_not_toml_is_told_once() {
        let text = "a = 1\nb = = 2\nc = 3\na = 4\nd = \"open\n";
        let mut report = Report::new(Path::new("x.toml"), text);
        assert!(parse(text, &mut report).is_none());
        let findings = report.finish();
        assert_eq!(findings.iter().map(|finding| finding.line).collect::<Vec<_>>(), [Some(2), Some(4), Some(5)]);
        assert_eq!(findings[1].to_string(), "x.toml:4: error: not TOML: duplicate key; correct this line");
    }
}
