//! Collects facts. It judges nothing, changes nothing on the host, and bounds everything in time;
//! what cannot be read is a fact as well.

pub mod bird;
pub mod cni;
pub mod directory;
pub mod etcd;
pub mod etcd2;
pub mod host;
pub mod kernel;
pub mod managers;
pub mod tools;
