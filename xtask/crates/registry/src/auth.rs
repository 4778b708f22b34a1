//! Who asks: from credentials and a registry's challenge to the header `Authorization`. Tokens are kept for as long as they hold.
//! Invariant: credentials go only to the registry that they are for and to the token server that it names, over TLS or within
//! this machine.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::challenge::Challenge;
use crate::client::{Client, is_loopback};
use crate::credentials::Credentials;
use crate::error::Error;

/// What a token must allow: `repository:<name>:<actions>` each, sorted.
pub(crate) type Scopes = Vec<String>;

/// Tokens without a word about it hold for a minute.
///
/// Source: Docker's "Token Authentication Specification", `expires_in`.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A token is not used in its last moments: a request takes time.
const MARGIN: Duration = Duration::from_secs(5);
/// What token servers may show their owners as the asking program.
const CLIENT: &str = "slipway";

/// How one registry is spoken to.
pub(crate) struct Auth {
    host: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By repository: Podman's files may have other credentials for a part of a registry.
    credentials: BTreeMap<String, Option<Credentials>>,
    way: Option<Way>,
    tokens: BTreeMap<Scopes, Token>,
    /// What a registry asked for beyond the scopes that were thought to do.
    wider: BTreeMap<Scopes, String>,
}

#[derive(Clone)]
enum Way {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

pub(crate) struct Token {
    pub(crate) value: String,
    until: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// What a token server is asked for.
struct Ask<'a> {
    realm: &'a str,
    service: Option<&'a str>,
    scopes: &'a Scopes,
}

/// What a request is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Purpose<'a> {
    pub(crate) repository: &'a str,
    pub(crate) scopes: &'a Scopes,
}

impl Auth {
    pub(crate) fn new(host: &str) -> Auth {
        Auth { host: host.to_owned(), state: Mutex::default() }
    }

    /// The header for a request, where the registry is known to want one.
    pub(crate) fn header(&self, purpose: Purpose<'_>, client: &Client) -> Result<Option<String>> {
        let mut state = self.lock();
        match state.way.clone() {
            None => Ok(None),
            Some(Way::Basic) => self.basic(&mut state, purpose, client).map(Some),
            Some(Way::Bearer { .. }) => self.bearer(&mut state, purpose, client).map(Some),
        }
    }

    /// Takes note of a challenge: the next header answers it. `said` is the header that the registry did not accept.
    pub(crate) fn challenged(&self, challenge: Challenge, said: Option<&str>, purpose: Purpose<'_>) {
        let mut state = self.lock();
        match challenge {
            Challenge::Basic => state.way = Some(Way::Basic),
            Challenge::Bearer { realm, service, scope } => {
                state.way = Some(Way::Bearer { realm, service });
                if let Some(scope) = scope.filter(|scope| !purpose.scopes.contains(scope)) {
                    state.wider.insert(purpose.scopes.clone(), scope);
                }
                // Another thread may have fetched a better one meanwhile.
                let is_old = |token: &Token| said == Some(&format!("Bearer {}", token.value));
                if state.tokens.get(purpose.scopes).is_some_and(is_old) {
                    state.tokens.remove(purpose.scopes);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn credentials(
        &self,
        state: &mut State,
        purpose: Purpose<'_>,
        client: &Client,
    ) -> Result<Option<Credentials>> {
        if let Some(known) = state.credentials.get(purpose.repository) {
            return Ok(known.clone());
        }
        let found = client.credentials(purpose.repository)?;
        state.credentials.insert(purpose.repository.to_owned(), found.clone());
        Ok(found)
    }

    fn basic(&self, state: &mut State, purpose: Purpose<'_>, client: &Client) -> Result<String> {
        match self.credentials(state, purpose, client)? {
            Some(Credentials::Password { user, password }) => {
                client.is_safe(&client.base()?)?;
                Ok(basic(&user, &password))
            }
            Some(Credentials::IdentityToken(_) | Credentials::RegistryToken(_)) => {
                let detail = "it wants a password, and a token is stored".to_owned();
                Err(Error::Refused { host: self.host.clone(), detail }.into())
            }
            None => Err(Error::NotLoggedIn { host: self.host.clone() }.into()),
        }
    }

    fn bearer(&self, state: &mut State, purpose: Purpose<'_>, client: &Client) -> Result<String> {
        if let Some(token) = state.tokens.get(purpose.scopes)
            && Instant::now() < token.until
        {
            return Ok(format!("Bearer {}", token.value));
        }
        let credentials = self.credentials(state, purpose, client)?;
        if let Some(Credentials::RegistryToken(token)) = credentials {
            client.is_safe(&client.base()?)?;
            return Ok(format!("Bearer {token}"));
        }
        let Some(Way::Bearer { realm, service }) = state.way.clone() else {
            anyhow::bail!("no token server is known");
        };
        let mut scopes = purpose.scopes.clone();
        scopes.extend(state.wider.get(purpose.scopes).cloned());
        let token = self.fetch(
            &Ask { realm: &realm, service: service.as_deref(), scopes: &scopes },
            credentials.as_ref(),
            client,
        )?;
        let value = format!("Bearer {}", token.value);
        state.tokens.insert(purpose.scopes.clone(), token);
        Ok(value)
    }

    fn fetch(&self, ask: &Ask<'_>, credentials: Option<&Credentials>, client: &Client) -> Result<Token> {
        let Ask { realm, service, scopes } = *ask;
        client.is_safe(realm).with_context(|| format!("{} names a token server", self.host))?;
        let answer = match credentials {
            Some(Credentials::IdentityToken(secret)) => {
                let scope = scopes.join(" ");
                let mut form = vec![
                    ("grant_type", "refresh_token"),
                    ("client_id", CLIENT),
                    ("refresh_token", secret),
                    ("scope", &scope),
                ];
                form.extend(service.map(|service| ("service", service)));
                client.token(realm, None, Some(&encode(&form)))
            }
            _ => {
                let mut query: Vec<(&str, &str)> =
                    service.map(|service| ("service", service)).into_iter().collect();
                query.extend(scopes.iter().map(|scope| ("scope", scope.as_str())));
                let mut header = None;
                if let Some(Credentials::Password { user, password }) = credentials {
                    query.push(("account", user));
                    header = Some(basic(user, password));
                }
                query.push(("client_id", CLIENT));
                let mark = if realm.contains('?') { '&' } else { '?' };
                client.token(&format!("{realm}{mark}{}", encode(&query)), header.as_deref(), None)
            }
        };
        let (status, body) = answer.with_context(|| format!("cannot get a token for {}", self.host))?;
        if !status.is_success() {
            let detail = crate::error::detail(status, &body);
            return Err(match credentials {
                Some(_) => Error::Refused { host: self.host.clone(), detail },
                None => Error::NotLoggedIn { host: self.host.clone() },
            }
            .into());
        }
        parse(&body).with_context(|| format!("the token server of {} answered what is no token", self.host))
    }

    /// Whether the registry takes passwords itself, so that only a wrong one is refused with 401.
    pub(crate) fn is_basic(&self) -> bool {
        matches!(self.lock().way, Some(Way::Basic))
    }

    /// Whether there are credentials: what a refusal means depends on it.
    pub(crate) fn has_credentials(&self, repository: &str) -> bool {
        self.lock().credentials.get(repository).is_some_and(Option::is_some)
    }
}

/// Whether secrets may be sent to `url`: over TLS, or within this machine where the registry is in it as well.
pub(crate) fn is_safe(url: &str, registry_is_loopback: bool) -> Result<(), Error> {
    let host = crate::client::host_of(url);
    let is_inside = registry_is_loopback && host.is_some_and(is_loopback);
    if url.starts_with("https://") || (url.starts_with("http://") && is_inside) {
        return Ok(());
    }
    let shown = url.split('?').next().unwrap_or(url);
    Err(Error::Unsafe(format!(
        "credentials are not sent to {shown}: without TLS everybody on the way could read them"
    )))
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

pub(crate) fn parse(body: &[u8]) -> Result<Token> {
    // The parser's own text could show a part of the token.
    let answer: TokenAnswer =
        serde_json::from_slice(body).ok().context("it is not JSON of the right form")?;
    let some = |token: Option<String>| token.filter(|token| !token.is_empty());
    let value = some(answer.token).or(some(answer.access_token)).context("it has no member `token`")?;
    anyhow::ensure!(
        value.bytes().all(|byte| byte.is_ascii_graphic()),
        "the token has characters that none has"
    );
    let life = answer.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs).min(Duration::from_secs(86_400));
    Ok(Token { value, until: Instant::now() + life.saturating_sub(MARGIN) })
}

/// `application/x-www-form-urlencoded`.
pub(crate) fn encode(pairs: &[(&str, &str)]) -> String {
    let escape = |text: &str| -> String {
        let byte = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        };
        text.bytes().map(byte).collect()
    };
    pairs.iter().map(|(key, value)| format!("{key}={}", escape(value))).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_over_tls_or_stay_within_this_machine() {
        assert!(is_safe("https://auth.example/token", false).is_ok());
        assert!(is_safe("http://127.0.0.1:5001/token", true).is_ok());
        for (url, inside) in [
            ("http://auth.example/token", false),
            ("http://auth.example/token", true),
            ("http://127.0.0.1:5001/token", false),
            ("http://127.0.0.1@evil.example/", true),
            ("ftp://127.0.0.1/", true),
            ("", true),
        ] {
            assert!(is_safe(url, inside).is_err(), "{url}");
        }
    }

    #[test]
    fn answers_of_token_servers_are_read() {
        assert_eq!(parse(br#"{"token":"a"}"#).unwrap().value, "a");
        assert_eq!(parse(br#"{"access_token":"b","token":"","expires_in":300}"#).unwrap().value, "b");
        for bad in [r#"{}"#, "", "[]", r#"{"token":"a\r\nX: y"}"#, r#"{"token":"ü"}"#] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse(br#"{"token":"a","expires_in":18446744073709551615}"#).is_ok());
    }

    #[test]
    fn forms_are_escaped() {
        assert_eq!(
            encode(&[("scope", "repository:a/b:pull,push"), ("x", "ü &")]),
            "scope=repository%3Aa%2Fb%3Apull%2Cpush&x=%C3%BC%20%26"
        );
    }
}
