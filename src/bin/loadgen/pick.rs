//! Which channel comes next: one, all in turn, or by Zipf's law (few channels have most of the traffic). And which clients are something special.

#[derive(Debug, Clone)]
pub enum Pick {
    /// `count` channels one after the other, from `first` on, and again.
    InTurn { first: u32, count: u32 },
    /// All of them, jumping about: few messages are spread over many channels.
    Scattered { count: u32 },
    /// `cumulative[k]` is the share of channels 0 to k.
    Zipf { cumulative: Vec<f64> },
}

impl Pick {
    /// `exponent` 0: all alike, in turn.
    pub fn new(count: u32, exponent: f64) -> Pick {
        if exponent == 0.0 || count == 1 {
            return Pick::InTurn { first: 0, count };
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
            Pick::InTurn { first, count } => first + (number % u64::from(*count)) as u32,
            Pick::Scattered { count } => (golden(number) * f64::from(*count)) as u32,
            Pick::Zipf { cumulative } => {
                let place = golden(number);
                (cumulative.partition_point(|share| *share < place)).min(cumulative.len() - 1) as u32
            }
        }
    }
}

/// 0 to 1, each number far from those before it.
fn golden(number: u64) -> f64 {
    (number as f64 * 0.618_033_988_749_894_9).fract()
}

/// Some clients, spread evenly over all.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub chosen: u32,
    pub clients: u32,
}

impl Spread {
    /// The client that has the place.
    pub fn client(self, place: u32) -> u32 {
        (u64::from(place) * u64::from(self.clients) / u64::from(self.chosen)) as u32
    }

    /// The place that a client has.
    pub fn place(self, client: u32) -> Option<u32> {
        let place = (u64::from(client) * u64::from(self.chosen)).div_ceil(u64::from(self.clients)) as u32;
        (place < self.chosen && self.client(place) == client).then_some(place)
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
    fn some_clients_are_chosen_evenly() {
        for (chosen, clients) in [(1, 1), (1, 7), (3, 7), (7, 7), (1000, 18_000), (17_999, 18_000)] {
            let among = Spread { chosen, clients };
            let places: Vec<u32> = (0..clients).filter_map(|client| among.place(client)).collect();
            assert_eq!(places, (0..chosen).collect::<Vec<_>>(), "{chosen} of {clients}");
            assert!(places.iter().all(|place| among.place(among.client(*place)) == Some(*place)));
        }
    }

    #[test]
    fn few_messages_are_scattered_over_many_channels() {
        let pick = Pick::Scattered { count: 1_000_000 };
        let mut channels: Vec<u32> = (0..100).map(|number| pick.channel(number)).collect();
        channels.sort_unstable();
        let gaps: Vec<u32> = channels.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| (1000..40_000).contains(gap)), "{gaps:?}");
    }

    #[test]
    fn without_an_exponent_channels_take_turns() {
        let pick = Pick::new(3, 0.0);
        assert_eq!((0..6).map(|number| pick.channel(number)).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
    }
}
