//! What `cargo xtask github` knows before it asks: which repository, run, commit and pull request this is about, and where
//! the program is that talks to GitHub. It knows nothing of GitHub's API.

mod program;
mod surroundings;

pub(crate) use program::ask;
pub(crate) use surroundings::{Missing, Surroundings};
