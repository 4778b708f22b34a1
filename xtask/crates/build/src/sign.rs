//! Signing what was built: four statements about each image, attached to it and kept beside the layout. The same image and key
//! give the same bytes, and what is signed already is left alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use oci::Layout;
use serde_json::json;
use stdx::Digest;
use supply::{BUNDLE, SigningKey, Statement, Subject, predicate};

use crate::documents::{Described, Document};
use crate::platforms::PlatformsReport;
use crate::report::BuiltService;

/// Annotations by which cosign finds what it looks for.
///
/// Source: cosign 3, `pkg/oci/remote`, "bundle as referrer".
const CONTENT: &str = "dev.sigstore.bundle.content";
const PREDICATE_TYPE: &str = "dev.sigstore.bundle.predicateType";

/// Signs `images` of the layout in that folder. `folder` is where [`crate::output_folder`] says.
pub fn sign(
    layout: &Path,
    images: impl IntoIterator<Item = Described>,
    folder: &Path,
    key: &SigningKey,
) -> Result<()> {
    let layout = Layout::open(layout)?;
    let hint = key.public().hint()?;
    for image in images {
        let record = folder.join("signatures").join(format!("{}.json", stem(&image)));
        let signed = json!({ "schema": "slipway.signed/1", "key": hint, "image": image.image,
            "documents": [image.provenance.digest, image.cyclonedx.digest, image.spdx.digest] });
        let signed = stdx::json::canonical(&signed)?;
        if stdx::fs::read_if_exists(&record)?.is_some_and(|known| known == signed)
            && is_attached(&image, &layout)?
        {
            continue;
        }
        for (kind, statement) in statements(&image)? {
            let bundle = attach(&statement, &image.image, key, &layout)?;
            stdx::fs::write_atomic(&signature(folder, &stem(&image), kind), &bundle, 0o644)?;
        }
        stdx::fs::write_atomic(&record, &signed, 0o644)?;
    }
    Ok(())
}

/// Signs the images of all platforms, and the indexes that list them.
pub fn sign_platforms(report: &PlatformsReport, folder: &Path, key: &SigningKey) -> Result<()> {
    for report in report.platforms.values() {
        sign(&report.layout, report.services.iter().map(BuiltService::described), folder, key)?;
    }
    let Some(one) = report.platforms.values().next() else { return Ok(()) };
    let layout = Layout::open(&one.layout)?;
    for index in &report.indexes {
        let bundle = attach(&meant(&index.name, &index.index), &index.index, key, &layout)?;
        stdx::fs::write_atomic(&signature(folder, &index.name, "index"), &bundle, 0o644)?;
    }
    Ok(())
}

/// The bundle of the statement, attached to what it is about.
fn attach(statement: &Statement, subject: &Digest, key: &SigningKey, layout: &Layout) -> Result<Vec<u8>> {
    let bundle = supply::sign(statement, key)?;
    let annotations = BTreeMap::from([
        (CONTENT.to_owned(), "dsse-envelope".to_owned()),
        (PREDICATE_TYPE.to_owned(), statement.predicate_type.clone()),
    ]);
    layout.attach(subject, BUNDLE, &bundle, annotations)?;
    Ok(bundle)
}

/// How files about the image of one platform are called.
fn stem(image: &Described) -> String {
    let stem = image.provenance.path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    stem.unwrap_or_else(|| image.name.clone())
}

/// Where the bundle of a kind lies.
fn signature(folder: &Path, stem: &str, kind: &str) -> PathBuf {
    folder.join("signatures").join(format!("{stem}.{kind}.sigstore.json"))
}

/// That the image is meant to be.
fn meant(name: &str, image: &Digest) -> Statement {
    Statement {
        subjects: vec![Subject { name: name.to_owned(), digest: *image }],
        predicate_type: predicate::SIGNATURE.to_owned(),
        predicate: json!({}),
    }
}

/// The image itself, how it was built, and what it consists of.
fn statements(image: &Described) -> Result<[(&'static str, Statement); 4]> {
    let read = |document: &Document| {
        let bytes = stdx::fs::read(&document.path)?;
        let is_same = Digest::of(&bytes) == document.digest;
        anyhow::ensure!(is_same, "{} was changed since the build", document.path.display());
        Ok(bytes)
    };
    let about = |predicate_type: &str, document: &Document| {
        let predicate = serde_json::from_slice(&read(document)?);
        anyhow::Ok(Statement {
            subjects: vec![Subject { name: image.name.clone(), digest: image.image }],
            predicate_type: predicate_type.to_owned(),
            predicate: predicate.with_context(|| format!("{} is damaged", document.path.display()))?,
        })
    };
    Ok([
        ("image", meant(&image.name, &image.image)),
        ("provenance", Statement::parse(&read(&image.provenance)?)?),
        ("cyclonedx", about(predicate::CYCLONEDX, &image.cyclonedx)?),
        ("spdx", about(predicate::SPDX, &image.spdx)?),
    ])
}

/// Whether the layout still holds a bundle for each statement.
fn is_attached(image: &Described, layout: &Layout) -> Result<bool> {
    let bundles = layout.referrers(&image.image)?.into_iter().filter(|one| one.artifact_type == BUNDLE);
    Ok(bundles.filter(|one| layout.blob_path(&one.content).is_file()).count() >= 4)
}
