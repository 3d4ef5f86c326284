//! Which object a line is about, as a field of the journal. Pure.

/// The field and the name in it for what a problem or a notice is about: `Profile web` is `web` in
/// `profile`. `None` for what is no object of the datastore (a table, a file).
pub(super) fn of_subject(subject: &str) -> Option<(&'static str, &str)> {
    let (kind, name) = match subject.strip_prefix("host endpoint ") {
        Some(name) => ("endpoint", name),
        None => subject.split_once(' ')?,
    };
    let field = match kind {
        "endpoint" | "WorkloadEndpoint" | "HostEndpoint" => "endpoint",
        "Profile" => "profile",
        "NetworkPolicy" | "GlobalNetworkPolicy" => "policy",
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
    use calico_datastore::model::{Name, PolicyId, ResourceId};

    use super::*;

    #[test]
    fn objects_have_their_field_and_tables_have_none() {
        for (subject, expected) in [
            ("Profile web", Some(("profile", "web"))),
            ("NetworkPolicy shop/web", Some(("policy", "shop/web"))),
            ("HostEndpoint uplink", Some(("endpoint", "uplink"))),
            ("host endpoint uplink", Some(("endpoint", "uplink"))),
            ("endpoint cni/default/a/eth0", Some(("endpoint", "cni/default/a/eth0"))),
            ("IPv4 table filter", None),
            ("bird", None),
            ("", None),
        ] {
            assert_eq!(of_subject(subject), expected, "{subject}");
        }
    }

    #[test]
    fn the_names_of_kinds_are_those_of_the_datastore() {
        let web = PolicyId { namespace: None, name: Name::from("web") };
        let policy = ResourceId::Policy(web).to_string();
        assert_eq!(of_subject(&policy), Some(("policy", "web")));
        let profile = ResourceId::Profile(Name::from("a")).to_string();
        assert_eq!(of_subject(&profile), Some(("profile", "a")));
    }
}
