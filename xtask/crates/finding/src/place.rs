//! Where a finding is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a finding is. Paths have `/` between their parts on every system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Place {
    /// A file of the workspace.
    File {
        /// Relative to the workspace's root.
        path: String,
        /// From 1, where the file has lines.
        line: Option<u32>,
        /// In characters, from 1.
        column: Option<u32>,
    },
    /// A file as a commit has it.
    Commit {
        /// Full commit id.
        commit: String,
        /// Relative to the repository's root.
        path: String,
        /// From 1.
        line: Option<u32>,
    },
    /// An image that was built.
    Image {
        /// The service whose image it is.
        service: String,
        /// Path inside the image, without a leading `/`; `None` for its run configuration.
        path: Option<String>,
    },
}

impl Place {
    /// A file without a line.
    pub fn file(path: impl Into<String>) -> Place {
        Place::File { path: path.into(), line: None, column: None }
    }

    /// A line and column of a file, both from 1.
    pub fn file_line(path: impl Into<String>, line: u32, column: u32) -> Place {
        Place::File { path: path.into(), line: Some(line), column: Some(column) }
    }

    /// The place without what moves when something is edited elsewhere: lines, columns and commits.
    pub fn stable(&self) -> String {
        match self {
            Place::File { path, .. } | Place::Commit { path, .. } => path.clone(),
            Place::Image { service, path } => format!("image:{service}:{}", path.as_deref().unwrap_or("")),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, line: &Option<u32>| match line {
            Some(line) => write!(f, ":{line}"),
            None => Ok(()),
        };
        match self {
            Place::File { path, line: at, column } => {
                f.write_str(path)?;
                line(f, at)?;
                line(f, column)
            }
            Place::Commit { commit, path, line: at } => {
                write!(f, "{path}")?;
                line(f, at)?;
                write!(f, " in commit {}", commit.get(..12).unwrap_or(commit))
            }
            Place::Image { service, path: Some(path) } => write!(f, "/{path} in the image of {service}"),
            Place::Image { service, path: None } => write!(f, "the image of {service}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_as_editors_and_people_want_them() {
        let image = Place::Image { service: "api".into(), path: Some("bin/sh".into()) };
        let commit = Place::Commit { commit: "0123456789abcdef".into(), path: "a".into(), line: Some(2) };
        assert_eq!(Place::file_line("a/b.rs", 3, 7).to_string(), "a/b.rs:3:7");
        assert_eq!(image.to_string(), "/bin/sh in the image of api");
        assert_eq!(commit.to_string(), "a:2 in commit 0123456789ab");
    }
}
