//! Who is there, on this node: how many subscribers the channels have whose rule asks for it, and how many connections users have. Shards write the first as
//! subscriptions come and go (`Channel::subscribers`), so it is looked at now and then; of the second they tell what has changed.
//!
//! Invariant: only what is asked for costs anything: a channel without such a rule has no place here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{ChannelId, Entry, Hub};
use crate::bus::presence::{CensusPage, Found, PresenceAsked, PresenceError, Roster, Subject};
use crate::config::UserPresence;
use crate::fanout::batch::Channel;
use crate::fanout::naming::ChannelName;
use crate::limits::bus::presence::LOOKS_PER_TURN;

#[derive(Debug, Default)]
pub(super) struct Attendance {
    channels: BTreeMap<ChannelName, Attended>,
    /// The channel that was looked at last, while a walk over them is under way.
    place: Option<ChannelName>,
    /// Channels that are not counted any more since the last walk.
    gone: Vec<ChannelName>,
    users: HashMap<Box<str>, u32>,
    /// Of them, those whose count has changed since that was last asked. None: nobody asks.
    changed: Option<HashSet<Box<str>>>,
    /// The same of channels whose members have.
    relisted: HashSet<ChannelName>,
}

#[derive(Debug)]
struct Attended {
    id: ChannelId,
    /// The same under earlier epochs, as long as a shard counts subscribers there.
    former: Vec<Arc<Channel>>,
    /// Who they are, by shard, where that is listed.
    rosters: Vec<(u16, Roster)>,
}

impl Attendance {
    /// `tells`: what changes is asked for ([`Hub::look_at_attendance`], [`Hub::changed_users`]).
    pub(super) fn new(tells: bool) -> Attendance {
        Attendance { changed: tells.then(HashSet::new), ..Attendance::default() }
    }

    /// A channel has this rule now.
    pub(super) fn note(&mut self, id: ChannelId, entry: &Entry) {
        if !entry.rule.presence {
            return self.forget(entry.name());
        }
        self.channels.entry(entry.name().clone()).or_insert_with(|| Attended::new(id)).id = id;
    }

    /// The channel is gone, or nobody wants to know any more.
    pub(super) fn forget(&mut self, name: &ChannelName) {
        if self.channels.remove(name).is_some() && self.changed.is_some() {
            self.gone.push(name.clone());
            self.relisted.insert(name.clone());
        }
    }

    /// It is counted anew: shards move their subscribers over one after the other.
    pub(super) fn renumber(&mut self, before: Option<&Arc<Channel>>) {
        let Some(before) = before else { return };
        if let Some(attended) = self.channels.get_mut(&before.name) {
            attended.former.push(before.clone());
        }
    }
}

impl Attended {
    fn new(id: ChannelId) -> Attended {
        Attended { id, former: Vec::new(), rosters: Vec::new() }
    }

    fn subscribers(&mut self, entry: &Entry) -> u32 {
        // Those of before first: who is moved over meanwhile may be counted twice, and is never missing.
        self.former.retain(|channel| channel.subscribers.load(Relaxed) > 0);
        let former: u32 = self.former.iter().map(|channel| channel.subscribers.load(Relaxed)).sum();
        former + entry.channel().map_or(0, |channel| channel.subscribers.load(Relaxed))
    }
}

impl Hub {
    /// Whether anything is counted, now or as soon as somebody comes.
    pub fn counts_presence(&self) -> bool {
        self.counts_users() || self.counts_channels()
    }

    pub fn counts_channels(&self) -> bool {
        self.settings.rules.has_presence()
    }

    pub fn counts_users(&self) -> bool {
        self.settings.user_presence != UserPresence::None
    }

    /// How many of them are on this node.
    pub fn count_here(&mut self, subject: &Subject) -> Result<u32, PresenceError> {
        match subject {
            Subject::Channel(name) if self.rule_of(name).presence => {
                let Some(attended) = self.attendance.channels.get_mut(&**name) else { return Ok(0) };
                Ok(attended.subscribers(&self.registry[attended.id]))
            }
            Subject::Channel(_) => Err(PresenceError::ChannelNotCounted),
            Subject::User(name) if self.counts_users() => Ok(self.attendance.users.get(name).copied().unwrap_or(0)),
            Subject::User(_) => Err(PresenceError::UsersNotCounted),
        }
    }

    /// Whether this may be asked.
    pub fn may_ask(&mut self, asked: &PresenceAsked) -> Result<(), PresenceError> {
        self.count_here(&asked.subject)?;
        match &asked.subject {
            _ if asked.members.is_none() => Ok(()),
            Subject::Channel(name) if self.rule_of(name).presence_members > 0 => Ok(()),
            Subject::Channel(_) | Subject::User(_) => Err(PresenceError::MembersNotListed),
        }
    }

    /// What this node has.
    pub fn found_here(&mut self, subject: &Subject, has_members: bool) -> Result<Found, PresenceError> {
        let count = self.count_here(subject)?.into();
        Ok(Found { count, roster: has_members.then(|| self.roster_here(subject.name())) })
    }

    /// Who is subscribed to a channel on this node, as far as they are listed.
    fn roster_here(&self, name: &str) -> Roster {
        let rosters = self.attendance.channels.get(name).map_or(&[][..], |attended| &attended.rosters);
        Roster::merged(rosters.iter().map(|(_, roster)| roster.clone()), self.rule_of(name).presence_members)
    }

    /// A shard tells who is subscribed to a channel.
    pub fn list_members(&mut self, shard: u16, channel: ChannelName, roster: Roster) {
        // The rule may be a new one, which has not come round to it.
        if self.rule_of(&channel).presence
            && !self.attendance.channels.contains_key(&channel)
            && let Some(id) = self.find(&channel)
        {
            self.attendance.channels.insert(channel.clone(), Attended::new(id));
        }
        let Attendance { channels, changed, relisted, .. } = &mut self.attendance;
        // Or it is gone, and the shard does not know yet.
        let Some(attended) = channels.get_mut(&channel) else { return };
        attended.rosters.retain(|(other, _)| *other != shard);
        if !roster.is_empty() {
            attended.rosters.push((shard, roster));
        }
        if changed.is_some() {
            relisted.insert(channel);
        }
    }

    /// Channels whose members are others than when this was last asked, and who they are; some of them.
    pub fn changed_rosters(&mut self, limit: usize) -> Vec<(ChannelName, Roster)> {
        let some: Vec<ChannelName> = self.attendance.relisted.iter().take(limit).cloned().collect();
        for name in &some {
            self.attendance.relisted.remove(name);
        }
        some.into_iter().map(|name| (self.roster_here(&name), name)).map(|(roster, name)| (name, roster)).collect()
    }

    /// Channels with subscribers on this node, by their names. A page may be short though more follow: so many are looked at.
    pub fn census_here(&mut self, after: Option<&str>, limit: usize) -> CensusPage {
        let mut page = CensusPage::default();
        let Hub { attendance, registry, .. } = self;
        let behind = (after.map_or(Unbounded, Excluded), Unbounded);
        for (looks, (name, attended)) in attendance.channels.range_mut::<str, _>(behind).enumerate() {
            if looks == LOOKS_PER_TURN || page.channels.len() == limit {
                return page;
            }
            page.next = Some(name.as_str().into());
            let subscribers = attended.subscribers(&registry[attended.id]);
            if subscribers > 0 {
                page.channels.push((name.as_str().into(), subscribers.into()));
            }
        }
        page.next = None;
        page
    }

    /// Goes on with a walk over the channels, and says how many subscribers each has. True: it has come to its end, and the next one begins anew.
    pub fn look_at_attendance(&mut self, mut tell: impl FnMut(&ChannelName, u32)) -> bool {
        let Hub { attendance: Attendance { channels, place, gone, .. }, registry, .. } = self;
        for name in std::mem::take(gone) {
            // It may be there again.
            if !channels.contains_key(&name) {
                tell(&name, 0);
            }
        }
        let behind = place.take();
        let behind = (behind.as_deref().map_or(Unbounded, Excluded), Unbounded);
        for (looks, (name, attended)) in channels.range_mut::<str, _>(behind).enumerate() {
            tell(name, attended.subscribers(&registry[attended.id]));
            if looks + 1 == LOOKS_PER_TURN {
                *place = Some(name.clone());
                return false;
            }
        }
        true
    }

    /// So many connections more, or less, some users have on a shard.
    pub fn count_users(&mut self, changes: Vec<(Box<str>, i32)>) {
        let Attendance { users, changed, .. } = &mut self.attendance;
        for (user, change) in changes {
            if let Some(changed) = changed
                && !changed.contains(&user)
            {
                changed.insert(user.clone());
            }
            let count = users.get(&user).copied().unwrap_or(0).saturating_add_signed(change);
            if count == 0 {
                users.remove(&user);
            } else {
                users.insert(user, count);
            }
        }
        if users.capacity() > 1024 && users.len() * 4 < users.capacity() {
            users.shrink_to(2 * users.len());
        }
    }

    /// Users whose connections are more or less than when this was last asked, and how many they are; some of them.
    pub fn changed_users(&mut self, limit: usize) -> Vec<(Box<str>, u32)> {
        let Attendance { users, changed, .. } = &mut self.attendance;
        let Some(changed) = changed else { return Vec::new() };
        if changed.len() <= limit {
            return std::mem::take(changed).into_iter().map(|user| count_of(users, user)).collect();
        }
        let some: Vec<Box<str>> = changed.iter().take(limit).cloned().collect();
        some.into_iter()
            .map(|user| {
                changed.remove(&user);
                count_of(users, user)
            })
            .collect()
    }
}

fn count_of(users: &HashMap<Box<str>, u32>, user: Box<str>) -> (Box<str>, u32) {
    let count = users.get(&user).copied().unwrap_or(0);
    (user, count)
}
