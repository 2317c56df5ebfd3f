//! Where a connection comes from, as far as quotas go by it, and networks of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// An IPv4 address, or the /64 network of an IPv6 one: what one customer of a provider has at least, so that nobody is 2^64 sources. Eight
/// bytes that may lie anywhere: every connection has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source([u8; 8]);

impl Source {
    /// What publishers of this server have brought into being.
    pub const PUBLISHERS: Source = Source([0xFF; 8]);

    /// Whoever connects by a unix socket and is not named.
    pub const UNIX: Source = Source([0xFE; 8]);

    pub fn of(peer: SocketAddr) -> Source {
        Source::of_ip(peer.ip())
    }

    /// As good as random: for tables of sources.
    pub fn mixed(self) -> u64 {
        let bits = u64::from_be_bytes(self.0);
        (bits ^ bits >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32
    }

    pub fn of_ip(ip: IpAddr) -> Source {
        match ip.to_canonical() {
            // ::/32 is nobody's network.
            IpAddr::V4(ip) => Source(u64::from(ip.to_bits()).to_be_bytes()),
            IpAddr::V6(ip) => Source(((ip.to_bits() >> 64) as u64).to_be_bytes()),
        }
    }
}

/// An IPv4 address, an IPv6 network, or what is no address.
impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u64::from_be_bytes(self.0);
        match (*self, u32::try_from(bits)) {
            (Source::UNIX, _) => out.write_str("unix"),
            (Source::PUBLISHERS, _) => out.write_str("publishers"),
            (_, Ok(ipv4)) => Ipv4Addr::from_bits(ipv4).fmt(out),
            (_, Err(_)) => write!(out, "{}/64", Ipv6Addr::from_bits(u128::from(bits) << 64)),
        }
    }
}

/// A list of networks, in the order in which they were named.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Whether the address, however the listener writes it, lies in one of them.
    pub fn has(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| network.contains(&ip))
    }

    /// False: it is listed already.
    pub fn add(&mut self, network: IpNet) -> bool {
        let is_new = !self.0.contains(&network);
        self.0.extend(is_new.then_some(network));
        is_new
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// As they are typed: an address by itself without its prefix.
    pub fn shown(&self) -> Vec<String> {
        let shown = |network: &IpNet| {
            if network.prefix_len() == network.max_prefix_len() { network.addr().to_string() } else { network.to_string() }
        };
        self.0.iter().map(shown).collect()
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
        let shown = ["::ffff:192.0.2.1", "2001:db8:1:2::3"].map(|ip| of(ip).to_string());
        assert_eq!(shown, ["192.0.2.1", "2001:db8:1:2::/64"]);
        assert_eq!(Source::UNIX.to_string(), "unix");
    }

    #[test]
    fn networks_hold_their_addresses() {
        let mut networks = Networks::default();
        let has = |networks: &Networks, ip: &str| networks.has(ip.parse().unwrap());
        assert!(networks.is_empty() && !has(&networks, "127.0.0.1"));
        for text in ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"] {
            assert!(networks.add(text.parse().unwrap()) && !networks.add(text.parse().unwrap()));
        }
        assert!(has(&networks, "10.255.0.1") && has(&networks, "::ffff:10.0.0.1") && has(&networks, "2001:db8:1::1"));
        assert!(!has(&networks, "11.0.0.1") && !has(&networks, "192.0.2.2") && !has(&networks, "::1"));
        assert_eq!(networks.shown(), ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"]);
    }
}
