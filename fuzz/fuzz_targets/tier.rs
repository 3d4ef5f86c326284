//! Tier.
#![no_main]

calico_fuzz::resource!("tiers/t");
