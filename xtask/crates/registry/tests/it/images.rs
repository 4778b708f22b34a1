//! Whole images and indexes, from a layout to a registry and back; programs that are not ours read what we sent, and we read what
//! they sent.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use oci::Layout;
use registry::{Push, Pushed, Reference, Registry, Silent, Transfer};
use stdx::Digest;

use crate::rig::{RealRegistry, Reply, Server, Way, connect, have, noise, options, run};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

fn descriptor(layout: &Layout, media_type: &str, digest: &Digest) -> serde_json::Value {
    let size = std::fs::metadata(layout.blob_path(digest)).unwrap().len();
    serde_json::json!({ "mediaType": media_type, "digest": digest, "size": size })
}

/// A tar archive with one file.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(name), content).unwrap();
    run("tar", &["-C", folder.path().to_str().unwrap(), "-cf", "-", name])
}

/// An image of these layers, for a processor.
fn image(layout: &Layout, architecture: &str, layers: &[Vec<u8>]) -> Digest {
    let layers: Vec<Digest> = layers.iter().map(|layer| layout.put(layer).unwrap()).collect();
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": layers },
    });
    let config = layout.put(config.to_string().as_bytes()).unwrap();
    let layers: Vec<_> = layers.iter().map(|layer| descriptor(layout, LAYER, layer)).collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(layout, CONFIG, &config), "layers": layers,
    });
    layout.put(manifest.to_string().as_bytes()).unwrap()
}

fn index(layout: &Layout, images: &[(&str, Digest)]) -> Digest {
    let entry = |(architecture, image): &(&str, Digest)| {
        let mut entry = descriptor(layout, MANIFEST, image);
        entry["platform"] = serde_json::json!({ "os": "linux", "architecture": architecture });
        entry
    };
    let manifests: Vec<_> = images.iter().map(entry).collect();
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    layout.put(index.to_string().as_bytes()).unwrap()
}

fn push(registry: &Registry, layout: &Layout, image: &Digest, name: &str) -> anyhow::Result<Pushed> {
    let to: Reference = format!("{}/{name}", registry.host()).parse()?;
    Push { registry, layout, image, to: &to, tags: &[], says: &registry::ByContent }.run(&Silent)
}

#[test]
fn an_index_with_all_that_is_attached_goes_and_comes_back() {
    let Some(real) = RealRegistry::start() else { return };
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let layout = Layout::create(from.path()).unwrap();
    let shared = noise(40_000, 1);
    let amd = image(&layout, "amd64", &[shared.clone(), noise(1000, 2)]);
    let arm = image(&layout, "arm64", &[shared.clone(), noise(1000, 3)]);
    let both = index(&layout, &[("amd64", amd), ("arm64", arm)]);
    for subject in [amd, arm, both] {
        layout.attach(&subject, "text/plain", subject.to_string().as_bytes(), Default::default()).unwrap();
    }
    let registry = real.connect();
    let pushed = push(&registry, &layout, &both, "team/api:v1").unwrap();
    // Three layers, two configurations, three documents and the empty configuration of artifacts.
    assert_eq!((pushed.sent, pushed.present, pushed.referrers), (9, 0, 3));

    let target = Layout::create(to.path()).unwrap();
    let name: Reference = format!("{}/team/api:v1", real.host).parse().unwrap();
    for _ in 0..2 {
        assert_eq!(registry::pull_with(&registry, &name, &target, &Silent).unwrap(), both);
    }
    for digest in [amd, arm, both] {
        assert_eq!(target.document(&digest).unwrap(), layout.document(&digest).unwrap());
        assert_eq!(target.referrers(&digest).unwrap(), layout.referrers(&digest).unwrap());
        assert_eq!(target.referrers(&digest).unwrap().len(), 1);
    }
    assert!(target.holds(&Digest::of(&shared)));
    let tags: Vec<_> = target.tags().unwrap().into_iter().map(|tag| (tag.name, tag.digest)).collect();
    assert_eq!(tags, [("v1".to_owned(), both)]);
    let by_digest: Reference = format!("{}/team/api@{arm}", real.host).parse().unwrap();
    assert_eq!(registry::pull_with(&registry, &by_digest, &target, &Silent).unwrap(), arm);
    let none: Reference = format!("{}/team/api:none", real.host).parse().unwrap();
    let error = registry::pull_with(&registry, &none, &target, &Silent).unwrap_err();
    assert!(error.to_string().contains("there is no image"), "{error}");
}

#[test]
fn only_what_changed_is_sent() {
    let Some(real) = RealRegistry::start() else { return };
    let way = Way::to(&real.host);
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let base = noise(300_000, 4);
    let first = image(&layout, "amd64", &[base.clone(), noise(100_000, 5)]);
    push(&connect(&way.host), &layout, &first, "api:v1").unwrap();

    let registry = connect(&way.host);
    let unchanged = push(&registry, &layout, &first, "api:v1").unwrap();
    // The one beyond is the question whether a registry on this machine speaks TLS, once for all images.
    assert_eq!((unchanged.requests, unchanged.sent_bytes, unchanged.present), (2, 0, 3));
    assert_eq!(push(&registry, &layout, &first, "api:v1").unwrap().requests, 1);

    let changed = image(&layout, "amd64", &[base.clone(), noise(100_000, 6)]);
    let before = way.sent.load(Ordering::SeqCst);
    let pushed = push(&connect(&way.host), &layout, &changed, "api:v1").unwrap();
    let wire = way.sent.load(Ordering::SeqCst) - before;
    assert_eq!((pushed.sent, pushed.present, pushed.mounted), (2, 1, 0));
    assert!(pushed.sent_bytes < 102_000 && wire < 109_000, "{} bytes, {wire} on the wire", pushed.sent_bytes);

    // Another repository gets the base from this one; only its own layer goes over the wire.
    let other = image(&layout, "amd64", &[base, noise(50_000, 7)]);
    let registry = connect(&way.host);
    push(&registry, &layout, &changed, "api:v1").unwrap();
    let pushed = push(&registry, &layout, &other, "worker:v1").unwrap();
    assert_eq!((pushed.sent, pushed.mounted, pushed.mounted_bytes), (2, 1, 300_000));
}

#[test]
fn a_plan_changes_nothing_and_says_what_would_be_sent() {
    let Some(real) = RealRegistry::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let image = image(&layout, "amd64", &[noise(1000, 8)]);
    let registry = real.connect();
    let to: Reference = format!("{}/api", real.host).parse().unwrap();
    let tags = ["v1".to_owned(), "latest".to_owned()];
    let push = Push {
        registry: &registry,
        layout: &layout,
        image: &image,
        to: &to,
        tags: &tags,
        says: &registry::ByContent,
    };
    let plan = push.plan().unwrap();
    assert!(!plan.is_unchanged && plan.blobs.iter().all(|blob| blob.transfer == Transfer::Sent), "{plan:?}");
    assert_eq!(registry.repository("api").tags().unwrap(), [""; 0]);
    push.run(&Silent).unwrap();
    assert_eq!(registry.repository("api").tags().unwrap(), ["latest", "v1"]);
    let plan = push.plan().unwrap();
    assert!(
        plan.is_unchanged && plan.blobs.iter().all(|blob| blob.transfer == Transfer::Present),
        "{plan:?}"
    );
}

#[test]
fn a_blob_that_was_swept_away_meanwhile_is_sent_again() {
    let swept = std::sync::atomic::AtomicUsize::new(0);
    let server = Server::start(move |asked| {
        let manifest = asked.target.contains("/manifests/");
        match asked.method.as_str() {
            // At first all is there, and then nothing was.
            "HEAD" if manifest || swept.load(Ordering::SeqCst) > 0 => Reply::new(404, ""),
            "HEAD" => Reply::new(200, ""),
            "POST" => Reply::new(202, "").with("location", "/v2/api/blobs/uploads/1"),
            _ if manifest && swept.fetch_add(1, Ordering::SeqCst) == 0 => {
                Reply::new(400, r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}"#)
            }
            _ => Reply::new(201, ""),
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let image = image(&layout, "amd64", &[noise(1000, 11)]);
    let pushed = push(&server.connect(), &layout, &image, "api:v1").unwrap();
    assert_eq!((pushed.sent, pushed.present), (2, 0));
}

#[test]
fn a_damaged_blob_of_the_layout_is_not_sent() {
    let Some(real) = RealRegistry::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let layer = noise(1000, 9);
    let image = image(&layout, "amd64", std::slice::from_ref(&layer));
    let path = layout.blob_path(&Digest::of(&layer));
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"x").unwrap();
    let error = format!("{:#}", push(&real.connect(), &layout, &image, "api:v1").unwrap_err());
    assert!(error.contains("damaged"), "{error}");
    std::fs::write(&path, noise(1000, 10)).unwrap();
    let error = format!("{:#}", push(&real.connect(), &layout, &image, "api:v1").unwrap_err());
    assert!(error.contains("DIGEST_INVALID"), "{error}");
    assert_eq!(real.connect().repository("api").tags().unwrap(), [""; 0]);
}

#[test]
fn a_large_image_needs_little_memory() {
    // The client's own buffers: a blob is never in memory as a whole, whichever way it is sent.
    let Some(real) = RealRegistry::start() else { return };
    struct Watched<F>(u64, F);
    impl<F: Fn(usize)> std::io::Read for Watched<F> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.1(buffer.len());
            let read = buffer.len().min(usize::try_from(self.0).unwrap());
            buffer[..read].fill(0);
            self.0 -= read as u64;
            Ok(read)
        }
    }
    let size = 40 << 20;
    let digest = Digest::of_reader(std::io::Read::take(std::io::repeat(0), size)).unwrap().0;
    let options = registry::Options { chunk_size: 8 << 20, single_request_limit: 1, ..options() };
    let registry = Registry::connect_with(&real.host, options).unwrap();
    let largest = Arc::new(Mutex::new(0_usize));
    let seen = Arc::clone(&largest);
    let open = move || -> anyhow::Result<Box<dyn std::io::Read>> {
        let seen = Arc::clone(&seen);
        Ok(Box::new(Watched(size, move |length: usize| {
            let mut seen = seen.lock().unwrap();
            *seen = length.max(*seen);
        })))
    };
    registry.repository("large").push_blob(&digest, size, &open, None).unwrap();
    let largest = *largest.lock().unwrap();
    assert!(largest <= 1 << 20, "{largest} bytes at once");
}

#[test]
fn others_read_what_we_sent_and_we_read_what_they_sent() {
    let Some(real) = RealRegistry::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let amd = image(&layout, "amd64", &[tar("hello", b"amd")]);
    let arm = image(&layout, "arm64", &[tar("hello", b"arm")]);
    let both = index(&layout, &[("amd64", amd), ("arm64", arm)]);
    push(&real.connect(), &layout, &both, "team/api:v1").unwrap();
    let name = format!("{}/team/api", real.host);
    if have("skopeo") {
        let docker = format!("docker://{name}:v1");
        let inspected: serde_json::Value =
            serde_json::from_slice(&run("skopeo", &["inspect", "--tls-verify=false", &docker])).unwrap();
        assert_eq!(inspected["Digest"], both.to_string());
        let copied = folder.path().join("copied").display().to_string();
        let all =
            ["copy", "--quiet", "--all", "--src-tls-verify=false", &docker, &format!("oci:{copied}:v1")];
        run("skopeo", &all);
        // And the other way: what skopeo sends, in Docker's own format as well.
        for (format, tag) in [("oci", "theirs"), ("v2s2", "docker")] {
            let to = format!("docker://{name}:{tag}");
            let from = format!("oci:{copied}:v1");
            run(
                "skopeo",
                &[
                    "copy",
                    "--quiet",
                    "--dest-tls-verify=false",
                    "--override-arch=arm64",
                    "-f",
                    format,
                    &from,
                    &to,
                ],
            );
            let target = Layout::create(&folder.path().join(tag)).unwrap();
            let reference: Reference = format!("{name}:{tag}").parse().unwrap();
            let digest = registry::pull_with(&real.connect(), &reference, &target, &Silent).unwrap();
            let layers = target.document(&digest).unwrap();
            assert!(String::from_utf8(layers).unwrap().contains("layers"));
        }
    }
    if have("crane") {
        let digest = run("crane", &["digest", "--insecure", &format!("{name}:v1")]);
        assert_eq!(String::from_utf8(digest).unwrap().trim(), both.to_string());
        let manifest = run("crane", &["manifest", "--insecure", &format!("{name}@{arm}")]);
        assert_eq!(Digest::of(manifest), arm);
    }
}
