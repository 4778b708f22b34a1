//! One session of psql that is asked and answers: so that a snapshot, a transaction, outlives a question. It knows no catalogue.
//! Invariant: the first error ends the session, and with it every transaction that is open.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::de::DeserializeOwned;

use super::connection::conninfo;
use super::tools::{Programs, Running};

/// What ends an answer. No answer of ours holds it: they are JSON, or single words.
const END: &str = "-- end of the answer --";
/// How long one answer may take: adding up a large table is slow, but not for ever.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);
/// What is kept of the errors of a program.
const MOST_ERROR_BYTES: u64 = 64 << 10;
/// Values are written the same way in every session, and no name is looked up in a path.
const PLAIN: &str = "SET datestyle = 'ISO, YMD'; SET intervalstyle = postgres; SET extra_float_digits = 3; SET timezone = 'UTC'; \
     SET bytea_output = hex; SET lc_monetary = 'C'; SET xmloption = content; SET row_security = off; SET client_min_messages = warning; \
     SELECT pg_catalog.set_config('search_path', '', false)";

/// A session.
pub(super) struct Session {
    running: Running,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
}

impl Session {
    /// Opens a session in `database`.
    pub(super) fn open(programs: &Programs<'_>, database: &str) -> Result<Session> {
        let info = conninfo(database);
        let args = ["-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-d", &info];
        let mut running = programs.start("psql", &args, [Stdio::piped(), Stdio::piped(), Stdio::piped()])?;
        let stdin = running.child.stdin.take();
        let stdout = running.child.stdout.take().context("psql has no output")?;
        let stderr = running.child.stderr.take().context("psql has no output for errors")?;
        let (sender, lines) = sync_channel(1024);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let errors = std::thread::spawn(move || read_errors(stderr));
        let mut session = Session { running, stdin, lines, errors: Some(errors) };
        // In short form an error quotes neither the statement nor the row: both may hold secrets.
        session.send(b"\\set VERBOSITY terse\n\\set SHOW_CONTEXT never\n")?;
        session.ask(PLAIN)?;
        Ok(session)
    }

    /// Runs statements and gives the lines that they print.
    ///
    /// # Errors
    /// When one fails: then the session is over.
    pub(super) fn ask(&mut self, sql: &str) -> Result<Vec<String>> {
        self.send(format!("{sql}\n;\n\\echo {END}\n").as_bytes())?;
        let mut answer = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line == END => return Ok(answer),
                Ok(line) => answer.push(line),
                Err(RecvTimeoutError::Disconnected) => return Err(self.failure()),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the server did not answer for {} s", PATIENCE.as_secs())
                }
            }
        }
    }

    /// Runs a query of one row with one column of JSON.
    pub(super) fn json<T: DeserializeOwned>(&mut self, sql: &str) -> Result<T> {
        let answer = self.ask(sql)?;
        ensure!(answer.len() == 1, "the server answered with {} lines instead of one", answer.len());
        serde_json::from_str(&answer[0]).context("the server answered with something else than was asked for")
    }

    /// Sends a script that may be long, and does not wait for what it does.
    pub(super) fn feed(&mut self, mut script: impl Read) -> Result<()> {
        let Some(stdin) = &mut self.stdin else { return Err(self.failure()) };
        match std::io::copy(&mut script, stdin) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(self.failure()),
            Err(error) => Err(error).context("cannot pass the script on"),
        }
    }

    /// Ends the session in good order.
    pub(super) fn close(mut self) -> Result<()> {
        drop(self.stdin.take());
        let status = self.running.child.wait().context("cannot wait for psql")?;
        if status.success() { Ok(()) } else { Err(self.failure()) }
    }

    fn send(&mut self, text: &[u8]) -> Result<()> {
        let Some(stdin) = &mut self.stdin else { return Err(self.failure()) };
        match stdin.write_all(text).and_then(|()| stdin.flush()) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure()),
        }
    }

    /// Why the session ended, by what psql said.
    fn failure(&mut self) -> anyhow::Error {
        drop(self.stdin.take());
        let _ = self.running.child.wait();
        let said = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        match said.trim() {
            "" => anyhow!("the session with the server ended"),
            said => anyhow!("{}", said.trim_start_matches("psql: ").trim_start_matches("error: ")),
        }
    }
}

/// The first errors of a program; the rest is read and let go, so that it never waits for a reader.
pub(super) fn read_errors(mut stderr: impl Read) -> String {
    let mut kept = Vec::new();
    let _ = stderr.by_ref().take(MOST_ERROR_BYTES).read_to_end(&mut kept);
    let _ = std::io::copy(&mut stderr, &mut std::io::sink());
    String::from_utf8_lossy(&kept).into_owned()
}
