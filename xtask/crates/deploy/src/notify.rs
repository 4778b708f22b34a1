//! Tells a webhook how an operation ended. It knows where to send and in which form; what happened is given to it.
//! Invariant: the address of a webhook is a secret: it is read where it lies and stands in no error, and nothing that
//! goes wrong here is more than a note.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use stdx::Digest;
use ureq::tls::{RootCerts, TlsConfig};

/// The value of `schema` in a message.
const SCHEMA: &str = "slipway.deploy-event/1";

/// How long all attempts for one webhook may take together.
const DEADLINE: Duration = Duration::from_secs(15);

/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause after the first attempt; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// How often a message is sent before it is given up.
const ATTEMPTS: u32 = 4;

/// A webhook that is told how operations ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where its address lies: an address lets anybody write there, so it is a secret and never in the file.
    pub url: Reference,
    /// The form of the message.
    #[serde(default)]
    pub form: Form,
    /// What it is told of.
    #[serde(default)]
    pub on: On,
}

/// Where a secret lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "an address is a secret: `{ from_env: NAME }` or `{ from_file: PATH }`")]
pub enum Reference {
    /// A variable of the deployer's environment.
    FromEnv(FromEnv),
    /// A file.
    FromFile(FromFile),
}

/// A variable of the deployer's environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FromEnv {
    /// Its name.
    pub from_env: String,
}

/// A file, relative to the folder that the environment file is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FromFile {
    /// Its path; the line break at the end is not part of the address.
    pub from_file: PathBuf,
}

/// The form of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// One JSON document with all that is known.
    #[default]
    Json,
    /// `{"text": …}`, as Slack, Mattermost, Rocket.Chat and Discord's `/slack` take it.
    Slack,
}

/// What a webhook is told of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum On {
    /// Every operation that changed something or failed.
    #[default]
    Always,
    /// Failures alone.
    Failure,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Name of the environment.
    pub environment: String,
    /// `deploy`, `rollback`, `resume`, `abort` or `down`.
    pub operation: String,
    /// Whether what was asked for is there.
    pub is_success: bool,
    /// How it ended, in one word or a few.
    pub outcome: String,
    /// What went wrong, in a line; never a value of a variable.
    pub detail: Option<String>,
    /// Who did it.
    pub who: String,
    /// Identity of the release.
    pub release: Option<Digest>,
    /// The commit that the release was built from.
    pub commit: Option<String>,
    /// The services that got another slot.
    pub changed: Vec<String>,
    /// How long it took.
    pub took_ms: u64,
    /// Digest of the last record of the audit: whoever keeps it can tell later that nothing was cut off.
    pub audit_head: Option<Digest>,
}

impl Webhook {
    /// Makes the path in it absolute.
    pub(crate) fn anchor(&mut self, folder: &Path) {
        if let Reference::FromFile(FromFile { from_file }) = &mut self.url {
            *from_file = folder.join(&*from_file);
        }
    }

    fn wants(&self, message: &Message) -> bool {
        match self.on {
            On::Always => true,
            On::Failure => !message.is_success,
        }
    }
}

impl Reference {
    fn read(&self) -> Result<String> {
        let text = match self {
            Reference::FromEnv(FromEnv { from_env }) => {
                std::env::var(from_env).with_context(|| format!("the variable {from_env} is not set"))?
            }
            Reference::FromFile(FromFile { from_file }) => stdx::fs::read_to_string(from_file)?,
        };
        let text = text.trim();
        let is_url = text.starts_with("https://") || text.starts_with("http://");
        ensure!(is_url && !text.contains(char::is_whitespace), "what is there is no http or https address");
        Ok(text.to_owned())
    }
}

impl Message {
    fn body(&self, form: Form) -> Result<String> {
        let value = match form {
            Form::Json => {
                let mut value = serde_json::to_value(self)?;
                value["schema"] = SCHEMA.into();
                value
            }
            Form::Slack => serde_json::json!({ "text": self.text() }),
        };
        Ok(value.to_string())
    }

    /// The message in one paragraph. `&`, `<` and `>` are what Slack gives a meaning to.
    fn text(&self) -> String {
        let mark = if self.is_success { "\u{2705}" } else { "\u{274c}" };
        let commit = self.commit.as_ref().map(|commit| format!(", commit {}", shortened(commit, 12)));
        let release = self.release.map(|release| format!(", release {}", release.short()));
        let changed = match self.changed.as_slice() {
            [] => String::new(),
            changed => format!(", changed: {}", changed.join(" ")),
        };
        let detail = self.detail.as_ref().map(|detail| format!("\n{}", shortened(detail, 500)));
        let text = format!(
            "{mark} {} {}: {} by {} in {}.{} s{}{}{changed}{}",
            self.operation,
            self.environment,
            self.outcome,
            self.who,
            self.took_ms / 1000,
            self.took_ms % 1000 / 100,
            release.unwrap_or_default(),
            commit.unwrap_or_default(),
            detail.unwrap_or_default()
        );
        text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
    }
}

/// Sends `message` to all that want it, side by side, and returns what went wrong, a line for each webhook.
pub fn notify(webhooks: &[Webhook], message: &Message) -> Vec<String> {
    let wanted = webhooks.iter().enumerate().filter(|(_, webhook)| webhook.wants(message));
    std::thread::scope(|scope| {
        let sent: Vec<_> =
            wanted.map(|(index, webhook)| (index, scope.spawn(move || send(webhook, message)))).collect();
        let trouble = |(index, sent): (usize, std::thread::ScopedJoinHandle<'_, Result<()>>)| {
            let error = match sent.join() {
                Ok(Ok(())) => return None,
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "a bug: sending panicked".to_owned(),
            };
            Some(format!("webhook {} of `notify` was not told: {error}", index + 1))
        };
        sent.into_iter().filter_map(trouble).collect()
    })
}

fn send(webhook: &Webhook, message: &Message) -> Result<()> {
    let (url, body) = (webhook.url.read()?, message.body(webhook.form)?);
    let agent = agent();
    let (deadline, mut pause) = (Instant::now() + DEADLINE, FIRST_PAUSE);
    for attempt in 1.. {
        let error = match post(&agent, &url, &body) {
            Ok(()) => return Ok(()),
            Err(Refused::ForGood(why)) => bail!(why),
            Err(Refused::ForNow(why)) => why,
        };
        if attempt == ATTEMPTS || Instant::now() + pause > deadline {
            bail!("{error}, {attempt} times");
        }
        std::thread::sleep(pause);
        pause *= 2;
    }
    Ok(())
}

enum Refused {
    /// Asking again would not help.
    ForGood(String),
    /// It may.
    ForNow(String),
}

/// One attempt. An error of the library may hold the address, so only its kind is passed on.
fn post(agent: &ureq::Agent, url: &str, body: &str) -> Result<(), Refused> {
    let answer = agent.post(url).header("content-type", "application/json").send(body);
    let status = match answer {
        Ok(answer) => answer.status(),
        Err(ureq::Error::Timeout(_)) => return Err(Refused::ForNow("no answer in time".to_owned())),
        Err(ureq::Error::BadUri(_)) => return Err(Refused::ForGood("the address is none".to_owned())),
        Err(ureq::Error::Io(error)) => {
            return Err(Refused::ForNow(format!("not reached ({})", error.kind())));
        }
        Err(ureq::Error::HostNotFound) => return Err(Refused::ForNow("its host is not known".to_owned())),
        Err(ureq::Error::ConnectionFailed) => return Err(Refused::ForNow("not reached".to_owned())),
        Err(_) => return Err(Refused::ForNow("no answer that could be read".to_owned())),
    };
    match status.as_u16() {
        200..300 => Ok(()),
        code @ (408 | 425 | 429 | 500..) => Err(Refused::ForNow(format!("it answered {code}"))),
        code => Err(Refused::ForGood(format!("it answered {code}"))),
    }
}

fn agent() -> ureq::Agent {
    // The machine's own roots: a webhook may well be a service of the house.
    let found = rustls_native_certs::load_native_certs().certs;
    let roots: Vec<_> =
        found.iter().map(|der| ureq::tls::Certificate::from_der(der.as_ref()).to_owned()).collect();
    let tls = TlsConfig::builder().root_certs(RootCerts::from(roots)).build();
    ureq::Agent::config_builder()
        .timeout_global(Some(ATTEMPT_TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(0)
        .tls_config(tls)
        .build()
        .into()
}

fn shortened(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}
