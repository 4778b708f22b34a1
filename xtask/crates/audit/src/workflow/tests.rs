use std::collections::BTreeSet;

use super::*;

fn rules_of(text: &str) -> Vec<String> {
    let document = Document::parse(".github/workflows/a.yml", text.to_owned()).unwrap();
    audit(&document).into_iter().map(|finding| finding.rule.id).collect()
}

/// A workflow that no rule has anything to say about.
const GOOD: &str = "\
name: CI
on:
  push:
    branches: [main]
  pull_request:
permissions:
  contents: read
concurrency:
  group: ${{ github.workflow }}-${{ github.ref }}
  cancel-in-progress: true
jobs:
  test:
    name: Test
    runs-on: ubuntu-24.04
    timeout-minutes: 10
    if: github.actor != 'x'
    steps:
      - uses: actions/checkout@0123456789012345678901234567890123456789 # v6
        with:
          persist-credentials: false
      - uses: ./.github/actions/own
      - name: Run
        env:
          TITLE: ${{ github.event.pull_request.title }}
        run: |
          echo \"$TITLE\"
";

#[test]
fn a_good_workflow_has_no_finding() {
    assert_eq!(rules_of(GOOD), Vec::<String>::new());
}

/// Each case changes the good workflow at one place and trips one rule, at the line where the change stands.
#[test]
fn each_rule_is_tripped_by_one_defect_and_by_nothing_else() {
    let run = "echo \\\"$TITLE\\\"".replace('\\', "");
    let checkout = "actions/checkout@0123456789012345678901234567890123456789 # v6";
    let cases: &[(&str, &str, &str)] = &[
        ("unpinned-uses", checkout, "actions/checkout@v6"),
        ("unpinned-uses", "- uses: ./.github/actions/own", "- uses: a/b@0123"),
        ("unpinned-images", "timeout-minutes: 10", "timeout-minutes: 10\n    container: debian:13"),
        ("unpinned-images", "./.github/actions/own", "docker://alpine"),
        ("excessive-permissions", "  contents: read", "  contents: write # releases"),
        ("excessive-permissions", "permissions:\n  contents: read", "permissions: write-all"),
        ("undocumented-permissions", "  contents: read", "  contents: read\n  packages: read"),
        ("template-injection", &run, "echo ${{ github.event.pull_request.title }}"),
        (
            "template-injection",
            "./.github/actions/own",
            "actions/github-script@0123456789012345678901234567890123456789\n        with: { script: \"x ${{ github.head_ref }}\" }",
        ),
        ("dangerous-triggers", "  pull_request:\n", "  pull_request_target:\n"),
        ("artipacked", "persist-credentials: false", "fetch-depth: 1"),
        (
            "secrets-inherit",
            "jobs:\n",
            "jobs:\n  call:\n    uses: ./.github/workflows/b.yml\n    secrets: inherit\n",
        ),
        (
            "overprovisioned-secrets",
            "TITLE: ${{ github.event.pull_request.title }}",
            "ALL: ${{ toJSON(secrets) }}",
        ),
        (
            "overprovisioned-secrets",
            "TITLE: ${{ github.event.pull_request.title }}",
            "ALL: ${{ secrets[format('A_{0}', github.ref_name)] }}",
        ),
        (
            "hardcoded-container-credentials",
            "timeout-minutes: 10",
            "timeout-minutes: 10\n    container:\n      image: a@sha256:00\n      credentials: { username: a, password: hunter2 }",
        ),
        ("self-hosted-runner", "runs-on: ubuntu-24.04", "runs-on: [self-hosted, linux]"),
        (
            "insecure-commands",
            "TITLE: ${{ github.event.pull_request.title }}",
            "ACTIONS_ALLOW_UNSECURE_COMMANDS: true",
        ),
        (
            "concurrency-limits",
            "concurrency:\n  group: ${{ github.workflow }}-${{ github.ref }}\n  cancel-in-progress: true\n",
            "",
        ),
        ("unsound-condition", "if: github.actor != 'x'", "if: ${{ github.actor != 'x' }} && true"),
        ("unsound-condition", "if: github.actor != 'x'", "if: |\n      ${{ github.actor != 'x' }}"),
        ("anonymous-definition", "    name: Test\n", ""),
        ("timeout-missing", "    timeout-minutes: 10\n", ""),
        ("known-vulnerable-actions", "./.github/actions/own", "tj-actions/changed-files@v45.0.1"),
        (
            "cache-poisoning",
            "./.github/actions/own",
            "actions/cache@0123456789012345678901234567890123456789",
        ),
        ("github-env", &run, "echo \"$TITLE\" >> $GITHUB_ENV"),
    ];
    let mut tripped = BTreeSet::from(["workflow/not-readable".to_owned()]);
    for (rule, from, to) in cases {
        let mut good = GOOD.to_owned();
        // Three rules look at what starts a workflow; the trigger is no defect of theirs.
        let mut also = vec![];
        match *rule {
            "cache-poisoning" => good = good.replace("    branches: [main]", "    tags: [v1]"),
            "github-env" => {
                good = good.replace("  pull_request:\n", "  workflow_run: { workflows: [a] }\n");
                also.push("workflow/dangerous-triggers".to_owned());
            }
            "known-vulnerable-actions" => also.push("workflow/unpinned-uses".to_owned()),
            _ => {}
        }
        assert!(good.contains(from), "{from}");
        let bad = good.replacen(from, to, 1);
        let mut expected = also;
        expected.push(format!("workflow/{rule}"));
        let mut found = rules_of(&bad);
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{bad}");
        tripped.extend(found);
    }
    let all: BTreeSet<String> = crate::definitions()
        .filter(|rule| rule.id.starts_with("workflow/"))
        .map(|rule| rule.id.to_owned())
        .collect();
    assert_eq!(tripped, all);
}

#[test]
fn versions_with_an_advisory_are_told_from_those_before_and_after() {
    let is_known = |uses: &str| {
        rules_of(&GOOD.replace("./.github/actions/own", uses))
            .contains(&"workflow/known-vulnerable-actions".to_owned())
    };
    for bad in [
        "actions/download-artifact@v4.1.2",
        "Actions/Download-Artifact@4.0.0",
        "aquasecurity/trivy-action@0.34.2",
        "aquasecurity/setup-trivy@v0.2.5",
        "dawidd6/action-download-artifact@v5",
        "tj-actions/changed-files@v45",
    ] {
        assert!(is_known(bad), "{bad}");
    }
    for good in [
        "actions/download-artifact@v4",
        "actions/download-artifact@v4.1.3",
        // Its own code unpacks, not the package with the fault.
        "actions/download-artifact@v3.0.2",
        // The legitimate commits under a new name, after the hijacked tags were deleted.
        "aquasecurity/trivy-action@v0.34.0",
        "aquasecurity/trivy-action@0.35.0",
        "aquasecurity/setup-trivy@v0.2.6",
        "dawidd6/action-download-artifact@v6",
        "tj-actions/changed-files@v46.0.1",
        // Only the moving tag `v1` was hijacked, for two hours.
        "reviewdog/action-setup@v1.0.3",
        "reviewdog/action-setup@v1",
    ] {
        assert!(!is_known(good), "{good}");
    }
}

#[test]
fn an_injection_is_judged_by_who_chooses_the_value() {
    let severity = |expression: &str| {
        let text = GOOD.replace("echo \"$TITLE\"", &format!("echo ${{{{ {expression} }}}}"));
        let document = Document::parse("a.yml", text).unwrap();
        let findings = audit(&document);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].place.to_string().starts_with("a.yml:26:"), "{}", findings[0].place);
        findings[0].severity
    };
    assert_eq!(severity("github.head_ref"), Severity::High);
    assert_eq!(severity("github.event.pull_request.number"), Severity::Note);
    assert_eq!(severity("github.sha || github.ref_name"), Severity::High);
    assert_eq!(severity("github.ref == 'refs/heads/main' && 'a' || 'b'"), Severity::Note);
    assert_eq!(severity("steps.a.outputs.b"), Severity::Low);
    assert_eq!(severity("inputs.unknown"), Severity::Low);
}

#[test]
fn files_are_found_and_an_unreadable_one_is_a_finding() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    assert_eq!(workflows(folder.path()).unwrap(), vec![]);
    write(".github/workflows/good.yml", GOOD);
    write(".github/workflows/bad.yaml", "a: [");
    write(".github/actions/x/action.yml", "runs:\n  using: composite\n  steps:\n    - uses: a/b@v1\n");
    write("action.yml", "runs: { using: docker, image: \"docker://alpine:3\" }\n");
    let found: Vec<_> =
        workflows(folder.path()).unwrap().iter().map(|f| format!("{} {}", f.rule.id, f.place)).collect();
    assert_eq!(
        found,
        [
            "workflow/unpinned-uses .github/actions/x/action.yml:4:13",
            "workflow/not-readable .github/workflows/bad.yaml",
            "workflow/unpinned-images action.yml:1:31",
        ]
    );
}

/// Files that are as large as is read, and made to cost time.
#[test]
fn hostile_files_are_judged_in_bounded_time() {
    let head = "on: release\njobs:\n  a:\n    steps:\n";
    let cases = [
        "      - uses: actions/cache@v4\n".repeat(25_000),
        "      - run: echo ${{ github.head_ref }}\n".repeat(20_000),
        format!("      - run: \"{}\"\n", "${{ github.head_ref }}".repeat(40_000)),
        format!("      - run: \"{}\"\n", "${{ ((((((((((".repeat(60_000)),
    ];
    let started = std::time::Instant::now();
    for case in cases {
        let document = Document::parse("a.yml", format!("{head}{case}")).unwrap();
        assert!(!audit(&document).is_empty());
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(60), "{:?}", started.elapsed());
}

#[test]
fn no_bytes_make_it_panic_or_hang() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..3000 {
        let mut bytes = GOOD.as_bytes().to_vec();
        for _ in 0..random.usize(1..8) {
            let at = random.usize(0..bytes.len());
            match random.u8(0..4) {
                0 => bytes[at] = random.u8(..),
                1 => bytes.truncate(at.max(1)),
                2 => bytes.insert(at, *random.choice(b"{}[]&*:'\"|>-#$!%").unwrap_or(&b'x')),
                _ => {
                    let end = (at + random.usize(0..40)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    let to = random.usize(0..bytes.len());
                    bytes.splice(to..to, piece);
                }
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Ok(document) = Document::parse("a.yml", text) {
            audit(&document);
        }
    }
}
