//! Who is counted as being there.

use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::bus::presence::{MembersWanted, PresenceAsked, PresenceError, Roster, Subject};
use crate::config::UserPresence;

fn counting() -> Bed {
    bed_of(ChannelRule { presence: true, ..rule() }, &[1000], 1000)
}

fn subscribers(bed: &mut Bed, name: &str) -> Result<u32, PresenceError> {
    bed.hub.count_here(&Subject::Channel(name.into()))
}

/// What a walk over the channels tells, in slices.
fn walked(bed: &mut Bed) -> Vec<(String, u32)> {
    let mut told = Vec::new();
    while !bed.hub.look_at_attendance(|name, count| told.push((name.to_string(), count))) {}
    told
}

impl Bed {
    /// As a shard counts them.
    fn add(&mut self, name: &str, count: u32) {
        let id = self.hub.find(name).unwrap();
        self.hub.registry[id].channel().unwrap().subscribers.fetch_add(count, Relaxed);
    }
}

#[test]
fn a_channel_counts_where_its_rule_says_so() {
    let mut bed = counting();
    bed.join(0, 1, "b");
    bed.join(0, 2, "a");
    bed.add("b", 3);
    assert_eq!((subscribers(&mut bed, "b"), subscribers(&mut bed, "none")), (Ok(3), Ok(0)));
    assert_eq!(walked(&mut bed), [("a".to_owned(), 0), ("b".to_owned(), 3)]);
    // A channel that is forgotten is told once more, as nobody's.
    bed.hub.leave(0, topic(1), "b", T0);
    bed.hub.expire(T0 + LINGER_NS);
    assert_eq!(walked(&mut bed), [("b".to_owned(), 0), ("a".to_owned(), 0)]);
    assert_eq!(walked(&mut bed), [("a".to_owned(), 0)]);
    // No rule: no count.
    bed.hub.reload(settings_of(rule(), 1000));
    while bed.hub.take_over_rules() {}
    assert_eq!(subscribers(&mut bed, "a"), Err(PresenceError::ChannelNotCounted));
    assert_eq!(walked(&mut bed), [("a".to_owned(), 0)]);
    assert_eq!(walked(&mut bed), []);
    // And with one again.
    bed.hub.reload(settings_of(ChannelRule { presence: true, ..rule() }, 1000));
    while bed.hub.take_over_rules() {}
    assert_eq!(walked(&mut bed), [("a".to_owned(), 0)]);
}

/// Shards move those who are there to the new numbers one after the other: meanwhile nobody is missing.
#[test]
fn a_channel_that_is_counted_anew_keeps_its_subscribers() {
    let mut bed = counting();
    bed.hub.join(0, topic(1), "a", somebody(), T0);
    bed.hub.flowing("a", Start::At { epoch: 7, seq: 3 });
    bed.add("a", 5);
    let before = {
        let id = bed.hub.find("a").unwrap();
        bed.hub.registry[id].channel().unwrap().clone()
    };
    bed.hub.flowing("a", Start::At { epoch: 8, seq: 0 });
    // It knows the channel by what it was told.
    bed.got(0);
    assert_eq!(subscribers(&mut bed, "a"), Ok(5));
    bed.add("a", 2);
    before.subscribers.fetch_sub(2, Relaxed);
    assert_eq!(subscribers(&mut bed, "a"), Ok(5));
    bed.add("a", 3);
    before.subscribers.fetch_sub(3, Relaxed);
    assert_eq!((subscribers(&mut bed, "a"), Arc::strong_count(&before)), (Ok(5), 1), "what is over is let go");
}

#[test]
fn many_channels_are_looked_at_in_slices_and_listed_in_pages() {
    use crate::limits::bus::presence::LOOKS_PER_TURN;
    let count = LOOKS_PER_TURN + 10;
    let mut bed = bed_of(ChannelRule { presence: true, ..rule() }, &[count * 2], count);
    for number in 0..count {
        let name = format!("room:{number:05}");
        bed.join(0, number as u32, &name);
        if number % 1000 == 1 {
            bed.add(&name, 1);
        }
    }
    let mut slices = 1;
    while !bed.hub.look_at_attendance(|_, _| ()) {
        slices += 1;
    }
    assert_eq!((slices, walked(&mut bed).len()), (2, count));
    let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = bed.hub.census_here(after.as_deref(), 2);
        found.extend(page.channels.into_iter().map(|(name, _)| name));
        (after, pages) = (page.next, pages + 1);
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, ["room:00001", "room:01001", "room:02001", "room:03001", "room:04001"].map(Box::from));
    assert!(pages >= 3);
}

#[test]
fn users_are_summed_up_over_shards() {
    let settings = HubSettings { user_presence: UserPresence::Count, has_other_nodes: true, ..settings_of(rule(), 10) };
    let mut bed = bed_with(settings, &[10, 10]);
    let user = |bed: &mut Bed, name: &str| bed.hub.count_here(&Subject::User(name.into()));
    bed.hub.count_users(vec![("ann".into(), 2), ("bob".into(), 1)]);
    bed.hub.count_users(vec![("ann".into(), 1), ("bob".into(), -1)]);
    assert_eq!((user(&mut bed, "ann"), user(&mut bed, "bob")), (Ok(3), Ok(0)));
    let mut changed = bed.hub.changed_users(1);
    changed.extend(bed.hub.changed_users(10));
    changed.sort();
    assert_eq!(changed, [("ann".into(), 3), ("bob".into(), 0)]);
    assert_eq!(bed.hub.changed_users(10), []);
    assert_eq!(bed_of(rule(), &[10], 10).hub.count_here(&Subject::User("ann".into())), Err(PresenceError::UsersNotCounted));
}

#[test]
fn members_are_listed_where_the_rule_says_so() {
    let listing = |presence_members| ChannelRule { presence: true, presence_members, ..rule() };
    let mut bed = bed_of(listing(2), &[10, 10], 10);
    let roster = |users: &[&str], is_partial| Roster { users: users.iter().map(|&user| user.into()).collect(), is_partial };
    let listed = |bed: &mut Bed| bed.hub.found_here(&Subject::Channel("a".into()), true).unwrap().roster.unwrap();
    bed.hub.list_members(0, "a".into(), roster(&["ann"], false));
    assert_eq!(listed(&mut bed), roster(&[], false), "nobody here has the channel");
    bed.join(0, 1, "a");
    bed.join(1, 1, "a");
    bed.hub.list_members(0, "a".into(), roster(&["bob", "dan"], false));
    bed.hub.list_members(1, "a".into(), roster(&["bob"], false));
    assert_eq!(listed(&mut bed), roster(&["bob", "dan"], false));
    bed.hub.list_members(1, "a".into(), roster(&["ann"], false));
    assert_eq!(listed(&mut bed), roster(&["ann", "bob"], true));
    assert_eq!(bed.hub.changed_rosters(10), [("a".into(), roster(&["ann", "bob"], true))]);
    assert_eq!(bed.hub.changed_rosters(10), []);
    bed.hub.list_members(0, "a".into(), roster(&[], false));
    assert_eq!(bed.hub.changed_rosters(10), [("a".into(), roster(&["ann"], false))]);

    let may = |bed: &mut Bed, has_members: bool, subject: Subject| {
        let members = has_members.then_some(MembersWanted { after: None, limit: 1 });
        let asker = Asker::Control(tokio::sync::oneshot::channel().0);
        bed.hub.may_ask(&PresenceAsked { subject, members, asker })
    };
    assert_eq!(may(&mut bed, true, Subject::Channel("a".into())), Ok(()));
    assert_eq!(may(&mut bed, true, Subject::User("ann".into())), Err(PresenceError::UsersNotCounted));
    let mut bed = bed_of(listing(0), &[10], 10);
    assert_eq!(may(&mut bed, false, Subject::Channel("a".into())), Ok(()));
    assert_eq!(may(&mut bed, true, Subject::Channel("a".into())), Err(PresenceError::MembersNotListed));
}
