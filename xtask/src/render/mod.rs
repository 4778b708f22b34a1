//! What users see: results on standard output as a table or one JSON document, progress on standard error.

mod deploy;
mod progress;
mod table;

use ::build::{BuiltService, Plan, Report};
use anyhow::Result;
use serde_json::{Value, json};

pub(crate) use deploy::{DeployProgress, deploy_plan, down, outcome, status};
pub(crate) use progress::Progress;
use table::Table;

/// Prints a plan.
pub(crate) fn plan(plan: &Plan, as_json: bool) -> Result<()> {
    if as_json {
        return document("slipway.build-plan/1", serde_json::to_value(plan)?);
    }
    println!("in {}", plan.root.display());
    for (name, value) in &plan.env {
        match value {
            Some(value) => println!("  {name}={}", value.replace('\x1f', " ")),
            None => println!("  unset {name}"),
        }
    }
    println!("  {}", plan.command());
    for service in &plan.services {
        println!("pack {} from {}", service.name, service.binary_path.display());
        for (from, to) in &service.assets {
            println!("  copy {} to {to}", from.display());
        }
    }
    Ok(())
}

/// Prints what a build gave.
pub(crate) fn report(report: &Report, as_json: bool) -> Result<()> {
    if as_json {
        return document("slipway.build/1", serde_json::to_value(report)?);
    }
    let mut table = Table::new(["image", "digest", "size", "unpacked", "layers"]);
    for service in &report.services {
        table.row([
            service.name.clone(),
            service.image.to_string(),
            bytes(service.size),
            bytes(service.unpacked_size),
            layers(service),
        ]);
    }
    print!("{table}");
    let seconds = report.elapsed_ms as f64 / 1000.0;
    match &report.reason {
        None => println!("nothing changed ({seconds:.2} s)"),
        Some(reason) => println!(
            "{reason}; compiled {} of {} units; images in {} ({seconds:.1} s)",
            report.compiled,
            report.units,
            report.layout.display()
        ),
    }
    Ok(())
}

fn layers(service: &BuiltService) -> String {
    let reused = service.layers.iter().filter(|layer| layer.reused).count();
    format!("{} new, {reused} reused", service.layers.len() - reused)
}

/// Prints one JSON document with its schema first in mind: consumers refuse a version that they do not know.
fn document(schema: &str, mut value: Value) -> Result<()> {
    value["schema"] = json!(schema);
    println!("{}", serde_json::to_string_pretty(&value)?);
    Ok(())
}

/// A size for people, in powers of 1000 as registries show it.
pub(crate) fn bytes(size: u64) -> String {
    match size {
        0..1_000 => format!("{size} B"),
        1_000..1_000_000 => format!("{:.1} kB", size as f64 / 1e3),
        _ => format!("{:.2} MB", size as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        assert_eq!(
            [0, 999, 1_000, 999_949, 5_120_000].map(bytes),
            ["0 B", "999 B", "1.0 kB", "999.9 kB", "5.12 MB"]
        );
    }
}
