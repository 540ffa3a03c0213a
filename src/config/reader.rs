//! Reads one TOML table key by key, and reports at its line whatever is unknown, missing or not allowed.
//!
//! A reader never gives up: a value that is not allowed is reported and becomes `None`, and the rest is read on.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use toml::de::{DeTable, DeValue};

use super::{
    finding::Finding,
    limits::Limited,
    report::{Report, Unique, quoted},
    schema::Keys,
    values::{Parsed, Reject, duration, list, nearest, unexpected, whole},
};

/// One table, and where what is wrong with it is reported.
#[derive(Debug)]
pub(super) struct Section<'d, 'r> {
    /// Dotted; empty for the whole file.
    path: String,
    content: Content<'d>,
    report: &'r mut Report,
}

#[derive(Debug, Clone, Copy)]
enum Content<'d> {
    Table(&'d DeTable<'d>),
    /// No such table: its required keys are missing.
    Absent,
    /// Not a table, and reported as such: nothing in it is missing.
    Broken,
}

/// One element of an array of tables.
#[derive(Debug)]
pub(super) struct Element<'d> {
    pub(super) value: &'d DeValue<'d>,
    span: Range<usize>,
}

impl<'d, 'r> Section<'d, 'r> {
    /// The whole file.
    pub(super) fn root(table: &'d DeTable<'d>, keys: Keys, report: &'r mut Report) -> Self {
        let mut section = Self { path: String::new(), content: Content::Table(table), report };
        section.report_unknown(table, keys);
        section
    }

    /// The table at `key`; one that is absent counts as empty.
    pub(super) fn table(&mut self, key: &str, keys: Keys) -> Section<'d, '_> {
        let value = self.value(key);
        self.child(self.path_of(key), value, keys)
    }

    /// The table at `key`, if there is anything.
    pub(super) fn existing_table(&mut self, key: &str, keys: Keys) -> Option<Section<'d, '_>> {
        if self.has(key) { Some(self.table(key, keys)) } else { None }
    }

    /// The elements of the array of tables at `key`, which needs at least one; none when that is reported.
    pub(super) fn required_elements(&mut self, key: &str) -> Vec<Element<'d>> {
        self.require(key);
        let Some(value) = self.value(key) else { return Vec::new() };
        let DeValue::Array(array) = value else {
            self.reject::<()>(key, Err(unexpected(value, &format!("[[{key}]] with double brackets"))));
            return Vec::new();
        };
        if array.is_empty() {
            self.error(key, "is empty", format!("add a [[{key}]]"));
        }
        array.iter().map(|element| Element { value: element.get_ref(), span: element.span() }).collect()
    }

    /// One element as a table, under a path of its own such as `lane[in]`.
    pub(super) fn element(&mut self, path: String, element: &Element<'d>, keys: Keys) -> Section<'d, '_> {
        self.report.place(path.clone(), element.span.start);
        self.child(path, Some(element.value), keys)
    }

    /// The value at `key`, whatever it is.
    pub(super) fn value(&mut self, key: &str) -> Option<&'d DeValue<'d>> {
        let Content::Table(table) = self.content else { return None };
        let (name, value) = table.get_key_value(key)?;
        self.report.place(self.path_of(key), name.span().start);
        Some(value.get_ref())
    }

    pub(super) fn has(&self, key: &str) -> bool {
        matches!(self.content, Content::Table(table) if table.contains_key(key))
    }

    /// The value at `key`; reports it when it is missing or not allowed.
    pub(super) fn required<T>(&mut self, key: &str, parse: impl FnOnce(&'d DeValue<'d>) -> Parsed<T>) -> Option<T> {
        self.require(key);
        self.optional(key, parse)
    }

    /// Reports `key` when it is missing.
    pub(super) fn require(&mut self, key: &str) {
        let mend = match self.content {
            Content::Broken => return,
            _ if self.has(key) => return,
            Content::Absent => format!("add the table [{}] with it", self.path),
            Content::Table(_) => format!("add \"{key} = …\" to this table"),
        };
        self.error(key, "is missing", mend);
    }

    /// The value at `key`, if there is one; reports it when it is not allowed.
    pub(super) fn optional<T>(&mut self, key: &str, parse: impl FnOnce(&'d DeValue<'d>) -> Parsed<T>) -> Option<T> {
        let parsed = parse(self.value(key)?);
        self.reject(key, parsed)
    }

    /// The value at `key`, or the default when it is absent; `None` when it is not allowed.
    pub(super) fn or<T>(&mut self, key: &str, default: T, parse: impl FnOnce(&'d DeValue<'d>) -> Parsed<T>) -> Option<T> {
        if self.has(key) { self.optional(key, parse) } else { Some(default) }
    }

    /// A duration with a default and bounds.
    pub(super) fn duration(&mut self, key: &str, limits: Limited<Duration>) -> Option<Duration> {
        self.or(key, limits.default, duration(limits.bounds))
    }

    /// A whole number with a default and bounds.
    pub(super) fn whole<T>(&mut self, key: &str, limits: Limited<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + Copy + std::fmt::Display,
    {
        self.or(key, limits.default, whole(limits.bounds))
    }

    /// A table with keys of the operator's own; empty when absent, without the entries that are reported.
    pub(super) fn entries<K: Ord, V>(
        &mut self,
        key: &str,
        parse: impl Fn(&str, &'d DeValue<'d>) -> Parsed<(K, V)>,
    ) -> BTreeMap<K, V> {
        let Some(value) = self.value(key) else { return BTreeMap::new() };
        let DeValue::Table(table) = value else {
            self.reject::<()>(key, Err(unexpected(value, "a table")));
            return BTreeMap::new();
        };
        let mut entries = BTreeMap::new();
        for (name, value) in table {
            let entry = format!("{key}.{}", name.get_ref());
            self.report.place(self.path_of(&entry), name.span().start);
            entries.extend(self.reject(&entry, parse(name.get_ref(), value.get_ref())));
        }
        entries
    }

    /// The value, or a report of why there is none.
    pub(super) fn reject<T>(&mut self, key: &str, parsed: Parsed<T>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(Reject { problem, mend }) => {
                self.error(key, problem, mend);
                None
            }
        }
    }

    pub(super) fn error(&mut self, key: &str, problem: impl Into<String>, mend: impl Into<String>) {
        self.report.error(&self.path_of(key), problem, mend);
    }

    pub(super) fn warn(&mut self, key: &str, problem: impl Into<String>, mend: impl Into<String>) {
        self.report.warn(&self.path_of(key), problem, mend);
    }

    /// The dotted path of one of this table's keys.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Reports an error at `key` when another key has this value already.
    pub(super) fn claim(&mut self, key: &str, unique: &Unique, value: &str) {
        self.report.claim(unique, value, &self.path_of(key));
    }

    /// Takes in what was found in a file that this table names.
    pub(super) fn extend(&mut self, findings: Vec<Finding>) {
        self.report.extend(findings);
    }

    fn child(&mut self, path: String, value: Option<&'d DeValue<'d>>, keys: Keys) -> Section<'d, '_> {
        let mut child = Section { path, content: Content::Broken, report: &mut *self.report };
        match value {
            None => child.content = Content::Absent,
            Some(DeValue::Table(table)) => {
                child.content = Content::Table(table);
                child.report_unknown(table, keys);
            }
            Some(other) => {
                let Reject { problem, mend } = unexpected(other, "a table");
                child.report.error(&child.path, problem, mend);
            }
        }
        child
    }

    fn report_unknown(&mut self, table: &DeTable<'_>, keys: Keys) {
        for (name, _) in table.iter().filter(|(name, _)| !keys.contains(&name.get_ref().as_ref())) {
            let key = self.path_of(name.get_ref());
            self.report.place(key.clone(), name.span().start);
            let mend = nearest(name.get_ref(), keys)
                .map_or_else(|| format!("remove it; known here: {}", list(keys)), |near| format!("did you mean {near:?}?"));
            self.report.error(&key, format!("{} is not a setting", quoted(name.get_ref())), mend);
        }
    }
}
