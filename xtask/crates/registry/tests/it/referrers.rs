//! What is attached to an image: the fallback index of a real registry that keeps no list, and a registry that keeps one.

use std::collections::BTreeMap;
use std::sync::Mutex;

use oci::Layout;
use registry::{Registry, Repository};
use stdx::Digest;

use crate::rig::{RealRegistry, Reply, Server, connect};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A layout with an image of nothing, and documents attached to it.
fn layout(folder: &std::path::Path, documents: &[&str]) -> (Layout, Digest) {
    let layout = Layout::create(folder).unwrap();
    let config = layout.put(b"{}").unwrap();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2 },
    });
    let image = layout.put(&serde_json::to_vec(&manifest).unwrap()).unwrap();
    for document in documents {
        let annotations = BTreeMap::from([("about".to_owned(), (*document).to_owned())]);
        layout.attach(&image, "text/plain", document.as_bytes(), annotations).unwrap();
    }
    (layout, image)
}

fn push(layout: &Layout, image: &Digest, registry: &Registry, name: &str) {
    let to = format!("{}/{name}:v1", registry.host()).parse().unwrap();
    let push = registry::Push { registry, layout, image, to: &to, tags: &[], says: &registry::ByContent };
    push.run(&registry::Silent).unwrap();
}

fn fallback(repository: &Repository, image: &Digest) -> serde_json::Value {
    let manifest = repository.manifest(&format!("sha256-{}", image.hex())).unwrap().unwrap();
    assert_eq!(manifest.media_type, INDEX);
    serde_json::from_slice(&manifest.bytes).unwrap()
}

#[test]
fn a_registry_without_the_api_gets_the_fallback_index() {
    let Some(real) = RealRegistry::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (layout, image) = layout(folder.path(), &["one", "two"]);
    let mut attached = layout.referrers(&image).unwrap();
    attached.sort_by_key(|one| one.digest);
    for _ in 0..2 {
        let registry = real.connect();
        push(&layout, &image, &registry, "api");
        let repository = registry.repository("api");
        assert_eq!(repository.referrers(&image).unwrap(), attached);
        let index = fallback(&repository, &image);
        let entries = index["manifests"].as_array().unwrap();
        assert_eq!(entries.len(), 2, "{index}");
        for entry in entries {
            assert_eq!(
                (&entry["artifactType"], &entry["mediaType"]),
                (&"text/plain".into(), &MANIFEST.into())
            );
            assert!(["one", "two"].iter().any(|name| entry["annotations"]["about"] == *name), "{entry}");
        }
    }
    assert_eq!(real.connect().repository("api").referrers(&Digest::of("other")).unwrap(), []);
}

#[test]
fn a_manifest_with_a_subject_is_listed_when_it_is_put() {
    let Some(real) = RealRegistry::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (layout, image) = layout(folder.path(), &[]);
    push(&layout, &image, &real.connect(), "api");
    let repository = real.connect().repository("api");
    let attached = layout.attach(&image, "text/plain", b"later", BTreeMap::new()).unwrap();
    repository.push_blob(&attached.content, 5, &|| Ok(Box::new(&b"later"[..])), None).unwrap();
    let bytes = layout.document(&attached.digest).unwrap();
    repository.put_manifest(&attached.digest.to_string(), MANIFEST, &bytes).unwrap();
    assert_eq!(repository.referrers(&image).unwrap(), [attached]);
    // The tag stands for the image already, and a push sees all the same that something new is attached.
    let signed = layout.attach(&image, "text/plain", b"signature", BTreeMap::new()).unwrap();
    push(&layout, &image, &real.connect(), "api");
    assert!(repository.referrers(&image).unwrap().contains(&signed));
    push(&layout, &image, &real.connect(), "other");
    assert_eq!(real.connect().repository("other").referrers(&image).unwrap().len(), 2);
}

#[test]
fn writers_at_the_same_time_lose_nothing_of_each_other() {
    let Some(real) = RealRegistry::start() else { return };
    let names: Vec<String> = (0..6).map(|number| format!("document {number}")).collect();
    let folders: Vec<_> = names.iter().map(|_| tempfile::tempdir().unwrap()).collect();
    let layouts: Vec<_> =
        names.iter().zip(&folders).map(|(name, folder)| layout(folder.path(), &[name])).collect();
    let image = layouts[0].1;
    std::thread::scope(|scope| {
        for (layout, image) in &layouts {
            let registry = connect(&real.host);
            scope.spawn(move || push(layout, image, &registry, "api"));
        }
    });
    let found = real.connect().repository("api").referrers(&image).unwrap();
    assert_eq!(found.len(), names.len(), "{found:?}");
}

#[test]
fn a_registry_with_the_api_gets_no_fallback_index() {
    let folder = tempfile::tempdir().unwrap();
    let (layout, image) = layout(folder.path(), &["one"]);
    for says_subject in [true, false] {
        let listed = Mutex::new(Vec::<serde_json::Value>::new());
        let server = Server::start(move |asked| {
            let mut listed = listed.lock().unwrap();
            match asked.method.as_str() {
                "HEAD" => Reply::new(404, ""),
                "POST" => Reply::new(202, "").with("location", "/v2/a/blobs/uploads/1"),
                "PUT" if asked.target.contains("/manifests/") => {
                    let mut manifest: serde_json::Value = serde_json::from_slice(&asked.body).unwrap();
                    let digest = Digest::of(&asked.body);
                    let reply = Reply::new(201, "").with("docker-content-digest", digest.to_string());
                    let subject = manifest["subject"]["digest"].take();
                    if subject.is_null() {
                        return reply;
                    }
                    listed.push(serde_json::json!({ "mediaType": MANIFEST, "digest": digest, "size": asked.body.len() }));
                    if says_subject { reply.with("oci-subject", subject.as_str().unwrap()) } else { reply }
                }
                "PUT" => Reply::new(201, ""),
                _ => {
                    let index =
                        serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": &*listed });
                    Reply::new(200, index.to_string()).with("content-type", INDEX)
                }
            }
        });
        push(&layout, &image, &server.connect(), "a");
        let asked = server.asked.lock().unwrap();
        assert!(!asked.iter().any(|asked| asked.target.contains("/manifests/sha256-")), "{asked:?}");
        let order: Vec<&str> = asked
            .iter()
            .filter(|asked| asked.method == "PUT")
            .filter_map(|a| a.target.split("/manifests/").nth(1))
            .collect();
        assert_eq!((order.len(), order[2]), (3, "v1"), "the tag goes last: {order:?}");
    }
}
