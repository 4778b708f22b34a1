//! The flags and variables that keep this machine out of the bits: where things lie is replaced by fixed names, how
//! a binary is linked follows its base, and what build scripts may read of the clock and of chance is fixed. The user's own flags stay, in front of ours.
//!
//! Source of the order: rustc applies the last `--remap-path-prefix` that matches, so general prefixes come first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use cargo_metadata::Metadata;
use stdx::Digest;
use workspace::{CargoConfig, Linkage};

use crate::toolchain::Toolchain;

/// Build scripts and procedural macros that ask for the time are told this one (1980-01-01, the first that zip archives can
/// hold), so that a commit that changes nothing else changes no binary. A value that the user set is left alone.
pub const SOURCE_DATE_EPOCH: &str = "315532800";

/// A path of this machine and the name that stands for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Remap {
    pub(crate) from: PathBuf,
    pub(crate) to: String,
}

/// Every path that could get into a binary, general ones first.
pub(crate) fn remaps(
    root: &Path,
    cargo: &CargoConfig,
    build_dir: &Path,
    toolchain: &Toolchain,
    metadata: &Metadata,
) -> Vec<Remap> {
    let mut map = BTreeMap::new();
    map.insert(root.to_owned(), "/workspace".to_owned());
    map.insert(cargo.cargo_home.clone(), "/cargo".to_owned());
    map.insert(build_dir.to_owned(), "/target".to_owned());
    for package in &metadata.packages {
        let Some(folder) = package.manifest_path.as_std_path().parent() else { continue };
        match package.source.as_ref().map(|source| source.repr.as_str()) {
            // `<home>/registry/src/<index>/<name>-<version>`: the index folder's name is a hash that differs behind a mirror.
            Some(source) if source.starts_with("registry+") || source.starts_with("sparse+") => {
                if let Some(index) = folder.parent() {
                    map.insert(index.to_owned(), "/cargo/registry/src".to_owned());
                }
            }
            Some(_) => {
                map.insert(folder.to_owned(), format!("/cargo/git/{}-{}", package.name, package.version));
            }
            None if !folder.starts_with(root) => {
                map.insert(folder.to_owned(), format!("/external/{}", package.name));
            }
            None => {}
        }
    }
    // As cargo's `trim-paths` names the standard library, present or not.
    map.insert(toolchain.sysroot.join("lib/rustlib/src/rust"), format!("/rustc/{}", toolchain.commit));
    let mut remaps: Vec<Remap> = map.into_iter().map(|(from, to)| Remap { from, to }).collect();
    remaps.sort_by_key(|remap| (remap.from.components().count(), remap.from.clone()));
    remaps
}

/// The value of `CARGO_ENCODED_RUSTFLAGS`: the user's flags, then ours.
///
/// # Errors
/// When the user's flags make binaries that only run on processors like this one.
pub(crate) fn rustflags(
    cargo: &CargoConfig,
    linkage: Linkage,
    toolchain: &Toolchain,
    remaps: &[Remap],
) -> Result<Vec<String>> {
    let native = cargo.rustflags.iter().any(|flag| flag.ends_with("target-cpu=native"));
    ensure!(
        !native,
        "the rustflags ask for `target-cpu=native`: such an image runs on processors like this one only; name a processor"
    );
    let mut flags = cargo.linking_rustflags(linkage);
    if !flags.iter().any(|flag| flag.contains("symbol-mangling-version")) {
        // The names of this version say which crate a generic function was compiled for.
        flags.push("-Csymbol-mangling-version=v0".to_owned());
    }
    flags.extend(
        remaps.iter().map(|remap| format!("--remap-path-prefix={}={}", remap.from.display(), remap.to)),
    );
    if toolchain.has_remap_scope() {
        flags.push("--remap-path-scope=object".to_owned());
    }
    Ok(flags)
}

/// Variables for cargo and what it runs; `None` removes one. `inherited` looks up what is set without us.
pub(crate) fn environment(
    cargo: &CargoConfig,
    profile: &str,
    lock: &[u8],
    rustflags: &[String],
    remaps: &[Remap],
    inherited: impl Fn(&str) -> Option<String>,
) -> BTreeMap<String, Option<String>> {
    let mut env = BTreeMap::new();
    let mut set = |name: &str, value: String| env.insert(name.to_owned(), Some(value));
    set("CARGO_ENCODED_RUSTFLAGS", rustflags.join("\x1f"));
    set("CARGO_INCREMENTAL", "0".to_owned());
    let profile_key = profile.to_uppercase().replace('-', "_");
    // Symbols tell whose the bytes are; the binary in the image has none.
    set(&format!("CARGO_PROFILE_{profile_key}_STRIP"), "debuginfo".to_owned());
    set("SOURCE_DATE_EPOCH", inherited("SOURCE_DATE_EPOCH").unwrap_or_else(|| SOURCE_DATE_EPOCH.to_owned()));
    set("CONST_RANDOM_SEED", Digest::of(lock).hex());
    set("TZ", "UTC".to_owned());
    set("LC_ALL", "C.UTF-8".to_owned());
    let target = cargo.target.replace('-', "_");
    for language in ["CFLAGS", "CXXFLAGS"] {
        // The cc crate takes the first of these that is set; the two most specific ones carry ours and the user's.
        let specific = [format!("{language}_{}", cargo.target), format!("{language}_{target}")];
        let general = [format!("TARGET_{language}"), language.to_owned()];
        let users = specific.iter().chain(&general).find_map(|name| inherited(name));
        let spaceless =
            remaps.iter().filter(|remap| !remap.from.to_string_lossy().contains(char::is_whitespace));
        let ours = spaceless.map(|remap| format!("-ffile-prefix-map={}={}", remap.from.display(), remap.to));
        let flags: Vec<String> = users.into_iter().chain(ours).collect();
        for name in &specific {
            set(name, flags.join(" "));
        }
    }
    for name in cargo.forced_env.iter().filter(|name| !name.contains("FLAGS") && !name.starts_with("CARGO")) {
        let forced = cargo.env.get(name).cloned();
        if let (Some(value), Some(forced)) = (env.get_mut(name), forced) {
            *value = Some(forced);
        }
    }
    // Our encoded flags hold these already; and whoever builds is no part of what is built.
    for name in ["RUSTFLAGS", "USER", "LOGNAME", "HOSTNAME", "LANG", "LANGUAGE"] {
        env.insert(name.to_owned(), None);
    }
    env
}

/// Cargo sets a variable that its configuration forces whatever this program says. Values that the user fixed so are part of the
/// source and hold; but C flags must carry ours as well, and a setting on the command line counts for more than a file's.
pub(crate) fn forced_c_flags(cargo: &CargoConfig, env: &BTreeMap<String, Option<String>>) -> Vec<String> {
    let is_c_flags = |name: &&String| name.starts_with("CFLAGS_") || name.starts_with("CXXFLAGS_");
    let forced = cargo.forced_env.iter().filter(is_c_flags);
    let setting = |name: &String| {
        // A text in JSON is one in TOML.
        let value = serde_json::Value::from(env.get(name)?.as_deref()?);
        Some(format!("--config=env.{name}.value={value}"))
    };
    forced.filter_map(setting).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cargo(rustflags: &[&str]) -> CargoConfig {
        CargoConfig {
            target: "x86_64-unknown-linux-gnu".into(),
            rustflags: rustflags.iter().map(|flag| (*flag).to_owned()).collect(),
            linker: None,
            cargo_home: "/home/u/.cargo".into(),
            env: BTreeMap::new(),
            forced_env: vec![],
        }
    }

    fn toolchain(release: &str) -> Toolchain {
        Toolchain {
            release: release.into(),
            commit: "c0ffee".into(),
            host: "host".into(),
            sysroot: "/sys".into(),
        }
    }

    #[test]
    fn the_users_flags_stay_and_come_first() {
        let remaps = [Remap { from: "/w".into(), to: "/workspace".into() }];
        let flags =
            rustflags(&cargo(&["--cfg", "tokio_unstable"]), Linkage::Static, &toolchain("1.95.0"), &remaps)
                .unwrap();
        let expected = [
            "--cfg",
            "tokio_unstable",
            "-Ctarget-feature=+crt-static",
            "-Csymbol-mangling-version=v0",
            "--remap-path-prefix=/w=/workspace",
            "--remap-path-scope=object",
        ];
        assert_eq!(flags, expected);
        let older = rustflags(&cargo(&[]), Linkage::Shared, &toolchain("1.94.1"), &remaps).unwrap();
        assert!(!older.iter().any(|flag| flag.contains("scope") || flag.contains("crt-static")));
    }

    #[test]
    fn flags_for_this_processor_alone_are_refused() {
        let error =
            rustflags(&cargo(&["-C", "target-cpu=native"]), Linkage::Static, &toolchain("1.95.0"), &[])
                .unwrap_err();
        assert!(error.to_string().contains("target-cpu=native"));
    }

    #[test]
    fn c_flags_carry_the_users_most_specific_ones() {
        let remaps = [
            Remap { from: "/w".into(), to: "/workspace".into() },
            Remap { from: "/a b".into(), to: "/c".into() },
        ];
        let inherited = |name: &str| match name {
            "CFLAGS" => Some("-O1".to_owned()),
            "TARGET_CFLAGS" => Some("-O2".to_owned()),
            _ => None,
        };
        let env = environment(&cargo(&[]), "dist-small", b"lock", &[], &remaps, inherited);
        assert_eq!(
            env["CFLAGS_x86_64_unknown_linux_gnu"].as_deref(),
            Some("-O2 -ffile-prefix-map=/w=/workspace")
        );
        assert_eq!(
            env["CXXFLAGS_x86_64_unknown_linux_gnu"].as_deref(),
            Some("-ffile-prefix-map=/w=/workspace")
        );
        assert_eq!(env["CARGO_PROFILE_DIST_SMALL_STRIP"].as_deref(), Some("debuginfo"));
        assert_eq!(env["SOURCE_DATE_EPOCH"].as_deref(), Some(SOURCE_DATE_EPOCH));
        assert_eq!(env["USER"], None);
    }
}
