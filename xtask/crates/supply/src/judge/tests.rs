//! What somebody could do to an image's documents, and that each of it is refused for a reason that says what is wrong.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;
use crate::bundle::sign;
use crate::key::tests::key;
use crate::provenance::{BUILD_TYPE, Builder, Commit, Definition, LOCAL_BUILDER, Resource, Run};
use crate::statement::Subject;

const COMMIT: &str = "c0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ff";

/// Signing takes longer than all the rest.
static GOOD: LazyLock<Vec<Attached>> =
    LazyLock::new(|| statements(&Digest::of("image")).iter().map(bundle).collect());

/// An image, and the four bundles about it, in the order of their checks.
struct Case {
    image: Digest,
    attached: Vec<Attached>,
    expected: Expected,
}

fn sbom(name: &str) -> Value {
    json!({ "name": name, "components": [] })
}

fn statement(kind: &str, said: Value, image: &Digest) -> Statement {
    Statement {
        subjects: vec![Subject { name: "web".into(), digest: *image }],
        predicate_type: kind.into(),
        predicate: said,
    }
}

fn bundle(statement: &Statement) -> Attached {
    Attached {
        artifact_type: BUNDLE.into(),
        predicate_type: Some(statement.predicate_type.clone()),
        content: Ok(sign(statement, &key(7)).unwrap()),
    }
}

fn provenance_of(cyclonedx: &Value, spdx: &Value) -> Provenance {
    let byproduct = |media_type: &str, document: &Value| Resource {
        media_type: Some(media_type.into()),
        ..Resource::of_digest("sbom", &Digest::of(canonical(document).unwrap()))
    };
    let commit = Commit { revision: COMMIT.into(), dirty: false, doubts: vec![], repository: None };
    Provenance {
        build_definition: Definition {
            build_type: BUILD_TYPE.into(),
            external_parameters: [("service".to_owned(), json!("web"))].into(),
            internal_parameters: BTreeMap::new(),
            resolved_dependencies: vec![Resource::of_commit(&commit)],
        },
        run_details: Run {
            builder: Builder { id: LOCAL_BUILDER.into(), version: BTreeMap::new() },
            byproducts: vec![byproduct(SBOMS[0].1, cyclonedx), byproduct(SBOMS[1].1, spdx)],
        },
    }
}

fn statements(image: &Digest) -> [Statement; 4] {
    let provenance = provenance_of(&sbom("c"), &sbom("s")).to_predicate().unwrap();
    [
        statement(predicate::SIGNATURE, json!({}), image),
        statement(predicate::PROVENANCE, provenance, image),
        statement(predicate::CYCLONEDX, sbom("c"), image),
        statement(predicate::SPDX, sbom("s"), image),
    ]
}

impl Case {
    fn good() -> Case {
        let image = Digest::of("image");
        let named = Named {
            image,
            sbom: Digest::of(canonical(&sbom("c")).unwrap()),
            spdx: Some(Digest::of(canonical(&sbom("s")).unwrap())),
            provenance: Some(Digest::of(statements(&image)[1].to_bytes().unwrap())),
        };
        let expected = Expected {
            service: Some("web".into()),
            builder: Some(LOCAL_BUILDER.into()),
            revision: Some(COMMIT.into()),
            release: Some(named),
        };
        Case { image, attached: GOOD.clone(), expected }
    }

    fn verdict(&self) -> Verdict {
        judge(&self.image, &self.attached, &key(7).public(), &self.expected)
    }

    /// Changes the JSON of one bundle.
    fn edit(&mut self, at: usize, change: impl Fn(&mut Value)) {
        let mut value: Value = serde_json::from_slice(self.attached[at].content.as_ref().unwrap()).unwrap();
        change(&mut value);
        self.attached[at].content = Ok(serde_json::to_vec(&value).unwrap());
    }

    /// Changes the signed text of one bundle and leaves its signature.
    fn forge(&mut self, at: usize, from: &str, to: &str) {
        self.edit(at, |value| {
            let payload = STANDARD.decode(value["dsseEnvelope"]["payload"].as_str().unwrap()).unwrap();
            let text = String::from_utf8(payload).unwrap();
            assert!(text.contains(from), "{text}");
            value["dsseEnvelope"]["payload"] = json!(STANDARD.encode(text.replace(from, to)));
        });
    }

    /// Has another statement signed with the right key in place of one.
    fn resign(&mut self, at: usize, change: impl Fn(&mut Statement)) {
        let mut statement = statements(&self.image)[at].clone();
        change(&mut statement);
        self.attached[at] = bundle(&statement);
    }
}

#[test]
fn what_is_in_order_is_believed() {
    let verdict = Case::good().verdict();
    assert!(verdict.is_good(), "{:?}", verdict.checks);
    assert_eq!(verdict.checks.len(), 5);
    assert_eq!(verdict.provenance.unwrap().commit().unwrap().revision, COMMIT);
}

/// Whoever may write to a registry may attach whatever they like: that must not make a good image a bad one.
#[test]
fn what_others_attach_changes_nothing() {
    let mut case = Case::good();
    let junk = |content: &[u8]| Attached { content: Ok(content.to_vec()), ..case.attached[1].clone() };
    let others = [junk(b""), junk(b"{}"), Attached { artifact_type: "text/plain".into(), ..junk(b"x") }];
    let foreign = sign(&statements(&case.image)[1], &key(8)).unwrap();
    let foreign = junk(&foreign);
    case.attached.splice(0..0, others);
    case.attached.insert(0, foreign);
    assert!(case.verdict().is_good(), "{:?}", case.verdict().checks);
}

type Tampering = (&'static str, fn(&mut Case), &'static str, Outcome, &'static str);

const ENVELOPE: &str = "dsseEnvelope";

/// What was done, how, which check tells, how it ends, and what is said.
const TAMPERED: &[Tampering] = &[
    (
        "another service's image in the place of this one",
        |case| case.expected.service = Some("admin".into()),
        "provenance",
        Outcome::Failed,
        "it is of `web`, not of `admin`",
    ),
    ("unsigned", |case| case.attached.clear(), "signature", Outcome::Missing, "nothing of this kind"),
    (
        "only the signature is gone",
        |case| drop(case.attached.remove(0)),
        "signature",
        Outcome::Missing,
        "nothing",
    ),
    (
        "signed with another key",
        |case| {
            let statement = statements(&case.image)[0].clone();
            case.attached[0].content = Ok(sign(&statement, &key(8)).unwrap());
        },
        "signature",
        Outcome::Failed,
        "not signed with this key",
    ),
    (
        "the hint names the right key, another one signed",
        |case| {
            let forged = sign(&statements(&case.image)[1], &key(8)).unwrap();
            case.attached[1].content = Ok(forged);
            let hint = key(7).public().hint().unwrap();
            case.edit(1, |value| value["verificationMaterial"]["publicKey"]["hint"] = json!(hint));
        },
        "provenance",
        Outcome::Failed,
        "not signed with this key",
    ),
    (
        "the digest of the subject is swapped in the text",
        |case| {
            case.forge(0, &Digest::of("image").hex(), &Digest::of("other").hex());
        },
        "signature",
        Outcome::Failed,
        "changed since",
    ),
    (
        "the tag moved to another image",
        |case| case.image = Digest::of("other"),
        "signature",
        Outcome::Failed,
        "about another image",
    ),
    (
        "the tag moved to another image, seen by the release",
        |case| case.image = Digest::of("other"),
        "release",
        Outcome::Failed,
        "names another image",
    ),
    (
        "the signature of another image",
        |case| {
            case.resign(0, |statement| statement.subjects[0].digest = Digest::of("other"));
        },
        "signature",
        Outcome::Failed,
        "about another image",
    ),
    (
        "the provenance of another image",
        |case| {
            case.resign(1, |statement| statement.subjects[0].digest = Digest::of("other"));
        },
        "provenance",
        Outcome::Failed,
        "about another image",
    ),
    (
        "the SBOM of another image",
        |case| {
            case.resign(2, |statement| statement.subjects[0].digest = Digest::of("other"));
        },
        "sbom cyclonedx",
        Outcome::Failed,
        "about another image",
    ),
    (
        "no SBOM",
        |case| drop(case.attached.remove(2)),
        "sbom cyclonedx",
        Outcome::Missing,
        "nothing of this kind",
    ),
    (
        "no SPDX document",
        |case| drop(case.attached.pop()),
        "sbom spdx",
        Outcome::Missing,
        "nothing of this kind",
    ),
    (
        "the SBOM of an earlier build, signed then",
        |case| {
            case.resign(2, |statement| statement.predicate = sbom("older"));
        },
        "sbom cyclonedx",
        Outcome::Failed,
        "the provenance says",
    ),
    (
        "SBOM and provenance of an earlier build",
        |case| {
            case.resign(2, |statement| statement.predicate = sbom("older"));
            case.resign(1, |statement| {
                statement.predicate = provenance_of(&sbom("older"), &sbom("s")).to_predicate().unwrap();
            });
            case.expected.release.as_mut().unwrap().provenance = None;
        },
        "sbom cyclonedx",
        Outcome::Failed,
        "the release says",
    ),
    (
        "a component is taken out of the SBOM",
        |case| case.forge(2, "components", "component"),
        "sbom cyclonedx",
        Outcome::Failed,
        "changed since",
    ),
    (
        "a provenance that knows of no SBOM",
        |case| {
            case.resign(1, |statement| statement.predicate["runDetails"]["byproducts"] = json!([]));
            case.expected.release.as_mut().unwrap().provenance = None;
        },
        "sbom spdx",
        Outcome::Failed,
        "knows of no such SBOM",
    ),
    (
        "no provenance, so nobody vouches for the SBOM",
        |case| drop(case.attached.remove(1)),
        "sbom cyclonedx",
        Outcome::Failed,
        "without provenance",
    ),
    (
        "another provenance than the release names",
        |case| {
            case.resign(1, |statement| statement.subjects[0].name = "other".into());
        },
        "provenance",
        Outcome::Failed,
        "the release names another provenance",
    ),
    (
        "the payload's type is changed",
        |case| {
            case.edit(1, |value| value[ENVELOPE]["payloadType"] = json!("text/plain"));
        },
        "provenance",
        Outcome::Failed,
        "of the type `text/plain`",
    ),
    (
        "a statement of an older kind, kept as the new one",
        |case| {
            case.resign(1, |statement| statement.predicate_type = "https://slsa.dev/provenance/v0.2".into());
            case.attached[1].predicate_type = Some(predicate::PROVENANCE.into());
        },
        "provenance",
        Outcome::Failed,
        "v0.2",
    ),
    (
        "a statement of an older kind",
        |case| {
            case.resign(1, |statement| statement.predicate_type = "https://slsa.dev/provenance/v0.2".into());
        },
        "provenance",
        Outcome::Missing,
        "nothing of this kind",
    ),
    (
        "a signature passed off as provenance",
        |case| {
            case.attached[1] =
                Attached { predicate_type: Some(predicate::PROVENANCE.into()), ..case.attached[0].clone() };
        },
        "provenance",
        Outcome::Failed,
        "it is kept as",
    ),
    (
        "an envelope of another statement type",
        |case| {
            case.forge(0, "Statement/v1", "Statement/v0");
        },
        "signature",
        Outcome::Failed,
        "changed since",
    ),
    (
        "the bundle is cut off",
        |case| {
            let content = case.attached[1].content.as_mut().unwrap();
            content.truncate(content.len() / 2);
        },
        "provenance",
        Outcome::Failed,
        "damaged",
    ),
    (
        "the bundle is empty",
        |case| case.attached[0].content = Ok(vec![]),
        "signature",
        Outcome::Failed,
        "damaged",
    ),
    (
        "two signatures",
        |case| {
            case.edit(0, |value| {
                let one = value[ENVELOPE]["signatures"][0].clone();
                value[ENVELOPE]["signatures"] = json!([one.clone(), one]);
            });
        },
        "signature",
        Outcome::Failed,
        "2 signatures",
    ),
    (
        "no signatures",
        |case| case.edit(0, |value| value[ENVELOPE]["signatures"] = json!([])),
        "signature",
        Outcome::Failed,
        "0 signatures",
    ),
    (
        "an empty signature",
        |case| case.edit(0, |value| value[ENVELOPE]["signatures"][0]["sig"] = json!("")),
        "signature",
        Outcome::Failed,
        "not signed",
    ),
    (
        "a signature that is not base64",
        |case| {
            case.edit(0, |value| value[ENVELOPE]["signatures"][0]["sig"] = json!("%%%"));
        },
        "signature",
        Outcome::Failed,
        "signature is not base64",
    ),
    (
        "a payload that is not base64",
        |case| case.edit(3, |value| value[ENVELOPE]["payload"] = json!("%%%")),
        "sbom spdx",
        Outcome::Failed,
        "payload is not base64",
    ),
    (
        "the zero signature",
        |case| {
            case.edit(0, |value| {
                value[ENVELOPE]["signatures"][0]["sig"] = json!(STANDARD.encode([0x30, 6, 2, 1, 0, 2, 1, 0]))
            });
        },
        "signature",
        Outcome::Failed,
        "not signed",
    ),
    (
        "a certificate in place of the key",
        |case| {
            case.edit(0, |value| {
                value["verificationMaterial"] = json!({ "certificate": { "rawBytes": "" } })
            });
        },
        "signature",
        Outcome::Failed,
        "certificate",
    ),
    (
        "no envelope",
        |case| case.edit(0, |value| drop(value.as_object_mut().unwrap().remove(ENVELOPE))),
        "signature",
        Outcome::Failed,
        "no envelope",
    ),
    (
        "a huge file",
        |case| {
            case.attached[0].content = Ok(vec![b' '; usize::try_from(crate::MAX_BUNDLE).unwrap() + 1]);
        },
        "signature",
        Outcome::Failed,
        "bytes long",
    ),
    (
        "deep nesting",
        |case| case.attached[0].content = Ok("[".repeat(1 << 20).into_bytes()),
        "signature",
        Outcome::Failed,
        "damaged",
    ),
    (
        "a blob that cannot be read",
        |case| case.attached[0].content = Err("its content is another".into()),
        "signature",
        Outcome::Failed,
        "its content is another",
    ),
    (
        "a bundle of another version",
        |case| {
            case.edit(0, |value| value["mediaType"] = json!("application/vnd.dev.sigstore.bundle.v9+json"));
        },
        "signature",
        Outcome::Failed,
        "bundle.v9",
    ),
    (
        "kept as something else",
        |case| case.attached[0].artifact_type = "application/json".into(),
        "signature",
        Outcome::Missing,
        "nothing",
    ),
    (
        "another builder",
        |case| case.expected.builder = Some("https://ci.example/1".into()),
        "provenance",
        Outcome::Failed,
        "not by `https://ci.example/1`",
    ),
    (
        "another commit",
        |case| case.expected.revision = Some("ab".repeat(20)),
        "provenance",
        Outcome::Failed,
        "from the commit c0ffee",
    ),
    (
        "changes that no commit holds",
        |case| {
            case.resign(1, |statement| {
                statement.predicate["buildDefinition"]["resolvedDependencies"][0]["annotations"]["dirty"] =
                    json!(true);
            });
        },
        "provenance",
        Outcome::Failed,
        "with changes",
    ),
    (
        "provenance that does not say the commit",
        |case| {
            case.resign(1, |statement| {
                statement.predicate["buildDefinition"]["resolvedDependencies"] = json!([])
            });
        },
        "provenance",
        Outcome::Failed,
        "which commit",
    ),
    (
        "another build type",
        |case| {
            case.resign(1, |statement| {
                statement.predicate["buildDefinition"]["buildType"] = json!("urn:other")
            });
        },
        "provenance",
        Outcome::Failed,
        "build type `urn:other`",
    ),
    (
        "provenance of another shape",
        |case| {
            case.resign(1, |statement| statement.predicate = json!([1]));
        },
        "provenance",
        Outcome::Failed,
        "not a SLSA provenance",
    ),
];

#[test]
fn everything_that_was_tampered_with_is_refused_for_its_own_reason() {
    for (what, tamper, name, outcome, said) in TAMPERED {
        let mut case = Case::good();
        tamper(&mut case);
        let verdict = case.verdict();
        assert!(!verdict.is_good(), "{what}");
        let check = verdict.checks.iter().find(|check| check.name == *name).unwrap();
        assert_eq!(check.outcome, *outcome, "{what}: {}", check.detail);
        assert!(check.detail.contains(said), "{what}: {}", check.detail);
    }
    assert!(TAMPERED.len() >= 40, "{}", TAMPERED.len());
}

/// Bytes of a bundle changed in many ways: nothing panics, and nothing else than before is believed.
#[test]
fn no_bytes_make_it_panic_or_believe_something_else() {
    let good = Case::good().verdict();
    let length = GOOD[1].content.as_ref().unwrap().len();
    for at in (0..length).step_by(29) {
        for byte in [b'\0', b'"', b'9'] {
            let mut case = Case::good();
            case.attached[1].content.as_mut().unwrap()[at] = byte;
            let verdict = case.verdict();
            assert!(!verdict.is_good() || verdict == good, "byte {at} = {byte}");
        }
    }
}
