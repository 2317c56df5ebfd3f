//! Which channel comes next: one, all in turn, or by Zipf's law (few channels have most of the traffic).

#[derive(Debug, Clone)]
pub enum Pick {
    /// Channel 0, 1, 2 … and again.
    InTurn { count: u32 },
    /// `cumulative[k]` is the share of channels 0 to k.
    Zipf { cumulative: Vec<f64> },
}

impl Pick {
    /// `exponent` 0: all alike, in turn.
    pub fn new(count: u32, exponent: f64) -> Pick {
        if exponent == 0.0 || count == 1 {
            return Pick::InTurn { count };
        }
        let mut sum = 0.0;
        let mut cumulative: Vec<f64> = (1..=count)
            .map(|rank| {
                sum += f64::from(rank).powf(-exponent);
                sum
            })
            .collect();
        cumulative.iter_mut().for_each(|share| *share /= sum);
        Pick::Zipf { cumulative }
    }

    /// The channel of message (or client) `number`. Always the same for the same number: runs can be repeated.
    pub fn channel(&self, number: u64) -> u32 {
        match self {
            Pick::InTurn { count } => (number % u64::from(*count)) as u32,
            Pick::Zipf { cumulative } => {
                let place = (number as f64 * 0.618_033_988_749_894_9).fract();
                (cumulative.partition_point(|share| *share < place)).min(cumulative.len() - 1) as u32
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_gives_the_first_channels_most() {
        let pick = Pick::new(100, 1.0);
        let mut counts = [0u32; 100];
        (0..10_000).for_each(|number| counts[pick.channel(number) as usize] += 1);
        // Of 100 channels with exponent 1, the first has 1/5.187 of the traffic.
        assert!((1900..1960).contains(&counts[0]), "{counts:?}");
        assert!(counts[0] > counts[1] && counts[1] > counts[9] && counts[9] > counts[99]);
    }

    #[test]
    fn without_an_exponent_channels_take_turns() {
        let pick = Pick::new(3, 0.0);
        assert_eq!((0..6).map(|number| pick.channel(number)).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
    }
}
