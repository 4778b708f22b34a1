//! What `ALTER` does: one change for each action in its list. An action that is not recognised makes the whole statement one that is
//! not understood.

use super::change::{Change, Dropped, object};
use super::cursor::Cursor;
use super::{Dialect, column};

pub(super) fn alter(cursor: &mut Cursor<'_>, dialect: Dialect) -> Option<Vec<Change>> {
    let (what, is_table) = object(cursor)?;
    cursor.eat(&["if", "exists"]);
    if is_table {
        if cursor.eat(&["all", "in", "tablespace"]) {
            return Some(vec![Change::Rewrite { table: "all tables".into(), what: "another tablespace" }]);
        }
        cursor.eat(&["only"]);
        let table = cursor.name()?;
        cursor.eat_symbol("*");
        return cursor.list().into_iter().map(|action| table_action(action, &table, dialect)).collect();
    }
    let name = cursor.name().unwrap_or_default();
    let renames = cursor.has(&["rename"]) || cursor.has(&["set", "schema"]);
    let adds_value = cursor.eat(&["add", "value"]);
    match what {
        Dropped::Type if adds_value => Some(vec![Change::Harmless]),
        Dropped::Type if cursor.eat(&["rename", "value"]) => {
            Some(vec![Change::Rename { what: Dropped::EnumValue, name }])
        }
        Dropped::Index | Dropped::Trigger | Dropped::Other | Dropped::Extension => {
            Some(vec![Change::Harmless])
        }
        _ if renames => Some(vec![Change::Rename { what, name }]),
        Dropped::Sequence | Dropped::Routine | Dropped::View | Dropped::Schema | Dropped::Database => {
            Some(vec![Change::Harmless])
        }
        Dropped::Type if cursor.eat(&["owner"]) => Some(vec![Change::Harmless]),
        _ => None,
    }
}

/// One action of an `ALTER TABLE`; `None` where it is not understood.
fn table_action(mut cursor: Cursor<'_>, table: &str, dialect: Dialect) -> Option<Change> {
    let table = table.to_owned();
    let rewrite = |what| Some(Change::Rewrite { table: table.clone(), what });
    if cursor.eat(&["add"]) {
        return add(cursor, table);
    }
    if cursor.eat(&["drop", "constraint"]) {
        cursor.eat(&["if", "exists"]);
        return Some(Change::DropConstraint { table, name: cursor.identifier()? });
    }
    if cursor.eat(&["drop"]) {
        cursor.eat(&["column"]);
        cursor.eat(&["if", "exists"]);
        return Some(Change::DropColumn { table, column: cursor.identifier()? });
    }
    if cursor.eat(&["rename"]) {
        return rename(cursor, table);
    }
    if cursor.eat(&["validate", "constraint"]) {
        return Some(Change::ValidateConstraint { table, name: cursor.identifier()? });
    }
    if cursor.eat(&["alter", "constraint"]) {
        return Some(Change::AlterTable { table });
    }
    if cursor.eat(&["alter"]) && dialect == Dialect::Postgres {
        return alter_column(cursor, table);
    }
    if cursor.eat(&["detach", "partition"]) {
        return Some(Change::DetachPartition { table, is_concurrent: cursor.has_word("concurrently") });
    }
    if cursor.eat_any(&[&["set", "logged"], &["set", "unlogged"]]) {
        return rewrite("whether the table is logged");
    }
    if cursor.eat(&["set", "tablespace"]) {
        return rewrite("another tablespace");
    }
    if cursor.eat(&["set", "access", "method"]) {
        return rewrite("another access method");
    }
    if cursor.eat(&["set", "schema"]) {
        let schema = cursor.identifier()?;
        return Some(Change::RenameTable { to: format!("{schema}.{table}"), from: table });
    }
    if cursor.eat_any(&[&["enable", "row", "level", "security"], &["force", "row", "level", "security"]]) {
        return Some(Change::RowSecurity { table });
    }
    let is_brief = cursor.eat_any(&[
        &["enable"],
        &["disable"],
        &["no", "force"],
        &["cluster", "on"],
        &["set", "without"],
        &["reset"],
        &["set"],
        &["inherit"],
        &["no", "inherit"],
        &["of"],
        &["not", "of"],
        &["owner", "to"],
        &["replica", "identity"],
        &["attach", "partition"],
    ]);
    is_brief.then_some(Change::AlterTable { table })
}

fn add(mut cursor: Cursor<'_>, table: String) -> Option<Change> {
    if let Some(constraint) = column::constraint(cursor.clone()) {
        return Some(Change::AddConstraint { table, constraint });
    }
    cursor.eat(&["column"]);
    cursor.eat(&["if", "not", "exists"]);
    Some(Change::AddColumn { table, column: column::column(cursor)? })
}

fn rename(mut cursor: Cursor<'_>, table: String) -> Option<Change> {
    if cursor.eat(&["to"]) {
        let to = cursor.name()?;
        // A table keeps its schema.
        let to = table.rsplit_once('.').map_or(to.clone(), |(schema, _)| format!("{schema}.{to}"));
        return Some(Change::RenameTable { from: table, to });
    }
    if cursor.eat(&["constraint"]) {
        return Some(Change::AlterTable { table });
    }
    cursor.eat(&["column"]);
    let from = cursor.identifier()?;
    if !cursor.eat(&["to"]) {
        return None;
    }
    Some(Change::RenameColumn { table, from, to: cursor.identifier()? })
}

fn alter_column(mut cursor: Cursor<'_>, table: String) -> Option<Change> {
    cursor.eat(&["column"]);
    let column = cursor.identifier()?;
    if cursor.eat(&["set", "data", "type"]) || cursor.eat(&["type"]) {
        let has_using = cursor.has_word("using");
        let text = cursor.text();
        let end = [" using ", " collate "]
            .into_iter()
            .filter_map(|word| text.find(word))
            .min()
            .unwrap_or(text.len());
        return Some(Change::ColumnType { table, column, data_type: text[..end].to_owned(), has_using });
    }
    if cursor.eat(&["set", "not", "null"]) {
        return Some(Change::SetNotNull { table, column });
    }
    if cursor.eat(&["drop", "not", "null"]) {
        return Some(Change::DropNotNull { table, column });
    }
    if cursor.eat(&["set", "default"]) {
        return Some(Change::SetDefault { table, column });
    }
    if cursor.eat_any(&[&["drop", "default"], &["drop", "identity"]]) {
        return Some(Change::DropDefault { table, column });
    }
    if cursor.eat(&["set", "expression"]) {
        return Some(Change::Rewrite { table, what: "another expression of a generated column" });
    }
    let is_brief =
        cursor.eat_any(&[&["set"], &["reset"], &["add", "generated"], &["drop", "expression"], &["restart"]]);
    is_brief.then_some(Change::AlterTable { table })
}
