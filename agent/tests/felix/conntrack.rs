//! Connections through netlink, with the program `conntrack` as the witness.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_agent::felix::conntrack::{Connection, Conntrack};
use calico_agent::felix::counters::Counters;
use calico_datastore::model::Family;

use crate::netns::{Netns, sh};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

/// Connections of all kinds, made by the program. Each line: the flow, as it takes it.
const MADE: &str = "
-s 10.65.0.1 -d 10.65.0.2 -p tcp --sport 1000 --dport 80 --state ESTABLISHED
-s 10.65.0.1 -d 10.65.0.2 -p tcp --sport 1001 --dport 80 --state ESTABLISHED
-s 10.65.0.1 -d 10.65.0.2 -p tcp --sport 1000 --dport 81 --state SYN_SENT
-s 10.65.0.1 -d 10.65.0.2 -p tcp --sport 1000 --dport 80 --state ESTABLISHED -w 5
-s 10.65.0.1 -d 10.65.0.2 -p tcp --sport 1000 --dport 80 --state ESTABLISHED -w 6
-s 10.65.0.3 -d 10.65.0.4 -p udp --sport 53 --dport 53 --orig-zone 7
-s 10.65.0.3 -d 10.65.0.4 -p udp --sport 53 --dport 54 --reply-zone 7
-s 10.65.0.3 -d 10.65.0.4 -p udp --sport 53 --dport 55
-s 10.65.0.2 -d 10.65.0.1 -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 5
-s 10.65.0.2 -d 10.65.0.1 -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 6
-s 10.65.0.2 -d 10.65.0.1 -p sctp --sport 1000 --dport 3868 --state ESTABLISHED --orig-vtag 1 --reply-vtag 2
-s 10.65.0.2 -d 10.65.0.1 -p udplite --sport 1000 --dport 3868
-s 10.65.0.2 -d 10.65.0.1 -p gre --srckey 1 --dstkey 2
-s 10.65.0.2 -d 10.65.0.1 -p gre --srckey 1 --dstkey 3
-s 10.65.0.2 -d 10.65.0.1 -p 99
-s 203.0.113.9 -d 192.0.2.1 -r 10.65.0.2 -q 203.0.113.9 -p tcp --sport 40000 --dport 30080 --reply-port-src 80 --reply-port-dst 40000 --state ESTABLISHED
-s 10.65.0.1 -d 198.51.100.2 -r 198.51.100.2 -q 192.0.2.1 -p udp --sport 5 --dport 6 --reply-port-src 6 --reply-port-dst 61000
-s fd65::1 -d fd65::2 -p tcp --sport 1000 --dport 80 --state ESTABLISHED
-s fd65::1 -d fd65::2 -p udp --sport 1000 --dport 80
-s fd65::2 -d fd65::1 -p icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 5
-s fd65::2 -d fd65::1 -p 99 -w 3
";

/// Every connection as the program lists it, by its number, without what changes by itself.
fn tracked() -> BTreeMap<u32, String> {
    let mut all = BTreeMap::new();
    for family in ["ipv4", "ipv6"] {
        let lines = sh(&format!("conntrack -L -f {family} -o extended,id 2> /dev/null"));
        for line in lines.lines() {
            let (rest, id) = line.rsplit_once(" id=").unwrap();
            let (_, rest) = rest.split_once("src=").unwrap();
            all.insert(id.parse().unwrap(), format!("src={rest}"));
        }
    }
    all
}

fn listed(conntrack: &Conntrack) -> BTreeMap<u32, Connection> {
    let mut all = BTreeMap::new();
    for family in Family::ALL {
        let (connections, bad) = block_on(conntrack.list(family)).unwrap();
        assert_eq!(bad, None);
        all.extend(connections.into_iter().map(|one| (one.id.unwrap(), one)));
    }
    all
}

/// Cuts these, and all of them are gone.
fn cut(conntrack: &Conntrack, connections: &[Connection]) {
    let (gone, failed) = block_on(conntrack.cut(connections));
    assert_eq!((gone, failed.map(|error| error.to_string())), (connections.to_vec(), None));
}

/// A namespace with the connections; what the program could not make is left out.
fn with_connections<T: Send + 'static>(
    work: impl FnOnce(Conntrack, usize) -> T + Send + 'static,
) -> Option<T> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root for network namespaces");
        return None;
    }
    Some(Netns::new().run(|| {
        let wanted = MADE.lines().filter(|line| !line.is_empty()).count();
        for line in MADE.lines().filter(|line| !line.is_empty()) {
            let failed = sh(&format!("conntrack -I -t 600 {line} 2>&1 || true"));
            if failed.contains("annot") || failed.contains("failed") {
                println!("not made: {line}: {failed}");
            }
        }
        let made = tracked().len();
        assert!(made > wanted - 4, "{made} of {wanted}");
        work(Conntrack::new(Counters::default()), made)
    }))
}

#[test]
fn what_is_listed_is_what_the_program_lists() {
    with_connections(|conntrack, made| {
        let (ours, witness) = (listed(&conntrack), tracked());
        assert_eq!(ours.len(), made);
        for (id, line) in witness {
            let one = ours[&id];
            let has = |word: String| line.split(' ').any(|other| other == word);
            for (half, at) in [(&one.original, 0), (&one.reply, 1)] {
                let place = line.match_indices("src=").nth(at).unwrap().0;
                let rest: Vec<&str> = line[place..].split(' ').take(4).collect();
                assert_eq!(rest[0], format!("src={}", half.source), "{line}");
                assert_eq!(rest[1], format!("dst={}", half.destination), "{line}");
                if let Some((from, to)) = half.ports {
                    assert_eq!(
                        rest[2..],
                        [format!("sport={from}"), format!("dport={to}")],
                        "{line}"
                    );
                }
                if let Some((kind, code)) = half.icmp {
                    assert_eq!(
                        rest[2..],
                        [format!("type={kind}"), format!("code={code}")],
                        "{line}"
                    );
                }
            }
            let zones = one.zones;
            for (key, zone) in
                [("zone", zones.both), ("zone-orig", zones.original), ("zone-reply", zones.reply)]
            {
                assert_eq!(has(format!("{key}={zone}")), zone != 0, "{line} {key} {zone}");
            }
            assert_eq!(one.replied, !line.contains("[UNREPLIED]"), "{line}");
        }
    });
}

#[test]
fn one_that_is_cut_is_gone_and_no_other_is() {
    with_connections(|conntrack, made| {
        let all = listed(&conntrack);
        let mut left = tracked();
        for (id, one) in &all {
            // Another one with the same addresses and ports is another one.
            let other = Connection { id: Some(id.wrapping_add(1)), ..*one };
            cut(&conntrack, &[other]);
            assert_eq!(tracked(), left, "{one:?}");
            cut(&conntrack, &[*one]);
            let line = left.remove(id);
            assert_eq!(tracked(), left, "{line:?}");
            // It is gone already.
            cut(&conntrack, &[*one]);
        }
        assert_eq!((all.len(), left.len()), (made, 0));
    });
}

/// Ten thousand more, from `10.66.0.1` to addresses beside it and to itself.
fn crowd() {
    sh(
        "iptables-legacy -A INPUT -m conntrack --ctstate NEW -j ACCEPT; ip addr add 10.66.0.1/16 dev lo",
    );
    let socket = std::net::UdpSocket::bind("10.66.0.1:0").unwrap();
    for port in 1..=5000_u16 {
        let to = IpAddr::from([10, 66, 1 + (port >> 8) as u8, port as u8]);
        // Nobody listens, on most of them.
        let _ = socket.send_to(b"x", (to, 9));
        let _ = socket.send_to(b"x", ("10.66.0.1", port));
    }
}

#[test]
fn what_belongs_to_an_address_is_forgotten_and_nothing_else() {
    forgotten(false);
}

/// With so many the kernel is asked for addresses, instead of everything.
#[test]
fn on_a_crowded_host_what_belongs_to_an_address_is_forgotten_and_nothing_else() {
    forgotten(true);
}

fn forgotten(crowded: bool) {
    for (addresses, external) in [
        (vec!["10.65.0.1"], vec![]),
        (vec!["10.65.0.4", "fd65::2"], vec![]),
        (vec![], vec!["192.0.2.1"]),
        (vec![], vec!["192.0.2.77", "fd65::2"]),
        (vec!["fd65::2"], vec![]),
        (vec!["10.65.0.2"], vec!["203.0.113.77"]),
        (vec!["10.65.0.77", "fd65::77"], vec!["192.0.2.77"]),
        // So many that the kernel is asked once for all.
        (
            vec!["10.65.0.3", "10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5"],
            vec!["10.65.0.2"],
        ),
    ] {
        with_connections(move |conntrack, made| {
            if crowded {
                crowd();
            }
            let parse = |texts: Vec<&str>| -> BTreeSet<IpAddr> {
                texts.into_iter().map(|text| text.parse().unwrap()).collect()
            };
            let (addresses, external) = (parse(addresses), parse(external));
            let belongs = |line: &str| {
                let mut sources = line.split(' ').filter_map(|word| word.strip_prefix("src="));
                let of = sources.by_ref().any(|a| addresses.contains(&a.parse().unwrap()));
                let asked = line.split(' ').find_map(|word| word.strip_prefix("dst=")).unwrap();
                of || external.contains(&asked.parse().unwrap())
            };
            let before = tracked();
            assert_eq!(before.len() > made + 4096, crowded, "{}", before.len());
            let stay: BTreeMap<u32, String> = before
                .iter()
                .filter(|(_, line)| !belongs(line))
                .map(|(a, b)| (*a, b.clone()))
                .collect();
            block_on(conntrack.forget(&addresses, &external)).unwrap();
            assert_eq!(tracked(), stay, "{addresses:?} {external:?}");
            assert!(!stay.is_empty());
        });
    }
}

#[test]
fn thousands_are_cut_at_once() {
    with_connections(|conntrack, made| {
        crowd();
        let all = listed(&conntrack);
        let (many, others): (Vec<_>, Vec<_>) =
            all.values().partition(|one| one.original.source == IpAddr::from([10, 66, 0, 1]));
        assert!(many.len() >= 5000, "{}", many.len());
        cut(&conntrack, &many.into_iter().copied().collect::<Vec<_>>());
        let left = listed(&conntrack);
        assert_eq!((left.len(), others.len()), (made, made));
    });
}
