use calico_datastore::model::Cidr;
use serde_json::json;

use super::*;
use crate::protocol::{CniError, Code};

fn parse(mut conf: Value) -> Result<NetConf, CniError> {
    if let Some(map) = conf.as_object_mut() {
        map.entry("name").or_insert(json!("net"));
    }
    NetConf::parse(conf.to_string().as_bytes())
}

fn good(conf: Value) -> NetConf {
    parse(conf).unwrap()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn every_key_is_read() {
    let conf = good(json!({
        "cniVersion": "0.4.0", "name": "frontend", "type": "calico", "mtu": 1440,
        "nodename": "calico-01", "nodename_file": "/var/lib/calico/name",
        "etcd_endpoints": "https://10.0.0.1:2379, https://10.0.0.2:2379",
        "etcd_ca_cert_file": "/ca", "etcd_cert_file": "/cert", "etcd_key_file": "/key",
        "etcd_username": "u", "etcd_password": "p",
        "datastore": "dir:/etc/calico/resources", "config_dir": "/c", "run_dir": "/r",
        "state_dir": "/s", "policy_setup_timeout_seconds": 20, "endpoint_status_dir": "/e",
        "gateway": "link-local", "labels": {"role": "web"},
        "dns": {"nameservers": ["10.0.0.53"], "domain": "d", "search": ["s"], "options": ["o"]},
        "ipam": {"type": "calico-ipam", "subnet": "10.1.0.0/16", "assign_ipv4": true,
                 "assign_ipv6": "true", "ipv4_pools": ["main", "10.1.0.0/16"],
                 "ipv6_pools": ["fd80::/48"]},
        "prevResult": {"ips": [{"address": "10.1.0.5/32"}]},
    }));
    let document = conf.document.clone();
    assert_eq!(document["mtu"], 1440);
    let expected = NetConf {
        version: Version::V0_4_0,
        name: "frontend".to_owned(),
        kind: "calico".to_owned(),
        mtu: Some(1440),
        nodename: Some("calico-01".to_owned()),
        nodename_file: Some("/var/lib/calico/name".into()),
        etcd_endpoints: texts(&["https://10.0.0.1:2379", "https://10.0.0.2:2379"]),
        etcd_ca: Some("/ca".into()),
        etcd_cert: Some("/cert".into()),
        etcd_key: Some("/key".into()),
        etcd_username: Some("u".to_owned()),
        etcd_password: Some("p".to_owned()),
        datastore: Some("dir:/etc/calico/resources".to_owned()),
        config_dir: Some("/c".into()),
        run_dir: Some("/r".into()),
        state_dir: Some("/s".into()),
        policy_timeout: Some(Duration::from_secs(20)),
        endpoint_status_dir: Some("/e".into()),
        gateway: Some("link-local".to_owned()),
        labels: [("role".to_owned(), "web".to_owned())].into(),
        dns: Dns {
            nameservers: texts(&["10.0.0.53"]),
            domain: Some("d".to_owned()),
            search: texts(&["s"]),
            options: texts(&["o"]),
        },
        ipam: IpamConf {
            kind: "calico-ipam".to_owned(),
            subnet: Some("10.1.0.0/16".to_owned()),
            assign_ipv4: Some(true),
            assign_ipv6: Some(true),
            ipv4_pools: texts(&["main", "10.1.0.0/16"]),
            ipv6_pools: texts(&["fd80::/48"]),
        },
        previous: Some(Success::from_json(&document["prevResult"]).unwrap()),
        document,
        ..NetConf::default()
    };
    assert_eq!(conf, expected);
}

#[test]
fn the_least_is_a_name() {
    let conf = good(json!({}));
    assert_eq!(conf.version, Version::V0_1_0);
    assert_eq!(conf.ipam.kind, CALICO_IPAM);
    assert!(!conf.ipam.is_delegated());
    let ipam = IpamConf { kind: CALICO_IPAM.to_owned(), ..IpamConf::default() };
    let document = conf.document.clone();
    assert_eq!(conf, NetConf { name: "net".to_owned(), ipam, document, ..NetConf::default() });
}

#[test]
fn null_and_empty_are_as_good_as_absent() {
    let keys = [
        "cniVersion",
        "type",
        "mtu",
        "nodename",
        "hostname",
        "nodename_file",
        "etcd_endpoints",
        "etcd_authority",
        "etcd_scheme",
        "etcd_discovery_srv",
        "etcd_ca_cert_file",
        "etcd_cert_file",
        "etcd_key_file",
        "etcd_username",
        "etcd_password",
        "datastore",
        "datastore_type",
        "config_dir",
        "run_dir",
        "state_dir",
        "policy_setup_timeout_seconds",
        "endpoint_status_dir",
        "gateway",
    ];
    let objects = ["labels", "args", "runtimeConfig", "dns", "ipam", "prevResult"];
    let all = |value: Value, keys: &[&str]| -> Value {
        keys.iter().map(|key| ((*key).to_owned(), value.clone())).collect()
    };
    let without_document = |conf: Value| NetConf { document: Map::new(), ..good(conf) };
    let least = without_document(json!({}));
    assert_eq!(without_document(all(Value::Null, &[&keys[..], &objects].concat())), least);
    assert_eq!(without_document(all(json!(""), &keys)), least);
    let empty = without_document(all(json!({}), &objects));
    assert_eq!(NetConf { previous: None, ..empty }, least);
    let inner = json!({
        "args": {"cni": null, "org.apache.mesos": null},
        "runtimeConfig": {"mac": null, "ips": null, "dns": null, "portMappings": null},
        "dns": {"nameservers": null, "domain": null},
        "ipam": {"type": null, "subnet": null, "assign_ipv4": null, "ipv4_pools": null},
    });
    assert_eq!(without_document(inner), least);
}

#[test]
fn what_the_original_takes_is_tolerated() {
    let conf = good(json!({
        "cniVersions": ["0.4.0", "9.9.9"], "log_level": "debug", "log_file_path": "/x",
        "datastore_type": "etcdv3", "policy": {"type": "k8s", "k8s_api_root": "https://x"},
        "kubernetes": {"kubeconfig": "/x"}, "container_settings": {"allow_ip_forwarding": false},
        "feature_control": {"ip_addrs_no_ipam": false}, "capabilities": {"portMappings": true},
        "mtu": "1500", "ipam": {"assign_ipv4": "True", "assign_ipv6": "false", "ipv4_pools": "a, b"},
        "policy_setup_timeout_seconds": "0", "hostname": "old",
        "etcd_authority": "10.0.0.1:2379", "etcd_scheme": "https", "7": [null],
    }));
    assert_eq!(conf.mtu, Some(1500));
    assert_eq!((conf.ipam.assign_ipv4, conf.ipam.assign_ipv6), (Some(true), Some(false)));
    assert_eq!(conf.ipam.ipv4_pools, ["a", "b"]);
    assert_eq!(conf.policy_timeout, Some(Duration::ZERO));
    assert_eq!(conf.nodename.as_deref(), Some("old"));
    assert_eq!(conf.etcd_endpoints, ["https://10.0.0.1:2379"]);
    assert_eq!(conf.datastore.as_deref(), Some("etcd"));
    let both = json!({"hostname": "old", "nodename": "new", "etcd_authority": "a:1",
                      "etcd_endpoints": ["http://b:2"]});
    let conf = good(both);
    assert_eq!(conf.nodename.as_deref(), Some("new"));
    assert_eq!(conf.etcd_endpoints, ["http://b:2"]);
    assert_eq!(good(json!({"etcd_authority": "a:1"})).etcd_endpoints, ["http://a:1"]);
}

#[test]
fn text_that_is_no_object_is_code_6_and_says_where() {
    for (text, msg, details) in [
        ("", "standard input is empty", "a network configuration is expected there"),
        (" \n", "standard input is empty", "a network configuration is expected there"),
        ("[]", "the network configuration is not an object", "it is a list"),
        ("null", "the network configuration is not an object", "it is null"),
        (
            "{\"name\":\"n\",\n \"mtu\":}",
            "the network configuration is not JSON",
            "expected value at line 2 column 8",
        ),
        (
            "{\"name\":\"n\"}}",
            "the network configuration is not JSON",
            "trailing characters at line 1 column 13",
        ),
    ] {
        let error = NetConf::parse(text.as_bytes()).unwrap_err();
        let said = (error.code, error.msg.as_str(), error.details.as_str());
        assert_eq!(said, (6, msg, details), "{text:?}");
    }
    assert_eq!(NetConf::parse(b"{\"name\":\"\xff\"}").unwrap_err().code, 6);
}

#[test]
fn versions_that_are_not_spoken_are_code_1() {
    for version in ["0.5.0", "1.2.0", "2.0.0", "latest"] {
        // Nothing else is looked at: it may mean something else there.
        let error = parse(json!({"cniVersion": version, "mtu": {}})).unwrap_err();
        assert_eq!(
            error,
            CniError::new(
                Code::IncompatibleVersion,
                format!("cniVersion {version:?} is not supported"),
                "supported are 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0",
            )
        );
    }
}

#[test]
fn what_is_not_done_here_is_code_2_with_key_and_value() {
    let error = parse(json!({"etcd_discovery_srv": "example.org"})).unwrap_err();
    assert_eq!(error.code, 2);
    assert_eq!(error.msg, "\"etcd_discovery_srv\": \"example.org\" is not supported");
    let both = json!({"etcd_discovery_srv": "example.org", "etcd_endpoints": "http://a:1"});
    assert_eq!(good(both).etcd_endpoints, ["http://a:1"]);
}

#[test]
fn values_that_cannot_be_are_code_7_and_name_the_key() {
    for (conf, key) in [
        (json!({"cniVersion": 1}), "cniVersion"),
        (json!({"name": ""}), "name"),
        (json!({"name": null}), "name"),
        (json!({"name": 7}), "name"),
        (json!({"name": "my net"}), "name"),
        (json!({"name": "-net"}), "name"),
        (json!({"name": "a/b"}), "name"),
        (json!({"type": []}), "type"),
        (json!({"mtu": -1}), "mtu"),
        (json!({"mtu": 67}), "mtu"),
        (json!({"mtu": 65_536}), "mtu"),
        (json!({"mtu": 1.5}), "mtu"),
        (json!({"mtu": "big"}), "mtu"),
        (json!({"mtu": true}), "mtu"),
        (json!({"nodename": 7}), "nodename"),
        (json!({"state_dir": {}}), "state_dir"),
        (json!({"policy_setup_timeout_seconds": -1}), "policy_setup_timeout_seconds"),
        (json!({"policy_setup_timeout_seconds": 3_601}), "policy_setup_timeout_seconds"),
        (json!({"gateway": "10.0.0.1"}), "gateway"),
        (json!({"datastore": "kubernetes"}), "datastore"),
        (json!({"datastore": "dir:"}), "datastore"),
        (json!({"datastore": "dir:here"}), "datastore"),
        (json!({"datastore_type": "kubernetes"}), "datastore_type"),
        (json!({"datastore_type": "etcdv2"}), "datastore_type"),
        (json!({"datastore_type": "etcdv3", "datastore": "dir:/x"}), "datastore_type"),
        (json!({"datastore_type": "directory", "datastore": "etcd"}), "datastore_type"),
        (json!({"etcd_endpoints": 7}), "etcd_endpoints"),
        (json!({"etcd_endpoints": [7]}), "etcd_endpoints[0]"),
        (json!({"etcd_endpoints": "10.0.0.1:2379"}), "etcd_endpoints"),
        (json!({"etcd_endpoints": "http://"}), "etcd_endpoints"),
        (json!({"etcd_scheme": "ftp"}), "etcd_scheme"),
        (json!({"etcd_authority": "http://a:1"}), "etcd_authority"),
        (json!({"labels": "a=b"}), "labels"),
        (json!({"labels": {"a": 7}}), "labels.a"),
        (json!({"labels": [{"value": "x"}]}), "labels[0].key"),
        (json!({"args": 7}), "args"),
        (json!({"args": {"cni": {"labels": [7]}}}), "args.cni.labels[0]"),
        (json!({"args": {"cni": {"ips": ["x"]}}}), "args.cni.ips[0]"),
        (json!({"runtimeConfig": {"ips": "10.0.0.1"}}), "runtimeConfig.ips"),
        (json!({"runtimeConfig": {"ips": ["10.0.0.1/33"]}}), "runtimeConfig.ips[0]"),
        (json!({"runtimeConfig": {"mac": "x"}}), "runtimeConfig.mac"),
        (json!({"runtimeConfig": {"dns": {"servers": 7}}}), "runtimeConfig.dns.servers"),
        (
            json!({"runtimeConfig": {"portMappings": [{}]}}),
            "runtimeConfig.portMappings[0].containerPort",
        ),
        (
            json!({"runtimeConfig": {"portMappings": [{"containerPort": 65_536}]}}),
            "runtimeConfig.portMappings[0].containerPort",
        ),
        (
            json!({"runtimeConfig": {"portMappings": [{"containerPort": 1, "protocol": "x"}]}}),
            "runtimeConfig.portMappings[0].protocol",
        ),
        (json!({"dns": {"search": [7]}}), "dns.search[0]"),
        (json!({"ipam": "calico-ipam"}), "ipam"),
        (json!({"ipam": {"type": "../x"}}), "ipam.type"),
        (json!({"ipam": {"type": "calico"}}), "ipam.type"),
        (json!({"type": "mine", "ipam": {"type": "mine"}}), "ipam.type"),
        (json!({"ipam": {"subnet": "10.0.0.0/33"}}), "ipam.subnet"),
        (json!({"ipam": {"subnet": "10.0.0.1"}}), "ipam.subnet"),
        (json!({"ipam": {"assign_ipv4": "maybe"}}), "ipam.assign_ipv4"),
        (json!({"ipam": {"assign_ipv6": 1}}), "ipam.assign_ipv6"),
        (json!({"ipam": {"ipv4_pools": ["fd80::/48"]}}), "ipam.ipv4_pools"),
        (json!({"ipam": {"ipv6_pools": ["10.0.0.0/8"]}}), "ipam.ipv6_pools"),
        (json!({"ipam": {"ipv4_pools": ["a/b"]}}), "ipam.ipv4_pools"),
        (json!({"ipam": {"ipv4_pools": {}}}), "ipam.ipv4_pools"),
        (json!({"cni.dev/valid-attachments": {}}), "cni.dev/valid-attachments"),
        (json!({"cni.dev/attachments": [{"containerID": "a"}]}), "cni.dev/attachments[0].ifname"),
        (json!({"cni.dev/attachments": [null]}), "cni.dev/attachments[0]"),
    ] {
        let error = parse(conf.clone()).unwrap_err();
        assert_eq!(error.code, 7, "{conf}: {error}");
        assert!(error.msg.starts_with(&format!("\"{key}\" ")), "{conf}: {error}");
        assert!(!error.details.is_empty(), "{conf}");
    }
}

#[test]
fn the_store_has_two_keys() {
    for (conf, store) in [
        (json!({}), None),
        (json!({"datastore": "etcd"}), Some("etcd")),
        (json!({"datastore": "directory"}), Some("directory")),
        (json!({"datastore": "dir:/x"}), Some("dir:/x")),
        (json!({"datastore_type": "etcdv3"}), Some("etcd")),
        (json!({"datastore_type": "directory"}), Some("directory")),
        (json!({"datastore_type": "directory", "datastore": "dir:/x"}), Some("dir:/x")),
        (json!({"datastore_type": "etcdv3", "datastore": "etcd"}), Some("etcd")),
    ] {
        assert_eq!(good(conf.clone()).datastore.as_deref(), store, "{conf}");
    }
}

#[test]
fn gateways_by_default_follow_the_version() {
    let host = |conf| good(conf).says_host_as_gateway();
    assert!(host(json!({})) && host(json!({"cniVersion": "0.2.0"})));
    assert!(!host(json!({"cniVersion": "0.3.0"})));
    assert!(!host(json!({"gateway": "link-local"})));
    assert!(host(json!({"cniVersion": "1.0.0", "gateway": "host"})));
}

#[test]
fn another_plugins_fields_are_its_own() {
    let conf = good(json!({"ipam": {
        "type": "host-local", "subnet": 7, "ranges": [[{"subnet": "10.0.0.0/8"}]],
        "assign_ipv4": "maybe", "ipv4_pools": {},
    }}));
    assert!(conf.ipam.is_delegated());
    assert_eq!(conf.ipam, IpamConf { kind: "host-local".to_owned(), ..IpamConf::default() });
}

#[test]
fn pools_are_names_or_prefixes() {
    let conf = good(json!({"ipam": {"ipv4_pools": ["default-ipv4-ippool", "10.0.0.0/8"]}}));
    assert!(conf.ipam.ipv4_pools[0].parse::<Cidr>().is_err());
    assert!(conf.ipam.ipv4_pools[1].parse::<Cidr>().is_ok());
}

#[test]
fn labels_come_from_four_places() {
    let conf = good(json!({
        "labels": {"a": "network", "empty": ""},
        "args": {
            "org.apache.mesos": {"network_info": {"labels": {"labels": [
                {"key": "a", "value": "mesos"}, {"key": "b", "value": "mesos"},
                {"key": "c", "value": "mesos"}]}}},
            "cni": {"labels": [{"key": "a", "value": "cni"}, {"key": "b", "value": "cni"}]},
        },
    }));
    let labels: Vec<_> = conf.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(labels, ["a=network", "b=cni", "c=mesos", "empty="]);
    let list = good(json!({"labels": [{"key": "a", "value": "x"}, {"key": "b"}]}));
    assert_eq!(list.labels, [("a".into(), "x".into()), ("b".into(), String::new())].into());
}

#[test]
fn what_the_runtime_adds_counts_more() {
    let conf = good(json!({
        "args": {"cni": {"ips": ["10.0.0.1/24", "fd80::1"]}},
        "runtimeConfig": {
            "ips": ["10.0.0.2", "fd80::2/64", "10.0.0.2/24"], "mac": "CA:FE:1D:52:BB:E1",
            "dns": {"servers": ["10.0.0.54"], "searches": [], "domain": ""},
            "portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": ""},
                {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "10.0.2.15"},
                {"containerPort": 7},
            ],
        },
        "dns": {"nameservers": ["10.0.0.53"], "search": ["s"], "domain": "d"},
    }));
    assert_eq!(conf.ips, ips(&["10.0.0.2", "fd80::2"]));
    assert_eq!(conf.dns.nameservers, ["10.0.0.54"]);
    assert_eq!((conf.dns.search, conf.dns.domain.as_deref()), (texts(&["s"]), Some("d")));
    assert_eq!(conf.runtime.mac.as_deref(), Some("CA:FE:1D:52:BB:E1"));
    let port = |host_port, container_port, protocol: &str, host_ip: Option<&str>| PortMapping {
        host_port,
        container_port,
        protocol: protocol.to_owned(),
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
    };
    assert_eq!(
        conf.runtime.port_mappings,
        [
            port(8080, 80, "tcp", None),
            port(53, 53, "udp", Some("10.0.2.15")),
            port(0, 7, "tcp", None)
        ]
    );
    let args = json!({"args": {"cni": {"ips": ["10.0.0.1/24"]}}, "runtimeConfig": {"ips": []}});
    assert_eq!(good(args).ips, ips(&["10.0.0.1"]));
}

#[test]
fn valid_attachments_have_two_names_and_an_empty_form() {
    let list = |id: &str| json!([{"containerID": id, "ifname": "eth0"}]);
    let expected = |id: &str| Some(vec![(id.to_owned(), "eth0".to_owned())]);
    let (new, old) = ("cni.dev/valid-attachments", "cni.dev/attachments");
    assert_eq!(good(json!({new: list("a")})).valid_attachments, expected("a"));
    assert_eq!(good(json!({old: list("a")})).valid_attachments, expected("a"));
    let both = json!({old: list("b"), new: list("a")});
    assert_eq!(good(both).valid_attachments, expected("a"));
    for empty in [json!([]), Value::Null] {
        assert_eq!(good(json!({new: empty})).valid_attachments, Some(vec![]));
    }
    assert_eq!(good(json!({})).valid_attachments, None);
}

#[test]
fn an_address_that_is_none_is_quoted_without_its_password() {
    for (conf, shown) in [
        (json!({"etcd_endpoints": "root:se@cret@10.0.0.1:2379"}), "\"10.0.0.1:2379\""),
        (json!({"etcd_endpoints": ["ftp://root:se@cret@etcd"]}), "\"etcd\""),
        (json!({"etcd_authority": "http://root:se@cret@etcd:1"}), "\"etcd:1\""),
        (json!({"etcd_authority": "http://etcd:1"}), "\"http://etcd:1\""),
    ] {
        let error = parse(conf).unwrap_err();
        let told = format!("{} {}", error.msg, error.details);
        assert!(told.contains(shown) && !told.contains("cret"), "{told}");
        assert!(!told.contains("root"), "{told}");
    }
}
