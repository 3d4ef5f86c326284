//! ClusterInformation.
#![no_main]

calico_fuzz::resource!("clusterinformations/default");
