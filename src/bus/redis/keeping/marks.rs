//! One question about marks, step by step: what Redis is asked, and what its answers mean.
//!
//! A user's marks are a sorted set, `PREFIX{USER}:marks`: of each channel the member `EPOCH:CHANNEL`, its score the number up to which the user has read it. A
//! channel of a renewed epoch is another member, so that a mark of before counts for nothing; what such epochs leave behind goes when there are too many.

use redis::{ServerError, Value};

use super::super::keys;
use super::news::told;
use crate::bus::flow::{Count, Counter};
use crate::bus::hub::Hub;
use crate::bus::marks::{MarkNews, MarksError, MarksQuestion, MarksResult, MarksWanted, Unread};
use crate::clock::MonotonicNs;
use crate::limits::redis::keeping::{MARKS_AGE, MARKS_PER_USER_MAX, MARKS_TRIMMED_MORE};
use crate::wire::json;

#[derive(Debug)]
pub(super) struct Job {
    pub question: MarksQuestion,
    pub give_up_at: MonotonicNs,
    step: Step,
    /// What came in answer to this step, number by number.
    numbers: Vec<Option<u64>>,
    /// Answers that are still to come, of so many.
    left: usize,
    count: usize,
    /// The first error among them, and which channel it is about.
    pub refusal: Option<(ServerError, String)>,
}

#[derive(Debug)]
enum Step {
    /// It is to be asked where the channels stand.
    Standing,
    /// And then how far the user has read them.
    Marks(Vec<Unread>),
    /// The mark is set.
    Set(Unread),
}

/// What follows from the answers to a step.
#[derive(Debug)]
pub(super) enum Next {
    Ask,
    Done(MarksResult, Vec<Errand>),
}

type Ask<'a> = &'a mut dyn FnMut(&[&[u8]]);

impl Job {
    pub fn new(question: MarksQuestion, give_up_at: MonotonicNs) -> Job {
        Job { question, give_up_at, step: Step::Standing, numbers: Vec::new(), left: 0, count: 0, refusal: None }
    }

    pub fn begin_anew(&mut self) {
        self.step = Step::Standing;
    }

    /// Writes the commands of the step.
    pub fn write(&mut self, hub: &mut Hub, prefix: &str, ask: Ask<'_>) {
        self.numbers.clear();
        self.refusal = None;
        if let Some(unread) = self.known(hub) {
            self.step = Step::Set(unread);
        }
        let mut count = 0;
        let mut ask = |command: &[&[u8]]| {
            count += 1;
            ask(command);
        };
        let key = keys::marks(prefix, &self.question.user);
        match &self.step {
            Step::Standing => {
                let is_counted = !matches!(self.question.wanted, MarksWanted::Read { .. });
                for channel in self.question.wanted.channels() {
                    ask(&[b"HMGET", keys::meta(prefix, channel).as_bytes(), b"e", b"n"]);
                    if is_counted {
                        ask(&[b"XLEN", keys::stream(prefix, channel).as_bytes()]);
                    }
                }
            }
            Step::Marks(standings) => {
                let members = self.question.wanted.channels().zip(standings).filter_map(|(channel, of)| Some(member(of.epoch?, channel)));
                let members: Vec<String> = members.collect();
                let mut command = vec![b"ZMSCORE".as_slice(), key.as_bytes()];
                command.extend(members.iter().map(String::as_bytes));
                ask(&command);
            }
            Step::Set(of) => {
                let channel = self.question.wanted.channels().next().unwrap_or_default();
                let (member, seq) = (member(of.epoch.unwrap_or_default(), channel), of.read.to_string());
                ask(&[b"ZADD", key.as_bytes(), b"GT", b"CH", seq.as_bytes(), member.as_bytes()]);
                ask(&[b"ZSCORE", key.as_bytes(), member.as_bytes()]);
                ask(&[b"ZCARD", key.as_bytes()]);
            }
        }
        (self.left, self.count) = (count, count);
    }

    /// A mark within what this node has handed out itself: Redis need not be asked where the channel stands.
    fn known(&self, hub: &mut Hub) -> Option<Unread> {
        let (MarksWanted::Read { channel, epoch: asked, seq }, Step::Standing) = (&self.question.wanted, &self.step) else { return None };
        let Count { epoch, seq: last, by: Counter::Source } = hub.count_of(channel)? else { return None };
        let is_it = hub.is_flowing(channel) && *seq <= last && asked.is_none_or(|asked| asked == epoch);
        is_it.then_some(Unread { epoch: Some(epoch), last, read: *seq, unread: 0 })
    }

    /// Redis has answered a command; true: it was the last of the step.
    pub fn take(&mut self, answer: Result<&Value, &ServerError>) -> bool {
        let at = self.count - self.left;
        match answer {
            Ok(value) => push_numbers(value, &mut self.numbers),
            Err(error) if self.refusal.is_none() => self.refusal = Some((error.clone(), self.about(at))),
            Err(_) => {}
        }
        self.left -= 1;
        self.left == 0
    }

    /// What the command at this place is about.
    fn about(&self, at: usize) -> String {
        let per_channel = if matches!(self.question.wanted, MarksWanted::Read { .. }) { 1 } else { 2 };
        match &self.step {
            Step::Standing => {
                self.question.wanted.channels().nth(at / per_channel).map_or_else(String::new, |channel| format!(" (of the channel {channel})"))
            }
            Step::Marks(_) | Step::Set(_) => " (of the user's marks)".to_owned(),
        }
    }

    /// All answers are there, and none is an error.
    pub fn next(&mut self) -> Next {
        match &mut self.step {
            Step::Standing => self.stand(),
            Step::Marks(standings) => {
                let mut marks = std::mem::take(&mut self.numbers).into_iter();
                for of in standings.iter_mut().filter(|of| of.epoch.is_some()) {
                    // Until here it says how many are kept.
                    let kept = of.unread;
                    of.read = marks.next().flatten().unwrap_or(0).min(of.last);
                    of.unread = (of.last - of.read).min(kept);
                }
                let touch = Errand::Touch { user: self.question.user.clone() };
                Next::Done(Ok(std::mem::take(standings)), vec![touch])
            }
            Step::Set(of) => {
                let [changed, score, card, ..] = self.numbers.as_slice() else { return Next::Done(Ok(vec![*of]), Vec::new()) };
                let (has_moved, card) = (*changed == Some(1), card.unwrap_or(0));
                of.read = score.unwrap_or(of.read).max(of.read);
                let user = &self.question.user;
                let channel: Box<str> = self.question.wanted.channels().next().unwrap_or_default().into();
                let epoch = of.epoch.unwrap_or_default();
                let mut errands = vec![Errand::Touch { user: user.clone() }];
                if card > MARKS_PER_USER_MAX as u64 {
                    errands.push(Errand::Look { user: user.clone(), keep: member(epoch, &channel).into(), refusal: None, found: Vec::new() });
                }
                if has_moved {
                    let news = MarkNews { user: user.clone(), channel, epoch, seq: of.read, by: self.question.by };
                    errands.push(Errand::Tell { news, refusal: None });
                }
                Next::Done(Ok(vec![*of]), errands)
            }
        }
    }

    fn stand(&mut self) -> Next {
        let numbers = std::mem::take(&mut self.numbers);
        match &self.question.wanted {
            MarksWanted::Read { epoch: asked, seq, .. } => {
                let of = standing(&numbers);
                match (of.epoch, *asked) {
                    (None, _) => Next::Done(Ok(vec![of]), Vec::new()),
                    (Some(epoch), Some(asked)) if asked != epoch => Next::Done(Err(MarksError::OtherEpoch { asked, epoch }), Vec::new()),
                    (Some(_), _) => {
                        self.step = Step::Set(Unread { read: (*seq).min(of.last), ..of });
                        Next::Ask
                    }
                }
            }
            MarksWanted::Unread { .. } | MarksWanted::Begin { .. } => {
                let standings: Vec<Unread> = numbers.chunks(3).map(standing).collect();
                if standings.iter().all(|of| of.epoch.is_none()) {
                    return Next::Done(Ok(standings), Vec::new());
                }
                self.step = Step::Marks(standings);
                Next::Ask
            }
        }
    }
}

/// What is to be done when somebody was answered. None of it changes what was answered.
#[derive(Debug)]
pub(super) enum Errand {
    /// The user's marks are used: they stay.
    Touch { user: Box<str> },
    /// The other nodes are told.
    Tell { news: MarkNews, refusal: Option<ServerError> },
    /// There are too many: which of them?
    Look { user: Box<str>, keep: Box<str>, refusal: Option<ServerError>, found: Vec<Box<[u8]>> },
    /// These go.
    Drop { user: Box<str>, members: Vec<Box<[u8]>> },
}

impl Errand {
    /// Writes its one command.
    pub fn write(&mut self, prefix: &str, channel: &str, ask: Ask<'_>) {
        match self {
            Errand::Touch { user } => {
                let age_ms = MARKS_AGE.as_millis().to_string();
                ask(&[b"PEXPIRE", keys::marks(prefix, user).as_bytes(), age_ms.as_bytes()]);
            }
            Errand::Tell { news, .. } => ask(&[b"PUBLISH", channel.as_bytes(), told(news).as_bytes()]),
            Errand::Look { user, .. } => {
                let last = (2 * MARKS_PER_USER_MAX).to_string();
                ask(&[b"ZRANGE", keys::marks(prefix, user).as_bytes(), b"0", last.as_bytes()]);
            }
            Errand::Drop { user, members } => {
                let key = keys::marks(prefix, user);
                let mut command = vec![b"ZREM".as_slice(), key.as_bytes()];
                command.extend(members.iter().map(|member| &**member));
                ask(&command);
            }
        }
    }

    /// Redis has answered it.
    pub fn take(&mut self, answer: Result<&Value, &ServerError>) -> bool {
        match (self, answer) {
            (Errand::Tell { refusal, .. } | Errand::Look { refusal, .. }, Err(error)) => *refusal = Some(error.clone()),
            (Errand::Look { found, keep, .. }, Ok(value)) => *found = too_many(value, keep),
            (Errand::Touch { .. } | Errand::Tell { .. } | Errand::Drop { .. }, _) => {}
        }
        true
    }

    pub fn refusal(&self) -> Option<&ServerError> {
        match self {
            Errand::Tell { refusal, .. } | Errand::Look { refusal, .. } => refusal.as_ref(),
            Errand::Touch { .. } | Errand::Drop { .. } => None,
        }
    }

    /// What follows from it.
    pub fn next(self) -> Option<Errand> {
        match self {
            Errand::Look { user, found: members, .. } if !members.is_empty() => Some(Errand::Drop { user, members }),
            Errand::Look { .. } | Errand::Touch { .. } | Errand::Tell { .. } | Errand::Drop { .. } => None,
        }
    }
}

fn member(epoch: u64, channel: &str) -> String {
    format!("{epoch}:{channel}")
}

/// Of HMGET, and of XLEN if that was asked, which is put where the count of what is unread will stand.
fn standing(numbers: &[Option<u64>]) -> Unread {
    let (Some(&Some(epoch)), Some(&Some(last))) = (numbers.first(), numbers.get(1)) else { return Unread::default() };
    if epoch == 0 {
        return Unread::default();
    }
    let kept = numbers.get(2).copied().flatten().unwrap_or(0);
    Unread { epoch: Some(epoch), last: last.min(json::INTEGER_MAX), read: 0, unread: kept.min(last) }
}

/// The members that go, of those that ZRANGE has found, lowest number first.
fn too_many(value: &Value, keep: &str) -> Vec<Box<[u8]>> {
    let Value::Array(found) = value else { return Vec::new() };
    let members: Vec<&[u8]> = found.iter().filter_map(|member| if let Value::BulkString(member) = member { Some(&member[..]) } else { None }).collect();
    let parts = |member: &'_ [u8]| {
        let at = member.iter().position(|&byte| byte == b':')?;
        let epoch: u64 = std::str::from_utf8(&member[..at]).ok()?.parse().ok()?;
        Some((member[at + 1..].to_vec(), epoch))
    };
    let mut newest = std::collections::HashMap::new();
    for (channel, epoch) in members.iter().filter_map(|member| parts(member)) {
        let known = newest.entry(channel).or_insert(epoch);
        *known = epoch.max(*known);
    }
    // What is not written as ours is nobody's mark.
    let is_over = |member: &&&[u8]| parts(member).is_none_or(|(channel, epoch)| newest[&channel] > epoch);
    let mut gone: Vec<&[u8]> = members.iter().filter(is_over).copied().collect();
    let left = members.len() - gone.len();
    if left > MARKS_PER_USER_MAX {
        let more = left - MARKS_PER_USER_MAX + MARKS_TRIMMED_MORE;
        let lowest = members.iter().filter(|member| !is_over(member) && **member != keep.as_bytes()).take(more);
        gone.extend(lowest.copied().collect::<Vec<_>>());
    }
    gone.into_iter().map(Into::into).collect()
}

/// What a reply says, number by number. A text that is none counts as missing.
fn push_numbers(value: &Value, numbers: &mut Vec<Option<u64>>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| numbers.push(number(value))),
        other => numbers.push(number(other)),
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => (*number).try_into().ok(),
        Value::Double(number) => json::integral(*number),
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
        Job::new(MarksQuestion::new(Asker::Control(sender), "u", wanted), 0)
    }

    /// The step is answered with these replies.
    fn answer(job: &mut Job, replies: &[&str]) -> Next {
        (job.left, job.count) = (replies.len(), replies.len());
        for (at, reply) in replies.iter().enumerate() {
            let is_last = match redis::parse_redis_value(reply.as_bytes()).unwrap() {
                Value::ServerError(error) => job.take(Err(&error)),
                value => job.take(Ok(&value)),
            };
            assert_eq!(is_last, at + 1 == replies.len());
        }
        job.next()
    }

    #[test]
    fn what_is_unread_is_what_is_kept_behind_the_mark() {
        let channels = ["a", "b", "c", "d"].map(Into::into).into();
        let mut job = job(MarksWanted::Unread { channels });
        let replies = [
            "*2\r\n$1\r\n5\r\n$3\r\n100\r\n",
            ":100\r\n",
            "*2\r\n$-1\r\n$-1\r\n",
            ":0\r\n",
            "*2\r\n$1\r\n6\r\n$3\r\n100\r\n",
            ":30\r\n",
            "*2\r\n$1\r\n7\r\n$1\r\n9\r\n",
            ":0\r\n",
        ];
        assert!(matches!(answer(&mut job, &replies), Next::Ask));
        let Next::Done(Ok(unread), _) = answer(&mut job, &["*3\r\n$2\r\n90\r\n$-1\r\n$3\r\n999\r\n"]) else { panic!("an answer") };
        let of = |epoch, last, read, unread| Unread { epoch: Some(epoch), last, read, unread };
        assert_eq!(unread, [of(5, 100, 90, 10), Unread::default(), of(6, 100, 0, 30), of(7, 9, 9, 0)]);
    }

    #[test]
    fn a_mark_is_no_further_than_the_channel_and_of_its_epoch() {
        let read = |epoch, seq| MarksWanted::Read { channel: "a".into(), epoch, seq };
        let mut further = job(read(None, 500));
        assert!(matches!(answer(&mut further, &["*2\r\n$1\r\n5\r\n$3\r\n100\r\n"]), Next::Ask));
        // Somebody else has set a higher one meanwhile.
        let Next::Done(Ok(unread), errands) = answer(&mut further, &[":0\r\n", "$3\r\n100\r\n", ":1\r\n"]) else { panic!("an answer") };
        assert_eq!((unread[0].read, errands.len()), (100, 1), "nobody is told what they know");
        let mut other = job(read(Some(4), 5));
        let Next::Done(Err(error), _) = answer(&mut other, &["*2\r\n$1\r\n5\r\n$3\r\n100\r\n"]) else { panic!("a refusal") };
        assert_eq!(error, MarksError::OtherEpoch { asked: 4, epoch: 5 });
        let mut unknown = job(read(None, 5));
        let Next::Done(Ok(unread), errands) = answer(&mut unknown, &["*2\r\n$-1\r\n$-1\r\n"]) else { panic!("an answer") };
        assert_eq!((unread, errands.len()), (vec![Unread::default()], 0));
    }

    #[test]
    fn an_error_names_its_channel() {
        let mut job = job(MarksWanted::Unread { channels: vec!["a".into(), "b".into()] });
        let nothing = "*2\r\n$-1\r\n$-1\r\n";
        answer(&mut job, &[nothing, ":0\r\n", nothing, "-WRONGTYPE no\r\n"]);
        let (error, about) = job.refusal.unwrap();
        assert_eq!((error.code(), &*about), ("WRONGTYPE", " (of the channel b)"));
    }

    #[test]
    fn of_too_many_marks_those_of_past_epochs_go_first_and_the_one_that_was_set_stays() {
        let bulk = |text: String| Value::BulkString(text.into_bytes());
        let few = Value::Array(["4:a", "5:a", "5:b", "nonsense"].map(|text| bulk(text.into())).into());
        assert_eq!(too_many(&few, "5:a"), [b"4:a".as_slice().into(), b"nonsense".as_slice().into()] as [Box<[u8]>; 2]);
        let many = Value::Array((0..=MARKS_PER_USER_MAX).map(|number| bulk(format!("5:c{number}"))).collect());
        let gone = too_many(&many, "5:c0");
        assert_eq!((gone.len(), &*gone[0]), (1 + MARKS_TRIMMED_MORE, &b"5:c1"[..]));
        assert!(too_many(&Value::Nil, "").is_empty());
    }
}
