//! `cargo xtask build`: load, plan, show, run, report.

use std::sync::atomic::AtomicBool;

use ::build::{Report, Session};
use anyhow::Result;
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
    let report = images(&mut session, &flags.services, &*super::interruption()?)?;
    render::report(&report, flags.json)?;
    if flags.load {
        load(&session, &report)?;
    }
    Ok(())
}

/// The images of `services`, shown while they are made.
pub(crate) fn images(session: &mut Session, services: &[String], interrupted: &AtomicBool) -> Result<Report> {
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
