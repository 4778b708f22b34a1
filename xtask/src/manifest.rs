//! From a build's report to a release manifest: the one place where the words of building become the words of deploying.

use ::build::{BuiltService, Report};
use release::{
    EnvKind, EnvVar, GitState, HealthCheck, Http, Release, Resources, Route, SCHEMA, Service, Stop, Volume,
};

/// The release that consists of all images of `report`.
pub(crate) fn release(report: &Report) -> Release {
    let services = report.services.iter().map(|built| (built.name.clone(), service(built)));
    let git = report.git.as_ref().map(|git| GitState { revision: git.revision.clone(), dirty: git.dirty });
    Release { schema: SCHEMA.to_owned(), git, services: services.collect(), migrations: Default::default() }
}

fn service(built: &BuiltService) -> Service {
    let config = &built.config;
    Service {
        version: built.version.clone(),
        image: built.image,
        content: built.content,
        sbom: built.sbom,
        spdx: Some(built.spdx),
        provenance: Some(built.provenance),
        http: config.http.as_ref().map(http),
        health: config.health.as_ref().map(health),
        stop: Stop { signal: config.stop.signal.clone(), grace_ms: config.stop.grace_ms },
        env: config.env.iter().map(|(name, var)| (name.clone(), variable(var))).collect(),
        volumes: config.volumes.iter().map(volume).collect(),
        resources: Resources {
            memory_bytes: config.resources.memory_mib.map(|mib| mib.saturating_mul(1 << 20)),
            open_files: config.resources.open_files,
        },
    }
}

fn http(http: &workspace::Http) -> Http {
    let route = |route: &workspace::Route| Route {
        host: route.host.clone(),
        path_prefix: route.path_prefix.clone(),
        strip_prefix: route.strip_prefix,
    };
    Http { port: http.port, port_env: http.port_env.clone(), routes: http.routes.iter().map(route).collect() }
}

fn health(health: &workspace::Health) -> HealthCheck {
    HealthCheck {
        path: health.path.clone(),
        interval_ms: health.interval_ms,
        timeout_ms: health.timeout_ms,
        healthy_threshold: health.healthy_threshold,
        start_timeout_ms: health.start_timeout_ms,
    }
}

fn variable(var: &workspace::EnvVar) -> EnvVar {
    EnvVar {
        kind: match var.kind {
            workspace::EnvKind::String => EnvKind::String,
            workspace::EnvKind::Integer => EnvKind::Integer,
            workspace::EnvKind::Number => EnvKind::Number,
            workspace::EnvKind::Boolean => EnvKind::Boolean,
            workspace::EnvKind::Url => EnvKind::Url,
        },
        required: var.required,
        secret: var.secret,
        default: var.default.clone(),
        description: var.description.clone(),
    }
}

fn volume(volume: &workspace::Volume) -> Volume {
    Volume { name: volume.name.clone(), path: volume.path.clone(), path_env: volume.path_env.clone() }
}
