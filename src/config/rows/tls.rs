//! Rows about TLS on the public port.

use std::path::PathBuf;

use super::{ROW, push_distinct};
use crate::config::parse;
use crate::config::table::{Section, Setting, Shown, Value};
use crate::config::words::TlsSessions;
use crate::named::Named;
use crate::tls::Version;
use crate::tls::acceptor::ClientAuth;

/// As rustls calls them.
const SUITE_NAMES: &str = "TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256, \
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, \
    TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256";

/// A path, or nothing.
macro_rules! file {
    ($field:ident) => {
        Value::One {
            parse: |settings, text| {
                settings.tls.$field = (!text.is_empty()).then(|| PathBuf::from(text));
                Ok(())
            },
            show: |settings| Shown::Text(settings.tls.$field.as_ref().map_or_else(String::new, |path| path.display().to_string())),
        }
    };
}

/// Paths. One may be listed twice: two certificates may have one key.
macro_rules! files {
    ($field:ident) => {
        Value::Many {
            clear: |settings| settings.tls.$field.clear(),
            push: |settings, text| match text {
                "" => Err("it is empty".to_owned()),
                _ => {
                    settings.tls.$field.push(PathBuf::from(text));
                    Ok(())
                }
            },
            show: |settings| settings.tls.$field.iter().map(|path| path.display().to_string()).collect(),
        }
    };
}

pub(super) const CERT: Setting = Setting {
    key: "tls_cert",
    section: Section::Tls,
    placeholder: "FILE",
    help: "A certificate for listeners with tls://, in PEM: its own first, then those between it and its root. Its key stands at the same place of tls_key. May be given more than once: clients get the one that has the name they ask for, and the first if none has.",
    accepted: "the path of a PEM file",
    value: files!(certs),
    live: true,
    ..ROW
};

pub(super) const KEY: Setting = Setting {
    key: "tls_key",
    section: Section::Tls,
    placeholder: "FILE",
    help: "The private key of a certificate, in PEM (PKCS #8, PKCS #1 or SEC 1): the first of the first tls_cert, and so on.",
    accepted: "the path of a PEM file",
    value: files!(keys),
    live: true,
    ..ROW
};

pub(super) const MIN_VERSION: Setting = Setting {
    key: "tls_min_version",
    section: Section::Tls,
    placeholder: "VERSION",
    help: "The lowest version of TLS that is spoken.",
    live: true,
    ..word!(tls.min_version: Version)
};

pub(super) const SUITES: Setting = Setting {
    key: "tls_suites",
    section: Section::Tls,
    placeholder: "NAME",
    help: "A cipher suite that may be agreed on, the best first. None: those that the crypto library holds good, the cheapest first. May be given more than once.",
    accepted: SUITE_NAMES,
    value: Value::Many {
        clear: |settings| settings.tls.suites.clear(),
        push: |settings, text| {
            if !SUITE_NAMES.split(", ").any(|name| name == text) {
                return Err(format!("{text:?} is none that is known"));
            }
            push_distinct(&mut settings.tls.suites, text.to_owned())
        },
        show: |settings| settings.tls.suites.clone(),
    },
    live: true,
    ..ROW
};

pub(super) const CLIENT_AUTH: Setting = Setting {
    key: "tls_client_auth",
    section: Section::Tls,
    placeholder: "HOW",
    help: "Whether clients show certificates of their own, from a root in tls_client_ca. if_given: whoever has none comes in without.",
    live: true,
    ..word!(tls.client_auth: ClientAuth)
};

pub(super) const CLIENT_CA: Setting = Setting {
    key: "tls_client_ca",
    section: Section::Tls,
    placeholder: "FILE",
    help: "The roots that clients' certificates must come from, in PEM.",
    accepted: "the path of a PEM file",
    value: file!(client_ca),
    live: true,
    ..ROW
};

pub(super) const TICKET_KEYS: Setting = Setting {
    key: "tls_ticket_keys",
    section: Section::Tls,
    placeholder: "FILE",
    help: "A file of random bytes (head -c 48 /dev/urandom) that is the same on several nodes: a client may then take up its session on another one. Whoever has it can read tickets that were made by it: change it now and then. Without one, keys are made at start, and new ones every six hours.",
    accepted: "the path of a file of at least 32 bytes",
    value: file!(ticket_keys),
    live: true,
    ..ROW
};

pub(super) const SESSIONS: Setting = Setting {
    key: "tls_sessions",
    section: Section::Tls,
    placeholder: "WHAT",
    help: "What is kept of a session. compact: what its record layer needs, a quarter of a kilobyte. rustls: the record layer of rustls, several kilobytes, for whoever trusts that more.",
    live: true,
    ..word!(tls.sessions: TlsSessions)
};
