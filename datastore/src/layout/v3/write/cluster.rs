//! ClusterInformation.

use serde_json::json;

use super::{Birth, Document};
use crate::layout::v3::keys;

/// The ClusterInformation of a store that has none, ready from the start. `guid` is the cluster's
/// identity, `kind` its `clusterType` (`bgp`).
///
/// It gets no `calicoVersion`: calicoctl refuses to work with a version that is not its own and
/// works where there is none.
pub fn create(guid: &str, kind: &str, birth: &Birth) -> Vec<u8> {
    let spec = json!({"clusterGUID": guid, "clusterType": kind, "datastoreReady": true});
    let key = keys::READY_KEY.to_owned();
    let document = Document::create(key, "ClusterInformation", "default", birth, spec);
    // Nothing is stored that it could be equal to.
    document.finish().unwrap_or_default()
}
