//! Keys that take boundaries away, in the words of Docker Compose and Kubernetes: they have no place in a file of ours, whatever
//! platform will read it.

use super::{Kind, Report};
use crate::yaml::Node;

pub(super) fn audit(
    (name, key, value): (&str, &Node, &Node),
    path: &[&str],
    kind: &Kind,
    report: &mut Report<'_>,
) {
    if kind.is_service && path.first() == Some(&"env") {
        return;
    }
    let text = value.text().unwrap_or_default();
    match name {
        "privileged" | "allowPrivilegeEscalation" if text == "true" => {
            report.add("config/privileged", key, name, format!("`{name}` is true"));
        }
        "cap_add" | "add"
            if value.items().iter().any(|item| matches!(item.text(), Some("ALL" | "SYS_ADMIN"))) =>
        {
            report.add("config/privileged", key, name, "a capability over the whole machine is added");
        }
        "hostNetwork" | "hostPID" | "hostIPC" if text == "true" => {
            report.add("config/host-namespace", key, name, format!("`{name}` is true"));
        }
        "network_mode" | "pid" | "ipc" | "network" if text == "host" => {
            report.add("config/host-namespace", key, name, format!("`{name}` is `host`"));
        }
        "hostPath" => report.add("config/container-socket", key, name, "a folder of the machine is mounted"),
        "volumes" | "mounts" => mounts(value, report),
        "image" if is_floating(text) => {
            report.add("config/floating-image", key, name, format!("`{text}` is whatever was pushed last"));
        }
        _ => {}
    }
}

fn mounts(value: &Node, report: &mut Report<'_>) {
    for item in value.items() {
        let source = item.text().or_else(|| item.text_of("source")).unwrap_or_default();
        let sockets = ["docker.sock", "containerd.sock", "podman.sock", "crio.sock"];
        if sockets.iter().any(|socket| source.contains(socket)) {
            report.add("config/container-socket", item, source, format!("`{source}` is the engine's socket"));
        }
    }
}

fn is_floating(image: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or_default();
    !image.is_empty()
        && !image.contains(['@', '$', ' '])
        && (last.ends_with(":latest") || !last.contains(':'))
}
