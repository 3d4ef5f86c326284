//! Whose order of policies holds, and which ports no host endpoint closes.

use calico_e2e::world::{RESOURCES, go_json};
use serde_json::json;

use crate::chance::Chance;
use crate::hosts::failsafes;

/// The settings of all hosts, with a version of Calico or without one, with lists of fail-safe ports
/// or without.
pub(crate) fn version(c: &mut Chance) -> (String, String) {
    let mut metadata = json!({ "name": "default" });
    let version = *c.one(&["", "3.20", "3.30", "3.30", "3.32", "3.32"]);
    if !version.is_empty() {
        metadata["annotations"] = json!({ "config.projectcalico.org/CalicoVersion": version });
    }
    let mut spec = json!({});
    for list in ["failsafeInboundHostPorts", "failsafeOutboundHostPorts"] {
        if c.percent(60) {
            spec[list] = failsafes(c);
        }
    }
    let value = json!({ "apiVersion": "projectcalico.org/v3", "metadata": metadata, "spec": spec });
    (format!("{RESOURCES}/felixconfigurations/default"), go_json(&value))
}
