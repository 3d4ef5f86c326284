//! Routes: host routes and neighbours of the pods in the kernel, and BIRD, which tells the others.

pub mod bird;
pub mod monitor;
