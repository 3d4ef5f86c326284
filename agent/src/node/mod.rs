//! Who this host is: its name, its addresses, its registration in the datastore.
//!
//! [`name`] and [`registration`] are pure; [`register`] drives the latter over a store and
//! [`addresses`] asks the kernel. [`mtu`] is what the host's interfaces leave to pods. Nothing here
//! touches policy: a host that cannot register enforces what is known all the same.

pub mod addresses;
pub mod mtu;
pub mod name;
pub mod register;
pub mod registration;
