//! Migrations judged before they run: what would break a release that runs, or make it wait, is found with its file and line.
//! It reads scripts and never a database. Invariant: a statement that is not understood is refused, and what excuses one
//! is written beside it with a reason.

mod breach;
mod catalogue;
mod contract;
mod files;
mod judge;
mod marker;
mod rules;
pub mod run;

pub use contract::{Running, RunningRelease, set_of};
pub use files::{MOST_BYTES, Migration, discover, load};
pub use judge::{Allowed, Judge, Judgement, LockTimeout, Setting, Transaction};
pub use rules::rules;
