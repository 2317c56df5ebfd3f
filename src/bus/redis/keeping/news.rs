//! What nodes tell each other of marks: `EPOCH SEQ CLIENT USER\nCHANNEL`, where CLIENT is the connection that has set it, or `-`.

use crate::auth::identity::check_user;
use crate::bus::marks::MarkNews;
use crate::wire::channel_name;
use crate::wire::json::INTEGER_MAX;

/// Behind the prefix of the channels: servers that share a Redis and nothing else have different ones. No client can name it, and whoever may have all
/// channels of the prefix may have this one.
pub const NAME: &str = "__campanile__:read";

/// On which they are told.
pub fn channel(prefix: &str) -> String {
    format!("{prefix}{NAME}")
}

pub(super) fn told(news: &MarkNews) -> String {
    let by = news.by.map_or("-".to_owned(), |by| by.to_string());
    format!("{} {} {by} {}\n{}", news.epoch, news.seq, news.user, news.channel)
}

/// None: nobody of us has written that.
pub fn news(payload: &[u8]) -> Option<MarkNews> {
    // No user's name holds a line break.
    let (head, channel) = std::str::from_utf8(payload).ok()?.split_once('\n')?;
    let mut parts = head.splitn(4, ' ');
    let mut number = || parts.next()?.parse().ok().filter(|&number| number <= INTEGER_MAX);
    let (epoch, seq) = (number()?, number()?);
    let by = match parts.next()? {
        "-" => None,
        id => Some(id.parse().ok()?),
    };
    let user = parts.next()?;
    check_user(user).ok()?;
    channel_name::check(channel).ok()?;
    Some(MarkNews { user: user.into(), channel: channel.into(), epoch, seq, by })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::client_id::ClientId;

    #[test]
    fn no_client_can_name_it() {
        assert_eq!(channel_name::check(NAME), Err(channel_name::Bad::Reserved));
    }

    #[test]
    fn what_is_told_comes_back_and_nonsense_does_not() {
        for by in [None, Some(ClientId { node: 7, shard: 1, connection: 9 })] {
            let before = MarkNews { user: "a b {".into(), channel: "c d".into(), epoch: 1 << 40, seq: 9, by };
            assert_eq!(news(told(&before).as_bytes()), Some(before));
        }
        for nonsense in [
            "",
            "9007199254740992 2 - u\nc",
            "1 2 - u",
            "1 2 - \nc",
            "1 2 u\nc",
            "x 2 - u\nc",
            "1 -2 - u\nc",
            "1 2 abc u\nc",
            "1 2 - u\n",
            "1 2 - u\na\nb",
        ] {
            assert_eq!(news(nonsense.as_bytes()), None, "{nonsense:?}");
        }
        assert_eq!(news(b"1 2 - \xff\nc"), None);
        assert_eq!(news(format!("1 2 - {}\nc", "u".repeat(251)).as_bytes()), None);
    }
}
