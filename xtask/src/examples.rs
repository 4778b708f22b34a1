//! Commands that the pages of this repository show are commands that there are. Compiled for tests only: each `cargo xtask …`
//! of a page is parsed as if it had been typed. It does not know what any of them does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use clap::error::ErrorKind;

use crate::flags::Slipway;

const CALL: &str = "cargo xtask ";

/// The commands of a page: lines of code blocks that begin with one, and those between backticks in the text.
fn commands(page: &str) -> Vec<String> {
    let mut found = vec![];
    let mut is_fenced = false;
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let mut line = line.to_owned();
        while let Some(begun) = line.strip_suffix('\\') {
            line = format!("{begun}{}", lines.next().unwrap_or_default().trim_start());
        }
        let code = line.trim_start().trim_start_matches("- ").trim_start_matches("run: ");
        if code.starts_with("```") {
            is_fenced = !is_fenced;
        } else if is_fenced || line.starts_with("    ") {
            found.extend(code.starts_with(CALL).then(|| typed(code)));
        } else {
            let quoted = line.split('`').skip(1).step_by(2);
            found.extend(quoted.filter(|code| code.starts_with(CALL)).map(typed));
        }
    }
    found
}

/// Without a comment, what a shell does with the output, and words that only stand for others (`…`, `[SERVICE]`); the first of
/// `one|other`.
fn typed(code: &str) -> String {
    let end = [" # ", "  ", " > ", " && "].iter().filter_map(|mark| code.trim_end().find(mark)).min();
    let code = &code[..end.unwrap_or(code.len())];
    let is_typed = |word: &&str| *word != "…" && (!word.starts_with('[') || word.starts_with("[-"));
    let words = code.split_whitespace().filter(is_typed).map(|word| {
        let word = word.trim_matches(['[', ']']);
        word.split_once('|').map_or(word, |(first, _)| first)
    });
    words.collect::<Vec<_>>().join(" ")
}

/// What is wrong with a command, if anything. The text may name one without all that it needs, and an option without its value.
fn problem(command: &str) -> Option<String> {
    let error = Slipway::try_parse_from(command.split_whitespace().skip(1)).err()?;
    if error.to_string().contains("but none was supplied") {
        return None;
    }
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::MissingSubcommand
        | ErrorKind::MissingRequiredArgument => None,
        _ => Some(format!("`{command}`: {}", error.to_string().lines().next().unwrap_or_default())),
    }
}

fn pages(root: &Path) -> Vec<PathBuf> {
    let args = ["ls-files", "--cached", "--others", "--exclude-standard", "*.md"];
    let output = Command::new("git").args(args).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    names.lines().map(|name| root.join(name)).filter(|path| path.is_file()).collect()
}

#[test]
fn every_command_of_a_page_is_one_that_there_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut count = 0;
    let mut problems = vec![];
    for path in pages(&root) {
        let found = commands(&fs::read_to_string(&path).unwrap());
        count += found.len();
        let named = |text| format!("{}: {text}", path.strip_prefix(&root).unwrap_or(&path).display());
        // The reference has the forms of commands as well, such as `cargo xtask ci <COMMAND>`.
        let is_form = |command: &&String| command.contains('<');
        problems.extend(
            found
                .iter()
                .filter(|command| !is_form(command))
                .filter_map(|command| problem(command))
                .map(named),
        );
    }
    assert!(count > 100, "only {count} commands were found");
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn commands_are_read_as_they_are_written() {
    let page = "See `cargo xtask logs [SERVICE] [--follow]` and `other`.\n\n    cargo xtask build api   # one\n\
                    curl x\n```yaml\n- run: cargo xtask scan \\\n    --offline > log\n```\nNot cargo xtask nothing.\n";
    let expected = ["cargo xtask logs --follow", "cargo xtask build api", "cargo xtask scan --offline"];
    assert_eq!(commands(page), expected);
    assert!(expected.iter().all(|command| problem(command).is_none()));
    for wrong in ["cargo xtask biuld", "cargo xtask build --fast", "cargo xtask test --shard 3/2"] {
        assert!(problem(wrong).is_some_and(|text| text.starts_with(&format!("`{wrong}`: "))), "{wrong}");
    }
}
