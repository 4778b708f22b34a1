//! The program of the worker service.

use std::process::ExitCode;

use runtime::program::{self, Service};
use worker::{BUILD, Config};

fn main() -> ExitCode {
    program::main(&Service {
        build: BUILD,
        read: Config::read,
        common: |config| &config.common,
        run: worker::run,
    })
}
