//! Where the next page of a list is: the header `Link`. Pure.
//!
//! Source: RFC 8288; distribution-spec 1.1, "Listing Tags".

/// The target of the link with `rel="next"`.
pub(crate) fn next(header: &str) -> Option<&str> {
    let mut rest = header;
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>')?;
        let target = &rest[start + 1..end];
        rest = &rest[end + 1..];
        let parameters = rest.split('<').next().unwrap_or_default();
        let is_next = |one: &str| {
            let (name, value) = one.split_once('=').unwrap_or_default();
            let value = value.trim().trim_end_matches(',').trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("rel") && value.eq_ignore_ascii_case("next")
        };
        if parameters.split(';').any(is_next) {
            return Some(target);
        }
    }
    None
}

/// `target` as seen from a page of `base` (scheme, host, path): absolute, or below the same host.
pub(crate) fn resolve(base: &str, target: &str) -> String {
    let scheme_end = base.find("://").map_or(0, |at| at + 3);
    let path_start = base[scheme_end..].find('/').map_or(base.len(), |at| scheme_end + at);
    if target.contains("://") {
        target.to_owned()
    } else if target.starts_with("//") {
        format!("{}{target}", &base[..scheme_end.saturating_sub(2)])
    } else if target.starts_with('/') {
        format!("{}{target}", &base[..path_start])
    } else {
        let path = base.split(['?', '#']).next().unwrap_or(base);
        if target.starts_with('?') {
            return format!("{path}{target}");
        }
        let folder = path.rfind('/').filter(|at| *at >= path_start).map_or(path_start, |at| at + 1);
        format!("{}{target}", &path[..folder.min(path.len())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_links() {
        assert_eq!(next(r#"</v2/a/tags/list?n=2&last=b>; rel="next""#), Some("/v2/a/tags/list?n=2&last=b"));
        assert_eq!(next(r#"<x>; rel=prev, <y>; title="t"; rel=NEXT"#), Some("y"));
        for none in ["", "<", "<x>", "<x>; rel=prev", "x; rel=next", "<x; rel=next", "<ü"] {
            assert_eq!(next(none), None, "{none}");
        }
    }

    #[test]
    fn targets_are_resolved_as_a_browser_would() {
        let base = "https://r.example:5000/v2/a/blobs/uploads/?x=/y";
        let check = |target, full: &str| assert_eq!(resolve(base, target), full);
        check("https://other.example/z", "https://other.example/z");
        check("//other.example/z", "https://other.example/z");
        check("/v2/b?s=1", "https://r.example:5000/v2/b?s=1");
        check("id?s=1", "https://r.example:5000/v2/a/blobs/uploads/id?s=1");
        check("?s=1", "https://r.example:5000/v2/a/blobs/uploads/?s=1");
        assert_eq!(resolve("https://r.example", "/x"), "https://r.example/x");
    }
}
