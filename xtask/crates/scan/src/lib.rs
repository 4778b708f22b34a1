//! What is known to be wrong with the third-party packages of a workspace: advisories and licences, told apart by what is
//! really linked into each service, what only builds it, and what is merely in the lock file. It does not know how results
//! look, and evaluates a stored SBOM by the same rules as a workspace.
//!
//! Invariant: where something cannot be known exactly (a refused unit graph, an advisory that does not parse) the answer is the
//! stricter one, and says so.

mod advisories;
mod context;
mod licences;
mod lock;
mod notices;
mod package;
mod sbom;

pub use advisories::{Database, advisories, database, database_age, evaluate};
pub use context::{Context, Graph, Options};
pub use licences::{evaluate_licences, licences};
pub use notices::notices;
pub use package::{Class, Package};
pub use sbom::sbom_packages;
