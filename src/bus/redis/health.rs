//! What the operator is told about the connection to Redis: one line when it is lost or refuses us, one when all is well again, one for each new
//! reason in between; not more than a few a minute, whatever happens. Sans-IO: lines out, written to the log by [`super::server::Server`].

use crate::bus::ration::Ration;
use crate::clock::MonotonicNs;

/// A handful of reasons is all there is; should they vary without end, the log still does not.
const REASONS_MAX: usize = 8;

/// What keeps messages from flowing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Away,
    RefusesForNow,
    RefusesEverything,
    TakesNoMessages,
    IsNotForPublishing,
}

#[derive(Debug)]
pub struct Health {
    /// What it is about, for the operator.
    target: String,
    since: Option<MonotonicNs>,
    was_ever_up: bool,
    was_away: bool,
    is_told: bool,
    reasons: Vec<String>,
    outages: Ration,
}

impl Health {
    pub fn new(target: String, now: MonotonicNs) -> Health {
        let outages = Ration::default();
        Health { target, since: Some(now), was_ever_up: false, was_away: true, is_told: false, reasons: Vec::new(), outages }
    }

    /// It is about another server from now on.
    pub fn retarget(&mut self, target: String) {
        self.target = target;
        self.reasons.clear();
    }

    /// Messages do not flow, or still do not. Returns what is to be said about it.
    pub fn trouble(&mut self, trouble: Trouble, reason: &str, now: MonotonicNs) -> Option<String> {
        let begins = self.since.is_none();
        if begins {
            (self.since, self.was_away, self.is_told) = (Some(now), false, false);
        }
        self.was_away |= trouble == Trouble::Away;
        if self.reasons.len() >= REASONS_MAX || self.reasons.iter().any(|known| known == reason) {
            return None;
        }
        let mut unsaid = 0;
        if !self.is_told {
            // If it lasts, it will be told when it may.
            unsaid = self.outages.take(now)?;
            self.is_told = true;
        }
        self.reasons.push(reason.to_owned());
        let state = match trouble {
            Trouble::Away if begins => "Redis is lost",
            Trouble::Away => "Redis cannot be reached",
            Trouble::RefusesForNow => "Redis takes no subscriptions now",
            Trouble::TakesNoMessages => "Redis takes no messages of durable channels",
            Trouble::IsNotForPublishing => "what is published through this Redis does not reach everybody",
            Trouble::RefusesEverything => "Redis refuses everything that is to be subscribed",
        };
        let before = if unsaid > 0 { format!(" ({unsaid} outages before this one were too many to be told)") } else { String::new() };
        Some(format!("{state} ({}): {reason}. Trying again until it works{before}", self.target))
    }

    /// Messages flow, but for those of channels that are refused.
    pub fn well(&mut self, refused: usize, now: MonotonicNs) -> Option<String> {
        let since = self.since.take()?;
        self.reasons.clear();
        let channels = match refused {
            0 => "every channel is subscribed again".to_owned(),
            count => format!("every channel is subscribed again but {count}, which it refuses"),
        };
        if !std::mem::replace(&mut self.was_ever_up, true) {
            return Some(format!("connected to {}", self.target));
        }
        if !self.is_told {
            self.outages.unsaid += 1;
            return None;
        }
        let state = if self.was_away { "Redis is back" } else { "Redis takes our subscriptions again" };
        Some(format!("{state} ({}) after {:.1} s; {channels}", self.target, now.saturating_sub(since) as f64 / 1e9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn health() -> Health {
        let mut health = Health::new("redis://h:1".into(), 0);
        assert_eq!(health.well(0, SECOND_NS).unwrap(), "connected to redis://h:1");
        health
    }

    #[test]
    fn a_connection_that_comes_and_goes_does_not_fill_the_log() {
        let mut health = health();
        let (mut lost, mut back) = (Vec::new(), 0);
        for number in 0..1200 {
            let now = number * 3 * SECOND_NS;
            lost.extend(health.trouble(Trouble::Away, "Redis closed the connection", now));
            back += health.well(0, now + SECOND_NS / 10).map_or(0, |_| 1);
        }
        // An hour: the burst, and one a minute.
        assert!((60..=65).contains(&lost.len()) && back == lost.len(), "{} lost, {back} back", lost.len());
        assert!(lost.last().unwrap().contains("(19 outages before this one"), "{}", lost.last().unwrap());
    }

    #[test]
    fn an_outage_that_lasts_is_told_even_if_many_short_ones_came_before() {
        let mut health = health();
        for number in 0..100 {
            health.trouble(Trouble::Away, "x", SECOND_NS + number);
            health.well(0, SECOND_NS + number);
        }
        let told = (1..200).filter_map(|second| health.trouble(Trouble::Away, "refused", second * SECOND_NS)).collect::<Vec<_>>();
        assert_eq!(told.len(), 1, "{told:?}");
        let back = health.well(0, 300 * SECOND_NS).unwrap();
        assert!(back.contains("Redis is back") && back.contains("after 299.0 s; every channel is subscribed again"), "{back}");
    }

    #[test]
    fn each_reason_is_told_once_and_what_is_refused_is_not_called_subscribed() {
        let mut health = health();
        let line = health.trouble(Trouble::Away, "reset", SECOND_NS).unwrap();
        assert_eq!(line, "Redis is lost (redis://h:1): reset. Trying again until it works");
        assert_eq!(health.trouble(Trouble::Away, "reset", SECOND_NS), None);
        assert!(health.trouble(Trouble::RefusesEverything, "NOPERM", SECOND_NS).unwrap().contains("refuses everything"));
        let back = health.well(3, 2 * SECOND_NS).unwrap();
        assert!(back.ends_with("every channel is subscribed again but 3, which it refuses"), "{back}");
        assert!(health.trouble(Trouble::RefusesForNow, "BUSY", 3 * SECOND_NS).unwrap().contains("takes no subscriptions now"));
        assert!(health.well(0, 4 * SECOND_NS).unwrap().contains("takes our subscriptions again"));
    }
}
