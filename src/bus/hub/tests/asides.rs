//! Messages without a number: they spend none, keep their place, and leave room to those that have one.

use super::*;

const RECEIPT: Receipt = Receipt { received: T0, timestamp_ms: 7 };

fn counted(bed: &Bed) -> (u64, u64, u64) {
    (bed.metrics.unnumbered.get(), bed.metrics.unnumbered_dropped.get(), bed.metrics.dropped.get())
}

#[test]
fn what_came_before_one_goes_before_it_and_no_number_is_spent() {
    let mut bed = bed(&[100, 100]);
    bed.hub.join(0, topic(1), "a", somebody(), T0);
    bed.hub.aside("a", b"nobody has joined yet", RECEIPT);
    bed.hub.flowing("a", Start::At { epoch: 7, seq: 40 });
    bed.message("a", b"1");
    bed.hub.aside("a", b"x", RECEIPT);
    bed.message("a", b"2");
    bed.hub.aside("b", b"nobody hears it", RECEIPT);
    bed.hub.flush(T0);
    assert_eq!(bed.got(0), ["joined 1 at 40", "batch 1 41..42", "aside 1 x", "batch 1 42..43"]);
    assert!(bed.got(1).is_empty());
    assert_eq!((counted(&bed), bed.metrics.unwanted.get()), ((1, 0, 0), 2));
    bed.hub.aside("a", &vec![b'x'; 100_001], RECEIPT);
    bed.hub.flush(T0);
    assert_eq!((bed.got(0).len(), counted(&bed)), (0, (2, 0, 1)), "too large, and no gap is told of it");
}

#[test]
fn one_waits_for_no_room_and_has_half_of_it_at_most() {
    let settings = HubSettings { inbox_bytes_total: 2 * 100_000, ..settings_of(rule(), 1000) };
    let mut bed = bed_with(settings, &[100, 100]);
    bed.join(0, 1, "a");
    for _ in 0..10 {
        bed.hub.aside("a", &[b'x'; 10_000], RECEIPT);
    }
    assert_eq!(counted(&bed), (10, 6, 0));
    bed.message("a", &[b'x'; 40_000]);
    bed.hub.flush(T0);
    assert_eq!((bed.got(0).len(), bed.metrics.inbox_full.get()), (1 + 4 + 1, 0));
    assert!(bed.hub.is_drained() && bed.shards[0].inbox.bytes() == 0);
}
