//! Running the one cargo invocation and reading from its JSON stream what was really compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cargo_metadata::{Artifact, Message, PackageId, TargetKind};
use rustix::process::{Pid, Signal, kill_process_group};
use stdx::Tied;
use workspace::Unit;

use crate::diagnostics::Diagnostics;
use crate::event::{Event, Reporter};
use crate::plan::Plan;

/// What Cargo compiled, or found compiled.
#[derive(Debug, Clone, Default)]
pub(crate) struct Compiled {
    /// Every compilation behind the binaries.
    pub(crate) units: Vec<Unit>,
    /// Path of each binary, by package and target name.
    pub(crate) binaries: BTreeMap<(PackageId, String), PathBuf>,
    /// How many compilations had to be run.
    pub(crate) compiled: usize,
    /// Build scripts that the binaries go by, run now or before.
    pub(crate) scripts: Vec<Script>,
}

/// A build script that was run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Script {
    pub(crate) package: PackageId,
    /// What it told Cargo.
    pub(crate) output: PathBuf,
}

/// Runs the plan's cargo invocations, one after the other; `interrupted` ends it.
///
/// # Errors
/// When Cargo cannot be started, is interrupted, or fails; what the compiler said was reported before.
pub(crate) fn compile(plan: &Plan, reporter: &dyn Reporter, interrupted: &AtomicBool) -> Result<Compiled> {
    let mut all = Compiled::default();
    for plan in plan.invocations() {
        let compiled = invoke(plan, reporter, interrupted)?;
        all.units.extend(compiled.units);
        all.binaries.extend(compiled.binaries);
        all.compiled += compiled.compiled;
        all.scripts.extend(compiled.scripts);
    }
    Ok(all)
}

fn invoke(plan: &Plan, reporter: &dyn Reporter, interrupted: &AtomicBool) -> Result<Compiled> {
    let mut command = plan.command().to_std()?;
    // The variables that `cargo run` gave this program describe this program.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "CARGO_BIN_NAME" {
            command.env_remove(name);
        }
    }
    // What Cargo says is read here before it is shown.
    command.env("CARGO_TERM_COLOR", "never").env("CARGO_TERM_QUIET", "false");
    // A process group of its own, so that an interruption reaches the compilers too, once, and from here.
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().context("cannot start cargo")?;
    let _tied = Tied::new(&child);
    let finished = AtomicBool::new(false);
    let group = Pid::from_child(&child);
    let (compiled, status) = thread::scope(|scope| {
        scope.spawn(|| interrupt_when_asked(group, interrupted, &finished));
        let compiled = follow(&mut child, plan, reporter);
        let status = child.wait().context("cannot wait for cargo");
        finished.store(true, Ordering::SeqCst);
        (compiled, status)
    });
    let status = status?;
    if interrupted.load(Ordering::SeqCst) {
        bail!("interrupted");
    }
    let compiled = compiled?;
    if !status.success() {
        bail!("cargo failed with {status}");
    }
    Ok(compiled)
}

/// Passes an interruption on to cargo's process group.
pub(crate) fn interrupt_when_asked(group: Pid, interrupted: &AtomicBool, finished: &AtomicBool) {
    while !finished.load(Ordering::SeqCst) {
        if interrupted.load(Ordering::SeqCst) {
            // It fails only where the group is gone already.
            kill_process_group(group, Signal::INT).ok();
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn follow(child: &mut Child, plan: &Plan, reporter: &dyn Reporter) -> Result<Compiled> {
    let stdout = child.stdout.take().context("cargo has no standard output")?;
    let stderr = child.stderr.take().context("cargo has no standard error")?;
    let diagnostics = Diagnostics::new(reporter);
    let compiled = thread::scope(|scope| {
        let diagnostics = &diagnostics;
        scope.spawn(move || diagnostics.cargo(BufReader::new(stderr).lines().map_while(Result::ok)));
        let mut compiled = Compiled::default();
        for message in Message::parse_stream(BufReader::new(stdout)) {
            match message.context("cannot read cargo's messages")? {
                Message::CompilerArtifact(artifact) => compiled.add(&artifact, plan, reporter),
                Message::BuildScriptExecuted(script) => {
                    // Cargo keeps it beside the folder that the script writes to.
                    let folder = script.out_dir.as_std_path().parent();
                    let output = folder.map(|folder| folder.join("output"));
                    let script = output.map(|output| Script { package: script.package_id, output });
                    compiled.scripts.extend(script);
                }
                Message::CompilerMessage(message) => diagnostics.compiler(&message),
                Message::TextLine(line) => reporter.event(Event::Diagnostic(line)),
                _ => {}
            }
        }
        Ok(compiled)
    });
    diagnostics.finish();
    compiled
}

impl Compiled {
    /// Takes compilations in that need not be run.
    pub(crate) fn add_units(&mut self, units: &[Unit]) {
        for unit in units {
            if !self.units.contains(unit) {
                self.units.push(unit.clone());
            }
        }
    }

    fn add(&mut self, artifact: &Artifact, plan: &Plan, reporter: &dyn Reporter) {
        self.compiled += usize::from(!artifact.fresh);
        let package = artifact.package_id.repr.clone();
        reporter.event(Event::Compiled { package: short_name(&package).to_owned(), fresh: artifact.fresh });
        let target_dir = plan.build_dir.join(&plan.target);
        let for_target = |path: &Path| path.starts_with(&target_dir);
        let host = !artifact.filenames.iter().any(|path| for_target(path.as_std_path()));
        let features: BTreeSet<String> = artifact.features.iter().cloned().collect();
        self.units.push(Unit { package: artifact.package_id.clone(), host, features });
        if let Some(executable) = &artifact.executable
            && artifact.target.kind.contains(&TargetKind::Bin)
        {
            let key = (artifact.package_id.clone(), artifact.target.name.clone());
            self.binaries.insert(key, executable.clone().into_std_path_buf());
        }
    }
}

/// `name` of a package id such as `registry+https://…#name@1.2.3` or `path+file:///…/name#1.2.3`.
pub(crate) fn short_name(id: &str) -> &str {
    let (source, fragment) = id.rsplit_once('#').unwrap_or(("", id));
    match fragment.split_once('@') {
        Some((name, _)) => name,
        None if fragment.starts_with(|c: char| c.is_ascii_digit()) => {
            source.rsplit('/').next().unwrap_or(source)
        }
        None => fragment,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_package_ids() {
        assert_eq!(short_name("registry+https://host/index#serde@1.0.0"), "serde");
        assert_eq!(short_name("path+file:///w/services/api#0.1.0"), "api");
        assert_eq!(short_name("path+file:///w/xtask/crates/oci#slipway-oci@0.1.0"), "slipway-oci");
    }
}
