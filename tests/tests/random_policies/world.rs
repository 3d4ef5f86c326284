//! A random state of the datastore, and random changes to it.

use std::collections::BTreeMap;

use calico_e2e::tutorial::HOSTS;
use serde_json::{Map, Value, json};

use crate::chance::Chance;
use crate::hosts;
use crate::object::{labels, object};
use crate::pods::{ALL_PODS, is_control};
use crate::rules::{ACCOUNTS, LABELS, OUTER, PORT_NAMES, TCP, UDP, nets, rules, selector};
use crate::spoil::spoil;
use crate::staged::staged;
use crate::version::version;

/// Allowed by the control policy, whatever else there is.
pub(crate) const ALWAYS: u16 = 4443;
/// Denied by it.
pub(crate) const NEVER: u16 = 4444;

const PROFILES: [&str; 4] = ["red", "green", "blue", "never-made"];
const NAMESPACES: [&str; 2] = ["default", "shop"];
const TIERS: [&str; 2] = ["alpha", "beta"];

/// What may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Policy(usize),
    Staged(usize),
    Version,
    Profile(usize),
    Namespace(usize),
    Account(usize),
    Tier(usize),
    Set(usize),
    HostEndpoint,
    Uplink(usize),
    HostPolicy(usize),
    Pod(usize),
}

/// A state of the datastore.
#[derive(Debug)]
pub(crate) struct World {
    chance: Chance,
    /// Old data has no tiers but `default`.
    has_tiers: bool,
    slots: BTreeMap<Slot, (String, String)>,
    fixed: BTreeMap<String, String>,
    /// The namespace of each pod.
    namespaces: Vec<&'static str>,
}

/// What was written and deleted in one step.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Keys with their new values.
    pub(crate) puts: Vec<(String, String)>,
    /// Keys.
    pub(crate) deletes: Vec<String>,
}

impl World {
    /// The world of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let has_tiers = chance.percent(85);
        let namespaces = ALL_PODS.iter().map(|_| *chance.one(&NAMESPACES));
        let namespaces = namespaces.collect();
        let (slots, fixed) = (BTreeMap::new(), BTreeMap::new());
        let mut this = Self { chance, has_tiers, slots, fixed, namespaces };
        this.add_control();
        for slot in this.all_slots() {
            if matches!(slot, Slot::Pod(_)) || this.chance.percent(70) {
                this.fill(slot);
            }
        }
        this
    }

    /// Every key with its value.
    pub(crate) fn objects(&self) -> BTreeMap<String, String> {
        let slots = self.slots.values().cloned();
        slots.chain(self.fixed.iter().map(|(k, v)| (k.clone(), v.clone()))).collect()
    }

    /// Changes a few objects.
    pub(crate) fn step(&mut self) -> Change {
        let before = self.objects();
        let slots = self.all_slots();
        for _ in 0..=self.chance.below(4) {
            let slot = *self.chance.one(&slots);
            let keep = match slot {
                Slot::Pod(pod) => is_control(pod),
                Slot::Tier(tier) => tier == TIERS.len(),
                _ => false,
            };
            if self.slots.contains_key(&slot) && !keep && self.chance.percent(25) {
                self.slots.remove(&slot);
            } else {
                self.fill(slot);
            }
        }
        difference(&before, &self.objects())
    }

    /// What may change. The pods that the control policy selects stay, and so does the tier
    /// `default`: no API server lets it go, and nothing says where a missing one stands.
    fn all_slots(&self) -> Vec<Slot> {
        let mut all = Vec::new();
        all.extend((0..9).map(Slot::Policy));
        all.extend((0..2).map(Slot::Staged));
        all.push(Slot::Version);
        all.extend((0..3).map(Slot::Profile));
        all.extend((0..NAMESPACES.len()).map(Slot::Namespace));
        all.extend((0..ACCOUNTS.len()).map(Slot::Account));
        all.extend((0..4).map(Slot::Set));
        all.extend((0..ALL_PODS.len()).map(Slot::Pod));
        all.push(Slot::HostEndpoint);
        all.extend((0..hosts::ENDPOINTS).map(Slot::Uplink));
        all.extend((0..hosts::POLICIES).map(Slot::HostPolicy));
        if self.has_tiers {
            all.extend((0..TIERS.len() + 1).map(Slot::Tier));
        }
        all
    }

    /// A policy that allows one port and denies another between the control pods.
    fn add_control(&mut self) {
        let tier = if self.has_tiers { "control" } else { "default" };
        let rules = json!([
            { "action": "Allow", "protocol": "TCP", "destination": { "ports": [ALWAYS] } },
            { "action": "Deny", "protocol": "TCP", "destination": { "ports": [NEVER] } },
        ]);
        let spec = json!({
            "tier": tier, "order": -1_000_000.5, "selector": "control == 'yes'",
            "types": ["Ingress", "Egress"], "ingress": rules, "egress": rules,
            "applyOnForward": true,
        });
        let (key, value) =
            object("globalnetworkpolicies", None, &format!("{tier}.control"), Map::new(), &spec);
        self.fixed.insert(key, value);
        if self.has_tiers {
            for (name, order, action) in
                [("control", -5.0, "Pass"), ("default", 1_000_000.0, "Deny")]
            {
                let spec = json!({ "order": order, "defaultAction": action });
                let (key, value) = object("tiers", None, name, Map::new(), &spec);
                self.fixed.insert(key, value);
            }
        }
    }

    fn fill(&mut self, slot: Slot) {
        let (key, value) = match slot {
            Slot::Policy(number) => self.policy(number),
            Slot::Version => version(&mut self.chance),
            Slot::Staged(number) => staged(&mut self.chance, number, self.has_tiers),
            Slot::Profile(number) => self.profile(number),
            Slot::Namespace(number) => {
                let labels = labels(&mut self.chance, &OUTER, "pcns.");
                let spec = json!({ "labelsToApply": labels });
                object("profiles", None, &format!("kns.{}", NAMESPACES[number]), Map::new(), &spec)
            }
            Slot::Account(number) => {
                let labels = labels(&mut self.chance, &OUTER, "pcsa.");
                let spec = json!({ "labelsToApply": labels });
                let name = format!("ksa.default.{}", ACCOUNTS[number]);
                object("profiles", None, &name, Map::new(), &spec)
            }
            Slot::Tier(number) => self.tier(number),
            Slot::Set(number) => self.set(number),
            Slot::HostEndpoint => {
                let mut labels = labels(&mut self.chance, &LABELS, "");
                labels.insert("control".into(), json!("yes"));
                let ips: Vec<String> = HOSTS
                    .iter()
                    .flat_map(|host| [host.v4.to_string(), host.v6.to_string()])
                    .filter(|_| self.chance.percent(60))
                    .chain(["172.18.18.33".to_owned()])
                    .collect();
                let spec = json!({
                    "node": "calico-01", "expectedIPs": ips, "ports": self.ports(),
                    "profiles": profiles(&mut self.chance),
                });
                object("hostendpoints", None, "wire", labels, &spec)
            }
            Slot::Uplink(number) => {
                let (ports, profiles) = (self.ports(), profiles(&mut self.chance));
                hosts::endpoint(&mut self.chance, number, &profiles, &ports)
            }
            Slot::HostPolicy(number) => {
                let tiers = ["alpha", "beta", "default"];
                let tier = if self.has_tiers { *self.chance.one(&tiers) } else { "default" };
                hosts::policy(&mut self.chance, number, tier)
            }
            Slot::Pod(number) => self.pod(number),
        };
        self.slots.insert(slot, (key, value));
    }

    fn policy(&mut self, number: usize) -> (String, String) {
        let has_tiers = self.has_tiers;
        let c = &mut self.chance;
        let global = c.percent(60);
        let mut tier = if has_tiers { *c.one(&["alpha", "beta", "default"]) } else { "default" };
        let name = format!("{tier}.p{number}");
        if has_tiers && c.percent(3) {
            tier = "ghost";
        }
        let mut spec = Map::new();
        let mut meta = Map::new();
        match c.below(6) {
            // What only the name says is not known to anybody when the tier does not exist.
            0 if tier != "ghost" => {}
            1 => drop(meta.insert("projectcalico.org/tier".into(), json!(tier))),
            _ => drop(spec.insert("tier".into(), json!(tier))),
        }
        let orders = [json!(10), json!(10), json!(10.5), json!(20), json!(-3), json!(1e3)];
        if c.percent(80) {
            spec.insert("order".into(), c.one(&orders).clone());
        }
        if c.percent(80) {
            let text = if c.percent(20) { "all()".into() } else { selector(c, &LABELS, 2) };
            spec.insert("selector".into(), json!(text));
        }
        let types = [
            json!(["Ingress"]),
            json!(["Egress"]),
            json!(["Ingress", "Egress"]),
            json!(["Ingress", "Egress"]),
            json!([]),
        ];
        if c.percent(90) {
            spec.insert("types".into(), c.one(&types).clone());
        }
        for direction in ["ingress", "egress"] {
            let list = rules(c, !global, true);
            if !list.is_empty() || c.percent(30) {
                spec.insert(direction.into(), list.into());
            }
        }
        if c.percent(8) {
            spec.insert("serviceAccountSelector".into(), json!(selector(c, &OUTER, 1)));
        }
        if global && c.percent(12) {
            let text = if c.percent(30) { "all()".into() } else { selector(c, &OUTER, 1) };
            spec.insert("namespaceSelector".into(), json!(text));
        }
        if global && c.percent(4) {
            spec.insert("applyOnForward".into(), json!(true));
            spec.insert((*c.one(&["doNotTrack", "preDNAT"])).into(), json!(true));
            spec.remove("egress");
            spec.insert("types".into(), json!(["Ingress"]));
            hosts::leave_control_alone(&mut spec);
        } else if global && c.percent(12) {
            spec.insert("applyOnForward".into(), json!(true));
        }
        let mut spec = Value::Object(spec);
        let broken = c.percent(6) && spoil(c, &mut spec);
        let namespace = *c.one(&NAMESPACES);
        let (kind, namespace) = if global {
            ("globalnetworkpolicies", None)
        } else {
            ("networkpolicies", Some(namespace))
        };
        let (key, mut value) = object(kind, namespace, &name, meta, &spec);
        if broken {
            value.truncate(value.len() - 2);
        }
        (key, value)
    }

    fn profile(&mut self, number: usize) -> (String, String) {
        let c = &mut self.chance;
        let labels = labels(c, &LABELS, "");
        let mut spec = json!({
            "ingress": rules(c, false, false),
            "egress": rules(c, false, false),
            "labelsToApply": labels,
        });
        if c.percent(60) {
            spec["egress"] = json!([{ "action": "Allow", "source": {}, "destination": {} }]);
        }
        if c.percent(5) {
            let _ = spoil(c, &mut spec);
        }
        object("profiles", None, PROFILES[number], Map::new(), &spec)
    }

    fn tier(&mut self, number: usize) -> (String, String) {
        let c = &mut self.chance;
        let mut spec = Map::new();
        if c.percent(70) {
            spec.insert("order".into(), c.one(&[json!(50), json!(100), json!(2e6)]).clone());
        }
        if c.percent(80) {
            spec.insert("defaultAction".into(), json!(c.one(&["Pass", "Pass", "Deny"])));
        }
        let name = TIERS.get(number).copied().unwrap_or("default");
        if name == "default" {
            // From now on here instead of among what is fixed.
            self.fixed.retain(|key, _| !key.ends_with("/tiers/default"));
            spec.entry("order").or_insert(json!(1_000_000));
        }
        object("tiers", None, name, Map::new(), &spec.into())
    }

    fn set(&mut self, number: usize) -> (String, String) {
        let c = &mut self.chance;
        let spec = json!({ "nets": nets(c, 6) });
        let labels = labels(c, &LABELS, "");
        if number.is_multiple_of(2) {
            object("globalnetworksets", None, &format!("set{number}"), labels, &spec)
        } else {
            let namespace = *c.one(&NAMESPACES);
            object("networksets", Some(namespace), &format!("set{number}"), labels, &spec)
        }
    }

    fn ports(&mut self) -> Vec<Value> {
        let c = &mut self.chance;
        let mut all = Vec::new();
        for name in PORT_NAMES {
            if c.percent(50) {
                let (protocol, port) =
                    if c.percent(60) { ("TCP", *c.one(&TCP)) } else { ("UDP", *c.one(&UDP)) };
                all.push(json!({ "name": name, "protocol": protocol, "port": port,
                                 "hostPort": 0, "hostIP": "" }));
            }
        }
        all
    }

    fn pod(&mut self, number: usize) -> (String, String) {
        let pod = &ALL_PODS[number];
        let ports = self.ports();
        let namespace = self.namespaces[number];
        let c = &mut self.chance;
        let mut labels = labels(c, &LABELS, "");
        labels.insert("projectcalico.org/namespace".into(), json!(namespace));
        labels.insert("projectcalico.org/orchestrator".into(), json!("cni"));
        if c.percent(10) {
            // Only the namespace's profile may say such a thing.
            labels.insert("pcns.stage".into(), json!("prod"));
        }
        let mut profiles = profiles(c);
        profiles.push(format!("kns.{namespace}"));
        let mut networks = vec![format!("{}/32", pod.v4), format!("{}/128", pod.v6)];
        if is_control(number) {
            labels.insert("control".into(), json!("yes"));
        } else if c.percent(6) {
            networks.remove(c.below(2));
        }
        let mut spec = json!({
            "orchestrator": "cni", "node": pod.host, "containerID": pod.container_id,
            "endpoint": "eth0", "ipNetworks": networks, "interfaceName": pod.interface(),
            "mac": pod.mac, "ports": ports,
        });
        if c.percent(40) {
            let account = *c.one(&ACCOUNTS);
            spec["serviceAccountName"] = json!(account);
            profiles.push(format!("ksa.default.{account}"));
        }
        spec["profiles"] = json!(profiles);
        let dashes = |text: &str| text.replace('-', "--");
        let name = format!("{}-cni-{}-eth0", dashes(pod.host), dashes(pod.container_id));
        object("workloadendpoints", Some(namespace), &name, labels, &spec)
    }
}

/// Profiles of an endpoint.
fn profiles(c: &mut Chance) -> Vec<String> {
    let mut profiles: Vec<String> =
        c.some(&PROFILES, 0, 2).into_iter().map(str::to_owned).collect();
    if c.percent(70) {
        profiles.retain(|name| name != "never-made");
    }
    if c.percent(60) {
        let at = c.below(profiles.len() + 1);
        profiles.insert(at, "projectcalico-default-allow".to_owned());
    }
    profiles
}

/// What leads from one state to the other.
pub(crate) fn difference(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Change {
    let new = after.iter().filter(|(key, value)| before.get(*key) != Some(*value));
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    Change {
        puts: new.map(|(key, value)| (key.clone(), value.clone())).collect(),
        deletes: gone.cloned().collect(),
    }
}
