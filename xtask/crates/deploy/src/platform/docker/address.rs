//! Addresses of containers in the environment's network. A container keeps its address for life: the edge dials it,
//! also after the container, the engine or the machine was started again. Pure.
//!
//! The engine gives addresses from the lower end to containers that ask for none; ours are in the upper half.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};

/// The shortest prefix of a network that a bridge is given; a longer one has too few addresses to halve.
const LONGEST_PREFIX: u32 = 28;

/// The addresses of a network: `172.18.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnet {
    first: u32,
    size: u32,
}

impl Subnet {
    pub(crate) fn parse(text: &str) -> Result<Subnet> {
        let parts = text.split_once('/').and_then(|(address, prefix)| {
            Some((address.parse::<Ipv4Addr>().ok()?, prefix.parse::<u32>().ok()?))
        });
        let (address, prefix) = parts.with_context(|| format!("`{text}` is no IPv4 network"))?;
        ensure!((8..=LONGEST_PREFIX).contains(&prefix), "the network {text} is too small or too large");
        let size = 1 << (32 - prefix);
        Ok(Subnet { first: u32::from(address) & !(size - 1), size })
    }

    /// The address of the engine's machine in it: the engine takes the first one.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.first + 1)
    }

    /// The lowest address of ours that nobody has.
    pub(crate) fn free(&self, taken: &BTreeSet<Ipv4Addr>) -> Result<Ipv4Addr> {
        // The last one is the broadcast address.
        let mut ours = (self.size / 2..self.size - 1).map(|offset| Ipv4Addr::from(self.first + offset));
        ours.find(|address| !taken.contains(address)).context("all addresses of the network are taken")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_from_the_upper_half_and_none_twice() {
        let subnet = Subnet::parse("172.18.0.0/16").unwrap();
        assert_eq!(subnet.gateway(), Ipv4Addr::new(172, 18, 0, 1));
        let mut taken = BTreeSet::new();
        assert_eq!(subnet.free(&taken).unwrap(), Ipv4Addr::new(172, 18, 128, 0));
        taken.insert(Ipv4Addr::new(172, 18, 128, 0));
        assert_eq!(subnet.free(&taken).unwrap(), Ipv4Addr::new(172, 18, 128, 1));
        let small = Subnet::parse("10.1.2.16/28").unwrap();
        let mut given = BTreeSet::new();
        while let Ok(address) = small.free(&given) {
            assert!(given.insert(address));
        }
        let all: Vec<_> = given.iter().map(ToString::to_string).collect();
        assert_eq!((all.len(), all[0].as_str(), all[6].as_str()), (7, "10.1.2.24", "10.1.2.30"));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/0", "10.0.0.0/30", "fd00::/64", "a/16"] {
            assert!(Subnet::parse(text).is_err(), "{text}");
        }
    }
}
