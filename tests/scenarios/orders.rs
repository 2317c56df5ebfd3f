//! What the control thread orders: for whom, in how many turns, and what the connections are told.

use super::stage::{PLENTY, Stage, settings};
use campanile::bus::ShardMessage;
use campanile::bus::order::{Order, Who};
use campanile::config::{AuthMode, Settings};
use campanile::limits;
use crossbeam_channel::{Receiver, TryRecvError, bounded};

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
