//! Which master has which slots, and who its replicas are, as a node of a Cluster tells it (`CLUSTER SLOTS`). Depends on the answer alone.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use redis::Value;

use crate::bus::redis::awaiting::Asked;
use crate::bus::redis::discovery::{Heard, Question};
use crate::bus::redis::fault::{Fault, with_advice};
use crate::bus::redis::keys::SLOTS;
use crate::bus::redis::link::{Answer, Link};
use crate::bus::redis::target::Target;
use crate::clock::MonotonicNs;
use crate::limits::redis::cluster::ASK_AGAIN;

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

impl Node {
    /// `host:port`, as MOVED and ASK have it. None: it does not say where it is.
    pub fn read(text: &str) -> Option<Node> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().ok().filter(|&port| port > 0)?;
        (!host.is_empty() && host != "?").then(|| Node { host: host.to_owned(), port })
    }

    /// An entry of `CLUSTER SLOTS`.
    fn told(value: &Value, spoken_to: &str) -> Option<Node> {
        let Value::Array(parts) = value else { return None };
        let [host, Value::Int(port), ..] = parts.as_slice() else { return None };
        let host = match host {
            Value::BulkString(host) => std::str::from_utf8(host).ok()?,
            Value::SimpleString(host) => host,
            Value::Nil => "",
            _ => return None,
        };
        let host = if host.is_empty() || host == "?" { spoken_to } else { host };
        Some(Node { host: host.to_owned(), port: u16::try_from(*port).ok().filter(|&port| port > 0)? })
    }
}

/// The masters that have slots, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    pub masters: Vec<Master>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    pub node: Node,
    pub slots: Vec<RangeInclusive<u16>>,
    /// Those that are up, as far as the node knows that was asked.
    pub replicas: Vec<Node>,
}

impl Map {
    /// Whether the masters are the same, with the same slots.
    pub fn is_divided_as(&self, other: &Map) -> bool {
        let parts = |map: &Map| map.masters.iter().map(|master| (master.node.clone(), master.slots.clone())).collect::<Vec<_>>();
        parts(self) == parts(other)
    }

    /// `spoken_to`: the host whose answer it is. A node that does not know its own address, or is told to keep it to itself, leaves it out. None: it is no such
    /// answer.
    pub fn read(value: &Value, spoken_to: &str) -> Option<Map> {
        let Value::Array(ranges) = value else { return None };
        let mut masters: Vec<Master> = Vec::new();
        for range in ranges {
            let Value::Array(parts) = range else { return None };
            let [Value::Int(first), Value::Int(last), master, others @ ..] = parts.as_slice() else { return None };
            let slot = |number: i64| u16::try_from(number).ok().filter(|&slot| slot < SLOTS);
            let slots = slot(*first)?..=slot(*last)?;
            let node = Node::told(master, spoken_to)?;
            // Nobody depends on a replica: one that cannot be understood is none.
            let replicas: Vec<Node> = others.iter().filter_map(|other| Node::told(other, spoken_to)).collect();
            match masters.iter_mut().find(|master| master.node == node) {
                Some(master) => master.slots.push(slots),
                None => masters.push(Master { node, slots: vec![slots], replicas }),
            }
        }
        (!masters.is_empty()).then_some(Map { masters })
    }
}

/// What a node of a Cluster is asked.
#[derive(Debug)]
pub struct WhoHasWhat;

impl Question for WhoHasWhat {
    type News = Map;

    const EVERY: Duration = ASK_AGAIN;
    const WHAT: &str = "the map of the Cluster";

    fn ask(&mut self, link: &mut Link, now: MonotonicNs) {
        link.ask(Asked::Slots, &[b"CLUSTER", b"SLOTS"], now);
    }

    fn take(&mut self, answer: &Answer<'_>, target: &Target) -> Result<Heard<Map>, Fault> {
        match answer {
            Answer::Topology { value } => match Map::read(value, target.host()) {
                Some(map) => Ok(Heard::News(map)),
                None => Err(Fault::new("it knows of no master that has slots: is it a part of the Cluster?")),
            },
            Answer::Refused { asked: Asked::Slots, error } => Err(Fault::new(with_advice(error))),
            _ => Ok(Heard::Nothing),
        }
    }

    fn others(map: &Map) -> Vec<Node> {
        map.masters.iter().map(|master| master.node.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Map> {
        Map::read(&redis::parse_redis_value(text.replace(' ', "\r\n").as_bytes()).unwrap(), "asked")
    }

    #[test]
    fn ranges_are_gathered_by_their_master() {
        let id = "$2 id *0";
        let text = format!(
            "*3 *4 :0 :3299 *4 $9 127.0.0.1 :7001 {id} *4 $9 127.0.0.1 :7004 {id} *3 :3300 :3300 *4 $9 127.0.0.1 :7002 {id} *3 :3301 :16383 *4 $9 127.0.0.1 :7001 {id} "
        );
        let node = |port| Node { host: "127.0.0.1".to_owned(), port };
        let master = |port, slots: &[RangeInclusive<u16>]| Master {
            node: node(port),
            slots: slots.to_vec(),
            replicas: if port == 7001 { vec![node(7004)] } else { Vec::new() },
        };
        assert_eq!(read(&text), Some(Map { masters: vec![master(7001, &[0..=3299, 3301..=16383]), master(7002, &[3300..=3300])] }));
    }

    #[test]
    fn a_host_that_is_left_out_is_the_one_that_was_asked() {
        for host in ["$0 ", "$-1", "$1 ?"] {
            let map = read(&format!("*1 *3 :0 :1 *3 {host} :7001 $2 id ")).unwrap();
            assert_eq!(map.masters[0].node.to_string(), "asked:7001", "{host}");
        }
        assert_eq!(Node::read("[::1]:7001").unwrap().to_string(), "[::1]:7001");
        assert_eq!(Node::read("::1:7001").unwrap().to_string(), "[::1]:7001");
        for text in ["", ":7001", "?:7001", "h", "h:", "h:0", "h:x", "h:70000"] {
            assert_eq!(Node::read(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_map_is_none() {
        for text in [
            "*0 ",
            ":1 ",
            "*1 :1 ",
            "*1 *2 :0 :1 ",
            "*1 *3 :0 :16384 *2 $1 h :1 ",
            "*1 *3 :-1 :5 *2 $1 h :1 ",
            "*1 *3 :0 :5 *2 $1 h :0 ",
            "*1 *3 :0 :5 *2 :7 :1 ",
            "*1 *3 :0 :5 *1 $1 h ",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
