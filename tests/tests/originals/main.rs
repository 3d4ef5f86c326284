//! Beside the original: its CNI plugin, its address management and its `calicoctl` work on one etcd
//! with ours, at the same time.
//!
//! `CALICO_ORIGINALS` names the directory with the original programs `calico`, `calico-ipam` and
//! `calicoctl`. Without it nothing of this is run, aloud.

#![allow(clippy::print_stdout, reason = "a test that counts says what it counted")]

mod administrator;
#[path = "../random_policies/chance.rs"]
#[allow(dead_code, reason = "another test uses all of it")]
mod chance;
mod crosswise;
mod fields;
mod governed;
mod judge;
mod kubernetes;
mod programs;
mod together;
mod waiting;
