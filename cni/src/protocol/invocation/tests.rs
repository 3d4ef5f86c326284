use std::os::unix::ffi::OsStringExt as _;

use proptest::prelude::*;

use super::*;
use crate::protocol::conf::Overlooked;

const ID: &str = "c89f2f35-1b7e-4a57-9d6c-0f8e2b6a4d11";
const RKT: &str = r#"{"name":"network1","type":"calico","ipam":{"type":"calico-ipam"}}"#;

/// A whole call; each test changes what it is about.
fn call(command: &str) -> Vec<(&'static str, OsString)> {
    [
        (COMMAND, command),
        (CONTAINER_ID, ID),
        (NETNS, "/var/run/netns/cni-c89f2f35"),
        (IFNAME, "eth0"),
        (ARGS, ""),
        (PATH, "/etc/rkt/net.d:/usr/lib/rkt/plugins/net:stage1/rootfs/usr/lib/rkt/plugins/net"),
    ]
    .map(|(name, value)| (name, OsString::from(value)))
    .to_vec()
}

fn with(command: &str, changes: &[(&'static str, &str)]) -> Vec<(&'static str, OsString)> {
    let mut env = call(command);
    for (name, value) in changes {
        env.retain(|(other, _)| other != name);
        env.push((name, OsString::from(value)));
    }
    env
}

fn read(env: &[(&str, OsString)], stdin: &str) -> Result<Invocation, CniError> {
    Invocation::read(
        &|name| env.iter().find(|(other, _)| *other == name).map(|(_, value)| value.clone()),
        stdin.as_bytes(),
    )
}

#[test]
fn rkts_call_is_understood() {
    let env = with("ADD", &[(ARGS, "IP=10.200.0.12;K8S_POD_NAME=foo")]);
    let invocation = read(&env, RKT).unwrap();
    assert_eq!(invocation.command, Command::Add);
    assert_eq!(invocation.container_id, ID);
    assert_eq!(invocation.netns, Some(PathBuf::from("/var/run/netns/cni-c89f2f35")));
    assert_eq!(invocation.ifname, "eth0");
    assert_eq!(invocation.requested_ips(), ["10.200.0.12".parse::<IpAddr>().unwrap()]);
    assert_eq!(invocation.path.len(), 3);
    assert!(invocation.path[2].is_relative());
    assert_eq!(invocation.stdin, RKT.as_bytes());
    assert_eq!(invocation.conf.name, "network1");
    assert_eq!(invocation.conf.version, Version::V0_1_0);
    assert!(invocation.conf.says_host_as_gateway());
}

#[test]
fn all_missing_variables_are_named_together() {
    let id_and_name = "CNI_CONTAINERID, CNI_IFNAME are missing";
    let all = "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME are missing";
    for (command, msg) in [("ADD", all), ("CHECK", all), ("DEL", id_and_name)] {
        let absent = [(COMMAND, OsString::from(command))];
        let empty = with(command, &[(CONTAINER_ID, ""), (NETNS, ""), (IFNAME, "")]);
        for env in [&absent[..], &empty] {
            let error = read(env, RKT).unwrap_err();
            assert_eq!((error.code, error.msg.as_str()), (4, msg), "{command}");
            assert_eq!(error.details, format!("{command} needs them"));
        }
    }
    let error = read(&with("ADD", &[(NETNS, "")]), RKT).unwrap_err();
    assert_eq!((error.code, error.msg.as_str()), (4, "CNI_NETNS is missing"));
    let error = read(&[], RKT).unwrap_err();
    assert_eq!((error.code, error.msg.as_str()), (4, "CNI_COMMAND is missing"));
}

#[test]
fn del_works_when_the_namespace_is_gone() {
    let mut env = call("DEL");
    env.retain(|(name, _)| *name != NETNS);
    assert_eq!(read(&env, RKT).unwrap().netns, None);
    assert_eq!(read(&with("DEL", &[(NETNS, "")]), RKT).unwrap().netns, None);
}

#[test]
fn del_overlooks_arguments_that_cannot_be_read() {
    assert_eq!(read(&with("DEL", &[(ARGS, "IP=x")]), RKT).unwrap().args, Args::default());
    let error = read(&with("ADD", &[(ARGS, "IP=x")]), RKT).unwrap_err();
    assert_eq!((error.code, error.msg.as_str()), (4, "CNI_ARGS: \"x\" is not an address"));
}

#[test]
fn del_overlooks_fields_that_it_does_not_need() {
    for wrong in [
        r#""mtu":"wide""#,
        r#""ipam":{"type":"calico-ipam","subnet":"x"}"#,
        r#""ipam":[]"#,
        r#""ipam":{"type":"calico"}"#,
        r#""gateway":5"#,
        r#""labels":7"#,
        r#""runtimeConfig":{"portMappings":5}"#,
        r#""runtimeConfig":{"mac":"x"}"#,
        r#""args":[]"#,
        r#""nodename":5"#,
    ] {
        let stdin =
            format!(r#"{{"name":"n","state_dir":"/s","etcd_endpoints":"http://h:1",{wrong}}}"#);
        let error = read(&call("ADD"), &stdin).unwrap_err();
        assert_eq!(error.code, 7, "{wrong}");
        let conf = read(&call("DEL"), &stdin).unwrap().conf;
        assert_eq!((&*conf.name, conf.state_dir), ("n", Some("/s".into())), "{wrong}");
        assert_eq!(conf.etcd_endpoints, ["http://h:1"], "{wrong}");
        assert!(!conf.ipam.is_delegated(), "{wrong}");
        assert_eq!(conf.overlooked, Overlooked::default(), "{wrong}");
    }
    for (stdin, code) in [("", 6), ("{", 6), ("[]", 6), (r#"{"name":"n","cniVersion":"9"}"#, 1)] {
        assert_eq!(read(&call("DEL"), stdin).unwrap_err().code, code, "{stdin:?}");
    }
}

#[test]
fn del_knows_what_it_does_not_know() {
    let of = |stdin: &str| read(&call("DEL"), stdin).unwrap().conf;
    for name in [r#""name":"","#, r#""name":"a/b","#, r#""name":5,"#, ""] {
        let stdin = format!(r#"{{{name}"nodename":"h","ipam":{{"type":"host-local"}}}}"#);
        let refused = read(&call("ADD"), &stdin).unwrap_err();
        let conf = of(&stdin);
        assert_eq!((&*conf.name, conf.nodename.as_deref()), ("", Some("h")), "{name}");
        assert_eq!(conf.ipam.kind, "host-local", "{name}");
        assert_eq!(conf.overlooked, Overlooked { name: Some(refused), datastore: None }, "{name}");
    }
    for wrong in [
        r#""etcd_endpoints":"h:1""#,
        r#""datastore":"sqlite""#,
        r#""datastore_type":"kubernetes""#,
        r#""etcd_discovery_srv":"x""#,
        r#""etcd_password":5"#,
    ] {
        let stdin = format!(r#"{{"name":"n",{wrong}}}"#);
        let refused = read(&call("ADD"), &stdin).unwrap_err();
        let conf = of(&stdin);
        assert_eq!(conf.name, "n", "{wrong}");
        let expected = Overlooked { name: None, datastore: Some(refused) };
        assert_eq!(conf.overlooked, expected, "{wrong}");
    }
}

#[test]
fn commands_that_nobody_knows_are_refused() {
    for word in ["add", "UPDATE", "ADD ", "-"] {
        let error = read(&with(word, &[]), RKT).unwrap_err();
        assert_eq!((error.code, error.msg.as_str()), (4, "CNI_COMMAND is not valid"), "{word}");
        assert_eq!(
            error.details,
            format!("CNI_COMMAND: {word:?} is none of ADD, DEL, CHECK, VERSION, GC, STATUS")
        );
    }
}

#[test]
fn names_are_checked() {
    for id in ["a", "A.b_c-d", "0", ID] {
        assert!(read(&with("ADD", &[(CONTAINER_ID, id)]), RKT).is_ok(), "{id:?}");
    }
    for id in ["-a", ".a", "_a", "a b", "a/b", "a:b", "ä", "a\n"] {
        let error = read(&with("ADD", &[(CONTAINER_ID, id)]), RKT).unwrap_err();
        assert_eq!((error.code, error.msg.as_str()), (4, "CNI_CONTAINERID is not valid"), "{id:?}");
        assert!(error.details.contains(&format!("{id:?}")), "{}", error.details);
    }
    for name in ["e", "eth0.1", "abcdefghijklmno", "..."] {
        assert!(read(&with("ADD", &[(IFNAME, name)]), RKT).is_ok(), "{name:?}");
    }
    for name in [".", "..", "a/b", "a b", "a\tb", "a:b", "abcdefghijklmnop"] {
        let error = read(&with("ADD", &[(IFNAME, name)]), RKT).unwrap_err();
        assert_eq!((error.code, error.msg.as_str()), (4, "CNI_IFNAME is not valid"), "{name:?}");
        assert!(error.details.contains(&format!("{name:?}")), "{}", error.details);
    }
    let error = read(&with("DEL", &[(CONTAINER_ID, "/"), (IFNAME, "/")]), RKT).unwrap_err();
    assert_eq!((error.code, error.msg.as_str()), (4, "CNI_CONTAINERID, CNI_IFNAME are not valid"));
}

#[test]
fn bytes_that_are_no_text_are_refused_where_they_are_needed() {
    for name in [COMMAND, CONTAINER_ID, NETNS, IFNAME, ARGS] {
        let mut env = call("ADD");
        env.retain(|(other, _)| *other != name);
        env.push((name, OsString::from_vec(b"a\xff".to_vec())));
        let error = read(&env, RKT).unwrap_err();
        assert_eq!((error.code, error.msg), (4, format!("{name} is not valid")));
        assert!(error.details.contains("is not UTF-8"), "{}", error.details);
        env[0] = (COMMAND, OsString::from("VERSION"));
        assert!(name == COMMAND || read(&env, RKT).is_ok(), "{name}");
    }
}

#[test]
fn version_needs_nothing_and_echoes_what_was_asked() {
    let env = [(COMMAND, OsString::from("VERSION"))];
    for (stdin, version) in [
        (r#"{"cniVersion":"0.2.0"}"#, "0.2.0"),
        (r#"{"cniVersion":"7.0.0"}"#, "7.0.0"),
        (r#"{"cniVersion":""}"#, "1.1.0"),
        ("{}", "1.1.0"),
        ("", "1.1.0"),
        ("no JSON", "1.1.0"),
    ] {
        let answer = read(&env, stdin).unwrap().version_answer();
        assert_eq!(
            answer.to_string(),
            format!(
                r#"{{"cniVersion":"{version}","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}}"#
            ),
            "{stdin}"
        );
    }
}

#[test]
fn commands_exist_from_a_version_on() {
    let previous = r#""prevResult":{"ips":[{"address":"10.0.0.1/32"}]}"#;
    let attachments = r#""cni.dev/valid-attachments":[]"#;
    for (command, first) in [
        ("ADD", Version::V0_1_0),
        ("DEL", Version::V0_1_0),
        ("CHECK", Version::V0_4_0),
        ("GC", Version::V1_1_0),
        ("STATUS", Version::V1_1_0),
    ] {
        for version in Version::ALL {
            let stdin =
                format!(r#"{{"cniVersion":"{version}","name":"n",{previous},{attachments}}}"#);
            match read(&call(command), &stdin) {
                Ok(_) => assert!(version >= first, "{command} {version}"),
                Err(error) => {
                    assert!(version < first, "{command} {version}: {error}");
                    assert_eq!(error.code, 1);
                    assert_eq!(error.msg, format!("cniVersion {version} has no {command}"));
                    assert_eq!(error.details, format!("{command} came with {first}"));
                }
            }
        }
    }
}

#[test]
fn gc_and_status_need_no_container() {
    for (command, extra) in [("GC", r#","cni.dev/attachments":null"#), ("STATUS", "")] {
        let env = [(COMMAND, OsString::from(command))];
        let stdin = format!(r#"{{"cniVersion":"1.1.0","name":"n"{extra}}}"#);
        let invocation = read(&env, &stdin).unwrap();
        assert!(invocation.path.is_empty() && invocation.container_id.is_empty());
    }
}

#[test]
fn gc_without_a_list_removes_nothing() {
    let error = read(&call("GC"), r#"{"cniVersion":"1.1.0","name":"n"}"#).unwrap_err();
    assert_eq!((error.code, error.msg.as_str()), (7, "\"cni.dev/valid-attachments\" is missing"));
}

#[test]
fn check_needs_the_result_of_add() {
    let conf = |previous: &str| format!(r#"{{"cniVersion":"1.0.0","name":"n"{previous}}}"#);
    for previous in ["", r#","prevResult":null"#] {
        let error = read(&call("CHECK"), &conf(previous)).unwrap_err();
        assert_eq!((error.code, error.msg.as_str()), (7, "\"prevResult\" is missing"));
    }
    let bad = conf(r#","prevResult":{"ips":[{"address":"10.0.0.1"}]}"#);
    let error = read(&call("CHECK"), &bad).unwrap_err();
    assert_eq!(
        (error.code, error.msg.as_str(), error.details.as_str()),
        (
            7,
            "\"prevResult.ips[0].address\" is not an address with its length",
            "it is \"10.0.0.1\""
        )
    );
    // Where it is not needed it does not disturb.
    for command in ["ADD", "DEL"] {
        assert_eq!(read(&call(command), &bad).unwrap().conf.previous, None);
    }
    let good = conf(r#","prevResult":{"ips":[{"address":"10.0.0.1/32"}]}"#);
    let previous = read(&call("CHECK"), &good).unwrap().conf.previous.unwrap();
    assert_eq!(previous.ips[0].address, ("10.0.0.1".parse().unwrap(), 32));
}

#[test]
fn the_configuration_goes_before_the_arguments() {
    let stdin = r#"{"name":"n","labels":{"role":"web","zone":"a"},
        "args":{"cni":{"labels":[{"key":"role","value":"db"},{"key":"app","value":"x"}],
                       "ips":["10.0.0.7/24"]}}}"#;
    let env = with("ADD", &[(ARGS, "IP=10.0.0.8;label.role=proxy;label.app=y;label.team=net")]);
    let invocation = read(&env, stdin).unwrap();
    assert_eq!(invocation.requested_ips(), ["10.0.0.7".parse::<IpAddr>().unwrap()]);
    let labels = invocation.labels();
    let labels: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(labels, ["app=x", "role=web", "team=net", "zone=a"]);
}

#[test]
fn secrets_are_not_printed() {
    let stdin = r#"{"name":"n","etcd_username":"u","etcd_password":"hunter2"}"#;
    let invocation = read(&call("ADD"), stdin).unwrap();
    assert_eq!(invocation.conf.etcd_password.as_deref(), Some("hunter2"));
    let bytes = format!("{:?}", b"hunter2");
    let text = format!("{invocation:?}");
    assert!(!text.contains("hunter2") && !text.contains(&bytes[1..bytes.len() - 1]), "{text}");
    let error = read(&call("ADD"), r#"{"name":"n","etcd_password":["hunter2"]}"#).unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

/// Words that lead somewhere, between those that do not.
fn word() -> impl Strategy<Value = OsString> {
    prop_oneof![
        any::<Vec<u8>>().prop_map(OsString::from_vec),
        any::<String>().prop_map(OsString::from),
        prop_oneof![
            "ADD|DEL|CHECK|VERSION|GC|STATUS",
            "[a-z0-9:/.;=,]{0,20}",
            "IP=[0-9a-f.:/,]{0,20}"
        ]
        .prop_map(OsString::from),
    ]
}

fn stdin() -> impl Strategy<Value = Vec<u8>> {
    let key = "cniVersion|name|type|mtu|labels|args|ipam|dns|ips|runtimeConfig|prevResult|routes|\
               etcd_endpoints|policy_setup_timeout_seconds|cni\\.dev/attachments|address|interfaces";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9./:,]{0,8}".prop_map(Value::from),
        "0\\.[1-4]\\.0|1\\.[01]\\.0|10\\.0\\.0\\.[0-9]/[0-9]{2}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    prop_oneof![
        any::<Vec<u8>>(),
        value.clone().prop_map(|value| value.to_string().into_bytes()),
        value.prop_map(|mut value| {
            if let Some(map) = value.as_object_mut() {
                map.insert("name".to_owned(), json!("n"));
                map.insert("cniVersion".to_owned(), json!("1.1.0"));
            }
            value.to_string().into_bytes()
        }),
    ]
}

proptest! {
    #[test]
    fn whatever_comes_is_answered(
        command in "ADD|DEL|CHECK|VERSION|GC|STATUS|.{0,5}",
        words in prop::collection::vec(prop::option::of(word()), 5),
        stdin in stdin(),
    ) {
        let names = [CONTAINER_ID, NETNS, IFNAME, ARGS, PATH];
        let env = |name: &str| match names.iter().position(|other| *other == name) {
            None => Some(OsString::from(&command)),
            Some(i) => words[i].clone(),
        };
        match Invocation::read(&env, &stdin) {
            Ok(invocation) => {
                prop_assert_eq!(&invocation.stdin, &stdin);
                let attaches = matches!(
                    invocation.command,
                    Command::Add | Command::Del | Command::Check
                );
                prop_assert!(!attaches || is_identifier(&invocation.container_id));
            }
            Err(error) => {
                prop_assert!(matches!(error.code, 1 | 2 | 4 | 6 | 7), "{}", error);
                prop_assert!(!error.msg.is_empty());
            }
        }
    }

    #[test]
    fn a_right_environment_leads_to_the_configuration(stdin in stdin()) {
        let env = call("ADD");
        let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone());
        let read = Invocation::read(&env, &stdin);
        prop_assert_eq!(read.map(|i| i.conf).map_err(|e| e.code), NetConf::parse(&stdin).map_err(|e| e.code));
    }
}
