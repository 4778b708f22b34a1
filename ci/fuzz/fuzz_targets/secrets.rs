//! Texts in which secrets are looked for.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for path in ["src/main.rs", ".env", "deploy/key.pem", "config.json"] {
        secrets::text(path, data);
    }
});
