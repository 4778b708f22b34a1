//! What `cargo xtask base` shows.

use std::fmt::Write as _;
use std::path::Path;

use ::base::debian::Lock;
use ::build::{BuiltImage, LockChange};
use anyhow::{Result, ensure};
use serde_json::json;

use super::table::Table;
use super::{Signed, bytes, document, print};

/// Prints what locking changed.
pub(crate) fn lock_changes(lock: &Lock, changes: &LockChange, dry_run: bool, as_json: bool) -> Result<()> {
    if as_json {
        let value = json!({ "file": Lock::FILE, "written": !dry_run, "changes": changes, "lock": lock });
        return document("slipway.base-lock/1", value);
    }
    let mut text = String::new();
    for (architecture, packages) in changes {
        for (name, (old, new)) in packages {
            let line = match (old, new) {
                (None, Some(new)) => format!("add {name} {new}"),
                (Some(old), None) => format!("remove {name} {old}"),
                (Some(old), Some(new)) => format!("update {name} {old} -> {new}"),
                (None, None) => continue,
            };
            writeln!(text, "{line} ({architecture})")?;
        }
    }
    let packages: usize = lock.packages.values().map(std::collections::BTreeMap::len).sum();
    let place = if dry_run { "would be in" } else { "in" };
    writeln!(
        text,
        "{packages} packages of {} for {} roots {place} {}",
        lock.release,
        lock.roots.len(),
        Lock::FILE
    )?;
    print(&text)
}

/// Prints what is locked; of one package, why it is there.
pub(crate) fn locked(lock: &Lock, package: Option<&str>, as_json: bool) -> Result<()> {
    let is_shown = |name: &str| package.is_none_or(|package| package == name);
    let is_known = lock.packages.values().any(|packages| packages.keys().any(|name| is_shown(name)));
    ensure!(is_known || package.is_none(), "{} has no package {}", Lock::FILE, package.unwrap_or_default());
    if as_json {
        return document("slipway.base/1", json!({ "lock": lock }));
    }
    let mut text = String::new();
    for root in &lock.roots {
        for (architecture, reasons) in &root.reasons {
            let known = &lock.packages[architecture];
            let total: u64 = reasons.keys().map(|name| known[name].size).sum();
            writeln!(
                text,
                "{} ({architecture}): {} packages, {} to fetch",
                root.wanted.asked.join(", "),
                reasons.len(),
                bytes(total)
            )?;
            let mut table = Table::new(["package", "version", "size", "reason"]);
            for (name, reason) in reasons.iter().filter(|(name, _)| is_shown(name)) {
                let one = &known[name];
                table.row([name.clone(), one.version.clone(), bytes(one.size), reason.clone()]);
            }
            writeln!(text, "{table}")?;
        }
    }
    print(&text)
}

/// Prints the images that were built of packages.
pub(crate) fn images(images: &[BuiltImage], layout: &Path, signed: &Signed, as_json: bool) -> Result<()> {
    if as_json {
        let value = json!({ "layout": layout, "images": images, "signed_by": signed.by() });
        return document("slipway.base-build/1", value);
    }
    let mut table = Table::new(["image", "version", "digest", "packages", "size", "unpacked"]);
    for image in images {
        table.row([
            image.name.clone(),
            image.version.clone(),
            image.image.to_string(),
            image.packages.to_string(),
            bytes(image.size),
            bytes(image.unpacked_size),
        ]);
    }
    print(&format!("{table}images in {}\n{signed}", layout.display()))
}
