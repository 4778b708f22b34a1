//! A YAML writer for trees with comments: one tree, one text. It knows nothing of workflows, and it never reads. What it writes
//! parses to the same tree in YAML 1.1 and 1.2, because every scalar that one of them could read as something else is quoted.

/// A value of a YAML document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// Text; a block where it has several lines.
    Text(String),
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(u64),
    /// A list of short texts on one line.
    Line(Vec<String>),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order given.
    Map(Vec<Entry>),
}

/// A key with its value and what is to be said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Comment on the lines above.
    above: Option<String>,
    key: String,
    value: Node,
    /// Comment behind the value.
    behind: Option<String>,
    /// Whether an empty line comes before.
    is_apart: bool,
}

/// `key: value`.
pub(crate) fn entry(key: impl Into<String>, value: impl Into<Node>) -> Entry {
    Entry { above: None, key: key.into(), value: value.into(), behind: None, is_apart: false }
}

impl Entry {
    /// With a comment on the lines above.
    pub(crate) fn above(mut self, comment: impl Into<String>) -> Entry {
        self.above = Some(comment.into());
        self
    }

    /// With a comment behind the value.
    pub(crate) fn behind(mut self, comment: impl Into<String>) -> Entry {
        self.behind = Some(comment.into());
        self
    }

    /// With an empty line before.
    pub(crate) fn apart(mut self) -> Entry {
        self.is_apart = true;
        self
    }
}

impl From<&str> for Node {
    fn from(text: &str) -> Node {
        Node::Text(text.to_owned())
    }
}

impl From<String> for Node {
    fn from(text: String) -> Node {
        Node::Text(text)
    }
}

impl From<bool> for Node {
    fn from(value: bool) -> Node {
        Node::Bool(value)
    }
}

impl From<u32> for Node {
    fn from(value: u32) -> Node {
        Node::Int(value.into())
    }
}

impl From<Vec<Entry>> for Node {
    fn from(entries: Vec<Entry>) -> Node {
        Node::Map(entries)
    }
}

/// The document: `header` as comment lines, then the mapping.
pub(crate) fn document(header: &[String], entries: &[Entry]) -> String {
    let mut out = String::new();
    for line in header {
        comment(line, 0, &mut out);
    }
    out.push('\n');
    map(entries, 0, &mut out);
    out
}

fn map(entries: &[Entry], indent: usize, out: &mut String) {
    for (index, entry) in entries.iter().enumerate() {
        if entry.is_apart && !out.ends_with("\n\n") {
            out.push('\n');
        }
        // The first entry of a list item stands behind its dash, where a comment cannot stand.
        let is_behind_dash = index == 0 && out.ends_with("- ");
        if let Some(text) = &entry.above
            && !is_behind_dash
        {
            text.lines().for_each(|line| comment(line, indent, out));
        }
        if !is_behind_dash {
            push_indent(indent, out);
        }
        out.push_str(&scalar(&entry.key, true));
        out.push(':');
        value(entry, indent, out);
    }
}

fn value(entry: &Entry, indent: usize, out: &mut String) {
    let behind = entry.behind.as_ref().map(|text| format!("  # {text}")).unwrap_or_default();
    match &entry.value {
        Node::Map(entries) if !entries.is_empty() => {
            out.push_str(&format!("{behind}\n"));
            map(entries, indent + 2, out);
        }
        Node::List(items) if !items.is_empty() => {
            out.push_str(&format!("{behind}\n"));
            for item in items {
                push_indent(indent + 2, out);
                out.push_str("- ");
                match item {
                    Node::Map(entries) if !entries.is_empty() => map(entries, indent + 4, out),
                    other => out.push_str(&format!("{}\n", on_one_line(other))),
                }
            }
        }
        Node::Text(text) if is_block(text) => {
            let chomp = if text.ends_with('\n') { "" } else { "-" };
            out.push_str(&format!(" |{chomp}{behind}\n"));
            for line in text.lines() {
                if !line.is_empty() {
                    push_indent(indent + 2, out);
                }
                out.push_str(&format!("{line}\n"));
            }
        }
        other => out.push_str(&format!(" {}{behind}\n", on_one_line(other))),
    }
}

fn on_one_line(node: &Node) -> String {
    match node {
        Node::Text(text) => scalar(text, false),
        Node::Bool(value) => value.to_string(),
        Node::Int(value) => value.to_string(),
        Node::Line(texts) => {
            format!("[{}]", texts.iter().map(|text| in_line(text)).collect::<Vec<_>>().join(", "))
        }
        Node::List(items) => {
            format!("[{}]", items.iter().map(on_one_line).collect::<Vec<_>>().join(", "))
        }
        Node::Map(entries) => {
            let pairs: Vec<_> = entries
                .iter()
                .map(|entry| format!("{}: {}", scalar(&entry.key, true), on_one_line(&entry.value)))
                .collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

/// Several lines of visible characters; blocks cannot hold others, nor begin with a space without a further sign.
fn is_block(text: &str) -> bool {
    text.trim_end_matches('\n').contains('\n')
        && !text.ends_with("\n\n")
        && !text.starts_with([' ', '\n'])
        && text.chars().all(|c| c == '\n' || is_visible(c))
}

fn is_visible(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{85}')
}

/// `on` as a key is what GitHub wants; everywhere else it is quoted, as it is a truth value of YAML 1.1.
fn scalar(text: &str, is_key: bool) -> String {
    if !text.chars().all(is_visible) {
        return escaped(text);
    }
    if is_plain(text) || (is_key && text == "on") {
        return text.to_owned();
    }
    quoted(text)
}

/// In a list on one line, brackets and commas end a text.
fn in_line(text: &str) -> String {
    if text.chars().all(is_visible) && text.contains(['{', '}', ',']) {
        quoted(text)
    } else {
        scalar(text, false)
    }
}

fn quoted(text: &str) -> String {
    if text.contains('\'') && !text.contains(['"', '\\']) {
        return format!("\"{text}\"");
    }
    format!("'{}'", text.replace('\'', "''"))
}

/// As JSON, which YAML reads; characters that one of them takes for white space or forbids by their numbers.
fn escaped(text: &str) -> String {
    let escape = |c: char| match c {
        '"' => "\\\"".to_owned(),
        '\\' => "\\\\".to_owned(),
        '\n' => "\\n".to_owned(),
        c if is_visible(c) => c.to_string(),
        c => format!("\\u{:04x}", u32::from(c)),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

fn is_plain(text: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || "_./~$".contains(c);
    let inner = |c: char| c.is_ascii_alphanumeric() || " _./~$-+=:*()'\"|&<>@!?;%".contains(c);
    let inner = |c: char| inner(c) || (text.starts_with("${{") && "{},".contains(c));
    text.chars().next().is_some_and(first)
        && text.chars().all(inner)
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && text != "~"
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

/// What one of the YAML versions reads as something else than text.
const WORDS: &[&str] = &["true", "false", "null", "yes", "no", "on", "off", "y", "n", ".nan", ".inf"];

fn push_indent(indent: usize, out: &mut String) {
    out.push_str(&" ".repeat(indent));
}

fn comment(line: &str, indent: usize, out: &mut String) {
    push_indent(indent, out);
    out.push_str(format!("# {line}").trim_end());
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(text: &str) -> Value {
        stdx::yaml::File { path: None, text: text.to_owned() }
            .parse()
            .unwrap_or_else(|problem| panic!("{problem}\n{text}"))
    }

    #[test]
    fn a_tree_is_written_as_people_write_it() {
        let tree = [
            entry("on", vec![entry("push", vec![entry("branches", Node::Line(vec!["main".into()]))])]),
            entry("permissions", Vec::new()).apart().above("nothing"),
            entry(
                "steps",
                Node::List(vec![
                    vec![entry("name", "a: b"), entry("run", "one\ntwo\n").behind("why")].into(),
                ]),
            ),
        ];
        let text = document(&["head".to_owned()], &tree);
        assert_eq!(
            text,
            "# head\n\non:\n  push:\n    branches: [main]\n\n# nothing\npermissions: {}\nsteps:\n  - name: 'a: b'\n    \
             run: |  # why\n      one\n      two\n"
        );
    }

    #[test]
    fn every_text_comes_back_as_it_was() {
        let samples = [
            "",
            " ",
            "a",
            "on",
            "Yes",
            "null",
            "~",
            "1",
            "1.5",
            "0x1",
            "- a",
            "a: b",
            "a #b",
            "#a",
            "'",
            "\"",
            "{a}",
            "[a]",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a",
            "a\nb",
            "a\nb\n",
            "a\n\nb\n",
            "\na\nb",
            " a\nb",
            "a\tb",
            "a\u{7f}",
            "é ü",
            "\u{85}",
            "\u{2028}x",
            "\u{feff}",
            "${{ x == 'y' }}",
            "a,b",
            "12:30",
            "2020-01-01",
            "a ",
            ": ",
            "?",
            "? a",
            "|",
            ">",
            "=",
            "<<",
            "a:",
            "\\",
            "\u{0}",
            "a\r\nb",
            "a\n\n",
            "---",
            "...",
            ".inf",
            "a\n ",
        ];
        for key in samples {
            for text in samples {
                let tree = [entry("k", vec![entry(key, text), entry("l", Node::Line(vec![text.into()]))])];
                if key == "l" {
                    continue;
                }
                let written = document(&[], &tree);
                assert_eq!(parse(&written), json!({"k": {key: text, "l": [text]}}), "{written}");
            }
        }
    }
}
