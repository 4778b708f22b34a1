//! What the migrations so far have made: tables with their columns, as far as statements tell. It judges nothing, and a table
//! that it does not know is one that somebody else made.

use std::collections::{BTreeMap, BTreeSet};

use crate::sql::{Change, Column, ConstraintKind, Dropped};

/// Tables by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Catalogue {
    tables: BTreeMap<String, Table>,
    /// Names of indexes, with their tables.
    indexes: BTreeMap<String, String>,
}

/// A table, as far as it is known.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    columns: BTreeMap<String, Column>,
    /// Columns whose nulls a checked constraint excludes, by the constraint's name.
    not_null_checks: BTreeMap<String, Check>,
    /// Whether no release knows it yet.
    is_new: bool,
}

#[derive(Debug, Clone)]
struct Check {
    column: String,
    is_valid: bool,
}

impl Catalogue {
    /// Whether the table was made by the migrations that are judged now: no release uses it, and nobody waits for it.
    pub(super) fn is_new(&self, table: &str) -> bool {
        self.tables.get(table).is_some_and(|table| table.is_new)
    }

    /// The type of a column, where it is known.
    pub(super) fn data_type(&self, table: &str, column: &str) -> Option<&str> {
        let column = self.tables.get(table)?.columns.get(column)?;
        Some(&column.data_type).filter(|data_type| !data_type.is_empty()).map(String::as_str)
    }

    /// The columns of a table, where it is known.
    pub(super) fn columns(&self, table: &str) -> Option<BTreeSet<&str>> {
        Some(self.tables.get(table)?.columns.keys().map(String::as_str).collect())
    }

    /// The table of an index.
    pub(super) fn table_of(&self, index: &str) -> Option<&str> {
        self.indexes.get(index).map(String::as_str)
    }

    /// Whether a checked constraint says that the column holds no null.
    pub(super) fn is_proven_not_null(&self, table: &str, column: &str) -> bool {
        let checks = self.tables.get(table).map(|table| table.not_null_checks.values());
        checks.into_iter().flatten().any(|check| check.is_valid && check.column == column)
    }

    /// From now on all tables are ones that releases know.
    pub(super) fn settle(&mut self) {
        self.tables.values_mut().for_each(|table| table.is_new = false);
    }

    /// Takes a change in.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::CreateTable { table, columns, partition_of, .. } => {
                let by_name = columns.iter().map(|column| (column.name.clone(), column.clone()));
                let is_new = partition_of.is_none();
                let made = Table { columns: by_name.collect(), is_new, ..Table::default() };
                // One that is there already stays: `IF NOT EXISTS` is how it comes to be made again.
                self.tables.entry(table.clone()).or_insert(made);
            }
            Change::RenameTable { from, to } => {
                if let Some(table) = self.tables.remove(from) {
                    self.tables.insert(to.clone(), table);
                }
            }
            Change::RenameColumn { table, from, to } => self.edit(table, |table| {
                if let Some(column) = table.columns.remove(from) {
                    table.columns.insert(to.clone(), column);
                }
            }),
            Change::AddColumn { table, column } => self.edit(table, |table| {
                table.columns.insert(column.name.clone(), column.clone());
            }),
            Change::DropColumn { table, column } => self.edit(table, |table| {
                table.columns.remove(column);
            }),
            Change::ColumnType { table, column, data_type, .. } => self.edit(table, |table| {
                table.columns.entry(column.clone()).or_default().data_type = data_type.clone();
            }),
            Change::CreateIndex { name: Some(name), table, .. } => {
                self.indexes.insert(name.clone(), table.clone());
            }
            Change::Drop { what: Dropped::Table, names, .. } => names.iter().for_each(|name| {
                self.tables.remove(name);
            }),
            _ => self.apply_constraint(change),
        }
    }

    fn apply_constraint(&mut self, change: &Change) {
        match change {
            Change::AddConstraint { table, constraint } if constraint.kind == ConstraintKind::Check => {
                let column = constraint.checks.as_deref().and_then(not_null_column);
                let (Some(column), Some(name)) = (column, &constraint.name) else { return };
                let check = Check { column: column.to_owned(), is_valid: !constraint.is_not_valid };
                self.edit(table, |table| {
                    table.not_null_checks.insert(name.clone(), check);
                });
            }
            Change::ValidateConstraint { table, name } => self.edit(table, |table| {
                if let Some(check) = table.not_null_checks.get_mut(name) {
                    check.is_valid = true;
                }
            }),
            Change::DropConstraint { table, name } => self.edit(table, |table| {
                table.not_null_checks.remove(name);
            }),
            _ => {}
        }
    }

    /// A table that nobody made here is known from now on, by what is changed of it.
    fn edit(&mut self, table: &str, edit: impl FnOnce(&mut Table)) {
        edit(self.tables.entry(table.to_owned()).or_default());
    }
}

/// The column of a condition of the form `column is not null`.
fn not_null_column(condition: &str) -> Option<&str> {
    let column = condition.trim_start_matches("( ").trim_end_matches(" )").strip_suffix(" is not null")?;
    Some(column.trim_matches('"')).filter(|column| !column.contains(' '))
}
