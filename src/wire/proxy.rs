//! The PROXY protocol (haproxy.org, proxy-protocol.txt, versions 1 and 2): what a proxy says ahead of a connection about who is behind it.
//!
//! Called by a shard with what a new socket of a listener marked for it has sent so far, again from the start after each read until the outcome
//! is not `Partial`; the shard bounds the time, [`BYTES_MAX`] the bytes. Invariants, as for [`super::http`]: nothing is kept between calls, and an
//! outcome does not change when more bytes follow.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::str::FromStr;

#[cfg(test)]
mod tests;

/// The longest header of version 1, with its CRLF: so the specification has it.
pub const V1_BYTES_MAX: usize = 107;
/// The longest of version 2: the fixed part and the 520 bytes that the specification has every receiver take.
pub const BYTES_MAX: usize = FIXED_BYTES + 520;

const V1_PREFIX: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const FIXED_BYTES: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// More bytes are needed.
    Partial,
    /// A valid header of so many bytes; what follows is the connection's.
    Header { bytes: usize, client: Client },
    /// The connection must be closed.
    Refuse(Fault),
}

/// Who is behind the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// The proxy speaks for itself (a health check), or does not know: the connection's own address counts.
    Itself,
    Ip(SocketAddr),
    /// Somebody on the proxy's host, by a unix socket.
    Unix,
}

/// Why the bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// They begin otherwise: the peer sends none.
    Missing,
    /// Version 1, without its CRLF within [`V1_BYTES_MAX`].
    V1TooLong,
    /// Version 1, in words that the specification does not have.
    V1Malformed,
    /// Version 2 that announces more than [`BYTES_MAX`].
    V2TooLong,
    /// Another version, command, family or transport.
    V2Unknown,
    /// The addresses or a TLV do not fit what is announced.
    V2Malformed,
    /// The checksum is not that of the bytes.
    V2Checksum,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Fault::Missing => "there is none",
            Fault::V1TooLong => "its line does not end within 107 bytes",
            Fault::V1Malformed => "its line is not as version 1 has it",
            Fault::V2TooLong => "it is longer than 536 bytes",
            Fault::V2Unknown => "its version, command, family or transport is not known",
            Fault::V2Malformed => "its addresses or TLVs do not fit its length",
            Fault::V2Checksum => "its CRC32c is wrong",
        })
    }
}

/// Reads a header from the start of what the peer has sent.
pub fn parse(bytes: &[u8]) -> Outcome {
    let outcome = if begins(bytes, V2_SIGNATURE) {
        v2(bytes)
    } else if begins(bytes, V1_PREFIX) {
        v1(bytes)
    } else {
        Err(Fault::Missing)
    };
    outcome.map_or_else(Outcome::Refuse, |header| header.map_or(Outcome::Partial, |(bytes, client)| Outcome::Header { bytes, client }))
}

/// Whether something that is no request is such a header: where none is expected, the answer can say so. Nothing else begins like these.
pub fn is_preamble(bytes: &[u8]) -> bool {
    bytes.starts_with(V1_PREFIX) || bytes.starts_with(&V2_SIGNATURE[..5])
}

/// As far as there are bytes.
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    let length = bytes.len().min(with.len());
    bytes[..length] == with[..length]
}

/// The header's length and what it says; None: more bytes are needed.
type Read = Result<Option<(usize, Client)>, Fault>;

fn v1(bytes: &[u8]) -> Read {
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if window.len() < V1_BYTES_MAX { Ok(None) } else { Err(Fault::V1TooLong) };
    };
    let line = window.get(V1_PREFIX.len()..end).ok_or(Fault::V1Malformed)?;
    v1_line(line).map(|client| Some((end + 2, client))).ok_or(Fault::V1Malformed)
}

/// What stands behind `PROXY `.
fn v1_line(line: &[u8]) -> Option<Client> {
    if let Some(rest) = line.strip_prefix(b"UNKNOWN") {
        // Whatever stands there is passed over.
        return (rest.is_empty() || rest[0] == b' ').then_some(Client::Itself);
    }
    let mut words = core::str::from_utf8(line).ok()?.split(' ');
    let mut next = || words.next();
    let (family, from, to, from_port, to_port) = (next()?, next()?, next()?, next()?, next()?);
    let ports = (port(from_port)?, port(to_port)?);
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => Ipv4Addr::from_str(text).ok().map(IpAddr::V4),
            "TCP6" => Ipv6Addr::from_str(text).ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (ip, _) = (address(from)?, address(to)?);
    next().is_none().then_some(Client::Ip(SocketAddr::new(ip, ports.0)))
}

/// Digits without a sign or a leading zero.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

fn v2(bytes: &[u8]) -> Read {
    const PROXY: u8 = 0x21;
    const LOCAL: u8 = 0x20;
    let Some((&[command, kind, high, low], _)) = bytes.get(V2_SIGNATURE.len()..).and_then(|rest| rest.split_first_chunk()) else {
        // What is wrong already need not be waited for.
        let command = bytes.get(V2_SIGNATURE.len());
        return if command.is_none_or(|command| matches!(*command, PROXY | LOCAL)) { Ok(None) } else { Err(Fault::V2Unknown) };
    };
    if !matches!(command, PROXY | LOCAL) {
        return Err(Fault::V2Unknown);
    }
    let end = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if end > BYTES_MAX {
        return Err(Fault::V2TooLong);
    }
    // LOCAL says nothing, whatever family and addresses come with it.
    let address_bytes = match (command, kind) {
        (LOCAL, _) | (_, 0x00) => 0,
        (_, 0x11 | 0x12) => 12,
        (_, 0x21 | 0x22) => 36,
        (_, 0x31 | 0x32) => 216,
        _ => return Err(Fault::V2Unknown),
    };
    if FIXED_BYTES + address_bytes > end {
        return Err(Fault::V2Malformed);
    }
    let Some(header) = bytes.get(..end) else { return Ok(None) };
    if command == LOCAL {
        return Ok(Some((end, Client::Itself)));
    }
    let (addresses, tlvs) = header[FIXED_BYTES..].split_at(address_bytes);
    check_tlvs(header, tlvs)?;
    let client = match addresses {
        [] => Client::Itself,
        [a, b, c, d, _, _, _, _, port @ ..] if addresses.len() == 12 => {
            Client::Ip(SocketAddr::new(Ipv4Addr::new(*a, *b, *c, *d).into(), first_port(port)))
        }
        _ if addresses.len() == 36 => {
            let ip: [u8; 16] = *addresses.first_chunk().expect("36 bytes");
            Client::Ip(SocketAddr::new(Ipv6Addr::from(ip).into(), first_port(&addresses[32..])))
        }
        _ => Client::Unix,
    };
    Ok(Some((end, client)))
}

fn first_port(ports: &[u8]) -> u16 {
    u16::from_be_bytes([ports[0], ports[1]])
}

/// Walks the TLVs, which are passed over but for the checksum.
fn check_tlvs(header: &[u8], tlvs: &[u8]) -> Result<(), Fault> {
    const CRC32C: u8 = 0x03;
    let mut rest = tlvs;
    let mut checksum = None;
    while let [kind, high, low, value @ ..] = rest {
        let (value, after) = value.split_at_checked(usize::from(u16::from_be_bytes([*high, *low]))).ok_or(Fault::V2Malformed)?;
        if *kind == CRC32C {
            let said = u32::from_be_bytes(value.try_into().map_err(|_| Fault::V2Malformed)?);
            if checksum.replace((said, header.len() - after.len() - value.len())).is_some() {
                return Err(Fault::V2Malformed);
            }
        }
        rest = after;
    }
    if !rest.is_empty() {
        return Err(Fault::V2Malformed);
    }
    match checksum {
        Some((said, at)) if crc32c(&header[..at], &[0; 4], &header[at + 4..]) != said => Err(Fault::V2Checksum),
        _ => Ok(()),
    }
}

/// CRC32c (Castagnoli, RFC 3720, 12.1), as the checksum of a header is: over all of it, with its own bytes as zeros.
fn crc32c(before: &[u8], own: &[u8; 4], after: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| CRC32C_TABLE[((crc ^ u32::from(*byte)) & 0xFF) as usize] ^ (crc >> 8);
    !before.iter().chain(own).chain(after).fold(!0, step)
}

const CRC32C_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0x82F6_3B78 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};
