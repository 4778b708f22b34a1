//! What a `service.yaml` must say.

use super::Report;
use crate::secret;
use crate::yaml::Node;

pub(super) fn audit(root: &Node, report: &mut Report<'_>) {
    limits(root, report);
    if let Some((key, _)) = root.entry("http").filter(|_| root.at(&["health", "path"]).is_none()) {
        report.add(
            "config/missing-health-check",
            key,
            "health",
            "the service has a port and no `health.path`",
        );
    }
    if root.at(&["stop", "grace_ms"]).is_none() && root.is_map() {
        report.add("config/missing-stop-grace", root, "stop", "`stop.grace_ms` is not set");
    }
    if let Some((key, user)) = root.get("image").and_then(|image| image.entry("user"))
        && user.text() == Some("0")
    {
        report.add("config/root-user", key, "image.user", "`image.user` is 0, which is root");
    }
    for (name, key, variable) in root.get("env").into_iter().flat_map(Node::entries) {
        variables(name, key, variable, report);
    }
    for (name, key, value) in root.at(&["image", "env"]).into_iter().flat_map(Node::entries) {
        if secret::is_literal_secret(name, value.text().unwrap_or_default()) {
            let message = format!("`{name}` looks like a secret, and its value becomes part of the image");
            report.add("config/literal-secret", key, name, message);
        }
    }
}

fn limits(root: &Node, report: &mut Report<'_>) {
    let place = root.entry("resources").map_or(root, |(key, _)| key);
    for (name, id) in
        [("memory_mib", "config/missing-memory-limit"), ("open_files", "config/missing-open-files-limit")]
    {
        if root.at(&["resources", name]).is_none() {
            report.add(id, place, name, format!("`resources.{name}` is not set"));
        }
    }
}

fn variables(name: &str, key: &Node, variable: &Node, report: &mut Report<'_>) {
    let is_secret = variable.text_of("secret") == Some("true");
    let default = variable.text_of("default").filter(|text| !text.is_empty());
    if is_secret && default.is_some() {
        report.add("config/secret-with-default", key, name, format!("the secret `{name}` has a default"));
    } else if !is_secret && secret::is_secret_name(name) {
        let (id, message) = match default {
            Some(_) => {
                ("config/secret-with-default", format!("`{name}` looks like a secret and has a default"))
            }
            None => (
                "config/undeclared-secret",
                format!("`{name}` looks like a secret and is not declared as one"),
            ),
        };
        report.add(id, key, name, message);
    }
}
