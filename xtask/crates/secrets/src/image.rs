//! Built images: every file of every layer, those that a later layer removes or replaces included, because whoever has the image
//! has its layers; and the environment and labels of its configuration.

use std::io::Read;

use anyhow::{Context, Result};
use finding::{Finding, Place};
use oci::Layout;
use serde_json::Value;
use stdx::Digest;

use crate::report::partly_scanned_note;
use crate::{Options, pool, report};

/// The secrets in the image of `service` with the manifest digest `image`.
///
/// # Errors
/// When a blob is missing or damaged, when a layer cannot be read, or when it was interrupted.
pub fn image(layout: &Layout, image: Digest, service: &str, options: &Options<'_>) -> Result<Vec<Finding>> {
    let mut found = configuration(layout, image, service)?;
    oci::visit_files(layout, image, |file, content| {
        options.check()?;
        let place = || Place::Image { service: service.to_owned(), path: Some(file.path.clone()) };
        let most = options.most_bytes_per_file;
        let mut bytes = Vec::new();
        content.take(most).read_to_end(&mut bytes)?;
        found.extend(report::findings(&file.path, &bytes, |_, _| place()));
        if file.size > most {
            found.push(partly_scanned_note(place(), most, file.size));
        }
        Ok(())
    })?;
    pool::sort(&mut found);
    Ok(found)
}

/// Environment and labels read as if they stood in an `.env` file.
fn configuration(layout: &Layout, image: Digest, service: &str) -> Result<Vec<Finding>> {
    let document = layout.document(&layout.config(&image)?)?;
    let document: Value = serde_json::from_slice(&document)
        .with_context(|| format!("the configuration of {image} is not JSON"))?;
    let run = &document["config"];
    let environment =
        run["Env"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    let labels = run["Labels"].as_object().into_iter().flatten();
    let labels = labels.filter_map(|(name, value)| Some(format!("{name}={}", value.as_str()?)));
    let history = document["history"].as_array().into_iter().flatten();
    let history = history.filter_map(|step| step["created_by"].as_str()).map(str::to_owned);
    let text = environment.chain(labels).chain(history).collect::<Vec<_>>().join("\n");
    let place = |_, _| Place::Image { service: service.to_owned(), path: None };
    Ok(report::findings(".env", text.as_bytes(), place))
}
