//! `cargo xtask deps`: ask Cargo what the services are made of, weigh it, and show it.

use ::deps::Report;
use anyhow::{Result, anyhow};
use workspace::{CargoConfig, Network, Settings, Workspace};

use crate::exit::{Code, ResultExt};
use crate::flags;
use crate::render;

pub(crate) fn run(flags: &flags::Deps) -> Result<()> {
    let report = load(flags).or_exit(Code::Configuration)?;
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    if let Some(package) = &flags.why {
        let found = render::why(&report, package, flags.json)?;
        let unknown = || anyhow!("no service uses a package `{package}`");
        return if found { Ok(()) } else { Err(unknown()).or_exit(Code::NothingSelected) };
    }
    render::deps(&report, flags.all, flags.json)
}

fn load(flags: &flags::Deps) -> Result<Report> {
    let root = super::workspace_root()?;
    let settings = Settings::load(&root)?;
    let cargo = CargoConfig::load(&root, settings.build.target.as_deref())?;
    let network = if flags.offline { Network::Forbidden } else { Network::Allowed };
    let workspace = Workspace::load_with(&root, settings, &cargo.target, network)?;
    workspace.select(&flags.services)?;
    let scratch = workspace::slipway_dir(&root, &workspace::target_dir(&root)?).join("scan");
    let mut report = Report::load(&workspace, &cargo, network, &scratch)?;
    if !flags.services.is_empty() {
        report.services.retain(|name, _| flags.services.contains(name));
    }
    Ok(report)
}
