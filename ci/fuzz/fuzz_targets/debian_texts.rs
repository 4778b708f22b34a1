//! What a Debian archive and its packages say: lists of packages, release files, dependencies, copyright files.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    drop(base::debian::fuzzing::packages(text));
    drop(base::debian::fuzzing::release(text));
    base::debian::fuzzing::licence(text);
    let (relation, version) = text.rsplit_once('\n').unwrap_or((text, "1.0-1"));
    drop(base::debian::fuzzing::relations(relation, version));
});
