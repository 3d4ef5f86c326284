//! NetworkSet, the namespaced one: it reads what the global one does, and more.
#![no_main]

calico_fuzz::resource!("networksets/n/s");
