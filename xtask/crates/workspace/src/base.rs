//! What an image's root is made of: `image.base` of a service, and in `slipway.yaml` for all services that do not say.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// What an image's root is made of, below the service's own files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Base {
    /// Users, certificates and time zones: for a binary that is linked statically.
    #[default]
    Static,
    /// The same, and the shared libraries that the binary needs, from the toolchain that linked it.
    Closure,
    /// `static` or `closure`, whichever makes the images of all services together smaller.
    Auto,
    /// These Debian packages and what they depend on, as `slipway.debian.lock` names them.
    Debian(Vec<String>),
    /// An existing image: the path of an OCI image layout in the workspace, `@`, and the digest of the image's manifest.
    Image(String),
}

/// How a binary is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Linkage {
    /// With everything in it.
    Static,
    /// It needs shared libraries at run time.
    Shared,
}

impl Base {
    /// How a binary for this base is linked; `None` where that is yet to be decided.
    pub fn linkage(&self) -> Option<Linkage> {
        match self {
            Base::Static => Some(Linkage::Static),
            Base::Closure | Base::Debian(_) | Base::Image(_) => Some(Linkage::Shared),
            Base::Auto => None,
        }
    }

    /// What is wrong with it.
    pub(crate) fn problem(&self) -> Option<String> {
        match self {
            Base::Static | Base::Closure | Base::Auto => None,
            Base::Debian(packages) if packages.is_empty() => Some("name at least one package".to_owned()),
            Base::Debian(packages) => {
                let wrong = packages.iter().find(|name| !is_package_name(name))?;
                Some(format!("`{wrong}` is no name of a Debian package"))
            }
            Base::Image(image) => match image.rsplit_once('@') {
                Some((name, digest)) if !name.is_empty() && digest.parse::<stdx::Digest>().is_ok() => None,
                _ => Some(format!("`{image}` must end with `@sha256:` and the digest of the image")),
            },
        }
    }
}

/// Source: Debian Policy, 5.6.1.
pub(crate) fn is_package_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
    name.len() >= 2
        && name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(plain)
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Base::Static => write!(f, "static"),
            Base::Closure => write!(f, "closure"),
            Base::Auto => write!(f, "auto"),
            Base::Debian(packages) => write!(f, "debian ({})", packages.join(", ")),
            Base::Image(image) => write!(f, "{image}"),
        }
    }
}

/// In YAML a word is a word and a mapping has one key: the library would want tags (`!debian`) for the latter.
impl<'de> Deserialize<'de> for Base {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Base, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Plain {
            Static,
            Closure,
            Auto,
            Debian(Vec<String>),
            Image(String),
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Plain;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`static`, `closure`, `auto`, `debian: [PACKAGE]` or `image: LAYOUT@DIGEST`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Plain, E> {
                match text {
                    "debian" => Err(E::custom("name packages: `base: { debian: [ca-certificates] }`")),
                    "image" => Err(E::custom("name the image: `base: { image: LAYOUT@sha256:… }`")),
                    word => Plain::deserialize(word.into_deserializer()),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Plain, A::Error> {
                Plain::deserialize(MapAccessDeserializer::new(map))
            }
        }
        Ok(match deserializer.deserialize_any(Either)? {
            Plain::Static => Base::Static,
            Plain::Closure => Base::Closure,
            Plain::Auto => Base::Auto,
            Plain::Debian(packages) => Base::Debian(packages),
            Plain::Image(image) => Base::Image(image),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stdx::yaml::File;

    #[derive(Debug, Deserialize)]
    struct Holder {
        base: Base,
    }

    fn parse(text: &str) -> Result<Base, String> {
        let file = File { path: None, text: format!("base: {text}\n") };
        file.parse::<Holder>().map(|holder| holder.base).map_err(|problem| problem.to_string())
    }

    #[test]
    fn words_and_mappings() {
        assert_eq!(parse("static"), Ok(Base::Static));
        assert_eq!(parse("auto"), Ok(Base::Auto));
        assert_eq!(parse("{ debian: [libssl3] }"), Ok(Base::Debian(vec!["libssl3".into()])));
        assert_eq!(parse("{ image: x@y }"), Ok(Base::Image("x@y".into())));
        for (text, expected) in [
            ("debian", "name packages"),
            ("alpine", "unknown variant `alpine`"),
            ("[static]", "expected `static`, `closure`"),
            ("{ static: 1, more: 2 }", "base"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn json_gives_it_back() {
        for base in [Base::Closure, Base::Debian(vec!["a1".into()]), Base::Image("i@d".into())] {
            let text = serde_json::to_string(&base).unwrap();
            assert_eq!(serde_json::from_str::<Base>(&text).unwrap(), base);
        }
    }

    #[test]
    fn what_cannot_be_is_said() {
        let problem = |base: Base| base.problem();
        assert_eq!(problem(Base::Debian(vec!["libstdc++6".into()])), None);
        assert!(problem(Base::Debian(vec!["Über".into()])).unwrap().contains("no name"));
        assert!(problem(Base::Debian(vec![])).is_some());
        assert!(problem(Base::Image("layout:tag".into())).unwrap().contains("@sha256:"));
        assert_eq!(problem(Base::Image(format!("layout@sha256:{}", "0".repeat(64)))), None);
    }
}
