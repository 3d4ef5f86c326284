use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use calico_datastore::model::{
    Action, AsNumber, Family, FelixConfiguration, HostEndpointId, IcmpMatch, Name, PolicyId,
    PortRange, Protocol, TierAction, WorkloadEndpointId,
};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::file;
use super::format::{Draft, FormatError, content_of, read, write, write_content};
use super::{StoreSettings, dated, describe};
use crate::desired::{
    AclClass, ActiveRule, ActiveRules, AddressSet, BgpState, DesiredState, DirectionAcl,
    HostEndpoints, HostTiers, LocalEndpoint, LocalHostEndpoint, Member, MeshPeer, Origin, SetId,
    SetKind, SideMatch, TierAcl,
};

/// What version 2 looks like. A change of this file is another version of the format.
const GOLDEN: &[u8] = include_bytes!("golden/v2.json");
/// What version 1 looked like: see [`older`].
const OLD: &[u8] = include_bytes!("golden/v1.json");

fn rule(action: Action) -> ActiveRule {
    ActiveRule {
        origin: 0,
        action,
        family: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: SideMatch::default(),
        destination: SideMatch::default(),
    }
}

/// Everything that a state can hold, at least once.
fn state() -> DesiredState {
    let policy = PolicyId { namespace: Some("ns".into()), name: "default.p".into() };
    let tier = TierAcl {
        tier: "default".into(),
        policies: vec![policy.clone()],
        default_action: TierAction::Deny,
    };
    let pass = TierAcl { tier: "t1".into(), default_action: TierAction::Pass, ..tier.clone() };
    let profiles: Vec<Name> = vec!["frontend".into()];
    let class = AclClass {
        active: true,
        ingress: DirectionAcl { tiers: vec![pass, tier], profiles: profiles.clone() },
        egress: DirectionAcl { tiers: Vec::new(), profiles },
    };
    let id = WorkloadEndpointId {
        node: "calico-01".into(),
        orchestrator: "cni".into(),
        workload: "default/c89f2f35-1b7e-4a57".into(),
        endpoint: "eth0".into(),
    };
    let endpoint = LocalEndpoint {
        interface: "calic89f2f35-1b".parse().unwrap(),
        active: true,
        mac: Some("ca:fe:1d:52:bb:e1".parse().unwrap()),
        addresses: vec!["192.168.0.1".parse().unwrap(), "fd80::1".parse().unwrap()],
        nat: vec![("192.168.0.1".parse().unwrap(), "203.0.113.1".parse().unwrap())],
        spoof: vec!["203.0.113.0/24".parse().unwrap()],
        class: class.id(),
    };
    let side = |set: &str, ports: &str| SideMatch {
        nets: vec!["10.0.0.0/8".parse().unwrap()],
        not_nets: vec!["10.1.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()],
        sets: vec![SetId::new(set)],
        not_sets: vec![SetId::new(set)],
        ports: vec![PortRange::single(80), PortRange::new(8000, 8100).unwrap()],
        named_ports: vec![SetId::new(ports)],
        not_ports: vec![PortRange::single(0)],
        not_named_ports: vec![SetId::new(ports)],
    };
    let full = ActiveRule {
        family: Some(Family::V4),
        protocol: Some(Protocol::TCP),
        source: side("s:a", "n:b"),
        destination: side("s:a", "n:b"),
        ..rule(Action::Allow)
    };
    let icmp = ActiveRule {
        // The one before it was left out.
        origin: 2,
        family: Some(Family::V6),
        not_protocol: Some(Protocol::from_number(200).unwrap()),
        icmp: Some(IcmpMatch { icmp_type: 8, code: None }),
        not_icmp: Some(IcmpMatch { icmp_type: 3, code: Some(4) }),
        ..rule(Action::Log)
    };
    let rules = ActiveRules { ingress: vec![full, icmp], egress: vec![rule(Action::Pass)] };
    let profile = ActiveRules { ingress: Vec::new(), egress: vec![rule(Action::Deny)] };
    let nets = ["10.0.0.1", "0.0.0.0/0", "fd80::/64"];
    let address: IpAddr = "10.0.0.1".parse().unwrap();
    let set = |kind, members: Vec<Member>| AddressSet {
        kind,
        selector: "a == 'x'".into(),
        members: members.into_iter().collect(),
    };
    let nets = nets.map(|net| Member::Net(net.parse().unwrap()));
    let web = PolicyId { namespace: None, name: "web".into() };
    let tiers = vec![TierAcl {
        tier: "default".into(),
        policies: vec![web.clone()],
        default_action: TierAction::Deny,
    }];
    let both = HostTiers { ingress: tiers.clone(), egress: tiers.clone() };
    let host = LocalHostEndpoint {
        interface: Some("eth0".into()),
        addresses: vec![address],
        normal: both.clone(),
        forward: HostTiers { egress: tiers.clone(), ..HostTiers::default() },
        untracked: both,
        pre_dnat: tiers,
        profiles: vec!["hostprof".into()],
    };
    // One set is its own, the other that of pods.
    let mut from = rule(Action::Allow);
    from.source.sets = vec![SetId::new("s:a"), SetId::new("s:host")];
    let from = ActiveRules { ingress: vec![from], egress: Vec::new() };
    let sets = [
        (SetId::new("s:a"), set(SetKind::Net, nets.to_vec())),
        (SetId::new("s:host"), set(SetKind::Net, nets[..1].to_vec())),
    ];
    let host_endpoints = HostEndpoints {
        endpoints: imbl::OrdMap::unit(HostEndpointId { name: "eth0".into() }, Arc::new(host)),
        policies: imbl::OrdMap::unit(web, Arc::new(from)),
        profiles: imbl::OrdMap::unit("hostprof".into(), Arc::default()),
        sets: sets.into_iter().collect(),
    };
    DesiredState {
        host_endpoints,
        generation: 17,
        revision: 4711,
        endpoints: [(id, Arc::new(endpoint))].into_iter().collect(),
        classes: [(class.id(), Arc::new(class))].into_iter().collect(),
        policies: [(policy, Arc::new(rules))].into_iter().collect(),
        profiles: imbl::OrdMap::unit("frontend".into(), Arc::new(profile)),
        sets: [
            (SetId::new("s:a"), set(SetKind::Net, nets.to_vec())),
            (SetId::new("n:b"), {
                let port = |protocol, port| Member::Port(address, protocol, port);
                set(SetKind::Port, vec![port(Protocol::TCP, 80), port(Protocol::SCTP, 9)])
            }),
        ]
        .into_iter()
        .collect(),
        pools: imbl::OrdMap::unit("192.168.0.0/16".parse().unwrap(), true),
        blocks: imbl::OrdSet::unit("192.168.0.0/26".parse().unwrap()),
        bgp: Arc::new(BgpState {
            node: "calico-01".into(),
            registered: true,
            ipv4: Some("172.18.18.101".parse().unwrap()),
            ipv6: Some("fd00::101".parse().unwrap()),
            as_number: AsNumber(64_512),
            mesh: vec![MeshPeer {
                address: "172.18.18.102".parse().unwrap(),
                node: "calico-02".into(),
                as_number: AsNumber(65_000),
            }],
            listen_port: Some(1179),
            pools: vec![("192.168.0.0/16".parse().unwrap(), false)],
            log_severity: "info".to_owned(),
        }),
        notices: imbl::OrdMap::unit("IPPool p".into(), "not \"used\"\n".into()),
        ..DesiredState::default()
    }
}

/// The same as far as version 1 knew it: without host endpoints and what may be spoofed, and every rule
/// where it stands.
fn older() -> DesiredState {
    let state = state();
    let endpoint = |one: &LocalEndpoint| LocalEndpoint { spoof: Vec::new(), ..one.clone() };
    let numbered = |rules: &[ActiveRule]| -> Vec<ActiveRule> {
        (0..).zip(rules).map(|(origin, rule)| ActiveRule { origin, ..rule.clone() }).collect()
    };
    let rules = |rules: &ActiveRules| ActiveRules {
        ingress: numbered(&rules.ingress),
        egress: numbered(&rules.egress),
    };
    let endpoints = state.endpoints.iter().map(|(id, one)| (id.clone(), Arc::new(endpoint(one))));
    let endpoints = endpoints.collect();
    let policies = state.policies.iter().map(|(id, all)| (id.clone(), Arc::new(rules(all))));
    let policies = policies.collect();
    DesiredState { endpoints, policies, host_endpoints: HostEndpoints::default(), ..state }
}

fn draft(state: DesiredState) -> Draft {
    let parameters = |value: &str| {
        let parameters = [("LogSeverityScreen".into(), value.into())].into();
        Some(Arc::new(FelixConfiguration { parameters }))
    };
    Draft {
        node: "calico-01".into(),
        boot: "1d9a6b9e-0000-4000-8000-000000000000".to_owned(),
        written: UNIX_EPOCH + Duration::from_secs(1_795_230_000),
        state: Arc::new(state),
        settings: StoreSettings { node: parameters("debug"), cluster: parameters("info") },
    }
}

fn text(draft: &Draft) -> Vec<u8> {
    let mut out = Vec::new();
    write(draft, &mut out).unwrap();
    out
}

/// A file with that header and that content, and the right checksum.
fn sealed(header: &str, content: &str) -> Vec<u8> {
    let text = format!("{header}\n{content}\n");
    let hash: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{text}{{\"sha256\":\"{hash}\"}}\n").into_bytes()
}

/// Header and content of the golden file.
fn golden() -> (String, String) {
    let text = String::from_utf8(GOLDEN.to_vec()).unwrap();
    let (header, rest) = text.split_once('\n').unwrap();
    let (content, _) = rest.trim_end().rsplit_once('\n').unwrap();
    (header.to_owned(), content.to_owned())
}

#[test]
fn the_format_is_what_it_was() {
    let draft = draft(state());
    let text = text(&draft);
    assert!(
        text == GOLDEN,
        "a change of what is written is another version; now it is:\n{}",
        String::from_utf8_lossy(&text)
    );
    let stored = read(GOLDEN).unwrap();
    assert_eq!((stored.node, stored.boot), (draft.node.clone(), draft.boot.clone()));
    assert_eq!((stored.written, &stored.settings), (draft.written, &draft.settings));
    assert!(stored.state.has_content_of(&draft.state), "{:#?}", stored.state);
    assert_eq!((stored.state.revision, stored.state.generation), (4711, 0));
    let mut content = Vec::new();
    write_content(&draft.state, &draft.settings, &mut content).unwrap();
    assert_eq!(content_of(GOLDEN), Some(&content[..]));
    let (header, content) = golden();
    assert!(read(&sealed(&header, &content)).is_ok());
}

#[test]
fn a_file_of_an_older_agent_is_used() {
    let stored = read(OLD).unwrap();
    assert!(stored.state.has_content_of(&older()), "{:#?}", stored.state);
}

#[test]
fn a_rule_keeps_its_place_in_the_policy_as_written() {
    let mut state = state();
    let place = |origin| ActiveRule { origin, ..rule(Action::Allow) };
    // The second one and the fourth were left out.
    let rules = ActiveRules { ingress: vec![place(0), place(2), place(4)], egress: vec![place(1)] };
    state.profiles.insert("frontend".into(), Arc::new(rules));
    let draft = draft(state);
    let text = text(&draft);
    let stored = read(&text).unwrap();
    assert!(stored.state.has_content_of(&draft.state), "{:#?}", stored.state);
    let lines = String::from_utf8(text).unwrap();
    // And one of the policy.
    assert_eq!(lines.matches("\"origin\":").count(), 4, "{lines}");
}

#[test]
fn generation_time_and_boot_are_not_of_the_content() {
    let one = draft(state());
    let mut other = draft(DesiredState { generation: 1, revision: 9, ..state() });
    (other.boot, other.written) = ("x".to_owned(), UNIX_EPOCH);
    let (one, other) = (text(&one), text(&other));
    assert_ne!(one, other);
    assert_eq!(content_of(&one), content_of(&other));
    let mut changed = state();
    changed.blocks.clear();
    assert_ne!(content_of(&one), content_of(&text(&draft(changed))));
}

#[test]
fn what_cannot_be_used_says_why() {
    let (header, content) = golden();
    let said = |bytes: &[u8]| crate::telemetry::chain(&read(bytes).unwrap_err());
    assert_eq!(said(b""), "its end is missing: it was cut off");
    assert!(
        said(b"hello\n").starts_with("its first line is not the header"),
        "{}",
        said(b"hello\n")
    );
    assert!(matches!(
        read(b"{\"format\":\"x\",\"version\":1}\n").unwrap_err(),
        FormatError::OtherFormat(format) if format == "x"
    ));
    let newer = header.replace("\"version\":2", "\"version\":3,\"more\":{}");
    assert_eq!(
        said(&sealed(&newer, "whatever")),
        "it is of version 3; this agent knows versions 1 to 2"
    );
    assert_eq!(said(&GOLDEN[..GOLDEN.len() / 2]), "its end is missing: it was cut off");
    let damaged = String::from_utf8_lossy(GOLDEN).replace("192.168.0.1/32", "192.168.0.2/32");
    assert_eq!(said(damaged.as_bytes()), "its checksum is wrong: it was changed or damaged");
    // Also what somebody wrote on purpose has to hold together.
    let edits = [
        ("\"class\":\"", "\"class\":\"x", "endpoint calico-01/cni/"),
        ("\"tier\":\"t1\"", "\"tier\":\"t2\"", "class "),
        ("\"id\":\"s:a\"", "\"id\":\"s:c\"", "policy ns/default.p names set s:a"),
        ("\"name\":\"frontend\"", "\"name\":\"backend\"", "names profile frontend"),
        ("10.1.0.0/16", "10.1.0.0/33", "is not an address or a CIDR"),
        ("8000:8100", "8100:8000", "is not a port"),
        ("calic89f2f35-1b", "sixteen-letters-", "is not an interface name"),
        ("\"name\":\"hostprof\"", "\"name\":\"x\"", "host endpoint eth0 names profile hostprof"),
        ("\"id\":\"s:host\"", "\"id\":\"s:x\"", "policy web names set s:host"),
        ("\"members\":", "\"member\":", "unknown field"),
        ("\"allow\"", "\"permit\"", "unknown variant"),
    ];
    for (from, to, reason) in edits {
        assert!(content.contains(from), "{from}");
        let said = said(&sealed(&header, &content.replace(from, to)));
        assert!(said.contains(reason), "{from}: {said}");
    }
    let bad = header.replace("T03", "X03").replace("\"written\":\"2", "\"written\":\"3");
    assert_ne!(bad, header);
    assert!(said(&sealed(&bad, &content)).contains("no time"));
}

proptest! {
    #[test]
    fn random_bytes_are_no_policy(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(&bytes).is_err());
    }

    /// With a right checksum: what somebody wrote on purpose.
    #[test]
    fn no_content_makes_it_panic(
        at in any::<proptest::sample::Index>(),
        length in 0..20_usize,
        put in "[\\[\\]{}\",:0-9a-z/.]{0,8}",
    ) {
        let (header, content) = golden();
        let at = at.index(content.len());
        let end = (at + length).min(content.len());
        if content.is_char_boundary(at) && content.is_char_boundary(end) {
            let content = format!("{}{put}{}", &content[..at], &content[end..]);
            let _ = read(&sealed(&header, &content));
        }
    }
}

#[test]
fn a_file_is_replaced_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.json");
    assert!(file::read(&path).unwrap().is_none());
    file::replace(&path, &draft(state())).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), GOLDEN);
    let smaller = draft(DesiredState::default());
    file::replace(&path, &smaller).unwrap();
    assert!(file::read(&path).unwrap().unwrap().state.endpoints.is_empty());
    let names = || std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name());
    assert_eq!(names().collect::<Vec<_>>(), ["policy.json"]);
    // Somebody is in the way: the old file stays, and nothing is left.
    std::fs::create_dir(path.with_extension("json.new")).unwrap();
    let error = file::replace(&path, &draft(state())).unwrap_err();
    assert!(crate::telemetry::chain(&error).contains("policy.json; what it held stays"), "{error}");
    assert!(file::read(&path).unwrap().unwrap().state.endpoints.is_empty());
    std::fs::remove_dir(path.with_extension("json.new")).unwrap();
    // A disk that is always full.
    std::os::unix::fs::symlink("/dev/full", path.with_extension("json.new")).unwrap();
    let error = file::replace(&path, &draft(state())).unwrap_err();
    assert!(crate::telemetry::chain(&error).contains("No space left"), "{error:?}");
    assert!(file::read(&path).unwrap().unwrap().state.endpoints.is_empty());
    assert_eq!(names().collect::<Vec<_>>(), ["policy.json"]);
    std::fs::write(&path, "garbled\n").unwrap();
    let said = crate::telemetry::chain(&file::read(&path).unwrap_err());
    assert!(said.contains("policy.json") && said.contains("header"), "{said}");
}

#[test]
fn the_age_is_said_when_the_clock_can_tell() {
    let since = UNIX_EPOCH + Duration::from_secs(1_795_230_000);
    let hours = |hours: u64| since + Duration::from_secs(hours * 3600);
    assert_eq!(dated(since, hours(3)), "of 2026-11-21T03:00:00Z (3 h old)");
    assert_eq!(dated(since, UNIX_EPOCH), "of 2026-11-21T03:00:00Z");
    let origin = Origin::Stored { since: 1_795_230_000 };
    let said = describe(origin, hours(3)).unwrap();
    assert_eq!(said, "policy of 2026-11-21T03:00:00Z (3 h old) from disk");
    assert_eq!(describe(Origin::Datastore, hours(3)), None);
}
