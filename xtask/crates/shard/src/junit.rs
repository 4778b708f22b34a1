//! A report as JUnit XML, the form that other tools read; and cargo-nextest's results, which come in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result};

use crate::run::{Outcome, Verdict};
use crate::{Report, Test};

/// The report as a document.
pub fn write(report: &Report) -> String {
    let mut suites: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
    for outcome in report.tests.iter().chain(&report.doctests) {
        suites.entry(&outcome.test.binary).or_default().push(outcome);
    }
    let mut xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
    let all: Vec<&Outcome> = suites.values().flatten().copied().collect();
    xml += &format!("<testsuites name=\"slipway\"{}>\n", totals(&all));
    for (binary, outcomes) in suites {
        let _ = writeln!(xml, "  <testsuite name=\"{}\"{}>", escape(binary), totals(&outcomes));
        outcomes.into_iter().for_each(|outcome| case(outcome, &mut xml));
        xml += "  </testsuite>\n";
    }
    xml + "</testsuites>\n"
}

fn totals(outcomes: &[&Outcome]) -> String {
    let number = |wanted: Verdict| outcomes.iter().filter(|outcome| outcome.verdict == wanted).count();
    let seconds: f64 = outcomes.iter().map(|outcome| outcome.seconds).sum();
    format!(
        " tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"{seconds:.3}\"",
        outcomes.len(),
        number(Verdict::Failed),
        number(Verdict::Interrupted),
        number(Verdict::Skipped)
    )
}

fn case(outcome: &Outcome, xml: &mut String) {
    let Test { binary, name } = &outcome.test;
    let (name, binary) = (escape(name), escape(binary));
    let _ =
        write!(xml, "    <testcase name=\"{name}\" classname=\"{binary}\" time=\"{:.3}\"", outcome.seconds);
    let detail = |kind: &str| {
        let (reason, output) = (escape(&outcome.reason), escape(&outcome.output));
        format!(">\n      <{kind} message=\"{reason}\">{output}</{kind}>\n    </testcase>\n")
    };
    *xml += &match outcome.verdict {
        Verdict::Passed => "/>\n".to_owned(),
        Verdict::Failed => detail("failure"),
        Verdict::Interrupted => detail("error"),
        Verdict::Skipped => ">\n      <skipped/>\n    </testcase>\n".to_owned(),
    };
}

/// Text as XML 1.0 may hold it: characters that it cannot hold, like the escape of coloured output, are left out.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\n' => out += "&#10;",
            '\t' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'.. => out.push(c),
            _ => {}
        }
    }
    out
}

/// The outcomes in a document that cargo-nextest wrote.
///
/// # Errors
/// When it is no such document.
pub(crate) fn parse(text: &str) -> Result<Vec<Outcome>> {
    let document = roxmltree::Document::parse(text).context("no JUnit document")?;
    let is = |name: &'static str| move |node: &roxmltree::Node<'_, '_>| node.has_tag_name(name);
    let mut outcomes = Vec::new();
    for suite in document.descendants().filter(is("testsuite")) {
        let binary = suite.attribute("name").context("a suite without a name")?;
        for case in suite.children().filter(is("testcase")) {
            let name = case.attribute("name").context("a test without a name")?;
            let seconds = case.attribute("time").and_then(|time| time.parse().ok()).unwrap_or(0.0);
            let bad = case.children().find(|node| node.has_tag_name("failure") || node.has_tag_name("error"));
            let test = Test { binary: binary.to_owned(), name: name.to_owned() };
            let verdict = if bad.is_some() {
                Verdict::Failed
            } else if case.children().any(|node| node.has_tag_name("skipped")) {
                Verdict::Skipped
            } else {
                Verdict::Passed
            };
            let reason = bad.and_then(|node| node.attribute("type")).unwrap_or_default();
            let mut outcome = Outcome::new(&test, verdict, seconds, reason);
            if bad.is_some() {
                let written =
                    case.children().filter(|n| n.has_tag_name("system-out") || n.has_tag_name("system-err"));
                outcome.output = written.filter_map(|node| node.text()).collect();
            }
            outcomes.push(outcome);
        }
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_and_output_survives_the_way_out_and_in() {
        let test = Test { binary: "a::it".to_owned(), name: "case \"<&>\" \u{1b}[1mü".to_owned() };
        let mut failed = Outcome::new(&test, Verdict::Failed, 1.5, "ended with exit status: 101");
        failed.output = "left: <1>\nright: \u{0}\u{1b}[31m]]>".to_owned();
        let mut report = crate::tests::report(&[]);
        report.tests = vec![failed, Outcome::new(&Test::doctests(), Verdict::Passed, 0.25, "")];
        let text = write(&report);
        let document = roxmltree::Document::parse(&text).unwrap();
        let failure = document.descendants().find(|node| node.has_tag_name("failure")).unwrap();
        assert_eq!(failure.text(), Some("left: <1>\nright: [31m]]>"));
        let outcomes = parse(&text).unwrap();
        assert_eq!(
            outcomes.iter().map(|o| o.verdict).collect::<Vec<_>>(),
            [Verdict::Passed, Verdict::Failed]
        );
        assert_eq!(outcomes[1].test.name, "case \"<&>\" [1mü");
        assert_eq!(outcomes[1].seconds, 1.5);
    }

    #[test]
    fn no_document_makes_it_panic() {
        let mut random = fastrand::Rng::with_seed(5);
        let good = write(&crate::tests::report(&["a", "b"])).into_bytes();
        for _ in 0..3_000 {
            let mut bytes = good.clone();
            for _ in 0..random.usize(1..5) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            let _ = parse(&String::from_utf8_lossy(&bytes));
        }
    }
}
