//! Values go through the reader of the store, so that what is refused and what is gone comes as it
//! does in truth.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_datastore::backend::syncer::{Entry, Event, Syncer};
use calico_datastore::layout::{Decoded, Layout};
use calico_datastore::model::{
    HostEndpoint, HostEndpointId, Labels, Name, NetworkSet, NetworkSetId, Order, Policy, PolicyId,
    PolicyKind, Profile, Selector, Tier, TierAction,
};
use proptest::prelude::*;

use super::*;

/// Keys of the kinds that are kept, and of what is not.
const KEYS: [&str; 7] = [
    "/t/global",
    "/t/namespaced",
    "/t/tier",
    "/t/profile",
    "/t/set",
    "/t/host-endpoint",
    "/t/by-address",
];

/// Host endpoints: one that names its interface, and one that does not.
const NAMED: usize = 5;
const BY_ADDRESS: usize = 6;

/// A layout as small as can be: a value is the number of a version, or is refused.
const LAYOUT: Layout = Layout { prefixes: &["/t/"], ready_key: "/t/ready", decode, id_of };

fn id_of(key: &str) -> Option<ResourceId> {
    let policy = |namespace: Option<&str>| {
        let namespace = namespace.map(Name::from);
        ResourceId::Policy(PolicyId { namespace, name: "p".into() })
    };
    Some(match KEYS.iter().position(|known| *known == key)? {
        0 => policy(None),
        1 => policy(Some("n")),
        2 => ResourceId::Tier("t".into()),
        3 => ResourceId::Profile("p".into()),
        4 => ResourceId::NetworkSet(NetworkSetId { namespace: None, name: "s".into() }),
        NAMED => ResourceId::HostEndpoint(HostEndpointId { name: "h".into() }),
        _ => ResourceId::HostEndpoint(HostEndpointId { name: "a".into() }),
    })
}

fn decode(key: &str, value: &[u8]) -> Decoded {
    let Some(id) = id_of(key) else { return Decoded::Ignored };
    let version = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u8>().ok());
    let Some(version) = version else {
        let reason = "not a number".to_owned();
        return Decoded::Rejected(Rejection { key: key.to_owned(), id: Some(id), reason });
    };
    let order = Order::new(f64::from(version)).unwrap();
    let name = Name::from(version.to_string());
    Decoded::Object(match id {
        ResourceId::Policy(id) => Update::Policy(id, Some(Arc::new(policy(order)))),
        ResourceId::Tier(name) => {
            let tier = Tier { order, default_action: TierAction::Deny };
            Update::Tier(name, Some(Arc::new(tier)))
        }
        ResourceId::Profile(id) => {
            let labels = [("v", name.as_str())].into_iter().collect();
            Update::Profile(id, Some(Arc::new(Profile { labels, ..Profile::default() })))
        }
        ResourceId::NetworkSet(id) => {
            let nets = vec![format!("10.0.0.{version}/32").parse().unwrap()];
            let set = NetworkSet { nets, labels: Labels::default(), profiles: Vec::new() };
            Update::NetworkSet(id, Some(Arc::new(set)))
        }
        ResourceId::HostEndpoint(id) => {
            let endpoint = HostEndpoint {
                node: "n".into(),
                interface: (key == KEYS[NAMED]).then_some(name),
                expected_addresses: vec![format!("192.0.2.{version}").parse().unwrap()],
                left_out: None,
                profiles: Vec::new(),
                labels: Labels::default(),
                ports: Vec::new(),
            };
            Update::HostEndpoint(id, Some(Arc::new(endpoint)))
        }
        other => panic!("{other}"),
    })
}

/// A policy that is in force without an endpoint.
pub(in crate::calculation) fn policy(order: Order) -> Policy {
    Policy {
        tier: None,
        tier_label: None,
        order,
        selector: Selector::all(),
        ingress: Vec::new(),
        egress: Vec::new(),
        governs_ingress: true,
        governs_egress: true,
        kind: PolicyKind::Normal,
        apply_on_forward: false,
        needed_everywhere: true,
    }
}

/// The text of a version, or one that cannot be read.
fn value(version: Option<u8>) -> String {
    version.map_or_else(|| "broken".to_owned(), |version| version.to_string())
}

/// A store with its reader, and what follows from what is applied.
struct Rig {
    syncer: Syncer,
    last_good: LastGood,
    in_force: BTreeMap<String, Update>,
    revision: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stored {
    Nothing,
    Good(u8),
    Bad,
}

impl Rig {
    fn new() -> Self {
        let mut syncer = Syncer::new(LAYOUT);
        syncer.begin_listing();
        syncer.finish_listing(1);
        let _ = syncer.take();
        Self { syncer, last_good: LastGood::default(), in_force: BTreeMap::new(), revision: 1 }
    }

    fn put(&mut self, key: usize, stored: Stored) {
        self.revision += 1;
        let revision = self.revision;
        let name = KEYS[key];
        let value = match stored {
            Stored::Nothing => None,
            Stored::Good(version) => Some(value(Some(version))),
            Stored::Bad => Some(value(None)),
        };
        let event = match &value {
            None => Event::Delete { key: name, revision },
            Some(value) => Event::Put(Entry {
                key: name,
                value: value.as_bytes(),
                mod_revision: revision,
                create_revision: 1,
            }),
        };
        self.syncer.apply(revision, [event]);
    }

    /// The batch that is due. Says how many updates it became.
    fn flush(&mut self) -> usize {
        let Some(batch) = self.syncer.take() else { return 0 };
        let updates = self.last_good.take(batch.updates, &batch.rejections, &batch.accepted);
        self.apply(updates)
    }

    fn set_mode(&mut self, mode: InvalidPolicy) {
        let updates = self.last_good.set_mode(mode);
        self.apply(updates);
    }

    fn apply(&mut self, updates: Vec<Update>) -> usize {
        let count = updates.len();
        for update in updates {
            let id = update.id();
            if update == Update::deleted(id.clone()) {
                self.in_force.remove(&id.to_string());
            } else {
                self.in_force.insert(id.to_string(), update);
            }
        }
        count
    }

    /// What is in force of a key.
    fn of(&self, key: usize) -> Option<&Update> {
        self.in_force.get(&id_of(KEYS[key]).unwrap().to_string())
    }

    fn kept(&self) -> Vec<String> {
        self.last_good.kept().into_iter().collect()
    }
}

/// The object of a version.
fn object(key: usize, version: u8) -> Update {
    match decode(KEYS[key], value(Some(version)).as_bytes()) {
        Decoded::Object(update) => update,
        other => panic!("{other:?}"),
    }
}

/// What is kept of a version.
fn remembered(key: usize, version: u8) -> Option<Update> {
    match object(key, version) {
        _ if key == BY_ADDRESS => None,
        Update::HostEndpoint(id, Some(endpoint)) => {
            let expected_addresses = Vec::new();
            let kept = HostEndpoint { expected_addresses, ..(*endpoint).clone() };
            Some(Update::HostEndpoint(id, Some(Arc::new(kept))))
        }
        other => Some(other),
    }
}

#[test]
fn what_is_refused_is_absent_or_as_it_was() {
    for (key, name) in KEYS.into_iter().enumerate() {
        let keeps = remembered(key, 1);
        let mut rig = Rig::new();
        rig.put(key, Stored::Good(1));
        rig.flush();
        assert_eq!(rig.of(key), Some(&object(key, 1)), "{name}");
        rig.put(key, Stored::Bad);
        rig.flush();
        assert_eq!((rig.of(key), rig.kept().len()), (None, 0), "{name}: absent");
        // It is remembered, whatever the mode was when it was refused.
        rig.set_mode(InvalidPolicy::KeepLast);
        assert_eq!(rig.of(key), keeps.as_ref(), "{name}");
        assert_eq!(rig.kept(), Vec::from_iter(keeps.as_ref().map(|_| name.to_owned())));
        rig.set_mode(InvalidPolicy::Absent);
        assert_eq!((rig.of(key), rig.kept().len()), (None, 0), "{name}: absent again");
        rig.set_mode(InvalidPolicy::KeepLast);
        // Refused again with other words: the same version stays.
        rig.put(key, Stored::Good(2));
        rig.put(key, Stored::Bad);
        rig.flush();
        assert_eq!(rig.of(key), keeps.as_ref(), "{name}: 2 was never seen");
        rig.put(key, Stored::Good(3));
        rig.flush();
        assert_eq!((rig.of(key), rig.kept().len()), (Some(&object(key, 3)), 0), "{name}");
    }
}

#[test]
fn what_is_deleted_goes_whatever_was_refused_before() {
    let mut rig = Rig::new();
    rig.set_mode(InvalidPolicy::KeepLast);
    for key in 0..KEYS.len() {
        rig.put(key, Stored::Good(1));
        rig.flush();
        rig.put(key, Stored::Bad);
        rig.flush();
        rig.put(key, Stored::Nothing);
        rig.flush();
        assert_eq!((rig.of(key), rig.kept().len()), (None, 0));
        // And is not remembered by what comes after it.
        rig.put(key, Stored::Bad);
        assert_eq!(rig.flush(), 0);
        assert_eq!((rig.of(key), rig.kept().len()), (None, 0));
        rig.put(key, Stored::Nothing);
        rig.flush();
    }
    assert!(rig.last_good.versions.is_empty() && rig.last_good.keys.is_empty());
}

/// The host stays closed, and no rule takes an address for its any more.
#[test]
fn a_refused_host_endpoint_goes_on_policing_and_is_in_no_set() {
    use calico_datastore::layout::v3;

    use crate::acl::Calculator;
    use crate::config::Settings;
    use crate::desired::Member;

    let text = |addresses: &str| {
        format!(
            r#"{{"metadata":{{"labels":{{"role":"host"}}}},"spec":{{"node":"n","interfaceName":"eth0",
                "expectedIPs":["{addresses}"],"profiles":[]}}}}"#
        )
    };
    let put = |id: &ResourceId, value: &str| {
        let key = v3::keys::key_of(id).unwrap();
        match v3::decode(&key, value.as_bytes()) {
            Decoded::Object(update) => update,
            other => panic!("{other:?}"),
        }
    };
    let policy = r#"{"spec":{"selector":"role == 'host'","ingress":
                    [{"action":"Deny","source":{"selector":"role == 'host'"}}]}}"#;
    let id = ResourceId::Policy(PolicyId { namespace: None, name: "p".into() });
    let policy = put(&id, policy);
    let id = ResourceId::HostEndpoint(HostEndpointId { name: "h".into() });
    let endpoint = put(&id, &text("192.0.2.1"));
    let rejection =
        Rejection { key: "k".to_owned(), id: Some(id.clone()), reason: "refused".to_owned() };
    for (mode, there) in [(InvalidPolicy::KeepLast, 1), (InvalidPolicy::Absent, 0)] {
        let (mut last_good, mut calculator) = (LastGood::default(), Calculator::new("n".into()));
        last_good.set_mode(mode);
        calculator.apply(last_good.take(vec![policy.clone(), endpoint.clone()], &[], &[]));
        let settings = Arc::new(Settings::default());
        let members = |state: &crate::desired::DesiredState| -> Vec<Member> {
            let sets = state.host_endpoints.sets.values();
            sets.flat_map(|set| set.members.iter().cloned()).collect()
        };
        let state = calculator.desired(Arc::clone(&settings), 1);
        assert_eq!((state.host_endpoints.endpoints.len(), members(&state).len()), (1, 1));
        let refused = vec![Update::deleted(id.clone())];
        calculator.apply(last_good.take(refused, std::slice::from_ref(&rejection), &[]));
        let state = calculator.desired(settings, 2);
        assert_eq!(state.host_endpoints.endpoints.len(), there, "{mode:?}");
        assert_eq!(state.host_endpoints.policies.len(), there, "{mode:?}");
        assert_eq!(members(&state), [], "{mode:?}");
    }
}

fn stored() -> impl Strategy<Value = Stored> {
    prop_oneof![
        1 => Just(Stored::Nothing),
        2 => (1..4u8).prop_map(Stored::Good),
        2 => Just(Stored::Bad),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize, Stored),
    Flush,
    Mode(InvalidPolicy),
    /// Everything is listed again.
    List,
}

fn step() -> impl Strategy<Value = Step> {
    let modes = [InvalidPolicy::Absent, InvalidPolicy::KeepLast];
    prop_oneof![
        6 => (0..KEYS.len(), stored()).prop_map(|(key, stored)| Step::Put(key, stored)),
        3 => Just(Step::Flush),
        1 => proptest::sample::select(modes.to_vec()).prop_map(Step::Mode),
        1 => Just(Step::List),
    ]
}

proptest! {
    /// Whatever happens in whatever portions: what is in force is what the store says, and for what
    /// it does not say, what it last said at the end of a batch, if that is asked for.
    #[test]
    fn any_sequence_ends_as_the_store_and_the_mode_say(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut rig = Rig::new();
        let mut now = [Stored::Nothing; KEYS.len()];
        let mut seen = [None; KEYS.len()];
        let mut mode = InvalidPolicy::Absent;
        for step in steps.into_iter().chain([Step::Flush]) {
            match step {
                Step::Put(key, stored) => {
                    rig.put(key, stored);
                    now[key] = stored;
                    continue;
                }
                Step::Mode(new) => {
                    mode = new;
                    rig.set_mode(new);
                    continue;
                }
                Step::Flush => {}
                Step::List => {
                    rig.syncer.begin_listing();
                    rig.revision += 1;
                    for (key, stored) in now.into_iter().enumerate() {
                        let version = match stored {
                            Stored::Nothing => continue,
                            Stored::Good(version) => Some(version),
                            Stored::Bad => None,
                        };
                        rig.syncer.list(Entry {
                            key: KEYS[key],
                            value: value(version).as_bytes(),
                            mod_revision: rig.revision,
                            create_revision: 1,
                        });
                    }
                    rig.syncer.finish_listing(rig.revision);
                }
            }
            rig.flush();
            for key in 0..KEYS.len() {
                match now[key] {
                    Stored::Good(version) => seen[key] = Some(version),
                    Stored::Nothing => seen[key] = None,
                    Stored::Bad => {}
                }
                let expected = match now[key] {
                    Stored::Bad if mode == InvalidPolicy::Absent => None,
                    Stored::Bad => seen[key].and_then(|version| remembered(key, version)),
                    _ => seen[key].map(|version| object(key, version)),
                };
                prop_assert_eq!(rig.of(key), expected.as_ref(), "{}", KEYS[key]);
                let kept = now[key] == Stored::Bad && expected.is_some();
                prop_assert_eq!(rig.kept().contains(&KEYS[key].to_owned()), kept);
            }
        }
    }
}
