//! What a file's name says of what stands in it.

/// What is concluded from a path with `/` between its parts.
pub(crate) struct Name<'a> {
    /// The last part.
    pub(crate) file: &'a str,
    pub(crate) kind: Kind,
    /// Test code, test data, examples and documents: full of invented values.
    pub(crate) is_sample: bool,
}

/// What kind of text a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Values stand in quotes, and names without quotes are variables.
    Code,
    /// Values may stand without quotes.
    Config,
    /// Made by a tool: full of checksums.
    Lock,
    /// Prose, styles, translations, pictures: nothing is assigned there.
    Prose,
}

const LOCKS: [&str; 16] = [
    "Cargo.lock",
    "package-lock.json",
    "npm-shrinkwrap.json",
    "yarn.lock",
    "pnpm-lock.yaml",
    "go.sum",
    "flake.lock",
    "poetry.lock",
    "uv.lock",
    "Pipfile.lock",
    "composer.lock",
    "Gemfile.lock",
    "bun.lock",
    "deno.lock",
    "mix.lock",
    "gradle.lockfile",
];
const CODE: [&str; 40] = [
    "rs", "py", "js", "ts", "jsx", "tsx", "mjs", "cjs", "go", "java", "kt", "kts", "scala", "c", "h", "cc",
    "cpp", "hpp", "cs", "php", "rb", "swift", "m", "lua", "pl", "dart", "ex", "exs", "erl", "hs", "ml",
    "clj", "zig", "nix", "sql", "vue", "svelte", "groovy", "proto", "wgsl",
];
const PROSE: [&str; 24] = [
    "md", "rst", "adoc", "txt", "html", "htm", "css", "scss", "less", "svg", "po", "pot", "ftl", "tex",
    "map", "snap", "patch", "diff", "csv", "tsv", "ipynb", "log", "stderr", "stdout",
];
const SAMPLES: [&str; 22] = [
    "test",
    "tests",
    "testing",
    "testdata",
    "test-data",
    "test_data",
    "testsuite",
    "test_utils",
    "test-utils",
    "fixtures",
    "fixture",
    "examples",
    "example",
    "benches",
    "bench",
    "spec",
    "specs",
    "mock",
    "mocks",
    "__tests__",
    "docs",
    "e2e",
];

impl<'a> Name<'a> {
    pub(crate) fn new(path: &'a str) -> Name<'a> {
        let file = path.rsplit('/').next().unwrap_or(path);
        let extension = file.rsplit_once('.').map_or("", |(_, extension)| extension);
        let is_minified =
            file.contains(".min.") || path.contains("node_modules/") || path.contains("/vendor/");
        let is = |list: &[&str]| list.iter().any(|name| extension.eq_ignore_ascii_case(name));
        let kind = if LOCKS.contains(&file) {
            Kind::Lock
        } else if is_minified || is(&PROSE) {
            Kind::Prose
        } else if is(&CODE) {
            Kind::Code
        } else {
            Kind::Config
        };
        Name { file, kind, is_sample: is_sample(path, file) }
    }

    /// Whether assignments of passwords are looked for.
    pub(crate) fn may_assign(&self) -> bool {
        !self.is_sample && matches!(self.kind, Kind::Code | Kind::Config)
    }
}

fn is_sample(path: &str, file: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let mut folders = lower.split('/').rev().skip(1);
    let stem = file.split('.').next().unwrap_or(file).to_ascii_lowercase();
    let mut words = stem.split(['_', '-']);
    folders
        .any(|folder| SAMPLES.contains(&folder) || folder.ends_with("-tests") || folder.ends_with("_tests"))
        || words.any(|word| matches!(word, "test" | "tests" | "fixture" | "mock" | "example" | "sample"))
        || [".test.", ".spec.", ".example", ".sample", ".template", ".dist"]
            .iter()
            .any(|part| lower.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_code_configuration_and_samples_apart() {
        let check = |path, kind, is_sample| {
            let name = Name::new(path);
            assert_eq!((name.kind, name.is_sample), (kind, is_sample), "{path}");
        };
        check("src/main.rs", Kind::Code, false);
        check("src/tests/a.rs", Kind::Code, true);
        check("src/latest.rs", Kind::Code, false);
        check("src/parser_test.go", Kind::Code, true);
        check(".env", Kind::Config, false);
        check(".env.example", Kind::Config, true);
        check("Cargo.lock", Kind::Lock, false);
        check("web/app.min.js", Kind::Prose, false);
        check("README.md", Kind::Prose, false);
    }
}
