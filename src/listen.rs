//! What a listener is ([`Listener`]), which networks its address stands for, and sockets to listen on it. The settings hold listeners, [`crate::server`]
//! and [`crate::systemd`] hand them to the shards ([`Entrance`]), and [`crate::shard::sockets`] accepts from them. The control port is read and bound
//! here as well. [`unix`] are those that are files.
//!
//! Invariant: both ports read an address in the same way, whatever the host's net.ipv6.bindv6only says: `[::]` takes IPv4 as well,
//! unless `0.0.0.0` with the same port is listed beside it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use socket2::{Domain, Protocol, Socket, Type};

use self::unix::{SocketFile, UnixPath};

pub mod owner;
pub mod unix;

/// Connections that may wait for the control port: scrapers and probes are few.
const CONTROL_BACKLOG: i32 = 128;

/// One way in for clients, from the setting to the accept. What a listener speaks between the socket and HTTP is said here, so that whoever takes a
/// connection from it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// A port 0 becomes the one that was bound.
    pub address: Address,
    /// No IPv4 comes in. Of `[::]` that depends on what is listed beside it ([`add`]).
    pub is_ipv6_alone: bool,
    /// Each connection begins with a PROXY header ([`crate::wire::proxy`]).
    pub is_proxied: bool,
    /// TLS is spoken, behind the PROXY header if there is one ([`crate::tls`]).
    pub is_tls: bool,
}

/// Where something is listened on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Ip(SocketAddr),
    Unix(UnixPath),
}

impl Address {
    pub const fn ip(&self) -> Option<SocketAddr> {
        match self {
            Address::Ip(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }

    /// Only programs of this host get there by TCP.
    pub fn is_loopback(&self) -> bool {
        self.ip().is_some_and(|address| address.ip().to_canonical().is_loopback())
    }

    /// Whether there can be only one of the two.
    pub fn is_at(&self, other: &Address) -> bool {
        match (self, other) {
            (Address::Ip(one), Address::Ip(other)) => one == other,
            (Address::Unix(one), Address::Unix(other)) => one.path == other.path,
            (Address::Ip(_), Address::Unix(_)) | (Address::Unix(_), Address::Ip(_)) => false,
        }
    }

    /// For a sentence: without scheme and parameters.
    pub fn place(&self) -> String {
        match self {
            Address::Ip(address) => address.to_string(),
            Address::Unix(unix) => unix.path.display().to_string(),
        }
    }

    /// As it is reached over a protocol; a unix socket by its path.
    pub fn url(&self, scheme: &str) -> String {
        match self {
            Address::Ip(address) => format!("{scheme}://{address}"),
            Address::Unix(unix) => format!("unix://{}", unix.path.display()),
        }
    }
}

/// As it is typed.
impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(out),
            Address::Unix(unix) => unix.fmt(out),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Ip(address)
    }
}

impl Listener {
    /// By itself, without others beside it.
    pub const fn new(address: SocketAddr) -> Listener {
        let is_ipv6_alone = address.is_ipv6() && !address.ip().is_unspecified();
        Listener { address: Address::Ip(address), is_ipv6_alone, is_proxied: false, is_tls: false }
    }

    pub const fn unix(path: UnixPath) -> Listener {
        Listener { address: Address::Unix(path), is_ipv6_alone: false, is_proxied: false, is_tls: false }
    }

    pub fn at(address: Address) -> Listener {
        match address {
            Address::Ip(address) => Listener::new(address),
            Address::Unix(path) => Listener::unix(path),
        }
    }

    /// What a client types.
    pub fn url(&self) -> String {
        match &self.address {
            Address::Ip(address) => format!("{}://{address}/ws", if self.is_tls { "wss" } else { "ws" }),
            Address::Unix(_) => self.address.url(""),
        }
    }

    /// What is to be said behind the address: what it stands for, where it is more than one, and what is spoken there.
    pub fn remarks(&self) -> Option<String> {
        let networks = match self.address.ip().map(|address| address.ip()) {
            Some(ip) if !ip.is_unspecified() => None,
            Some(IpAddr::V4(_)) => Some("every IPv4 address of this host"),
            Some(IpAddr::V6(_)) if self.is_ipv6_alone => Some("every IPv6 address of this host"),
            Some(IpAddr::V6(_)) => Some("every address of this host, IPv4 and IPv6"),
            None => None,
        };
        let remarks: Vec<&str> = networks.into_iter().chain(self.is_proxied.then_some("PROXY protocol")).collect();
        (!remarks.is_empty()).then(|| remarks.join("; "))
    }

    /// As it is reached from this host. By IPv4 where it is taken: `[::]` can be listened on where IPv6 is switched off.
    pub fn reachable(&self) -> Listener {
        let Address::Ip(address) = self.address else { return self.clone() };
        let ip = match address.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V6(_) if self.is_ipv6_alone => IpAddr::V6(Ipv6Addr::LOCALHOST),
            _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        Listener { address: SocketAddr::new(ip, address.port()).into(), ..self.clone() }
    }

    /// Whether a WebSocket client that is told the address gets in, whatever certificates it believes.
    pub fn is_plain(&self) -> bool {
        self.address.ip().is_some() && !self.is_proxied && !self.is_tls
    }

    /// Whether the second of the two would be refused. Port 0 is a free port each time.
    pub fn collides_with(&self, other: &Listener) -> bool {
        let (Some(a), Some(b)) = (self.address.ip(), other.address.ip()) else { return self.address.is_at(&other.address) };
        let covers = |one: SocketAddr, is_alone: bool, other: SocketAddr| {
            one.ip().is_unspecified() && (one.is_ipv4() == other.is_ipv4() || one.is_ipv6() && !is_alone)
        };
        let is_covered = covers(a, self.is_ipv6_alone, b) || covers(b, other.is_ipv6_alone, a);
        a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || is_covered)
    }

    /// A TCP socket with all that decides which other sockets may have the same address, but for SO_REUSEPORT, and its address.
    pub fn unbound(&self) -> io::Result<(Socket, SocketAddr)> {
        let address = self.address.ip().ok_or_else(|| io::Error::other(format!("{self} is not opened by each shard")))?;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))
            .map_err(|error| self.explain(&error))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(self.is_ipv6_alone).map_err(|error| self.explain(&error))?;
        }
        Ok((socket, address))
    }

    /// A socket that listens at this address beside others of the same user that are opened so.
    pub fn shared(&self, backlog: i32) -> io::Result<Socket> {
        let (socket, address) = self.unbound()?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into()).and_then(|()| socket.listen(backlog)).map_err(|error| self.explain(&error))?;
        Ok(socket)
    }

    /// With what an operator can do about it.
    pub fn explain(&self, error: &io::Error) -> io::Error {
        let Address::Ip(address) = self.address else { return io::Error::new(error.kind(), format!("cannot listen on {self}: {error}")) };
        let port = address.port();
        let why = match error.raw_os_error() {
            Some(libc::EADDRINUSE) => {
                format!(
                    "the port is in use; stop the other server, take its place (campanile serve --takeover), or choose another port \
                     (ss -ltnp 'sport = :{port}')"
                )
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
        let proxy = if self.is_proxied { "proxy+" } else { "" };
        match &self.address {
            Address::Ip(address) if self.is_tls => write!(out, "{proxy}tls://{address}"),
            Address::Ip(address) if self.is_proxied => write!(out, "proxy+tcp://{address}"),
            address => write!(out, "{proxy}{address}"),
        }
    }
}

/// Puts one beside those that are listed. `[::]` leaves IPv4 to a `0.0.0.0` with its port, whichever comes first.
pub fn add(listed: &mut Vec<Listener>, listener: Listener) {
    listed.push(listener);
    let every_ipv4: Vec<u16> = listed
        .iter()
        .filter_map(|listener| listener.address.ip())
        .filter(|address| address.ip() == Ipv4Addr::UNSPECIFIED)
        .map(|address| address.port())
        .collect();
    for listener in listed.iter_mut() {
        let Some(address) = listener.address.ip().filter(|address| address.ip() == Ipv6Addr::UNSPECIFIED) else { continue };
        // Port 0 is another port each time.
        listener.is_ipv6_alone = address.port() != 0 && every_ipv4.contains(&address.port());
    }
}

/// Whether these can be listened on by this process alone. The shards' own listeners share their addresses, so that a second server of
/// the same user would silently get half of the connections of the first. Unix sockets are found out by opening them.
pub fn check_unused(listeners: &[Listener]) -> io::Result<()> {
    for listener in listeners.iter().filter(|listener| listener.address.ip().is_some()) {
        let (socket, address) = listener.unbound()?;
        socket.bind(&address.into()).map_err(|error| listener.explain(&error))?;
    }
    Ok(())
}

/// The control port's socket.
#[derive(Debug)]
pub enum ControlSocket {
    Tcp(TcpListener),
    /// The file goes first: whoever finds one where nobody listens takes it away, and must not have its own taken instead.
    Unix(SocketFile, UnixListener),
}

/// Opens the control port; gives its address with the port really bound.
pub fn control(address: &Address) -> io::Result<(ControlSocket, Address)> {
    if let Address::Unix(unix) = address {
        let (socket, file) = unix.listen(CONTROL_BACKLOG)?;
        return Ok((ControlSocket::Unix(file, socket.into()), address.clone()));
    }
    let listener = Listener::at(address.clone());
    let (socket, address) = listener.unbound()?;
    socket.bind(&address.into()).and_then(|()| socket.listen(CONTROL_BACKLOG)).map_err(|error| listener.explain(&error))?;
    let socket = TcpListener::from(socket);
    let address = socket.local_addr()?.into();
    Ok((ControlSocket::Tcp(socket), address))
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
    /// Somebody else has (the service manager; [`crate::server`], a unix socket), and other shards may accept from it as well.
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
        assert_eq!(listed(&["[::]:8080"])[0].remarks().as_deref(), Some("every address of this host, IPv4 and IPv6"));
        let proxied = Listener { is_proxied: true, ..listed(&["0.0.0.0:1"]).remove(0) };
        assert_eq!(proxied.remarks().as_deref(), Some("every IPv4 address of this host; PROXY protocol"));
        assert_eq!(proxied.to_string(), "proxy+tcp://0.0.0.0:1");
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
                    let (socket, address) = listener.unbound()?;
                    socket.bind(&address.into())?;
                    socket.listen(1)?;
                    Ok::<Socket, io::Error>(socket)
                };
                let _first = open(&listed[0]).unwrap();
                assert_eq!(open(&listed[1]).is_err(), said, "{} {}", listed[0], listed[1]);
            }
        }
    }
}
