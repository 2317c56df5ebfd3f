//! `X-Forwarded-For`: where a request came from, as the proxies on its way wrote it down.
//!
//! Each proxy appends whom it heard the request from. What a client has written itself stands before that, so the list is read from its end, and
//! only as far as those who wrote it are believed.

use core::net::{IpAddr, SocketAddr};
use core::str::FromStr;

use super::head::Fields;

/// The last address of the list that is no trusted proxy; that of the first proxy if all are. None: the last word is missing or no address, as
/// `unknown`. The request itself must have come from a trusted proxy.
pub fn forwarded_for(fields: &Fields<'_>, is_trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    // A list may be spread over several fields: the last of them is its end.
    let mut found = None;
    let values: smallvec::SmallVec<[&[u8]; 4]> = fields.values("x-forwarded-for").collect();
    for element in values.iter().rev().flat_map(|value| value.rsplit(|&byte| byte == b',')) {
        let Some(ip) = address(element.trim_ascii()) else { break };
        found = Some(ip);
        if !is_trusted(ip) {
            break;
        }
    }
    found
}

/// An address as proxies write it, some with a port.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = core::str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let ip = IpAddr::from_str(bare).ok().or_else(|| SocketAddr::from_str(text).ok().map(|address| address.ip()))?;
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http::head::{FieldRoom, Head};

    /// What is made of these lists, where 10.0.0.0/8 is trusted.
    fn read(lists: &[&str]) -> Option<String> {
        let fields: String = lists.iter().map(|list| format!("X-Forwarded-For: {list}\r\n")).collect();
        let head = format!("GET /ws HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let mut room = FieldRoom::empty();
        let head = Head::read(head.as_bytes(), &mut room, 8192).unwrap().unwrap();
        forwarded_for(&head.fields, |ip| matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 10)).map(|ip| ip.to_string())
    }

    #[test]
    fn the_last_that_is_no_proxy_counts() {
        for (lists, found) in [
            (&["192.0.2.1"][..], Some("192.0.2.1")),
            (&["192.0.2.1, 10.0.0.1"], Some("192.0.2.1")),
            (&["6.6.6.6, 192.0.2.1, 10.0.0.1,10.0.0.2"], Some("192.0.2.1")),
            (&["6.6.6.6", "192.0.2.1", "10.0.0.1"], Some("192.0.2.1")),
            (&["10.0.0.3, 10.0.0.1"], Some("10.0.0.3")),
            (&["2001:db8::1, 10.0.0.1"], Some("2001:db8::1")),
            (&["[2001:db8::1]:4711"], Some("2001:db8::1")),
            (&["[2001:db8::1]"], Some("2001:db8::1")),
            (&["192.0.2.1:4711"], Some("192.0.2.1")),
            (&["::ffff:192.0.2.1"], Some("192.0.2.1")),
            (&["6.6.6.6, unknown, 10.0.0.1"], Some("10.0.0.1")),
            (&["6.6.6.6, unknown"], None),
            (&["6.6.6.6,"], None),
            (&["6.6.6.6", ""], None),
            (&[""], None),
            (&["\u{ff}"], None),
            (&["192.0.2.1.example"], None),
            (&[], None),
        ] {
            assert_eq!(read(lists).as_deref(), found, "{lists:?}");
        }
    }
}
