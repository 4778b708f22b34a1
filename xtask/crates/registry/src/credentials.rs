//! Credentials as Docker and Podman keep them: in files, or with a helper program. Nothing here is ever printed; a helper gets
//! the host over its standard input, never as an argument.
//!
//! Source: docker/cli "config.json", docker-credential-helpers' protocol, containers-auth.json(5).

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::options::Options;

/// A helper that asks its user for something has this long.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);
/// Files of credentials and answers of helpers are small.
const MAX_DOCUMENT: u64 = 1024 * 1024;
/// What a helper says in place of a user where the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// How a helper says that it has nothing.
const NOT_FOUND: &str = "credentials not found";

/// What proves to a registry who asks.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// User and password.
    Password { user: String, password: String },
    /// A token that a token server exchanges for others.
    IdentityToken(String),
    /// A token that the registry takes as it is.
    RegistryToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: BTreeMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// The credentials for `repository` of `host`, from the first file that has any.
///
/// # Errors
/// When a file is damaged, or a helper that it names does not work.
pub(crate) fn find(options: &Options, host: &str, repository: &str) -> Result<Option<Credentials>> {
    let ask = |name: &str, server: &str| ask_helper(name, server, options.helper_path.as_deref());
    for path in &options.auth_files {
        let Some(bytes) = read(path)? else { continue };
        let config: Config = serde_json::from_slice(&bytes)
            .ok()
            .with_context(|| format!("{} is not a file of credentials in Docker's form", path.display()))?;
        let found = of_config(&config, host, repository, &ask).with_context(|| {
            format!("cannot read the credentials for {host} that {} names", path.display())
        })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_DOCUMENT => {
            bail!("{} is {} bytes long: no file of credentials is", path.display(), meta.len())
        }
        _ => stdx::fs::read_if_exists(path),
    }
}

type AskHelper<'a> = &'a dyn Fn(&str, &str) -> Result<Option<Credentials>>;

fn of_config(
    config: &Config,
    host: &str,
    repository: &str,
    ask: AskHelper<'_>,
) -> Result<Option<Credentials>> {
    // Docker's name for its own registry dates from its first protocol.
    let server = if host == "docker.io" { "https://index.docker.io/v1/" } else { host };
    if let Some(helper) = config.cred_helpers.get(host).or_else(|| config.cred_helpers.get(server)) {
        return ask(helper, server);
    }
    if let Some(helper) = config.creds_store.as_deref().filter(|name| !name.is_empty())
        && let Some(found) = ask(helper, server)?
    {
        return Ok(Some(found));
    }
    // Podman knows credentials of a part of a registry: the longest name that fits counts.
    let mut names: Vec<String> = vec![server.to_owned(), host.to_owned()];
    let mut path = format!("{host}/{repository}");
    while path.len() > host.len() {
        names.insert(names.len() - 2, path.clone());
        path.truncate(path.rfind('/').unwrap_or(0));
    }
    let exact = names.iter().find_map(|name| config.auths.get(name));
    let entry = exact.or_else(|| {
        let same = |key: &&String| bare(key) == host;
        config.auths.keys().find(same).and_then(|key| config.auths.get(key))
    });
    entry.map_or(Ok(None), Entry::credentials)
}

/// The host of a key that was written as an address.
fn bare(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    rest.map_or("", |rest| rest.split('/').next().unwrap_or_default())
}

impl Entry {
    fn credentials(&self) -> Result<Option<Credentials>> {
        let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = some(&self.registrytoken) {
            return Ok(Some(Credentials::RegistryToken(token)));
        }
        if let Some(token) = some(&self.identitytoken) {
            return Ok(Some(Credentials::IdentityToken(token)));
        }
        if let Some(auth) = some(&self.auth) {
            let decoded = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = decoded.as_deref().and_then(|text| text.trim_end_matches('\0').split_once(':'));
            let (user, password) = pair.context("`auth` is not the Base64 of user:password")?;
            return Ok(Some(Credentials::Password { user: user.to_owned(), password: password.to_owned() }));
        }
        match (some(&self.username), some(&self.password)) {
            (Some(user), Some(password)) => Ok(Some(Credentials::Password { user, password })),
            _ => Ok(None),
        }
    }
}

/// Asks `docker-credential-<name>` for the credentials of `server`.
fn ask_helper(name: &str, server: &str, path: Option<&str>) -> Result<Option<Credentials>> {
    if name.contains('/') {
        bail!("`{name}` is not the name of a credential helper: it has a `/`");
    }
    let program = format!("docker-credential-{name}");
    let mut child = Command::new(&program)
        .arg("get")
        .envs(path.map(|path| ("PATH", path)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| format!("cannot run the credential helper {program}; is it on PATH?"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that ends without reading says what is wrong in its answer.
        let _ = stdin.write_all(server.as_bytes());
    }
    let stdout = child.stdout.take().context("the helper has no output")?;
    let reader = std::thread::spawn(move || {
        let mut answer = Vec::new();
        stdout.take(MAX_DOCUMENT).read_to_end(&mut answer).map(|_| answer)
    });
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() > HELPER_TIMEOUT {
            child.kill()?;
            child.wait()?;
            bail!("the credential helper {program} did not answer within {} s", HELPER_TIMEOUT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let answer = reader.join().ok().context("the reader of the helper's answer ended")??;
    if !status.success() {
        let said = String::from_utf8_lossy(&answer);
        if said.contains(NOT_FOUND) {
            return Ok(None);
        }
        bail!("the credential helper {program} failed with {status}");
    }
    of_answer(&answer).with_context(|| format!("the credential helper {program} gave what it should not"))
}

fn of_answer(answer: &[u8]) -> Result<Option<Credentials>> {
    // The parser's own text would show a part of the answer.
    let answer: Answer =
        serde_json::from_slice(answer).ok().context("its answer is not JSON with Username and Secret")?;
    Ok(match (answer.username.as_str(), answer.secret) {
        (_, secret) if secret.is_empty() => None,
        (TOKEN_USER, secret) => Some(Credentials::IdentityToken(secret)),
        (user, password) => Some(Credentials::Password { user: user.to_owned(), password }),
    })
}

/// Whatever these bytes are, reading them ends.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_anything(bytes: &[u8]) {
    let _ = of_answer(bytes);
    if let Ok(config) = serde_json::from_slice::<Config>(bytes) {
        let _ = of_config(&config, "r.example", "team/api", &|_, _| Ok(None));
    }
    bare(&String::from_utf8_lossy(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password { user: user.to_owned(), password: password.to_owned() })
    }

    fn find_in(config: &str, host: &str, repository: &str) -> Result<Option<Credentials>> {
        let config: Config = serde_json::from_str(config)?;
        let ask =
            |helper: &str, server: &str| Ok((helper != "empty").then(|| password(helper, server)).flatten());
        of_config(&config, host, repository, &ask)
    }

    #[test]
    fn files_of_docker_and_podman_are_read() {
        // "dTpwOnE=" is u:p:q: only the first colon parts them.
        let auths = r#"{"auths": {
            "r.example": {"auth": "dTpwOnE="}, "r.example/team": {"username": "t", "password": "q"},
            "https://old.example/v1/": {"username": "o", "password": "p"},
            "https://index.docker.io/v1/": {"username": "hub", "password": "p"},
            "i.example": {"auth": "dTpw", "identitytoken": "id"}, "n.example": {},
            "t.example": {"registrytoken": "reg"}}}"#;
        let find = |host, repository| find_in(auths, host, repository).unwrap();
        assert_eq!(find("r.example", "a/b"), password("u", "p:q"));
        assert_eq!(find("r.example", "team/b"), password("t", "q"));
        assert_eq!(find("old.example", "a"), password("o", "p"));
        assert_eq!(find("docker.io", "library/a"), password("hub", "p"));
        assert_eq!(find("i.example", "a"), Some(Credentials::IdentityToken("id".into())));
        assert_eq!(find("t.example", "a"), Some(Credentials::RegistryToken("reg".into())));
        assert_eq!(find("n.example", "a"), None);
        assert_eq!(find("xr.example", "a"), None);
    }

    #[test]
    fn a_helper_for_the_host_goes_before_the_store_and_the_store_before_the_file() {
        let config = r#"{"credsStore": "store", "credHelpers": {"h.example": "own", "e.example": "empty"},
                         "auths": {"e.example": {"username": "u", "password": "p"}}}"#;
        let find = |host| find_in(config, host, "a").unwrap();
        assert_eq!(find("h.example"), password("own", "h.example"));
        assert_eq!(find("docker.io"), password("store", "https://index.docker.io/v1/"));
        assert_eq!(find("e.example"), None, "the helper of a host has the last word");
        let empty_store =
            r#"{"credsStore": "empty", "auths": {"e.example": {"username": "u", "password": "p"}}}"#;
        assert_eq!(find_in(empty_store, "e.example", "a").unwrap(), password("u", "p"));
    }

    #[test]
    fn answers_of_helpers_are_read_and_never_shown() {
        let answer = |text: &str| of_answer(text.as_bytes());
        assert_eq!(answer(r#"{"ServerURL":"x","Username":"u","Secret":"s"}"#).unwrap(), password("u", "s"));
        assert_eq!(
            answer(r#"{"Username":"<token>","Secret":"s"}"#).unwrap(),
            Some(Credentials::IdentityToken("s".into()))
        );
        let error = format!("{:?}", answer(r#"{"Username":"u","Secret":hunter2}"#).unwrap_err());
        assert!(!error.contains("hunter"), "{error}");
        assert_eq!(format!("{:?}", password("u", "p").unwrap()), "Credentials(…)");
        let error = find_in(r#"{"auths":{"a.b":{"auth":"!secret"}}}"#, "a.b", "x").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
