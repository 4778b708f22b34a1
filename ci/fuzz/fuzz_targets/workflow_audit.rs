//! Workflows and configuration, as the audits read them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    audit::fuzzing::yaml(text);
});
