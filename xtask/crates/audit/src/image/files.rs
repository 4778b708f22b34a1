//! The files of an image: rights, links, devices, and what has no business in an image that runs one service.

use std::collections::BTreeMap;

use stdx::Digest;

use super::Report;
use super::read::{Content, Item};

const SHELLS: [&str; 11] =
    ["sh", "bash", "dash", "ash", "zsh", "ksh", "fish", "csh", "tcsh", "busybox", "toybox"];
const PACKAGE_MANAGERS: [&str; 16] = [
    "apk", "apt", "apt-get", "aptitude", "dnf", "dpkg", "microdnf", "npm", "opkg", "pacman", "pip", "pip3",
    "rpm", "snap", "yum", "zypper",
];
const DEVELOPMENT_TOOLS: [&str; 26] = [
    "as",
    "cargo",
    "cc",
    "clang",
    "curl",
    "g++",
    "gcc",
    "gdb",
    "gdbserver",
    "git",
    "go",
    "ld",
    "lldb",
    "ltrace",
    "make",
    "nc",
    "ncat",
    "netcat",
    "nmap",
    "rustc",
    "socat",
    "ssh",
    "strace",
    "tcpdump",
    "telnet",
    "wget",
];
const CACHES: [&str; 9] = [
    "var/cache/apt/archives/",
    "var/lib/apt/lists/",
    "var/cache/apk/",
    "var/cache/dnf/",
    "var/cache/yum/",
    "var/cache/pacman/",
    "root/.cache/",
    "root/.npm/",
    "root/.cargo/registry/",
];
/// Names of files that hold credentials whatever is in them.
const CREDENTIALS: [&str; 18] = [
    ".env",
    ".git-credentials",
    ".htpasswd",
    ".my.cnf",
    ".netrc",
    ".npmrc",
    ".pgpass",
    ".pypirc",
    ".vault-token",
    "accesstokens.json",
    "application_default_credentials.json",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    "id_rsa",
    "kubeconfig",
    "secring.gpg",
    "terraform.tfstate",
];
/// The same, by the end of the path.
const CREDENTIAL_PATHS: [&str; 6] = [
    ".aws/credentials",
    ".docker/config.json",
    ".kube/config",
    ".cargo/credentials.toml",
    ".cargo/credentials",
    ".config/gh/hosts.yml",
];
/// Smaller files are not worth a finding when they are removed.
const MIN_REMOVED: u64 = 64 * 1024;

/// Whether the content of the file is looked at.
pub(super) fn is_read(path: &str) -> bool {
    let may_hold_key = [".pem", ".key", ".p8"].iter().any(|end| path.ends_with(end));
    may_hold_key || ["etc/passwd", "etc/shadow"].contains(&path) || is_credential(path)
}

pub(super) fn audit(content: &Content, user: Option<u64>, report: &mut Report<'_>) {
    for item in content.present() {
        rights(item, user, report);
        purpose(item, report);
    }
    for item in &content.all {
        archive(item, report);
        credentials(item, report);
    }
    caches(content, report);
    removed(content, report);
    duplicates(content, report);
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn rights(item: &Item, user: Option<u64>, report: &mut Report<'_>) {
    let is_folder = item.kind.is_dir();
    if item.kind.is_symlink() {
        return;
    }
    if item.mode & 0o6000 != 0 && !is_folder {
        report.add_path("image/setuid-file", &item.path, format!("its mode is {:04o}", item.mode));
    }
    if item.has_capabilities {
        report.add_path("image/file-capabilities", &item.path, "it has the attribute security.capability");
    }
    if item.mode & 0o002 != 0 && !(is_folder && item.mode & 0o1000 != 0) {
        report.add_path("image/world-writable", &item.path, format!("its mode is {:04o}", item.mode));
    }
    let is_program = item.kind.is_file() && item.mode & 0o111 != 0;
    if is_program && item.mode & 0o200 != 0 && user.is_some_and(|user| user != 0 && user == item.uid) {
        let message = format!("it belongs to the user {} that runs it", item.uid);
        report.add_path("image/writable-program", &item.path, message);
    }
}

/// Programs are known by name and by being executable in a folder for programs.
fn purpose(item: &Item, report: &mut Report<'_>) {
    let folder = item.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let is_link = item.kind.is_symlink() || item.kind.is_hard_link();
    let is_program = is_link || (item.kind.is_file() && item.mode & 0o111 != 0);
    let name = name(&item.path);
    if is_program && (folder.ends_with("bin") || name == "busybox") {
        for (id, names) in [
            ("image/shell", SHELLS.as_slice()),
            ("image/package-manager", PACKAGE_MANAGERS.as_slice()),
            ("image/development-tool", DEVELOPMENT_TOOLS.as_slice()),
        ] {
            if names.contains(&name) {
                report.add_path(id, &item.path, format!("the image has `{name}`"));
            }
        }
    }
    if item.kind.is_dir() && [".git", ".svn", ".hg"].contains(&name) {
        report.add_path(
            "image/repository-folder",
            &item.path,
            "the folder of a version control system is in the image",
        );
    }
}

/// One finding for each cache, not for each file.
fn caches(content: &Content, report: &mut Report<'_>) {
    for cache in CACHES {
        let is_left = |item: &&Item| item.kind.is_file() && item.size > 0 && item.path.starts_with(cache);
        let sum = |(count, size): (u64, u64), item: &Item| (count + 1, size.saturating_add(item.size));
        let (count, size) = content.present().filter(is_left).fold((0, 0), sum);
        if count > 0 {
            let message = format!("{count} files with {size} bytes are left");
            report.add_path("image/package-cache", cache.trim_end_matches('/'), message);
        }
    }
}

/// What an unpacker could stumble over.
fn archive(item: &Item, report: &mut Report<'_>) {
    if item.kind.is_block_special() || item.kind.is_character_special() {
        report.add_path("image/device-node", &item.path, "it is a device node");
    }
    if item.path.split('/').any(|part| part == "..") {
        report.add_path("image/link-escapes", &item.path, "its path has `..`");
    }
    let Some(target) = &item.link else { return };
    let is_from_root = item.kind.is_hard_link() || target.starts_with('/');
    let depth = if is_from_root { 0 } else { item.path.matches('/').count() };
    if leaves(target, depth) {
        let message = format!("it points to `{target}`, above the image's root");
        report.add_path("image/link-escapes", &item.path, message);
    }
}

/// Whether a target leaves the root when it is followed from a folder `depth` levels below it.
fn leaves(target: &str, mut depth: usize) -> bool {
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if depth == 0 => return true,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

fn is_credential(path: &str) -> bool {
    let name = name(path).to_ascii_lowercase();
    let is_at_end =
        |end: &&str| path.strip_suffix(*end).is_some_and(|folder| folder.is_empty() || folder.ends_with('/'));
    CREDENTIALS.contains(&name.as_str()) || CREDENTIAL_PATHS.iter().any(is_at_end)
}

fn credentials(item: &Item, report: &mut Report<'_>) {
    let holds_key = item.content.as_deref().is_some_and(|content| {
        let text = String::from_utf8_lossy(content);
        text.contains("-----BEGIN") && text.contains("PRIVATE KEY-----")
    });
    if item.kind.is_file() && item.size > 0 && (is_credential(&item.path) || holds_key) {
        let what = if holds_key { "it holds a private key" } else { "files of this name hold credentials" };
        report.add_path("image/credential-file", &item.path, format!("{what} (layer {})", item.layer));
    }
}

fn removed(content: &Content, report: &mut Report<'_>) {
    for item in content.removed.iter().map(|index| &content.all[*index]) {
        if item.kind.is_file() && item.size >= MIN_REMOVED {
            let message = format!("its {} bytes are still in the layer {}", item.size, item.layer);
            report.add_path("image/deleted-file", &item.path, message);
        }
    }
}

fn duplicates(content: &Content, report: &mut Report<'_>) {
    let mut first: BTreeMap<Digest, &str> = BTreeMap::new();
    for item in &content.all {
        let Some(digest) = item.digest else { continue };
        let other = *first.entry(digest).or_insert(&item.path);
        if !std::ptr::eq(other, item.path.as_str()) {
            let message = format!("its {} bytes are those of /{other}", item.size);
            report.add_path("image/duplicate-bytes", &item.path, message);
        }
    }
}
