//! Finds `slipway-github`, building it first in a workspace that holds its package, and asks it. Invariant: the token reaches the
//! program through the environment alone, and not the build of the program, in which other people's code runs.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use stdx::Cmd;

use crate::exit::{Code, ResultExt};

const PROGRAM: &str = "slipway-github";

/// Names a program that is there already, for pipelines that build it once.
const OVERRIDE: &str = "SLIPWAY_GITHUB";

const TOKENS: [&str; 2] = ["GH_TOKEN", "GITHUB_TOKEN"];

/// A response lists the requests that were sent, bodies included.
const MAX_RESPONSE: u64 = 256 << 20;

/// Gives the request to the program; its response.
pub(crate) fn ask(request: &Value) -> Result<Value> {
    let program = find()?;
    let shown = program.display();
    let mut child = Cmd::new(&program)
        .to_std()?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    // Both ends are closed when these are dropped; the program reads to the end before it answers.
    if let Some(mut input) = child.stdin.take() {
        match input.write_all(request.to_string().as_bytes()) {
            // It ended without hearing us out; what it says, or its status, tells why.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            written => written.with_context(|| format!("cannot write to {shown}"))?,
        }
    }
    let mut answer = Vec::new();
    if let Some(output) = child.stdout.take() {
        output
            .take(MAX_RESPONSE)
            .read_to_end(&mut answer)
            .with_context(|| format!("cannot read from {shown}"))?;
    }
    let status = child.wait()?;
    let response: Value = serde_json::from_slice(&answer)
        .with_context(|| format!("{shown} ended with {status} and without a response"))?;
    if response["schema"] != "slipway.github/1" {
        bail!("{shown} is of another version: install xtask and {PROGRAM} of one version");
    }
    Ok(response)
}

fn find() -> Result<PathBuf> {
    if let Some(program) = std::env::var_os(OVERRIDE).filter(|program| !program.is_empty()) {
        let program = PathBuf::from(program);
        if !program.is_file() {
            let message = format!("{OVERRIDE} names {}, where there is no program", program.display());
            return Err(anyhow!(message)).or_exit(Code::Configuration);
        }
        return Ok(program);
    }
    let here = std::env::current_dir().context("the current folder is gone")?;
    if let Ok(root) = workspace::locate(&here)
        && let Some(target) = target_of_package(&root)?
    {
        if !target.join("debug").join(PROGRAM).is_file() {
            eprintln!(
                "github: building {PROGRAM}, which talks to GitHub; the first time this takes a minute or two"
            );
        }
        return build(&root).or_exit(Code::BuildFailed);
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(PROGRAM)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(PROGRAM));
    beside.into_iter().chain(on_path).find(|program| program.is_file()).with_context(|| {
        format!(
            "`cargo xtask github` needs the program {PROGRAM}, which is neither beside cargo-xtask nor on PATH: in a checkout of \
             Slipway run `cargo install --locked --path xtask/crates/github`"
        )
    }).or_exit(Code::Configuration)
}

fn cargo() -> Cmd {
    Cmd::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Where the workspace builds, if it holds the package.
fn target_of_package(root: &Path) -> Result<Option<PathBuf>> {
    let metadata = cargo().args(["metadata", "--no-deps", "--format-version", "1"]).cwd(root).read()?;
    let metadata: Value =
        serde_json::from_str(&metadata).context("cannot read what `cargo metadata` printed")?;
    let is_there =
        metadata["packages"].as_array().into_iter().flatten().any(|package| package["name"] == PROGRAM);
    Ok(is_there.then(|| PathBuf::from(metadata["target_directory"].as_str().unwrap_or("target"))))
}

/// Builds the program and gives its path. Cargo's progress goes to standard error.
fn build(root: &Path) -> Result<PathBuf> {
    let mut cmd = cargo()
        .args(["build", "--package", PROGRAM, "--bin", PROGRAM, "--locked"])
        .args(["--message-format", "json-render-diagnostics"])
        .cwd(root);
    for token in TOKENS {
        cmd = cmd.env_remove(token);
    }
    // Under `cargo run` these describe *this* package; build scripts that watch them would run again each time.
    let is_ours = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_ours)) {
        cmd = cmd.env_remove(name);
    }
    let mut child =
        cmd.to_std()?.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run {cmd}"))?;
    let output = child.stdout.take().context("no standard output")?;
    let mut program = None;
    for line in BufReader::new(output).lines() {
        program = executable(&line?).or(program);
    }
    let status = child.wait()?;
    if !status.success() {
        return Err(anyhow!("`{cmd}` ended with {status}"));
    }
    program.with_context(|| format!("`{cmd}` made no program"))
}

/// The path of our program in a line of Cargo's messages.
fn executable(line: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_ours = message["reason"] == "compiler-artifact" && message["target"]["name"] == PROGRAM;
    is_ours.then(|| message["executable"].as_str().map(PathBuf::from))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_in_cargos_messages() {
        let line = |reason: &str, name: &str| {
            format!("{{\"reason\":\"{reason}\",\"target\":{{\"name\":\"{name}\"}},\"executable\":\"/t/x\"}}")
        };
        assert_eq!(executable(&line("compiler-artifact", PROGRAM)), Some("/t/x".into()));
        assert_eq!(executable(&line("compiler-artifact", "other")), None);
        assert_eq!(executable(&line("build-finished", PROGRAM)), None);
        assert_eq!(executable("{"), None);
    }
}
