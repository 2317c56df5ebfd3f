//! As a WebSocket client: the target's `publish` command, or whatever message another server publishes by.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use campanile::client::stream::Stream;
use campanile::client::tls::complaint;
use campanile::wire::frame::{Opcode, parse_server_header};

use super::{Message, Route};
use crate::target::{self, Target};
use crate::worker::summary;

const TIMEOUT: Duration = Duration::from_secs(10);

/// What Campanile takes.
pub const TEMPLATE: &str = r#"{"type":"publish","channel":"{channel}","data":"{payload}"}"#;

#[derive(Debug)]
pub struct ClientRoute {
    stream: Stream,
    target: Target,
    template: String,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

impl ClientRoute {
    /// `template` is the text to send, with `{channel}` and `{payload}` in it.
    pub fn connect(target: &Target, template: &str) -> anyhow::Result<ClientRoute> {
        let (stream, incoming) = open(target, &target.request(u32::MAX, 0, target.is_campanile))?;
        // Answers are read when there are some, and never waited for.
        stream.socket().set_nonblocking(true)?;
        Ok(ClientRoute { stream, target: target.clone(), template: template.to_owned(), outgoing: Vec::new(), incoming })
    }

    /// Reads what the server has said: answers pings, fails on an error event or the end.
    fn drain(&mut self) -> anyhow::Result<()> {
        let mut buffer = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the server closed the publisher's connection"),
                Ok(count) => self.incoming.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("the publisher's connection broke"),
            }
            let mut taken = 0;
            while let Some(header) = parse_server_header(&self.incoming[taken..])? {
                let begin = taken + header.header_len as usize;
                let Some(payload) = self.incoming.get(begin..begin + header.payload_len as usize) else { break };
                taken = begin + payload.len();
                match header.opcode {
                    Opcode::Ping => self.outgoing.extend(target::frame(Opcode::Pong, payload)),
                    Opcode::Close => bail!("the server closed the publisher's connection"),
                    Opcode::Text | Opcode::Binary => {
                        if let crate::events::Event::Error(refusal) = crate::events::read(header.opcode == Opcode::Text, payload) {
                            let text = refusal.text;
                            bail!("the server did not take a message ({text}); a Campanile needs --allow-client-publish");
                        }
                    }
                    Opcode::Continuation | Opcode::Pong => {}
                }
            }
            self.incoming.drain(..taken);
        }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let mut written = 0;
        let mut moved = Instant::now();
        loop {
            let is_taken = written == self.outgoing.len();
            // Over TLS, what was taken may still have to go.
            let result = if is_taken { self.stream.flush().map(|()| 0) } else { self.stream.write(&self.outgoing[written..]) };
            match result {
                Ok(_) if is_taken => break,
                Ok(count) => {
                    written += count;
                    moved = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && moved.elapsed() > TIMEOUT => {
                    bail!("the server has read nothing from the publisher for {} s", TIMEOUT.as_secs());
                }
                // The server may wait for us to read before it reads.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_micros(200));
                    let held = std::mem::take(&mut self.outgoing);
                    self.drain()?;
                    let pongs = std::mem::replace(&mut self.outgoing, held);
                    self.outgoing.extend(pongs);
                }
                Err(error) => return Err(error).context("the publisher's connection broke"),
            }
        }
        self.outgoing.clear();
        Ok(())
    }
}

impl Route for ClientRoute {
    fn publish(&mut self, messages: &[Message]) -> anyhow::Result<()> {
        for message in messages {
            let text = self
                .template
                .replace("{channel}", &self.target.channels.name(message.channel))
                .replace("{payload}", std::str::from_utf8(&message.payload)?);
            self.outgoing.extend(target::frame(Opcode::Text, text.as_bytes()));
        }
        self.flush()?;
        self.idle()
    }

    /// A publisher that says nothing for long still answers pings.
    fn idle(&mut self) -> anyhow::Result<()> {
        self.drain()?;
        self.flush()
    }
}

/// A connection on which nothing was said. Says what is wrong if there is none.
pub fn dial(target: &Target) -> anyhow::Result<Stream> {
    let address = target.address;
    let socket = TcpStream::connect_timeout(&address, TIMEOUT)
        .with_context(|| format!("nothing answers at {address}: is the server running, is --url right? (connect)"))?;
    socket.set_nodelay(true)?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    let stream = match &target.tls {
        None => Stream::plain(socket),
        Some(tls) => Stream::over_tls(socket, tls, TIMEOUT).map_err(|error| match complaint(&error) {
            Some(complaint) => anyhow::anyhow!("{address} {complaint}"),
            None => anyhow::anyhow!("{address} cannot be reached over TLS: {error}"),
        })?,
    };
    stream.socket().set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// A connection that has been answered 101, and what came after the answer's head. Says what is wrong if there is none.
pub fn open(target: &Target, request: &str) -> anyhow::Result<(Stream, Vec<u8>)> {
    let address = target.address;
    let mut stream = dial(target)?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    let length = loop {
        if let Some(at) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut buffer) {
            Ok(0) if answer.is_empty() => bail!("{address} closed the connection without an answer to the upgrade: is it an HTTP port?"),
            Ok(0) => bail!("{address} broke off in its answer to the upgrade: {}", summary(&answer)),
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("{address} accepted the connection, but did not answer the upgrade within {} s", TIMEOUT.as_secs())
            }
            Err(error) => match complaint(&error) {
                Some(complaint) => bail!("{address} {complaint}"),
                None => return Err(error).with_context(|| format!("{address} did not answer the upgrade")),
            },
        }
        if answer.len() > 64 * 1024 {
            bail!("{address} answers the upgrade with an endless head");
        }
    };
    let (head, rest) = answer.split_at(length);
    if !target.is_accepted(head) {
        // The body explains; it comes with the head or right after it.
        let mut all = answer.clone();
        let _ = stream.socket().set_read_timeout(Some(Duration::from_millis(200)));
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            all.extend_from_slice(&buffer[..count]);
            if all.len() > length + 4096 {
                break;
            }
        }
        bail!("{} refused the upgrade: {}", target.url(), summary(&all));
    }
    Ok((stream, rest.to_vec()))
}
