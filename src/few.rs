//! A list that mostly has one thing or none, which then lies in the list itself: 16 bytes for things of up to 12. Who subscribes to a channel, and which
//! shards have it, are kept so.

#[derive(Debug, Default)]
pub enum Few<T> {
    #[default]
    Nobody,
    One(T),
    /// Boxed, or the usual case would be larger by half.
    Many(Box<Vec<T>>),
}

/// Lists with no more room than this are not worth making smaller.
const SHRINKS_ABOVE: usize = 64;

impl<T> std::ops::Deref for Few<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match self {
            Few::Nobody => &[],
            Few::One(thing) => std::slice::from_ref(thing),
            Few::Many(things) => things,
        }
    }
}

impl<T> std::ops::DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Few::Nobody => &mut [],
            Few::One(thing) => std::slice::from_mut(thing),
            Few::Many(things) => things,
        }
    }
}

impl<T> Few<T> {
    pub fn push(&mut self, thing: T) {
        *self = match std::mem::take(self) {
            Few::Nobody => Few::One(thing),
            Few::One(first) => Few::Many(Box::new(vec![first, thing])),
            Few::Many(mut things) => {
                // By half and not to double: of a list that grows long, little lies idle.
                if things.len() == things.capacity() {
                    things.reserve_exact(things.len() / 2);
                }
                things.push(thing);
                Few::Many(things)
            }
        };
    }

    /// Takes one out; the last one moves into its place.
    ///
    /// # Panics
    /// If there is none at this place.
    pub fn swap_remove(&mut self, place: usize) -> T {
        match std::mem::take(self) {
            Few::One(thing) if place == 0 => thing,
            Few::Many(mut things) => {
                let thing = things.swap_remove(place);
                *self = Few::of(things);
                thing
            }
            Few::Nobody | Few::One(_) => panic!("nothing is at place {place}"),
        }
    }

    pub fn retain(&mut self, mut is_kept: impl FnMut(&T) -> bool) {
        *self = match std::mem::take(self) {
            Few::One(thing) if is_kept(&thing) => Few::One(thing),
            Few::Nobody | Few::One(_) => Few::Nobody,
            Few::Many(mut things) => {
                things.retain(is_kept);
                Few::of(things)
            }
        };
    }

    /// Of a list that has become shorter.
    #[expect(clippy::box_collection, reason = "it is that of a longer one")]
    fn of(mut things: Box<Vec<T>>) -> Few<T> {
        match things.len() {
            0 | 1 => things.pop().map_or(Few::Nobody, Few::One),
            count => {
                if things.capacity() > SHRINKS_ABOVE && count * 4 < things.capacity() {
                    things.shrink_to(2 * count);
                }
                Few::Many(things)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_lies_in_the_list() {
        assert_eq!((size_of::<Few<[u32; 2]>>(), size_of::<Few<[u32; 3]>>()), (16, 16));
    }

    proptest! {
        #[test]
        fn it_is_a_list(steps in prop::collection::vec((0..4_u8, any::<prop::sample::Index>()), 0..300)) {
            let (mut few, mut list) = (Few::default(), Vec::new());
            for (number, (step, place)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => {
                        few.push(number);
                        list.push(number);
                    }
                    2 if !list.is_empty() => {
                        let place = place.index(list.len());
                        prop_assert_eq!(few.swap_remove(place), list.swap_remove(place));
                    }
                    _ => {
                        let some = place.index(8) + 2;
                        few.retain(|number| number % some != 0);
                        list.retain(|number| number % some != 0);
                    }
                }
                prop_assert_eq!(&few[..], &list[..]);
                prop_assert_eq!(matches!(few, Few::Many(_)), list.len() > 1);
            }
        }
    }
}
