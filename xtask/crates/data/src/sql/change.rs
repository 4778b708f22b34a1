//! What a statement does to a schema, as data. It judges nothing. Invariant: a statement whose effect on tables is not
//! recognised gives [`Change::Unknown`].

use super::cursor::Cursor;
use super::lex::Kind;
use super::script::{Statement, split};
use super::{Column, Dialect, alter, column};

/// One thing that a statement does. Names of the default schema stand without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Makes a table.
    CreateTable {
        table: String,
        columns: Vec<Column>,
        constraints: Vec<Constraint>,
        partition_of: Option<String>,
    },
    /// Takes a table out of the schema for another name.
    RenameTable { from: String, to: String },
    /// Gives a column another name.
    RenameColumn { table: String, from: String, to: String },
    /// Adds a column.
    AddColumn { table: String, column: Column },
    /// Removes a column with its data.
    DropColumn { table: String, column: String },
    /// Changes a column's type.
    ColumnType { table: String, column: String, data_type: String, has_using: bool },
    /// Makes a column refuse nulls.
    SetNotNull { table: String, column: String },
    /// Makes a column take nulls.
    DropNotNull { table: String, column: String },
    /// Sets a column's default.
    SetDefault { table: String, column: String },
    /// Removes a column's default.
    DropDefault { table: String, column: String },
    /// Adds a constraint to a table.
    AddConstraint { table: String, constraint: Constraint },
    /// Checks all rows against a constraint that was added without.
    ValidateConstraint { table: String, name: String },
    /// Removes a constraint.
    DropConstraint { table: String, name: String },
    /// Writes every row of a table anew, whatever for.
    Rewrite { table: String, what: &'static str },
    /// Changes something else of a table under a strong lock for a moment.
    AlterTable { table: String },
    /// Lets row security decide which rows a release sees.
    RowSecurity { table: String },
    /// Takes a partition out of its table.
    DetachPartition { table: String, is_concurrent: bool },
    /// Makes an index.
    CreateIndex { name: Option<String>, table: String, is_unique: bool, is_concurrent: bool },
    /// Removes what is named.
    Drop { what: Dropped, names: Vec<String>, is_concurrent: bool },
    /// Makes or replaces something that holds no rows: a view, a routine, a trigger.
    Create { what: Dropped, name: String },
    /// Gives something other than a table or a column another name.
    Rename { what: Dropped, name: String },
    /// Builds indexes anew.
    Reindex { is_concurrent: bool },
    /// Fills a materialised view.
    RefreshView { view: String, is_concurrent: bool },
    /// Locks a table as such.
    LockTable { table: String },
    /// Removes all rows of tables.
    Truncate { tables: Vec<String> },
    /// Changes rows.
    Update { table: String, has_where: bool },
    /// Removes rows.
    Delete { table: String, has_where: bool },
    /// Puts rows into a table; `from` where they come from another one.
    Insert { table: String, from: Option<String> },
    /// Sets a parameter of the session or transaction.
    Set { name: String, value: String },
    /// Begins a transaction.
    Begin,
    /// Ends a transaction.
    End,
    /// Changes no table's form and takes no lock that a release would wait for.
    Harmless,
    /// Runs code that cannot be seen into; `why` says what is in it.
    Opaque { why: &'static str },
    /// Not understood.
    Unknown,
}

/// Kinds of things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dropped {
    /// A table.
    Table,
    /// An index.
    Index,
    /// A view, materialised or not.
    View,
    /// A function, procedure or aggregate.
    Routine,
    /// A trigger or rule.
    Trigger,
    /// A type, an enumeration or a domain.
    Type,
    /// A value of an enumeration.
    EnumValue,
    /// A sequence.
    Sequence,
    /// A schema with all that is in it.
    Schema,
    /// An extension with its types and routines.
    Extension,
    /// A database.
    Database,
    /// Something that releases do not see: statistics, roles, policies, publications and the like.
    Other,
}

/// A constraint of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Constraint {
    /// Its name, where it is given one.
    pub name: Option<String>,
    /// What it demands.
    pub kind: ConstraintKind,
    /// Its columns, where it names some.
    pub columns: Vec<String>,
    /// The text of its condition.
    pub checks: Option<String>,
    /// Whether rows that are there are not looked at.
    pub is_not_valid: bool,
    /// Whether it takes over an index that is there.
    pub uses_index: bool,
}

/// What a constraint demands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConstraintKind {
    /// A primary key.
    PrimaryKey,
    /// No two rows alike.
    Unique,
    /// A row of another table.
    ForeignKey {
        /// That table.
        table: String,
    },
    /// A condition on the row.
    Check,
    /// No two rows that conflict.
    Exclude,
    /// No nulls.
    NotNull,
}

/// What a statement does; at least one change.
pub(crate) fn changes(statement: &Statement, dialect: Dialect) -> Vec<Change> {
    let first = statement.tokens.first();
    if first.is_some_and(|token| token.kind == Kind::Symbol && token.text.starts_with('\\')) {
        return vec![psql(&statement.tokens[0].text)];
    }
    let mut cursor = Cursor::new(&statement.tokens);
    // A list without a single action is none that a database would take.
    top(&mut cursor, dialect).filter(|changes| !changes.is_empty()).unwrap_or_else(|| vec![Change::Unknown])
}

/// Commands that run a file or a program are not seen into.
fn psql(command: &str) -> Change {
    const INNOCENT: &[&str] =
        &["\\set", "\\unset", "\\echo", "\\qecho", "\\timing", "\\pset", "\\restrict", "\\unrestrict"];
    let name = command.split_whitespace().next().unwrap_or_default();
    if INNOCENT.contains(&name) { Change::Harmless } else { Change::Unknown }
}

fn top(cursor: &mut Cursor<'_>, dialect: Dialect) -> Option<Vec<Change>> {
    const HARMLESS: &[&str] = &[
        "select",
        "values",
        "comment",
        "grant",
        "revoke",
        "analyze",
        "analyse",
        "explain",
        "show",
        "listen",
        "notify",
        "reset",
        "security",
        "savepoint",
        "release",
        "discard",
        "prepare",
        "deallocate",
        "attach",
        "detach",
        "copy",
        "checkpoint",
        "load",
        "import",
    ];
    let first = cursor.next()?;
    let one = |change| Some(vec![change]);
    match first.text.as_str() {
        _ if first.kind != Kind::Word => None,
        "create" => create(cursor),
        "alter" => alter::alter(cursor, dialect),
        "drop" => drop(cursor).map(|change| vec![change]),
        "begin" | "start" => one(Change::Begin),
        "commit" | "end" | "rollback" | "abort" => one(Change::End),
        "set" | "pragma" => set(cursor).map(|change| vec![change]),
        "insert" | "replace" => insert(cursor).map(|change| vec![change]),
        "update" => {
            let _ = cursor.eat(&["only"]) || cursor.eat(&["or"]) && cursor.next().is_some();
            let table = cursor.name()?;
            one(Change::Update { table, has_where: cursor.has_word("where") })
        }
        "delete" => {
            let _ = cursor.eat(&["from"]) && cursor.eat(&["only"]);
            let table = cursor.name()?;
            one(Change::Delete { table, has_where: cursor.has_word("where") })
        }
        "with" => one(with(cursor)),
        "truncate" => {
            let _ = cursor.eat(&["table"]) || cursor.eat(&["only"]);
            one(Change::Truncate { tables: cursor.names()? })
        }
        "lock" => {
            let _ = cursor.eat(&["table"]) && cursor.eat(&["only"]);
            one(Change::LockTable { table: cursor.name()? })
        }
        "reindex" => one(Change::Reindex { is_concurrent: cursor.has_word("concurrently") }),
        "refresh" => {
            let is_concurrent = cursor.has_word("concurrently");
            let _ = cursor.eat(&["materialized", "view"]) && cursor.eat(&["concurrently"]);
            one(Change::RefreshView { view: cursor.name()?, is_concurrent })
        }
        "vacuum" if dialect == Dialect::Sqlite || cursor.has_word("full") => {
            one(Change::Rewrite { table: "the whole database".into(), what: "vacuum" })
        }
        "cluster" => one(Change::Rewrite { table: cursor.name()?, what: "cluster" }),
        "vacuum" => one(Change::Harmless),
        "do" => one(block(cursor)),
        "call" | "execute" => one(Change::Opaque { why: "it runs a routine" }),
        "reassign" => one(Change::Harmless),
        word if HARMLESS.contains(&word) => one(Change::Harmless),
        _ => None,
    }
}

/// A block of code: it is not seen into, and passes only where no word in it could change a table.
fn block(cursor: &Cursor<'_>) -> Change {
    const TELLING: &[&str] = &["drop", "alter", "rename", "truncate", "execute", "delete", "lock", "update"];
    let mut cursor = cursor.clone();
    while let Some(token) = cursor.next() {
        if token.kind != Kind::Text {
            continue;
        }
        // The body is cut by the same rules; one that cannot be cut is not seen into.
        let Ok(inner) = split(&token.text, Dialect::Postgres) else {
            return Change::Opaque { why: "its code cannot be read" };
        };
        let mut words = inner.iter().flat_map(|statement| &statement.tokens);
        if words.any(|token| TELLING.iter().any(|word| token.is_word(word))) {
            return Change::Opaque { why: "its code changes tables or builds statements" };
        }
        let creates =
            inner.iter().flat_map(|statement| &statement.tokens).any(|token| token.is_word("index"));
        if creates {
            return Change::Opaque { why: "its code makes an index" };
        }
    }
    Change::Harmless
}

fn with(cursor: &Cursor<'_>) -> Change {
    let writes = ["delete", "update"].into_iter().any(|word| cursor.has_word(word));
    if !writes {
        return Change::Harmless;
    }
    Change::Update { table: "a table".into(), has_where: cursor.has_word("where") || cursor.has_word("from") }
}

fn insert(cursor: &mut Cursor<'_>) -> Option<Change> {
    if cursor.eat(&["or"]) {
        cursor.next();
    }
    if !cursor.eat(&["into"]) {
        return None;
    }
    let table = cursor.name()?;
    while let Some(token) = cursor.next() {
        if token.is_word("from") {
            return Some(Change::Insert { table, from: cursor.name() });
        }
    }
    Some(Change::Insert { table, from: None })
}

fn set(cursor: &mut Cursor<'_>) -> Option<Change> {
    let _ = cursor.eat_any(&[&["local"], &["session"]]);
    let name = cursor.name()?;
    let _ = cursor.eat_symbol("=") || cursor.eat(&["to"]);
    Some(Change::Set { name, value: cursor.text() })
}

fn create(cursor: &mut Cursor<'_>) -> Option<Vec<Change>> {
    const OTHERS: &[(&[&str], Dropped)] = &[
        (&["recursive", "view"], Dropped::View),
        (&["materialized", "view"], Dropped::View),
        (&["view"], Dropped::View),
        (&["function"], Dropped::Routine),
        (&["procedure"], Dropped::Routine),
        (&["aggregate"], Dropped::Routine),
        (&["constraint", "trigger"], Dropped::Trigger),
        (&["event", "trigger"], Dropped::Trigger),
        (&["trigger"], Dropped::Trigger),
        (&["rule"], Dropped::Trigger),
        (&["type"], Dropped::Type),
        (&["domain"], Dropped::Type),
        (&["sequence"], Dropped::Sequence),
        (&["schema"], Dropped::Schema),
        (&["extension"], Dropped::Extension),
        (&["database"], Dropped::Database),
        (&["virtual", "table"], Dropped::Other),
        (&["foreign", "table"], Dropped::Other),
    ];
    const SILENT: &[&str] = &[
        "policy",
        "role",
        "user",
        "group",
        "statistics",
        "publication",
        "subscription",
        "operator",
        "cast",
        "collation",
        "conversion",
        "language",
        "server",
        "foreign",
        "text",
        "access",
        "tablespace",
        "transform",
    ];
    let _ = cursor.eat(&["or", "replace"]) || cursor.eat(&["or", "alter"]);
    let is_passing =
        cursor.eat_any(&[&["global"], &["local"]]) | cursor.eat_any(&[&["temporary"], &["temp"]]);
    cursor.eat(&["unlogged"]);
    if cursor.eat(&["table"]) {
        return if is_passing {
            Some(vec![Change::Harmless])
        } else {
            create_table(cursor).map(|change| vec![change])
        };
    }
    let is_unique = cursor.eat(&["unique"]);
    if cursor.eat(&["index"]) {
        return create_index(cursor, is_unique).map(|change| vec![change]);
    }
    let _ = cursor.eat_any(&[&["trusted"], &["procedural"], &["default"]]);
    for (words, what) in OTHERS {
        if cursor.eat(words) {
            cursor.eat(&["if", "not", "exists"]);
            let name = cursor.name().unwrap_or_default();
            return Some(vec![Change::Create { what: *what, name }]);
        }
    }
    let next = cursor.peek()?;
    SILENT.iter().any(|word| next.is_word(word)).then(|| vec![Change::Harmless])
}

fn create_table(cursor: &mut Cursor<'_>) -> Option<Change> {
    cursor.eat(&["if", "not", "exists"]);
    let table = cursor.name()?;
    let (mut columns, mut constraints) = (vec![], vec![]);
    let partition_of = if cursor.eat(&["partition", "of"]) { Some(cursor.name()?) } else { None };
    if partition_of.is_none() {
        for part in cursor.group().map(|mut group| group.list()).unwrap_or_default() {
            if part.peek().is_some_and(|token| token.is_word("like")) {
                continue;
            }
            match column::constraint(part.clone()) {
                Some(constraint) => constraints.push(constraint),
                // What a new table is made of breaks nobody: a column that is not understood is one of unknown form.
                None => columns.extend(column::column(part.clone()).or_else(|| {
                    let name = part.clone().identifier()?;
                    Some(Column { name, ..Column::default() })
                })),
            }
        }
    }
    Some(Change::CreateTable { table, columns, constraints, partition_of })
}

fn create_index(cursor: &mut Cursor<'_>, is_unique: bool) -> Option<Change> {
    let is_concurrent = cursor.eat(&["concurrently"]);
    cursor.eat(&["if", "not", "exists"]);
    let name = if cursor.peek()?.is_word("on") { None } else { Some(cursor.name()?) };
    if !cursor.eat(&["on"]) {
        return None;
    }
    cursor.eat(&["only"]);
    Some(Change::CreateIndex { name, table: cursor.name()?, is_unique, is_concurrent })
}

fn drop(cursor: &mut Cursor<'_>) -> Option<Change> {
    let (what, _) = object(cursor)?;
    let is_concurrent = cursor.eat(&["concurrently"]);
    cursor.eat(&["if", "exists"]);
    let names = match what {
        // Their names are followed by arguments, or by a table.
        Dropped::Routine | Dropped::Trigger | Dropped::Other => vec![cursor.name().unwrap_or_default()],
        _ => cursor.names()?,
    };
    Some(Change::Drop { what, names, is_concurrent })
}

/// The kind of thing that `DROP` or `ALTER` names, and whether it is a table.
pub(super) fn object(cursor: &mut Cursor<'_>) -> Option<(Dropped, bool)> {
    const KINDS: &[(&[&str], Dropped)] = &[
        (&["table"], Dropped::Table),
        (&["foreign", "table"], Dropped::Table),
        (&["index"], Dropped::Index),
        (&["materialized", "view"], Dropped::View),
        (&["view"], Dropped::View),
        (&["function"], Dropped::Routine),
        (&["procedure"], Dropped::Routine),
        (&["routine"], Dropped::Routine),
        (&["aggregate"], Dropped::Routine),
        (&["event", "trigger"], Dropped::Trigger),
        (&["trigger"], Dropped::Trigger),
        (&["rule"], Dropped::Trigger),
        (&["type"], Dropped::Type),
        (&["domain"], Dropped::Type),
        (&["sequence"], Dropped::Sequence),
        (&["schema"], Dropped::Schema),
        (&["extension"], Dropped::Extension),
        (&["database"], Dropped::Database),
        (&["policy"], Dropped::Other),
        (&["role"], Dropped::Other),
        (&["user"], Dropped::Other),
        (&["statistics"], Dropped::Other),
        (&["publication"], Dropped::Other),
        (&["subscription"], Dropped::Other),
        (&["default", "privileges"], Dropped::Other),
        (&["system"], Dropped::Other),
        (&["server"], Dropped::Other),
        (&["collation"], Dropped::Other),
        (&["cast"], Dropped::Other),
        (&["operator"], Dropped::Other),
        (&["text", "search"], Dropped::Other),
        (&["language"], Dropped::Other),
        (&["owned"], Dropped::Schema),
    ];
    KINDS
        .iter()
        .find(|(words, _)| cursor.eat(words))
        .map(|(words, what)| (*what, words.ends_with(&["table"])))
}

#[cfg(test)]
mod tests;
