//! Errors of the HTTP interfaces as RFC 9457 problem documents. A handler returns a [`Problem`]; the outermost
//! middleware writes its body, because only there path and request id are at hand. No text of an inner error
//! ever reaches a client through a problem of kind `Internal`.

use std::ops::RangeInclusive;
use std::time::SystemTime;

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::request_id::RequestId;

/// Media type of a problem document.
pub const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// What kind of thing went wrong; each has its own type URI and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The body is not JSON.
    MalformedJson,
    /// The request cannot be read.
    MalformedRequest,
    /// There is no such resource.
    NotFound,
    /// The resource does not have this method.
    MethodNotAllowed,
    /// The request contradicts an earlier one.
    Conflict,
    /// The body is larger than accepted.
    PayloadTooLarge,
    /// The body is of a type that is not accepted.
    UnsupportedMediaType,
    /// The body is JSON, but its values are not acceptable.
    Validation,
    /// A bug or a broken machine.
    Internal,
    /// The engine has no capacity free.
    EngineUnavailable,
    /// The store cannot be used.
    StoreUnavailable,
    /// The answer took too long.
    Timeout,
}

impl Kind {
    /// Status code of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            Self::MalformedJson | Self::MalformedRequest => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Validation => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::EngineUnavailable | Self::StoreUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Last part of the type URI.
    pub fn slug(self) -> &'static str {
        match self {
            Self::MalformedJson => "malformed-json",
            Self::MalformedRequest => "malformed-request",
            Self::NotFound => "not-found",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::Conflict => "conflict",
            Self::PayloadTooLarge => "payload-too-large",
            Self::UnsupportedMediaType => "unsupported-media-type",
            Self::Validation => "validation-error",
            Self::Internal => "internal",
            Self::EngineUnavailable => "engine-unavailable",
            Self::StoreUnavailable => "db-unavailable",
            Self::Timeout => "timeout",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::MalformedJson => "The body is not valid JSON",
            Self::MalformedRequest => "The request cannot be understood",
            Self::NotFound => "There is no such resource",
            Self::MethodNotAllowed => "The resource does not support this method",
            Self::Conflict => "The request contradicts an earlier one",
            Self::PayloadTooLarge => "The body is too large",
            Self::UnsupportedMediaType => "The body is not of an accepted type",
            Self::Validation => "The request has values that are not acceptable",
            Self::Internal => "The service failed",
            Self::EngineUnavailable => "The engine has no capacity free",
            Self::StoreUnavailable => "The store cannot be used",
            Self::Timeout => "The answer took too long",
        }
    }

    /// The kind for an error answer that a library made.
    fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::PAYLOAD_TOO_LARGE => Self::PayloadTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::UnsupportedMediaType,
            status if status.is_client_error() => Self::MalformedRequest,
            _ => Self::Internal,
        }
    }
}

/// One value of a request that is not acceptable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Violation {
    /// Where, as a JSON pointer into the body (RFC 6901).
    pub pointer: String,
    /// What is wrong, as a word for programs.
    pub code: &'static str,
    /// What is wrong, for people.
    pub message: String,
    /// Least accepted value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Greatest accepted value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// Collects everything that is wrong with a request before it is refused.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// Notes a value that is not acceptable.
    pub fn add(&mut self, pointer: &str, code: &'static str, message: impl Into<String>) {
        let message = message.into();
        self.0.push(Violation { pointer: pointer.to_owned(), code, message, min: None, max: None });
    }

    /// Notes a value outside its range; NaN is outside every range.
    pub fn check_range(&mut self, pointer: &str, value: f64, range: &RangeInclusive<f64>) {
        if !range.contains(&value) {
            let (min, max) = (*range.start(), *range.end());
            self.0.push(Violation {
                pointer: pointer.to_owned(),
                code: "out_of_range",
                message: format!("must be between {min} and {max}"),
                min: Some(min),
                max: Some(max),
            });
        }
    }

    /// What was noted.
    pub fn as_slice(&self) -> &[Violation] {
        &self.0
    }

    /// An error if anything was noted.
    pub fn into_result(self) -> Result<(), Problem> {
        if self.0.is_empty() { Ok(()) } else { Err(Problem::validation(self)) }
    }
}

/// An error answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    kind: Kind,
    detail: Option<String>,
    violations: Violations,
    retry_after_s: Option<u32>,
}

impl Problem {
    /// A problem with a sentence about this occurrence.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..Self::plain(kind) }
    }

    /// A problem about values of the request.
    pub fn validation(violations: Violations) -> Self {
        let count = violations.0.len();
        let detail = if count == 1 { "1 value".to_owned() } else { format!("{count} values") };
        Self { violations, ..Self::new(Kind::Validation, format!("{detail} not acceptable, see errors")) }
    }

    /// A failure of the service itself: the cause goes to the log, the client learns the request id only.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(cause = %cause, "request failed");
        Self::plain(Kind::Internal)
    }

    /// Tells the client when to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// What kind it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The values of the request that are not acceptable.
    pub fn violations(&self) -> &[Violation] {
        self.violations.as_slice()
    }

    fn plain(kind: Kind) -> Self {
        Self { kind, detail: None, violations: Violations::default(), retry_after_s: None }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// RFC 9457 with our members.
#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    instance: String,
    request_id: &'a str,
    timestamp: String,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [Violation],
}

/// Writes the body of an error answer; answers of success and finished problem documents pass unchanged.
pub fn render(response: Response, path: &str, id: &RequestId, now: SystemTime) -> Response {
    let (mut parts, body) = response.into_parts();
    let is_error = parts.status.is_client_error() || parts.status.is_server_error();
    if !is_error || parts.headers.get(CONTENT_TYPE) == Some(&MEDIA_TYPE) {
        return Response::from_parts(parts, body);
    }
    let problem = parts.extensions.remove().unwrap_or_else(|| Problem::plain(Kind::of(parts.status)));
    let by_default = match problem.kind {
        Kind::Internal => "the request id identifies this failure in the log of the service",
        kind => kind.title(),
    };
    let document = Document {
        r#type: format!("/problems/{}", problem.kind.slug()),
        title: problem.kind.title(),
        status: parts.status.as_u16(),
        detail: problem.detail.as_deref().unwrap_or(by_default),
        instance: format!("{path}#{}", id.as_str()),
        request_id: id.as_str(),
        timestamp: humantime::format_rfc3339_millis(now).to_string(),
        errors: problem.violations(),
    };
    let bytes = serde_json::to_vec(&document).unwrap_or_default();
    parts.headers.insert(CONTENT_TYPE, MEDIA_TYPE);
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(bytes))
}
