//! Which servers a URL leads to: itself, the master that Sentinels name, or every master of its Cluster. Blocking; each is connected at once, so that one that is away is told about
//! with the others.

use std::time::Duration;

use redis::{Connection, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, Value};

use crate::bus::redis::role;
use crate::config::redis_url::{self, Watched};
use crate::config::{RedisTls, mask};

/// How long a server may take to answer before it is taken for gone.
const TIMEOUT: Duration = Duration::from_secs(10);

pub struct Server {
    /// As it is shown.
    pub name: String,
    /// Or why it cannot be spoken to.
    pub connection: Result<Connection, String>,
}

/// The servers that have to be seen to. The URL has been checked.
pub fn reached_by(url: &str, files: &RedisTls) -> Vec<Server> {
    if let Some(seeds) = redis_url::seeds(url) {
        // Any node that answers knows of the others.
        let mut found = Vec::new();
        for seed in &seeds {
            let of_seed = reached_by(seed, files);
            if of_seed.iter().any(|server| server.connection.is_ok()) {
                return of_seed;
            }
            found.extend(of_seed);
        }
        return found;
    }
    if let Some(watched) = redis_url::watched(url) {
        return match master_of(&watched, files) {
            Ok(url) => reached_by(&url, files),
            Err(reason) => vec![Server { name: mask::url(url), connection: Err(reason) }],
        };
    }
    if url.starts_with("rediss://") {
        // An error says that the program has one already, which is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
    let alone = |connection| vec![Server { name: mask::url(url), connection }];
    let info = match super::client(url, files) {
        Ok(client) => client.get_connection_info().clone(),
        Err(error) => return alone(Err(reason(&error))),
    };
    let mut connection = match connect(&info) {
        Ok(connection) => connection,
        Err(reason) => return alone(Err(reason)),
    };
    match mode(&mut connection).as_deref() {
        Some("sentinel") => alone(Err(
            "this is a Sentinel, which keeps no functions: the URL of what it watches is redis+sentinel://HOST:PORT/SERVICE".to_owned(),
        )),
        Some("cluster") => match redis::cmd("CLUSTER").arg("NODES").query::<String>(&mut connection) {
            Ok(nodes) => masters(&nodes).into_iter().map(|address| server(&info, address)).collect(),
            Err(error) => alone(Err(format!("CLUSTER NODES, which names the masters: {}", reason(&error)))),
        },
        _ => alone(Ok(connection)),
    }
}

/// The URL of the master, as the first of the Sentinels says that knows it; and whether that is one.
pub fn master_of(watched: &Watched, files: &RedisTls) -> Result<String, String> {
    let mut reasons = Vec::new();
    for sentinel in &watched.sentinels {
        let asked = connected(sentinel, files).and_then(|mut connection| {
            redis::cmd("SENTINEL")
                .arg("GET-MASTER-ADDR-BY-NAME")
                .arg(&watched.service)
                .query(&mut connection)
                .map_err(|error| reason(&error))
        });
        let why = match asked {
            Ok(Some((host, port))) => {
                let (host, port): (String, u16) = (host, port);
                let host = if host.contains(':') { format!("[{host}]") } else { host };
                let url = redis_url::of_master(&watched.login, &format!("{host}:{port}"));
                match connected(&url, files).and_then(|mut connection| role(&mut connection)) {
                    Ok(()) => return Ok(url),
                    Err(why) => format!("the master that it names, {host}:{port}: {why}"),
                }
            }
            Ok(None) => format!("it knows of no master called {}", watched.service),
            Err(why) => why,
        };
        reasons.push(format!("{}: {why}", mask::url(sentinel)));
    }
    Err(reasons.join("; "))
}

fn role(connection: &mut Connection) -> Result<(), String> {
    // Whoever may not ask is not told.
    let answer: Value = redis::cmd("ROLE").query(connection).unwrap_or(Value::Nil);
    role::no_master(&answer).map_or(Ok(()), Err)
}

fn connected(url: &str, files: &RedisTls) -> Result<Connection, String> {
    if url.starts_with("rediss://") {
        // An error says that the program has one already, which is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
    let client = super::client(url, files).map_err(|error| reason(&error))?;
    connect(client.get_connection_info())
}

fn connect(info: &ConnectionInfo) -> Result<Connection, String> {
    redis::Client::open(info.clone())
        .and_then(|client| client.get_connection_with_timeout(TIMEOUT))
        .and_then(|connection| {
            connection.set_read_timeout(Some(TIMEOUT))?;
            connection.set_write_timeout(Some(TIMEOUT))?;
            Ok(connection)
        })
        .map_err(|error| format!("it cannot be reached ({})", reason(&error)))
}

/// `standalone`, `cluster` or `sentinel`. HELLO is a command that nobody is refused; a server that is older than it has no functions either.
fn mode(connection: &mut Connection) -> Option<String> {
    let answer: Value = redis::cmd("HELLO").query(connection).ok()?;
    let pairs: Vec<(String, Value)> = match answer {
        Value::Map(pairs) => pairs.into_iter().filter_map(|(name, value)| Some((redis::from_redis_value(name).ok()?, value))).collect(),
        Value::Array(items) => {
            items.chunks_exact(2).filter_map(|pair| Some((redis::from_redis_value(pair[0].clone()).ok()?, pair[1].clone()))).collect()
        }
        _ => return None,
    };
    pairs.into_iter().find(|(name, _)| name == "mode").and_then(|(_, value)| redis::from_redis_value(value).ok())
}

/// Where the masters are: those with slots, and those that may be given some. No host: that of whoever was asked.
fn masters(nodes: &str) -> Vec<(Option<String>, u16)> {
    nodes.lines().filter_map(master).collect()
}

/// `ID IP:PORT@BUS[,HOSTNAME][,NAME=VALUE…] FLAGS MASTER PING PONG EPOCH LINK [SLOTS…]`. A master that is gone for good has no slots.
fn master(line: &str) -> Option<(Option<String>, u16)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, place, flags, _, _, _, _, _, slots @ ..] = fields.as_slice() else { return None };
    let has = |flag: &str| flags.split(',').any(|found| found == flag);
    if !has("master") || has("noaddr") || has("handshake") || (has("fail") && slots.is_empty()) {
        return None;
    }
    let (ip, port) = place.split('@').next()?.rsplit_once(':')?;
    // A certificate is more often for the name.
    let hostname = place.split(',').nth(1).filter(|name| !name.is_empty() && !name.contains('='));
    let host = hostname.unwrap_or(ip);
    Some((Some(host.to_owned()).filter(|host| !host.is_empty()), port.parse().ok()?))
}

/// One of the same Cluster, spoken to as the one that named it.
fn server(asked: &ConnectionInfo, (host, port): (Option<String>, u16)) -> Server {
    let (asked_host, scheme) = match asked.addr() {
        ConnectionAddr::Tcp(host, _) => (host.clone(), "redis"),
        ConnectionAddr::TcpTls { host, .. } => (host.clone(), "rediss"),
        _ => ("127.0.0.1".to_owned(), "redis"),
    };
    let host = host.unwrap_or(asked_host);
    let shown_host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let address = match asked.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    };
    Server { name: format!("{scheme}://{shown_host}:{port}"), connection: connect(&asked.clone().set_addr(address)) }
}

/// What the server has answered, as it says it. None: it is no answer.
pub fn error_text(error: &RedisError) -> Option<String> {
    error.code().map(|code| format!("{code} {}", error.detail().unwrap_or_default()).trim_end().to_owned())
}

pub fn reason(error: &RedisError) -> String {
    match error_text(error) {
        Some(text) => text,
        None if error.kind() == ErrorKind::AuthenticationFailed => "it does not take the user and password of the URL".to_owned(),
        None if error.is_timeout() => format!("no answer in {} s", TIMEOUT.as_secs()),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_are_found_among_the_nodes() {
        let nodes = "\
07c3 127.0.0.1:30004@31004,,shard-id=69bc slave e7d1 0 1426238317239 4 connected
67ed 127.0.0.1:30002@31002,host2.example.org master - 0 1426238316232 2 connected 5461-10922
292f ::1:30003@31003 master - 0 1426238318243 3 connected
6ec2 127.0.0.1:30005@31005 master,fail - 0 1426238316232 5 disconnected
8ec2 127.0.0.1:30006@31006 master,fail - 0 1426238316232 5 disconnected 100-200
9ec2 :0@0 master,noaddr - 0 1426238316232 5 disconnected
e7d1 :30001@31001 myself,master - 0 0 1 connected 0-5460 [93-<-292f]

nonsense
";
        let host = |host: &str| Some(host.to_owned());
        assert_eq!(masters(nodes), [(host("host2.example.org"), 30002), (host("::1"), 30003), (host("127.0.0.1"), 30006), (None, 30001)]);
    }
}
