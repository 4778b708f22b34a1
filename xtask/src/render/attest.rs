//! Whether an image is to be trusted, and keys.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use stdx::Digest;
use supply::{Check, Outcome};

use super::verify::explained;
use super::{document, plain, print};
use crate::cmd::verify::{Judged, Rebuilt};

/// Prints what was looked at and how it is: of an index, then of each image.
pub(crate) fn verified(
    image: &Digest,
    is_good: bool,
    checks: &[Check],
    judged: &[Judged],
    as_json: bool,
) -> Result<()> {
    if as_json {
        let mut value = json!({ "image": image, "verified": is_good, "checks": checks, "platforms": [] });
        match judged {
            [one] if one.platform.is_none() => {
                value["checks"] = json!(one.verdict.checks);
                value["rebuilt"] = json!(one.rebuilt.as_ref().map(rebuilt));
            }
            several => value["platforms"] = several.iter().map(platform).collect(),
        }
        return document("slipway.verify/1", value);
    }
    let mut text = String::new();
    if !checks.is_empty() {
        writeln!(text, "{image} (index)")?;
        lines(&mut text, checks)?;
    }
    for one in judged {
        let platform = one.platform.as_ref().map(|platform| format!(" ({platform})")).unwrap_or_default();
        writeln!(text, "{}{platform}", one.image)?;
        lines(&mut text, &one.verdict.checks)?;
        let Some(rebuilt) = &one.rebuilt else { continue };
        let outcome = if rebuilt.is_same() { "ok" } else { "DIFFERS" };
        writeln!(text, "  {:<14}  {outcome:<7}  {} gave {}", "rebuild", rebuilt.revision, rebuilt.found)?;
        if let Some(difference) = &rebuilt.difference {
            let lines = explained(&rebuilt.service, difference);
            lines.lines().try_for_each(|line| writeln!(text, "    {}", plain(line)))?;
        }
        for other in &rebuilt.others {
            writeln!(text, "    {}", plain(other))?;
        }
    }
    print(&text)
}

fn lines(text: &mut String, checks: &[Check]) -> Result<()> {
    for check in checks {
        let outcome = match check.outcome {
            Outcome::Ok => "ok",
            Outcome::Failed => "FAILED",
            Outcome::Missing => "MISSING",
        };
        writeln!(text, "  {:<14}  {outcome:<7}  {}", check.name, plain(&check.detail))?;
    }
    Ok(())
}

fn platform(one: &Judged) -> Value {
    let Judged { platform, image, verdict, .. } = one;
    json!({ "platform": platform, "image": image, "checks": verdict.checks, "rebuilt": one.rebuilt.as_ref().map(rebuilt) })
}

fn rebuilt(rebuilt: &Rebuilt) -> Value {
    let Rebuilt { revision, found, difference, others, circumstances, .. } = rebuilt;
    json!({
        "revision": revision,
        "image": found,
        "same": rebuilt.is_same(),
        "difference": difference,
        "differences": others,
        "circumstances": circumstances,
    })
}

/// Prints where a new key pair is.
pub(crate) fn key(private: &Path, public: &Path, hint: &str, as_json: bool) -> Result<()> {
    if as_json {
        let value = json!({ "private": private.display().to_string(), "public": public.display().to_string(), "hint": hint });
        return document("slipway.key/1", value);
    }
    let (private, public) = (private.display(), public.display());
    print(&format!(
        "{private}  the private key: keep it secret, and a copy of it\n{public}  the public key: commit it\n\
         next: in slipway.yaml, `signing: {{ key: {{ file: {private} }}, public_key: {public} }}`\n"
    ))
}
