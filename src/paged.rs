//! Things found by their number, in pages: topics, channels. (Not connections: a visit asks for its own so often that the step by way of the page cost a
//! broadcast 2 to 3 hundredths.) A table that grows copies nothing and holds no more room than one page,
//! and a page goes with the last thing on it. Whoever comes takes the lowest place that is free, so that pages behind empty.

use std::collections::BTreeSet;

/// So few that one thing which stays keeps little alive, so many that what a page costs by itself is less than two bytes for each.
pub const PAGE: usize = 16;

#[derive(Debug)]
pub struct Paged<T> {
    /// The last one is there.
    pages: Vec<Option<Box<Page<T>>>>,
    /// Pages that have room, and places of pages that are not there, among those before the last one.
    with_room: BTreeSet<u32>,
    len: usize,
}

#[derive(Debug)]
struct Page<T> {
    /// One bit for each place that is taken.
    taken: u16,
    slots: [Option<T>; PAGE],
}

const _: () = assert!(PAGE == u16::BITS as usize);

impl<T> Page<T> {
    fn is_full(&self) -> bool {
        self.taken == u16::MAX
    }
}

impl<T> Default for Paged<T> {
    fn default() -> Paged<T> {
        Paged { pages: Vec::new(), with_room: BTreeSet::new(), len: 0 }
    }
}

fn place(key: usize) -> (usize, usize) {
    (key / PAGE, key % PAGE)
}

impl<T> Paged<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// More than the highest number in use.
    pub fn end(&self) -> usize {
        self.pages.len() * PAGE
    }

    /// The number that the next thing will have.
    pub fn vacant(&self) -> usize {
        let Some(&page) = self.with_room.first() else { return self.end() };
        let slot = self.pages[page as usize].as_ref().map_or(0, |page| page.taken.trailing_ones() as usize);
        page as usize * PAGE + slot
    }

    /// Returns its number.
    pub fn insert(&mut self, thing: T) -> usize {
        let key = self.vacant();
        let (at, slot) = place(key);
        if at == self.pages.len() {
            self.pages.push(None);
            self.with_room.insert(at as u32);
        }
        let page = self.pages[at].get_or_insert_with(|| Box::new(Page { taken: 0, slots: [const { None }; PAGE] }));
        page.slots[slot] = Some(thing);
        page.taken |= 1 << slot;
        if page.is_full() {
            self.with_room.remove(&(at as u32));
        }
        self.len += 1;
        key
    }

    /// # Panics
    /// If there is none of this number.
    pub fn remove(&mut self, key: usize) -> T {
        let (at, slot) = place(key);
        let page = self.pages[at].as_mut().expect("the number of something kept");
        let thing = page.slots[slot].take().expect("the number of something kept");
        if page.is_full() {
            self.with_room.insert(at as u32);
        }
        page.taken &= !(1 << slot);
        self.len -= 1;
        if page.taken == 0 {
            self.pages[at] = None;
            self.cut();
        }
        thing
    }

    /// Gives up what is behind the last page.
    fn cut(&mut self) {
        while let Some(None) = self.pages.last() {
            self.pages.pop();
            self.with_room.remove(&(self.pages.len() as u32));
        }
        if self.pages.capacity() > 64 && self.pages.len() < self.pages.capacity() / 4 {
            self.pages.shrink_to(2 * self.pages.len());
        }
    }

    #[inline]
    pub fn get(&self, key: usize) -> Option<&T> {
        let (at, slot) = place(key);
        self.pages.get(at)?.as_ref()?.slots[slot].as_ref()
    }

    #[inline]
    pub fn get_mut(&mut self, key: usize) -> Option<&mut T> {
        let (at, slot) = place(key);
        self.pages.get_mut(at)?.as_mut()?.slots[slot].as_mut()
    }

    pub fn contains(&self, key: usize) -> bool {
        self.get(key).is_some()
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let pages = self.pages.iter().enumerate().filter_map(|(at, page)| Some((at, page.as_ref()?)));
        pages
            .flat_map(|(at, page)| page.slots.iter().enumerate().filter_map(move |(slot, thing)| Some((at * PAGE + slot, thing.as_ref()?))))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut T)> {
        let pages = self.pages.iter_mut().enumerate().filter_map(|(at, page)| Some((at, page.as_mut()?)));
        pages.flat_map(|(at, page)| {
            page.slots.iter_mut().enumerate().filter_map(move |(slot, thing)| Some((at * PAGE + slot, thing.as_mut()?)))
        })
    }
}

impl<T> std::ops::Index<usize> for Paged<T> {
    type Output = T;
    #[inline]
    fn index(&self, key: usize) -> &T {
        self.get(key).expect("the number of something kept")
    }
}

impl<T> std::ops::IndexMut<usize> for Paged<T> {
    #[inline]
    fn index_mut(&mut self, key: usize) -> &mut T {
        self.get_mut(key).expect("the number of something kept")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn numbers_find_the_same_whatever_came_and_went() {
        for seed in 0..100 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut kept = Paged::<u64>::default();
            let mut model = BTreeMap::<usize, u64>::new();
            for thing in 0..3000 {
                // By turns more come than go, and more go than come.
                let is_growing = thing / 500 % 2 == 0;
                if random.u8(0..4) < if is_growing { 3 } else { 1 } {
                    let lowest = (0..).find(|key| !model.contains_key(key)).unwrap();
                    assert_eq!((kept.vacant(), kept.insert(thing)), (lowest, lowest), "seed {seed}");
                    model.insert(lowest, thing);
                } else if let Some(&key) = random.choice(model.keys().collect::<Vec<_>>()) {
                    assert_eq!(Some(kept.remove(key)), model.remove(&key));
                    assert!(!kept.contains(key));
                }
                assert_eq!(kept.len(), model.len());
                let pages = model.keys().last().map_or(0, |last| last / PAGE + 1);
                assert_eq!(kept.end(), pages * PAGE, "seed {seed}");
            }
            assert!(kept.iter().map(|(key, thing)| (key, *thing)).eq(model.iter().map(|(key, thing)| (*key, *thing))), "seed {seed}");
            kept.iter_mut().for_each(|(_, thing)| *thing += 1);
            assert!(model.iter().all(|(&key, thing)| kept[key] == thing + 1));
        }
    }

    #[test]
    fn pages_go_with_the_last_thing_on_them() {
        let mut kept = Paged::default();
        let keys: Vec<usize> = (0..10_000).map(|thing| kept.insert(Box::new(thing))).collect();
        // One stays far behind.
        for &key in &keys[..9_999] {
            kept.remove(key);
        }
        assert_eq!(kept.pages.iter().flatten().count(), 1);
        assert_eq!(kept.insert(Box::new(1)), 0);
        kept.remove(9_999);
        assert_eq!((kept.len(), kept.end()), (1, PAGE));
        assert!(kept.pages.capacity() <= 64 && kept.with_room.len() == 1);
    }
}
