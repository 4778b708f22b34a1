//! What services are made of, as a table or a document.

use std::fmt::Write as _;

use anyhow::Result;
use deps::{Class, Report, Service};
use serde_json::{Value, json};

use super::table::Table;
use super::{document, print};

const CLASSES: [Class; 4] = [Class::Linked, Class::BuildOnly, Class::TestOnly, Class::Absent];

/// Prints what each service is made of.
pub(crate) fn deps(report: &Report, all: bool, as_json: bool) -> Result<()> {
    if as_json {
        let services: Vec<Value> = report.services.values().map(service_document).collect();
        return document("slipway.deps/1", json!({ "services": services, "warnings": report.warnings }));
    }
    let mut text = String::new();
    for service in report.services.values() {
        write!(text, "{}{}\n\n", table(service, all), summary(service))?;
    }
    print(text.trim_end_matches('\n'))?;
    print("\n")
}

fn service_document(service: &Service) -> Value {
    let count = |class: &Class| (class.name().to_owned(), json!(service.of_class(*class).len()));
    json!({
        "name": service.name,
        "binary": service.binary,
        "counts": CLASSES.iter().map(count).collect::<serde_json::Map<_, _>>(),
        "packages": service.used.values().collect::<Vec<_>>(),
        "absent": service.absent,
    })
}

fn table(service: &Service, all: bool) -> Table<5> {
    let mut table = Table::new(["package", "class", "source", "licence", "features"]);
    for used in service.used.values().filter(|used| all || used.class == Class::Linked) {
        let features: Vec<&str> = used.features.iter().map(String::as_str).collect();
        table.row([
            used.package.spec(),
            used.class.name().to_owned(),
            used.package.source.kind().to_owned(),
            used.package.licence.clone().unwrap_or_default(),
            features.join(","),
        ]);
    }
    table
}

fn summary(service: &Service) -> String {
    let count = |class: &Class| format!("{} {}", service.of_class(*class).len(), class.name());
    format!("{}: {}", service.name, CLASSES.iter().map(count).collect::<Vec<_>>().join(", "))
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
