//! Which names speak of a secret and which values are one written out. It never repeats a value.

/// Parts of names, as whole words between `_`, `-`, `.` or a change of case.
const WORDS: [&str; 13] = [
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "secret",
    "secrets",
    "token",
    "apikey",
    "credential",
    "credentials",
    "pat",
    "jwt",
    "pw",
];
/// Two words that mean one only together.
const PAIRS: [(&str, &str); 6] = [
    ("api", "key"),
    ("private", "key"),
    ("access", "key"),
    ("secret", "key"),
    ("signing", "key"),
    ("encryption", "key"),
];
/// Last words after which the value is about a secret and not the secret: a file, a limit, an address.
const ABOUT: [&str; 20] = [
    "file", "path", "dir", "ttl", "ms", "seconds", "length", "name", "id", "url", "uri", "header", "type",
    "count", "limit", "max", "min", "expiry", "enabled", "policy",
];

/// Whether a variable of this name holds a secret.
pub(crate) fn is_secret_name(name: &str) -> bool {
    let words = words(name);
    let is_about = words.last().is_some_and(|last| ABOUT.contains(&last.as_str()));
    let has_word = words.iter().any(|word| WORDS.contains(&word.as_str()));
    let has_pair = words.windows(2).any(|pair| PAIRS.contains(&(pair[0].as_str(), pair[1].as_str())));
    !is_about && (has_word || has_pair)
}

/// Whether the pair is a secret with its value, and not a reference to where the value lies.
pub(crate) fn is_literal_secret(name: &str, value: &str) -> bool {
    let value = value.trim();
    let is_reference = value.starts_with('$') || value.starts_with("/run/secrets/") || value.contains("${");
    let is_switch = ["true", "false", "none", "null"].contains(&value.to_ascii_lowercase().as_str());
    is_secret_name(name) && !value.is_empty() && !is_reference && !is_switch
}

fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in name.chars() {
        let is_split = !c.is_ascii_alphanumeric();
        if is_split || (c.is_ascii_uppercase() && was_lower) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| !is_split) {
            word.push(c.to_ascii_lowercase());
        }
        was_lower = c.is_ascii_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_by_their_words() {
        for name in [
            "DB_PASSWORD",
            "githubToken",
            "AWS_SECRET_ACCESS_KEY",
            "API_KEY",
            "x.private-key",
            "PGPASSWORD_PWD",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in
            ["TOKEN_TTL", "PASSWORD_FILE", "PATH", "KEYBOARD", "SECRET_NAME", "TOKENIZER", "MONKEY", "KEY"]
        {
            assert!(!is_secret_name(name), "{name}");
        }
        assert!(!is_literal_secret("DB_PASSWORD", "${DB}") && !is_literal_secret("DB_PASSWORD", ""));
    }
}
