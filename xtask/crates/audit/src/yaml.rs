//! YAML as a tree in which every node knows its line and column. It does not know what keys mean. Invariant: an alias shares
//! the node it stands for, and a document that would be too large with its aliases written out is refused, not expanded.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use saphyr_parser::{Event, Parser, Span};

/// No file that people write is longer.
const MAX_BYTES: u64 = 1024 * 1024;
/// Deeper nesting is refused: everything that walks the tree recurses.
const MAX_DEPTH: usize = 64;
/// How far the place of an expression is looked for: files with thousands of them must not take minutes.
const MAX_SEARCHED: usize = 32 * 1024;
/// Nodes of a document with its aliases written out.
const MAX_NODES: usize = 100_000;

/// A parsed file.
#[derive(Debug)]
pub(crate) struct Document {
    /// Relative to the workspace, with `/`.
    pub(crate) path: String,
    text: String,
    /// Where each line begins in `text`.
    lines: Vec<usize>,
    /// Top level node of each of its documents.
    pub(crate) roots: Vec<Rc<Node>>,
}

/// A node and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// From 1.
    pub(crate) line: u32,
    /// In characters, from 1.
    pub(crate) column: u32,
    pub(crate) value: Value,
    /// Nodes below it and itself, aliases written out.
    weight: usize,
    depth: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Scalar(String),
    List(Vec<Rc<Node>>),
    Map(Vec<(Rc<Node>, Rc<Node>)>),
}

impl Document {
    /// Reads the file `path` below `root`.
    pub(crate) fn read(root: &Path, path: &str) -> Result<Document> {
        let file = root.join(path);
        let size = std::fs::metadata(&file).with_context(|| format!("cannot read {path}"))?.len();
        ensure!(size <= MAX_BYTES, "{path} is {size} bytes long, more than {MAX_BYTES}");
        let text = String::from_utf8(stdx::fs::read(&file)?).ok().context("it is not UTF-8 text")?;
        Document::parse(path, text)
    }

    /// Parses `text`.
    pub(crate) fn parse(path: &str, text: String) -> Result<Document> {
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        ensure!(text.len() as u64 <= MAX_BYTES, "{path} is more than {MAX_BYTES} bytes long");
        // What is readable as it stands is never changed, and of two errors the one about the text itself is told.
        let roots = roots(&text).or_else(|error| roots(&with_brackets_indented(&text)).map_err(|_| error))?;
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Ok(Document { path: path.to_owned(), roots, text, lines })
    }

    /// The line and column of an occurrence, counted from 0, of `needle` at or after the node's line; the node's own where it is
    /// not near (a folded or escaped scalar).
    pub(crate) fn find(&self, from: &Node, needle: &str, occurrence: usize) -> (u32, u32) {
        let needle = needle.lines().next().unwrap_or_default();
        let (mut left, mut budget) = (occurrence, MAX_SEARCHED);
        for number in from.line.. {
            let line = self.line(number);
            if needle.is_empty() || number as usize > self.lines.len() || line.len() > budget {
                break;
            }
            budget -= line.len();
            for (at, _) in line.match_indices(needle) {
                if left == 0 {
                    return (number, line[..at].chars().count() as u32 + 1);
                }
                left -= 1;
            }
        }
        (from.line, from.column)
    }

    /// The text of the line, from 1; empty where there is none.
    pub(crate) fn line(&self, line: u32) -> &str {
        let index = (line as usize).saturating_sub(1);
        let Some(start) = self.lines.get(index) else { return "" };
        let end = self.lines.get(index + 1).copied().unwrap_or(self.text.len());
        self.text[*start..end].trim_end_matches(['\n', '\r'])
    }
}

impl Node {
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text) => Some(text),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    /// The values of a list; nothing for another node.
    pub(crate) fn items(&self) -> &[Rc<Node>] {
        match &self.value {
            Value::List(items) => items,
            Value::Scalar(_) | Value::Map(_) => &[],
        }
    }

    /// The keys and values of a mapping; nothing for another node.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Node, &Node)> {
        let entries: &[(Rc<Node>, Rc<Node>)] = match &self.value {
            Value::Map(entries) => entries,
            Value::Scalar(_) | Value::List(_) => &[],
        };
        entries.iter().filter_map(|(key, value)| Some((key.text()?, key.as_ref(), value.as_ref())))
    }

    pub(crate) fn is_map(&self) -> bool {
        matches!(self.value, Value::Map(_))
    }

    /// The value of `key`, compared without regard to case: GitHub and people mix them.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, value)| value)
    }

    pub(crate) fn entry(&self, key: &str) -> Option<(&Node, &Node)> {
        self.entries().find(|(name, ..)| name.eq_ignore_ascii_case(key)).map(|(_, key, value)| (key, value))
    }

    /// The value at the end of the path `keys`.
    pub(crate) fn at(&self, keys: &[&str]) -> Option<&Node> {
        keys.iter().try_fold(self, |node, key| node.get(key))
    }

    /// The text of the value of `key`.
    pub(crate) fn text_of(&self, key: &str) -> Option<&str> {
        self.get(key)?.text()
    }
}

fn roots(text: &str) -> Result<Vec<Rc<Node>>> {
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| anyhow::anyhow!("{error}"))?;
        builder.event(event, span)?;
    }
    Ok(builder.roots)
}

/// The text with lines that begin with a closing bracket moved to the right. YAML wants them deeper than their key; engines and
/// GitHub take them below it, and people write them so. All lines keep their numbers, and all other lines their columns.
fn with_brackets_indented(text: &str) -> String {
    let is_closing = |line: &&str| line.trim_start_matches(' ').starts_with([']', '}']);
    let indent = " ".repeat(MAX_DEPTH);
    text.split_inclusive('\n')
        .flat_map(|line| [Some(&line).filter(|line| is_closing(line)).map_or("", |_| indent.as_str()), line])
        .collect()
}

enum Open {
    List(Vec<Rc<Node>>),
    Map(Vec<(Rc<Node>, Rc<Node>)>, Option<Rc<Node>>),
}

#[derive(Default)]
struct Builder {
    roots: Vec<Rc<Node>>,
    open: Vec<(Open, usize, u32, u32)>,
    anchors: BTreeMap<usize, Rc<Node>>,
    total: usize,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<()> {
        let place = (span.start.line() as u32, span.start.col() as u32 + 1);
        match event {
            Event::Scalar(text, _, anchor, _) => self.close(Value::Scalar(text.into_owned()), anchor, place),
            Event::Alias(anchor) => {
                let node =
                    self.anchors.get(&anchor).cloned().context("an alias to a node that is not whole")?;
                self.add(node)
            }
            Event::SequenceStart(anchor, _) => self.start(Open::List(Vec::new()), anchor, place),
            Event::MappingStart(anchor, _) => self.start(Open::Map(Vec::new(), None), anchor, place),
            Event::SequenceEnd | Event::MappingEnd => {
                let (open, anchor, line, column) = self.open.pop().context("an end without a beginning")?;
                let value = match open {
                    Open::List(items) => Value::List(items),
                    Open::Map(entries, _) => Value::Map(entries),
                };
                self.close(value, anchor, (line, column))
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn start(&mut self, open: Open, anchor: usize, (line, column): (u32, u32)) -> Result<()> {
        ensure!(self.open.len() < MAX_DEPTH, "it is nested more than {MAX_DEPTH} levels deep");
        self.open.push((open, anchor, line, column));
        Ok(())
    }

    fn close(&mut self, value: Value, anchor: usize, (line, column): (u32, u32)) -> Result<()> {
        let below: Vec<&Rc<Node>> = match &value {
            Value::Scalar(_) => vec![],
            Value::List(items) => items.iter().collect(),
            Value::Map(entries) => entries.iter().flat_map(|(key, value)| [key, value]).collect(),
        };
        let weight = below.iter().fold(1usize, |sum, node| sum.saturating_add(node.weight));
        let depth = 1 + below.iter().map(|node| node.depth).max().unwrap_or(0);
        ensure!(depth <= MAX_DEPTH, "it is nested more than {MAX_DEPTH} levels deep");
        let node = Rc::new(Node { line: line.max(1), column, value, weight, depth });
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.add(node)
    }

    fn add(&mut self, node: Rc<Node>) -> Result<()> {
        ensure!(node.weight <= MAX_NODES, "with its aliases written out it has more than {MAX_NODES} nodes");
        self.total += 1;
        ensure!(self.total <= MAX_NODES, "it has more than {MAX_NODES} nodes");
        match self.open.last_mut() {
            None => self.roots.push(node),
            Some((Open::List(items), ..)) => items.push(node),
            Some((Open::Map(entries, key), ..)) => match key.take() {
                None => *key = Some(node),
                Some(name) => {
                    let is_twice =
                        name.text().is_some() && entries.iter().any(|(known, _)| known.value == name.value);
                    if is_twice && entries.len() < 1000 {
                        bail!(
                            "the key `{}` in line {} is there twice",
                            name.text().unwrap_or_default(),
                            name.line
                        );
                    }
                    entries.push((name, node));
                }
            },
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Document> {
        Document::parse("a.yml", text.to_owned())
    }

    #[test]
    fn every_key_knows_its_place_in_block_and_flow_style() {
        let document = parse("a:\n  - b: { c: 1, dd: 2 }\n    e: |\n      x\n      y ${{ z }}\n").unwrap();
        let item = &document.roots[0].get("a").unwrap().items()[0];
        let (key, value) = item.get("b").unwrap().entry("dd").unwrap();
        assert_eq!((key.line, key.column, value.text()), (2, 16, Some("2")));
        assert_eq!(document.find(item.get("e").unwrap(), "${{ z }}", 0), (5, 9));
    }

    #[test]
    fn a_closing_bracket_may_stand_below_its_key() {
        let document =
            parse("a:\n  b: [\n    x,\n  ]\n  c: {\n    d: 1\n  }\n  e: |\n    y\n    ]\nf: 2\n").unwrap();
        let a = document.roots[0].get("a").unwrap();
        assert_eq!(a.get("b").unwrap().items()[0].text(), Some("x"));
        assert_eq!(a.at(&["c", "d"]).and_then(Node::text), Some("1"));
        let (key, _) = document.roots[0].entry("f").unwrap();
        assert_eq!((key.line, key.column), (11, 1));
        // What is wrong all the same is told about the text as it is.
        assert!(parse("a:\n  b: [\n  ]\n  - x\n").is_err());
        assert_eq!(parse("a: |\n  x\n  ]\n").unwrap().roots[0].text_of("a"), Some("x\n]\n"));
    }

    #[test]
    fn bombs_deep_nesting_and_huge_files_are_refused_fast() {
        let mut bomb = "a0: &a0 [x, x]\n".to_owned();
        for level in 1..60 {
            bomb.push_str(&format!("a{level}: &a{level} [*a{0}, *a{0}]\n", level - 1));
        }
        assert!(parse(&bomb).unwrap_err().to_string().contains("aliases"));
        assert!(parse(&format!("{}{}", "[".repeat(100), "]".repeat(100))).is_err());
        assert!(parse(&"- ".repeat(3000)).is_err());
        assert!(parse("a: &a [*a]\n").is_err());
        assert!(parse(&"#".repeat(2 << 20)).unwrap_err().to_string().contains("bytes"));
        assert!(parse("a: 1\na: 2\n").unwrap_err().to_string().contains("twice"));
    }
}
