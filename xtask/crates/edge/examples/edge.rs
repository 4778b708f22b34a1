//! An edge alone, for `ci/bench/edge`: its state folder and the file of its options.

use std::path::Path;

use anyhow::{Result, bail};
use edge::Options;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [state, options] => edge::serve(Options::load(Path::new(options), Path::new(state), 0)?),
        _ => bail!("usage: edge STATE OPTIONS"),
    }
}
