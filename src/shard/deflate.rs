//! permessage-deflate on a shard: who gets it, what the thread compresses and inflates with, and what of a write is compressed.
//!
//! How that stands with each batch says [`crate::fanout::compressor`]; the bytes are [`crate::wire::deflate`]'s. Compressor and inflater are made when the first
//! client agrees, and stay: a shard has one of each, whoever its clients are.

use super::Shard;
use super::net::Network;
use super::settings::ShardSettings;
use crate::fanout::compressor::{Compressor, Counts};
use crate::fanout::cursor::Cursor;
use crate::fanout::log::Log;
use crate::limits;
use crate::wire::Format;
use crate::wire::deflate::{Deflater, Inflater};
use crate::wire::framing::Encoding;
use crate::wire::http::extensions::{self, Agreed};
use crate::wire::http::upgrade::Upgrade;
use crate::wire::inbound::{Event, Payload};

/// None of both: nobody has agreed to it yet.
#[derive(Debug, Default)]
pub(super) struct Deflate {
    compressor: Option<Box<Compressor>>,
    inflater: Option<Box<Inflater>>,
    /// Bytes in this turn.
    inflated: usize,
}

impl Deflate {
    #[inline]
    pub(super) fn begin_turn(&mut self) {
        self.inflated = 0;
        if let Some(compressor) = &mut self.compressor {
            compressor.begin_turn();
        }
    }

    /// Whoever has something to say waits for the next turn: what came compressed has cost enough in this one.
    #[inline]
    pub(super) fn has_inflated_enough(&self) -> bool {
        self.inflated >= limits::INFLATE_BYTES_PER_TURN
    }

    fn make(&mut self, settings: &ShardSettings) {
        let clients = &settings.clients;
        self.compressor.get_or_insert_with(|| {
            let compressor = Compressor::new(clients.deflate_level, clients.deflate_min_bytes);
            Box::new(compressor.with_subscribers_min(settings.deflate_subscribers_min))
        });
        self.inflater.get_or_insert_default();
    }

    /// Other settings.
    pub(super) fn set(&mut self, settings: &ShardSettings) {
        if let Some(compressor) = &mut self.compressor {
            compressor.set(settings.clients.deflate_level, settings.clients.deflate_min_bytes);
        }
    }

    /// For what one client alone is sent.
    pub(super) fn deflater(&mut self) -> Option<&mut Deflater> {
        self.compressor.as_mut().map(|compressor| compressor.deflater())
    }
}

impl<N: Network> Shard<N> {
    /// What is agreed with whoever asks for this. What it offers is only looked at where it could be served.
    pub(super) fn agree_deflate(&mut self, upgrade: &Upgrade<'_>) -> Option<Agreed> {
        let clients = &self.settings.clients;
        if !clients.deflate {
            return None;
        }
        // A payload alone is the smallest there is, and who wants it so mostly parses it as it comes off the wire: it has to ask.
        let is_raw = !upgrade.echo && upgrade.format.unwrap_or(clients.format) == Format::Raw;
        if !upgrade.deflate_wanted.unwrap_or(!is_raw) {
            return None;
        }
        let agents = || upgrade.head.fields.values("user-agent");
        let is_excluded = |text: &String| agents().any(|agent| contains(agent, text.as_bytes()));
        let agreed = extensions::agree(&upgrade.head.fields)?;
        if clients.deflate_exclude.iter().any(is_excluded) {
            self.metrics.deflate_excluded.inc();
            return None;
        }
        self.deflate.make(&self.settings);
        self.metrics.deflate_agreed.inc();
        Some(agreed)
    }

    /// Settles what of a write to this connection is compressed; see [`Log::settle`].
    pub(super) fn settle_picked(&mut self, key: usize, picked: &[u32], bytes_max: usize) {
        let Some(compressor) = &mut self.deflate.compressor else { return };
        let conn = &self.conns[key];
        for subscription in picked.iter().map(|&at| &conn.subscriptions[at as usize]).filter(|one| !one.is_on_pages()) {
            let Some(log) = self.topics[subscription.topic].log() else { continue };
            let cursor = subscription.cursor();
            let next = if cursor.is_mid_frame() { log.boundary_after(cursor) } else { cursor };
            if next.seq >= log.tail() {
                log.settle(next, conn.encoding(), bytes_max, compressor);
            }
        }
        self.count_compressed();
    }

    /// The same of all that is about to be merged.
    pub(super) fn settle_all(&mut self, topic: u32) {
        let (Some(compressor), Some(log)) = (&mut self.deflate.compressor, self.topics[topic].log()) else { return };
        log.settle_all(compressor);
        self.count_compressed();
    }

    fn count_compressed(&mut self) {
        let Some(compressor) = &mut self.deflate.compressor else { return };
        let Counts { messages, bytes_before, bytes_after, in_vain } = compressor.take_counts();
        if messages + in_vain > 0 {
            self.metrics.deflate_messages.add(messages);
            self.metrics.deflate_bytes_before.add(bytes_before);
            self.metrics.deflate_bytes_after.add(bytes_after);
            self.metrics.deflate_in_vain.add(in_vain);
        }
    }

    /// A client's compressed message, as it would have come without.
    pub(super) fn on_compressed(&mut self, key: usize, text: bool, payload: &[u8], bytes_max: usize) {
        let mut inflater = self.deflate.inflater.take().unwrap_or_default();
        self.metrics.inflated_bytes_before.add(payload.len() as u64);
        match inflater.inflate_message(text, payload, bytes_max) {
            Ok(message) => {
                self.metrics.messages_inflated.inc();
                self.metrics.inflated_bytes_after.add(message.len() as u64);
                self.deflate.inflated += message.len();
                self.on_said(key, Event::Message { text, payload: Payload::Borrowed(message) }, bytes_max);
            }
            Err(violation) => {
                self.deflate.inflated += bytes_max;
                self.fail(key, &violation);
            }
        }
        self.deflate.inflater = Some(inflater);
    }
}

/// The messages between two cursors that were sent compressed.
pub(super) fn count_deflated(log: &Log, from: Cursor, to: Cursor, encoding: Encoding) -> u64 {
    // The frame that is finished here may have been begun plain.
    let whole = if from.is_mid_frame() && !from.is_settled { log.boundary_after(from).seq } else { from.seq };
    log.compressed_count(whole.min(to.seq), to.seq, encoding)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len().max(1)).any(|window| window == part)
}

const _: () = assert!(limits::DEFLATE_BYTES_PER_TURN <= limits::DEFLATE_BYTES_MAX, "one message may go beyond a turn's part");
