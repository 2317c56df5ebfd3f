//! Which networks an address stands for, and sockets to listen on it. Called by [`crate::shard::sockets`] (a listener for each shard) and
//! [`crate::server`] (the control port), and by whoever tells where the server is reached.
//!
//! Invariant: both ports read an address in the same way, whatever the host's net.ipv6.bindv6only says: `[::]` takes IPv4 as well,
//! unless `0.0.0.0` with the same port is listed beside it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait for the control port: scrapers and probes are few.
const CONTROL_BACKLOG: i32 = 128;

/// Whether no IPv4 comes in through an IPv6 address that is one of `listed`.
pub fn is_ipv6_alone(address: SocketAddr, listed: &[SocketAddr]) -> bool {
    // Port 0 is another port each time.
    let is_beside =
        |other: &SocketAddr| other.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED) && other.port() == address.port() && other.port() != 0;
    address.is_ipv6() && (!address.ip().is_unspecified() || listed.iter().any(is_beside))
}

/// Whether the kernel would refuse the second of two listeners, each with the list that it stands in. Port 0 is a free port each time.
pub fn collide((a, a_listed): (SocketAddr, &[SocketAddr]), (b, b_listed): (SocketAddr, &[SocketAddr])) -> bool {
    let covers = |one: SocketAddr, listed: &[SocketAddr], other: SocketAddr| {
        one.ip().is_unspecified() && (one.is_ipv4() == other.is_ipv4() || one.is_ipv6() && !is_ipv6_alone(one, listed))
    };
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || covers(a, a_listed, b) || covers(b, b_listed, a))
}

/// What an address stands for, where it is more than one: to be shown behind it.
pub fn networks(address: SocketAddr, is_ipv6_alone: bool) -> Option<&'static str> {
    match address.ip() {
        ip if !ip.is_unspecified() => None,
        IpAddr::V4(_) => Some("every IPv4 address of this host"),
        IpAddr::V6(_) if is_ipv6_alone => Some("every IPv6 address of this host"),
        IpAddr::V6(_) => Some("every address of this host, IPv4 and IPv6"),
    }
}

/// Where a listener is reached from this host. IPv4 where it is taken: `[::]` can be listened on where IPv6 is switched off.
pub fn reachable(address: SocketAddr, is_ipv6_alone: bool) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V6(_) if is_ipv6_alone => IpAddr::V6(Ipv6Addr::LOCALHOST),
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    SocketAddr::new(ip, address.port())
}

/// A socket with all that decides which other sockets may have the same address, but for SO_REUSEPORT.
pub fn unbound(address: SocketAddr, listed: &[SocketAddr]) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))
        .map_err(|error| explain(&error, address))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(is_ipv6_alone(address, listed)).map_err(|error| explain(&error, address))?;
    }
    Ok(socket)
}

/// Whether these addresses can be listened on by this process alone. The shards' own listeners share theirs, so that a second server of
/// the same user would silently get half of the connections of the first.
pub fn check_unused(addresses: &[SocketAddr]) -> io::Result<()> {
    for &address in addresses {
        unbound(address, addresses)?.bind(&address.into()).map_err(|error| explain(&error, address))?;
    }
    Ok(())
}

/// The control port's listener.
pub fn control(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = unbound(address, &[])?;
    socket.bind(&address.into()).and_then(|()| socket.listen(CONTROL_BACKLOG)).map_err(|error| explain(&error, address))?;
    Ok(socket.into())
}

/// With what an operator can do about it.
pub fn explain(error: &io::Error, address: SocketAddr) -> io::Error {
    let port = address.port();
    let why = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => format!("the port is in use; stop the other server or choose another port (ss -ltnp 'sport = :{port}')"),
        Some(libc::EACCES) => format!("not permitted; ports below 1024 need CAP_NET_BIND_SERVICE, or choose a port above ({error})"),
        Some(libc::EADDRNOTAVAIL) => format!("this host does not have the address {}; see `ip address`", address.ip()),
        Some(libc::EAFNOSUPPORT) if address.is_ipv6() => {
            format!("there is no IPv6 on this host; 0.0.0.0:{port} is every IPv4 address ({error})")
        }
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("cannot listen on {address}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses<const N: usize>(texts: [&str; N]) -> [SocketAddr; N] {
        texts.map(|text| text.parse().unwrap())
    }

    #[test]
    fn every_address_takes_ipv4_too_unless_it_is_listed() {
        let both = addresses(["0.0.0.0:8080", "[::]:8080"]);
        let [_, six] = both;
        assert!(!is_ipv6_alone(six, &[six]) && is_ipv6_alone(six, &both));
        assert!(!is_ipv6_alone(six, &addresses(["0.0.0.0:81", "[::]:8080", "127.0.0.1:8080"])));
        let [one, any] = addresses(["[::1]:8080", "[::]:0"]);
        assert!(is_ipv6_alone(one, &[one]) && !is_ipv6_alone(any, &addresses(["0.0.0.0:0", "[::]:0"])));
        assert_eq!(networks(six, false), Some("every address of this host, IPv4 and IPv6"));
        assert_eq!([reachable(six, false), reachable(six, true)], addresses(["127.0.0.1:8080", "[::1]:8080"]));
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
                let listed = addresses([first, second].map(|ip| format!("{ip}:{port}")).each_ref().map(String::as_str));
                let [a, b] = listed;
                let said = collide((a, &listed), (b, &listed));
                let open = |address: SocketAddr| {
                    let socket = unbound(address, &listed)?;
                    socket.bind(&address.into())?;
                    socket.listen(1)?;
                    Ok::<Socket, io::Error>(socket)
                };
                let _first = open(a).unwrap();
                assert_eq!(open(b).is_err(), said, "{a} {b}");
            }
        }
    }
}
