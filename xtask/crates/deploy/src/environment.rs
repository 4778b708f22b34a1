//! `deploy/environments/<name>.yaml`: where a release runs and with which values. It knows the form of the file only;
//! whether it satisfies a release is decided in `target`. Unknown keys are refused, and a secret is never written in
//! the file.

mod platform;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use finding::{Check, Severity};
use release::Resources;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::databases::DatabaseSettings;
use crate::notify::Webhook;
use crate::outcome::Error;
use crate::route_policy::{AccessLogFile, RoutePolicy};
pub use platform::{DockerSettings, NetworkSettings, PlatformSettings};
use stdx::yaml::File;
use stdx::yaml::Problem;

/// The name of the environment that exists without a file.
pub const LOCAL: &str = "local";

/// An environment with its name and the text it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentFile {
    /// File name without `.yaml`.
    pub name: String,
    /// The file.
    pub origin: File,
    /// What it says.
    pub environment: Environment,
}

/// Where a release runs and with which values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Environment {
    /// What runs the services.
    pub platform: PlatformSettings,
    /// Where requests come in.
    pub edge: Edge,
    /// Values by service name; a service that is not named runs with its defaults.
    pub services: BTreeMap<String, ServiceValues>,
    /// All routes of the environment. Where absent: each service's own routes, and the host `<service>.localhost`.
    pub routes: Option<Vec<EnvironmentRoute>>,
    /// How long requests in flight may take to finish after the switch.
    pub drain_timeout_ms: u64,
    /// How long a slot must stay healthy after it first counts as healthy.
    pub settle_ms: u64,
    /// Stopped slots kept per service, ready to be started again by a rollback.
    pub retain: usize,
    /// Databases by name, to be backed up and restored. They are no part of what runs, so they are not kept with it.
    #[serde(skip_serializing)]
    pub databases: BTreeMap<String, DatabaseSettings>,
    /// What the scan of a release must look like. It is no part of what runs, so it is not kept with it.
    #[serde(skip_serializing)]
    pub scan: ScanPolicy,
    /// What must be signed. It is no part of what runs, either.
    #[serde(skip_serializing)]
    pub signature: SignaturePolicy,
    /// Who is told how operations ended. It is no part of what runs, either.
    #[serde(skip_serializing)]
    pub notify: Vec<Webhook>,
}

/// What must be signed before a release may be deployed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SignaturePolicy {
    /// Whether each image needs a signature, provenance and SBOMs that hold.
    pub required: bool,
    /// The public key, relative to the workspace's root; `signing.public_key` of slipway.yaml where absent.
    pub public_key: Option<String>,
    /// The builder that provenance must name; `signing.builder` of slipway.yaml, or any, where absent.
    pub builder: Option<String>,
    /// A commit or tag that must be among the ancestors of the commit of each image: what was signed before it is refused.
    pub newer_than: Option<String>,
}

/// What the scan of a release must look like before the release may be deployed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ScanPolicy {
    /// Whether there must be one; where absent, every environment but [`LOCAL`] asks for it.
    pub required: Option<bool>,
    /// How old it may be.
    pub max_age_hours: u64,
    /// From which severity on findings of a check refuse the release, on top of what the workspace says.
    #[cfg_attr(test, schemars(with = "BTreeMap<tests::CheckName, tests::SeverityName>"))]
    pub fail_on: BTreeMap<Check, Severity>,
}

/// Where requests come in. A key that is absent has its usual value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Edge {
    /// Address and port; the port is never 0. With `tls`, HTTPS is spoken there.
    pub listen: SocketAddr,
    /// Further addresses where the same is spoken, such as that of the other family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listen_also: Vec<SocketAddr>,
    /// Beside `tls`: addresses where HTTP without encryption is spoken, for this machine or a private network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listen_plain: Vec<SocketAddr>,
    /// Encryption towards clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<EdgeTls>,
    /// Whether each request becomes a line in the edge's log; no where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<bool>,
    /// Where the edge tells its figures at `/metrics`, in the format of Prometheus; nowhere where absent. Everybody who
    /// reaches the address may read them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_listen: Option<SocketAddr>,
    /// Whether each request becomes a line in `access.log` beside the edge's table, and how that file is rotated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log_file: Option<AccessLogFile>,
    /// Rules for the requests of all routes.
    #[serde(default, skip_serializing_if = "RoutePolicy::is_empty")]
    pub policy: RoutePolicy,
    /// Whether `Forwarded` and `X-Forwarded-*` of requests are believed. Only right behind a proxy that sets them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_forwarded: Option<bool>,
    /// Connections of clients at once; others wait. 10,000 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<usize>,
    /// How long a new connection may take to its first request. 10 s where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_timeout_ms: Option<u64>,
    /// How long a connection may be idle between requests. 120 s where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_ms: Option<u64>,
    /// How long a request may look for a process that takes it, before it is answered 502. 2 s where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_timeout_ms: Option<u64>,
    /// How long a service may take to begin its answer, before that is answered 504. 60 s where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_timeout_ms: Option<u64>,
    /// How long a client may leave a transfer standing. 120 s where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_timeout_ms: Option<u64>,
    /// How long requests and streams may go on in an edge that was replaced by another one. An hour where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retire_timeout_ms: Option<u64>,
}

/// Encryption towards clients: TLS 1.2 and 1.3, with HTTP/2 for clients that know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EdgeTls {
    /// At least one. The hosts that each is for stand in it; a client that asks for another host gets the first.
    pub certificates: Vec<EdgeCertificate>,
    /// An address where HTTP without encryption is answered by the same place with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_http: Option<SocketAddr>,
}

/// The files of one certificate, relative to the folder that the environment file is in. They are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EdgeCertificate {
    /// The chain in PEM, the server's own certificate first.
    pub cert: PathBuf,
    /// The private key in PEM, readable by its owner alone.
    pub key: PathBuf,
}

impl Edge {
    /// HTTP on one address, and nothing unusual.
    pub fn on(listen: SocketAddr) -> Edge {
        Edge {
            listen,
            listen_also: Vec::new(),
            listen_plain: Vec::new(),
            tls: None,
            access_log: None,
            admin_listen: None,
            access_log_file: None,
            policy: RoutePolicy::default(),
            trust_forwarded: None,
            max_connections: None,
            head_timeout_ms: None,
            idle_timeout_ms: None,
            send_timeout_ms: None,
            answer_timeout_ms: None,
            stall_timeout_ms: None,
            retire_timeout_ms: None,
        }
    }

    /// All addresses with their keys in the file.
    pub(crate) fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        let redirect = self.tls.iter().filter_map(|tls| tls.redirect_http);
        let first = std::iter::once(("listen", self.listen));
        let also = self.listen_also.iter().map(|address| ("listen_also", *address));
        let plain = self.listen_plain.iter().map(|address| ("listen_plain", *address));
        let admin = self.admin_listen.map(|address| ("admin_listen", address));
        first.chain(also).chain(plain).chain(redirect.map(|address| ("tls", address))).chain(admin).collect()
    }
}

/// The values of one service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ServiceValues {
    /// Variables by name.
    pub env: BTreeMap<String, Value>,
    /// Processes that run side by side; 1 where absent.
    pub replicas: Option<u32>,
    /// Bounds that take the place of the release's.
    #[cfg_attr(test, schemars(with = "Option<tests::Bounds>"))]
    pub resources: Option<Resources>,
    /// Parts of the health check that take the place of the release's.
    pub health: HealthValues,
}

/// Parts of a health check; the release's own where absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HealthValues {
    /// From one check to the next.
    pub interval_ms: Option<u64>,
    /// An answer that takes longer counts as unhealthy.
    pub timeout_ms: Option<u64>,
    /// Healthy answers in a row that make it fit to serve.
    pub healthy_threshold: Option<u32>,
    /// How long it may take from the start to being fit to serve.
    pub start_timeout_ms: Option<u64>,
}

/// A route of the environment to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EnvironmentRoute {
    /// The service that answers.
    pub service: String,
    /// Host name without port; any host where absent.
    #[serde(default)]
    pub host: Option<String>,
    /// Begins with `/`.
    pub path_prefix: String,
    /// Whether the prefix is removed before the request is passed on.
    #[serde(default)]
    pub strip_prefix: bool,
    /// Rules for its requests, in place of those of `edge.policy`.
    #[serde(default, skip_serializing_if = "RoutePolicy::is_empty")]
    pub policy: RoutePolicy,
}

/// The value of a variable: text in the file, or the place where a secret lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
#[serde(untagged)]
pub enum Value {
    /// The text; `${edge.url}` in it stands for the edge's address.
    Literal(#[cfg_attr(test, schemars(with = "tests::Scalar"))] String),
    /// A variable of the deployer's environment.
    FromEnv {
        /// Its name.
        from_env: String,
    },
    /// A file, relative to the folder that the environment file is in.
    FromFile {
        /// Its path; the line break at the end is not part of the value.
        from_file: PathBuf,
    },
}

impl Default for Environment {
    fn default() -> Environment {
        Environment {
            platform: PlatformSettings::Process,
            edge: Edge::on(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))),
            services: BTreeMap::new(),
            routes: None,
            drain_timeout_ms: 10_000,
            settle_ms: 500,
            retain: 2,
            databases: BTreeMap::new(),
            scan: ScanPolicy::default(),
            signature: SignaturePolicy::default(),
            notify: Vec::new(),
        }
    }
}

impl Default for ScanPolicy {
    fn default() -> ScanPolicy {
        ScanPolicy { required: None, max_age_hours: 24, fail_on: BTreeMap::new() }
    }
}

/// The environments that there are, for people.
fn known(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let name = |entry: std::fs::DirEntry| Some(entry.file_name().to_str()?.strip_suffix(".yaml")?.to_owned());
    let names: BTreeSet<String> = files.filter_map(name).chain([LOCAL.to_owned()]).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

impl EnvironmentFile {
    /// Reads `<folder>/<name>.yaml`. The environment [`LOCAL`] exists without a file, too.
    ///
    /// # Errors
    /// [`Error::Preflight`] for a missing file, an unknown key or a value of the wrong form.
    pub fn load(folder: &Path, name: &str) -> Result<EnvironmentFile, Error> {
        check_name(name)?;
        let path = folder.join(format!("{name}.yaml"));
        let Some(bytes) = stdx::fs::read_if_exists(&path)? else {
            if name == LOCAL {
                return Ok(EnvironmentFile::built_in(name, Environment::default()));
            }
            return Err(Problem::new(
                name,
                format!(
                    "no such environment: {} does not exist; there are: {}",
                    path.display(),
                    known(folder)
                ),
            )
            .into());
        };
        let text = String::from_utf8(bytes)
            .map_err(|_| Problem { file: Some(path.clone()), ..Problem::new(name, "not UTF-8 text") })?;
        let origin = File { path: Some(path), text };
        let mut environment: Environment = origin.parse()?;
        environment.anchor(&std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()));
        Ok(EnvironmentFile { name: name.to_owned(), origin, environment })
    }

    /// What the scan of a release must look like; `None` where the environment asks for none.
    pub fn scan(&self) -> Option<&ScanPolicy> {
        let policy = &self.environment.scan;
        policy.required.unwrap_or(self.name != LOCAL).then_some(policy)
    }

    /// What must be signed; `None` where the environment asks for nothing.
    pub fn signature(&self) -> Option<&SignaturePolicy> {
        Some(&self.environment.signature).filter(|policy| policy.required)
    }

    /// An environment that no file describes.
    pub fn built_in(name: &str, environment: Environment) -> EnvironmentFile {
        EnvironmentFile { name: name.to_owned(), origin: File::default(), environment }
    }
}

/// Checks that `name` can be the name of an environment: files and folders are called after it.
///
/// # Errors
/// [`Error::Preflight`] when it is anything else than lower-case letters, digits and `-`.
pub fn check_name(name: &str) -> Result<(), Error> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.is_empty() && !name.starts_with('-') && name.chars().all(is_allowed) {
        return Ok(());
    }
    let message = "an environment's name is made of lower-case letters, digits and `-`, and begins with none of the last";
    Err(Problem::new(name.escape_debug().to_string(), message).into())
}

impl Environment {
    /// Makes the paths in it absolute: it is kept and used again by a rollback, from wherever that is called.
    fn anchor(&mut self, folder: &Path) {
        self.databases.values_mut().for_each(|database| database.anchor(folder));
        for value in self.services.values_mut().flat_map(|service| service.env.values_mut()) {
            if let Value::FromFile { from_file } = value {
                *from_file = folder.join(&*from_file);
            }
        }
        for pair in self.edge.tls.iter_mut().flat_map(|tls| &mut tls.certificates) {
            pair.cert = folder.join(&pair.cert);
            pair.key = folder.join(&pair.key);
        }
        self.notify.iter_mut().for_each(|webhook| webhook.anchor(folder));
    }

    /// The address under which containers reach the edge, to whom this machine is `gateway`; `None` where it listens on
    /// no address that they reach.
    pub fn edge_url_at(&self, gateway: Ipv4Addr) -> Option<String> {
        let edge = &self.edge;
        let scheme = if edge.tls.is_some() { "https" } else { "http" };
        let plain = edge.listen_plain.iter().map(|address| ("http", address));
        let all =
            plain.chain([&edge.listen].into_iter().chain(&edge.listen_also).map(|address| (scheme, address)));
        let is_reached = |address: &SocketAddr| {
            address.ip() == Ipv4Addr::UNSPECIFIED || address.ip() == std::net::IpAddr::V4(gateway)
        };
        let mut reached = all.filter(|(_, address)| is_reached(address));
        reached.next().map(|(scheme, address)| format!("{scheme}://{gateway}:{}", address.port()))
    }

    /// The address under which the edge is reached from this machine, without encryption where there is such a one.
    pub fn edge_url(&self) -> String {
        let plain = self.edge.listen_plain.first();
        let is_encrypted = self.edge.tls.is_some() && plain.is_none();
        let mut address = *plain.unwrap_or(&self.edge.listen);
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() {
                Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        format!("{}://{address}", if is_encrypted { "https" } else { "http" })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

/// Numbers and booleans are taken as the text they were written as: a variable is text in the end.
struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, a boolean, `{ from_env: NAME }` or `{ from_file: PATH }`")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Literal(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Literal(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Literal(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Literal(value.to_string()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Literal(value.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let Some((key, text)) = map.next_entry::<String, String>()? else {
            return Err(de::Error::custom("`from_env` or `from_file` is missing"));
        };
        if let Some(second) = map.next_key::<String>()? {
            return Err(de::Error::custom(format!("`{second}` beside `{key}`: a value has one source")));
        }
        match key.as_str() {
            "from_env" => Ok(Value::FromEnv { from_env: text }),
            "from_file" => Ok(Value::FromFile { from_file: text.into() }),
            other => Err(de::Error::unknown_field(other, &["from_env", "from_file"])),
        }
    }
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;

    use super::*;

    /// Upper bounds; no bound where absent.
    #[derive(JsonSchema)]
    #[schemars(deny_unknown_fields)]
    #[expect(dead_code, reason = "it stands for its schema")]
    pub(super) struct Bounds {
        /// Memory in bytes.
        memory_bytes: Option<u64>,
        /// Open file descriptors.
        open_files: Option<u64>,
    }

    /// The release's bounds cannot derive a schema for a test of another crate: this stops compiling when they differ.
    impl From<Resources> for Bounds {
        fn from(Resources { memory_bytes, open_files }: Resources) -> Bounds {
            Bounds { memory_bytes, open_files }
        }
    }

    /// The severities cannot derive a schema for a test of another crate: this stops compiling when they differ.
    #[derive(JsonSchema)]
    #[schemars(rename_all = "lowercase")]
    pub(super) enum SeverityName {
        Note,
        Low,
        Medium,
        High,
        Critical,
    }

    impl From<Severity> for SeverityName {
        fn from(severity: Severity) -> SeverityName {
            match severity {
                Severity::Note => SeverityName::Note,
                Severity::Low => SeverityName::Low,
                Severity::Medium => SeverityName::Medium,
                Severity::High => SeverityName::High,
                Severity::Critical => SeverityName::Critical,
            }
        }
    }

    /// The same for checks.
    #[derive(JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
    #[schemars(rename_all = "kebab-case")]
    pub(super) enum CheckName {
        Advisories,
        Secrets,
        Licences,
        Images,
        Configuration,
        Workflows,
        Migrations,
        Waivers,
    }

    impl From<Check> for CheckName {
        fn from(check: Check) -> CheckName {
            match check {
                Check::Advisories => CheckName::Advisories,
                Check::Secrets => CheckName::Secrets,
                Check::Licences => CheckName::Licences,
                Check::Images => CheckName::Images,
                Check::Configuration => CheckName::Configuration,
                Check::Workflows => CheckName::Workflows,
                Check::Migrations => CheckName::Migrations,
                Check::Waivers => CheckName::Waivers,
            }
        }
    }

    /// What becomes a text.
    #[derive(JsonSchema)]
    #[schemars(untagged)]
    #[expect(dead_code, reason = "it stands for its schema")]
    pub(super) enum Scalar {
        Text(String),
        Number(f64),
        Boolean(bool),
    }

    fn load(text: &str) -> Result<EnvironmentFile, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("e.yaml"), text).unwrap();
        EnvironmentFile::load(folder.path(), "e").map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_says_what_differs_from_the_defaults() {
        let file = load(
            "platform: process\nservices:\n  a:\n    env: {N: 1, B: true, F: 0.5, T: x}\n    replicas: 2\n",
        )
        .unwrap();
        let service = &file.environment.services["a"];
        let texts: Vec<_> = service.env.values().cloned().collect();
        assert_eq!(texts, ["true", "0.5", "1", "x"].map(|text| Value::Literal(text.into())));
        assert_eq!((service.replicas, file.environment.retain), (Some(2), 2));
        assert_eq!(file.environment.edge_url(), "http://127.0.0.1:8080");
    }

    #[test]
    fn the_environments_of_this_repository_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../deploy/environments");
        let names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!names.is_empty());
        for path in names {
            EnvironmentFile::load(&folder, path.file_stem().unwrap().to_str().unwrap()).unwrap();
        }
    }

    #[test]
    fn every_environment_but_the_local_one_asks_for_a_scan_unless_it_says_otherwise() {
        assert_eq!(EnvironmentFile::built_in(LOCAL, Environment::default()).scan(), None);
        assert_eq!(load("").unwrap().scan(), Some(&ScanPolicy::default()));
        assert_eq!(load("scan: { required: false }").unwrap().scan(), None);
        let file = load("scan: { max_age_hours: 2, fail_on: { advisories: medium } }").unwrap();
        let strict = file.scan().unwrap();
        assert_eq!((strict.max_age_hours, strict.fail_on[&Check::Advisories]), (2, Severity::Medium));
    }

    #[test]
    fn mistakes_name_file_line_and_key() {
        let check = |text: &str, expected: &[&str]| {
            let error = load(text).unwrap_err();
            for part in expected {
                assert!(error.contains(part), "{part:?} is not in {error:?}");
            }
        };
        check("retain: 1\nretian: 2\n", &["e.yaml:", "retian", "unknown field"]);
        check("services:\n  a:\n    replicas: many\n", &["e.yaml:3:", "services.a.replicas"]);
        check("services:\n  a:\n    env:\n      S: {from_vault: x}\n", &["services.a.env.S", "from_vault"]);
        check("services:\n  a:\n    env:\n      S: [1]\n", &["services.a.env.S", "from_env"]);
        check("platform: podman\n", &["platform", "podman", "docker"]);
        check("retain: 1\nplatform:\n  docker:\n    hots: x\n", &["platform", "hots"]);
        check("notify:\n  - url: https://example.org/x\n", &["e.yaml:2:", "notify", "from_env"]);
        check("notify:\n  - url: {from_env: X, from_file: y}\n", &["notify", "from_env"]);
        check("notify:\n  - {url: {from_env: X}, from: slack}\n", &["notify", "unknown field", "from"]);
        check("scan:\n  fail_on:\n    secrets: bad\n", &["e.yaml:3:", "scan.fail_on", "critical"]);
        check("edge:\n  listen: here\n", &["e.yaml:2:", "edge.listen"]);
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        for name in ["", "-a", "..", ".", "a/b", "/a", "A", "a b", "a\n", "ä", "a_b", "a.b"] {
            assert!(matches!(check_name(name), Err(Error::Preflight(_))), "{name:?}");
        }
        for name in ["local", "a", "0", "staging-2"] {
            check_name(name).unwrap();
        }
    }

    #[test]
    fn only_the_local_environment_exists_without_a_file() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(EnvironmentFile::load(folder.path(), LOCAL).unwrap().environment, Environment::default());
        let error = EnvironmentFile::load(folder.path(), "staging").unwrap_err().to_string();
        assert!(error.contains("staging.yaml does not exist"), "{error}");
    }

    #[test]
    fn an_environment_survives_the_way_through_json() {
        let file =
            load("services:\n  a:\n    env:\n      A: {from_env: X}\n      B: {from_file: y}\n      C: z\n")
                .unwrap();
        let json = serde_json::to_string(&file.environment).unwrap();
        assert_eq!(serde_json::from_str::<Environment>(&json).unwrap(), file.environment);
    }

    #[test]
    fn the_schema_in_the_reference_is_what_is_read() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/reference/environment.schema.json");
        let expected = serde_json::to_string_pretty(&schemars::schema_for!(Environment)).unwrap() + "\n";
        if std::env::var_os("SLIPWAY_UPDATE").is_some() {
            std::fs::write(&path, &expected).unwrap();
        }
        let real = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(real == expected, "write it anew: SLIPWAY_UPDATE=1 cargo test -p slipway-deploy schema");
    }
}
