//! What is asked for, and how far each channel was followed. Sans-IO: events in, commands out. Held by [`super::Client`] from one connection to the next.
//!
//! Invariant: a position only moves over what has been handed to whoever uses the client.

use serde::Serialize;

use super::event::Event;
use crate::wire::Format;
use crate::wire::command::{Position, SUBSCRIBE};

/// A channel, and how it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub(super) channel: String,
    pub(super) since: Option<Position>,
    pub(super) latest: bool,
    pub(super) max_rate: Option<u16>,
}

impl Subscription {
    /// What comes from now on.
    pub fn to(channel: impl Into<String>) -> Subscription {
        Subscription { channel: channel.into(), since: None, latest: false, max_rate: None }
    }

    /// What follows this position, as far as the server still has it.
    pub fn since(self, position: Position) -> Subscription {
        Subscription { since: Some(position), ..self }
    }

    /// The newest message first.
    pub fn latest(self) -> Subscription {
        Subscription { latest: true, ..self }
    }

    /// No more than so many messages a second, 1 to 1000: the newest.
    pub fn max_rate(self, per_second: u16) -> Subscription {
        Subscription { max_rate: Some(per_second), ..self }
    }
}

/// How a subscription goes on from what came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// Nothing came before.
    Begun,
    /// Everything that was missed follows.
    Recovered,
    /// The server still counts as it did, and a `gap` follows that names what will not come.
    LostInPart,
    /// The server counts anew: what was lost before cannot be told, so what is built of messages has to be read again from elsewhere.
    Anew,
}

#[derive(Debug, Default)]
pub(super) struct Subscriptions(Vec<(Subscription, Option<Position>)>);

#[derive(Debug, Serialize)]
struct Subscribe<'a> {
    r#type: &'static str,
    id: u64,
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Position>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    latest: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_rate: Option<u16>,
}

impl Subscriptions {
    /// One more, or another wish for a channel that is there.
    pub fn add(&mut self, subscription: Subscription) {
        let since = subscription.since;
        match self.0.iter_mut().find(|(known, _)| known.channel == subscription.channel) {
            Some(known) => *known = (subscription, since),
            None => self.0.push((subscription, since)),
        }
    }

    pub fn remove(&mut self, channel: &str) {
        self.0.retain(|(known, _)| known.channel != channel);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn has(&self, channel: &str) -> bool {
        self.0.iter().any(|(known, _)| known.channel == channel)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Subscription, Option<Position>)> {
        self.0.iter().map(|(subscription, position)| (subscription, *position))
    }

    /// Whether it is known of each channel where it stands.
    pub fn is_placed(&self) -> bool {
        self.0.iter().all(|(_, position)| position.is_some())
    }

    /// The subscribe commands of a new connection.
    pub fn commands(&self, format: Format) -> Vec<Vec<u8>> {
        let commands = self.0.iter().zip(1..).map(|((subscription, since), id)| Subscribe {
            r#type: SUBSCRIBE,
            id,
            channel: &subscription.channel,
            since: *since,
            latest: subscription.latest,
            max_rate: subscription.max_rate,
        });
        commands
            .map(|command| match format {
                Format::Msgpack => rmp_serde::to_vec_named(&command).expect("texts and numbers can always be written"),
                Format::Json | Format::Raw => serde_json::to_vec(&command).expect("texts and numbers can always be written"),
            })
            .collect()
    }

    /// Follows an event. Of a `subscribed` to one of these channels it says how that goes on.
    pub fn take(&mut self, event: &Event) -> Option<Continuity> {
        match event {
            Event::Subscribed(subscribed) => {
                let position = self.position(&subscribed.channel)?;
                let (before, now) = (*position, Position { epoch: subscribed.epoch, seq: subscribed.seq });
                // What was missed comes after this event, so a recovered channel stands where it stood.
                if !subscribed.recovered || before.is_none() {
                    *position = Some(now);
                }
                Some(match before {
                    None => Continuity::Begun,
                    Some(_) if subscribed.recovered => Continuity::Recovered,
                    Some(before) if before.epoch == now.epoch && before.seq <= now.seq => Continuity::LostInPart,
                    Some(_) => Continuity::Anew,
                })
            }
            Event::Notification(notification) => {
                // One without a number moves no position.
                if let (Some(Some(position)), Some(seq)) = (self.position(&notification.channel), notification.seq) {
                    position.seq = position.seq.max(seq);
                }
                None
            }
            Event::Gap(gap) => {
                if let Some(Some(position)) = self.position(&gap.channel) {
                    position.seq = position.seq.max(gap.to);
                }
                None
            }
            Event::Position(standings) => {
                for standing in standings {
                    if let Some(position) = self.position(&standing.channel) {
                        *position = Some(Position { epoch: standing.epoch, seq: standing.seq });
                    }
                }
                None
            }
            Event::Connected(_) | Event::Unsubscribed(_) | Event::Error(_) | Event::Close(_) | Event::Other { .. } => None,
        }
    }

    fn position(&mut self, channel: &str) -> Option<&mut Option<Position>> {
        self.0.iter_mut().find(|(known, _)| known.channel == channel).map(|(_, position)| position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::event::Received;

    fn commands(subscriptions: &Subscriptions) -> Vec<String> {
        subscriptions.commands(Format::Json).into_iter().map(|command| String::from_utf8(command).unwrap()).collect()
    }

    fn take(subscriptions: &mut Subscriptions, line: &str) -> Option<Continuity> {
        subscriptions.take(&Received::read(Format::Json, line.as_bytes()).unwrap().event)
    }

    fn to(channels: &[&str]) -> Subscriptions {
        let mut subscriptions = Subscriptions::default();
        channels.iter().for_each(|channel| subscriptions.add(Subscription::to(*channel)));
        subscriptions
    }

    /// Whatever order a server says things in, nothing fails, and what is asked for stays.
    #[test]
    fn the_vectors_of_the_protocol_come_in_any_order() {
        let page = include_str!("../../docs/protocol.md");
        let vectors: Vec<Received> = page
            .split("\nvector: event/")
            .skip(1)
            .filter_map(|rest| rest.lines().find_map(|line| line.strip_prefix("json:")))
            .filter_map(|json| Received::read(Format::Json, json.trim().as_bytes()).ok())
            .collect();
        assert!(vectors.len() > 20, "{}", vectors.len());
        let channels: std::collections::BTreeSet<&str> =
            page.split("\"channel\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        for seed in 0..500 {
            fastrand::seed(seed);
            let mut of = Subscriptions::default();
            channels.iter().for_each(|channel| of.add(Subscription::to(*channel)));
            for _ in 0..60 {
                let event = &vectors[fastrand::usize(..vectors.len())].event;
                let before: Vec<_> = of.iter().map(|(subscription, position)| (subscription.channel.clone(), position)).collect();
                of.take(event);
                for ((channel, before), (_, now)) in before.iter().zip(of.iter()) {
                    let stands_anew = matches!(event, Event::Subscribed(_) | Event::Position(_));
                    let goes_on = now.map(|now| now.epoch) == before.map(|before| before.epoch)
                        && now.map(|now| now.seq) >= before.map(|before| before.seq);
                    assert!(stands_anew || goes_on, "seed {seed}: {channel} at {now:?} after {event:?}, was at {before:?}");
                }
                assert_eq!(commands(&of).len(), channels.len(), "seed {seed}");
            }
        }
    }

    #[test]
    fn a_new_connection_goes_on_where_the_old_one_was() {
        let mut of = to(&["a", "b"]);
        assert_eq!(commands(&of), [r#"{"type":"subscribe","id":1,"channel":"a"}"#, r#"{"type":"subscribe","id":2,"channel":"b"}"#]);
        let begun = take(&mut of, r#"{"type":"subscribed","channel":"a","epoch":7,"seq":10,"recovered":false}"#);
        assert_eq!(begun, Some(Continuity::Begun));
        assert!(!of.is_placed());
        take(&mut of, r#"{"type":"notification","channel":"a","seq":11,"data":{"type":"x"}}"#);
        assert_eq!(commands(&of)[0], r#"{"type":"subscribe","id":1,"channel":"a","since":{"epoch":7,"seq":11}}"#);
        assert_eq!(commands(&of)[1], r#"{"type":"subscribe","id":2,"channel":"b"}"#);
        take(&mut of, r#"{"type":"notification","channel":"a","data":"without a number"}"#);
        take(&mut of, r#"{"type":"notification","channel":"not asked for","seq":99,"data":1}"#);
        assert!(commands(&of)[0].contains(r#""seq":11"#));
        // Recovered: 12 and 13 are still to come, whatever head the reply names.
        let recovered = take(&mut of, r#"{"type":"subscribed","channel":"a","epoch":7,"seq":13,"recovered":true}"#);
        assert_eq!(recovered, Some(Continuity::Recovered));
        assert!(commands(&of)[0].contains(r#""seq":11"#));
        take(&mut of, r#"{"type":"gap","channel":"a","from":12,"to":15,"reason":"overrun"}"#);
        assert!(commands(&of)[0].contains(r#""seq":15"#));
        // Another epoch: begin anew.
        let anew = take(&mut of, r#"{"type":"subscribed","channel":"a","epoch":8,"seq":2,"recovered":false}"#);
        assert_eq!(anew, Some(Continuity::Anew));
        assert!(commands(&of)[0].contains(r#"{"epoch":8,"seq":2}"#));
        // The same epoch: a gap follows. Unless it has gone back.
        let same = |seq: u64| format!(r#"{{"type":"subscribed","channel":"a","epoch":8,"seq":{seq},"recovered":false}}"#);
        assert_eq!(take(&mut of, &same(9)), Some(Continuity::LostInPart));
        assert_eq!(take(&mut of, &same(3)), Some(Continuity::Anew));
        take(&mut of, r#"{"type":"position","channels":[{"channel":"b","epoch":1,"seq":2},{"channel":"c","epoch":1,"seq":2}]}"#);
        assert!(of.is_placed());
        assert!(commands(&of)[1].contains(r#"{"epoch":1,"seq":2}"#));
    }

    #[test]
    fn a_channel_is_asked_for_as_it_is_wanted() {
        let mut of = to(&["a"]);
        of.add(Subscription::to("b").since(Position { epoch: 1, seq: 2 }).latest().max_rate(5));
        assert_eq!(commands(&of)[1], r#"{"type":"subscribe","id":2,"channel":"b","since":{"epoch":1,"seq":2},"latest":true,"max_rate":5}"#);
        of.add(Subscription::to("b"));
        assert_eq!(commands(&of)[1], r#"{"type":"subscribe","id":2,"channel":"b"}"#);
        of.remove("a");
        assert!(of.has("b") && !of.has("a") && !of.is_empty());
    }
}
