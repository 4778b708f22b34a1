//! Blobs, manifests and tags: sent, seen, read, cut and taken up again.

use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use registry::{Registry, Transfer};
use stdx::Digest;

use crate::rig::{Manner, RealRegistry, Reply, Server, Way, connect, noise, options};

fn send(registry: &Registry, repository: &str, bytes: &[u8]) -> anyhow::Result<Transfer> {
    let open = || -> anyhow::Result<Box<dyn Read>> { Ok(Box::new(std::io::Cursor::new(bytes.to_vec()))) };
    registry.repository(repository).push_blob(&Digest::of(bytes), bytes.len() as u64, &open, None)
}

fn read(registry: &Registry, repository: &str, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    let size = bytes.len() as u64;
    registry.repository(repository).read_blob(&Digest::of(bytes), size, &mut out).map(|()| out)
}

fn in_chunks(host: &str, single: u64, chunk: u64) -> Registry {
    let mut options = options();
    options.single_request_limit = single;
    options.chunk_size = chunk;
    Registry::connect_with(host, options).unwrap()
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn manifest_of(config: &[u8]) -> Vec<u8> {
    let descriptor = serde_json::json!({
        "mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(config), "size": config.len(),
    });
    serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor, "layers": [],
    }))
    .unwrap()
}

#[test]
fn a_blob_goes_once_and_comes_back_the_same() {
    let Some(real) = RealRegistry::start() else { return };
    let registry = real.connect();
    for (bytes, single, chunk) in [(vec![], 10, 10), (noise(3, 1), 10, 10), (noise(100_000, 2), 10, 40_000)] {
        let registry = in_chunks(&real.host, single, chunk);
        assert_eq!(send(&registry, "a/b", &bytes).unwrap(), Transfer::Sent, "{} bytes", bytes.len());
        assert_eq!(read(&registry, "a/b", &bytes).unwrap(), bytes);
        let size = connect(&real.host).repository("a/b").has_blob(&Digest::of(&bytes)).unwrap();
        assert_eq!(size, Some(bytes.len() as u64));
        assert_eq!(send(&connect(&real.host), "a/b", &bytes).unwrap(), Transfer::Present);
    }
    assert_eq!(registry.repository("a/b").has_blob(&Digest::of("other")).unwrap(), None);
    let wrong = registry.repository("a/b").push_blob(&Digest::of("x"), 1, &|| Ok(Box::new(&b"y"[..])), None);
    assert!(format!("{:#}", wrong.unwrap_err()).contains("DIGEST_INVALID"));
}

#[test]
fn a_blob_that_another_repository_has_is_mounted() {
    let Some(real) = RealRegistry::start() else { return };
    let bytes = noise(50_000, 3);
    let way = Way::to(&real.host);
    let registry = connect(&way.host);
    send(&registry, "first", &bytes).unwrap();
    let before = way.sent.load(Ordering::SeqCst);
    assert_eq!(send(&registry, "second", &bytes).unwrap(), Transfer::Mounted);
    let sent = way.sent.load(Ordering::SeqCst) - before;
    assert!(sent < 1500, "{sent} bytes went to the registry");
    assert_eq!(read(&registry, "second", &bytes).unwrap(), bytes);
    let open = || -> anyhow::Result<Box<dyn Read>> { panic!("nothing is to be sent") };
    let named = connect(&real.host).repository("third");
    let size = bytes.len() as u64;
    assert_eq!(named.push_blob(&Digest::of(&bytes), size, &open, Some("first")).unwrap(), Transfer::Mounted);
    // Where the other does not have it either, it is sent in the session that the attempt began.
    let other = noise(9, 4);
    let open = || -> anyhow::Result<Box<dyn Read>> { Ok(Box::new(std::io::Cursor::new(noise(9, 4)))) };
    assert_eq!(named.push_blob(&Digest::of(&other), 9, &open, Some("first")).unwrap(), Transfer::Sent);
}

#[test]
fn manifests_and_tags_are_put_listed_and_deleted() {
    let Some(real) = RealRegistry::start() else { return };
    let registry = real.connect();
    let repository = registry.repository("team/api");
    assert_eq!(repository.tags().unwrap(), [""; 0]);
    assert_eq!(repository.manifest("none").unwrap(), None);
    send(&registry, "team/api", b"{}").unwrap();
    let bytes = manifest_of(b"{}");
    for tag in ["v2", "v1"] {
        assert_eq!(repository.put_manifest(tag, MANIFEST, &bytes).unwrap(), Digest::of(&bytes));
    }
    assert_eq!(repository.tags().unwrap(), ["v1", "v2"]);
    let found = repository.manifest("v1").unwrap().unwrap();
    assert_eq!(
        (found.digest, found.media_type.as_str(), &found.bytes),
        (Digest::of(&bytes), MANIFEST, &bytes)
    );
    assert!(repository.put_manifest(&Digest::of("x").to_string(), MANIFEST, &bytes).is_err());
    let unknown = repository.put_manifest("v3", MANIFEST, &manifest_of(b"absent")).unwrap_err();
    assert!(unknown.to_string().contains("MANIFEST_BLOB_UNKNOWN"), "{unknown}");
    for _ in 0..2 {
        repository.delete_manifest(&found.digest).unwrap();
    }
    assert_eq!(repository.manifest("v1").unwrap(), None);
}

#[test]
fn an_upload_that_is_cut_ends_well() {
    let Some(real) = RealRegistry::start() else { return };
    // In the body of the one request, between two chunks, and within a chunk.
    for (word, after, single) in
        [(&b"PUT"[..], 60_000, 1 << 20), (b"PATCH", 0, 10), (b"PATCH", 30_000, 10), (b"POST", 0, 10)]
    {
        let way = Way::to(&real.host);
        way.cut(word, after);
        let bytes = noise(150_000, after as u64 + single + word.len() as u64);
        let registry = in_chunks(&way.host, single, 40_000);
        assert_eq!(send(&registry, "cut", &bytes).unwrap(), Transfer::Sent);
        assert!(way.was_cut());
        assert_eq!(read(&real.connect(), "cut", &bytes).unwrap(), bytes);
    }
}

/// Keeps what arrived of a blob, as the specification wants it; a chunk that comes to the wrong place is refused.
fn keeping(asked: &crate::rig::Asked, kept: &Mutex<Vec<u8>>, loses: &Mutex<usize>) -> Reply {
    let mut kept = kept.lock().unwrap();
    let range = |kept: &[u8]| format!("0-{}", kept.len().saturating_sub(1));
    match asked.method.as_str() {
        "HEAD" => Reply::new(404, ""),
        "POST" => Reply::new(202, "").with("location", "/v2/a/blobs/uploads/1?state=x"),
        "PATCH" => {
            let start = asked.header("content-range").split('-').next().unwrap().parse().ok();
            if start.is_some_and(|start: usize| start != kept.len()) {
                return Reply::new(416, "")
                    .with("range", range(&kept))
                    .with("location", "/v2/a/blobs/uploads/1");
            }
            let mut loses = loses.lock().unwrap();
            let taken = if *loses > 0 { asked.body.len() / 3 } else { asked.body.len() };
            kept.extend_from_slice(&asked.body[..taken]);
            if *loses > 0 {
                *loses -= 1;
                return Reply::new(503, "");
            }
            Reply::new(202, "").with("location", "/v2/a/blobs/uploads/1").with("range", range(&kept))
        }
        "GET" => Reply::new(204, "").with("range", range(&kept)).with("location", "/v2/a/blobs/uploads/1"),
        _ => {
            let whole = asked.target.ends_with(&format!("sha256%3A{}", Digest::of(&*kept).hex()));
            Reply::new(if whole { 201 } else { 400 }, "")
        }
    }
}

#[test]
fn what_arrived_of_a_chunk_is_not_sent_again() {
    let (kept, loses) = (Mutex::new(Vec::new()), Mutex::new(2));
    let server = Server::start(move |asked| keeping(asked, &kept, &loses));
    let bytes = noise(90_000, 5);
    let registry = in_chunks(&server.host, 10, 30_000);
    assert_eq!(send(&registry, "a", &bytes).unwrap(), Transfer::Sent);
    let asked = server.asked.lock().unwrap();
    let patches: Vec<_> = asked.iter().filter(|asked| asked.method == "PATCH").collect();
    let ranges: Vec<&str> = patches.iter().map(|asked| asked.header("content-range")).collect();
    // A third of the first chunk arrived, then a third of the one that began there.
    assert_eq!(ranges, ["0-29999", "10000-39999", "20000-49999", "50000-79999", "80000-89999"]);
}

#[test]
fn a_read_that_is_cut_goes_on_from_there() {
    let bytes = noise(100_000, 6);
    for knows_ranges in [true, false] {
        let (content, cuts) = (bytes.clone(), Mutex::new(2));
        let server = Server::start(move |asked| {
            let range = asked.header("range").strip_prefix("bytes=").and_then(|text| text.strip_suffix('-'));
            let start: usize = range.filter(|_| knows_ranges).map_or(0, |text| text.parse().unwrap());
            let rest = &content[start..];
            let reply = match range.filter(|_| knows_ranges) {
                Some(_) => Reply::new(206, rest).with("content-range", format!("bytes {start}-99999/100000")),
                None => Reply::new(200, rest),
            };
            let mut cuts = cuts.lock().unwrap();
            if *cuts == 0 {
                return reply;
            }
            *cuts -= 1;
            let after = if knows_ranges { 30_000 } else { 30_000 * (2 - *cuts) };
            reply.in_manner(Manner::CutAfter(after))
        });
        assert_eq!(read(&server.connect(), "a", &bytes).unwrap(), bytes);
        let asked = server.asked.lock().unwrap();
        let ranges: Vec<&str> = asked.iter().map(|asked| asked.header("range")).collect();
        assert_eq!(ranges, ["", "bytes=30000-", "bytes=60000-"], "ranges known: {knows_ranges}");
    }
}

#[test]
fn a_registry_that_is_busy_is_asked_again_and_not_for_ever() {
    let times = Mutex::new(0);
    let server = Server::start(move |_| {
        let mut times = times.lock().unwrap();
        *times += 1;
        match *times {
            1 => Reply::new(429, "").with("retry-after", "0"),
            2 => Reply::new(503, ""),
            3 => Reply::new(200, "12").in_manner(Manner::CutAfter(1)),
            _ => Reply::new(200, r#"{"tags":["b","a"]}"#),
        }
    });
    assert_eq!(server.connect().repository("a").tags().unwrap(), ["a", "b"]);
    let busy = Server::start(|_| Reply::new(503, r#"{"errors":[{"code":"UNAVAILABLE","message":"later"}]}"#));
    let error = busy.connect().repository("a").tags().unwrap_err().to_string();
    assert!(error.contains("503: UNAVAILABLE: later"), "{error}");
    assert_eq!(busy.count("GET", "/"), 5);
    let strict = Server::start(|_| Reply::new(429, "").with("retry-after", "4000"));
    let error = strict.connect().repository("a").tags().unwrap_err().to_string();
    assert!(error.contains("asks to wait 4000 s"), "{error}");
    assert_eq!(strict.count("GET", "/"), 1);
}

#[test]
fn a_list_of_tags_goes_on_over_pages_of_the_same_registry() {
    let server = Server::start(|asked| match asked.target.as_str() {
        "/v2/a/tags/list" => {
            Reply::new(200, r#"{"tags":["a"]}"#).with("link", "</v2/a/tags/list?last=a>; rel=\"next\"")
        }
        "/v2/a/tags/list?last=a" => Reply::new(200, r#"{"tags":["b"]}"#).with("link", "<?last=b>; rel=next"),
        "/v2/a/tags/list?last=b" => Reply::new(200, r#"{"tags":null}"#),
        "/v2/b/tags/list" => {
            Reply::new(200, r#"{"tags":[]}"#).with("link", "<http://127.0.0.1:1/x>; rel=next")
        }
        _ => Reply::new(200, r#"{"tags":[]}"#).with("link", "</v2/c/tags/list>; rel=next"),
    });
    let registry = server.connect();
    assert_eq!(registry.repository("a").tags().unwrap(), ["a", "b"]);
    assert!(registry.repository("b").tags().unwrap_err().to_string().contains("another host"));
    assert!(registry.repository("c").tags().unwrap_err().to_string().contains("no end"));
}
