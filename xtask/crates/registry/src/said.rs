//! What is attached to an image already in other bytes: the same statement, signed once more, is another document, and a reader would
//! find it twice. What a document says is for others to know; here what says the same is not sent again.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::Result;
use oci::Layout;
use stdx::Digest;

use crate::document::{Descriptor, Document};
use crate::push::Node;
use crate::repository::Repository;

/// With more than this attached to one image, nobody looks what all of it says.
const MOST_LOOKED_AT: usize = 200;
/// Documents that are longer are told apart by their bytes.
const MAX_CONTENT: u64 = 32 * 1024 * 1024;

/// Tells what a document says, whatever its bytes are.
pub trait Says: fmt::Debug + Sync {
    /// Equal for documents of one type that say the same; `None` where only the bytes tell.
    fn says(&self, artifact_type: &str, content: &[u8]) -> Option<Digest>;
}

/// Only the bytes of a document tell what it says.
#[derive(Debug, Clone, Copy)]
pub struct ByContent;

impl Says for ByContent {
    fn says(&self, _: &str, _: &[u8]) -> Option<Digest> {
        None
    }
}

/// What a document is and says.
type Saying = (String, Digest);

/// Takes those referrers off `node`, and off what is below it, that say what the repository has attached there already.
pub(crate) fn leave_out(
    repository: &Repository,
    layout: &Layout,
    node: &mut Node,
    says: &dyn Says,
) -> Result<()> {
    for child in &mut node.children {
        leave_out(repository, layout, child, says)?;
    }
    if node.referrers.is_empty() {
        return Ok(());
    }
    let listed = repository.listed_referrers(&node.digest)?;
    let is_own = |entry: &Descriptor| node.referrers.iter().any(|one| one.digest == entry.digest);
    let others: Vec<&Descriptor> = listed.iter().filter(|entry| !is_own(entry)).collect();
    if others.is_empty() || others.len() > MOST_LOOKED_AT {
        return Ok(());
    }
    // What cannot be read says nothing.
    let there: BTreeSet<Saying> =
        others.iter().filter_map(|entry| said_there(repository, entry, says).ok()?).collect();
    node.referrers.retain(|referrer| {
        let is_listed = listed.iter().any(|entry| entry.digest == referrer.digest);
        let content = |blob: &Descriptor| stdx::fs::read(&layout.blob_path(&blob.digest));
        is_listed
            || !said(&referrer.document, says, content)
                .is_ok_and(|one| one.is_some_and(|one| there.contains(&one)))
    });
    Ok(())
}

fn said_there(repository: &Repository, entry: &Descriptor, says: &dyn Says) -> Result<Option<Saying>> {
    let Some(manifest) = repository.manifest(&entry.digest.to_string())? else { return Ok(None) };
    let document = Document::parse(&manifest.bytes)?;
    said(&document, says, |blob| {
        let mut content = Vec::new();
        repository.read_blob(&blob.digest, blob.size, &mut content)?;
        Ok(content)
    })
}

/// What an artifact of one document says.
fn said(
    document: &Document,
    says: &dyn Says,
    content: impl Fn(&Descriptor) -> Result<Vec<u8>>,
) -> Result<Option<Saying>> {
    let (Some(artifact_type), [blob]) = (&document.artifact_type, &document.layers[..]) else {
        return Ok(None);
    };
    let known = if blob.size <= MAX_CONTENT { says.says(artifact_type, &content(blob)?) } else { None };
    Ok(Some((artifact_type.clone(), known.unwrap_or(blob.digest))))
}
