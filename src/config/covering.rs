//! Whether a table of `[[channels]]` can ever count: the first that fits does, so one is dead whose channels all belong to those before it.
//!
//! A selector is a small automaton over bytes. All ways through the later one are gone together with the set of states that the earlier ones may be in
//! then; a name that ends the later one and none of the earlier ones shows that it lives. What a table selects is taken whoever asks.

use std::collections::HashSet;

use super::Selector;
use crate::auth::pattern::Part;

/// So many pairs of states are looked at before nothing is said: patterns can be written whose automata are large together.
const PAIRS_MAX: usize = 20_000;

/// What is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Every channel of the later table is one of those before it.
    Covered,
    /// This one is not.
    Beyond(Vec<u8>),
    /// It would take too long to tell.
    Unknown,
}

/// Whether `later` selects anything that none of `earlier` does.
pub fn beyond(earlier: &[&Selector], later: &Selector) -> Found {
    let later = Automaton::of(later);
    let earlier: Vec<Automaton> = earlier.iter().map(|selector| Automaton::of(selector)).collect();
    let symbols = symbols(&earlier, &later);
    let mut pairs = vec![Pair { state: 0, earlier: earlier.iter().enumerate().map(|(at, _)| (at as u32, 0)).collect(), name: Vec::new() }];
    let mut seen: HashSet<(u32, Vec<(u32, u32)>)> = HashSet::new();
    while let Some(pair) = pairs.pop() {
        for &symbol in &symbols {
            let states: Vec<u32> = later.next(pair.state, symbol).collect();
            if states.is_empty() {
                continue;
            }
            let mut reached: Vec<(u32, u32)> = Vec::new();
            for &(at, state) in &pair.earlier {
                reached.extend(earlier[at as usize].next(state, symbol).map(|state| (at, state)));
            }
            reached.sort_unstable();
            reached.dedup();
            let name = [&pair.name[..], &[symbol]].concat();
            for state in states {
                if later.ends(state) && !reached.iter().any(|&(at, state)| earlier[at as usize].ends(state)) {
                    return Found::Beyond(name);
                }
                if seen.insert((state, reached.clone())) {
                    pairs.push(Pair { state, earlier: reached.clone(), name: name.clone() });
                }
            }
            if seen.len() > PAIRS_MAX {
                return Found::Unknown;
            }
        }
    }
    Found::Covered
}

/// How far a name has come in the later automaton, and in which states the earlier ones may be.
struct Pair {
    state: u32,
    earlier: Vec<(u32, u32)>,
    name: Vec<u8>,
}

/// A step from each state to the next, and which states a name may stay in.
#[derive(Debug)]
struct Automaton {
    steps: Vec<Step>,
    /// Whatever follows is taken.
    is_open: bool,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Byte(u8),
    /// One or more bytes but colons.
    Name,
    /// One or more bytes.
    Rest,
}

impl Step {
    fn takes(self, symbol: u8) -> bool {
        match self {
            Step::Byte(byte) => byte == symbol,
            Step::Name => symbol != b':',
            Step::Rest => true,
        }
    }

    fn repeats(self) -> bool {
        !matches!(self, Step::Byte(_))
    }
}

impl Automaton {
    fn of(selector: &Selector) -> Automaton {
        let bytes = |text: &str| text.bytes().map(Step::Byte).collect::<Vec<_>>();
        match selector {
            Selector::Prefix(prefix) => Automaton { steps: bytes(prefix), is_open: true },
            Selector::Pattern(pattern) => {
                let steps = pattern.parts().flat_map(|part| match part {
                    Part::Text(text) => bytes(text),
                    Part::Name => vec![Step::Name],
                    Part::Rest | Part::User => vec![Step::Rest],
                });
                Automaton { steps: steps.collect(), is_open: false }
            }
        }
    }

    /// The states to which this symbol leads.
    fn next(&self, state: u32, symbol: u8) -> impl Iterator<Item = u32> {
        let at = state as usize;
        let onward = self.steps.get(at).filter(|step| step.takes(symbol)).map(|_| state + 1);
        let before = at.checked_sub(1).map(|before| self.steps[before]);
        let stays = before.is_some_and(|step| step.repeats() && step.takes(symbol)) || (self.is_open && self.ends(state));
        onward.into_iter().chain(stays.then_some(state))
    }

    fn ends(&self, state: u32) -> bool {
        state as usize == self.steps.len()
    }
}

/// The bytes that somebody asks about, the colon, and one that stands for all others.
fn symbols(earlier: &[Automaton], later: &Automaton) -> Vec<u8> {
    let mut symbols = vec![b':'];
    for step in earlier.iter().chain([later]).flat_map(|automaton| &automaton.steps) {
        if let Step::Byte(byte) = step
            && !symbols.contains(byte)
        {
            symbols.push(*byte);
        }
    }
    symbols.extend((b'!'..=u8::MAX).find(|byte| !symbols.contains(byte)));
    symbols
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auth::pattern::Pattern;

    fn pattern(text: &str) -> Selector {
        Selector::Pattern(Pattern::read(text).unwrap())
    }

    fn is_covered(earlier: &[Selector], later: &Selector) -> bool {
        beyond(&earlier.iter().collect::<Vec<_>>(), later) == Found::Covered
    }

    #[test]
    fn a_table_that_never_counts_is_known() {
        for (first, later, covered) in [
            ("room:".into(), "room:1".into(), true),
            ("room:1".into(), "room:".into(), false),
            ("room:".into(), pattern("room:*:chat"), true),
            ("room:".into(), pattern("*:chat"), false),
            (pattern("**"), "room:".into(), true),
            (pattern("*"), "room:".into(), false),
            (pattern("a:*"), pattern("a:*"), true),
            (pattern("room:**"), pattern("room:*:chat"), true),
            (pattern("room:*"), pattern("room:*:chat"), false),
            (pattern("user:{sub}"), pattern("user:*"), true),
            (pattern("user:*"), pattern("user:{sub}"), false),
            (pattern("user:{sub}"), "user:".into(), false),
            (pattern("*:*"), pattern("room:1"), true),
            (pattern("room:*1"), pattern("room:*11"), true),
        ] {
            let (first, later): (Selector, Selector) = (first, later);
            assert_eq!(is_covered(std::slice::from_ref(&first), &later), covered, "{first} {later}");
        }
    }

    #[test]
    fn several_tables_may_leave_nothing_to_another_one() {
        let most = [pattern("room:*"), pattern("room:**:*"), pattern("room:**:"), pattern("room::**")];
        assert_eq!(beyond(&most.iter().collect::<Vec<_>>(), &pattern("room:**")), Found::Beyond(b"room::".to_vec()));
        let all = [pattern("room:*"), pattern("room:**:*"), pattern("room:**:"), pattern("room::**"), pattern("room::")];
        assert!(is_covered(&all, &pattern("room:**")));
    }

    fn selector() -> impl Strategy<Value = Selector> {
        let piece = prop::sample::select(vec!["a", "b", ":", "*", "**a", "{sub}"]);
        (prop::collection::vec(piece, 1..5), any::<bool>()).prop_filter_map("no pattern", |(pieces, is_prefix)| {
            let text = pieces.concat();
            if is_prefix {
                Some(text.replace(['*', '{', '}'], "a").as_str().into())
            } else {
                Pattern::read(&text).ok().map(Selector::Pattern)
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_said_holds_for_every_name(
            earlier in prop::collection::vec(selector(), 1..4),
            later in selector(),
            names in prop::collection::vec("[ab:x]{1,8}", 50),
        ) {
            match beyond(&earlier.iter().collect::<Vec<_>>(), &later) {
                Found::Covered => {
                    for name in names.iter().filter(|name| later.selects(name)) {
                        prop_assert!(earlier.iter().any(|selector| selector.selects(name)), "{name}");
                    }
                }
                Found::Beyond(name) => {
                    let name = String::from_utf8(name).unwrap();
                    prop_assert!(later.selects(&name) && !earlier.iter().any(|selector| selector.selects(&name)), "{name}");
                }
                Found::Unknown => prop_assert!(false, "these are small"),
            }
        }
    }
}
