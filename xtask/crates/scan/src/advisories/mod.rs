//! Advisories about packages, by what each package is to the services.

mod database;
mod fetch;
mod yanked;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, anyhow};
use finding::{Check, Finding, Place, Rule, Severity};
use rustsec::Advisory;
use rustsec::advisory::Informational;
use rustsec::platforms::{OS, Platform, target::Arch};
use rustsec::semver::Version;
use stdx::Cmd;

use crate::context::Context;
use crate::package::{Class, Package};
use crate::sbom;
pub use database::Database;
use database::{Collection, Entry};

/// Texts of advisories are shown up to this many characters.
const MOST_TEXT: usize = 300;

/// What packages run on.
#[derive(Debug, Clone, Copy)]
struct Target {
    os: Option<OS>,
    arch: Option<Arch>,
}

/// The check: advisories about the packages of the workspace and about its compiler.
///
/// # Errors
/// When there is no database to ask, or the workspace cannot be read.
pub fn advisories(context: &Context) -> Result<Vec<Finding>> {
    let load = || -> Result<_> { Ok((fetch::database(context)?, rustc_release(context)?)) };
    // Cargo, rustc and the database do not wait for each other.
    let (graph, loaded) = std::thread::scope(|scope| {
        let loading = scope.spawn(load);
        (context.graph(), loading.join().unwrap_or_else(|_| Err(anyhow!("reading the advisories panicked"))))
    });
    let (graph, (database, release)) = (graph?, loaded?);
    let mut packages = graph.packages.clone();
    packages.extend(toolchain_packages(&release, &graph.closures.services.keys().cloned().collect()));
    let place = |package: &Package| match (package.is_from_crates_io, package.line) {
        (true, line) => Place::File { path: "Cargo.lock".to_owned(), line, column: None },
        (false, _) => Place::file(toolchain_file(context)),
    };
    let mut findings = findings(&database, &packages, Some(&graph.target), place)?;
    let index = yanked::Index::open(&graph.cargo_home);
    let withdrawn =
        graph.packages.iter().filter_map(|package| Some(index.judge(package)?.at(place(package))));
    findings.extend(withdrawn);
    findings.extend(database_age(context, &database));
    Ok(findings)
}

/// The database that `slipway.yaml` names, fetched where it must be.
///
/// # Errors
/// When there is none, and it cannot be fetched.
pub fn database(context: &Context) -> Result<Database> {
    fetch::database(context)
}

/// The advisories of today's `database` about a stored SBOM, the CycloneDX document of the image of `service` that was built for
/// the triple `target`. No workspace is needed. The findings are those of a scan of the workspace that the SBOM was made of, but
/// for their places, and for what is in no service.
///
/// # Errors
/// When the document is not such an SBOM, or the database cannot be read.
pub fn evaluate(
    database: &Database,
    service: &str,
    target: Option<&str>,
    document: &[u8],
) -> Result<Vec<Finding>> {
    let packages = sbom::sbom_packages(service, document)
        .with_context(|| format!("cannot read the SBOM of {service}"))?;
    let place = |_: &Package| Place::Image { service: service.to_owned(), path: None };
    findings(database, &packages, target, place)
}

/// Every advisory about every package. A package that is not of the public registry is looked up among those of the Rust
/// project itself, which share no name with what people publish.
fn findings(
    database: &Database,
    packages: &[Package],
    target: Option<&str>,
    place: impl Fn(&Package) -> Place,
) -> Result<Vec<Finding>> {
    let target = Target::parse(target);
    let mut findings = Vec::new();
    for package in packages {
        let collection = match package.is_from_crates_io {
            true => Collection::Crates,
            false if is_of_the_toolchain(package) => Collection::Rust,
            false => continue,
        };
        for entry in database.about(collection, &package.name)? {
            findings.extend(match entry {
                Entry::Advisory(advisory) => {
                    judge(&advisory, package, target).map(|finding| finding.at(place(package)))
                }
                Entry::Unreadable { id, error } => Some(unreadable(package, &id, &error).at(place(package))),
            });
        }
    }
    findings.sort();
    Ok(findings)
}

impl Target {
    fn parse(triple: Option<&str>) -> Target {
        let platform = triple.and_then(Platform::find);
        Target {
            os: platform.map(|platform| platform.target_os),
            arch: platform.map(|platform| platform.target_arch),
        }
    }

    /// Whether the advisory is about this platform. What is unknown is.
    fn concerns(&self, advisory: &Advisory) -> bool {
        let Some(affected) = &advisory.affected else { return true };
        let os = self.os.is_none_or(|os| affected.os.is_empty() || affected.os.contains(&os));
        let arch = self.arch.is_none_or(|arch| affected.arch.is_empty() || affected.arch.contains(&arch));
        os && arch
    }
}

/// A finding without its place.
struct Placeless {
    severity: Severity,
    rule: Rule,
    message: String,
    key: String,
}

impl Placeless {
    fn at(self, place: Place) -> Finding {
        let Placeless { severity, rule, message, key } = self;
        Finding { severity, rule, place, message, key }
    }
}

fn judge(advisory: &Advisory, package: &Package, target: Target) -> Option<Placeless> {
    if advisory.withdrawn() || !advisory.versions.is_vulnerable(&package.version) {
        return None;
    }
    let concerns = target.concerns(advisory);
    let severity = match package.class() {
        _ if !concerns => Severity::Note,
        Class::Linked => severity(advisory),
        Class::BuildOnly => severity(advisory).one_lower(),
        Class::Absent => Severity::Note,
    };
    let kind = match &advisory.metadata.informational {
        None => "vulnerability",
        Some(Informational::Unmaintained) => "unmaintained",
        Some(Informational::Unsound) => "unsound",
        Some(_) => "notice",
    };
    let elsewhere = if concerns { "" } else { "; it concerns other platforms" };
    let title = plain(advisory.title());
    Some(Placeless {
        severity,
        message: format!("{} {} ({kind}): {title}{elsewhere}", package.spec(), usage(package)),
        key: package.spec(),
        rule: Rule {
            id: advisory.id().to_string(),
            check: Check::Advisories,
            title,
            why: why(advisory),
            fix: fix(advisory, package),
            url: Some(format!("https://rustsec.org/advisories/{}.html", advisory.id())),
        },
    })
}

/// By the score where there is one. A vulnerability that nobody scored may be anything, so it counts as high; code that lets
/// safe code break memory is a defect without a known attack; nobody to mend the next one is a risk, not a defect.
fn severity(advisory: &Advisory) -> Severity {
    use rustsec::advisory::Severity as Cvss;
    match (advisory.severity(), &advisory.metadata.informational) {
        (Some(Cvss::Critical), _) => Severity::Critical,
        (Some(Cvss::High), _) => Severity::High,
        (Some(Cvss::Medium), _) => Severity::Medium,
        (Some(Cvss::Low), _) => Severity::Low,
        (Some(Cvss::None), _) => Severity::Note,
        (None, None) => Severity::High,
        (None, Some(Informational::Unsound)) => Severity::Medium,
        (None, Some(Informational::Unmaintained)) => Severity::Low,
        (None, Some(_)) => Severity::Note,
    }
}

fn usage(package: &Package) -> String {
    let list = |services: &BTreeSet<String>| services.iter().cloned().collect::<Vec<_>>().join(", ");
    match package.class() {
        Class::Linked if package.build_only.is_empty() => format!("is linked into {}", list(&package.linked)),
        Class::Linked => {
            format!("is linked into {} and builds {}", list(&package.linked), list(&package.build_only))
        }
        Class::BuildOnly => format!("only builds {}", list(&package.build_only)),
        Class::Absent => "is in no service".to_owned(),
    }
}

fn why(advisory: &Advisory) -> String {
    let description = advisory.description();
    let paragraph =
        description.split("\n\n").map(str::trim).find(|text| !text.is_empty() && !text.starts_with('#'));
    let text = plain(paragraph.unwrap_or_else(|| advisory.title()));
    if text.chars().count() > MOST_TEXT {
        let cut: String = text.chars().take(MOST_TEXT).collect();
        return format!("{}…", cut.rsplit_once(' ').map_or(cut.as_str(), |(head, _)| head));
    }
    text
}

fn fix(advisory: &Advisory, package: &Package) -> String {
    let patched: Vec<String> = advisory.versions.patched().iter().map(ToString::to_string).collect();
    let versions = patched.join(" or ");
    if !package.is_from_crates_io {
        return if patched.is_empty() {
            "No release mends it yet; look at the advisory.".to_owned()
        } else {
            format!("Update the toolchain to {versions}.")
        };
    }
    if patched.is_empty() {
        return "No version mends it: replace the package, or waive it with a reason.".to_owned();
    }
    format!("Update to {versions}: `cargo update {}`, after its requirements allow it.", package.name)
}

/// An advisory that this program cannot read may be about any version.
fn unreadable(package: &Package, id: &str, error: &str) -> Placeless {
    let severity = match package.class() {
        Class::Linked => Severity::High,
        Class::BuildOnly => Severity::Medium,
        Class::Absent => Severity::Note,
    };
    Placeless {
        severity,
        message: format!("{} {}, and {id} about it cannot be read: {error}", package.spec(), usage(package)),
        key: format!("{} {id}", package.spec()),
        rule: Rule {
            id: "advisories/unreadable".to_owned(),
            check: Check::Advisories,
            title: "advisory that cannot be read".to_owned(),
            why: "The database has an advisory about a package of this workspace in a form that this version does not know, \
                  so nobody can say whether it matters."
                .to_owned(),
            fix: "Read the advisory, update Slipway, or waive it with what you found out.".to_owned(),
            url: None,
        },
    }
}

/// The finding about a database that is too old to say anything about today, or that nobody knows the age of; a warning comes
/// before that.
pub fn database_age(context: &Context, database: &Database) -> Option<Finding> {
    let settings = &context.settings.scan.advisories;
    let Some(date) = database.date() else {
        return Some(old("nobody can say how old the advisories are: none has a date".to_owned()));
    };
    let days = (context.options.today() - date).get_days();
    let is_more_than = |limit: u32| days > i32::try_from(limit).unwrap_or(i32::MAX);
    if !is_more_than(settings.warn_age_days) {
        return None;
    }
    let age = format!("the advisories are {days} days old (of {date})");
    if !is_more_than(settings.max_age_days) {
        context.warn(format!("{age}; scan with a network, or update `scan.advisories.database`"));
        return None;
    }
    Some(old(format!("{age}, and may be {} (`scan.advisories.max_age_days`)", settings.max_age_days)))
}

fn old(message: String) -> Finding {
    Finding {
        severity: Severity::High,
        rule: Rule {
            id: "advisories/database-age".to_owned(),
            check: Check::Advisories,
            title: "old advisories".to_owned(),
            why: "What was found out about packages since then is unknown to this scan.".to_owned(),
            fix: "Scan with a network, or update the folder that `scan.advisories.database` names."
                .to_owned(),
            url: None,
        },
        place: Place::file("Cargo.lock"),
        message,
        key: "database".to_owned(),
    }
}

/// The parts of a Rust release that advisories name: the library is in every service, the tools build them.
pub(crate) fn toolchain_packages(release: &Version, services: &BTreeSet<String>) -> Vec<Package> {
    let part = |name: &str, is_linked: bool| {
        let none = BTreeSet::new();
        let (linked, build_only) =
            if is_linked { (services.clone(), none) } else { (none, services.clone()) };
        Package {
            name: name.to_owned(),
            version: release.clone(),
            is_from_crates_io: false,
            line: None,
            linked,
            build_only,
        }
    };
    vec![part("std", true), part("cargo", false), part("rustc", false)]
}

fn is_of_the_toolchain(package: &Package) -> bool {
    package.line.is_none() && ["std", "cargo", "rustc"].contains(&package.name.as_str())
}

fn rustc_release(context: &Context) -> Result<Version> {
    let rustc = Cmd::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let text =
        rustc.arg("--version").cwd(&context.root).read().context("cannot ask rustc for its version")?;
    let release = text.split(' ').nth(1).unwrap_or_default();
    release.parse().with_context(|| format!("`{release}` is not a version of rustc"))
}

/// The file that says which toolchain is used.
fn toolchain_file(context: &Context) -> String {
    let names = ["rust-toolchain.toml", "rust-toolchain"];
    let found = names.into_iter().find(|name| context.root.join(name).is_file());
    found.unwrap_or("Cargo.toml").to_owned()
}

/// Text of others on one line, without what a terminal would take for a command.
fn plain(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> (tempfile::TempDir, Database) {
        let folder = tempfile::tempdir().unwrap();
        for (path, package, fields) in [
            ("crates/tiny/RUSTSEC-2026-0001.md", "tiny", "[affected]\nos = [\"linux\"]"),
            ("crates/tiny/RUSTSEC-2026-0002.md", "tiny", "[affected]\narch = [\"aarch64\"]"),
            ("crates/cc/RUSTSEC-2026-0003.md", "cc", ""),
            ("rust/std/CVE-2026-0001.md", "std", ""),
        ] {
            let id = path.rsplit_once('/').unwrap().1.trim_end_matches(".md");
            let text = format!(
                "```toml\n[advisory]\nid = \"{id}\"\npackage = \"{package}\"\ndate = \"2026-01-02\"\n{fields}\n\
                 [versions]\npatched = [\">= 1.96.0\"]\n```\n\n# A title\n\nWhy.\n"
            );
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let database = Database::open(folder.path()).unwrap();
        (folder, database)
    }

    const SBOM: &str = r#"{"bomFormat":"CycloneDX","components":[
        {"name":"tiny","version":"1.1.0","purl":"pkg:cargo/tiny@1.1.0","scope":"required"},
        {"name":"cc","version":"1.0.0","purl":"pkg:cargo/cc@1.0.0","scope":"excluded"},
        {"name":"cc","version":"2.0.0","purl":"pkg:cargo/cc@2.0.0","scope":"required"},
        {"name":"rust-std","version":"1.95.0","purl":"pkg:generic/rust-std@1.95.0"}]}"#;

    #[test]
    fn a_stored_sbom_is_judged_as_its_workspace_was() {
        let (_folder, database) = fixture();
        let brief = |target: Option<&str>| -> Vec<(String, &'static str)> {
            let findings = evaluate(&database, "api", target, SBOM.as_bytes()).unwrap();
            findings.iter().map(|one| (format!("{} {}", one.rule.id, one.key), one.severity.name())).collect()
        };
        let expected = [
            ("RUSTSEC-2026-0002 tiny@1.1.0", "note"),
            ("RUSTSEC-2026-0003 cc@1.0.0", "medium"),
            ("CVE-2026-0001 std@1.95.0", "high"),
            ("RUSTSEC-2026-0001 tiny@1.1.0", "high"),
        ];
        assert_eq!(
            brief(Some("x86_64-unknown-linux-gnu")),
            expected.map(|(id, severity)| (id.into(), severity))
        );
        // Without a target nothing can be said to be elsewhere.
        assert!(brief(None).contains(&("RUSTSEC-2026-0002 tiny@1.1.0".into(), "high")));
    }

    #[test]
    fn the_library_for_the_real_database_reads_the_same() {
        let (folder, database) = fixture();
        let whole = rustsec::Database::open(folder.path()).unwrap();
        assert_eq!(whole.iter().count(), 4);
        for advisory in whole.iter() {
            let collection = match advisory.metadata.collection.unwrap() {
                rustsec::Collection::Crates => Collection::Crates,
                rustsec::Collection::Rust => Collection::Rust,
            };
            let entries = database.about(collection, advisory.metadata.package.as_str()).unwrap();
            let is_same = |entry: &Entry| matches!(entry, Entry::Advisory(one) if one.id() == advisory.id());
            assert!(entries.iter().any(is_same), "{}", advisory.id());
        }
    }

    #[test]
    fn long_texts_are_cut_at_a_word_and_terminals_get_no_commands() {
        assert_eq!(plain("a\u{1b}[2J\n b"), "a [2J b");
        let text = format!("# Head\n\n{}", "word ".repeat(200));
        let advisory = "```toml\n[advisory]\nid = \"RUSTSEC-2026-0001\"\npackage = \"tiny\"\ndate = \"2026-01-02\"\n[versions]\npatched = []\n```\n\n# T\n\n";
        let advisory: Advisory = format!("{advisory}{text}").parse().unwrap();
        let why = why(&advisory);
        assert!(why.chars().count() <= MOST_TEXT + 1 && why.ends_with("word…"), "{why}");
    }
}
