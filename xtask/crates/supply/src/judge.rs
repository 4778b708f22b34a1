//! Whether an image is what somebody with the key built: signature, provenance and SBOMs held against its digest and against each
//! other. Pure: whoever calls fetched what is attached. Invariant: a document counts only if its signature is good, it is about
//! this very image, and it is of the kind that it is kept as; what anybody else attached to the image is told and changes nothing.

use std::collections::BTreeMap;

use serde::Serialize;
use stdx::{Digest, json::canonical};

use crate::bundle::{BUNDLE, verify};
use crate::key::PublicKey;
use crate::provenance::{Commit, Provenance};
use crate::statement::{Statement, predicate, shown};

/// Media types that provenance calls the SBOMs by, with what a statement about them is called.
const SBOMS: [(&str, &str, &str); 2] = [
    ("sbom cyclonedx", "application/vnd.cyclonedx+json", predicate::CYCLONEDX),
    ("sbom spdx", "application/spdx+json", predicate::SPDX),
];

/// A document that is attached to the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// What it is kept as.
    pub artifact_type: String,
    /// The annotation that says which kind of statement is in it.
    pub predicate_type: Option<String>,
    /// The document, or why it could not be read.
    pub content: Result<Vec<u8>, String>,
}

/// What must hold beyond a good signature.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// The service that it must be: the same key signs all of them, so that one could stand in for another.
    pub service: Option<String>,
    /// Who must have built it.
    pub builder: Option<String>,
    /// The commit that it must come from.
    pub revision: Option<String>,
    /// What a release says of it.
    pub release: Option<Named>,
}

/// The digests by which a release knows an image and what is said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Of the image's manifest.
    pub image: Digest,
    /// Of the CycloneDX document.
    pub sbom: Digest,
    /// Of the SPDX document.
    pub spdx: Option<Digest>,
    /// Of the provenance statement.
    pub provenance: Option<Digest>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it is.
    pub outcome: Outcome,
    /// Why, or what was found, in one line.
    pub detail: String,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it must be.
    Ok,
    /// Something is there, and wrong.
    Failed,
    /// Nothing is there.
    Missing,
}

/// What is to be believed of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// In order: release (where one is given), signature, provenance, both SBOMs.
    pub checks: Vec<Check>,
    /// How it was built, as far as that is believed.
    pub provenance: Option<Provenance>,
}

impl Verdict {
    /// Whether everything is as it must be.
    pub fn is_good(&self) -> bool {
        self.checks.iter().all(|check| check.outcome == Outcome::Ok)
    }
}

/// Judges the image by what is attached to it.
pub fn judge(image: &Digest, attached: &[Attached], key: &PublicKey, expected: &Expected) -> Verdict {
    let believed = Believed::of(image, attached, key);
    let release = expected.release.as_ref();
    let mut checks: Vec<Check> = release.map(|named| same_image(image, named)).into_iter().collect();
    checks.push(believed.signature(key));
    let provenance = believed.one(predicate::PROVENANCE, |statement| provenance(statement, expected));
    let (line, provenance) = check("provenance", provenance);
    checks.push(line);
    for (name, media_type, kind) in SBOMS {
        let named =
            release.and_then(|named| if kind == predicate::SPDX { named.spdx } else { Some(named.sbom) });
        let built = provenance.as_ref().map(|provenance: &Provenance| provenance.byproduct(media_type));
        checks.push(check(name, believed.one(kind, |statement| same_sbom(statement, built, named))).0);
    }
    Verdict { checks, provenance }
}

/// Judges an index, of which nothing is said but that it is meant to be: how its images were made is said of each of them.
pub fn judge_index(index: &Digest, attached: &[Attached], key: &PublicKey) -> Check {
    Believed::of(index, attached, key).signature(key)
}

/// What is attached and signed with the key, by kind; and why the rest is not believed.
struct Believed {
    statements: BTreeMap<String, Vec<Statement>>,
    /// By the kind that it is kept as; under the empty name what does not say.
    rejected: BTreeMap<String, Vec<String>>,
}

/// Why nothing is to be believed of a kind: that there is nothing, or what is wrong with what there is.
type Doubt = (Outcome, String);

impl Believed {
    fn of(image: &Digest, attached: &[Attached], key: &PublicKey) -> Believed {
        let mut believed = Believed { statements: BTreeMap::new(), rejected: BTreeMap::new() };
        for one in attached.iter().filter(|one| one.artifact_type == BUNDLE) {
            match statement(image, one, key) {
                Ok(statement) => {
                    believed.statements.entry(statement.predicate_type.clone()).or_default().push(statement);
                }
                Err(why) => {
                    let kind = one.predicate_type.clone().unwrap_or_default();
                    believed.rejected.entry(kind).or_default().push(why);
                }
            }
        }
        believed
    }

    fn signature(&self, key: &PublicKey) -> Check {
        let signature = self.one(predicate::SIGNATURE, |_| Ok(((), format!("by the key {}", hint(key)))));
        check("signature", signature).0
    }

    /// The first statement of the kind that `accept` finds nothing wrong with.
    fn one<T>(
        &self,
        kind: &str,
        accept: impl Fn(&Statement) -> Result<(T, String), String>,
    ) -> Result<(T, String), Doubt> {
        let mut doubts = Vec::new();
        for statement in self.statements.get(kind).into_iter().flatten() {
            match accept(statement) {
                Ok(accepted) => return Ok(accepted),
                Err(why) => doubts.push(why),
            }
        }
        doubts.extend([kind, ""].iter().filter_map(|kind| self.rejected.get(*kind)).flatten().cloned());
        doubts.dedup();
        match doubts.is_empty() {
            true => Err((Outcome::Missing, "nothing of this kind is attached".to_owned())),
            false => Err((Outcome::Failed, doubts.join("; "))),
        }
    }
}

/// The statement in a bundle, if it is to be believed of the image.
fn statement(image: &Digest, attached: &Attached, key: &PublicKey) -> Result<Statement, String> {
    let content = attached.content.as_ref().map_err(|why| shown(why))?;
    let statement = verify(content, key).map_err(|rejected| rejected.to_string())?;
    if !statement.is_about(image) {
        let other = statement.subjects[0].digest;
        return Err(format!("it is about another image ({})", other.short()));
    }
    match &attached.predicate_type {
        Some(kept_as) if *kept_as != statement.predicate_type => {
            Err(format!("it is kept as `{}` and says `{}`", shown(kept_as), shown(&statement.predicate_type)))
        }
        _ => Ok(statement),
    }
}

fn provenance(statement: &Statement, expected: &Expected) -> Result<(Provenance, String), String> {
    let provenance = Provenance::parse(&statement.predicate).map_err(|error| format!("{error:#}"))?;
    let service = provenance.service();
    if let Some(wanted) = expected.service.as_deref().filter(|wanted| Some(*wanted) != service) {
        let found = service.map_or_else(|| "no service".to_owned(), |name| format!("`{}`", shown(name)));
        return Err(format!("it is of {found}, not of `{wanted}`"));
    }
    // The same key signs both, and a name says nothing of which it is.
    if expected.release.is_some() && provenance.is_of_packages() {
        return Err("it is of an image of packages, and a release names services".to_owned());
    }
    let builder = &provenance.run_details.builder.id;
    if let Some(wanted) = expected.builder.as_ref().filter(|wanted| *wanted != builder) {
        return Err(format!("it was built by `{}`, not by `{wanted}`", shown(builder)));
    }
    let commit = provenance.commit();
    if let Some(wanted) = &expected.revision {
        match &commit {
            Some(commit) if commit.revision == *wanted && !commit.dirty => {}
            Some(commit) if commit.revision == *wanted => return Err(changed(commit)),
            Some(commit) => {
                return Err(format!("it was built from the commit {}, not {wanted}", commit.revision));
            }
            None => return Err("it does not say which commit was built".to_owned()),
        }
    }
    if let Some(named) = expected.release.as_ref().and_then(|named| named.provenance) {
        let found = statement.to_bytes().map(Digest::of).map_err(|error| error.to_string())?;
        if found != named {
            return Err(format!("the release names another provenance ({})", named.short()));
        }
    }
    let source = match &commit {
        Some(commit) if commit.dirty => format!("from {} with changes", commit.revision),
        Some(commit) => format!("from {}", commit.revision),
        None => "from no commit".to_owned(),
    };
    let dependencies = provenance.build_definition.resolved_dependencies.len();
    let of = service.map_or_else(String::new, |name| format!("of `{}` ", shown(name)));
    let detail = format!("{of}{source}, by {}, {dependencies} dependencies", shown(builder));
    Ok((provenance, detail))
}

fn changed(commit: &Commit) -> String {
    let why = commit.doubts.first().map_or_else(String::new, |doubt| format!(": {}", shown(doubt)));
    format!("it was built from a work tree with changes that the commit does not hold{why}")
}

/// `built` is what the provenance says came out; `None` where no provenance is believed.
fn same_sbom(
    statement: &Statement,
    built: Option<Option<Digest>>,
    named: Option<Digest>,
) -> Result<((), String), String> {
    let bytes = canonical(&statement.predicate).map_err(|error| format!("it cannot be read: {error:#}"))?;
    let found = Digest::of(bytes);
    match built {
        None => return Err("without provenance nobody says that it is the SBOM of this build".to_owned()),
        Some(None) => return Err("the provenance knows of no such SBOM".to_owned()),
        Some(Some(built)) if built != found => {
            return Err(format!("it is {}, and the provenance says {}", found.short(), built.short()));
        }
        Some(Some(_)) => {}
    }
    match named {
        Some(named) if named != found => {
            Err(format!("it is {}, and the release says {}", found.short(), named.short()))
        }
        _ => Ok(((), found.to_string())),
    }
}

fn same_image(image: &Digest, named: &Named) -> Check {
    let outcome = if named.image == *image { Outcome::Ok } else { Outcome::Failed };
    let detail = match outcome {
        Outcome::Ok => "names this image".to_owned(),
        Outcome::Failed | Outcome::Missing => format!("names another image ({})", named.image.short()),
    };
    Check { name: "release", outcome, detail }
}

fn check<T>(name: &'static str, found: Result<(T, String), Doubt>) -> (Check, Option<T>) {
    match found {
        Ok((accepted, detail)) => (Check { name, outcome: Outcome::Ok, detail }, Some(accepted)),
        Err((outcome, detail)) => (Check { name, outcome, detail }, None),
    }
}

fn hint(key: &PublicKey) -> String {
    key.hint().unwrap_or_else(|_| "?".to_owned())
}

#[cfg(test)]
#[path = "judge/tests.rs"]
mod tests;
