//! Jobs and steps: which actions and images they use, what they leave behind, which secrets they are given.

use finding::Severity;

use super::expression::fenced;
use super::triggers::insecure_commands;
use super::{Job, Report, Step, Workflow};
use crate::yaml::{Node, Value};

/// An action with an advisory.
struct Vulnerable {
    action: &'static str,
    /// The first version that has it.
    first: [u64; 3],
    /// The version that mends it.
    mended: [u64; 3],
    advisory: &'static str,
    /// Tags with a `v` are later copies of what there was before the attack.
    is_restored: bool,
}

/// Each one as GitHub's advisory database has it. What was hijacked by a moved tag and has no bad tag any more (reviewdog/action-setup)
/// is not here. A commit id is not looked up: that needs the network.
const VULNERABLE: [Vulnerable; 5] = [
    // The toolkit's package was mended in 2.1.2, which came with 4.1.3; versions before 4 do not use it.
    vulnerable_since("actions/download-artifact", [4, 0, 0], [4, 1, 3], "CVE-2024-42471"),
    vulnerable_since("aquasecurity/setup-trivy", [0, 0, 0], [0, 2, 6], "CVE-2026-33634"),
    Vulnerable {
        is_restored: true,
        ..vulnerable_since("aquasecurity/trivy-action", [0, 0, 0], [0, 35, 0], "CVE-2026-33634")
    },
    vulnerable_since("dawidd6/action-download-artifact", [0, 0, 0], [6, 0, 0], "GHSA-5xr6-xhww-33m4"),
    vulnerable_since("tj-actions/changed-files", [0, 0, 0], [46, 0, 1], "CVE-2025-30066"),
];

const fn vulnerable_since(
    action: &'static str,
    first: [u64; 3],
    mended: [u64; 3],
    advisory: &'static str,
) -> Vulnerable {
    Vulnerable { action, first, mended, advisory, is_restored: false }
}

/// Actions that restore a cache whatever their inputs say, or unless the named input is false.
const CACHES: [(&str, Option<&str>); 7] = [
    ("actions/cache", None),
    ("actions/cache/restore", None),
    ("Swatinem/rust-cache", Some("lookup-only")),
    ("mozilla-actions/sccache-action", None),
    ("actions/setup-go", Some("cache")),
    ("actions-rust-lang/setup-rust-toolchain", Some("cache")),
    ("astral-sh/setup-uv", Some("enable-cache")),
];

/// Actions that restore a cache only where an input says so.
const OPTIONAL_CACHES: [(&str, &str); 7] = [
    ("actions/setup-node", "cache"),
    ("actions/setup-python", "cache"),
    ("actions/setup-java", "cache"),
    ("docker/build-push-action", "cache-from"),
    ("ruby/setup-ruby", "bundler-cache"),
    ("actions/setup-dotnet", "cache"),
    ("PyO3/maturin-action", "sccache"),
];

/// Actions that publish something.
const PUBLISHERS: [&str; 9] = [
    "actions/create-release",
    "actions/deploy-pages",
    "actions/upload-release-asset",
    "crazy-max/ghaction-github-pages",
    "goreleaser/goreleaser-action",
    "ncipollo/release-action",
    "peaceiris/actions-gh-pages",
    "pypa/gh-action-pypi-publish",
    "softprops/action-gh-release",
];

pub(super) fn audit_job(workflow: &Workflow<'_>, job: &Job<'_>, report: &mut Report<'_>) {
    insecure_commands(job.node, job.id, report);
    condition(job.node, job.id, report);
    secrets(job.node, job, report);
    if let Some(uses) = job.node.get("uses") {
        unpinned_uses(uses, job.id, report);
        return;
    }
    if job.node.get("name").is_none() {
        report.add(
            "workflow/anonymous-definition",
            job.key,
            job.id,
            format!("the job `{}` has no name", job.id),
        );
    }
    if job.node.get("timeout-minutes").is_none() {
        let message = format!("the job `{}` has no time limit of its own", job.id);
        report.add("workflow/timeout-missing", job.key, job.id, message);
    }
    containers(job, report);
    runner(workflow, job, report);
}

fn secrets(node: &Node, job: &Job<'_>, report: &mut Report<'_>) {
    if let Some(secrets) = node.get("secrets").filter(|secrets| secrets.text() == Some("inherit")) {
        let message = format!("the job `{}` hands every secret on to the workflow that it calls", job.id);
        report.add("workflow/secrets-inherit", secrets, job.id, message);
    }
}

fn containers(job: &Job<'_>, report: &mut Report<'_>) {
    let services = job.node.get("services").into_iter().flat_map(Node::entries).map(|(.., node)| node);
    for container in job.node.get("container").into_iter().chain(services) {
        let image = container.get("image").unwrap_or(container);
        self::image(image, job.id, report);
        let Some((key, password)) = container.get("credentials").and_then(|node| node.entry("password"))
        else {
            continue;
        };
        if password.text().is_some_and(|text| !text.is_empty() && fenced(text).is_empty()) {
            let message = format!("the job `{}` has a registry password written out", job.id);
            report.add("workflow/hardcoded-container-credentials", key, job.id, message);
        }
    }
}

/// An image of a container, a service, a step or a docker action.
pub(super) fn image(node: &Node, scope: &str, report: &mut Report<'_>) {
    let Some(text) = node.text().filter(|text| !text.is_empty()) else { return };
    let name = text.trim_start_matches("docker://");
    if name.contains("@sha256:") {
        return;
    }
    let tag = name.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
    let (severity, message) = match tag {
        _ if name.contains("${{") => {
            (Severity::Low, format!("the image `{name}` is computed and may not be pinned"))
        }
        Some("latest") | None => (Severity::High, format!("the image `{name}` is whatever was pushed last")),
        Some(_) => {
            (Severity::Medium, format!("the image `{name}` is pinned by a tag only, which can be moved"))
        }
    };
    report.add("workflow/unpinned-images", node, &format!("{scope}/{name}"), message);
    report.with(severity);
}

fn runner(workflow: &Workflow<'_>, job: &Job<'_>, report: &mut Report<'_>) {
    let Some((_, runs_on)) = job.node.entry("runs-on") else { return };
    let own = |node: &Node| node.text() == Some("self-hosted");
    let is_expression = |node: &Node| node.text().is_some_and(|text| text.trim().starts_with("${{"));
    let takes_strangers = ["pull_request", "pull_request_target", "issue_comment", "issues", "fork"]
        .iter()
        .any(|name| workflow.trigger(name).is_some());
    let (severity, message) = match &runs_on.value {
        Value::Scalar(_) if own(runs_on) => (Severity::Medium, "runs on an own machine"),
        Value::Scalar(_) if is_expression(runs_on) && matrix_has_own_runner(job) => {
            (Severity::Medium, "runs on an own machine for a part of its matrix")
        }
        Value::List(labels) if labels.iter().any(|label| own(label)) => {
            (Severity::Medium, "runs on an own machine")
        }
        Value::List(labels) if labels.first().is_some_and(|label| is_expression(label)) => {
            (Severity::Low, "may run on an own machine: its runner is computed")
        }
        Value::Map(_) => (Severity::Low, "may run on an own machine: its runner is of a group"),
        Value::Scalar(_) | Value::List(_) => return,
    };
    let severity = if takes_strangers && severity == Severity::Medium { Severity::High } else { severity };
    report.add("workflow/self-hosted-runner", runs_on, job.id, format!("the job `{}` {message}", job.id));
    report.with(severity);
}

fn matrix_has_own_runner(job: &Job<'_>) -> bool {
    fn holds(node: &Node) -> bool {
        match &node.value {
            Value::Scalar(text) => text.contains("self-hosted"),
            Value::List(items) => items.iter().any(|item| holds(item)),
            Value::Map(entries) => entries.iter().any(|(_, value)| holds(value)),
        }
    }
    job.node.at(&["strategy", "matrix"]).is_some_and(holds)
}

pub(super) fn audit(workflow: &Workflow<'_>, job: &Job<'_>, step: &Step<'_>, report: &mut Report<'_>) {
    insecure_commands(step.node, &step.scope, report);
    condition(step.node, &step.scope, report);
    all_secrets(step, report);
    if let Some(uses) = step.node.get("uses") {
        match uses.text() {
            Some(text) if text.starts_with("docker://") => image(uses, &step.scope, report),
            _ => unpinned_uses(uses, &step.scope, report),
        }
        vulnerable(uses, step, report);
        checkout(uses, step, report);
        cache(uses, workflow, job, step, report);
    }
    if let Some(run) = step.node.get("run") {
        environment_file(run, workflow, step, report);
    }
}

fn unpinned_uses(uses: &Node, scope: &str, report: &mut Report<'_>) {
    let Some(text) = uses.text().map(str::trim) else { return };
    if is_local(text) {
        return;
    }
    let (action, reference) = text.split_once('@').unwrap_or((text, ""));
    let is_commit = reference.len() == 40 && reference.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_commit {
        let message = match reference {
            "" => format!("`{action}` has no version at all"),
            _ => format!("`{action}` is pinned to `{reference}`, which its owner or a thief can move"),
        };
        report.add("workflow/unpinned-uses", uses, &format!("{scope}/{action}"), message);
    }
}

/// A file of the same repository at the same commit.
fn is_local(uses: &str) -> bool {
    uses.starts_with("./") || uses.starts_with("$/")
}

fn vulnerable(uses: &Node, step: &Step<'_>, report: &mut Report<'_>) {
    let Some((action, reference)) = step.uses() else { return };
    let Some(version) = version(reference) else { return };
    for known in VULNERABLE.iter().filter(|known| action.eq_ignore_ascii_case(known.action)) {
        if known.is_restored && reference.starts_with('v') {
            continue;
        }
        if is_below(&version, &known.mended) && !is_below(&version, &known.first) {
            let [major, minor, patch] = known.mended;
            let advisory = known.advisory;
            let message = format!("`{action}@{reference}` has {advisory}; {major}.{minor}.{patch} mends it");
            report.add(
                "workflow/known-vulnerable-actions",
                uses,
                &format!("{}/{action}", step.scope),
                message,
            );
        }
    }
}

/// Whether the numbers that a tag states are below the version. A tag such as `v4` moves on to the newest `v4.x`: what it does not
/// state does not tell.
fn is_below(stated: &[u64], version: &[u64; 3]) -> bool {
    stated.iter().zip(version).find(|(a, b)| a != b).is_some_and(|(a, b)| a < b)
}

/// The numbers that a tag states, as many as there are.
fn version(tag: &str) -> Option<Vec<u64>> {
    tag.strip_prefix('v').unwrap_or(tag).split('.').map(|part| part.parse().ok()).collect()
}

/// The version of the reference, or of the comment behind a commit id: `# v6.1.0`.
fn stated_version(reference: &str, uses: &Node, report: &Report<'_>) -> Option<Vec<u64>> {
    let comment = || report.document.line(uses.line).split_once(" # ")?.1.split_whitespace().next();
    version(reference).or_else(|| version(comment()?))
}

fn checkout(uses: &Node, step: &Step<'_>, report: &mut Report<'_>) {
    let is_checkout = step.uses().is_some_and(|(action, _)| action.eq_ignore_ascii_case("actions/checkout"));
    let persists = step.with("persist-credentials").and_then(Node::text);
    if !is_checkout || persists == Some("false") {
        return;
    }
    let (severity, message) = match persists {
        Some("true") => (
            Severity::Low,
            "the checkout keeps its token on the disk, as `persist-credentials: true` asks it to",
        ),
        _ => {
            (Severity::Medium, "the checkout keeps its token on the disk: `persist-credentials` is not false")
        }
    };
    report.add("workflow/artipacked", uses, &step.scope, message);
    report.with(severity);
}

fn cache(uses: &Node, workflow: &Workflow<'_>, job: &Job<'_>, step: &Step<'_>, report: &mut Report<'_>) {
    let Some((action, reference)) = step.uses() else { return };
    let value = |name: &str| step.with(name).and_then(Node::text).unwrap_or_default();
    let is_on = |input: &Option<&str>| match input {
        Some("lookup-only") => value("lookup-only") != "true",
        Some(name) => value(name) != "false",
        None => value("lookup-only") != "true",
    };
    let restores = CACHES.iter().any(|(name, input)| action.eq_ignore_ascii_case(name) && is_on(input))
        || OPTIONAL_CACHES
            .iter()
            .any(|(name, input)| action.eq_ignore_ascii_case(name) && !["", "false"].contains(&value(input)));
    // From its fifth version on it caches unless told not to.
    let is_new_node = action.eq_ignore_ascii_case("actions/setup-node")
        && stated_version(reference, uses, report).is_some_and(|version| version.first() >= Some(&5));
    let restores = restores || (is_new_node && value("package-manager-cache") != "false");
    if restores && *job.publishes.get_or_init(|| publishes(workflow, job)) {
        let message = format!("`{action}` restores a cache in the job `{}`, which publishes", job.id);
        report.add("workflow/cache-poisoning", uses, &format!("{}/{action}", step.scope), message);
    }
}

/// Whether what the job makes reaches users: it runs for tags, for releases or for a release branch alone, or uses an action that
/// publishes.
fn publishes(workflow: &Workflow<'_>, job: &Job<'_>) -> bool {
    let push = workflow.trigger("push").and_then(|(_, push)| push);
    let branches = push.and_then(|push| push.get("branches")).map(Node::items).unwrap_or_default();
    // What runs for pull requests, too, tests a release branch and releases nothing.
    let by_branch = workflow.trigger("pull_request").is_none()
        && branches.iter().filter_map(|name| name.text()).any(|name| name.starts_with("release"));
    let by_tag = push.is_some_and(|push| push.get("tags").is_some());
    let by_release = workflow.trigger("release").is_some();
    let by_action = job.steps().iter().any(is_publisher);
    by_branch || by_tag || by_release || by_action
}

fn is_publisher(step: &Step<'_>) -> bool {
    let Some((action, _)) = step.uses() else { return false };
    let pushes = action.eq_ignore_ascii_case("docker/build-push-action")
        && step.with("push").is_some_and(|push| push.text() != Some("false"));
    pushes || PUBLISHERS.iter().any(|name| action.eq_ignore_ascii_case(name))
}

fn all_secrets(step: &Step<'_>, report: &mut Report<'_>) {
    fn walk<'n>(node: &'n Node, found: &mut Vec<&'n Node>) {
        match &node.value {
            Value::Scalar(text) if fenced(text).iter().any(|e| is_all_secrets(e.inner)) => found.push(node),
            Value::Scalar(_) => {}
            Value::List(items) => items.iter().for_each(|item| walk(item, found)),
            Value::Map(entries) => entries.iter().for_each(|(_, value)| walk(value, found)),
        }
    }
    let mut found = Vec::new();
    walk(step.node, &mut found);
    for node in found {
        report.add(
            "workflow/overprovisioned-secrets",
            node,
            &step.scope,
            "every secret of the repository goes into this value",
        );
    }
}

/// `toJSON(secrets)`, or a secret whose name is computed.
fn is_all_secrets(expression: &str) -> bool {
    let dense: String =
        expression.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
    let computed = dense.split("secrets[").nth(1).is_some_and(|rest| !rest.starts_with('\''));
    dense.contains("tojson(secrets)") || computed
}

fn environment_file(run: &Node, workflow: &Workflow<'_>, step: &Step<'_>, report: &mut Report<'_>) {
    let by_strangers =
        ["pull_request_target", "workflow_run"].iter().any(|name| workflow.trigger(name).is_some());
    // A composite action does not know who starts it.
    let is_action = workflow.triggers.is_empty();
    if !by_strangers && !is_action {
        return;
    }
    for (number, line) in run.text().unwrap_or_default().lines().enumerate() {
        let Some(file) = ["GITHUB_ENV", "GITHUB_PATH"].into_iter().find(|file| writes(line, file)) else {
            continue;
        };
        let place = report.document.find(run, line.trim(), 0);
        let message =
            format!("the script writes to {file}, from which all later steps take their environment");
        report.add_at("workflow/github-env", place, &format!("{}/{file}/{number}", step.scope), message);
    }
}

/// Whether the line sends anything but a fixed text to the file of this name; the home folder is nobody's to choose.
fn writes(line: &str, file: &str) -> bool {
    let line = line.trim();
    let Some(before) = line.find(file).map(|at| &line[..at]).filter(|_| !line.starts_with('#')) else {
        return false;
    };
    let is_write = [">>", "tee ", "Out-File", "Add-Content"].iter().any(|word| before.contains(word));
    let text = before.split(">>").next().unwrap_or_default().replace("$HOME", "");
    let is_fixed =
        ["echo ", "printf "].iter().any(|word| text.starts_with(word)) && !text.contains(['$', '`']);
    is_write && !is_fixed
}

/// A condition with text outside its expression, or a line break behind it, is a text that is not empty: true.
fn condition(node: &Node, scope: &str, report: &mut Report<'_>) {
    let Some(value) = node.get("if") else { return };
    let text = value.text().unwrap_or_default();
    let expressions = fenced(text);
    let [first, ..] = expressions.as_slice() else { return };
    if expressions.len() == 1 && first.raw == text {
        return;
    }
    if expressions.len() == 1 && text.trim_start().starts_with('!') {
        return;
    }
    let message =
        format!("the condition is the text around `{}` and so always true", first.raw.replace('\n', " "));
    report.add("workflow/unsound-condition", value, scope, message);
}
