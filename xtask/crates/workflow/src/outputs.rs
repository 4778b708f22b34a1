//! The files by which steps hand on values (`name=value` or `name<<END`, lines, `END`): written for GitHub, read when a job runs
//! here. It knows no names.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

/// GitHub's own limit for the outputs of a job.
const MAX_BYTES: usize = 1024 * 1024;

/// The lines for `values`.
///
/// # Errors
/// When a name or value has a line break: what is written here has none.
pub fn write(values: &BTreeMap<&str, String>) -> Result<String> {
    let mut text = String::new();
    for (name, value) in values {
        if value.contains(['\n', '\r']) || name.contains(['\n', '=']) {
            bail!("the output `{name}` has several lines");
        }
        text.push_str(&format!("{name}={value}\n"));
    }
    Ok(text)
}

/// The values of the lines in `text`.
///
/// # Errors
/// When the text is longer than GitHub allows, or is neither form.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>> {
    if text.len() > MAX_BYTES {
        bail!("outputs of more than {MAX_BYTES} bytes");
    }
    let mut values = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let equals = line.find('=').unwrap_or(usize::MAX);
        if line.is_empty() {
            continue;
        }
        match line.split_once("<<") {
            Some((name, end)) if name.len() < equals => {
                let mut value = Vec::new();
                loop {
                    match lines.next() {
                        Some(line) if line == end => break,
                        Some(line) => value.push(line),
                        None => bail!("the output `{name}` does not end with `{end}`"),
                    }
                }
                values.insert(name.to_owned(), value.join("\n"));
            }
            _ => match line.split_once('=') {
                Some((name, value)) => drop(values.insert(name.to_owned(), value.to_owned())),
                None => bail!("`{line}` is not an output"),
            },
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_comes_back() {
        let values = BTreeMap::from([
            ("a", "{\"x\":[1]}".to_owned()),
            ("b", "x<<y=z".to_owned()),
            ("c", String::new()),
        ]);
        let text = write(&values).unwrap();
        let back = parse(&text).unwrap();
        assert!(
            values.iter().all(|(name, value)| back[*name] == *value) && back.len() == values.len(),
            "{text}"
        );
        assert!(write(&BTreeMap::from([("a", "x\nb=y".to_owned())])).is_err());
    }

    #[test]
    fn both_forms_are_read_and_others_refused() {
        let text = "a=1\n\nb<<END\nx\ny=2\nEND\nc==\n";
        let values: Vec<_> = parse(text).unwrap().into_iter().collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(values, [pair("a", "1"), pair("b", "x\ny=2"), pair("c", "=")]);
        for bad in ["a", "a<<END\nx\n", &"a=1\n".repeat(MAX_BYTES)] {
            assert!(parse(bad).is_err());
        }
    }
}
