//! The edge's own answers: a problem document (RFC 9457) and a header that tells them from the service's.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::json;

use crate::headers::EDGE_ERROR;

/// Why the edge answers instead of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EdgeError {
    /// No route matches.
    NoRoute,
    /// The request has no usable host.
    BadRequest(&'static str),
    /// The edge is no tunnel.
    ConnectMethod,
    /// The client stopped sending its body.
    UploadStalled,
    /// Nothing was sent to the service: it could not be connected to in time.
    NotSent(String),
    /// The service may have the request and gave no answer, or none that is HTTP.
    NoAnswer(String),
    /// The service has the request and was silent for too long.
    AnswerTimeout,
    /// The client asks too often; there is room again after this time.
    RateLimited(Duration),
    /// The request body is longer than the route allows.
    BodyTooLong(u64),
    /// The client took too long to send the request body.
    UploadTooSlow,
    /// The service is paused; asking again makes sense after this time.
    Paused(Duration),
}

impl EdgeError {
    fn status(&self) -> StatusCode {
        match self {
            EdgeError::NoRoute => StatusCode::NOT_FOUND,
            EdgeError::BadRequest(_) => StatusCode::BAD_REQUEST,
            EdgeError::ConnectMethod => StatusCode::NOT_IMPLEMENTED,
            EdgeError::UploadStalled => StatusCode::REQUEST_TIMEOUT,
            EdgeError::NotSent(_) | EdgeError::NoAnswer(_) => StatusCode::BAD_GATEWAY,
            EdgeError::AnswerTimeout => StatusCode::GATEWAY_TIMEOUT,
            EdgeError::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            EdgeError::BodyTooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            EdgeError::UploadTooSlow => StatusCode::REQUEST_TIMEOUT,
            EdgeError::Paused(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The value of the header.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            EdgeError::NoRoute => "no-route",
            EdgeError::BadRequest(_) => "bad-request",
            EdgeError::ConnectMethod => "connect-method",
            EdgeError::UploadStalled => "upload-stalled",
            EdgeError::NotSent(_) => "not-sent",
            EdgeError::NoAnswer(_) => "no-answer",
            EdgeError::AnswerTimeout => "answer-timeout",
            EdgeError::RateLimited(_) => "rate-limited",
            EdgeError::BodyTooLong(_) => "body-too-long",
            EdgeError::UploadTooSlow => "upload-too-slow",
            EdgeError::Paused(_) => "paused",
        }
    }

    /// Whether the client is the one that did wrong, whatever the service would have done.
    pub(crate) fn is_clients(&self) -> bool {
        matches!(self, EdgeError::UploadStalled | EdgeError::UploadTooSlow | EdgeError::BodyTooLong(_))
    }

    /// The head of the answer and its body.
    pub(crate) fn answer(&self, request_id: &HeaderValue) -> Response<Bytes> {
        let status = self.status();
        // The text names no address: it goes to whoever asks.
        let problem = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": self.to_string(),
            "code": self.code(),
            "request_id": request_id.to_str().unwrap_or_default(),
        });
        let mut answer = Response::new(Bytes::from(problem.to_string()));
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(EDGE_ERROR, HeaderValue::from_static(self.code()));
        if let EdgeError::RateLimited(wait) | EdgeError::Paused(wait) = self {
            // Whole seconds, and never "at once".
            let seconds = u64::try_from(wait.as_millis().div_ceil(1000).max(1)).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        let is_body_unread = matches!(self, EdgeError::BodyTooLong(_) | EdgeError::UploadTooSlow);
        if is_body_unread || matches!(self, EdgeError::BadRequest(_) | EdgeError::UploadStalled) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

impl fmt::Display for EdgeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EdgeError::NoRoute => f.write_str("no service is routed at this host and path"),
            EdgeError::BadRequest(reason) => f.write_str(reason),
            EdgeError::ConnectMethod => f.write_str("the edge opens no tunnels"),
            EdgeError::UploadStalled => f.write_str("the request body stopped coming"),
            EdgeError::NotSent(_) => {
                f.write_str("the service could not be reached; the request was not sent")
            }
            EdgeError::NoAnswer(_) => f.write_str("the service gave no answer; it may have seen the request"),
            EdgeError::AnswerTimeout => f.write_str("the service did not answer in time"),
            EdgeError::RateLimited(_) => f.write_str("too many requests from this client"),
            EdgeError::BodyTooLong(most) => write!(f, "the request body is longer than {most} bytes"),
            EdgeError::UploadTooSlow => f.write_str("the request body took too long to come"),
            EdgeError::Paused(_) => f.write_str("the service is paused for a moment"),
        }
    }
}
