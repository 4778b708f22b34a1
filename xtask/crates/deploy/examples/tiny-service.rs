//! A service for tests: it answers HTTP with its version, and misbehaves as its environment says.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn main() -> std::io::Result<()> {
    let mode = variable("MODE");
    println!("version {} begins, mode {mode:?}", variable("VERSION"));
    for name in variable("SHOW").split_whitespace() {
        println!("{name}={}", variable(name));
    }
    match mode.as_str() {
        "crash" => std::process::exit(3),
        "abort" => std::process::abort(),
        "silent" => loop {
            std::thread::park();
        },
        "hungry" => {
            let mut food = Vec::new();
            loop {
                food.push(vec![1_u8; 1 << 20]);
            }
        }
        "family" => {
            Command::new(std::env::current_exe()?).env("MODE", "silent").spawn()?;
        }
        "ignore-term" => {
            signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::new(AtomicBool::new(false)))?;
        }
        _ => {}
    }
    let port = variable("PORT");
    if port.is_empty() {
        loop {
            std::thread::park();
        }
    }
    let host = Some(variable("LISTEN")).filter(|host| !host.is_empty());
    let listener = TcpListener::bind(format!("{}:{port}", host.as_deref().unwrap_or("127.0.0.1")))?;
    let checks = Arc::new(AtomicU32::new(0));
    for stream in listener.incoming().flatten() {
        let (mode, checks) = (mode.clone(), Arc::clone(&checks));
        std::thread::spawn(move || serve(stream, &mode, &checks));
    }
    Ok(())
}

fn serve(stream: TcpStream, mode: &str, checks: &AtomicU32) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            header.clear();
        }
        let path = request.split_whitespace().nth(1).unwrap_or_default();
        let (status, body) = answer(path, mode, checks);
        let length = body.len();
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}")?;
    }
}

fn answer(path: &str, mode: &str, checks: &AtomicU32) -> (&'static str, String) {
    if path == "/health" {
        let number = checks.fetch_add(1, Ordering::Relaxed);
        return match mode {
            "sick" => ("503 Service Unavailable", "the database is away".to_owned()),
            "flap" if number % 2 == 1 => ("500 Internal Server Error", "flap".to_owned()),
            _ => ("200 OK", "well".to_owned()),
        };
    }
    if path == "/slow" {
        std::thread::sleep(Duration::from_millis(100));
    }
    if let Some(name) = path.strip_prefix("/env/") {
        return ("200 OK", variable(name));
    }
    if path == "/call" {
        return ("200 OK", call().unwrap_or_else(|error| error.to_string()));
    }
    if let Some(path) = path.strip_prefix("/file") {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
        return ("200 OK", text);
    }
    if path == "/exit" {
        std::process::exit(4);
    }
    ("200 OK", variable("VERSION"))
}

/// Asks the address in SHOW for its own MARKER.
fn call() -> std::io::Result<String> {
    let address = variable("SHOW").replace("http://", "");
    let address: std::net::SocketAddr = address.parse().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
    write!(stream, "GET /env/MARKER HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
