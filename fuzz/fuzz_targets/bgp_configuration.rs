//! BGPConfiguration.
#![no_main]

calico_fuzz::resource!("bgpconfigurations/default");
