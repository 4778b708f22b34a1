//! Migrations, backups and restores by the real program.

use rusqlite::Connection;
use serde_json::Value;

use crate::support::Fixture;

/// A workspace whose environment `local` has a database in a volume.
fn workspace() -> Fixture {
    let fixture = Fixture::new();
    fixture.write(
        "deploy/environments/local.yaml",
        "databases:\n  app: { engine: sqlite, volume: things, path: app.db, backups: { keep: 1, keep_days: 0 } }\n",
    );
    fixture.write(".slipway/local/data/things/.keep", "");
    let connection = database(&fixture);
    connection
        .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (a INT); INSERT INTO t VALUES (1), (2)")
        .unwrap();
    fixture
}

fn database(fixture: &Fixture) -> Connection {
    Connection::open(fixture.path(".slipway/local/data/things/app.db")).unwrap()
}

fn rows(fixture: &Fixture) -> i64 {
    database(fixture).query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

#[test]
fn migrations_are_judged_with_an_exit_code_for_scripts() {
    let fixture = Fixture::new();
    fixture.write("m/1.sql", "CREATE TABLE t (a int, b int);");
    fixture.write(
        "m/2.sql",
        "SET lock_timeout = '1s';\n-- slipway: contract after 1\nALTER TABLE t DROP COLUMN a;",
    );
    let document = fixture.json(&["migrations", "check", "m"]);
    assert_eq!(
        (&document["schema"], &document["files"], &document["refused"]),
        (&"slipway.migrations/1".into(), &2.into(), &0.into())
    );
    assert_eq!(document["allowed"].as_array().unwrap().len(), 1);
    fixture.write("m/3.sql", "SET lock_timeout = '1s';\nALTER TABLE t\nDROP COLUMN b;");
    for args in [
        &["migrations", "check", "m"][..],
        &["migrations", "check", "m/3.sql"],
        &["migrations", "check", "m", "--since", "2"],
    ] {
        let run = fixture.run(args);
        run.fails(13, &["1 statement is refused"]);
        assert!(run.stdout.contains("m/3.sql:2:1: refused:"), "{}", run.stdout);
    }
    fixture.run(&["migrations", "check", "m", "--since", "9"]).fails(3, &["no migration is called `9`"]);
    fixture.run(&["migrations", "check", "nothing"]).fails(3, &["nothing"]);
    fixture.write("empty/readme", "");
    fixture.run(&["migrations", "check", "empty"]).fails(12, &["no migrations are there"]);
    assert!(fixture.run(&["migrations", "rules"]).stdout.contains("migration/drop-column"));
}

#[test]
fn a_backup_goes_round() {
    let fixture = workspace();
    assert!(fixture.run(&["backup", "local", "list"]).stdout.contains("no backups"));
    let made = fixture.json(&["backup", "local"]);
    let id = made["backups"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(made["backups"][0]["tables"]["t"]["rows"], 2);
    database(&fixture).execute_batch("DELETE FROM t; CREATE TABLE young (a)").unwrap();
    let planned = fixture.json(&["restore", "local", &id, "--dry-run"]);
    assert_eq!(planned["schema_changes"].as_array().unwrap().len(), 2);
    assert_eq!(rows(&fixture), 0);

    let user = database(&fixture);
    user.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
    fixture.run(&["restore", "local", &id]).fails(1, &["is open in the processes", "cargo xtask down"]);
    drop(user);
    let restored = fixture.json(&["restore", "local", &id]);
    assert_eq!((restored["id"].as_str(), rows(&fixture)), (Some(id.as_str()), 2));
    assert!(restored["saved"].is_string());
    assert_eq!(fixture.json(&["backup", "local", "verify", "--id", &id])["backups"][0]["holds"], true);

    std::fs::write(fixture.path(&format!(".slipway/local.backups/app/{id}/dump")), vec![0; 8192]).unwrap();
    fixture.run(&["backup", "local", "verify", "--id", &id]).fails(13, &["1 backup does not hold"]);
    fixture.run(&["restore", "local", &id]).fails(1, &["is not what was written"]);
    let list = fixture.json(&["backup", "local", "list"]);
    let count = |list: &Value| list["backups"].as_array().unwrap().len();
    assert!(count(&list) >= 2, "{list}");
    fixture.json(&["backup", "local", "prune", "--dry-run"]);
    assert_eq!(count(&fixture.json(&["backup", "local", "list"])), count(&list));
}

#[test]
fn what_is_missing_is_said_with_the_next_step() {
    let fixture = workspace();
    fixture.run(&["backup", "other"]).fails(3, &["no such environment"]);
    fixture.run(&["backup", "local", "--database", "x"]).fails(3, &["there are: app"]);
    fixture
        .run(&["restore", "local", "20260101T000000Z"])
        .fails(3, &["there is no backup `20260101T000000Z` of app"]);
    fixture.run(&["restore", "local", "../../x"]).fails(3, &["is no name of a backup"]);
    fixture.write(
        "deploy/environments/local.yaml",
        "databases:\n  app: { engine: postgres, url: { from_env: NO_SUCH_URL } }\n",
    );
    fixture.run(&["backup", "local"]).fails(3, &["databases.app", "NO_SUCH_URL is not set"]);
    fixture.write(
        "deploy/environments/local.yaml",
        "databases:\n  app: { engine: sqlite, volume: things, path: ../app.db }\n",
    );
    fixture.run(&["backup", "local"]).fails(3, &["leads out of it"]);
    fixture.write("deploy/environments/local.yaml", "{}\n");
    fixture.run(&["backup", "local"]).fails(3, &["names no databases", "docs/guide/data.md"]);
}
