//! `calico-agent`: see the crate.

fn main() {}
