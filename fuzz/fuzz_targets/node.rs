//! Node.
#![no_main]

calico_fuzz::resource!("nodes/n");
