//! From a release and an environment to what shall run: every value checked and filled in, every finding collected.
//! Pure: secrets and the variables that the images set are passed in. Invariant: a secret's text is in [`Secret`] and
//! nowhere else, and what is derived from it for comparison is keyed with a key that never leaves the environment's
//! state folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use edge::control;
use release::{EnvKind, HealthCheck, Release, Resources, Service, Stop, Volume};
use serde_json::json;
use stdx::Digest;

use crate::environment::{Edge, Environment, EnvironmentFile, PlatformSettings, ServiceValues, Value};
use crate::route_policy::{AccessLogFile, RoutePolicy};
use stdx::yaml::Problem;

/// What the environment knows and the documents do not.
#[derive(Debug, Default)]
pub struct Facts {
    /// The secrets that could be read, and why the others could not, by service and variable.
    pub secrets: BTreeMap<(String, String), Result<Secret, String>>,
    /// The variables that each service's image sets: an environment may set them otherwise.
    pub image_env: BTreeMap<String, BTreeSet<String>>,
    /// Keys the comparison values of secrets.
    pub key: Vec<u8>,
    /// The address under which containers reach this machine, once they have a network.
    pub gateway: Option<Ipv4Addr>,
}

/// A text that is never shown, logged or written to disk.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// What shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name of the environment.
    pub environment: String,
    /// Identity of the release.
    pub release: Digest,
    /// Identity of the release together with the environment's values.
    pub deployment: String,
    /// Where requests come in.
    pub edge: Edge,
    /// From the most specific to the least.
    pub routes: Vec<TargetRoute>,
    /// By name.
    pub services: BTreeMap<String, TargetService>,
    /// How long requests in flight may take to finish after the switch.
    pub drain_timeout: Duration,
    /// How long a slot must stay healthy after it first counts as healthy.
    pub settle: Duration,
    /// Stopped slots kept per service.
    pub retain: usize,
}

/// Requests below a path prefix go to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetRoute {
    /// Any host where `None`.
    pub host: Option<String>,
    /// Begins with `/`.
    pub path_prefix: String,
    /// Whether the prefix is removed.
    pub strip_prefix: bool,
    /// The service that answers.
    pub service: String,
    /// What else the edge does with the requests.
    pub policy: control::Policy,
}

/// One service as it shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetService {
    /// Digest of the image manifest.
    pub image: Digest,
    /// Digest of everything that decides how its processes behave: content, values, bounds.
    pub run: Digest,
    /// The port that it listens on in a network namespace of its own; `None` for a service without one.
    pub port: Option<u16>,
    /// The variable that gives it its port; `None` for a service without one.
    pub port_env: Option<String>,
    /// How to tell that it is fit to serve.
    pub health: Option<HealthCheck>,
    /// How to stop it.
    pub stop: Stop,
    /// Values on top of the image's own.
    pub env: BTreeMap<String, String>,
    /// The same for secrets.
    pub secrets: BTreeMap<String, Secret>,
    /// The folders it keeps data in.
    pub volumes: Vec<Volume>,
    /// Upper bounds.
    pub resources: Resources,
    /// Processes side by side, at least 1.
    pub replicas: u32,
}

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text, for the one place that hands it to the process.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// Tells two values apart without giving a way to guess them.
    fn fingerprint(&self, key: &[u8]) -> Digest {
        Digest::of([Digest::of(key).to_string().as_bytes(), self.0.as_bytes()].concat())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What shall run when `release` is deployed to the environment.
///
/// # Errors
/// All findings at once: unknown services and variables, values that are missing or of the wrong kind, secrets in the
/// file.
pub fn resolve(release: &Release, file: &EnvironmentFile, facts: &Facts) -> Result<Target, Vec<Problem>> {
    let mut check = Check { release, file, facts, problems: Vec::new() };
    let environment = &file.environment;
    check.environment();
    let routes = check.routes();
    let services =
        release.services.iter().map(|(name, service)| (name.clone(), check.service(name, service))).collect();
    let ids = release.id().and_then(|id| Ok((id, deployment_id(id, environment)?)));
    match ids {
        Ok((id, deployment)) if check.problems.is_empty() => Ok(Target {
            environment: file.name.clone(),
            release: id,
            deployment,
            edge: environment.edge.clone(),
            routes,
            services,
            drain_timeout: Duration::from_millis(environment.drain_timeout_ms),
            settle: Duration::from_millis(environment.settle_ms),
            retain: environment.retain,
        }),
        Ok(_) => Err(check.problems),
        Err(error) => Err(vec![Problem::new("release", format!("{error:#}"))]),
    }
}

fn deployment_id(release: Digest, environment: &Environment) -> Result<String> {
    let both = json!({ "release": release, "environment": serde_json::to_value(environment)? });
    Ok(Digest::of(stdx::json::canonical(&both)?).short())
}

struct Check<'a> {
    release: &'a Release,
    file: &'a EnvironmentFile,
    facts: &'a Facts,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn problem(&mut self, keys: &[&str], message: impl Into<String>) {
        self.problems.push(self.file.origin.problem(keys, message));
    }

    fn edge(&mut self) {
        let edge = &self.file.environment.edge;
        let addresses = edge.addresses();
        for (index, (key, address)) in addresses.iter().enumerate() {
            if address.port() == 0 {
                let message = "the port must not be 0: the address is part of the environment";
                self.problem(&["edge", key], message);
            } else if addresses[..index].iter().any(|(_, other)| other == address) {
                self.problem(&["edge", key], format!("{address} stands here twice"));
            }
        }
        match &edge.tls {
            Some(tls) if tls.certificates.is_empty() => {
                self.problem(&["edge", "tls"], "TLS needs at least one certificate");
            }
            None if !edge.listen_plain.is_empty() => {
                self.problem(
                    &["edge", "listen_plain"],
                    "without `tls` all addresses are plain: use `listen_also`",
                );
            }
            Some(_) | None => {}
        }
        let access_log = edge.access_log_file.map(AccessLogFile::control);
        if let Err(reason) = (control::Table { access_log, ..control::Table::default() }).check() {
            self.problem(&["edge", "access_log_file"], reason);
        }
    }

    fn environment(&mut self) {
        self.edge();
        for name in self.file.environment.services.keys() {
            if !self.release.services.contains_key(name) {
                let known = self.release.services.keys().cloned().collect::<Vec<_>>().join(", ");
                self.problem(&["services", name], format!("the release has no such service; it has {known}"));
            }
        }
    }

    fn service(&mut self, name: &str, service: &Service) -> TargetService {
        let values = self.file.environment.services.get(name).cloned().unwrap_or_default();
        let (env, secrets) = self.variables(name, service, &values);
        self.volumes(name, service);
        if !is_plain(name) {
            self.problem(
                &["services", name],
                "letters, digits, `-` and `_` make a name: slots are called after it",
            );
        }
        let replicas = values.replicas.unwrap_or(1);
        if replicas == 0 {
            self.problem(&["services", name, "replicas"], "at least 1 is needed");
        }
        if crate::process::signal(&service.stop.signal).is_none() {
            self.problem(
                &["services", name],
                format!("`{}` is not a signal that stops a process", service.stop.signal),
            );
        }
        let mut target = TargetService {
            image: service.image,
            run: service.content,
            port: service.http.as_ref().map(|http| http.port),
            port_env: service.http.as_ref().map(|http| http.port_env.clone()),
            health: service.health.as_ref().map(|health| self.health(name, health, &values)),
            stop: service.stop.clone(),
            env,
            secrets,
            volumes: service.volumes.clone(),
            resources: values.resources.unwrap_or_else(|| service.resources.clone()),
            replicas,
        };
        match self.run_digest(&target) {
            Ok(run) => target.run = run,
            Err(error) => self.problem(&["services", name], format!("{error:#}")),
        }
        target
    }

    /// Health checks and routes are no part of it: they change what is asked of a process, not the process.
    fn run_digest(&self, service: &TargetService) -> Result<Digest> {
        let secrets: BTreeMap<_, _> = service
            .secrets
            .iter()
            .map(|(name, secret)| (name, secret.fingerprint(&self.facts.key)))
            .collect();
        let mut run = json!({
            "content": service.run,
            "env": service.env,
            "secrets": secrets,
            "port_env": service.port_env,
            "volumes": service.volumes,
            "resources": service.resources,
            "replicas": service.replicas,
            "stop": service.stop,
        });
        if let PlatformSettings::Docker(settings) = &self.file.environment.platform {
            run["docker"] = json!({ "port": service.port, "network": settings.network });
        }
        Ok(Digest::of(stdx::json::canonical(&run)?))
    }

    fn health(&mut self, name: &str, health: &HealthCheck, values: &ServiceValues) -> HealthCheck {
        let over = &values.health;
        let health = HealthCheck {
            path: health.path.clone(),
            interval_ms: over.interval_ms.unwrap_or(health.interval_ms),
            timeout_ms: over.timeout_ms.unwrap_or(health.timeout_ms),
            healthy_threshold: over.healthy_threshold.unwrap_or(health.healthy_threshold),
            start_timeout_ms: over.start_timeout_ms.unwrap_or(health.start_timeout_ms),
        };
        if health.interval_ms == 0 || health.timeout_ms == 0 || health.healthy_threshold == 0 {
            self.problem(
                &["services", name, "health"],
                "interval, timeout and threshold must be greater than 0",
            );
        }
        health
    }

    fn variables(
        &mut self,
        name: &str,
        service: &Service,
        values: &ServiceValues,
    ) -> (BTreeMap<String, String>, BTreeMap<String, Secret>) {
        let defaults = service.env.iter().filter_map(|(key, var)| Some((key.clone(), var.default.clone()?)));
        let (mut env, mut secrets) = (BTreeMap::from_iter(defaults), BTreeMap::new());
        for (key, value) in &values.env {
            self.known_variable(name, service, key);
            match value {
                Value::Literal(text) => {
                    if let Some(text) = self.literal(name, service, key, text) {
                        env.insert(key.clone(), text);
                    }
                }
                Value::FromEnv { .. } | Value::FromFile { .. } => {
                    if let Some(secret) = self.secret(name, service, key) {
                        env.remove(key);
                        secrets.insert(key.clone(), secret);
                    }
                }
            }
        }
        let platform = platform_variables(service);
        for (key, var) in service.env.iter().filter(|(_, var)| var.required) {
            let is_given = values.env.contains_key(key) || var.default.is_some() || platform.contains(key);
            if !is_given && !self.image_sets(name, key) {
                let message = format!("the required variable {key} has no value ({})", var.description);
                self.problem(&["services", name, "env"], message);
            }
        }
        (env, secrets)
    }

    fn image_sets(&self, name: &str, key: &str) -> bool {
        self.facts.image_env.get(name).is_some_and(|keys| keys.contains(key))
    }

    fn known_variable(&mut self, name: &str, service: &Service, key: &str) {
        let keys = ["services", name, "env", key];
        if platform_variables(service).contains(key) {
            self.problem(&keys, "the platform sets this variable itself");
        } else if !service.env.contains_key(key) && !self.image_sets(name, key) {
            let known = service.env.keys().cloned().collect::<Vec<_>>().join(", ");
            self.problem(&keys, format!("the service reads no such variable; it reads {known}"));
        }
    }

    fn literal(&mut self, name: &str, service: &Service, key: &str, text: &str) -> Option<String> {
        let keys = ["services", name, "env", key];
        let text = match text.contains("${edge.url}") {
            true => text.replace("${edge.url}", &self.edge_url(&keys)?),
            false => text.to_owned(),
        };
        if let Some(at) = text.find("${") {
            let end = text[at..].find('}').map_or(text.len(), |end| at + end + 1);
            self.problem(&keys, format!("`{}` stands for nothing; only ${{edge.url}} does", &text[at..end]));
            return None;
        }
        if text.contains('\0') {
            self.problem(&keys, "a variable cannot hold a zero byte");
            return None;
        }
        let Some(var) = service.env.get(key) else { return Some(text) };
        if var.secret {
            self.problem(
                &keys,
                "a secret is never written here: use `{ from_env: NAME }` or `{ from_file: PATH }`",
            );
            return None;
        }
        if let Err(wanted) = matches_kind(var.kind, &text) {
            self.problem(&keys, format!("`{text}` is not {wanted}"));
        }
        Some(text)
    }

    /// The address under which the service reaches the edge.
    fn edge_url(&mut self, keys: &[&str]) -> Option<String> {
        let environment = &self.file.environment;
        if environment.platform == PlatformSettings::Process {
            return Some(environment.edge_url());
        }
        // Before the first deployment there is no network, and nothing that the value could differ from.
        let url = environment.edge_url_at(self.facts.gateway.unwrap_or(Ipv4Addr::UNSPECIFIED));
        if url.is_none() {
            self.problem(
                keys,
                "containers do not reach the edge at the addresses where it listens: let `edge.listen` or an address of \
                 `edge.listen_also` be 0.0.0.0 with a port",
            );
        }
        url
    }

    fn secret(&mut self, name: &str, service: &Service, key: &str) -> Option<Secret> {
        let keys = ["services", name, "env", key];
        let facts = self.facts;
        match facts.secrets.get(&(name.to_owned(), key.to_owned())) {
            Some(Ok(secret)) => {
                let kind = service.env.get(key).map_or(EnvKind::String, |var| var.kind);
                if let Err(wanted) = matches_kind(kind, &secret.0) {
                    self.problem(&keys, format!("the value is not {wanted}"));
                }
                Some(secret.clone())
            }
            Some(Err(reason)) => {
                self.problem(&keys, reason.clone());
                None
            }
            None => {
                self.problem(&keys, "the value was not read");
                None
            }
        }
    }

    fn volumes(&mut self, name: &str, service: &Service) {
        let names = service.volumes.iter().map(|volume| &volume.name);
        for part in names.filter(|name| !is_plain(name)) {
            self.problem(&["services", name], format!("`{part}` cannot be the name of a volume's folder"));
        }
        if self.file.environment.platform != PlatformSettings::Process {
            return;
        }
        for volume in service.volumes.iter().filter(|volume| volume.path_env.is_none()) {
            let message = format!(
                "the volume {} has no `path_env`: processes without a mount namespace cannot be told where it is",
                volume.name
            );
            self.problem(&["services", name], message);
        }
    }

    fn routes(&mut self) -> Vec<TargetRoute> {
        let mut routes = match &self.file.environment.routes {
            Some(routes) => routes
                .iter()
                .map(|route| TargetRoute {
                    host: route.host.clone(),
                    path_prefix: route.path_prefix.clone(),
                    strip_prefix: route.strip_prefix,
                    service: route.service.clone(),
                    policy: route.policy.control(&self.file.environment.edge.policy),
                })
                .collect(),
            None => default_routes(self.release, &self.file.environment.edge.policy),
        };
        for (index, route) in routes.iter().enumerate() {
            let has_port =
                self.release.services.get(&route.service).is_some_and(|service| service.http.is_some());
            if !has_port {
                self.problem(
                    &["routes"],
                    format!("a route leads to {}, which is no service with a port", route.service),
                );
            }
            if let Err(reason) = check_routes(&[route]) {
                self.problem(&["routes"], reason);
                continue;
            }
            let is_same = |other: &&TargetRoute| {
                check_routes(&[other]).is_ok() && check_routes(&[other, route]).is_err()
            };
            if let Some(other) = routes[..index].iter().find(is_same) {
                let at = format!("{}{}", route.host.as_deref().unwrap_or("*"), route.path_prefix);
                self.problem(
                    &["routes"],
                    format!("{at} leads to {} and to {}", other.service, route.service),
                );
            }
        }
        routes.sort_by_key(|route| {
            let length = std::cmp::Reverse(route.path_prefix.len());
            (route.host.is_none(), route.host.clone(), length, route.path_prefix.clone())
        });
        routes
    }
}

fn default_routes(release: &Release, policy: &RoutePolicy) -> Vec<TargetRoute> {
    let policy = policy.control(&RoutePolicy::default());
    let mut routes = Vec::new();
    for (name, service) in &release.services {
        let own = service.http.as_ref().map(|http| http.routes.as_slice()).unwrap_or_default();
        routes.extend(own.iter().map(|route| TargetRoute {
            host: route.host.clone(),
            path_prefix: route.path_prefix.clone(),
            strip_prefix: route.strip_prefix,
            service: name.clone(),
            policy: policy.clone(),
        }));
        if !own.is_empty() {
            routes.push(TargetRoute {
                host: Some(format!("{name}.localhost")),
                path_prefix: "/".to_owned(),
                strip_prefix: false,
                service: name.clone(),
                policy: policy.clone(),
            });
        }
    }
    routes
}

/// What the edge would say to a table of these routes.
fn check_routes(routes: &[&TargetRoute]) -> Result<(), String> {
    let somewhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let slot = |route: &&TargetRoute| {
        let slot = control::Slot { service: route.service.clone(), upstreams: vec![somewhere] };
        (route.service.clone(), slot)
    };
    let route = |route: &&TargetRoute| control::Route {
        host: route.host.clone(),
        path_prefix: route.path_prefix.clone(),
        strip_prefix: route.strip_prefix,
        slot: route.service.clone(),
        policy: route.policy.clone(),
    };
    let table = control::Table {
        generation: 1,
        routes: routes.iter().map(route).collect(),
        slots: routes.iter().map(slot).collect(),
        ..control::Table::default()
    };
    table.check()
}

/// Whether `name` can be part of a path without leading anywhere else.
fn is_plain(name: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !name.is_empty() && name.chars().all(is_allowed)
}

/// The variables through which this platform tells a service its port and folders.
fn platform_variables(service: &Service) -> BTreeSet<String> {
    let paths = service.volumes.iter().filter_map(|volume| volume.path_env.clone());
    service.http.iter().map(|http| http.port_env.clone()).chain(paths).collect()
}

fn matches_kind(kind: EnvKind, text: &str) -> Result<(), &'static str> {
    match kind {
        EnvKind::String => Ok(()),
        EnvKind::Integer => text.parse::<i64>().map(drop).map_err(|_| "a whole number"),
        EnvKind::Number => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(()),
            _ => Err("a decimal number"),
        },
        EnvKind::Boolean => text.parse::<bool>().map(drop).map_err(|_| "`true` or `false`"),
        EnvKind::Url => {
            let (scheme, rest) = text.split_once("://").unwrap_or_default();
            let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
            let is_rest = !rest.is_empty() && !rest.contains(char::is_whitespace);
            if is_scheme && is_rest { Ok(()) } else { Err("an absolute URL") }
        }
    }
}

#[cfg(test)]
mod tests {
    use release::{EnvVar, Http, Route};

    use super::*;
    use crate::environment::Environment;
    use stdx::yaml;

    fn variable(kind: EnvKind, required: bool, secret: bool, default: Option<&str>) -> EnvVar {
        EnvVar { kind, required, secret, default: default.map(Into::into), description: "what for".into() }
    }

    fn release() -> Release {
        let route = |prefix: &str| Route { host: None, path_prefix: prefix.into(), strip_prefix: false };
        let service = Service {
            version: "1".into(),
            image: Digest::of("image"),
            content: Digest::of("content"),
            sbom: Digest::of("sbom"),
            spdx: None,
            provenance: None,
            http: Some(Http { port: 1, port_env: "PORT".into(), routes: vec![route("/"), route("/api")] }),
            health: None,
            stop: Stop { signal: "SIGTERM".into(), grace_ms: 1 },
            env: BTreeMap::from([
                ("KEY".into(), variable(EnvKind::String, true, true, None)),
                ("LEVEL".into(), variable(EnvKind::String, false, false, Some("info"))),
                ("LIMIT".into(), variable(EnvKind::Integer, true, false, None)),
                ("UPSTREAM".into(), variable(EnvKind::Url, false, false, None)),
            ]),
            volumes: vec![],
            resources: Resources::default(),
        };
        Release {
            schema: release::SCHEMA.into(),
            git: None,
            services: BTreeMap::from([("a".into(), service)]),
            migrations: BTreeMap::new(),
        }
    }

    fn facts(secret: &str) -> Facts {
        Facts {
            secrets: BTreeMap::from([(("a".into(), "KEY".into()), Ok(Secret::new(secret)))]),
            image_env: BTreeMap::from([("a".into(), ["HOST".to_owned()].into())]),
            key: b"key".to_vec(),
            gateway: Some(Ipv4Addr::new(172, 18, 0, 1)),
        }
    }

    fn file(text: &str) -> EnvironmentFile {
        let origin = yaml::File { path: Some("e.yaml".into()), text: text.into() };
        let environment: Environment = origin.parse().unwrap();
        EnvironmentFile { name: "e".into(), origin, environment }
    }

    const GOOD: &str = "services:
  a:
    env:
      KEY: {from_env: X}
      LIMIT: 3
      HOST: 127.0.0.1
      UPSTREAM: \"${edge.url}/b\"
";

    #[test]
    fn values_are_filled_in_from_defaults_and_environment() {
        let target = resolve(&release(), &file(GOOD), &facts("s3cret")).unwrap();
        let service = &target.services["a"];
        let env: Vec<_> = service.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(env, ["HOST=127.0.0.1", "LEVEL=info", "LIMIT=3", "UPSTREAM=http://127.0.0.1:8080/b"]);
        assert_eq!(service.secrets["KEY"].reveal(), "s3cret");
        assert!(!format!("{target:?}").contains("s3cret"));
        let routes: Vec<_> =
            target.routes.iter().map(|route| format!("{:?}{}", route.host, route.path_prefix)).collect();
        assert_eq!(routes, ["Some(\"a.localhost\")/", "None/api", "None/"]);
    }

    #[test]
    fn whatever_changes_the_process_changes_its_digest_and_nothing_else_does() {
        let run =
            |text: &str, facts: Facts| resolve(&release(), &file(text), &facts).unwrap().services["a"].run;
        let same = run(GOOD, facts("s"));
        assert_eq!(run(&format!("settle_ms: 9\n{GOOD}"), facts("s")), same);
        assert_ne!(run(&GOOD.replace("LIMIT: 3", "LIMIT: 4"), facts("s")), same);
        assert_ne!(run(&format!("{GOOD}    replicas: 2\n"), facts("s")), same);
        assert_ne!(run(GOOD, facts("t")), same);
        let other_key = Facts { key: b"other".to_vec(), ..facts("s") };
        assert_ne!(run(GOOD, other_key), same, "the name of a slot is no way to try out secrets");
    }

    #[test]
    fn all_findings_come_at_once_with_their_lines() {
        let text = "edge:
  listen: 127.0.0.1:0
services:
  a:
    replicas: 0
    env:
      KEY: literal
      LIMIT: many
      UPSTREAM: nowhere
      LEVEL: ${level}
      PORT: 1
      TYPO: x
  b: {}
routes:
  - {service: a, path_prefix: x}
  - {service: c, path_prefix: /}
";
        let problems = resolve(&release(), &file(text), &facts("s")).unwrap_err();
        let found: Vec<_> =
            problems.iter().map(|problem| (problem.line.unwrap(), problem.to_string())).collect();
        let expected = [
            (2, "port must not be 0"),
            (13, "no such service; it has a"),
            (14, "`x` does not begin with `/`"),
            (14, "leads to c"),
            (7, "a secret is never written here"),
            (10, "`${level}` stands for nothing"),
            (8, "`many` is not a whole number"),
            (11, "the platform sets this variable itself"),
            (12, "reads no such variable"),
            (9, "`nowhere` is not an absolute URL"),
            (5, "at least 1"),
        ];
        for (line, message) in expected {
            assert!(
                found.iter().any(|(at, text)| *at == line && text.contains(message)),
                "{line} {message}: {found:#?}"
            );
        }
        assert_eq!(found.len(), expected.len(), "{found:#?}");
    }

    #[test]
    fn routes_that_the_edge_would_refuse_are_found_before_anything_starts() {
        let check = |routes: &str, expected: &[&str]| {
            let text = format!("{GOOD}routes:\n{routes}");
            let problems = resolve(&release(), &file(&text), &facts("s")).err().unwrap_or_default();
            let found: Vec<_> = problems.iter().map(ToString::to_string).collect();
            assert_eq!(found.len(), expected.len(), "{routes}: {found:#?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.contains(expected) && found.starts_with("e.yaml:8: routes"), "{found}");
            }
        };
        let good = "- {service: a, path_prefix: /}\n";
        check(good, &[]);
        check(&format!("{good}- {{service: a, host: a.example, path_prefix: /}}\n"), &[]);
        check("- {service: a, host: 'a.example:80', path_prefix: /}\n", &["has a port"]);
        check("- {service: a, host: '*.example', path_prefix: /}\n", &["not a host name"]);
        check("- {service: a, path_prefix: '/x?y=1'}\n", &["not a path"]);
        check("- {service: a, path_prefix: '/x//y'}\n", &["not a path"]);
        check(&good.repeat(2), &["leads to a and to a"]);
        check("- {service: a, path_prefix: /x}\n- {service: a, path_prefix: /x/}\n", &["/x/ leads to a"]);
        check(
            "- {service: a, host: B, path_prefix: /}\n- {service: a, host: b., path_prefix: /}\n",
            &["b./ leads to a"],
        );
        check("- {service: a, path_prefix: /, policy: {rate_limit: {requests: 0}}}\n", &["a rate limit has"]);
        check(
            "- {service: a, path_prefix: /, policy: {headers: {Content-Length: '1'}}}\n",
            &["content-length"],
        );
    }

    #[test]
    fn rules_of_the_edge_are_those_of_each_route_and_an_odd_access_log_is_found() {
        let edge = "{ listen: 127.0.0.1:80, policy: {max_body_bytes: 9}, access_log_file: {max_bytes: 1} }";
        let text = format!("edge: {edge}\n{GOOD}");
        let problems = resolve(&release(), &file(&text), &facts("s")).unwrap_err();
        assert!(problems.len() == 1 && problems[0].to_string().contains("access_log_file"), "{problems:?}");
        let text = text.replace("max_bytes: 1}", "max_bytes: 65536}");
        let target = resolve(&release(), &file(&text), &facts("s")).unwrap();
        assert!(target.routes.iter().all(|route| route.policy.max_body_bytes == Some(9)));
        assert!(!target.routes.is_empty() && target.edge.access_log_file.is_some());
    }

    #[test]
    fn containers_reach_the_edge_by_their_gateway_where_it_listens_there() {
        let docker = GOOD.replace("      HOST: 127.0.0.1\n", "");
        let resolved = |edge: &str| {
            let text = format!("platform: docker\nedge: {edge}\n{docker}");
            let found = resolve(&release(), &file(&text), &facts("s"));
            found.map(|target| target.services["a"].env["UPSTREAM"].clone()).map_err(|all| all[0].to_string())
        };
        assert_eq!(resolved("{listen: 0.0.0.0:80}").unwrap(), "http://172.18.0.1:80/b");
        let also = "{listen: 127.0.0.1:80, listen_also: ['172.18.0.1:81']}";
        assert_eq!(resolved(also).unwrap(), "http://172.18.0.1:81/b");
        let error = resolved("{listen: 127.0.0.1:80}").unwrap_err();
        assert!(error.contains("containers do not reach the edge"), "{error}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = Facts { secrets: BTreeMap::new(), ..facts("") };
        let problems = resolve(&release(), &file("services: {a: {env: {}}}"), &missing).unwrap_err();
        let text = problems.iter().map(ToString::to_string).collect::<String>();
        assert!(text.contains("KEY has no value (what for)") && text.contains("LIMIT"), "{text}");
    }
}
