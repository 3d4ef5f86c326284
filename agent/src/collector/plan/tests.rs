use std::path::PathBuf;

use proptest::prelude::*;

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
fn not_when_it_was_seen_only_once() {
    let look = with_record(record(GONE, Stage::Added));
    let said = |at: &[u64]| judged(&at.iter().map(|at| (*at, look.clone())).collect::<Vec<_>>());
    assert_eq!(said(&[0]), [Said::Suspect]);
    // Twice, but not a grace period apart.
    assert_eq!(said(&[0, 119]), [Said::Suspect, Said::Suspect]);
    assert_eq!(said(&[0, 120]), [Said::Suspect, Said::Collect(POD_GONE)]);
    // Even without a grace period.
    let now = Instant::now();
    let first = judge(&look, &Ledger::default(), now, Duration::ZERO);
    assert!(matches!(first.verdicts[0].1, Verdict::Suspect { .. }));
    let again = judge(&look, &first.ledger, now, Duration::ZERO);
    assert!(matches!(again.verdicts[0].1, Verdict::Suspect { .. }), "the same look twice");
    let later = now + Duration::from_millis(1);
    let third = judge(&look, &again.ledger, later, Duration::ZERO);
    assert!(matches!(third.verdicts[0].1, Verdict::Collect { .. }));
}

#[test]
fn one_look_to_the_contrary_starts_anew() {
    let gone = with_record(record(GONE, Stage::Added));
    let contraries = [
        Look { pods: Some(pods(&[GONE])), ..gone.clone() },
        Look { pods: None, ..gone.clone() },
        lived_in(wired(gone.clone())),
    ];
    for contrary in contraries {
        let looks = [(0, gone.clone()), (100, contrary), (130, gone.clone()), (249, gone.clone())];
        let said = judged(&looks);
        assert_eq!(said[2..], [Said::Suspect, Said::Suspect]);
        let later = [looks.to_vec(), vec![(250, gone.clone())]].concat();
        assert_eq!(judged(&later).pop(), Some(Said::Collect(POD_GONE)));
    }
}

#[test]
fn what_was_done_anew_starts_anew() {
    // The runtime tries again, and is killed again.
    let first = with_record(record(OTHER, adding()));
    let second = with_record(record(OTHER, Stage::Adding { pid: 43, started: 9999 }));
    let looks = [(0, first.clone()), (110, second.clone()), (200, second.clone()), (230, second)];
    let killed = Said::Collect(Why::AddKilled);
    assert_eq!(judged(&looks), [Said::Suspect, Said::Suspect, Said::Suspect, killed]);
    // One call failed after another.
    let failed = with_record(record(OTHER, Stage::Deleting));
    let looks = [(0, first), (110, failed.clone()), (200, failed.clone()), (230, failed)];
    let failed = Said::Collect(Why::DelFailed);
    assert_eq!(judged(&looks), [Said::Suspect, Said::Suspect, Said::Suspect, failed]);
    // An endpoint that got another address, and an address that was given again.
    let before = endpoint("cni", &format!("default/{GONE}"));
    let after = Endpoint { addresses: vec![address(10)], ..before.clone() };
    let looks = [(0, with_endpoint(before)), (130, with_endpoint(after))];
    assert_eq!(judged(&looks), [Said::Suspect, Said::Suspect]);
    let before = with_address(&format!("frontend.{GONE}"), Some("calico-01"));
    let mut after = before.clone();
    let given = &mut after.allocations.as_mut().unwrap()[0].attributes;
    given.insert("timestamp".to_owned(), "now".to_owned());
    assert_eq!(judged(&[(0, before), (130, after)]), [Said::Suspect, Said::Suspect]);
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

/// The disk with rkt's pods comes and goes: what is seen below its mount point is another directory.
#[test]
fn another_directory_of_pods_starts_anew() {
    let here = with_record(record(GONE, Stage::Added));
    let there = Pods { place: Place::new(8, 2), uuids: BTreeSet::new() };
    let there = Look { pods: Some(there), ..here.clone() };
    let looks = [(0, here), (110, there.clone()), (200, there.clone()), (230, there)];
    let gone = Said::Collect(Why::PodGone(Place::new(8, 2)));
    assert_eq!(judged(&looks), [Said::Suspect, Said::Suspect, Said::Suspect, gone]);
}

/// rkt was told to keep its pods elsewhere (`--dir`): what its directory says is not all.
#[test]
fn not_while_somebody_uses_the_network() {
    for look in [
        with_record(record(GONE, Stage::Added)),
        with_record(record(OTHER, adding())),
        with_record(record(OTHER, Stage::Failed)),
        with_record(record(GONE, Stage::Deleting)),
    ] {
        never(&lived_in(wired(look.clone())), Keep::InUse);
        // Who lives where cannot be told.
        never(&Look { inhabited: None, ..wired(look.clone()) }, Keep::InUse);
        // The interface alone, or an address of the same number in somebody else's namespace.
        assert!(collected(&wired(look.clone())).is_some());
        assert!(collected(&lived_in(look)).is_some());
    }
}

/// A bridge with addresses of ours, for a runtime that calls its containers by UUIDs: no record.
#[test]
fn not_an_address_that_somebody_lives_with() {
    for look in [
        with_endpoint(endpoint("cni", &format!("default/{GONE}"))),
        with_address(&format!("frontend.{GONE}"), Some("calico-01")),
    ] {
        never(&lived_in(look.clone()), Keep::InUse);
        never(&lived_in_by(look.clone(), Some(OWN)), Keep::InUse);
        never(&Look { inhabited: None, ..look.clone() }, Keep::InUse);
        let other = Inhabited { namespace: None, addresses: [address(10)].into() };
        let other = Look { inhabited: Some(vec![other]), ..look };
        assert_eq!(collected(&other), Some(POD_GONE));
    }
}

/// The number of a namespace decides where it is told; the same address may be somebody else's.
#[test]
fn a_namespace_is_known_by_its_number_or_by_its_addresses() {
    let mut look = wired(with_record(record(GONE, Stage::Added)));
    look.namespaces = [(look.records[0].attachment.netns.clone().unwrap(), OWN)].into();
    let other = Namespace::new(4, 41);
    never(&lived_in_by(look.clone(), Some(OWN)), Keep::InUse);
    never(&lived_in_by(look.clone(), None), Keep::InUse);
    assert!(collected(&lived_in_by(look.clone(), Some(other))).is_some());
    // Its own is not told: its file is gone.
    look.namespaces.clear();
    never(&lived_in_by(look.clone(), Some(other)), Keep::InUse);
    look.records[0].attachment.addresses = vec![address(10)];
    assert!(collected(&lived_in_by(look, Some(other))).is_some());
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
fn addresses_that_were_not_looked_at_stay_suspected() {
    let with = with_address(&format!("frontend.{GONE}"), Some("calico-01"));
    let without = Look { allocations: None, ..look() };
    let begin = Instant::now();
    let mut ledger = judge(&with, &Ledger::default(), begin, GRACE).ledger;
    for minute in 1..5 {
        let now = begin + Duration::from_secs(60 * minute);
        let judgement = judge(&without, &ledger, now, GRACE);
        assert!(judgement.verdicts.is_empty(), "never collected unseen");
        ledger = judgement.ledger;
    }
    let now = begin + Duration::from_secs(600);
    let verdict = judge(&with, &ledger, now, GRACE).verdicts[0].1;
    assert_eq!(verdict, Verdict::Collect { why: POD_GONE, since: begin });
    // What acquits them does so without them, too.
    let unknown = Look { pods: None, ..without };
    let acquitted = judge(&unknown, &ledger, now, GRACE).ledger;
    assert_eq!(acquitted, Ledger::default());
}

#[test]
fn who_lives_where_is_asked_only_when_something_is_accused() {
    assert!(!accuses(&look()));
    assert!(!accuses(&with_record(record(POD, Stage::Added))));
    assert!(accuses(&with_record(record(GONE, Stage::Added))));
}

/// What may be true of the one thing that a look shows.
#[derive(Clone, Debug)]
struct Facts {
    there: bool,
    known: bool,
    wired: bool,
    lived_in: bool,
}

fn facts() -> impl Strategy<Value = Facts> {
    let odds = || prop::bool::weighted(0.2);
    (odds(), odds(), any::<bool>(), odds()).prop_map(|(there, unknown, wired, lived_in)| Facts {
        there,
        known: !unknown,
        wired,
        lived_in,
    })
}

impl Facts {
    fn look(&self) -> Look {
        let mut look = with_record(record(GONE, Stage::Added));
        look.pods = self.known.then(|| pods(if self.there { &[GONE] } else { &[] }));
        look = if self.wired { wired(look) } else { look };
        if self.lived_in { lived_in(look) } else { look }
    }

    fn accuse(&self) -> bool {
        self.known && !self.there && !(self.wired && self.lived_in)
    }
}

proptest! {
    /// Whatever happens: collected exactly when every look for a grace period accused it, and there
    /// were at least two.
    #[test]
    fn collected_exactly_when_every_look_of_a_grace_period_accused(
        steps in prop::collection::vec((1..100_u64, facts()), 1..40),
    ) {
        let mut at = 0;
        let mut accused_since = None;
        let mut looks = Vec::new();
        let mut expected = Vec::new();
        for (wait, facts) in steps {
            at += wait;
            accused_since = if facts.accuse() { accused_since.or(Some(at)) } else { None };
            expected.push(accused_since.is_some_and(|since| at - since >= GRACE.as_secs()));
            looks.push((at, facts.look()));
        }
        let said = judged(&looks).into_iter().map(|said| matches!(said, Said::Collect(_)));
        prop_assert_eq!(said.collect::<Vec<_>>(), expected);
    }
}
