//! Safe data: migrations are judged before they run, schemas have fingerprints, and a backup counts only once it was restored and
//! compared. The crate knows SQL, PostgreSQL and SQLite; it knows neither deployments, nor services by name, nor the command line.
//!
//! Invariant: what cannot be judged is refused, and what was not restored and compared is no backup.

mod contents;
mod engine;
pub mod migration;
mod postgres;
mod schema;
mod sql;
mod sqlite;
mod store;

pub use contents::{Contents, TableContents};
pub use engine::{Engine, Proof, Taken};
pub use postgres::{Connection, Postgres, Tools};
pub use schema::{Column, Obstacle, Schema, Table};
pub use sql::Dialect;
pub use sqlite::Sqlite;
pub use store::{Before, Entry, Manifest, Prune, Restored, Retention, SCHEMA, Store};
