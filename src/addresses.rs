//! Where a connection comes from, as far as quotas go by it.

use std::net::{IpAddr, SocketAddr};

/// An IPv4 address, or the /64 network of an IPv6 one: what one customer of a provider has at least, so that nobody is 2^64 sources. Eight
/// bytes that may lie anywhere: every connection has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source([u8; 8]);

impl Source {
    /// What publishers of this server have brought into being.
    pub const PUBLISHERS: Source = Source([0xFF; 8]);

    pub fn of(peer: SocketAddr) -> Source {
        match peer.ip().to_canonical() {
            // ::/32 is nobody's network.
            IpAddr::V4(ip) => Source(u64::from(ip.to_bits()).to_be_bytes()),
            IpAddr::V6(ip) => Source(((ip.to_bits() >> 64) as u64).to_be_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_address_or_a_network() {
        let of = |ip: &str| Source::of(SocketAddr::new(ip.parse().unwrap(), 1));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"), "however the listener writes it");
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8:1:2::3"), of("2001:db8:1:2:4:5:6:7"));
        assert_ne!(of("2001:db8:1:2::3"), of("2001:db8:1:3::3"));
        assert_ne!(of("2001:db8::1"), of("32.1.13.184"));
    }
}
