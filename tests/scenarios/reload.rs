//! Other rules and keys while the shard runs: what counts from when on, and what becomes of those who have what they may not have any more.

use std::sync::Arc;

use super::stage::{PLENTY, Stage, settings};
use campanile::auth::Gate;
use campanile::auth::cache::Cache;
use campanile::auth::pattern::Pattern;
use campanile::auth::rules::Access;
use campanile::bus::ShardMessage;
use campanile::bus::order::Order;
use campanile::config::{AuthMode, ChannelRule, Overrun, Selector, Settings};
use crossbeam_channel::{Receiver, bounded};
use serde_json::json;

/// The order is in the inbox; the answer comes when it is in force.
fn order(stage: &Stage, settings: &Settings, gate: Gate) -> Receiver<Option<Cache>> {
    let (reply, answer) = bounded(1);
    stage
        .rig
        .to_shard
        .push(ShardMessage::Order(Order::Reload { settings: Arc::new(settings.clone()), gate, acceptor: None, reply }))
        .unwrap();
    answer
}

fn reload(stage: &mut Stage, settings: &Settings) {
    let answer = order(stage, settings, settings.auth.gate().unwrap());
    stage.turn();
    answer.try_recv().expect("it is answered in the turn in which it comes");
}

fn table(selector: impl Into<Selector>, settings: &mut Settings, change: impl FnOnce(&mut ChannelRule)) {
    let mut rule = settings.channels.default.clone();
    change(&mut rule);
    settings.channels.tables.push((selector.into(), rule));
}

fn subscribe(stage: &mut Stage, client: usize, channel: &str) {
    stage.text(client, &json!({"type": "subscribe", "channel": channel, "id": channel}).to_string());
}

#[test]
fn who_may_not_have_a_channel_any_more_is_told_and_hears_no_more_of_it() {
    let mut stage = Stage::new(settings());
    let closed = stage.subscribers(300, "closed");
    let open = stage.subscribers(3, "open");
    for &client in &closed[..3] {
        subscribe(&mut stage, client, "open");
    }
    stage.turns(3);
    let forbidding = settings().with(|settings| table("closed", settings, |rule| rule.subscribe = Access::Nobody));
    reload(&mut stage, &forbidding);
    stage.turns(3);
    stage.publish("open", 10);
    stage.publish("closed", 10);
    stage.turns(5);
    for &client in &closed {
        assert_eq!(stage.clients[client].ended, ["closed"], "told once");
        assert!(!stage.clients[client].subscriptions.contains_key("closed"));
    }
    assert_eq!(stage.messages(&open), [1; 3]);
    assert_eq!(stage.messages(&closed[..5]), [1, 1, 1, 0, 0], "they keep what they may have");
    // Whoever comes now is refused.
    subscribe(&mut stage, open[0], "closed");
    stage.turns(2);
    assert_eq!(stage.clients[open[0]].errors.last().unwrap()["code"], "not_allowed");
    assert_eq!(stage.rig.metrics.not_allowed.get(), 301);
    // And after another reload it is let in again.
    reload(&mut stage, &settings());
    subscribe(&mut stage, closed[0], "closed");
    stage.turns(3);
    assert!(stage.clients[closed[0]].subscriptions.contains_key("closed"));
    assert_eq!(stage.closed(), [], "no connection was closed");
}

/// However many there are, a turn looks at some; messages go on meanwhile, and clients come and go. With a rate or without.
#[test]
fn a_crowd_is_asked_about_in_many_turns() {
    for max_rate in [None, Some(5)] {
        a_crowd_is_asked_about(max_rate);
    }
}

fn a_crowd_is_asked_about(max_rate: Option<u16>) {
    const COUNT: usize = 20_000;
    let mut stage = Stage::new(settings().with(|settings| {
        settings.bounds.connections_max = COUNT + 10;
        table("closed", settings, |rule| rule.max_rate = max_rate);
    }));
    let open = stage.subscribers(2, "open");
    let crowd: Vec<usize> = (0..COUNT).map(|_| stage.connect("/ws/closed", PLENTY)).collect();
    stage.turns(3 * COUNT / 128);
    assert!(crowd.iter().all(|&client| stage.clients[client].subscriptions.contains_key("closed")));
    reload(
        &mut stage,
        &settings().with(|settings| {
            settings.bounds.connections_max = COUNT + 10;
            table("closed", settings, |rule| rule.subscribe = Access::Nobody);
        }),
    );
    let has = |stage: &Stage| crowd.iter().filter(|&&client| stage.clients[client].subscriptions.contains_key("closed")).count();
    let mut left = vec![COUNT];
    while left.len() < 1000 && *left.last().unwrap() > 0 {
        // Some leave by themselves in the middle of it.
        stage.text(crowd[left.len() * 13 % COUNT], r#"{"type":"unsubscribe","channel":"closed"}"#);
        stage.publish("open", 10);
        stage.turn();
        left.push(has(&stage));
    }
    let most = left.windows(2).map(|pair| pair[0] - pair[1]).max().unwrap();
    assert!(left.last() == Some(&0) && most < 1000, "{left:?}");
    stage.turns(2);
    assert_eq!(stage.messages(&open), [left.len() - 1; 2], "messages went on");
}

/// A walk is under way when the next rules come: whoever was let in by those between is asked about, too.
#[test]
fn rules_that_come_in_the_middle_of_a_walk_count() {
    let mut stage = Stage::new(settings().with(|settings| settings.bounds.subscriptions_max = 5000));
    let with = |selector: Option<&str>| {
        settings().with(|settings| {
            settings.bounds.subscriptions_max = 5000;
            if let Some(prefix) = selector {
                table(prefix, settings, |rule| rule.subscribe = Access::Nobody);
            }
        })
    };
    // The table of channels that are walked over is long, so a walk takes several turns.
    let client = stage.connect("/ws", PLENTY);
    stage.turns(2);
    for number in 0..3000 {
        subscribe(&mut stage, client, &format!("filler:{number}"));
        if number % 100 == 0 {
            stage.turns(10);
        }
    }
    stage.turns(20);
    reload(&mut stage, &with(Some("late")));
    reload(&mut stage, &with(None));
    // Allowed by the rules that have just come, while the walk for them has not been to its end.
    let other = stage.connect("/ws/late", PLENTY);
    stage.turn();
    reload(&mut stage, &with(Some("late")));
    stage.turns(50);
    assert!(!stage.clients[other].subscriptions.contains_key("late"), "{:?}", stage.clients[other]);
    assert_eq!(stage.clients[client].subscriptions.len(), 3000, "the others are as they were");
}

/// All of a rule is another one, not who may subscribe alone, also for channels that are there.
#[test]
fn a_channel_that_is_there_goes_by_its_new_rule() {
    let of = |overrun| settings().with(|settings| settings.channels.default.overrun = overrun);
    let mut stage = Stage::new(of(Overrun::Skip));
    let slow = stage.subscribers(1, "news")[0];
    stage.set_room(slow, 0);
    reload(&mut stage, &of(Overrun::Disconnect).with(|settings| settings.channels.default.log_bytes = 4096));
    stage.turns(2);
    for _ in 0..20 {
        stage.publish("news", 1000);
        stage.turn();
    }
    stage.add_room(slow, PLENTY);
    stage.turns(3);
    assert_eq!(stage.clients[slow].close, Some(4008), "{:?}", stage.clients[slow]);
}

/// Whose a channel is follows from the pattern, and that may be another one though the rule says the same.
#[test]
fn an_owner_is_asked_about_when_the_pattern_is_another_one() {
    let with = |pattern: &str| {
        settings().with(|settings| {
            settings.auth.mode = AuthMode::Query;
            table(Selector::Pattern(Pattern::read(pattern).unwrap()), settings, |rule| rule.subscribe = Access::Owner);
        })
    };
    let mut stage = Stage::new(with("{sub}:*"));
    let client = stage.connect("/ws/a:b?user=a", PLENTY);
    stage.turns(3);
    assert!(stage.clients[client].subscriptions.contains_key("a:b"));
    reload(&mut stage, &with("*:{sub}"));
    stage.turns(2);
    assert_eq!(stage.clients[client].ended, ["a:b"]);
}

/// A user's own channel is had for its name alone while `user_channel` says so.
#[test]
fn a_users_own_channel_goes_by_its_rule_when_nobody_has_one_any_more() {
    let with = |user_channel| {
        settings().with(|settings| {
            (settings.auth.mode, settings.auth.user_channel) = (AuthMode::Query, user_channel);
            table("user:", settings, |rule| rule.subscribe = Access::Nobody);
        })
    };
    let mut stage = Stage::new(with(true));
    let client = stage.connect("/ws?user=a", PLENTY);
    stage.turns(3);
    reload(&mut stage, &with(true));
    stage.turns(2);
    assert!(stage.clients[client].subscriptions.contains_key("user:a"));
    reload(&mut stage, &with(false));
    stage.turns(2);
    assert_eq!(stage.clients[client].ended, ["user:a"]);
}

#[test]
fn limits_count_from_the_next_command_on() {
    let with = |most| settings().with(|settings| settings.bounds.subscriptions_max = most);
    let mut stage = Stage::new(with(2));
    let client = stage.connect("/ws/a", PLENTY);
    stage.turns(3);
    reload(&mut stage, &with(1));
    subscribe(&mut stage, client, "b");
    stage.turns(2);
    assert_eq!(stage.clients[client].errors.last().unwrap()["code"], "too_many_subscriptions");
    assert!(stage.clients[client].subscriptions.contains_key("a"), "what is had stays");
    reload(&mut stage, &with(3));
    subscribe(&mut stage, client, "b");
    stage.turns(3);
    assert_eq!(stage.clients[client].subscriptions.len(), 2);
}
