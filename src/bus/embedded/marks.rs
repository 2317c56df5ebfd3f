//! How far users have read, as the journal keeps it. Depends on the journal alone.

use crate::bus::marks::{MarkNews, MarksError, MarksQuestion, MarksResult, MarksWanted, Unread};
use crate::journal::{Journal, Marked, State};

/// What is to be answered, and a mark that was set for it; both may be told when what the journal has now is settled.
pub(super) fn answer(journal: &mut Journal, question: &MarksQuestion) -> (MarksResult, Option<MarkNews>) {
    match &question.wanted {
        MarksWanted::Read { channel, epoch: asked, seq } => {
            let Some(State { epoch, last_seq: last, .. }) = journal.look(channel) else { return (Ok(vec![Unread::default()]), None) };
            if let Some(asked) = asked.filter(|&asked| asked != epoch) {
                return (Err(MarksError::OtherEpoch { asked, epoch }), None);
            }
            match journal.mark_read(&question.user, channel, *seq) {
                Ok(Some(Marked { seq, has_moved, .. })) => {
                    let news = MarkNews { user: question.user.clone(), channel: channel.clone(), epoch, seq, by: question.by };
                    (Ok(vec![Unread { epoch: Some(epoch), last, read: seq, unread: 0 }]), has_moved.then_some(news))
                }
                Ok(None) => (Ok(vec![Unread::default()]), None),
                Err(error) => (Err(MarksError::NotKept(error)), None),
            }
        }
        MarksWanted::Unread { .. } | MarksWanted::Begin { .. } => {
            let marks = journal.marks(&question.user, question.wanted.channels());
            let unread = |(channel, read): (&str, u64)| match journal.look(channel) {
                None => Unread::default(),
                Some(State { epoch, last_seq: last, first_kept_seq }) => {
                    Unread { epoch: Some(epoch), last, read, unread: last.saturating_sub(read.max(first_kept_seq - 1)) }
                }
            };
            (Ok(question.wanted.channels().zip(marks).map(unread).collect()), None)
        }
    }
}
