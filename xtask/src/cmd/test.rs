//! `cargo xtask test`: the tests of the whole workspace.

use anyhow::{Context, Result};
use stdx::Cmd;

use crate::exit::{Code, ResultExt};
use crate::flags;

pub(crate) fn run(flags: &flags::Test) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Never `--package`: that would resolve other features and silently leave tests out.
    let cmd = Cmd::new(cargo).args(["test", "--workspace", "--locked"]).args(&flags.arguments).cwd(root);
    if flags.dry_run {
        return crate::render::print(&format!("{cmd}\n"));
    }
    let status = cmd.to_std()?.status().with_context(|| format!("cannot run {cmd}"))?;
    if !status.success() {
        return Err(anyhow::anyhow!("tests failed: `{cmd}` ended with {status}")).or_exit(Code::TestsFailed);
    }
    Ok(())
}
