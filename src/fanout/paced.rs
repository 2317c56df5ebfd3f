//! Subscribers of a channel that want no more than so many of its messages a second, the newest of them (`max_rate`). They are no members of its
//! ordinary laps, so a message that none of them is to get costs nothing for each of them. Those with the same rate are a group, which has laps of its
//! own: whenever there is news and the last lap is long enough ago. Whoever is visited then jumps to the newest message; a gap says what was passed over.
//!
//! Sans-IO: the shard says what time it is, and keeps the list of when which group is due.
//!
//! Invariants: a group is on that list exactly while it waits; a lap begins no sooner than its rate allows after the one before; while somebody is
//! to get the newest message ([`Paced::is_pending`]), the channel's log keeps it, and nothing older for them.

use super::topics::Member;
use crate::clock::MonotonicNs;

/// Messages a second.
pub type PaceRate = u16;

#[derive(Debug, Default)]
pub struct Paced {
    /// By rate, each once.
    groups: Vec<Group>,
    /// Members whose turn has come and whose socket has not taken the message yet.
    owed: u32,
}

#[derive(Debug)]
struct Group {
    rate: PaceRate,
    members: Vec<Member>,
    state: State,
    /// The next lap begins no sooner.
    not_before: MonotonicNs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Everybody has the newest message.
    Idle,
    /// There is news, and a lap will begin when it may.
    Waiting,
    /// `again`: more has come since it began, which those at its beginning have not got.
    Lap { next: u32, again: bool },
}

/// What news means for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// A lap over so many members.
    Now { rate: PaceRate, members: usize },
    /// One then: it is to be asked again ([`Paced::is_due`]).
    At { rate: PaceRate, due: MonotonicNs },
}

/// What has become of the others when a member has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// It has taken the place of the one that has left.
    pub member: Member,
    /// The lap under way has passed that place and has not been to it.
    pub has_escaped: bool,
}

impl Group {
    fn begin(&mut self, now: MonotonicNs) -> Option<Begin> {
        let Group { rate, .. } = *self;
        match &mut self.state {
            State::Waiting => None,
            State::Lap { again, .. } => {
                *again = true;
                None
            }
            State::Idle if self.members.is_empty() => None,
            State::Idle if now < self.not_before => {
                self.state = State::Waiting;
                Some(Begin::At { rate, due: self.not_before })
            }
            State::Idle => {
                self.begin_lap(now);
                Some(Begin::Now { rate, members: self.members.len() })
            }
        }
    }

    fn begin_lap(&mut self, now: MonotonicNs) {
        self.state = State::Lap { next: 0, again: false };
        self.not_before = now + 1_000_000_000 / u64::from(self.rate);
    }
}

impl Paced {
    /// Returns the member's place in its group.
    pub fn add(&mut self, rate: PaceRate, member: Member) -> u32 {
        let at = self.groups.iter().position(|group| group.rate == rate).unwrap_or_else(|| {
            self.groups.push(Group { rate, members: Vec::new(), state: State::Idle, not_before: 0 });
            self.groups.len() - 1
        });
        let members = &mut self.groups[at].members;
        members.push(member);
        members.len() as u32 - 1
    }

    /// The group of a member by its place there.
    fn find(&self, member: Member, place: u32) -> usize {
        let is_there = |group: &Group| group.members.get(place as usize) == Some(&member);
        self.groups.iter().position(is_there).expect("a member is in a group, at its place")
    }

    pub fn rate_of(&self, member: Member, place: u32) -> PaceRate {
        self.groups[self.find(member, place)].rate
    }

    /// Takes a member out; the last one of its group moves into its place.
    pub fn remove(&mut self, member: Member, place: u32) -> Option<Moved> {
        let at = self.find(member, place);
        let group = &mut self.groups[at];
        let last = group.members.len() as u32 - 1;
        group.members.swap_remove(place as usize);
        let mut has_escaped = false;
        if let State::Lap { next, .. } = &mut group.state {
            has_escaped = place < *next && last >= *next;
            *next = (*next).min(last);
        }
        let moved = group.members.get(place as usize).map(|&member| Moved { member, has_escaped });
        self.forget_if_empty(at);
        moved
    }

    /// One that waits is on the shard's list, and one with a lap among its laps.
    fn forget_if_empty(&mut self, at: usize) {
        if self.groups[at].members.is_empty() && self.groups[at].state == State::Idle {
            self.groups.swap_remove(at);
        }
    }

    /// The subscription of the member at this place has moved within its connection.
    pub fn renumber(&mut self, member: Member, place: u32, subscription: u32) {
        let at = self.find(member, place);
        self.groups[at].members[place as usize].subscription = subscription;
    }

    pub fn members(&self) -> impl Iterator<Item = Member> {
        self.groups.iter().flat_map(|group| group.members.iter().copied())
    }

    /// Who has this rate: the last takes the place of one that leaves.
    pub fn members_at(&self, rate: PaceRate) -> &[Member] {
        self.groups.iter().find(|group| group.rate == rate).map_or(&[], |group| &group.members)
    }

    /// The next lower rate that somebody has; None: the highest.
    pub fn rate_below(&self, rate: Option<PaceRate>) -> Option<PaceRate> {
        self.groups.iter().map(|group| group.rate).filter(|&other| rate.is_none_or(|rate| other < rate)).max()
    }

    pub fn rate_count(&self) -> usize {
        self.groups.len()
    }

    pub fn member_count(&self) -> usize {
        self.groups.iter().map(|group| group.members.len()).sum()
    }

    /// Neither members nor a group that anybody will ask about.
    pub fn is_over(&self) -> bool {
        self.groups.is_empty()
    }

    /// Something was appended.
    pub fn news(&mut self, now: MonotonicNs, mut begin: impl FnMut(Begin)) {
        self.groups.iter_mut().filter_map(|group| group.begin(now)).for_each(&mut begin);
    }

    /// A member of this rate has not got everything.
    pub fn news_for(&mut self, rate: PaceRate, now: MonotonicNs) -> Option<Begin> {
        self.group(rate)?.begin(now)
    }

    fn group(&mut self, rate: PaceRate) -> Option<&mut Group> {
        self.groups.iter_mut().find(|group| group.rate == rate)
    }

    /// Whether a group that waited may go: its lap begins, over so many.
    pub fn is_due(&mut self, rate: PaceRate, now: MonotonicNs) -> Option<usize> {
        let group = self.group(rate).filter(|group| group.state == State::Waiting && group.not_before <= now)?;
        group.begin_lap(now);
        Some(group.members.len())
    }

    /// The next member to visit in the lap of this group.
    pub fn next_visit(&mut self, rate: PaceRate) -> Option<Member> {
        let group = self.group(rate)?;
        let State::Lap { next, .. } = &mut group.state else { return None };
        let member = group.members.get(*next as usize).copied()?;
        *next += 1;
        Some(member)
    }

    pub fn lap_is_over(&self, rate: PaceRate) -> bool {
        let group = self.groups.iter().find(|group| group.rate == rate);
        group.is_none_or(|group| !matches!(group.state, State::Lap { next, .. } if (next as usize) < group.members.len()))
    }

    /// Everybody has been visited. Returns when the group is to be asked again, if more has come.
    pub fn end_lap(&mut self, rate: PaceRate) -> Option<MonotonicNs> {
        let at = self.groups.iter().position(|group| group.rate == rate)?;
        let group = &mut self.groups[at];
        let again = matches!(group.state, State::Lap { again: true, .. }) && !group.members.is_empty();
        group.state = if again { State::Waiting } else { State::Idle };
        let due = group.not_before;
        self.forget_if_empty(at);
        again.then_some(due)
    }

    pub fn add_owed(&mut self) {
        self.owed += 1;
    }

    pub fn remove_owed(&mut self) {
        self.owed -= 1;
    }

    /// Whether somebody is still to get the newest message.
    pub fn is_pending(&self) -> bool {
        self.owed > 0 || self.groups.iter().any(|group| group.state != State::Idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: MonotonicNs = 1_000_000_000;

    fn member(conn: u32) -> Member {
        Member { conn, subscription: 0 }
    }

    fn news(paced: &mut Paced, now: MonotonicNs) -> Vec<Begin> {
        let mut begun = Vec::new();
        paced.news(now, |begin| begun.push(begin));
        begun
    }

    fn lap(paced: &mut Paced, rate: PaceRate) -> Vec<u32> {
        std::iter::from_fn(|| paced.next_visit(rate)).map(|member| member.conn).collect()
    }

    #[test]
    fn a_group_has_a_lap_when_there_is_news_and_its_rate_allows() {
        let mut paced = Paced::default();
        for conn in 0..3 {
            assert_eq!(paced.add(5, member(conn)), conn);
        }
        paced.add(1, member(7));
        assert_eq!(news(&mut paced, SECOND), [Begin::Now { rate: 5, members: 3 }, Begin::Now { rate: 1, members: 1 }]);
        assert_eq!((lap(&mut paced, 5), paced.end_lap(5)), (vec![0, 1, 2], None));
        assert_eq!((lap(&mut paced, 1), paced.end_lap(1), paced.is_pending()), (vec![7], None, false));
        // However much comes, there is one lap more, and the time for it.
        let due = SECOND + SECOND / 5;
        assert_eq!(news(&mut paced, SECOND + 1), [Begin::At { rate: 5, due }, Begin::At { rate: 1, due: 2 * SECOND }]);
        assert!(news(&mut paced, SECOND + 2).is_empty() && paced.is_pending());
        assert_eq!((paced.is_due(5, due - 1), paced.is_due(5, due), paced.is_due(5, due)), (None, Some(3), None));
        assert_eq!(paced.next_visit(5), Some(member(0)));
        // What comes during a lap has another one.
        assert!(news(&mut paced, due + 1).is_empty());
        assert_eq!((lap(&mut paced, 5), paced.lap_is_over(5), paced.end_lap(5)), (vec![1, 2], true, Some(due + SECOND / 5)));
        assert_eq!(paced.is_due(5, due + SECOND / 5), Some(3));
    }

    #[test]
    fn nobody_is_passed_over_when_others_leave() {
        let mut paced = Paced::default();
        for conn in 0..4 {
            paced.add(5, member(conn));
        }
        news(&mut paced, SECOND);
        assert_eq!((paced.next_visit(5), paced.next_visit(5)), (Some(member(0)), Some(member(1))));
        assert_eq!(paced.remove(member(0), 0), Some(Moved { member: member(3), has_escaped: true }));
        assert_eq!((paced.rate_of(member(3), 0), lap(&mut paced, 5)), (5, vec![2]));
        assert_eq!(paced.remove(member(1), 1), Some(Moved { member: member(2), has_escaped: false }));
        paced.renumber(member(2), 1, 9);
        assert_eq!(paced.remove(Member { conn: 2, subscription: 9 }, 1), None);
        assert_eq!(paced.remove(member(3), 0), None);
        assert!(paced.lap_is_over(5) && !paced.is_over() && paced.end_lap(5).is_none() && paced.is_over());
    }
}
