//! The network of an environment's containers, and whether the edge can dial into it.

use std::net::UdpSocket;

use anyhow::{Context, Result};
use docker::{Egress, NetworkSpec};

use super::address::Subnet;
use super::{Docker, container};

/// The end of the name of a network that is there for a moment.
pub(super) const PROBE: &str = "-probe";

impl Docker {
    /// Networks with and without egress have names of their own, so that slots can move from one to the other.
    pub(super) fn network_name(&self) -> String {
        let suffix = if self.settings.network.egress { "-egress" } else { "" };
        format!("slipway-{}{suffix}", self.record.environment)
    }

    fn network_spec(&self, name: String, subnet: Option<String>) -> NetworkSpec {
        let egress = if self.settings.network.egress { Egress::Open } else { Egress::None };
        NetworkSpec { egress, subnet, labels: container::labels(&self.record), ..NetworkSpec::new(name) }
    }

    /// The environment's network; made where it is missing. The engine chooses addresses that nobody has, but gives a
    /// container a fixed one only in a network that was made with addresses: so it is asked for some first.
    pub(super) fn ensure_network(&self) -> Result<Subnet> {
        // Slots are prepared side by side.
        let _given = self.given.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let name = self.network_name();
        let network = match self.engine.network(&name)? {
            Some(_) => self.engine.ensure_network(&self.network_spec(name, None))?,
            None => {
                let probe = format!("{name}{PROBE}");
                self.engine.remove_network(&probe)?;
                let probed = self.engine.ensure_network(&self.network_spec(probe.clone(), None))?;
                self.engine.remove_network(&probe)?;
                self.engine.ensure_network(&self.network_spec(name, probed.subnets.into_iter().next()))?
            }
        };
        let subnet = network.subnets.first().context("the engine gave the network no addresses")?;
        Subnet::parse(subnet)
    }

    /// The addresses of the environment's network, where there is one.
    pub(super) fn find_network(&self) -> Result<Option<Subnet>> {
        let Some(network) = self.engine.network(&self.network_name())? else { return Ok(None) };
        network.subnets.first().map(|subnet| Subnet::parse(subnet)).transpose()
    }

    /// Whether containers of the engine can be dialled from here: the engine's machine has the first address of its
    /// networks, and only on that machine can somebody listen there.
    pub(super) fn check_path(&self) -> Result<Option<String>> {
        let gateway = self.ensure_network()?.gateway();
        Ok(UdpSocket::bind((gateway, 0)).is_err().then(|| {
            format!(
                "containers of {} have addresses that cannot be dialled from this machine, where the edge runs: deploy on the \
                 engine's own machine",
                self.engine.endpoint()
            )
        }))
    }
}
