//! Webhooks against a real listener on loopback: forms, retries, refusals, and that no address is ever shown.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use deploy::{Form, Message, On, Reference, Webhook, notify};

/// A listener that answers with these statuses, one after the other, and hands over what it was sent.
fn listener(statuses: &'static [u16]) -> (String, Receiver<String>) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hooks/T0P-S3CRET", socket.local_addr().unwrap());
    let (sender, received) = channel();
    std::thread::spawn(move || {
        for (status, stream) in statuses.iter().zip(socket.incoming()) {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut length, mut head) = (0, String::new());
            while reader.read_line(&mut head).unwrap() > 2 {
                let line = head.to_ascii_lowercase();
                if let Some(text) = line.lines().last().unwrap_or_default().strip_prefix("content-length: ") {
                    length = text.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
            sender.send(String::from_utf8(body).unwrap()).unwrap();
        }
    });
    (url, received)
}

fn webhook(folder: &Path, url: &str, form: Form, on: On) -> Webhook {
    let file = folder.join(format!("{}", url.len()));
    std::fs::write(&file, format!("{url}\n")).unwrap();
    let text = serde_json::json!({ "from_file": file });
    let url: Reference = serde_json::from_value(text).unwrap();
    Webhook { url, form, on }
}

fn message(is_success: bool) -> Message {
    Message {
        environment: "staging".into(),
        operation: "deploy".into(),
        is_success,
        outcome: if is_success { "deployed" } else { "failed" }.into(),
        detail: Some("gate web: <a process> ended & more".into()),
        who: "somebody".into(),
        release: None,
        commit: None,
        changed: vec!["web".into()],
        took_ms: 1_234,
        audit_head: None,
    }
}

#[test]
fn both_forms_say_what_happened_and_a_busy_receiver_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let (url, received) = listener(&[503, 429, 200]);
    assert_eq!(notify(&[webhook(folder.path(), &url, Form::Json, On::Always)], &message(true)), [""; 0]);
    let bodies: Vec<serde_json::Value> =
        received.iter().map(|body| serde_json::from_str(&body).unwrap()).collect();
    assert_eq!(bodies.len(), 3, "two refusals, and then it took it");
    assert_eq!(bodies[2]["schema"], "slipway.deploy-event/1");
    assert_eq!((&bodies[2]["is_success"], &bodies[2]["environment"]), (&true.into(), &"staging".into()));

    let (url, received) = listener(&[200]);
    assert_eq!(notify(&[webhook(folder.path(), &url, Form::Slack, On::Always)], &message(false)), [""; 0]);
    let body: serde_json::Value = serde_json::from_str(&received.recv().unwrap()).unwrap();
    let text = body["text"].as_str().unwrap();
    assert!(text.contains("deploy staging: failed by somebody in 1.2 s"), "{text}");
    assert!(
        text.contains("&lt;a process&gt; ended &amp; more"),
        "what Slack would read as a link is escaped: {text}"
    );
}

#[test]
fn who_asks_for_failures_alone_hears_of_no_success() {
    let folder = tempfile::tempdir().unwrap();
    let (url, received) = listener(&[200]);
    let hook = [webhook(folder.path(), &url, Form::Json, On::Failure)];
    assert_eq!(notify(&hook, &message(true)), [""; 0]);
    assert!(received.try_recv().is_err());
    assert_eq!(notify(&hook, &message(false)), [""; 0]);
    assert!(received.recv().unwrap().contains("failed"));
}

#[test]
fn what_goes_wrong_is_said_within_the_deadline_and_without_the_address() {
    let folder = tempfile::tempdir().unwrap();
    let check = |url: &str, expected: &str| {
        let start = Instant::now();
        let trouble = notify(&[webhook(folder.path(), url, Form::Json, On::Always)], &message(true));
        assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
        assert_eq!(trouble.len(), 1, "{trouble:?}");
        assert!(trouble[0].contains("webhook 1") && trouble[0].contains(expected), "{trouble:?}");
        assert!(!trouble[0].contains("T0P") && !trouble[0].contains("127.0.0.1"), "{trouble:?}");
    };
    let (url, received) = listener(&[404, 200]);
    check(&url, "it answered 404");
    assert_eq!(received.iter().take(1).count(), 1);
    assert!(received.try_recv().is_err(), "asking again would not help");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    check(&format!("http://{gone}/T0P-S3CRET"), "4 times");
    check("ftp://127.0.0.1/T0P", "no http or https address");
    let debug = format!("{:?}", webhook(folder.path(), &url, Form::Json, On::Always));
    assert!(!debug.contains("T0P"), "{debug}");
}
