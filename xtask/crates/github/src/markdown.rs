//! Markdown in which text from files cannot do anything but be shown. Invariant: such text only ever stands in a code span,
//! where GitHub sees neither Markdown nor HTML, mentions, issue numbers or links, and it cannot leave that span or its table cell.

use std::fmt::Write as _;

use crate::failure::is_invisible;

/// GitHub takes 65,536 characters in comments and 65,535 in summaries of check runs; bytes are counted, which is never more generous.
pub(crate) const MAX_BODY: usize = 65_535;
const CUT: &str = "\n\n_The rest is left out: GitHub takes no longer text._\n";

/// Longer names are cut: package names and paths that people chose are shorter.
const MAX_CODE: usize = 120;

/// Rows of one table; more are counted only.
const MAX_ROWS: usize = 100;

/// Foreign text as a code span.
pub(crate) fn code(text: &str) -> String {
    let tame = |c: char| match c {
        '`' => '\'',
        '|' => '¦',
        c if c.is_control() || is_invisible(c) => '\u{fffd}',
        c => c,
    };
    let mut shown: String = text.trim().chars().take(MAX_CODE).map(tame).collect();
    if shown.trim().is_empty() {
        return "–".to_owned();
    }
    if text.trim().chars().count() > MAX_CODE {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// A table. Cells are Markdown that the caller made; foreign text in them is [`code`].
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let mut text = line(&head);
    text += &line(&vec!["---".to_owned(); head.len()]);
    for row in rows.iter().take(MAX_ROWS) {
        text += &line(row);
    }
    if rows.len() > MAX_ROWS {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "\n{} more are left out.", rows.len() - MAX_ROWS);
    }
    text
}

/// The text, cut at the end of a line if it has more than `bound` bytes.
pub(crate) fn bounded(text: &str, bound: usize) -> String {
    if text.len() <= bound {
        return text.to_owned();
    }
    let mut end = bound - CUT.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let end = text[..end].rfind('\n').unwrap_or(end);
    format!("{}{CUT}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_stays_in_its_span() {
        assert_eq!(code("serde"), "`serde`");
        assert_eq!(code(" \n"), "–");
        for hostile in
            ["`@all`", "a|b", "a\\|b", "x\n\n# y", "<img src=x>", "[a](http://b)", "a\u{202e}b", "``` |"]
        {
            let shown = code(hostile);
            let inner = &shown[1..shown.len() - 1];
            assert!(shown.starts_with('`') && shown.ends_with('`'), "{shown}");
            assert!(!inner.contains(['`', '|', '\n', '\r', '\u{202e}']), "{shown}");
        }
        assert!(code(&"x".repeat(1_000)).len() < 130);
    }

    #[test]
    fn bodies_end_at_a_line_below_the_bound() {
        let long = "é line of text\n".repeat(10_000);
        let cut = bounded(&long, MAX_BODY);
        assert!(cut.len() <= MAX_BODY && cut.ends_with(CUT) && cut.contains("text\n\n_The"), "{}", cut.len());
        assert!(bounded(&"é".repeat(MAX_BODY), MAX_BODY).len() <= MAX_BODY);
        assert_eq!(bounded("short", MAX_BODY), "short");
    }

    #[test]
    fn long_tables_say_what_they_leave_out() {
        let rows = vec![vec!["a".to_owned()]; 103];
        let text = table(&["name"], &rows);
        assert_eq!((text.lines().count(), text.ends_with("\n3 more are left out.\n")), (104, true), "{text}");
    }
}
