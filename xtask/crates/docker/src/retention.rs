//! What an engine has that carries a caller's labels, and removing of it what is no longer wanted. What is wanted is said by the
//! caller; what anybody's container still uses stays in every case.

use std::collections::BTreeSet;

use crate::Labels;
use crate::container::Listed;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::network::Network;
use crate::volume::Volume;

/// Everything that carries some labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// Containers, running or not.
    pub containers: Vec<Listed>,
    /// Images, those without a name among them.
    pub images: Vec<Image>,
    /// Networks.
    pub networks: Vec<Network>,
    /// Volumes.
    pub volumes: Vec<Volume>,
}

/// What is to stay. Volumes always do: data goes only by [`Engine::remove_volume`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Names or ids of containers.
    pub containers: BTreeSet<String>,
    /// Ids or references of images.
    pub images: BTreeSet<String>,
    /// Names of networks.
    pub networks: BTreeSet<String>,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names of containers.
    pub containers: Vec<String>,
    /// Ids of images.
    pub images: Vec<String>,
    /// Names of networks.
    pub networks: Vec<String>,
    /// Folders of secrets whose containers were gone.
    pub secrets: usize,
    /// Ids of images that are not wanted, and that a container still uses.
    pub images_in_use: Vec<String>,
}

impl Engine {
    /// Everything with these labels. Without labels there would be no end of what is somebody else's.
    ///
    /// # Errors
    /// When there are no labels, or the engine does not tell.
    pub fn inventory(&self, labels: &Labels) -> Result<Inventory> {
        require_labels("list", labels)?;
        Ok(Inventory {
            containers: self.containers(labels)?,
            images: self.images(labels)?,
            networks: self.networks(labels)?,
            volumes: self.volumes(labels)?,
        })
    }

    /// Removes what carries these labels and is not among what is kept: containers, running or not, with their secrets, then
    /// images and networks. Images and networks that something still uses stay.
    ///
    /// # Errors
    /// When there are no labels, or the engine refuses. What was removed before that is gone; the same call again goes on.
    pub fn remove_all_but(&self, labels: &Labels, kept: &Kept) -> Result<Removed> {
        let unwanted = unwanted(self.inventory(labels)?, kept);
        let mut removed = Removed::default();
        for container in unwanted.containers {
            self.remove(&container.id)?;
            removed.containers.push(container.name);
        }
        removed.secrets = self.discard_orphaned_secrets(labels)?;
        for image in unwanted.images {
            match self.remove_image(&image.id) {
                Ok(_) => removed.images.push(image.id),
                Err(Error::Conflict { .. }) => removed.images_in_use.push(image.id),
                Err(error) => return Err(error),
            }
        }
        for network in unwanted.networks {
            match self.remove_network(&network.name) {
                Ok(_) => removed.networks.push(network.name),
                Err(Error::Refused { message, .. }) if message.contains("active endpoints") => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }
}

fn require_labels(verb: &str, labels: &Labels) -> Result<()> {
    if labels.is_empty() {
        return Err(Error::unsupported(
            format!("{verb} what an engine has"),
            "without a label that would be everything",
        ));
    }
    Ok(())
}

/// What of the inventory is not kept. An image that a kept container is made from is.
fn unwanted(found: Inventory, kept: &Kept) -> Inventory {
    let is_kept = |container: &Listed| {
        kept.containers.contains(&container.name) || kept.containers.contains(&container.id)
    };
    let used: BTreeSet<String> = found
        .containers
        .iter()
        .filter(|found| is_kept(found))
        .map(|container| container.image.clone())
        .collect();
    let is_image_kept = |image: &Image| {
        let names = image.references.iter().chain(&image.digests).chain([&image.id]);
        used.contains(&image.id) || names.into_iter().any(|name| kept.images.contains(name))
    };
    let without = |networks: Vec<Network>| {
        networks.into_iter().filter(|network| !kept.networks.contains(&network.name)).collect()
    };
    Inventory {
        images: found.images.into_iter().filter(|image| !is_image_kept(image)).collect(),
        containers: found.containers.into_iter().filter(|container| !is_kept(container)).collect(),
        networks: without(found.networks),
        volumes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Phase;
    use crate::network::Egress;

    #[test]
    fn what_a_kept_container_is_made_from_is_kept_and_data_always() {
        let container = |name: &str, image: &str| Listed {
            id: format!("id-{name}"),
            name: name.into(),
            image: image.into(),
            labels: Labels::new(),
            phase: Phase::Exited,
        };
        let image = |id: &str, reference: &str| Image {
            id: id.into(),
            references: vec![reference.into()],
            digests: Vec::new(),
            layers: Vec::new(),
            user: String::new(),
            labels: Labels::new(),
            architecture: String::new(),
            bytes: 0,
        };
        let network = Network {
            id: String::new(),
            name: "net".into(),
            egress: Egress::None,
            labels: Labels::new(),
            subnets: Vec::new(),
        };
        let found = Inventory {
            containers: vec![container("old", "1"), container("live", "2")],
            images: vec![image("1", "api:1"), image("2", "api:2"), image("3", "api:3")],
            networks: vec![network],
            volumes: vec![Volume { name: "data".into(), labels: Labels::new(), path: String::new() }],
        };
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let kept = Kept { containers: set(&["live"]), images: set(&["api:3"]), networks: set(&["net"]) };
        let left = unwanted(found.clone(), &kept);
        assert_eq!(left.containers.iter().map(|found| found.name.as_str()).collect::<Vec<_>>(), ["old"]);
        assert_eq!(left.images.iter().map(|found| found.id.as_str()).collect::<Vec<_>>(), ["1"]);
        assert!(left.networks.is_empty() && left.volumes.is_empty());
        let all = unwanted(found, &Kept::default());
        assert_eq!(
            (all.containers.len(), all.images.len(), all.networks.len(), all.volumes.len()),
            (2, 3, 1, 0)
        );
        assert!(require_labels("list", &Labels::new()).is_err());
    }
}
