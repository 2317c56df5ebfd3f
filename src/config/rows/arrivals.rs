//! Rows about who comes in, from where, and how often: listeners, proxies, limits of addresses; and who may use the control port. Each has its place in the table.

use super::{NAMED_TWICE, ROW, push_distinct, show_limit, size};
use crate::config::table::{Section, Setting, Shown, Value};
use crate::config::{listen_url, mask, parse};
use crate::limits::{self, CONNECTIONS_MAX, RATE_PER_SECOND_MAX};
use crate::listen::{self, Listener};

pub(super) const LISTEN: Setting = Setting {
    key: "listen",
    section: Section::Addresses,
    placeholder: "ADDR",
    help: "Public address for WebSocket clients, or unix socket. May be given more than once.",
    accepted: listen_url::ACCEPTED,
    value: Value::Many {
        clear: |settings| settings.addresses.listen.clear(),
        push: |settings, text| {
            let listener = listen_url::listener(text)?;
            let listed = &mut settings.addresses.listen;
            if listed.iter().any(|other| other.address.is_at(&listener.address)) {
                return Err(NAMED_TWICE.to_owned());
            }
            listen::add(listed, listener);
            Ok(())
        },
        show: |settings| settings.addresses.listen.iter().map(Listener::to_string).collect(),
    },
    ..ROW
};

pub(super) const TRUSTED_PROXIES: Setting = Setting {
    key: "trusted_proxies",
    section: Section::Addresses,
    placeholder: "NET",
    help: "Proxies whose word is taken for where clients come from: by PROXY header on listeners marked proxy+, by X-Forwarded-For on all. Who connects by a unix socket is believed as well. May be given more than once.",
    accepted: "addresses and networks, as in 10.0.0.0/8, 127.0.0.1, 2001:db8::/32",
    value: Value::Many {
        clear: |settings| settings.addresses.trusted_proxies.clear(),
        push: |settings, text| {
            let network = parse::network(text)?;
            if settings.addresses.trusted_proxies.add(network) { Ok(()) } else { Err(NAMED_TWICE.to_owned()) }
        },
        show: |settings| settings.addresses.trusted_proxies.shown(),
    },
    live: true,
    ..ROW
};

/// What a header may hold without quotes (RFC 6750, 2.1), or nothing.
fn control_token(text: &str) -> Result<Option<String>, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    match text.len() {
        0 => Ok(None),
        bytes if bytes < CONTROL_TOKEN_BYTES_MIN => {
            Err(format!("it has {bytes} bytes, and a token needs {CONTROL_TOKEN_BYTES_MIN} at least"))
        }
        _ if text.bytes().all(is_plain) => Ok(Some(text.to_owned())),
        _ => Err("it holds something else than letters, digits and -._~+/=".to_owned()),
    }
}

/// Nobody guesses 96 bits.
const CONTROL_TOKEN_BYTES_MIN: usize = 16;

pub(super) const CONTROL_TOKEN: Setting = Setting {
    key: "control_token",
    section: Section::Addresses,
    placeholder: "TOKEN",
    help: "What every request to the control port must bring (Authorization: Bearer TOKEN), but for /healthz, /readyz and /demo. Needed where control is neither loopback nor a unix socket. Better in CAMPANILE_CONTROL_TOKEN or in the file than as a flag.",
    accepted: "16 letters, digits or -._~+/= at least, as `openssl rand -base64 24` makes them",
    value: Value::One {
        parse: |settings, text| {
            settings.addresses.control_token = control_token(text)?;
            Ok(())
        },
        show: |settings| Shown::Text(settings.addresses.control_token.clone().unwrap_or_default()),
    },
    secret: Some(mask::secret),
    live: true,
    ..ROW
};

pub(super) const CONNECTIONS_PER_ADDRESS: Setting = Setting {
    key: "connections_per_address",
    section: Section::Bounds,
    placeholder: "N",
    help: "Connections that one address (an IPv6 /64) may have, from accept on. The next one is answered 429. Behind a proxy that trusted_proxies does not name, all clients share its address.",
    accepted: "none, or 1 to 16777216",
    value: one!(bounds.connections_per_address, text => parse::limit(text, CONNECTIONS_MAX), value => show_limit(*value)),
    live: true,
    ..ROW
};

pub(super) const ACCEPTS_PER_ADDRESS: Setting = Setting {
    key: "accepts_per_address",
    section: Section::Bounds,
    placeholder: "N",
    help: "New connections that one address (an IPv6 /64) may make in a second, as many at once. The next one is answered 429, or closed at once where too many are.",
    accepted: "none, or 1 to 10000",
    value: one!(bounds.accepts_per_address, text => parse::limit(text, RATE_PER_SECOND_MAX), value => show_limit(*value)),
    live: true,
    ..ROW
};

pub(super) const ACCEPTS_PER_SECOND: Setting = Setting {
    key: "accepts_per_second",
    section: Section::Bounds,
    placeholder: "N",
    help: "New connections that are taken in a second, as many at once, whoever they are from. The next one is answered 503, or closed at once where too many are.",
    accepted: "none, or 1 to 1000000",
    value: one!(bounds.accepts_per_second, text => parse::limit(text, 1_000_000), value => show_limit(*value)),
    live: true,
    ..ROW
};

pub(super) const HEAD_BYTES_MAX: Setting = Setting {
    key: "head_bytes_max",
    section: Section::Bounds,
    placeholder: "SIZE",
    help: "Longest request head. A longer one is answered 431.",
    accepted: "1k to 64k, as in 8192, 16k",
    value: one!(bounds.head_bytes_max, text => size(text, limits::HEAD_BYTES_MIN as u64, limits::HEAD_BYTES_MAX as u64), value => Shown::Bytes(*value as u64)),
    live: true,
    ..ROW
};

pub(super) const COMMANDS_PER_SECOND: Setting = Setting {
    key: "commands_per_second",
    section: Section::Bounds,
    placeholder: "N",
    help: "Commands that one connection may send in a second, in the long run; after a rest four times subscriptions_max more at once. The next one is answered with the error rate_limited.",
    accepted: "none, or 1 to 10000",
    value: one!(bounds.commands_per_second, text => parse::limit(text, RATE_PER_SECOND_MAX), value => show_limit(*value)),
    live: true,
    ..ROW
};

pub(super) const CONTROL_HOSTS: Setting = Setting {
    key: "control_hosts",
    section: Section::Addresses,
    placeholder: "NAME",
    help: "A host name under which the control port answers, besides its addresses and localhost; for a proxy in front of it. May be given more than once.",
    accepted: "a host name without a port, as in ops.example.org",
    value: Value::Many {
        clear: |settings| settings.addresses.control_hosts.clear(),
        push: |settings, text| push_distinct(&mut settings.addresses.control_hosts, parse::host_name(text)?),
        show: |settings| settings.addresses.control_hosts.clone(),
    },
    live: true,
    ..ROW
};

pub(super) const RELOAD_ON_CHANGE: Setting = Setting {
    key: "reload_on_change",
    section: Section::Addresses,
    placeholder: "BOOL",
    help: "Reads the file of settings and those of keys again when they have changed, as SIGHUP does. Off, SIGHUP or POST /reload is needed.",
    accepted: "true, false",
    value: Value::Switch {
        set: |settings, on| settings.addresses.reload_on_change = on,
        get: |settings| settings.addresses.reload_on_change,
    },
    live: true,
    ..ROW
};
