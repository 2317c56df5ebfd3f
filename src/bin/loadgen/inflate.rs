//! Compressed messages as the clients of one worker get them. A server that compresses once for everybody sends the same bytes to all: what was inflated lately is
//! kept, and who gets it again is checked byte for byte against that.

use std::collections::VecDeque;

use campanile::wire::deflate::Inflater;
use campanile::wire::frame::Violation;

/// Messages that are under way at once, mostly.
const KEPT: usize = 64;
/// No message of a server that is measured is longer than that.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

#[derive(Debug, Default)]
pub struct Inflated {
    inflater: Inflater,
    /// Payload and message, the newest first.
    recent: VecDeque<(Vec<u8>, Vec<u8>)>,
}

impl Inflated {
    /// The message whose payload this is.
    pub fn message(&mut self, payload: &[u8]) -> Result<&[u8], Violation> {
        let place = match self.recent.iter().position(|(known, _)| known == payload) {
            Some(place) => place,
            None => {
                let message = self.inflater.inflate(payload, MESSAGE_BYTES_MAX)?.to_vec();
                self.recent.truncate(KEPT - 1);
                self.recent.push_front((payload.to_vec(), message));
                0
            }
        };
        Ok(&self.recent[place].1)
    }
}

#[cfg(test)]
mod tests {
    use campanile::wire::deflate::Deflater;

    use super::*;

    #[test]
    fn whoever_gets_it_again_gets_the_same() {
        let (mut deflater, mut inflated) = (Deflater::new(2), Inflated::default());
        for round in 0..3 {
            for number in 0..2 * KEPT {
                let message = format!("{number} ").repeat(200).into_bytes();
                let payload = deflater.deflate(&message).unwrap().to_vec();
                assert_eq!(inflated.message(&payload).unwrap(), message, "{round}");
            }
        }
        assert_eq!(inflated.recent.len(), KEPT);
        assert_eq!(inflated.message(&[0xFF, 0xFF]), Err(Violation::NotDeflate));
    }
}
