//! `slipway.debian.lock`: which Debian packages the images of a workspace are made of, each by version and digest, with the reason
//! why it is there. It names no mirror: paths are relative to whichever one a machine is configured with.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use stdx::Digest;

use super::index::{Index, check_path};
use super::relation::is_name;
use super::resolve::{self, Request};
use super::version;

const SCHEMA: &str = "slipway.debian-lock/1";

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Name and version of the form.
    pub schema: String,
    /// Release, by codename.
    pub release: String,
    /// What the packages were chosen from, by suite.
    pub suites: BTreeMap<String, Suite>,
    /// By processor and name. One package has one version, whichever roots it is in.
    pub packages: BTreeMap<String, BTreeMap<String, LockedPackage>>,
    /// What was asked for, and what it comes to.
    pub roots: Vec<LockedRoot>,
}

/// A suite as it was when packages were chosen from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// When it was signed.
    pub date: String,
    /// Digest of the signed file.
    pub signed: Digest,
}

/// A package by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPackage {
    /// Its version.
    pub version: String,
    /// Processor, or `all`.
    pub architecture: String,
    /// Which archive has it: `debian` or `debian-security`.
    pub archive: String,
    /// Its file, relative to the archive.
    pub path: String,
    /// Digest of the file, in hex.
    pub sha256: String,
    /// Bytes of the file.
    pub size: u64,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Packages that are asked for, in order of names.
    pub asked: Vec<String>,
    /// Packages that are left out, in order of names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
}

/// What was asked for, and what it comes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedRoot {
    /// What was asked for.
    #[serde(flatten)]
    pub wanted: Wanted,
    /// Why each package is there, by processor and name.
    pub reasons: BTreeMap<String, BTreeMap<String, String>>,
}

impl Wanted {
    /// A request; the order and repetitions of names do not matter.
    pub fn new(asked: &[String], without: &[String]) -> Wanted {
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort_unstable();
            names.dedup();
            names
        };
        Wanted { asked: sorted(asked), without: sorted(without) }
    }
}

impl LockedPackage {
    /// The digest of its file.
    ///
    /// # Errors
    /// When the lock was not checked.
    pub fn digest(&self) -> Result<Digest> {
        Ok(format!("sha256:{}", self.sha256).parse()?)
    }
}

impl Lock {
    /// The name of the file, at the workspace root.
    pub const FILE: &'static str = "slipway.debian.lock";

    /// Reads the lock file of the workspace at `root`; `None` where there is none.
    ///
    /// # Errors
    /// When it is no lock file, or was changed by hand to what it cannot hold.
    pub fn load(root: &Path) -> Result<Option<Lock>> {
        let path = root.join(Lock::FILE);
        let Some(bytes) = stdx::fs::read_if_exists(&path)? else { return Ok(None) };
        Lock::parse(&bytes).map(Some).with_context(|| format!("cannot read {}", path.display()))
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Lock> {
        ensure!(bytes.len() <= 64 << 20, "it is too large");
        let lock: Lock = serde_json::from_slice(bytes)?;
        ensure!(
            lock.schema == SCHEMA,
            "its form is `{}`, and `{SCHEMA}` is known",
            lock.schema.escape_debug()
        );
        for (name, package) in lock.packages.values().flatten() {
            let check = || {
                ensure!(is_name(name) && version::is_valid(&package.version), "it has no name or version");
                ensure!(
                    matches!(package.archive.as_str(), "debian" | "debian-security"),
                    "its archive is not known"
                );
                check_path(&package.path)?;
                package.digest()
            };
            check().with_context(|| {
                format!("what it says of the package `{}` cannot be", name.escape_debug())
            })?;
        }
        for root in &lock.roots {
            for (architecture, reasons) in &root.reasons {
                let known = lock.packages.get(architecture);
                let lost = reasons.keys().find(|name| !known.is_some_and(|known| known.contains_key(*name)));
                if let Some(name) = lost {
                    bail!("a root has the package `{name}`, of which nothing is said for {architecture}");
                }
            }
        }
        Ok(lock)
    }

    /// The one way to write it down.
    ///
    /// # Errors
    /// Never for a lock that was read or made here.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// The packages that `wanted` comes to, in order of names.
    ///
    /// # Errors
    /// When it was not locked.
    pub fn root(&self, wanted: &Wanted, architecture: &str) -> Result<BTreeMap<&str, &LockedPackage>> {
        let next = "run `cargo xtask base lock`";
        let root = self.roots.iter().find(|root| root.wanted == *wanted);
        let root = root
            .with_context(|| format!("{} has no root of {}; {next}", Lock::FILE, wanted.asked.join(", ")))?;
        let reasons = root.reasons.get(architecture).with_context(|| {
            format!(
                "{} is not for {architecture}; add it to `debian.architectures` of slipway.yaml and {next}",
                Lock::FILE
            )
        })?;
        let known = &self.packages[architecture];
        Ok(reasons.keys().map(|name| (name.as_str(), &known[name])).collect())
    }
}

/// Chooses packages for all roots, for each processor from its index. Versions of `before` are kept where they can be had.
pub(crate) fn lock(
    release: &str,
    suites: BTreeMap<String, Suite>,
    indices: &BTreeMap<String, Index>,
    roots: &[Wanted],
    before: Option<&Lock>,
) -> Result<Lock> {
    let mut lock = Lock {
        schema: SCHEMA.to_owned(),
        release: release.to_owned(),
        suites,
        packages: BTreeMap::new(),
        roots: Vec::new(),
    };
    let mut wanted = roots.to_vec();
    wanted.sort_unstable();
    wanted.dedup();
    for wanted in wanted {
        let mut reasons = BTreeMap::new();
        for (architecture, index) in indices {
            let before = before.and_then(|before| before.packages.get(architecture));
            let mut preferred: BTreeMap<&str, &str> = before
                .iter()
                .flat_map(|packages| packages.iter().map(|(name, one)| (name.as_str(), one.version.as_str())))
                .collect();
            let locked = lock.packages.entry(architecture.clone()).or_default();
            let others: Vec<(String, String)> =
                locked.iter().map(|(name, one)| (name.clone(), one.version.clone())).collect();
            preferred.extend(others.iter().map(|(name, version)| (name.as_str(), version.as_str())));
            let request = Request { asked: &wanted.asked, without: &wanted.without, preferred };
            let chosen = resolve::resolve(index, &request).with_context(|| {
                format!("cannot choose packages for {} on {architecture}", wanted.asked.join(", "))
            })?;
            let mut why = BTreeMap::new();
            for (name, (package, reason)) in chosen {
                let one = LockedPackage {
                    version: package.version.clone(),
                    architecture: package.architecture.clone(),
                    archive: package.archive.clone(),
                    path: package.path.clone(),
                    sha256: package.sha256.hex(),
                    size: package.size,
                };
                if let Some(other) = locked.insert(name.to_owned(), one.clone())
                    && other != one
                {
                    bail!("{name} is needed in the versions {} and {} at once", other.version, one.version);
                }
                why.insert(name.to_owned(), reason);
            }
            reasons.insert(architecture.clone(), why);
        }
        lock.roots.push(LockedRoot { wanted, reasons });
    }
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Lock {
        let text = |version: &str| {
            format!(
                "Package: aa\nVersion: {version}\nArchitecture: amd64\nFilename: pool/aa_{version}.deb\nSize: 1\nSHA256: {}\nDepends: bb\n\n\
                 Package: bb\nVersion: {version}\nArchitecture: all\nFilename: pool/bb_{version}.deb\nSize: 1\nSHA256: {}\n\n",
                "00".repeat(32),
                "11".repeat(32)
            )
        };
        let mut index = Index::default();
        index.add("debian", &text("1")).unwrap();
        let indices = BTreeMap::from([("amd64".to_owned(), index.clone())]);
        let roots = [Wanted::new(&["aa".into()], &[])];
        let first = lock("bookworm", BTreeMap::new(), &indices, &roots, None).unwrap();
        index.add("debian-security", &text("2")).unwrap();
        let indices = BTreeMap::from([("amd64".to_owned(), index)]);
        let kept = lock("bookworm", BTreeMap::new(), &indices, &roots, Some(&first)).unwrap();
        assert_eq!(kept, first);
        let fresh = lock("bookworm", BTreeMap::new(), &indices, &roots, None).unwrap();
        assert_eq!(fresh.packages["amd64"]["bb"].version, "2");
        first
    }

    #[test]
    fn a_lock_comes_back_and_answers_by_what_was_asked() {
        let lock = sample();
        assert_eq!(Lock::parse(&lock.to_bytes().unwrap()).unwrap(), lock);
        let root = lock.root(&Wanted::new(&["aa".into(), "aa".into()], &[]), "amd64").unwrap();
        assert_eq!(root.into_keys().collect::<Vec<_>>(), ["aa", "bb"]);
        assert_eq!(lock.roots[0].reasons["amd64"]["bb"], "needed by aa");
        let error = lock.root(&Wanted::new(&["bb".into()], &[]), "amd64").unwrap_err().to_string();
        assert!(error.contains("cargo xtask base lock"), "{error}");
        assert!(
            lock.root(&Wanted::new(&["aa".into()], &[]), "arm64").unwrap_err().to_string().contains("arm64")
        );
    }

    #[test]
    fn a_lock_that_was_changed_is_refused_and_no_bytes_panic() {
        let text = String::from_utf8(sample().to_bytes().unwrap()).unwrap();
        for (from, to) in [
            ("pool/aa", "../aa"),
            ("lock/1", "lock/2"),
            ("\"bb\": {", "\"cc\": {"),
            ("0000", "00"),
            ("\"debian\"", "\"evil\""),
        ] {
            assert_ne!(text.replacen(from, to, 1), text, "{from}");
            assert!(Lock::parse(text.replacen(from, to, 1).as_bytes()).is_err(), "{to}");
        }
        for cut in 0..text.len() {
            Lock::parse(&text.as_bytes()[..cut]).ok();
        }
    }
}
