//! Profile of a network.

use serde_json::json;

use super::{Birth, Document, Malformed};
use crate::layout::v3::keys;
use crate::model::{Name, ResourceId};

/// The profile that a network has when nobody made one: pods of the same network may reach each
/// other, and every pod may reach anything. Its label is how the pods of the network are known; its
/// value is empty.
///
/// # Errors
/// When the network's name cannot be stored.
pub fn of_network(network: &Name, birth: &Birth) -> Result<Vec<u8>, Malformed> {
    let key = keys::profile(network);
    if crate::layout::v3::id_of(&key) != Some(ResourceId::Profile(network.clone())) {
        let reason = "the network's name cannot name a profile".to_owned();
        return Err(Malformed { key, reason });
    }
    let spec = json!({
        "ingress": [{
            "action": "Allow",
            "source": {"selector": format!("has({network})")},
            "destination": {},
        }],
        "egress": [{"action": "Allow", "source": {}, "destination": {}}],
        "labelsToApply": {network.as_str(): ""},
    });
    let document = Document::create(key, "Profile", network.as_str(), birth, spec);
    // Nothing is stored that it could be equal to.
    Ok(document.finish().unwrap_or_default())
}
