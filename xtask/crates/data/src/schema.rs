//! The form of a database: its fingerprint, what differs between two, and whether a release that was built for one runs on another.
//! It asks no database. Invariant: order of creation, names of constraints and comments change nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use stdx::Digest;

use crate::sql::types::only_widens;

/// The form of a database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schema {
    /// Tables by name.
    pub tables: BTreeMap<String, Table>,
    /// Views, routines, types, sequences: the definition by kind and name (`view public.active`).
    pub others: BTreeMap<String, String>,
}

/// The form of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Columns by name.
    pub columns: BTreeMap<String, Column>,
    /// What rows must satisfy, and what happens when they are written: constraints, unique indexes, triggers, policies.
    pub rules: BTreeSet<String>,
    /// Indexes that only make things fast.
    pub indexes: BTreeSet<String>,
}

/// The form of a column.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Its type, in one spelling.
    pub data_type: String,
    /// Whether it refuses nulls.
    pub not_null: bool,
    /// The expression of its default, or of its generated value.
    pub default: Option<String>,
}

/// What stands in the way of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Obstacle {
    /// Table, column or other object.
    pub object: String,
    /// What is the matter with it.
    pub why: String,
    /// Whether it breaks the release for certain.
    pub is_certain: bool,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.why)
    }
}

impl Schema {
    /// The digest of the canonical text.
    ///
    /// # Errors
    /// Never for what a database can hold.
    pub fn fingerprint(&self) -> Result<Digest> {
        Ok(Digest::of(stdx::json::canonical(&serde_json::to_value(self)?)?))
    }

    /// One line for each thing, in order.
    pub fn lines(&self) -> BTreeSet<String> {
        let mut lines: BTreeSet<String> =
            self.others.iter().map(|(name, text)| format!("{name}: {text}")).collect();
        for (name, table) in &self.tables {
            lines.insert(format!("table {name}"));
            lines
                .extend(table.columns.iter().map(|(column, form)| format!("column {name}.{column}: {form}")));
            lines.extend(table.rules.iter().map(|rule| format!("rule of {name}: {rule}")));
            lines.extend(table.indexes.iter().map(|index| format!("index of {name}: {index}")));
        }
        lines
    }

    /// What differs, in the form of a patch from `self` to `other`.
    pub fn difference(&self, other: &Schema) -> Vec<String> {
        let (before, after) = (self.lines(), other.lines());
        let gone = before.difference(&after).map(|line| format!("- {line}"));
        gone.chain(after.difference(&before).map(|line| format!("+ {line}"))).collect()
    }

    /// What stands in the way of a release that was built for `self`, on a database of the form `live`.
    pub fn obstacles(&self, live: &Schema) -> Vec<Obstacle> {
        let mut obstacles = Vec::new();
        for (name, old) in &self.tables {
            match live.tables.get(name) {
                Some(new) => old.obstacles(name, new, &mut obstacles),
                None => obstacles.push(certain(format!("table {name}"), "it is gone")),
            }
        }
        for (name, old) in &self.others {
            match live.others.get(name) {
                None => obstacles.push(certain(name.clone(), "it is gone")),
                Some(new) if new != old && !only_grew(old, new) => {
                    obstacles.push(doubtful(name.clone(), "its definition is another one"));
                }
                Some(_) => {}
            }
        }
        obstacles
    }
}

impl Table {
    fn obstacles(&self, table: &str, live: &Table, obstacles: &mut Vec<Obstacle>) {
        for (name, old) in &self.columns {
            let place = format!("column {table}.{name}");
            let Some(new) = live.columns.get(name) else {
                obstacles.push(certain(place, "it is gone"));
                continue;
            };
            if !only_widens(&old.data_type, &new.data_type) {
                let why = format!("its type was {} and is {}", old.data_type, new.data_type);
                obstacles.push(certain(place.clone(), &why));
            }
            if new.not_null && !old.not_null {
                obstacles.push(certain(place.clone(), "it refuses nulls now"));
            }
            if old.default.is_some() && new.default.is_none() {
                obstacles.push(if new.not_null {
                    certain(place, "its default is gone, and it refuses nulls")
                } else {
                    doubtful(place, "its default is gone")
                });
            }
        }
        for (name, new) in live.columns.iter().filter(|(name, _)| !self.columns.contains_key(*name)) {
            if new.not_null && new.default.is_none() {
                obstacles.push(certain(
                    format!("column {table}.{name}"),
                    "it is new, refuses nulls and has no default",
                ));
            }
        }
        for rule in live.rules.difference(&self.rules) {
            obstacles.push(doubtful(
                format!("table {table}"),
                &format!("writes must satisfy something new: {rule}"),
            ));
        }
        for rule in
            self.rules.difference(&live.rules).filter(|rule| rule.to_lowercase().starts_with("unique"))
        {
            obstacles.push(doubtful(
                format!("table {table}"),
                &format!("gone, and `ON CONFLICT` may name it: {rule}"),
            ));
        }
    }
}

/// Whether a type only has more values than before: releases know those that they write.
fn only_grew(old: &str, new: &str) -> bool {
    let values = |text: &str| -> Option<BTreeSet<String>> {
        let list = text.strip_prefix("enum (")?.strip_suffix(')')?;
        Some(list.split(", ").map(str::to_owned).collect())
    };
    values(old).zip(values(new)).is_some_and(|(old, new)| old.is_subset(&new))
}

fn certain(object: String, why: &str) -> Obstacle {
    Obstacle { object, why: why.to_owned(), is_certain: true }
}

fn doubtful(object: String, why: &str) -> Obstacle {
    Obstacle { is_certain: false, ..certain(object, why) }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.data_type)?;
        if self.not_null {
            f.write_str(" not null")?;
        }
        match &self.default {
            Some(default) => write!(f, " default {default}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(data_type: &str, not_null: bool, default: Option<&str>) -> Column {
        Column { data_type: data_type.into(), not_null, default: default.map(str::to_owned) }
    }

    fn schema() -> Schema {
        let columns = BTreeMap::from([
            ("id".to_owned(), column("bigint", true, None)),
            ("name".to_owned(), column("character varying(20)", false, Some("'x'"))),
        ]);
        let rules = BTreeSet::from(["UNIQUE (name)".to_owned()]);
        let users = Table { columns, rules, indexes: BTreeSet::new() };
        Schema {
            tables: BTreeMap::from([("users".to_owned(), users)]),
            others: BTreeMap::from([("type mood".to_owned(), "enum ('a', 'b')".to_owned())]),
        }
    }

    /// What stands in the way after a change: `!` for certain, `?` for perhaps.
    fn check(change: impl FnOnce(&mut Schema, &mut Table), expected: &[&str]) {
        let mut live = schema();
        let mut users = live.tables.remove("users").unwrap();
        change(&mut live, &mut users);
        live.tables.entry("users".to_owned()).or_insert(users);
        let mark = |obstacle: &Obstacle| {
            format!("{}{}", if obstacle.is_certain { "!" } else { "?" }, obstacle.object)
        };
        let found: Vec<String> = schema().obstacles(&live).iter().map(mark).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn an_older_release_runs_on_what_was_only_expanded() {
        check(|_, _| {}, &[]);
        check(|_, t| drop(t.columns.insert("new".into(), column("text", false, None))), &[]);
        check(|_, t| drop(t.columns.insert("new".into(), column("text", true, Some("''")))), &[]);
        check(|s, _| drop(s.others.insert("type mood".into(), "enum ('a', 'b', 'c')".into())), &[]);
        check(|_, t| t.indexes.extend(["(id)".to_owned()]), &[]);
        check(|_, t| t.columns.get_mut("name").unwrap().data_type = "text".into(), &[]);
    }

    #[test]
    fn what_was_taken_away_or_tightened_stands_in_the_way() {
        check(|_, t| drop(t.columns.remove("name")), &["!column users.name"]);
        check(
            |_, t| drop(t.columns.insert("new".into(), column("text", true, None))),
            &["!column users.new"],
        );
        check(|_, t| t.columns.get_mut("name").unwrap().not_null = true, &["!column users.name"]);
        check(|_, t| t.columns.get_mut("id").unwrap().data_type = "integer".into(), &["!column users.id"]);
        check(|_, t| t.columns.get_mut("name").unwrap().default = None, &["?column users.name"]);
        check(|_, t| t.rules.extend(["CHECK (id > 0)".to_owned()]), &["?table users"]);
        check(|_, t| t.rules.clear(), &["?table users"]);
        check(|s, _| s.others.clear(), &["!type mood"]);
    }

    #[test]
    fn differences_read_like_a_patch_and_fingerprints_follow_them() {
        let mut other = schema();
        other.tables.get_mut("users").unwrap().columns.get_mut("id").unwrap().data_type = "integer".into();
        assert_eq!(
            schema().difference(&other),
            ["- column users.id: bigint not null", "+ column users.id: integer not null"]
        );
        assert_ne!(schema().fingerprint().unwrap(), other.fingerprint().unwrap());
        assert_eq!(schema().fingerprint().unwrap(), schema().fingerprint().unwrap());
    }
}
