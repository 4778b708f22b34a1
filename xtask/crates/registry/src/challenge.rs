//! What `WWW-Authenticate` asks for. Pure; any bytes give an answer.
//!
//! Source: RFC 9110 section 11, Docker's "Token Authentication Specification".

/// How a registry wants to be spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token from another server.
    Bearer {
        /// Where tokens are given out.
        realm: String,
        /// Whom the token is for.
        service: Option<String>,
        /// What the token must allow.
        scope: Option<String>,
    },
}

/// The challenge in the header that this program can meet; a token goes before a password.
pub(crate) fn parse<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    let found: Vec<Challenge> = headers.into_iter().flat_map(challenges).collect();
    let is_bearer = |one: &&Challenge| matches!(one, Challenge::Bearer { .. });
    found.iter().find(is_bearer).or(found.first()).cloned()
}

fn challenges(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = header;
    while let Some((scheme, after)) = word(rest) {
        let mut parameters = Vec::new();
        rest = after;
        while let Some((name, value, after)) = parameter(rest) {
            parameters.push((name.to_ascii_lowercase(), value));
            rest = after;
        }
        let get = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = get("realm")
        {
            found.push(Challenge::Bearer { realm, service: get("service"), scope: get("scope") });
        }
    }
    found
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// A word and what follows it.
fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// `name=value` or `name="value"`, and what follows it.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = word(text)?;
    let rest = rest.trim_start_matches([' ', '\t']).strip_prefix('=')?;
    let rest = rest.trim_start_matches([' ', '\t']);
    let Some(quoted) = rest.strip_prefix('"') else {
        let (value, rest) = word(rest)?;
        return Some((name, value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((name, value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) })
    }

    #[test]
    fn challenges_of_real_registries_are_read() {
        assert_eq!(parse(["Basic realm=\"basic-realm\""]), Some(Challenge::Basic));
        let hub = r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#;
        let expected =
            bearer("https://auth.example/token", Some("registry.example"), Some("repository:a/b:pull,push"));
        assert_eq!(parse([hub]), expected);
        assert_eq!(parse(["bearer REALM = x , Service=y"]), bearer("x", Some("y"), None));
        assert_eq!(parse(["Basic realm=\"a\", Bearer realm=\"b\\\"c\""]), bearer("b\"c", None, None));
        assert_eq!(parse(["Negotiate", "Basic realm=\"x\""]), Some(Challenge::Basic));
    }

    #[test]
    fn what_is_none_gives_none() {
        for text in ["", ",", "Bearer", "Bearer realm=", "Bearer realm=\"x", "Digest a=b", "=", "\"", "ü"] {
            assert_eq!(parse([text]), None, "{text}");
        }
    }
}
