//! Things with a name, found by it or by their number: the channels of the hub and of each shard are kept in one of these.
//!
//! Memory follows what is kept: the things lie in pages, and a table that is three quarters empty shrinks.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::paged::Paged;

/// Tables no larger than this are not worth shrinking.
const SHRINKS_ABOVE: usize = 64;

pub trait Named {
    /// Must not change while the thing is kept.
    fn name(&self) -> &str;
}

#[derive(Debug)]
pub struct ByName<T> {
    things: Paged<T>,
    numbers: HashTable<Place>,
    /// Keyed: names come from clients, who could choose them to collide.
    hasher: RandomState,
}

/// With its hash, so that a table that grows looks at no name.
#[derive(Debug)]
struct Place {
    hash: u32,
    number: u32,
}

impl Place {
    /// Half of a hash, spread over all the bits that the table looks at.
    fn wide(&self) -> u64 {
        u64::from(self.hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

impl<T> Default for ByName<T> {
    fn default() -> ByName<T> {
        ByName { things: Paged::default(), numbers: HashTable::new(), hasher: RandomState::new() }
    }
}

impl<T: Named> ByName<T> {
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// More than the highest number in use.
    pub fn numbers_end(&self) -> usize {
        self.things.end()
    }

    fn place(&self, name: &str, number: u32) -> Place {
        Place { hash: self.hasher.hash_one(name) as u32, number }
    }

    pub fn find(&self, name: &str) -> Option<u32> {
        let sought = self.place(name, 0);
        let is_it = |place: &Place| place.hash == sought.hash && self[place.number as usize].name() == name;
        self.numbers.find(sought.wide(), is_it).map(|place| place.number)
    }

    /// Returns its number; its name must not be there yet.
    pub fn insert(&mut self, thing: T) -> u32 {
        debug_assert!(self.find(thing.name()).is_none());
        let number = u32::try_from(self.things.vacant()).expect("memory ends far below 2^32 names");
        let place = self.place(thing.name(), number);
        self.things.insert(thing);
        self.numbers.insert_unique(place.wide(), place, Place::wide);
        number
    }

    /// # Panics
    /// If there is none of this number.
    pub fn remove(&mut self, number: u32) -> T {
        let thing = self.things.remove(number as usize);
        let place = self.place(thing.name(), number);
        if let Ok(found) = self.numbers.find_entry(place.wide(), |other| other.number == number) {
            found.remove();
        }
        if self.numbers.capacity() > SHRINKS_ABOVE && self.numbers.len() < self.numbers.capacity() / 4 {
            self.numbers.shrink_to(2 * self.numbers.len(), Place::wide);
        }
        thing
    }

    #[inline]
    pub fn get(&self, number: usize) -> Option<&T> {
        self.things.get(number)
    }

    #[inline]
    pub fn get_mut(&mut self, number: usize) -> Option<&mut T> {
        self.things.get_mut(number)
    }

    pub fn contains(&self, number: usize) -> bool {
        self.things.contains(number)
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.things.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut T)> {
        self.things.iter_mut()
    }
}

impl<T> std::ops::Index<usize> for ByName<T> {
    type Output = T;
    #[inline]
    fn index(&self, number: usize) -> &T {
        &self.things[number]
    }
}

impl<T> std::ops::IndexMut<usize> for ByName<T> {
    #[inline]
    fn index_mut(&mut self, number: usize) -> &mut T {
        &mut self.things[number]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    impl Named for String {
        fn name(&self) -> &str {
            self
        }
    }

    #[test]
    fn names_and_numbers_find_the_same_whatever_came_and_went() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut kept = ByName::<String>::default();
            let mut model = HashMap::<String, u32>::new();
            for _ in 0..2000 {
                let name = format!("n{}", random.u32(0..300));
                // By turns more come than go, and more go than come.
                match model.get(&name) {
                    Some(&number) if random.u32(0..4) < 3 => {
                        assert_eq!(kept.remove(number), name);
                        model.remove(&name);
                    }
                    None if random.u32(0..4) > model.len() as u32 / 100 => {
                        let number = kept.insert(name.clone());
                        assert!(model.values().all(|&other| other != number));
                        model.insert(name, number);
                    }
                    _ => {}
                }
            }
            assert_eq!(kept.len(), model.len());
            for number in 0..300 {
                let name = format!("n{number}");
                assert_eq!(kept.find(&name), model.get(&name).copied(), "seed {seed}");
            }
            assert!(kept.iter().all(|(number, name)| model[name] as usize == number && number < kept.numbers_end()));
        }
    }

    #[test]
    fn tables_shrink_when_a_flood_has_gone() {
        let mut kept = ByName::<String>::default();
        let numbers: Vec<u32> = (0..100_000).map(|number| kept.insert(format!("n{number}"))).collect();
        for &number in &numbers[10..] {
            kept.remove(number);
        }
        assert_eq!(kept.len(), 10);
        assert!(kept.numbers.capacity() <= SHRINKS_ABOVE && kept.numbers_end() <= 16);
        assert!(numbers[..10].iter().all(|&number| kept.find(&format!("n{number}")) == Some(number)));
    }
}
