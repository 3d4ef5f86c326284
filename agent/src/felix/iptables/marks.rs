//! The bits of the packet mark that we may use.

/// What each of our bits means, taken from the lowest bit of the mask upwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// A rule allowed the packet.
    pub accept: u32,
    /// A rule passed the packet to the next tier.
    pub pass: u32,
    /// All blocks of a rule match so far.
    pub scratch0: u32,
    /// The present block of a rule matches.
    pub scratch1: u32,
}

impl Marks {
    /// How many bits of the mask are used.
    pub const BITS: usize = 4;

    /// The marks inside `mask`, or `None` when it has too few bits.
    pub fn of_mask(mask: u32) -> Option<Self> {
        let mut bits = (0..32).map(|i| 1 << i).filter(|bit| mask & bit != 0);
        Some(Self {
            accept: bits.next()?,
            pass: bits.next()?,
            scratch0: bits.next()?,
            scratch1: bits.next()?,
        })
    }

    /// Every bit that may be touched.
    pub fn all(self) -> u32 {
        self.accept | self.pass | self.scratch0 | self.scratch1
    }

    /// Both bits that a rule may leave behind.
    pub fn verdicts(self) -> u32 {
        self.accept | self.pass
    }
}

/// The target that clears `bits` and leaves all others alone.
pub fn clear(bits: u32) -> String {
    format!("--jump MARK --set-mark 0x0/{bits:#x}")
}

/// The target that sets `bits` and leaves all others alone.
pub fn put(bits: u32) -> String {
    format!("--jump MARK --set-mark {bits:#x}/{bits:#x}")
}

/// The match for a packet that has `bits`.
pub fn has(bits: u32) -> String {
    format!("-m mark --mark {bits:#x}/{bits:#x}")
}

/// The match for a packet that has none of `bits`.
pub fn lacks(bits: u32) -> String {
    format!("-m mark --mark 0x0/{bits:#x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_from_inside_the_mask() {
        let marks = Marks::of_mask(0xffff_0000).unwrap();
        assert_eq!((marks.accept, marks.pass), (0x1_0000, 0x2_0000));
        let odd = Marks::of_mask(0x8000_0a02).unwrap();
        assert_eq!(odd.all(), 0x8000_0a02);
        assert_eq!(Marks::of_mask(0x7), None);
    }
}
