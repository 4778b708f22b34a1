//! Extractors that answer with problems: a JSON body and a query that are read strictly.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_path_to_error::{Path, Segment};

use crate::problem::{Kind, Problem, Violations};

/// A JSON body of type `application/json`. Types refuse unknown fields with `deny_unknown_fields`.
#[derive(Debug)]
pub struct JsonBody<T> {
    /// The body as its type.
    pub value: T,
    /// The body as it came.
    pub bytes: Bytes,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(Kind::UnsupportedMediaType, "send the body as application/json"));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                Problem::new(Kind::PayloadTooLarge, "the body is larger than this service accepts")
            } else {
                Problem::new(Kind::MalformedRequest, "the body could not be read to its end")
            }
        })?;
        Ok(Self { value: parse(&bytes)?, bytes })
    }
}

/// The query of the address.
#[derive(Debug)]
pub struct QueryString<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryString<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let mut violations = Violations::default();
                violations.add("", "invalid_query", rejection.body_text());
                Err(Problem::validation(violations))
            }
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| refusal(&pointer(error.path()), error.inner()))?;
    json.end().map_err(|error| refusal("", &error))?;
    Ok(value)
}

fn refusal(pointer: &str, error: &serde_json::Error) -> Problem {
    if error.classify() != Category::Data {
        return Problem::new(Kind::MalformedJson, error.to_string());
    }
    let text = error.to_string();
    let code = if text.starts_with("unknown field") {
        "unknown_field"
    } else if text.starts_with("missing field") {
        "missing_field"
    } else {
        "invalid_value"
    };
    let mut violations = Violations::default();
    violations.add(pointer, code, text);
    Problem::validation(violations)
}

fn pointer(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        let name = match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => key.replace('~', "~0").replace('/', "~1"),
            Segment::Enum { variant } => variant.clone(),
            Segment::Unknown => continue,
        };
        pointer.push('/');
        pointer.push_str(&name);
    }
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        side: u32,
        values: Vec<f64>,
    }

    fn check(json: &str, kind: Kind, place: &str, code: &str) {
        let problem = parse::<Sample>(json.as_bytes()).unwrap_err();
        assert_eq!(problem.kind(), kind, "{json}");
        if kind == Kind::Validation {
            let violation = &problem.violations()[0];
            assert_eq!((violation.pointer.as_str(), violation.code), (place, code), "{json}");
        }
    }

    #[test]
    fn refusals_name_the_place() {
        check("{", Kind::MalformedJson, "", "");
        check(r#"{"side":1,"values":[]} x"#, Kind::MalformedJson, "", "");
        check(r#"{"side":1,"values":[1e999]}"#, Kind::MalformedJson, "", "");
        check(r#"{"side":1.5,"values":[]}"#, Kind::Validation, "/side", "invalid_value");
        check(r#"{"side":"1","values":[]}"#, Kind::Validation, "/side", "invalid_value");
        check(r#"{"side":1,"values":[0,null]}"#, Kind::Validation, "/values/1", "invalid_value");
        check(r#"{"side":1}"#, Kind::Validation, "", "missing_field");
        check(r#"{"side":1,"values":[],"more":2}"#, Kind::Validation, "/more", "unknown_field");
        let good = parse::<Sample>(br#" {"side":1,"values":[2.5]} "#).unwrap();
        assert_eq!(good, Sample { side: 1, values: vec![2.5] });
    }

    #[test]
    fn only_json_is_json() {
        let is = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, value.parse().unwrap());
            is_json(&headers)
        };
        assert!(is("application/json") && is("Application/JSON; charset=utf-8"));
        assert!(!is("text/plain") && !is("application/jsonp") && !is_json(&HeaderMap::new()));
    }
}
