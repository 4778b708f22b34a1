//! Builds test binaries with one cargo call and says where each lies and in which folder and environment cargo would run it. What
//! compiling each one cost is learnt from a compiler wrapper: this very program, called in another way.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use cargo_metadata::{Artifact, BuildScript, Message, Package, PackageId, TargetKind};
use stdx::Cmd;
use workspace::TestConfig;

use crate::Selector;
use crate::targets::{Targets, binary_id};

/// Set for the build, and for nothing else: the file that compilations are written to.
const LOG: &str = "SLIPWAY_COMPILE_LOG";

/// A test binary that can be run.
#[derive(Debug, Clone)]
pub struct BuiltBinary {
    /// Its id.
    pub id: String,
    /// The program without arguments, in the folder and with the variables that cargo would give it.
    pub command: Cmd,
    /// Whether its `main` is that of Rust's own test harness.
    pub has_harness: bool,
    /// Processor seconds that compiling and linking took; unknown where it was not compiled now.
    pub build_seconds: Option<f64>,
}

/// Builds what the selectors name, or all tests; gives the binaries by id. Cargo shows its progress on standard error.
///
/// # Errors
/// When something does not compile.
pub fn build(targets: &Targets, selectors: Option<&BTreeSet<Selector>>) -> Result<Vec<BuiltBinary>> {
    // Without a name cargo would build everything.
    if selectors.is_some_and(|selectors| !selectors.iter().any(Selector::is_built)) {
        return Ok(Vec::new());
    }
    if let Some(cmd) = targets.examples_command(selectors) {
        let status =
            cmd.to_std()?.stdout(Stdio::null()).status().with_context(|| format!("cannot run {cmd}"))?;
        if !status.success() {
            bail!("examples that tests may run cannot be built: `{cmd}` ended with {status}");
        }
    }
    let config = TestConfig::load(&targets.root)?;
    let log = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    let cmd = measured(targets.build_command(selectors), log.path(), &targets.target_folder, &config)?;
    let mut child =
        cmd.to_std()?.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run {cmd}"))?;
    let mut said = Said::default();
    let stdout = child.stdout.take().context("cargo has no standard output")?;
    for message in Message::parse_stream(BufReader::new(stdout)) {
        said.add(message.context("cannot read what cargo says")?);
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("the tests cannot be built: `{cmd}` ended with {status}");
    }
    let libraries = library_folders(targets, &said)?;
    let costs = read_log(log.path())?;
    let place = Place { targets, said: &said, libraries, costs, config };
    // Asked for by name, cargo also builds targets that say `test = false`; `cargo test` leaves them out.
    said.tests.iter().filter(|artifact| artifact.target.test).map(|artifact| place.binary(artifact)).collect()
}

/// Lets this program stand between cargo and the compiler, unless the user has put another there.
fn measured(cmd: Cmd, log: &Path, target_folder: &Path, config: &TestConfig) -> Result<Cmd> {
    if config.has_rustc_wrapper || !Path::new("/proc/self/stat").exists() {
        return Ok(cmd);
    }
    Ok(cmd.env("RUSTC_WRAPPER", own_link(target_folder)?).env(LOG, log))
}

/// A second name of this program. The build may put another in the place of the first, and between taking the old one away and
/// putting the new one there, a compiler could not be started.
fn own_link(target_folder: &Path) -> Result<PathBuf> {
    let this = std::env::current_exe().context("cannot tell where this program lies")?;
    let folder = target_folder.join("slipway/test");
    stdx::fs::create_dir_all(&folder)?;
    let new = tempfile::Builder::new().prefix("rustc").tempdir_in(&folder);
    let new = new.with_context(|| format!("cannot write to {}", folder.display()))?;
    let (fresh, link) = (new.path().join("wrapper"), folder.join("rustc-wrapper"));
    // On another file system there is no second name, but a copy.
    std::fs::hard_link(&this, &fresh)
        .or_else(|_| std::fs::copy(&this, &fresh).map(drop))
        .and_then(|()| std::fs::rename(&fresh, &link))
        .with_context(|| format!("cannot make {}", link.display()))?;
    Ok(link)
}

/// Where this program was called as a compiler wrapper: compiles, notes what that took, and gives the exit code. To be called
/// before anything else.
pub fn run_as_compiler() -> Option<ExitCode> {
    let log = std::env::var_os(LOG)?;
    let mut args = std::env::args_os().skip(1);
    let compiler = args.next()?;
    let args: Vec<OsString> = args.collect();
    let mut command = Command::new(&compiler);
    command.args(&args).env_remove(LOG);
    let Some(stem) = test_binary(&args) else {
        let error = command.exec();
        eprintln!("error: cannot run {}: {error}", compiler.display());
        return Some(ExitCode::FAILURE);
    };
    let code = match command.status() {
        Ok(status) => status.code().unwrap_or(1),
        Err(error) => {
            eprintln!("error: cannot run {}: {error}", compiler.display());
            1
        }
    };
    // What cannot be noted is not worth a failed build.
    if let (0, Some(seconds), Ok(mut file)) =
        (code, children_seconds(), std::fs::OpenOptions::new().append(true).open(log))
    {
        let _ = file.write_all(format!("{seconds} {stem}\n").as_bytes());
    }
    Some(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// File name of the test binary that a compiler call makes.
fn test_binary(args: &[OsString]) -> Option<String> {
    let texts: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or_default()).collect();
    let after =
        |name: &str| texts.iter().position(|arg| *arg == name).and_then(|at| texts.get(at + 1)).copied();
    let extra = texts.iter().find_map(|arg| arg.strip_prefix("extra-filename=")).unwrap_or_default();
    texts.contains(&"--test").then_some(())?;
    Some(format!("{}{extra}", after("--crate-name")?))
}

/// Processor seconds of all processes that this one waited for (proc(5), fields 16 and 17 of `stat`).
fn children_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is a name in parentheses, and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(13);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Seconds by file name.
fn read_log(path: &Path) -> Result<BTreeMap<String, f64>> {
    let text = stdx::fs::read_to_string(path)?;
    let entry = |line: &str| {
        let (seconds, stem) = line.split_once(' ')?;
        Some((stem.to_owned(), seconds.parse().ok()?))
    };
    Ok(text.lines().filter_map(entry).collect())
}

/// What cargo said of a build.
#[derive(Default)]
struct Said {
    tests: Vec<Artifact>,
    /// Programs of packages, which their integration tests may run.
    programs: BTreeMap<PackageId, Vec<(String, PathBuf)>>,
    scripts: BTreeMap<PackageId, BuildScript>,
}

impl Said {
    fn add(&mut self, message: Message) {
        match message {
            Message::CompilerArtifact(artifact) if artifact.profile.test && artifact.executable.is_some() => {
                self.tests.push(artifact);
            }
            Message::CompilerArtifact(artifact) => {
                let is_program = artifact.target.kind.contains(&TargetKind::Bin);
                if let (true, Some(path)) = (is_program, artifact.executable) {
                    let program = (artifact.target.name, path.into_std_path_buf());
                    self.programs.entry(artifact.package_id).or_default().push(program);
                }
            }
            Message::BuildScriptExecuted(script) => {
                self.scripts.insert(script.package_id.clone(), script);
            }
            _ => {}
        }
    }
}

/// Where test binaries run.
struct Place<'a> {
    targets: &'a Targets,
    said: &'a Said,
    libraries: OsString,
    /// Processor seconds by file name of the binary.
    costs: BTreeMap<String, f64>,
    config: TestConfig,
}

impl Place<'_> {
    fn binary(&self, artifact: &Artifact) -> Result<BuiltBinary> {
        let package = &self.targets.metadata[&artifact.package_id];
        let program = artifact.executable.as_ref().context("a test binary without a program")?.as_std_path();
        let id = binary_id(package.name.as_str(), &artifact.target)
            .with_context(|| format!("{} is not a kind of test that is known", program.display()))?;
        let folder = package.manifest_path.parent().context("a manifest without a folder")?;
        let mut words = self.config.runner.iter().cloned().chain([program.into()]);
        let mut cmd = Cmd::new(words.next().unwrap_or_default()).args(words).cwd(folder.as_std_path());
        for (name, (value, is_forced)) in &self.config.env {
            if *is_forced || std::env::var_os(name).is_none() {
                cmd = cmd.env(name, value);
            }
        }
        cmd.env.extend(environment(package, self.said, &self.libraries));
        let stem = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(BuiltBinary {
            has_harness: !self.targets.without_harness.contains(&id),
            id,
            command: cmd,
            build_seconds: self.costs.get(&stem).copied(),
        })
    }
}

/// The variables that `cargo test` sets while tests run.
fn environment(package: &Package, said: &Said, libraries: &OsStr) -> BTreeMap<OsString, Option<OsString>> {
    let version = &package.version;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let path = |value: &Option<cargo_metadata::camino::Utf8PathBuf>| {
        value.as_ref().map(ToString::to_string).unwrap_or_default()
    };
    let folder = package.manifest_path.parent().map(ToString::to_string).unwrap_or_default();
    let facts = [
        ("CARGO_MANIFEST_DIR", folder),
        ("CARGO_MANIFEST_PATH", package.manifest_path.to_string()),
        ("CARGO_PKG_NAME", package.name.to_string()),
        ("CARGO_PKG_VERSION", version.to_string()),
        ("CARGO_PKG_VERSION_MAJOR", version.major.to_string()),
        ("CARGO_PKG_VERSION_MINOR", version.minor.to_string()),
        ("CARGO_PKG_VERSION_PATCH", version.patch.to_string()),
        ("CARGO_PKG_VERSION_PRE", version.pre.to_string()),
        ("CARGO_PKG_AUTHORS", package.authors.join(":")),
        ("CARGO_PKG_DESCRIPTION", text(&package.description)),
        ("CARGO_PKG_HOMEPAGE", text(&package.homepage)),
        ("CARGO_PKG_REPOSITORY", text(&package.repository)),
        ("CARGO_PKG_LICENSE", text(&package.license)),
        ("CARGO_PKG_LICENSE_FILE", path(&package.license_file)),
        ("CARGO_PKG_README", path(&package.readme)),
        (
            "CARGO_PKG_RUST_VERSION",
            package.rust_version.as_ref().map(ToString::to_string).unwrap_or_default(),
        ),
    ];
    let mut env: BTreeMap<OsString, Option<OsString>> =
        facts.into_iter().map(|(name, value)| (name.into(), Some(value.into()))).collect();
    env.insert("CARGO".into(), Some(crate::targets::cargo().program));
    env.insert("LD_LIBRARY_PATH".into(), Some(libraries.to_owned()));
    for (name, path) in said.programs.get(&package.id).into_iter().flatten() {
        env.insert(format!("CARGO_BIN_EXE_{name}").into(), Some(path.into()));
    }
    if let Some(script) = said.scripts.get(&package.id) {
        env.insert("OUT_DIR".into(), Some(script.out_dir.as_os_str().to_owned()));
        env.extend(script.env.iter().map(|(name, value)| (name.into(), Some(value.into()))));
    }
    env
}

/// Where tests find shared libraries: those of build scripts, of the build, and of Rust itself, before the user's own.
fn library_folders(targets: &Targets, said: &Said) -> Result<OsString> {
    let root = &targets.root;
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let rust = Cmd::new(rustc).args(["--print", "target-libdir"]).cwd(root).read()?;
    let mut folders: Vec<PathBuf> = Vec::new();
    for path in said.scripts.values().flat_map(|script| &script.linked_paths) {
        let path = path.as_str().split_once('=').map_or(path.as_str(), |(_, path)| path);
        // As cargo does: folders of the system are the system's business.
        if Path::new(path).starts_with(&targets.target_folder) {
            folders.push(path.into());
        }
    }
    if let Some(deps) = said.tests.first().and_then(|test| test.executable.as_ref()?.parent()) {
        folders.push(deps.as_std_path().to_owned());
        folders.extend(deps.parent().map(|profile| profile.as_std_path().to_owned()));
    }
    folders.push(rust.into());
    let inherited = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let inherited = std::env::split_paths(&inherited).filter(|path| !path.as_os_str().is_empty());
    let mut seen = BTreeSet::new();
    let all = folders.into_iter().chain(inherited).filter(|path| seen.insert(path.clone()));
    std::env::join_paths(all).context("a folder of shared libraries has a colon in its name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_call_for_a_test_binary_is_known_by_its_file_name() {
        let args = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let call =
            "--crate-name it --edition=2024 tests/it/main.rs --test -C metadata=1 -C extra-filename=-0af1";
        assert_eq!(test_binary(&args(call)).as_deref(), Some("it-0af1"));
        assert_eq!(test_binary(&args("--crate-name it src/lib.rs -C extra-filename=-0af1")), None);
        assert_eq!(test_binary(&args("-vV")), None);
    }

    #[test]
    fn processor_time_of_children_is_known_here() {
        assert!(children_seconds().is_some_and(|seconds| seconds >= 0.0));
    }
}
