//! Subscriptions that wait for the bus to say what is unread, and connections that are told of marks.

use super::stage::{PLENTY, Stage, settings};
use campanile::bus::marks::{MarkNews, MarksAnswer, MarksError, MarksQuestion, MarksResult, MarksWanted, Unread};
use campanile::bus::question::{Answer, Asker, Question, ReplyTo};
use campanile::bus::shares::Ticket;
use campanile::bus::{BusCommand, ShardMessage};
use campanile::config::{AuthMode, Settings};
use serde_json::{Value, json};

fn with_users() -> Settings {
    let mut settings = settings().with(|settings| settings.auth.mode = AuthMode::Query);
    settings.channels.default.durable = true;
    settings
}

/// What the shard has asked of marks.
fn asked(stage: &mut Stage) -> Vec<MarksQuestion> {
    stage.turn_of_the_shard();
    let mut found = Vec::new();
    while let Some(command) = stage.rig.from_shard.try_recv() {
        if let BusCommand::Ask(Question::Marks(question)) = command {
            found.push(*question);
        }
    }
    found
}

fn answer(stage: &mut Stage, question: MarksQuestion, result: MarksResult) {
    let MarksQuestion { asker: Asker::Client(ReplyTo { conn, id, .. }), wanted, .. } = question else { panic!("it is a client") };
    let answer = Answer::Marks(Box::new(MarksAnswer { wanted, result, ticket: Ticket::default() }));
    stage.rig.to_shard.push(ShardMessage::Answer { conn, id, answer }).unwrap();
    stage.turns(2);
}

fn at(epoch: u64, last: u64, unread: u64) -> MarksResult {
    Ok(vec![Unread { epoch: Some(epoch), last, read: last - unread, unread }])
}

fn of_user(stage: &mut Stage, user: &str) -> usize {
    let client = stage.connect(&format!("/ws?user={user}"), PLENTY);
    stage.turns(2);
    client
}

/// Somebody has the channel, and it stands at 10.
fn stage() -> Stage {
    let mut stage = Stage::new(with_users());
    let present = of_user(&mut stage, "present");
    stage.text(present, r#"{"type":"subscribe","channel":"c"}"#);
    stage.turns(3);
    (0..10).for_each(|_| stage.publish("c", 40));
    stage.turns(2);
    stage
}

const COUNTED: &str = r#"{"type":"subscribe","channel":"c","unread":true,"id":1}"#;

fn told(stage: &Stage, client: usize) -> Vec<(Value, Value, Value)> {
    stage.clients[client].answers.iter().map(|event| (event["type"].clone(), event["seq"].clone(), event["unread"].clone())).collect()
}

#[test]
fn what_comes_while_a_subscription_waits_is_counted() {
    let mut stage = stage();
    let client = of_user(&mut stage, "ann");
    stage.text(client, COUNTED);
    let question = asked(&mut stage).remove(0);
    assert_eq!((&*question.user, &question.wanted), ("ann", &MarksWanted::Begin { channels: vec!["c".into()] }));
    (0..3).for_each(|_| stage.publish("c", 40));
    stage.turns(2);
    assert!(told(&stage, client).is_empty());
    answer(&mut stage, question, at(7, 10, 4));
    assert_eq!(told(&stage, client), [(json!("subscribed"), json!(13), json!(7))]);
    stage.publish("c", 40);
    stage.turns(2);
    assert_eq!(stage.messages(&[client]), [1]);
}

/// It must not be forgotten, nor answered twice, whatever becomes of the channel meanwhile.
#[test]
fn a_channel_that_is_counted_anew_leaves_a_subscription_waiting() {
    let mut stage = stage();
    let client = of_user(&mut stage, "ann");
    stage.text(client, COUNTED);
    let question = asked(&mut stage).remove(0);
    stage.renumber("c", 8, 3);
    stage.turns(3);
    assert!(told(&stage, client).is_empty());
    // What was counted is of the epoch before: all of the new one is unread.
    answer(&mut stage, question, at(7, 10, 4));
    assert_eq!(told(&stage, client), [(json!("subscribed"), json!(3), json!(3))]);
}

#[test]
fn a_subscription_begins_without_a_count_that_cannot_be_had() {
    let mut stage = stage();
    let client = of_user(&mut stage, "ann");
    stage.text(client, COUNTED);
    let question = asked(&mut stage).remove(0);
    answer(&mut stage, question, Err(MarksError::Unavailable));
    assert_eq!(told(&stage, client), [(json!("subscribed"), json!(10), Value::Null)]);
}

/// The channel does not flow yet: whichever answer comes first, the other one is waited for.
#[test]
fn a_subscription_waits_for_its_channel_and_for_its_count() {
    for count_first in [false, true] {
        let mut stage = Stage::new(with_users());
        let client = of_user(&mut stage, "ann");
        stage.text(client, COUNTED);
        stage.turn_of_the_shard();
        let mut commands = Vec::new();
        while let Some(command) = stage.rig.from_shard.try_recv() {
            commands.push(command);
        }
        let at_ask = commands.iter().position(|command| matches!(command, BusCommand::Ask(Question::Marks(_)))).expect("it asks");
        let BusCommand::Ask(Question::Marks(question)) = commands.swap_remove(at_ask) else { unreachable!("it was found") };
        let Some(BusCommand::Join { topic, channel, .. }) = commands.pop() else { panic!("it joins") };
        let channel = campanile::fanout::batch::Channel { name: channel, epoch: 7, subscribers: Default::default() };
        let joined = ShardMessage::Joined { topic, channel: channel.into(), seq: 10, history: Vec::new() };
        if count_first {
            answer(&mut stage, *question, at(7, 10, 4));
            assert!(told(&stage, client).is_empty());
            stage.rig.to_shard.push(joined).unwrap();
            stage.turns(2);
        } else {
            stage.rig.to_shard.push(joined).unwrap();
            stage.turns(2);
            assert!(told(&stage, client).is_empty());
            answer(&mut stage, *question, at(7, 10, 4));
        }
        assert_eq!(told(&stage, client), [(json!("subscribed"), json!(10), json!(4))], "count first: {count_first}");
    }
}

/// An answer to what was asked before finds the subscription that waits now, or none.
#[test]
fn an_answer_that_comes_late_is_taken_for_what_it_is() {
    let mut stage = stage();
    let client = of_user(&mut stage, "ann");
    stage.text(client, COUNTED);
    let first = asked(&mut stage).remove(0);
    stage.text(client, r#"{"type":"unsubscribe","channel":"c","id":2}"#);
    stage.turns(2);
    answer(&mut stage, first, at(7, 10, 4));
    assert_eq!(told(&stage, client), [(json!("unsubscribed"), Value::Null, Value::Null)]);
    // One that has gone, with its subscription.
    let gone = of_user(&mut stage, "ben");
    stage.text(gone, COUNTED);
    let question = asked(&mut stage).remove(0);
    stage.wires.borrow_mut().pipes[gone].reset = true;
    stage.turns(2);
    answer(&mut stage, question, at(7, 10, 4));
    assert_eq!(told(&stage, client).len(), 1);
}

#[test]
fn marks_are_told_to_those_who_have_asked_and_do_not_know() {
    let mut stage = stage();
    let (setter, other, silent) = (of_user(&mut stage, "ann"), of_user(&mut stage, "ann"), of_user(&mut stage, "ann"));
    stage.text(other, r#"{"type":"unread","channels":["c"],"id":1}"#);
    stage.text(setter, r#"{"type":"mark_read","channel":"c","seq":4,"id":1}"#);
    let questions = asked(&mut stage);
    let by = questions.iter().find(|question| matches!(question.wanted, MarksWanted::Read { .. })).and_then(|question| question.by);
    assert!(by.is_some());
    let news = |seq, by| MarkNews { user: "ann".into(), channel: "c".into(), epoch: 7, seq, by };
    stage.rig.to_shard.push(ShardMessage::Marks([news(4, by), news(5, None)].into())).unwrap();
    stage.turns(2);
    let reads =
        |stage: &Stage, client: usize| -> Vec<Value> { stage.clients[client].reads.iter().map(|event| event["seq"].clone()).collect() };
    assert_eq!(reads(&stage, other), [json!(4), json!(5)]);
    assert_eq!(reads(&stage, setter), [json!(5)]);
    assert!(reads(&stage, silent).is_empty(), "it has not asked");
}
