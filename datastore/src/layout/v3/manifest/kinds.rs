//! The kinds that `calicoctl` manages.

/// A kind.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// As in `kind:`.
    pub(super) name: &'static str,
    /// As in a key.
    pub(super) plural: &'static str,
    /// Its objects are in a namespace.
    pub(super) namespaced: bool,
}

const fn global(name: &'static str, plural: &'static str) -> Kind {
    Kind { name, plural, namespaced: false }
}

const fn namespaced(name: &'static str, plural: &'static str) -> Kind {
    Kind { name, plural, namespaced: true }
}

/// Those that the model does not have are here as well: they are counted, and no mistake.
pub(super) static KINDS: &[Kind] = &[
    global("BGPConfiguration", "bgpconfigurations"),
    global("BGPFilter", "bgpfilters"),
    global("BGPPeer", "bgppeers"),
    global("CalicoNodeStatus", "caliconodestatuses"),
    global("ClusterInformation", "clusterinformations"),
    global("FelixConfiguration", "felixconfigurations"),
    global("GlobalNetworkPolicy", "globalnetworkpolicies"),
    global("GlobalNetworkSet", "globalnetworksets"),
    global("HostEndpoint", "hostendpoints"),
    global("IPPool", "ippools"),
    global("IPReservation", "ipreservations"),
    global("KubeControllersConfiguration", "kubecontrollersconfigurations"),
    namespaced("NetworkPolicy", "networkpolicies"),
    namespaced("NetworkSet", "networksets"),
    global("Node", "nodes"),
    global("Profile", "profiles"),
    global("StagedGlobalNetworkPolicy", "stagedglobalnetworkpolicies"),
    namespaced("StagedKubernetesNetworkPolicy", "stagedkubernetesnetworkpolicies"),
    namespaced("StagedNetworkPolicy", "stagednetworkpolicies"),
    global("Tier", "tiers"),
    namespaced("WorkloadEndpoint", "workloadendpoints"),
];

impl Kind {
    /// The kind of a name, in any case of its letters: `calicoctl` takes `ippool` too.
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.name.eq_ignore_ascii_case(name))
    }

    /// Its name begins with its tier.
    pub(super) fn is_policy(&self) -> bool {
        matches!(
            self.plural,
            "networkpolicies"
                | "globalnetworkpolicies"
                | "stagednetworkpolicies"
                | "stagedglobalnetworkpolicies"
        )
    }

    pub(super) fn is_workload_endpoint(&self) -> bool {
        self.plural == "workloadendpoints"
    }
}
