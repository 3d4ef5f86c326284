//! FelixConfiguration of a node.

use serde_json::json;

use super::{Birth, Change, Document, Malformed};
use crate::layout::v3::{felix, keys};
use crate::model::{FelixConfiguration, Name};

/// What happens, after policy, to packets from a pod to its own host
/// (`defaultEndpointToHostAction`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAction {
    /// Dropped.
    Drop,
    /// Left to the host's own rules.
    Return,
    /// Accepted.
    Accept,
}

impl HostAction {
    fn as_str(self) -> &'static str {
        match self {
            Self::Drop => "Drop",
            Self::Return => "Return",
            Self::Accept => "Accept",
        }
    }
}

/// Sets the host action of a node unless somebody said what it should be, in the field or by the
/// annotation that sets a parameter by Felix's own name.
///
/// # Errors
/// When the stored object is malformed.
pub fn default_host_action(
    node: &Name,
    action: HostAction,
    stored: Option<&[u8]>,
    birth: &Birth,
) -> Result<Change, Malformed> {
    const FIELD: &str = "defaultEndpointToHostAction";
    let key = keys::felix_configuration_of(node);
    let Some(bytes) = stored else {
        // `bpfLogLevel` is there in everything that a client since 3.13 writes.
        let spec = json!({FIELD: action.as_str(), "bpfLogLevel": ""});
        let name = FelixConfiguration::name_of(node);
        let document = Document::create(key, "FelixConfiguration", name.as_str(), birth, spec);
        return Ok(document.finish());
    };
    let mut document = Document::open(key, bytes)?;
    let annotation = format!("{}{}", felix::ANNOTATION_PREFIX, felix::parameter_name(FIELD));
    if document.annotation(&annotation).is_some() {
        return Ok(None);
    }
    let spec = document.spec()?;
    if spec.get(FIELD).is_some_and(|value| !value.is_null() && value != "") {
        return Ok(None);
    }
    spec.insert(FIELD.to_owned(), json!(action.as_str()));
    Ok(document.finish())
}
