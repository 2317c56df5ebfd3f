//! Rows about permessage-deflate.

use super::{K, ROW, push_distinct, size};
use crate::config::parse;
use crate::config::table::{Section, Setting, Shown, Value};
use crate::limits::{DEFLATE_EXCLUDED_BYTES_MAX, DEFLATE_EXCLUDED_MAX};

pub(super) const DEFLATE: Setting = Setting {
    key: "deflate",
    section: Section::Clients,
    placeholder: "BOOL",
    help: "Agrees to permessage-deflate where clients offer it. Each message is compressed once for all who have agreed, in channels with 16 subscribers or more; others get it plain. The format raw gets it only where the client asks with ?deflate=true. It costs about a megabyte for each shard.",
    accepted: "true, false",
    value: Value::Switch { set: |settings, on| settings.clients.deflate = on, get: |settings| settings.clients.deflate },
    live: true,
    ..ROW
};

pub(super) const DEFLATE_MIN_BYTES: Setting = Setting {
    key: "deflate_min_bytes",
    section: Section::Clients,
    placeholder: "SIZE",
    help: "Messages to clients that are shorter than this, with what stands around their payload, are not compressed.",
    accepted: "64 to 128k, as in 512, 2k",
    value: one!(clients.deflate_min_bytes, text => size(text, 64, 128 * K), value => Shown::Bytes(*value as u64)),
    live: true,
    ..ROW
};

pub(super) const DEFLATE_LEVEL: Setting = Setting {
    key: "deflate_level",
    section: Section::Clients,
    placeholder: "LEVEL",
    help: "How hard to compress, from 1 (fast) to 9. 1 takes a third of the time and saves half as much; beyond 2 there is little to gain.",
    accepted: "1, 2, 3, 4, 5, 6, 7, 8, 9",
    value: one!(clients.deflate_level, text => parse::number(text, 1, 9).map(|level| level as u32), value => Shown::Number(u64::from(*value))),
    live: true,
    ..ROW
};

/// Part of a header's value.
fn agent_part(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("it is empty, and every client's name has that in it".to_owned()),
        bytes if bytes > DEFLATE_EXCLUDED_BYTES_MAX => Err(format!("it has {bytes} bytes, more than {DEFLATE_EXCLUDED_BYTES_MAX}")),
        _ if text.contains(|letter: char| letter.is_control() || !letter.is_ascii()) => {
            Err("it holds something else than ASCII".to_owned())
        }
        _ => Ok(text.to_owned()),
    }
}

pub(super) const DEFLATE_EXCLUDE: Setting = Setting {
    key: "deflate_exclude",
    section: Section::Clients,
    placeholder: "TEXT",
    help: "Clients whose User-Agent has this text in it are not sent compressed messages, whatever they offer. The default is Safari 15 to 17, which does not keep to what it agrees to. May be given more than once.",
    accepted: "parts of a User-Agent, up to 128 letters of ASCII, as in Version/15.",
    value: Value::Many {
        clear: |settings| settings.clients.deflate_exclude.clear(),
        push: |settings, text| {
            let listed = &mut settings.clients.deflate_exclude;
            if listed.len() >= DEFLATE_EXCLUDED_MAX {
                return Err(format!("more than {DEFLATE_EXCLUDED_MAX} are listed"));
            }
            push_distinct(listed, agent_part(text)?)
        },
        show: |settings| settings.clients.deflate_exclude.clone(),
    },
    live: true,
    ..ROW
};
