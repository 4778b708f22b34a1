//! What the documents only refer to: the secrets, read where they lie, and the variables that images set. It judges
//! nothing; what is missing or wrong is a finding of `target`.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use oci::Layout;
use release::Release;
use stdx::Digest;

use crate::environment::{EnvironmentFile, Value};
use crate::operation::Site;
use crate::platform::Platform;
use crate::target::{Facts, Secret};

/// Reads what the documents only refer to.
pub(crate) fn facts(
    site: &Site<'_>,
    platform: &dyn Platform,
    key: Vec<u8>,
    release: &Release,
    file: &EnvironmentFile,
) -> Result<Facts> {
    let mut facts = Facts { key, gateway: platform.gateway()?, ..Facts::default() };
    for (service, values) in &file.environment.services {
        for (variable, value) in &values.env {
            if let Some(secret) = read_secret(value) {
                facts.secrets.insert((service.clone(), variable.clone()), secret);
            }
        }
    }
    for (name, service) in &release.services {
        let variables = image_variables(site.layout, service.image);
        let variables = variables.or_else(|| slot_variables(platform, service.image));
        facts.image_env.insert(name.clone(), variables.unwrap_or_default());
    }
    Ok(facts)
}

fn read_secret(value: &Value) -> Option<Result<Secret, String>> {
    match value {
        Value::Literal(_) => None,
        Value::FromEnv { from_env } => Some(
            std::env::var(from_env)
                .map(Secret::new)
                .map_err(|_| format!("the variable {from_env} is not set where the deployment was started")),
        ),
        Value::FromFile { from_file } => Some(
            stdx::fs::read_to_string(from_file)
                .map(|text| Secret::new(text.strip_suffix('\n').unwrap_or(&text)))
                .map_err(|error| format!("{error:#}")),
        ),
    }
}

/// The names of the variables that the image sets; `None` where the image is not in the layout (any more).
fn image_variables(layout: &Path, image: Digest) -> Option<BTreeSet<String>> {
    let layout = Layout::open(layout).ok()?;
    let config: Digest = layout.manifest(&image).ok()?.config().digest().to_string().parse().ok()?;
    let config: serde_json::Value = serde_json::from_slice(&layout.document(&config).ok()?).ok()?;
    let variables = config["config"]["Env"].as_array().cloned().unwrap_or_default();
    let name = |variable: &serde_json::Value| Some(variable.as_str()?.split_once('=')?.0.to_owned());
    Some(variables.iter().filter_map(name).collect())
}

/// The same from a slot that was made from the image.
fn slot_variables(platform: &dyn Platform, image: Digest) -> Option<BTreeSet<String>> {
    let slots = platform.slots().ok()?.into_iter();
    let mut descriptions = slots.filter_map(|slot| platform.describe(&slot).ok()?);
    Some(descriptions.find(|description| description.image == image)?.variables)
}
