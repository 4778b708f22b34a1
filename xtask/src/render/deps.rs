//! What services are made of, as a table or a document.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use deps::{Bytes, Change, Changed, Class, Report, Service, Used, Violation, Weight};
use serde_json::{Value, json};

use super::table::Table;
use super::{bytes, document, print};

const CLASSES: [Class; 4] = [Class::Linked, Class::BuildOnly, Class::TestOnly, Class::Absent];

/// Prints what each service is made of.
pub(crate) fn deps(
    report: &Report,
    weights: &BTreeMap<String, Weight>,
    all: bool,
    as_json: bool,
) -> Result<()> {
    let services = report.services.iter().map(|(name, service)| (service, weights.get(name)));
    if as_json {
        let services: Vec<Value> =
            services.map(|(service, weight)| service_document(service, weight)).collect();
        return document("slipway.deps/1", json!({ "services": services, "warnings": report.warnings }));
    }
    let text: Vec<String> = services
        .map(|(service, weight)| format!("{}{}\n", table(service, weight, all), summary(service, weight)))
        .collect();
    print(&text.join("\n"))
}

fn service_document(service: &Service, weight: Option<&Weight>) -> Value {
    let count = |class: &Class| (class.name().to_owned(), json!(service.of_class(*class).len()));
    let package = |(id, used): (&String, &Used)| {
        let mut value = json!(used);
        if let Some(bytes) = weight.and_then(|weight| weight.packages.get(id)) {
            value["bytes"] = json!(bytes);
        }
        value
    };
    let mut value = json!({
        "name": service.name,
        "binary": service.binary,
        "counts": CLASSES.iter().map(count).collect::<serde_json::Map<_, _>>(),
        "packages": service.used.iter().map(package).collect::<Vec<_>>(),
        "absent": service.absent,
    });
    if let Some(weight) = weight {
        value["size"] = json!({
            "file": weight.file,
            "std": weight.std,
            "native": weight.native,
            "unattributed": weight.unattributed,
            "overhead": weight.overhead,
        });
    }
    value
}

fn table(service: &Service, weight: Option<&Weight>, all: bool) -> String {
    match weight {
        Some(weight) => weighed_table(service, weight, all).to_string(),
        None => plain_table(service, all).to_string(),
    }
}

/// The packages that are shown, the largest first, then by name.
fn shown<'a>(service: &'a Service, weight: Option<&Weight>, all: bool) -> Vec<(&'a Used, Option<Bytes>)> {
    let of = |id: &String| weight.and_then(|weight| weight.packages.get(id)).copied();
    let mut shown: Vec<_> = service
        .used
        .iter()
        .filter(|(_, used)| all || used.class == Class::Linked)
        .map(|(id, used)| (used, of(id)))
        .collect();
    shown.sort_by_key(|(used, bytes)| (used.class, Reverse(bytes.map(Bytes::total)), used.package.spec()));
    shown
}

fn plain_table(service: &Service, all: bool) -> Table<5> {
    let mut table = Table::new(["package", "class", "source", "licence", "features"]);
    for (used, _) in shown(service, None, all) {
        table.row(about(used));
    }
    table
}

fn about(used: &Used) -> [String; 5] {
    let features: Vec<&str> = used.features.iter().map(String::as_str).collect();
    [
        used.package.spec(),
        used.class.name().to_owned(),
        used.package.source.kind().to_owned(),
        used.package.licence.clone().unwrap_or_default(),
        features.join(","),
    ]
}

fn weighed_table(service: &Service, weight: &Weight, all: bool) -> Table<9> {
    let heading = ["package", "bytes", "share", "code", "data", "unwind", "written", "source", "licence"];
    let mut table = Table::new(heading);
    let shown = shown(service, Some(weight), all);
    let is_empty = |size: Option<Bytes>| size.is_some_and(|size| size.total() == 0 && size.defined == 0);
    let (empty, rows): (Vec<_>, Vec<_>) = shown.into_iter().partition(|(_, size)| !all && is_empty(*size));
    for (used, size) in rows {
        let [spec, class, source, licence, _] = about(used);
        let spec = if used.class == Class::Linked { spec } else { format!("{spec} ({class})") };
        table.row(weighed_row(spec, size, weight.file, [source, licence]));
    }
    let none = || [String::new(), String::new()];
    if !empty.is_empty() {
        let name = format!("({} more, without bytes)", empty.len());
        table.row(weighed_row(name, None, weight.file, none()));
    }
    for (name, size) in [
        ("(standard library)", weight.std),
        ("(C libraries)", weight.native),
        ("(nobody's)", weight.unattributed),
    ] {
        table.row(weighed_row(name.to_owned(), Some(size), weight.file, none()));
    }
    for (name, size) in [("(file format)", weight.overhead), ("total", weight.total())] {
        let mut row = weighed_row(name.to_owned(), None, weight.file, none());
        (row[1], row[2]) = (bytes(size), share(size, weight.file));
        table.row(row);
    }
    table
}

fn weighed_row(name: String, size: Option<Bytes>, file: u64, [source, licence]: [String; 2]) -> [String; 9] {
    let part = |part: fn(Bytes) -> u64| size.map(|size| bytes(part(size))).unwrap_or_default();
    [
        name,
        part(Bytes::total),
        size.map(|size| share(size.total(), file)).unwrap_or_default(),
        part(|size| size.text),
        part(|size| size.data),
        part(|size| size.unwind),
        part(|size| size.defined),
        source,
        licence,
    ]
}

fn share(part: u64, of: u64) -> String {
    format!("{:.1} %", part as f64 * 100.0 / of.max(1) as f64)
}

fn summary(service: &Service, weight: Option<&Weight>) -> String {
    let count = |class: &Class| format!("{} {}", service.of_class(*class).len(), class.name());
    let counts: Vec<String> = CLASSES.iter().map(count).collect();
    let size = match weight {
        Some(weight) => format!("; {} bytes", weight.file),
        None => "; not built, so no bytes: cargo xtask build".to_owned(),
    };
    format!("{}: {}{size}", service.name, counts.join(", "))
}

/// Prints the chains that lead to `package`; `false` where there are none.
pub(crate) fn why(report: &Report, package: &str, as_json: bool) -> Result<bool> {
    let mut found = Vec::new();
    let mut text = String::new();
    for service in report.services.values() {
        for chain in service.why(package) {
            let Some(last) = chain.last() else { continue };
            let specs: Vec<String> = chain.iter().map(|used| used.package.spec()).collect();
            writeln!(text, "{}  ({})", specs.join(" -> "), last.class.name())?;
            found.push(json!({ "service": service.name, "class": last.class, "chain": specs }));
        }
    }
    let any = !found.is_empty();
    if as_json {
        document("slipway.deps-why/1", json!({ "chains": found }))?;
    } else {
        print(&text)?;
    }
    Ok(any)
}

/// Prints what changed since `commit`, by service.
pub(crate) fn deps_diff(commit: &str, changes: &BTreeMap<String, Vec<Changed>>, as_json: bool) -> Result<()> {
    if as_json {
        return document("slipway.deps-diff/1", json!({ "since": commit, "services": changes }));
    }
    let mut table = Table::new(["service", "package", "class", "change", "before", "now", "bytes"]);
    for (service, changed) in changes {
        for one in changed {
            table.row(diff_row(service, one));
        }
    }
    let short = commit.get(..12).unwrap_or(commit);
    match changes.values().map(Vec::len).sum::<usize>() {
        0 => print(&format!("nothing changed since {short}\n")),
        1 => print(&format!("{table}1 change since {short}\n")),
        many => print(&format!("{table}{many} changes since {short}\n")),
    }
}

fn diff_row(service: &str, changed: &Changed) -> [String; 7] {
    let list = |sign: char, names: &std::collections::BTreeSet<String>| {
        names.iter().map(|name| format!("{sign}{name}")).collect::<Vec<_>>()
    };
    let change = match &changed.change {
        Change::Came => "new".to_owned(),
        Change::Went => "gone".to_owned(),
        Change::Version { from } => format!("was {from}"),
        Change::Class { from } => format!("was {}", from.name()),
        Change::Features { added, removed } => [list('+', added), list('-', removed)].concat().join(" "),
        Change::Bytes => "size".to_owned(),
    };
    let spec = match changed.version.as_str() {
        "" => changed.name.clone(),
        version => format!("{}@{version}", changed.name),
    };
    let size = |size: Option<u64>| size.map(bytes).unwrap_or_default();
    let growth = changed.now.unwrap_or(0) as i128 - changed.before.unwrap_or(0) as i128;
    let is_known = changed.now.or(changed.before).is_some();
    [
        service.to_owned(),
        spec,
        changed.class.map(Class::name).unwrap_or_default().to_owned(),
        change,
        size(changed.before),
        size(changed.now),
        if is_known { format!("{growth:+}") } else { String::new() },
    ]
}

/// Prints what is against the budget.
pub(crate) fn deps_check(violations: &[Violation], services: usize, as_json: bool) -> Result<()> {
    if as_json {
        return document("slipway.deps-check/1", json!({ "violations": violations }));
    }
    if services == 0 {
        return print("nothing to check: no service has a budget (`deps:` in slipway.yaml)\n");
    }
    let mut text = String::new();
    for one in violations {
        writeln!(text, "{}: {}: {}\n  next: {}", one.service, one.rule, one.message, one.cure)?;
    }
    if violations.is_empty() {
        writeln!(text, "{services} services are within their budgets")?;
    }
    print(&text)
}
