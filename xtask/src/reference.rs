//! The quick reference `docs/reference/commands.md`, written from the flags. Compiled for tests only: one test compares the page
//! with the flags and can write it anew. It knows clap's command tree and no command by name.

use std::fs;
use std::path::Path;

use clap::{Arg, Command, CommandFactory};

use crate::flags::Slipway;

const HEAD: &str = "\
# Commands

Written from the flags by a test, which fails when they differ; `SLIPWAY_UPDATE=1 cargo test -p xtask --lib reference` writes this page
anew. Every command also has `--help`.
";

/// A command with the words that call it.
type Named<'a> = (String, &'a Command);

/// The page for a command and all that is below it.
fn page(mut root: Command) -> String {
    root.build();
    let commands = below(root.get_bin_name().unwrap_or(root.get_name()), &root);
    let mut blocks = vec![HEAD.to_owned(), contents(&commands)];
    blocks.extend(commands.iter().flat_map(section));
    blocks.extend(globals(&root));
    blocks.extend(root.get_after_help().map(|text| notes(&text.to_string())));
    blocks.join("\n")
}

/// The commands below `command` that are not hidden, in the order of `--help`.
fn below<'a>(name: &str, command: &'a Command) -> Vec<Named<'a>> {
    let shown = command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help");
    let with_below = |command: &'a Command| {
        let name = format!("{name} {}", command.get_name());
        let rest = below(&name, command);
        std::iter::once((name, command)).chain(rest)
    };
    shown.flat_map(with_below).collect()
}

fn contents(commands: &[Named<'_>]) -> String {
    let line = |(name, command): &Named<'_>| {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        format!("- [`{name}`](#{}): {}\n", name.replace(' ', "-"), prose(&about))
    };
    commands.iter().map(line).collect()
}

fn section((name, command): &Named<'_>) -> Vec<String> {
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let usage = (*command).clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage);
    let mut blocks =
        vec![format!("## `{name}`\n"), format!("{}\n", prose(&sentence(&about))), indented(usage)];
    blocks.extend(table(command.get_arguments().filter(|arg| !arg.is_global_set())));
    let after = command.get_after_long_help().or(command.get_after_help());
    blocks.extend(after.map(|text| notes(&text.to_string())));
    blocks
}

/// Options that every command takes.
fn globals(root: &Command) -> Vec<String> {
    let rows = table(root.get_arguments().filter(|arg| arg.is_global_set()));
    rows.map(|rows| vec!["## Everywhere\n".to_owned(), rows]).unwrap_or_default()
}

/// Arguments with what they mean, positional ones first; `None` where there is nothing to tell.
fn table<'a>(args: impl Iterator<Item = &'a Arg>) -> Option<String> {
    let is_told = |arg: &&Arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str());
    let (positional, options): (Vec<_>, Vec<_>) = args.filter(is_told).partition(|arg| arg.is_positional());
    let row = |arg: &Arg| format!("| {} | {} |\n", spelling(arg), cell(&meaning(arg)));
    let rows: String = positional.into_iter().chain(options).map(row).collect();
    (!rows.is_empty()).then(|| format!("| | |\n|---|---|\n{rows}"))
}

/// How an argument is written.
fn spelling(arg: &Arg) -> String {
    let takes_value = arg.get_action().takes_values();
    let value = arg.get_value_names().map(|names| names.join(" ")).filter(|_| takes_value);
    let value = value.unwrap_or_else(|| arg.get_id().as_str().to_uppercase());
    if arg.is_positional() {
        return format!("`{value}`");
    }
    let value = if takes_value { format!(" {value}") } else { String::new() };
    let long = arg.get_long().map(|long| format!("`--{long}{value}`"));
    let short = arg.get_short().map(|short| format!("`-{short}`"));
    long.into_iter().chain(short).collect::<Vec<_>>().join(", ")
}

fn meaning(arg: &Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let list =
        |names: Vec<String>| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let takes_value = arg.get_action().takes_values();
    let values =
        arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect::<Vec<_>>();
    let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned());
    let mut text = sentence(&help);
    if takes_value && !values.is_empty() && !arg.is_hide_possible_values_set() {
        text += &format!(" One of {}.", list(values));
    }
    if takes_value && !arg.get_default_values().is_empty() && !arg.is_hide_default_value_set() {
        text += &format!(" Default: {}.", list(defaults.collect()));
    }
    text
}

/// Text with a full stop: the derive macro takes it from a comment of one line.
fn sentence(text: &str) -> String {
    let text = text.trim().trim_end_matches('.');
    if text.is_empty() { String::new() } else { format!("{text}.") }
}

/// Text as a cell of a table.
fn cell(text: &str) -> String {
    prose(text).split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// Text whose angle brackets, outside code, are no HTML.
fn prose(text: &str) -> String {
    let escape =
        |(at, part): (usize, &str)| if at % 2 == 0 { part.replace('<', "\\<") } else { part.to_owned() };
    text.split('`').enumerate().map(escape).collect::<Vec<_>>().join("`")
}

/// What stands below the options of `--help`: paragraphs of a title and indented lines.
fn notes(text: &str) -> String {
    let mut out = String::new();
    for line in text.trim_end().lines() {
        let is_title = line.ends_with(':') && !line.starts_with(' ');
        out +=
            &if is_title { format!("{line}\n\n") } else { indented(line.strip_prefix("  ").unwrap_or(line)) };
    }
    out
}

/// Text as code.
fn indented(text: &str) -> String {
    let line = |line: &str| {
        if line.trim().is_empty() { "\n".to_owned() } else { format!("    {}\n", line.trim_end()) }
    };
    text.lines().map(line).collect()
}

#[test]
fn the_page_is_what_the_flags_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/commands.md");
    let expected = page(Slipway::command());
    if std::env::var_os("SLIPWAY_UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &expected).unwrap();
    }
    let real = fs::read_to_string(&path).unwrap_or_default();
    let differs = expected.lines().zip(real.lines()).find(|(expected, real)| expected != real);
    assert!(
        real == expected,
        "docs/reference/commands.md is not what the flags say, first {differs:?}; \
         write it anew: SLIPWAY_UPDATE=1 cargo test -p xtask --lib reference"
    );
}

#[test]
fn commands_below_commands_and_every_kind_of_argument_are_shown() {
    let below = Command::new("plan")
        .about("Show the plan.")
        .arg(Arg::new("format").long("format").value_parser(["json", "matrix"]).default_value("json"))
        .arg(Arg::new("shards").long("shards").short('n').value_name("N").help("How many | at most."))
        .after_help("Examples:\n  tool test plan -n 2    two shards");
    let hidden = Command::new("internal").hide(true);
    let test = Command::new("test").about("Run.").arg(Arg::new("file").help("Of <this>")).subcommand(below);
    let global =
        Arg::new("quiet").long("quiet").global(true).action(clap::ArgAction::SetTrue).help("Say less.");
    let text = page(
        Command::new("tool").arg(global).subcommands([test, hidden]).after_help("Exit codes:\n  0 done"),
    );
    let expected = "\
- [`tool test`](#tool-test): Run.
- [`tool test plan`](#tool-test-plan): Show the plan.

## `tool test`

Run.

    tool test [OPTIONS] [file] [COMMAND]

| | |
|---|---|
| `FILE` | Of \\<this>. |

## `tool test plan`

Show the plan.

    tool test plan [OPTIONS]

| | |
|---|---|
| `--format FORMAT` | One of `json`, `matrix`. Default: `json`. |
| `--shards N`, `-n` | How many \\| at most. |

Examples:

    tool test plan -n 2    two shards

## Everywhere

| | |
|---|---|
| `--quiet` | Say less. |

Exit codes:

    0 done
";
    assert_eq!(text.strip_prefix(HEAD).unwrap().trim_start(), expected);
}
