//! The name of an entry: what sort of thing it is, and the digest of all that it was made from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use stdx::Digest;

/// What sort of thing an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Which inputs a result was found to have: read before its key can be told.
    Record,
    /// A service's binary.
    Service,
    /// Compiled dependencies of services.
    Dependencies,
}

/// Names an entry in every store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What sort of thing it is.
    pub kind: Kind,
    /// Of everything that it was made from.
    pub digest: Digest,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Record, Kind::Service, Kind::Dependencies];

    /// As it stands in names of files and tags.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Record => "record",
            Kind::Service => "service",
            Kind::Dependencies => "dependencies",
        }
    }
}

/// `service-<64 hex digits>`: fit for a file name and for a tag of a registry.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.kind.word(), self.digest.hex())
    }
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Key, String> {
        let refuse = || format!("`{text}` names no entry of a cache");
        let (word, hex) = text.rsplit_once('-').ok_or_else(refuse)?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word).ok_or_else(refuse)?;
        let digest = format!("sha256:{hex}").parse().map_err(|_| refuse())?;
        Ok(Key { kind, digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_written() {
        for kind in Kind::ALL {
            let key = Key { kind, digest: Digest::of("x") };
            assert_eq!(key.to_string().parse(), Ok(key));
        }
        for wrong in ["", "service", "service-12", "other-", "-", "service-../../etc/passwd"] {
            assert!(wrong.parse::<Key>().is_err(), "{wrong}");
        }
    }
}
