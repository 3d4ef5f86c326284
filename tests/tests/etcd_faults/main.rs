//! What happens to etcd: members that die, hang and cannot be reached, a store that forgets, goes
//! back, or is empty, values that are too many, too large, or nonsense.
//!
//! In every case packets go on as before, the hosts are in sync at most 10 s after the fault is
//! over, and what they have in force at the end is what agents that begin anew put there. Each
//! test ends with a table: run with `--nocapture` to see it.

mod lab;
mod members;
mod picture;
mod stores;
mod traffic;
mod values;
