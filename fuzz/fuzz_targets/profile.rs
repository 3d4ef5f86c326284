//! Profile.
#![no_main]

calico_fuzz::resource!("profiles/p");
