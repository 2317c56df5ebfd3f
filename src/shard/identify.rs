//! Who a client is: by the token of its request, by that of a later `refresh`, or because it says so. And until when: a token expires on a connection
//! that stays as it does for one that comes.
//!
//! A signature costs as much as some tens of writes, so those of a turn have a budget ([`limits::auth::VERIFY_UNITS_PER_TURN`]); whoever is beyond it waits
//! for a later turn, in the order in which they came. A token that this shard has verified before costs a hash and waits for nobody.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Shard;
use super::conn::{Flags, Phase};
use super::net::{Network, Stream};
use super::timers::Timer;
use super::wheel::{TICK_NS, Tick};
use crate::auth::Gate;
use crate::auth::cache::{self, Cache};
use crate::auth::identity::{Identity, USER_CHANNEL};
use crate::auth::revoked::Revoked;
use crate::auth::token::{TokenError, TokenReason};
use crate::bus::ConnToken;
use crate::limits;
use crate::metrics::ShardMetrics;
use crate::tls::certificate::ClientCertificate;
use crate::wire::close::CloseReason;
use crate::wire::command::{self, Asked, ErrorCode, Id};
use crate::wire::event::Event;
use crate::wire::http::credentials::{self, Given, Place};
use crate::wire::http::head::Head;
use crate::wire::http::origin::is_allowed;
use crate::wire::http::refusal::{Refusal, RefusalReason};
use crate::wire::peer::Peer;

/// What a shard asks its clients, and those whose answer it has not looked at yet.
#[derive(Debug)]
pub(super) struct Door {
    gate: Gate,
    revoked: Arc<Revoked>,
    known: Cache,
    waiting: VecDeque<Waiting>,
    /// How many of them are refreshes, each with a token of its own.
    refreshes: usize,
    /// What verifying has cost in this turn.
    spent: usize,
    /// Somebody who waited is looked at: it does not wait behind itself.
    is_first: bool,
}

/// A connection whose token is to be verified: it has [`Flags::VERIFYING`] for as long as that is so.
#[derive(Debug)]
enum Waiting {
    /// Its head lies with its peer.
    Upgrade(ConnToken),
    Refresh {
        conn: ConnToken,
        token: Box<[u8]>,
        id: Option<Id>,
    },
}

impl Waiting {
    fn conn(&self) -> ConnToken {
        match self {
            Waiting::Upgrade(conn) | Waiting::Refresh { conn, .. } => *conn,
        }
    }
}

/// What came of looking at a token.
enum Looked {
    Is(Arc<Identity>),
    Refused(TokenError),
    /// The turn has spent what it may.
    Later,
}

/// What somebody who wants to come in asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Upgrade,
    Feed,
}

/// What came of asking who somebody is that wants to come in.
pub(super) enum Caller {
    /// None where nobody is asked.
    Is(Option<Arc<Identity>>),
    Refused(Refusal),
    Later,
}

impl Door {
    pub(super) fn new(gate: Gate, revoked: Arc<Revoked>, cache_bytes_max: usize) -> Door {
        Door { gate, revoked, known: Cache::new(cache_bytes_max), waiting: VecDeque::new(), refreshes: 0, spent: 0, is_first: false }
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Whether this bearer's token has been revoked.
    pub(super) fn has_revoked(&self, identity: &Identity) -> bool {
        self.revoked.has(identity)
    }

    /// From now on clients say so who they are. Of tokens that were verified by other keys, or held against other settings, nothing is known any more; who
    /// came with one stays until it expires. Returns what was known of them.
    pub(super) fn replace(&mut self, gate: Gate) -> Option<Cache> {
        let is_same = match (&self.gate, &gate) {
            (Gate::Tokens(before), Gate::Tokens(after)) => Arc::ptr_eq(before, after),
            (Gate::Open, Gate::Open) | (Gate::Query, Gate::Query) | (Gate::Certificate, Gate::Certificate) => true,
            (Gate::Tokens(_) | Gate::Open | Gate::Query | Gate::Certificate, _) => false,
        };
        self.gate = gate;
        (!is_same).then(|| self.known.take())
    }

    /// Somebody waits for the next turn.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn look(&mut self, token: &[u8], now_ms: u64, metrics: &ShardMetrics) -> Looked {
        let Gate::Tokens(verifier) = &self.gate else {
            return Looked::Refused(TokenError { text: NO_TOKENS, reason: TokenReason::UnknownKey });
        };
        let hash = cache::hash(token);
        if let Some(identity) = self.known.find(&hash) {
            return match verifier.check_time(identity, now_ms) {
                Ok(()) if self.revoked.has(identity) => Looked::Refused(TokenReason::Revoked.into()),
                Ok(()) => {
                    metrics.tokens_known.inc();
                    Looked::Is(identity.clone())
                }
                Err(error) => Looked::Refused(error),
            };
        }
        let signed = match verifier.look(token) {
            Ok(signed) => signed,
            Err(error) => return Looked::Refused(error),
        };
        let cost = signed.cost();
        // The first of a turn may cost what it will.
        let is_affordable = self.spent == 0 || self.spent + cost <= limits::auth::VERIFY_UNITS_PER_TURN;
        if !is_affordable || (self.has_waiting() && !self.is_first) {
            return Looked::Later;
        }
        self.spent += cost;
        metrics.signatures.inc();
        match signed.verify(now_ms) {
            Ok(identity) => {
                let identity = Arc::new(identity);
                self.known.insert(hash, identity.clone());
                if self.revoked.has(&identity) { Looked::Refused(TokenReason::Revoked.into()) } else { Looked::Is(identity) }
            }
            Err(error) => Looked::Refused(error),
        }
    }

    fn push(&mut self, waiting: Waiting) {
        self.refreshes += usize::from(matches!(waiting, Waiting::Refresh { .. }));
        if self.is_first { self.waiting.push_front(waiting) } else { self.waiting.push_back(waiting) }
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        self.refreshes -= usize::from(matches!(waiting, Waiting::Refresh { .. }));
        if self.waiting.is_empty() && self.waiting.capacity() > limits::QUEUE_KEPT {
            self.waiting = VecDeque::new();
        }
        Some(waiting)
    }
}

fn of_certificate(shown: &ClientCertificate) -> Result<Identity, &'static str> {
    Identity::of_certificate(&shown.common_name, shown.organizational_units.iter().map(String::as_str), shown.not_after)
}

const NO_TOKENS: &str = "this server asks for no tokens (auth)";

impl<N: Network> Shard<N> {
    /// Who asks to come in, and whether it may from where it is.
    pub(super) fn caller(&mut self, key: usize, head: &Head<'_>, entry: Entry) -> Caller {
        let auth = &self.settings.auth;
        let origin = head.fields.values("origin").next();
        // Of two, nobody knows whose page it is.
        let is_one = head.fields.values("origin").nth(1).is_none();
        if !auth.origins.is_empty() && origin.is_some_and(|origin| !is_one || !is_allowed(origin, &auth.origins)) {
            return Caller::Refused(RefusalReason::Origin.into());
        }
        match &self.door.gate {
            Gate::Open => Caller::Is(None),
            Gate::Query => match credentials::user(head).as_deref().map(Identity::of_user) {
                Some(Ok(identity)) => Caller::Is(Some(Arc::new(identity))),
                Some(Err(problem)) => Caller::Refused(Refusal::unauthorized(format!("The parameter user: {problem}."), true)),
                None => Caller::Refused(Refusal::unauthorized("This server asks who you are: /ws?user=NAME, once (missing).", false)),
            },
            Gate::Certificate => match self.conns[key].stream.certificate(self.net.gear()).as_deref().map(of_certificate) {
                Some(Ok(identity)) => Caller::Is(Some(Arc::new(identity))),
                Some(Err(problem)) => Caller::Refused(Refusal::unauthorized(format!("The certificate's common name: {problem}."), true)),
                None => {
                    let text = "This server knows clients by their certificates: come by wss:// or https:// and show one (missing).";
                    Caller::Refused(Refusal::unauthorized(text, false))
                }
            },
            Gate::Tokens(_) => match credentials::token(head, auth.cookie.as_deref()) {
                // What a browser sends by itself is believed only where it says whose page asked for it.
                Given::One { place: Place::Cookie, .. } if origin.is_none() && !(entry == Entry::Feed && is_same_origin(head)) => {
                    Caller::Refused(RefusalReason::Origin.into())
                }
                // A link may hold the token, and a page in a sandbox may be anybody's.
                Given::One { place: Place::Query, .. } if origin == Some(b"null") && !is_allowed(b"null", &auth.origins) => {
                    Caller::Refused(RefusalReason::Origin.into())
                }
                Given::One { token, .. } => match self.door.look(token, self.unix_ms, &self.metrics) {
                    Looked::Is(identity) => Caller::Is(Some(identity)),
                    Looked::Refused(error) => Caller::Refused(self.unauthorized(error)),
                    Looked::Later => Caller::Later,
                },
                Given::None => Caller::Refused(self.unauthorized(TokenReason::Missing.into())),
                Given::Several => Caller::Refused(self.unauthorized(TokenReason::Several.into())),
            },
        }
    }

    fn unauthorized(&self, error: TokenError) -> Refusal {
        self.metrics.tokens_refused[error.reason as usize].inc();
        if error.reason == TokenReason::KeyAwaited {
            return Refusal::new(RefusalReason::KeyAwaited, format!("{} ({})", error.text, error.reason.name()));
        }
        let how = match error.reason {
            TokenReason::Missing => ", as Authorization: Bearer TOKEN, ?token=TOKEN or the subprotocol bearer.TOKEN",
            _ => "",
        };
        Refusal::unauthorized(format!("{}{how} ({}).", error.text, error.reason.name()), error.reason != TokenReason::Missing)
    }

    /// Its token is for a later turn: what it has sent is kept, and no more is read.
    pub(super) fn wait_for_verifying(&mut self, key: usize, head: Vec<u8>) {
        let token = self.token(key);
        let conn = &mut self.conns[key];
        conn.peer = Peer::Unknown(Some(Box::new(head)));
        conn.flags.set(Flags::VERIFYING);
        conn.flags.set(Flags::PAUSED);
        self.door.push(Waiting::Upgrade(token));
    }

    /// Those whose tokens are still to be verified, before anybody who comes now.
    pub(super) fn verify_waiting(&mut self) {
        self.door.spent = 0;
        while self.door.spent < limits::auth::VERIFY_UNITS_PER_TURN {
            let Some(waiting) = self.door.pop() else { break };
            let Some(key) = self.resolve(waiting.conn()).filter(|&key| self.is_awaited(key, &waiting)) else { continue };
            self.conns[key].flags.clear(Flags::VERIFYING);
            self.door.is_first = true;
            match waiting {
                Waiting::Upgrade(_) => self.read_head_again(key),
                Waiting::Refresh { token, id, .. } => self.refresh(key, &token, id),
            }
            self.door.is_first = false;
            if self.conns[key].flags.has(Flags::VERIFYING) {
                // It costs more than is left.
                break;
            }
        }
    }

    fn read_head_again(&mut self, key: usize) {
        let conn = &mut self.conns[key];
        conn.flags.clear(Flags::PAUSED);
        let Peer::Unknown(head) = &mut conn.peer else { unreachable!("it waits for its upgrade") };
        let mut whole = head.take().expect("its head is kept");
        self.read_head(key, &mut whole);
        self.account_buffers(key);
        let token = self.token(key);
        let conn = &mut self.conns[key];
        // What came meanwhile has had its edge.
        if !conn.flags.has(Flags::VERIFYING) && !conn.is_dead() && conn.flags.raise(Flags::READING) {
            self.reading.push_back(token);
        }
    }

    /// What a client is subscribed to because of who it is.
    pub(super) fn own_channel(&self, key: usize) -> Option<String> {
        let identity = self.conns[key].identity.as_ref().filter(|_| self.settings.auth.user_channel)?;
        Some(format!("{USER_CHANNEL}{}", identity.user()))
    }

    /// Whether that is this one.
    pub(super) fn is_own_channel(&self, key: usize, channel: &str) -> bool {
        let identity = self.conns[key].identity.as_ref().filter(|_| self.settings.auth.user_channel);
        identity.is_some_and(|identity| channel.strip_prefix(USER_CHANNEL) == Some(identity.user()))
    }

    /// A token that takes the place of the one that this connection came with.
    pub(super) fn refresh(&mut self, key: usize, token: &[u8], id: Option<Id>) {
        if self.conns[key].flags.has(Flags::VERIFYING) {
            return self.refuse_refresh(key, id, ErrorCode::Busy, "another refresh of this connection is under way");
        }
        match self.door.look(token, self.unix_ms, &self.metrics) {
            Looked::Is(identity) if self.conns[key].identity.as_ref().is_some_and(|before| before.user() != identity.user()) => {
                self.refuse_token(key, id, TokenReason::OtherUser.into());
            }
            Looked::Is(identity) => self.take_over(key, identity, id),
            Looked::Refused(error) => self.refuse_token(key, id, error),
            Looked::Later if self.door.refreshes >= limits::auth::REFRESHES_WAITING_MAX => {
                self.refuse_refresh(key, id, ErrorCode::Busy, "too many tokens wait to be verified; try again in a moment");
            }
            Looked::Later => {
                self.conns[key].flags.set(Flags::VERIFYING);
                let conn = self.token(key);
                self.door.push(Waiting::Refresh { conn, token: token.into(), id });
            }
        }
    }

    fn take_over(&mut self, key: usize, identity: Arc<Identity>, id: Option<Id>) {
        let expires_ms = identity.expires_s().unwrap_or(u64::MAX).saturating_mul(1000);
        let conn = &mut self.conns[key];
        let before = conn.identity.replace(identity);
        conn.flags.clear(Flags::WARNED);
        self.reply(key, &Event::Refreshed { id: id.as_ref(), expires_ms: expires_ms.min(EXPIRES_MS_MAX) });
        // A heartbeat that comes later than the token ends is put forward; one that comes sooner finds nothing to do, and is set anew.
        self.bring_beat_forward(key);
        let after = self.conns[key].identity.as_ref();
        if after.zip(before).is_none_or(|(after, before)| !after.has_claims_of(&before)) {
            self.recheck_connection(key);
        }
    }

    fn refuse_token(&mut self, key: usize, id: Option<Id>, error: TokenError) {
        self.metrics.tokens_refused[error.reason as usize].inc();
        let code = if error.reason == TokenReason::KeyAwaited { ErrorCode::Busy } else { ErrorCode::TokenInvalid };
        self.refuse_refresh(key, id, code, error.text);
    }

    fn refuse_refresh(&mut self, key: usize, id: Option<Id>, code: ErrorCode, message: &str) {
        let asked = Asked { id: id.as_ref(), command: Some(command::REFRESH), channel: None };
        self.reply_error(key, asked, code, message);
    }

    /// When something is to be done about a connection's token: its bearer is to be told that it expires, or it has.
    fn token_moment_ms(&self, key: usize) -> Option<u64> {
        let (Gate::Tokens(verifier), Some(identity)) = (&self.door.gate, &self.conns[key].identity) else { return None };
        let warns_ms = verifier.warns_ms(identity).filter(|_| !self.conns[key].flags.has(Flags::WARNED));
        Some(warns_ms.unwrap_or_else(|| verifier.ends_ms(identity)))
    }

    /// The tick at which that is.
    fn token_tick(&self, key: usize) -> Option<Tick> {
        let wait_ms = self.token_moment_ms(key)?.saturating_sub(self.unix_ms);
        let ticks = wait_ms.div_ceil(TICK_NS / 1_000_000).min(u64::from(Tick::MAX / 2)) as Tick;
        Some(self.tick.saturating_add(ticks.max(1)))
    }

    /// A heartbeat's tick, or an earlier one if something is to be done about the token before: there is one timer for both.
    pub(super) fn beat_tick(&self, key: usize, tick: Tick) -> Tick {
        if self.conns[key].identity.is_none() {
            return tick;
        }
        self.token_tick(key).map_or(tick, |token_tick| token_tick.min(tick))
    }

    fn bring_beat_forward(&mut self, key: usize) {
        let Some(tick) = self.token_tick(key) else { return };
        if self.conns[key].is_open() && self.conns[key].timer_tick() > tick {
            self.set_timer_at(key, Timer::Heartbeat, tick);
        }
    }

    /// Does what is to be done about a connection's token now. False: nothing, so it is the heartbeat that is due.
    pub(super) fn watch_token(&mut self, key: usize) -> bool {
        if self.token_moment_ms(key).is_none_or(|moment_ms| self.unix_ms < moment_ms) {
            return false;
        }
        // The token that is to take its place may be here already.
        self.last_look(key);
        if !self.conns[key].is_open() {
            return true;
        }
        let Some(moment_ms) = self.token_moment_ms(key).filter(|&moment_ms| self.unix_ms >= moment_ms) else {
            self.put_heartbeat_back(key);
            return true;
        };
        let (Gate::Tokens(verifier), Some(identity)) = (&self.door.gate, &self.conns[key].identity) else {
            unreachable!("{moment_ms} is its")
        };
        if self.unix_ms >= verifier.ends_ms(identity) {
            self.begin_close(key, CloseReason::TokenExpired);
            return true;
        }
        let expires_ms = identity.expires_s().unwrap_or_default().saturating_mul(1000).min(EXPIRES_MS_MAX);
        self.conns[key].flags.set(Flags::WARNED);
        self.reply(key, &Event::Expiring { expires_ms });
        self.put_heartbeat_back(key);
        true
    }

    /// Whether its request is here and only the token is still to be verified.
    pub(super) fn is_verifying(&self, key: usize) -> bool {
        self.conns[key].phase == Phase::Handshake && self.conns[key].flags.has(Flags::VERIFYING)
    }

    /// Whether the connection still wants what it waited for: it may have been refused, or be closing.
    fn is_awaited(&self, key: usize, waiting: &Waiting) -> bool {
        match waiting {
            Waiting::Upgrade(_) => self.is_verifying(key),
            Waiting::Refresh { .. } => self.conns[key].is_open() && self.conns[key].flags.has(Flags::VERIFYING),
        }
    }
}

/// A page of this server's own origin asks (Fetch Metadata, 2.2): its GET has no `Origin`, which a WebSocket always has. No page can set this field, nor does it
/// stay so over a redirect from elsewhere.
fn is_same_origin(head: &Head<'_>) -> bool {
    head.fields.only("sec-fetch-site") == Some(b"same-origin")
}

/// So that every JSON reader gets it exactly.
const EXPIRES_MS_MAX: u64 = (1 << 53) - 1;
