//! Tables made by hand.

use super::*;
use proptest::prelude::*;

/// A table under construction.
struct Blob {
    layout: Layout,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(family: Family) -> Self {
        Self { layout: Layout::of(family), bytes: Vec::new() }
    }

    /// Adds an entry; returns where it begins.
    fn entry(&mut self, condition: u8, counter: u8, target: &str, data: &[u8]) -> usize {
        let at = self.bytes.len();
        let mut entry = vec![0; self.layout.size];
        entry[0] = condition;
        let end = self.layout.size;
        entry[end - 16..].fill(counter);
        // A match of 16 bytes.
        entry.extend([7; 16]);
        let offset = u16::try_from(entry.len()).unwrap().to_ne_bytes();
        let mut head = vec![0; TARGET];
        head[2..2 + target.len()].copy_from_slice(target.as_bytes());
        entry.extend(head);
        entry.extend(data);
        let next = u16::try_from(entry.len()).unwrap().to_ne_bytes();
        entry[self.layout.conditions..][..2].copy_from_slice(&offset);
        entry[self.layout.conditions + 2..][..2].copy_from_slice(&next);
        self.bytes.extend(entry);
        at
    }

    fn chain(&mut self, name: &str) -> usize {
        let mut data = [0; 32];
        data[..name.len()].copy_from_slice(name.as_bytes());
        self.entry(0, 0, "ERROR", &data);
        self.bytes.len()
    }

    /// A verdict about every packet.
    fn bare(&mut self, verdict: i32) -> usize {
        let at = self.bytes.len();
        let mut entry = vec![0; self.layout.size];
        let target = u16::try_from(entry.len()).unwrap();
        entry.extend([0; TARGET]);
        entry.extend(verdict.to_ne_bytes());
        entry.extend([0; 4]);
        let next = u16::try_from(entry.len()).unwrap();
        entry[self.layout.conditions..][..2].copy_from_slice(&target.to_ne_bytes());
        entry[self.layout.conditions + 2..][..2].copy_from_slice(&next.to_ne_bytes());
        self.bytes.extend(entry);
        at
    }

    fn verdict(&mut self, condition: u8, counter: u8, verdict: i32) -> usize {
        let mut data = [0; 8];
        data[..4].copy_from_slice(&verdict.to_ne_bytes());
        self.entry(condition, counter, "", &data)
    }
}

/// What stands in a table of three chains and FORWARD, which jumps to the last.
#[derive(Clone, Copy)]
struct Example {
    foreign_rules: usize,
    foreign_condition: u8,
    own_condition: u8,
    own_verdict: i32,
    counter: u8,
    jump_to_own: bool,
}

const EXAMPLE: Example = Example {
    foreign_rules: 1,
    foreign_condition: 1,
    own_condition: 2,
    own_verdict: -2,
    counter: 0,
    jump_to_own: true,
};

impl Example {
    fn digest(self, family: Family) -> Digest {
        // Twice: where the chains are is known only then.
        let (_, _, foreign, own) = self.make(family, 0, 0);
        let (bytes, hooks, ..) = self.make(family, foreign, own);
        digest(&bytes, &hooks, family, concerns)
    }

    fn make(
        self,
        family: Family,
        foreign: usize,
        own: usize,
    ) -> (Vec<u8>, [Option<u32>; 5], usize, usize) {
        let mut blob = Blob::new(family);
        let to = i32::try_from(if self.jump_to_own { own } else { foreign }).unwrap();
        let forward = blob.verdict(0, self.counter, to);
        blob.verdict(0, self.counter, -2);
        let foreign = blob.chain("DOCKER");
        for _ in 0..self.foreign_rules {
            blob.verdict(self.foreign_condition, self.counter, -1);
        }
        let own = blob.chain("cali-FORWARD");
        blob.verdict(self.own_condition, self.counter, self.own_verdict);
        blob.chain("ERROR");
        let mut hooks = [None; 5];
        hooks[2] = Some(u32::try_from(forward).unwrap());
        (blob.bytes, hooks, foreign, own)
    }
}

/// As the kernel has it after `iptables -F`, or when it never had more.
#[test]
fn chains_of_ours_without_rules_are_told_from_those_with_some() {
    const RETURN: i32 = -5;
    for family in Family::ALL {
        assert!(EXAMPLE.digest(family).ours);
        for (rules, ours) in [(0, false), (1, true)] {
            let mut blob = Blob::new(family);
            let input = blob.bare(RETURN);
            blob.chain("cali-FORWARD");
            for _ in 0..rules {
                blob.verdict(1, 0, RETURN);
            }
            blob.bare(RETURN);
            blob.chain("DOCKER");
            blob.verdict(1, 0, -1);
            blob.bare(RETURN);
            blob.chain("ERROR");
            let hooks = [None, Some(u32::try_from(input).unwrap()), None, None, None];
            assert_eq!(digest(&blob.bytes, &hooks, family, concerns).ours, ours, "{rules}");
        }
    }
}

#[test]
fn what_concerns_us_counts_and_nothing_else() {
    for family in Family::ALL {
        let whole = EXAMPLE.digest(family);
        for same in [
            Example { counter: 9, ..EXAMPLE },
            Example { foreign_condition: 9, ..EXAMPLE },
            // Everything behind it moves.
            Example { foreign_rules: 5, ..EXAMPLE },
        ] {
            assert_eq!(same.digest(family), whole);
        }
        for other in [
            Example { own_condition: 9, ..EXAMPLE },
            Example { own_verdict: -1, ..EXAMPLE },
            Example { jump_to_own: false, ..EXAMPLE },
        ] {
            assert_ne!(other.digest(family), whole);
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_loop(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        hook in any::<u32>(),
    ) {
        for family in Family::ALL {
            digest(&bytes, &[Some(hook); 5], family, concerns);
        }
    }

    #[test]
    fn a_damaged_table_does_not_make_it_panic_or_loop(at in 0_usize..1400, to in any::<u8>()) {
        for family in Family::ALL {
            let (mut bytes, hooks, ..) = EXAMPLE.make(family, 0, 0);
            let at = at % bytes.len();
            bytes[at] = to;
            digest(&bytes, &hooks, family, concerns);
        }
    }
}
