//! Patterns for paths: `?` is one character of a part, `*` any number of them, `**` any number of parts. A pattern without any
//! of these is a path, or a folder with all that is in it.

/// Whether the `/`-separated `path` is what `pattern` means.
pub fn glob_matches(pattern: &str, path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let patterns: Vec<&str> = pattern.trim_end_matches('/').split('/').collect();
    let is_literal = !pattern.contains(['*', '?']);
    matches_parts(&patterns, &parts, is_literal)
}

/// Wildcard matching without recursion: after a mismatch the last `**` takes one more part, so the time is bounded by the
/// product of the lengths.
fn matches_parts(patterns: &[&str], parts: &[&str], may_end_early: bool) -> bool {
    let (mut pattern, mut part) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while part < parts.len() {
        if patterns.get(pattern) == Some(&"**") {
            retry = Some((pattern, part));
            pattern += 1;
        } else if patterns.get(pattern).is_some_and(|one| matches_part(one, parts[part])) {
            pattern += 1;
            part += 1;
        } else if pattern == patterns.len() && may_end_early {
            return true;
        } else if let Some((star, at)) = retry {
            retry = Some((star, at + 1));
            (pattern, part) = (star + 1, at + 1);
        } else {
            return false;
        }
    }
    patterns[pattern..].iter().all(|rest| *rest == "**")
}

fn matches_part(pattern: &str, part: &str) -> bool {
    let (pattern, part): (Vec<char>, Vec<char>) = (pattern.chars().collect(), part.chars().collect());
    let (mut p, mut s) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while s < part.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p, s));
                p += 1;
            }
            Some(one) if *one == '?' || *one == part[s] => {
                p += 1;
                s += 1;
            }
            _ => match retry {
                Some((star, at)) => {
                    retry = Some((star, at + 1));
                    (p, s) = (star + 1, at + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_gitignore_readers_expect() {
        let yes = [
            ("a/b.rs", "a/b.rs"),
            ("a", "a/b/c"),
            ("a/", "a/b"),
            ("**/b.rs", "b.rs"),
            ("**/b.rs", "x/y/b.rs"),
            ("a/**", "a/b/c"),
            ("a/**/c", "a/c"),
            ("a/*/c", "a/b/c"),
            ("*.pem", "k.pem"),
            ("a/?.rs", "a/b.rs"),
            ("**/*k*.p?m", "x/aakey.pem"),
        ];
        let no = [
            ("a/b", "a/bc"),
            ("a/b.rs", "x/a/b.rs"),
            ("*.pem", "a/k.pem"),
            ("a/*", "a/b/c"),
            ("a/**/c", "a/b/d"),
            ("a/?.rs", "a/.rs"),
            ("", "a"),
        ];
        for (pattern, path) in yes {
            assert!(glob_matches(pattern, path), "{pattern} on {path}");
        }
        for (pattern, path) in no {
            assert!(!glob_matches(pattern, path), "{pattern} on {path}");
        }
    }

    #[test]
    fn hostile_patterns_end_soon() {
        let pattern = "**/*a".repeat(200);
        assert!(!glob_matches(&pattern, &"a/b".repeat(400)));
        assert!(!glob_matches(&"*a".repeat(200), &"a".repeat(150)));
    }
}
