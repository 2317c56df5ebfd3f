//! Which channels have subscribers anywhere, of all servers of a bus: each tells a page of its own, and one is made of them. Owned by [`super::RedisBus`].
//!
//! Each server tells the first names behind the same one, as many as are asked for; so as many of the smallest of all of them are the first of all.

use std::collections::HashMap;

use super::presence::Census;
use crate::bus::hub::Hub;
use crate::bus::presence::{CensusPage, PresenceError};
use crate::bus::question::{Answer, Asker};

#[derive(Debug, Default)]
pub struct Censuses {
    open: HashMap<u64, Gathering>,
    next: u64,
}

#[derive(Debug)]
struct Gathering {
    asker: Asker,
    limit: usize,
    /// Servers that have not told theirs.
    left: usize,
    channels: Vec<(Box<str>, u64)>,
    has_more: bool,
    error: Option<PresenceError>,
}

impl Censuses {
    /// What so many servers are to be asked by.
    pub fn begin(&mut self, asker: Asker, limit: usize, servers: usize) -> u64 {
        let number = self.next;
        self.next += 1;
        self.open.insert(number, Gathering { asker, limit, left: servers, channels: Vec::new(), has_more: false, error: None });
        number
    }

    /// A server has told its part.
    pub fn take(&mut self, hub: &mut Hub, part: Census) {
        let Some(gathering) = self.open.get_mut(&part.number) else { return };
        gathering.left -= 1;
        gathering.channels.extend(part.channels);
        gathering.has_more |= part.has_more;
        gathering.error = gathering.error.take().or(part.error);
        if gathering.left == 0 {
            let gathering = self.open.remove(&part.number).expect("it was found");
            let (asker, result) = gathering.finish();
            hub.answer(asker, Answer::Census { result });
        }
    }
}

impl Gathering {
    fn finish(self) -> (Asker, Result<CensusPage, PresenceError>) {
        let Gathering { asker, limit, mut channels, has_more, error, .. } = self;
        if let Some(error) = error {
            return (asker, Err(error));
        }
        channels.sort();
        let has_more = has_more || channels.len() > limit;
        channels.truncate(limit);
        let next = channels.last().map(|(name, _)| name.clone()).filter(|_| has_more);
        // They were told to be there, and have gone since.
        channels.retain(|&(_, count)| count > 0);
        (asker, Ok(CensusPage { channels, next }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server tells: names and numbers, and whether there are more.
    type Told = (&'static [(&'static str, u64)], bool);

    fn finished(limit: usize, parts: &[Told]) -> CensusPage {
        let (sender, _receiver) = tokio::sync::oneshot::channel();
        let channels = parts.iter().flat_map(|(names, _)| *names).map(|&(name, count)| (name.into(), count)).collect();
        let has_more = parts.iter().any(|(_, has_more)| *has_more);
        let gathering = Gathering { asker: Asker::Control(sender), limit, left: 0, channels, has_more, error: None };
        gathering.finish().1.unwrap()
    }

    #[test]
    fn the_first_of_all_servers_make_a_page() {
        let page = |names: &[(&str, u64)], next: Option<&str>| CensusPage {
            channels: names.iter().map(|&(name, count)| (name.into(), count)).collect(),
            next: next.map(Box::from),
        };
        let parts: [Told; 2] = [(&[("a", 1), ("c", 2)], true), (&[("b", 3), ("z", 4)], false)];
        assert_eq!(finished(2, &parts), page(&[("a", 1), ("b", 3)], Some("b")));
        assert_eq!(finished(2, &[(&[("a", 1)], false), (&[("b", 0)], false)]), page(&[("a", 1)], None));
        assert_eq!(finished(2, &[(&[("a", 0), ("b", 0)], true)]), page(&[], Some("b")));
        assert_eq!(finished(2, &[]), page(&[], None));
    }
}
