//! `cargo xtask init`: look, choose, show, write.

use std::path::Path;

use anyhow::{Result, bail};
use workspace::{Discovery, Settings, Survey};

use crate::exit::{Code, ResultExt};
use crate::{flags, render};

pub(crate) fn run(flags: &flags::Init) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let survey = Survey::take(&root).or_exit(Code::Configuration)?;
    refuse_without_service(&survey.discovery).or_exit(Code::Configuration)?;
    let text = survey.discovery.settings();
    let path = root.join(Settings::FILE);
    if !flags.dry_run {
        write(&path, &text, &survey, flags.force).or_exit(Code::Configuration)?;
    }
    let written = (!flags.dry_run).then_some(path.as_path());
    render::init(&survey, &text, written, tool(&survey), flags.json)
}

fn refuse_without_service(discovery: &Discovery) -> Result<()> {
    if !discovery.has_binary() {
        bail!(
            "no package of this workspace has a binary, and images are made of binaries; `test`, `scan` and `ci` work without any"
        );
    }
    if discovery.services.is_empty() && discovery.declared.is_empty() {
        let lines = discovery.left_out.iter();
        let lines: String = lines.map(|binary| format!("\n  {}: {}", binary.binary, binary.reason)).collect();
        bail!(
            "every binary of this workspace looks like a helper; name the ones that are services below `services:` in {}:{lines}",
            Settings::FILE
        );
    }
    Ok(())
}

fn write(path: &Path, text: &str, survey: &Survey, force: bool) -> Result<()> {
    if survey.has_settings && !force {
        bail!(
            "{} is there already; `init --dry-run` shows what would be written, `init --force` replaces it",
            path.display()
        );
    }
    stdx::fs::write_atomic(path, text.as_bytes(), 0o644)
}

/// How the user calls this program in this workspace.
fn tool(survey: &Survey) -> &'static str {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default();
    let is_hidden = name == "cargo-xtask" && survey.has_alias;
    if is_hidden || name == "cargo-slipway" { "cargo slipway" } else { "cargo xtask" }
}
