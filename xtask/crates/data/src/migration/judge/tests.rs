use super::*;
use crate::migration::contract::{RunningRelease, set_of};

fn migration(name: &str, text: &str) -> Migration {
    Migration { name: name.to_owned(), path: format!("migrations/{name}"), text: text.to_owned() }
}

fn setting(dialect: Dialect, running: Running) -> Setting {
    Setting { dialect, lock_timeout: LockTimeout::ByRunner, transaction: Transaction::AsWritten, running }
}

/// Line and rule of each finding in the last script, where a release runs that knows all before it.
fn judged(dialect: Dialect, scripts: &[&str]) -> Vec<(u32, String)> {
    let mut judge = Judge::new(setting(dialect, Running::Unknown));
    let mut last = Judgement::default();
    for (at, text) in scripts.iter().enumerate() {
        last = judge.judge(&[migration(&format!("{:04}_x.sql", at + 1), text)]);
    }
    last.findings.iter().map(short).collect()
}

fn short(finding: &Finding) -> (u32, String) {
    let Place::File { line, .. } = &finding.place else { panic!("{finding:?}") };
    (line.unwrap(), finding.rule.id.trim_start_matches("migration/").to_owned())
}

#[track_caller]
fn check(scripts: &[&str], expected: &[(u32, &str)]) {
    let expected: Vec<(u32, String)> =
        expected.iter().map(|(line, rule)| (*line, (*rule).to_owned())).collect();
    assert_eq!(judged(Dialect::Postgres, scripts), expected);
}

const USERS: &str = "CREATE TABLE users (id bigint PRIMARY KEY, name varchar(20), age int);";

#[test]
fn what_a_running_release_would_miss_is_named_with_its_line() {
    check(&[USERS, "SELECT 1;\nALTER TABLE users\n  DROP COLUMN name;"], &[(2, "drop-column")]);
    check(&[USERS, "DROP TABLE users;"], &[(1, "drop-table")]);
    check(
        &[USERS, "ALTER TABLE users RENAME name TO n; ALTER TABLE users RENAME TO people;"],
        &[(1, "rename-column"), (1, "rename-table")],
    );
    check(&[USERS, "ALTER TABLE users ADD COLUMN a int NOT NULL;"], &[(1, "required-column")]);
    check(&[USERS, "ALTER TABLE users ADD COLUMN a int NOT NULL DEFAULT 1;"], &[]);
    check(&[USERS, "ALTER TABLE users ALTER age TYPE bigint;"], &[(1, "change-type"), (1, "rewrites-table")]);
    check(&[USERS, "ALTER TABLE users ALTER name TYPE varchar(40);"], &[]);
    check(
        &[USERS, "ALTER TABLE users ALTER name TYPE varchar(10);"],
        &[(1, "change-type"), (1, "rewrites-table")],
    );
    // The same name may be another type by now.
    check(
        &[USERS, "ALTER TABLE users ALTER age TYPE int USING age::text::int;"],
        &[(1, "change-type"), (1, "rewrites-table")],
    );
    check(&[USERS, "DROP VIEW v; CREATE VIEW v AS SELECT 1;"], &[]);
    check(&[USERS, "DROP VIEW v;"], &[(1, "drop-view")]);
    check(&[USERS, "TRUNCATE users; DELETE FROM users;"], &[(1, "truncate"), (1, "delete-all")]);
}

#[test]
fn what_makes_a_release_wait_is_named() {
    check(&[USERS, "CREATE INDEX i ON users (name);"], &[(1, "index-not-concurrent")]);
    check(&[USERS, "CREATE INDEX CONCURRENTLY i ON users (name);"], &[]);
    check(
        &[USERS, "BEGIN;\nCREATE INDEX CONCURRENTLY i ON users (name);"],
        &[(2, "concurrently-in-transaction")],
    );
    check(
        &[USERS, "ALTER TABLE users ADD CONSTRAINT f FOREIGN KEY (age) REFERENCES ages;"],
        &[(1, "new-constraint"), (1, "constraint-scans")],
    );
    check(
        &[USERS, "ALTER TABLE users ADD CONSTRAINT f FOREIGN KEY (age) REFERENCES ages NOT VALID;"],
        &[(1, "new-constraint")],
    );
    check(
        &[USERS, "ALTER TABLE users ADD COLUMN u uuid DEFAULT gen_random_uuid();"],
        &[(1, "rewrites-table")],
    );
    check(&[USERS, "ALTER TABLE users ADD COLUMN u timestamptz DEFAULT now();"], &[]);
    check(
        &[USERS, "CREATE TABLE a (b int); CREATE INDEX i ON a (b); ALTER TABLE a DROP b; DROP INDEX i;"],
        &[],
    );
}

#[test]
fn the_known_cure_for_nulls_passes_step_by_step() {
    let add = "ALTER TABLE users ADD CONSTRAINT age_set CHECK (age IS NOT NULL) NOT VALID;";
    let validate = "ALTER TABLE users VALIDATE CONSTRAINT age_set;";
    let set = "ALTER TABLE users ALTER COLUMN age SET NOT NULL; ALTER TABLE users DROP CONSTRAINT age_set;";
    check(&[USERS, add], &[(1, "new-constraint")]);
    check(&[USERS, add, validate], &[]);
    check(&[USERS, add, validate, set], &[]);
    check(&[USERS, add, set], &[(1, "set-not-null"), (1, "set-not-null-scans")]);
    check(
        &[USERS, &format!("BEGIN;\n{add}\n{validate}")],
        &[(2, "new-constraint"), (3, "validate-in-transaction")],
    );
}

#[test]
fn a_table_that_is_made_anew_counts_by_its_columns() {
    let keeps = "CREATE TABLE n (id INTEGER, name TEXT, age INT);\nINSERT INTO n SELECT * FROM users;\nDROP TABLE users;\nALTER TABLE n RENAME TO users;";
    let loses = keeps.replace(", age INT", "");
    let other_way = "ALTER TABLE users RENAME TO o;\nCREATE TABLE users (id INTEGER, name TEXT);\nINSERT INTO users SELECT * FROM o;\nDROP TABLE o;";
    let sqlite = |script: &str| judged(Dialect::Sqlite, &[USERS, script]);
    assert_eq!(sqlite(keeps), [(3, "rebuild".to_owned())]);
    assert_eq!(sqlite(&loses), [(3, "rebuild-loses".to_owned()), (3, "rebuild".to_owned())]);
    assert_eq!(sqlite(other_way), [(4, "rebuild-loses".to_owned()), (4, "rebuild".to_owned())]);
}

#[test]
fn lock_timeout_is_asked_for_once_and_satisfied_by_a_bound() {
    let judge = |text: &str| {
        let setting =
            Setting { lock_timeout: LockTimeout::ByScript, ..setting(Dialect::Postgres, Running::Unknown) };
        let mut judge = Judge::new(setting);
        judge.learn(&migration("1", USERS));
        judge.judge(&[migration("2", text)]).findings.iter().map(short).collect::<Vec<_>>()
    };
    let two = "ALTER TABLE users ADD a int; ALTER TABLE users ADD b int;";
    assert_eq!(judge(two), [(1, "lock-timeout".to_owned())]);
    assert_eq!(judge(&format!("SET lock_timeout = 0; {two}")).len(), 1);
    assert_eq!(judge(&format!("SET LOCAL lock_timeout = '5s'; {two}")), []);
    assert_eq!(judge("CREATE TABLE b (a int);"), []);
    assert_eq!(judge("CREATE TABLE b (a int REFERENCES users);").len(), 1);
}

#[test]
fn markers_excuse_one_statement_with_a_reason() {
    let judge = |text: &str| {
        let mut judge = Judge::new(setting(Dialect::Postgres, Running::Unknown));
        judge.learn(&migration("0001_users.sql", USERS));
        judge.judge(&[migration("0002.sql", text)])
    };
    let allowed = judge(
        "-- slipway: allow drop-column because nobody ever read it\nALTER TABLE users DROP COLUMN age;\nALTER TABLE users DROP COLUMN name;",
    );
    assert_eq!(allowed.findings.iter().map(short).collect::<Vec<_>>(), [(3, "drop-column".to_owned())]);
    assert_eq!(allowed.allowed[0].because, "nobody ever read it");
    assert_eq!((allowed.refused().count(), allowed.statements), (1, 2));
    let rules = |text: &str| judge(text).findings.iter().map(|finding| short(finding).1).collect::<Vec<_>>();
    assert_eq!(
        rules("-- slipway: allow drop-column\nALTER TABLE users DROP COLUMN age;"),
        ["marker", "drop-column"]
    );
    assert_eq!(rules("-- slipway: allow truncate because it is empty\nSELECT 1;"), ["unused-marker"]);
    assert_eq!(rules("-- slipway: contract after 0001_users\nALTER TABLE users DROP COLUMN age;"), [""; 0]);
    assert_eq!(
        rules("-- slipway: contract after 0009_no\nALTER TABLE users DROP COLUMN age;"),
        ["marker", "drop-column"]
    );
}

#[test]
fn a_contract_waits_until_no_release_needs_the_old_shape() {
    let (first, stop) = (migration("0001_users.sql", USERS), migration("0002_stop.sql", "SELECT 1;"));
    let contract =
        migration("0003.sql", "-- slipway: contract after 0002_stop\nALTER TABLE users DROP COLUMN age;");
    let release =
        |name: &str, set: &[Migration]| RunningRelease { name: name.into(), migrations: Some(set_of(set)) };
    let findings = |releases: Vec<RunningRelease>| {
        let mut judge = Judge::new(setting(Dialect::Postgres, Running::Releases(releases)));
        [&first, &stop].into_iter().for_each(|migration| judge.learn(migration));
        judge.judge(std::slice::from_ref(&contract)).findings
    };
    let old = release("1.0", std::slice::from_ref(&first));
    let new = release("1.1", &[first.clone(), stop.clone()]);
    assert_eq!(findings(vec![new.clone()]), []);
    assert_eq!(findings(vec![]), []);
    let refused = findings(vec![new, old]);
    assert_eq!(refused[0].rule.id, "migration/drop-column");
    assert!(
        refused[0].message.ends_with("drops the column users.age: built without 0002_stop: 1.0"),
        "{}",
        refused[0].message
    );
}

#[test]
fn where_nothing_serves_nobody_waits_and_lost_rows_are_lost_all_the_same() {
    let mut judge = Judge::new(setting(Dialect::Postgres, Running::Releases(vec![])));
    judge.learn(&migration("1", USERS));
    let found = judge
        .judge(&[migration("2", "CREATE INDEX i ON users (name); DROP TABLE users; TRUNCATE other; FROB;")]);
    let rules: Vec<String> = found.findings.iter().map(|finding| short(finding).1).collect();
    assert_eq!(rules, ["truncate", "not-understood"]);
    assert_eq!(found.allowed.len(), 2);
}

#[test]
fn constants_never_appear_in_findings() {
    let mut judge = Judge::new(setting(Dialect::Postgres, Running::Unknown));
    let found = judge.judge(&[migration("1", "FROB 'hunter2' $$hunter2$$;")]);
    assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
}
