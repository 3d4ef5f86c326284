//! The cluster's state and Felix's settings as stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Name;

/// ClusterInformation `default`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterInformation {
    /// Nothing may be programmed until the store says that it is ready. Absent = not ready.
    pub datastore_ready: bool,
    /// The cluster's identity.
    pub guid: Option<String>,
}

/// A FelixConfiguration object as raw parameters: the names of Felix's configuration file
/// (`DefaultEndpointToHostAction`, `ReportingIntervalSecs`…) and values as it would write them
/// (durations in the parameter's own unit). Parsing and precedence belong to the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FelixConfiguration {
    /// Name → value.
    pub parameters: BTreeMap<Arc<str>, Arc<str>>,
}

impl FelixConfiguration {
    /// The name of the object that counts for the whole cluster.
    pub const CLUSTER: &str = "default";

    /// The name of the object that counts for one node, and goes before the cluster's there.
    pub fn name_of(node: &Name) -> Name {
        Name::from(format!("node.{node}"))
    }
}
