//! Values that are dangerous under names that say what they are for. Invariant: a message names a key and never repeats the
//! value of a secret.

use super::{Kind, Report};
use crate::secret;
use crate::yaml::Node;

const WELL_KNOWN: [&str; 14] = [
    "admin",
    "changeme",
    "change-me",
    "default",
    "example",
    "guest",
    "letmein",
    "pass",
    "password",
    "postgres",
    "root",
    "secret",
    "test",
    "123456",
];
/// Shorter ones are found by trying.
const MIN_SECRET: usize = 12;
/// Keys whose value is free text.
const PROSE: [&str; 3] = ["description", "message", "reason"];

pub(super) fn audit(
    (name, key, value): (&str, &Node, &Node),
    path: &[&str],
    kind: &Kind,
    report: &mut Report<'_>,
) {
    if PROSE.contains(&name) {
        return;
    }
    cors(name, key, value, report);
    let Some(text) = value.text().map(str::trim) else { return };
    // In a service file the variable's name stands above its `default`.
    let variable = if name == "default" { path.last().copied().unwrap_or(name) } else { name };
    let is_declaration = kind.is_service;
    if !is_declaration {
        secrets(variable, key, text, report);
    }
    if text.contains("://") {
        addresses(variable, key, text, report);
    }
    verification(variable, key, text, report);
    if kind.serves_others {
        debugging(variable, key, text, report);
    }
    listening(variable, key, text, path, kind, report);
}

/// A variable as an item of a list: `NAME=value` as Compose writes it, `name` and `value` as Kubernetes does.
pub(super) fn listed(item: &Node, kind: &Kind, report: &mut Report<'_>) {
    if kind.is_service {
        return;
    }
    let is_variable = |name: &str| {
        name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
    };
    if let Some((name, value)) = item.text().and_then(|text| text.split_once('=')) {
        if is_variable(name) {
            secrets(name, item, value.trim(), report);
        }
    } else if let (Some(name), Some((key, value))) = (item.text_of("name"), item.entry("value")) {
        secrets(name, key, value.text().unwrap_or_default().trim(), report);
    }
}

fn words(name: &str) -> String {
    name.to_ascii_lowercase().replace(['-', '.'], "_")
}

fn cors(name: &str, key: &Node, value: &Node, report: &mut Report<'_>) {
    let name = words(name);
    let speaks_of_origins =
        name.contains("cors") || name.contains("allowed_origin") || name.contains("allow_origin");
    let is_star =
        |text: &str| text.split(',').any(|origin| ["*", "http://*", "https://*"].contains(&origin.trim()));
    let texts = value.items().iter().filter_map(|item| item.text());
    let nested = value.text_of("default").or_else(|| value.text_of("value"));
    if speaks_of_origins && texts.chain(value.text()).chain(nested).any(is_star) {
        report.add("config/wildcard-cors", key, &name, format!("`{name}` allows every origin"));
    }
}

fn secrets(name: &str, key: &Node, text: &str, report: &mut Report<'_>) {
    if !secret::is_literal_secret(name, text) {
        return;
    }
    let is_weak =
        text.chars().count() < MIN_SECRET || WELL_KNOWN.iter().any(|known| text.eq_ignore_ascii_case(known));
    if is_weak {
        report.add(
            "config/weak-credential",
            key,
            name,
            format!("`{name}` has a value that is short or well known"),
        );
    } else {
        report.add(
            "config/literal-secret",
            key,
            name,
            format!("`{name}` looks like a secret and has its value written out"),
        );
    }
}

fn addresses(name: &str, key: &Node, text: &str, report: &mut Report<'_>) {
    let Some((scheme, rest)) = text.split_once("://") else { return };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    if !password.is_empty() && !password.starts_with('$') {
        report.add(
            "config/url-with-password",
            key,
            name,
            format!("the address of `{name}` has a password in it"),
        );
    }
    let is_database = ["postgres", "postgresql", "mysql", "mariadb", "mongodb"].contains(&scheme);
    if is_database && ["root", "postgres", "sa", "admin"].contains(&user) {
        report.add("config/superuser-database", key, name, format!("`{name}` connects as `{user}`"));
    }
    let without_tls = ["sslmode=disable", "ssl-mode=disabled", "sslmode=allow", "ssl=false", "tls=false"];
    if is_database && without_tls.iter().any(|part| text.to_ascii_lowercase().contains(part)) {
        report.add("config/plaintext-database", key, name, format!("`{name}` switches encryption off"));
    }
    let is_plain = ["http", "ws", "ftp", "amqp", "ldap", "mqtt"].contains(&scheme);
    if is_plain && !is_local(host) {
        report.add(
            "config/plaintext-url",
            key,
            name,
            format!("`{name}` is an address of `{scheme}` to another machine"),
        );
    }
}

/// Loopback, and names that stand for something else.
fn is_local(host: &str) -> bool {
    let bare = host.strip_prefix('[').map_or_else(
        || host.split(':').next().unwrap_or_default(),
        |rest| rest.split(']').next().unwrap_or_default(),
    );
    bare.is_empty()
        || bare.starts_with('$')
        || bare == "::1"
        || bare.starts_with("127.")
        || ["0.0.0.0", "localhost"].contains(&bare)
        || bare.ends_with(".localhost")
}

fn is_true(text: &str) -> bool {
    ["true", "1", "yes", "on"].contains(&text.to_ascii_lowercase().as_str())
}

fn is_false(text: &str) -> bool {
    ["false", "0", "no", "off", "none"].contains(&text.to_ascii_lowercase().as_str())
}

fn verification(name: &str, key: &Node, text: &str, report: &mut Report<'_>) {
    let upper = words(name);
    let skips =
        ["insecure_skip_verify", "skip_tls_verify", "tls_insecure", "accept_invalid_certs", "danger_accept"];
    let verifies = [
        "verify_ssl",
        "ssl_verify",
        "tls_verify",
        "verify_tls",
        "tls_reject_unauthorized",
        "verify_certificates",
    ];
    let is_off = (skips.iter().any(|part| upper.contains(part)) && is_true(text))
        || (verifies.iter().any(|part| upper.contains(part)) && !upper.contains("skip") && is_false(text));
    if is_off {
        report.add(
            "config/tls-not-verified",
            key,
            name,
            format!("`{name}` switches the verification of certificates off"),
        );
    }
}

fn debugging(name: &str, key: &Node, text: &str, report: &mut Report<'_>) {
    let upper = words(name);
    let value = text.to_ascii_lowercase();
    let is_level = upper == "rust_log"
        || upper.ends_with("log_level")
        || upper.contains("log__level")
        || upper.ends_with("loglevel");
    if is_level
        && ["debug", "trace"].iter().any(|level| value.split([',', '=']).any(|part| part.trim() == *level))
    {
        report.add("config/debug-logging", key, name, format!("`{name}` is `{value}`"));
    }
    let is_switch = upper == "debug" || upper.ends_with("_debug") || upper.ends_with("debug_mode");
    if (is_switch && is_true(&value)) || (upper == "rust_backtrace" && value == "full") {
        report.add("config/debug-mode", key, name, format!("`{name}` is `{value}`"));
    }
}

/// In an image the service is alone in its network namespace, so that its own file may say every address; the edge may, too,
/// for it is what shall be reached.
fn listening(name: &str, key: &Node, text: &str, path: &[&str], kind: &Kind, report: &mut Report<'_>) {
    let is_world = ["0.0.0.0", "[::]", "::", "*"].contains(&text)
        || ["0.0.0.0:", "[::]:"].iter().any(|start| text.starts_with(start));
    let lower = words(name);
    let binds = ["host", "bind", "listen", "addr", "address"]
        .iter()
        .any(|part| lower.split('_').any(|word| word == *part));
    let is_private = ["admin", "metrics", "debug", "control"].iter().any(|part| lower.contains(part));
    let is_edge = path.first() == Some(&"edge") && !is_private;
    if is_world && binds && !is_edge && (is_private || !kind.is_service) {
        report.add("config/open-to-the-world", key, name, format!("`{name}` is `{text}`: every address"));
    }
}
