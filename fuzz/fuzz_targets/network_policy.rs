//! NetworkPolicy.
#![no_main]

calico_fuzz::resource!("networkpolicies/n/default.p");
