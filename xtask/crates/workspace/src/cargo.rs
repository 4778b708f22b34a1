//! What Cargo's configuration files and environment say, by Cargo's own rules of precedence. It asks neither Cargo nor a
//! compiler but for the host's name, and does not know which packages there are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::base::Linkage;
use crate::include;

/// What Cargo's configuration files and environment say for one workspace and target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CargoConfig {
    /// The target triple to build for.
    pub target: String,
    /// The flags that Cargo would give rustc for that target, from the environment or the configuration files by Cargo's
    /// own rules of precedence.
    pub rustflags: Vec<String>,
    /// The linker that the user chose for the target.
    pub linker: Option<PathBuf>,
    /// Folder of Cargo's registry and git checkouts.
    pub cargo_home: PathBuf,
    /// Variables of the `[env]` tables.
    pub env: BTreeMap<String, String>,
    /// Those of them that Cargo sets whatever the environment says.
    pub forced_env: Vec<String>,
}

/// Cargo's folder for build output, by its configuration. Asks neither Cargo nor rustc.
pub fn target_dir(root: &Path) -> Result<PathBuf> {
    let config = include::configuration(root)?;
    Ok(root.join(config.build.target_dir.as_deref().unwrap_or(Path::new("target"))))
}

/// What Cargo's configuration says about running tests on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestConfig {
    /// Whether compilers are called through a program of the user's.
    pub has_rustc_wrapper: bool,
    /// The program, with arguments, through which binaries for this machine are run; empty for none.
    pub runner: Vec<std::ffi::OsString>,
    /// Variables of the `[env]` tables, and whether each counts for more than the environment.
    pub env: BTreeMap<String, (std::ffi::OsString, bool)>,
}

impl TestConfig {
    /// Reads Cargo's configuration as seen from the workspace root.
    pub fn load(root: &Path) -> Result<TestConfig> {
        let config = include::configuration(root)?;
        let host = config.host_triple().context("cannot ask rustc for its host")?.to_owned();
        let runner = config.runner(host.as_str())?;
        let env = config.env.iter().map(|(name, value)| (name.clone(), (value.value.clone(), value.force)));
        Ok(TestConfig {
            has_rustc_wrapper: config.build.rustc_wrapper.is_some(),
            runner: runner
                .map(|r| [r.path.into_os_string()].into_iter().chain(r.args).collect())
                .unwrap_or_default(),
            env: env.collect(),
        })
    }
}

impl CargoConfig {
    /// Reads Cargo's configuration as seen from the workspace root.
    pub fn load(root: &Path, target: Option<&str>) -> Result<CargoConfig> {
        let config = include::configuration(root)?;
        let cargo_home = cargo_home(root).context("neither CARGO_HOME nor HOME is set")?;
        let target = match target {
            Some(target) => target.to_owned(),
            None => match configured_target(&config) {
                Some(target) => target,
                None => default_target(config.host_triple().context("cannot ask rustc for its host")?)?,
            },
        };
        let rustflags = config.rustflags(target.as_str())?.map(|flags| flags.flags).unwrap_or_default();
        let linker = config.linker(target.as_str())?;
        let text = |value: &cargo_config2::EnvConfigValue| value.value.to_string_lossy().into_owned();
        let env = config.env.iter().map(|(name, value)| (name.clone(), text(value))).collect();
        let forced_env =
            config.env.iter().filter(|(_, value)| value.force).map(|(name, _)| name.clone()).collect();
        Ok(CargoConfig { target, rustflags, linker, cargo_home, env, forced_env })
    }

    /// What Cargo lets compilers and build scripts see of the variable `name`, which is `inherited` in its own environment.
    pub fn variable(&self, name: &str, inherited: Option<String>) -> Option<String> {
        let configured = || self.env.get(name).cloned();
        let is_forced = self.forced_env.iter().any(|forced| forced == name);
        if is_forced { configured() } else { inherited.or_else(configured) }
    }

    /// The flags that can decide what is compiled for an image: the user's, then static linking.
    pub fn image_rustflags(&self) -> Vec<String> {
        self.linking_rustflags(Linkage::Static)
    }

    /// The user's flags, then how the binary is linked. Rust's own default is shared with glibc and static with musl.
    pub fn linking_rustflags(&self, linkage: Linkage) -> Vec<String> {
        let ours = match linkage {
            Linkage::Static if self.target.ends_with("-linux-gnu") => Some("-Ctarget-feature=+crt-static"),
            Linkage::Shared if self.target.ends_with("-linux-musl") => Some("-Ctarget-feature=-crt-static"),
            Linkage::Static | Linkage::Shared => None,
        };
        self.rustflags.iter().cloned().chain(ours.map(str::to_owned)).collect()
    }
}

/// Cargo's folder of registries and checkouts, as seen from `root`; `None` where neither CARGO_HOME nor HOME is set.
pub fn cargo_home(root: &Path) -> Option<PathBuf> {
    match std::env::var_os("CARGO_HOME").filter(|value| !value.is_empty()) {
        Some(home) => Some(root.join(home)),
        None => Some(std::env::home_dir()?.join(".cargo")),
    }
}

/// The one target that Cargo is configured to build for, where images can be made of it.
fn configured_target(config: &cargo_config2::Config) -> Option<String> {
    let [target] = config.build.target.as_deref()? else { return None };
    Some(target.triple().to_owned()).filter(|triple| triple.contains("-linux-"))
}

/// Images are Linux images, linked against glibc whatever the host's own default is.
fn default_target(host: &str) -> Result<String> {
    let architecture = host.split('-').next().unwrap_or_default();
    if !host.contains("linux") {
        bail!(
            "this machine is {host}; set `build.target` in slipway.yaml to a Linux target that is installed"
        );
    }
    Ok(format!("{architecture}-unknown-linux-gnu"))
}
