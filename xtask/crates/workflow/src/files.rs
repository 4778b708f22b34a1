//! The generated files as a set: what they must be, how what is on disk differs, and who owns a line that differs. It decides
//! over texts; reading and writing files is the caller's.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::define;
use crate::pins::Pins;
use crate::render::{self, HEADER, Source};
use crate::settings::Settings;

/// Paths of files, relative to the workspace's root, with their texts.
pub type Files = BTreeMap<String, String>;

/// The folders that files of ours can be in.
pub const FOLDERS: [&str; 2] = [".github/workflows", ".github/actions/slipway"];

/// A file that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// The file.
    pub path: String,
    /// The first line that differs, from 1.
    pub line: usize,
    /// Who decides over that line.
    pub owner: Owner,
    /// What is wrong.
    pub kind: Kind,
}

/// How a file is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It is not there.
    Missing,
    /// It is there without our header: somebody wrote it.
    Foreign,
    /// It is ours and no longer wanted.
    Stale,
    /// It is ours and differs.
    Changed {
        /// The line as it must be.
        expected: String,
        /// The line as it is.
        found: String,
    },
}

/// Who decides over a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// `ci/actions.lock`, which bots may change through the workflows.
    Lock,
    /// The block `ci:` of `slipway.yaml`.
    Settings,
    /// The definitions in this tool.
    Definitions,
    /// A person: the file is none of ours.
    Person,
}

/// All generated files.
pub fn generate(settings: &Settings, pins: &Pins) -> Files {
    let source = Source { settings, pins };
    let mut files: Files = define::workflows(settings)
        .iter()
        .map(|workflow| {
            (format!("{}/{}.yml", FOLDERS[0], workflow.file), render::workflow(workflow, &source))
        })
        .collect();
    files.insert(format!("{}/action.yml", FOLDERS[1]), render::action(&source));
    files
}

/// Whether the file is one that we wrote.
pub fn is_ours(text: &str) -> bool {
    text.starts_with(HEADER)
}

/// How `found` (all files of `FOLDERS`) differs from what must be there. Files of others at other places are none of our
/// business.
pub fn compare(settings: &Settings, pins: &Pins, found: &Files) -> Vec<Drift> {
    let expected = generate(settings, pins);
    let plain = generate(&Settings::default(), pins);
    let mut drifts = Vec::new();
    for (path, text) in &expected {
        let drift = |line, owner, kind| Drift { path: path.clone(), line, owner, kind };
        match found.get(path) {
            None => drifts.push(drift(1, Owner::Definitions, Kind::Missing)),
            Some(found) if found == text => {}
            Some(found) if !is_ours(found) => drifts.push(drift(1, Owner::Person, Kind::Foreign)),
            Some(found) => {
                let (line, kind) = first_difference(text, found);
                let is_plain =
                    plain.get(path).is_some_and(|plain| plain.lines().any(|plain| same(plain, text, line)));
                drifts.push(drift(line, owner(text, line, is_plain), kind));
            }
        }
    }
    let is_stale = |path: &&String| !expected.contains_key(*path) && is_ours(&found[*path]);
    for path in found.keys().filter(is_stale) {
        drifts.push(Drift { path: path.clone(), line: 1, owner: Owner::Settings, kind: Kind::Stale });
    }
    drifts
}

fn same(plain: &str, text: &str, line: usize) -> bool {
    text.lines().nth(line - 1).is_none_or(|expected| expected == plain)
}

/// A line that other settings would not change is not theirs.
fn owner(text: &str, line: usize, is_plain: bool) -> Owner {
    match text.lines().nth(line - 1) {
        Some(line) if line.contains("uses: ") && line.contains('@') => Owner::Lock,
        Some(_) if !is_plain => Owner::Settings,
        _ => Owner::Definitions,
    }
}

fn first_difference(expected: &str, found: &str) -> (usize, Kind) {
    let (mut left, mut right) = (expected.split('\n'), found.split('\n'));
    for line in 1.. {
        let (expected, found) = (left.next(), right.next());
        if expected != found || expected.is_none() {
            let shown = |line: Option<&str>| line.unwrap_or("(the end)").trim().chars().take(160).collect();
            return (line, Kind::Changed { expected: shown(expected), found: shown(found) });
        }
    }
    unreachable!("the loop ends with the shorter text")
}

/// The lock file that the workflow files themselves ask for, if pins are all that was edited in them.
///
/// # Errors
/// What else differs, or which pins contradict each other.
pub fn reimport(settings: &Settings, pins: &Pins, found: &Files) -> Result<Pins, Reimport> {
    let ours = found.values().filter(|text| is_ours(text)).map(String::as_str);
    let edited = pins.edited(ours).map_err(Reimport::Contradicting)?;
    // A bot may have missed a file: that is mended by generating. So each line counts as right with the old pin or the new.
    let unified: Files =
        found.iter().map(|(path, text)| (path.clone(), unify(text, pins, &edited))).collect();
    let rest = compare(settings, &edited, &unified);
    if rest.is_empty() { Ok(edited) } else { Err(Reimport::Drift(rest)) }
}

fn unify(text: &str, old: &Pins, new: &Pins) -> String {
    old.differences(new).iter().fold(text.to_owned(), |text, (_, old, new)| {
        text.replace(
            &format!("@{}  # {}", old.commit, old.version),
            &format!("@{}  # {}", new.commit, new.version),
        )
        .replace(
            &format!("@{} # {}", new.commit, new.version),
            &format!("@{}  # {}", new.commit, new.version),
        )
    })
}

/// Why edits of workflow files cannot be taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reimport {
    /// These repositories have two new pins each.
    Contradicting(Vec<String>),
    /// More than pins was edited.
    Drift(Vec<Drift>),
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.path, self.line)?;
        match &self.kind {
            Kind::Missing => write!(f, "is missing"),
            Kind::Foreign => write!(f, "is not one of ours: {}", self.owner),
            Kind::Stale => write!(f, "is no longer wanted by {}", self.owner),
            Kind::Changed { expected, found } => {
                write!(f, "is `{found}`, must be `{expected}`; the line belongs to {}", self.owner)
            }
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Owner::Lock => "ci/actions.lock",
            Owner::Settings => "`ci:` in slipway.yaml",
            Owner::Definitions => "the definitions in `cargo xtask`",
            Owner::Person => "somebody wrote it",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> (Settings, Pins, Files) {
        let (settings, pins) = (Settings::default(), Pins::built_in());
        let files = generate(&settings, &pins);
        (settings, pins, files)
    }

    fn edit(files: &mut Files, path: &str, from: &str, to: &str) {
        let text = files.get_mut(path).unwrap();
        assert!(text.contains(from), "{from} is not in {path}");
        *text = text.replacen(from, to, 1);
    }

    #[test]
    fn the_same_settings_give_the_same_files() {
        let (settings, pins, files) = found();
        assert_eq!(generate(&settings, &pins), files);
        assert_eq!(compare(&settings, &pins, &files), []);
    }

    #[test]
    fn names_that_yaml_reads_as_something_else_stay_names() {
        for word in ["on", "1e3", "true", "null", "0x1", "1.5", "-", "2026-01-01", "y"] {
            let settings = Settings {
                runner: word.to_owned(),
                default_branch: word.to_owned(),
                release_tags: "*".to_owned(),
                ..Settings::default()
            };
            for (path, text) in generate(&settings, &Pins::built_in()) {
                let file = stdx::yaml::File { path: None, text };
                let value: serde_json::Value =
                    file.parse().unwrap_or_else(|problem| panic!("{path}: {problem}"));
                for job in value["jobs"].as_object().into_iter().flatten().map(|(_, job)| job) {
                    assert!(job["runs-on"] == word || job["uses"].is_string(), "{path}: {job}");
                    let minutes = &job["timeout-minutes"];
                    assert!(minutes == 30 || job["uses"].is_string(), "{path}: {job}");
                    assert!(job["permissions"].is_object(), "{path}: {job}");
                }
                if path.ends_with("build.yml") {
                    let push = &value["on"]["push"];
                    assert_eq!(push, &serde_json::json!({"branches": [word], "tags": ["*"]}));
                }
                assert!(
                    path.ends_with("action.yml") || value["permissions"] == serde_json::json!({}),
                    "{path}"
                );
            }
        }
    }

    #[test]
    fn a_difference_names_line_and_owner() {
        let ci = ".github/workflows/ci.yml";
        let check = |from: &str, to: &str, owner: Owner| {
            let (_, pins, _) = found();
            let settings = Settings { runner: "big".to_owned(), ..Settings::default() };
            let mut files = generate(&settings, &pins);
            edit(&mut files, ci, from, to);
            let drifts = compare(&settings, &pins, &files);
            assert_eq!((drifts.len(), drifts[0].owner), (1, owner), "{drifts:?}");
            let line = files[ci].lines().nth(drifts[0].line - 1).unwrap();
            assert!(line.contains(to.trim()), "{line}");
        };
        check("fail-fast: false", "fail-fast: true", Owner::Definitions);
        check("runs-on: big", "runs-on: small", Owner::Settings);
        check("# v7.0.1", "# v7.0.2", Owner::Lock);
    }

    #[test]
    fn foreign_missing_and_stale_files_are_told_apart() {
        let (settings, pins, mut files) = found();
        let ours = files[".github/workflows/ci.yml"].clone();
        files.insert(".github/workflows/ci.yml".to_owned(), "name: mine\n".to_owned());
        files.insert(".github/workflows/own.yml".to_owned(), "name: own\n".to_owned());
        files.insert(".github/workflows/zold.yml".to_owned(), ours);
        files.remove(".github/workflows/build.yml");
        let kinds: Vec<_> =
            compare(&settings, &pins, &files).into_iter().map(|drift| (drift.path, drift.kind)).collect();
        let name = |name: &str| format!(".github/workflows/{name}.yml");
        assert_eq!(
            kinds,
            [(name("build"), Kind::Missing), (name("ci"), Kind::Foreign), (name("zold"), Kind::Stale)]
        );
    }

    #[test]
    fn any_bytes_in_a_file_are_judged_without_a_panic() {
        let (settings, pins, files) = found();
        let path = ".github/workflows/deploy.yml";
        for index in (0..files[path].len()).step_by(89) {
            for insert in ["", "\n", "uses: a@b # c", "@", "\u{85}\u{0}"] {
                let mut edited = files.clone();
                edited.get_mut(path).unwrap().replace_range(index..index + 1, insert);
                let drifts = compare(&settings, &pins, &edited);
                assert_eq!(drifts.is_empty(), edited == files);
                assert!(drifts.iter().all(|drift| drift.path == path), "{drifts:?}");
                let _ = reimport(&settings, &pins, &edited);
            }
        }
    }

    #[test]
    fn pins_that_a_bot_edited_come_back_and_nothing_else_does() {
        let (settings, pins, files) = found();
        let old = pins.of("actions/checkout").clone();
        let new = "a".repeat(40);
        let mut edited = files.clone();
        for text in edited.values_mut() {
            // Bots write one space before the comment, and may miss a file.
            *text = text.replace(&format!("{}  # {}", old.commit, old.version), &format!("{new} # v9.0.0"));
        }
        edited
            .insert(".github/workflows/deploy.yml".to_owned(), files[".github/workflows/deploy.yml"].clone());
        let lock = reimport(&settings, &pins, &edited).unwrap();
        assert_eq!(lock.of("actions/checkout").commit, new);
        assert_eq!(pins.differences(&lock).len(), 1);

        let mut more = edited.clone();
        edit(&mut more, ".github/workflows/ci.yml", "timeout-minutes: 30", "timeout-minutes: 300");
        assert!(matches!(reimport(&settings, &pins, &more), Err(Reimport::Drift(_))));
        edit(&mut edited, ".github/workflows/ci.yml", &new, &"b".repeat(40));
        assert_eq!(
            reimport(&settings, &pins, &edited),
            Err(Reimport::Contradicting(vec!["actions/checkout".to_owned()]))
        );
    }
}
