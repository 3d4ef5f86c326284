//! `CNI_ARGS`.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// What `CNI_ARGS` says: `KEY=value` with `;` between. Unknown keys (`K8S_…`) are kept and tolerated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// `IP=`: addresses that the pod is to have, with commas between.
    pub ips: Vec<IpAddr>,
    /// `label.<name>=<value>`: labels of its endpoint.
    pub labels: BTreeMap<String, String>,
    /// Everything else.
    pub others: BTreeMap<String, String>,
}
