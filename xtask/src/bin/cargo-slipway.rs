//! `cargo slipway`: the same where a workspace has an alias `xtask` of its own, which counts for more than an installed program.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::main()
}
