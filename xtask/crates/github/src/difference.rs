//! What changed between two builds, as Markdown: image sizes, dependencies, findings. Documents come from artefacts of other
//! jobs, maybe of a fork: whatever they hold, what comes out is Markdown whose foreign text does nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::annotation::{SCAN, Scanned, scanned};
use crate::files;
use crate::markdown::{code, table};
use crate::request::Compared;

/// More documents than a workspace has services.
const MAX_FILES: usize = 1_000;

/// What an image is, as far as two of them are compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Image {
    digest: String,
    size: Option<u64>,
    unpacked: Option<u64>,
}

/// The section on images, `None` where no documents are given.
pub(crate) fn images(compared: &Compared) -> Result<Option<String>> {
    let Some(head) = &compared.head else { return Ok(None) };
    let head = read_images(head)?;
    let base = compared.base.as_deref().map(read_images).transpose()?;
    let names: BTreeSet<_> = head.keys().chain(base.iter().flat_map(BTreeMap::keys)).collect();
    let rows: Vec<_> = names
        .into_iter()
        .map(|name| {
            let before = base.as_ref().and_then(|base| base.get(name));
            image_row(name, before, head.get(name), base.is_some())
        })
        .collect();
    let text = table(&["image", "size", "unpacked", "change"], &rows);
    Ok(Some(format!("### Images\n\n{text}")))
}

fn read_images(path: &Path) -> Result<BTreeMap<String, Image>> {
    let document = files::json(path)?;
    parse_images(&document).with_context(|| format!("cannot use {}", path.display()))
}

fn parse_images(document: &Value) -> Result<BTreeMap<String, Image>> {
    let image = |service: &Value| Image {
        digest: service["image"].as_str().unwrap_or_default().to_owned(),
        size: service["size"].as_u64(),
        unpacked: service["unpacked_size"].as_u64(),
    };
    match document["schema"].as_str() {
        Some("slipway.build/1") => {
            let services = document["services"].as_array().context("it has no list `services`")?;
            let named = |service: &Value| Some((service["name"].as_str()?.to_owned(), image(service)));
            Ok(services.iter().filter_map(named).collect())
        }
        Some("slipway.release/1") => {
            let services = document["services"].as_object().context("it has no object `services`")?;
            Ok(services.iter().map(|(name, service)| (name.clone(), image(service))).collect())
        }
        _ => bail!("it is neither slipway.build/1 (from `cargo xtask build --json`) nor slipway.release/1"),
    }
}

fn image_row(name: &str, before: Option<&Image>, after: Option<&Image>, compares: bool) -> Vec<String> {
    let size = |get: fn(&Image) -> Option<u64>| after.and_then(get).map_or("–".to_owned(), bytes);
    let change = match (before, after) {
        (_, None) => "removed".to_owned(),
        (None, Some(_)) if compares => "new".to_owned(),
        (None, Some(_)) => "–".to_owned(),
        (Some(before), Some(after)) if is_same(before, after) => "same bits".to_owned(),
        (Some(before), Some(after)) => match (before.size, after.size) {
            (Some(before), Some(after)) => signed(before, after),
            _ => "other content".to_owned(),
        },
    };
    vec![code(name), size(|image| image.size), size(|image| image.unpacked), change]
}

/// Two images whose digest nobody tells are not known to be one.
fn is_same(before: &Image, after: &Image) -> bool {
    !before.digest.is_empty() && before.digest == after.digest
}

/// `+1.2 kB (+3.4 %)`.
fn signed(before: u64, after: u64) -> String {
    let (sign, by) = if after >= before { ('+', after - before) } else { ('−', before - after) };
    match before {
        0 => format!("{sign}{}", bytes(by)),
        _ => format!("{sign}{} ({sign}{:.1} %)", bytes(by), by as f64 * 100.0 / before as f64),
    }
}

/// A size for people, in powers of 1000 as registries show it.
fn bytes(size: u64) -> String {
    match size {
        0..1_000 => format!("{size} B"),
        1_000..1_000_000 => format!("{:.1} kB", size as f64 / 1e3),
        _ => format!("{:.2} MB", size as f64 / 1e6),
    }
}

/// Versions of a dependency, each with whether it is in an image.
type Versions = BTreeMap<String, bool>;

/// The section on dependencies, `None` where no documents are given.
pub(crate) fn dependencies(compared: &Compared) -> Result<Option<String>> {
    let (Some(base), Some(head)) = (&compared.base, &compared.head) else { return Ok(None) };
    Ok(Some(dependency_section(&read_sboms(base)?, &read_sboms(head)?)))
}

/// Dependencies by ecosystem and name, from a document or all documents in a folder.
fn read_sboms(path: &Path) -> Result<BTreeMap<String, Versions>> {
    let mut all = BTreeMap::<String, Versions>::new();
    for file in documents(path)? {
        let document = files::json(&file)?;
        let components = document["components"].as_array().filter(|_| document["bomFormat"] == "CycloneDX");
        let components = components
            .with_context(|| format!("{} is no CycloneDX document with components", file.display()))?;
        for component in components {
            let Some(name) = component["name"].as_str() else { continue };
            let version = component["version"].as_str().unwrap_or("?").to_owned();
            let is_linked = component["scope"] != "excluded";
            *all.entry(name.to_owned()).or_default().entry(version).or_default() |= is_linked;
        }
    }
    Ok(all)
}

/// The file itself, or the JSON files in a folder, sorted.
fn documents(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") && path.is_file() {
            found.push(path);
        }
    }
    if found.is_empty() || found.len() > MAX_FILES {
        bail!("{} holds {} JSON documents; 1 to {MAX_FILES} can be compared", path.display(), found.len());
    }
    found.sort();
    Ok(found)
}

fn dependency_section(base: &BTreeMap<String, Versions>, head: &BTreeMap<String, Versions>) -> String {
    let names: BTreeSet<_> = base.keys().chain(head.keys()).collect();
    let (mut added, mut removed, mut changed, mut rows) = (0, 0, 0, Vec::new());
    for name in names {
        let (before, after) = (base.get(name), head.get(name));
        let what = match (before, after) {
            (None, _) => {
                added += 1;
                "added"
            }
            (_, None) => {
                removed += 1;
                "removed"
            }
            (Some(before), Some(after)) if before != after => {
                changed += 1;
                "changed"
            }
            _ => continue,
        };
        rows.push(vec![
            what.to_owned(),
            code(name),
            versions(before),
            versions(after),
            usage(after.or(before)),
        ]);
    }
    let counts = format!("### Dependencies\n\n{added} added, {removed} removed, {changed} changed\n");
    match rows.is_empty() {
        true => counts,
        false => format!("{counts}\n{}", table(&["", "package", "before", "after", "where"], &rows)),
    }
}

fn versions(versions: Option<&Versions>) -> String {
    let list = versions.map(|versions| versions.keys().cloned().collect::<Vec<_>>().join(", "));
    code(list.as_deref().unwrap_or_default())
}

fn usage(versions: Option<&Versions>) -> String {
    let is_linked = versions.is_some_and(|versions| versions.values().any(|&is_linked| is_linked));
    if is_linked { "in the image" } else { "build only" }.to_owned()
}

/// The section on findings, `None` where no documents are given.
pub(crate) fn findings(compared: &Compared) -> Result<Option<String>> {
    let Some(head) = &compared.head else { return Ok(None) };
    let head = read_scan(head)?;
    let Some(base) = &compared.base else {
        // The worst first: a long table is cut.
        let mut worst: Vec<_> = head.values().collect();
        worst.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        let rows: Vec<_> = worst.into_iter().map(|finding| finding_row("", finding)).collect();
        return Ok(Some(section(&format!("{} in all; nothing to compare with", head.len()), &rows)));
    };
    let base = read_scan(base)?;
    let only = |these: &BTreeMap<_, Scanned>, those: &BTreeMap<_, Scanned>, what: &str| -> Vec<_> {
        let mut rows: Vec<_> = these.iter().filter(|(id, _)| !those.contains_key(*id)).collect();
        rows.sort_by_key(|(_, finding)| std::cmp::Reverse(finding.severity));
        rows.iter().map(|(_, finding)| finding_row(what, finding)).collect()
    };
    let (new, fixed) = (only(&head, &base, "new"), only(&base, &head, "fixed"));
    let counts = format!("{} new, {} fixed, {} in all", new.len(), fixed.len(), head.len());
    Ok(Some(section(&counts, &[new, fixed].concat())))
}

fn section(counts: &str, rows: &[Vec<String>]) -> String {
    match rows.is_empty() {
        true => format!("### Findings\n\n{counts}\n"),
        false => {
            let table = table(&["", "severity", "rule", "finding", "place"], rows);
            format!("### Findings\n\n{counts}\n\n{table}")
        }
    }
}

/// Findings by what stays the same from scan to scan.
fn read_scan(path: &Path) -> Result<BTreeMap<[String; 3], Scanned>> {
    let document = files::json(path)?;
    let read = || {
        if document["schema"] != SCAN {
            bail!("it is no {SCAN} document");
        }
        scanned(&document)
    };
    let findings = read().with_context(|| format!("cannot use {}", path.display()))?;
    let id = |finding: &Scanned| [finding.rule.id.clone(), finding.place.stable(), finding.key.clone()];
    Ok(findings.into_iter().map(|finding| (id(&finding), finding)).collect())
}

fn finding_row(what: &str, finding: &Scanned) -> Vec<String> {
    vec![
        what.to_owned(),
        finding.severity.name().to_owned(),
        code(&finding.rule.id),
        code(&finding.message),
        code(&finding.place.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn images_of_both_kinds_of_document_are_compared() {
        let build = |size: u64, digest: &str| {
            let service = json!({ "name": "api", "image": digest, "size": size, "unpacked_size": 5_120_000 });
            parse_images(&json!({ "schema": "slipway.build/1", "services": [service] })).unwrap()
        };
        let (before, after) = (build(1_000_000, "a"), build(1_025_000, "b"));
        let row = image_row("api", before.get("api"), after.get("api"), true);
        assert_eq!(row, ["`api`", "1.02 MB", "5.12 MB", "+25.0 kB (+2.5 %)"]);
        assert_eq!(image_row("api", after.get("api"), after.get("api"), true)[3], "same bits");
        assert_eq!(image_row("api", None, after.get("api"), true)[3], "new");
        let release = json!({ "schema": "slipway.release/1", "services": { "api": { "image": "b" } } });
        let release = parse_images(&release).unwrap();
        assert_eq!(image_row("api", before.get("api"), release.get("api"), true)[3], "other content");
        assert!(parse_images(&json!({ "schema": "other" })).is_err());
        let untold = Image { size: Some(1), ..Image::default() };
        let grown = Image { size: Some(2), ..Image::default() };
        assert_eq!(image_row("api", Some(&untold), Some(&grown), true)[3], "+1 B (+100.0 %)");
    }

    #[test]
    fn the_worst_findings_are_not_the_ones_that_are_left_out() {
        let finding = |at: usize, severity: &str| {
            json!({ "severity": severity, "key": format!("{at:04}"), "message": "m", "fingerprint": format!("{at:04}"),
                "place": { "file": { "path": "a.rs", "line": 1, "column": 1 } },
                "rule": { "id": "a/b", "check": "secrets", "title": "t", "why": "w", "fix": "f", "url": null } })
        };
        let mut list: Vec<_> = (0..200).map(|at| finding(at, "low")).collect();
        list.push(finding(999, "critical"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scan.json");
        std::fs::write(&path, json!({ "schema": SCAN, "findings": list }).to_string()).unwrap();
        let text = findings(&Compared { base: None, head: Some(path) }).unwrap().unwrap();
        assert!(text.lines().any(|line| line.starts_with("|  | critical")), "{text}");
    }

    #[test]
    fn a_hostile_package_name_is_only_text() {
        let versions = |version: &str| Versions::from([(version.to_owned(), true)]);
        let base = BTreeMap::from([("a".to_owned(), versions("1.0.0")), ("gone".to_owned(), versions("1"))]);
        let hostile = "x` | @octocat <img src=x>\n\n# boo [l](http://evil)";
        let head =
            BTreeMap::from([("a".to_owned(), versions("2.0.0")), (hostile.to_owned(), versions("`1`"))]);
        let text = dependency_section(&base, &head);
        assert!(text.starts_with("### Dependencies\n\n1 added, 1 removed, 1 changed\n"), "{text}");
        let row = text.lines().find(|line| line.starts_with("| added")).unwrap();
        assert_eq!(
            row,
            "| added | `x' ¦ @octocat <img src=x>\u{fffd}\u{fffd}# boo [l](http://evil)` | – | `'1'` | in the image |"
        );
        assert_eq!(text.lines().count(), 9, "{text}");
    }
}
