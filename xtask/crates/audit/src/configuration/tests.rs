use std::collections::BTreeSet;

use super::*;

fn rules_at(path: &str, text: &str) -> Vec<String> {
    let document = Document::parse(path, text.to_owned()).unwrap();
    let findings = audit(&document);
    findings.into_iter().map(|f| f.rule.id.trim_start_matches("config/").to_owned()).collect()
}

const SERVICE: &str = "\
image:
  binary: api
  env: { APP_HOST: 0.0.0.0 }
http:
  port: 8000
health:
  path: /ready
stop:
  grace_ms: 10000
env:
  APP_LOG__LEVEL: { default: info, description: \"error, warn or debug\" }
  APP_TOKEN: { secret: true, required: true }
  APP_TOKEN_TTL: { default: \"5\" }
resources: { memory_mib: 64, open_files: 256 }
";

const ENVIRONMENT: &str = "\
platform: process
edge:
  listen: 0.0.0.0:443
services:
  api:
    env:
      APP_HOST: 127.0.0.1
      APP_TOKEN: { from_env: TOKEN }
      APP_URL: https://example.com/x
      APP_BACK: \"${edge.url}/back\"
      APP_ORIGINS: https://example.com
";

#[test]
fn good_files_have_no_finding() {
    assert_eq!(rules_at("services/a/service.yaml", SERVICE), Vec::<String>::new());
    assert_eq!(rules_at("deploy/environments/production.yaml", ENVIRONMENT), Vec::<String>::new());
}

#[test]
fn each_rule_is_tripped_by_one_defect_and_by_nothing_else() {
    let mut tripped = BTreeSet::from(["not-readable".to_owned()]);
    let service: &[(&str, &str, &str)] = &[
        ("secret-with-default", "{ secret: true, required: true }", "{ secret: true, default: abc }"),
        ("secret-with-default", "APP_TOKEN_TTL", "APP_PASSWORD"),
        ("undeclared-secret", "{ secret: true, required: true }", "{ required: true }"),
        ("literal-secret", "APP_HOST: 0.0.0.0", "APP_PASSWORD: hunter2hunter2"),
        ("missing-memory-limit", "memory_mib: 64, ", ""),
        ("missing-open-files-limit", ", open_files: 256", ""),
        ("missing-health-check", "health:\n  path: /ready\n", ""),
        ("missing-stop-grace", "stop:\n  grace_ms: 10000\n", ""),
        ("root-user", "  binary: api", "  binary: api\n  user: 0"),
        ("open-to-the-world", "APP_HOST: 0.0.0.0", "APP_METRICS_HOST: 0.0.0.0"),
        ("wildcard-cors", "APP_TOKEN_TTL: { default: \"5\" }", "APP_CORS: { default: \"*\" }"),
        ("plaintext-url", "default: \"5\"", "default: \"http://other.example/\""),
    ];
    let environment: &[(&str, &str, &str)] = &[
        ("wildcard-cors", "APP_ORIGINS: https://example.com", "APP_CORS_ORIGINS: \"*\""),
        ("wildcard-cors", "APP_ORIGINS: https://example.com", "APP_ALLOWED_ORIGINS: [\"*\"]"),
        ("literal-secret", "{ from_env: TOKEN }", "0123456789abcdef"),
        ("weak-credential", "{ from_env: TOKEN }", "changeme"),
        ("url-with-password", "https://example.com/x", "https://me:hunter2@example.com/x"),
        ("superuser-database", "https://example.com/x", "postgres://root@db/x"),
        ("plaintext-database", "https://example.com/x", "postgres://app@db/x?sslmode=disable"),
        ("plaintext-url", "https://example.com/x", "http://example.com/x"),
        ("tls-not-verified", "APP_URL: https://example.com/x", "APP_TLS_VERIFY: \"false\""),
        ("tls-not-verified", "APP_URL: https://example.com/x", "APP_INSECURE_SKIP_VERIFY: \"1\""),
        ("debug-logging", "APP_URL: https://example.com/x", "RUST_LOG: info,api=debug"),
        ("debug-mode", "APP_URL: https://example.com/x", "RUST_BACKTRACE: full"),
        ("open-to-the-world", "APP_HOST: 127.0.0.1", "APP_HOST: 0.0.0.0"),
        ("privileged", "platform: process", "platform: process\nprivileged: true"),
        ("host-namespace", "platform: process", "platform: process\nnetwork_mode: host"),
        (
            "container-socket",
            "platform: process",
            "platform: process\nvolumes: [\"/var/run/docker.sock:/s\"]",
        ),
        ("floating-image", "platform: process", "platform: process\nimage: a.example/b:latest"),
    ];
    for (path, good, cases) in [
        ("services/a/service.yaml", SERVICE, service),
        ("deploy/environments/production.yaml", ENVIRONMENT, environment),
    ] {
        for (rule, from, to) in cases {
            assert!(good.contains(from), "{from}");
            assert_eq!(rules_at(path, &good.replacen(from, to, 1)), [*rule], "{rule}: {to}");
            tripped.insert((*rule).to_owned());
        }
    }
    let all: BTreeSet<String> =
        crate::definitions().filter_map(|rule| rule.id.strip_prefix("config/")).map(str::to_owned).collect();
    assert_eq!(tripped, all);
}

#[test]
fn what_serves_developers_only_may_be_talkative() {
    let text = ENVIRONMENT.replace("APP_URL: https://example.com/x", "RUST_LOG: debug");
    assert_eq!(rules_at("deploy/environments/local.yaml", &text), Vec::<String>::new());
    assert_eq!(rules_at("deploy/environments/staging.yaml", &text), ["debug-logging"]);
}

#[test]
fn findings_carry_the_place_of_the_key_and_never_the_value() {
    let text = ENVIRONMENT.replace("{ from_env: TOKEN }", "0123456789abcdef");
    let findings = audit(&Document::parse("deploy/environments/p.yaml", text).unwrap());
    assert_eq!(findings[0].place.to_string(), "deploy/environments/p.yaml:8:7");
    assert!(!format!("{findings:?}").contains("0123456789abcdef"));
}

#[test]
fn a_workspace_is_searched_and_an_unreadable_file_is_a_finding() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("a/service.yaml", SERVICE);
    write("deploy/environments/production.yaml", ENVIRONMENT);
    write("target/b/service.yaml", "image: { user: 0 }");
    write("other.yaml", "privileged: true");
    assert_eq!(configuration(folder.path()).unwrap(), vec![]);
    write("deploy/k8s/pod.yml", "spec:\n  hostNetwork: true\n---\nspec: [");
    let found = configuration(folder.path()).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].rule.id.as_str(), found[0].place.to_string().as_str()),
        ("config/not-readable", "deploy/k8s/pod.yml")
    );
}

/// The files of this repository are the first that the rules must be right about.
#[test]
fn this_workspace_has_no_finding() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    assert_eq!(configuration(&root).unwrap(), vec![]);
}

#[test]
fn no_bytes_make_it_panic() {
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..2000 {
        let mut bytes = [SERVICE.as_bytes(), ENVIRONMENT.as_bytes()][random.usize(0..2)].to_vec();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(0..bytes.len());
            bytes[at] = random.u8(..);
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        for path in ["a/service.yaml", "deploy/environments/production.yaml"] {
            if let Ok(document) = Document::parse(path, text.clone()) {
                audit(&document);
            }
        }
    }
}

#[test]
fn templates_of_a_chart_are_passed_over_and_other_folders_of_that_name_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("deploy/chart/Chart.yaml", "name: a\n");
    write("deploy/chart/values.yaml", "privileged: true\n");
    write("deploy/chart/templates/a.yaml", "{{- if .Values.a }}\na: 1\n{{- end }}\n");
    write("deploy/templates/b.yaml", "privileged: true\n");
    let found = configuration(folder.path()).unwrap();
    let places: Vec<_> = found.iter().map(|finding| finding.place.to_string()).collect();
    assert_eq!(places, ["deploy/chart/values.yaml:1:1", "deploy/templates/b.yaml:1:1"]);
}

#[test]
fn variables_in_lists_are_judged_like_those_in_maps() {
    let rules = |text: &str| {
        let document = Document::parse("deploy/compose.yaml", text.to_owned()).unwrap();
        let found = audit(&document);
        assert!(found.iter().all(|finding| !finding.message.contains("hunter")), "{found:?}");
        found.into_iter().map(|finding| (finding.rule.id, finding.place.to_string())).collect::<Vec<_>>()
    };
    let one = |id: &str, place: &str| vec![(format!("config/{id}"), format!("deploy/compose.yaml:{place}"))];
    assert_eq!(rules("e:\n  - A=1\n  - DB_PASSWORD=hunter2\n"), one("weak-credential", "3:5"));
    let kubernetes = "e:\n  - name: DB_PASSWORD\n    value: hunter2hunter2hunter2\n";
    assert_eq!(rules(kubernetes), one("literal-secret", "3:5"));
    for good in
        ["- DB_PASSWORD=${X}", "- DB_PASSWORD", "- --token=hunter2", "- name: DB_PASSWORD", "- TOKEN_TTL=5"]
    {
        assert_eq!(rules(&format!("e:\n  {good}\n")), [], "{good}");
    }
    let reference = "e:\n  - name: DB_PASSWORD\n    valueFrom: { secretKeyRef: { name: db, key: x } }\n";
    assert_eq!(rules(reference), []);
}
