//! A compressed layer of an image: unpacked, read file by file, and audited. The first byte chooses the media type.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oci::{Layout, Limits};
use serde_json::json;

const TYPES: [&str; 3] = ["", "+gzip", "+zstd"];
const LIMITS: Limits = Limits { bytes: 32 << 20, entries: 300, path: 4096, depth: 128, extension: 1 << 20 };

fuzz_target!(|data: &[u8]| {
    let Some((kind, layer)) = data.split_first() else { return };
    let media_type =
        format!("application/vnd.oci.image.layer.v1.tar{}", TYPES[usize::from(*kind) % TYPES.len()]);
    let outer = tempfile::tempdir().unwrap();
    let layout = Layout::create(&outer.path().join("layout")).unwrap();
    let digest = layout.put(layer).unwrap();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": [digest] }
    });
    let config = config.to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": layout.put(config.as_bytes()).unwrap(),
            "size": config.len(),
        },
        "layers": [{ "mediaType": media_type, "digest": digest, "size": layer.len() }],
    });
    let image = layout.put(manifest.to_string().as_bytes()).unwrap();
    let into = outer.path().join("rootfs");
    drop(oci::unpack_within(&layout, image, &into, LIMITS));
    drop(oci::visit_files(&layout, image, |_, content| {
        std::io::copy(content, &mut std::io::sink()).map(drop).map_err(Into::into)
    }));
    // A layer that cannot be read is a finding, never an error.
    audit::image(&layout, &image, "api", &audit::ImagePolicy::default()).unwrap();
    assert!(std::fs::read_dir(outer.path()).unwrap().count() <= 2);
});
