//! The original's own calculation cases: states of the datastore with the endpoints, policies,
//! profiles and address sets that must follow from them, alone and in sequences.
//!
//! Read in place from the directory that `CALICO_SHARED` names; skipped aloud without it. Cases
//! about what this agent does not do (host endpoints of this host, Kubernetes services…) are left
//! out by reason, and the numbers of cases that run are asserted.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of a test, which clippy does not take for tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use calico_agent::acl::Calculator;
use calico_agent::config::Settings;
use calico_agent::desired::{DesiredState, DirectionAcl, Member};
use calico_datastore::model::{
    Action, Cidr, HostEndpoint, HostEndpointId, Labels, Name, NamedPort, NetworkSet, NetworkSetId,
    Order, Peer, Policy, PolicyId, PolicyKind, PortRange, Ports, Profile, ResourceId, Rule,
    Selector, Tier, TierAction, Update, WorkloadEndpoint, WorkloadEndpointId,
};
use serde_json::Value;

/// Objects of one state by id.
type Objects = BTreeMap<String, (ResourceId, Update)>;

/// A tier with its policies: name, ingress, egress.
type TierPolicies = (String, Vec<String>, Vec<String>);

/// What must follow, in a form that both sides can be brought to.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    endpoints: BTreeMap<String, Vec<TierPolicies>>,
    policies: BTreeSet<String>,
    profiles: BTreeSet<String>,
    /// Set id → members.
    sets: BTreeMap<String, BTreeSet<String>>,
}

struct Case {
    objects: Objects,
    expected: Outcome,
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text"))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
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

/// Selector and tag are one selector: a tag is a label without value.
fn selector(selector: &Value, tag: &Value) -> Option<Selector> {
    let selector = selector.as_str().map(|text| text.parse::<Selector>().unwrap());
    let tag = tag.as_str().map(|tag| Selector::has(tag).unwrap());
    match (selector, tag) {
        (Some(selector), Some(tag)) => Some(selector.and(&tag)),
        (selector, tag) => selector.or(tag),
    }
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
        selector: selector(get("", "Selector"), get("", "Tag")),
        not_selector: selector(get("Not", "Selector"), get("Not", "Tag")),
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
        apply_on_forward: false,
    }
}

/// The three parts of a profile: rules, tags and labels.
#[derive(Default)]
struct ProfileParts {
    rules: Option<Value>,
    labels: Vec<(String, String)>,
}

/// The objects of a state, or why it cannot be one of ours.
fn objects(state: &Value, host: &str) -> Result<Objects, String> {
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
            "ResourceKey" if key["Kind"] == "Profile" => {
                let labels = value["Spec"]["LabelsToApply"].as_object().cloned();
                let Some(labels) = labels else { return Err("made from Kubernetes".into()) };
                let labels = labels.iter().map(|(k, v)| (k.clone(), text(v).to_owned()));
                profiles.entry(text(&key["Name"]).into()).or_default().labels.extend(labels);
            }
            "ProfileRulesKey" => {
                profiles.entry(profile()).or_default().rules = Some(value.clone());
            }
            "ProfileTagsKey" => {
                let tags = list(value).map(|tag| (text(tag).to_owned(), String::new()));
                profiles.entry(profile()).or_default().labels.extend(tags);
            }
            "ProfileLabelsKey" => {
                let labels = value.as_object().unwrap().iter();
                let labels = labels.map(|(k, v)| (k.clone(), text(v).to_owned()));
                profiles.entry(profile()).or_default().labels.extend(labels);
            }
            "TierKey" => {
                let tier = Tier { order: order(&value["Order"]), default_action: TierAction::Deny };
                updates.push(Update::Tier(text(&key["Name"]).into(), Some(Arc::new(tier))));
            }
            "PolicyKey" => {
                if !value["PerformanceHints"].is_null() {
                    return Err("performance hints".into());
                }
                let all = || list(&value["InboundRules"]).chain(list(&value["OutboundRules"]));
                if all().any(|rule| !rule["HTTPMatch"].is_null()) {
                    return Err("HTTP".into());
                }
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
                if key["Hostname"] == host {
                    return Err("host endpoint of this host".into());
                }
                let id = HostEndpointId { name: text(&key["EndpointID"]).into() };
                let addresses = ["ExpectedIPv4Addrs", "ExpectedIPv6Addrs"].map(|key| &value[key]);
                let endpoint = HostEndpoint {
                    node: text(&key["Hostname"]).into(),
                    interface: None,
                    expected_addresses: cidrs(addresses).iter().map(Cidr::address).collect(),
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
        // Without rules a profile lends its labels and drops, as the v1 layout decodes it.
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

fn expected(state: &Value, ids: &Value) -> Outcome {
    let expected = &state["expected"];
    // 2.6 writes a policy as its name, 3.32 as an object.
    let name = |policy: &Value| policy.as_str().unwrap_or_else(|| text(&policy["Name"])).to_owned();
    let ids_of = |key: &str| list(&expected[key]).map(|id| text(&id["Name"]).to_owned()).collect();
    let mut outcome = Outcome {
        policies: ids_of("active_policies"),
        profiles: ids_of("active_profiles"),
        ..Outcome::default()
    };
    for (id, endpoint) in expected["endpoints"].as_object().unwrap() {
        let tier = |tier: &Value| {
            let policies = |key: &str| list(&tier[key]).map(name).collect();
            let (ingress, egress) = (policies("IngressPolicies"), policies("EgressPolicies"));
            (text(&tier["Name"]).to_owned(), ingress, egress)
        };
        outcome.endpoints.insert(id.clone(), list(&endpoint["tiers"]).map(tier).collect());
    }
    for (symbol, members) in expected["ipsets"].as_object().unwrap() {
        // 2.6 writes an address without its length, and one address of a set may be in it twice.
        let member = |member: &Value| match text(member).parse::<Cidr>() {
            Ok(cidr) => cidr.to_string(),
            Err(_) => text(member).to_owned(),
        };
        let members = list(members).map(member).collect();
        // Sets of Kubernetes services have no id there; states with one are left out.
        let id = ids[symbol].as_str().unwrap_or(symbol);
        outcome.sets.insert(id.to_owned(), members);
    }
    outcome
}

fn outcome(state: &DesiredState) -> Outcome {
    let names = |direction: &DirectionAcl, tier: &Name| -> Vec<String> {
        let tiers = direction.tiers.iter().filter(|acl| acl.tier == *tier);
        tiers.flat_map(|acl| &acl.policies).map(|id| id.name.to_string()).collect()
    };
    let endpoints = state.endpoints.iter().map(|(id, endpoint)| {
        let class = &state.classes[&endpoint.class];
        // Both directions list their tiers in the same order; here they become one list.
        let mut tiers: Vec<&Name> = class.ingress.tiers.iter().map(|acl| &acl.tier).collect();
        for (at, acl) in class.egress.tiers.iter().enumerate() {
            if !tiers.contains(&&acl.tier) {
                tiers.insert(at.min(tiers.len()), &acl.tier);
            }
        }
        let tier = |tier: &Name| {
            (tier.to_string(), names(&class.ingress, tier), names(&class.egress, tier))
        };
        let id = format!("{}/{}/{}", id.orchestrator, id.workload, id.endpoint);
        (id, tiers.into_iter().map(tier).collect())
    });
    let member = |member: &Member| match member {
        Member::Net(cidr) => cidr.to_string(),
        Member::Port(address, protocol, port) => format!("{address},{protocol}:{port}"),
    };
    Outcome {
        endpoints: endpoints.collect(),
        policies: state.policies.keys().map(|id| id.name.to_string()).collect(),
        profiles: state.profiles.keys().map(ToString::to_string).collect(),
        sets: (state.sets.iter())
            .map(|(id, set)| (id.to_string(), set.members.iter().map(member).collect()))
            .collect(),
    }
}

/// Refuses a state that contradicts itself: the policies of some were written down after a later
/// state had changed the tier of the same object, so that no policy names the tier expected.
fn consistent(objects: Objects, expected: &Outcome) -> Result<Objects, String> {
    let named = |(_, update): &(ResourceId, Update)| match update {
        Update::Policy(_, Some(policy)) => {
            Some(policy.tier.as_ref().map_or("default", Name::as_str).to_owned())
        }
        _ => None,
    };
    let named: BTreeSet<String> = objects.values().filter_map(named).collect();
    let mut tiers = expected.endpoints.values().flatten();
    if tiers.all(|(tier, ..)| named.contains(tier)) {
        Ok(objects)
    } else {
        Err("no policy names the tier that it is expected in".into())
    }
}

/// The updates that lead from one state to another.
fn delta(old: &Objects, new: &Objects) -> Vec<Update> {
    let gone = old.iter().filter(|(key, _)| !new.contains_key(*key));
    let gone = gone.map(|(_, (id, _))| Update::deleted(id.clone()));
    let other = new.iter().filter(|(key, object)| old.get(*key) != Some(object));
    gone.chain(other.map(|(_, (_, update))| update.clone())).collect()
}

/// Goes from state to state and compares at each. `one_by_one` makes every object a batch.
fn walk(host: &str, path: &[&Case], backwards: bool, one_by_one: bool, what: &str) {
    let mut calculator = Calculator::new(host.into());
    let settings = Arc::new(Settings::default());
    let empty = Objects::new();
    let mut at = &empty;
    for (step, case) in path.iter().enumerate() {
        let mut updates = delta(at, &case.objects);
        if backwards {
            updates.reverse();
        }
        for update in updates {
            calculator.apply([update]);
            if one_by_one {
                let _ = calculator.desired(Arc::clone(&settings), 0);
            }
        }
        let state = calculator.desired(Arc::clone(&settings), 0);
        assert_eq!(outcome(&state), case.expected, "{what}, step {step}");
        at = &case.objects;
    }
}

/// Replays a file: how many states and sequences ran, and why states did not.
fn replay(file: &str) -> Option<(usize, usize, BTreeMap<String, usize>)> {
    let Some(shared) = std::env::var_os("CALICO_SHARED") else {
        println!("skipped: CALICO_SHARED is not set");
        return None;
    };
    let bytes = std::fs::read(Path::new(&shared).join("cases").join(file)).unwrap();
    let file: Value = serde_json::from_slice(&bytes).unwrap();
    let host = text(&file["local_hostname"]);
    let mut skipped = BTreeMap::new();
    let mut cases = BTreeMap::new();
    for (name, state) in file["states"].as_object().unwrap() {
        let expected = expected(state, &file["ipset_ids"]);
        match objects(state, host).and_then(|objects| consistent(objects, &expected)) {
            Ok(objects) => {
                cases.insert(name.as_str(), Case { objects, expected });
            }
            Err(reason) => *skipped.entry(reason).or_insert(0) += 1,
        }
    }
    let empty = Case { objects: Objects::new(), expected: Outcome::default() };
    for (name, case) in &cases {
        for (backwards, one_by_one) in [(false, false), (true, false), (false, true)] {
            walk(host, &[case, &empty, case], backwards, one_by_one, name);
        }
    }
    let mut sequences = 0;
    for sequence in list(&file["sequences"]) {
        let path: Option<Vec<&Case>> = list(sequence).map(|name| cases.get(text(name))).collect();
        let Some(mut path) = path else { continue };
        for (backwards, one_by_one) in [(false, false), (true, true)] {
            walk(host, &path, backwards, one_by_one, &sequence.to_string());
            path.reverse();
            walk(host, &path, backwards, one_by_one, &format!("{sequence} from its end"));
        }
        sequences += 1;
    }
    Some((cases.len(), sequences, skipped))
}

#[test]
fn the_states_of_felix_2_6() {
    let Some((states, sequences, skipped)) = replay("calc-states-2.6.8.json") else { return };
    println!("{states} states, {sequences} sequences; left out: {skipped:?}");
    assert_eq!((states, sequences), (24, 10));
}

#[test]
fn the_states_of_felix_3_32() {
    let Some((states, sequences, skipped)) = replay("calc-states-3.32.1.json") else { return };
    println!("{states} states, {sequences} sequences; left out: {skipped:?}");
    assert_eq!((states, sequences), (106, 45));
}
