use calico_datastore::model::CalicoVersion;

use super::*;
use crate::config::settings::{
    AllowAction, DataplaneSetting, DenyAction, HostAction, InsertMode, InvalidPolicy,
    IptablesBackend, NftablesDispatch, NftablesMode,
};

#[test]
fn the_defaults_of_the_table_are_those_of_the_settings() {
    let mut settings = Settings {
        // Everything that the table sets is different before.
        interface_prefixes: vec![],
        ipv6: false,
        source_spoofing: true,
        floating_ips: true,
        endpoint_to_host: HostAction::Accept,
        rkt_metadata_service: true,
        denied_log: true,
        denied_log_rate: 1,
        denied_log_group: 1,
        endpoint_counters: false,
        calico_version: Some(CalicoVersion { major: 1, minor: 1 }),
        cut_denied_connections: true,
        invalid_policy: InvalidPolicy::KeepLast,
        dataplane: DataplaneSetting::Nftables,
        nftables_mode: NftablesMode::Disabled,
        iptables_backend: IptablesBackend::Legacy,
        insert_mode: InsertMode::Append,
        filter_allow: AllowAction::Return,
        filter_deny: DenyAction::Reject,
        mark_mask: 1,
        iptables_refresh: std::time::Duration::MAX,
        nftables_refresh: std::time::Duration::MAX,
        nftables_dispatch: NftablesDispatch::Interfaces,
        iptables_post_write_check: std::time::Duration::MAX,
        ipsets_refresh: std::time::Duration::MAX,
        max_ipset_size: 1,
        route_refresh: std::time::Duration::MAX,
        route_protocol: 1,
        route_source: Some([1, 1, 1, 1].into()),
        route_source_v6: Some("::1".parse().unwrap()),
        remove_external_routes: false,
        allow_conntrack_invalid: true,
        ip_forwarding: false,
        nat_outgoing_addresses: vec![[1, 1, 1, 1].into()],
        metadata_address: None,
        metadata_port: 1,
        nat_port_range: Some(calico_datastore::model::PortRange::single(1)),
        nat_outgoing_interface: Some("x".to_owned()),
        mangle_allow: AllowAction::Return,
        failsafe_inbound: vec![],
        failsafe_outbound: vec![],
        interface_exclude: vec![],
        mtu_interfaces: None,
        log_prefix: String::new(),
        log_level: String::new(),
        reporting_interval: std::time::Duration::MAX,
        reporting_ttl: std::time::Duration::MAX,
        endpoint_reporting: true,
        endpoint_reporting_delay: std::time::Duration::MAX,
        endpoint_status_prefix: None,
    };
    for param in PARAMS {
        param.apply(param.default, &mut settings).unwrap();
    }
    let expected = Settings {
        // The one default that depends on the run directory.
        endpoint_status_prefix: Some("/run/calico".into()),
        ..Settings::default()
    };
    assert_eq!(settings, expected);
}

#[test]
fn names_are_unique_and_found_in_every_spelling() {
    for param in PARAMS {
        for name in [
            param.name.to_owned(),
            param.name.to_uppercase(),
            param.name.to_lowercase(),
            param.snake_case(),
        ] {
            let found = Param::find(&name).unwrap_or_else(|| panic!("{name} not found"));
            assert!(std::ptr::eq(found, param), "{name} is {}", found.name);
        }
        assert!(!param.doc.is_empty() && param.doc.ends_with('.'), "{}", param.name);
    }
    assert!(Param::find("VXLANVNI").is_none());
}

#[test]
fn snake_case_keeps_abbreviations_together() {
    for (name, snake) in [
        ("IPForwarding", "ip_forwarding"),
        ("ReportingTTLSecs", "reporting_ttl_secs"),
        ("IptablesNATOutgoingInterfaceFilter", "iptables_nat_outgoing_interface_filter"),
        ("Ipv6Support", "ipv6_support"),
    ] {
        assert_eq!(snake_case(name), snake);
    }
}

#[test]
fn none_is_zero_where_that_means_something_and_refused_elsewhere() {
    let mut settings = Settings::default();
    let apply =
        |name: &str, settings: &mut Settings| Param::find(name).unwrap().apply(" NONE ", settings);
    apply("ReportingIntervalSecs", &mut settings).unwrap();
    assert!(settings.reporting_interval.is_zero());
    apply("EndpointStatusPathPrefix", &mut settings).unwrap();
    assert_eq!(settings.endpoint_status_prefix, None);
    apply("MTUIfacePattern", &mut settings).unwrap();
    assert_eq!(settings.mtu_interfaces, None);
    let before = settings.clone();
    for name in ["InterfacePrefix", "IptablesMarkMask", "DefaultEndpointToHostAction"] {
        let error = apply(name, &mut settings).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    assert_eq!(settings, before);
}

#[test]
fn a_bad_pattern_is_refused_like_any_bad_value() {
    let (mut settings, param) = (Settings::default(), Param::find("mtuIfacePattern").unwrap());
    let error = param.apply("*", &mut settings).unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"*\" is not allowed for MTUIfacePattern: it takes a regular expression for names of \
         interfaces (^eth), or none"
    );
    assert_eq!(settings, Settings::default());
    param.apply(" eth.* ", &mut settings).unwrap();
    assert!(settings.mtu_interfaces.unwrap().matches("eth1"));
}

#[test]
fn a_typing_mistake_is_recognised_and_nonsense_is_not() {
    let known = || PARAMS.iter().map(|p| Cow::Owned(p.snake_case()));
    assert_eq!(nearest("ipv6_suport", known()).as_deref(), Some("ipv6_support"));
    assert_eq!(nearest("reporting_interval", known()).as_deref(), Some("reporting_interval_secs"));
    assert_eq!(nearest("colour_of_the_bikeshed", known()), None);
}

#[test]
fn dataplane_decides_over_felixs_names() {
    use crate::config::Wanted;
    for (dataplane, mode, backend, wanted) in [
        ("auto", "Auto", "Auto", Wanted::Auto),
        ("auto", "Auto", "Legacy", Wanted::Iptables(IptablesBackend::Legacy)),
        ("auto", "Auto", "NFT", Wanted::Iptables(IptablesBackend::Nft)),
        ("auto", "Enabled", "Legacy", Wanted::Nftables),
        ("auto", "Disabled", "Auto", Wanted::Iptables(IptablesBackend::Auto)),
        ("auto", "disabled", "nft", Wanted::Iptables(IptablesBackend::Nft)),
        ("nftables", "Disabled", "Legacy", Wanted::Nftables),
        ("iptables-nft", "Enabled", "Legacy", Wanted::Iptables(IptablesBackend::Nft)),
        ("IPTABLES-LEGACY", "Enabled", "Auto", Wanted::Iptables(IptablesBackend::Legacy)),
    ] {
        let mut settings = Settings::default();
        for (name, value) in
            [("dataplane", dataplane), ("NFTABLESMODE", mode), ("iptables_backend", backend)]
        {
            Param::find(name).unwrap().apply(value, &mut settings).unwrap();
        }
        assert_eq!(settings.wanted_dataplane(), wanted, "{dataplane} {mode} {backend}");
    }
    let dataplane = Param::find("Dataplane").unwrap();
    assert!(dataplane.apply("bpf", &mut Settings::default()).is_err());
}
