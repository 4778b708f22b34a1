//! `cargo xtask build`: load, plan, show, run, report.

use std::sync::atomic::AtomicBool;

use ::build::{Report, Session};
use anyhow::{Context, Result};
use oci::Layout;

use crate::exit::{Code, ResultExt};
use crate::flags;
use crate::render::{self, Progress};

pub(crate) fn run(flags: &flags::Build) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let mut session = Session::open(&root).or_exit(Code::Configuration)?;
    if flags.dry_run {
        let loaded = session.plan(&flags.services).or_exit(Code::Configuration)?;
        return render::plan(&loaded, flags.json);
    }
    let interrupted = super::interruption()?;
    let Images { report, signed_by } = match flags.unsigned {
        true => Images { report: build(&mut session, &flags.services, &interrupted)?, signed_by: None },
        false => images(&mut session, &flags.services, &interrupted)?,
    };
    render::report(&report, signed_by.as_deref(), flags.json)?;
    if flags.load {
        load(&session, &report)?;
    }
    Ok(())
}

/// What was built.
pub(crate) struct Images {
    pub(crate) report: Report,
    /// What bundles call the key that signed all of them; `None` where no key is configured.
    pub(crate) signed_by: Option<String>,
}

/// The images of `services`, shown while they are made, and signed where there is a key.
pub(crate) fn images(session: &mut Session, services: &[String], interrupted: &AtomicBool) -> Result<Images> {
    let report = build(session, services, interrupted)?;
    let key = super::key::load(session.root(), &session.settings().signing).or_exit(Code::Configuration)?;
    let signed_by = match key {
        Some(key) => {
            ::build::sign(&report, session.folder(), &key).context("cannot sign the images")?;
            Some(key.public().hint()?)
        }
        None => None,
    };
    Ok(Images { report, signed_by })
}

fn build(session: &mut Session, services: &[String], interrupted: &AtomicBool) -> Result<Report> {
    let progress = Progress::new();
    let report = session.build(services, &progress, interrupted);
    progress.finish();
    report
}

fn load(session: &Session, report: &Report) -> Result<()> {
    let layout = Layout::open(&report.layout)?;
    for service in &report.services {
        let name = session.reference(service);
        let id = crate::docker::load(&layout, service.image, &name).or_exit(Code::Configuration)?;
        eprintln!("loaded {name} as {id}");
    }
    Ok(())
}
