//! Which rules a change breaks, given what is known of the schema and of the script around it. Pure; what excuses a breach is
//! decided elsewhere.

use std::collections::BTreeSet;

use super::catalogue::Catalogue;
use super::judge::Rebuilds;
use crate::sql::types::only_widens;
use crate::sql::{Change, Column, Constraint, ConstraintKind, Dialect, Dropped};

/// A rule that is broken.
pub(super) struct Breach {
    /// Its name.
    pub(super) rule: &'static str,
    /// What is hit: a table, a column, an index.
    pub(super) key: String,
    /// What the statement does, after the statement itself.
    pub(super) message: String,
}

impl Breach {
    pub(super) fn new(rule: &'static str, key: &str, message: String) -> Breach {
        Breach { rule, key: key.to_owned(), message }
    }
}

/// A table that is made anew under its own name.
#[derive(Debug, Clone)]
pub(super) struct Rebuild {
    /// All names that the old and the new table have on the way.
    names: BTreeSet<String>,
    /// Columns that the new one lacks.
    lost: Vec<String>,
    /// Whether no release knew the old one.
    was_new: bool,
}

/// What a script has done so far, and what is known of all of it.
pub(super) struct Scene {
    pub(super) dialect: Dialect,
    pub(super) is_in_transaction: bool,
    pub(super) needs_lock_timeout: bool,
    pub(super) rebuilds: Rebuilds,
    /// What is dropped and made again.
    pub(super) replaced: BTreeSet<(Dropped, String)>,
    /// Constraints that this transaction added without looking at the rows.
    pub(super) not_valid: BTreeSet<String>,
}

impl Scene {
    fn rebuild_of(&self, table: &str) -> Option<(&str, &Rebuild)> {
        let found =
            self.rebuilds.iter().find(|(name, rebuild)| *name == table || rebuild.names.contains(table));
        found.map(|(name, rebuild)| (name.as_str(), rebuild))
    }
}

/// What a script drops and makes again: releases see the new one at once.
pub(super) fn replaced(changes: &[&Change]) -> BTreeSet<(Dropped, String)> {
    let created = changes.iter().filter_map(|change| match change {
        Change::Create { what, name } => Some((*what, name.clone())),
        _ => None,
    });
    created.collect()
}

/// Tables that a script makes anew: a second table takes the name of the first. It is how SQLite changes what `ALTER TABLE` cannot.
pub(super) fn rebuilds(changes: &[&Change], catalogue: &Catalogue) -> Rebuilds {
    let mut rebuilds = Rebuilds::new();
    let dropped = |name: &str| {
        changes.iter().any(|change| matches!(change, Change::Drop { what: Dropped::Table, names, .. } if names.iter().any(|n| n == name)))
    };
    let created = |name: &str| {
        changes.iter().enumerate().find_map(|(at, change)| match change {
            Change::CreateTable { table, columns, .. } if table == name => Some((at, columns)),
            _ => None,
        })
    };
    for (at, change) in changes.iter().enumerate() {
        let Change::RenameTable { from, to } = change else { continue };
        let Some((made_at, columns)) = created(from).filter(|_| dropped(to)) else { continue };
        // Either the new table moves to the old name, or the old one moves away first.
        let old = if made_at < at { to } else { from };
        let kept: BTreeSet<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let before = catalogue.columns(old).unwrap_or_default();
        let lost = before.difference(&kept).map(|name| (*name).to_owned()).collect();
        let names = BTreeSet::from([from.clone(), to.clone()]);
        rebuilds.insert(old.clone(), Rebuild { names, lost, was_new: catalogue.is_new(old) });
    }
    rebuilds
}

/// The rules that a change breaks; `scene` moves on.
pub(super) fn breaches(change: &Change, scene: &mut Scene, catalogue: &Catalogue) -> Vec<Breach> {
    let mut found = Found { breaches: vec![], scene, catalogue };
    found.contracts(change);
    match found.scene.dialect {
        Dialect::Postgres => found.locks(change),
        Dialect::Sqlite => {}
    }
    found.rows(change);
    found.state(change);
    found.breaches
}

/// How values get from one type to another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Conversion {
    ByDatabase,
    ByExpression,
}

struct Found<'a> {
    breaches: Vec<Breach>,
    scene: &'a mut Scene,
    catalogue: &'a Catalogue,
}

impl Found<'_> {
    fn add(&mut self, rule: &'static str, key: impl Into<String>, message: impl Into<String>) {
        self.breaches.push(Breach { rule, key: key.into(), message: message.into() });
    }

    fn is_new(&self, table: &str) -> bool {
        self.catalogue.is_new(table)
    }

    /// What a release that runs would miss.
    fn contracts(&mut self, change: &Change) {
        match change {
            Change::Drop { what, names, .. } => names.iter().for_each(|name| self.dropped(*what, name)),
            Change::RenameTable { from, to }
                if !self.is_new(from) && self.scene.rebuild_of(from).is_none() =>
            {
                self.add("rename-table", from, format!("renames the table {from} to {to}"));
            }
            Change::RenameColumn { table, from, to } if !self.is_new(table) => {
                self.add(
                    "rename-column",
                    format!("{table}.{from}"),
                    format!("renames the column {table}.{from} to {to}"),
                );
            }
            Change::DropColumn { table, column } if !self.is_new(table) => {
                self.add(
                    "drop-column",
                    format!("{table}.{column}"),
                    format!("drops the column {table}.{column}"),
                );
            }
            Change::SetNotNull { table, column } if !self.is_new(table) => self.set_not_null(table, column),
            Change::ColumnType { table, column, data_type, has_using } if !self.is_new(table) => {
                let how = if *has_using { Conversion::ByExpression } else { Conversion::ByDatabase };
                self.data_type((table, column), data_type, how);
            }
            Change::DropDefault { table, column } if !self.is_new(table) => {
                self.add(
                    "drop-default",
                    format!("{table}.{column}"),
                    format!("drops the default of {table}.{column}"),
                );
            }
            Change::AddColumn { table, column } if !self.is_new(table) => {
                let is_filled =
                    column.default.as_deref().is_some_and(|default| default != "null") || column.is_generated;
                if column.not_null && !is_filled {
                    let name = format!("{table}.{}", column.name);
                    self.add(
                        "required-column",
                        &name,
                        format!("adds {name}, which refuses nulls and has no default"),
                    );
                }
            }
            Change::AddConstraint { table, constraint } if !self.is_new(table) => {
                let key = constraint.name.clone().unwrap_or_else(|| table.clone());
                if constraint.kind == ConstraintKind::NotNull {
                    self.add("set-not-null", key, format!("makes {table} refuse nulls"));
                } else if constraint.kind != ConstraintKind::PrimaryKey {
                    self.add("new-constraint", key, format!("adds a constraint to {table}"));
                }
            }
            Change::CreateIndex { table, is_unique: true, .. } if !self.is_new(table) => {
                self.add("new-constraint", table, format!("makes rows of {table} unique"));
            }
            Change::DropConstraint { table, name } if !self.is_new(table) => {
                self.drop_constraint(table, name)
            }
            Change::Rename { what, name } => {
                self.add("rename-object", name, format!("renames the {} {name}", word(*what)));
            }
            Change::RowSecurity { table } if !self.is_new(table) => {
                self.add("row-security", table, format!("switches row security of {table} on"));
            }
            _ => {}
        }
    }

    fn set_not_null(&mut self, table: &str, column: &str) {
        if self.catalogue.is_proven_not_null(table, column) {
            return;
        }
        let name = format!("{table}.{column}");
        self.add("set-not-null", &name, format!("makes {name} refuse nulls"));
        if self.scene.dialect == Dialect::Postgres {
            self.add("set-not-null-scans", &name, format!("reads all of {table} under a lock"));
        }
    }

    /// A check that proved something does no harm when it goes.
    fn drop_constraint(&mut self, table: &str, name: &str) {
        let is_unique = ["_key", "_pkey", "_uniq", "unique", "uq"].iter().any(|part| name.contains(part));
        if is_unique {
            self.add(
                "drop-unique",
                format!("{table}.{name}"),
                format!("drops the constraint {name} of {table}"),
            );
        }
    }

    fn data_type(&mut self, (table, column): (&str, &str), data_type: &str, how: Conversion) {
        let name = format!("{table}.{column}");
        let old = self.catalogue.data_type(table, column);
        // An expression for a type of the same name: another type has taken the name.
        let is_kept =
            |old: &str| only_widens(old, data_type) && (how == Conversion::ByDatabase || old != data_type);
        if old.is_some_and(is_kept) {
            return;
        }
        let from = old.map_or_else(|| "a type that no migration here names".to_owned(), str::to_owned);
        self.add("change-type", &name, format!("changes {name} from {from} to {data_type}"));
        self.add("rewrites-table", &name, format!("may write all of {table} anew under a lock"));
    }

    fn dropped(&mut self, what: Dropped, name: &str) {
        let is_replaced = self.scene.replaced.contains(&(what, name.to_owned()));
        match what {
            Dropped::Table => self.dropped_table(name),
            Dropped::Database => self.add("drop-database", name, format!("drops the database {name}")),
            _ if is_replaced => {}
            Dropped::View => self.add("drop-view", name, format!("drops the view {name}")),
            Dropped::Routine => self.add("drop-routine", name, format!("drops the routine {name}")),
            Dropped::Type | Dropped::Sequence | Dropped::Schema | Dropped::Extension => {
                self.add("drop-type", name, format!("drops the {} {name}", word(what)));
            }
            Dropped::Index | Dropped::Trigger | Dropped::EnumValue | Dropped::Other => {}
        }
    }

    fn dropped_table(&mut self, name: &str) {
        let Some((table, rebuild)) = self.scene.rebuild_of(name) else {
            if !self.is_new(name) {
                self.add("drop-table", name, format!("drops the table {name}"));
            }
            return;
        };
        if rebuild.was_new {
            return;
        }
        let (table, lost) = (table.to_owned(), rebuild.lost.join(", "));
        if !lost.is_empty() {
            self.add("rebuild-loses", &table, format!("ends a rebuild of {table} that loses {lost}"));
        }
        self.add("rebuild", &table, format!("ends a rebuild of {table}"));
    }

    /// What would wait, or make others wait. PostgreSQL only: SQLite has one writer whatever is done.
    fn locks(&mut self, change: &Change) {
        match change {
            Change::CreateIndex { table, is_concurrent: false, .. } if !self.is_new(table) => {
                self.add("index-not-concurrent", table, format!("makes writes to {table} wait"));
            }
            Change::Drop { what: Dropped::Index, names, is_concurrent: false } => {
                for name in names {
                    if !self.catalogue.table_of(name).is_some_and(|table| self.catalogue.is_new(table)) {
                        self.add(
                            "drop-index-not-concurrent",
                            name,
                            format!("drops the index {name} under a lock"),
                        );
                    }
                }
            }
            Change::AddColumn { table, column } if !self.is_new(table) => self.column_locks(table, column),
            Change::AddConstraint { table, constraint } if !self.is_new(table) => {
                self.constraint_locks(table, constraint)
            }
            Change::ValidateConstraint { table, name } if self.scene.not_valid.contains(name) => {
                self.add(
                    "validate-in-transaction",
                    name,
                    format!("reads all of {table} while the lock of its addition is held"),
                );
            }
            Change::Rewrite { table, what } if !self.is_new(table) => {
                self.add("rewrites-table", table, format!("writes {table} anew ({what})"));
            }
            Change::DetachPartition { table, is_concurrent: false } if !self.is_new(table) => {
                self.add("detach-not-concurrent", table, format!("makes queries of {table} wait"));
            }
            Change::Reindex { is_concurrent: false } => {
                self.add("reindex-not-concurrent", "", "makes writes wait")
            }
            Change::RefreshView { view, is_concurrent: false } => {
                self.add("refresh-not-concurrent", view, format!("makes readers of {view} wait"));
            }
            Change::LockTable { table } if !self.is_new(table) => {
                self.add("lock-table", table, format!("locks {table}"));
            }
            _ => {}
        }
        if is_concurrent(change) && self.scene.is_in_transaction {
            self.add("concurrently-in-transaction", "", "runs inside a transaction");
        }
        if self.scene.needs_lock_timeout && self.waits_for(change) {
            self.scene.needs_lock_timeout = false;
            self.add(
                "lock-timeout",
                "",
                "is the first that waits for a lock, and no `SET lock_timeout` comes before it",
            );
        }
    }

    fn column_locks(&mut self, table: &str, column: &Column) {
        let name = format!("{table}.{}", column.name);
        let is_numbered = column.is_generated && column.not_null;
        if column.is_stored || is_numbered || column.default.as_deref().is_some_and(is_volatile) {
            self.add("rewrites-table", &name, format!("writes all of {table} anew to fill {}", column.name));
        }
        for constraint in &column.constraints {
            match constraint {
                ConstraintKind::Unique | ConstraintKind::PrimaryKey | ConstraintKind::Exclude => {
                    self.add("unique-scans", &name, format!("builds an index of {table} under a lock"));
                }
                ConstraintKind::Check => {
                    self.add("constraint-scans", &name, format!("reads all of {table} under a lock"));
                }
                // Without a default every row has null, and a reference that is null needs no look.
                ConstraintKind::ForeignKey { .. } if column.default.is_some() => {
                    self.add("constraint-scans", &name, format!("reads all of {table} under a lock"));
                }
                ConstraintKind::ForeignKey { .. } | ConstraintKind::NotNull => {}
            }
        }
    }

    fn constraint_locks(&mut self, table: &str, constraint: &Constraint) {
        let key = constraint.name.clone().unwrap_or_else(|| table.to_owned());
        match constraint.kind {
            ConstraintKind::PrimaryKey | ConstraintKind::Unique | ConstraintKind::Exclude
                if !constraint.uses_index =>
            {
                self.add("unique-scans", key, format!("builds an index of {table} under a lock"));
            }
            ConstraintKind::ForeignKey { .. } | ConstraintKind::Check | ConstraintKind::NotNull
                if !constraint.is_not_valid =>
            {
                self.add("constraint-scans", key, format!("reads all of {table} under a lock"));
            }
            _ => {}
        }
    }

    /// Whether the statement waits for a lock that queries of releases hold, and lets them wait behind it.
    fn waits_for(&self, change: &Change) -> bool {
        match change {
            Change::RenameTable { from: table, .. }
            | Change::RenameColumn { table, .. }
            | Change::AddColumn { table, .. }
            | Change::DropColumn { table, .. }
            | Change::ColumnType { table, .. }
            | Change::SetNotNull { table, .. }
            | Change::DropNotNull { table, .. }
            | Change::SetDefault { table, .. }
            | Change::DropDefault { table, .. }
            | Change::AddConstraint { table, .. }
            | Change::DropConstraint { table, .. }
            | Change::Rewrite { table, .. }
            | Change::AlterTable { table }
            | Change::RowSecurity { table }
            | Change::LockTable { table }
            | Change::DetachPartition { table, is_concurrent: false }
            | Change::CreateIndex { table, is_concurrent: false, .. } => !self.is_new(table),
            Change::Truncate { tables } => tables.iter().any(|table| !self.is_new(table)),
            Change::Drop { what: Dropped::Table, names, .. } => names.iter().any(|name| !self.is_new(name)),
            Change::Drop { what: Dropped::Index, names, is_concurrent: false } => names
                .iter()
                .any(|name| !self.catalogue.table_of(name).is_some_and(|table| self.is_new(table))),
            Change::Drop { what: Dropped::View | Dropped::Trigger, .. } => true,
            Change::RefreshView { is_concurrent: false, .. } | Change::Reindex { is_concurrent: false } => {
                true
            }
            Change::Create { what: Dropped::Trigger, .. } => true,
            // A reference from a new table locks the table that it leads to.
            Change::CreateTable { table, columns, constraints, partition_of } => {
                let kinds = columns.iter().flat_map(|column| &column.constraints);
                let mut kinds = kinds.chain(constraints.iter().map(|constraint| &constraint.kind));
                partition_of.is_some()
                    || kinds.any(|kind| {
                        matches!(kind, ConstraintKind::ForeignKey { table: to } if to != table && !self.is_new(to))
                    })
            }
            _ => false,
        }
    }

    /// What is done to rows, and what nobody can judge.
    fn rows(&mut self, change: &Change) {
        match change {
            Change::Truncate { tables } => {
                for table in tables.iter().filter(|table| !self.catalogue.is_new(table)) {
                    self.breaches.push(Breach::new(
                        "truncate",
                        table,
                        format!("removes all rows of {table}"),
                    ));
                }
            }
            Change::Delete { table, has_where: false } if !self.is_new(table) => {
                self.add("delete-all", table, format!("removes all rows of {table}"));
            }
            Change::Update { table, has_where: false } if !self.is_new(table) => {
                self.add("update-all", table, format!("changes all rows of {table}"));
            }
            Change::Opaque { why } => self.add("opaque", "", format!("cannot be judged: {why}")),
            Change::Unknown => self.add("not-understood", "", "is not understood"),
            _ => {}
        }
    }

    /// Moves the scene on.
    fn state(&mut self, change: &Change) {
        match change {
            Change::Begin => self.scene.is_in_transaction = true,
            Change::End => {
                self.scene.is_in_transaction = false;
                self.scene.not_valid.clear();
            }
            Change::Set { name, value } if name == "lock_timeout" => {
                let value = value.trim_matches('\'');
                let is_bound = !value.starts_with('0') && !["default", ""].contains(&value);
                self.scene.needs_lock_timeout &= !is_bound;
            }
            Change::AddConstraint {
                constraint: Constraint { name: Some(name), is_not_valid: true, .. },
                ..
            } if self.scene.is_in_transaction => {
                self.scene.not_valid.insert(name.clone());
            }
            _ => {}
        }
    }
}

fn is_concurrent(change: &Change) -> bool {
    matches!(
        change,
        Change::CreateIndex { is_concurrent: true, .. }
            | Change::Drop { is_concurrent: true, .. }
            | Change::Reindex { is_concurrent: true }
            | Change::DetachPartition { is_concurrent: true, .. }
    )
}

/// Whether a default may differ from row to row: then every row is written. A function that is not known may.
fn is_volatile(default: &str) -> bool {
    const STEADY: &[&str] = &[
        "now",
        "timezone",
        "statement_timestamp",
        "transaction_timestamp",
        "to_timestamp",
        "lower",
        "upper",
        "md5",
        "coalesce",
        "nullif",
        "jsonb_build_object",
        "json_build_object",
        "jsonb_build_array",
        "json_build_array",
        "make_interval",
        "date_trunc",
        "to_jsonb",
        "current_setting",
        "concat",
        "cast",
        "numeric",
        "decimal",
        "varchar",
        "char",
        "character",
        "varying",
        "bit",
        "timestamp",
        "interval",
        "time",
        "array",
        "row",
        "date_part",
        "extract",
        "length",
        "abs",
        "in",
        "and",
        "or",
        "not",
        "current_timestamp",
    ];
    let words: Vec<&str> = default.split(' ').collect();
    words.windows(2).any(|pair| {
        let is_call = pair[1] == "(" && pair[0].starts_with(|c: char| c.is_alphabetic() || c == '_');
        is_call && !STEADY.contains(&pair[0])
    })
}

fn word(what: Dropped) -> &'static str {
    match what {
        Dropped::Table => "table",
        Dropped::Index => "index",
        Dropped::View => "view",
        Dropped::Routine => "routine",
        Dropped::Trigger => "trigger",
        Dropped::Type => "type",
        Dropped::EnumValue => "value of the type",
        Dropped::Sequence => "sequence",
        Dropped::Schema => "schema",
        Dropped::Extension => "extension",
        Dropped::Database => "database",
        Dropped::Other => "object",
    }
}
