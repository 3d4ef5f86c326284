//! The cluster's state and Felix's settings as stored.

use std::collections::BTreeMap;
use std::sync::Arc;

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
