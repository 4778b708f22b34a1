//! Building an image again from what its provenance says, in another folder and with another home, and comparing.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::build::{BuiltService, Report};
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use stdx::{Cmd, Digest};
use supply::{Provenance, Resource, Statement};
use workspace::{Platform, Settings};

use super::source::Source;
use crate::exit::{Code, ResultExt};

/// How often the build is looked at.
const POLL: Duration = Duration::from_millis(50);
/// What build scripts are told for the time where nobody says otherwise.
const DEFAULT_EPOCH: &str = "315532800";

/// What building again gave.
pub(crate) struct Rebuilt {
    /// The commit that was built.
    pub(crate) revision: String,
    /// Digest of the image that is verified.
    pub(crate) image: Digest,
    /// Digest of what building again gave.
    pub(crate) found: Digest,
    /// What differs, in words.
    pub(crate) differences: Vec<String>,
}

impl Rebuilt {
    /// Whether both are the same to the bit.
    pub(crate) fn is_same(&self) -> bool {
        self.image == self.found
    }
}

/// Builds the commit that `provenance` names, which must be in the repository of the workspace at `root`.
pub(crate) fn rebuild(
    root: &Path,
    source: &Source,
    provenance: &Provenance,
    interrupted: &AtomicBool,
) -> Result<Rebuilt> {
    let commit = provenance
        .commit()
        .context("the provenance names no commit to build")
        .or_exit(Code::NotReproducible)?;
    if commit.dirty {
        let error = anyhow!(
            "the image was built from a work tree with changes that the commit does not hold: nobody can build it again"
        );
        return Err(error).or_exit(Code::NotReproducible);
    }
    let scratch = Scratch::new().or_exit(Code::Configuration)?;
    let workspace = checkout(root, &commit.revision, &scratch).or_exit(Code::Configuration)?;
    let report = build(provenance, &workspace, &scratch, interrupted)?;
    let [service] = &report.services[..] else {
        bail!("building again gave {} images", report.services.len())
    };
    let differences =
        if service.image == source.image() { vec![] } else { differences(source, provenance, service)? };
    Ok(Rebuilt { revision: commit.revision, image: source.image(), found: service.image, differences })
}

/// A folder that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        let base = std::env::temp_dir().canonicalize().context("cannot find a folder for temporary files")?;
        let path = base.join(format!("slipway-rebuild-{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is a temporary folder; there is nobody to tell any more.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The workspace as the commit holds it. Hooks and settings of the repository do not come along.
fn checkout(root: &Path, revision: &str, scratch: &Scratch) -> Result<PathBuf> {
    let git = |folder: &Path, args: &[&str]| {
        Cmd::new("git").args(["-c", "core.hooksPath=/dev/null"]).args(args).cwd(folder).read()
    };
    let top = git(root, &["rev-parse", "--show-toplevel"])
        .context("the workspace is in no git repository, so the commit cannot be built here")?;
    let below = git(root, &["rev-parse", "--show-prefix"])?;
    let clone = scratch.0.join("elsewhere");
    let to = clone.to_str().context("the folder for temporary files has no plain name")?;
    git(&scratch.0, &["clone", "--quiet", "--no-checkout", "--no-hardlinks", &top, to])?;
    git(&clone, &["checkout", "--quiet", "--detach", revision])
        .with_context(|| format!("the repository does not have the commit {revision}; next: `git fetch`"))?;
    Ok(clone.join(below))
}

/// Runs this program in the other folder.
fn build(
    provenance: &Provenance,
    workspace: &Path,
    scratch: &Scratch,
    interrupted: &AtomicBool,
) -> Result<Report> {
    let parameters = &provenance.build_definition.external_parameters;
    let service = parameters.get("service").and_then(|name| name.as_str());
    let service = service.context("the provenance names no service")?;
    ensure!(
        !service.starts_with('-'),
        "the provenance names the service `{}`",
        crate::render::plain(service)
    );
    let home = scratch.0.join("home");
    stdx::fs::create_dir_all(&home)?;
    let mut command = Cmd::new(std::env::current_exe()?)
        .args(["build", "--json", "--unsigned"])
        .args(platform(provenance, workspace)?)
        .args(["--", service])
        .cwd(workspace)
        .env("CARGO_HOME", workspace::cargo_home(workspace).context("cannot find Cargo's home")?)
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_BUILD_TARGET_DIR")
        .env_remove("SOURCE_DATE_EPOCH");
    // Without this, rustup would look for its toolchains in the new home.
    let rustup = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
    if let Some(rustup) = rustup.or_else(|| Some(std::env::home_dir()?.join(".rustup"))) {
        command = command.env("RUSTUP_HOME", rustup);
    }
    if let Some(epoch) = epoch(provenance) {
        command = command.env("SOURCE_DATE_EPOCH", epoch);
    }
    let command = command.env("HOME", &home);
    eprintln!("building {service} again in {}", workspace.display());
    let output = scratch.0.join("report.json");
    let file =
        std::fs::File::create(&output).with_context(|| format!("cannot create {}", output.display()))?;
    let mut child = command
        .to_std()?
        .stdin(Stdio::null())
        .stdout(file)
        .spawn()
        .context("cannot run this program again")?;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if interrupted.load(Ordering::SeqCst) => {
                // The terminal told it, too; whoever was told alone is waited for until it has cleaned up.
                child.wait()?;
                return Err(anyhow!("interrupted")).or_exit(Code::Interrupted);
            }
            None => std::thread::sleep(POLL),
        }
    };
    if !status.success() {
        let code = Code::of_status(status.code());
        return Err(anyhow!("building the commit again failed")).or_exit(code);
    }
    Report::from_document(&stdx::fs::read_to_string(&output)?)
        .context("building again gave a report that cannot be read")
}

/// Where the workspace is built for several platforms: the one that was built.
fn platform(provenance: &Provenance, workspace: &Path) -> Result<Option<String>> {
    if Settings::load(workspace)?.build.platforms.is_empty() {
        return Ok(None);
    }
    let target = provenance.build_definition.external_parameters.get("target").and_then(Value::as_str);
    let platform =
        target.and_then(Platform::of_target).context("the provenance names no target that is known here")?;
    Ok(Some(format!("--platform={platform}")))
}

/// The time that was fixed for the build, where it is not the usual one.
fn epoch(provenance: &Provenance) -> Option<String> {
    let environment = provenance.build_definition.internal_parameters.get("environment")?;
    let epoch = environment.get("SOURCE_DATE_EPOCH")?.as_str()?;
    (epoch != DEFAULT_EPOCH && epoch.parse::<i64>().is_ok()).then(|| epoch.to_owned())
}

/// The toolchain first: where it is another one, other bits are no wonder.
fn differences(source: &Source, provenance: &Provenance, rebuilt: &BuiltService) -> Result<Vec<String>> {
    let statement = Statement::parse(&stdx::fs::read(&rebuilt.provenance_path)?)?;
    let here = Provenance::parse(&statement.predicate)?;
    let mut found = Vec::new();
    let resources = |provenance: &Provenance| provenance.build_definition.resolved_dependencies.clone();
    let (then, now) = (resources(provenance), resources(&here));
    let key = |resource: &Resource| {
        (resource.name.clone(), resource.uri.clone().filter(|uri| uri.starts_with("pkg:")))
    };
    for old in &then {
        match now.iter().find(|new| key(new) == key(old)) {
            Some(new) if new.digest == old.digest && new.annotations == old.annotations => {}
            Some(new) => {
                found.push(format!("{}: was {}, is {} here", old.name, identity(old), identity(new)))
            }
            None => found.push(format!("{}: was {}, is not used here", old.name, identity(old))),
        }
    }
    let known: Vec<_> = then.iter().map(key).collect();
    let added = now.iter().filter(|new| !known.contains(&key(new)));
    found.extend(added.map(|new| format!("{}: is {} here, was not used", new.name, identity(new))));
    let layers = source.layers()?;
    for (at, layer) in rebuilt.layers.iter().enumerate() {
        match layers.get(at) {
            Some(old) if *old == layer.digest => {}
            Some(old) => found.push(format!(
                "layer `{}`: was {}, is {} here",
                layer.comment,
                old.short(),
                layer.digest.short()
            )),
            None => found.push(format!("layer `{}`: was not there", layer.comment)),
        }
    }
    if found.is_empty() {
        found.push("the image's configuration (variables, labels, user)".to_owned());
    }
    Ok(found)
}

fn identity(resource: &Resource) -> String {
    let version = resource.annotations.get("version").and_then(|version| version.as_str());
    let text = resource.digest.values().next().map(String::as_str).or(version).unwrap_or("unknown");
    crate::render::plain(text)
}
