//! The compiler that will be used.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use stdx::Cmd;

/// What rustc says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Toolchain {
    /// For instance `1.95.0`.
    pub(crate) release: String,
    /// Commit of the compiler's source.
    pub(crate) commit: String,
    /// What it runs on.
    pub(crate) host: String,
    /// Folder of the toolchain.
    pub(crate) sysroot: PathBuf,
}

impl Toolchain {
    /// Asks the rustc that Cargo would use in `root`.
    pub(crate) fn load(root: &Path) -> Result<Toolchain> {
        let rustc = || Cmd::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).cwd(root);
        let questions: [&[&str]; 2] = [&["-vV"], &["--print", "sysroot"]];
        let mut answers = stdx::threads::map(&questions, |args| rustc().args(*args).read()).into_iter();
        let mut answer = || answers.next().context("an answer for each question")?;
        let verbose = answer().context("cannot ask rustc for its version")?;
        let field = |name: &str| {
            let found = verbose.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            found.map(str::to_owned).with_context(|| format!("`rustc -vV` does not tell its {name}"))
        };
        Ok(Toolchain {
            release: field("release")?,
            commit: field("commit-hash")?,
            host: field("host")?,
            sysroot: answer()?.into(),
        })
    }

    /// Whether this compiler can keep paths out of objects and still show them in diagnostics.
    pub(crate) fn has_remap_scope(&self) -> bool {
        let mut parts = self.release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (1, 95)
    }
}
