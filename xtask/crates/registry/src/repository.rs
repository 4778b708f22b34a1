//! A registry and its repositories: manifests, tags and the way to ask for them. Blobs and referrers are in files of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use stdx::Digest;
use ureq::http::Method;

use crate::auth::{Purpose, Scopes};
use crate::client::{Answer, Call, Client, Payload};
use crate::document::{ACCEPTED, Document, MAX_DOCUMENT, OCI_INDEX};
use crate::link;
use crate::options::Options;
use crate::reference::is_host_name;

/// Pages and names of a list of tags; a registry that has more is asked in vain.
const MAX_PAGES: usize = 1000;
const MAX_TAGS: usize = 1_000_000;

/// A registry: what is known of it is shared by all its repositories.
#[derive(Clone)]
pub struct Registry {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) client: Client,
    /// Whether the registry has the referrers API; unknown before it was asked.
    pub(crate) has_referrers_api: OnceLock<bool>,
    /// Repositories in which a blob was seen or put: from there it can be mounted.
    places: Mutex<BTreeMap<Digest, BTreeSet<String>>>,
}

/// A repository of a registry.
#[derive(Clone)]
pub struct Repository {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: String,
}

/// A manifest or an index as a registry holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its very bytes.
    pub bytes: Vec<u8>,
    /// What the registry says that it is.
    pub media_type: String,
    /// Of the bytes.
    pub digest: Digest,
}

/// What a request wants to do with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Pull,
    Push,
    Delete,
}

impl Registry {
    /// The registry at `host`, with credentials and certificates as Docker finds them on this machine. No request is made yet.
    ///
    /// # Errors
    /// When `host` is not a host, or a certificate for it cannot be read.
    pub fn connect(host: &str) -> Result<Registry> {
        Registry::connect_with(host, Options::from_env())
    }

    /// The same with other surroundings.
    pub fn connect_with(host: &str, options: Options) -> Result<Registry> {
        ensure!(is_host_name(host), "`{host}` is not a host with an optional port");
        let client = Client::new(host, options)?;
        let shared = Shared { client, has_referrers_api: OnceLock::new(), places: Mutex::default() };
        Ok(Registry { shared: Arc::new(shared) })
    }

    /// A repository by its name, such as `team/api`. No request is made yet.
    pub fn repository(&self, name: &str) -> Repository {
        Repository { shared: Arc::clone(&self.shared), name: name.to_owned() }
    }

    /// Host and port.
    pub fn host(&self) -> &str {
        self.shared.client.host()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.host()).finish()
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Repository").field(&format!("{}/{}", self.client().host(), self.name)).finish()
    }
}

impl Shared {
    fn places(&self) -> MutexGuard<'_, BTreeMap<Digest, BTreeSet<String>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Repository {
    /// The manifest of this tag or digest; `None` where there is none.
    ///
    /// # Errors
    /// When what the registry sends is not the manifest of that digest, or no manifest at all.
    pub fn manifest(&self, tag_or_digest: &str) -> Result<Option<Manifest>> {
        let scopes = self.scopes(Access::Pull);
        let call = self.call(Method::GET, self.manifest_path(tag_or_digest), &scopes).with_accept(ACCEPTED);
        let answer = self.client().send(&call)?;
        if answer.status == 404 {
            return Ok(None);
        }
        let answer = answer.expect(&call, &[200])?;
        let manifest = self.checked(answer, tag_or_digest);
        manifest
            .map(Some)
            .with_context(|| format!("{}/{} at {tag_or_digest}", self.client().host(), self.name))
    }

    fn checked(&self, answer: Answer, tag_or_digest: &str) -> Result<Manifest> {
        let digest = Digest::of(&answer.body);
        if let Ok(wanted) = tag_or_digest.parse::<Digest>() {
            ensure!(digest == wanted, "the registry sends a manifest with the digest {digest}");
        }
        if let Some(said) =
            answer.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok())
        {
            ensure!(digest == said, "the registry says {said} and sends a manifest with the digest {digest}");
        }
        let document = Document::parse(&answer.body)?;
        let said =
            answer.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let media_type = if said.is_empty() { document.media_type() } else { said };
        ensure!(
            ACCEPTED.contains(&media_type) && media_type == document.media_type(),
            "the registry calls it `{said}`, and it is `{}`",
            document.media_type()
        );
        Ok(Manifest { media_type: media_type.to_owned(), digest, bytes: answer.body })
    }

    /// The digest that the tag stands for, as the registry says; `None` where there is none, or where it does not say.
    pub(crate) fn digest(&self, tag_or_digest: &str) -> Result<Option<Digest>> {
        let scopes = self.scopes(Access::Pull);
        let call = self.call(Method::HEAD, self.manifest_path(tag_or_digest), &scopes).with_accept(ACCEPTED);
        let answer = self.client().send(&call)?;
        if answer.status == 404 {
            return Ok(None);
        }
        let answer = answer.expect(&call, &[200])?;
        Ok(answer.header("docker-content-digest").and_then(|text| text.parse().ok()))
    }

    /// Stores a manifest under a tag or its own digest. One that has a subject becomes a referrer of it, also where the registry
    /// keeps no list of them.
    ///
    /// # Errors
    /// When the registry does not have what the manifest names, or a digest is given and it is another one's.
    pub fn put_manifest(&self, tag_or_digest: &str, media_type: &str, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        let is_listed = self.store_manifest(tag_or_digest, media_type, bytes)?;
        let document = Document::parse(bytes).ok();
        if let Some(document) = document.filter(|_| !is_listed)
            && let Some(subject) = &document.subject
        {
            let entry = document.descriptor(digest, bytes.len() as u64);
            self.list_referrers(&subject.digest, std::slice::from_ref(&entry))?;
        }
        Ok(digest)
    }

    /// Stores a manifest; `true` where the registry says that it took note of the subject.
    pub(crate) fn store_manifest(&self, tag_or_digest: &str, media_type: &str, bytes: &[u8]) -> Result<bool> {
        let digest = Digest::of(bytes);
        if let Ok(given) = tag_or_digest.parse::<Digest>() {
            ensure!(given == digest, "a manifest with the digest {digest} cannot be stored as {given}");
        }
        let scopes = self.scopes(Access::Push);
        let mut call = self.call(Method::PUT, self.manifest_path(tag_or_digest), &scopes);
        call.headers.push(("content-type", media_type.to_owned()));
        call.payload = Payload::Bytes(bytes);
        let answer = self.client().send(&call)?.expect(&call, &[200, 201, 202])?;
        if let Some(said) =
            answer.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok())
        {
            ensure!(said == digest, "the registry stored {said} in place of {digest}");
        }
        Ok(answer.headers.contains_key("oci-subject"))
    }

    /// Removes a manifest. One that is not there is no error.
    ///
    /// # Errors
    /// When the registry does not allow it, as many do.
    pub fn delete_manifest(&self, digest: &Digest) -> Result<()> {
        let scopes = self.scopes(Access::Delete);
        let call = self.call(Method::DELETE, self.manifest_path(&digest.to_string()), &scopes);
        self.client().send(&call)?.expect(&call, &[200, 202, 404]).map(drop)
    }

    /// All tags, sorted; none where there is no such repository.
    pub fn tags(&self) -> Result<Vec<String>> {
        #[derive(serde::Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let scopes = self.scopes(Access::Pull);
        let mut found = BTreeSet::new();
        let mut next = Some(format!("/v2/{}/tags/list", self.name));
        let mut pages = 0;
        while let Some(url) = next {
            let call = self.call(Method::GET, url, &scopes);
            let answer = self.client().send(&call)?;
            if answer.status == 404 && pages == 0 {
                return Ok(Vec::new());
            }
            let answer = answer.expect(&call, &[200])?;
            let page: Page = serde_json::from_slice(&answer.body).context("the list of tags is damaged")?;
            found.extend(page.tags.unwrap_or_default());
            pages += 1;
            if pages > MAX_PAGES || found.len() > MAX_TAGS {
                bail!("the list of tags of {} has no end", self.name);
            }
            next = self.next_page(&answer)?;
        }
        Ok(found.into_iter().collect())
    }

    /// Where a list goes on: on the same registry only.
    pub(crate) fn next_page(&self, answer: &Answer) -> Result<Option<String>> {
        let Some(target) = answer.header("link").and_then(link::next) else { return Ok(None) };
        let url = link::resolve(&answer.url, target);
        ensure!(
            url.starts_with(&format!("{}/", self.client().base()?)),
            "a list goes on at another host: {url}"
        );
        Ok(Some(url))
    }

    /// A page of an index of referrers.
    pub(crate) fn index_of(&self, answer: &Answer) -> Result<Document> {
        let document = Document::parse(&answer.body)?;
        ensure!(document.media_type() == OCI_INDEX, "a list of referrers is an index");
        Ok(document)
    }

    pub(crate) fn client(&self) -> &Client {
        &self.shared.client
    }

    /// A request for a path of this registry that may be repeated.
    pub(crate) fn call<'a>(&'a self, method: Method, url: String, scopes: &'a Scopes) -> Call<'a> {
        Call {
            method,
            url,
            headers: Vec::new(),
            payload: Payload::Nothing,
            purpose: Purpose { repository: &self.name, scopes },
            limit: MAX_DOCUMENT,
            is_repeatable: true,
        }
    }

    pub(crate) fn scopes(&self, access: Access) -> Scopes {
        let actions = match access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
            Access::Delete => "delete,pull",
        };
        vec![format!("repository:{}:{actions}", self.name)]
    }

    fn manifest_path(&self, tag_or_digest: &str) -> String {
        format!("/v2/{}/manifests/{tag_or_digest}", self.name)
    }

    /// Takes note that this repository has the blob.
    pub(crate) fn note(&self, digest: &Digest) {
        self.shared.places().entry(*digest).or_default().insert(self.name.clone());
    }

    /// What was known of the blob in this repository does not hold any more.
    pub(crate) fn forget(&self, digest: &Digest) {
        if let Some(places) = self.shared.places().get_mut(digest) {
            places.remove(&self.name);
        }
    }

    /// Another repository of this registry that has the blob, as far as is known.
    pub(crate) fn place_of(&self, digest: &Digest) -> Option<String> {
        self.shared.places().get(digest)?.iter().find(|place| **place != self.name).cloned()
    }

    /// Whether this repository is known to have the blob.
    pub(crate) fn is_noted(&self, digest: &Digest) -> bool {
        self.shared.places().get(digest).is_some_and(|places| places.contains(&self.name))
    }
}

impl Call<'_> {
    fn with_accept(mut self, media_types: &[&str]) -> Self {
        self.headers.push(("accept", media_types.join(", ")));
        self
    }
}
