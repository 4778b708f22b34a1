use std::collections::BTreeSet;
use std::time::Duration;

use oci::{Compression, HealthCheck, ImageSpec, Layer};
use tar::{Builder, EntryType, Header};

use super::*;

/// A layer made by hand, entry by entry.
struct Archive(Builder<Vec<u8>>);

impl Archive {
    fn new() -> Archive {
        Archive(Builder::new(Vec::new()))
    }

    fn entry(mut self, path: &str, kind: EntryType, mode: u32, content: &[u8], link: &str) -> Archive {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_size(content.len() as u64);
        if !link.is_empty() {
            header.set_link_name_literal(link).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, path: &str, mode: u32, content: &[u8]) -> Archive {
        self.entry(path, EntryType::Regular, mode, content, "")
    }

    fn layer(self, layout: &Layout) -> Layer {
        let bytes = self.0.into_inner().unwrap();
        let digest = layout.put(&bytes).unwrap();
        let size = bytes.len() as u64;
        let comment = "good".to_owned();
        Layer { diff_id: digest, digest, size, unpacked_size: size, compression: Compression::None, comment }
    }
}

fn base() -> Archive {
    Archive::new()
        .entry("tmp/", EntryType::Directory, 0o1777, b"", "")
        .file("etc/passwd", 0o444, b"root:x:0:0::/:\napp:x:10001:10001::/:\n")
        .file("app/api", 0o555, b"\x7fELF")
        .entry("etc/localtime", EntryType::Symlink, 0o777, b"", "../usr/share/zoneinfo/UTC")
}

fn spec(layers: Vec<Layer>) -> ImageSpec {
    let label = |name: &str| (format!("org.opencontainers.image.{name}"), "1.2.3".to_owned());
    let command = vec!["/app/api".to_owned()];
    let health = HealthCheck { command, interval_ms: 1, timeout_ms: 1, start_period_ms: 1, retries: 1 };
    ImageSpec {
        architecture: "amd64".into(),
        created: "2026-01-01T00:00:00Z".into(),
        layers,
        entrypoint: vec!["/app/api".into()],
        cmd: vec![],
        env: [("TOKEN_TTL".to_owned(), "5".to_owned())].into(),
        user: "10001:10001".into(),
        working_dir: "/".into(),
        exposed_ports: vec![8000],
        volumes: vec![],
        stop_signal: "SIGTERM".into(),
        health_check: Some(health),
        labels: ["source", "revision", "version"].map(label).into(),
    }
}

fn policy() -> ImagePolicy {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    ImagePolicy { max_bytes: Some(4 << 20), now: Some(now), ..ImagePolicy::default() }
}

fn rules_of(layout: &Layout, digest: &Digest) -> Vec<String> {
    let findings = image(layout, digest, "api", &policy()).unwrap();
    findings.into_iter().map(|finding| finding.rule.id.trim_start_matches("image/").to_owned()).collect()
}

type Change<'a> = &'a dyn Fn(&mut ImageSpec);

/// The rules that an image trips whose good base has `top` above it and whose specification was changed.
fn judge(layout: &Layout, top: Option<Archive>, change: Change<'_>) -> Vec<String> {
    let mut layers = vec![base().layer(layout)];
    layers.extend(top.map(|top| top.layer(layout)));
    let mut spec = spec(layers);
    change(&mut spec);
    rules_of(layout, &spec.to_image().unwrap().write("api", layout).unwrap())
}

#[test]
fn each_rule_is_tripped_by_one_defect_and_by_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    assert_eq!(judge(&layout, None, &|_| {}), Vec::<String>::new());
    // The other two have a test of their own.
    let mut tripped = BTreeSet::from(["not-readable".to_owned(), "unknown-media-type".to_owned()]);
    for (rule, top) in bad_layers() {
        assert_eq!(judge(&layout, Some(top), &|_| {}), [rule], "{rule}");
        tripped.insert(rule.to_owned());
    }
    for (rule, change) in bad_documents() {
        assert_eq!(judge(&layout, None, change), [rule], "{rule}");
        tripped.insert(rule.to_owned());
    }
    let below = Archive::new().file("srv/big", 0o444, &[7; 1 << 17]).layer(&layout);
    let whiteout = Archive::new().file("srv/.wh.big", 0o444, b"");
    let removed = judge(&layout, Some(whiteout), &|spec| spec.layers.insert(1, below.clone()));
    assert_eq!(removed, ["deleted-file"]);
    tripped.insert("deleted-file".to_owned());
    let all: BTreeSet<String> =
        crate::definitions().filter_map(|rule| rule.id.strip_prefix("image/")).map(str::to_owned).collect();
    assert_eq!(tripped, all);
}

fn bad_layers() -> Vec<(&'static str, Archive)> {
    let file = |path: &str, mode: u32, content: &[u8]| Archive::new().file(path, mode, content);
    let folder = |path: &str, mode: u32| Archive::new().entry(path, EntryType::Directory, mode, b"", "");
    let of_kind = |kind: EntryType, link: &str| Archive::new().entry("x/y", kind, 0o444, b"", link);
    let big = vec![7u8; 1 << 20];
    let mut owned = Header::new_ustar();
    owned.set_path("app/tool").unwrap();
    owned.set_mode(0o755);
    owned.set_uid(10_001);
    owned.set_size(0);
    owned.set_cksum();
    let mut writable = Archive::new();
    writable.0.append(&owned, std::io::empty()).unwrap();
    let mut capable = Archive::new();
    capable.0.append_pax_extensions([("SCHILY.xattr.security.capability", b"\x01".as_slice())]).unwrap();
    vec![
        ("setuid-file", file("bin/su", 0o4555, b"x")),
        ("setuid-file", file("bin/wall", 0o2555, b"x")),
        ("file-capabilities", capable.file("app/ping", 0o555, b"x")),
        ("writable-program", writable),
        ("world-writable", file("srv/data", 0o666, b"x")),
        ("world-writable", folder("srv/", 0o777)),
        ("shell", file("bin/sh", 0o555, b"x")),
        ("shell", Archive::new().entry("bin/ash", EntryType::Symlink, 0o777, b"", "/x/y")),
        ("package-manager", file("usr/bin/apt-get", 0o555, b"x")),
        ("package-cache", file("var/lib/apt/lists/x", 0o444, b"x")),
        ("development-tool", file("usr/bin/gcc", 0o555, b"x")),
        ("device-node", of_kind(EntryType::Char, "")),
        ("link-escapes", of_kind(EntryType::Symlink, "../../etc/passwd")),
        ("link-escapes", of_kind(EntryType::Link, "../etc/passwd")),
        ("link-escapes", file("../evil", 0o444, b"x")),
        ("credential-file", file("root/.aws/credentials", 0o400, b"x")),
        ("credential-file", file("srv/id_rsa", 0o400, b"x")),
        ("credential-file", file("srv/tls.pem", 0o400, b"-----BEGIN EC PRIVATE KEY-----\n")),
        ("repository-folder", folder("srv/.git/", 0o755)),
        ("empty-password", file("etc/shadow", 0o400, b"root:*:1::::::\nguest::1::::::\n")),
        ("second-superuser", file("etc/passwd", 0o444, b"root:x:0:0::/:\ntoor:x:0:0::/:\n")),
        ("duplicate-bytes", file("a", 0o444, &big).file("b", 0o444, &big)),
        ("too-large", file("a", 0o444, &vec![0; 5 << 20])),
    ]
}

fn bad_documents() -> Vec<(&'static str, Change<'static>)> {
    vec![
        ("root-user", &|spec| spec.user = "0:0".into()),
        ("root-user", &|spec| spec.user = String::new()),
        ("named-user", &|spec| spec.user = "app".into()),
        ("secret-in-environment", &|spec| drop(spec.env.insert("DB_PASSWORD".into(), "hunter2".into()))),
        ("secret-in-metadata", &|spec| drop(spec.labels.insert("build.token".into(), "hunter2".into()))),
        ("secret-in-metadata", &|spec| spec.layers[0].comment = "|1 NPM_TOKEN=abc /bin/sh -c x".into()),
        ("no-health-check", &|spec| spec.health_check = None),
        ("no-stop-signal", &|spec| spec.stop_signal.clear()),
        ("privileged-port", &|spec| spec.exposed_ports = vec![80]),
        ("relative-path", &|spec| spec.working_dir = "srv".into()),
        ("relative-path", &|spec| spec.entrypoint = vec!["api".into()]),
        ("shell-entrypoint", &|spec| spec.entrypoint = ["/bin/sh", "-c", "api"].map(String::from).into()),
        ("no-entrypoint", &|spec| spec.entrypoint.clear()),
        ("missing-label", &|spec| drop(spec.labels.remove("org.opencontainers.image.source"))),
        ("floating-tag", &|spec| {
            drop(spec.labels.insert("org.opencontainers.image.version".into(), "latest".into()));
        }),
        ("created-in-future", &|spec| spec.created = "2099-01-01T00:00:00Z".into()),
    ]
}

#[test]
fn a_worker_without_a_port_needs_no_health_check() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let found = judge(&layout, None, &|spec| (spec.exposed_ports, spec.health_check) = (vec![], None));
    assert_eq!(found, Vec::<String>::new());
}

/// The manifest of `spec` after a change of its text, as another tool might have written it.
fn rewritten(layout: &Layout, spec: &ImageSpec, from: &str, to: &str) -> Digest {
    let image = spec.to_image().unwrap();
    layout.put(&image.config).unwrap();
    let manifest = String::from_utf8(image.manifest).unwrap();
    assert!(manifest.contains(from));
    layout.put(manifest.replace(from, to).as_bytes()).unwrap()
}

#[test]
fn unknown_and_damaged_layers_are_findings_and_an_index_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let spec = spec(vec![base().layer(&layout)]);
    let xz = rewritten(&layout, &spec, "layer.v1.tar", "layer.v1.tar+xz");
    assert_eq!(rules_of(&layout, &xz), ["unknown-media-type"]);
    let not_gzip = rewritten(&layout, &spec, "layer.v1.tar", "layer.v1.tar+gzip");
    assert_eq!(rules_of(&layout, &not_gzip), ["not-readable"]);
    let not_zstd = rewritten(&layout, &spec, "layer.v1.tar", "layer.v1.tar+zstd");
    assert_eq!(rules_of(&layout, &not_zstd), ["not-readable"]);
    let index =
        format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{xz}"}},{{"digest":"{not_gzip}"}}]}}"#);
    let index = layout.put(index.as_bytes()).unwrap();
    assert_eq!(rules_of(&layout, &index), ["not-readable", "unknown-media-type"]);
    std::fs::remove_file(layout.blob_path(&spec.layers[0].digest)).unwrap();
    assert_eq!(rules_of(&layout, &spec.to_image().unwrap().write("a", &layout).unwrap()), ["not-readable"]);
}

#[test]
fn layers_of_every_compression_are_read() {
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(folder.path()).unwrap();
        let mut tree = oci::Tree::new();
        tree.file("bin/sh", 0o4555, oci::Source::Bytes(b"x".to_vec())).unwrap();
        let layer = Layer::pack(&tree, compression, "", &layout).unwrap();
        let built = spec(vec![base().layer(&layout), layer]).to_image().unwrap();
        assert_eq!(rules_of(&layout, &built.write("a", &layout).unwrap()), ["setuid-file", "shell"]);
    }
}

#[test]
fn an_opaque_folder_hides_lower_layers_and_not_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let below = Archive::new().file("srv/bin/sh", 0o555, b"x").layer(&layout);
    let opaque = Archive::new().file("srv/.wh..wh..opq", 0o444, b"");
    let own = Archive::new().file("srv/bin/bash", 0o555, b"x").file("srv/.wh..wh..opq", 0o444, b"");
    for (top, expected) in [(opaque, vec![]), (own, vec!["shell"])] {
        assert_eq!(judge(&layout, Some(top), &|spec| spec.layers.insert(1, below.clone())), expected);
    }
}

/// Each whiteout of a folder that stays full has to look at all of it.
#[test]
fn whiteouts_without_end_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let many = (0..2000).fold(Archive::new(), |all, number| all.file(&format!("d/{number}"), 0o444, b""));
    let opaque = (0..4000).fold(many, |all, _| all.file("d/.wh..wh..opq", 0o444, b""));
    assert_eq!(judge(&layout, Some(opaque), &|_| {}), ["not-readable"]);
}

#[test]
fn names_and_attributes_without_end_are_refused_before_they_are_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let mut sized = Archive::new();
    sized.0.append_pax_extensions([("size", b"0".as_slice())]).unwrap();
    for top in [
        Archive::new().entry("long", EntryType::GNULongName, 0o444, &vec![b'a'; 2 << 20], ""),
        Archive::new().entry("pax", EntryType::XHeader, 0o444, &vec![b'a'; 2 << 20], ""),
        sized.file("x", 0o444, b"hidden"),
    ] {
        assert_eq!(judge(&layout, Some(top), &|_| {}), ["not-readable"]);
    }
}

#[test]
fn no_bytes_of_a_layer_or_document_make_it_panic() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let good = base().0.into_inner().unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..60 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..20) {
            let at = random.usize(0..bytes.len());
            bytes[at] = random.u8(..);
        }
        bytes.truncate(random.usize(0..=bytes.len()));
        let digest = layout.put(&bytes).unwrap();
        let comment = String::new();
        let layer = Layer {
            diff_id: digest,
            digest,
            size: 1,
            unpacked_size: 1,
            compression: Compression::None,
            comment,
        };
        let built = spec(vec![layer]).to_image().unwrap();
        layout.put(&built.config).unwrap();
        let manifest = layout.put(&built.manifest).unwrap();
        image(&layout, &manifest, "api", &policy()).unwrap();
        let mut document = built.manifest;
        let at = random.usize(0..document.len());
        document[at] = random.u8(..);
        let _ = image(&layout, &layout.put(&document).unwrap(), "api", &policy());
    }
}

/// Layers that are damaged behind 16 GiB, each: together they must cost no more than one.
#[test]
fn bombs_that_break_off_share_one_bound() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let mut header = Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size(64 << 20);
    header.set_cksum();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, header.as_bytes()).unwrap();
    // Half of what is announced.
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), 32 << 20), &mut gzip).unwrap();
    let digest = layout.put(&gzip.finish().unwrap()).unwrap();
    let layer = serde_json::json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest.to_string() });
    let manifest = serde_json::json!({ "layers": vec![layer; 4] });
    let mut report = Report { service: "api", findings: Vec::new() };
    read::layers_within(&layout, &manifest, 80 << 20, &mut report);
    let messages: Vec<_> = report.findings.iter().map(|finding| finding.message.as_str()).collect();
    let is_over = |message: &&&str| message.contains("larger than");
    assert_eq!((messages.len(), messages.iter().filter(is_over).count()), (4, 2), "{messages:?}");
}

/// Where a sparse file has more than four holes, their list lies between the header and the content: whoever does not read it
/// takes the content for the next header.
#[test]
fn a_list_of_holes_hides_no_entry() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let mut sparse = Header::new_gnu();
    sparse.set_path("sparse").unwrap();
    sparse.set_entry_type(EntryType::GNUSparse);
    sparse.set_mode(0o444);
    sparse.set_uid(0);
    sparse.set_size(512);
    let gnu = sparse.as_gnu_mut().unwrap();
    gnu.realsize[..11].copy_from_slice(b"00000001000");
    gnu.isextended[0] = 1;
    sparse.set_cksum();
    let mut holes = [0; 512];
    holes[..11].copy_from_slice(b"00000000000");
    holes[12..23].copy_from_slice(b"00000001000");
    let mut long = Header::new_gnu();
    long.set_path("././@LongLink").unwrap();
    long.set_entry_type(EntryType::GNULongName);
    long.set_size(8 << 20);
    long.set_cksum();
    let mut bytes = [sparse.as_bytes().as_slice(), &holes, &[7; 512], long.as_bytes()].concat();
    bytes.resize(bytes.len() + (8 << 20), b'a');
    // What a reader sees that takes `holes` for the content and the content for a header.
    let mut seen = Header::new_gnu();
    seen.set_path("innocent").unwrap();
    seen.set_mode(0o444);
    seen.set_uid(0);
    seen.set_size(512 + (8 << 20));
    seen.set_cksum();
    bytes[1024..1536].copy_from_slice(seen.as_bytes());
    let digest = layout.put(&bytes).unwrap();
    let layer = serde_json::json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest.to_string() });
    let mut report = Report { service: "api", findings: Vec::new() };
    read::layers(&layout, &serde_json::json!({ "layers": [layer] }), &mut report);
    let messages: Vec<_> = report.findings.iter().map(|finding| finding.message.as_str()).collect();
    assert!(matches!(messages[..], [message] if message.contains("holes")), "{messages:?}");
}

#[test]
fn an_index_cannot_hide_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let root = base().entry("usr/bin/su", EntryType::Regular, 0o4755, b"", "").layer(&layout);
    let image = spec(vec![root]).to_image().unwrap().write("api", &layout).unwrap();
    let entry = |platform: &str| {
        serde_json::json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.to_string(), "size": 1,
            "annotations": { "vnd.docker.reference.type": "attestation-manifest" }, "platform": { "os": platform } })
    };
    let put = |document: serde_json::Value| layout.put(document.to_string().as_bytes()).unwrap();
    let judged = |digest: &Digest| super::image(&layout, digest, "api", &policy());
    let disguised = put(serde_json::json!({ "schemaVersion": 2, "manifests": [entry("linux")] }));
    assert_eq!(rules_of(&layout, &disguised), ["setuid-file"]);
    let nothing = put(serde_json::json!({ "schemaVersion": 2, "manifests": [entry("unknown")] }));
    assert!(judged(&nothing).unwrap_err().to_string().contains("no image"));
    let both = put(serde_json::json!({ "schemaVersion": 2, "manifests": [entry("unknown")], "layers": [] }));
    assert!(judged(&both).unwrap_err().to_string().contains("at once"));
}

#[test]
fn a_path_is_the_same_however_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    for path in ["etc/passwd", "./etc//passwd", "/etc/./passwd"] {
        let top = Archive::new().file(path, 0o444, b"root:x:0:0::/:\nback:x:0:0::/:\n");
        assert_eq!(judge(&layout, Some(top), &|_| {}), ["second-superuser"], "{path}");
    }
}

#[test]
fn a_list_of_users_that_is_too_long_to_be_read_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let list = "app:x:10001:10001::/:\n".repeat(4_000) + "back:x:0:0::/:\n";
    let top = Archive::new().file("etc/passwd", 0o444, list.as_bytes());
    assert_eq!(judge(&layout, Some(top), &|_| {}), ["not-readable"]);
}

#[test]
fn a_file_of_another_type_is_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    for kind in [EntryType::Regular, EntryType::Continuous] {
        let top = Archive::new().entry("root/.netrc", kind, 0o400, b"machine a", "");
        assert_eq!(judge(&layout, Some(top), &|_| {}), ["credential-file"], "{kind:?}");
    }
}
