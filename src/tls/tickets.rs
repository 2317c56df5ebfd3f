//! Session tickets (RFC 8446, 4.6.1; RFC 5077): keys that all shards and all listeners share, that go after twice [`TICKET_KEY_SECONDS`], and that other nodes can have too.
//!
//! A ticket is a key's name, a nonce, and rustls's session under AES-256-GCM. Its context, which is authenticated, says what the listener demands
//! of clients: rustls does not ask a resumed client for its certificate again, so a ticket of a listener that wants none is nothing to one that does.
//! Nonces are random: 2^32 tickets with one key would be too many, and are 200,000 a second for as long as a key makes them.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::bail;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;

use super::files;
use crate::limits::tls::{TICKET_BYTES_MAX, TICKET_KEY_SECONDS, TICKET_SECRET_BYTES_MIN, TICKET_SECRETS_MAX};

const NAME_BYTES: usize = 4;
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;

/// The keys of the process. One for all listeners, for as long as it lives.
#[derive(Debug)]
pub struct Tickets {
    ring: RwLock<Ring>,
}

#[derive(Debug)]
struct Ring {
    /// Whose clocks agree has the same keys at the same time. None: keys that nobody else has.
    shared: Option<Vec<Vec<u8>>>,
    /// How many times [`TICKET_KEY_SECONDS`] have passed since 1970.
    period: u64,
    /// The first makes tickets, all are honoured.
    keys: Vec<Key>,
}

struct Key {
    name: [u8; NAME_BYTES],
    key: LessSafeKey,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tickets {
    pub fn new(unix_seconds: u64) -> anyhow::Result<Tickets> {
        let period = unix_seconds / TICKET_KEY_SECONDS;
        Ok(Tickets { ring: RwLock::new(Ring { shared: None, period, keys: vec![Key::random()?] }) })
    }

    /// Keys that come from a file's secrets from now on, or (None) from nowhere. What it had before is honoured no more, if it is another file.
    pub fn share(&self, file: Option<&Path>, unix_seconds: u64) -> anyhow::Result<()> {
        let shared = file.map(secrets).transpose()?;
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        if ring.shared != shared {
            let period = unix_seconds / TICKET_KEY_SECONDS;
            let keys = match &shared {
                Some(secrets) => derived(secrets, period),
                None => vec![Key::random()?],
            };
            *ring = Ring { shared, period, keys };
        }
        Ok(())
    }

    /// Makes new keys when it is time. To be called every now and then; between the times it costs a look.
    pub fn rotate(&self, unix_seconds: u64) -> anyhow::Result<()> {
        let period = unix_seconds / TICKET_KEY_SECONDS;
        if self.ring.read().unwrap_or_else(PoisonError::into_inner).period == period {
            return Ok(());
        }
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        match &ring.shared {
            Some(secrets) => ring.keys = derived(secrets, period),
            None => {
                // A clock that was set back changes nothing but when the next one comes.
                let kept = usize::from(period <= ring.period + 1);
                ring.keys.truncate(kept);
                ring.keys.insert(0, Key::random()?);
            }
        }
        ring.period = period;
        Ok(())
    }

    fn seal(&self, context: &[u8], session: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let key = ring.keys.first()?;
        let mut ticket = Vec::with_capacity(NAME_BYTES + NONCE_LEN + session.len() + TAG_BYTES);
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(session);
        let content = &mut ticket[NAME_BYTES + NONCE_LEN..];
        let tag = key.key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), content).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        (ticket.len() <= TICKET_BYTES_MAX).then_some(ticket)
    }

    /// `ticket` is whatever somebody sends.
    fn open(&self, context: &[u8], ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, content) = rest.split_first_chunk::<NONCE_LEN>()?;
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let key = ring.keys.iter().find(|key| key.name == *name)?;
        let mut content = content.to_vec();
        let opened = key.key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(context), &mut content).ok()?.len();
        content.truncate(opened);
        Some(content)
    }
}

impl Key {
    fn random() -> anyhow::Result<Key> {
        let mut bytes = [0; NAME_BYTES + KEY_BYTES];
        if rand::fill(&mut bytes).is_err() {
            bail!("the system has no random bytes for ticket keys");
        }
        Ok(Key::new(&bytes))
    }

    fn new(bytes: &[u8; NAME_BYTES + KEY_BYTES]) -> Key {
        let (name, key) = bytes.split_first_chunk().expect("a name is shorter");
        Key { name: *name, key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("AES-256 has keys of 32 bytes")) }
    }
}

/// Of this period, the one before, and the next, which a node whose clock is ahead has begun; of each secret, the first of which makes tickets.
fn derived(secrets: &[Vec<u8>], period: u64) -> Vec<Key> {
    let periods = [period, period.saturating_sub(1), period + 1];
    secrets.iter().flat_map(|secret| periods.map(|period| of_period(secret, period))).collect()
}

fn of_period(secret: &[u8], period: u64) -> Key {
    struct Length;
    impl KeyType for Length {
        fn len(&self) -> usize {
            NAME_BYTES + KEY_BYTES
        }
    }
    let mut bytes = [0; NAME_BYTES + KEY_BYTES];
    let prk = Salt::new(HKDF_SHA256, b"campanile session tickets").extract(secret);
    let filled = prk.expand(&[&period.to_be_bytes()], Length).and_then(|okm| okm.fill(&mut bytes));
    filled.expect("a key is shorter than HKDF's bound");
    Key::new(&bytes)
}

/// Lines, or else one secret of bytes.
fn secrets(file: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let bytes = files::read(file)?;
    let is_text = bytes.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    let secrets: Vec<Vec<u8>> = match is_text {
        true => bytes.split(|&byte| byte == b'\n').map(|line| line.trim_ascii().to_vec()).filter(|line| !line.is_empty()).collect(),
        false => vec![bytes],
    };
    let name = file.display();
    match secrets.iter().map(Vec::len).min() {
        None => bail!("there is nothing in {name}; `openssl rand -base64 48` makes a line of it"),
        Some(bytes) if bytes < TICKET_SECRET_BYTES_MIN => bail!(
            "{name}: a secret of ticket keys has {bytes} bytes, and needs {TICKET_SECRET_BYTES_MIN} at least; `openssl rand -base64 48` makes a line of it"
        ),
        Some(_) if secrets.len() > TICKET_SECRETS_MAX => bail!("{name}: there are more than {TICKET_SECRETS_MAX} secrets of ticket keys"),
        Some(_) => Ok(secrets),
    }
}

/// The tickets of one listener.
#[derive(Debug)]
pub(super) struct ListenersTickets {
    tickets: Arc<Tickets>,
    /// What it demands of clients.
    context: Vec<u8>,
}

impl ListenersTickets {
    pub fn new(tickets: Arc<Tickets>, context: Vec<u8>) -> ListenersTickets {
        ListenersTickets { tickets, context }
    }
}

impl ProducesTickets for ListenersTickets {
    fn enabled(&self) -> bool {
        true
    }

    /// For so long a ticket is good at least.
    fn lifetime(&self) -> u32 {
        TICKET_KEY_SECONDS as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.tickets.seal(&self.context, plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.tickets.open(&self.context, cipher)
    }
}
