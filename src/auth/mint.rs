//! Makes tokens, for whoever tries a server out and for tests. A server itself makes none.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::Value;

use super::keys::{KeyError, check_secret};

/// A key that tokens can be signed with, and how.
pub struct Signer {
    key: EncodingKey,
    header: Header,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Signer").field("algorithm", &self.header.alg).finish_non_exhaustive()
    }
}

impl Signer {
    /// By HS256.
    pub fn of_secret(secret: &[u8]) -> Result<Signer, KeyError> {
        check_secret(secret)?;
        Ok(Signer { key: EncodingKey::from_secret(secret), header: Header::new(Algorithm::HS256) })
    }

    /// By the algorithm that the private key is for: RS256, ES256, ES384 or EdDSA.
    pub fn of_pem(pem: &str) -> Result<Signer, KeyError> {
        let bytes = pem.as_bytes();
        // Each reader takes its own kind alone; of a key on a curve only signing with it tells which.
        let kinds = [
            (EncodingKey::from_ed_pem(bytes), Algorithm::EdDSA),
            (EncodingKey::from_ec_pem(bytes), Algorithm::ES256),
            (EncodingKey::from_ec_pem(bytes), Algorithm::ES384),
            (EncodingKey::from_rsa_pem(bytes), Algorithm::RS256),
        ];
        let mut signers = kinds.into_iter().filter_map(|(key, algorithm)| Some(Signer { key: key.ok()?, header: Header::new(algorithm) }));
        signers.find(|signer| signer.sign(&Value::Null).is_some()).ok_or_else(|| {
            KeyError::new("it is no private key of RSA, P-256, P-384 or Ed25519 in PKCS #8 (`openssl pkcs8 -topk8 -nocrypt` makes one)")
        })
    }

    /// With this `kid`.
    pub fn named(mut self, id: Option<&str>) -> Signer {
        self.header.kid = id.map(str::to_owned);
        self
    }

    /// None: it cannot sign.
    pub fn sign(&self, claims: &Value) -> Option<String> {
        encode(&self.header, claims, &self.key).ok()
    }
}
