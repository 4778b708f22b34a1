//! Definitions of columns and constraints, in `CREATE TABLE` and `ALTER TABLE`.

use super::change::{Constraint, ConstraintKind};
use super::cursor::Cursor;

/// A column as a statement defines it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Column {
    /// Its name.
    pub name: String,
    /// Its type as written, in lower case, one space between tokens; empty where SQLite is given none.
    pub data_type: String,
    /// Whether it refuses nulls.
    pub not_null: bool,
    /// The expression of its default.
    pub default: Option<String>,
    /// Whether the database fills it in: an identity, a serial type, or a generated column.
    pub is_generated: bool,
    /// Whether a generated value is kept in the row.
    pub is_stored: bool,
    /// Constraints beside it.
    pub constraints: Vec<ConstraintKind>,
}

/// Words that begin a constraint, and so end a type or a default.
const CONSTRAINT_WORDS: &[&str] = &[
    "constraint",
    "not",
    "null",
    "default",
    "check",
    "unique",
    "primary",
    "references",
    "generated",
    "collate",
    "storage",
    "compression",
    "deferrable",
    "initially",
    "as",
    "autoincrement",
    "on",
    "using",
];

/// A column's definition up to the end of the cursor; `None` where it is not understood.
pub(super) fn column(mut cursor: Cursor<'_>) -> Option<Column> {
    let mut column = Column { name: cursor.identifier()?, ..Column::default() };
    let start = cursor.clone();
    skip_expression(&mut cursor);
    column.data_type = cursor.since(&start);
    column.is_generated = column.data_type.contains("serial");
    column.not_null = column.is_generated;
    while !cursor.is_at_end() {
        constraint_of(&mut cursor, &mut column)?;
    }
    Some(column)
}

/// Passes everything up to the next word that begins a constraint.
fn skip_expression(cursor: &mut Cursor<'_>) {
    while let Some(token) = cursor.peek() {
        if CONSTRAINT_WORDS.iter().any(|word| token.is_word(word)) {
            return;
        }
        if token.is_symbol("(") && cursor.group().is_some() {
            continue;
        }
        cursor.next();
    }
}

/// One of a column's constraints.
fn constraint_of(cursor: &mut Cursor<'_>, column: &mut Column) -> Option<()> {
    if cursor.eat(&["constraint"]) {
        cursor.identifier()?;
    } else if cursor.eat(&["not", "null"]) {
        column.not_null = true;
        conflict(cursor);
    } else if cursor.eat(&["null"]) || cursor.eat(&["autoincrement"]) {
        // Both say what holds anyway.
    } else if cursor.eat(&["default"]) {
        let start = cursor.clone();
        if cursor.peek().is_some_and(|token| !token.is_symbol("(")) {
            cursor.next();
        }
        skip_expression(cursor);
        column.default = Some(cursor.since(&start));
    } else if cursor.eat(&["check"]) {
        cursor.group()?;
        cursor.eat(&["no", "inherit"]);
        column.constraints.push(ConstraintKind::Check);
    } else if cursor.eat(&["unique"]) {
        let _ = cursor.eat_any(&[&["nulls", "not", "distinct"], &["nulls", "distinct"]]);
        conflict(cursor);
        column.constraints.push(ConstraintKind::Unique);
    } else if cursor.eat(&["primary", "key"]) {
        let _ = cursor.eat_any(&[&["asc"], &["desc"]]);
        conflict(cursor);
        column.not_null = true;
        column.constraints.push(ConstraintKind::PrimaryKey);
    } else if cursor.eat(&["references"]) {
        let table = cursor.name()?;
        references(cursor);
        column.constraints.push(ConstraintKind::ForeignKey { table });
    } else if cursor.eat(&["generated"]) || cursor.peek()?.is_word("as") {
        generated(cursor, column)?;
    } else if cursor.eat_any(&[&["collate"], &["storage"], &["compression"]]) {
        cursor.name()?;
    } else {
        return deferrable(cursor).then_some(());
    }
    Some(())
}

/// What SQLite may do about a violation.
fn conflict(cursor: &mut Cursor<'_>) {
    if cursor.eat(&["on", "conflict"]) {
        cursor.next();
    }
}

fn generated(cursor: &mut Cursor<'_>, column: &mut Column) -> Option<()> {
    let _ = cursor.eat_any(&[&["always"], &["by", "default"]]);
    if !cursor.eat(&["as"]) {
        return None;
    }
    column.is_generated = true;
    if cursor.eat(&["identity"]) {
        cursor.group();
        column.not_null = true;
        return Some(());
    }
    cursor.group()?;
    column.is_stored = cursor.eat(&["stored"]);
    cursor.eat(&["virtual"]);
    Some(())
}

/// What may follow the table that a foreign key leads to.
fn references(cursor: &mut Cursor<'_>) {
    cursor.group();
    loop {
        if cursor.eat(&["match"]) {
            cursor.next();
        } else if cursor.eat_any(&[&["on", "delete"], &["on", "update"]]) {
            let _ = cursor.eat_any(&[
                &["no", "action"],
                &["set", "null"],
                &["set", "default"],
                &["cascade"],
                &["restrict"],
            ]);
            cursor.group();
        } else if !deferrable(cursor) {
            return;
        }
    }
}

fn deferrable(cursor: &mut Cursor<'_>) -> bool {
    cursor.eat_any(&[
        &["not", "deferrable"],
        &["deferrable"],
        &["initially", "deferred"],
        &["initially", "immediate"],
    ])
}

/// A table's constraint up to the end of the cursor; `None` where it is none, or not understood.
pub(super) fn constraint(mut cursor: Cursor<'_>) -> Option<Constraint> {
    let name = if cursor.eat(&["constraint"]) { Some(cursor.identifier()?) } else { None };
    let uses_index = cursor.has(&["using", "index"]) && !cursor.has(&["using", "index", "tablespace"]);
    let mut checks = None;
    let mut columns = vec![];
    let kind = if cursor.eat(&["primary", "key"]) {
        columns = names_in(&mut cursor);
        ConstraintKind::PrimaryKey
    } else if cursor.eat(&["unique"]) {
        let _ = cursor.eat_any(&[&["nulls", "not", "distinct"], &["nulls", "distinct"]]);
        columns = names_in(&mut cursor);
        ConstraintKind::Unique
    } else if cursor.eat(&["foreign", "key"]) {
        columns = names_in(&mut cursor);
        if !cursor.eat(&["references"]) {
            return None;
        }
        ConstraintKind::ForeignKey { table: cursor.name()? }
    } else if cursor.eat(&["check"]) {
        checks = Some(cursor.group()?.text());
        ConstraintKind::Check
    } else if cursor.eat(&["exclude"]) {
        ConstraintKind::Exclude
    } else if cursor.eat(&["not", "null"]) {
        columns = vec![cursor.identifier()?];
        ConstraintKind::NotNull
    } else {
        return None;
    };
    Some(Constraint { name, kind, columns, checks, is_not_valid: cursor.has(&["not", "valid"]), uses_index })
}

fn names_in(cursor: &mut Cursor<'_>) -> Vec<String> {
    let Some(mut group) = cursor.group() else { return vec![] };
    group.list().into_iter().filter_map(|mut part| part.identifier()).collect()
}
