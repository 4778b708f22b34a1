//! Logins: passwords, helpers, tokens, certificates; and secrets that must not travel.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use registry::{Error, Options, Registry};
use stdx::Digest;

use crate::rig::{Asked, Authority, RealRegistry, Reply, Server, have, options, run};

fn with_config(config: &serde_json::Value, folder: &Path) -> Options {
    let path = folder.join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    Options { auth_files: vec![path], ..options() }
}

fn password(host: &str, user: &str, password: &str) -> serde_json::Value {
    serde_json::json!({ "auths": { host: { "auth": STANDARD.encode(format!("{user}:{password}")) } } })
}

fn send(registry: &Registry, repository: &str) -> anyhow::Result<()> {
    let push =
        registry.repository(repository).push_blob(&Digest::of("x"), 1, &|| Ok(Box::new(&b"x"[..])), None);
    push.map(drop)
}

/// What the user must mend, in words.
fn refused(registry: &Registry) -> String {
    let error = send(registry, "a").unwrap_err();
    assert!(error.downcast_ref::<Error>().is_some_and(Error::is_configuration), "{error:#}");
    format!("{error:#}")
}

#[test]
fn tls_and_passwords_of_a_real_registry() {
    if !have("htpasswd") || !have("openssl") || !have("docker-registry") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    std::fs::write(folder.path().join("htpasswd"), run("htpasswd", &["-Bbn", "me", "secret:1"])).unwrap();
    let root = folder.path().display();
    let tls = format!(
        "  tls: {{ certificate: {}, key: {} }}",
        authority.certificate.display(),
        authority.key.display()
    );
    let auth = format!("auth: {{ htpasswd: {{ realm: r, path: {root}/htpasswd }} }}");
    let own = tempfile::tempdir().unwrap();
    let Some(real) = RealRegistry::start_with(folder, &tls, &auth) else { return };
    let host = &real.host;
    let connect = |config: &serde_json::Value, trusts: bool| {
        let mut options = with_config(config, own.path());
        options.certificate_folders = if trusts { vec![own.path().join("certs.d")] } else { Vec::new() };
        Registry::connect_with(host, options).unwrap()
    };
    std::fs::create_dir_all(own.path().join("certs.d").join(host)).unwrap();
    std::fs::copy(&authority.ca, own.path().join("certs.d").join(host).join("ca.crt")).unwrap();

    send(&connect(&password(host, "me", "secret:1"), true), "a").unwrap();
    let unknown = refused(&connect(&password(host, "me", "secret:1"), false));
    assert!(unknown.contains(&format!("/etc/docker/certs.d/{host}/ca.crt")), "{unknown}");
    let none = refused(&connect(&serde_json::json!({}), true));
    assert!(none.contains(&format!("run `docker login {host}`")), "{none}");
    let wrong = refused(&connect(&password(host, "me", "other"), true));
    assert!(wrong.contains("does not accept") && !wrong.contains("other"), "{wrong}");
    let elsewhere = refused(&connect(&password("127.0.0.1:1", "me", "secret:1"), true));
    assert!(elsewhere.contains("docker login"), "{elsewhere}");
}

#[test]
fn a_helper_program_is_asked_over_its_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(|asked| {
        if asked.header("authorization") == format!("Basic {}", STANDARD.encode("u:p")) {
            return Reply::new(200, r#"{"tags":[]}"#);
        }
        Reply::new(401, "").with("www-authenticate", "Basic realm=\"r\"")
    });
    let program = folder.path().join("docker-credential-of-a-test");
    let seen = folder.path().join("seen");
    let script = format!(
        "#!/bin/sh\nread -r server || true\necho \"$* $server\" >> {}\necho '{{\"Username\":\"u\",\"Secret\":\"p\"}}'\n",
        seen.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = serde_json::json!({ "credHelpers": { &server.host: "of-a-test" } });
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let options = Options { helper_path: Some(path), ..with_config(&config, folder.path()) };
    let registry = Registry::connect_with(&server.host, options).unwrap();
    for _ in 0..2 {
        registry.repository("a").tags().unwrap();
    }
    assert_eq!(std::fs::read_to_string(seen).unwrap(), format!("get {}\n", server.host), "asked once");
    let missing = serde_json::json!({ "credsStore": "slipway-none" });
    let registry = Registry::connect_with(&server.host, with_config(&missing, folder.path())).unwrap();
    let error = format!("{:#}", registry.repository("a").tags().unwrap_err());
    assert!(error.contains("docker-credential-slipway-none; is it on PATH"), "{error}");
}

/// Gives out what docker-registry accepts: a JWT signed with a key whose certificate it trusts.
fn token(folder: &Path, host: &str, access: &[serde_json::Value]) -> String {
    let der =
        run("openssl", &["x509", "-outform", "DER", "-in", &folder.join("own.crt").display().to_string()]);
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(&serde_json::json!({ "typ": "JWT", "alg": "RS256", "x5c": [STANDARD.encode(der)] }));
    let claims = part(&serde_json::json!({
        "iss": "issuer", "sub": "me", "aud": host, "exp": 4_000_000_000_u64, "nbf": 1, "iat": 1, "jti": "1", "access": access,
    }));
    let signed = format!("{header}.{claims}");
    let file = folder.join("signed");
    std::fs::write(&file, &signed).unwrap();
    let key = folder.join("own.key").display().to_string();
    let signature = run("openssl", &["dgst", "-sha256", "-sign", &key, &file.display().to_string()]);
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn access(asked: &Asked) -> Vec<serde_json::Value> {
    let query =
        asked.target.split_once('?').map_or("", |(_, query)| query).replace("%3A", ":").replace("%2F", "/");
    let scopes = query.split('&').filter_map(|pair| pair.strip_prefix("scope="));
    let entry = |scope: &str| {
        let parts: Vec<&str> = scope.split(':').collect();
        let actions: Vec<String> = parts[2].replace("%2C", ",").split(',').map(str::to_owned).collect();
        serde_json::json!({ "type": parts[0], "name": parts[1], "actions": actions })
    };
    scopes.map(entry).collect()
}

#[test]
fn tokens_for_a_real_registry_are_fetched_once_for_each_purpose() {
    if !have("openssl") || !have("docker-registry") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (key, certificate) = (path("own.key"), path("own.crt"));
    let subject = ["-subj", "/CN=issuer", "-days", "2", "-nodes", "-keyout", &key, "-out", &certificate];
    run("openssl", &[&["req", "-x509", "-newkey", "rsa:2048"][..], &subject].concat());
    let place = folder.path().to_owned();
    let issuer = Server::start(move |asked| {
        if asked.header("authorization") != format!("Basic {}", STANDARD.encode("me:pw")) {
            return Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#);
        }
        let mut allowed = access(asked);
        allowed.retain(|entry| entry["name"] != "forbidden");
        let token = token(&place, "the service", &allowed);
        Reply::new(200, serde_json::json!({ "token": token, "expires_in": 300 }).to_string())
    });
    let auth = format!(
        "auth: {{ token: {{ realm: \"http://{}/token\", service: the service, issuer: issuer, rootcertbundle: {certificate} }} }}",
        issuer.host
    );
    let own = tempfile::tempdir().unwrap();
    let Some(real) = RealRegistry::start_with(folder, "", &auth) else { return };
    let options = |user_password| with_config(&password(&real.host, "me", user_password), own.path());
    let registry = Registry::connect_with(&real.host, options("pw")).unwrap();
    for _ in 0..2 {
        send(&registry, "team/a").unwrap();
    }
    assert_eq!(
        issuer.count("GET", "/token?service=the%20service&scope=repository%3Ateam%2Fa%3Apull%2Cpush"),
        1
    );
    // A mount needs to read there and to write here.
    send(&registry, "team/b").unwrap();
    let both = "/token?service=the%20service&scope=repository%3Ateam%2Fb%3Apull%2Cpush&scope=repository%3Ateam%2Fa%3Apull";
    assert_eq!(issuer.count("GET", both), 1);
    assert_eq!(registry.repository("team/b").has_blob(&Digest::of("x")).unwrap(), Some(1));
    let open = || -> anyhow::Result<Box<dyn std::io::Read>> { Ok(Box::new(&b"y"[..])) };
    let unreadable = registry.repository("c").push_blob(&Digest::of("y"), 1, &open, Some("forbidden"));
    assert_eq!(unreadable.unwrap(), registry::Transfer::Sent);
    let denied = format!("{:#}", send(&registry, "forbidden").unwrap_err());
    assert!(denied.contains("denies access to forbidden"), "{denied}");
    let registry = Registry::connect_with(&real.host, options("wrong")).unwrap();
    assert!(refused(&registry).contains("UNAUTHORIZED: who are you"));
    registry.repository("a").tags().unwrap_err();
}

#[test]
fn an_identity_token_is_exchanged_and_a_token_that_expired_is_fetched_anew() {
    let given = Mutex::new(0);
    let issuer = Server::start(move |asked| {
        let form = String::from_utf8(asked.body.clone()).unwrap();
        assert!(asked.is("POST", "/t") && asked.header("authorization").is_empty(), "{asked:?}");
        assert!(form.contains("grant_type=refresh_token") && form.contains("refresh_token=id%2F1"), "{form}");
        assert!(form.contains("scope=repository%3Aa%3Apull"), "{form}");
        let mut given = given.lock().unwrap();
        *given += 1;
        Reply::new(200, format!(r#"{{"access_token":"t{given}","expires_in":300}}"#))
    });
    let (realm, uses) = (format!("Bearer realm=\"http://{}/t\"", issuer.host), Mutex::new(0));
    // Each token is good for two requests, whatever was said of it.
    let server = Server::start(move |asked| {
        let mut uses = uses.lock().unwrap();
        if asked.header("authorization") == format!("Bearer t{}", *uses / 2 + 1) {
            *uses += 1;
            return Reply::new(200, r#"{"tags":["x"]}"#);
        }
        Reply::new(401, "").with("www-authenticate", &*realm)
    });
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::json!({ "auths": { &server.host: { "identitytoken": "id/1" } } });
    let registry = Registry::connect_with(&server.host, with_config(&config, folder.path())).unwrap();
    for _ in 0..5 {
        assert_eq!(registry.repository("a").tags().unwrap(), ["x"]);
    }
    assert_eq!((issuer.count("POST", "/t"), server.count("GET", "/")), (3, 5 + 3));
}

#[test]
fn secrets_do_not_follow_a_redirect_nor_an_upload_to_another_host() {
    let stores = Server::start(|asked| Reply::new(if asked.method == "PUT" { 201 } else { 200 }, "x"));
    let elsewhere = stores.host.clone();
    let server = Server::start(move |asked| {
        if asked.header("authorization").is_empty() {
            return Reply::new(401, "").with("www-authenticate", "Basic");
        }
        match asked.method.as_str() {
            "HEAD" => Reply::new(404, ""),
            "POST" => Reply::new(202, "").with("location", format!("http://{elsewhere}/up?sig=1")),
            _ => Reply::new(307, "").with("location", format!("http://{elsewhere}/blob?sig=1")),
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let options = with_config(&password(&server.host, "u", "p"), folder.path());
    let registry = Registry::connect_with(&server.host, options).unwrap();
    let mut out = Vec::new();
    registry.repository("a").read_blob(&Digest::of("x"), 1, &mut out).unwrap();
    assert_eq!(out, b"x");
    send(&registry, "b").unwrap();
    let asked = stores.asked.lock().unwrap();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked.iter().all(|asked| asked.header("authorization").is_empty()), "{asked:?}");
}

#[test]
fn secrets_do_not_travel_without_tls() {
    let server = Server::start(|_| {
        Reply::new(401, "").with("www-authenticate", "Bearer realm=\"http://tokens.invalid/t\",service=\"x\"")
    });
    let folder = tempfile::tempdir().unwrap();
    let options = with_config(&password(&server.host, "u", "p"), folder.path());
    let error = refused(&Registry::connect_with(&server.host, options).unwrap());
    assert!(error.contains("credentials are not sent to http://tokens.invalid/t"), "{error}");
}
