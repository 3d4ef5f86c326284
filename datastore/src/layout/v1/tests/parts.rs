//! Objects in parts, as a reader that follows a store gets them.

use std::collections::BTreeMap;

use super::super::{LAYOUT, decode_all};
use super::rejected;
use crate::backend::{Batch, Entry, Event, Syncer};
use crate::model::{
    Action, AsNumber, BgpConfiguration, FelixConfiguration, Node, Profile, ResourceId, Rule, Update,
};

const RULES: &str = r#"{"id":"p","inbound_rules":[{"action":"allow","src_tag":"p"}],"outbound_rules":[{"action":"allow"}]}"#;

/// A store that is written key by key, and its reader.
struct Rig {
    syncer: Syncer,
    revision: i64,
    objects: BTreeMap<ResourceId, Update>,
    refused: BTreeMap<String, Option<ResourceId>>,
}

impl Rig {
    fn new() -> Self {
        let mut syncer = Syncer::new(LAYOUT);
        syncer.begin_listing();
        syncer.finish_listing(1);
        Self { syncer, revision: 1, objects: BTreeMap::new(), refused: BTreeMap::new() }
    }

    fn take(&mut self) -> Batch {
        let batch = self.syncer.take().unwrap_or_default();
        for update in &batch.updates {
            let id = update.id();
            if *update == Update::deleted(id.clone()) {
                assert!(self.objects.remove(&id).is_some(), "{id} was never there");
            } else {
                self.objects.insert(id, update.clone());
            }
        }
        for key in &batch.accepted {
            assert!(self.refused.remove(key).is_some(), "{key} was never refused");
        }
        for rejection in &batch.rejections {
            self.refused.insert(rejection.key.clone(), rejection.id.clone());
        }
        batch
    }

    fn put(&mut self, key: &str, value: &str) -> Batch {
        self.revision += 1;
        let entry = Entry {
            key,
            value: value.as_bytes(),
            mod_revision: self.revision,
            create_revision: self.revision,
        };
        self.syncer.apply(self.revision, [Event::Put(entry)]);
        self.take()
    }

    fn delete(&mut self, key: &str) -> Batch {
        self.revision += 1;
        self.syncer.apply(self.revision, [Event::Delete { key, revision: self.revision }]);
        self.take()
    }

    fn profile(&self) -> Option<Profile> {
        match self.objects.get(&ResourceId::Profile("p".into()))? {
            Update::Profile(_, profile) => profile.as_deref().cloned(),
            other => panic!("{other:?}"),
        }
    }
}

fn key(piece: &str) -> String {
    format!("/calico/v1/policy/profile/p/{piece}")
}

fn labels(profile: &Profile) -> Vec<(&str, &str)> {
    profile.labels.iter().map(|(key, value)| (&**key, &**value)).collect()
}

/// rkt's plugin writes the tags first: until the rules come, nothing passes.
#[test]
fn a_profile_comes_part_by_part_and_goes_so() {
    let mut rig = Rig::new();
    rig.put(&key("tags"), r#"["p"]"#);
    let profile = rig.profile().unwrap();
    let deny = vec![Rule::any(Action::Deny)];
    assert_eq!((&profile.ingress, &profile.egress), (&deny, &deny));
    assert_eq!(labels(&profile), [("p", "")]);

    rig.put(&key("rules"), RULES);
    let profile = rig.profile().unwrap();
    assert_eq!(profile.egress, [Rule::any(Action::Allow)]);
    assert_eq!(profile.ingress[0].source.selector.as_ref().unwrap().canonical(), "has(p)");

    rig.put(&key("labels"), r#"{"team":"a","p":"real"}"#);
    assert_eq!(labels(&rig.profile().unwrap()), [("p", "real"), ("team", "a")]);
    rig.put(&key("labels"), "null");
    assert_eq!(labels(&rig.profile().unwrap()), [("p", "")]);

    rig.delete(&key("rules"));
    assert_eq!(rig.profile().unwrap().ingress, deny);
    rig.delete(&key("tags"));
    rig.delete(&key("labels"));
    assert_eq!(rig.profile(), None);
    assert!(rig.syncer.is_empty());
}

/// One part that does not parse leaves the others in force, and is named.
#[test]
fn a_refused_part_is_absent_alone() {
    let mut rig = Rig::new();
    rig.put(&key("tags"), r#"["p"]"#);
    rig.put(&key("rules"), RULES);
    let batch = rig.put(&key("rules"), r#"{"inbound_rules":[{"action":"x"}]}"#);
    assert_eq!(batch.rejections.len(), 1);
    assert_eq!(batch.rejections[0].key, key("rules"));
    assert_eq!(batch.rejections[0].id, Some(ResourceId::Profile("p".into())));
    assert!(batch.rejections[0].reason.starts_with("inbound_rules[0].action: "));
    let profile = rig.profile().unwrap();
    assert_eq!(
        (labels(&profile), profile.egress.clone()),
        (vec![("p", "")], vec![Rule::any(Action::Deny)])
    );

    rig.put(&key("tags"), "x");
    assert_eq!(rig.profile(), None, "no part is left");
    assert_eq!(rig.refused.len(), 2);
    rig.put(&key("rules"), RULES);
    assert_eq!((rig.profile().unwrap().egress.len(), rig.refused.len()), (1, 1));
    rig.delete(&key("tags"));
    assert!(rig.refused.is_empty());
}

#[test]
fn a_part_written_again_unchanged_means_nothing() {
    let mut rig = Rig::new();
    rig.put(&key("rules"), RULES);
    assert_eq!(rig.put(&key("rules"), RULES), Batch::default());
}

/// A listing that lacks parts takes them away, and the object with the last of them.
#[test]
fn parts_that_a_listing_lacks_are_gone() {
    let mut rig = Rig::new();
    rig.put(&key("rules"), RULES);
    rig.put(&key("tags"), r#"["p"]"#);
    let listed = |rig: &mut Rig, keys: &[(String, &str)]| {
        rig.syncer.begin_listing();
        for (key, value) in keys {
            let value = value.as_bytes();
            rig.syncer.list(Entry { key, value, mod_revision: 9, create_revision: 9 });
        }
        rig.syncer.finish_listing(9);
        rig.take();
    };
    listed(&mut rig, &[(key("rules"), RULES)]);
    assert_eq!(labels(&rig.profile().unwrap()), []);
    listed(&mut rig, &[]);
    assert_eq!(rig.profile(), None);
}

fn all(store: &[(&str, &str)]) -> BTreeMap<String, Update> {
    let bytes = store.iter().map(|(key, value)| (*key, value.as_bytes()));
    let (objects, refused) = decode_all(bytes);
    assert_eq!(refused, []);
    objects.into_iter().map(|(id, update)| (id.to_string(), update)).collect()
}

#[track_caller]
fn node(store: &[(&str, &str)]) -> Node {
    match &all(store)["Node h"] {
        Update::Node(_, Some(node)) => (**node).clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_of_many_keys() {
    let h = "/calico/v1/host/h/";
    let b = "/calico/bgp/v1/host/h/";
    let keys: Vec<String> = [
        [h, "metadata"],
        [h, "bird_ip"],
        [h, "config/IpInIpTunnelAddr"],
        [b, "ip_addr_v4"],
        [b, "ip_addr_v6"],
        [b, "network_v4"],
        [b, "as_num"],
    ]
    .map(|parts| parts.concat())
    .to_vec();
    let values =
        ["{}", "172.18.18.101", "192.168.0.2", "172.18.18.101", "", "172.18.18.0/24", "1.10"];
    let store: Vec<(&str, &str)> = keys.iter().map(String::as_str).zip(values).collect();
    let whole = node(&store);
    assert_eq!(whole.ipv4, Some([172, 18, 18, 101].into()));
    assert_eq!(whole.ipv4_network, Some("172.18.18.0/24".parse().unwrap()));
    assert_eq!((whole.bgp, whole.ipv4_is_fallback, whole.ipv6), (true, false, None));
    assert_eq!(whole.as_number, Some(AsNumber(65546)));
    assert_eq!(whole.ipip_tunnel, Some([192, 168, 0, 2].into()));

    // A host of policy alone: it can be reached, and takes no part in BGP.
    let reached = node(&[(&keys[1], values[1]), (&keys[3], "")]);
    assert_eq!((reached.ipv4, reached.bgp), (Some([172, 18, 18, 101].into()), false));
    assert!(reached.ipv4_is_fallback);
    assert_eq!(reached.ipv4_network, Some("172.18.18.101/32".parse().unwrap()));
    assert_eq!(node(&[(&keys[0], "{}")]), Node::default());

    assert!(rejected(&keys[1], "x").contains("not an IPv4 address"));
    assert!(rejected(&keys[4], "10.0.0.1").contains("not an IPv6 address"));
    assert!(rejected(&keys[5], "fd80::/64").contains("is not of IPv4"));
    assert!(rejected(&keys[6], "x").contains("not an AS number"));
}

#[test]
fn settings_of_the_cluster_and_of_a_host() {
    let objects = all(&[
        ("/calico/v1/config/IpInIpEnabled", "true"),
        ("/calico/v1/config/LogFilePath", "none"),
        ("/calico/v1/host/h/config/DefaultEndpointToHostAction", " RETURN\n"),
        ("/calico/v1/host/h/config/marker", "created"),
    ]);
    let parameters = |name: &str| match &objects[name] {
        Update::FelixConfiguration(_, Some(felix)) => felix
            .parameters
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        parameters("FelixConfiguration default"),
        ["IpInIpEnabled=true", "LogFilePath=none"]
    );
    assert_eq!(parameters("FelixConfiguration node.h"), ["DefaultEndpointToHostAction=RETURN"]);
    assert_eq!(objects.len(), 2);
    assert_eq!(
        super::id_of("/calico/v1/host/h/config/X"),
        Some(ResourceId::FelixConfiguration(FelixConfiguration::name_of(&"h".into())))
    );
}

/// Names are told apart without case; two spellings must not leave open which one counts.
#[test]
fn of_two_spellings_the_last_key_counts() {
    let objects =
        all(&[("/calico/v1/config/logprefix", "small"), ("/calico/v1/config/LogPrefix", "large")]);
    let Update::FelixConfiguration(_, Some(felix)) = &objects["FelixConfiguration default"] else {
        panic!("{objects:?}");
    };
    let found: Vec<_> = felix.parameters.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(found, [("logprefix", "small")]);
}

#[test]
fn what_bird_is_told_of_the_cluster() {
    let bgp = |store: &[(&str, &str)], name: &str| match &all(store)[name] {
        Update::BgpConfiguration(_, Some(bgp)) => (**bgp).clone(),
        other => panic!("{other:?}"),
    };
    let none = BgpConfiguration {
        as_number: None,
        node_to_node_mesh: true,
        listen_port: None,
        log_severity: None,
    };
    let cluster = "BGPConfiguration default";
    let as_num = ("/calico/bgp/v1/global/as_num", "64511");
    let expected = BgpConfiguration { as_number: Some(AsNumber(64511)), ..none };
    assert_eq!(bgp(&[as_num], cluster), expected);
    let mesh = "/calico/bgp/v1/global/node_mesh";
    for (value, enabled) in
        [(r#"{"enabled": true}"#, true), (r#"{"enabled":false}"#, false), ("{}", false)]
    {
        assert_eq!(bgp(&[(mesh, value)], cluster).node_to_node_mesh, enabled, "{value}");
    }
    assert!(rejected(mesh, "true").contains("expected an object"));
    let level = Some("debug".to_owned());
    assert_eq!(bgp(&[("/calico/bgp/v1/global/loglevel", "debug")], cluster).log_severity, level);
    let own = ("/calico/bgp/v1/host/h/loglevel", "debug");
    assert_eq!(bgp(&[own], "BGPConfiguration node.h").log_severity, level);
}

/// Pieces of one profile and of one node, with values that parse and values that do not.
const PIECES: [(&str, [&str; 3]); 6] = [
    ("/calico/v1/policy/profile/p/tags", [r#"["a"]"#, r#"["b","c"]"#, "x"]),
    ("/calico/v1/policy/profile/p/labels", [r#"{"a":"1"}"#, "null", "[1]"]),
    ("/calico/v1/policy/profile/p/rules", [RULES, "{}", r#"{"inbound_rules":1}"#]),
    ("/calico/v1/host/h/bird_ip", ["10.0.0.1", "", "x"]),
    ("/calico/bgp/v1/host/h/ip_addr_v4", ["10.0.0.2", "", "10.0.0.300"]),
    ("/calico/bgp/v1/host/h/network_v4", ["10.0.0.0/24", "10.9.0.0/24", "10.0.0.0/33"]),
];

proptest::proptest! {
    /// However parts come, change and go: the reader ends with what the store says.
    #[test]
    fn parts_in_any_order(
        steps in proptest::collection::vec((0..PIECES.len(), 0..5_usize), 1..40),
        batched in proptest::prelude::any::<bool>(),
    ) {
        let mut rig = Rig::new();
        let mut store: BTreeMap<&str, &str> = BTreeMap::new();
        for (piece, what) in steps {
            let (key, values) = PIECES[piece];
            rig.revision += 1;
            let revision = rig.revision;
            match values.get(what) {
                Some(value) => {
                    store.insert(key, value);
                    let value = value.as_bytes();
                    let entry = Entry { key, value, mod_revision: revision, create_revision: 1 };
                    rig.syncer.apply(revision, [Event::Put(entry)]);
                }
                None if what == 3 => {
                    store.remove(key);
                    rig.syncer.apply(revision, [Event::Delete { key, revision }]);
                }
                None => {
                    rig.syncer.begin_listing();
                    for (key, value) in &store {
                        let value = value.as_bytes();
                        rig.syncer.list(Entry { key, value, mod_revision: revision, create_revision: 1 });
                    }
                    rig.syncer.finish_listing(revision);
                }
            }
            if !batched {
                rig.take();
            }
        }
        rig.take();
        let bytes = store.iter().map(|(key, value)| (*key, value.as_bytes()));
        let (objects, refused) = decode_all(bytes);
        proptest::prop_assert_eq!(&rig.objects, &objects);
        let refused: BTreeMap<_, _> = refused.into_iter().map(|r| (r.key, r.id)).collect();
        proptest::prop_assert_eq!(&rig.refused, &refused);
    }
}
