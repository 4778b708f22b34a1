//! Calls the inference service: one connection per request, connecting tried again while nothing has been sent. It does
//! not know jobs; what the answer means for a retry is decided here.

use std::io;
use std::time::Duration;

use engine::PredictRequest;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use crate::fit::Failure;

const ANSWER_LIMIT_BYTES: usize = 1 << 20;
/// Pauses before connecting again: a service that is being replaced is back within them.
const CONNECT_PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];
/// What is kept of a refusal; it is stored with the job.
const ERROR_LENGTH: usize = 1000;
const DEFAULT_PORT: u16 = 80;

/// The inference service.
#[derive(Debug)]
pub struct Remote {
    host: String,
    port: u16,
    path: String,
    timeout: Duration,
}

impl Remote {
    pub(crate) fn new(url: &Uri, timeout: Duration) -> Self {
        Self {
            host: url.host().unwrap_or_default().to_owned(),
            port: url.port_u16().unwrap_or(DEFAULT_PORT),
            path: format!("{}/v1/predict", url.path().trim_end_matches('/')),
            timeout,
        }
    }

    pub(crate) async fn predict(&self, request_id: &str, request: &PredictRequest) -> Result<Value, Failure> {
        let body = serde_json::to_vec(request).map_err(|error| Failure::Lasting(error.to_string()))?;
        let deadline = Instant::now() + self.timeout;
        let stream = timeout_at(deadline, self.connect()).await;
        let stream = stream
            .map_err(|_| self.unavailable(&format!("no connection within {:?}", self.timeout)))?
            .map_err(|error| self.unavailable(&format!("cannot connect: {error}")))?;
        // From here on the service may have begun, and the job may be what it fails of.
        let answer = timeout_at(deadline, self.send(stream, request_id, body)).await;
        let (status, body) = answer
            .map_err(|_| self.failed(&format!("no answer within {:?}", self.timeout)))?
            .map_err(|error| self.failed(&format!("{error:#}")))?;
        match status {
            StatusCode::OK => serde_json::from_slice(&body)
                .map_err(|error| self.failed(&format!("answered something else than JSON: {error}"))),
            // The same map would be refused again.
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                let text: String = String::from_utf8_lossy(&body).chars().take(ERROR_LENGTH).collect();
                Err(Failure::Lasting(format!("the inference service answered {status}: {text}")))
            }
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Err(self.unavailable(&format!("answered {status}")))
            }
            status => Err(self.failed(&format!("answered {status}"))),
        }
    }

    async fn send(
        &self,
        stream: TcpStream,
        request_id: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // The connection ends with its only exchange; its error is that of the exchange.
        let connection = tokio::spawn(connection);
        let request = Request::post(&self.path)
            .header(HOST, format!("{}:{}", self.host, self.port))
            .header(CONTENT_TYPE, "application/json")
            .header("x-request-id", request_id)
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT_BYTES).collect().await;
        connection.abort();
        Ok((status, body.map_err(anyhow::Error::from_boxed)?.to_bytes()))
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        for pause in CONNECT_PAUSES {
            match self.connect_once().await {
                Ok(stream) => return Ok(stream),
                Err(error) => tracing::debug!(%error, "connecting to the inference service again"),
            }
            sleep(pause).await;
        }
        self.connect_once().await
    }

    async fn connect_once(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        // While nobody listens on a local port, the system may give out that very port for our own end, and the
        // connection then talks to itself.
        if stream.local_addr()? == stream.peer_addr()? {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(stream)
    }

    fn unavailable(&self, what: &str) -> Failure {
        Failure::Unavailable(self.describe(what))
    }

    fn failed(&self, what: &str) -> Failure {
        Failure::Passing(self.describe(what))
    }

    fn describe(&self, what: &str) -> String {
        format!("the inference service at {}:{}: {what}", self.host, self.port)
    }
}
