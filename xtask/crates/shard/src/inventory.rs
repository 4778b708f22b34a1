//! Which test binaries a workspace has and which tests are in them, as data; where they come from is `targets`' and `list`'s
//! business.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::timings::Timings;

/// The documentation tests of the whole workspace count as one test of a binary of this name. No package can have it.
pub const DOCTESTS: &str = "(doctests)";

/// Stands for all tests of a binary whose tests cannot be told apart. No function can have this name.
pub const WHOLE: &str = "(all)";

/// A test: the id of its binary as cargo-nextest forms it (`package`, `package::test-target`, `package::bin/name`), and its name
/// there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Test {
    /// Id of the binary.
    pub binary: String,
    /// Full name within the binary.
    #[serde(rename = "test")]
    pub name: String,
}

/// What cargo is told in order to build a binary. Always together with `--workspace`: another choice of packages would resolve
/// other features and silently leave tests out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// Unit tests of all libraries: cargo cannot be asked for those of one.
    Lib,
    /// Unit tests of binaries of this name.
    Bin(String),
    /// Integration tests of this name, in whatever package.
    Test(String),
    /// Tests in examples of this name.
    Example(String),
    /// Tests in benchmarks of this name.
    Bench(String),
    /// Documentation tests of all libraries.
    Doc,
}

/// Test binaries by id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inventory {
    /// By id.
    pub binaries: BTreeMap<String, Binary>,
}

/// A test binary.
#[derive(Debug, Clone, PartialEq)]
pub struct Binary {
    /// What builds it.
    pub selector: Selector,
    /// Its tests by name, and whether each is ignored.
    pub tests: BTreeMap<String, bool>,
    /// Whether anybody, now or earlier, asked the binary for its tests.
    pub is_listed: bool,
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.binary, self.name)
    }
}

impl Test {
    /// The documentation tests.
    pub fn doctests() -> Test {
        Test { binary: DOCTESTS.to_owned(), name: WHOLE.to_owned() }
    }
}

impl Selector {
    /// The arguments for cargo.
    pub fn args(&self) -> Vec<&str> {
        match self {
            Selector::Lib => vec!["--lib"],
            Selector::Bin(name) => vec!["--bin", name],
            Selector::Test(name) => vec!["--test", name],
            Selector::Example(name) => vec!["--example", name],
            Selector::Bench(name) => vec!["--bench", name],
            Selector::Doc => vec!["--doc"],
        }
    }

    /// Whether there is a binary to build. Documentation tests are compiled while they run.
    pub fn is_built(&self) -> bool {
        *self != Selector::Doc
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.args().join(" "))
    }
}

impl Binary {
    /// A binary of which nothing is known but how to build it.
    pub fn new(selector: Selector) -> Binary {
        Binary { selector, tests: BTreeMap::new(), is_listed: false }
    }
}

impl Inventory {
    /// All tests that would run without further choice. Of a binary that was never listed: one that stands for all.
    pub fn runnable(&self) -> impl Iterator<Item = Test> {
        self.tests().filter(|(_, is_ignored)| !is_ignored).map(|(test, _)| test)
    }

    /// All tests, and whether each is ignored.
    pub fn tests(&self) -> impl Iterator<Item = (Test, bool)> {
        self.binaries.iter().flat_map(|(id, binary)| {
            let unlisted = (!binary.is_listed).then(|| (WHOLE.to_owned(), false));
            let listed = binary.tests.iter().map(|(name, is_ignored)| (name.clone(), *is_ignored));
            listed.chain(unlisted).map(|(name, is_ignored)| (Test { binary: id.clone(), name }, is_ignored))
        })
    }

    /// Whether `test` stands for all tests of a binary that was never listed.
    pub(crate) fn is_unlisted(&self, test: &Test) -> bool {
        test.name == WHOLE && self.binaries.get(&test.binary).is_some_and(|binary| !binary.is_listed)
    }

    /// Fills in the tests that were there when somebody last looked, without building anything.
    pub fn recall(mut self, timings: &Timings) -> Inventory {
        for test in timings.tests() {
            if let Some(binary) = self.binaries.get_mut(&test.binary) {
                binary.tests.insert(test.name.clone(), false);
                binary.is_listed = true;
            }
        }
        for (id, binary) in &mut self.binaries {
            binary.is_listed |= timings.is_listed(id);
        }
        self
    }

    /// Share of the binaries that were listed, 0 to 1.
    pub fn listed_share(&self) -> f64 {
        let built = || self.binaries.values().filter(|binary| binary.selector.is_built());
        let listed = built().filter(|binary| binary.is_listed).count();
        if listed == 0 { 0.0 } else { listed as f64 / built().count() as f64 }
    }
}
