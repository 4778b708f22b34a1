//! The program of the inference service.

use std::process::ExitCode;

use inference::{BUILD, Config};
use runtime::program::{self, Service};

fn main() -> ExitCode {
    program::main(&Service {
        build: BUILD,
        read: Config::read,
        common: |config| &config.common,
        run: inference::run,
    })
}
