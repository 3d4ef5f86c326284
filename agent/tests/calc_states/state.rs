//! The objects of a state of the datastore, out of the JSON of a case: of 3.32, whose cases are what
//! the original makes of its store in memory. Those of 2.6 are read as they are stored (`v1`).

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_datastore::model::{
    Action, Cidr, HostEndpoint, HostEndpointId, Labels, Name, NamedPort, NetworkSet, NetworkSetId,
    Order, Peer, Policy, PolicyId, PolicyKind, PortRange, Ports, Profile, ResourceId, Rule,
    Selector, Tier, TierAction, Unevaluable, Update, WorkloadEndpoint, WorkloadEndpointId,
};
use serde_json::Value;

/// Objects of one state by the text of their id.
pub(crate) type Objects = BTreeMap<String, (ResourceId, Update)>;

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text"))
}

pub(crate) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn names(value: &Value) -> Vec<Name> {
    list(value).map(|name| Name::from(text(name))).collect()
}

fn labels(value: &Value) -> Labels {
    value.as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), text(v))).collect()
}

fn cidrs<'a>(values: impl IntoIterator<Item = &'a Value>) -> Vec<Cidr> {
    values.into_iter().flat_map(list).map(|net| text(net).parse().unwrap()).collect()
}

fn named_ports(value: &Value) -> Vec<NamedPort> {
    let port = |port: &Value| NamedPort {
        name: text(&port["Name"]).into(),
        protocol: text(&port["Protocol"]).parse().unwrap(),
        port: port["Port"].as_u64().unwrap().try_into().unwrap(),
    };
    list(value).map(port).collect()
}

fn selector(selector: &Value) -> Option<Selector> {
    selector.as_str().map(|text| text.parse::<Selector>().unwrap())
}

fn ports(value: &Value) -> Ports {
    let mut ports = Ports::default();
    for port in list(value) {
        if let Some(name) = port["PortName"].as_str() {
            ports.named.push(name.into());
        } else {
            let [first, last] = ["MinPort", "MaxPort"]
                .map(|key| u16::try_from(port[key].as_u64().unwrap()).unwrap());
            ports.ranges.push(PortRange::new(first, last).unwrap());
        }
    }
    ports
}

fn peer(rule: &Value, side: &str) -> Peer {
    let get = |not: &str, what: &str| &rule[format!("{not}{side}{what}")];
    Peer {
        selector: selector(get("", "Selector")),
        not_selector: selector(get("Not", "Selector")),
        ports: ports(get("", "Ports")),
        not_ports: ports(get("Not", "Ports")),
        ..Peer::default()
    }
}

fn rules(value: &Value) -> Vec<Rule> {
    let rule = |rule: &Value| Rule {
        protocol: rule["Protocol"].as_str().map(|protocol| protocol.parse().unwrap()),
        source: peer(rule, "Src"),
        destination: peer(rule, "Dst"),
        unevaluable: (!rule["HTTPMatch"].is_null()).then_some(Unevaluable::Http),
        ..Rule::any(Action::Allow)
    };
    list(value).map(rule).collect()
}

fn order(value: &Value) -> Order {
    value.as_f64().map_or(Order::LAST, |order| Order::new(order).unwrap())
}

fn policy(value: &Value) -> Policy {
    let types: Vec<&str> = list(&value["Types"]).map(text).collect();
    let flag = |name: &str| value[name].as_bool() == Some(true);
    Policy {
        tier: value["Tier"].as_str().map(Name::from),
        tier_label: None,
        order: order(&value["Order"]),
        selector: text(&value["Selector"]).parse().unwrap(),
        ingress: rules(&value["InboundRules"]),
        egress: rules(&value["OutboundRules"]),
        governs_ingress: types.is_empty() || types.contains(&"ingress"),
        governs_egress: types.is_empty() || types.contains(&"egress"),
        kind: match (flag("DoNotTrack"), flag("PreDNAT")) {
            (true, _) => PolicyKind::Untracked,
            (_, true) => PolicyKind::PreDnat,
            _ => PolicyKind::Normal,
        },
        apply_on_forward: flag("ApplyOnForward"),
        needed_everywhere: list(&value["PerformanceHints"])
            .any(|hint| text(hint) == "AssumeNeededOnEveryNode"),
    }
}

/// The two parts of a profile: rules and labels.
#[derive(Default)]
struct ProfileParts {
    rules: Option<Value>,
    labels: Vec<(String, String)>,
}

/// The objects of a state, or why it cannot be one of ours.
pub(crate) fn objects(state: &Value) -> Result<Objects, String> {
    let mut updates = Vec::new();
    let mut profiles: BTreeMap<String, ProfileParts> = BTreeMap::new();
    for entry in list(&state["datastore"]) {
        let (key, value) = (&entry["Key"], &entry["Value"]);
        let profile = || key["ProfileKey"]["Name"].as_str().unwrap_or_default().to_owned();
        match text(&key["kind"]) {
            // Routing is calculated from other objects here, and has other cases.
            "GlobalConfigKey" | "ReadyFlagKey" | "HostConfigKey" | "HostIPKey" | "IPPoolKey"
            | "BlockKey" | "WireguardKey" => {}
            "ResourceKey" if key["Kind"] == "Node" => {}
            // Only says which routes of two hosts win while a virtual machine moves.
            "ResourceKey" if key["Kind"] == "LiveMigration" => {}
            "ResourceKey" if key["Kind"] == "KubernetesEndpointSlice" => {
                return Err("Kubernetes services".into());
            }
            "ResourceKey" if key["Kind"] == "Profile" => {
                let labels = value["Spec"]["LabelsToApply"].as_object().cloned();
                let Some(labels) = labels else {
                    return Err("profiles made from Kubernetes objects".into());
                };
                let labels = labels.iter().map(|(k, v)| (k.clone(), text(v).to_owned()));
                profiles.entry(text(&key["Name"]).into()).or_default().labels.extend(labels);
            }
            "ProfileRulesKey" => {
                profiles.entry(profile()).or_default().rules = Some(value.clone());
            }
            "TierKey" => {
                let tier = Tier { order: order(&value["Order"]), default_action: TierAction::Deny };
                updates.push(Update::Tier(text(&key["Name"]).into(), Some(Arc::new(tier))));
            }
            "PolicyKey" => {
                let id = PolicyId {
                    namespace: value["Namespace"].as_str().map(Name::from),
                    name: text(&key["Name"]).into(),
                };
                updates.push(Update::Policy(id, Some(Arc::new(policy(value)))));
            }
            "NetworkSetKey" => {
                let id = NetworkSetId { namespace: None, name: text(&key["Name"]).into() };
                let set = NetworkSet {
                    nets: cidrs([&value["Nets"]]),
                    labels: labels(&value["Labels"]),
                    profiles: Vec::new(),
                };
                updates.push(Update::NetworkSet(id, Some(Arc::new(set))));
            }
            "HostEndpointKey" => {
                let id = HostEndpointId { name: text(&key["EndpointID"]).into() };
                let addresses = ["ExpectedIPv4Addrs", "ExpectedIPv6Addrs"].map(|key| &value[key]);
                let endpoint = HostEndpoint {
                    node: text(&key["Hostname"]).into(),
                    interface: value["Name"].as_str().map(Name::from),
                    expected_addresses: cidrs(addresses).iter().map(Cidr::address).collect(),
                    left_out: None,
                    profiles: names(&value["ProfileIDs"]),
                    labels: labels(&value["Labels"]),
                    ports: named_ports(&value["Ports"]),
                };
                updates.push(Update::HostEndpoint(id, Some(Arc::new(endpoint))));
            }
            "WorkloadEndpointKey" => {
                let part = |name: &str| Name::from(text(&key[name]));
                let id = WorkloadEndpointId {
                    node: part("Hostname"),
                    orchestrator: part("OrchestratorID"),
                    workload: part("WorkloadID"),
                    endpoint: part("EndpointID"),
                };
                let endpoint = WorkloadEndpoint {
                    interface: text(&value["Name"]).parse().unwrap(),
                    active: value["State"] == "active",
                    mac: value["Mac"].as_str().map(|mac| mac.parse().unwrap()),
                    addresses: cidrs([&value["IPv4Nets"], &value["IPv6Nets"]]),
                    nat: Vec::new(),
                    spoof: Vec::new(),
                    profiles: names(&value["ProfileIDs"]),
                    labels: labels(&value["Labels"]),
                    ports: named_ports(&value["Ports"]),
                };
                updates.push(Update::WorkloadEndpoint(id, Some(Arc::new(endpoint))));
            }
            other => return Err(format!("{other} {}", key["Kind"])),
        }
    }
    for (name, ProfileParts { rules: own, labels }) in profiles {
        // Without rules a profile lends its labels and drops.
        let of = |key: &str| match &own {
            Some(value) => rules(&value[key]),
            None => vec![Rule::any(Action::Deny)],
        };
        let (ingress, egress) = (of("InboundRules"), of("OutboundRules"));
        let profile = Profile { ingress, egress, labels: labels.into_iter().collect() };
        updates.push(Update::Profile(name.as_str().into(), Some(Arc::new(profile))));
    }
    let object = |update: Update| (update.id().to_string(), (update.id(), update));
    Ok(updates.into_iter().map(object).collect())
}
