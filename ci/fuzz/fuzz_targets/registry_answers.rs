//! What registries, token servers and credential helpers say, files of credentials, and names of images.
#![no_main]

use libfuzzer_sys::fuzz_target;
use registry::Reference;

fuzz_target!(|data: &[u8]| {
    registry::fuzzing::answers(data);
    registry::fuzzing::document(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(reference) = text.parse::<Reference>() else { return };
    assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
    assert!(!reference.repository.contains("..") && !reference.repository.starts_with('/'));
    drop(reference.with_tag(&reference.selector()));
});
