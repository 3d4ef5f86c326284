//! `calico` and `calico-ipam`.

fn main() {}
