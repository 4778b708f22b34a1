//! Flags of the commands that run tests.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Run the tests of the whole workspace.
///
/// Each test runs in a process of its own, the longest first; documentation tests run with rustdoc. With cargo-nextest installed, it runs
/// them.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  cargo xtask test                      all tests
  cargo xtask test deploy               tests whose name contains `deploy`
  cargo xtask test --filter plan        where the name is that of a subcommand
  cargo xtask test -- --test-threads=1  arguments after -- are those of Rust's test harness
  cargo xtask test --shard 1/4          the first of four parts, balanced by what tests took before
  cargo xtask test plan --shards 4      what each part would run, and how long that would take
  cargo xtask test merge r1.json r2.json
                                        prove that the parts ran each test exactly once"
)]
pub(crate) struct Test {
    #[command(subcommand)]
    pub(crate) command: Option<TestCommand>,
    #[command(flatten)]
    pub(crate) run: TestRun,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TestCommand {
    Plan(TestPlan),
    Merge(TestMerge),
}

/// What runs tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// cargo-nextest where it is installed.
    #[default]
    Auto,
    /// This program.
    Builtin,
    /// cargo-nextest.
    Nextest,
}

/// One of several parts: `1/4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shard {
    /// Counted from 1.
    pub(crate) index: u32,
    pub(crate) of: u32,
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let numbers = text.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, of)) if (1..=of).contains(&index) => Ok(Shard { index, of }),
            _ => Err("give the part and how many there are, such as 1/4".to_owned()),
        }
    }
}

#[derive(Debug, Default, Args)]
pub(crate) struct TestRun {
    /// Parts of names of tests; all tests where none is given.
    pub(crate) filters: Vec<String>,
    /// The same, for what would be a subcommand.
    #[arg(long, short = 'E', value_name = "NAME")]
    pub(crate) filter: Vec<String>,
    /// Run one of several parts, and build only what it needs.
    #[arg(long, value_name = "K/N")]
    pub(crate) shard: Option<Shard>,
    /// The plan that says which part runs what, from `test plan --out` [default: made from the timings]
    #[arg(long, value_name = "FILE", requires = "shard")]
    pub(crate) plan: Option<PathBuf>,
    /// What tests took before; a run of all parts adds to it [default: slipway/test/timings.jsonl in the target folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) timings: Option<PathBuf>,
    /// Where to write the report [default: slipway/test in the target folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Where to write the results as JUnit XML [default: beside the report]
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// What runs the tests.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) engine: Engine,
    /// Print the commands and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// Arguments of Rust's test harness, such as --nocapture, --ignored, --skip, --exact, --test-threads, --list.
    #[arg(last = true)]
    pub(crate) arguments: Vec<String>,
}

/// Show which part runs what, and how long that is expected to take beside what no plan could beat.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask test plan --shards 4              a table
  cargo xtask test plan --shards 4 --matrix     the matrix of a GitHub workflow, with the number of tests
  cargo xtask test plan --shards 4 --out p.json
  cargo xtask test --shard 1/4 --plan p.json    all parts by that very plan")]
pub(crate) struct TestPlan {
    /// How many parts.
    #[arg(long, value_name = "N")]
    pub(crate) shards: u32,
    /// Build all tests and ask them for their names, instead of planning with those of the last time.
    #[arg(long)]
    pub(crate) exact: bool,
    /// What tests took before [default: slipway/test/timings.jsonl in the target folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) timings: Option<PathBuf>,
    /// Write the plan to a file as well, for `test --plan`.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Print the matrix of a GitHub workflow instead of a table.
    #[arg(long, conflicts_with = "json")]
    pub(crate) matrix: bool,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prove from the reports of all parts that each test ran exactly once, and put the results together.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask test merge target/slipway/test/report-*-of-4.json
  cargo xtask test merge --plan p.json --junit all.xml report-*.json")]
pub(crate) struct TestMerge {
    /// Reports that parts have written.
    #[arg(required = true)]
    pub(crate) reports: Vec<PathBuf>,
    /// The plan that the parts ran by: compared as well.
    #[arg(long, value_name = "FILE")]
    pub(crate) plan: Option<PathBuf>,
    /// Where to add what the tests took [default: slipway/test/timings.jsonl in the target folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) timings: Option<PathBuf>,
    /// Where to write the report of all parts [default: slipway/test/merged.json in the target folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Where to write the results as JUnit XML [default: beside the report]
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}
