//! SQL as far as migrations need it: scripts cut into statements, and what each statement does to a schema. It executes nothing
//! and knows no database. Invariant: what is not understood is said to be so, never taken for harmless.

mod alter;
mod change;
mod column;
mod cursor;
mod lex;
mod script;
pub(crate) mod types;

pub(crate) use change::{Change, Constraint, ConstraintKind, Dropped, changes};
pub(crate) use column::Column;
pub(crate) use script::{Comment, Statement, split};

use serde::{Deserialize, Serialize};

/// Whose SQL it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// SQLite.
    Sqlite,
}

impl Dialect {
    /// Its name in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Postgres => "postgres",
            Dialect::Sqlite => "sqlite",
        }
    }
}
