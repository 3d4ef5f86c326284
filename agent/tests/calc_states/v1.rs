//! The objects of a state as a store of Calico 2.6 has them: written down in the v1 layout, and read
//! by it.

use calico_datastore::layout::v1;
use serde_json::{Map, Value, json};

use super::state::{Objects, list, text};

/// What the original calls a field, and what it is called in the store. A rule's `Not…` is a `!`
/// there.
const FIELDS: [(&str, &str); 24] = [
    ("Order", "order"),
    ("Selector", "selector"),
    ("Types", "types"),
    ("InboundRules", "inbound_rules"),
    ("OutboundRules", "outbound_rules"),
    ("DoNotTrack", "untracked"),
    ("PreDNAT", "pre_dnat"),
    ("SrcSelector", "src_selector"),
    ("SrcTag", "src_tag"),
    ("NotSrcSelector", "!src_selector"),
    ("NotSrcTag", "!src_tag"),
    ("DstSelector", "dst_selector"),
    ("DstTag", "dst_tag"),
    ("NotDstSelector", "!dst_selector"),
    ("NotDstTag", "!dst_tag"),
    ("Name", "name"),
    ("State", "state"),
    ("Mac", "mac"),
    ("ProfileIDs", "profile_ids"),
    ("IPv4Nets", "ipv4_nets"),
    ("IPv6Nets", "ipv6_nets"),
    ("Labels", "labels"),
    ("ExpectedIPv4Addrs", "expected_ipv4_addrs"),
    ("ExpectedIPv6Addrs", "expected_ipv6_addrs"),
];

/// The objects of a state. Every key is read, and nothing is refused.
pub(crate) fn objects(state: &Value) -> Objects {
    let stored: Vec<(String, String)> = list(&state["datastore"])
        .map(|entry| (key(&entry["Key"]), value(&entry["Key"], &entry["Value"])))
        .collect();
    let bytes = stored.iter().map(|(key, value)| (key.as_str(), value.as_bytes()));
    let (objects, refused) = v1::decode_all(bytes);
    assert_eq!(refused, []);
    objects.into_iter().map(|(id, update)| (id.to_string(), (id, update))).collect()
}

fn key(key: &Value) -> String {
    let part = |name: &str| text(&key[name]);
    let profile = || text(&key["ProfileKey"]["Name"]);
    match text(&key["kind"]) {
        "ReadyFlagKey" => "/calico/v1/Ready".into(),
        "GlobalConfigKey" => format!("/calico/v1/config/{}", part("Name")),
        "PolicyKey" => format!("/calico/v1/policy/tier/default/policy/{}", part("Name")),
        "ProfileRulesKey" => format!("/calico/v1/policy/profile/{}/rules", profile()),
        "ProfileTagsKey" => format!("/calico/v1/policy/profile/{}/tags", profile()),
        "ProfileLabelsKey" => format!("/calico/v1/policy/profile/{}/labels", profile()),
        "HostEndpointKey" => {
            format!("/calico/v1/host/{}/endpoint/{}", part("Hostname"), part("EndpointID"))
        }
        "WorkloadEndpointKey" => format!(
            "/calico/v1/host/{}/workload/{}/{}/endpoint/{}",
            part("Hostname"),
            part("OrchestratorID"),
            part("WorkloadID"),
            part("EndpointID")
        ),
        other => panic!("{other}"),
    }
}

fn value(key: &Value, value: &Value) -> String {
    match text(&key["kind"]) {
        "ReadyFlagKey" => value.as_bool().unwrap().to_string(),
        "GlobalConfigKey" => text(value).to_owned(),
        "ProfileTagsKey" | "ProfileLabelsKey" => value.to_string(),
        _ => Value::Object(stored(value)).to_string(),
    }
}

/// The fields of an object and of its rules under the names that they are stored by.
fn stored(value: &Value) -> Map<String, Value> {
    let fields = value.as_object().unwrap().iter().filter(|(name, _)| *name != "kind");
    fields
        .map(|(name, value)| {
            let known = FIELDS.iter().find(|(field, _)| field == name);
            let (_, name) = known.unwrap_or_else(|| panic!("{name} has no name in the store"));
            let value = match value {
                Value::Array(rules) if name.ends_with("_rules") => {
                    json!(rules.iter().map(stored).collect::<Vec<_>>())
                }
                other => other.clone(),
            };
            ((*name).to_owned(), value)
        })
        .collect()
}
