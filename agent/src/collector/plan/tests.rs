mod grace;
mod inhabited;
mod property;

use std::path::PathBuf;

use super::*;

const GRACE: Duration = Duration::from_secs(120);
/// rkt has it.
const POD: &str = "c89f2f35-1b7e-4a57-9d6c-0f8e2b6a4d11";
/// rkt does not have it.
const GONE: &str = "0b61d5d2-77aa-4c1f-8a6e-3d1b2c4e5f60";
/// What containerd calls a container.
const OTHER: &str = "4f2b9c0e53c14f2b9c0e53c14f2b9c0e53c14f2b9c0e53c14f2b9c0e53c14f2b";

fn place() -> Place {
    Place::new(1, 2)
}

fn pods(uuids: &[&str]) -> Pods {
    Pods { place: place(), uuids: uuids.iter().map(|uuid| (*uuid).to_owned()).collect() }
}

fn address(last: u8) -> IpAddr {
    [192, 168, 0, last].into()
}

fn record(container: &str, stage: Stage) -> Attachment {
    Attachment {
        container_id: container.to_owned(),
        ifname: "eth0".to_owned(),
        network: "frontend".to_owned(),
        netns: Some(PathBuf::from(format!("/var/run/netns/cni-{POD}"))),
        host_name: Some("cali0".to_owned()),
        handle: format!("frontend.{container}"),
        addresses: vec![address(9)],
        node: "calico-01".to_owned(),
        boot: "this".to_owned(),
        stage,
        delegated: None,
    }
}

fn adding() -> Stage {
    Stage::Adding { pid: 42, started: 4242 }
}

fn endpoint(orchestrator: &str, workload: &str) -> Endpoint {
    Endpoint {
        id: WorkloadEndpointId {
            node: "calico-01".into(),
            orchestrator: orchestrator.into(),
            workload: workload.into(),
            endpoint: "eth0".into(),
        },
        interface: "cali0".parse().unwrap(),
        mac: None,
        addresses: vec![address(9)],
    }
}

fn allocation(handle: &str, node: Option<&str>) -> Allocation {
    Allocation {
        address: address(9),
        block: "192.168.0.0/26".parse().unwrap(),
        handle: Some(handle.to_owned()),
        attributes: node.iter().map(|node| ("node".to_owned(), (*node).to_owned())).collect(),
    }
}

/// A host with one pod, whose interface and processes are gone.
fn look() -> Look {
    Look {
        node: "calico-01".into(),
        boot: "this".to_owned(),
        records: vec![],
        unclear: BTreeSet::new(),
        endpoints: vec![],
        allocations: Some(vec![]),
        pods: Some(pods(&[POD])),
        interfaces: BTreeSet::new(),
        namespaces: BTreeMap::new(),
        inhabited: Some(vec![]),
    }
}

fn with_record(attachment: Attachment) -> Look {
    Look { records: vec![Record { attachment, at_work: false }], ..look() }
}

fn with_endpoint(endpoint: Endpoint) -> Look {
    Look { endpoints: vec![endpoint], ..look() }
}

fn with_address(handle: &str, node: Option<&str>) -> Look {
    Look { allocations: Some(vec![allocation(handle, node)]), ..look() }
}

/// The pod's interface is there.
fn wired(look: Look) -> Look {
    Look { interfaces: ["cali0".parse().unwrap()].into(), ..look }
}

const OWN: Namespace = Namespace::new(4, 40);

/// A process lives in a namespace with the pod's address: in this one, if that is told.
fn lived_in_by(look: Look, namespace: Option<Namespace>) -> Look {
    let inhabited = Inhabited { namespace, addresses: [address(9)].into() };
    Look { inhabited: Some(vec![inhabited]), ..look }
}

/// A process lives in its namespace.
fn lived_in(look: Look) -> Look {
    lived_in_by(look, None)
}

#[derive(Debug, PartialEq)]
enum Said {
    Keep(Keep),
    Suspect,
    Collect(Why),
}

/// What looks at these times (seconds) say of the only thing in them.
fn judged(looks: &[(u64, Look)]) -> Vec<Said> {
    let begin = Instant::now();
    let mut ledger = Ledger::default();
    let said = looks.iter().map(|(at, look)| {
        let now = begin + Duration::from_secs(*at);
        let judgement = judge(look, &ledger, now, GRACE);
        ledger = judgement.ledger;
        assert_eq!(judgement.verdicts.len(), 1, "{:?}", judgement.verdicts);
        match judgement.verdicts[0].1 {
            Verdict::Keep(keep) => Said::Keep(keep),
            Verdict::Suspect { .. } => Said::Suspect,
            Verdict::Collect { why, .. } => Said::Collect(why),
        }
    });
    said.collect()
}

/// The same look, again and again for an hour: what it comes to.
fn in_the_end(look: &Look) -> Said {
    let looks: Vec<_> = (0..60).map(|minute| (minute * 60, look.clone())).collect();
    judged(&looks).pop().unwrap()
}

fn collected(look: &Look) -> Option<Why> {
    match in_the_end(look) {
        Said::Collect(why) => Some(why),
        Said::Keep(_) | Said::Suspect => None,
    }
}

#[track_caller]
fn never(look: &Look, keep: Keep) {
    assert_eq!(in_the_end(look), Said::Keep(keep));
}

const POD_GONE: Why = Why::PodGone(Place::new(1, 2));

#[test]
fn what_a_gone_pod_left_is_collected() {
    let expected = [Said::Suspect, Said::Suspect, Said::Collect(POD_GONE)];
    let leaks = [
        with_record(record(GONE, Stage::Added)),
        with_endpoint(endpoint("cni", &format!("default/{GONE}"))),
        with_endpoint(endpoint("rkt", &format!("default/{GONE}"))),
        with_address(&format!("frontend.{GONE}"), Some("calico-01")),
        with_address(&format!("net.with.dots.{GONE}"), Some("calico-01")),
    ];
    for look in leaks {
        let looks = [0, 60, 120].map(|at| (at, look.clone()));
        assert_eq!(judged(&looks), expected, "{look:?}");
    }
}

#[test]
fn what_a_killed_or_failed_call_left_is_collected_whoever_called() {
    for (stage, why) in [
        (adding(), Why::AddKilled),
        (Stage::Failed, Why::AddFailed),
        (Stage::Deleting, Why::DelFailed),
    ] {
        for container in [POD, GONE, OTHER] {
            for pods in [Some(pods(&[POD])), None] {
                let look = Look { pods, ..with_record(record(container, stage)) };
                assert_eq!(collected(&look), Some(why), "{container}");
            }
        }
    }
}

#[test]
fn not_a_pod_that_rkt_has() {
    let workload = format!("default/{POD}");
    never(&with_record(record(POD, Stage::Added)), Keep::PodThere);
    never(&with_endpoint(endpoint("cni", &workload)), Keep::PodThere);
    never(&with_endpoint(endpoint("rkt", &workload)), Keep::PodThere);
    never(&with_address(&format!("frontend.{POD}"), Some("calico-01")), Keep::PodThere);
}

/// The link goes and comes, and is gone for hours: rkt has the pod, and that alone counts.
#[test]
fn not_for_a_flapped_link() {
    for look in [
        with_record(record(POD, Stage::Added)),
        with_endpoint(endpoint("cni", &format!("default/{POD}"))),
    ] {
        let flaps = [wired(look.clone()), look.clone(), wired(look.clone()), look.clone()];
        let looks: Vec<_> = (0..).map(|at| at * 3600).zip(flaps).collect();
        assert!(judged(&looks).iter().all(|said| *said == Said::Keep(Keep::PodThere)));
    }
}

/// Of a pod that ran before a boot there is neither interface nor namespace nor process.
#[test]
fn not_after_a_reboot() {
    let mut before = record(POD, Stage::Added);
    before.boot = "the one before".to_owned();
    never(&with_record(before), Keep::PodThere);
    never(&with_endpoint(endpoint("cni", &format!("default/{POD}"))), Keep::PodThere);
    // rkt's data may lie on a disk that is mounted late.
    let unmounted = |look: Look| Look { pods: None, ..look };
    never(&unmounted(with_record(record(GONE, Stage::Added))), Keep::PodsUnknown);
    let workload = format!("default/{GONE}");
    never(&unmounted(with_endpoint(endpoint("cni", &workload))), Keep::PodsUnknown);
}

/// Whatever an ADD was doing at the boot, it does no more; also when a new process has its number
/// and, by chance, its time.
#[test]
fn an_add_that_a_reboot_ended_was_killed() {
    let mut before = record(POD, adding());
    before.boot = "the one before".to_owned();
    let records = vec![Record { attachment: before, at_work: true }];
    assert_eq!(collected(&Look { records, ..look() }), Some(Why::AddKilled));
}

/// rkt keeps a stopped pod until it is removed; see `rkt::Pods` for where.
#[test]
fn not_a_pod_that_was_stopped_and_not_removed() {
    let stopped = with_record(record(POD, Stage::Added));
    never(&stopped, Keep::PodThere);
    let mut looks: Vec<_> = (0..10).map(|hour| (hour * 3600, stopped.clone())).collect();
    // Then it is removed.
    let removed = Look { pods: Some(pods(&[])), ..stopped };
    looks.extend([(36_000, removed.clone()), (36_119, removed.clone()), (36_120, removed)]);
    let said = judged(&looks);
    assert_eq!(
        said[9..],
        [Said::Keep(Keep::PodThere), Said::Suspect, Said::Suspect, Said::Collect(POD_GONE)]
    );
}

#[test]
fn not_what_another_orchestrator_made() {
    let workload = format!("default/{GONE}");
    for orchestrator in ["k8s", "libnetwork", "docker", "openstack", "mesos", "CNI"] {
        never(&with_endpoint(endpoint(orchestrator, &workload)), Keep::NotOfRkt);
    }
    for workload in [
        format!("default/{OTHER}"),
        format!("mesos/{GONE}"),
        format!("libnetwork/{GONE}"),
        GONE.to_owned(),
        format!("default/x{GONE}"),
        "default/web.pod-1".to_owned(),
    ] {
        never(&with_endpoint(endpoint("cni", &workload)), Keep::NotOfRkt);
    }
    // The plugin worked for another runtime: its ids are others, or its namespaces.
    never(&with_record(record(OTHER, Stage::Added)), Keep::NotOfRkt);
    for netns in [None, Some(format!("/var/run/netns/{GONE}")), Some("/proc/77/ns/net".to_owned())]
    {
        let mut other = record(GONE, Stage::Added);
        other.netns = netns.map(PathBuf::from);
        never(&with_record(other), Keep::NotOfRkt);
    }
}

#[test]
fn not_what_is_another_hosts() {
    let mut theirs = endpoint("cni", &format!("default/{GONE}"));
    theirs.id.node = "calico-02".into();
    never(&with_endpoint(theirs), Keep::OtherHost);
    for stage in [Stage::Added, adding(), Stage::Failed, Stage::Deleting] {
        let mut theirs = record(GONE, stage);
        theirs.node = "calico-02".to_owned();
        never(&with_record(theirs), Keep::OtherHost);
    }
    // Borrowed from a block of ours, and one of which nobody says whose it is.
    let handle = format!("frontend.{GONE}");
    never(&with_address(&handle, Some("calico-02")), Keep::OtherHost);
    never(&with_address(&handle, None), Keep::OtherHost);
}

#[test]
fn not_addresses_of_others() {
    for handle in [
        "ipip-tunnel-addr-calico-01".to_owned(),
        "vxlan-tunnel-addr-calico-01".to_owned(),
        format!("k8s-pod-network.{GONE}"),
        format!("k8s-pod-network.{OTHER}"),
        format!("frontend.{OTHER}"),
        format!(".{GONE}"),
        GONE.to_owned(),
    ] {
        let look = with_address(&handle, Some("calico-01"));
        let judgement = judge(&look, &Ledger::default(), Instant::now(), GRACE);
        assert!(judgement.verdicts.is_empty(), "{handle}: {judgement:?}");
    }
    let mut nameless = look();
    let mut allocation = allocation("", Some("calico-01"));
    allocation.handle = None;
    nameless.allocations = Some(vec![allocation]);
    assert!(judge(&nameless, &Ledger::default(), Instant::now(), GRACE).verdicts.is_empty());
}

#[test]
fn not_while_the_add_is_at_work() {
    let attachment = record(GONE, adding());
    let records = vec![Record { attachment, at_work: true }];
    never(&Look { records, ..look() }, Keep::AtWork);
}

#[test]
fn not_while_rkts_pods_are_not_known() {
    for look in [
        with_record(record(GONE, Stage::Added)),
        with_endpoint(endpoint("cni", &format!("default/{GONE}"))),
        with_address(&format!("frontend.{GONE}"), Some("calico-01")),
    ] {
        never(&Look { pods: None, ..look.clone() }, Keep::PodsUnknown);
        assert_eq!(collected(&look), Some(POD_GONE));
    }
}

#[test]
fn not_an_interface_that_no_record_tells_of() {
    let look = with_endpoint(endpoint("cni", &format!("default/{GONE}")));
    never(&wired(look.clone()), Keep::InterfaceThere);
    assert_eq!(collected(&look), Some(POD_GONE));
}

#[test]
fn not_while_a_record_or_an_endpoint_cannot_be_read() {
    let unclear = |look: Look| Look { unclear: [GONE.to_owned()].into(), ..look };
    let look = with_endpoint(endpoint("cni", &format!("default/{GONE}")));
    never(&unclear(look), Keep::Unreadable);
    let look = with_address(&format!("frontend.{GONE}"), Some("calico-01"));
    never(&unclear(look), Keep::Unreadable);
}

#[test]
fn a_record_stands_for_its_endpoint_and_both_for_their_addresses() {
    let mut look = with_record(record(GONE, Stage::Added));
    look.endpoints = vec![endpoint("cni", &format!("default/{GONE}"))];
    look.allocations = Some(vec![allocation(&format!("frontend.{GONE}"), Some("calico-01"))]);
    assert!(matches!(&things(&look)[..], [Thing::Record(_)]));
    look.records.clear();
    assert!(matches!(&things(&look)[..], [Thing::Endpoint(_)]));
    look.endpoints.clear();
    assert!(matches!(&things(&look)[..], [Thing::Addresses { .. }]));
    // Another interface of the pod has an endpoint and no record.
    let mut second = endpoint("cni", &format!("default/{GONE}"));
    second.id.endpoint = "eth1".into();
    let look = Look { endpoints: vec![second], ..with_record(record(GONE, Stage::Added)) };
    assert!(matches!(&things(&look)[..], [Thing::Record(_), Thing::Endpoint(_)]));
}

#[test]
fn who_lives_where_is_asked_only_when_something_is_accused() {
    assert!(!accuses(&look()));
    assert!(!accuses(&with_record(record(POD, Stage::Added))));
    assert!(accuses(&with_record(record(GONE, Stage::Added))));
}
