//! HostEndpoint.
#![no_main]

calico_fuzz::resource!("hostendpoints/h");
