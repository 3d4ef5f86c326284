use std::sync::Arc;

use super::super::{Decoded, decode};
use super::{accepted, rejected};
use crate::model::{
    AffinityState, AsNumber, BgpConfiguration, Block, EncapMode, FelixConfiguration, Node, Pool,
    Update,
};

#[track_caller]
fn node(json: &str) -> Arc<Node> {
    match accepted("nodes/calico-01", json) {
        Update::Node(name, Some(node)) => {
            assert_eq!(name, "calico-01");
            node
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn pool(spec: &str) -> Arc<Pool> {
    match accepted("ippools/p", &format!(r#"{{"spec":{spec}}}"#)) {
        Update::Pool(_, Some(pool)) => pool,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn felix(json: &str) -> Arc<FelixConfiguration> {
    match accepted("felixconfigurations/default", json) {
        Update::FelixConfiguration(_, Some(felix)) => felix,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn bgp(json: &str) -> Arc<BgpConfiguration> {
    match accepted("bgpconfigurations/default", json) {
        Update::BgpConfiguration(_, Some(bgp)) => bgp,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_with_bgp() {
    let node = node(
        r#"{"metadata":{"labels":{"rack":"r1"}},"spec":{"bgp":{"asNumber":64513,"ipv4Address":"172.18.18.102/24",
            "ipv6Address":"fd00:172:18:18::102/64","ipv4IPIPTunnelAddr":"192.168.0.66","routeReflectorClusterID":"245.0.0.1"},
            "addresses":[{"address":"10.9.9.9","type":"InternalIP"}]},"status":{}}"#,
    );
    assert!(node.bgp && !node.ipv4_is_fallback && !node.ipv6_is_fallback);
    assert_eq!(node.ipv4.unwrap().to_string(), "172.18.18.102");
    assert_eq!(node.ipv4_network.unwrap().to_string(), "172.18.18.0/24");
    assert_eq!(node.ipv6.unwrap().to_string(), "fd00:172:18:18::102");
    assert_eq!(node.ipv6_network.unwrap().to_string(), "fd00:172:18:18::/64");
    assert_eq!(node.as_number, Some(AsNumber(64513)));
    assert_eq!(node.ipip_tunnel.unwrap().to_string(), "192.168.0.66");
    assert_eq!(node.route_reflector_cluster_id.unwrap().to_string(), "245.0.0.1");
    assert_eq!(node.labels.get("rack"), Some("r1"));
}

#[test]
fn a_bare_node_address_is_its_own_network() {
    let node =
        node(r#"{"spec":{"bgp":{"ipv4Address":"10.0.0.1","ipv6Address":"","asNumber":null}}}"#);
    assert_eq!(node.ipv4_network.unwrap().to_string(), "10.0.0.1/32");
    assert_eq!((node.ipv6, node.as_number), (None, None));
}

#[test]
fn a_node_without_a_bgp_address_falls_back_to_internal_then_external() {
    let addresses = r#"[{"address":"1.1.1.1","type":"CalicoNodeIP"},{"address":"2.2.2.2","type":"ExternalIP"},
        {"address":"host.example","type":"InternalIP"},{"address":"3.3.3.3","type":"InternalIP"},
        {"address":"fd00::2","type":"ExternalIP"},{"type":"InternalIP"},{}]"#;
    let found = node(&format!(r#"{{"spec":{{"addresses":{addresses}}}}}"#));
    assert!(!found.bgp);
    assert_eq!(found.ipv4.unwrap().to_string(), "3.3.3.3");
    assert_eq!(found.ipv4_network.unwrap().to_string(), "3.3.3.3/32");
    assert_eq!(found.ipv6.unwrap().to_string(), "fd00::2");
    let found = node(r#"{"spec":{"addresses":[{"address":"2.2.2.2","type":"ExternalIP"}]}}"#);
    assert_eq!(found.ipv4.unwrap().to_string(), "2.2.2.2");
    assert_eq!(node(r#"{"spec":{"bgp":{}}}"#).ipv4, None);
    // Good for reaching the host, but nobody speaks BGP there.
    let found = node(&format!(
        r#"{{"spec":{{"bgp":{{"ipv6Address":"fd00::9/64"}},"addresses":{addresses}}}}}"#
    ));
    assert_eq!(found.ipv4.unwrap().to_string(), "3.3.3.3");
    assert_eq!(found.bgp_addresses().map(|a| a.to_string()).collect::<Vec<_>>(), ["fd00::9"]);
    assert_eq!(*node("{}"), Node::default());
}

#[test]
fn bad_nodes_name_the_field() {
    for (bgp, field) in [
        (r#"{"ipv4Address":"fd00::1/64"}"#, "ipv4Address"),
        (r#"{"ipv4Address":"10.0.0.1/33"}"#, "ipv4Address"),
        (r#"{"ipv6Address":"10.0.0.1/24"}"#, "ipv6Address"),
        (r#"{"ipv4IPIPTunnelAddr":"192.168.0.0/32"}"#, "ipv4IPIPTunnelAddr"),
        (r#"{"routeReflectorClusterID":"300.34.3.1"}"#, "routeReflectorClusterID"),
        (r#"{"asNumber":"x"}"#, "asNumber"),
    ] {
        let reason = rejected("nodes/n", &format!(r#"{{"spec":{{"bgp":{bgp}}}}}"#));
        assert!(reason.starts_with(&format!("spec.bgp.{field}: ")), "{reason}");
    }
}

#[test]
fn as_numbers_by_number_by_string_and_dotted() {
    for (text, number) in [
        ("64512", 64512),
        (r#""64520""#, 64520),
        (r#""1.10""#, 65546),
        ("4294967295", 4_294_967_295),
    ] {
        let config = bgp(&format!(r#"{{"spec":{{"asNumber":{text}}}}}"#));
        assert_eq!(config.as_number, Some(AsNumber(number)));
    }
    for text in ["-1", "4294967296", "1.10", r#""1.1.1""#, r#""""#, "[]"] {
        let reason =
            rejected("bgpconfigurations/default", &format!(r#"{{"spec":{{"asNumber":{text}}}}}"#));
        assert!(reason.starts_with("spec.asNumber: "), "{reason}");
    }
}

#[test]
fn the_mesh_is_on_unless_switched_off() {
    assert!(bgp("{}").node_to_node_mesh);
    assert!(bgp(r#"{"spec":{"nodeToNodeMeshEnabled":null}}"#).node_to_node_mesh);
    assert!(!bgp(r#"{"spec":{"nodeToNodeMeshEnabled":false}}"#).node_to_node_mesh);
    let config =
        bgp(r#"{"spec":{"listenPort":1179,"logSeverityScreen":"Info","communities":[{}]}}"#);
    assert_eq!((config.listen_port, config.log_severity.as_deref()), (Some(1179), Some("Info")));
    for port in ["0", "65536", r#""x""#] {
        rejected("bgpconfigurations/default", &format!(r#"{{"spec":{{"listenPort":{port}}}}}"#));
    }
}

#[test]
fn pools() {
    let full = pool(
        r#"{"cidr":"192.168.0.9/16","vxlanMode":"Never","ipipMode":"CrossSubnet","natOutgoing":true,"disabled":true,
            "disableBGPExport":true,"blockSize":24,"nodeSelector":"rack == 'r1'","allowedUses":["Workload"]}"#,
    );
    assert_eq!(full.cidr.to_string(), "192.168.0.0/16");
    assert_eq!((full.ipip, full.vxlan), (EncapMode::CrossSubnet, EncapMode::Never));
    assert!(full.nat_outgoing && full.disabled && full.disable_bgp_export);
    assert_eq!((full.block_size, full.node_selector.canonical()), (24, r#"rack == "r1""#));

    let plain = pool(r#"{"cidr":"10.0.0.0/8","ipipMode":"","nodeSelector":""}"#);
    assert_eq!((plain.ipip, plain.vxlan), (EncapMode::Never, EncapMode::Never));
    assert!(!plain.nat_outgoing && !plain.disabled && !plain.disable_bgp_export);
    assert_eq!((plain.block_size, plain.node_selector.canonical()), (26, "all()"));
    assert_eq!(pool(r#"{"cidr":"fd80::/64"}"#).block_size, 122);
    assert_eq!(pool(r#"{"cidr":"10.0.0.0/8","vxlanMode":"always"}"#).vxlan, EncapMode::Always);

    for (spec, field) in [
        ("{}", "cidr"),
        (r#"{"cidr":"x"}"#, "cidr"),
        (r#"{"cidr":"10.0.0.0/8","ipipMode":"Sometimes"}"#, "ipipMode"),
        (r#"{"cidr":"fd80::/64","ipipMode":"Always"}"#, "ipipMode"),
        (r#"{"cidr":"10.0.0.0/8","ipipMode":"Always","vxlanMode":"Always"}"#, "vxlanMode"),
        (r#"{"cidr":"10.0.0.0/8","blockSize":19}"#, "blockSize"),
        (r#"{"cidr":"fd80::/64","blockSize":26}"#, "blockSize"),
        (r#"{"cidr":"10.0.0.0/8","nodeSelector":"a ="}"#, "nodeSelector"),
    ] {
        let reason = rejected("ippools/p", &format!(r#"{{"spec":{spec}}}"#));
        assert!(reason.starts_with(&format!("spec.{field}: ")), "{reason}");
    }
}

#[test]
fn whom_a_pool_is_for() {
    for (fields, workloads, manual) in [
        ("", true, false),
        (r#","allowedUses":null,"assignmentMode":null"#, true, false),
        (r#","allowedUses":[],"assignmentMode":"""#, true, false),
        (r#","allowedUses":["Tunnel","Workload"],"assignmentMode":"Automatic""#, true, false),
        (r#","allowedUses":["Tunnel"]"#, false, false),
        (r#","allowedUses":["LoadBalancer"],"assignmentMode":"Manual""#, false, true),
        (r#","assignmentMode":"OnFullMoon""#, true, true),
    ] {
        let pool = pool(&format!(r#"{{"cidr":"10.0.0.0/16"{fields}}}"#));
        assert_eq!((pool.for_workloads, pool.manual), (workloads, manual), "{fields}");
    }
}

#[test]
fn an_annotation_wins_over_the_spec_in_any_spelling_of_the_name() {
    let config = felix(
        r#"{"metadata":{"annotations":{"config.projectcalico.org/defaultendpointtohostaction":"Drop"}},
            "spec":{"defaultEndpointToHostAction":"Accept"}}"#,
    );
    let given: Vec<_> = config.parameters.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(given, [("defaultendpointtohostaction", "Drop")]);
}

#[test]
fn felix_parameters_as_its_file_has_them() {
    let config = felix(
        r#"{"metadata":{"annotations":{"config.projectcalico.org/SomeFutureOption":"42","config.projectcalico.org/LogPrefix":"over",
            "other":"x"}},
            "spec":{"ipv6Support":true,"ipipEnabled":false,"ipipMTU":1440,"iptablesRefreshInterval":"1m30s","reportingInterval":"0s",
            "reportingTTL":"1m30s","endpointReportingDelay":"1.5s","iptablesLockTimeout":"10s","iptablesLockProbeInterval":"50ms",
            "iptablesPostWriteCheckInterval":"100ms","defaultEndpointToHostAction":"Return","logSeverityScreen":"Info",
            "logPrefix":"5m","bpfLogLevel":"","mtuIfacePattern":null,"iptablesMarkMask":4278190080,
            "failsafeInboundHostPorts":[{"protocol":"TCP","port":22,"net":""},{"protocol":"UDP","port":68},
              {"protocol":"TCP","port":22,"net":"10.0.0.0/8"},{"protocol":"TCP","port":22,"net":"fd00::/8"}],
            "failsafeOutboundHostPorts":[],"externalNodesList":["10.0.0.1","10.0.1.0/24"],
            "kubeNodePortRanges":["30000:32767",80],"routeTableRange":{"min":1,"max":250},"routeTableRanges":[{"min":1,"max":5}],
            "healthTimeoutOverrides":[{"name":"x","timeout":"5s"}],"netlinkTimeout":"soon","interfaceNames":[]}}"#,
    );
    let parameters: Vec<(&str, &str)> =
        config.parameters.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(
        parameters,
        [
            ("DefaultEndpointToHostAction", "Return"),
            ("EndpointReportingDelaySecs", "1.5"),
            ("ExternalNodesCIDRList", "10.0.0.1,10.0.1.0/24"),
            ("FailsafeInboundHostPorts", "tcp:22,udp:68,tcp:10.0.0.0/8:22,tcp:[fd00::/8]:22"),
            ("FailsafeOutboundHostPorts", "none"),
            ("IpInIpEnabled", "false"),
            ("IpInIpMtu", "1440"),
            ("IptablesLockProbeIntervalMillis", "50"),
            ("IptablesLockTimeoutSecs", "10"),
            ("IptablesMarkMask", "4278190080"),
            ("IptablesPostWriteCheckIntervalSecs", "0.1"),
            ("IptablesRefreshInterval", "90"),
            ("Ipv6Support", "true"),
            ("KubeNodePortRanges", "30000:32767,80"),
            ("LogPrefix", "over"),
            ("LogSeverityScreen", "Info"),
            ("NetlinkTimeoutSecs", "soon"),
            ("ReportingIntervalSecs", "0"),
            ("ReportingTTLSecs", "90"),
            ("RouteTableRange", "1-250"),
            ("RouteTableRanges", "1-5"),
            ("SomeFutureOption", "42"),
        ]
    );
    assert!(felix("{}").parameters.is_empty(), "absent fail-safe ports are the default ones");
    assert!(felix(r#"{"spec":{"failsafeInboundHostPorts":null}}"#).parameters.is_empty());
}

#[test]
fn a_store_is_ready_only_when_it_says_so() {
    for (json, ready) in [
        (r#"{"spec":{"datastoreReady":true,"clusterGUID":"8a1f"}}"#, true),
        (r#"{"spec":{"datastoreReady":false}}"#, false),
        (r#"{"spec":{"datastoreReady":null}}"#, false),
        (r#"{"spec":{}}"#, false),
        ("{}", false),
    ] {
        match accepted("clusterinformations/default", json) {
            Update::ClusterInformation(Some(info)) => {
                assert_eq!(info.datastore_ready, ready, "{json}");
                assert_eq!(info.guid.as_deref(), ready.then_some("8a1f"));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_version_of_the_cluster_is_kept_as_it_is_written() {
    for (json, expected) in [
        (r#"{"spec":{"datastoreReady":true,"calicoVersion":"v3.29.0"}}"#, Some("v3.29.0")),
        // Not a version, and no reason to take the store for not ready.
        (r#"{"spec":{"datastoreReady":true,"calicoVersion":"master"}}"#, Some("master")),
        (r#"{"spec":{"datastoreReady":true,"calicoVersion":""}}"#, None),
        (r#"{"spec":{"datastoreReady":true}}"#, None),
    ] {
        let Update::ClusterInformation(Some(info)) = accepted("clusterinformations/default", json)
        else {
            panic!("{json}")
        };
        assert_eq!((info.datastore_ready, info.calico_version.as_deref()), (true, expected));
    }
}

#[test]
fn profiles_keep_labels_with_empty_values() {
    let json = r#"{"spec":{"ingress":[{"action":"Allow","source":{"selector":"has(frontend)"},"destination":{}}],
        "egress":null,"labelsToApply":{"frontend":"","null":null,"pcns.env":"prod"}}}"#;
    match accepted("profiles/frontend", json) {
        Update::Profile(_, Some(profile)) => {
            assert_eq!(profile.labels.get("frontend"), Some(""));
            assert_eq!(profile.labels.get("null"), Some(""));
            assert_eq!(profile.labels.get("pcns.env"), Some("prod"));
            let source = &profile.ingress[0].source;
            assert_eq!(source.selector.as_ref().unwrap().canonical(), "has(frontend)");
            assert!(profile.egress.is_empty());
        }
        other => panic!("{other:?}"),
    }
    let reason = rejected("profiles/p", r#"{"spec":{"egress":[{"action":"x"}]}}"#);
    assert!(reason.starts_with("spec.egress[0].action: "), "{reason}");
}

#[test]
fn network_sets() {
    let json = r#"{"metadata":{"labels":{"trust":"partner"}},"spec":{"nets":["198.51.100.7/24","2001:db8::1"]}}"#;
    let Update::NetworkSet(_, Some(set)) = accepted("networksets/default/s", json) else {
        panic!("no set");
    };
    let nets: Vec<String> = set.nets.iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["198.51.100.0/24", "2001:db8::1/128"]);
    assert_eq!(set.labels.get("projectcalico.org/namespace"), Some("default"));
    assert_eq!(set.labels.get("trust"), Some("partner"));
    assert_eq!(set.profiles, ["kns.default"]);

    let Update::NetworkSet(_, Some(set)) = accepted("globalnetworksets/s", json) else {
        panic!("no set");
    };
    assert_eq!(set.labels.len(), 1);
    assert!(set.profiles.is_empty());

    let forged = r#"{"metadata":{"labels":{"projectcalico.org/namespace":"other"}}}"#;
    let reason = rejected("globalnetworksets/s", forged);
    assert!(reason.starts_with("metadata.labels: "), "{reason}");
    let Update::NetworkSet(_, Some(set)) = accepted("networksets/default/s", forged) else {
        panic!("no set");
    };
    assert_eq!(set.labels.get("projectcalico.org/namespace"), Some("default"), "the key counts");
    let reason = rejected("networksets/default/s", r#"{"spec":{"nets":["10.0.0.0/8","garbage"]}}"#);
    assert!(reason.starts_with("spec.nets[1]: "), "{reason}");
}

fn ipam(path: &str, value: &str) -> Decoded {
    decode(&format!("/calico/ipam/v2/{path}"), value.as_bytes())
}

#[test]
fn affinity_states() {
    for (value, expected) in [
        ("", Some(AffinityState::Confirmed)),
        ("{}", Some(AffinityState::Confirmed)),
        (r#"{"state":""}"#, Some(AffinityState::Confirmed)),
        (r#"{"state":null}"#, Some(AffinityState::Confirmed)),
        (r#"{"state":"confirmed","deleted":false}"#, Some(AffinityState::Confirmed)),
        (r#"{"state":"pending"}"#, Some(AffinityState::Pending)),
        (r#"{"state":"pendingDeletion","deleted":false}"#, Some(AffinityState::PendingDeletion)),
        (r#"{"state":"confirmed","deleted":true}"#, None),
    ] {
        match ipam("host/calico-01/ipv4/block/10.0.0.0-26", value) {
            Decoded::Object(Update::Affinity(id, affinity)) => {
                assert_eq!(
                    (id.host.as_str(), id.block.to_string()),
                    ("calico-01", "10.0.0.0/26".into())
                );
                assert_eq!(affinity.map(|a| a.state), expected, "{value}");
            }
            other => panic!("{value}: {other:?}"),
        }
    }
    for value in [r#"{"state":"odd"}"#, "[]", "x"] {
        let decoded = ipam("host/calico-01/ipv4/block/10.0.0.0-26", value);
        assert!(matches!(decoded, Decoded::Rejected(_)), "{decoded:?}");
    }
}

#[test]
fn block_owners() {
    for (value, host) in [
        (
            r#"{"cidr":"10.0.0.0/26","affinity":"host:calico-01","allocations":[0,null]}"#,
            Some("calico-01"),
        ),
        (r#"{"affinity":null}"#, None),
        (r#"{"affinity":""}"#, None),
        ("{}", None),
        (r#"{"affinity":null,"hostAffinity":"old"}"#, Some("old")),
        (r#"{"affinity":"host:new","hostAffinity":"old"}"#, Some("new")),
        (r#"{"affinity":"virtual:load-balancer"}"#, None),
    ] {
        let Decoded::Object(Update::Block(cidr, Some(block))) =
            ipam("assignment/ipv4/block/10.0.0.0-26", value)
        else {
            panic!("{value} was refused");
        };
        assert_eq!(*block, Block { cidr, host: host.map(Into::into) }, "{value}");
    }
    for value in [r#"{"cidr":"10.0.0.64/26"}"#, r#"{"cidr":"x"}"#, r#"{"affinity":"host:"}"#, ""] {
        let decoded = ipam("assignment/ipv4/block/10.0.0.0-26", value);
        assert!(matches!(decoded, Decoded::Rejected(_)), "{value}: {decoded:?}");
    }
    let gone = ipam("assignment/ipv4/block/10.0.0.0-26", r#"{"deleted":true}"#);
    assert!(matches!(gone, Decoded::Object(Update::Block(_, None))));
}
