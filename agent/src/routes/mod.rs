//! Routes: host routes and neighbours of the pods in the kernel, and BIRD, which tells the others.
//!
//! [`intent`] knows which routes should be, [`plan`] (pure) what must change, [`kernel`] (dull)
//! changes it, [`Routes`] ties them together; [`monitor`] says when to look again, and [`changes`]
//! where; [`defaults`] says where the host's default routes lead; [`preview`] shows what a first run
//! would do. Only the main table is looked at, and only what is ours is ever changed: see [`plan`].

pub mod bird;
pub mod changes;
pub mod defaults;
pub mod intent;
pub mod kernel;
pub mod leftovers;
pub mod monitor;
pub mod plan;
pub mod preview;
mod reconcile;

pub use changes::Changes;
pub use reconcile::Routes;
