//! What a scan found: for people, as one document, and for GitHub's pages.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use finding::{Check, Finding, Judged, Place, Policy, Severity};
use scan::Package;
use serde_json::{Value, json};

use super::{document, print, seconds};
use crate::runner::{self, data, property};

/// Annotations beyond this are dropped by GitHub, for each kind and step.
const MOST_ANNOTATIONS: usize = 10;

/// A job's summary may have 1 MiB; who needs more rows reads the report.
const MOST_ROWS: usize = 200;

/// What a scan found, judged.
pub(crate) struct Scanned {
    pub(crate) judged: Judged,
    pub(crate) policy: Policy,
    pub(crate) checks: Vec<ScannedCheck>,
    pub(crate) warnings: Vec<String>,
    /// What the services are made of; empty where nobody asked.
    pub(crate) packages: Vec<Package>,
    /// What deployments of the scanned release go by.
    pub(crate) record: Option<PathBuf>,
    pub(crate) started: Instant,
}

/// How one check went.
pub(crate) struct ScannedCheck {
    pub(crate) check: Check,
    pub(crate) error: Option<String>,
    pub(crate) elapsed: Duration,
}

impl Scanned {
    /// How many findings violate the policy.
    pub(crate) fn failing(&self) -> usize {
        self.judged.open.iter().filter(|finding| self.policy.fails(finding)).count()
    }

    /// What counts of one check, most severe first.
    fn of(&self, check: Check) -> Vec<&Finding> {
        let mut findings: Vec<&Finding> =
            self.judged.open.iter().filter(|finding| finding.rule.check == check).collect();
        findings.sort_by(|a, b| {
            let key = |one: &Finding| (one.rule.id.clone(), one.place.clone(), one.key.clone());
            b.severity.cmp(&a.severity).then_with(|| key(a).cmp(&key(b)))
        });
        findings
    }

    fn word(&self, finding: &Finding) -> &'static str {
        match finding.severity {
            _ if self.policy.fails(finding) => "fails",
            Severity::Note => "note",
            _ => "warns",
        }
    }
}

/// Prints what was found.
pub(crate) fn scanned(scanned: &Scanned, as_json: bool) -> Result<()> {
    for warning in &scanned.warnings {
        eprintln!("warning: {}", plain(warning));
    }
    if as_json {
        return document("slipway.scan/1", value(scanned));
    }
    let mut text = String::new();
    for check in Check::ALL {
        group(&mut text, scanned, check)?;
    }
    for waived in &scanned.judged.waived {
        let (finding, waiver) = (&waived.finding, &waived.waiver);
        let why = plain(&format!("{}, until {}, by {}", waiver.reason, waiver.expires, waiver.owner));
        writeln!(text, "waived  {}  {}  {why}", finding.rule.id, plain(&finding.message))?;
    }
    writeln!(text, "{}", summary(scanned))?;
    if let Some(path) = &scanned.record {
        let is_whole = scanned.checks.iter().all(|check| check.error.is_none());
        let what = if is_whole { "" } else { ", which admits it nowhere: a check is missing" };
        writeln!(text, "deployments of this release go by {}{what}", path.display())?;
    }
    print(&text)
}

/// The findings of one check. Why and how to mend stand once below the last finding of a rule; notes go without.
fn group(text: &mut String, scanned: &Scanned, check: Check) -> Result<()> {
    let findings = scanned.of(check);
    if findings.is_empty() {
        return Ok(());
    }
    writeln!(text, "{}", check.name().to_uppercase())?;
    for (index, finding) in findings.iter().enumerate() {
        let (word, severity, rule) = (scanned.word(finding), finding.severity.name(), &finding.rule);
        let (place, message) = (plain(&finding.place.to_string()), plain(&finding.message));
        writeln!(text, "  {word:5}  {severity:8}  {}  {place}  {message}", rule.id)?;
        let is_last = findings.get(index + 1).is_none_or(|next| next.rule.id != rule.id);
        if is_last && finding.severity > Severity::Note {
            writeln!(text, "         why: {}\n         fix: {}", plain(&rule.why), plain(&rule.fix))?;
        }
    }
    writeln!(text)?;
    Ok(())
}

fn summary(scanned: &Scanned) -> String {
    let name = |check: &ScannedCheck| match check.error {
        None => check.check.name().to_owned(),
        Some(_) => format!("{} could not run", check.check.name()),
    };
    let checks: Vec<String> = scanned.checks.iter().map(name).collect();
    let took = seconds(u64::try_from(scanned.started.elapsed().as_millis()).unwrap_or(u64::MAX));
    let count =
        |severity: Severity| scanned.judged.open.iter().filter(|one| one.severity == severity).count();
    let counts: Vec<String> = Severity::ALL
        .into_iter()
        .rev()
        .filter(|severity| count(*severity) > 0)
        .map(|severity| format!("{} {}", count(severity), severity.name()))
        .collect();
    let counts = if counts.is_empty() { "no findings".to_owned() } else { counts.join(", ") };
    let (failing, waived) = (scanned.failing(), scanned.judged.waived.len());
    format!("{counts}; {failing} against the policy, {waived} waived; {} ({took} s)", checks.join(", "))
}

fn value(scanned: &Scanned) -> Value {
    let finding = |one: &Finding| {
        let mut value = json!(one);
        value["fingerprint"] = json!(one.fingerprint());
        value["fails"] = json!(scanned.policy.fails(one));
        value
    };
    let check = |one: &ScannedCheck| json!({ "check": one.check.name(), "error": one.error, "elapsed_ms": one.elapsed.as_millis() as u64 });
    let package = |one: &Package| json!({ "name": one.name, "version": one.version.to_string(), "class": one.class().name(), "linked": one.linked, "build_only": one.build_only });
    let open = Check::ALL.into_iter().flat_map(|check| scanned.of(check));
    json!({
        "findings": open.map(finding).collect::<Vec<_>>(),
        "waived": scanned.judged.waived,
        "failing": scanned.failing(),
        "record": scanned.record,
        "warnings": scanned.warnings,
        "checks": scanned.checks.iter().map(check).collect::<Vec<_>>(),
        "packages": scanned.packages.iter().map(package).collect::<Vec<_>>(),
        "elapsed_ms": scanned.started.elapsed().as_millis() as u64,
    })
}

/// In a GitHub Actions job: annotations at the places of findings, and the job's summary page. Annotations go to standard
/// error, where the runner reads them as well: standard output carries results only.
pub(crate) fn annotate(scanned: &Scanned, service_files: &BTreeMap<String, String>) -> Result<()> {
    if std::env::var("GITHUB_ACTIONS").is_ok_and(|value| value == "true") {
        eprint!("{}", annotations(scanned, service_files));
        runner::summarise(&markdown(scanned))?;
    }
    Ok(())
}

fn annotations(scanned: &Scanned, service_files: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for kind in ["error", "warning"] {
        let findings = Check::ALL.into_iter().flat_map(|check| scanned.of(check));
        let is_kind = |finding: &&Finding| match scanned.word(finding) {
            "fails" => kind == "error",
            "warns" => kind == "warning",
            _ => false,
        };
        for finding in findings.filter(is_kind).take(MOST_ANNOTATIONS) {
            let (file, line) = match &finding.place {
                Place::File { path, line, .. } | Place::Commit { path, line, .. } => (path.as_str(), *line),
                Place::Image { service, .. } => {
                    (service_files.get(service).map_or("Cargo.toml", String::as_str), None)
                }
            };
            let message = format!("{}. {}", plain(&finding.message), plain(&finding.rule.fix));
            let _ = writeln!(
                text,
                "::{kind} file={},line={},title={}::{}",
                property(file),
                line.unwrap_or(1),
                property(&finding.rule.id),
                data(&message)
            );
        }
    }
    text
}

fn markdown(scanned: &Scanned) -> String {
    let cell = |text: &str| plain(text).replace('|', "\\|").replace('<', "&lt;").replace('`', "'");
    let mut text = format!("### Scan\n\n{}\n", cell(&summary(scanned)));
    let shown = |finding: &&Finding| finding.severity > Severity::Note;
    let findings: Vec<&Finding> =
        Check::ALL.into_iter().flat_map(|check| scanned.of(check)).filter(shown).collect();
    if !findings.is_empty() {
        text += "\n| | severity | rule | place | what | fix |\n|---|---|---|---|---|---|\n";
    }
    for finding in findings.iter().take(MOST_ROWS) {
        let (word, severity) = (scanned.word(finding), finding.severity.name());
        let cells = [&finding.rule.id, &finding.place.to_string(), &finding.message, &finding.rule.fix];
        let _ = writeln!(text, "| {word} | {severity} | {} |", cells.map(|text| cell(text)).join(" | "));
    }
    if findings.len() > MOST_ROWS {
        let _ = writeln!(text, "\nand {} more.", findings.len() - MOST_ROWS);
    }
    text
}

/// Text of others on one line, without what a terminal would take for a command.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use finding::Rule;

    use super::*;

    fn with(message: &str) -> Scanned {
        let rule = Rule {
            id: "licences/missing".into(),
            check: Check::Licences,
            title: "t".into(),
            why: "w".into(),
            fix: "f".into(),
            url: None,
        };
        let place = Place::file_line("a,b.rs", 3, 1);
        let finding =
            Finding { severity: Severity::High, rule, place, message: message.into(), key: "k".into() };
        Scanned {
            judged: Judged { open: vec![finding], waived: vec![] },
            policy: Policy::default(),
            checks: vec![],
            warnings: vec![],
            packages: vec![],
            record: None,
            started: Instant::now(),
        }
    }

    #[test]
    fn nothing_that_was_found_can_give_a_command_to_the_runner() {
        let text = annotations(&with("100%\n::set-env name=x::y"), &BTreeMap::new());
        assert_eq!(
            text,
            "::error file=a%2Cb.rs,line=3,title=licences/missing::100%25 ::set-env name=x::y. f\n"
        );
        assert!(markdown(&with("a | <b>")).contains("a \\| &lt;b>"));
        assert_eq!(plain("\u{1b}[2J"), " [2J");
    }
}
