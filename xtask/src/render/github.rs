//! What was told to GitHub, or would be.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use super::{document, print};

const SCHEMA: &str = "slipway.github/1";

/// Prints the response of `slipway-github` to a request that it carried out, or planned.
pub(crate) fn github(response: &Value, is_dry_run: bool, as_json: bool) -> Result<()> {
    if as_json {
        return document(SCHEMA, response.clone());
    }
    let done = &response["done"];
    let text = |name: &str| done[name].as_str().unwrap_or_default();
    for note in done["notes"].as_array().into_iter().flatten() {
        eprintln!("note: {}", note.as_str().unwrap_or_default());
    }
    let requests = done["requests"].as_array().map_or(&[][..], Vec::as_slice);
    if !is_dry_run {
        let id = done["id"].as_u64().map_or(String::new(), |id| format!(" {id}"));
        let sent = match requests.len() {
            1 => "1 request".to_owned(),
            count => format!("{count} requests"),
        };
        let line = format!("{}{id} {} ({sent}) {}", text("thing"), text("outcome"), text("url"));
        return print(&format!("{}\n", line.trim_end()));
    }
    let mut shown = String::new();
    if done["observed"] == false {
        writeln!(shown, "without a token nothing is known of the repository; if it had none of this:")?;
    }
    for request in requests {
        let text = |name: &str| request[name].as_str().unwrap_or_default();
        writeln!(shown, "{} {}", text("method"), text("target"))?;
        for part in ["body", "file"].iter().filter(|part| !request[**part].is_null()) {
            writeln!(shown, "{}", serde_json::to_string_pretty(&request[*part])?)?;
        }
    }
    if requests.is_empty() {
        writeln!(shown, "nothing to do: the {} is as wanted", text("thing"))?;
    }
    print(&shown)
}

/// Says why nothing was done.
pub(crate) fn github_skipped(why: &str, as_json: bool) -> Result<()> {
    eprintln!("notice: nothing told to GitHub: {why}");
    if as_json {
        return document(SCHEMA, json!({ "skipped": why }));
    }
    Ok(())
}
