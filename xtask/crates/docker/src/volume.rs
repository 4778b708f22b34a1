//! Volumes: folders that an engine keeps, and that outlive the containers that use them.

use bollard::models::VolumeCreateRequest;
use bollard::query_parameters::{ListVolumesOptionsBuilder, RemoveVolumeOptionsBuilder};

use crate::Labels;
use crate::engine::{Engine, QUICK, SLOW, check_name};
use crate::error::{Error, Result, found};
use crate::image::by_labels;

/// A volume as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Its name.
    pub name: String,
    /// By which it is found again.
    pub labels: Labels,
}

/// A volume as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Where it is on the engine's machine.
    pub path: String,
}

impl Engine {
    /// Makes the volume, or finds it.
    ///
    /// # Errors
    /// When there is one of this name that is not ours by the labels: its data is somebody else's.
    pub fn ensure_volume(&self, spec: &VolumeSpec) -> Result<Volume> {
        let what = format!("make the volume {}", spec.name);
        check_name(&what, &spec.name)?;
        let request = VolumeCreateRequest {
            name: Some(spec.name.clone()),
            driver: Some("local".to_owned()),
            labels: Some(spec.labels.clone().into_iter().collect()),
            ..VolumeCreateRequest::default()
        };
        // The engine gives the one that is there, with the labels that it has.
        let there = read(self.call(&what, SLOW, self.docker().create_volume(request))?);
        if spec.labels.iter().any(|(name, value)| there.labels.get(name) != Some(value)) {
            return Err(Error::unsupported(
                what,
                "there is one of this name that somebody else made; take another name",
            ));
        }
        Ok(there)
    }

    /// The volume of this name, or `None`.
    ///
    /// # Errors
    /// When the engine does not tell.
    pub fn volume(&self, name: &str) -> Result<Option<Volume>> {
        let what = format!("look at the volume {name}");
        check_name(&what, name)?;
        Ok(found(self.call(&what, QUICK, self.docker().inspect_volume(name)))?.map(read))
    }

    /// All volumes with these labels, in order of names.
    ///
    /// # Errors
    /// When the engine does not tell.
    pub fn volumes(&self, labels: &Labels) -> Result<Vec<Volume>> {
        let options = ListVolumesOptionsBuilder::default().filters(&by_labels(labels)).build();
        let listed = self.call("list volumes", QUICK, self.docker().list_volumes(Some(options)))?;
        let mut volumes: Vec<Volume> = listed.volumes.unwrap_or_default().into_iter().map(read).collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(volumes)
    }

    /// Removes the volume with its data. Says whether there was one.
    ///
    /// # Errors
    /// [`Error::Conflict`] when a container uses it.
    pub fn remove_volume(&self, name: &str) -> Result<bool> {
        let what = format!("remove the volume {name}");
        check_name(&what, name)?;
        let options = RemoveVolumeOptionsBuilder::default().build();
        Ok(found(self.call(&what, SLOW, self.docker().remove_volume(name, Some(options))))?.is_some())
    }
}

fn read(found: bollard::models::Volume) -> Volume {
    Volume { name: found.name, labels: found.labels.into_iter().collect(), path: found.mountpoint }
}
