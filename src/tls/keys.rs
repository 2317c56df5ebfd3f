//! What one direction of a session is sealed with, as bytes: key, iv, and in TLS 1.3 the secret that the next ones come from (RFC 8446, 7.2 and 7.3).

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, HKDF_SHA384, KeyType, Prk};

use super::Version;

/// What records are sealed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aead {
    Aes128Gcm,
    Aes256Gcm,
    Chacha20Poly1305,
}

/// As far as a record layer tells cipher suites apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suite {
    pub version: Version,
    pub aead: Aead,
}

impl Suite {
    pub(super) fn is_tls13(self) -> bool {
        self.version == Version::Tls13
    }

    fn algorithm(self) -> &'static Algorithm {
        match self.aead {
            Aead::Aes128Gcm => &AES_128_GCM,
            Aead::Aes256Gcm => &AES_256_GCM,
            Aead::Chacha20Poly1305 => &CHACHA20_POLY1305,
        }
    }

    pub(super) const fn key_bytes(self) -> usize {
        match self.aead {
            Aead::Aes128Gcm => 16,
            Aead::Aes256Gcm | Aead::Chacha20Poly1305 => 32,
        }
    }

    /// TLS 1.2 makes its keys once.
    pub(super) const fn secret_bytes(self) -> usize {
        match (self.version, self.aead) {
            (Version::Tls12, _) => 0,
            (Version::Tls13, Aead::Aes128Gcm | Aead::Chacha20Poly1305) => 32,
            (Version::Tls13, Aead::Aes256Gcm) => 48,
        }
    }

    /// Of the nonce, in front of each record: GCM in TLS 1.2 (RFC 5288, 3).
    pub(super) const fn explicit_nonce_bytes(self) -> usize {
        match (self.version, self.aead) {
            (Version::Tls12, Aead::Aes128Gcm | Aead::Aes256Gcm) => 8,
            (Version::Tls12, Aead::Chacha20Poly1305) | (Version::Tls13, _) => 0,
        }
    }

    /// How many records one key may seal (RFC 8446, 5.5; as rustls has it).
    pub(super) const fn records_max(self) -> u64 {
        match self.aead {
            Aead::Aes128Gcm | Aead::Aes256Gcm => 1 << 24,
            Aead::Chacha20Poly1305 => 1 << 62,
        }
    }

    /// The secret lies with key and iv.
    const fn is_near(self) -> bool {
        self.key_bytes() + NONCE_LEN + self.secret_bytes() <= NEAR_BYTES
    }
}

/// Secret of the suites with SHA-384.
pub(super) const SECRET_BYTES_MAX: usize = 48;
/// AES-128 in TLS 1.3, which is what most clients get; the others keep their secrets elsewhere.
const NEAR_BYTES: usize = 16 + NONCE_LEN + 32;

/// Key, iv and, if there is room, the secret, one behind the other.
#[derive(Clone)]
pub struct Keys([u8; NEAR_BYTES]);

/// The secret of a direction that has no room in [`Keys`].
pub type FarSecret = [u8; SECRET_BYTES_MAX];

impl std::fmt::Debug for Keys {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Keys")
    }
}

impl Keys {
    /// Those of TLS 1.2.
    pub fn fixed(suite: Suite, key: &[u8], iv: &[u8]) -> Keys {
        let mut keys = Keys([0; NEAR_BYTES]);
        keys.0[..suite.key_bytes()].copy_from_slice(key);
        keys.0[suite.key_bytes()..][..NONCE_LEN].copy_from_slice(iv);
        keys
    }

    /// Those of TLS 1.3 that come from a traffic secret; `far` is where the secret goes if it has no room here.
    pub fn from_secret(suite: Suite, secret: &[u8], far: Option<&mut FarSecret>) -> Keys {
        let mut keys = Keys([0; NEAR_BYTES]);
        let (key, rest) = keys.0.split_at_mut(suite.key_bytes());
        let (iv, near) = rest.split_at_mut(NONCE_LEN);
        expand_label(suite, secret, b"key", key);
        expand_label(suite, secret, b"iv", iv);
        match far {
            Some(far) => far[..secret.len()].copy_from_slice(secret),
            None => near[..secret.len()].copy_from_slice(secret),
        }
        keys
    }

    /// Those after a KeyUpdate.
    pub fn updated(&self, suite: Suite, far: Option<&mut FarSecret>) -> Keys {
        let mut next = [0; SECRET_BYTES_MAX];
        let next = &mut next[..suite.secret_bytes()];
        expand_label(suite, self.secret(suite, far.as_deref()), b"traffic upd", next);
        Keys::from_secret(suite, next, far)
    }

    fn secret<'a>(&'a self, suite: Suite, far: Option<&'a FarSecret>) -> &'a [u8] {
        let near = || &self.0[suite.key_bytes() + NONCE_LEN..];
        &far.map_or_else(near, |far| &far[..])[..suite.secret_bytes()]
    }

    pub(super) fn key(&self, suite: Suite) -> &[u8] {
        &self.0[..suite.key_bytes()]
    }

    pub(super) fn iv(&self, suite: Suite) -> [u8; NONCE_LEN] {
        *self.0[suite.key_bytes()..].first_chunk().expect("there is room for it")
    }

    /// Made anew at each visit: a finished key is 640 bytes, which cost as much to fetch from memory.
    pub(super) fn aead(&self, suite: Suite) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(suite.algorithm(), self.key(suite)).expect("the key has the algorithm's length"))
    }
}

/// Whether the secrets of this suite need a place of their own.
pub(super) fn needs_far(suite: Suite) -> bool {
    !suite.is_near()
}

/// HKDF-Expand-Label without a context (RFC 8446, 7.1).
fn expand_label(suite: Suite, secret: &[u8], label: &[u8], out: &mut [u8]) {
    let algorithm = match suite.secret_bytes() {
        SECRET_BYTES_MAX => HKDF_SHA384,
        _ => HKDF_SHA256,
    };
    let length = (out.len() as u16).to_be_bytes();
    let prefix: &[u8] = b"tls13 ";
    let label_length = [(prefix.len() + label.len()) as u8];
    let info = [&length[..], &label_length, prefix, label, &[0]];
    let filled = Prk::new_less_safe(algorithm, secret).expand(&info, Length(out.len())).and_then(|okm| okm.fill(out));
    filled.expect("keys are shorter than HKDF's bound");
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}
