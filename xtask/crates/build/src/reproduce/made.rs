//! What Cargo made of each package on the way to the binaries, and which package is the first whose result differs between two
//! builds. Only what is made for the target counts: programs for the building machine differ by nature, and what they give
//! (generated files, expanded macros) shows in the packages that use them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use cargo_metadata::{DependencyKind, Message, Metadata, Node, NodeDep, PackageId, TargetKind};
use elf::SectionDifference;
use memchr::memmem;
use stdx::Cmd;

/// Shorter texts stand in too many files by chance.
const SHORTEST_NEEDLE: usize = 5;
/// A generated file of this size or more is compared, and not searched.
const LARGEST_SEARCHED: u64 = 256 << 20;

/// What Cargo made of one package for the target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unit {
    /// Libraries.
    libraries: Vec<PathBuf>,
    /// Where its build script wrote.
    out_dir: Option<PathBuf>,
}

/// What Cargo made, by package (`name@version`).
pub(super) type Made = BTreeMap<String, Unit>;

/// Two builds and the order in which packages depend on each other, dependencies first.
pub(super) struct Sides<'a> {
    pub(super) first: &'a Made,
    pub(super) second: &'a Made,
    pub(super) order: &'a [String],
    /// Paths of both settings, which may differ in texts that build scripts write.
    pub(super) paths: &'a [(PathBuf, PathBuf)],
}

/// The first package whose result differs, and what shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Culprit {
    pub(super) package: String,
    pub(super) evidence: Evidence,
}

/// What shows that a package's result differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Evidence {
    /// A file that its build script wrote.
    Generated { file: String, first: String, second: String },
    /// A line that its build script told Cargo.
    Told { first: String, second: String },
    /// The differing text stands in its metadata: a constant, or what a macro became.
    Metadata,
    /// An object that the compiler made of it.
    Object { member: String, difference: SectionDifference },
    /// Cargo knows it by another name.
    Renamed,
}

/// Asks Cargo, by an invocation whose results are all there, where they are.
pub(super) fn made(cargo: &Cmd, target_dir: &Path) -> Result<Made> {
    let mut child =
        cargo.to_std()?.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let stdout = child.stdout.take().context("cargo has no standard output")?;
    let mut made = Made::new();
    for message in Message::parse_stream(BufReader::new(stdout)) {
        match message? {
            Message::CompilerArtifact(artifact) => {
                let libraries = artifact.filenames.iter().map(|path| path.as_std_path().to_owned());
                let libraries: Vec<PathBuf> = libraries
                    .filter(|path| {
                        path.starts_with(target_dir) && path.extension().is_some_and(|end| end == "rlib")
                    })
                    .collect();
                if !libraries.is_empty() {
                    made.entry(name(&artifact.package_id)).or_default().libraries.extend(libraries);
                }
            }
            Message::BuildScriptExecuted(script) if script.out_dir.as_std_path().starts_with(target_dir) => {
                made.entry(name(&script.package_id)).or_default().out_dir =
                    Some(script.out_dir.into_std_path_buf());
            }
            _ => {}
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "cargo failed with {status}");
    Ok(made)
}

/// Names of the package `root` and of all that it needs, dependencies in front of those that use them.
pub(super) fn order(metadata: &Metadata, root: &PackageId) -> Vec<String> {
    let nodes: BTreeMap<&PackageId, &Node> =
        metadata.resolve.iter().flat_map(|resolve| &resolve.nodes).map(|node| (&node.id, node)).collect();
    let mut order: Vec<&PackageId> = Vec::new();
    let mut seen = BTreeSet::new();
    // Depth first, without recursion: a package, and whether what it needs was looked at.
    let mut todo = vec![(root, false)];
    while let Some((id, is_done)) = todo.pop() {
        if is_done {
            order.push(id);
        } else if seen.insert(id) {
            todo.push((id, true));
            let dependencies = nodes.get(id).map_or(&[][..], |node| &node.dependencies);
            todo.extend(dependencies.iter().rev().map(|id| (id, false)));
        }
    }
    order.into_iter().map(name).collect()
}

/// What each package is made with and does not contain: the procedural macros that it uses, and what its build script uses.
pub(super) fn helpers(metadata: &Metadata) -> BTreeMap<String, Vec<String>> {
    let is_macro = |id: &PackageId| {
        metadata[id].targets.iter().any(|target| target.kind.contains(&TargetKind::ProcMacro))
    };
    let nodes = metadata.resolve.iter().flat_map(|resolve| &resolve.nodes);
    let of = |node: &Node| {
        let helps = |dep: &&NodeDep| {
            is_macro(&dep.pkg) || dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Build)
        };
        (name(&node.id), node.deps.iter().filter(helps).map(|dep| name(&dep.pkg)).collect())
    };
    nodes.map(of).collect()
}

/// `name@version` of a package id.
pub(super) fn name(id: &PackageId) -> String {
    let version = id.repr.rsplit(['#', '@']).next().unwrap_or_default();
    format!("{}@{version}", crate::compile::short_name(&id.repr))
}

/// The first package in order that differs and matters: its objects differ, or it holds the text by which the binaries differ. Where
/// that finds none, the first whose build script gave something else.
pub(super) fn culprit(sides: &Sides<'_>, differences: &[SectionDifference]) -> Option<Culprit> {
    let mut suspect = None;
    for package in sides.order {
        let (Some(first), Some(second)) = (sides.first.get(package), sides.second.get(package)) else {
            continue;
        };
        let found = |evidence| Some(Culprit { package: package.clone(), evidence });
        let generated = generated(sides, first, second);
        let holds = |bytes: (&[u8], &[u8])| {
            differences.iter().any(|difference| carries(difference, bytes.0, bytes.1))
        };
        if let Some((evidence, texts)) = &generated
            && texts.iter().any(|(a, b)| holds((a, b)))
        {
            return found(evidence.clone());
        }
        if let Some(evidence) = compiled(first, second, &holds) {
            return found(match (evidence, generated) {
                // Code can differ by what was generated without holding a word of it.
                (Evidence::Object { difference, .. }, Some((generated, _)))
                    if !difference.first.is_readable() =>
                {
                    generated
                }
                (evidence, _) => evidence,
            });
        }
        suspect = suspect.or_else(|| found(generated?.0));
    }
    suspect
}

/// The text by which the binaries differ is in the first file, and its counterpart in the second one.
fn carries(difference: &SectionDifference, first: &[u8], second: &[u8]) -> bool {
    [24, 12, 6, 3, 0].into_iter().any(|context| {
        let (a, b) = (difference.first.window(context), difference.second.window(context));
        let telling = a.len() >= SHORTEST_NEEDLE && b.len() >= SHORTEST_NEEDLE && a != b;
        telling
            && memmem::find(first, a).is_some()
            && memmem::find(second, b).is_some()
            && memmem::find(second, a).is_none()
    })
}

type Texts = Vec<(Vec<u8>, Vec<u8>)>;
/// Whether two files hold, each in its form, what the programs differ by.
type Holds<'a> = dyn Fn((&[u8], &[u8])) -> bool + 'a;

/// What the build script of a package gave: files and lines, but for the places of the two builds.
fn generated(sides: &Sides<'_>, first: &Unit, second: &Unit) -> Option<(Evidence, Texts)> {
    let (a, b) = (first.out_dir.as_deref()?, second.out_dir.as_deref()?);
    let mut evidence = None;
    let mut texts = Texts::new();
    for file in files(a) {
        let size = |folder: &Path| fs::metadata(folder.join(&file)).map_or(0, |meta| meta.len());
        if size(a) >= LARGEST_SEARCHED || size(b) >= LARGEST_SEARCHED {
            continue;
        }
        let (one, other) = (fs::read(a.join(&file)).ok()?, fs::read(b.join(&file)).unwrap_or_default());
        if one != other {
            if let Some((x, y)) = line_difference(sides, &one, &other) {
                let file = file.display().to_string();
                evidence = evidence.or(Some(Evidence::Generated { file, first: x, second: y }));
            }
            texts.push((one, other));
        }
    }
    let told = |folder: &Path| fs::read(folder.with_file_name("output")).unwrap_or_default();
    let (one, other) = (told(a), told(b));
    if let Some((first, second)) = line_difference(sides, &one, &other) {
        evidence = evidence.or(Some(Evidence::Told { first, second }));
    }
    texts.push((one, other));
    Some((evidence?, texts))
}

/// The first line that differs beyond the places of the two builds.
fn line_difference(sides: &Sides<'_>, first: &[u8], second: &[u8]) -> Option<(String, String)> {
    let neutral = |bytes: &[u8], pick: fn(&(PathBuf, PathBuf)) -> &PathBuf| {
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        for pair in sides.paths {
            text = text.replace(&pick(pair).display().to_string(), "…");
        }
        text
    };
    let (a, b) = (neutral(first, |pair| &pair.0), neutral(second, |pair| &pair.1));
    let mut lines = a.lines().zip(b.lines()).filter(|(a, b)| a != b);
    let shown = |line: &str| line.chars().take(200).collect::<String>();
    match lines.next() {
        Some((x, y)) => Some((shown(x), shown(y))),
        None if a != b => {
            Some((format!("{} lines", a.lines().count()), format!("{} lines", b.lines().count())))
        }
        None => None,
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut todo = vec![folder.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => todo.push(entry.path()),
                Ok(kind) if kind.is_file() => {
                    files.extend(entry.path().strip_prefix(folder).map(Path::to_owned));
                }
                _ => {}
            }
        }
    }
    files.sort();
    files
}

/// What differs in the libraries of a package: an object, or metadata that hold the text in question.
fn compiled(first: &Unit, second: &Unit, holds: &Holds<'_>) -> Option<Evidence> {
    // A package that is compiled twice for the target (it happens with artifact dependencies) has its libraries in one order.
    for (a, b) in first.libraries.iter().zip(&second.libraries) {
        let (one, other) = (fs::read(a).ok()?, fs::read(b).ok()?);
        let (one, other) = (members(a, &one)?, members(b, &other)?);
        for (member, bytes) in &one {
            // Metadata hold paths for error messages: they differ between folders by nature.
            let is_metadata = member.ends_with(".rmeta");
            match other.get(member) {
                Some(counterpart) if is_metadata => {
                    if holds((bytes, counterpart)) {
                        return Some(Evidence::Metadata);
                    }
                }
                Some(counterpart) => {
                    if let Some(difference) = object_difference(bytes, counterpart) {
                        return Some(Evidence::Object { member: member.clone(), difference });
                    }
                }
                // The names of objects come from the name that Cargo gives the crate.
                None => return Some(Evidence::Renamed),
            }
        }
    }
    None
}

/// Members by name, without the library's own name in front: the hash in it covers the flags, and with them the folders.
fn members<'a>(library: &Path, archive: &'a [u8]) -> Option<BTreeMap<String, &'a [u8]>> {
    let stem = library.file_stem()?.to_str()?;
    let stem = stem.strip_prefix("lib").unwrap_or(stem);
    let members = elf::archive_members(archive).ok()?;
    let short = |name: String| {
        name.strip_prefix(stem).map_or(name.clone(), |rest| rest.trim_start_matches('.').to_owned())
    };
    Some(members.into_iter().map(|(name, bytes)| (short(name), bytes)).collect())
}

fn object_difference(first: &[u8], second: &[u8]) -> Option<SectionDifference> {
    if first == second {
        return None;
    }
    let found = elf::section_differences(first, second).unwrap_or_default();
    let readable = found.iter().find(|difference| difference.first.is_readable()).cloned();
    readable.or_else(|| found.into_iter().next()).or_else(|| elf::difference("object", first, second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ_by_place_alone_are_no_difference() {
        let paths = [("/w".into(), "/v/source".into())];
        let made = Made::new();
        let sides = Sides { first: &made, second: &made, order: &[], paths: &paths };
        assert_eq!(line_difference(&sides, b"a /w/x\nb", b"a /v/source/x\nb"), None);
        let found = line_difference(&sides, b"a /w/x 1\n", b"a /v/source/x 2\n");
        assert_eq!(found, Some(("a …/x 1".into(), "a …/x 2".into())));
    }

    #[test]
    fn the_text_is_found_where_it_came_from() {
        let difference =
            elf::difference("x", b"\0\0stamp 1700000000 end\0", b"\0\0stamp 1799999999 end\0").unwrap();
        assert!(carries(&difference, b"....1700000000...", b"..1799999999...."));
        assert!(!carries(&difference, b"....1700000000...", b"....1700000000..."));
        assert!(!carries(&difference, b"....", b"...."));
    }

    #[test]
    fn names_of_packages() {
        let id = |repr: &str| name(&PackageId { repr: repr.into() });
        assert_eq!(id("registry+https://host/index#serde@1.0.0"), "serde@1.0.0");
        assert_eq!(id("path+file:///w/services/api#0.1.0"), "api@0.1.0");
    }
}
