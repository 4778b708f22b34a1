//! File descriptors over Unix sockets: one line of text with the descriptors that belong to it. It does not know what is in
//! a line. The protocol on top asks and answers in turns, so a reader never finds a part of the next line.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Descriptors with one line; the kernel allows 253.
pub const MAX_DESCRIPTORS: usize = 32;

/// Read at once.
const CHUNK: usize = 16 * 1024;

/// Sends `line`, which ends with a line break, and `descriptors`.
///
/// # Errors
/// When there are too many descriptors, or the other side does not read within the socket's own time limit.
pub fn send(socket: &UnixStream, line: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let sent = send_some(socket, line, descriptors)?;
    // The descriptors go with the first byte.
    (&*socket).write_all(&line[sent..])
}

/// Sends the first part of `line` with all `descriptors`; returns how much of it was sent.
///
/// # Errors
/// As of [`send`]; [`io::ErrorKind::WouldBlock`] on a socket that does not block.
pub fn send_some(socket: impl AsFd, line: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let too_many = || io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if descriptors.len() > MAX_DESCRIPTORS
        || (!descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)))
    {
        return Err(too_many());
    }
    loop {
        match rustix::net::sendmsg(&socket, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            sent => return Ok(sent?),
        }
    }
}

/// Reads one line of at most `max_bytes` with its descriptors; an empty line at the end of the connection.
///
/// # Errors
/// When the line is longer, the connection breaks in the middle of it, the socket's own time limit is over, or the message
/// carried more descriptors than [`MAX_DESCRIPTORS`].
pub fn receive(socket: &UnixStream, max_bytes: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut line, mut descriptors) = (Vec::new(), Vec::new());
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = receive_some(socket, &mut chunk, &mut descriptors)?;
        line.extend_from_slice(&chunk[..read]);
        if line.ends_with(b"\n") || (read == 0 && line.is_empty()) {
            return Ok((line, descriptors));
        }
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.len() > max_bytes || descriptors.len() > MAX_DESCRIPTORS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
        }
    }
}

fn receive_some(socket: &UnixStream, bytes: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(bytes)];
    let received = loop {
        match rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?,
        }
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not all descriptors of the message arrived"));
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_listener_arrives_with_its_line_and_accepts() {
        let (here, there) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let line = [vec![b'x'; 100_000], b"\n".to_vec()].concat();
        let sender = std::thread::spawn(move || {
            send(&here, &line, &[listener.as_fd()]).unwrap();
            // The other side has its own by now.
            drop(listener);
            line
        });
        let (line, mut descriptors) = receive(&there, 200_000).unwrap();
        assert_eq!(line, sender.join().unwrap());
        assert_eq!(descriptors.len(), 1);
        let listener = TcpListener::from(descriptors.remove(0));
        assert_eq!(listener.local_addr().unwrap(), address);
        let mut client = TcpStream::connect(address).unwrap();
        listener.accept().unwrap().0.write_all(b"here").unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        assert_eq!(said, "here");
        assert!(receive(&there, 10).unwrap().0.is_empty(), "the end of the connection");
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let (here, there) = UnixStream::pair().unwrap();
        let many = vec![here.as_fd(); MAX_DESCRIPTORS + 1];
        assert!(send(&here, b"x\n", &many).is_err());
        send(&here, b"xxxx", &[]).unwrap();
        assert!(receive(&there, 3).is_err());
        send(&here, b"cut", &[]).unwrap();
        drop(many);
        drop(here);
        assert!(receive(&there, 10).is_err());
    }
}
