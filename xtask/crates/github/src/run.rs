//! Carries one request out: observe, plan, send, and where the outcome of a write is unknown, observe and plan anew.

use std::collections::BTreeMap;
use std::time::Duration;

use octocrab::secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::call::Call;
use crate::client::Client;
use crate::failure::Failure;
use crate::request::{Action, Request};
use crate::response::{Done, Outcome, Response};
use crate::{check, comment, deployment, download, release};

/// A token and the variable it came from.
#[derive(Debug, Clone)]
pub struct Token {
    /// Name of the variable, for messages.
    pub variable: String,
    /// The token itself; never shown.
    pub secret: SecretString,
}

/// What is to be sent, and what is known about the thing already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) thing: &'static str,
    pub(crate) outcome: Outcome,
    pub(crate) calls: Vec<Call>,
    pub(crate) id: Option<u64>,
    pub(crate) url: Option<String>,
    pub(crate) notes: Vec<String>,
}

/// What later calls use of earlier answers, by the names in their paths.
#[derive(Debug, Default)]
struct Kept(BTreeMap<&'static str, String>);

impl Kept {
    /// Keeps what `call` wants kept of its answer.
    fn keep(&mut self, call: &Call, answer: &Value) -> Result<(), Failure> {
        for &(member, name) in call.keeps {
            let text = match &answer[member] {
                Value::Number(number) if number.is_u64() => number.to_string(),
                // GitHub gives a template (RFC 6570) where uploads go.
                Value::String(text) => text.split('{').next().unwrap_or_default().to_owned(),
                _ => return Err(Failure::unexpected(call, format!("the answer has no `{member}`"))),
            };
            self.0.insert(name, text);
        }
        Ok(())
    }

    /// The call with names in its path replaced.
    fn fill(&self, call: &Call) -> Call {
        let mut call = call.clone();
        for (name, text) in &self.0 {
            call.path = call.path.replace(&format!("{{{name}}}"), text);
        }
        call
    }
}

impl Token {
    pub(crate) fn text(&self) -> &str {
        self.secret.expose_secret()
    }

    /// What cannot be sent in a header is no token; saying so early spares a message that shows it.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let text = self.text();
        if text.is_empty() || text.len() > 4096 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::NoToken(format!(
                "what is in {} is no token: it is empty, too long, or has spaces, line breaks or letters outside ASCII",
                self.variable
            )));
        }
        Ok(())
    }
}

/// Carries out the request document in `bytes`.
pub fn serve(bytes: &[u8], token: Option<Token>) -> Response {
    let secret = token.as_ref().map(|token| token.text().to_owned()).filter(|text| !text.is_empty());
    let response = match Request::parse(bytes).and_then(|request| carry_out(&request, token)) {
        Ok(done) => Response::done(done),
        Err(failure) => Response::failed(&failure),
    };
    match secret {
        Some(secret) => response.without(&secret),
        None => response,
    }
}

fn carry_out(request: &Request, token: Option<Token>) -> Result<Done, Failure> {
    let Some(token) = token else {
        if request.dry_run {
            return Ok(show(plan_for_nothing(request)?, false));
        }
        return Err(Failure::NoToken("there is no token: set GH_TOKEN or GITHUB_TOKEN".to_owned()));
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Input(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let milliseconds = Duration::from_millis;
        let (timeout, max_wait) = (milliseconds(request.timeout_ms), milliseconds(request.max_wait_ms));
        let client = Client::new(&request.api, &request.repository, token, timeout, max_wait)?;
        if request.dry_run {
            return Ok(show(plan(&client, request).await?, true));
        }
        match &request.action {
            Action::ReleaseDownload(wanted) => download::carry_out(&client, wanted).await,
            _ => converge(&client, request).await,
        }
    })
}

/// Observes, plans and sends until a plan has gone through. What an earlier round did is seen by the next one.
async fn converge(client: &Client, request: &Request) -> Result<Done, Failure> {
    let mut attempt = 0;
    let mut sent = Vec::new();
    let mut first = None;
    loop {
        attempt += 1;
        let plan = plan(client, request).await?;
        // After a lost answer the second plan finds the thing there; for the caller it is still new.
        let outcome = *first.get_or_insert(plan.outcome);
        let before = sent.len();
        match send(client, &plan, &mut sent).await {
            Ok((id, url)) => {
                let Plan { thing, notes, .. } = plan;
                return Ok(Done { outcome, thing, id, url, notes, requests: sent, observed: true });
            }
            Err((Failure::Unknown { what, message }, call)) => {
                if sent.len() > before {
                    attempt = 1;
                }
                if !client.back_off(attempt, &message, &call).await {
                    return Err(Failure::Unavailable { what, message, attempts: attempt });
                }
            }
            Err((failure, _)) => return Err(failure),
        }
    }
}

/// Sends the calls of a plan in turn; gives number and address of the thing.
async fn send(
    client: &Client,
    plan: &Plan,
    sent: &mut Vec<Value>,
) -> Result<(Option<u64>, Option<String>), (Failure, Call)> {
    let mut kept = Kept::default();
    let (mut id, mut url) = (plan.id, plan.url.clone());
    for call in &plan.calls {
        let call = kept.fill(call);
        let failed = |failure| (failure, call.clone());
        let answer = client.send(&call).await.map_err(failed)?;
        sent.push(call.show());
        kept.keep(&call, &answer.body).map_err(failed)?;
        release::check_upload(&call, &answer.body).map_err(failed)?;
        if !call.keeps.is_empty() {
            id = answer.body["id"].as_u64();
        }
        if let Some(text) = answer.body["html_url"].as_str() {
            url = Some(text.to_owned());
        }
    }
    Ok((id, url))
}

async fn plan(client: &Client, request: &Request) -> Result<Plan, Failure> {
    match &request.action {
        Action::DeploymentStart(start) => deployment::start(client, start).await,
        Action::DeploymentFinish(finish) => deployment::finish(client, finish).await,
        Action::Check(wanted) => check::plan(client, wanted).await,
        Action::Comment(wanted) => comment::plan(client, wanted).await,
        Action::Release(wanted) => release::plan(client, wanted).await,
        Action::ReleaseDownload(wanted) => download::plan(client, wanted).await,
    }
}

/// The plan for a repository that has nothing of what is asked for.
fn plan_for_nothing(request: &Request) -> Result<Plan, Failure> {
    let repository = format!("/repos/{}", request.repository);
    match &request.action {
        Action::DeploymentStart(start) => Ok(deployment::lower_start(&repository, start, None)),
        Action::DeploymentFinish(finish) => Ok(deployment::lower_finish(&repository, finish, None)),
        Action::Check(wanted) => check::lower(&repository, &check::load(wanted)?, None),
        Action::Comment(wanted) => comment::lower(&repository, &comment::load(wanted)?, &[]),
        Action::Release(wanted) => release::lower(&repository, &release::load(wanted)?, None),
        Action::ReleaseDownload(wanted) => download::plan_for_nothing(&repository, wanted),
    }
}

fn show(plan: Plan, observed: bool) -> Done {
    let requests = plan.calls.iter().map(Call::show).collect();
    let Plan { thing, outcome, id, url, notes, .. } = plan;
    Done { outcome, thing, id, url, notes, requests, observed }
}
