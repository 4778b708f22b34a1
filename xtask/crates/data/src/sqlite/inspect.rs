//! What is in a SQLite database: its form by the catalogue, its rows by counts and checksums.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use super::Settings;
use crate::contents::{Contents, Sum, TableContents};
use crate::engine::Taken;
use crate::schema::{Column, Schema, Table};
use crate::sql::{Dialect, split, types};

/// Everything, in the snapshot that the connection is in.
pub(super) fn taken(connection: &Connection) -> Result<Taken> {
    let version = rusqlite::version().to_owned();
    Ok(Taken {
        contents: contents(connection)?,
        schema: schema(connection)?,
        version,
        settings: Settings::new(),
    })
}

fn contents(connection: &Connection) -> Result<Contents> {
    let virtual_or_statistics = "sql LIKE 'CREATE VIRTUAL%' OR name LIKE 'sqlite_stat%'";
    let names = texts(
        connection,
        &format!("SELECT name FROM sqlite_schema WHERE type = 'table' AND NOT ({virtual_or_statistics})"),
    )?;
    names.into_iter().map(|name| Ok((name.clone(), rows(connection, &name)?))).collect()
}

/// Rows with their types: `1` is another value than `'1'`.
fn rows(connection: &Connection, table: &str) -> Result<TableContents> {
    let mut statement = connection.prepare(&format!("SELECT * FROM {}", quoted(table)))?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let (mut sum, mut bytes) = (Sum::default(), Vec::new());
    while let Some(row) = rows.next().with_context(|| format!("cannot read the rows of {table}"))? {
        bytes.clear();
        for column in 0..columns {
            append(row.get_ref(column)?, &mut bytes);
        }
        sum.add(&bytes);
    }
    Ok(sum.finish())
}

/// A value with its type and length, so that no two rows have the same bytes.
fn append(value: ValueRef<'_>, bytes: &mut Vec<u8>) {
    let (kind, value): (u8, &[u8]) = match value {
        ValueRef::Null => (b'n', &[]),
        ValueRef::Integer(number) => (b'i', &number.to_be_bytes()),
        ValueRef::Real(number) => (b'r', &number.to_bits().to_be_bytes()),
        ValueRef::Text(text) => (b't', text),
        ValueRef::Blob(blob) => (b'b', blob),
    };
    bytes.push(kind);
    bytes.extend((value.len() as u64).to_be_bytes());
    bytes.extend(value);
}

/// The form of the database.
pub(super) fn schema(connection: &Connection) -> Result<Schema> {
    let mut schema = Schema::default();
    let mut statement = connection.prepare(
        "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (kind, name, table, sql): (String, String, String, String) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        match kind.as_str() {
            "table" if sql.to_lowercase().starts_with("create virtual") => {
                schema.others.insert(format!("virtual table {name}"), plain(&sql));
            }
            "table" => {
                let form = table_of(connection, &name, &sql)
                    .with_context(|| format!("cannot read the form of {name}"))?;
                let known = schema.tables.entry(name).or_default();
                known.columns = form.columns;
                known.rules.extend(form.rules);
                known.indexes.extend(form.indexes);
            }
            "trigger" => {
                schema.tables.entry(table).or_default().rules.insert(format!("trigger: {}", plain(&sql)));
            }
            "view" => drop(schema.others.insert(format!("view {name}"), plain(&sql))),
            _ => {}
        }
    }
    Ok(schema)
}

fn table_of(connection: &Connection, name: &str, sql: &str) -> Result<Table> {
    let mut table = Table { columns: columns(connection, name)?, ..Table::default() };
    let keys = collect(connection, &format!("PRAGMA foreign_key_list({})", quoted(name)), |row| {
        let part: (i64, i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let to: Option<String> = row.get(4)?;
        let on: (String, String) = (row.get(5)?, row.get(6)?);
        Ok((part, to, on))
    })?;
    let mut by_key: BTreeMap<i64, (String, Vec<String>)> = BTreeMap::new();
    for ((id, _, target, from), to, (update, delete)) in keys {
        let head = format!("foreign key to {target} on update {update} on delete {delete}:");
        let part = format!("{from} = {}", to.unwrap_or_else(|| "its key".into()));
        by_key.entry(id).or_insert_with(|| (head, vec![])).1.push(part);
    }
    table.rules.extend(by_key.into_values().map(|(head, mut parts)| {
        parts.sort();
        format!("{head} {}", parts.join(", "))
    }));
    indexes(connection, name, &mut table)?;
    table.rules.extend(checks(sql));
    let flags =
        collect(connection, "SELECT name, wr, strict FROM pragma_table_list WHERE schema = 'main'", |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?, row.get::<_, bool>(2)?))
        })?;
    for (_, without_rowid, strict) in flags.into_iter().filter(|(table, ..)| table == name) {
        table.rules.extend(without_rowid.then(|| "without rowid".to_owned()));
        table.rules.extend(strict.then(|| "strict".to_owned()));
    }
    Ok(table)
}

fn columns(connection: &Connection, table: &str) -> Result<BTreeMap<String, Column>> {
    let rows = collect(connection, &format!("PRAGMA table_xinfo({})", quoted(table)), |row| {
        let hidden: i64 = row.get(6)?;
        let default: Option<String> = row.get(4)?;
        let data_type = types::normal(&row.get::<_, String>(2)?);
        // A generated column has a value by itself.
        let default = if hidden > 1 { Some("generated".to_owned()) } else { default };
        Ok((row.get::<_, String>(1)?, Column { data_type, not_null: row.get(3)?, default }))
    })?;
    Ok(rows.into_iter().collect())
}

fn indexes(connection: &Connection, name: &str, table: &mut Table) -> Result<()> {
    let indexes = collect(connection, &format!("PRAGMA index_list({})", quoted(name)), |row| {
        Ok((row.get::<_, String>(1)?, row.get::<_, bool>(2)?, row.get::<_, String>(3)?))
    })?;
    for (index, is_unique, origin) in indexes {
        let parts = collect(connection, &format!("PRAGMA index_xinfo({})", quoted(&index)), |row| {
            let column: Option<String> = row.get(2)?;
            let (is_down, collation, is_key): (bool, Option<String>, bool) =
                (row.get(3)?, row.get(4)?, row.get(5)?);
            let column = column.unwrap_or_else(|| "an expression".into());
            let order = if is_down { " desc" } else { "" };
            Ok((is_key, format!("{column} {}{order}", collation.unwrap_or_default())))
        })?;
        let parts: Vec<String> =
            parts.into_iter().filter(|(is_key, _)| *is_key).map(|(_, part)| part).collect();
        // The key of a table without row ids is the table itself.
        let sql =
            connection.query_row("SELECT sql FROM sqlite_schema WHERE name = ?1", [&index], |row| row.get(0));
        let sql: Option<String> = sql.optional()?.flatten();
        // Expressions and conditions are only in the text.
        let text = sql.as_deref().map(plain).unwrap_or_default();
        let condition = text.split_once(" on ").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        let definition = if condition.is_empty() { format!("({})", parts.join(", ")) } else { condition };
        match (is_unique, origin.as_str()) {
            (_, "pk") => drop(table.rules.insert(format!("primary key {definition}"))),
            (true, _) => drop(table.rules.insert(format!("unique {definition}"))),
            (false, _) => drop(table.indexes.insert(definition)),
        }
    }
    Ok(())
}

/// The conditions in a table's definition.
fn checks(sql: &str) -> BTreeSet<String> {
    let text = plain(sql);
    let mut found = BTreeSet::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find("check ( ") {
        let condition = &rest[start..];
        let mut depth = 0_i64;
        let end = condition.char_indices().find(|(_, c)| {
            depth += i64::from(*c == '(') - i64::from(*c == ')');
            *c == ')' && depth == 0
        });
        let end = end.map_or(condition.len(), |(at, _)| at + 1);
        found.insert(condition[..end].to_owned());
        rest = &condition[end..];
    }
    found
}

/// A definition without comments, and with one space between its parts.
fn plain(sql: &str) -> String {
    match split(sql, Dialect::Sqlite) {
        Ok(statements) => statements.iter().map(crate::sql::Statement::text).collect::<Vec<_>>().join("; "),
        Err(_) => sql.to_owned(),
    }
}

fn collect<T>(
    connection: &Connection,
    sql: &str,
    each: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], each)?;
    Ok(rows.collect::<rusqlite::Result<Vec<T>>>()?)
}

fn texts(connection: &Connection, sql: &str) -> Result<Vec<String>> {
    collect(connection, sql, |row| row.get(0))
}

/// A name as SQLite reads it whatever is in it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
