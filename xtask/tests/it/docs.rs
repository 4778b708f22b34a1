//! The pages of this repository lead somewhere: links to files that are there, and tests that exist under the names that a page
//! gives. Links to other hosts are not followed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Files of the repository whose name ends in `suffix`, new ones included and ignored ones not.
fn files(suffix: &str) -> Vec<PathBuf> {
    let args = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"];
    let output = Command::new("git").args(args).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    let files = names.split('\0').filter(|name| name.ends_with(suffix)).map(|name| root().join(name));
    // A file that is removed and not yet committed is still listed.
    files.filter(|file| file.is_file()).collect()
}

/// Text without code: what stands there is no link.
fn without_code(text: &str) -> String {
    let mut is_fenced = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
        } else if !is_fenced && !line.starts_with("    ") {
            kept.extend(line.split('`').step_by(2));
            kept.push('\n');
        }
    }
    kept
}

/// Targets of the links `[text](target)` of a page.
fn links(text: &str) -> Vec<String> {
    let text = without_code(text);
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.split_whitespace().next().unwrap_or_default().to_owned()).collect()
}

/// The anchors that the headings of a page get.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    let anchor = |heading: &str| -> String {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// What is wrong with a link of the page at `page`, if anything.
fn problem(page: &Path, link: &str) -> Option<String> {
    let is_elsewhere = ["http://", "https://", "mailto:"].iter().any(|scheme| link.starts_with(scheme));
    if is_elsewhere {
        return None;
    }
    let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
    let target = if file.is_empty() { page.to_owned() } else { page.parent().unwrap().join(file) };
    let said = |what: &str| Some(format!("{}: {link}: {what}", page.strip_prefix(root()).unwrap().display()));
    let Ok(target) = target.canonicalize() else { return said("no such file") };
    match anchor {
        Some(anchor) if !anchors(&fs::read_to_string(target).unwrap()).contains(anchor) => {
            said("no such heading")
        }
        _ => None,
    }
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let pages = files(".md");
    assert!(pages.len() > 5, "{pages:?}");
    let of_page = |page: &PathBuf| {
        let text = fs::read_to_string(page).unwrap();
        links(&text).iter().filter_map(|link| problem(page, link)).collect::<Vec<_>>()
    };
    let problems: Vec<String> = pages.iter().flat_map(of_page).collect();
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn every_guide_is_in_the_list_of_pages() {
    let list = links(&fs::read_to_string(root().join("docs/README.md")).unwrap());
    for page in files(".md") {
        let Ok(name) = page.strip_prefix(root().join("docs")) else { continue };
        let is_listed = name.starts_with("adr")
            || name == Path::new("README.md")
            || list.iter().any(|link| Path::new(link) == name);
        assert!(is_listed, "docs/README.md does not lead to docs/{}", name.display());
    }
}

#[test]
fn decisions_are_numbered_one_after_the_other() {
    let folder = root().join("docs/adr");
    let mut names: Vec<String> = files(".md")
        .iter()
        .filter(|page| page.parent() == Some(&folder))
        .map(|page| page.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    for (index, name) in names.iter().enumerate() {
        let number = index + 1;
        assert!(name.starts_with(&format!("{number:04}-")), "{name} should have the number {number}");
        let title = fs::read_to_string(folder.join(name)).unwrap();
        assert!(title.starts_with(&format!("# {number}. ")), "{name}: the heading has another number");
    }
}

#[test]
fn tests_that_pages_name_exist() {
    let source: String = files(".rs").iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let page = fs::read_to_string(root().join("docs/guide/security.md")).unwrap();
    let is_test = |word: &&str| {
        word.matches('_').count() > 2 && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let named: BTreeSet<&str> = page.split('`').skip(1).step_by(2).filter(is_test).collect();
    assert!(named.len() > 8, "{named:?}");
    for name in named {
        assert!(source.contains(&format!("fn {name}(")), "docs/guide/security.md names the test {name}");
    }
}

#[test]
fn links_and_anchors_are_read_as_they_are_written() {
    let page = "# The `first` one\n[a](b.md#c) `[no](x)` [d](e \"title\")\n    [no](y)\n```\n[no](z)\n```\n## Zwei, drei\n";
    assert_eq!(links(page), ["b.md#c", "e"]);
    assert_eq!(anchors(page), ["the-first-one", "zwei-drei"].map(str::to_owned).into());
    let missing = problem(&root().join("README.md"), "docs/nothing.md");
    assert_eq!(missing.as_deref(), Some("README.md: docs/nothing.md: no such file"));
    let heading = problem(&root().join("README.md"), "docs/architecture.md#nothing");
    assert!(heading.unwrap().ends_with("no such heading"));
}
