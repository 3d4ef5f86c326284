//! Where policy is asked: the same rules end otherwise in different places.

use crate::felix::ruleset::Direction;

/// Where policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Of pods.
    Pod(Direction),
    /// Of host endpoints, about what the host receives or sends, and what it forwards.
    Host(Direction),
    /// Of host endpoints, before connections are tracked.
    Untracked(Direction),
    /// Of host endpoints, before the destination is translated.
    PreDnat,
    /// Of host endpoints, about what the host sends to an address that was translated: on the way out.
    Late,
}

impl Place {
    /// Each of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let both = |place: fn(Direction) -> Self| Direction::ALL.map(place);
        let two = [both(Self::Pod), both(Self::Host), both(Self::Untracked)];
        two.into_iter().flatten().chain([Self::PreDnat, Self::Late])
    }

    /// Which way its packets go.
    pub fn direction(self) -> Direction {
        match self {
            Self::Pod(direction) | Self::Host(direction) | Self::Untracked(direction) => direction,
            Self::PreDnat => Direction::Ingress,
            Self::Late => Direction::Egress,
        }
    }

    /// True where a packet can be rejected, and where those of pods are counted.
    pub fn is_filter(self) -> bool {
        matches!(self, Self::Pod(_) | Self::Host(_))
    }

    /// What tells chains of this place from those of another.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Pod(_) => "",
            Self::Host(_) => "host-",
            Self::Untracked(_) => "raw-",
            Self::PreDnat => "early-",
            Self::Late => "late-",
        }
    }
}
