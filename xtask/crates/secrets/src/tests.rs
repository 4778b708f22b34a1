//! The examples of the rules, and what must hold of every scan.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use finding::Severity;
use oci::{Compression, ImageSpec, Layer, Layout, Source, Tree};

use super::*;
use crate::rule::{MARKER, Spec, specs};

static GO_ON: AtomicBool = AtomicBool::new(false);

fn options() -> Options<'static> {
    Options::new(&GO_ON)
}

fn path_of(spec: &Spec) -> &str {
    spec.example_path.as_deref().unwrap_or("deploy/service.yaml")
}

fn example(spec_id: &str) -> String {
    let spec = specs().iter().find(|spec| spec.id == spec_id).unwrap();
    spec.matches[0].replace(MARKER, "")
}

fn ids(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.rule.id.as_str()).collect()
}

#[test]
fn every_rule_finds_its_examples_and_leaves_the_others() {
    let mut wrong = Vec::new();
    for spec in specs() {
        let finds = |example: &String| {
            let found = text(path_of(spec), example.replace(MARKER, "").as_bytes());
            found.into_iter().any(|finding| {
                finding.rule.id == format!("secret/{}", spec.id) && finding.severity > Severity::Note
            })
        };
        wrong.extend(
            spec.matches.iter().filter(|text| !finds(text)).map(|text| format!("{}: misses {text}", spec.id)),
        );
        wrong.extend(
            spec.rejects.iter().filter(|text| finds(text)).map(|text| format!("{}: takes {text}", spec.id)),
        );
        if spec.matches.len() < 2 || spec.rejects.len() < 2 {
            wrong.push(format!("{}: too few examples", spec.id));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rules:\n{}", wrong.len(), specs().len(), wrong.join("\n"));
}

#[test]
fn rules_are_named_once_in_lower_case_and_say_what_to_do() {
    let rules = rules();
    for pair in rules.windows(2) {
        assert!(pair[0].id < pair[1].id, "{}", pair[1].id);
    }
    for rule in &rules {
        let name = rule.id.strip_prefix("secret/").unwrap();
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{name}");
        assert!(!rule.fix.is_empty() && !rule.title.is_empty());
    }
}

#[test]
fn no_field_of_a_finding_holds_a_secret() {
    for spec in specs() {
        for example in &spec.matches {
            let text_of = example.replace(MARKER, "");
            let hits = engine::search(&name::Name::new(path_of(spec)), text_of.as_bytes());
            let shown = format!("{:?}", text(path_of(spec), text_of.as_bytes()));
            for hit in hits {
                let secret = String::from_utf8(hit.secret).unwrap();
                let public = spec.keywords.iter().map(String::len).max().unwrap_or(0).max(8);
                for at in 0..secret.len().saturating_sub(public + 1) {
                    let part = &secret[at..secret.len().min(at + public + 1)];
                    assert!(
                        !shown.contains(part) || part.starts_with("-----"),
                        "{}: {shown} holds {part}",
                        spec.id
                    );
                }
            }
        }
    }
}

#[test]
fn the_rules_themselves_are_clean_and_so_is_this_crate() {
    let found = tree(Path::new(env!("CARGO_MANIFEST_DIR")), &options()).unwrap();
    assert_eq!(found, []);
}

#[test]
fn tokens_behind_base64_and_hex_are_found() {
    let token = example("github-token");
    let hex: String = format!("x: {token} and more").bytes().map(|byte| format!("{byte:02x}")).collect();
    let found = text("a.txt", format!("data: {hex}").as_bytes());
    assert_eq!(ids(&found), ["secret/github-token"]);
    assert!(found[0].message.contains("behind base64 or hex"), "{}", found[0].message);
}

#[test]
fn tokens_with_a_wrong_checksum_are_a_note() {
    for id in ["github-token", "npm-token", "age-secret-key"] {
        let mut token = example(id).into_bytes();
        let last = token.iter_mut().rfind(|byte| **byte != b'q' && **byte != b'Q').unwrap();
        *last = if last.is_ascii_uppercase() { b'Q' } else { b'q' };
        let found = text("a.txt", &token);
        assert_eq!((found.len(), found[0].severity), (1, Severity::Note), "{id}");
    }
}

#[test]
fn binary_files_are_searched_for_tokens_only() {
    let text_of = format!("\0\0{}\0password = \"kR7x!pq09Zl\"\0", example("github-token"));
    assert_eq!(ids(&text("a.bin", text_of.as_bytes())), ["secret/github-token"]);
}

#[test]
fn what_everybody_has_in_a_repository_is_no_secret() {
    let check =
        |path: &str, content: &str| assert_eq!(text(path, content.as_bytes()), [], "{path}: {content}");
    let sha = "0b5c1f6a9e8d7c3b2a190f8e7d6c5b4a39281706f5e4d3c2b1a0918273645546";
    check("Cargo.lock", &format!("checksum = \"{sha}\""));
    check(
        "package.json",
        "\"integrity\": \"sha512-9l2vTkV0Z3x1bG9pZ2hzb21lIHRleHQgdGhhdCBpcyBsb25nIGVub3VnaA==\"",
    );
    check(
        ".github/workflows/ci.yml",
        "- uses: actions/checkout@8e8c483db84b4bee98b60c0593521ed34d9990e8 # v6",
    );
    check(
        "deploy/a.yaml",
        &format!(
            "image: db@sha256:{sha}\ntoken: ${{{{ secrets.TOKEN }}}}\nid: 6ac7fc5c-e40f-41b3-b7fe-ed7f9b15e3c4"
        ),
    );
    check(
        "src/a.rs",
        "let password = std::env::var(\"DB_PASSWORD_2\")?;\nlet token = tokens.next().unwrap();",
    );
    check("src/a.rs", "#[cfg(test)]\nmod tests {\n    const PASSWORD: &str = \"kR7x!pq09Zl\";\n}");
    check("web/config.toml", "search_public_apikey = \"aTFLzhfCVeTj619Pxkhmz18798Nsau0Z\"");
    check("tests/a.rs", "const PASSWORD: &str = \"kR7x!pq09Zl\";");
}

#[test]
fn findings_name_line_and_column_and_can_be_allowed() {
    let token = example("slack-webhook");
    let found = text("a.txt", format!("é\nü {token}\n").as_bytes());
    assert!(
        matches!(&found[0].place, Place::File { line: Some(2), column: Some(column), .. } if *column > 3)
    );
    let allowed = format!("{token} # slipway:allow(secret/slack-webhook): revoked in 2020");
    assert_eq!(text("a.txt", allowed.as_bytes()), []);
    let found = text("a.txt", format!("{token} # slipway:allow(secret/slack-webhook)").as_bytes());
    assert!(found[0].message.contains("gives no reason"), "{}", found[0].message);
}

#[test]
fn keys_are_stable_and_tell_secrets_apart() {
    let of = |text_of: &str| text("a.txt", text_of.as_bytes())[0].key.clone();
    let spec = specs().iter().find(|spec| spec.id == "digitalocean-token").unwrap();
    let [one, other] = [0, 1].map(|index| spec.matches[index].replace(MARKER, ""));
    assert_eq!(of(&one), of(&format!("\n\n{one}")));
    assert_ne!(of(&one), of(&other));
    assert_eq!(of(&one).len(), 12);
}

fn git(folder: &Path, args: &[&str]) {
    let mut cmd = Command::new("git");
    cmd.args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]).args(args);
    let output = cmd.current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn submodules_are_searched_and_foreign_checkouts_are_not() {
    let (library, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let commit = |root: &Path| {
        git(root, &["init", "--quiet"]);
        std::fs::write(root.join("key"), example("digitalocean-token")).unwrap();
        git(root, &["add", "."]);
        git(root, &["commit", "--quiet", "-m", "a"]);
    };
    commit(library.path());
    git(folder.path(), &["init", "--quiet"]);
    let from = format!("file://{}", library.path().display());
    git(
        folder.path(),
        &["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", &from, "third/lib"],
    );
    std::fs::create_dir(folder.path().join("beside")).unwrap();
    commit(&folder.path().join("beside"));
    let places = || -> Vec<String> {
        let found = tree(folder.path(), &options()).unwrap();
        found.iter().map(|finding| finding.place.stable()).collect()
    };
    assert_eq!(places(), ["third/lib/key"]);
    // One that was not fetched is an empty folder.
    git(folder.path(), &["submodule", "--quiet", "deinit", "--force", "--all"]);
    assert!(places().is_empty());
}

#[test]
fn a_checkout_is_searched_without_ignored_files_and_links_and_with_untracked_ones() {
    let folder = tempfile::tempdir().unwrap();
    let (root, token) = (folder.path().join("repo"), example("digitalocean-token"));
    std::fs::create_dir_all(root.join("sub")).unwrap();
    std::fs::write(folder.path().join("outside"), &token).unwrap();
    for (path, content) in
        [("tracked", token.as_str()), ("sub/new", &token), ("ignored", &token), (".gitignore", "ignored")]
    {
        std::fs::write(root.join(path), content).unwrap();
    }
    std::os::unix::fs::symlink("../outside", root.join("link")).unwrap();
    std::os::unix::fs::symlink("..", root.join("up")).unwrap();
    let places = || {
        let found = tree(&root, &options()).unwrap();
        found.iter().map(|finding| finding.place.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(places(), ["ignored:1:1", "sub/new:1:1", "tracked:1:1"]);
    git(&root, &["init", "--quiet"]);
    git(&root, &["add", "tracked", "link"]);
    assert_eq!(places(), ["sub/new:1:1", "tracked:1:1"]);
    // Build output that git was not told to ignore is left out, but for what is tracked.
    std::fs::create_dir_all(root.join("target/deep")).unwrap();
    for (path, content) in [("CACHEDIR.TAG", ""), ("deep/made", &token), ("deep/kept", &token)] {
        std::fs::write(root.join("target").join(path), content).unwrap();
    }
    git(&root, &["add", "target/deep/kept"]);
    assert_eq!(places(), ["sub/new:1:1", "target/deep/kept:1:1", "tracked:1:1"]);
    let given =
        files(&root, &["up/outside".into(), "../outside".into(), "tracked".into()], &options()).unwrap();
    assert_eq!(given.len(), 1);
}

#[test]
fn large_files_are_noted_and_interruption_ends_a_scan() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), "x".repeat(100)).unwrap();
    let found = tree(folder.path(), &Options { most_bytes_per_file: 10, ..options() }).unwrap();
    assert_eq!((ids(&found), found[0].severity), (vec!["secret/partly-scanned"], Severity::Note));
    let stop = AtomicBool::new(true);
    let error = tree(folder.path(), &Options::new(&stop)).unwrap_err();
    assert!(error.to_string().contains("interrupted"), "{error}");
}

#[test]
fn history_has_what_was_removed_at_the_commit_that_brought_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    git(root, &["init", "--quiet"]);
    for (content, message) in [("clean", "1"), (&*example("digitalocean-token"), "2"), ("clean again", "3")] {
        std::fs::write(root.join("a file"), content).unwrap();
        git(root, &["add", "."]);
        git(root, &["commit", "--quiet", "-m", message]);
    }
    assert_eq!(tree(root, &options()).unwrap(), []);
    let found = history(root, &options()).unwrap();
    let second = stdx::Cmd::new("git").args(["rev-parse", "HEAD~1"]).cwd(root).read().unwrap();
    let place = Place::Commit { commit: second, path: "a file".into(), line: Some(1) };
    assert_eq!(found.iter().map(|finding| &finding.place).collect::<Vec<_>>(), [&place]);
    let shallow = tempfile::tempdir().unwrap();
    let from = format!("file://{}", root.display());
    git(shallow.path(), &["clone", "--quiet", "--depth=1", &from, "."]);
    let found = history(shallow.path(), &options()).unwrap();
    assert_eq!((ids(&found), found[0].severity), (vec!["secret/partly-scanned"], Severity::Note));
}

#[test]
fn images_are_searched_in_every_layer_and_in_their_environment() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let layer = |content: String| {
        let mut tree = Tree::new();
        tree.file("app/conf", 0o444, Source::Bytes(content.into_bytes())).unwrap();
        Layer::pack(&tree, Compression::Gzip, "", &layout).unwrap()
    };
    let layers = vec![layer(example("digitalocean-token")), layer("replaced".into())];
    let env = [("DB_PASSWORD".to_owned(), "kR7x!pq09Zl".to_owned()), ("PATH".to_owned(), "/bin".to_owned())];
    let spec = ImageSpec {
        architecture: "amd64".into(),
        created: "1970-01-01T00:00:00Z".into(),
        layers,
        entrypoint: vec!["/app/run".into()],
        cmd: vec![],
        env: env.into(),
        user: "1:1".into(),
        working_dir: "/".into(),
        exposed_ports: vec![],
        volumes: vec![],
        stop_signal: "SIGTERM".into(),
        health_check: None,
        labels: Default::default(),
    };
    let digest = spec.to_image().unwrap().write("api", &layout).unwrap();
    let found = image(&layout, digest, "api", &options()).unwrap();
    assert_eq!(ids(&found), ["secret/assigned-secret-bare", "secret/digitalocean-token"]);
    assert_eq!(found[0].place, Place::Image { service: "api".into(), path: None });
    assert_eq!(found[1].place, Place::Image { service: "api".into(), path: Some("app/conf".into()) });
}

/// A generator without a library: the same bytes on every machine (Marsaglia, "Xorshift RNGs").
fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn no_bytes_make_a_scan_fail() {
    let whole: String =
        specs().iter().flat_map(|spec| &spec.matches).map(|text| text.replace(MARKER, "") + "\n").collect();
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for round in 0..60 {
        let mut bytes = whole.clone().into_bytes();
        for _ in 0..round * 20 {
            let (at, value) = (xorshift(&mut state) as usize % bytes.len(), xorshift(&mut state));
            match value % 4 {
                0 => bytes[at] = (value >> 8) as u8,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"\"'-=:/@.\n\0"[(value >> 8) as usize % 10]),
                _ => bytes.truncate(at.max(1000)),
            }
        }
        for path in ["a.yaml", "src/a.rs", ".netrc", "x"] {
            text(path, &bytes);
        }
    }
}

#[test]
fn time_is_linear_in_hostile_input() {
    let start = std::time::Instant::now();
    for unit in [
        "password=",
        "eyJ",
        "-----BEGIN PRIVATE KEY-----",
        "sk-",
        "https://a:",
        "\"auth\"",
        "AAAA",
        "discord token bot ",
    ] {
        text("a.yaml", unit.repeat((1 << 20) / unit.len()).as_bytes());
    }
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}
