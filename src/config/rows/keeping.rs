//! Rows about what is kept of channels, for how long, and where.

use std::path::PathBuf;

use super::{DAY_S, ROW, seconds, show_seconds};
use crate::config::Fsync;
use crate::config::parse;
use crate::config::table::{Section, Setting, Shown, Value};
use crate::named::Named;

/// The path of a PEM file, or nothing.
macro_rules! pem_file {
    ($field:ident) => {
        Value::One {
            parse: |settings, text| {
                settings.redis.$field = (!text.is_empty()).then(|| PathBuf::from(text));
                Ok(())
            },
            show: |settings| Shown::Text(settings.redis.$field.as_ref().map_or_else(String::new, |path| path.display().to_string())),
        }
    };
}

pub(super) const REDIS_CA: Setting = Setting {
    key: "redis_ca",
    section: Section::Redis,
    placeholder: "FILE",
    help: "Who vouches for a Redis over TLS (rediss://), in place of the system's root certificates: certificates in PEM. Also the server's own, self-signed or not, which is then believed as it stands.",
    accepted: "the path of a PEM file",
    value: pem_file!(tls_ca),
    ..ROW
};

pub(super) const REDIS_CERT: Setting = Setting {
    key: "redis_cert",
    section: Section::Redis,
    placeholder: "FILE",
    help: "As whom this server shows itself to a Redis over TLS that asks (tls-auth-clients): a certificate in PEM, and those between it and its root. With redis_key.",
    accepted: "the path of a PEM file",
    value: pem_file!(tls_cert),
    ..ROW
};

pub(super) const REDIS_KEY: Setting = Setting {
    key: "redis_key",
    section: Section::Redis,
    placeholder: "FILE",
    help: "The private key of redis_cert, in PEM (PKCS #8, PKCS #1 or SEC 1).",
    accepted: "the path of a PEM file",
    value: pem_file!(tls_key),
    ..ROW
};

pub(super) const DATA_DIR: Setting = Setting {
    key: "data_dir",
    section: Section::Redis,
    placeholder: "FOLDER",
    help: "Where the embedded bus keeps the messages of durable channels, so that they and their numbers outlive a restart and a crash. Of this process alone; made if it is not there. Without one they are kept in memory. Not with redis, which keeps them itself.",
    accepted: "the path of a folder",
    value: Value::One {
        parse: |settings, text| {
            settings.journal.data_dir = (!text.is_empty()).then(|| PathBuf::from(text));
            Ok(())
        },
        show: |settings| Shown::Text(settings.journal.data_dir.as_ref().map_or_else(String::new, |path| path.display().to_string())),
    },
    ..ROW
};

pub(super) const FSYNC: Setting = Setting {
    key: "fsync",
    section: Section::Redis,
    placeholder: "WHEN",
    help: "When what is written to data_dir is synced to the disk. interval is once a second: if the host crashes, a second of what was published may be gone. always is before a publish is answered and its message is delivered.",
    ..word!(journal.fsync: Fsync)
};

pub(super) const DURABLE_WAIT: Setting = Setting {
    key: "durable_wait",
    section: Section::Redis,
    placeholder: "N",
    help: "Replicas that must have a message of a durable channel before its publish is acknowledged (WAIT). Fewer within a second: the publisher is told that a failover may lose it.",
    accepted: "0 to 100",
    value: Value::One {
        parse: |settings, text| {
            settings.redis.durable_wait = parse::count(text, 0, 100)?;
            Ok(())
        },
        show: |settings| Shown::Number(settings.redis.durable_wait as u64),
    },
    ..ROW
};

pub(super) const HISTORY_COUNT: Setting = Setting {
    key: "history_count",
    section: Section::Channels,
    placeholder: "N",
    help: "Messages of a channel that this node keeps for clients that resume, as far as they fit log_bytes_per_channel. 0: only what the log still holds.",
    accepted: "0 to 1000000",
    value: rule!("history_count", history_count, text => parse::count(text, 0, 1_000_000), value => Shown::Number(*value as u64)),
    ..ROW
};

pub(super) const HISTORY_AGE: Setting = Setting {
    key: "history_age",
    section: Section::Channels,
    placeholder: "SECONDS",
    help: "How long messages are kept for clients that resume, and a channel with a history after its last subscriber has left.",
    accepted: "1 to 86400 seconds, or with a unit: 30s, 5m, 1h",
    value: rule!("history_age", history_age, text => seconds(text, 1, DAY_S), value => show_seconds(*value)),
    ..ROW
};

pub(super) const DURABLE: Setting = Setting {
    key: "durable",
    section: Section::Channels,
    placeholder: "BOOL",
    help: "Messages get their numbers from where they are kept: a stream in Redis, or without Redis data_dir, or memory. history_count of them stay for history_age: after an outage nothing is missing that is there, and whoever comes back finds it (with Redis, on every node).",
    accepted: "true, false",
    value: rule!("durable", durable, text => parse::boolean(text), value => Shown::Switch(*value)),
    ..ROW
};
