//! What is wrong with the settings, in a form that tells a person where it is and how to mend it.
//!
//! A finding never holds the content of a secret, and always prints as one line.

use std::{fmt, path::PathBuf};

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The daemon does not start with it.
    Error,
    /// The daemon runs, but somebody should look at it.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing that is wrong with the settings or with a file that they name. Prints as
/// `FILE:LINE: SEVERITY: KEY: PROBLEM; MEND`, without the parts that it lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file to change.
    pub file: PathBuf,
    /// The line to change, counted from 1; `None` when it is about the file as a whole.
    pub line: Option<usize>,
    /// The key, dotted; lanes by name, `lane[in].scanner.baud`, or counted from 0, `lane[0]`. Empty when it is about no key.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub mend: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.file.to_string_lossy()))?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}: ", self.severity)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", printable(&self.key))?;
        }
        write!(f, "{}; {}", printable(&self.problem), printable(&self.mend))
    }
}

/// The text with control characters escaped, so that it stays on one line and does nothing to a terminal.
fn printable(text: &str) -> String {
    let escape =
        |character: char| if character.is_control() { character.escape_default().to_string() } else { character.to_string() };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding() -> Finding {
        Finding {
            severity: Severity::Error,
            file: "/etc/faregate/faregate.toml".into(),
            line: Some(12),
            key: "gate.id".into(),
            problem: "\"S14 G03\" has a character that is not allowed".into(),
            mend: "use 1 to 16 of A-Z a-z 0-9 and -".into(),
        }
    }

    #[test]
    fn a_finding_is_one_line_with_place_problem_and_mend() {
        assert_eq!(
            finding().to_string(),
            concat!(
                r#"/etc/faregate/faregate.toml:12: error: gate.id: "S14 G03" has a character that is not allowed; "#,
                "use 1 to 16 of A-Z a-z 0-9 and -"
            )
        );
        let whole_file = Finding { severity: Severity::Warning, line: None, key: String::new(), ..finding() };
        assert!(whole_file.to_string().starts_with("/etc/faregate/faregate.toml: warning: \"S14 G03\" has"));
    }

    #[test]
    fn control_characters_cannot_break_the_line() {
        let nasty = Finding { key: "a\nb".into(), problem: "\u{1b}[2J".into(), file: "x\r".into(), ..finding() };
        assert_eq!(nasty.to_string().chars().filter(|character| character.is_control()).count(), 0);
    }
}
