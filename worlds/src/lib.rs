//! Small random datastores and packets that are aimed at what decides in them.
//!
//! A [`World`] is the keys and values of a datastore in the v3 layout, drawn from a seed and the same
//! for the same seed. [`World::questions`] asks its local endpoints about packets whose addresses,
//! ports and types are those that the world names, or lie just beside. Where two that should agree
//! do not, [`shrink()`] makes the world small, and a [`Case`] keeps it as a file. [`Coverage`] counts
//! how often each feature of the language decided. [`World::with_hosts`] is about hosts whose own
//! interfaces are policed, with [`World::host`], [`World::trips_of`], [`HostCase`] and [`HostCoverage`].

mod aim;
mod case;
mod chance;
mod coverage;
mod draw;
mod feature;
mod packet;
mod question;
mod shrink;
mod trip;
mod world;

pub use case::{Case, HostCase, NotACase};
pub use chance::Chance;
pub use coverage::{Coverage, HostCoverage};
pub use feature::{Feature, features};
pub use question::Question;
pub use shrink::shrink;
pub use trip::Trip;
pub use world::World;
