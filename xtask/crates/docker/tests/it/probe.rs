//! What runs in the containers of the tests: it says what it can do, and does what it is told. One static binary without dependencies.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;

unsafe extern "C" {
    fn signal(signal: i32, handler: usize) -> usize;
    fn getuid() -> u32;
    fn getgid() -> u32;
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    for step in args.iter().map(String::as_str) {
        let (verb, rest) = step.split_once('=').unwrap_or((step, ""));
        act(verb, rest);
    }
}

fn act(verb: &str, rest: &str) {
    match verb {
        "who" => {
            println!("uid {} gid {}", unsafe { getuid() }, unsafe { getgid() });
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            for line in status.lines().filter(|line| line.starts_with("Cap") || line.starts_with("NoNewPrivs") || line.starts_with("Seccomp:")) {
                println!("{}", line.split_whitespace().collect::<Vec<_>>().join(" "));
            }
            let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
            println!("{}", limits.lines().find(|line| line.starts_with("Max open files")).unwrap().split_whitespace().collect::<Vec<_>>().join(" "));
        }
        "write" => println!("write {rest} {}", told(std::fs::write(rest, b"x").map(|()| ""))),
        "read" => println!("read {rest} {}", told(std::fs::read_to_string(rest))),
        "stat" => {
            use std::os::unix::fs::MetadataExt;
            println!("stat {rest} {}", told(std::fs::metadata(rest).map(|found| format!("{:o} {} {}", found.mode() & 0o7777, found.uid(), found.gid()))));
        }
        "mount" => {
            let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
            for line in mounts.lines().filter(|line| line.split(' ').nth(1) == Some(rest)) {
                let words: Vec<&str> = line.split(' ').collect();
                println!("mount {rest} {} {}", words[2], words[3].split(',').next().unwrap());
            }
        }
        "env" => println!("env {rest} {}", std::env::var(rest).unwrap_or_else(|_| "none".into())),
        "environment" => std::env::vars().for_each(|(name, value)| println!("{name}={value}")),
        "connect" => {
            let connected = rest.to_socket_addrs().and_then(|mut found| TcpStream::connect_timeout(&found.next().unwrap(), Duration::from_millis(1500)));
            println!("connect {rest} {}", told(connected.map(|_| "yes")));
        }
        "serve" => {
            let listener = TcpListener::bind(rest).unwrap();
            println!("serving");
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.read(&mut [0; 1024]).ok();
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").ok();
            }
        }
        "ignore" => {
            // SIG_IGN
            unsafe { signal(rest.parse().unwrap(), 1) };
        }
        "print" => println!("{rest}"),
        "complain" => eprintln!("{rest}"),
        "count" => (0..rest.parse::<u32>().unwrap()).for_each(|line| println!("line {line}")),
        "sleep" => std::thread::sleep(Duration::from_millis(rest.parse().unwrap())),
        "fork" => {
            let children: Vec<_> = (0..rest.parse::<u32>().unwrap())
                .map(|_| std::thread::Builder::new().stack_size(1 << 16).spawn(|| std::thread::sleep(Duration::from_millis(500))))
                .collect();
            println!("threads {}", children.iter().filter(|child| child.is_ok()).count());
        }
        "eat" => {
            let mut eaten: Vec<Vec<u8>> = Vec::new();
            for _ in 0..rest.parse::<u32>().unwrap() {
                eaten.push(vec![1; 1 << 20]);
            }
            println!("ate {}", eaten.len());
        }
        "exit" => std::process::exit(rest.parse().unwrap()),
        other => panic!("what is {other}?"),
    }
    std::io::stdout().flush().unwrap();
}

fn told<T: std::fmt::Display>(result: std::io::Result<T>) -> String {
    match result {
        Ok(value) => format!("ok {value}").trim_end().to_owned(),
        Err(error) => format!("failed: {error}"),
    }
}
