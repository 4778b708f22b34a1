//! What a step says to the runner of GitHub Actions: the escapes of its commands, and the files that it reads afterwards. What
//! is said is its callers' matter.
//!
//! Source: GitHub's documentation, "Workflow commands for GitHub Actions".

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

/// Text of a workflow command; a line break would end it and begin whatever the text says next.
pub(crate) fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// The value of a property of a workflow command.
pub(crate) fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// Adds to the page that GitHub shows of a run; nothing where there is none.
pub(crate) fn summarise(text: &str) -> Result<()> {
    match std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()) {
        Some(path) => append(Path::new(&path), text),
        None => Ok(()),
    }
}

/// Adds to a file that the runner reads.
pub(crate) fn append(path: &Path, text: &str) -> Result<()> {
    let file = File::options().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_its_command() {
        assert_eq!(data("1%\n::error::x"), "1%25%0A::error::x");
        assert_eq!(property("a:b,c\r"), "a%3Ab%2Cc%0D");
    }
}
