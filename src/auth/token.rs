//! One token: is it well-formed, who signed it, what does it claim. [`Verifier::look`] reads the header and finds the keys, which costs little;
//! [`Signed::verify`] checks the signature and judges the claims, which may cost a good part of a turn, so whoever calls it has a budget.
//!
//! The library verifies signatures and nothing else: it would parse header and claims twice, ask its own clock, and let pass what is refused here
//! (RFC 7519: a `crit` that nobody understands, an audience that is missing, a time that is no number).

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, AlgorithmFamily};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::identity::{Claims, Identity, check_user};
use super::keys::{Key, Keys};
use super::pattern::Pattern;
use crate::limits;
use crate::named::named;

named! {
    /// Why a token was not taken. Each is counted in `campanile_tokens_refused_total`.
    TokenReason {
        /// None was given.
        Missing = "missing",
        /// More than one was given, in two places or twice in one.
        Several = "several",
        /// Longer than `token_bytes_max`.
        TooLong = "too_long",
        /// Not three parts of base64url with JSON in the first two.
        Malformed = "malformed",
        /// `crit` names what nobody here understands.
        Critical = "critical",
        /// `alg` is none, unknown, or not one of the key's.
        Algorithm = "algorithm",
        /// `kid` names no key.
        UnknownKey = "unknown_key",
        /// The same, and keys are being asked for: the one that it names may come.
        KeyAwaited = "key_awaited",
        Signature = "signature",
        Expired = "expired",
        /// `nbf` is in the future.
        NotYetValid = "not_yet_valid",
        Issuer = "issuer",
        Audience = "audience",
        /// A claim is missing, or of another type than it should be.
        Claim = "claim",
        /// It has been revoked.
        Revoked = "revoked",
        /// The token that was to take another one's place is another user's.
        OtherUser = "other_user",
    }
}

/// Why a token was not taken, and the words for whoever brought it: they quote nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenError {
    pub reason: TokenReason,
    pub text: &'static str,
}

impl TokenError {
    const fn claim(text: &'static str) -> TokenError {
        TokenError { reason: TokenReason::Claim, text }
    }
}

impl From<TokenReason> for TokenError {
    fn from(reason: TokenReason) -> TokenError {
        let text = match reason {
            TokenReason::Missing => "this server asks for a token",
            TokenReason::Several => "more than one token was given; give one, in one place",
            TokenReason::TooLong => "the token is longer than this server takes",
            TokenReason::Malformed => {
                "this is no JSON Web Token: three parts in base64url, the first two of them JSON objects in which nothing stands twice"
            }
            TokenReason::Critical => "the token's header has `crit`, and this server understands no extension",
            TokenReason::Algorithm => "the token's `alg` is not one that its key is for",
            TokenReason::UnknownKey => "the token's `kid` is not one of this server's keys",
            TokenReason::KeyAwaited => {
                "the token's `kid` is not one of this server's keys yet, and they are being asked for; try again in a moment"
            }
            TokenReason::Signature => "the token's signature is not good",
            TokenReason::Expired => "the token has expired",
            TokenReason::NotYetValid => "the token is not valid yet (`nbf`); are the clocks right?",
            TokenReason::Issuer => "the token's `iss` is not the one that this server asks for",
            TokenReason::Audience => "the token's `aud` is not this server",
            TokenReason::Claim => "a claim of the token is missing or of the wrong type",
            TokenReason::Revoked => "the token has been revoked",
            TokenReason::OtherUser => "the token is another user's than the one it is to follow",
        };
        TokenError { reason, text }
    }
}

/// What is asked of a token besides its signature.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Longest token that is looked at.
    pub bytes_max: usize,
    /// How far clocks may be apart: a token is good for so much longer and sooner than it says.
    pub leeway_s: u64,
    /// How long before it expires its bearer is told.
    pub warning_s: u64,
    /// What `iss` must be; None: whatever it is.
    pub issuer: Option<String>,
    /// What `aud` must be or hold; None: no token may have one.
    pub audience: Option<String>,
}

#[derive(Debug)]
pub struct Verifier {
    keys: Keys,
    policy: Policy,
    /// None: there is nowhere to ask for more keys.
    wanted: Option<Arc<Wanted>>,
}

/// That a token names a key which is not here, for whoever can ask for keys anew. Shards write it and go on; they wait for no fetch.
///
/// A name that a fetch has not brought is not awaited any more, and its bearer is told so; whoever comes with another one waits for the next fetch, however
/// many names others have made up before.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Nobody will fetch any.
    is_for_nothing: bool,
    is_wanted: AtomicBool,
    names: Mutex<Names>,
    hasher: RandomState,
}

/// Of names their hashes.
#[derive(Debug, Default)]
struct Names {
    /// Since the last fetch began.
    asked: HashSet<u64>,
    /// For whose sake the last fetch was made, or the one under way is.
    fetching: HashSet<u64>,
    /// What the last fetch has not brought.
    missed: HashSet<u64>,
}

impl Wanted {
    pub fn for_nothing() -> Wanted {
        Wanted { is_for_nothing: true, ..Wanted::default() }
    }

    /// A key of this name is wanted. False: it has been asked for, and is not there.
    fn ask(&self, name: Option<&str>) -> bool {
        let hash = self.hasher.hash_one(name);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.asked.len() < limits::auth::KEY_NAMES_MAX {
            names.asked.insert(hash);
        }
        let is_missed = names.missed.contains(&hash);
        drop(names);
        self.is_wanted.store(true, Relaxed);
        !is_missed && !self.is_for_nothing
    }

    pub fn is_wanted(&self) -> bool {
        self.is_wanted.load(Relaxed)
    }

    /// What is published from now on is in the answer.
    pub fn begin_fetch(&self) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.fetching = std::mem::take(&mut names.asked);
        self.is_wanted.store(false, Relaxed);
    }

    /// The keys that there are can be had; or they cannot, and nobody can say of a name that there is none.
    pub fn end_fetch(&self, can_be_had: bool) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let fetched = std::mem::take(&mut names.fetching);
        names.missed = if can_be_had { fetched } else { HashSet::new() };
    }
}

/// A token that has been looked at and not yet believed.
#[derive(Debug)]
pub struct Signed<'t, 'v> {
    verifier: &'v Verifier,
    /// Header and claims as they are signed.
    message: &'t str,
    claims: &'t str,
    signature: &'t str,
    algorithm: Algorithm,
    keys: SmallVec<[&'v Key; 2]>,
    /// The name that it gives its key, where that is none of the keys that are here.
    unknown: Option<String>,
}

impl Verifier {
    pub fn new(keys: Keys, policy: Policy) -> Verifier {
        Verifier { keys, policy, wanted: None }
    }

    /// Of tokens that name an unknown key is told here.
    pub fn asking(self, wanted: Arc<Wanted>) -> Verifier {
        Verifier { wanted: Some(wanted), ..self }
    }

    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Whether it tells somebody of keys that are missing.
    pub fn asks(&self) -> bool {
        self.wanted.is_some()
    }

    fn unknown_key(&self, name: Option<&str>) -> TokenReason {
        match &self.wanted {
            Some(wanted) if wanted.ask(name) => TokenReason::KeyAwaited,
            _ => TokenReason::UnknownKey,
        }
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Everything that can be said without a signature. What is too long is not looked at.
    pub fn look<'t>(&self, token: &'t [u8]) -> Result<Signed<'t, '_>, TokenError> {
        if token.len() > self.policy.bytes_max {
            return Err(TokenReason::TooLong.into());
        }
        let token = std::str::from_utf8(token).map_err(|_| TokenReason::Malformed)?;
        let (message, signature) = token.rsplit_once('.').ok_or(TokenReason::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(TokenReason::Malformed)?;
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| TokenReason::Malformed)?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| TokenReason::Malformed)?;
        if claims.contains('.') {
            return Err(TokenReason::Malformed.into());
        }
        if header.crit {
            return Err(TokenReason::Critical.into());
        }
        let algorithm: Algorithm = header.alg.parse().map_err(|_| TokenReason::Algorithm)?;
        let mut named = self.keys.named(header.kid.as_deref()).peekable();
        if named.peek().is_none() {
            return Err(self.unknown_key(header.kid.as_deref()).into());
        }
        let keys: SmallVec<[&Key; 2]> = named.filter(|key| key.is_for(algorithm)).collect();
        // Without a key of that name it was held against those that have none.
        let is_key_known = self.wanted.is_none() || header.kid.as_deref().is_none_or(|id| self.keys.has(id));
        if keys.is_empty() {
            return Err(if is_key_known { TokenReason::Algorithm } else { self.unknown_key(header.kid.as_deref()) }.into());
        }
        Ok(Signed { verifier: self, message, claims, signature, algorithm, keys, unknown: header.kid.filter(|_| !is_key_known) })
    }

    /// Whether somebody who was believed before still is.
    pub fn check_time(&self, identity: &Identity, now_ms: u64) -> Result<(), TokenError> {
        if now_ms < self.ends_ms(identity) { Ok(()) } else { Err(TokenReason::Expired.into()) }
    }

    /// When a bearer is believed no more: the same for a token that comes and for a connection that stays.
    pub fn ends_ms(&self, identity: &Identity) -> u64 {
        identity.expires_s().map_or(u64::MAX, |expires_s| expires_s.saturating_add(self.policy.leeway_s).saturating_mul(1000))
    }

    /// When it is told that this will be; None: never.
    pub fn warns_ms(&self, identity: &Identity) -> Option<u64> {
        let expires_s = identity.expires_s().filter(|_| self.policy.warning_s > 0)?;
        Some(expires_s.saturating_sub(self.policy.warning_s).saturating_mul(1000))
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Whatever it is.
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
}

fn is_there<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

impl Signed<'_, '_> {
    /// What verifying it costs, in units of about two microseconds.
    pub fn cost(&self) -> usize {
        let each = match self.algorithm.family() {
            AlgorithmFamily::Hmac => 1,
            AlgorithmFamily::Rsa => 10,
            AlgorithmFamily::Ec | AlgorithmFamily::Ed => 28,
        };
        each * self.keys.len()
    }

    /// Whether the signature is good, and the claims are, at this time; who its bearer is, then.
    pub fn verify(&self, now_ms: u64) -> Result<Identity, TokenError> {
        let is_signed = |key: &&Key| key.has_signed(self.message.as_bytes(), self.signature, self.algorithm);
        if !self.keys.iter().any(is_signed) {
            return Err(self.unknown.as_deref().map_or(TokenReason::Signature, |name| self.verifier.unknown_key(Some(name))).into());
        }
        let claims = URL_SAFE_NO_PAD.decode(self.claims).map_err(|_| TokenReason::Malformed)?;
        let claims: Claimed<'_> = serde_json::from_slice(&claims).map_err(|_| TokenReason::Malformed)?;
        self.verifier.judge(&claims, now_ms)
    }
}

/// Claims as they stand there; null is as good as absent. They are read one by one, so that of an old token it is said that it is old, whatever
/// else is wrong with it.
#[derive(Deserialize)]
struct Claimed<'c> {
    #[serde(borrow)]
    exp: Option<&'c RawValue>,
    #[serde(borrow)]
    nbf: Option<&'c RawValue>,
    #[serde(borrow)]
    iat: Option<&'c RawValue>,
    #[serde(borrow)]
    iss: Option<&'c RawValue>,
    #[serde(borrow)]
    aud: Option<&'c RawValue>,
    #[serde(borrow)]
    sub: Option<&'c RawValue>,
    #[serde(borrow)]
    jti: Option<&'c RawValue>,
    #[serde(borrow)]
    channels: Option<&'c RawValue>,
    #[serde(borrow)]
    publish: Option<&'c RawValue>,
    #[serde(borrow)]
    groups: Option<&'c RawValue>,
}

impl Verifier {
    fn judge(&self, claims: &Claimed<'_>, now_ms: u64) -> Result<Identity, TokenError> {
        let Policy { leeway_s, issuer, audience, .. } = &self.policy;
        let exp = claims.exp.ok_or(TokenError::claim("the token has no `exp`: it must expire some time"))?;
        let expires_s = seconds(exp).ok_or(TokenError::claim("the token's `exp` is no number of seconds"))?.min(TIME_S_MAX);
        if now_ms >= (expires_s + leeway_s) * 1000 {
            return Err(TokenReason::Expired.into());
        }
        if let Some(nbf) = claims.nbf {
            let begins_s = seconds(nbf).ok_or(TokenError::claim("the token's `nbf` is no number of seconds"))?;
            if now_ms / 1000 + leeway_s < begins_s {
                return Err(TokenReason::NotYetValid.into());
            }
        }
        if let Some(issuer) = issuer
            && claims.iss.and_then(text).is_none_or(|iss| iss != *issuer)
        {
            return Err(TokenReason::Issuer.into());
        }
        match (audience, claims.aud) {
            (None, None) => {}
            (Some(audience), Some(aud)) if is_audience(aud, audience) => {}
            // It is meant for somebody, and nobody knows whether for this server (RFC 7519, 4.1.3).
            _ => return Err(TokenReason::Audience.into()),
        }
        let sub = claims.sub.and_then(text).ok_or(TokenError::claim("the token has no `sub`, or one that is no string"))?;
        check_user(&sub).map_err(|_| TokenError::claim("the token's `sub` must have 1 to 250 bytes and no control characters"))?;
        let jti = match claims.jti {
            None => Cow::Borrowed(""),
            Some(jti) => text(jti).ok_or(TokenError::claim("the token's `jti` is no string"))?,
        };
        // Of no use but for revoking: what cannot be read was issued before every moment.
        let issued_s = claims.iat.and_then(seconds).unwrap_or(0);
        let claims = Claims {
            channels: patterns(claims.channels, "the token's `channels` is no list of channel patterns")?,
            publish: patterns(claims.publish, "the token's `publish` is no list of channel patterns")?,
            groups: lines(claims.groups, is_group, "the token's `groups` is no list of names")?,
        };
        Ok(Identity::new(&sub, &jti, expires_s, issued_s, claims))
    }
}

/// Far beyond every real time, and far enough from the end of the numbers to calculate with.
const TIME_S_MAX: u64 = 1 << 40;

/// A time as RFC 7519, 2, has it: a number, perhaps with a fraction. One before 1970 is 1970.
fn seconds(value: &RawValue) -> Option<u64> {
    serde_json::from_str::<f64>(value.get()).ok().map(|seconds| seconds as u64)
}

fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    // What is lent is preferred; a string with escapes is owned.
    serde_json::from_str::<&str>(value.get()).map(Cow::Borrowed).or_else(|_| serde_json::from_str(value.get()).map(Cow::Owned)).ok()
}

fn is_group(name: &str) -> bool {
    !name.is_empty() && !name.contains(char::is_control)
}

/// One, or one of a list.
fn is_audience(value: &RawValue, audience: &str) -> bool {
    match text(value) {
        Some(only) => only == audience,
        None => serde_json::from_str::<Vec<String>>(value.get()).is_ok_and(|list| list.iter().any(|other| other == audience)),
    }
}

/// A list of texts, a line for each; `check` says what a text has to be.
fn lines(value: Option<&RawValue>, check: impl Fn(&str) -> bool, otherwise: &'static str) -> Result<Box<str>, TokenError> {
    let Some(value) = value else { return Ok(Box::default()) };
    let list: Vec<Cow<'_, str>> = serde_json::from_str(value.get()).map_err(|_| TokenError::claim(otherwise))?;
    if list.iter().all(|text| check(text)) { Ok(list.join("\n").into()) } else { Err(TokenError::claim(otherwise)) }
}

fn patterns(value: Option<&RawValue>, otherwise: &'static str) -> Result<Box<str>, TokenError> {
    lines(value, |text| Pattern::read(text).is_ok(), otherwise)
}
