//! Images that an engine has: looking, naming, removing, and fetching from a registry by digest.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};
use futures_util::StreamExt;
use stdx::Digest;

use crate::Labels;
use crate::engine::{Engine, QUICK, SLOW, check_reference};
use crate::error::{Error, Result, found};

/// What fetching an image may take in all; the engine goes on by itself when a layer fails.
const PULL: Duration = Duration::from_secs(30 * 60);
/// How many questions are under way at once: an engine far away answers each after a round trip.
const AT_ONCE: usize = 8;

/// An image that an engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// By which it is known there: `sha256:…`.
    pub id: String,
    /// Names that stand for it: `api:1.0`.
    pub references: Vec<String>,
    /// Names with a digest, by which it was fetched.
    pub digests: Vec<String>,
    /// Digests of its layers' archives, the lowest first.
    pub layers: Vec<Digest>,
    /// As who it runs: `uid:gid`, a name, or nothing.
    pub user: String,
    /// Of its configuration.
    pub labels: Labels,
    /// Processor, in Go's words.
    pub architecture: String,
    /// What it takes on disk; layers that others have are counted, too.
    pub bytes: u64,
}

/// What a registry asks for. It goes to the engine, which asks the registry.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryLogin {
    /// Name of the account.
    pub username: String,
    /// Its password or token.
    pub password: String,
}

impl fmt::Debug for RegistryLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegistryLogin({}, …)", self.username)
    }
}

impl Engine {
    /// The image of this id or name, or `None` where there is none.
    ///
    /// # Errors
    /// When the engine does not tell.
    pub fn image(&self, reference: &str) -> Result<Option<Image>> {
        let what = format!("look at the image {reference}");
        check_reference(&what, reference)?;
        let image = found(self.call(&what, QUICK, self.docker().inspect_image(reference)))?;
        Ok(image.map(|image| read(image, reference)))
    }

    /// All images that have these labels, in order of ids; all images where there are none. Those without a name are among them.
    ///
    /// # Errors
    /// When the engine does not tell.
    pub fn images(&self, labels: &Labels) -> Result<Vec<Image>> {
        let what = "list images";
        let options = ListImagesOptionsBuilder::default().all(true).filters(&by_labels(labels)).build();
        let listed = self.call(what, QUICK, self.docker().list_images(Some(options)))?;
        let asked = listed.into_iter().map(|image| {
            let docker = self.docker().clone();
            async move {
                let found = docker.inspect_image(&image.id).await;
                (image.id, found)
            }
        });
        let answers: Vec<_> = self.wait(what, Some(SLOW), async {
            Ok(futures_util::stream::iter(asked).buffer_unordered(AT_ONCE).collect().await)
        })?;
        let mut images = Vec::new();
        for (id, answer) in answers {
            // One that was removed meanwhile is none.
            images.extend(
                found(answer.map_err(|error| self.told(what, &error)))?.map(|image| read(image, &id)),
            );
        }
        images.sort_by(|a: &Image, b: &Image| a.id.cmp(&b.id));
        images.dedup_by(|a, b| a.id == b.id);
        Ok(images)
    }

    /// Lets `reference` (`name:tag`) stand for the image, as the only one.
    ///
    /// # Errors
    /// When there is no such image.
    pub fn tag_image(&self, id: &str, reference: &str) -> Result<()> {
        let what = format!("name the image {id} {reference}");
        check_reference(&what, id)?;
        check_reference(&what, reference)?;
        let (repository, tag) = split_tag(reference);
        let options = TagImageOptionsBuilder::default().repo(repository).tag(tag).build();
        self.call(&what, QUICK, self.docker().tag_image(id, Some(options)))
    }

    /// Removes the name, or with an id the image with all its names. Says whether there was one.
    ///
    /// # Errors
    /// When a container, running or not, was made from it ([`Error::Conflict`]), or the engine refuses.
    pub fn remove_image(&self, reference: &str) -> Result<bool> {
        let what = format!("remove the image {reference}");
        check_reference(&what, reference)?;
        let remove =
            |reference: &str| {
                let options = RemoveImageOptionsBuilder::default().build();
                let reference = reference.to_owned();
                let docker = self.docker().clone();
                found(self.call(&what, SLOW, async move {
                    docker.remove_image(&reference, Some(options), None).await
                }))
            };
        if !reference.starts_with("sha256:") {
            return Ok(remove(reference)?.is_some());
        }
        let Some(image) = self.image(reference)? else { return Ok(false) };
        // By its id the engine removes an image with several names only by force, which would take it from stopped containers, too.
        let names: Vec<&String> = image.references.iter().chain(&image.digests).collect();
        if names.len() < 2 {
            return Ok(remove(reference)?.is_some());
        }
        for name in names {
            remove(name)?;
        }
        // The last name took the image along; where it did not, nothing else holds it.
        remove(reference)?;
        Ok(true)
    }

    /// Lets the engine fetch `reference` (`registry/name@sha256:…`) from its registry, and gives the image's id. `config` is the digest
    /// of the configuration that the image must have.
    ///
    /// # Errors
    /// When the reference names no digest, the registry does not give it, or it is another image.
    pub fn pull(&self, reference: &str, config: &Digest, login: Option<&RegistryLogin>) -> Result<String> {
        let what = format!("fetch {reference}");
        check_reference(&what, reference)?;
        let manifest = reference.rsplit_once('@').and_then(|(_, digest)| digest.parse::<Digest>().ok());
        let Some(manifest) = manifest else {
            return Err(Error::unsupported(
                what,
                "a tag may mean another image tomorrow; write name@sha256:…",
            ));
        };
        let login = login.map(|login| DockerCredentials {
            username: Some(login.username.clone()),
            password: Some(login.password.clone()),
            ..DockerCredentials::default()
        });
        let options = CreateImageOptionsBuilder::default().from_image(reference).build();
        let mut answers = self.docker().create_image(Some(options), None, login);
        self.wait(&what, Some(PULL), async {
            while let Some(answer) = answers.next().await {
                answer.map_err(|error| self.told(&what, &error))?;
            }
            Ok(())
        })?;
        self.verified(reference, &[*config, manifest])
    }

    /// The id of what the engine has under this name, if it is one of those expected.
    pub(crate) fn verified(&self, reference: &str, expected: &[Digest]) -> Result<String> {
        let Some(image) = self.image(reference)? else {
            let message = format!("the engine took {reference}, and does not have it");
            return Err(Error::NotFound { what: format!("look at the image {reference}"), message });
        };
        if expected.iter().any(|digest| digest.to_string() == image.id) {
            return Ok(image.id);
        }
        let expected = expected.first().map(ToString::to_string).unwrap_or_default();
        Err(Error::WrongImage { name: reference.to_owned(), found: image.id, expected })
    }
}

fn read(image: bollard::models::ImageInspect, asked: &str) -> Image {
    let config = image.config.unwrap_or_default();
    let layers = image.root_fs.and_then(|fs| fs.layers).unwrap_or_default();
    // What is no SHA-256 digest ends the list: nothing above it can be compared.
    let layers = layers.iter().map_while(|layer| layer.parse().ok()).collect();
    Image {
        id: image.id.unwrap_or_else(|| asked.to_owned()),
        references: image.repo_tags.unwrap_or_default(),
        digests: image.repo_digests.unwrap_or_default(),
        layers,
        user: config.user.unwrap_or_default(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        architecture: image.architecture.unwrap_or_default(),
        bytes: image.size.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default(),
    }
}

/// Repository and tag; a port is no tag.
fn split_tag(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (reference, "latest"),
    }
}

/// The filter for things with all these labels.
pub(crate) fn by_labels(labels: &Labels) -> HashMap<String, Vec<String>> {
    let wanted: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if wanted.is_empty() { HashMap::new() } else { HashMap::from([("label".to_owned(), wanted)]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(split_tag("127.0.0.1:5000/api"), ("127.0.0.1:5000/api", "latest"));
        assert_eq!(split_tag("127.0.0.1:5000/api:2"), ("127.0.0.1:5000/api", "2"));
        assert_eq!(split_tag("api"), ("api", "latest"));
    }

    #[test]
    fn a_login_does_not_show_its_password() {
        let login = RegistryLogin { username: "ci".into(), password: "hunter2".into() };
        assert!(!format!("{login:?}").contains("hunter2"));
    }
}
