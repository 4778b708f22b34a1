//! What the manifest and the configuration of an image say.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::{ImagePolicy, Report};
use crate::secret;

const SHELLS: [&str; 8] = ["sh", "bash", "dash", "ash", "zsh", "ksh", "busybox", "cmd.exe"];

pub(super) fn audit(manifest: &Value, image: &Value, policy: &ImagePolicy, report: &mut Report<'_>) {
    let config = &image["config"];
    run_as(config, report);
    command(config, report);
    ports(config, report);
    secrets(config, image, report);
    labels(manifest, config, policy, report);
    size(manifest, policy, report);
    if config["StopSignal"].as_str().is_none_or(str::is_empty) {
        report.add("image/no-stop-signal", "", "the image names no stop signal");
    }
    let created = image["created"].as_str().and_then(seconds);
    if let (Some(created), Some(now)) = (created, policy.now.and_then(since_epoch)) {
        // Clocks of two machines differ by minutes, and offsets from UTC are not read: neither makes a day.
        if created > now.saturating_add(24 * 3600) {
            report.add(
                "image/created-in-future",
                "",
                format!("it says that it was made at {}", image["created"]),
            );
        }
    }
}

/// The number of the user that it runs as; `None` where that is not a number.
pub(super) fn user(image: &Value) -> Option<u64> {
    image["config"]["User"].as_str().unwrap_or_default().split(':').next()?.parse().ok()
}

fn run_as(config: &Value, report: &mut Report<'_>) {
    let user = config["User"].as_str().unwrap_or_default();
    let name = user.split(':').next().unwrap_or_default();
    if name.is_empty() || name == "root" || name.parse() == Ok(0u64) {
        report.add("image/root-user", "", format!("the user is `{user}`, which is root"));
    } else if name.parse::<u64>().is_err() {
        report.add("image/named-user", "", format!("the user `{name}` is a name, not a number"));
    }
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn command(config: &Value, report: &mut Report<'_>) {
    let mut command = texts(&config["Entrypoint"]);
    command.extend(texts(&config["Cmd"]));
    let Some(program) = command.first() else {
        report.add("image/no-entrypoint", "", "the image says nothing about what to start");
        return;
    };
    let name = program.rsplit('/').next().unwrap_or_default();
    if SHELLS.contains(&name)
        && command.get(1).is_some_and(|flag| flag.starts_with('-') && flag.contains('c'))
    {
        report.add("image/shell-entrypoint", "", format!("it is started through `{program} {}`", command[1]));
    } else if !program.starts_with('/') {
        report.add(
            "image/relative-path",
            "entrypoint",
            format!("the program `{program}` is no absolute path"),
        );
    }
    let folder = config["WorkingDir"].as_str().unwrap_or_default();
    if !folder.is_empty() && !folder.starts_with('/') {
        let message = format!("the working folder `{folder}` is no absolute path");
        report.add("image/relative-path", "working-dir", message);
    }
}

fn ports(config: &Value, report: &mut Report<'_>) {
    let ports = config["ExposedPorts"].as_object();
    let ports: Vec<&String> = ports.into_iter().flatten().map(|(port, _)| port).collect();
    for port in &ports {
        let number = port.split('/').next().and_then(|number| number.parse::<u32>().ok());
        if number.is_some_and(|number| (1..1024).contains(&number)) {
            report.add("image/privileged-port", port, format!("it listens on the port {port}"));
        }
    }
    let check = texts(&config["Healthcheck"]["Test"]);
    if !ports.is_empty() && matches!(check.as_slice(), [] | ["NONE", ..]) {
        report.add("image/no-health-check", "", "it listens on a port, and has no health check");
    }
}

/// Names only: a value is never repeated.
fn secrets(config: &Value, image: &Value, report: &mut Report<'_>) {
    for (name, value) in texts(&config["Env"]).iter().filter_map(|pair| pair.split_once('=')) {
        if secret::is_literal_secret(name, value) {
            let message = format!("the variable `{name}` looks like a secret and has a value");
            report.add("image/secret-in-environment", name, message);
        }
    }
    for (name, value) in config["Labels"].as_object().into_iter().flatten() {
        if secret::is_literal_secret(name, value.as_str().unwrap_or_default()) {
            report.add("image/secret-in-metadata", name, format!("the label `{name}` looks like a secret"));
        }
    }
    for (number, entry) in image["history"].as_array().into_iter().flatten().enumerate() {
        let command = entry["created_by"].as_str().unwrap_or_default();
        let words = command.split(|c: char| c.is_whitespace() || "|;&\"".contains(c));
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            if secret::is_literal_secret(name, value) {
                let name = name.trim_start_matches('-');
                report.add(
                    "image/secret-in-metadata",
                    name,
                    format!("the history entry {number} gives `{name}` a value"),
                );
            }
        }
    }
}

fn labels(manifest: &Value, config: &Value, policy: &ImagePolicy, report: &mut Report<'_>) {
    for label in &policy.required_labels {
        if config["Labels"][label].as_str().is_none_or(str::is_empty) {
            report.add("image/missing-label", label, format!("the label `{label}` is missing"));
        }
    }
    for name in ["ref.name", "version", "base.name"] {
        let name = format!("org.opencontainers.image.{name}");
        let is_latest =
            |of: &Value| of[&name].as_str().is_some_and(|text| text == "latest" || text.ends_with(":latest"));
        if is_latest(&config["Labels"]) || is_latest(&manifest["annotations"]) {
            report.add("image/floating-tag", &name, format!("`{name}` is `latest`"));
        }
    }
}

fn size(manifest: &Value, policy: &ImagePolicy, report: &mut Report<'_>) {
    let layers = manifest["layers"].as_array().into_iter().flatten();
    let size = layers.filter_map(|layer| layer["size"].as_u64()).fold(0u64, u64::saturating_add);
    if let Some(limit) = policy.max_bytes.filter(|limit| size > *limit) {
        report.add("image/too-large", "", format!("its layers have {size} bytes, the limit is {limit}"));
    }
}

fn since_epoch(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// Seconds since 1970 of an RFC 3339 date as if it were in UTC.
fn seconds(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    // Years begin in March here, so that the leap day is the last of its year.
    let shifted = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_become_seconds() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2024-02-29T12:00:00.5+02:00"), Some(1_709_208_000));
        assert_eq!(seconds("yesterday"), None);
    }
}
