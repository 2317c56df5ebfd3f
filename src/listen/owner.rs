//! Whose program listens at an address of this host, for whoever is about to tell it a secret.

use std::os::unix::fs::MetadataExt;

use super::Address;

/// The state LISTEN in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// The users that listen there; for TCP, at this port, whatever the address.
pub fn of(address: &Address) -> Vec<u32> {
    match address {
        Address::Unix(unix) => std::fs::metadata(&unix.path).map(|file| file.uid()).into_iter().collect(),
        Address::Ip(ip) => {
            let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap_or_default());
            tables.iter().flat_map(|table| listeners(table, ip.port())).collect()
        }
    }
}

fn listeners(table: &str, port: u16) -> impl Iterator<Item = u32> {
    table.lines().skip(1).filter_map(move |line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, local, _, state, _, _, _, user, ..] = fields.as_slice() else { return None };
        let (_, local_port) = local.rsplit_once(':')?;
        let is_meant = *state == LISTENING && u16::from_str_radix(local_port, 16) == Ok(port);
        is_meant.then(|| user.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::listen::unix::UnixPath;

    #[test]
    fn whoever_listens_is_found_and_nobody_else() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:2382 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1\n   \
                     1: 0100007F:2382 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1001        0 2\n   \
                     2: 00000000:2383 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1002        0 3\nodd\n";
        assert_eq!(listeners(table, 0x2382).collect::<Vec<_>>(), [1000]);
        assert_eq!(listeners(table, 1).count(), 0);
        let ours = crate::sys::user_id();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(of(&Address::Ip(listener.local_addr().unwrap())), [ours]);
        let nowhere = Address::Unix(UnixPath::new("/nonexistent/s"));
        assert!(of(&nowhere).is_empty());
    }
}
