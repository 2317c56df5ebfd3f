//! Inputs: one of the seeds, with some changes of the kind that parsers get wrong.

use std::ops::Bound::{Excluded, Included};

use bolero::ValueGenerator;
use bolero::generator::bolero_generator::driver::Driver;

/// Longer ones are cut: what they would show, shorter ones show sooner.
const BYTES_MAX: usize = 20_000;

#[derive(Debug, Clone)]
pub struct Mutated {
    seeds: Vec<Vec<u8>>,
    /// What means something to the parser.
    words: Vec<Vec<u8>>,
}

/// Seeds, and words that mean something to whoever reads them.
pub fn mutated(seeds: impl IntoIterator<Item = Vec<u8>>, words: &[&[u8]]) -> Mutated {
    let seeds: Vec<Vec<u8>> = seeds.into_iter().collect();
    assert!(!seeds.is_empty());
    Mutated { seeds, words: words.iter().map(|word| word.to_vec()).collect() }
}

/// One of so many.
fn below<D: Driver>(driver: &mut D, count: usize) -> Option<usize> {
    driver.gen_usize(Included(&0), Excluded(&count.max(1)))
}

impl ValueGenerator for Mutated {
    type Output = Vec<u8>;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<Vec<u8>> {
        let mut bytes = self.seeds[below(driver, self.seeds.len())?].clone();
        for _ in 0..below(driver, 6)? {
            self.change(driver, &mut bytes)?;
        }
        bytes.truncate(BYTES_MAX);
        Some(bytes)
    }
}

impl Mutated {
    fn change<D: Driver>(&self, driver: &mut D, bytes: &mut Vec<u8>) -> Option<()> {
        let at = below(driver, bytes.len() + 1)?;
        let end = (at + below(driver, 16)?).min(bytes.len());
        match below(driver, 10)? {
            // A bit, a byte, the last byte before a limit.
            0 => {
                let bit = below(driver, 8)?;
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            1 => {
                let value = driver.produce()?;
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            2 => {
                const EDGES: [u8; 12] = [0, 1, 0x7D, 0x7E, 0x7F, 0x80, 0xBF, 0xC0, 0xFE, 0xFF, b'\r', b'\n'];
                let edge = EDGES[below(driver, EDGES.len())?];
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = edge;
                }
            }
            // Broken off, left out, twice.
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            // Many times: lengths, depths.
            6 => {
                let count = [2, 64, 65, 300, 5000][below(driver, 5)?];
                let unit: Vec<u8> = bytes[at..end.min(at + 4)].to_vec();
                bytes.splice(at..at, unit.repeat(count));
            }
            // The rest of another one, a word, a number.
            7 => {
                let other = &self.seeds[below(driver, self.seeds.len())?];
                let from = below(driver, other.len() + 1)?;
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            8 if !self.words.is_empty() => {
                let word = self.words[below(driver, self.words.len())?].clone();
                let end = if driver.produce()? { end } else { at };
                bytes.splice(at..end, word);
            }
            _ => {
                const NUMBERS: [&str; 10] =
                    ["0", "-1", "65535", "65536", "4294967296", "9007199254740992", "18446744073709551616", "1e309", "00", "+1"];
                bytes.splice(at..end, NUMBERS[below(driver, NUMBERS.len())?].bytes());
            }
        }
        Some(())
    }
}
