//! IPPool.
#![no_main]

calico_fuzz::resource!("ippools/p");
