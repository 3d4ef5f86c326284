//! BIRD: renders its configuration, checks it, swaps it, and asks it how it is.
//!
//! Owns one file and talks to one socket. It never starts or stops BIRD (systemd does), and
//! nothing waits for it: without BIRD policy is enforced all the same.

pub mod control;
mod file;
mod fit;
pub mod peers;
mod preview;
mod reconcile;
pub mod render;

pub use control::{BgpSession, BirdStatus, ControlError, PeerType, sessions, status};
pub use file::FileError;
pub use preview::{BirdPreview, preview};
pub use reconcile::Bird;
