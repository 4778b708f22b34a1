//! What users see of pushes and pulls: a bar of bytes on a terminal, images by digest on standard output.

use std::io::{IsTerminal, stderr};
use std::path::Path;

use ::registry::{Plan, Pushed, Reference, Transfer};
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::table::Table;
use super::{bytes, document, print, seconds};

/// Shows how much was moved: a bar where standard error is a terminal, else a line for each blob.
pub(crate) struct TransferProgress {
    bar: Option<ProgressBar>,
}

/// An image that a registry has now.
pub(crate) struct PushedImage {
    pub(crate) service: String,
    /// Without a tag.
    pub(crate) reference: Reference,
    pub(crate) tags: Vec<String>,
    pub(crate) pushed: Pushed,
    pub(crate) elapsed_ms: u64,
}

/// An image that would be sent.
pub(crate) struct PlannedPush {
    pub(crate) service: String,
    /// Without a tag.
    pub(crate) reference: Reference,
    pub(crate) tags: Vec<String>,
    pub(crate) plan: Plan,
}

impl TransferProgress {
    pub(crate) fn new() -> TransferProgress {
        let bar = stderr().is_terminal().then(|| ProgressBar::new(0));
        let style =
            ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec}  {wide_msg}");
        if let (Some(bar), Ok(style)) = (&bar, style) {
            bar.set_style(style);
        }
        TransferProgress { bar }
    }

    /// Begins with another image.
    pub(crate) fn begin(&self, name: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(0);
                bar.set_position(0);
                bar.set_message(name.to_owned());
            }
            None => eprintln!("{name}"),
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl ::registry::Progress for TransferProgress {
    fn announced(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc_length(bytes);
        }
    }

    fn moved(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    fn done(&self, what: &str) {
        if self.bar.is_none() {
            eprintln!("  {what}");
        }
    }
}

/// Prints what was sent: each image by its digest; how much it was goes to standard error.
pub(crate) fn pushed(images: &[PushedImage], as_json: bool) -> Result<()> {
    if as_json {
        let images: Vec<Value> = images.iter().map(PushedImage::to_json).collect();
        return document("slipway.push/1", json!({ "images": images }));
    }
    for image in images {
        eprintln!("{}: {}", image.service, image.summary());
    }
    print(&images.iter().map(|image| format!("{}\n", image.reference)).collect::<String>())
}

/// Prints what would be sent.
pub(crate) fn push_plan(images: &[PlannedPush], as_json: bool) -> Result<()> {
    if as_json {
        let images: Vec<Value> = images.iter().map(PlannedPush::to_json).collect();
        return document("slipway.push-plan/1", json!({ "images": images }));
    }
    let mut table = Table::new(["image", "blob", "size", "action"]);
    for image in images {
        for blob in &image.plan.blobs {
            let action = if image.plan.is_unchanged { "there" } else { word(blob.transfer) };
            table.row([image.service.clone(), blob.digest.short(), bytes(blob.size), action.to_owned()]);
        }
    }
    let line = |image: &PlannedPush| {
        let state = if image.plan.is_unchanged {
            "unchanged".to_owned()
        } else {
            format!("{} to send", bytes(image.size()))
        };
        format!("{} as {}: {state}\n", image.reference, image.tags.join(", "))
    };
    print(&format!("{table}{}", images.iter().map(line).collect::<String>()))
}

/// Prints where the image is now.
pub(crate) fn pulled(image: &Reference, layout: &Path, as_json: bool) -> Result<()> {
    if as_json {
        let digest = image.digest;
        return document(
            "slipway.pull/1",
            json!({ "reference": image.to_string(), "digest": digest, "layout": layout }),
        );
    }
    eprintln!("in the layout {}", layout.display());
    print(&format!("{image}\n"))
}

fn word(transfer: Transfer) -> &'static str {
    match transfer {
        Transfer::Present => "there",
        Transfer::Mounted => "mount",
        Transfer::Sent => "send",
    }
}

impl PushedImage {
    fn summary(&self) -> String {
        let Pushed { sent_bytes, mounted_bytes, present_bytes, referrers, .. } = &self.pushed;
        let mut text =
            if *sent_bytes == 0 { "nothing sent".to_owned() } else { format!("{} sent", bytes(*sent_bytes)) };
        for (count, word) in [(*mounted_bytes, "mounted"), (*present_bytes, "there already")] {
            if count > 0 {
                text.push_str(&format!(", {} {word}", bytes(count)));
            }
        }
        if *referrers > 0 {
            text.push_str(&format!(", {referrers} attached"));
        }
        format!("{text}; tagged {} ({} s)", self.tags.join(", "), seconds(self.elapsed_ms))
    }

    fn to_json(&self) -> Value {
        let pushed = &self.pushed;
        json!({
            "service": self.service,
            "reference": self.reference.to_string(),
            "digest": pushed.digest,
            "tags": self.tags,
            "sent": pushed.sent,
            "sent_bytes": pushed.sent_bytes,
            "mounted": pushed.mounted,
            "mounted_bytes": pushed.mounted_bytes,
            "present": pushed.present,
            "present_bytes": pushed.present_bytes,
            "referrers": pushed.referrers,
            "requests": pushed.requests,
            "elapsed_ms": self.elapsed_ms,
        })
    }
}

impl PlannedPush {
    /// Bytes of blobs that would be sent.
    fn size(&self) -> u64 {
        self.plan.blobs.iter().filter(|blob| blob.transfer == Transfer::Sent).map(|blob| blob.size).sum()
    }

    fn to_json(&self) -> Value {
        let blob = |blob: &::registry::PlannedBlob| json!({ "digest": blob.digest, "size": blob.size, "action": word(blob.transfer) });
        json!({
            "service": self.service,
            "reference": self.reference.to_string(),
            "tags": self.tags,
            "unchanged": self.plan.is_unchanged,
            "blobs": self.plan.blobs.iter().map(blob).collect::<Vec<_>>(),
        })
    }
}
