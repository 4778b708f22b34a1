//! What kind of thing differs, and what is known to help: by the text that differs, and by crates that are known for it. Pure.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::source::OLD;

/// What kind of thing differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A time.
    Time,
    /// A path of the building machine.
    Path,
    /// The name of the building machine.
    Host,
    /// The name or home folder of who builds.
    User,
    /// The same parts in another order.
    Order,
    /// A locale or time zone.
    Locale,
    /// What a repository says of itself.
    Git,
    /// Something that looks like chance, a counter or an address.
    Random,
    /// A note of the compiler or linker about itself.
    Tool,
    /// The name that Cargo mixes into symbols.
    Name,
    /// Objects are the same and the program is not.
    Linker,
    /// The image's own documents.
    Document,
    /// A file that was copied.
    Asset,
    /// None of these.
    Unknown,
}

/// What both builds had in different forms.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) paths: Vec<(PathBuf, PathBuf)>,
    pub(super) hosts: (String, String),
    /// Name and number.
    pub(super) users: Vec<(String, String)>,
    /// The commit.
    pub(super) revision: Option<String>,
    pub(super) words: Vec<(String, String)>,
    /// Seconds since 1970, when the second build ended.
    pub(super) now: i64,
}

/// Crates that are known to put something of the building machine into the bits, and what helps. A name ends in `*` where it is
/// the beginning of several.
const CRATES: &[(&str, &str)] = &[
    (
        "const-random*",
        "it takes a seed from CONST_RANDOM_SEED, which this build sets: an older version, or a macro of its own, ignores it; update it",
    ),
    (
        "ahash",
        "turn its feature `compile-time-rng` off, or update const-random: this build sets CONST_RANDOM_SEED",
    ),
    (
        "built",
        "it takes SOURCE_DATE_EPOCH for the time; leave its features `chrono` (host time) and `git2` out where they are not needed",
    ),
    (
        "vergen*",
        "set `VERGEN_IDEMPOTENT=1`, or give fixed values by its `VERGEN_*` variables in Cargo's `[env]` table",
    ),
    (
        "shadow-rs",
        "update it to a version that takes SOURCE_DATE_EPOCH, or leave out BUILD_TIME (`deny` list of its builder)",
    ),
    (
        "build-time",
        "it reads the clock and takes no SOURCE_DATE_EPOCH: replace it by `option_env!(\"SOURCE_DATE_EPOCH\")`, or patch it",
    ),
    ("build_timestamp", "it reads the clock: replace it by `option_env!(\"SOURCE_DATE_EPOCH\")`"),
    (
        "compile-time",
        "it reads the clock and random numbers in a macro: replace it by `option_env!(\"SOURCE_DATE_EPOCH\")`",
    ),
    (
        "git-version",
        "give the description by a variable instead: a checkout without tags or with other history says something else",
    ),
    (
        "rust-embed*",
        "it embeds times of files unless SOURCE_DATE_EPOCH is set, which this build does: update it, or use its feature `deterministic-timestamps`",
    ),
    ("include_dir*", "leave its feature `metadata` out: it embeds times of files"),
    ("i18n-embed*", "update it: older versions wrote messages in the order of a hash map"),
    ("fluent*", "update it: older versions wrote messages in the order of a hash map"),
];

/// What is known to help against a kind of difference in one of `packages`: the first that differs, and what it is made with.
pub(super) fn cure(kind: Kind, packages: &[&str]) -> String {
    let names = || packages.iter().filter_map(|package| package.split('@').next());
    let fits = |known: &&(&str, &str)| match known.0.strip_suffix('*') {
        Some(prefix) => names().any(|name| name.starts_with(prefix)),
        None => names().any(|name| known.0 == name),
    };
    if let Some((_, cure)) = CRATES.iter().find(fits) {
        return (*cure).to_owned();
    }
    let text = match kind {
        Kind::Time => {
            "take SOURCE_DATE_EPOCH (seconds since 1970, set in every image build) instead of the clock in the build script or macro; \
             C code: `-Wdate-time` finds `__DATE__` and `__TIME__`, which GCC and Clang take from SOURCE_DATE_EPOCH"
        }
        Kind::Path => {
            "read the file at compile time (`include_str!`, `include_bytes!`) or at run time from a path that is given, instead of keeping \
             `env!(\"CARGO_MANIFEST_DIR\")`, `env!(\"OUT_DIR\")` or a path that a build script wrote"
        }
        Kind::Host => "leave the machine's name out, or give it as a variable at run time",
        Kind::User => {
            "leave out who builds: the user's name, id and home folder are no part of what is built"
        }
        Kind::Order => {
            "sort before writing: the build script or macro goes over a hash map or a folder's entries (`BTreeMap`, or `sort` after `read_dir`)"
        }
        Kind::Locale => "do not format by the machine's locale or time zone: write UTC and plain numbers",
        Kind::Git => {
            "a checkout in CI has no branch, no tags and perhaps no history: give the description by a variable, and keep it out of the \
             binary; the image's label `org.opencontainers.image.revision` has the commit already"
        }
        Kind::Random => {
            "derive it from the source (a digest of what it names) or make it at run time; a hash map's order and an address count as chance, too"
        }
        Kind::Tool => {
            "build with the same toolchain: pin it in rust-toolchain.toml, and see `toolchain` in the provenance of both images"
        }
        Kind::Name => {
            "Cargo mixes the path of a package outside the workspace into its symbols: move it inside, or depend on it by git"
        }
        Kind::Linker => {
            "all objects are the same and the linked program is not: leave out `-fuse-ld` and `linker` settings, so that the toolchain's own linker is used"
        }
        Kind::Document => {
            "see the image's labels: they come from Cargo.toml, service.yaml, slipway.yaml and git"
        }
        Kind::Asset => {
            "the file is not what git has: it is made by something else than the build, or changed by a filter of the checkout"
        }
        Kind::Unknown => "compare what the two builds left with `diffoscope`; they are kept with `--keep`",
    };
    text.to_owned()
}

/// What kind of thing differs, by the texts around the difference.
pub(super) fn kind(known: &Known, section: &str, first: &str, second: &str) -> Kind {
    if section.starts_with(".comment") || section.starts_with(".note.rustc") {
        return Kind::Tool;
    }
    let differ_by = |(a, b): (&str, &str)| !a.is_empty() && a != b && first.contains(a) && second.contains(b);
    let text = |pair: &(String, String)| differ_by((&pair.0, &pair.1));
    if text(&known.hosts) {
        return Kind::Host;
    }
    let path = |pair: &(PathBuf, PathBuf)| differ_by((&pair.0.to_string_lossy(), &pair.1.to_string_lossy()));
    if known.paths.iter().any(path) {
        return Kind::Path;
    }
    if known.users.iter().any(text) {
        return Kind::User;
    }
    if known.words.iter().any(text) {
        return Kind::Locale;
    }
    if has_time(first, known.now) && has_time(second, known.now) {
        return Kind::Time;
    }
    let short = known.revision.as_ref().and_then(|revision| revision.get(..7));
    let names_commit = short.is_some_and(|short| first.contains(short) || second.contains(short));
    if names_commit || is_git(first) || is_git(second) {
        return Kind::Git;
    }
    let sorted = |text: &str| {
        let mut parts: Vec<char> = text.chars().collect();
        parts.sort_unstable();
        parts
    };
    if first != second && first.len() > 3 && sorted(first) == sorted(second) {
        return Kind::Order;
    }
    let is_number = |text: &str| {
        let digits = text.chars().filter(char::is_ascii_hexdigit).count();
        digits >= 6 && digits * 10 >= text.chars().count() * 6
    };
    if is_number(first) && is_number(second) { Kind::Random } else { Kind::Unknown }
}

/// Whether the text is what git says of a commit or branch.
fn is_git(text: &str) -> bool {
    let described = text
        .split_once("-g")
        .is_some_and(|(_, rest)| rest.chars().take(7).filter(char::is_ascii_hexdigit).count() == 7);
    described
        || ["refs/", "-dirty", "fatal: "].iter().any(|word| text.contains(word))
        || ["HEAD", "master", "main"].contains(&text.trim())
}

/// Whether the text holds a time of these days: seconds, milliseconds, micro- or nanoseconds since 1970, or a date.
fn has_time(text: &str, now: i64) -> bool {
    /// The second build's clock may be shifted by more than a year.
    const SPAN: i128 = 800 * 86_400;
    let is_near = |number: i128, time: i64| (number - i128::from(time)).abs() < SPAN;
    let is_recent = |number: i128| is_near(number, now) || is_near(number, OLD);
    let numbers =
        text.split(|c: char| !c.is_ascii_digit()).filter(|digits| (10..=19).contains(&digits.len()));
    let mut parsed = numbers.filter_map(|digits| Some((digits.len(), digits.parse::<i128>().ok()?)));
    let stamp =
        parsed.any(|(length, number)| is_recent(number / 10_i128.pow(length.saturating_sub(10) as u32)));
    let year = 1970 + now / 31_556_952;
    let years = (year - 2..=year + 2).map(|year| year.to_string());
    stamp || years.into_iter().any(|year| has_date(text, &year))
}

/// A year beside a month, a weekday or a clock's time.
fn has_date(text: &str, year: &str) -> bool {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let Some((before, after)) = text.split_once(year) else { return false };
    let joined = after.starts_with(['-', '/', '.']) || before.ends_with(['-', '/', '.']);
    joined || MONTHS.iter().any(|month| text.contains(month)) || text.matches(':').count() >= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(first: &str, second: &str, expected: Kind) {
        let known = Known {
            paths: vec![("/home/u/w".into(), "/v/source".into())],
            hosts: ("box".into(), "other-host".into()),
            users: vec![("mallory".into(), "slipway".into()), ("1000".into(), "4242".into())],
            revision: Some("0123456789abcdef".into()),
            words: vec![("de_DE".into(), "tr_TR".into())],
            now: 1_763_685_000,
        };
        assert_eq!(kind(&known, ".rodata", first, second), expected, "{first} / {second}");
    }

    #[test]
    fn kinds_are_told_by_their_texts() {
        check("at 1763684000", "at 1798000000", Kind::Time);
        check("1763684000123456789", "1763684100123456789", Kind::Time);
        check("2025-11-21T00:00", "2026-12-26T00:00", Kind::Time);
        check("Fri Nov 21 00:38 2025", "Sat Dec 26 00:38 2026", Kind::Time);
        check("v1.2.2025", "v1.3.2025", Kind::Time);
        check("x/home/u/w/a", "x/v/source/a", Kind::Path);
        check("on box", "on other-host", Kind::Host);
        check("by mallory", "by slipway", Kind::User);
        check("number 1000", "number 4242", Kind::User);
        check("written 1763684000", "written 1000000003", Kind::Time);
        check("v1.0", "0123456", Kind::Git);
        check("a,b,c,d", "c,a,d,b", Kind::Order);
        check("9f8e7d6c5b4a", "0a1b2c3d4e5f", Kind::Random);
        check("v1.0-3-g0011aa", "fatal: no names", Kind::Git);
        check("some", "other", Kind::Unknown);
    }

    #[test]
    fn crates_that_are_known_have_a_cure_of_their_own() {
        assert!(cure(Kind::Time, &["mine@1.0.0", "vergen-gitcl@1.0.0"]).contains("VERGEN_IDEMPOTENT"));
        assert!(cure(Kind::Time, &["mine@1.0.0"]).contains("SOURCE_DATE_EPOCH"));
        assert!(cure(Kind::Random, &[]).contains("digest"));
    }
}
