//! How a server is reached: a URL that is never shown, handed to PostgreSQL's programs in files that only this user may read.
//! Invariant: no password is on a command line, in an environment or in `Debug`.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// The name of the entry in the service file.
const SERVICE: &str = "slipway";

/// Where a database is, and as whom.
#[derive(Clone, PartialEq, Eq)]
pub struct Connection {
    /// Name and value of libpq's parameters, without the password.
    parameters: Vec<(String, String)>,
    password: Option<String>,
    database: String,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({self})")
    }
}

/// Host and database: what may be shown.
impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.parameter("host").unwrap_or("localhost");
        write!(f, "{} on {host}", self.database)
    }
}

impl Connection {
    /// Reads `postgres://user:password@host:port/database?parameter=value`.
    ///
    /// # Errors
    /// When it has another form. The error never holds a part of the URL.
    pub fn parse(url: &str) -> Result<Connection> {
        let rest = url.trim();
        let rest = rest.strip_prefix("postgres://").or_else(|| rest.strip_prefix("postgresql://"));
        let rest = rest.context("the URL of a PostgreSQL database begins with `postgres://`")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (user, place),
            None => ("", authority),
        };
        let (user, password) = match user.split_once(':') {
            Some((user, password)) => (user, Some(decoded(password)?)),
            None => (user, None),
        };
        let (host, port) = host_and_port(place)?;
        let mut connection = Connection { parameters: vec![], password, database: decoded(database)? };
        for (name, value) in [("user", decoded(user)?), ("host", decoded(host)?), ("port", port.to_owned())] {
            connection.set(name, value)?;
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').context("a parameter of the URL has no value")?;
            match name {
                "password" => connection.password = Some(decoded(value)?),
                "dbname" => connection.database = decoded(value)?,
                _ => connection.set(name, decoded(value)?)?,
            }
        }
        ensure!(!connection.database.is_empty(), "the URL names no database");
        Ok(connection)
    }

    /// The name of the database.
    pub(super) fn database(&self) -> &str {
        &self.database
    }

    /// The folder of the server's socket, where it is reached by one.
    pub(super) fn socket_folder(&self) -> Option<&Path> {
        self.parameter("host").filter(|host| host.starts_with('/')).map(Path::new)
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn set(&mut self, name: &str, value: String) -> Result<()> {
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        ensure!(is_name, "a parameter of the URL has no name that PostgreSQL knows");
        // The file has one line for each; and the service file must not lead to another.
        let is_line = !value.contains(['\n', '\r', '\0']) && value.trim() == value && name != "service";
        ensure!(is_line, "the parameter `{name}` of the URL has a value that cannot be passed on");
        self.parameters.retain(|(known, _)| known != name);
        if !value.is_empty() {
            self.parameters.push((name.to_owned(), value));
        }
        Ok(())
    }
}

fn host_and_port(place: &str) -> Result<(&str, &str)> {
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.trim_start_matches(':')),
        None => place.rsplit_once(':').unwrap_or((place, "")),
    };
    ensure!(port.is_empty() || port.parse::<u16>().is_ok(), "the port in the URL is no number");
    Ok((host, port))
}

/// `%41` is `A`.
fn decoded(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let code = tail.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        let Some(byte) = code.and_then(|code| u8::from_str_radix(code, 16).ok()) else {
            bail!("the URL has a `%` without two digits: write `%25` for the character itself");
        };
        bytes.push(byte);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).ok().context("the URL is no UTF-8 text")
}

/// The files through which programs learn where the server is; gone with this value.
#[derive(Debug)]
pub(super) struct Access {
    folder: tempfile::TempDir,
}

impl Access {
    pub(super) fn new(connection: &Connection) -> Result<Access> {
        let folder = tempfile::Builder::new()
            .prefix("slipway-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()?;
        let access = Access { folder };
        let mut service = format!("[{SERVICE}]\n");
        for (name, value) in &connection.parameters {
            service += &format!("{name}={value}\n");
        }
        if connection.parameter("connect_timeout").is_none() {
            service += "connect_timeout=10\n";
        }
        stdx::fs::write_atomic(&access.service_file(), service.as_bytes(), 0o600)?;
        let password = connection.password.as_deref().unwrap_or_default();
        ensure!(!password.contains(['\n', '\r', '\0']), "the password in the URL has a line break");
        let password = password.replace('\\', "\\\\").replace(':', "\\:");
        let line = if password.is_empty() { String::new() } else { format!("*:*:*:*:{password}\n") };
        stdx::fs::write_atomic(&access.password_file(), line.as_bytes(), 0o600)?;
        Ok(access)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn service_file(&self) -> PathBuf {
        self.folder.path().join("service")
    }

    pub(super) fn password_file(&self) -> PathBuf {
        self.folder.path().join("password")
    }
}

/// What a program is told on its command line to reach `database` through [`Access`].
pub(super) fn conninfo(database: &str) -> String {
    let name = database.replace('\\', "\\\\").replace('\'', "\\'");
    format!("service={SERVICE} dbname='{name}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_never_shown() {
        let connection =
            Connection::parse("postgres://me:s%3Acret@db.example:5433/app?sslmode=require").unwrap();
        assert_eq!(connection.password.as_deref(), Some("s:cret"));
        assert_eq!(connection.to_string(), "app on db.example");
        assert!(!format!("{connection:?}").contains("cret"));
        let access = Access::new(&connection).unwrap();
        let service = std::fs::read_to_string(access.service_file()).unwrap();
        assert_eq!(
            service,
            "[slipway]\nuser=me\nhost=db.example\nport=5433\nsslmode=require\nconnect_timeout=10\n"
        );
        assert_eq!(std::fs::read_to_string(access.password_file()).unwrap(), "*:*:*:*:s\\:cret\n");
        for file in [access.password_file(), access.service_file()] {
            assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let socket = Connection::parse("postgresql:///app?host=/run/postgresql").unwrap();
        assert_eq!((socket.socket_folder(), socket.database()), (Some(Path::new("/run/postgresql")), "app"));
    }

    #[test]
    fn what_could_smuggle_a_setting_is_refused_without_being_shown() {
        for url in [
            "mysql://a:hunter2@b/c",
            "postgres://a:hunter2@b",
            "postgres://a:hunter2@b:x/c",
            "postgres://a:hunter2%@b/c",
            "postgres://a%0Aservicefile=x:hunter2@b/c",
            "postgres://a:hunter2@b/c?service=x",
            "postgres://a:hunter2@b/c?x%0A=1",
        ] {
            let error = format!("{:#}", Connection::parse(url).unwrap_err());
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
