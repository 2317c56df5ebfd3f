//! What a client asks of a subscription. Read by [`super::command`], kept until the channel flows, and obeyed by the shard.

use super::command::Position;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wish {
    pub begin: Begin,
    /// No more than so many messages a second.
    pub max_rate: Option<u16>,
    /// It is to be told how many messages its user has not read.
    pub unread: bool,
}

/// With what it begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Begin {
    /// With whatever comes.
    #[default]
    Live,
    /// With what came after this position.
    Since(Position),
    /// With the newest message, if there is one and it is kept.
    Newest,
    /// With what came after this position, or with the newest message where its epoch is over.
    SinceOrNewest(Position),
}

/// A place in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Now,
    After(Position),
    /// After this position comes the newest message, of which it is not said that it is missing where it is not kept.
    BeforeNewest(Position),
}

impl Begin {
    pub fn of(since: Option<Position>, latest: bool) -> Begin {
        match (since, latest) {
            (None, false) => Begin::Live,
            (Some(since), false) => Begin::Since(since),
            (None, true) => Begin::Newest,
            (Some(since), true) => Begin::SinceOrNewest(since),
        }
    }

    /// What came before it, its client has.
    pub fn position(self) -> Option<Position> {
        match self {
            Begin::Live | Begin::Newest => None,
            Begin::Since(position) | Begin::SinceOrNewest(position) => Some(position),
        }
    }

    /// In a channel of this epoch whose newest message has this number (0: it has none).
    pub fn from(self, epoch: u64, newest: u64) -> From {
        match self {
            Begin::Live => From::Now,
            Begin::Since(position) => From::After(position),
            Begin::SinceOrNewest(position) if position.epoch == epoch => From::After(position),
            Begin::Newest | Begin::SinceOrNewest(_) if newest == 0 => From::Now,
            Begin::Newest | Begin::SinceOrNewest(_) => From::BeforeNewest(Position { epoch, seq: newest - 1 }),
        }
    }
}

impl From {
    pub fn position(self) -> Option<Position> {
        match self {
            From::Now => None,
            From::After(position) | From::BeforeNewest(position) => Some(position),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_of_another_epoch_is_followed_by_the_newest_where_that_is_wanted() {
        let position = |epoch, seq| Position { epoch, seq };
        let asked = [
            (Begin::of(None, false), From::Now),
            (Begin::of(Some(position(7, 3)), false), From::After(position(7, 3))),
            (Begin::of(Some(position(6, 3)), false), From::After(position(6, 3))),
            (Begin::of(None, true), From::BeforeNewest(position(7, 8))),
            (Begin::of(Some(position(7, 3)), true), From::After(position(7, 3))),
            (Begin::of(Some(position(6, 3)), true), From::BeforeNewest(position(7, 8))),
        ];
        for (begin, from) in asked {
            assert_eq!(begin.from(7, 9), from, "{begin:?}");
        }
        assert_eq!(Begin::Newest.from(7, 0), From::Now);
    }
}
