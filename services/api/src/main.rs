//! The program of the api service.

use std::process::ExitCode;

use api::{BUILD, Config};
use runtime::program::{self, Service};

fn main() -> ExitCode {
    program::main(&Service {
        build: BUILD,
        read: Config::read,
        common: |config| &config.common,
        run: api::run,
    })
}
