use super::kinds::KINDS;
use super::*;
use proptest::prelude::*;

fn key(rest: &str) -> String {
    format!("{RESOURCES_PREFIX}{rest}")
}

fn manifest(kind: &str, name: &str, more: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata:\n  name: {name}\n{more}")
}

/// The only resource of a text: its key without the prefix, and its value.
fn one(text: &str) -> (String, Value) {
    let found = read(text.as_bytes());
    assert_eq!(found.mistakes, [], "{text}");
    let [manifest] = &found.good[..] else { panic!("{} in {text}", found.good.len()) };
    (name_of(&manifest.key).to_owned(), serde_json::from_slice(&manifest.value).unwrap())
}

fn mistakes(text: &str) -> Vec<String> {
    read(text.as_bytes()).mistakes.iter().map(ToString::to_string).collect()
}

#[test]
fn each_kind_gets_the_key_that_the_store_has() {
    let endpoint = "h1-cni-abc-eth0";
    for kind in KINDS {
        let name = match kind.name {
            "WorkloadEndpoint" => endpoint,
            "ClusterInformation" => "default",
            _ => "x1",
        };
        let spec = match kind.name {
            "IPPool" => "spec:\n  cidr: 10.0.0.0/8\n",
            "HostEndpoint" => "spec: {node: h1, interfaceName: eth0}\n",
            "WorkloadEndpoint" => {
                "spec: {orchestrator: cni, node: h1, containerID: abc, endpoint: eth0, \
                 ipNetworks: [10.0.0.1/32], interfaceName: caliabc}\n"
            }
            _ => "spec: {}\n",
        };
        let (found, value) = one(&manifest(kind.name, name, spec));
        let stored = if kind.is_policy() { "default.x1" } else { name };
        let namespace = if kind.namespaced { "default/" } else { "" };
        assert_eq!(found, format!("{}/{namespace}{stored}", kind.plural));
        assert_eq!(value["metadata"]["name"], stored);
        assert_eq!(value["metadata"].get("namespace").is_some(), kind.namespaced, "{value}");
        // What the model has, the decoder takes; the rest is counted or skipped.
        let decoded = super::super::decode(&key(&found), value.to_string().as_bytes());
        assert!(!matches!(decoded, Decoded::Rejected(_)), "{decoded:?}");
    }
    assert!(matches!(
        super::super::decode(&key("bgppeers/x"), b"{}"),
        Decoded::Unsupported { kind } if kind == "bgppeers"
    ));
}

#[test]
fn a_policy_is_named_after_its_tier() {
    for (name, tier, expected) in [
        ("web", "", "default.web"),
        ("default.web", "", "default.web"),
        ("default", "", "default.default"),
        ("defaults.web", "", "default.defaults.web"),
        ("knp.default.web", "", "knp.default.web"),
        ("ossg.default.web", "", "ossg.default.web"),
        ("web", "default", "default.web"),
        ("web", "sec", "sec.web"),
        ("sec.web", "sec", "sec.web"),
        ("sec.web", "", "default.sec.web"),
        ("knp.web", "sec", "sec.knp.web"),
        ("kanp.adminnetworkpolicy.x", "adminnetworkpolicy", "kanp.adminnetworkpolicy.x"),
    ] {
        let spec = format!("spec: {{tier: '{tier}'}}\n");
        for (kind, plural, namespace) in [
            ("GlobalNetworkPolicy", "globalnetworkpolicies", ""),
            ("NetworkPolicy", "networkpolicies", "default/"),
        ] {
            let (found, value) = one(&manifest(kind, name, &spec));
            assert_eq!(found, format!("{plural}/{namespace}{expected}"), "{name} in {tier:?}");
            assert_eq!(value["metadata"]["name"], expected);
        }
    }
}

#[test]
fn types_follow_from_the_rules_unless_they_are_said() {
    let rule = "[{action: Allow}]";
    for (spec, expected) in [
        ("{}".to_owned(), json!(["Ingress"])),
        (format!("{{ingress: {rule}}}"), json!(["Ingress"])),
        (format!("{{egress: {rule}}}"), json!(["Egress"])),
        (format!("{{ingress: [], egress: {rule}, types: []}}"), json!(["Egress"])),
        (format!("{{ingress: {rule}, egress: {rule}}}"), json!(["Ingress", "Egress"])),
        (format!("{{egress: {rule}, types: [Ingress]}}"), json!(["Ingress"])),
    ] {
        let text = manifest("GlobalNetworkPolicy", "x", &format!("spec: {spec}\n"));
        assert_eq!(one(&text).1["spec"]["types"], expected, "{spec}");
    }
    for spec in ["", "spec:\n"] {
        let policy = one(&manifest("NetworkPolicy", "x", spec)).1;
        assert_eq!(policy["spec"], json!({"types": ["Ingress"]}), "{spec:?}");
    }
    // Not a field of others.
    assert_eq!(one(&manifest("Profile", "x", "spec: {}\n")).1["spec"], json!({}));
}

#[test]
fn what_else_is_changed_and_what_is_not() {
    let (found, value) =
        one("{\"apiVersion\": \"projectcalico.org/v3\", \"kind\": \"NetworkPolicy\", \"metadata\":
         {\"name\": \"x\", \"namespace\": \"prod\", \"resourceVersion\": \"7\", \"uid\": \"u\",
          \"annotations\": {\"a\": \"b\"}}, \"spec\": {\"order\": 1.5, \"selector\": \"a == 'b'\",
          \"ingress\": [{\"action\": \"Deny\", \"protocol\": \"TCP\", \"destination\":
          {\"ports\": [80, \"81:90\"]}}]}}");
    assert_eq!(found, "networkpolicies/prod/default.x");
    assert_eq!(
        value,
        json!({"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy",
            "spec": {"order": 1.5, "selector": "a == 'b'", "ingress": [{"action": "Deny",
                "protocol": "TCP", "destination": {"ports": [80, "81:90"]}}],
                "types": ["Ingress"]},
            "metadata": {"name": "default.x", "namespace": "prod", "uid": "u",
                "annotations": {"a": "b"}}})
    );
    let labels = "  labels: {a: 1, b: true, c: x}\nspec: {labelsToApply: {d: -2}}\n";
    let (_, value) = one(&manifest("Profile", "x", labels));
    assert_eq!(value["metadata"]["labels"], json!({"a": "1", "b": "true", "c": "x"}));
    assert_eq!(value["spec"]["labelsToApply"], json!({"d": "-2"}));
    let spec = "  namespace: ns\n  labels: {role: web, projectcalico.org/namespace: forged}\n\
                spec: {orchestrator: cni, node: h1, ipNetworks: [10.0.0.1], interfaceName: cali1}\n";
    let (found, value) = one(&manifest("workloadendpoint", "h1-cni-a-eth0", spec));
    assert_eq!(found, "workloadendpoints/ns/h1-cni-a-eth0");
    assert_eq!(
        value["metadata"]["labels"],
        json!({"role": "web", "projectcalico.org/namespace": "ns",
            "projectcalico.org/orchestrator": "cni"})
    );
}

#[test]
fn lists_and_documents() {
    let text = format!(
        "# comment\n---\n{}---\napiVersion: v1\nkind: List\nitems:\n- {{apiVersion: {API_VERSION}, \
         kind: Profile, metadata: {{name: b}}}}\n- {{apiVersion: {API_VERSION}, kind: Tier, \
         metadata: {{name: c}}}}\n---\napiVersion: {API_VERSION}\nkind: IPPoolList\nitems:\n- \
         metadata: {{name: d}}\n  spec: {{cidr: 10.0.0.0/8}}\n---\nkind: ProfileList\nitems:\n",
        manifest("Profile", "a", "")
    );
    let found = read(text.as_bytes());
    assert_eq!(found.mistakes, []);
    let keys: Vec<_> = found.good.iter().map(|manifest| name_of(&manifest.key)).collect();
    assert_eq!(keys, ["profiles/a", "profiles/b", "tiers/c", "ippools/d"]);
    let places: Vec<_> = found.good.iter().map(|manifest| manifest.place.to_string()).collect();
    assert!(places[1].contains(", item 1 (line "), "{places:?}");
    assert!(places[2].contains(", item 2 (line "), "{places:?}");
    for (text, blank) in [
        ("", true),
        ("\n", true),
        ("# only a comment\n", true),
        ("---\n# only a comment\n---\n", true),
        ("kind: List\nitems: []\n", false),
    ] {
        let nothing = Manifests { blank, ..Manifests::default() };
        assert_eq!(read(text.as_bytes()), nothing, "{text:?}");
    }
    assert!(!read(b"[").blank && !found.blank);
}

#[test]
fn what_must_be_a_string_is_not_called_missing() {
    let quoted = |path: &str, value: &str| {
        format!("document 1 (line 1): {path}: must be a string: \"{value}\", in quotes, is one")
    };
    let node = "apiVersion: projectcalico.org/v3\nkind: Node\n";
    for (text, expected) in [
        (format!("{node}metadata: {{name: 5}}\n"), quoted("metadata.name", "5")),
        (format!("{node}metadata: {{name: true}}\n"), quoted("metadata.name", "true")),
        (
            format!("{node}metadata: {{name: [x]}}\n"),
            "document 1 (line 1): metadata.name: must be a string".to_owned(),
        ),
        (format!("{node}metadata: {{name: \"5\"}}\n"), String::new()),
        (manifest("NetworkSet", "x", "  namespace: 7\n"), quoted("metadata.namespace", "7")),
        (manifest("NetworkSet", "x", "  namespace: \"7\"\n"), String::new()),
        (manifest("NetworkPolicy", "x", "spec: {tier: 7}\n"), quoted("spec.tier", "7")),
        (manifest("NetworkPolicy", "x", "spec: {tier: \"7\"}\n"), String::new()),
        ("apiVersion: 3\nkind: Node\nmetadata: {name: x}\n".to_owned(), quoted("apiVersion", "3")),
        (
            "apiVersion: projectcalico.org/v3\nkind: 1\nmetadata: {name: x}\n".to_owned(),
            quoted("kind", "1"),
        ),
    ] {
        let found = mistakes(&text);
        let expected: Vec<_> = [expected].into_iter().filter(|text| !text.is_empty()).collect();
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn a_mistake_is_told_with_its_place_and_the_rest_is_good() {
    let good = manifest("Profile", "good", "");
    for (bad, expected) in [
        ("kind: Profile\nmetadata: {name: x}\n", "apiVersion: is missing"),
        ("apiVersion: v1\nkind: Profile\nmetadata: {name: x}\n", "apiVersion: \"v1\" is not"),
        ("apiVersion: projectcalico.org/v3\nmetadata: {name: x}\n", "kind: is missing"),
        (&manifest("Pod", "x", ""), "kind: \"Pod\" is not known"),
        ("apiVersion: projectcalico.org/v3\nkind: Node\n", "metadata: is missing"),
        (
            "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {}\n",
            "metadata.name: is missing",
        ),
        (&manifest("BGPPeer", "a/b", ""), "metadata.name: \"a/b\" is not a name"),
        (&manifest("Node", "x", "  namespace: y\n"), "a Node has none"),
        (&manifest("NetworkSet", "x", "  namespace: ../y\n"), "metadata.namespace: "),
        (&manifest("Profile", "x", "spec: [1]\n"), "spec: is no object"),
        (
            &manifest(
                "HostEndpoint",
                "x",
                "spec: {node: n, interfaceName: eth0, expectedIPs: [10.0.0.1/24]}\n",
            ),
            "spec.expectedIPs[0]: \"10.0.0.1/24\" is not an address",
        ),
        (&manifest("IPPool", "x", "spec: {cidr: 10.0.0.0/33}\n"), "cidr"),
        (
            &manifest("GlobalNetworkPolicy", "x", "spec: {ingress: [{action: Alow}]}\n"),
            "spec.ingress[0].action",
        ),
        (&manifest("WorkloadEndpoint", "x", "spec: {}\n"), "doubled"),
        (&manifest("WorkloadEndpoint", "h-cni-x-eth0", "  labels: 5\n"), "metadata.labels"),
        (&manifest("Profile", "x", "  labels: {a: 1.10}\n"), "metadata.labels"),
        ("- 1\n", "is no object"),
        ("kind: List\nitems: 5\n", "items: is no list"),
        ("kind: List\nitems: [5]\n", "item 1 (line 7): is no object"),
        (&good, "profiles/good is in document 1 (line 1) already"),
    ] {
        let text = format!("{good}\n---\n{bad}---\n{}", manifest("Tier", "t", ""));
        let found = read(text.as_bytes());
        assert_eq!(found.good.len(), 2, "{bad}");
        let told = mistakes(&text);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("document 2"), "{told:?}");
        assert!(told[0].contains(expected), "{told:?}");
    }
    // Behind what is no YAML nothing can be read.
    let told = mistakes(&format!("{good}\n---\na: [\n---\n{}", manifest("Tier", "t", "")));
    assert!(told.len() == 1 && told[0].starts_with("document 2 (line "), "{told:?}");
    let mut bytes = good.into_bytes();
    bytes.extend(b"# \xff");
    assert_eq!(read(&bytes).mistakes[0].to_string(), "document 1 (line 5): not UTF-8");
}

/// Every field that there is, in one rule.
const RULE: &str = "{action: Allow, ipVersion: 4, protocol: ICMP, notProtocol: UDP, icmp: {type: 8, \
     code: 0}, notICMP: {type: 5, code: 1}, source: {nets: [10.0.0.0/8], notNets: [10.1.0.0/16], \
     selector: a == 'b', notSelector: c == 'd', namespaceSelector: e == 'f', services: {name: s, \
     namespace: n}, serviceAccounts: {names: [ci], selector: g == 'h'}}, destination: {nets: \
     [10.0.0.0/8]}, http: {methods: [GET], paths: [{exact: /a}, {prefix: /b}]}, metadata: \
     {annotations: {any: thing}}}";

#[test]
fn a_field_that_there_is_not_is_a_mistake() {
    let policy = format!(
        "tier: default, order: 1.5, selector: a == 'b', types: [Ingress, Egress], \
         serviceAccountSelector: c == 'd', performanceHints: [AssumeNeededOnEveryNode], ingress: \
         [{RULE}], egress: [{{action: Deny, protocol: TCP, destination: {{ports: [80], notPorts: \
         [81]}}}}]"
    );
    let pool = "cidr: 10.0.0.0/8, vxlanMode: Never, ipipMode: Never, natOutgoing: true, disabled: \
                false, disableBGPExport: true, blockSize: 26, nodeSelector: all(), \
                namespaceSelector: all(), allowedUses: [Workload], assignmentMode: Automatic, \
                ipip: {enabled: true}, nat-outgoing: true";
    let profile = format!("ingress: [{RULE}], egress: [], labelsToApply: {{any: thing}}");
    for (kind, spec, wrong, expected) in [
        ("NetworkPolicy", &*policy, "soruce", "spec.ingress[0].soruce is no field of a rule"),
        ("NetworkPolicy", &policy, "Protocol", "spec.ingress[0].Protocol is no field of a rule"),
        (
            "NetworkPolicy",
            &policy,
            "namespaceSelectr",
            "spec.ingress[0].source.namespaceSelectr is no field of a source or destination",
        ),
        (
            "NetworkPolicy",
            &policy,
            "Code",
            "spec.ingress[0].icmp.Code is no field of an ICMP match",
        ),
        (
            "NetworkPolicy",
            &policy,
            "namez",
            "spec.ingress[0].source.serviceAccounts.namez is no field of a service account match",
        ),
        (
            "NetworkPolicy",
            &policy,
            "prefiks",
            "spec.ingress[0].http.paths[1].prefiks is no field of an HTTP path",
        ),
        ("NetworkPolicy", &policy, "ordr", "spec.ordr is no field of a NetworkPolicy"),
        (
            "GlobalNetworkPolicy",
            &format!(
                "{policy}, doNotTrack: false, preDNAT: false, applyOnForward: true, \
                      namespaceSelector: all()"
            ),
            "applyOnforward",
            "spec.applyOnforward is no field of a GlobalNetworkPolicy",
        ),
        ("Profile", &profile, "labelToApply", "spec.labelToApply is no field of a Profile"),
        ("Tier", "order: 5, defaultAction: Pass", "oder", "spec.oder is no field of a Tier"),
        ("NetworkSet", "nets: [10.0.0.0/8]", "net", "spec.net is no field of a network set"),
        ("GlobalNetworkSet", "nets: []", "net", "spec.net is no field of a network set"),
        ("IPPool", pool, "natOutgiong", "spec.natOutgiong is no field of an IPPool"),
    ] {
        let good = format!("spec: {{{spec}}}\nstatus: {{any: thing}}\n");
        one(&manifest(kind, "x", &good));
        // The same with one letter wrong, or one field more.
        let bad = match wrong {
            "soruce" => good.replace("source:", "soruce:"),
            "Protocol" => good.replace(" protocol: ICMP", " Protocol: ICMP"),
            "namespaceSelectr" => good.replace("namespaceSelector: e", "namespaceSelectr: e"),
            "Code" => good.replace("code: 0", "Code: 0"),
            "namez" => good.replace("names:", "namez:"),
            "prefiks" => good.replace("prefix:", "prefiks:"),
            more => good.replacen("spec: {", &format!("spec: {{{more}: 1, "), 1),
        };
        assert_ne!(good, bad);
        let told = mistakes(&manifest(kind, "x", &bad));
        assert_eq!(told, [format!("document 1 (line 1): {expected}")]);
    }
    let told = mistakes(&manifest("NetworkPolicy", "x", "sepc: {}\n"));
    assert!(told[0].ends_with("sepc is no field of a resource"), "{told:?}");
    // What a policy of one kind has, one of another has not; staged ones are not looked at.
    assert_eq!(mistakes(&manifest("NetworkPolicy", "x", "spec: {preDNAT: true}\n")).len(), 1);
    one(&manifest("StagedNetworkPolicy", "x", "spec: {stagedAction: Set, soruce: 1}\n"));
    one(&manifest("FelixConfiguration", "x", "spec: {newer: 1}\n"));
    // Whatever is in etcd already is read as before.
    let stored = br#"{"spec": {"newer": 1}, "newer": 1}"#;
    let decoded = super::super::decode(&key("networkpolicies/default/default.x"), stored);
    assert!(!matches!(decoded, Decoded::Rejected(_)), "{decoded:?}");
}

proptest! {
    /// JSON as any writer makes it is read as it was meant, and what would be stored is a manifest
    /// of itself.
    #[test]
    fn whatever_json_says_is_read_so(texts in prop::collection::vec(any::<String>(), 0..4)) {
        let document = json!({"apiVersion": API_VERSION, "kind": "Profile",
            "metadata": {"name": "x", "annotations": {"a": texts.join("-")}, "more": texts},
            "spec": {}});
        for text in [document.to_string(), serde_json::to_string_pretty(&document).unwrap()] {
            let found = read(text.as_bytes());
            prop_assert_eq!(&found.mistakes, &[]);
            let value: Value = serde_json::from_slice(&found.good[0].value).unwrap();
            prop_assert_eq!(&value["metadata"], &document["metadata"]);
            let again = read(&found.good[0].value);
            prop_assert_eq!(&again.good[0].value, &found.good[0].value);
        }
    }

    #[test]
    fn nothing_makes_it_panic(bytes in any::<Vec<u8>>(), text in "[a-z:{}\\[\\]&*!|>%@`'\"#,?\\- \n\t]{0,40}") {
        let _ = (read(&bytes), read(text.as_bytes()));
    }
}
