//! Signed bundles: anybody's bytes, and bytes that were signed with the right key.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use stdx::Digest;
use supply::{Attached, BUNDLE, Expected, Named, PublicKey, SigningKey, Statement, judge, predicate};

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_random(&[7; 32]).unwrap());

fuzz_target!(|data: &[u8]| {
    let image = Digest::of("image");
    let public = KEY.public();
    assert!(supply::verify(data, &public).is_err(), "nobody can sign without the key");
    if let Ok(text) = std::str::from_utf8(data) {
        drop(PublicKey::from_pem(text));
        drop(SigningKey::from_pem(text));
    }
    let mut contents = vec![data.to_vec()];
    if let Ok(statement) = Statement::parse(data) {
        let signed = supply::sign(&statement, &KEY).unwrap();
        assert_eq!(supply::verify(&signed, &public).unwrap(), statement);
        contents.push(signed);
    }
    for content in contents {
        let kinds = [predicate::SIGNATURE, predicate::PROVENANCE, predicate::CYCLONEDX, predicate::SPDX];
        let attached = kinds.iter().map(|kind| Attached {
            artifact_type: BUNDLE.to_owned(),
            predicate_type: Some((*kind).to_owned()),
            content: Ok(content.clone()),
        });
        let named = Named { image, sbom: image, spdx: Some(image), provenance: Some(image) };
        let expected =
            Expected { builder: Some("b".to_owned()), revision: Some("r".to_owned()), release: Some(named) };
        let verdict = judge(&image, &attached.collect::<Vec<_>>(), &public, &expected);
        assert!(!verdict.is_good(), "one document cannot be all four");
    }
});
