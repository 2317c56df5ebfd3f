//! Where a connection comes from, as far as it can be known: its socket says, then its PROXY header, then `X-Forwarded-For`; and whether so many may come
//! from there. `admission` takes it from here.
//!
//! Invariant: a word about where clients come from is taken from trusted proxies and unix sockets alone. They are not limited themselves: who they
//! speak for is.

use std::net::{IpAddr, SocketAddr};

use super::Shard;
use super::by_address::Refused;
use super::conn::Phase;
use super::net::{Network, Stream};
use super::rate::moment;
use super::sources::Standing;
use super::timers::Timer;
use crate::addresses::Source;
use crate::limits;
use crate::wire::http::forwarded::forwarded_for;
use crate::wire::http::head::Fields;
use crate::wire::http::refusal::{Refusal, RefusalReason};
use crate::wire::peer::Peer;
use crate::wire::proxy::{self, Client, Outcome};

impl<N: Network> Shard<N> {
    /// A connection as it was accepted. What is too much is told so at once, or dropped where too many are.
    pub(super) fn arrive(&mut self, stream: N::Stream, peer: Option<SocketAddr>, is_proxied: bool) {
        let is_trusted = peer.is_none_or(|peer| self.settings.trusted_proxies.has(peer.ip()));
        if is_proxied && !is_trusted {
            return self.turn_away_untrusted(peer);
        }
        let source = peer.map_or(Source::UNIX, Source::of);
        let standing = self.count_in(source, is_trusted);
        let refused = match standing {
            Err(refused) => Some(refused),
            Ok(_) if !self.addresses.may_accept(self.now_ns) => Some(RefusalReason::AcceptsPerSecond),
            Ok(_) => None,
        };
        let standing = standing.unwrap_or(Standing::Refused);
        if let Some(reason) = refused
            && !self.told.take(&mut self.told_even_at, moment(self.now_ns))
        {
            self.count_out(source, standing);
            return self.metrics.refused[reason as usize].inc();
        }
        let Some(key) = self.admit(stream, source, standing) else { return self.count_out(source, standing) };
        if is_proxied {
            self.conns[key].enter(Phase::Proxy);
        }
        if let Some(reason) = refused {
            self.turn_away(key, reason);
        }
    }

    /// It is refused, as soon as it has said what it wants: some clients take a plain answer for the last word. It has less time to say so than others.
    fn turn_away(&mut self, key: usize, reason: RefusalReason) {
        // Here, as it may never say anything.
        self.metrics.refused[reason as usize].inc();
        self.turned_away.insert(key as u32, reason);
        self.set_timer(key, Timer::Handshake, self.settings.clients.handshake_timeout.min(limits::TURNED_AWAY_TIMEOUT));
    }

    /// Not a word of it is read. Said in the log once a minute at most.
    fn turn_away_untrusted(&mut self, peer: Option<SocketAddr>) {
        self.metrics.refused[RefusalReason::ProxyUntrusted as usize].inc();
        if self.untrusted_warned.is_none_or(|tick| self.tick - tick >= limits::ACCEPT_WARNING_TICKS) {
            self.untrusted_warned = Some(self.tick);
            let ip = peer.map_or_else(String::new, |peer| peer.ip().to_canonical().to_string());
            tracing::warn!(
                shard = self.index,
                "{ip} connects to a listener marked proxy+ and is none of trusted_proxies; its connections are closed"
            );
        }
    }

    /// Whether one more may come from there; if so, it is counted until [`Shard::count_out`].
    fn count_in(&self, source: Source, is_trusted: bool) -> Result<Standing, RefusalReason> {
        if is_trusted {
            return Ok(Standing::Trusted);
        }
        let standing = |is_counted| if is_counted { Standing::Counted } else { Standing::Uncounted };
        self.addresses.enter(source, self.now_ns).map(standing).map_err(|refused| match refused {
            Refused::ConnectionsPerAddress => RefusalReason::ConnectionsPerAddress,
            Refused::AcceptsPerAddress => RefusalReason::AcceptsPerAddress,
        })
    }

    pub(super) fn count_out(&self, source: Source, standing: Standing) {
        match standing {
            Standing::Counted => self.addresses.leave(source, self.now_ns),
            Standing::Uncounted | Standing::Trusted | Standing::Refused => {}
        }
    }

    /// Somebody who is believed says who connects. An error: it is to be refused.
    fn name(&mut self, key: usize, ip: IpAddr) -> Result<(), RefusalReason> {
        let source = Source::of_ip(ip);
        let standing = self.count_in(source, self.settings.trusted_proxies.has(ip));
        self.sources.name(key, source, standing.unwrap_or(Standing::Refused));
        standing.map(|_| ())
    }

    pub(super) fn read_proxy(&mut self, key: usize, input: &mut [u8]) {
        match proxy::parse(input) {
            Outcome::Partial => self.conns[key].peer = Peer::Unknown(Some(Box::new(input.to_vec()))),
            Outcome::Refuse(fault) => {
                let text = format!("a connection to this listener must begin with a PROXY protocol header: {fault}");
                self.refuse(key, &Refusal::new(RefusalReason::ProxyHeader, text));
            }
            Outcome::Header { bytes, client } => {
                self.conns[key].enter(Phase::Handshake);
                let named = match client {
                    Client::Ip(address) => self.name(key, address.ip()),
                    // Whoever it is has no address of its own.
                    Client::Itself | Client::Unix => Ok(()),
                };
                if let Err(reason) = named {
                    self.turn_away(key, reason);
                }
                let conn = &mut self.conns[key];
                if conn.stream.begin(self.net.gear_mut(), &input[bytes..]) {
                    return self.account_buffers(key);
                }
                if bytes < input.len() {
                    self.read_head(key, &mut input[bytes..]);
                }
            }
        }
    }

    /// A request may have come a longer way than its connection. An error: it is to be refused.
    pub(super) fn follow_forwarded(&mut self, key: usize, fields: &Fields<'_>) -> Result<(), RefusalReason> {
        if self.sources.standing(key) != Standing::Trusted {
            return Ok(());
        }
        let trusted = &self.settings.trusted_proxies;
        forwarded_for(fields, |ip| trusted.has(ip)).map_or(Ok(()), |ip| self.name(key, ip))
    }
}
