//! An HTTP agent that reaches a server by its unix socket, or by a URL that may be one of TLS: ureq with another way to connect.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use ureq::config::Config;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};
use ureq::{Agent, Error};

use crate::client::endpoint::Endpoint;
use crate::client::stream::Stream;

#[derive(Debug)]
pub enum Way {
    Unix(PathBuf),
    Url(Endpoint),
}

/// Whatever host a URL names, this place is asked.
pub fn agent(config: Config, way: Way, timeout: Duration) -> Agent {
    Agent::with_parts(config, StreamConnector { way, timeout }, DefaultResolver::default())
}

#[derive(Debug)]
struct StreamConnector {
    way: Way,
    /// Of each read and write.
    timeout: Duration,
}

impl Connector for StreamConnector {
    type Out = StreamTransport;

    fn connect(&self, details: &ConnectionDetails, _chained: Option<()>) -> Result<Option<StreamTransport>, Error> {
        let stream = match &self.way {
            Way::Unix(path) => {
                // What is read, written and shut is the same.
                let socket = TcpStream::from(OwnedFd::from(UnixStream::connect(path)?));
                socket.set_read_timeout(Some(self.timeout))?;
                socket.set_write_timeout(Some(self.timeout))?;
                Stream::plain(socket)
            }
            Way::Url(endpoint) => endpoint.dial(self.timeout).map_err(|why| Error::Io(io::Error::other(why)))?,
        };
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(StreamTransport { stream, buffers }))
    }
}

struct StreamTransport {
    stream: Stream,
    buffers: LazyBuffers,
}

impl std::fmt::Debug for StreamTransport {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stream.fmt(out)
    }
}

impl Transport for StreamTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _timeout: NextTimeout) -> Result<(), Error> {
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(self.stream.flush()?)
    }

    fn await_input(&mut self, _timeout: NextTimeout) -> Result<bool, Error> {
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    /// Nothing may have come that was not asked for, nor the end.
    fn is_open(&mut self) -> bool {
        let waiting = |stream: &mut Stream| {
            stream.socket().set_nonblocking(true)?;
            let read = stream.read(&mut [0]);
            stream.socket().set_nonblocking(false)?;
            read
        };
        waiting(&mut self.stream).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}
