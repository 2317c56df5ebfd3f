//! Where the master of a service is, as Sentinels say it: asked each second, and at once when they tell of another (`+switch-master`). Owned by
//! [`super::RedisBus`], which makes the [`Server`](super::server::Server) of it, and sends that elsewhere when the master is another.
//!
//! Sentinels do not all learn of a failover at once. Each failover has a number (`config-epoch`); who knows only of an earlier one is not believed.

use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::{Registry, Token, Waker};
use redis::Value;

use super::awaiting::{Asked, Names, Verb};
use super::cluster::map::Node;
use super::discovery::{Discovery, Heard, Question};
use super::fault::{Fault, with_advice};
use super::link::{Answer, Link};
use super::resp::write_command;
use super::target::Target;
use super::timing::Timing;
use crate::clock::MonotonicNs;
use crate::limits::redis::sentinel::ASK_AGAIN;

const SWITCHED: &str = "+switch-master";

/// What a Sentinel is asked.
#[derive(Debug)]
pub struct WhoIsMaster {
    service: String,
    /// Of the last failover that is known of.
    config_epoch: u64,
}

impl Question for WhoIsMaster {
    type News = Node;

    const EVERY: Duration = ASK_AGAIN;
    const WHAT: &str = "where the master is";

    fn begin(&mut self, link: &mut Link, now: MonotonicNs) {
        // Else nothing could be asked any more.
        if link.is_resp3() {
            write_command(link.out(), [b"SUBSCRIBE".as_slice(), SWITCHED.as_bytes()].into_iter());
            link.asked(Asked::Channels(Verb::Subscribe, Names::from([Arc::from(SWITCHED)])), now);
        }
    }

    fn ask(&mut self, link: &mut Link, now: MonotonicNs) {
        link.ask(Asked::Master, &[b"SENTINEL", b"MASTER", self.service.as_bytes()], now);
    }

    fn take(&mut self, answer: &Answer<'_>, _: &Target) -> Result<Heard<Node>, Fault> {
        match answer {
            Answer::Topology { value } => {
                let Some((node, config_epoch)) = master(value) else {
                    return Err(Fault::new("it does not say where the master is"));
                };
                if config_epoch < self.config_epoch {
                    return Err(Fault::new(format!("it has not heard of the last failover yet, and still names {node}")));
                }
                self.config_epoch = config_epoch;
                Ok(Heard::News(node))
            }
            Answer::Message { channel, payload } if *channel == SWITCHED.as_bytes() => {
                let is_ours = payload.split(|&byte| byte == b' ').next() == Some(self.service.as_bytes());
                Ok(if is_ours { Heard::Changed } else { Heard::Nothing })
            }
            Answer::Refused { asked: Asked::Master, error } => {
                let is_unknown = error.details().is_some_and(|details| details.to_ascii_lowercase().contains("no such master"));
                Err(match is_unknown {
                    true => Fault::new(format!("it knows of no master called {}", self.service)),
                    false => Fault::new(with_advice(error)),
                })
            }
            _ => Ok(Heard::Nothing),
        }
    }
}

/// The address in an answer to `SENTINEL MASTER`, and the number of the failover that has made it one.
fn master(value: &Value) -> Option<(Node, u64)> {
    let text = |value: &Value| match value {
        Value::BulkString(text) => std::str::from_utf8(text).ok().map(str::to_owned),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    };
    let fields: Vec<(String, String)> = match value {
        Value::Map(pairs) => pairs.iter().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect(),
        Value::Array(parts) => parts.chunks_exact(2).filter_map(|pair| Some((text(&pair[0])?, text(&pair[1])?))).collect(),
        _ => return None,
    };
    let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    let node =
        Node { host: field("ip").filter(|host| !host.is_empty())?.to_owned(), port: field("port")?.parse().ok().filter(|&port| port > 0)? };
    Some((node, field("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0)))
}

/// The watch over one service.
#[derive(Debug)]
pub struct Watch {
    discovery: Discovery<WhoIsMaster>,
    /// How one logs in at the master, wherever it is.
    login: Target,
    /// As the operator knows it.
    name: String,
}

impl Watch {
    pub fn new(
        (sentinels, login, service): (Vec<Arc<Target>>, Target, String),
        token: Token,
        wakers: (Arc<Registry>, Arc<Waker>),
        timing: Timing,
    ) -> Watch {
        let places: Vec<String> =
            sentinels.iter().map(|seed| seed.to_string().split("://").nth(1).unwrap_or_default().to_owned()).collect();
        let name = format!("{}+sentinel://{}/{service}", if login.tls().is_some() { "rediss" } else { "redis" }, places.join(","));
        let question = WhoIsMaster { service, config_epoch: 0 };
        Watch { discovery: Discovery::new(question, sentinels, token, wakers, timing), login, name }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Goes on as far as it goes without waiting. Some: that is where the master is, whether that is news or not.
    pub fn drive(&mut self, now: MonotonicNs) -> Option<Result<Target, String>> {
        let node = self.discovery.drive(now)?;
        Some(self.login.at(&node.host, node.port).map_err(|error| format!("{error:#}")))
    }

    /// Not each of the Sentinels has been of no use yet.
    pub fn is_at_first_round(&self) -> bool {
        self.discovery.is_at_first_round()
    }

    /// The master is lost: there may soon be another.
    pub fn ask_within(&mut self, pause: Duration) {
        self.discovery.ask_within(pause, None);
    }

    pub fn event(&mut self, event: &Event) {
        self.discovery.event(event);
    }

    pub fn deadline(&self) -> MonotonicNs {
        self.discovery.deadline()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        redis::parse_redis_value(text.replace(' ', "\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn the_address_is_read_in_both_protocols() {
        let fields = "$4 name $1 m $2 ip $9 127.0.0.1 $4 port $4 7001 $5 flags $6 master $12 config-epoch $1 3 ";
        let found = Some((Node { host: "127.0.0.1".to_owned(), port: 7001 }, 3));
        assert_eq!(master(&value(&format!("*10 {fields}"))), found);
        assert_eq!(master(&value(&format!("%5 {fields}"))), found);
        for none in ["*0 ", "*2 $2 ip $1 h ", "*4 $2 ip $0  $4 port $1 1 ", "*4 $2 ip $1 h $4 port $1 0 ", ":1 "] {
            assert_eq!(master(&value(none)), None, "{none}");
        }
    }

    #[test]
    fn whoever_has_not_heard_of_the_last_failover_is_not_believed() {
        let mut question = WhoIsMaster { service: "m".to_owned(), config_epoch: 0 };
        let target = Target::new("redis://127.0.0.1:26379", &Default::default()).unwrap();
        let answer = |port: u16, epoch: u64| value(&format!("*6 $2 ip $9 127.0.0.1 $4 port $4 {port} $12 config-epoch $1 {epoch} "));
        let mut take = |value: &Value| question.take(&Answer::Topology { value }, &target);
        let port = |heard| match heard {
            Ok(Heard::News(Node { port, .. })) => Some(port),
            _ => None,
        };
        assert_eq!(port(take(&answer(7001, 1))), Some(7001));
        assert_eq!(port(take(&answer(7002, 2))), Some(7002));
        assert!(take(&answer(7001, 1)).unwrap_err().reason.contains("last failover"));
        assert_eq!(port(take(&answer(7002, 2))), Some(7002));
        let told = |payload: &'static [u8]| Answer::Message { channel: SWITCHED.as_bytes(), payload };
        assert!(matches!(question.take(&told(b"m 127.0.0.1 7001 127.0.0.1 7002"), &target), Ok(Heard::Changed)));
        assert!(matches!(question.take(&told(b"other 127.0.0.1 7001 127.0.0.1 7002"), &target), Ok(Heard::Nothing)));
    }
}
