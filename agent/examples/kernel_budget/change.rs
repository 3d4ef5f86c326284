//! Single changes of a world, each of which can be taken back.

use calico_agent::desired::DesiredState;

use crate::world::{self, Size};

/// What changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Join,
    Move,
    NewClass,
    OtherPolicies,
    OtherRules,
}

impl Change {
    pub const ALL: [Self; 5] =
        [Self::Join, Self::Move, Self::NewClass, Self::OtherPolicies, Self::OtherRules];

    /// In words: there, and back again where that is something of its own.
    pub fn says(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Join => ("an endpoint joins a class", Some("an endpoint goes")),
            Self::Move => ("an endpoint to another class", None),
            Self::NewClass => ("a new class, with its first endpoint", Some("a class goes")),
            Self::OtherPolicies => ("a class gets another policy list", None),
            Self::OtherRules => ("a policy's rules replaced", None),
        }
    }

    /// The world afterwards.
    pub fn of(self, before: &DesiredState, size: Size) -> DesiredState {
        let mut state = before.clone();
        match self {
            Self::Join => world::put(&mut state, size.endpoints, &world::class(0)),
            Self::Move => {
                world::put(&mut state, 0, &world::class(1));
                if size.endpoints <= size.classes {
                    // It was alone.
                    world::remove_class(&mut state, 0);
                }
            }
            Self::NewClass => {
                world::add_policies(&mut state, size.classes);
                world::put(&mut state, size.endpoints, &world::class(size.classes));
            }
            Self::OtherPolicies => {
                for number in (0..size.endpoints).filter(|number| number % size.classes == 0) {
                    world::put(&mut state, number, &world::turned(0));
                }
                state.classes.remove(&world::class(0).id());
            }
            Self::OtherRules => world::change_rules(&mut state, 0),
        }
        state
    }
}
