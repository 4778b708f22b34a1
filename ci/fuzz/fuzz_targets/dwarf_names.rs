//! Mangled names of symbols, and tables of unwind information.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(name) = std::str::from_utf8(data) {
        deps::fuzzing::symbol(name);
    }
    deps::fuzzing::unwind(data, 0x1000);
    deps::fuzzing::unwind(data, u64::MAX - 3);
});
