//! What a listener is ([`Listener`]), which networks its address stands for, and sockets to listen on it. The settings hold listeners, [`crate::server`]
//! and [`crate::systemd`] hand them to the shards ([`Entrance`]), and [`crate::shard::sockets`] accepts from them. The control port is read and bound
//! here as well.
//!
//! Invariant: both ports read an address in the same way, whatever the host's net.ipv6.bindv6only says: `[::]` takes IPv4 as well,
//! unless `0.0.0.0` with the same port is listed beside it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{OwnedFd, RawFd};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait for the control port: scrapers and probes are few.
const CONTROL_BACKLOG: i32 = 128;

/// One way in for clients, from the setting to the accept. What a listener speaks between TCP and HTTP (a PROXY header, TLS) is said here, so that
/// whoever takes a connection from it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// A port 0 becomes the one that was bound.
    pub address: SocketAddr,
    /// No IPv4 comes in. Of `[::]` that depends on what is listed beside it ([`add`]).
    pub is_ipv6_alone: bool,
}

impl Listener {
    /// By itself, without others beside it.
    pub const fn new(address: SocketAddr) -> Listener {
        Listener { address, is_ipv6_alone: address.is_ipv6() && !address.ip().is_unspecified() }
    }

    /// What a client types.
    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    /// What the address stands for, where it is more than one: to be shown behind it.
    pub fn networks(&self) -> Option<&'static str> {
        match self.address.ip() {
            ip if !ip.is_unspecified() => None,
            IpAddr::V4(_) => Some("every IPv4 address of this host"),
            IpAddr::V6(_) if self.is_ipv6_alone => Some("every IPv6 address of this host"),
            IpAddr::V6(_) => Some("every address of this host, IPv4 and IPv6"),
        }
    }

    /// As it is reached from this host. By IPv4 where it is taken: `[::]` can be listened on where IPv6 is switched off.
    pub fn reachable(&self) -> Listener {
        let ip = match self.address.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V6(_) if self.is_ipv6_alone => IpAddr::V6(Ipv6Addr::LOCALHOST),
            _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        Listener { address: SocketAddr::new(ip, self.address.port()), ..self.clone() }
    }

    /// Whether the kernel would refuse the second of the two. Port 0 is a free port each time.
    pub fn collides_with(&self, other: &Listener) -> bool {
        let (a, b) = (self.address, other.address);
        let covers = |one: &Listener, other: SocketAddr| {
            one.address.ip().is_unspecified() && (one.address.is_ipv4() == other.is_ipv4() || one.address.is_ipv6() && !one.is_ipv6_alone)
        };
        a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || covers(self, b) || covers(other, a))
    }

    /// A socket with all that decides which other sockets may have the same address, but for SO_REUSEPORT.
    pub fn unbound(&self) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM.nonblocking(), Some(Protocol::TCP))
            .map_err(|error| self.explain(&error))?;
        socket.set_reuse_address(true)?;
        if self.address.is_ipv6() {
            socket.set_only_v6(self.is_ipv6_alone).map_err(|error| self.explain(&error))?;
        }
        Ok(socket)
    }

    /// With what an operator can do about it.
    pub fn explain(&self, error: &io::Error) -> io::Error {
        let address = self.address;
        let port = address.port();
        let why = match error.raw_os_error() {
            Some(libc::EADDRINUSE) => {
                format!("the port is in use; stop the other server or choose another port (ss -ltnp 'sport = :{port}')")
            }
            Some(libc::EACCES) => {
                format!("not permitted; ports below 1024 need CAP_NET_BIND_SERVICE, or choose a port above ({error})")
            }
            Some(libc::EADDRNOTAVAIL) => format!("this host does not have the address {}; see `ip address`", address.ip()),
            Some(libc::EAFNOSUPPORT) if address.is_ipv6() => {
                format!("there is no IPv6 on this host; 0.0.0.0:{port} is every IPv4 address ({error})")
            }
            _ => error.to_string(),
        };
        io::Error::new(error.kind(), format!("cannot listen on {address}: {why}"))
    }
}

/// As an entry of the setting.
impl fmt::Display for Listener {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(out)
    }
}

/// Puts one beside those that are listed. `[::]` leaves IPv4 to a `0.0.0.0` with its port, whichever comes first.
pub fn add(listed: &mut Vec<Listener>, listener: Listener) {
    listed.push(listener);
    let every_ipv4: Vec<u16> = listed
        .iter()
        .map(|listener| listener.address)
        .filter(|address| address.ip() == Ipv4Addr::UNSPECIFIED)
        .map(|address| address.port())
        .collect();
    for listener in listed.iter_mut().filter(|listener| listener.address.ip() == Ipv6Addr::UNSPECIFIED) {
        // Port 0 is another port each time.
        listener.is_ipv6_alone = listener.address.port() != 0 && every_ipv4.contains(&listener.address.port());
    }
}

/// Whether these can be listened on by this process alone. The shards' own listeners share their addresses, so that a second server of
/// the same user would silently get half of the connections of the first.
pub fn check_unused(listeners: &[Listener]) -> io::Result<()> {
    for listener in listeners {
        listener.unbound()?.bind(&listener.address.into()).map_err(|error| listener.explain(&error))?;
    }
    Ok(())
}

/// The control port's socket.
pub fn control(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = Listener::new(address);
    let socket = listener.unbound()?;
    socket.bind(&address.into()).and_then(|()| socket.listen(CONTROL_BACKLOG)).map_err(|error| listener.explain(&error))?;
    Ok(socket.into())
}

/// A listener for one shard, and where its socket comes from.
#[derive(Debug)]
pub struct Entrance {
    pub listener: Listener,
    pub socket: Opening,
}

#[derive(Debug)]
pub enum Opening {
    /// The shard binds one of its own, beside those of the other shards.
    Bind,
    /// Somebody else has, and other shards may accept from it as well.
    Given { socket: Handed, is_shared: bool },
}

#[derive(Debug)]
pub enum Handed {
    /// In the descriptor table that all share, a descriptor of the shard's own.
    Owned(OwnedFd),
    /// The number it will have in the shard's copy of the table.
    Inherited(RawFd),
}

/// Listed one after the other.
#[cfg(test)]
pub fn listed(texts: &[&str]) -> Vec<Listener> {
    let mut listed = Vec::new();
    texts.iter().for_each(|text| add(&mut listed, Listener::new(text.parse().unwrap())));
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_takes_ipv4_too_unless_it_is_listed() {
        let alone = |texts: &[&str]| listed(texts).iter().map(|listener| listener.is_ipv6_alone).collect::<Vec<_>>();
        assert_eq!(alone(&["[::]:8080"]), [false]);
        assert_eq!(alone(&["0.0.0.0:8080", "[::]:8080"]), [false, true]);
        assert_eq!(alone(&["[::]:8080", "0.0.0.0:8080"]), [true, false], "whichever comes first");
        assert_eq!(alone(&["0.0.0.0:81", "[::]:8080", "127.0.0.1:8080"]), [false; 3]);
        assert_eq!(alone(&["[::1]:8080", "0.0.0.0:0", "[::]:0"]), [true, false, false]);
        let reachable = |texts: &[&str]| listed(texts)[0].reachable().url();
        assert_eq!(reachable(&["[::]:8080"]), "ws://127.0.0.1:8080/ws");
        assert_eq!(reachable(&["[::]:8080", "0.0.0.0:8080"]), "ws://[::1]:8080/ws");
        assert_eq!(listed(&["[::]:8080"])[0].networks(), Some("every address of this host, IPv4 and IPv6"));
    }

    /// Held against the kernel: what it refuses, and nothing else.
    #[test]
    fn what_collides_is_what_the_kernel_refuses() {
        let texts = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "[::1]", "[::]"];
        // Below the ports that the kernel gives to connections, so that nobody else gets one in between.
        let mut ports = (std::process::id() * 64..)
            .map(|number| 10_000 + number % 20_000)
            .filter(|port| TcpListener::bind(("0.0.0.0", *port as u16)).is_ok() && TcpListener::bind(("::", *port as u16)).is_ok());
        for first in texts {
            for second in texts {
                let port = ports.next().unwrap();
                let listed = listed(&[first, second].map(|ip| format!("{ip}:{port}")).each_ref().map(String::as_str));
                let said = listed[0].collides_with(&listed[1]);
                let open = |listener: &Listener| {
                    let socket = listener.unbound()?;
                    socket.bind(&listener.address.into())?;
                    socket.listen(1)?;
                    Ok::<Socket, io::Error>(socket)
                };
                let _first = open(&listed[0]).unwrap();
                assert_eq!(open(&listed[1]).is_err(), said, "{} {}", listed[0], listed[1]);
            }
        }
    }
}
