//! `cargo xtask` in any workspace, once this program is installed: Cargo finds its subcommands by name.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::main()
}
