//! Prints what is found below a folder, one finding a line, for measuring beside other scanners:
//! `cargo run --release -p slipway-secrets --example find -- [--history] FOLDER`.

use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use secrets::Options;

fn main() -> Result<()> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let folder = args.pop().context("usage: find [--history] FOLDER")?;
    let stop = AtomicBool::new(false);
    let options = Options::new(&stop);
    let scan = if args.iter().any(|arg| arg == "--history") { secrets::history } else { secrets::tree };
    for finding in scan(folder.as_ref(), &options)? {
        println!("{}\t{}\t{}\t{}", finding.place, finding.severity.name(), finding.rule.id, finding.message);
    }
    Ok(())
}
