//! Comments that allow one finding where it stands: `slipway:allow(secret/jwt): the token of RFC 7519`. The rule is named so that
//! another secret on the line is still found, and a reason is asked for so that the next reader can judge it.

const MARK: &[u8] = b"slipway:allow(";
/// A reason that says something has at least two words.
const SHORTEST_REASON: usize = 10;

/// What the comment at a place says about a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// There is no comment, or it is about another rule.
    No,
    Yes,
    /// The comment gives no reason.
    WithoutReason,
}

/// Looks on the line of `at` and on the line above it.
pub(crate) fn allowed(bytes: &[u8], at: usize, rule: &str) -> Allowed {
    let start = memchr::memrchr(b'\n', &bytes[..at]).map_or(0, |newline| newline + 1);
    let above = memchr::memrchr(b'\n', &bytes[..start.saturating_sub(1)]).map_or(0, |newline| newline + 1);
    let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |newline| at + newline);
    let answers = [&bytes[start..end], &bytes[above..start]].map(|line| on_line(line, rule));
    answers.into_iter().find(|answer| *answer != Allowed::No).unwrap_or(Allowed::No)
}

fn on_line(line: &[u8], rule: &str) -> Allowed {
    let Some(mark) = memchr::memmem::find(line, MARK) else { return Allowed::No };
    let rest = String::from_utf8_lossy(&line[mark + MARK.len()..]);
    let Some((named, reason)) = rest.split_once(')') else { return Allowed::No };
    if named.strip_prefix("secret/").unwrap_or(named) != rule {
        return Allowed::No;
    }
    let reason = reason.strip_prefix(':').unwrap_or_default().trim_end();
    let reason = ["*/", "-->", "#}"].iter().fold(reason, |reason, end| reason.trim_end_matches(end)).trim();
    if reason.len() >= SHORTEST_REASON && reason.contains(' ') {
        Allowed::Yes
    } else {
        Allowed::WithoutReason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_allows_its_rule_on_its_line_and_the_next_with_a_reason() {
        let check = |text: &str, expected| {
            let at = text.find('T').unwrap();
            assert_eq!(allowed(text.as_bytes(), at, "jwt"), expected, "{text}");
        };
        check("T # slipway:allow(jwt): the token of RFC 7519", Allowed::Yes);
        check("/* slipway:allow(secret/jwt): the token of RFC 7519 */\nT", Allowed::Yes);
        check("// slipway:allow(jwt): the token of RFC 7519\n\nT", Allowed::No);
        check("T // slipway:allow(pem): the token of RFC 7519", Allowed::No);
        check("T // slipway:allow(jwt): because", Allowed::WithoutReason);
        check("T <!-- slipway:allow(jwt) -->", Allowed::WithoutReason);
        check("T", Allowed::No);
    }
}
