//! The lock file of actions: which commit stands for which version. One line an action, in the very form of a workflow
//! (`owner/name@commit # version`), so that people and bots can read and edit it. It knows nothing of what an action does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use stdx::yaml::Problem;

/// The actions that the pipelines use, and where they are pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins(BTreeMap<String, Pin>);

/// A commit of an action's repository, with the version that it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    /// 40 hex digits.
    pub commit: String,
    /// For people and bots; the commit decides.
    pub version: String,
}

/// Every repository whose actions the definitions use: all are GitHub's own.
const REPOSITORIES: &[&str] = &[
    "actions/attest",
    "actions/cache",
    "actions/checkout",
    "actions/download-artifact",
    "actions/upload-artifact",
    "github/codeql-action",
];

/// What a workspace begins with; afterwards its own lock file decides.
const BUILT_IN: &str = include_str!("actions.lock");

/// More than any lock file of ours has.
const MAX_BYTES: usize = 64 * 1024;

impl Pins {
    /// Where it lies in a workspace.
    pub const FILE: &'static str = "ci/actions.lock";

    /// Those that a workspace without a lock file begins with.
    pub fn built_in() -> Pins {
        Pins::parse(BUILT_IN)
            .unwrap_or_else(|problems| unreachable!("the built-in lock file is good: {problems:?}"))
    }

    /// Parses a lock file; it must pin every action that is used, and nothing else.
    ///
    /// # Errors
    /// All that is wrong with it, with lines.
    pub fn parse(text: &str) -> Result<Pins, Vec<Problem>> {
        let problem = |line: usize, key: &str, message: String| Problem {
            file: Some(Pins::FILE.into()),
            line: Some(line),
            key: key.to_owned(),
            message,
        };
        if text.len() > MAX_BYTES {
            return Err(vec![problem(1, "size", format!("more than {MAX_BYTES} bytes"))]);
        }
        let (mut pins, mut problems) = (BTreeMap::new(), Vec::new());
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            match parse_use(line) {
                Some((name, pin)) if REPOSITORIES.contains(&name) => {
                    if pins.insert(name.to_owned(), pin).is_some() {
                        problems.push(problem(index + 1, name, "is there twice".to_owned()));
                    }
                }
                Some((name, _)) => {
                    problems.push(problem(index + 1, name, "is not an action that workflows use".to_owned()));
                }
                None => problems.push(problem(
                    index + 1,
                    line.trim(),
                    "is not of the form `owner/name@<40 hex digits> # version`".to_owned(),
                )),
            }
        }
        for name in REPOSITORIES.iter().filter(|name| !pins.contains_key(**name)) {
            let line = BUILT_IN.lines().find(|line| line.starts_with(&format!("{name}@")));
            problems.push(problem(1, name, format!("is missing; next: add `{}`", line.unwrap_or_default())));
        }
        if problems.is_empty() { Ok(Pins(pins)) } else { Err(problems) }
    }

    /// The pin of an action, which is a repository or a folder in one.
    pub(crate) fn of(&self, action: &str) -> &Pin {
        match self.0.get(repository(action)) {
            Some(pin) => pin,
            None => unreachable!("{action} is in REPOSITORIES"),
        }
    }

    /// What workflow files say that is not in the lock file: for each repository the one other pin. Two other pins of one
    /// repository contradict each other.
    ///
    /// # Errors
    /// Names the repositories with contradicting pins.
    pub(crate) fn edited<'a>(&self, texts: impl Iterator<Item = &'a str>) -> Result<Pins, Vec<String>> {
        let mut found: BTreeMap<String, BTreeSet<Pin>> = BTreeMap::new();
        for line in texts.flat_map(str::lines) {
            if let Some((action, pin)) = line.split_once("uses: ").and_then(|(_, rest)| parse_use(rest)) {
                let name = repository(action);
                if self.0.get(name).is_some_and(|locked| *locked != pin) {
                    found.entry(name.to_owned()).or_default().insert(pin);
                }
            }
        }
        let contradicting: Vec<_> =
            found.iter().filter(|(_, pins)| pins.len() > 1).map(|(name, _)| name.clone()).collect();
        if !contradicting.is_empty() {
            return Err(contradicting);
        }
        let mut pins = self.clone();
        pins.0.extend(found.into_iter().filter_map(|(name, pins)| Some((name, pins.into_iter().next()?))));
        Ok(pins)
    }

    /// Those that differ in `other`: repository, here, there.
    pub fn differences<'a>(&'a self, other: &'a Pins) -> Vec<(&'a str, &'a Pin, &'a Pin)> {
        let pairs = self.0.iter().zip(other.0.values());
        pairs
            .filter(|((_, here), there)| here != there)
            .map(|((name, here), there)| (name.as_str(), here, there))
            .collect()
    }
}

/// The lock file.
impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Commits of the actions in .github. After an edit here: `cargo xtask ci generate`.\n\
             # After a bot's edit of the workflows: `cargo xtask ci check --fix` brings it here.\n"
        )?;
        self.0.iter().try_for_each(|(name, pin)| writeln!(f, "{name}@{} # {}", pin.commit, pin.version))
    }
}

/// `owner/name` of `owner/name/folder`.
fn repository(action: &str) -> &str {
    action.match_indices('/').nth(1).map_or(action, |(at, _)| &action[..at])
}

/// `owner/name[/folder]@commit # version`.
fn parse_use(text: &str) -> Option<(&str, Pin)> {
    let (action, rest) = text.trim().split_once('@')?;
    let (commit, version) = rest.split_once('#')?;
    let (commit, version) = (commit.trim(), version.trim());
    let is_commit =
        commit.len() == 40 && commit.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
    let is_version = version.starts_with('v')
        && (2..=40).contains(&version.len())
        && version.chars().all(|c| c.is_ascii_alphanumeric() || ".-+".contains(c));
    (is_commit && is_version)
        .then(|| (action.trim(), Pin { commit: commit.to_owned(), version: version.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_is_written_as_it_was_read() {
        let pins = Pins::built_in();
        assert_eq!(Pins::parse(&pins.to_string()).unwrap(), pins);
        assert_eq!(pins.to_string(), BUILT_IN);
        assert_eq!(pins.of("actions/cache/restore"), pins.of("actions/cache/save"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let check = |edit: &dyn Fn(String) -> String, line: usize, word: &str| {
            let problems = Pins::parse(&edit(BUILT_IN.to_owned())).unwrap_err();
            let problem = &problems[0];
            assert!(problem.line == Some(line) && problem.message.contains(word), "{problem}");
        };
        let commit = &Pins::built_in().of("actions/attest").commit.clone();
        check(&|text| text.replace(commit, "v4"), 4, "40 hex digits");
        check(&|text| text.replace(commit, &commit.to_uppercase()), 4, "40 hex digits");
        check(&|text| text.replace("actions/attest@", "some/one@"), 4, "not an action");
        check(&|text| text.lines().skip(4).collect::<Vec<_>>().join("\n"), 1, "missing");
        check(&|text| text.clone() + text.lines().last().unwrap(), 10, "twice");
        check(&|text| text + &" ".repeat(MAX_BYTES), 1, "bytes");
    }

    #[test]
    fn any_bytes_are_a_lock_file_or_refused() {
        for index in 0..BUILT_IN.len() {
            for insert in ["", "@", "#", "\n", "é", "\u{0}"] {
                let mut text = BUILT_IN.to_owned();
                text.replace_range(index..index + 1, insert);
                if let Ok(pins) = Pins::parse(&text) {
                    assert_eq!(Pins::parse(&pins.to_string()).unwrap(), pins);
                }
            }
        }
    }

    #[test]
    fn an_edit_in_a_workflow_is_found_and_two_contradict_each_other() {
        let pins = Pins::built_in();
        let uses =
            |action: &str, digit: &str| format!("      - uses: {action}@{} # v9.9.9\n", digit.repeat(40));
        let edited = pins.edited([uses("actions/cache/save", "a").as_str()].into_iter()).unwrap();
        assert_eq!(pins.differences(&edited).len(), 1);
        assert_eq!(edited.of("actions/cache/restore").version, "v9.9.9");
        let both = uses("actions/cache/save", "a") + &uses("actions/cache/restore", "b");
        assert_eq!(pins.edited([both.as_str()].into_iter()).unwrap_err(), ["actions/cache"]);
        let unknown = uses("some/one", "a") + "uses: actions/cache@main # v1\nuses: x\n";
        assert_eq!(pins.edited([unknown.as_str()].into_iter()).unwrap(), pins);
    }
}
