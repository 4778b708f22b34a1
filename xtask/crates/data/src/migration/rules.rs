//! The rules for migrations, as data: what each is about, why it matters, and the known cure. It judges nothing.

use finding::{Check, Rule, Severity};

/// What kind of harm a rule is about; it decides what may excuse a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// It takes something away that a release may use: fine once none does.
    Contract,
    /// It makes a serving release wait: fine where nothing serves.
    Lock,
    /// It loses data, fails, or cannot be judged: only a marker excuses it.
    Always,
}

/// A rule.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) class: Class,
    pub(super) severity: Severity,
    title: &'static str,
    why: &'static str,
    fix: &'static str,
}

impl Entry {
    pub(super) fn rule(&self) -> Rule {
        Rule {
            id: format!("{PREFIX}{}", self.name),
            check: Check::Migrations,
            title: self.title.to_owned(),
            why: self.why.to_owned(),
            fix: self.fix.to_owned(),
            url: None,
        }
    }
}

/// What the ids of these rules begin with.
const PREFIX: &str = "migration/";

/// All rules, for reports and documentation.
pub fn rules() -> Vec<Rule> {
    RULES.iter().map(Entry::rule).collect()
}

/// The rule of this name, with or without what ids begin with.
pub(super) fn entry(name: &str) -> Option<&'static Entry> {
    let name = name.strip_prefix(PREFIX).unwrap_or(name);
    RULES.iter().find(|entry| entry.name == name)
}

const EXPAND: &str = "Leave it in place in this release; remove it in a later one whose migration says \
     `-- slipway: contract after <migration>`, with the migration since which no code uses it.";
const IN_STEPS: &str = "Add a column of the new form, write both, copy the old rows in batches, read the new one, and remove the old \
     one in a later release.";

/// A rule in one line each.
const fn entry_of(
    name: &'static str,
    (class, severity): (Class, Severity),
    title: &'static str,
    why: &'static str,
    fix: &'static str,
) -> Entry {
    Entry { name, class, severity, title, why, fix }
}

const CONTRACT: (Class, Severity) = (Class::Contract, Severity::High);
const DOUBTFUL: (Class, Severity) = (Class::Contract, Severity::Medium);
const LOCK: (Class, Severity) = (Class::Lock, Severity::High);
const BRIEF: (Class, Severity) = (Class::Lock, Severity::Medium);

const RULES: &[Entry] = &[
    entry_of(
        "drop-table",
        CONTRACT,
        "table dropped",
        "A release that runs, or that a rollback would start again, fails on every query of it, and its rows are gone.",
        EXPAND,
    ),
    entry_of(
        "drop-column",
        CONTRACT,
        "column dropped",
        "A release that runs fails on every query that names it, and its data is gone.",
        EXPAND,
    ),
    entry_of(
        "rename-table",
        CONTRACT,
        "table renamed",
        "Old code asks for the old name, new code for the new one, and both run during the switch.",
        "Make a view of the old name for the time between, or make a new table, write both, and drop the old one in a later release.",
    ),
    entry_of(
        "rename-column",
        CONTRACT,
        "column renamed",
        "Old code asks for the old name, new code for the new one, and both run during the switch.",
        IN_STEPS,
    ),
    entry_of(
        "change-type",
        CONTRACT,
        "type of a column changed",
        "A release that runs reads and writes the old type; a narrower one loses or refuses values.",
        IN_STEPS,
    ),
    entry_of(
        "set-not-null",
        CONTRACT,
        "nulls refused from now on",
        "A release that runs may still write nulls, which fail from now on.",
        "Let a release that always writes a value run first; then add `CHECK (column IS NOT NULL) NOT VALID`, validate it, and set NOT NULL.",
    ),
    entry_of(
        "required-column",
        CONTRACT,
        "column without a default that refuses nulls",
        "Inserts of a release that does not know the column fail, and so does the statement itself where rows are there.",
        "Give it a constant default, or let it be null until all code writes it.",
    ),
    entry_of(
        "drop-default",
        DOUBTFUL,
        "default dropped",
        "Inserts of a release that relies on it write null or fail.",
        EXPAND,
    ),
    entry_of(
        "new-constraint",
        DOUBTFUL,
        "constraint that a running release does not know",
        "Its writes may break it, and fail from now on.",
        "Let a release that respects it run first.",
    ),
    entry_of(
        "drop-unique",
        DOUBTFUL,
        "constraint dropped",
        "`ON CONFLICT` of a release that runs fails without the unique constraint that it names.",
        EXPAND,
    ),
    entry_of(
        "drop-view",
        CONTRACT,
        "view dropped",
        "A release that runs fails on every query of it.",
        EXPAND,
    ),
    entry_of(
        "drop-routine",
        CONTRACT,
        "function or procedure dropped",
        "A release that runs fails on every call of it.",
        EXPAND,
    ),
    entry_of(
        "drop-type",
        CONTRACT,
        "type, schema, sequence or extension dropped",
        "A release that runs fails on everything made of it.",
        EXPAND,
    ),
    entry_of(
        "rename-object",
        CONTRACT,
        "object renamed",
        "Old code asks for the old name, new code for the new one, and both run during the switch.",
        "Make a second object of the new name and drop the old one in a later release.",
    ),
    entry_of(
        "row-security",
        DOUBTFUL,
        "row security switched on",
        "A release that runs under a role without a policy sees no rows any more.",
        "Create the policies in the same transaction, and let a release that sets what they ask for run first.",
    ),
    entry_of(
        "truncate",
        (Class::Always, Severity::High),
        "all rows removed",
        "The rows are gone, and the table is locked against readers.",
        "Delete in batches, or make a new table.",
    ),
    entry_of(
        "delete-all",
        (Class::Always, Severity::High),
        "rows removed without a condition",
        "All rows are gone.",
        "Say which rows are meant, and delete them in batches.",
    ),
    entry_of(
        "drop-database",
        (Class::Always, Severity::Critical),
        "database dropped",
        "Everything in it is gone.",
        "No migration of a service drops its database: do it by hand.",
    ),
    entry_of(
        "index-not-concurrent",
        LOCK,
        "index made under a lock",
        "Writes to the table wait until the index is complete.",
        "`CREATE INDEX CONCURRENTLY`, in a migration of its own that runs outside a transaction.",
    ),
    entry_of(
        "drop-index-not-concurrent",
        BRIEF,
        "index dropped under a lock",
        "Reads and writes of the table wait for it, and it waits for every query that runs.",
        "`DROP INDEX CONCURRENTLY`, in a migration of its own that runs outside a transaction.",
    ),
    entry_of(
        "reindex-not-concurrent",
        LOCK,
        "index built anew under a lock",
        "Writes to the table wait until it is complete.",
        "`REINDEX … CONCURRENTLY`, outside a transaction.",
    ),
    entry_of(
        "refresh-not-concurrent",
        BRIEF,
        "materialised view refreshed under a lock",
        "Readers of the view wait until it is filled.",
        "Give it a unique index and refresh it `CONCURRENTLY`.",
    ),
    entry_of(
        "constraint-scans",
        LOCK,
        "constraint checked under a lock",
        "All rows are read while writes wait.",
        "Add it `NOT VALID`, and `VALIDATE CONSTRAINT` in a later transaction, which lets writes pass.",
    ),
    entry_of(
        "unique-scans",
        LOCK,
        "unique constraint built under a lock",
        "Its index is built while reads and writes wait.",
        "`CREATE UNIQUE INDEX CONCURRENTLY`, then `ADD CONSTRAINT … USING INDEX`.",
    ),
    entry_of(
        "set-not-null-scans",
        LOCK,
        "all rows read under a lock",
        "SET NOT NULL reads all rows while reads and writes wait, unless a valid CHECK proves it.",
        "Add `CHECK (column IS NOT NULL) NOT VALID`, validate it in a later transaction, set NOT NULL, and drop the check.",
    ),
    entry_of(
        "rewrites-table",
        LOCK,
        "table rewritten",
        "Every row is written anew while reads and writes wait.",
        IN_STEPS,
    ),
    entry_of(
        "update-all",
        BRIEF,
        "all rows changed in one transaction",
        "Every row stays locked until the migration ends, and the table doubles its size.",
        "Change rows in batches, outside the migration.",
    ),
    entry_of(
        "lock-table",
        LOCK,
        "table locked",
        "Whoever needs the table waits until the transaction ends.",
        "Leave it out: statements take the locks that they need.",
    ),
    entry_of(
        "detach-not-concurrent",
        LOCK,
        "partition detached under a lock",
        "Reads and writes of the whole table wait.",
        "`DETACH PARTITION … CONCURRENTLY`, outside a transaction.",
    ),
    entry_of(
        "validate-in-transaction",
        BRIEF,
        "constraint validated in the transaction that added it",
        "The strong lock of the first statement is held while all rows are read.",
        "Validate in a migration of its own.",
    ),
    entry_of(
        "lock-timeout",
        LOCK,
        "no lock_timeout",
        "A statement that waits for its lock lets every later query of the table wait behind it.",
        "`SET lock_timeout = '5s'` before it, and run the migration again when it gives up; or let Slipway run it with `lock_timeout_ms`.",
    ),
    entry_of(
        "concurrently-in-transaction",
        (Class::Always, Severity::High),
        "CONCURRENTLY inside a transaction",
        "The database refuses it.",
        "Put it into a migration of its own that runs outside a transaction.",
    ),
    entry_of(
        "rebuild-loses",
        CONTRACT,
        "table rebuilt without some of its columns",
        "A release that runs fails on every query that names them, and their data is gone.",
        EXPAND,
    ),
    entry_of(
        "rebuild",
        BRIEF,
        "table rebuilt",
        "Every row is copied while other writers wait.",
        "Do it where the table is small; `ALTER TABLE ADD COLUMN` needs none.",
    ),
    entry_of(
        "opaque",
        (Class::Always, Severity::High),
        "code that cannot be judged",
        "What it does is only known when it runs.",
        "Write its statements out, or allow it with the reason: `-- slipway: allow opaque because …`.",
    ),
    entry_of(
        "not-understood",
        (Class::Always, Severity::High),
        "statement that is not understood",
        "What it does to a release that runs is not known.",
        "Say why it is safe: `-- slipway: allow not-understood because …`.",
    ),
    entry_of(
        "unreadable",
        (Class::Always, Severity::High),
        "script that cannot be read",
        "A text constant or a comment does not end.",
        "Close it.",
    ),
    entry_of(
        "marker",
        (Class::Always, Severity::High),
        "marker that says nothing",
        "An exception without a known rule and a reason cannot be judged by the next reader.",
        "`-- slipway: allow <rule> because <reason>` or `-- slipway: contract after <migration>`.",
    ),
    entry_of(
        "unused-marker",
        (Class::Always, Severity::Low),
        "marker that allows nothing",
        "It hides the next statement that is written under it.",
        "Remove it.",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_rule_has_one_name_and_says_why_and_how() {
        let names: BTreeSet<&str> = RULES.iter().map(|entry| entry.name).collect();
        assert_eq!(names.len(), RULES.len());
        for rule in rules() {
            assert!(
                rule.why.ends_with('.') && rule.fix.ends_with('.') && !rule.title.is_empty(),
                "{}",
                rule.id
            );
            assert_eq!(Check::of_rule(&rule.id), Some(Check::Migrations));
        }
    }
}
