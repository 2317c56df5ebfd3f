//! What the control thread orders: for whom, in how many turns, and what the connections are told.

use super::stage::{PLENTY, Stage, settings};
use super::tokens::{refused, token_with, tokens};
use campanile::auth::revoked::Revocation;
use campanile::auth::token::TokenReason;
use campanile::bus::ShardMessage;
use campanile::bus::order::{Order, Who};
use campanile::config::{AuthMode, Settings};
use campanile::limits;
use crossbeam_channel::{Receiver, TryRecvError, bounded};
use serde_json::json;

fn named_by_query() -> Settings {
    settings().with(|settings| settings.auth.mode = AuthMode::Query)
}

impl Stage {
    fn disconnect(&mut self, who: Who) -> Receiver<usize> {
        let (reply, answer) = bounded(1);
        self.rig.to_shard.push(ShardMessage::Order(Order::Disconnect { who, reply })).expect("the inbox has room");
        answer
    }

    fn codes(&self, clients: &[usize]) -> Vec<Option<u16>> {
        clients.iter().map(|&client| self.clients[client].close).collect()
    }
}

#[test]
fn an_order_to_disconnect_is_for_those_it_names_and_for_nobody_else() {
    let mut stage = Stage::new(named_by_query());
    let clients: Vec<usize> = ["u1", "u2", "u1", "u3"].iter().map(|user| stage.connect(&format!("/ws/news?user={user}"), PLENTY)).collect();
    let elsewhere = stage.connect("/ws/other?user=u4", PLENTY);
    stage.turns(3);
    let answer = stage.disconnect(Who::User("u1".into()));
    stage.turns(2);
    assert_eq!(answer.try_recv(), Ok(2));
    assert_eq!(stage.codes(&clients), [Some(4002), None, Some(4002), None]);
    let client_id = stage.clients[clients[1]].client_id.parse().unwrap();
    let answer = stage.disconnect(Who::Client(client_id));
    stage.turns(2);
    assert_eq!((answer.try_recv(), stage.codes(&clients[1..2])), (Ok(1), vec![Some(4002)]));
    let answer = stage.disconnect(Who::Channel("news".into()));
    stage.turns(2);
    assert_eq!((answer.try_recv(), stage.codes(&clients[3..])), (Ok(1), vec![Some(4002)]));
    for nobody in [Who::User("u9".into()), Who::Token("".into()), Who::Channel("nowhere".into()), Who::Client(client_id)] {
        let answer = stage.disconnect(nobody.clone());
        stage.turns(2);
        let count = usize::from(nobody == Who::Token("".into()));
        assert_eq!(answer.try_recv(), Ok(count), "{nobody:?}");
    }
    assert_eq!(stage.codes(&[elsewhere]), [Some(4002)], "who has no token has one without a name; the control port takes no empty one");
}

/// Also from the cache of tokens that were verified before, and by a refresh.
#[test]
fn a_revoked_token_ends_its_connections_and_opens_the_door_no_more() {
    let mut stage = Stage::new(tokens(|_| ()));
    let token = |id: &str| token_with("u", 100, &json!({"jti": id, "iat": 1000}));
    let connect = |stage: &mut Stage, id: &str| {
        let client = stage.connect(&format!("/ws/news?token={}", token(id)), PLENTY);
        stage.turns(3);
        client
    };
    let clients: Vec<usize> = ["a", "b", "a"].map(|id| connect(&mut stage, id)).into();
    stage.rig.revoked.enter(&Revocation::Token("a".into()), 1, false);
    let late = connect(&mut stage, "a");
    assert_eq!((stage.clients[late].refused, refused(&stage, TokenReason::Revoked)), (Some(401), 1), "from now on, before any walk");
    stage.text(clients[1], &json!({"type": "refresh", "token": token("a"), "id": 1}).to_string());
    stage.turns(2);
    assert_eq!(stage.clients[clients[1]].errors.last().unwrap()["code"], "token_invalid");
    let closing = |stage: &mut Stage| {
        let (reply, answer) = bounded(1);
        stage.rig.to_shard.push(ShardMessage::Order(Order::CloseRevoked { reply })).expect("the inbox has room");
        stage.turns(2);
        answer.try_recv()
    };
    assert_eq!(closing(&mut stage), Ok(2));
    assert_eq!(stage.codes(&clients), [Some(4001), None, Some(4001)]);
    stage.rig.revoked.enter(&Revocation::User { user: "u".into(), issued_before_s: 1000 }, 1, false);
    assert_eq!(closing(&mut stage), Ok(0), "it was issued then, not before");
    stage.rig.revoked.enter(&Revocation::User { user: "u".into(), issued_before_s: 1001 }, 1, false);
    assert_eq!(closing(&mut stage), Ok(1));
    assert_eq!(stage.codes(&clients), [Some(4001); 3]);
    let fresh = stage.connect(&format!("/ws?token={}", token_with("u", 100, &json!({"iat": 1001}))), PLENTY);
    stage.turns(3);
    assert!(stage.clients[fresh].is_upgraded());
}

/// A million connections are no long turn: a walk goes on where it was, and messages are sent meanwhile.
#[test]
fn a_walk_over_many_connections_takes_many_turns() {
    let count = 4 * limits::ORDER_UNITS_PER_TURN;
    let mut stage = Stage::new(settings().with(|settings| settings.bounds.connections_max = count + 1));
    let clients = stage.subscribers(count, "news");
    let answer = stage.disconnect(Who::User("nobody".into()));
    stage.turn();
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
    let now_ns = stage.wires.borrow().now_ns;
    assert_eq!(stage.rig.shard.wait_ns(now_ns), Some(0), "it does not sleep before it is done");
    stage.turns(count.next_power_of_two() / limits::ORDER_UNITS_PER_TURN + 1);
    assert_eq!(answer.try_recv(), Ok(0));
    let answer = stage.disconnect(Who::Channel("news".into()));
    let mut turns = 0;
    let closed = loop {
        stage.turn();
        turns += 1;
        let left = count - stage.rig.metrics.subscriptions.get() as usize;
        assert!(left <= turns * limits::ORDER_UNITS_PER_TURN / limits::ORDER_UNITS_PER_CLOSE, "{left} in {turns} turns");
        if let Ok(closed) = answer.try_recv() {
            break closed;
        }
    };
    assert_eq!(closed, clients.len());
}

/// Whoever orders without end fills nothing: an order that is too many is dropped, which the other end sees.
#[test]
fn orders_that_wait_are_bounded() {
    let mut stage = Stage::new(settings().with(|settings| settings.bounds.connections_max = 10_000));
    stage.subscribers(2 * limits::ORDER_UNITS_PER_TURN, "news");
    let answers: Vec<Receiver<usize>> = (0..2 * limits::ORDERS_WAITING_MAX).map(|_| stage.disconnect(Who::User("nobody".into()))).collect();
    stage.turn();
    let dropped = answers.iter().filter(|answer| answer.try_recv() == Err(TryRecvError::Disconnected)).count();
    assert_eq!(dropped, limits::ORDERS_WAITING_MAX);
    stage.turns(8 * limits::ORDERS_WAITING_MAX);
    assert_eq!(answers.iter().filter(|answer| answer.try_recv() == Ok(0)).count(), limits::ORDERS_WAITING_MAX);
}
