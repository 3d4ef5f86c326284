//! Felix's own cases of parameters, `cases/felix-config.json`, for the names that we support.

use calico_datastore::location::Choice;
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::super::*;

fn cases() -> Option<Value> {
    let Some(shared) = std::env::var_os("CALICO_SHARED") else {
        println!("skipped: CALICO_SHARED is not set");
        return None;
    };
    let path = PathBuf::from(shared).join("cases/felix-config.json");
    Some(serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
}

/// A setting in the words of the cases.
fn shown(name: &str, s: &Settings) -> Value {
    let seconds = |d: std::time::Duration| serde_json::json!({"seconds": d.as_secs_f64()});
    match name {
        "InterfacePrefix" => s.interface_prefixes.join(",").into(),
        "ChainInsertMode" => format!("{:?}", s.insert_mode).to_lowercase().into(),
        "IptablesPostWriteCheckIntervalSecs" => seconds(s.iptables_post_write_check),
        "DefaultEndpointToHostAction" => format!("{:?}", s.endpoint_to_host).to_uppercase().into(),
        "IptablesFilterAllowAction" => format!("{:?}", s.filter_allow).to_uppercase().into(),
        "IptablesFilterDenyAction" => format!("{:?}", s.filter_deny).to_uppercase().into(),
        "IptablesMangleAllowAction" => format!("{:?}", s.mangle_allow).to_uppercase().into(),
        "FailsafeInboundHostPorts" => failsafes(&s.failsafe_inbound),
        "FailsafeOutboundHostPorts" => failsafes(&s.failsafe_outbound),
        "InterfaceExclude" => {
            // A hyphen needs no escape, and means the same with one.
            let shown = |one: &InterfacePattern| serde_json::json!({"regex": one.as_str().replace("\\-", "-")});
            s.interface_exclude.iter().map(shown).collect()
        }
        // Felix names levels by its own words, we by those of `tracing`; FATAL is our error.
        "LogSeverityScreen" => s.log_level.to_uppercase().into(),
        "ReportingIntervalSecs" => seconds(s.reporting_interval),
        "ReportingTTLSecs" => seconds(s.reporting_ttl),
        "EndpointReportingEnabled" => s.endpoint_reporting.into(),
        "EndpointReportingDelaySecs" => seconds(s.endpoint_reporting_delay),
        "MaxIpsetSize" => s.max_ipset_size.into(),
        "IptablesMarkMask" => s.mark_mask.into(),
        "IptablesNATOutgoingInterfaceFilter" => {
            s.nat_outgoing_interface.clone().unwrap_or_default().into()
        }
        "EndpointStatusPathPrefix" => {
            s.endpoint_status_prefix.as_ref().map_or("", |p| p.to_str().unwrap()).into()
        }
        other => panic!("the replay does not know how to show {other}"),
    }
}

/// A list of none is no list there.
fn failsafes(all: &[Failsafe]) -> Value {
    let shown = |one: &Failsafe| {
        let protocol = one.protocol.to_string();
        let mut shown = serde_json::json!({"Port": one.port, "Protocol": protocol});
        if let Some(net) = one.net {
            shown["Net"] = net.to_string().into();
        }
        shown
    };
    if all.is_empty() { Value::Null } else { all.iter().map(shown).collect() }
}

/// Of the local parameters: what Felix would show.
fn shown_local(name: &str, local: &Local) -> Option<Value> {
    let slashed = |url: &String| Value::from(format!("{url}/"));
    let Choice::Etcd3(etcd) = &local.datastore else { panic!() };
    let first = etcd.endpoints.first().unwrap();
    let (scheme, address) = first.split_once("://").unwrap();
    match name {
        "FelixHostname" => local.node.name.clone().map(Value::from),
        "EtcdAddr" => Some(address.into()),
        "EtcdScheme" => Some(scheme.into()),
        "EtcdEndpoints" => Some(etcd.endpoints.iter().map(slashed).collect()),
        _ => None,
    }
}

#[test]
fn parameters() {
    let Some(cases) = cases() else { return };
    let file = FileConfig::default();
    let defaults =
        Settings { endpoint_status_prefix: Some("/run/calico".into()), ..Settings::default() };
    let (mut run, mut skipped) = (0, BTreeMap::<&str, u32>::new());
    let all = cases["param_parse"].as_array().unwrap();
    for case in all {
        let (name, raw) = (case["param"].as_str().unwrap(), case["raw"].as_str().unwrap());
        let mut env = vec![(format!("FELIX_{}", name.to_uppercase()), raw.to_owned())];
        if name == "EtcdScheme" {
            // Alone it has nothing to be the scheme of.
            env.push(("FELIX_ETCDADDR".to_owned(), "127.0.0.1:2379".to_owned()));
        }
        let env: Env = env.into_iter().collect();
        let actual = if let Some(param) = Param::find(name) {
            let sources = Sources { env: &env, file: &file, node: None, global: None };
            let result = resolve(&sources, &defaults, None);
            assert!(!case["error"].as_bool().unwrap() || !result.problems.is_empty(), "{case}");
            shown(param.name, &result.settings)
        } else {
            let local = Local::resolve(&Flags::default(), &env, &file).unwrap();
            let Some(actual) = shown_local(name, &local) else {
                *skipped.entry(name).or_default() += 1;
                continue;
            };
            actual
        };
        let expected = match case["parsed"].as_str() {
            // The original's /var/run is a link to /run.
            Some("/var/run/calico") => "/run/calico".into(),
            Some("WARNING") => "WARN".into(),
            Some("FATAL") => "ERROR".into(),
            _ => case["parsed"].clone(),
        };
        assert_eq!(actual, expected, "{case}");
        run += 1;
    }
    let names: Vec<_> = skipped.keys().copied().collect();
    let expected = [
        "BPFForceTrackPacketsFromIfaces",
        "GoMaxProcs",
        "HealthEnabled",
        "HealthHost",
        "HealthPort",
        "HealthTimeoutOverrides",
        "IpInIpEnabled",
        "IpInIpMtu",
        "IpInIpTunnelAddr",
        "IptablesLockProbeIntervalMillis",
        "KubeNodePortRanges",
        "LogDebugFilenameRegex",
        "LogFilePath",
        "LogSeverityFile",
        "LogSeveritySys",
        "NetlinkTimeoutSecs",
        "PrometheusGoMetricsEnabled",
        "PrometheusMetricsEnabled",
        "PrometheusMetricsHost",
        "PrometheusMetricsPort",
        "PrometheusProcessMetricsEnabled",
        "RequireMTUFile",
        "TyphaAddr",
        "TyphaK8sNamespace",
        "TyphaK8sServiceName",
    ];
    assert_eq!(names, expected);
    for (name, reason) in super::skipped_names(&names) {
        println!("skipped: {name}: {reason}");
    }
    assert_eq!((all.len(), run), (114, 60));
}

#[test]
fn environments() {
    let Some(cases) = cases() else { return };
    let all = cases["environment"].as_array().unwrap();
    for case in all {
        let entries = case["environ"].as_array().unwrap().iter();
        let env: Env = entries
            .filter_map(|entry| entry.as_str().unwrap().split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let felix: serde_json::Map<_, _> =
            env.felix().map(|(name, value)| (name.to_lowercase(), value.into())).collect();
        assert_eq!(Value::from(felix), case["parsed"], "{case}");
    }
    assert_eq!(all.len(), 3);
}

#[test]
fn lists_of_endpoints() {
    let Some(cases) = cases() else { return };
    let all = cases["endpoint_list"].as_array().unwrap();
    for case in all {
        let env = Env::from([("FELIX_ETCDENDPOINTS", case["raw"].as_str().unwrap())]);
        let local = Local::resolve(&Flags::default(), &env, &FileConfig::default()).unwrap();
        let Choice::Etcd3(etcd) = &local.datastore else { panic!() };
        let urls: Vec<_> = etcd.endpoints.iter().map(|url| format!("{url}/")).collect();
        match case["parsed"].as_array().unwrap().as_slice() {
            // An empty list says nothing, so the default holds.
            [] => assert_eq!(urls, ["http://127.0.0.1:2379/"]),
            expected => assert_eq!(urls, expected, "{case}"),
        }
    }
    assert_eq!(all.len(), 5);
}

#[test]
fn other_groups_are_skipped_by_name() {
    let Some(cases) = cases() else { return };
    for (group, count, reason) in [
        ("config_file", 5, "felix.cfg is not read: agent.toml is the only file"),
        ("keyvalue_list", 4, "no supported parameter takes such a list"),
        (
            "validation",
            19,
            "of parameters that are not supported (Typha, OpenStack, routing tables)",
        ),
    ] {
        assert_eq!(cases[group].as_array().unwrap().len(), count, "{group}");
        println!("skipped: {group}: {reason}");
    }
    // No supported parameter hides among the skipped validations.
    for case in cases["validation"].as_array().unwrap() {
        for name in case["settings"].as_object().unwrap().keys() {
            assert!(why_unsupported(name).is_some(), "{name}");
        }
    }
}
