//! One blocking client: a socket and frames by hand. For many at once see [`super::crowd`].

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::frames::{self, Frame};
use super::redis::PATIENCE;

#[derive(Debug)]
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    taken: usize,
}

impl Client {
    /// A TCP connection and nothing said.
    pub fn dial(address: SocketAddr) -> Client {
        Client::over(TcpStream::connect(address).expect("the server accepts"))
    }

    /// With a receive buffer of about this many bytes, so that a reader that stalls is felt soon.
    pub fn dial_narrow(address: SocketAddr, bytes: usize) -> Client {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(bytes).unwrap();
        socket.connect(&address.into()).expect("the server accepts");
        Client::over(socket.into())
    }

    /// From this address of this host.
    pub fn dial_from(source: IpAddr, address: SocketAddr) -> Client {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(source, 0).into()).expect("an address of this host");
        socket.connect(&address.into()).expect("the server accepts");
        Client::over(socket.into())
    }

    /// By a unix socket, which is read and written like any other.
    pub fn dial_unix(path: &Path) -> Client {
        let stream = UnixStream::connect(path).expect("the server accepts");
        Client::over(TcpStream::from(OwnedFd::from(stream)))
    }

    fn over(stream: TcpStream) -> Client {
        // A unix socket has no delay to take away.
        let _ = stream.set_nodelay(true);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Client { stream, buffer: Vec::new(), taken: 0 }
    }

    /// An open WebSocket, before any event was read.
    pub fn connect(address: SocketAddr, path: &str) -> Client {
        Client::dial(address).upgrade(path)
    }

    pub fn upgrade(mut self, path: &str) -> Client {
        self.send(frames::request(path, "").as_bytes());
        let head = self.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.to_lowercase().contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
        self
    }

    /// Connects, takes `connected`, subscribes and takes `subscribed`.
    pub fn subscribed(address: SocketAddr, channel: &str) -> Client {
        let mut client = Client::connect(address, "/ws?format=json");
        assert_eq!(client.event()["type"], "connected");
        client.command(serde_json::json!({"type": "subscribe", "channel": channel}));
        assert_eq!(client.event()["type"], "subscribed");
        client
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Nothing more will be said.
    pub fn end_sending(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// The numbers and payloads of the next messages; anything else is an error.
    pub fn messages(&mut self, count: usize) -> Vec<(u64, Value)> {
        (0..count)
            .map(|_| {
                let event = self.event();
                assert_eq!(event["type"], "notification", "{event}");
                (event["seq"].as_u64().unwrap(), event["data"].clone())
            })
            .collect()
    }

    pub fn command(&mut self, command: Value) {
        self.send(&frames::frame(frames::TEXT, command.to_string().as_bytes()));
    }

    /// An HTTP head.
    pub fn head(&mut self) -> String {
        loop {
            if let Some(length) = frames::head_length(&self.buffer[self.taken..]) {
                let head = String::from_utf8(self.buffer[self.taken..][..length].to_vec()).unwrap();
                self.taken += length;
                return head;
            }
            assert!(self.fill(), "closed before a whole head came: {:?}", String::from_utf8_lossy(&self.buffer[self.taken..]));
        }
    }

    /// All that comes until the server closes.
    pub fn rest(&mut self) -> String {
        String::from_utf8_lossy(&self.rest_bytes()).into_owned()
    }

    pub fn rest_bytes(&mut self) -> Vec<u8> {
        while self.fill() {}
        self.buffer.split_off(self.taken)
    }

    /// The next frame, whatever it is. None: the stream has ended.
    pub fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, length)) = frames::parse(&self.buffer[self.taken..]) {
                self.taken += length;
                if self.taken == self.buffer.len() {
                    self.buffer.clear();
                    self.taken = 0;
                }
                return Some(frame);
            }
            if !self.fill() {
                assert_eq!(self.buffer.len(), self.taken, "the stream ended within a frame");
                return None;
            }
        }
    }

    /// The next event; pings are answered on the way.
    pub fn event(&mut self) -> Value {
        self.next_event().expect("an event, not the end")
    }

    /// None: a close frame came (left for [`Client::close_code`]) or the stream has ended.
    pub fn next_event(&mut self) -> Option<Value> {
        loop {
            let frame = self.frame()?;
            match frame.opcode {
                frames::TEXT => return Some(serde_json::from_slice(&frame.payload).expect("JSON")),
                frames::PING => self.send(&frames::frame(frames::PONG, &frame.payload)),
                frames::PONG => {}
                frames::CLOSE => {
                    self.put_back(&frame);
                    return None;
                }
                other => panic!("unexpected opcode {other}"),
            }
        }
    }

    fn put_back(&mut self, frame: &Frame) {
        let mut bytes = vec![0x80 | frame.opcode, frame.payload.len() as u8];
        bytes.extend(&frame.payload);
        bytes.extend(&self.buffer[self.taken..]);
        self.buffer = bytes;
        self.taken = 0;
    }

    /// Reads until a close frame and returns its code; None if the stream ends without one (or is reset).
    pub fn close_code(&mut self) -> Option<u16> {
        loop {
            match self.frame() {
                Some(frame) if frame.opcode == frames::CLOSE => return frame.close_code(),
                Some(_) => {}
                None => return None,
            }
        }
    }

    /// Whether the server says nothing for so long.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).unwrap();
        let mut bytes = [0; 1024];
        let silent = match self.stream.read(&mut bytes) {
            Ok(count) => {
                self.buffer.extend_from_slice(&bytes[..count]);
                false
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        };
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        silent && self.buffer.len() == self.taken
    }

    /// Reads more; false at the end of the stream. A reset is an end: who sends on after a refusal may get one.
    fn fill(&mut self) -> bool {
        if self.taken > 0 && self.taken == self.buffer.len() {
            self.buffer.clear();
            self.taken = 0;
        }
        let begin = self.buffer.len();
        self.buffer.resize(begin + (64 * 1024).max(begin), 0);
        let read = self.stream.read(&mut self.buffer[begin..]);
        let count = match &read {
            Ok(count) => *count,
            Err(_) => 0,
        };
        self.buffer.truncate(begin + count);
        match read {
            Ok(count) => count > 0,
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => false,
            Err(error) => panic!("nothing came: {error}"),
        }
    }
}
