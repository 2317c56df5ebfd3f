//! Where the process is between its start and its end: one state for shards and control port. It only ever goes on. The bus is told when
//! nobody is left to serve ([`crate::bus::BusCommand::Stop`]).
//!
//! The control thread writes it (a signal, `POST /drain`); a thread of the data path looks at it in each turn, and is woken when it changes.

use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::SeqCst;

use crate::named::named;

named! {
    /// In the order in which they come.
    Stage {
        Serving = "serving",
        /// No new connections; those that are open are closed one after the other, and served until then.
        Draining = "draining",
        /// Everybody gets what is due and is closed; whoever is left at the deadline is cut.
        Stopping = "stopping",
    }
}

#[derive(Debug, Default)]
pub struct Life(AtomicU8);

impl Life {
    pub fn stage(&self) -> Stage {
        Stage::ALL[usize::from(self.0.load(SeqCst))]
    }

    /// Whether it has come at least so far.
    pub fn is_at(&self, stage: Stage) -> bool {
        self.stage() as u8 >= stage as u8
    }

    /// Goes on to this stage. False: it has come so far already.
    pub fn advance(&self, stage: Stage) -> bool {
        self.0.fetch_max(stage as u8, SeqCst) < stage as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_goes_on() {
        let life = Life::default();
        assert_eq!(life.stage(), Stage::Serving);
        assert!(life.advance(Stage::Draining) && !life.advance(Stage::Draining) && !life.advance(Stage::Serving));
        assert!(life.is_at(Stage::Serving) && life.is_at(Stage::Draining) && !life.is_at(Stage::Stopping));
        assert!(life.advance(Stage::Stopping) && !life.advance(Stage::Draining));
        assert_eq!(life.stage(), Stage::Stopping);
        assert_eq!(Stage::ALL.map(|stage| stage as u8), [0, 1, 2], "they are read back by their number");
    }
}
