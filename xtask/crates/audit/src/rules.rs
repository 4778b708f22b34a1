//! The tables of all rules, and the page of documentation that is made from them. Invariant: an id is in one table once, and the
//! page in `docs/reference` is what the tables say (a test compares).

mod configuration;
mod image;
mod workflow;

use std::fmt::Write as _;

use finding::{Check, Finding, Place, Rule, Severity};

/// A rule as the tables have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Definition {
    /// `<check>/<name>`.
    pub id: &'static str,
    /// How bad a finding is unless the place says otherwise.
    pub severity: Severity,
    /// A few words.
    pub title: &'static str,
    /// Why it matters.
    pub why: &'static str,
    /// How to mend it.
    pub fix: &'static str,
    /// Where to read more; empty where there is no better text than this one.
    pub url: &'static str,
}

impl Definition {
    const fn new(
        id: &'static str,
        severity: Severity,
        title: &'static str,
        why: &'static str,
        fix: &'static str,
    ) -> Definition {
        Definition { id, severity, title, why, fix, url: "" }
    }

    const fn at(self, url: &'static str) -> Definition {
        Definition { url, ..self }
    }

    fn check(&self) -> Check {
        match self.id.split('/').next() {
            Some("image") => Check::Images,
            Some("config") => Check::Configuration,
            _ => Check::Workflows,
        }
    }

    fn to_rule(self) -> Rule {
        Rule {
            id: self.id.to_owned(),
            check: self.check(),
            title: self.title.to_owned(),
            why: self.why.to_owned(),
            fix: self.fix.to_owned(),
            url: (!self.url.is_empty()).then(|| self.url.to_owned()),
        }
    }
}

/// All rules, by check.
pub fn definitions() -> impl Iterator<Item = &'static Definition> {
    image::RULES.iter().chain(configuration::RULES).chain(workflow::RULES)
}

/// A finding of the rule `id`, with the rule's own severity. `key` tells it from others of the rule at this place.
pub(crate) fn finding(
    id: &'static str,
    place: Place,
    key: impl Into<String>,
    message: impl Into<String>,
) -> Finding {
    let definition =
        definitions().find(|definition| definition.id == id).expect("every id of this crate is in a table");
    Finding {
        severity: definition.severity,
        rule: definition.to_rule(),
        place,
        message: message.into(),
        key: key.into(),
    }
}

/// The page `docs/reference/audit-rules.md`.
pub fn reference() -> String {
    let mut page = "# Rules for images, configuration and workflows\n\n\
        Generated from the tables in `xtask/crates/audit/src/rules`; `SLIPWAY_UPDATE=1 cargo test -p slipway-audit` writes it again.\n"
        .to_owned();
    let mut last = None;
    for rule in definitions() {
        if last != Some(rule.check()) {
            last = Some(rule.check());
            let _ = write!(
                page,
                "\n## {}\n\n| rule | severity | what | why | fix |\n|---|---|---|---|---|\n",
                rule.check().name()
            );
        }
        let id = match rule.url {
            "" => format!("`{}`", rule.id),
            url => format!("[`{}`]({url})", rule.id),
        };
        let _ = writeln!(
            page,
            "| {id} | {} | {} | {} | {} |",
            rule.severity.name(),
            cell(rule.title),
            cell(rule.why),
            cell(rule.fix)
        );
    }
    page
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn ids_are_unique_and_every_text_is_there() {
        let mut ids = BTreeSet::new();
        for rule in definitions() {
            assert!(ids.insert(rule.id), "{} is there twice", rule.id);
            assert!(!rule.title.is_empty() && rule.why.len() > 20 && rule.fix.len() > 10, "{}", rule.id);
            assert!(rule.id.starts_with(&format!(
                "{}/",
                match rule.check() {
                    Check::Images => "image",
                    Check::Configuration => "config",
                    _ => "workflow",
                }
            )));
        }
        let count = |check| definitions().filter(|rule| rule.check() == check).count();
        assert!(count(Check::Images) >= 20 && count(Check::Workflows) >= 12);
    }

    #[test]
    fn the_reference_page_is_what_the_tables_say() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/reference/audit-rules.md");
        if std::env::var_os("SLIPWAY_UPDATE").is_some() {
            stdx::fs::write_atomic(&path, reference().as_bytes(), 0o644).unwrap();
        }
        let page = stdx::fs::read_to_string(&path).unwrap();
        assert!(page == reference(), "run SLIPWAY_UPDATE=1 cargo test -p slipway-audit");
    }
}
