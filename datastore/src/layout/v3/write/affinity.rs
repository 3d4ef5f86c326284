//! Affinities: the claims of hosts on blocks.

use serde_json::{Map, Value, json};

use super::{Change, Malformed};
use crate::layout::v3::keys;
use crate::model::{AffinityId, AffinityState};

fn text(state: AffinityState) -> &'static str {
    match state {
        AffinityState::Confirmed => "confirmed",
        AffinityState::Pending => "pending",
        AffinityState::PendingDeletion => "pendingDeletion",
    }
}

/// The value of a new affinity.
pub fn create(state: AffinityState) -> Vec<u8> {
    json!({"state": text(state), "deleted": false}).to_string().into_bytes()
}

/// Brings a stored affinity into another state. Old writers stored nothing at all.
///
/// # Errors
/// When the stored affinity is malformed.
pub fn set_state(
    id: &AffinityId,
    stored: &[u8],
    state: AffinityState,
) -> Result<Change, Malformed> {
    if stored.iter().all(u8::is_ascii_whitespace) {
        return Ok(Some(create(state)));
    }
    let mut fields: Map<String, Value> = serde_json::from_slice(stored).map_err(|error| {
        Malformed { key: keys::affinity(&id.host, id.block), reason: error.to_string() }
    })?;
    let before = fields.insert("state".to_owned(), json!(text(state)));
    // What is claimed again is there again.
    let revived = fields.get("deleted") == Some(&Value::Bool(true));
    if revived {
        fields.insert("deleted".to_owned(), json!(false));
    }
    let same = !revived && before.is_some_and(|before| before == text(state));
    Ok((!same).then(|| Value::Object(fields).to_string().into_bytes()))
}
