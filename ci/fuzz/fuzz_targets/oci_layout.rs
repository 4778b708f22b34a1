//! The documents of an image layout. Lines of `---` part them; `@0` to `@9` stand for the digests of those before; the last one
//! is the layout's index.
#![no_main]

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use oci::{Layout, Limits};

const LIMITS: Limits = Limits { bytes: 1 << 20, entries: 100, path: 4096, depth: 128, extension: 1 << 20 };

fuzz_target!(|data: &str| {
    let outer = tempfile::tempdir().unwrap();
    let layout = Layout::create(&outer.path().join("layout")).unwrap();
    let mut digests = Vec::new();
    let parts: Vec<&str> = data.split("\n---\n").take(11).collect();
    for (index, part) in parts.iter().enumerate() {
        let mut text = (*part).to_owned();
        for (number, digest) in digests.iter().enumerate() {
            text = text.replace(&format!("@{number}"), &format!("{digest}"));
        }
        if index + 1 == parts.len() {
            std::fs::write(layout.root().join("index.json"), text).unwrap();
        } else {
            digests.push(layout.put(text.as_bytes()).unwrap());
        }
    }
    let tags = layout.tags().unwrap_or_default();
    let into = outer.path().join("rootfs");
    for digest in digests.iter().chain(tags.iter().map(|tagged| &tagged.digest)) {
        drop(layout.referrers(digest));
        drop(layout.images(digest));
        drop(layout.config(digest));
        drop(layout.is_named("name", digest));
        drop(audit::image(&layout, digest, "api", &audit::ImagePolicy::default()));
        drop(secrets::image(
            &layout,
            *digest,
            "api",
            &secrets::Options::new(&std::sync::atomic::AtomicBool::new(false)),
        ));
        drop(oci::unpack_within(&layout, *digest, &into, LIMITS));
        if into.exists() {
            std::fs::remove_dir_all(&into).unwrap();
        }
    }
    for digest in &digests {
        drop(layout.adopt(Some("name"), digest));
        drop(layout.adopt(None, digest));
    }
    let keep = layout.tags().unwrap_or_default();
    if layout.prune(&BTreeSet::new(), Duration::ZERO, SystemTime::UNIX_EPOCH).is_ok() {
        // What a name leads to stays.
        assert!(keep.iter().all(|tagged| !digests.contains(&tagged.digest) || layout.holds(&tagged.digest)));
    }
});
