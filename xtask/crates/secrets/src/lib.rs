//! Finds keys, tokens and passwords in a work tree, in git's history, in built images and in any text. Rules are data
//! (`rules/*.json`); it does not know waivers, policies or how findings are shown.
//!
//! Invariant: nothing that leaves the crate (finding, error, `Debug` text) holds a secret or more of it than the fixed prefix that
//! all tokens of its kind share.

mod allow;
mod assigned;
mod decode;
mod engine;
mod history;
mod image;
mod judge;
mod name;
mod pem;
mod pool;
mod report;
mod rule;
mod tree;

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use finding::{Finding, Place, Rule};

pub use history::history;
pub use image::image;
pub use tree::{files, tree};

/// What every scan is told.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// How many threads look at files.
    pub threads: NonZero<usize>,
    /// A scan ends with an error soon after this becomes true.
    pub stop: &'a AtomicBool,
    /// How many bytes of one file are looked at; a note says where a file has more.
    pub most_bytes_per_file: u64,
}

impl<'a> Options<'a> {
    /// As many threads as the machine has processors, and 64 MiB of each file.
    pub fn new(stop: &'a AtomicBool) -> Options<'a> {
        let threads = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        Options { threads, stop, most_bytes_per_file: 64 << 20 }
    }

    fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            bail!("interrupted while looking for secrets");
        }
        Ok(())
    }
}

/// The secrets in one text. `path` has `/` between its parts; it says what kind of text it is and where findings are.
pub fn text(path: &str, bytes: &[u8]) -> Vec<Finding> {
    report::findings(path, bytes, |line, column| Place::file_line(path, line, column))
}

/// Every rule that a finding may name, in the order of their ids.
pub fn rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> = rule::specs().iter().map(rule::Spec::to_rule).collect();
    rules.push(report::partly_scanned());
    rules.sort_by(|a, b| a.id.cmp(&b.id));
    rules
}

#[cfg(test)]
mod tests;
