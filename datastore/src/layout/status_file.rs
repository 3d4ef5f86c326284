//! The name of the file that says that an endpoint is programmed: the agent writes it, the CNI
//! plugin waits for it.

use crate::model::WorkloadEndpointId;

/// Orchestrator, workload and endpoint, each escaped, with spaces between:
/// `cni default%2Fc89f2f35-… eth0`. The original plugin looks for the same name.
pub fn endpoint_status_file_name(id: &WorkloadEndpointId) -> String {
    let parts = [&id.orchestrator, &id.workload, &id.endpoint];
    parts.map(|part| escape(part.as_str())).join(" ")
}

/// What Go's `url.PathEscape` does: everything but letters, digits and `-_.~$&+=:@` becomes `%XX`.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+=:@".contains(&byte) {
            escaped.push(byte.into());
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_the_plugin_looks_for() {
        for (workload, name) in [
            ("default/c89f2f35-1b7e-4a57", "cni default%2Fc89f2f35-1b7e-4a57 eth0"),
            ("a b%c", "cni a%20b%25c eth0"),
            ("ns/p.q_r~s$t&u+v=w:x@y", "cni ns%2Fp.q_r~s$t&u+v=w:x@y eth0"),
            ("caf\u{e9}", "cni caf%C3%A9 eth0"),
            ("../../etc/passwd", "cni ..%2F..%2Fetc%2Fpasswd eth0"),
        ] {
            let id = WorkloadEndpointId {
                node: "calico-01".into(),
                orchestrator: "cni".into(),
                workload: workload.into(),
                endpoint: "eth0".into(),
            };
            assert_eq!(endpoint_status_file_name(&id), name);
        }
    }
}
