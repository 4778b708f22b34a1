//! Networks of containers on one machine: bridges, closed to the outside unless they say otherwise.

use std::time::Duration;

use bollard::models::{Ipam, IpamConfig, Network as LowNetwork, NetworkConnectRequest, NetworkCreateRequest};
use bollard::query_parameters::ListNetworksOptionsBuilder;

use crate::Labels;
use crate::engine::{Engine, QUICK, SLOW, check_name};
use crate::error::{Error, Result, found};
use crate::image::by_labels;
use crate::spec::Attachment;

/// A network as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Its name.
    pub name: String,
    /// Whether its containers get out.
    pub egress: Egress,
    /// Its addresses, in the form `10.9.0.0/24`; the engine chooses where `None`.
    pub subnet: Option<String>,
    /// By which it is found again.
    pub labels: Labels,
}

/// Whether containers of a network reach what is outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Egress {
    /// Only each other, and what listens on addresses of the engine's machine: engines keep back what would be passed on.
    #[default]
    None,
    /// Everything that the engine's machine reaches.
    Open,
}

/// A network as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether its containers get out.
    pub egress: Egress,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses.
    pub subnets: Vec<String>,
}

impl NetworkSpec {
    /// A network without egress, whose addresses the engine chooses.
    pub fn new(name: impl Into<String>) -> NetworkSpec {
        NetworkSpec { name: name.into(), egress: Egress::None, subnet: None, labels: Labels::new() }
    }
}

impl Engine {
    /// Makes the network, or finds it as it is to be.
    ///
    /// # Errors
    /// When there is one of this name that is another: not ours by the labels, with another egress or subnet.
    pub fn ensure_network(&self, spec: &NetworkSpec) -> Result<Network> {
        let what = format!("make the network {}", spec.name);
        check_name(&what, &spec.name)?;
        if let Some(there) = self.network(&spec.name)? {
            return same(&what, spec, there);
        }
        let made = self.call(&what, SLOW, self.docker().create_network(lower(spec)));
        let made = match made {
            Ok(made) => made.id,
            // Somebody else was faster.
            Err(Error::Conflict { .. }) => String::new(),
            Err(error) => return Err(error),
        };
        // Engines before 25 let two networks have one name. All who look keep the same one: the oldest.
        let Some(kept) = self.network(&spec.name)? else {
            return Err(Error::NotFound { what, message: "it is gone".to_owned() });
        };
        if !made.is_empty() && kept.id != made {
            found(self.call(&what, SLOW, self.docker().remove_network(&made)))?;
        }
        same(&what, spec, kept)
    }

    /// The network of this name, or `None`.
    ///
    /// # Errors
    /// When the engine does not tell.
    pub fn network(&self, name: &str) -> Result<Option<Network>> {
        check_name("look at a network", name)?;
        let mut listed = self
            .list_networks(&[("name".to_owned(), vec![format!("^{}$", name.replace('.', "\\."))])].into())?;
        listed.retain(|network| network.name.as_deref() == Some(name));
        listed.sort_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)));
        Ok(listed.into_iter().next().map(read))
    }

    /// All networks with these labels, in order of names.
    ///
    /// # Errors
    /// When the engine does not tell.
    pub fn networks(&self, labels: &Labels) -> Result<Vec<Network>> {
        let mut networks: Vec<Network> =
            self.list_networks(&by_labels(labels))?.into_iter().map(read).collect();
        networks.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(networks)
    }

    fn list_networks(
        &self,
        filters: &std::collections::HashMap<String, Vec<String>>,
    ) -> Result<Vec<LowNetwork>> {
        let options = ListNetworksOptionsBuilder::default().filters(filters).build();
        self.call("list networks", QUICK, self.docker().list_networks(Some(options)))
    }

    /// Removes the network. Says whether there was one.
    ///
    /// # Errors
    /// When containers that run are in it.
    pub fn remove_network(&self, name: &str) -> Result<bool> {
        let what = format!("remove the network {name}");
        check_name(&what, name)?;
        // A container that was removed a moment ago may still be on its way out of the network.
        for _ in 0..10 {
            match self.call(&what, SLOW, self.docker().remove_network(name)) {
                Err(Error::Refused { message, .. }) if message.contains("active endpoints") => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                other => return Ok(found(other)?.is_some()),
            }
        }
        Ok(found(self.call(&what, SLOW, self.docker().remove_network(name)))?.is_some())
    }

    /// Puts a container into one more network.
    pub(crate) fn attach(&self, container: &str, attachment: &Attachment) -> Result<()> {
        let what = format!("put the container {container} into the network {}", attachment.network);
        let request = NetworkConnectRequest {
            container: container.to_owned(),
            endpoint_config: Some(attachment.lower()),
        };
        self.call(&what, QUICK, self.docker().connect_network(&attachment.network, request))
    }
}

fn lower(spec: &NetworkSpec) -> NetworkCreateRequest {
    let subnet = |subnet: &String| IpamConfig { subnet: Some(subnet.clone()), ..IpamConfig::default() };
    NetworkCreateRequest {
        name: spec.name.clone(),
        driver: Some("bridge".to_owned()),
        internal: Some(spec.egress == Egress::None),
        ipam: spec.subnet.as_ref().map(|text| Ipam { config: Some(vec![subnet(text)]), ..Ipam::default() }),
        labels: Some(spec.labels.clone().into_iter().collect()),
        ..NetworkCreateRequest::default()
    }
}

fn read(found: LowNetwork) -> Network {
    let configs = found.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    Network {
        id: found.id.unwrap_or_default(),
        name: found.name.unwrap_or_default(),
        egress: if found.internal == Some(true) { Egress::None } else { Egress::Open },
        labels: found.labels.unwrap_or_default().into_iter().collect(),
        subnets: configs.into_iter().filter_map(|config| config.subnet).collect(),
    }
}

/// The network, if it is what it is to be.
fn same(what: &str, spec: &NetworkSpec, there: Network) -> Result<Network> {
    let differs = |problem: &str| {
        let next = format!("{problem}; remove it (`docker network rm {}`), or take another name", spec.name);
        Err(Error::unsupported(what, format!("there is one of this name {next}")))
    };
    if spec.labels.iter().any(|(name, value)| there.labels.get(name) != Some(value)) {
        return differs("that somebody else made");
    }
    if there.egress != spec.egress {
        return differs(match there.egress {
            Egress::None => "without egress",
            Egress::Open => "with egress",
        });
    }
    if spec.subnet.as_ref().is_some_and(|subnet| !there.subnets.contains(subnet)) {
        return differs("with other addresses");
    }
    Ok(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_the_same_name_is_taken_only_when_it_is_the_same() {
        let labels = Labels::from([("env".to_owned(), "prod".to_owned())]);
        let spec = NetworkSpec {
            labels: labels.clone(),
            subnet: Some("10.1.0.0/24".into()),
            ..NetworkSpec::new("prod")
        };
        assert_eq!(lower(&spec).internal, Some(true));
        let there = Network {
            id: "1".into(),
            name: "prod".into(),
            egress: Egress::None,
            labels,
            subnets: vec!["10.1.0.0/24".into()],
        };
        assert_eq!(same("x", &spec, there.clone()).unwrap(), there);
        let problem = |there| same("x", &spec, there).unwrap_err().to_string();
        assert!(problem(Network { labels: Labels::new(), ..there.clone() }).contains("somebody else"));
        assert!(problem(Network { egress: Egress::Open, ..there.clone() }).contains("with egress"));
        assert!(problem(Network { subnets: Vec::new(), ..there }).contains("docker network rm prod"));
    }
}
