//! Which tests the user asks for: names before `--`, and after it what Rust's test harness takes. What concerns more than one test
//! is understood here, since each test is a process of its own; the rest goes to each of them.

use anyhow::{Context, Result};
use shard::{ALL, BuiltBinary, DOCTESTS, Test};
use stdx::Cmd;

use crate::exit::{Code, ResultExt};
use crate::flags;

/// What to do with tests that are marked as ignored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Ignored {
    #[default]
    Skip,
    /// `--include-ignored`
    Run,
    /// `--ignored`
    RunNoOthers,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Arguments {
    /// A test must have one of them in its name, where there are any.
    pub(super) filters: Vec<String>,
    skipped: Vec<String>,
    is_exact: bool,
    pub(super) ignored: Ignored,
    pub(super) threads: Option<usize>,
    pub(super) is_output_shown: bool,
    /// Whether the output of tests that passed is wanted as well.
    pub(super) is_all_output_wanted: bool,
    pub(super) is_list_wanted: bool,
    /// What goes to each test.
    pub(super) rest: Vec<String>,
    /// All that stood after `--`, for the documentation tests.
    pub(super) all: Vec<String>,
}

impl Arguments {
    pub(super) fn parse(flags: &flags::TestRun) -> Result<Arguments> {
        let mut found = Arguments {
            filters: flags.filters.iter().chain(&flags.filter).cloned().collect(),
            all: flags.arguments.clone(),
            ..Arguments::default()
        };
        let mut words = flags.arguments.iter();
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (word.as_str(), None),
            };
            let mut value = || {
                let next = value.clone().or_else(|| words.next().cloned());
                next.with_context(|| format!("`{name}` needs a value")).or_exit(Code::Usage)
            };
            match name {
                "--skip" => found.skipped.push(value()?),
                "--test-threads" => found.threads = Some(threads(&value()?)?),
                "--color" | "--format" | "--logfile" | "-Z" => {
                    let value = value()?;
                    found.rest.extend([name.to_owned(), value]);
                }
                "--exact" => found.is_exact = true,
                "--ignored" => found.ignored = Ignored::RunNoOthers,
                "--include-ignored" => found.ignored = Ignored::Run,
                "--nocapture" | "--no-capture" => found.is_output_shown = true,
                "--show-output" => found.is_all_output_wanted = true,
                "--list" => found.is_list_wanted = true,
                _ if name.starts_with('-') => found.rest.push(word.clone()),
                _ => found.filters.push(word.clone()),
            }
        }
        if found.threads.is_none() {
            found.threads = std::env::var("RUST_TEST_THREADS").ok().map(|text| threads(&text)).transpose()?;
        }
        Ok(found)
    }

    /// Whether the user asks for this test.
    pub(super) fn chooses(&self, test: &Test, is_ignored: bool) -> bool {
        // rustdoc chooses by itself.
        if test.binary == DOCTESTS {
            return true;
        }
        let fits = |part: &String| {
            if self.is_exact { test.name == *part } else { test.name.contains(part.as_str()) }
        };
        let is_named = self.filters.is_empty() || self.filters.iter().any(fits);
        is_named && !self.skipped.iter().any(fits) && (is_ignored || self.ignored != Ignored::RunNoOthers)
    }

    /// The choice in words; the same for all shards of one run.
    pub(super) fn selection(&self) -> String {
        // Quoted: a name may hold blanks, or be the word for everything.
        let quoted = |part: &String| format!("{part:?}");
        let mut words: Vec<String> = self.filters.iter().map(quoted).collect();
        words.extend(self.skipped.iter().map(|part| format!("--skip {part:?}")));
        words.extend(self.is_exact.then(|| "--exact".to_owned()));
        match self.ignored {
            Ignored::Skip => {}
            Ignored::Run => words.push("--include-ignored".to_owned()),
            Ignored::RunNoOthers => words.push("--ignored".to_owned()),
        }
        if words.is_empty() { ALL.to_owned() } else { words.join(" ") }
    }

    /// Runs one test of a binary, or all of one that cannot be divided.
    pub(super) fn command(&self, binary: &BuiltBinary, test: &Test) -> Cmd {
        let cmd = binary.command.clone();
        if test.name == shard::WHOLE {
            return cmd.args(&self.rest);
        }
        // The harness is not to keep output back: it is written to a file, in the order in which it came.
        let cmd = cmd.args([test.name.as_str(), "--exact", "--nocapture"]);
        let cmd = if self.ignored == Ignored::Skip { cmd } else { cmd.arg("--include-ignored") };
        cmd.args(&self.rest)
    }

    /// Whether cargo-nextest can do as the user says.
    pub(super) fn suits_nextest(&self) -> bool {
        self.rest.is_empty() && !self.is_all_output_wanted
    }

    /// Whether the harness is told to write its results in another form.
    pub(super) fn changes_format(&self) -> bool {
        self.rest.iter().any(|word| word == "--format" || word == "--logfile")
    }
}

fn threads(text: &str) -> Result<usize> {
    let number: usize =
        text.parse().with_context(|| format!("`{text}` is no number of threads")).or_exit(Code::Usage)?;
    Ok(number.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(filters: &[&str], after: &[&str]) -> Arguments {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let flags =
            flags::TestRun { filters: owned(filters), arguments: owned(after), ..flags::TestRun::default() };
        Arguments::parse(&flags).unwrap()
    }

    fn chosen(arguments: &Arguments) -> Vec<&'static str> {
        let all = [("a::one", false), ("a::two", true), ("b::one", false), ("one", false)];
        let test = |name: &str| Test { binary: "x::it".to_owned(), name: name.to_owned() };
        all.into_iter()
            .filter(|(name, ignored)| arguments.chooses(&test(name), *ignored))
            .map(|(name, _)| name)
            .collect()
    }

    #[test]
    fn names_choose_as_they_do_in_cargo() {
        assert_eq!(chosen(&parse(&[], &[])).len(), 4);
        assert_eq!(chosen(&parse(&["a::"], &[])), ["a::one", "a::two"]);
        assert_eq!(chosen(&parse(&["a::", "b::"], &["--skip", "two"])), ["a::one", "b::one"]);
        assert_eq!(chosen(&parse(&["one"], &["--exact"])), ["one"]);
        assert_eq!(chosen(&parse(&[], &["--ignored"])), ["a::two"]);
        assert_eq!(chosen(&parse(&[], &["b::one", "--include-ignored"])), ["b::one"]);
    }

    #[test]
    fn what_concerns_one_test_goes_to_each_and_the_rest_is_understood() {
        let found = parse(&[], &["--test-threads=3", "--nocapture", "--color", "never", "-q", "--skip=x"]);
        assert_eq!((found.threads, found.is_output_shown), (Some(3), true));
        assert_eq!(found.rest, ["--color", "never", "-q"]);
        assert_eq!(found.selection(), "--skip \"x\"");
        assert_ne!(parse(&["all"], &[]).selection(), ALL);
        assert_ne!(parse(&["a b"], &[]).selection(), parse(&["a", "b"], &[]).selection());
        assert_eq!(parse(&[], &["--nocapture"]).selection(), ALL);
    }
}
