//! Prints what is found in the workflows below the folder that is the only argument, one JSON object a line: for comparisons
//! with other tools (`ci/bench/workflows`).

use std::path::Path;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).context("name the folder of a repository")?;
    for finding in audit::workflows(Path::new(&folder))? {
        println!("{}", serde_json::to_string(&finding)?);
    }
    Ok(())
}
