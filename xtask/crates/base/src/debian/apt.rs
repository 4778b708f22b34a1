//! The archives, asked through this machine's own `apt`: its mirrors, its proxies, its keys. `apt` fetches and checks signatures
//! in folders of its own below the store, as an ordinary user; nothing of the machine is changed. What it fetched is checked again
//! here, file by file, against the signed digests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use stdx::{Cmd, Digest};

use super::index::{Index, release};
use super::lock::{LockedPackage, Suite};

/// What fetches a single file.
const HELPER: &str = "/usr/lib/apt/apt-helper";
/// Keys of the archive, where Debian's package of them puts it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Names another mirror than the machine's own, for instance a snapshot.
pub const MIRROR_VARIABLE: &str = "SLIPWAY_DEBIAN_MIRROR";
/// The same for the archive of security updates.
pub const SECURITY_MIRROR_VARIABLE: &str = "SLIPWAY_DEBIAN_SECURITY_MIRROR";
/// Keys of a mirror that signs by itself.
pub const KEYRING_VARIABLE: &str = "SLIPWAY_DEBIAN_KEYRING";
/// Packages that are fetched by one process.
const AT_ONCE: usize = 40;

/// Addresses of the archives, by our names of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mirrors(BTreeMap<&'static str, String>);

impl Mirrors {
    /// The mirrors that this machine is configured with.
    pub(crate) fn load() -> Result<Mirrors> {
        let format = "$(ORIGIN)\t$(CODENAME)\t$(REPO_URI)";
        let text =
            Cmd::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]).read();
        let text = text.context("cannot ask apt for this machine's mirrors; a machine without apt needs the .deb files in its store")?;
        let mut mirrors = Mirrors::parse(&text);
        let named = |variable: &str| std::env::var(variable).ok().filter(|uri| !uri.is_empty());
        let (main, security) = (named(MIRROR_VARIABLE), named(SECURITY_MIRROR_VARIABLE));
        if main.is_some() {
            // Whoever names a mirror means that one, and not half of the machine's beside it.
            mirrors.0.clear();
        }
        for (archive, uri) in [("debian", main), ("debian-security", security)] {
            mirrors.0.extend(uri.map(|uri| (archive, uri.trim_end_matches('/').to_owned())));
        }
        ensure!(
            mirrors.0.contains_key("debian"),
            "apt is configured with no mirror of Debian here; name one in {MIRROR_VARIABLE}"
        );
        Ok(mirrors)
    }

    /// Other vendors' archives are told apart by their origin, or by their address as long as nothing was fetched from them.
    fn parse(text: &str) -> Mirrors {
        let mut mirrors = BTreeMap::new();
        for line in text.lines() {
            let mut fields = line.split('\t');
            let (Some(origin), Some(codename), Some(uri)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let uri = uri.trim_end_matches('/');
            let is_debian =
                origin == "Debian" || uri.ends_with("/debian") || uri.ends_with("/debian-security");
            if is_debian {
                let is_security = codename.ends_with("-security") || uri.ends_with("-security");
                let archive = if is_security { "debian-security" } else { "debian" };
                mirrors.entry(archive).or_insert_with(|| uri.to_owned());
            }
        }
        Mirrors(mirrors)
    }
}

/// `apt` with folders of its own.
pub(crate) struct Apt {
    folder: PathBuf,
    mirrors: Mirrors,
}

impl Apt {
    pub(crate) fn new(folder: &Path) -> Result<Apt> {
        let mirrors = Mirrors::load()?;
        for name in ["state/lists/partial", "cache/archives/partial"] {
            stdx::fs::create_dir_all(&folder.join(name))?;
        }
        Ok(Apt { folder: folder.to_owned(), mirrors })
    }

    /// Settings that lead everything into our own folders and take nothing but our own list of sources.
    fn options(&self) -> Vec<String> {
        let at = |name: &str| self.folder.join(name).display().to_string();
        let options = [
            ("Dir::State", at("state")),
            ("Dir::State::lists", at("state/lists")),
            ("Dir::State::status", "/dev/null".to_owned()),
            ("Dir::Cache", at("cache")),
            ("Dir::Etc::sourcelist", at("debian.sources")),
            ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
            ("Dir::Etc::preferences", "/dev/null".to_owned()),
            ("Dir::Etc::preferencesparts", "/dev/null".to_owned()),
            ("Acquire::GzipIndexes", "false".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            ("Acquire::Retries", "3".to_owned()),
            ("APT::Get::List-Cleanup", "true".to_owned()),
            // Only root has another user to become, and that one may not enter our folders.
            ("APT::Sandbox::User", "root".to_owned()),
        ];
        options.into_iter().flat_map(|(name, value)| ["-o".to_owned(), format!("{name}={value}")]).collect()
    }

    /// What the archives have now, by processor, and the suites as they are now.
    pub(crate) fn update(
        &self,
        release: &str,
        architectures: &[String],
    ) -> Result<(BTreeMap<String, Index>, BTreeMap<String, Suite>)> {
        self.write_sources(release, architectures)?;
        let cmd = Cmd::new("apt-get").args(self.options()).args(["--error-on=any", "-q", "update"]);
        cmd.read().context("apt cannot fetch the lists of packages, or does not trust them")?;
        let format = "$(FILENAME)\t$(METAKEY)\t$(CODENAME)\t$(ARCHITECTURE)\t$(REPO_URI)";
        let cmd = Cmd::new("apt-get").args(self.options());
        let targets = cmd.args(["indextargets", "--format", format, "Created-By: Packages"]).read()?;
        let mut indices: BTreeMap<String, Index> = BTreeMap::new();
        let mut suites = BTreeMap::new();
        for line in targets.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [file, key, codename, architecture, uri] = fields[..] else {
                bail!("apt's answer `{line}` is not understood")
            };
            let is_security = self.mirrors.0.get("debian-security").map(String::as_str)
                == Some(uri.trim_end_matches('/'))
                && codename.ends_with("-security");
            let archive = if is_security { "debian-security" } else { "debian" };
            let (text, suite) = checked(Path::new(file), key, codename)?;
            suites.insert(codename.to_owned(), suite);
            let index = indices.entry(architecture.to_owned()).or_default();
            index.add(archive, &text).with_context(|| format!("cannot read the packages of {codename}"))?;
        }
        let lost = architectures.iter().find(|architecture| !indices.contains_key(*architecture));
        ensure!(lost.is_none(), "the archive has no packages for {}", lost.map_or("", String::as_str));
        Ok((indices, suites))
    }

    fn write_sources(&self, release: &str, architectures: &[String]) -> Result<()> {
        let own = std::env::var(KEYRING_VARIABLE).ok().filter(|path| !path.is_empty());
        let keyring = own.or_else(|| Path::new(KEYRING).exists().then(|| KEYRING.to_owned()));
        // Without one apt takes the keys that the machine trusts for all archives.
        let signed = keyring.map(|keyring| format!("Signed-By: {keyring}\n")).unwrap_or_default();
        let mut text = String::new();
        for (archive, uri) in &self.mirrors.0 {
            ensure!(!uri.contains(char::is_whitespace), "the mirror `{uri}` is no address");
            let suites = match *archive {
                "debian" => format!("{release} {release}-updates"),
                _ => format!("{release}-security"),
            };
            text += &format!(
                "Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nArchitectures: {}\n{signed}\n",
                architectures.join(" ")
            );
        }
        stdx::fs::write_atomic(&self.folder.join("debian.sources"), text.as_bytes(), 0o644)
    }

    /// Fetches packages into `folder`, each under the hex digits of its digest.
    pub(crate) fn fetch(&self, packages: &[&LockedPackage], folder: &Path) -> Result<()> {
        for some in packages.chunks(AT_ONCE) {
            let mut cmd = Cmd::new(HELPER).args(self.options());
            cmd = cmd.arg("download-file");
            for package in some {
                let uri = self.mirrors.0.get(package.archive.as_str()).with_context(|| {
                    format!(
                        "apt is configured with no mirror of {} here; name one in {SECURITY_MIRROR_VARIABLE}",
                        package.archive
                    )
                })?;
                let to = folder.join(&package.sha256).display().to_string();
                cmd = cmd.args([format!("{uri}/{}", package.path), to, format!("SHA256:{}", package.sha256)]);
            }
            cmd.read().with_context(|| {
                format!(
                    "cannot fetch packages that are locked; a mirror keeps only the latest: run `cargo xtask base lock --update`, \
                     or name a snapshot of the archive in {MIRROR_VARIABLE}"
                )
            })?;
        }
        Ok(())
    }
}

/// The list of packages in `file`, held against the digests of the release file that `apt` found to be signed.
fn checked(file: &Path, key: &str, codename: &str) -> Result<(String, Suite)> {
    let path = file.display().to_string();
    let (prefix, _) =
        path.split_once("_main_").context("apt keeps its lists under names that are not understood")?;
    let signed_path = PathBuf::from(format!("{prefix}_InRelease"));
    let signed = stdx::fs::read(&signed_path)?;
    let said = release(&String::from_utf8_lossy(&signed))
        .with_context(|| format!("cannot read {}", signed_path.display()))?;
    ensure!(
        said.codename == codename,
        "the archive calls itself {}, and {codename} was asked for",
        said.codename
    );
    let bytes = stdx::fs::read(file)?;
    let expected = said.files.get(key).with_context(|| format!("the release {codename} has no {key}"))?;
    ensure!(
        *expected == (Digest::of(&bytes), bytes.len() as u64),
        "{path} is not the file that the release {codename} names"
    );
    let text = String::from_utf8(bytes).with_context(|| format!("{path} is not UTF-8"))?;
    Ok((text, Suite { date: said.date, signed: Digest::of(&signed) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_of_other_vendors_are_passed_over() {
        let text = "Debian\tbookworm\thttp://mirror.example/d/\nOther\tstable\thttp://vendor.example/apt/\n\
                    \tbookworm-security\thttp://mirror.example/debian-security/\nDebian\tbookworm-updates\thttp://second.example/debian/\n";
        let mirrors = Mirrors::parse(text);
        assert_eq!(mirrors.0["debian"], "http://mirror.example/d");
        assert_eq!(mirrors.0["debian-security"], "http://mirror.example/debian-security");
        assert_eq!(mirrors.0.len(), 2);
    }
}
