//! Asks a service on this machine whether it is ready, so that an image needs no other program for its check.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

const TIMEOUT: Duration = Duration::from_secs(2);

/// Succeeds if `/health/ready` at the address that a service listens on answers 200.
pub fn run(host: IpAddr, port: u16) -> Result<()> {
    let address = SocketAddr::new(reachable(host), port);
    let status = ask(address).with_context(|| format!("failed to ask http://{address}/health/ready"))?;
    ensure!(status == "200", "http://{address}/health/ready answered {status}");
    Ok(())
}

fn ask(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(
        format!("GET /health/ready HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut status_line = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut status_line)?;
    let text = String::from_utf8_lossy(&status_line);
    Ok(text.split(' ').nth(1).unwrap_or_default().to_owned())
}

/// A service that listens on every address is asked on the loopback one.
fn reachable(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    }
}
