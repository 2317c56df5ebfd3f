//! Keys that come and go, and whose tickets are honoured by whom.

use rustls::server::ProducesTickets;

use super::*;
use crate::limits::tls::{TICKET_BYTES_MAX, TICKET_KEY_SECONDS};
use crate::tls::tickets::ListenersTickets;

const START: u64 = 1_800_000_000 / TICKET_KEY_SECONDS * TICKET_KEY_SECONDS;
const SESSION: &[u8] = b"what rustls wants back";

fn listener(tickets: &Arc<Tickets>, context: &[u8]) -> ListenersTickets {
    ListenersTickets::new(tickets.clone(), context.to_vec())
}

#[test]
fn a_ticket_is_honoured_for_its_lifetime_and_as_long_again_at_most() {
    for is_shared in [false, true] {
        let files = Files::new();
        let tickets = Arc::new(Tickets::new(START).unwrap());
        if is_shared {
            tickets.share(Some(&files.write("keys", [7; 48])), START).unwrap();
        }
        let listener = listener(&tickets, b"no");
        let made = listener.encrypt(SESSION).unwrap();
        let promised = u64::from(listener.lifetime());
        for (seconds, is_honoured) in [(0, true), (promised - 1, true), (promised, true), (2 * promised - 1, true), (2 * promised, false)] {
            tickets.rotate(START + seconds).unwrap();
            assert_eq!(listener.decrypt(&made).is_some(), is_honoured, "{seconds}");
        }
    }
}

/// A process that slept has keys that should be gone.
#[test]
fn keys_that_were_not_rotated_in_time_go_all_the_same() {
    let tickets = Arc::new(Tickets::new(START).unwrap());
    let listener = listener(&tickets, b"no");
    let made = listener.encrypt(SESSION).unwrap();
    tickets.rotate(START + 3 * TICKET_KEY_SECONDS).unwrap();
    assert_eq!(listener.decrypt(&made), None);
    let made = listener.encrypt(SESSION).unwrap();
    tickets.rotate(START).unwrap();
    assert_eq!(listener.decrypt(&made).as_deref(), Some(SESSION), "the clock was set back");
}

#[test]
fn nodes_with_the_same_secrets_honour_each_others_tickets() {
    let files = Files::new();
    let node = |file: &Path, at: u64| {
        let tickets = Arc::new(Tickets::new(at).unwrap());
        tickets.share(Some(file), at).unwrap();
        listener(&tickets, b"no")
    };
    let (first, second) = ("a".repeat(32), "b".repeat(64));
    let old = files.write("old", format!("{first}\n"));
    let new = files.write("new", format!("{second}\n\n  {first}  \n"));
    let other = files.write("other", [0xC9; 33]);
    let made = node(&old, START).encrypt(SESSION).unwrap();
    assert_eq!(node(&old, START + 5).decrypt(&made).as_deref(), Some(SESSION));
    assert_eq!(node(&new, START).decrypt(&made).as_deref(), Some(SESSION), "a secret that is not the first");
    assert_eq!(node(&old, START - 5).decrypt(&made).as_deref(), Some(SESSION), "a clock that is behind");
    assert_eq!(node(&other, START).decrypt(&made), None);
    let made = node(&new, START).encrypt(SESSION).unwrap();
    assert_eq!(node(&old, START).decrypt(&made), None, "the first secret is that of the other");
}

#[test]
fn reading_the_same_file_again_changes_nothing() {
    let files = Files::new();
    let keys = files.write("keys", [7; 48]);
    let tickets = Arc::new(Tickets::new(START).unwrap());
    let listener = listener(&tickets, b"no");
    let random = listener.encrypt(SESSION).unwrap();
    tickets.share(None, START).unwrap();
    assert_eq!(listener.decrypt(&random).as_deref(), Some(SESSION));
    tickets.share(Some(&keys), START).unwrap();
    assert_eq!(listener.decrypt(&random), None);
    let shared = listener.encrypt(SESSION).unwrap();
    tickets.share(Some(&keys), START).unwrap();
    assert_eq!(listener.decrypt(&shared).as_deref(), Some(SESSION));
    tickets.share(None, START).unwrap();
    assert_eq!(listener.decrypt(&shared), None);
}

#[test]
fn nothing_else_is_a_ticket() {
    let tickets = Arc::new(Tickets::new(START).unwrap());
    let made = listener(&tickets, b"required and a CA").encrypt(SESSION).unwrap();
    assert_eq!(made.len(), SESSION.len() + 32);
    assert_eq!(listener(&tickets, b"no").decrypt(&made), None, "another listener demands less");
    let listener = listener(&tickets, b"required and a CA");
    for at in 0..made.len() {
        let mut changed = made.clone();
        changed[at] ^= 1;
        assert_eq!(listener.decrypt(&changed), None, "byte {at}");
        assert_eq!(listener.decrypt(&made[..at]), None, "up to {at}");
    }
    assert_eq!(listener.decrypt(&vec![0; TICKET_BYTES_MAX + 1]), None);
    assert_eq!(listener.encrypt(&vec![0; TICKET_BYTES_MAX]), None);
    assert_ne!(listener.encrypt(SESSION), Some(made), "no nonce comes again");
}
