//! The sources together, the file's mistakes, the example file, and the replay of Felix's cases.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use calico_datastore::layout::{Decoded, v3};
use calico_datastore::model::{FelixConfiguration, Update};

use super::*;

fn felix<const N: usize>(parameters: [(&str, &str); N]) -> FelixConfiguration {
    let parameters = parameters.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
    FelixConfiguration { parameters }
}

fn ask(
    env: &Env,
    file: &str,
    node: Option<&FelixConfiguration>,
    global: Option<&FelixConfiguration>,
) -> Resolution {
    let file = FileConfig::parse(file).unwrap();
    resolve(&Sources { env, file: &file, node, global }, &Settings::default(), None)
}

#[test]
fn each_source_wins_over_those_below_it() {
    let name = "ReportingIntervalSecs";
    let env = Env::from([("FELIX_REPORTINGINTERVALSECS", "1")]);
    let none = Env::default();
    let file = "[felix]\nreporting_interval_secs = 2";
    let (node, global) = (felix([(name, "3")]), felix([(name, "4")]));
    for (env, file, node, global, seconds, source) in [
        (&env, file, Some(&node), Some(&global), 1, Some(Source::Environment)),
        (&none, file, Some(&node), Some(&global), 2, Some(Source::File)),
        (&none, "", Some(&node), Some(&global), 3, Some(Source::Node)),
        (&none, "", None, Some(&global), 4, Some(Source::Global)),
        (&none, "", None, None, 30, None),
    ] {
        let result = ask(env, file, node, global);
        assert_eq!(result.settings.reporting_interval, Duration::from_secs(seconds));
        assert_eq!(result.given.get(name).map(|(source, _)| *source), source);
        assert_eq!(result.problems, []);
    }
}

#[test]
fn none_is_zero_and_not_the_value_of_the_source_below() {
    let env = Env::from([("FELIX_ReportingIntervalSecs", "none")]);
    let global = felix([("ReportingIntervalSecs", "10")]);
    assert!(ask(&env, "", None, Some(&global)).settings.reporting_interval.is_zero());
}

#[test]
fn a_cluster_that_calico_node_initialised_gets_no_status_keys_of_hosts() {
    let key = v3::keys::felix_configuration_default();
    let value =
        br#"{"spec":{"bpfLogLevel":"","logSeverityScreen":"Info","reportingInterval":"0s"}}"#;
    let Decoded::Object(Update::FelixConfiguration(_, Some(global))) = v3::decode(&key, value)
    else {
        panic!("not a FelixConfiguration");
    };
    let resolution = ask(&Env::default(), "", None, Some(&global));
    assert!(resolution.settings.reporting_interval.is_zero());
    // A host may still report by itself, and a cluster where nobody said anything does.
    let own = Env::from([("FELIX_REPORTINGINTERVALSECS", "15")]);
    let own = ask(&own, "", None, Some(&global)).settings.reporting_interval;
    assert_eq!(own, Duration::from_secs(15));
    assert_eq!(Settings::default().reporting_interval, Duration::from_secs(30));
}

#[test]
fn a_time_without_end_does_not_stop_the_agent() {
    let global = felix([("ReportingIntervalSecs", "10000000000000000000")]);
    let result = ask(&Env::default(), "", None, Some(&global));
    assert_eq!(result.problems.len(), 1, "{:?}", result.problems);
    assert_eq!(result.settings, Settings::default());
}

#[test]
fn a_bad_value_falls_to_the_next_source_with_a_problem() {
    let env = Env::from([("FELIX_MAXIPSETSIZE", "many")]);
    let (node, global) = (felix([("MaxIpsetSize", "-1")]), felix([("MaxIpsetSize", "500")]));
    let result = ask(&env, "", Some(&node), Some(&global));
    assert_eq!(result.settings.max_ipset_size, 500);
    let messages: Vec<_> = result.problems.iter().map(|p| p.message.as_str()).collect();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(messages[0].contains("\"many\"") && messages[0].contains("the environment"));
    assert!(messages[1].contains("\"-1\"") && messages[1].contains("of this node"));
}

#[test]
fn a_bad_value_that_could_open_the_host_leaves_the_last_good_one_in_force() {
    let name = "DefaultEndpointToHostAction";
    let (good, bad) = (felix([(name, "Return")]), felix([(name, "Retrun")]));
    let global = felix([(name, "Accept")]);
    let (env, file) = (Env::default(), FileConfig::default());
    let defaults = Settings::default();
    let ask = |node, last: Option<&Resolution>| {
        resolve(
            &Sources { env: &env, file: &file, node: Some(node), global: Some(&global) },
            &defaults,
            last,
        )
    };
    // At the start the default holds: not the looser Accept below.
    let first = ask(&bad, None);
    assert_eq!(first.settings.endpoint_to_host, HostAction::Drop);
    assert_eq!(first.problems.len(), 1);
    // Later the last good one does, however often it is asked.
    let second = ask(&good, Some(&first));
    assert_eq!(second.settings.endpoint_to_host, HostAction::Return);
    let third = ask(&bad, Some(&second));
    let fourth = ask(&bad, Some(&third));
    for result in [third, fourth] {
        assert_eq!(result.settings.endpoint_to_host, HostAction::Return);
        assert_eq!(result.problems.len(), 1);
        assert!(result.problems[0].message.contains("last good"), "{:?}", result.problems);
    }
}

#[test]
fn unknown_and_local_names_in_the_datastore_have_no_effect() {
    let global = felix([
        ("EtcdEndpoints", "http://elsewhere:1"),
        ("FelixHostname", "other"),
        ("VXLANVNI", "1"),
        ("NoSuchThing", "1"),
        ("Ipv6Support", ""),
    ]);
    let env = Env::from([("FELIX_NOPE", "1"), ("FELIX_ETCDADDR", "a:1"), ("PATH", "/bin")]);
    let result = ask(&env, "", None, Some(&global));
    assert_eq!(result.settings, Settings::default());
    assert_eq!(result.problems, []);
    let names: Vec<_> = result.ignored.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["NOPE", "EtcdEndpoints", "FelixHostname", "NoSuchThing", "VXLANVNI"]);
}

#[test]
fn a_setting_that_is_gone_falls_back_without_a_restart() {
    let env = Env::default();
    let file = FileConfig::default();
    let global = felix([("Ipv6Support", "false")]);
    let defaults =
        Settings { endpoint_status_prefix: Some("/somewhere".into()), ..Settings::default() };
    let sources = Sources { env: &env, file: &file, node: None, global: Some(&global) };
    let first = resolve(&sources, &defaults, None);
    assert!(!first.settings.ipv6);
    let second = resolve(&Sources { global: None, ..sources }, &defaults, Some(&first));
    assert_eq!(second.settings, defaults);
}

#[test]
fn the_file_takes_names_in_any_spelling_and_values_of_any_type() {
    let file = "
        [felix]
        IPV6SUPPORT = false
        InterfacePrefix = ['cali', 'tap']
        iptables_mark_mask = 0xff00_0000
        iptables_post_write_check_interval_secs = 1.5
        ipsets_refresh_interval = '1m30s'
        defaultEndpointToHostAction = 'RETURN'
    ";
    let settings = ask(&Env::default(), file, None, None).settings;
    let expected = Settings {
        ipv6: false,
        interface_prefixes: vec!["cali".to_owned(), "tap".to_owned()],
        mark_mask: 0xff00_0000,
        iptables_post_write_check: Duration::from_millis(1500),
        ipsets_refresh: Duration::from_secs(90),
        endpoint_to_host: HostAction::Return,
        ..Settings::default()
    };
    assert_eq!(settings, expected);
}

#[test]
fn what_has_no_mistake_can_be_had_all_the_same() {
    let text = "[felix]\nnonsense = 1\ndevice_route_protocol = 77\ninterface_prefix = \"\"\n";
    let (file, mistakes) = FileConfig::parse_as_far(text);
    assert_eq!(file.felix, BTreeMap::from([("DeviceRouteProtocol", "77".to_owned())]));
    assert_eq!(mistakes.iter().map(|mistake| mistake.line).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(FileConfig::parse(text).unwrap_err(), mistakes);
}

#[test]
fn every_mistake_of_the_file_is_reported_with_its_place() {
    let text = "\
colour = 1
default_endpoint_to_host_action = 'Drop'
[datastor]
[node]
  nme = 'x'
ip = { a = 1 }
[felix]
ipv6_suport = true
reporting_interval_secs = -1
default_endpoint_to_host_action = 'Retrun'
VXLANVNI = 1
DefaultEndpointToHostAction = 'Drop'
default_endpoint_to_hostaction = 'Drop'
log_prefix = ''
";
    let mistakes = FileConfig::parse(text).unwrap_err();
    let shown: Vec<_> =
        mistakes.iter().map(|m| format!("{}:{}: {}", m.line, m.column, m.message)).collect();
    let expected = [
        "1:1: unknown key `colour`",
        "2:1: unknown key `default_endpoint_to_host_action`; it belongs into the section [felix]",
        "3:2: unknown section `datastor`, did you mean `datastore`?",
        "5:3: unknown key `nme` in [node], did you mean `name`?",
        "6:6: `ip` cannot be a value of type table",
        "8:1: unknown key `ipv6_suport` in [felix], did you mean `ipv6_support`?",
        "9:27: `reporting_interval_secs` is \"-1\": it takes seconds (90, 1.5) or a time with a \
         unit (1m30s), at most 1000000000 s, or none (= 0)",
        "10:35: `default_endpoint_to_host_action` is \"Retrun\": it takes Drop, Return or Accept",
        "11:1: unknown key `VXLANVNI` in [felix]: Felix knows it, this agent does not (overlays \
         are not programmed yet)",
        "13:1: `default_endpoint_to_hostaction` sets DefaultEndpointToHostAction again",
        "14:14: `log_prefix` is empty: leave the line out to set nothing",
    ];
    assert_eq!(shown, expected);
}

#[test]
fn a_file_that_is_no_toml_names_the_line_and_a_missing_one_says_nothing() {
    let mistakes = FileConfig::parse("[node]\nname = calico-01\n").unwrap_err();
    assert_eq!(mistakes.first().map(|m| m.line), Some(2), "{mistakes:?}");
    assert!(FileConfig::parse("[node]\nip='a'\nip='b'\n").is_err());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    assert_eq!(FileConfig::load(&path).unwrap(), FileConfig::default());
    std::fs::write(&path, "[felix]\nnope = 1\n").unwrap();
    let error = FileConfig::load(&path).unwrap_err().to_string();
    assert_eq!(error, format!("{}:2:1: unknown key `nope` in [felix]", path.display()));
    assert!(matches!(FileConfig::load(dir.path()), Err(FileError::Read { .. })));
}

/// What `packaging/agent.toml.example` must say, from the tables.
fn example() -> String {
    let mut text = "\
# Configuration of calico-agent: copy to /etc/calico/agent.toml and uncomment what you change.
# What the environment says (/etc/calico/calico.env: ETCD_ENDPOINTS, NODENAME, IP, FELIX_...) goes
# before this file; this file goes before FelixConfiguration objects in the datastore.
# An unknown key or a bad value is an error: `journalctl -u calico-agent` shows its line.
# Generated from the agent's own table of parameters; do not edit.

[datastore]
"
    .to_owned();
    let keys = |text: &mut String, keys: &[(&str, &str)], sample: fn(&str) -> &'static str| {
        for (key, doc) in keys {
            *text += &format!("# {doc}\n#{key} = {}\n", sample(key));
        }
    };
    keys(&mut text, DATASTORE_KEYS, |key| match key {
        "type" => "\"etcd\"",
        "directory" => "\"/etc/calico/resources\"",
        "endpoints" => "[\"http://127.0.0.1:2379\"]",
        "ca_cert_file" => "\"/etc/calico/certs/ca.pem\"",
        "cert_file" => "\"/etc/calico/certs/cert.pem\"",
        "key_file" => "\"/etc/calico/certs/key.pem\"",
        "username" => "\"calico\"",
        _ => "\"secret\"",
    });
    text += "\n[node]\n";
    keys(&mut text, NODE_KEYS, |key| match key {
        "name" => "\"calico-01\"",
        "ip" => "\"172.18.18.101/24\"",
        "ip6" => "\"fd00:172:18:18::101/64\"",
        _ => "64512",
    });
    text += "\n[collector]\n";
    keys(&mut text, COLLECTOR_KEYS, |key| match key {
        "interval" => "60",
        "grace" => "120",
        _ => "\"/var/lib/rkt\"",
    });
    text += "\n[felix]\n";
    for param in PARAMS {
        for line in wrap(param.doc, 96) {
            text += &format!("# {line}\n");
        }
        for line in wrap(&format!("{}: {}.", param.name, param.allowed()), 96) {
            text += &format!("# {line}\n");
        }
        let bare = matches!(
            param.kind,
            Kind::Bool(_)
                | Kind::Seconds(_)
                | Kind::Count(_)
                | Kind::Port(_)
                | Kind::PacketRate(_)
                | Kind::LogGroup(_)
        ) || matches!(param.kind, Kind::RouteProtocol(_) | Kind::MarkMask(_));
        // An empty text is refused: what has no default shows how a value looks.
        let shown = match param.name {
            "CalicoVersion" => "3.29",
            "DeviceRouteSourceAddress" | "NATOutgoingAddress" => "172.18.18.101",
            "DeviceRouteSourceAddressIPv6" => "fd00:172:18:18::101",
            "IptablesNATOutgoingInterfaceFilter" => "eth0",
            "NATPortRange" => "32768:60999",
            _ => param.default,
        };
        let value = if bare { shown.to_owned() } else { format!("\"{shown}\"") };
        text += &format!("#{} = {value}\n\n", param.snake_case());
    }
    text.truncate(text.len() - 1);
    text
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let full = lines.last().is_some_and(|l| !l.is_empty() && l.len() + 1 + word.len() > width);
        if full {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// `UPDATE_EXAMPLE=1` writes the file anew.
#[test]
fn the_example_file_lists_exactly_the_table() {
    let path =
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/agent.toml.example"));
    if std::env::var_os("UPDATE_EXAMPLE").is_some() {
        std::fs::write(&path, example()).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, example(), "run the test with UPDATE_EXAMPLE=1");
    // As it is it says nothing; with everything uncommented it says the defaults,
    // and samples of what has none.
    assert_eq!(FileConfig::parse(&text).unwrap(), FileConfig::default());
    let mut uncommented = String::new();
    for line in text.lines() {
        let line = line.strip_prefix('#').filter(|l| !l.starts_with(' ')).unwrap_or(line);
        uncommented += line;
        uncommented.push('\n');
    }
    let file = FileConfig::parse(&uncommented).unwrap();
    let env = Env::default();
    let sources = Sources { env: &env, file: &file, node: None, global: None };
    let settings = resolve(&sources, &Settings::default(), None).settings;
    let address = Some("172.18.18.101".parse().unwrap());
    let expected = Settings {
        endpoint_status_prefix: Some("/run/calico".into()),
        route_source: address,
        calico_version: Some("3.29".parse().unwrap()),
        route_source_v6: Some("fd00:172:18:18::101".parse().unwrap()),
        nat_outgoing_addresses: address.into_iter().collect(),
        nat_port_range: calico_datastore::model::PortRange::new(32_768, 60_999),
        nat_outgoing_interface: Some("eth0".to_owned()),
        ..Settings::default()
    };
    assert_eq!(settings, expected);
    assert_eq!(file.datastore.len(), DATASTORE_KEYS.len());
    assert_eq!(file.node.len(), NODE_KEYS.len());
    assert_eq!(file.collector.len(), COLLECTOR_KEYS.len());
    let local = Local::resolve(&Flags::default(), &env, &FileConfig::default()).unwrap();
    assert_eq!(CollectorConfig::resolve(&file), Ok(local.collector));
}

mod reference;
mod replay;

/// Every name that the original knows and that the replay skips, with its reason.
fn skipped_names(names: &[&str]) -> BTreeMap<String, &'static str> {
    names
        .iter()
        .map(|name| {
            let reason = why_unsupported(name);
            ((*name).to_owned(), reason.unwrap_or_else(|| panic!("{name}: no reason given")))
        })
        .collect()
}
