//! Licences of what is compiled for the services, against the policy. Only what is linked is distributed, so only that can
//! break the policy; the workspace's own packages are the owner's business.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use cargo_metadata::{Metadata, Package, PackageId};
use finding::{Check, Finding, Place, Rule, Severity};
use spdx::{Expression, Licensee, ParseMode};
use workspace::{LicenceException, LicenceSettings};

use crate::context::{Context, Graph};
use crate::sbom;

/// Longer texts are no licence expressions.
const MOST_BYTES: usize = 4_096;

/// The check: licences of packages against the policy in `slipway.yaml`.
///
/// # Errors
/// When the workspace cannot be read, or the policy names what is no licence.
pub fn licences(context: &Context) -> Result<Vec<Finding>> {
    let policy = Policy::parse(&context.settings.scan.licences)?;
    let graph = context.graph()?;
    let lines: BTreeMap<String, Option<u32>> =
        graph.packages.iter().map(|package| (package.spec(), package.line)).collect();
    let place = |package: &Package| Place::File {
        path: "Cargo.lock".to_owned(),
        line: lines.get(&spec(package)).copied().flatten(),
        column: None,
    };
    let mut used = BTreeSet::new();
    let mut findings = Vec::new();
    for (package, services) in third_party(graph) {
        let subject = Subject::of(package);
        let verdict = policy.judge(&subject, &mut used);
        findings.extend(verdict.finding(&subject, services.as_ref(), place(package)));
    }
    findings.extend(policy.unused(&used));
    findings.sort();
    Ok(findings)
}

/// The same for a stored SBOM, the CycloneDX document of the image of `service`: what the image was made of, whatever the workspace
/// holds now. It does not tell a package by path from the workspace's own, nor a licence in a file from none.
///
/// # Errors
/// When the document is not such an SBOM, or the policy names what is no licence.
pub fn evaluate_licences(settings: &LicenceSettings, service: &str, document: &[u8]) -> Result<Vec<Finding>> {
    let policy = Policy::parse(settings)?;
    let components =
        sbom::components(document).with_context(|| format!("cannot read the SBOM of {service}"))?;
    let linked = BTreeSet::from([service]);
    let judge = |component: &sbom::Component| {
        let subject = Subject {
            name: &component.name,
            version: component.version.clone().unwrap_or_default(),
            licence: component.licence(),
            file: None,
        };
        let services = component.is_linked().then_some(&linked);
        let place = Place::Image { service: service.to_owned(), path: None };
        policy.judge(&subject, &mut BTreeSet::new()).finding(&subject, services, place)
    };
    let mut findings: Vec<Finding> =
        components.iter().filter(|component| component.is_cargo()).filter_map(judge).collect();
    findings.sort();
    Ok(findings)
}

/// Third-party packages that are compiled, with the services that they are linked into; `None` for what only builds.
pub(crate) fn third_party(graph: &Graph) -> Vec<(&Package, Option<BTreeSet<&str>>)> {
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (service, closure) in &graph.closures.services {
        for id in closure.build_only.keys() {
            found.entry(id).or_default();
        }
        for id in closure.linked.keys() {
            found.entry(id).or_default().insert(service);
        }
    }
    let metadata = &graph.workspace.metadata;
    let own: BTreeSet<&PackageId> = metadata.workspace_members.iter().collect();
    let packages = by_id(metadata);
    found
        .into_iter()
        .filter_map(|(id, services)| Some((*packages.get(id)?, services)))
        .filter(|(package, _)| !own.contains(&package.id))
        .map(|(package, services)| (package, (!services.is_empty()).then_some(services)))
        .collect()
}

fn by_id(metadata: &Metadata) -> BTreeMap<&str, &Package> {
    metadata.packages.iter().map(|package| (package.id.repr.as_str(), package)).collect()
}

pub(crate) fn spec(package: &Package) -> String {
    format!("{}@{}", package.name, package.version)
}

/// What is judged.
struct Subject<'a> {
    name: &'a str,
    version: String,
    /// As its manifest writes it.
    licence: Option<&'a str>,
    /// The file that holds it.
    file: Option<&'a str>,
}

impl Subject<'_> {
    fn of(package: &Package) -> Subject<'_> {
        Subject {
            name: package.name.as_str(),
            version: package.version.to_string(),
            licence: package.license.as_deref(),
            file: package.license_file.as_ref().map(|file| file.as_str()),
        }
    }

    fn spec(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }
}

struct Policy<'a> {
    allow: Vec<Licensee>,
    exceptions: Vec<(&'a LicenceException, Vec<Licensee>)>,
}

/// What the policy says of one package.
enum Verdict {
    Allowed,
    NotAllowed { expression: String, refused: Vec<String> },
    Missing,
    FileOnly(String),
    Unparsable { expression: String, error: String },
}

impl Policy<'_> {
    fn parse(settings: &LicenceSettings) -> Result<Policy<'_>> {
        let licensee = |text: &String| {
            let parsed = Licensee::parse(text).map_err(|error| anyhow::anyhow!("{}", error.reason));
            parsed.with_context(|| {
                format!("slipway.yaml: scan.licences: `{text}` is no SPDX licence identifier")
            })
        };
        let licensees = |texts: &[String]| texts.iter().map(licensee).collect::<Result<Vec<_>>>();
        let exception = |exception| -> Result<(&LicenceException, Vec<Licensee>)> {
            Ok((exception, licensees(&exception.allow)?))
        };
        Ok(Policy {
            allow: licensees(&settings.allow)?,
            exceptions: settings.exceptions.iter().map(exception).collect::<Result<_>>()?,
        })
    }

    /// Judges by the expression in the manifest, or the one that an exception puts in its place. `used` collects the
    /// exceptions that were about the package.
    fn judge(&self, package: &Subject<'_>, used: &mut BTreeSet<usize>) -> Verdict {
        let is_about = |exception: &LicenceException| {
            exception.package == package.name || exception.package == package.spec()
        };
        let about = || self.exceptions.iter().enumerate().filter(|(_, (exception, _))| is_about(exception));
        used.extend(about().map(|(index, _)| index));
        let clarified = about().find_map(|(_, (exception, _))| exception.licence.as_deref());
        let written = package.licence.filter(|text| !text.trim().is_empty());
        let Some(text) = clarified.or(written) else {
            return match package.file {
                Some(file) => Verdict::FileOnly(file.to_string()),
                None => Verdict::Missing,
            };
        };
        let also: Vec<&Licensee> = about().flat_map(|(_, (_, allow))| allow).collect();
        let text: String =
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_BYTES).collect();
        let expression = match Expression::parse_mode(&text, ParseMode::LAX) {
            Ok(expression) => expression,
            Err(error) => return Verdict::Unparsable { expression: text, error: error.reason.to_string() },
        };
        let is_allowed = |req: &spdx::LicenseReq| {
            self.allow.iter().chain(also.iter().copied()).any(|one| one.satisfies(req))
        };
        match expression.evaluate_with_failures(is_allowed) {
            Ok(()) => Verdict::Allowed,
            Err(failed) => Verdict::NotAllowed {
                expression: text,
                refused: failed.iter().map(|failed| failed.req.to_string()).collect(),
            },
        }
    }

    /// Exceptions about packages that are not there: what they say would hold for the next one of that name.
    fn unused(&self, used: &BTreeSet<usize>) -> Vec<Finding> {
        let unused = self.exceptions.iter().enumerate().filter(|(index, _)| !used.contains(index));
        let finding = |exception: &LicenceException| Finding {
            severity: Severity::Low,
            rule: rule(
                "unused-exception",
                "licence exception for nothing",
                "An exception for a package that is not compiled would silently hold for the next one of that name.",
                "Remove it from `scan.licences.exceptions`.",
            ),
            place: Place::file("slipway.yaml"),
            message: format!("no package {} is compiled for any service", exception.package),
            key: exception.package.clone(),
        };
        unused.map(|(_, (exception, _))| finding(exception)).collect()
    }
}

impl Verdict {
    /// `services` are those that it is linked into.
    fn finding(
        self,
        package: &Subject<'_>,
        services: Option<&BTreeSet<&str>>,
        place: Place,
    ) -> Option<Finding> {
        let (severity, rule, what) = self.text()?;
        let (severity, usage) = match services {
            Some(services) => {
                let services = services.iter().copied().collect::<Vec<_>>().join(", ");
                (severity, format!("is linked into {services}"))
            }
            None => (Severity::Note, "only builds services".to_owned()),
        };
        let message = format!("{} {usage} and {what}", package.spec());
        Some(Finding { severity, rule, place, message, key: package.spec() })
    }

    fn text(self) -> Option<(Severity, Rule, String)> {
        Some(match self {
            Verdict::Allowed => return None,
            Verdict::NotAllowed { expression, refused } => (
                Severity::High,
                rule(
                    "not-allowed",
                    "licence outside the policy",
                    "Whoever distributes the image must keep to the licence of everything that is linked into it.",
                    "Replace the package, add the licence to `scan.licences.allow`, or write an exception with a reason.",
                ),
                format!("has the licence `{expression}`; not allowed: {}", refused.join(", ")),
            ),
            Verdict::Missing => (
                Severity::High,
                rule(
                    "missing",
                    "no licence",
                    "Without a licence nobody may use or distribute the package at all.",
                    "Ask its author, replace it, or write an exception whose `licence` says what you found out.",
                ),
                "names no licence".to_owned(),
            ),
            Verdict::FileOnly(file) => (
                Severity::High,
                rule(
                    "file-only",
                    "licence in a file only",
                    "No program can tell what a licence in prose asks for.",
                    "Read the file, and write an exception whose `licence` is what it says.",
                ),
                format!("has its licence in the file {file} only"),
            ),
            Verdict::Unparsable { expression, error } => (
                Severity::High,
                rule(
                    "unparsable",
                    "licence that is no SPDX expression",
                    "What cannot be read cannot be compared with the policy.",
                    "Look the licence up, and write an exception whose `licence` is the SPDX expression.",
                ),
                format!("has the licence `{expression}`: {error}"),
            ),
        })
    }
}

fn rule(name: &str, title: &str, why: &str, fix: &str) -> Rule {
    Rule {
        id: format!("licences/{name}"),
        check: Check::Licences,
        title: title.to_owned(),
        why: why.to_owned(),
        fix: fix.to_owned(),
        url: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(licence: Option<&str>, file: Option<&str>) -> Package {
        serde_json::from_value(json!({
            "name": "tiny", "version": "1.1.0", "id": "tiny", "license": licence, "license_file": file,
            "dependencies": [], "targets": [], "features": {}, "manifest_path": "/tiny/Cargo.toml",
        }))
        .unwrap()
    }

    fn judge(settings: &LicenceSettings, licence: Option<&str>, file: Option<&str>) -> String {
        let package = package(licence, file);
        let package = Subject::of(&package);
        let verdict = Policy::parse(settings).unwrap().judge(&package, &mut BTreeSet::new());
        let services = BTreeSet::from(["api"]);
        let finding = verdict.finding(&package, Some(&services), Place::file("Cargo.lock"));
        finding.map_or("allowed".to_owned(), |finding| format!("{}: {}", finding.rule.id, finding.message))
    }

    #[test]
    fn expressions_are_judged_as_spdx_says() {
        let settings = LicenceSettings::default();
        for licence in [
            "MIT",
            "MIT/Apache-2.0",
            "Apache-2.0 / MIT",
            "GPL-3.0-only OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR Apache-2.0",
            "Apache 2.0",
        ] {
            assert_eq!(judge(&settings, Some(licence), None), "allowed", "{licence}");
        }
        let cases = [
            (
                Some("MIT AND GPL-3.0-or-later"),
                None,
                "not-allowed: tiny@1.1.0 is linked into api and has the licence `MIT AND GPL-3.0-or-later`; not allowed: GPL-3.0-or-later",
            ),
            (Some("MIT OR"), None, "unparsable"),
            (Some("Proprietary"), None, "unparsable"),
            (None, None, "missing"),
            (
                Some(" "),
                Some("LICENSE"),
                "file-only: tiny@1.1.0 is linked into api and has its licence in the file LICENSE only",
            ),
        ];
        for (licence, file, expected) in cases {
            let found = judge(&settings, licence, file);
            assert!(found.starts_with(&format!("licences/{expected}")), "{licence:?}: {found}");
        }
    }

    #[test]
    fn a_stored_sbom_is_judged_without_the_workspace() {
        let document = r#"{"bomFormat":"CycloneDX","components":[
            {"name":"good","version":"1.0.0","purl":"pkg:cargo/good@1.0.0","licenses":[{"expression":"MIT OR Apache-2.0"}]},
            {"name":"bad","version":"1.0.0","purl":"pkg:cargo/bad@1.0.0?vcs_url=git","licenses":[{"expression":"GPL-3.0-only"}]},
            {"name":"tool","version":"1.0.0","purl":"pkg:cargo/tool@1.0.0","scope":"excluded","licenses":[{"expression":"GPL-3.0-only"}]},
            {"name":"named","version":"1.0.0","purl":"pkg:cargo/named@1.0.0","licenses":[{"license":{"name":"some"}}]},
            {"name":"none","version":"1.0.0","purl":"pkg:cargo/none@1.0.0","scope":"required"},
            {"name":"ours","version":"0.1.0","purl":"pkg:generic/ours@0.1.0"}]}"#;
        let findings = evaluate_licences(&LicenceSettings::default(), "api", document.as_bytes()).unwrap();
        let brief: Vec<_> =
            findings.iter().map(|one| (one.key.as_str(), one.rule.id.as_str(), one.severity)).collect();
        let expected = [
            ("tool@1.0.0", "licences/not-allowed", Severity::Note),
            ("named@1.0.0", "licences/missing", Severity::High),
            ("none@1.0.0", "licences/missing", Severity::High),
            ("bad@1.0.0", "licences/not-allowed", Severity::High),
        ];
        assert_eq!(brief.iter().collect::<BTreeSet<_>>(), expected.iter().collect());
        assert!(evaluate_licences(&LicenceSettings::default(), "api", b"{}").is_err());
    }

    #[test]
    fn an_exception_adds_licences_or_says_what_a_file_holds() {
        let with = |package: &str, allow: &[&str], licence: Option<&str>| LicenceSettings {
            exceptions: vec![LicenceException {
                package: package.to_owned(),
                allow: allow.iter().map(|one| (*one).to_owned()).collect(),
                licence: licence.map(str::to_owned),
                reason: "r".to_owned(),
            }],
            ..LicenceSettings::default()
        };
        assert_eq!(judge(&with("tiny", &["MPL-2.0"], None), Some("MPL-2.0"), None), "allowed");
        assert_eq!(judge(&with("tiny@1.1.0", &[], Some("MIT")), None, Some("LICENSE")), "allowed");
        assert_ne!(judge(&with("tiny@1.1.1", &["MPL-2.0"], None), Some("MPL-2.0"), None), "allowed");
        assert_ne!(judge(&with("tiny", &[], Some("GPL-2.0-only")), Some("MIT"), None), "allowed");
        let wrong = with("tiny", &["MPL2"], None);
        let error = Policy::parse(&wrong).err().unwrap();
        assert!(format!("{error:#}").contains("`MPL2` is no SPDX licence identifier"), "{error:#}");
        let unused = with("gone", &["MPL-2.0"], None);
        assert_eq!(Policy::parse(&unused).unwrap().unused(&BTreeSet::new()).len(), 1);
    }

    #[test]
    fn no_text_makes_it_panic() {
        let good = "(MIT OR Apache-2.0 WITH LLVM-exception) AND GPL-2.0+";
        let settings = LicenceSettings::default();
        for at in 0..good.len() {
            for with in ["(", ")", "+", "/", " ", "\0", "ü", "WITH"] {
                judge(&settings, Some(&format!("{}{with}{}", &good[..at], &good[at + 1..])), None);
            }
        }
        judge(&settings, Some(&"(".repeat(100_000)), None);
    }
}
