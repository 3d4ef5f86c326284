use proptest::prelude::*;
use serde_json::json;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Two addresses of each family, so that what the old shape leaves out is seen.
fn example() -> Success {
    let address = |text: &str, gateway: Option<&str>, interface| Ip {
        address: (ip(text), Family::of(ip(text)).host_len()),
        gateway: gateway.map(ip),
        interface,
    };
    Success {
        interfaces: vec![
            Interface {
                name: "calic89f2f35-1b".to_owned(),
                mac: "ee:ee:ee:ee:ee:ee".to_owned(),
                mtu: Some(1440),
                sandbox: None,
            },
            Interface {
                name: "eth0".to_owned(),
                mac: "ca:fe:1d:52:bb:e1".to_owned(),
                mtu: None,
                sandbox: Some("/var/run/netns/x".to_owned()),
            },
        ],
        ips: vec![
            address("10.1.0.1", Some("10.0.2.15"), Some(1)),
            address("10.1.0.2", None, Some(1)),
            address("fd80::1", None, Some(1)),
            address("fd80::2", None, None),
        ],
        routes: vec![
            Route { dst: "0.0.0.0/0".parse().unwrap(), gw: Some(ip("169.254.1.1")) },
            Route { dst: "::/0".parse().unwrap(), gw: None },
        ],
        dns: Dns {
            nameservers: vec!["10.0.0.53".to_owned()],
            domain: Some("example.org".to_owned()),
            search: vec!["example.org".to_owned()],
            options: vec!["ndots:2".to_owned()],
        },
    }
}

const DNS: &str = r#""dns":{"nameservers":["10.0.0.53"],"domain":"example.org","search":["example.org"],"options":["ndots:2"]}"#;

#[test]
fn each_version_has_its_shape() {
    let old = |version: &str| {
        format!(
            r#"{{"cniVersion":"{version}","ip4":{{"ip":"10.1.0.1/32","gateway":"10.0.2.15","routes":[{{"dst":"0.0.0.0/0","gw":"169.254.1.1"}}]}},"ip6":{{"ip":"fd80::1/128","routes":[{{"dst":"::/0"}}]}},{DNS}}}"#
        )
    };
    let new = |version: &str, mtu: &str, four: &str, six: &str| {
        format!(
            r#"{{"cniVersion":"{version}","interfaces":[{{"name":"calic89f2f35-1b","mac":"ee:ee:ee:ee:ee:ee"{mtu}}},{{"name":"eth0","mac":"ca:fe:1d:52:bb:e1","sandbox":"/var/run/netns/x"}}],"ips":[{{{four}"interface":1,"address":"10.1.0.1/32","gateway":"10.0.2.15"}},{{{four}"interface":1,"address":"10.1.0.2/32"}},{{{six}"interface":1,"address":"fd80::1/128"}},{{{six}"address":"fd80::2/128"}}],"routes":[{{"dst":"0.0.0.0/0","gw":"169.254.1.1"}},{{"dst":"::/0"}}],{DNS}}}"#
        )
    };
    let (four, six) = (r#""version":"4","#, r#""version":"6","#);
    for (version, golden) in [
        (Version::V0_1_0, old("0.1.0")),
        (Version::V0_2_0, old("0.2.0")),
        (Version::V0_3_0, new("0.3.0", "", four, six)),
        (Version::V0_3_1, new("0.3.1", "", four, six)),
        (Version::V0_4_0, new("0.4.0", "", four, six)),
        (Version::V1_0_0, new("1.0.0", "", "", "")),
        (Version::V1_1_0, new("1.1.0", r#","mtu":1440"#, "", "")),
    ] {
        assert_eq!(example().to_json(version).to_string(), golden, "{version}");
    }
}

#[test]
fn what_is_empty_is_left_out() {
    for version in Version::ALL {
        let dns = if version < Version::V1_0_0 { r#","dns":{}"# } else { "" };
        assert_eq!(
            Success::default().to_json(version).to_string(),
            format!(r#"{{"cniVersion":"{version}"{dns}}}"#)
        );
    }
    let interface = Interface { name: "tun0".to_owned(), ..Interface::default() };
    let success = Success { interfaces: vec![interface], ..Success::default() };
    assert_eq!(
        success.to_json(Version::V1_0_0).to_string(),
        r#"{"cniVersion":"1.0.0","interfaces":[{"name":"tun0"}]}"#
    );
}

/// What is left when a version has no room for the rest.
fn reduced(mut success: Success, version: Version) -> Success {
    if version < Version::V1_1_0 {
        success.interfaces.iter_mut().for_each(|interface| interface.mtu = None);
    }
    if version.has_one_address_per_family() {
        success.interfaces.clear();
        let (mut ips, mut routes) = (vec![], vec![]);
        for family in Family::ALL {
            let Some(ip) = success.ips.iter().find(|ip| ip.family() == family) else { continue };
            ips.push(Ip { interface: None, ..ip.clone() });
            routes.extend(success.routes.iter().filter(|r| r.dst.family() == family).cloned());
        }
        (success.ips, success.routes) = (ips, routes);
    }
    success
}

#[test]
fn every_shape_is_read() {
    for version in Version::ALL {
        let json = example().to_json(version);
        let expected = reduced(example(), version);
        assert_eq!(Success::from_json(&json).as_ref(), Ok(&expected), "{version}");
        // Plugins forget to say which version it is.
        let mut bare = json.clone();
        bare.as_object_mut().unwrap().remove("cniVersion");
        assert_eq!(Success::from_json(&bare).as_ref(), Ok(&expected), "{version}");
    }
}

#[test]
fn results_of_address_management_are_read() {
    // What host-local 0.6 and 1.0 print.
    let old = json!({"cniVersion": "0.3.1", "ips": [
        {"version": "4", "interface": 0, "address": "10.1.0.5/16", "gateway": "10.1.0.1"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.9.8.7/16", "gw": "10.1.0.2"}], "dns": {}});
    let new = json!({"cniVersion": "1.0.0", "interfaces": null, "ips": [
        {"interface": -1, "address": "10.1.0.5/16", "gateway": "10.1.0.1"}],
        "routes": [{"dst": "0.0.0.0/0", "gw": ""}, {"dst": "10.9.0.0/16", "gw": "10.1.0.2"}],
        "dns": null, "unknown": 1});
    let expected = Success {
        ips: vec![Ip {
            address: (ip("10.1.0.5"), 16),
            gateway: Some(ip("10.1.0.1")),
            interface: None,
        }],
        routes: vec![
            Route { dst: "0.0.0.0/0".parse().unwrap(), gw: None },
            Route { dst: "10.9.0.0/16".parse().unwrap(), gw: Some(ip("10.1.0.2")) },
        ],
        ..Success::default()
    };
    assert_eq!(Success::from_json(&old).as_ref(), Ok(&expected));
    assert_eq!(Success::from_json(&new).as_ref(), Ok(&expected));
}

#[test]
fn what_cannot_be_is_named() {
    for (value, path) in [
        (json!(7), "result"),
        (json!({"cniVersion": "9.0.0"}), "cniVersion"),
        (json!({"ips": {}}), "ips"),
        (json!({"ips": [7]}), "ips[0]"),
        (json!({"ips": [null, {}]}), "ips[1].address"),
        (json!({"ips": [{"address": "10.0.0.1"}]}), "ips[0].address"),
        (json!({"ips": [{"address": "10.0.0.1/33"}]}), "ips[0].address"),
        (json!({"ips": [{"address": "10.0.0.1/8", "gateway": "x"}]}), "ips[0].gateway"),
        (json!({"ip4": {"ip": "fd80::1/128"}}), "ip4.ip"),
        (json!({"ip6": {"ip": "10.0.0.1/8"}}), "ip6.ip"),
        (json!({"ip4": []}), "ip4"),
        (json!({"routes": [{"dst": "x"}]}), "routes[0].dst"),
        (json!({"routes": [{}]}), "routes[0].dst"),
        (json!({"routes": [{"dst": "10.0.0.0/8", "gw": 7}]}), "routes[0].gw"),
        (json!({"interfaces": [{"name": 7}]}), "interfaces[0].name"),
        (json!({"dns": {"nameservers": "x"}}), "dns.nameservers"),
    ] {
        let path = match path {
            "result" => path.to_owned(),
            path => format!("result.{path}"),
        };
        assert_eq!(Success::from_json(&value).unwrap_err().path, path, "{value}");
    }
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from),]
}

fn prefix() -> impl Strategy<Value = (IpAddr, u8)> {
    (address(), any::<u8>()).prop_map(|(ip, len)| (ip, len % (Family::of(ip).host_len() + 1)))
}

prop_compose! {
    fn interface()(
        name in "[a-z0-9.]{1,15}", mac in "|[0-9a-f:]{17}",
        mtu in prop::option::of(1..=u32::MAX), sandbox in prop::option::of("[a-z/]{1,9}"),
    ) -> Interface {
        Interface { name, mac, mtu, sandbox }
    }
}

prop_compose! {
    fn success()(
        interfaces in prop::collection::vec(interface(), 0..3),
        ips in prop::collection::vec(
            (prefix(), prop::option::of(address()), prop::option::of(0..4usize)), 0..5),
        routes in prop::collection::vec((prefix(), prop::option::of(address())), 0..4),
        nameservers in prop::collection::vec(".{1,5}", 0..3),
        search in prop::collection::vec(".{1,5}", 0..3),
        domain in prop::option::of(".{1,5}"),
    ) -> Success {
        let ips = ips.into_iter().map(|(address, gateway, interface)| Ip {
            address,
            gateway,
            interface: interface.filter(|i| *i < interfaces.len()),
        });
        let routes = routes.into_iter().map(|((address, len), gw)| Route {
            dst: Cidr::new(address, len).unwrap(),
            gw,
        });
        Success {
            ips: ips.collect(),
            routes: routes.collect(),
            dns: Dns { nameservers, domain, search, options: vec![] },
            interfaces,
        }
    }
}

proptest! {
    #[test]
    fn what_is_printed_is_read_again(success in success(), version in 0..Version::ALL.len()) {
        let version = Version::ALL[version];
        let text = success.to_json(version).to_string();
        let read = Success::from_json(&serde_json::from_str(&text).unwrap());
        prop_assert_eq!(read, Ok(reduced(success, version)));
    }
}
