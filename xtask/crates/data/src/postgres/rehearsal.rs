//! A database that is made for one restore and thrown away. Invariant: its name begins with a mark that no other database has, and only
//! such ones are ever dropped.

use std::path::Path;
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::connection::conninfo;
use super::session::{Session, read_errors};
use super::tools::Programs;

const MARK: &str = "slipway_rehearsal_";
/// One that is older, and that nobody is connected to, was left by a process that was killed.
const FORGOTTEN_SECONDS: u64 = 6 * 3600;

/// A database that is dropped at the end.
pub(super) struct Rehearsal<'a> {
    programs: &'a Programs<'a>,
    /// The database from which it is made and dropped.
    home: &'a str,
    name: String,
    is_there: bool,
}

impl<'a> Rehearsal<'a> {
    /// Makes one with the encoding and the order of texts of `home`.
    pub(super) fn create(programs: &'a Programs<'a>, home: &'a str) -> Result<Rehearsal<'a>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("{MARK}{}_{}_{}", now.as_secs(), std::process::id(), now.subsec_nanos());
        let mut session = Session::open(programs, home)?;
        clear_forgotten(&mut session, now.as_secs())?;
        let how = session.ask(
            "SELECT format('TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L', pg_encoding_to_char(encoding), datcollate, datctype) \
             FROM pg_database WHERE datname = current_database()",
        )?;
        let made = session.ask(&format!("CREATE DATABASE {name} {}", how.concat()));
        made.context("no database can be made to rehearse in; next: `ALTER ROLE … CREATEDB` for the role that takes backups")?;
        let rehearsal = Rehearsal { programs, home, name, is_there: true };
        session.close()?;
        Ok(rehearsal)
    }

    pub(super) fn database(&self) -> &str {
        &self.name
    }

    /// Restores a dump into it, with owners and rights as a real restore does: all of it, or it fails.
    pub(super) fn restore(&self, file: &Path) -> Result<()> {
        let info = conninfo(&self.name);
        let args = ["--no-password", "--exit-on-error", "--single-transaction", "--dbname", &info];
        let dump = stdx::fs::open(file)?;
        let mut restore =
            self.programs.start("pg_restore", &args, [dump.into(), Stdio::null(), Stdio::piped()])?;
        let errors = restore.child.stderr.take().context("pg_restore has no output for errors")?;
        let said = read_errors(errors);
        let status = restore.child.wait().context("cannot wait for pg_restore")?;
        ensure!(status.success(), "pg_restore ended with {status}: {}", said.trim());
        Ok(())
    }

    /// Drops it.
    pub(super) fn remove(mut self) -> Result<()> {
        self.is_there = false;
        self.drop_database()
    }

    fn drop_database(&self) -> Result<()> {
        let mut session = Session::open(self.programs, self.home)?;
        session.ask(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name))?;
        session.close()
    }
}

impl Drop for Rehearsal<'_> {
    fn drop(&mut self) {
        if self.is_there {
            // The failure that led here is the one to tell; what is left is cleared by the next rehearsal.
            let _ = self.drop_database();
        }
    }
}

fn clear_forgotten(session: &mut Session, now: u64) -> Result<()> {
    let names = session.ask(&format!(
        "SELECT d.datname FROM pg_database d WHERE d.datname LIKE '{}%' AND d.datdba = current_user::regrole \
         AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datname = d.datname)",
        MARK.replace('_', "\\_")
    ))?;
    let age =
        |name: &str| Some(now.saturating_sub(name.strip_prefix(MARK)?.split('_').next()?.parse().ok()?));
    let is_ours = |name: &&String| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    for name in
        names.iter().filter(is_ours).filter(|name| age(name).is_some_and(|age| age > FORGOTTEN_SECONDS))
    {
        session.ask(&format!("DROP DATABASE IF EXISTS {name}"))?;
    }
    Ok(())
}
