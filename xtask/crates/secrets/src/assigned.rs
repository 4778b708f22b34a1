//! Whether the value of an assignment, or the password of a URL, is a secret or stands in for one. These are the weakest rules, so
//! they are the strictest.

use crate::judge::{Subject, entropy, is_made_up, is_random};
use crate::name::Kind;

/// Words that stand in for a value, or that everybody tries first.
const STAND_INS: [&str; 64] = [
    "password",
    "passwd",
    "pass",
    "pwd",
    "secret",
    "token",
    "key",
    "apikey",
    "api_key",
    "api-key",
    "admin",
    "root",
    "user",
    "username",
    "test",
    "testing",
    "guest",
    "default",
    "none",
    "null",
    "nil",
    "undefined",
    "true",
    "false",
    "yes",
    "no",
    "empty",
    "foo",
    "bar",
    "baz",
    "foobar",
    "changeme",
    "change-me",
    "change_me",
    "example",
    "sample",
    "dummy",
    "fake",
    "mock",
    "todo",
    "fixme",
    "redacted",
    "hidden",
    "masked",
    "string",
    "text",
    "value",
    "required",
    "optional",
    "postgres",
    "mysql",
    "redis",
    "rabbitmq",
    "mongo",
    "minio",
    "minioadmin",
    "localhost",
    "basic",
    "bearer",
    "digest",
    "plain",
    "auto",
    "disabled",
    "enabled",
];
/// Parts that only values have which somebody must still fill in, or which are looked up elsewhere.
const PLACEHOLDERS: [&str; 35] = [
    "example",
    "changeme",
    "change-me",
    "change_me",
    "placeholder",
    "your_",
    "your-",
    "yourpass",
    "yoursecret",
    "my_secret",
    "my-secret",
    "mysecret",
    "mypass",
    "redacted",
    "dummy",
    "fake",
    "sample",
    "xxx",
    "***",
    "...",
    "todo",
    "insert",
    "replace",
    "${",
    "{{",
    "$(",
    "<%",
    "%(",
    "env.",
    "environ",
    "getenv",
    "secrets.",
    "vault:",
    "not-a-",
    "phrase here",
];
/// Names that end so hold no secret but something about one.
const ABOUT: [&str; 40] = [
    "id",
    "name",
    "path",
    "file",
    "type",
    "url",
    "uri",
    "hash",
    "length",
    "len",
    "size",
    "field",
    "label",
    "prefix",
    "suffix",
    "expiry",
    "ttl",
    "count",
    "limit",
    "header",
    "algorithm",
    "format",
    "policy",
    "ref",
    "version",
    "public",
    "env",
    "var",
    "arn",
    "index",
    "kind",
    "hint",
    "regex",
    "pattern",
    "endpoint",
    "address",
    "checksum",
    "digest",
    "fingerprint",
    "mount",
];
/// Names that say that a value identifies content.
const CONTENT: [&str; 6] = ["sha", "hash", "checksum", "digest", "commit", "revision"];

/// Whether the value is what its name says.
pub(crate) fn is_assigned(subject: &Subject<'_>) -> bool {
    let (key, value) = (subject.key.to_ascii_lowercase(), subject.secret);
    if !is_literal(value)
        || is_about(&key)
        || is_open(subject.key_prefix)
        || looks_up(value)
        || is_comment(subject)
        || in_rust_tests(subject)
    {
        return false;
    }
    let is_password = ["pass", "pwd"].iter().any(|word| contains(&key, word));
    let salt = ["_key", "_salt", "secret"].iter().any(|word| contains(&key, word)) && is_noise(value);
    if is_password { is_password_value(subject) } else { is_token_value(value) || salt }
}

/// Whether it is a value by itself rather than a word that stands in for one.
pub(crate) fn is_literal(value: &[u8]) -> bool {
    let lower = value.to_ascii_lowercase();
    let holds = |word: &str| contains(&lower, word);
    let is_stand_in = STAND_INS.iter().any(|word| word.as_bytes() == lower);
    !value.is_empty() && !is_stand_in && !PLACEHOLDERS.iter().any(|word| holds(word)) && !is_masked(value)
}

/// Whether a URL's password opens something that others can reach.
pub(crate) fn is_url_password(subject: &Subject<'_>) -> bool {
    let host = subject.host.to_ascii_lowercase();
    let is_local = [&b"localhost"[..], b"127.", b"0.0.0.0", b"[::1]", b"::1", b"host.docker.internal"]
        .iter()
        .any(|local| host.starts_with(local));
    let is_sample_host = host.split(|byte| *byte == b'.').any(|part| {
        [&b"example"[..], b"domain", b"host", b"hostname", b"server", b"test", b"foo", b"bar"].contains(&part)
    });
    let value = subject.secret;
    let has = |test: fn(&u8) -> bool| value.iter().any(test);
    let is_weak = value.len() < 6 || value.eq_ignore_ascii_case(subject.key);
    let is_worth = (has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic))
        || value.len() >= 12
        || (value.len() >= 8 && host.contains(&b'.'));
    let is_formatted = value.iter().any(|byte| b"{}<>$%()*".contains(byte)) && !contains(value, "%");
    !is_local
        && !is_sample_host
        && !is_weak
        && is_worth
        && !is_formatted
        && is_literal(value)
        && !looks_up(value)
        && !is_made_up(value)
        && !in_rust_tests(subject)
        && !is_documentation_comment(subject)
}

fn is_password_value(subject: &Subject<'_>) -> bool {
    let value = subject.secret;
    let has = |test: fn(&u8) -> bool| value.iter().any(test);
    let kinds =
        [u8::is_ascii_digit, u8::is_ascii_uppercase, u8::is_ascii_lowercase, u8::is_ascii_punctuation]
            .into_iter()
            .filter(|test| has(*test))
            .count();
    let lower = value.to_ascii_lowercase();
    match subject.name.kind {
        // Code is full of names and sentences about passwords.
        Kind::Code => {
            let is_word = [
                "pass", "secret", "test", "foo", "abc", "123", "correct", "wrong", "invalid", "user",
                "hunter2",
            ]
            .iter()
            .any(|word| lower.starts_with(word.as_bytes()));
            let is_path = value.starts_with(b"/") || value.starts_with(b"-") || contains(value, "::");
            value.len() >= 8
                && kinds >= 3
                && has(u8::is_ascii_digit)
                && entropy(value) >= 2.8
                && !is_word
                && !is_path
                && !value.contains(&b' ')
                && !is_identifier(value)
        }
        _ => {
            value.len() >= 6
                && kinds >= 2
                && entropy(value) >= 2.2
                && !value.contains(&b' ')
                && !is_name(value)
        }
    }
}

/// Keys of machines: long, random, and not the digest of something.
fn is_token_value(value: &[u8]) -> bool {
    let is_hex = value.iter().all(u8::is_ascii_hexdigit);
    let floor = if is_hex { 3.0 } else { 3.5 };
    let is_word = value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=_-.:~".contains(byte));
    value.len() >= 16
        && value.len() <= 512
        && is_word
        && entropy(value) >= floor
        && is_random(value)
        && !is_uuid_of_zeros(value)
        && !is_made_up(value)
}

/// Salts as frameworks generate them: printable noise with signs in it.
fn is_noise(value: &[u8]) -> bool {
    let signs = value.iter().filter(|byte| byte.is_ascii_punctuation()).count();
    value.len() >= 32
        && signs * 8 >= value.len()
        && entropy(value) >= 4.5
        && !contains(value, "](")
        && !contains(value, "\\")
}

/// A value that another place gives: a variable, a path, a call, a format.
pub(crate) fn looks_up(value: &[u8]) -> bool {
    let starts = [
        &b"$"[..],
        b"%",
        b"@",
        b"./",
        b"../",
        b"~/",
        b"/",
        b"arn:",
        b"env:",
        b"file:",
        b"http:",
        b"https:",
        b"&",
    ];
    let is_call = contains(value, "(") && contains(value, ")");
    let is_format = contains(value, "{") && contains(value, "}");
    starts.iter().any(|start| value.starts_with(start)) && entropy(value) < 4.5
        || is_call && value.len() < 40
        || is_format && value.len() < 40
}

/// Names as programs have them: `password_hash`, `Auth::Password`, `user-pass.v1`.
fn is_name(value: &[u8]) -> bool {
    let is_name_byte = |byte: &u8| byte.is_ascii_lowercase() || b"_-.:/".contains(byte);
    value.iter().all(is_name_byte)
}

/// Names with numbers in them: `opaque_pass_2d`.
fn is_identifier(value: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(byte);
    value.iter().all(is_part) && value.iter().any(|byte| b"_-".contains(byte))
}

fn is_masked(value: &[u8]) -> bool {
    let Some(first) = value.first() else { return true };
    value.iter().all(|byte| byte == first)
        || (value.starts_with(b"<") && value.ends_with(b">"))
        || (value.starts_with(b"[") && value.ends_with(b"]"))
}

fn is_about(key: &[u8]) -> bool {
    let last = key.rsplit(|byte| matches!(byte, b'_' | b'-' | b'.')).next().unwrap_or_default();
    ABOUT.iter().any(|word| last == word.as_bytes() || (word.len() > 3 && last.ends_with(word.as_bytes())))
        || CONTENT.iter().any(|word| contains(key, word))
        || contains(key, "public")
        || contains(key, "author")
}

/// Names that say that everybody may know the value, or that it opens nothing.
fn is_open(prefix: &[u8]) -> bool {
    let prefix = prefix.to_ascii_lowercase();
    ["public", "publishable", "example", "sample", "dummy", "fake", "test_", "test-"]
        .iter()
        .any(|word| contains(&prefix, word))
}

fn is_uuid_of_zeros(value: &[u8]) -> bool {
    value.iter().filter(|byte| **byte == b'0').count() * 2 > value.len()
}

/// A comment in code shows how something would look; a configuration line that is commented out was real once.
fn is_comment(subject: &Subject<'_>) -> bool {
    subject.name.kind == Kind::Code && is_documentation_comment(subject)
}

fn is_documentation_comment(subject: &Subject<'_>) -> bool {
    let line = memchr::memrchr(b'\n', subject.before)
        .map_or(subject.before, |newline| &subject.before[newline + 1..]);
    let line = line.trim_ascii_start();
    [&b"//"[..], b"/*", b"* ", b"#!", b"\"\"\"", b"--", b";;"].iter().any(|sign| line.starts_with(sign))
        || (subject.name.kind == Kind::Code && line.starts_with(b"#"))
}

/// Unit tests stand at the end of a Rust file.
pub(crate) fn in_rust_tests(subject: &Subject<'_>) -> bool {
    subject.name.file.ends_with(".rs") && memchr::memmem::find(subject.before, b"#[cfg(test)]").is_some()
}

fn contains(text: &[u8], word: &str) -> bool {
    memchr::memmem::find(text, word.as_bytes()).is_some()
}
