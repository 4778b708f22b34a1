//! `cargo xtask` as an alias of a workspace that holds this package.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::main()
}
