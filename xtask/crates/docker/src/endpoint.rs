//! Where an engine listens: as a URL, by DOCKER_HOST, or by the docker client's contexts. It opens no connection; files of the client
//! are hostile until parsed.
//!
//! Source: docker's command line reference, "Docker contexts" and "Environment variables".

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use stdx::Digest;

/// Where engines listen when nothing else is said.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// What the docker client's files may have; they are far smaller.
const MAX_FILE: u64 = 1 << 20;

/// How an engine is reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// A socket of this machine.
    Unix(PathBuf),
    /// A socket of another machine, by the user's own `ssh` with its configuration, keys and known hosts.
    Ssh {
        /// Login name; that of the configuration of ssh where `None`.
        user: Option<String>,
        /// Name, address or alias of the machine.
        host: String,
        /// Port of sshd; that of the configuration of ssh where `None`.
        port: Option<u16>,
        /// The engine's socket there.
        socket: PathBuf,
    },
    /// `host:port`, without any protection: whoever can reach it owns the machine.
    Tcp(String),
}

/// What of the environment decides about the default engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// DOCKER_HOST.
    pub host: Option<String>,
    /// DOCKER_CONTEXT.
    pub context: Option<String>,
    /// Whether DOCKER_TLS_VERIFY is set.
    pub wants_tls: bool,
    /// The docker client's folder: DOCKER_CONFIG, or `.docker` in the home folder.
    pub config: Option<PathBuf>,
}

impl Environment {
    /// That of this process.
    pub fn current() -> Environment {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Environment {
            host: text("DOCKER_HOST"),
            context: text("DOCKER_CONTEXT"),
            wants_tls: text("DOCKER_TLS_VERIFY").is_some(),
            config: text("DOCKER_CONFIG")
                .map(PathBuf::from)
                .or_else(|| Some(Path::new(&text("HOME")?).join(".docker"))),
        }
    }
}

impl Endpoint {
    /// The engine that the docker client would use: DOCKER_HOST, else the context that is in force, else the socket of this machine.
    ///
    /// # Errors
    /// When it is named in a way that cannot be followed.
    pub fn of(environment: &Environment) -> Result<Endpoint> {
        if let Some(host) = &environment.host {
            let endpoint: Endpoint = host.parse().with_context(|| format!("DOCKER_HOST is `{host}`"))?;
            ensure!(
                !(environment.wants_tls && matches!(endpoint, Endpoint::Tcp(_))),
                "DOCKER_TLS_VERIFY is set, and engines behind TLS are not supported; use ssh://user@host"
            );
            return Ok(endpoint);
        }
        let Some(config) = &environment.config else { return Ok(Endpoint::default()) };
        let named = match &environment.context {
            Some(name) => Some(name.clone()),
            None => current_context(config)?,
        };
        match named.filter(|name| name != "default") {
            Some(name) => {
                endpoint_of_context(config, &name).with_context(|| format!("the docker context `{name}`"))
            }
            None => Ok(Endpoint::default()),
        }
    }

    /// What ssh is to connect to: `user@host`.
    pub(crate) fn ssh_destination(&self) -> Option<String> {
        let Endpoint::Ssh { user, host, .. } = self else { return None };
        Some(user.as_ref().map_or_else(|| host.clone(), |user| format!("{user}@{host}")))
    }
}

impl Default for Endpoint {
    fn default() -> Endpoint {
        Endpoint::Unix(PathBuf::from(DEFAULT_SOCKET))
    }
}

impl FromStr for Endpoint {
    type Err = anyhow::Error;

    /// `unix:///path`, `ssh://[user@]host[:port][/path of the socket]` or `tcp://host:port`.
    fn from_str(text: &str) -> Result<Endpoint> {
        ensure!(
            !text.chars().any(|c| c.is_control() || c.is_whitespace()),
            "the address has spaces or control characters"
        );
        let (scheme, rest) = text.split_once("://").context("write it as unix:///path or ssh://user@host")?;
        match scheme {
            "unix" => {
                ensure!(rest.starts_with('/'), "the path of a socket is absolute: unix:///path");
                Ok(Endpoint::Unix(PathBuf::from(rest)))
            }
            "ssh" => parse_ssh(rest),
            "tcp" => {
                let (host, port) =
                    rest.trim_end_matches('/').rsplit_once(':').context("write it as tcp://host:port")?;
                ensure!(!host.is_empty() && port.parse::<u16>().is_ok(), "write it as tcp://host:port");
                Ok(Endpoint::Tcp(format!("{host}:{port}")))
            }
            _ => bail!("engines are reached by unix://, ssh:// or tcp://, and not by {scheme}://"),
        }
    }
}

fn parse_ssh(rest: &str) -> Result<Endpoint> {
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (user, machine) = match authority.rsplit_once('@') {
        Some((user, machine)) => (Some(user), machine),
        None => (None, authority),
    };
    let (host, port) = match machine.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, after)) => (address, after.strip_prefix(':')),
        None => machine.rsplit_once(':').map_or((machine, None), |(host, port)| (host, Some(port))),
    };
    let port =
        port.map(|port| port.parse::<u16>().with_context(|| format!("`{port}` is no port"))).transpose()?;
    let user = user.map(ssh_word).transpose()?.map(str::to_owned);
    let socket = if path.len() > 1 { path } else { DEFAULT_SOCKET };
    // The argument of -L is cut at colons.
    ensure!(!socket.contains(':'), "the path of the socket has a colon");
    Ok(Endpoint::Ssh { user, host: ssh_word(host)?.to_owned(), port, socket: PathBuf::from(socket) })
}

/// A name that ssh takes for a name: it would read one with a dash in front as an option.
fn ssh_word(word: &str) -> Result<&str> {
    let is_fine = |c: char| c.is_alphanumeric() || "._-:%".contains(c);
    ensure!(
        !word.is_empty() && !word.starts_with('-') && word.chars().all(is_fine),
        "`{word}` is no name of a user or machine: write ssh://user@host:port"
    );
    Ok(word)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix://{}", path.display()),
            Endpoint::Tcp(address) => write!(f, "tcp://{address}"),
            Endpoint::Ssh { user, host, port, socket } => {
                write!(f, "ssh://")?;
                if let Some(user) = user {
                    write!(f, "{user}@")?;
                }
                if host.contains(':') {
                    write!(f, "[{host}]")?
                } else {
                    write!(f, "{host}")?
                }
                if let Some(port) = port {
                    write!(f, ":{port}")?;
                }
                if socket != Path::new(DEFAULT_SOCKET) { write!(f, "{}", socket.display()) } else { Ok(()) }
            }
        }
    }
}

fn current_context(config: &Path) -> Result<Option<String>> {
    let Some(document) = read_json(&config.join("config.json"))? else { return Ok(None) };
    Ok(document["currentContext"].as_str().filter(|name| !name.is_empty()).map(str::to_owned))
}

fn endpoint_of_context(config: &Path, name: &str) -> Result<Endpoint> {
    let path = config.join("contexts/meta").join(Digest::of(name).hex()).join("meta.json");
    let document = read_json(&path)?
        .with_context(|| format!("there is no {}; `docker context ls` lists them", path.display()))?;
    let host = document["Endpoints"]["docker"]["Host"].as_str();
    let host = host.with_context(|| format!("{} names no host", path.display()))?;
    host.parse().with_context(|| format!("{} has the host `{host}`", path.display()))
}

fn read_json(path: &Path) -> Result<Option<Value>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("{} is no JSON", path.display()))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssh(user: Option<&str>, host: &str, port: Option<u16>, socket: &str) -> Endpoint {
        Endpoint::Ssh { user: user.map(str::to_owned), host: host.to_owned(), port, socket: socket.into() }
    }

    #[test]
    fn addresses_are_read_and_written_again() {
        let cases = [
            ("unix:///run/d.sock", Endpoint::Unix("/run/d.sock".into())),
            ("ssh://web1", ssh(None, "web1", None, DEFAULT_SOCKET)),
            ("ssh://ops@web1.example:2222", ssh(Some("ops"), "web1.example", Some(2222), DEFAULT_SOCKET)),
            (
                "ssh://ops@[::1]:22/run/user/1000/docker.sock",
                ssh(Some("ops"), "::1", Some(22), "/run/user/1000/docker.sock"),
            ),
            ("tcp://127.0.0.1:2375", Endpoint::Tcp("127.0.0.1:2375".into())),
        ];
        for (text, endpoint) in cases {
            assert_eq!(text.parse::<Endpoint>().unwrap(), endpoint);
            assert_eq!(endpoint.to_string(), text);
        }
        assert_eq!(
            "ssh://ops@web1/".parse::<Endpoint>().unwrap(),
            ssh(Some("ops"), "web1", None, DEFAULT_SOCKET)
        );
    }

    #[test]
    fn what_ssh_would_take_for_an_option_is_refused() {
        for bad in [
            "ssh://-oProxyCommand=x",
            "ssh://-l@host",
            "ssh://a@-x",
            "ssh://a b",
            "ssh://",
            "ssh://h:x",
            "ssh://$(id)",
            "ssh://h/a:b",
            "npipe:////./pipe/docker_engine",
            "docker.sock",
            "unix://relative",
            "tcp://nowhere",
            "",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad} parsed");
        }
    }

    #[test]
    fn the_default_engine_is_the_docker_clients() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().to_owned();
        let context = |name: &str, host: &str| {
            let path = config.join("contexts/meta").join(Digest::of(name).hex());
            std::fs::create_dir_all(&path).unwrap();
            let meta = serde_json::json!({ "Name": name, "Endpoints": { "docker": { "Host": host } } });
            std::fs::write(path.join("meta.json"), meta.to_string()).unwrap();
        };
        let environment = Environment { config: Some(config.clone()), ..Environment::default() };
        assert_eq!(Endpoint::of(&environment).unwrap(), Endpoint::default());
        context("far", "ssh://ops@far");
        context("near", "unix:///near.sock");
        std::fs::write(config.join("config.json"), r#"{"currentContext":"far"}"#).unwrap();
        assert_eq!(Endpoint::of(&environment).unwrap(), ssh(Some("ops"), "far", None, DEFAULT_SOCKET));
        let near = Environment { context: Some("near".into()), ..environment.clone() };
        assert_eq!(Endpoint::of(&near).unwrap(), Endpoint::Unix("/near.sock".into()));
        let host = Environment { host: Some("tcp://a:1".into()), ..near };
        assert_eq!(Endpoint::of(&host).unwrap(), Endpoint::Tcp("a:1".into()));
        let tls = Environment { wants_tls: true, ..host };
        assert!(Endpoint::of(&tls).unwrap_err().to_string().contains("ssh://"));
        let missing = Environment { context: Some("gone".into()), ..environment.clone() };
        assert!(format!("{:#}", Endpoint::of(&missing).unwrap_err()).contains("docker context ls"));
        std::fs::write(config.join("config.json"), "[").unwrap();
        assert!(format!("{:#}", Endpoint::of(&environment).unwrap_err()).contains("config.json"));
    }

    #[test]
    fn no_text_makes_the_parser_panic_and_what_it_takes_it_writes_as_it_reads() {
        let pieces = [
            "ssh://", "unix://", "tcp://", "@", ":", "/", "[", "]", "-", "a", "é", "22", "%", " ", "\0",
            "web",
        ];
        let mut state = 7usize;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..8 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text += pieces[(state >> 33) % pieces.len()];
            }
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint, "{text}");
                assert!(!endpoint.ssh_destination().is_some_and(|destination| destination.starts_with('-')));
            }
        }
    }
}
