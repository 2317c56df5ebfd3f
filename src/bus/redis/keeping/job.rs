//! One question about marks, round by round: what Redis is asked, and what its answers mean.
//!
//! A user's marks are a sorted set, `PREFIX{USER}:marks`: of each channel the member `EPOCH:CHANNEL`, its score the number up to which the user has read it. A
//! channel of a renewed epoch is another member, so that a mark of before counts for nothing; what such epochs leave behind goes when there are too many
//! ([`super::errand`]).
//!
//! Where a channel stands lies with the channel, on another server perhaps, and in another slot of a Cluster: so each command is about one key, and it is here
//! that numbers are subtracted.

use redis::Value;

use super::Whose;
use super::errand::Errand;
use crate::bus::flow::{Count, Counter};
use crate::bus::hub::Hub;
use crate::bus::marks::{MarkNews, MarksError, MarksQuestion, MarksResult, MarksWanted, Unread};
use crate::bus::redis::{durable, keys};
use crate::limits::redis::keeping::{MARKS_AGE, MARKS_PER_USER_MAX};
use crate::wire::json;

#[derive(Debug)]
pub(super) struct Job {
    pub question: Box<MarksQuestion>,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// Where do the channels stand?
    Standing(Vec<Standing>),
    /// And how far has the user read those that have an epoch?
    Marks { standings: Vec<Standing>, scores: Vec<Option<u64>> },
    /// The mark is set.
    Set { of: Unread, has_moved: bool, score: Option<u64>, count: u64 },
}

/// What Redis says of a channel.
#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    epoch: Option<u64>,
    last: u64,
    /// Epoch and number of the first message that is kept.
    oldest: Option<(u64, u64)>,
}

impl Standing {
    /// How many messages are kept.
    fn kept(&self) -> u64 {
        match self.oldest {
            None => 0,
            Some((epoch, seq)) if Some(epoch) == self.epoch => (self.last + 1).saturating_sub(seq),
            // Of an epoch that is over: what came since is all there.
            Some(_) => self.last,
        }
    }
}

/// What follows from the answers of a round.
#[derive(Debug)]
pub(super) enum Next {
    /// Another round.
    Ask,
    Done(MarksResult, Vec<Errand>),
}

/// Commands of a channel, in [`Step::Standing`]: the second is asked where something is to be counted.
const STANDING_COMMANDS: usize = 2;

impl Job {
    pub fn new(question: Box<MarksQuestion>, hub: &mut Hub) -> Job {
        let step = match known(&question.wanted, hub) {
            Some(of) => Step::set(of),
            None => Step::standing(&question.wanted),
        };
        Job { question, step }
    }

    pub fn begin_anew(&mut self) {
        self.step = Step::standing(&self.question.wanted);
    }

    fn is_counted(&self) -> bool {
        !matches!(self.question.wanted, MarksWanted::Read { .. })
    }

    /// Who has what this round asks about, command by command.
    pub fn commands(&self) -> Vec<Whose<'_>> {
        let user = Whose::User(&self.question.user);
        match &self.step {
            Step::Standing(_) => {
                let commands = if self.is_counted() { STANDING_COMMANDS } else { 1 };
                self.question.wanted.channels().flat_map(|channel| std::iter::repeat_n(Whose::Channel(channel), commands)).collect()
            }
            Step::Marks { .. } => vec![user; 2],
            Step::Set { .. } => vec![user; 4],
        }
    }

    /// Writes the command at this place of them.
    pub fn write(&self, place: usize, prefix: &str, ask: &mut dyn FnMut(&[&[u8]])) {
        let key = keys::marks(prefix, &self.question.user);
        let age_ms = MARKS_AGE.as_millis().to_string();
        match &self.step {
            Step::Standing(_) => {
                let per_channel = if self.is_counted() { STANDING_COMMANDS } else { 1 };
                let channel = self.question.wanted.channels().nth(place / per_channel).unwrap_or_default();
                match place % per_channel {
                    0 => ask(&[b"HMGET", keys::meta(prefix, channel).as_bytes(), b"e", b"n"]),
                    _ => ask(&[b"XRANGE", keys::stream(prefix, channel).as_bytes(), b"-", b"+", b"COUNT", b"1"]),
                }
            }
            Step::Marks { standings, .. } if place == 0 => {
                let members = self.question.wanted.channels().zip(standings).filter_map(|(channel, of)| Some(member(of.epoch?, channel)));
                let members: Vec<String> = members.collect();
                let mut command = vec![b"ZMSCORE".as_slice(), key.as_bytes()];
                command.extend(members.iter().map(String::as_bytes));
                ask(&command);
            }
            Step::Set { of, .. } if place < 3 => {
                let channel = self.question.wanted.channels().next().unwrap_or_default();
                let (member, seq) = (member(of.epoch.unwrap_or_default(), channel), of.read.to_string());
                match place {
                    0 => ask(&[b"ZADD", key.as_bytes(), b"GT", b"CH", seq.as_bytes(), member.as_bytes()]),
                    1 => ask(&[b"ZSCORE", key.as_bytes(), member.as_bytes()]),
                    _ => ask(&[b"ZCARD", key.as_bytes()]),
                }
            }
            // Marks that are used stay.
            Step::Marks { .. } | Step::Set { .. } => ask(&[b"PEXPIRE", key.as_bytes(), age_ms.as_bytes()]),
        }
    }

    /// Redis has answered the command at this place.
    pub fn take(&mut self, place: usize, value: &Value) {
        let per_channel = if self.is_counted() { STANDING_COMMANDS } else { 1 };
        match &mut self.step {
            Step::Standing(standings) => {
                let Some(of) = standings.get_mut(place / per_channel) else { return };
                match place % per_channel {
                    0 => (of.epoch, of.last) = standing(&numbers(value)),
                    _ => of.oldest = durable::first(value),
                }
            }
            Step::Marks { scores, .. } if place == 0 => *scores = scores_of(value),
            Step::Set { has_moved, .. } if place == 0 => *has_moved = number(value) == Some(1),
            Step::Set { score: found, .. } if place == 1 => *found = score(value),
            Step::Set { count, .. } if place == 2 => *count = number(value).unwrap_or(0),
            Step::Marks { .. } | Step::Set { .. } => {}
        }
    }

    /// What the command at this place is about, for whoever reads of an error.
    pub fn about(&self, place: usize) -> String {
        match self.commands().get(place) {
            Some(Whose::Channel(channel)) => format!(" (of the channel {channel})"),
            Some(Whose::User(_)) | None => " (of the user's marks)".to_owned(),
        }
    }

    /// All answers of the round are there, and none is an error.
    pub fn next(&mut self) -> Next {
        match &mut self.step {
            Step::Standing(standings) => match &self.question.wanted {
                MarksWanted::Read { epoch: asked, seq, .. } => {
                    let of = standings.first().copied().unwrap_or_default();
                    match (of.epoch, *asked) {
                        (None, _) => Next::Done(Ok(vec![Unread::default()]), Vec::new()),
                        (Some(epoch), Some(asked)) if asked != epoch => {
                            Next::Done(Err(MarksError::OtherEpoch { asked, epoch }), Vec::new())
                        }
                        (Some(_), _) => {
                            self.step = Step::set(Unread { epoch: of.epoch, last: of.last, read: (*seq).min(of.last), unread: 0 });
                            Next::Ask
                        }
                    }
                }
                MarksWanted::Unread { .. } | MarksWanted::Begin { .. } => {
                    if standings.iter().all(|of| of.epoch.is_none()) {
                        return Next::Done(Ok(standings.iter().map(|_| Unread::default()).collect()), Vec::new());
                    }
                    self.step = Step::Marks { standings: std::mem::take(standings), scores: Vec::new() };
                    Next::Ask
                }
            },
            Step::Marks { standings, scores } => {
                let mut scores = std::mem::take(scores).into_iter();
                let unread = |of: &Standing| {
                    let Standing { epoch: Some(epoch), last, .. } = *of else { return Unread::default() };
                    let read = scores.next().flatten().unwrap_or(0).min(last);
                    Unread { epoch: Some(epoch), last, read, unread: (last - read).min(of.kept()) }
                };
                Next::Done(Ok(standings.iter().map(unread).collect()), Vec::new())
            }
            Step::Set { of, has_moved, score, count } => {
                of.read = score.unwrap_or(of.read).max(of.read);
                let user = &self.question.user;
                let channel: Box<str> = self.question.wanted.channels().next().unwrap_or_default().into();
                let epoch = of.epoch.unwrap_or_default();
                let mut errands = Vec::new();
                if *count > MARKS_PER_USER_MAX as u64 {
                    errands.push(Errand::Look { user: user.clone(), keep: member(epoch, &channel).into(), found: Vec::new() });
                }
                if *has_moved {
                    let by = self.question.by;
                    errands.push(Errand::Tell(MarkNews { user: user.clone(), channel, epoch, seq: of.read, by }));
                }
                Next::Done(Ok(vec![*of]), errands)
            }
        }
    }
}

impl Step {
    fn standing(wanted: &MarksWanted) -> Step {
        Step::Standing(wanted.channels().map(|_| Standing::default()).collect())
    }

    fn set(of: Unread) -> Step {
        Step::Set { of, has_moved: false, score: None, count: 0 }
    }
}

/// A mark within what this node has handed out itself: Redis need not be asked where the channel stands.
fn known(wanted: &MarksWanted, hub: &mut Hub) -> Option<Unread> {
    let MarksWanted::Read { channel, epoch: asked, seq } = wanted else { return None };
    let Count { epoch, seq: last, by: Counter::Source } = hub.count_of(channel)? else { return None };
    let is_it = hub.is_flowing(channel) && *seq <= last && asked.is_none_or(|asked| asked == epoch);
    is_it.then_some(Unread { epoch: Some(epoch), last, read: *seq, unread: 0 })
}

pub(super) fn member(epoch: u64, channel: &str) -> String {
    format!("{epoch}:{channel}")
}

/// Of HMGET: an epoch and the last number in it. Where one is missing, or is none, the channel has had no message.
fn standing(numbers: &[Option<u64>]) -> (Option<u64>, u64) {
    match *numbers {
        [Some(epoch @ 1..=json::INTEGER_MAX), Some(last), ..] => (Some(epoch), last.min(json::INTEGER_MAX)),
        _ => (None, 0),
    }
}

/// What a reply says, number by number. A text that is none counts as missing.
fn numbers(value: &Value) -> Vec<Option<u64>> {
    match value {
        Value::Array(values) => values.iter().map(number).collect(),
        other => vec![number(other)],
    }
}

/// Of ZMSCORE.
fn scores_of(value: &Value) -> Vec<Option<u64>> {
    match value {
        Value::Array(values) => values.iter().map(score).collect(),
        other => vec![score(other)],
    }
}

/// A score that is no number of a message (somebody else's, for we write none) is as far as it goes: ours would not take its place.
fn score(value: &Value) -> Option<u64> {
    let score: f64 = match value {
        Value::Double(score) => *score,
        Value::Int(score) => *score as f64,
        Value::BulkString(digits) => std::str::from_utf8(digits).ok()?.parse().ok()?,
        _ => return None,
    };
    Some((score as u64).min(json::INTEGER_MAX))
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => (*number).try_into().ok(),
        Value::BulkString(digits) => json::unsigned(std::str::from_utf8(digits).ok()?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::question::Asker;

    fn job(wanted: MarksWanted) -> Job {
        let (sender, _) = tokio::sync::oneshot::channel();
        let step = Step::standing(&wanted);
        Job { question: MarksQuestion::boxed(Asker::Control(sender), "u", wanted), step }
    }

    /// The round is answered with these replies, the last first: servers answer in an order of their own.
    fn answer(job: &mut Job, replies: &[&str]) -> Next {
        assert_eq!(job.commands().len(), replies.len());
        for (place, reply) in replies.iter().enumerate().rev() {
            job.take(place, &redis::parse_redis_value(reply.as_bytes()).unwrap());
        }
        job.next()
    }

    #[test]
    fn what_is_unread_is_what_is_kept_behind_the_mark() {
        let channels = ["a", "b", "c", "d", "e"].map(Into::into).into();
        let mut job = job(MarksWanted::Unread { channels });
        let replies = [
            "*2\r\n$1\r\n5\r\n$3\r\n100\r\n",
            // Of the epoch before: all that came in this one is there.
            "*1\r\n*2\r\n$3\r\n4-7\r\n*4\r\n$1\r\nd\r\n$1\r\nx\r\n$1\r\nt\r\n$1\r\n1\r\n",
            "*2\r\n$-1\r\n$-1\r\n",
            "*0\r\n",
            "*2\r\n$1\r\n6\r\n$3\r\n100\r\n",
            // Three messages in an entry, 71 to 73.
            "*1\r\n*2\r\n$4\r\n6-73\r\n*6\r\n$1\r\nl\r\n$5\r\n0 0 0\r\n$1\r\np\r\n$0\r\n\r\n$1\r\nt\r\n$1\r\n1\r\n",
            "*2\r\n$1\r\n7\r\n$1\r\n9\r\n",
            "*0\r\n",
            "*2\r\n$1\r\nx\r\n$1\r\n9\r\n",
            "*1\r\n*2\r\n$3\r\n5-1\r\n*4\r\n$1\r\nd\r\n$1\r\nx\r\n$1\r\nt\r\n$1\r\n1\r\n",
        ];
        assert!(matches!(answer(&mut job, &replies), Next::Ask));
        let Next::Done(Ok(unread), errands) = answer(&mut job, &["*3\r\n$2\r\n90\r\n$-1\r\n$3\r\n999\r\n", ":1\r\n"]) else {
            panic!("an answer")
        };
        let of = |epoch, last, read, unread| Unread { epoch: Some(epoch), last, read, unread };
        assert_eq!(unread, [of(5, 100, 90, 10), Unread::default(), of(6, 100, 0, 30), of(7, 9, 9, 0), Unread::default()]);
        assert!(errands.is_empty());
    }

    #[test]
    fn what_others_have_written_is_taken_as_far_as_it_goes() {
        let of = |reply: &str| score(&redis::parse_redis_value(reply.as_bytes()).unwrap());
        let replies =
            [",7\r\n", ",3.5\r\n", ",-5\r\n", ",nan\r\n", ",inf\r\n", ",1e300\r\n", "$4\r\n1e15\r\n", ":9\r\n", "$1\r\nx\r\n", "_\r\n"];
        let most = Some(json::INTEGER_MAX);
        let expected = [Some(7), Some(3), Some(0), Some(0), most, most, Some(1_000_000_000_000_000), Some(9), None, None];
        assert_eq!(replies.map(of), expected);
        let at = |numbers: [Option<u64>; 2]| standing(&numbers);
        assert_eq!(at([Some(5), Some(u64::MAX)]), (Some(5), json::INTEGER_MAX));
        for missing in [[None, Some(5)], [Some(5), None], [Some(0), Some(5)], [Some(1 << 53), Some(5)]] {
            assert_eq!(at(missing), (None, 0), "{missing:?}");
        }
    }

    #[test]
    fn a_mark_is_no_further_than_the_channel_and_of_its_epoch() {
        let read = |epoch, seq| MarksWanted::Read { channel: "a".into(), epoch, seq };
        let mut further = job(read(None, 500));
        assert!(matches!(answer(&mut further, &["*2\r\n$1\r\n5\r\n$3\r\n100\r\n"]), Next::Ask));
        // Somebody else has set a higher one meanwhile.
        let Next::Done(Ok(unread), errands) = answer(&mut further, &[":0\r\n", "$3\r\n100\r\n", ":1\r\n", ":1\r\n"]) else {
            panic!("an answer")
        };
        assert_eq!((unread[0].read, errands.len()), (100, 0), "nobody is told what they know");
        let mut other = job(read(Some(4), 5));
        let Next::Done(Err(error), _) = answer(&mut other, &["*2\r\n$1\r\n5\r\n$3\r\n100\r\n"]) else { panic!("a refusal") };
        assert_eq!(error, MarksError::OtherEpoch { asked: 4, epoch: 5 });
        let mut unknown = job(read(None, 5));
        let Next::Done(Ok(unread), errands) = answer(&mut unknown, &["*2\r\n$-1\r\n$-1\r\n"]) else { panic!("an answer") };
        assert_eq!((unread, errands.len()), (vec![Unread::default()], 0));
    }

    #[test]
    fn each_command_goes_to_whoever_has_its_key_and_an_error_names_it() {
        let job = job(MarksWanted::Unread { channels: vec!["a".into(), "b".into()] });
        let channel = Whose::Channel;
        assert_eq!(job.commands(), [channel("a"), channel("a"), channel("b"), channel("b")]);
        assert_eq!((&*job.about(3), &*job.about(9)), (" (of the channel b)", " (of the user's marks)"));
        let mut written = Vec::new();
        job.write(3, "p:", &mut |command| {
            written.push(command.iter().map(|part| String::from_utf8_lossy(part).into_owned()).collect::<Vec<_>>())
        });
        assert_eq!(written, [["XRANGE", "p:{b}:stream", "-", "+", "COUNT", "1"]]);
    }
}
