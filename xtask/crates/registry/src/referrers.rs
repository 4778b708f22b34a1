//! Which manifests are about another one: the list that the registry keeps, or else the fallback index under a tag.
//! Invariant: an entry that another writer made is never taken away, and the same entry is never there twice.
//!
//! Source: distribution-spec 1.1, "Listing Referrers" and "Unavailable Referrers API".

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use oci::Referrer;
use stdx::Digest;
use ureq::http::Method;

use crate::document::{Descriptor, Document, OCI_INDEX, index};
use crate::repository::{Access, Repository};

/// How often the list is looked at before a writer gives up.
const MAX_ROUNDS: u32 = 40;
/// Waits before the list is looked at again: longer than a writer that read before should need to write.
const MIN_SETTLE: Duration = Duration::from_millis(100);
const MAX_SETTLE: Duration = Duration::from_secs(2);
const MAX_PAGES: usize = 100;
const MAX_REFERRERS: usize = 10_000;
/// The error code of a missing repository.
const NAME_UNKNOWN: &[u8] = b"NAME_UNKNOWN";

impl Repository {
    /// What is attached to the manifest `subject`, in order of digests. Artifacts without content are left out.
    ///
    /// # Errors
    /// When a registry does not have what its list names.
    pub fn referrers(&self, subject: &Digest) -> Result<Vec<Referrer>> {
        let mut found = Vec::new();
        for entry in self.listed_referrers(subject)? {
            let manifest = self.manifest(&entry.digest.to_string())?;
            let manifest = manifest
                .with_context(|| format!("{} lists {} and does not have it", self.name, entry.digest))?;
            let document = Document::parse(&manifest.bytes)?;
            let is_about_subject = document.subject.as_ref().is_some_and(|one| one.digest == *subject);
            let Some(content) = document.layers.first().filter(|_| is_about_subject) else { continue };
            let size = manifest.bytes.len() as u64;
            let described = document.descriptor(entry.digest, size);
            found.push(Referrer {
                digest: entry.digest,
                size,
                artifact_type: described.artifact_type.unwrap_or_default(),
                annotations: document.annotations.clone().unwrap_or_default(),
                content: content.digest,
            });
        }
        Ok(found)
    }

    /// The entries of the list, by digest.
    pub(crate) fn listed_referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let listed = match self.api_referrers(subject)? {
            Some(listed) => listed,
            None => self.fallback_index(subject)?,
        };
        let mut listed: Vec<_> = listed;
        listed.sort_by_key(|entry| entry.digest);
        listed.dedup_by_key(|entry| entry.digest);
        Ok(listed)
    }

    /// What the registry's own list says; `None` where it keeps none.
    fn api_referrers(&self, subject: &Digest) -> Result<Option<Vec<Descriptor>>> {
        if self.shared.has_referrers_api.get() == Some(&false) {
            return Ok(None);
        }
        let scopes = self.scopes(Access::Pull);
        let mut found = Vec::new();
        let mut next = Some(format!("/v2/{}/referrers/{subject}", self.name));
        for page in 0.. {
            let Some(url) = next else { break };
            ensure!(page < MAX_PAGES, "the list of referrers of {subject} has no end");
            let mut call = self.call(Method::GET, url, &scopes);
            call.headers.push(("accept", OCI_INDEX.to_owned()));
            let answer = self.client().send(&call)?;
            if page == 0 && matches!(answer.status.as_u16(), 404 | 405) {
                // Of a repository that is not there nobody learns what the registry has.
                if !answer.body.windows(NAME_UNKNOWN.len()).any(|part| part == NAME_UNKNOWN) {
                    let _ = self.shared.has_referrers_api.set(false);
                }
                return Ok(None);
            }
            let answer = answer.expect(&call, &[200])?;
            let document = self.index_of(&answer).context("the list of referrers is damaged")?;
            found.extend_from_slice(document.children());
            ensure!(
                found.len() <= MAX_REFERRERS,
                "more than {MAX_REFERRERS} referrers of {subject} are listed"
            );
            next = self.next_page(&answer)?;
        }
        let _ = self.shared.has_referrers_api.set(true);
        Ok(Some(found))
    }

    fn fallback_index(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let Some(manifest) = self.manifest(&fallback_tag(subject))? else { return Ok(Vec::new()) };
        ensure!(manifest.media_type == OCI_INDEX, "{} is not an index of referrers", fallback_tag(subject));
        Ok(Document::parse(&manifest.bytes)?.children().to_vec())
    }

    /// Sees to it that the list of `subject` has these entries.
    ///
    /// A registry without the API has no way to change a tag only if nobody else did: two writers can overwrite each other. So each
    /// looks again after it wrote, later than any other that read before could still be writing, and repeats what was lost.
    pub(crate) fn list_referrers(&self, subject: &Digest, entries: &[Descriptor]) -> Result<()> {
        if self.api_referrers(subject)?.is_some() {
            return Ok(());
        }
        let mut written = None;
        for round in 1..=MAX_ROUNDS {
            let begun = Instant::now();
            let listed = self.fallback_index(subject)?;
            match with_entries(listed.clone(), entries) {
                // Nobody else wrote since: whoever read before has written by now.
                None if written.as_ref().is_none_or(|written| *written == listed) => return Ok(()),
                None => written = Some(listed),
                Some(wanted) => {
                    if written.is_some() {
                        // Writers that lost at the same moment would only lose again together.
                        self.wait(round);
                        written = None;
                        continue;
                    }
                    self.store_manifest(&fallback_tag(subject), OCI_INDEX, &index(&wanted)?)?;
                    written = Some(wanted);
                }
            }
            std::thread::sleep((begun.elapsed() * 3).clamp(MIN_SETTLE, MAX_SETTLE));
        }
        bail!("other writers overwrite the list of referrers of {subject} again and again; try once more")
    }
}

/// Where the fallback index of a subject is.
fn fallback_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// The list with the entries in it, or `None` where it has them already as they should be.
fn with_entries(mut listed: Vec<Descriptor>, entries: &[Descriptor]) -> Option<Vec<Descriptor>> {
    let before = listed.clone();
    for entry in entries {
        match listed.iter_mut().find(|one| one.digest == entry.digest) {
            Some(one) => *one = entry.clone(),
            None => listed.push(entry.clone()),
        }
    }
    (listed != before).then_some(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(content: &str, artifact_type: Option<&str>) -> Descriptor {
        Descriptor {
            media_type: "m".into(),
            digest: Digest::of(content),
            size: 1,
            artifact_type: artifact_type.map(str::to_owned),
            annotations: None,
            urls: Vec::new(),
            rest: Default::default(),
        }
    }

    #[test]
    fn entries_are_added_once_and_mended_and_none_is_taken_away() {
        let (other, poor, good) = (entry("o", Some("x")), entry("g", None), entry("g", Some("t")));
        let add = |listed: &[Descriptor]| with_entries(listed.to_vec(), std::slice::from_ref(&good));
        assert_eq!(add(&[]), Some(vec![good.clone()]));
        assert_eq!(add(std::slice::from_ref(&other)), Some(vec![other.clone(), good.clone()]));
        assert_eq!(add(&[poor, other.clone()]), Some(vec![good.clone(), other.clone()]));
        assert_eq!(add(&[other, good.clone()]), None);
    }

    #[test]
    fn the_fallback_tag_is_the_specifications() {
        let tag = fallback_tag(&Digest::of("abc"));
        assert_eq!(tag, "sha256-ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
