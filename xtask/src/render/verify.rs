//! Whether an image is to be trusted, and keys.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use serde_json::json;
use stdx::Digest;
use supply::{Outcome, Verdict};

use super::{document, plain, print};
use crate::cmd::verify::Rebuilt;

/// Prints what was looked at and how it is.
pub(crate) fn verified(
    image: &Digest,
    verdict: &Verdict,
    rebuilt: Option<&Rebuilt>,
    as_json: bool,
) -> Result<()> {
    if as_json {
        let rebuilt = rebuilt.map(|rebuilt| {
            json!({ "revision": rebuilt.revision, "image": rebuilt.found, "same": rebuilt.is_same(), "differences": rebuilt.differences })
        });
        let good = verdict.is_good();
        let value = json!({ "image": image, "verified": good, "checks": verdict.checks, "rebuilt": rebuilt });
        return document("slipway.verify/1", value);
    }
    let mut text = format!("{image}\n");
    for check in &verdict.checks {
        let outcome = match check.outcome {
            Outcome::Ok => "ok",
            Outcome::Failed => "FAILED",
            Outcome::Missing => "MISSING",
        };
        writeln!(text, "  {:<14}  {outcome:<7}  {}", check.name, plain(&check.detail))?;
    }
    if let Some(rebuilt) = rebuilt {
        let outcome = if rebuilt.is_same() { "ok" } else { "DIFFERS" };
        writeln!(text, "  {:<14}  {outcome:<7}  {} gave {}", "rebuild", rebuilt.revision, rebuilt.found)?;
        for difference in &rebuilt.differences {
            writeln!(text, "    {}", plain(difference))?;
        }
    }
    print(&text)
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
