//! Which object a line is about, as a field of the journal. Pure.

/// The field and the name in it for what a problem or a notice is about: `Profile web` is `web` in
/// `profile`. `None` for what is no object of the datastore (a table, a file).
pub(super) fn of_subject(subject: &str) -> Option<(&'static str, &str)> {
    // Who noticed it.
    let subject = subject.strip_prefix("collector: ").unwrap_or(subject);
    let (kind, name) = match subject.strip_prefix("host endpoint ") {
        Some(name) => ("endpoint", name),
        None => subject.split_once(' ')?,
    };
    let field = match kind {
        // Its node goes without saying (`WorkloadEndpointId::on_host`).
        "WorkloadEndpoint" => return Some(("endpoint", name.split_once('/')?.1)),
        "endpoint" | "HostEndpoint" => "endpoint",
        "Profile" | "profile" => "profile",
        "NetworkPolicy" | "GlobalNetworkPolicy" | "policy" => "policy",
        "Tier" => "tier",
        "NetworkSet" | "GlobalNetworkSet" => "set",
        "IPPool" => "pool",
        "Node" => "node",
        "BGPPeer" => "peer",
        _ => return None,
    };
    Some((field, name))
}

#[cfg(test)]
mod tests {
    use calico_datastore::model::{
        AffinityId, HostEndpointId, Name, NetworkSetId, PolicyId, ResourceId, WorkloadEndpointId,
    };

    use super::*;
    use crate::felix::iptables::uses::Subject;

    #[test]
    fn objects_have_their_field_and_tables_have_none() {
        for (subject, expected) in [
            ("Profile web", Some(("profile", "web"))),
            ("NetworkPolicy shop/web", Some(("policy", "shop/web"))),
            ("HostEndpoint uplink", Some(("endpoint", "uplink"))),
            ("host endpoint uplink", Some(("endpoint", "uplink"))),
            ("endpoint cni/default/a/eth0", Some(("endpoint", "cni/default/a/eth0"))),
            ("collector: endpoint cni/x/a/eth0", Some(("endpoint", "cni/x/a/eth0"))),
            ("collector: records", None),
            ("IPv4 table filter", None),
            ("bird", None),
            ("", None),
        ] {
            assert_eq!(of_subject(subject), expected, "{subject}");
        }
    }

    /// What the journal has for each kind; a new kind has to be decided here. `None`: nobody asks for one
    /// of them by its name.
    fn expected(id: &ResourceId) -> Option<(&'static str, String)> {
        match id {
            ResourceId::WorkloadEndpoint(id) => Some(("endpoint", id.on_host())),
            ResourceId::HostEndpoint(id) => Some(("endpoint", id.name.to_string())),
            ResourceId::Profile(name) => Some(("profile", name.to_string())),
            ResourceId::Policy(id) => Some(("policy", id.to_string())),
            ResourceId::Tier(name) => Some(("tier", name.to_string())),
            ResourceId::NetworkSet(id) => Some(("set", id.to_string())),
            ResourceId::Pool(name) => Some(("pool", name.to_string())),
            ResourceId::Node(name) => Some(("node", name.to_string())),
            ResourceId::ClusterInformation
            | ResourceId::FelixConfiguration(_)
            | ResourceId::BgpConfiguration(_)
            | ResourceId::Block(_)
            | ResourceId::Affinity(_) => None,
        }
    }

    #[test]
    fn the_names_of_kinds_are_those_of_the_datastore() {
        let name = || Name::from("web");
        let policy = |namespace| PolicyId { namespace, name: name() };
        let set = |namespace| NetworkSetId { namespace, name: name() };
        let block = || "10.65.0.0/26".parse().unwrap();
        let endpoint = WorkloadEndpointId {
            node: "host-1".into(),
            orchestrator: "cni".into(),
            workload: "default/a".into(),
            endpoint: "eth0".into(),
        };
        for id in [
            ResourceId::WorkloadEndpoint(endpoint),
            ResourceId::HostEndpoint(HostEndpointId { name: name() }),
            ResourceId::Profile(name()),
            ResourceId::Policy(policy(None)),
            ResourceId::Policy(policy(Some("shop".into()))),
            ResourceId::Tier(name()),
            ResourceId::NetworkSet(set(None)),
            ResourceId::NetworkSet(set(Some("shop".into()))),
            ResourceId::Pool(name()),
            ResourceId::Node(name()),
            ResourceId::ClusterInformation,
            ResourceId::FelixConfiguration(name()),
            ResourceId::BgpConfiguration(name()),
            ResourceId::Block(block()),
            ResourceId::Affinity(AffinityId { host: name(), block: block() }),
        ] {
            let subject = id.to_string();
            let found = of_subject(&subject).map(|(field, name)| (field, name.to_owned()));
            assert_eq!(found, expected(&id), "{subject}");
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_found_by_its_policy() {
        let policy = PolicyId { namespace: Some("shop".into()), name: "web".into() };
        for (subject, expected) in [
            (Subject::Policy(policy), ("policy", "shop/web")),
            (Subject::Profile("web".into()), ("profile", "web")),
        ] {
            assert_eq!(of_subject(&subject.to_string()), Some(expected));
        }
    }
}
