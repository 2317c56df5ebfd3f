//! Messages of a durable channel on their way to the hub: each number once, in order, and no faster than shards have room.

use super::envelope::Envelope;
use super::newest::Newest;
use crate::bus::flow::{Count, Counter};
use crate::bus::hub::{Hub, Outcome, Receipt};
use crate::clock::MonotonicNs;
use crate::limits::redis::durable::ENTRY_BYTES;
use crate::wire::event::GapReason;

/// How far a message got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// To its end, or it was known.
    Whole,
    /// The shards have no room for the rest of it.
    NoRoom,
    /// Numbers before it are missing, or it is of another epoch than what came before.
    Beyond,
    /// Its last number is that of the last message that was handed out, and it is another one.
    Doubled,
}

/// Gives the hub what of an envelope is next, as far as there is room.
pub fn apply(
    hub: &mut Hub,
    channel: &str,
    envelope: &Envelope<'_>,
    received: MonotonicNs,
    turn_bytes: &mut usize,
    newest: &mut Option<Newest>,
) -> Applied {
    let Some(Count { epoch, mut seq, by }) = hub.count_of(channel) else { return Applied::Whole };
    let receipt = Receipt { received, timestamp_ms: envelope.timestamp_ms };
    if by == Counter::Hub {
        // The stream cannot be asked, so its numbers are of no use.
        envelope.payloads().for_each(|payload| put(hub, channel, 0, payload, receipt));
        return Applied::Whole;
    }
    if envelope.epoch != epoch {
        if envelope.epoch > epoch {
            return Applied::Beyond;
        }
        // Of before; it was told when the epoch was renewed.
        hub.metrics().stale.inc();
        return Applied::Whole;
    }
    if envelope.first > seq + 1 {
        return Applied::Beyond;
    }
    for (number, payload) in (envelope.first..).zip(envelope.payloads()) {
        if number <= seq {
            if newest.is_some_and(|newest| newest.is_another(epoch, number, envelope.timestamp_ms, payload)) {
                return Applied::Doubled;
            }
            hub.metrics().repeated.inc();
            continue;
        }
        if !takes(hub, channel, payload.len(), turn_bytes) {
            return Applied::NoRoom;
        }
        put(hub, channel, number, payload, receipt);
        *newest = Some(Newest::of_message(epoch, number, envelope.timestamp_ms, payload));
        seq = number;
    }
    Applied::Whole
}

/// Gives the hub a message that no stream has counted.
pub fn put_plain(hub: &mut Hub, channel: &str, payload: &[u8], receipt: Receipt) {
    match hub.count_of(channel) {
        // Nobody's numbers are of use but the hub's: it has one like any other.
        Some(Count { by: Counter::Hub, .. }) => put(hub, channel, 0, payload, receipt),
        Some(Count { by: Counter::Source, .. }) | None => hub.aside(channel, payload, receipt),
    }
}

/// Whether a message of this size may be handed on now; then it counts.
pub fn takes(hub: &mut Hub, channel: &str, bytes: usize, turn_bytes: &mut usize) -> bool {
    // However large, one finds room in an inbox that is empty.
    let takes = *turn_bytes > 0 && hub.has_room_for(channel, bytes);
    if takes {
        *turn_bytes = turn_bytes.saturating_sub(bytes + ENTRY_BYTES);
    }
    takes
}

/// The next message of a channel. One that cannot be delivered takes its number all the same.
pub fn put(hub: &mut Hub, channel: &str, seq: u64, payload: &[u8], receipt: Receipt) {
    let Some(id) = hub.find(channel) else { return };
    match hub.message(id, payload, receipt) {
        Outcome::Mismatched(_) => hub.lose(channel, seq, GapReason::Dropped),
        Outcome::Numbered(_) | Outcome::Unwanted | Outcome::TooBig | Outcome::Routed | Outcome::Unrouted(_) => {}
    }
}
