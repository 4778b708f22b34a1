//! The tests of a workspace: which there are, which shard runs which, how they run, and the proof that each ran exactly once. It
//! knows Cargo's test binaries and recorded durations; it does not know how results are shown. Every test has exactly one shard.

mod assign;
mod compile;
mod doctests;
mod estimate;
mod inventory;
mod junit;
mod list;
pub mod nextest;
mod plan;
mod report;
mod run;
mod targets;
mod timings;

pub use compile::{BuiltBinary, build, run_as_compiler};
pub use doctests::{Doctests, command as doctests_command, run as run_doctests};
pub use estimate::{Quality, expected};
pub use inventory::{Binary, DOCTESTS, Inventory, Selector, Test, WHOLE};
pub use junit::write as junit;
pub use list::list;
pub use plan::{Assignment, Builds, Forecast, Method, Plan, Planning};
pub use report::{ALL, Engine, Part, Report, merge};
pub use run::{Event, Job, Options, Outcome, Verdict, run};
pub use targets::Targets;
pub use timings::{Samples, Timings};

#[cfg(test)]
mod tests;
