//! Secrets as files of a container, in the memory of the engine's machine: never in its environment, command, labels or configuration,
//! and never on its disk.
//!
//! How: a second container, the *holder*, is created from the same image and never started. Through it the engine unpacks the files
//! into a folder below one that is in memory; the container has that folder read-only. So the secrets are there before the program
//! runs, need no program of ours in the image, and outlive the container's and the engine's restarts. They do not outlive the
//! machine's: the container then does not start, and is made again by whoever has the secrets.
//!
//! Invariant: each folder has a holder that says so by its label, until the folder was emptied.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateContainerOptionsBuilder, UploadToContainerOptionsBuilder};
use bytes::Bytes;
use futures_util::stream;

use crate::Labels;
use crate::engine::{Engine, QUICK, SLOW, check_name};
use crate::error::{Error, Result};
use crate::facts::MemoryFolder;
use crate::spec::{Access, ContainerSpec, bind};

/// Where a container has its secrets.
pub(crate) const TARGET: &str = "/run/secrets";
/// On a container with secrets and on their holder: which folder it is.
pub(crate) const OWNER: &str = "dev.slipway.docker.secrets";
/// On the holder alone.
pub(crate) const HOLDER: &str = "dev.slipway.docker.holder";
/// Our folder in the one that is in memory.
const FOLDER: &str = "slipway";
/// Where the holder has the folder that is in memory.
const HELD: &str = "/slipway-memory";
/// A key or certificate chain is far smaller. What is in memory is not for data.
const MAX_SECRET: usize = 1 << 20;
const MAX_SECRETS: usize = 256;

/// A file in [`/run/secrets`](TARGET) that the container's user alone may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// Name of the file.
    pub name: String,
    /// What is in it.
    pub value: SecretValue,
}

/// Bytes that nobody is to see: `Debug` does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Vec<u8>);

impl SecretValue {
    /// Takes the bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> SecretValue {
        SecretValue(bytes.into())
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretValue({} bytes)", self.0.len())
    }
}

/// Where the secrets of one container are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    /// Its name, which is the value of [`OWNER`].
    pub(crate) name: String,
    /// On the engine's machine.
    pub(crate) path: PathBuf,
    /// Id of the container that is never started.
    holder: String,
}

impl Engine {
    /// Puts the secrets of `spec` on the engine's machine, for this user.
    pub(crate) fn deliver_secrets(
        &self,
        spec: &ContainerSpec,
        image: &str,
        (uid, gid): (u32, u32),
    ) -> Result<Folder> {
        let what = format!("deliver the secrets of {}", spec.name);
        check(&what, &spec.secrets)?;
        let memory = self.memory(&what)?.to_owned();
        let name = random_name();
        let holder = self.create_holder(&what, spec, image, &name, &memory)?;
        let folder = Folder { path: memory.join(FOLDER).join(&name), name, holder };
        let archive = archive(&folder.name, &spec.secrets, uid, gid);
        let delivered = archive
            .map_err(|cause| Error::local(&what, cause))
            .and_then(|archive| self.unpack(&what, &folder, archive));
        if let Err(error) = delivered {
            self.undo(|engine| engine.discard_secrets(&folder));
            return Err(error);
        }
        Ok(folder)
    }

    /// Empties the folder, and removes the holder.
    pub(crate) fn discard_secrets(&self, folder: &Folder) -> Result<()> {
        let what = format!("remove the secrets {}", folder.name);
        // A file takes the folder's place: the API unpacks archives and knows no other way to remove what is in one.
        let mut archive = tar::Builder::new(Vec::new());
        let packed = append(
            &mut archive,
            &format!("{FOLDER}/{}", folder.name),
            tar::EntryType::Regular,
            (0o400, 0, 0),
            &[],
        );
        let archive =
            packed.and_then(|()| archive.into_inner()).map_err(|cause| Error::local(&what, cause))?;
        self.unpack(&what, folder, archive)?;
        self.remove_bare(&folder.holder).map(drop)
    }

    /// Those of the folders with these labels whose containers are gone; empties them. Gives how many.
    pub(crate) fn discard_orphaned_secrets(&self, labels: &Labels) -> Result<usize> {
        let all = self.list_all(&Labels::new())?;
        let owned: BTreeSet<&String> = all
            .iter()
            .filter(|found| !found.labels.contains_key(HOLDER))
            .filter_map(|found| found.labels.get(OWNER))
            .collect();
        let has_labels = |found: &Labels| labels.iter().all(|(name, value)| found.get(name) == Some(value));
        let mut discarded = 0;
        for holder in
            all.iter().filter(|found| found.labels.contains_key(HOLDER) && has_labels(&found.labels))
        {
            if let Some(name) = holder.labels.get(OWNER)
                && !owned.contains(name)
            {
                self.discard_secrets(&folder_of(name, &holder.id))?;
                discarded += 1;
            }
        }
        Ok(discarded)
    }

    /// The folder that the label [`OWNER`] of a container names.
    pub(crate) fn discard_secrets_named(&self, name: &str) -> Result<()> {
        let labels =
            Labels::from([(OWNER.to_owned(), name.to_owned()), (HOLDER.to_owned(), "true".to_owned())]);
        for holder in self.list_all(&labels)? {
            self.discard_secrets(&folder_of(name, &holder.id))?;
        }
        Ok(())
    }

    fn memory(&self, what: &str) -> Result<&Path> {
        match &self.facts().memory_folder {
            MemoryFolder::Seen(folder) | MemoryFolder::Assumed(folder) => Ok(folder),
            MemoryFolder::Missing => Err(Error::unsupported(
                what,
                "neither /run nor /dev/shm of the engine's machine is in memory (tmpfs), and secrets are not written to a disk; \
                 mount a tmpfs there",
            )),
        }
    }

    fn create_holder(
        &self,
        what: &str,
        spec: &ContainerSpec,
        image: &str,
        name: &str,
        memory: &Path,
    ) -> Result<String> {
        let mut labels = spec.labels.clone();
        labels.insert(OWNER.to_owned(), name.to_owned());
        labels.insert(HOLDER.to_owned(), "true".to_owned());
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            // An image without a command of its own cannot be created from without one. This one never runs.
            entrypoint: Some(vec!["/never-started".to_owned()]),
            labels: Some(labels.into_iter().collect()),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                cap_drop: Some(vec!["ALL".to_owned()]),
                mounts: Some(vec![bind(memory, Path::new(HELD), Access::ReadWrite)]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default()
            .name(&format!("{}-{name}", shortened(&spec.name)))
            .build();
        Ok(self.call(what, SLOW, self.docker().create_container(Some(options), body))?.id)
    }

    fn unpack(&self, what: &str, folder: &Folder, archive: Vec<u8>) -> Result<()> {
        let options = UploadToContainerOptionsBuilder::default().path(HELD).build();
        // As a stream: whole bodies appear in the library's traces.
        let body = stream::iter([Bytes::from(archive)]);
        self.call(
            what,
            QUICK,
            self.docker().upload_to_container(&folder.holder, Some(options), bollard::body_stream(body)),
        )
    }
}

fn folder_of(name: &str, holder: &str) -> Folder {
    Folder { name: name.to_owned(), path: PathBuf::new(), holder: holder.to_owned() }
}

fn check(what: &str, secrets: &[Secret]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for secret in secrets {
        check_name(what, &secret.name)?;
        if !seen.insert(&secret.name) {
            return Err(Error::unsupported(what, format!("there are two with the name {}", secret.name)));
        }
        if secret.value.0.len() > MAX_SECRET {
            return Err(Error::unsupported(
                what,
                format!("{} is longer than {MAX_SECRET} bytes", secret.name),
            ));
        }
    }
    if secrets.len() > MAX_SECRETS {
        return Err(Error::unsupported(what, format!("there are more than {MAX_SECRETS}")));
    }
    Ok(())
}

/// A name that no other folder has.
fn random_name() -> String {
    let random = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

fn shortened(name: &str) -> &str {
    &name[..name.len().min(200)]
}

/// The folders and files, with their owners. Whatever has their names gives way.
fn archive(name: &str, secrets: &[Secret], uid: u32, gid: u32) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    // Root alone gets as far as to the folders; the engine, which mounts them, is root.
    append(&mut archive, &format!("{FOLDER}/"), tar::EntryType::Directory, (0o700, 0, 0), &[])?;
    append(&mut archive, &format!("{FOLDER}/{name}/"), tar::EntryType::Directory, (0o500, uid, gid), &[])?;
    for secret in secrets {
        let path = format!("{FOLDER}/{name}/{}", secret.name);
        append(&mut archive, &path, tar::EntryType::Regular, (0o400, uid, gid), &secret.value.0)?;
    }
    archive.into_inner()
}

fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: tar::EntryType,
    (mode, uid, gid): (u32, u32, u32),
    content: &[u8],
) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(u64::from(uid));
    header.set_gid(u64::from(gid));
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, value: &[u8]) -> Secret {
        Secret { name: name.to_owned(), value: SecretValue::new(value) }
    }

    #[test]
    fn nothing_shows_a_secret() {
        let text = format!("{:?}", secret("db", b"hunter2"));
        assert!(text.contains("db") && text.contains("7 bytes") && !text.contains("hunter2"), "{text}");
        assert!(!text.contains("104"), "nor its bytes as numbers: {text}");
    }

    #[test]
    fn files_are_for_one_user_alone() {
        let bytes = archive("n", &[secret("db", b"x"), secret("key.pem", b"yz")], 7, 8).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let listed: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                let owner = (header.uid().unwrap(), header.gid().unwrap());
                format!(
                    "{} {:o} {owner:?} {}",
                    entry.path().unwrap().display(),
                    header.mode().unwrap(),
                    header.size().unwrap()
                )
            })
            .collect();
        let expected = [
            "slipway/ 700 (0, 0) 0",
            "slipway/n/ 500 (7, 8) 0",
            "slipway/n/db 400 (7, 8) 1",
            "slipway/n/key.pem 400 (7, 8) 2",
        ];
        assert_eq!(listed, expected);
    }

    #[test]
    fn names_that_lead_elsewhere_and_floods_are_refused() {
        let refused = |secrets: &[Secret]| check("x", secrets).unwrap_err().to_string();
        assert!(refused(&[secret("../x", b"")]).contains("../x"));
        assert!(refused(&[secret("a", b"1"), secret("a", b"2")]).contains("two"));
        assert!(refused(&[secret("a", &vec![0; MAX_SECRET + 1])]).contains("longer"));
        assert!(check("x", &[secret("a", b"1"), secret("b.pem", b"")]).is_ok());
        assert_ne!(random_name(), random_name());
    }
}
