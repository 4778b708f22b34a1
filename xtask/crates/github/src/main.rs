//! `slipway-github`: reads one request document from standard input, carries it out, and writes one response document to
//! standard output. `cargo xtask github` builds and starts it; the token comes from the environment only.

use std::io::{Read, Write};
use std::process::ExitCode;

use github::{Failure, Response, SecretString, Token};

/// Longer requests are refused: file contents are named in a request, never part of it.
const MAX_REQUEST: u64 = 1 << 20;

/// In this order, as GitHub's own command line tool reads them.
const TOKENS: [&str; 2] = ["GH_TOKEN", "GITHUB_TOKEN"];

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("--version") => {
            println!("slipway-github {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some(_) => {
            println!(
                "slipway-github takes one `{}` document on standard input; use it through `cargo xtask github`",
                github::REQUEST_SCHEMA
            );
            return ExitCode::from(2);
        }
    }
    let mut bytes = Vec::new();
    let read = std::io::stdin().take(MAX_REQUEST + 1).read_to_end(&mut bytes);
    let response = match read {
        Ok(read) if read as u64 > MAX_REQUEST => {
            Response::failed(&Failure::Input(format!("the request is longer than {MAX_REQUEST} bytes")))
        }
        Ok(_) => github::serve(&bytes, token()),
        Err(error) => Response::failed(&Failure::Input(format!("cannot read the request: {error}"))),
    };
    let written = std::io::stdout().write_all(&response.to_bytes());
    // The document tells success from failure; the exit code only says whether there is a document.
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The first token that is set; an empty variable is what CI leaves where a secret is missing.
fn token() -> Option<Token> {
    TOKENS.iter().find_map(|variable| {
        let text = std::env::var(variable).ok().filter(|text| !text.trim().is_empty())?;
        Some(Token { variable: (*variable).to_owned(), secret: SecretString::from(text.trim().to_owned()) })
    })
}
