//! Things with a name, found by it or by their number: the channels of the hub and of each shard are kept in one of these.
//!
//! Memory follows what is kept. Each thing lies in an allocation of its own, so that a table that grows moves pointers, and one that was
//! large once costs 8 bytes a slot; what is behind the last thing goes at once, and tables that are three quarters empty shrink.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

/// Tables no larger than this are not worth shrinking.
const SHRINKS_ABOVE: usize = 64;

pub trait Named {
    /// Must not change while the thing is kept.
    fn name(&self) -> &str;
}

#[derive(Debug)]
pub struct ByName<T> {
    /// The last one is not empty.
    slots: Vec<Option<Box<T>>>,
    /// Slots that were left; some may be in use again, or cut off.
    left: Vec<u32>,
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
        ByName { slots: Vec::new(), left: Vec::new(), numbers: HashTable::new(), hasher: RandomState::new() }
    }
}

impl<T: Named> ByName<T> {
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// One more than the highest number in use.
    pub fn numbers_end(&self) -> usize {
        self.slots.len()
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
        let number = self.vacant();
        let place = self.place(thing.name(), number);
        self.slots[number as usize] = Some(Box::new(thing));
        self.numbers.insert_unique(place.wide(), place, Place::wide);
        number
    }

    fn vacant(&mut self) -> u32 {
        while let Some(number) = self.left.pop() {
            if let Some(None) = self.slots.get(number as usize) {
                return number;
            }
        }
        self.slots.push(None);
        u32::try_from(self.slots.len() - 1).expect("memory ends far below 2^32 names")
    }

    /// # Panics
    /// If there is none of this number.
    pub fn remove(&mut self, number: u32) -> T {
        let thing = self.slots[number as usize].take().expect("the number of something kept");
        let place = self.place(thing.name(), number);
        if let Ok(found) = self.numbers.find_entry(place.wide(), |other| other.number == number) {
            found.remove();
        }
        self.left.push(number);
        while let Some(None) = self.slots.last() {
            self.slots.pop();
        }
        self.shrink();
        *thing
    }

    fn shrink(&mut self) {
        let is_large = |used: usize, capacity: usize| capacity > SHRINKS_ABOVE && used < capacity / 4;
        if is_large(self.slots.len(), self.slots.capacity()) {
            self.slots.shrink_to(2 * self.slots.len());
            self.left.retain(|&number| matches!(self.slots.get(number as usize), Some(None)));
            self.left.shrink_to(2 * self.left.len());
        }
        if is_large(self.numbers.len(), self.numbers.capacity()) {
            self.numbers.shrink_to(2 * self.numbers.len(), Place::wide);
        }
    }

    pub fn get(&self, number: usize) -> Option<&T> {
        self.slots.get(number)?.as_deref()
    }

    pub fn get_mut(&mut self, number: usize) -> Option<&mut T> {
        self.slots.get_mut(number)?.as_deref_mut()
    }

    pub fn contains(&self, number: usize) -> bool {
        self.get(number).is_some()
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.slots.iter().enumerate().filter_map(|(number, slot)| Some((number, slot.as_deref()?)))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(number, slot)| Some((number, slot.as_deref_mut()?)))
    }
}

impl<T> std::ops::Index<usize> for ByName<T> {
    type Output = T;
    fn index(&self, number: usize) -> &T {
        self.slots[number].as_deref().expect("the number of something kept")
    }
}

impl<T> std::ops::IndexMut<usize> for ByName<T> {
    fn index_mut(&mut self, number: usize) -> &mut T {
        self.slots[number].as_deref_mut().expect("the number of something kept")
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
        let capacities = [kept.slots.capacity(), kept.left.capacity(), kept.numbers.capacity()];
        assert!(capacities.iter().all(|&capacity| capacity <= SHRINKS_ABOVE), "{capacities:?}");
        assert!(numbers[..10].iter().all(|&number| kept.find(&format!("n{number}")) == Some(number)));
    }
}
