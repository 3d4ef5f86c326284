//! Address sets through netlink, with the program `ipset` as the witness.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use calico_agent::felix::counters::Counters;
use calico_agent::felix::ipset::{Command, Counts, Entry, Refused, SetSpec, SetType, Sets};
use calico_datastore::model::{Cidr, Family, Protocol};

use crate::netns::{Netns, sh};

/// Runs `test` in a namespace of its own.
pub(crate) fn alone<T: Send + 'static>(
    test: impl FnOnce(Kernel) -> T + Send + 'static,
) -> Option<T> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root for network namespaces");
        return None;
    }
    Some(Netns::new().run(move || test(Kernel::new())))
}

/// The sets of the namespace at hand.
pub(crate) struct Kernel {
    runtime: tokio::runtime::Runtime,
    pub(crate) counters: Counters,
    pub(crate) sets: Sets,
}

impl Kernel {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let counters = Counters::default();
        Self { runtime, sets: Sets::new(counters.clone()), counters }
    }

    pub(crate) fn write(&self, commands: &[Command]) -> Vec<Refused> {
        self.runtime.block_on(self.sets.write(commands)).unwrap()
    }

    pub(crate) fn read(&self) -> BTreeMap<String, calico_agent::felix::ipset::ActualSet> {
        self.runtime.block_on(self.sets.read()).unwrap()
    }
}

pub(crate) fn spec(kind: SetType, family: Family, max: u32) -> SetSpec {
    SetSpec { kind, family, max, counters: false }
}

fn create(set: &str, spec: SetSpec) -> Command {
    Command::Create(set.to_owned(), spec)
}

pub(crate) fn add(set: &str, entry: &Entry) -> Command {
    Command::Add(set.to_owned(), entry.clone())
}

fn net(text: &str) -> Entry {
    Entry::Net(text.parse().unwrap())
}

/// The address number `n` of 10.0.0.0/8.
pub(crate) fn address(n: u32) -> Entry {
    Entry::Net(Cidr::host(Ipv4Addr::from((10 << 24) + n).into()))
}

/// What the program says that there is, without what the kernel chooses.
fn saved() -> Vec<String> {
    let all =
        sh("ipset save | sed 's/ initval [^ ]*//; s/ bucketsize [^ ]*//; s/ hashsize [^ ]*//'");
    let mut lines: Vec<String> = all.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// One member of each kind and family, and what the program calls it.
fn examples(family: Family) -> Vec<(SetType, Entry, &'static str)> {
    let port = |address: &str, protocol, port| {
        Entry::Port(address.parse::<IpAddr>().unwrap(), protocol, port)
    };
    let behind = |net: &str, interface: &str| {
        Entry::NetIface(net.parse().unwrap(), interface.parse().unwrap())
    };
    match family {
        Family::V4 => vec![
            (SetType::Net, net("10.0.0.1"), "10.0.0.1"),
            (SetType::Net, net("128.0.0.0/1"), "128.0.0.0/1"),
            (SetType::Port, port("10.0.0.1", Protocol::TCP, 80), "10.0.0.1,tcp:80"),
            (SetType::Port, port("10.0.0.1", Protocol::UDPLITE, 9), "10.0.0.1,udplite:9"),
            (SetType::NetIface, behind("10.0.0.1", "cali1.2-x"), "10.0.0.1,cali1.2-x"),
            (SetType::NetIface, behind("0.0.0.0/0", "cali1"), "0.0.0.0/0,cali1"),
        ],
        Family::V6 => vec![
            (SetType::Net, net("fd65::1"), "fd65::1"),
            (SetType::Net, net("fd65::/33"), "fd65::/33"),
            (SetType::Port, port("fd65::1", Protocol::UDP, 65_535), "fd65::1,udp:65535"),
            (SetType::Port, port("fd65::1", Protocol::SCTP, 1), "fd65::1,sctp:1"),
            (
                SetType::NetIface,
                behind("fd65::/64", "cali12345678901"),
                "fd65::/64,cali12345678901",
            ),
        ],
    }
}

#[test]
fn every_type_is_as_the_program_makes_it() {
    alone(|kernel| {
        let mut commands = Vec::new();
        let mut expected = Vec::new();
        let mut read = BTreeMap::new();
        for family in Family::ALL {
            for (kind, counters) in [SetType::Net, SetType::Port, SetType::NetIface]
                .into_iter()
                .flat_map(|kind| [(kind, false), (kind, true)])
            {
                let set = format!("cali{}0{kind:?}{counters}", family.number());
                let spec = SetSpec { kind, family, max: 77, counters };
                commands.push(create(&set, spec));
                let inet = if family == Family::V4 { "inet" } else { "inet6" };
                let kind_name = match kind {
                    SetType::Net => "hash:net",
                    SetType::Port => "hash:ip,port",
                    SetType::NetIface => "hash:net,iface",
                };
                let also = if counters { " counters" } else { "" };
                expected.push(format!("create {set} {kind_name} family {inet} maxelem 77{also}"));
                let mut members = HashSet::new();
                for (_, entry, text) in examples(family).into_iter().filter(|one| one.0 == kind) {
                    commands.push(add(&set, &entry));
                    // Again is no error.
                    commands.push(add(&set, &entry));
                    let mut counted = "";
                    if counters {
                        let counts = Counts { packets: 1 << 40, bytes: 60 << 40 };
                        commands.push(Command::Count(set.clone(), entry.clone(), counts));
                        counted = " packets 1099511627776 bytes 65970697666560";
                    }
                    expected.push(format!("add {set} {text}{counted}"));
                    members.insert(entry);
                }
                read.insert(set, (spec, members));
            }
        }
        assert_eq!(kernel.write(&commands), []);
        expected.sort();
        assert_eq!(saved(), expected);
        let hash_size = sh("ipset save | grep -c 'hashsize 64 '");
        assert_eq!(hash_size.trim(), "4", "those of interfaces begin small");
        let check = |kernel: &Kernel| {
            let actual = kernel.read();
            assert_eq!(actual.len(), read.len());
            for (set, (spec, members)) in &read {
                let actual = &actual[set];
                assert_eq!((actual.spec, &actual.members), (Some(*spec), members), "{set}");
                let counted = if spec.counters { members.len() } else { 0 };
                assert_eq!(actual.counts.len(), counted, "{set}");
            }
        };
        check(&kernel);
        // Made by the program they are read the same.
        sh("ipset save > sets.$$; ipset destroy; ipset restore < sets.$$; rm sets.$$");
        check(&kernel);
        // And taken away again, also twice.
        let mut commands = Vec::new();
        for (set, (_, members)) in &read {
            let delete = |entry: &Entry| Command::Delete(set.clone(), entry.clone());
            commands.extend(members.iter().flat_map(|entry| [delete(entry), delete(entry)]));
        }
        assert_eq!(kernel.write(&commands), []);
        assert!(!saved().iter().any(|line| line.starts_with("add")), "{:?}", saved());
        let commands: Vec<_> = read.keys().cloned().map(Command::Destroy).collect();
        assert_eq!(kernel.write(&commands), []);
        assert_eq!(kernel.write(&commands), [], "gone is gone");
        assert_eq!((saved(), kernel.read().len()), (vec![], 0));
    });
}

#[test]
fn what_we_would_not_make_is_known() {
    alone(|kernel| {
        sh("ipset create cali40t hash:net timeout 9; ipset add cali40t 10.0.0.1
            ipset create cali40f hash:net forceadd
            ipset create cali40w hash:net,iface; ipset add cali40w 10.0.0.1,cali wildcard
            ipset create cali40p hash:net,iface; ipset add cali40p 10.0.0.1,physdev:eth0
            ipset create cali40c hash:net comment; ipset add cali40c 10.0.0.1 comment hello
            ipset create cali40n hash:net; ipset add cali40n 10.0.0.0/8; ipset add cali40n 10.1.0.0/16 nomatch
            ipset create cali40m hash:ip,port netmask 24; ipset create cali40i hash:ip
            ipset create cali40l list:set; ipset create cali60b bitmap:port range 1-9
            ipset create foreign hash:net; ipset add foreign 10.0.0.1");
        let sets = kernel.read();
        let odd: Vec<_> = sets
            .iter()
            .filter(|(_, set)| set.spec.is_none())
            .map(|(name, set)| (name.as_str(), set.shape.is_some()))
            .collect();
        let expected = [
            ("cali40f", true),
            ("cali40i", false),
            ("cali40l", false),
            ("cali40m", true),
            ("cali40p", true),
            ("cali40t", true),
            ("cali40w", true),
            ("cali60b", false),
        ];
        assert_eq!(odd, expected);
        assert_eq!(sets.len(), odd.len() + 2);
        assert_eq!(sets["cali40c"].members, HashSet::from([net("10.0.0.1")]));
        assert_eq!(sets["cali40n"].members, HashSet::from([net("10.0.0.0/8")]));
        assert_eq!(sets["cali40n"].negated, HashSet::from([net("10.1.0.0/16")]));
        assert_eq!(sets["cali40t"].members, HashSet::from([net("10.0.0.1")]));
    });
}

#[test]
fn what_is_refused_is_named_and_the_others_are_carried_out() {
    alone(|kernel| {
        let small = spec(SetType::Net, Family::V4, 10);
        let large = spec(SetType::Net, Family::V4, 10_000);
        sh("ipset create cali40there hash:ip; ipset create cali40used hash:net
            iptables-legacy -A INPUT -m set --match-set cali40used src -j ACCEPT");
        let set = "cali40x";
        let mut commands = vec![create(set, large), create("cali40there", large)];
        // Bad ones at the beginning, in the middle and at the end of messages.
        let bad = [0, 1, 499, 500, 777, 1999_u32];
        for n in 0..2000 {
            let everywhere = if n % 2 == 0 { net("0.0.0.0/0") } else { net("fd65::/64") };
            commands.push(add(set, &if bad.contains(&n) { everywhere } else { address(n) }));
        }
        commands.push(add("cali40there", &address(1)));
        commands.push(Command::Delete("cali40nowhere".to_owned(), address(1)));
        commands.push(Command::Destroy("cali40used".to_owned()));
        commands.push(Command::Swap(set.to_owned(), "cali40nowhere".to_owned()));
        commands.push(create("cali40last", small));
        let refused = kernel.write(&commands);
        let told: Vec<String> = refused.iter().map(ToString::to_string).collect();
        let expected = [
            "`create cali40there hash:net family inet maxelem 10000`: a set of that name is there, \
             and it is another one",
            "`add cali40x 0.0.0.0/0`: no set can hold 0.0.0.0/0: a length of prefix that it does not \
             take",
            "`add cali40x fd65::/64`: the set cannot hold fd65::/64: it is of another type or family",
            "`add cali40x fd65::/64`: the set cannot hold fd65::/64: it is of another type or family",
            "`add cali40x 0.0.0.0/0`: no set can hold 0.0.0.0/0: a length of prefix that it does not \
             take",
            "`add cali40x fd65::/64`: the set cannot hold fd65::/64: it is of another type or family",
            "`add cali40x fd65::/64`: the set cannot hold fd65::/64: it is of another type or family",
            "`del cali40nowhere 10.0.0.1/32`: there is no set of that name",
            "`destroy cali40used`: it is in use: a rule names it, or somebody is listing it",
            "`swap cali40x cali40nowhere`: there is no set cali40nowhere",
        ];
        assert_eq!(told, expected);
        assert!(!refused.iter().any(Refused::is_full));
        let expected: HashSet<Entry> =
            (0..2000).filter(|n| !bad.contains(n)).map(address).collect();
        assert_eq!(kernel.read()[set].members, expected);
        assert_eq!(sh("ipset save cali40x | grep -c ^add").trim(), "1994");
        assert!(!sh("ipset save cali40there").contains("add"));

        // One that is full says how full it may be, once; what goes makes room again.
        let set = "cali40last";
        let mut commands: Vec<_> = (0..1500).map(|n| add(set, &address(n))).collect();
        commands.push(add("cali40x", &net("192.0.2.0/24")));
        let refused = kernel.write(&commands);
        assert_eq!(refused.len(), 1);
        assert!(refused[0].is_full());
        assert_eq!(
            refused[0].to_string(),
            "`add cali40last 10.0.0.10/32`: the set is full (maxelem 10)"
        );
        assert_eq!(kernel.read()[set].members, (0..10).map(address).collect());
        assert!(kernel.read()["cali40x"].members.contains(&net("192.0.2.0/24")));
        let one = Command::Delete(set.to_owned(), address(3));
        assert_eq!(kernel.write(&[one, add(set, &address(77))]), []);
        let odd = Entry::Port([10, 0, 0, 1].into(), Protocol::ICMP, 5);
        let spec = spec(SetType::Port, Family::V4, 10);
        let refused = kernel.write(&[create("cali40n:p", spec), add("cali40n:p", &odd)]);
        assert!(refused[0].to_string().ends_with("icmp has no ports"), "{refused:?}");
    });
}

/// Whatever the commands are, the sets are as after the same commands given to the program one by one.
#[test]
fn any_commands_do_what_the_program_does() {
    for seed in 0..6_u64 {
        let commands = commands(seed);
        let lines: Vec<String> = commands.iter().map(ToString::to_string).collect();
        let Some(ours) = alone(move |kernel| {
            kernel.write(&commands);
            saved()
        }) else {
            return;
        };
        let witness = alone(move |_| {
            for line in &lines {
                // Of a set that could not be made, or that is full, nothing more is asked for; here
                // all can be made, and hold all.
                sh(&format!("echo '{line}' | ipset restore -exist 2> /dev/null || true"));
            }
            saved()
        });
        assert!(ours.iter().filter(|line| line.starts_with("add")).count() > 5, "{ours:#?}");
        assert_eq!(Some(ours), witness, "seed {seed}");
    }
}

fn commands(seed: u64) -> Vec<Command> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let kinds = [SetType::Net, SetType::Port, SetType::NetIface];
    let mut out = Vec::new();
    for (n, kind) in kinds.into_iter().enumerate() {
        for copy in 0..2 {
            out.push(create(&format!("cali40{n}{copy}"), spec(kind, Family::V4, 100)));
        }
    }
    for _ in 0..150 {
        let n = random(3) as usize;
        let set = format!("cali40{n}{}", random(2));
        let address = Ipv4Addr::new(10, 0, 0, random(12) as u8);
        let entry = match kinds[n] {
            SetType::Net => Entry::Net(Cidr::new(address.into(), 25 + random(8) as u8).unwrap()),
            SetType::Port => Entry::Port(address.into(), Protocol::TCP, random(2) as u16),
            SetType::NetIface => Entry::NetIface(
                Cidr::host(address.into()),
                format!("cali{}", random(2)).parse().unwrap(),
            ),
        };
        out.push(match random(20) {
            0 => Command::Swap(format!("cali40{n}0"), format!("cali40{n}1")),
            1..6 => Command::Delete(set, entry),
            _ => Command::Add(set, entry),
        });
    }
    out
}

#[test]
fn sets_change_places_while_others_list_them() {
    alone(|kernel| {
        let spec = spec(SetType::Net, Family::V4, 100_000);
        let mut commands = vec![create("cali40a", spec), create("cali40b", spec)];
        commands.extend((0..20_000).map(|n| add("cali40a", &address(n))));
        assert_eq!(kernel.write(&commands), []);
        // A list blocks a swap as long as it lasts.
        let listing =
            std::thread::spawn(|| sh("for i in $(seq 20); do ipset save > /dev/null; done"));
        for _ in 0..30 {
            let swap = Command::Swap("cali40a".to_owned(), "cali40b".to_owned());
            assert_eq!(kernel.write(&[swap]), []);
        }
        listing.join().unwrap();
        assert_eq!(kernel.read()["cali40a"].members.len(), 20_000);
    });
}

#[test]
fn what_others_write_meanwhile_does_not_hide_what_stays() {
    alone(|kernel| {
        let spec = spec(SetType::Net, Family::V4, 200_000);
        let mut commands = vec![create("cali40a", spec)];
        commands.extend((0..20_000).map(|n| add("cali40a", &address(n))));
        assert_eq!(kernel.write(&commands), []);
        let stay: HashSet<Entry> = (0..20_000).map(address).collect();
        // The table of the set is enlarged several times while it is read.
        let writing = std::thread::spawn(|| {
            let kernel = Kernel::new();
            for round in 1..20 {
                let some: Vec<_> =
                    (0..5000).map(|n| add("cali40a", &address(round * 20_000 + n))).collect();
                assert_eq!(kernel.write(&some), []);
            }
        });
        let mut reads = 0;
        while !writing.is_finished() {
            let members = &kernel.read()["cali40a"].members;
            assert!(members.is_superset(&stay), "{} are missing", stay.difference(members).count());
            reads += 1;
        }
        writing.join().unwrap();
        assert!(reads > 1, "{reads}");
    });
}

/// What a run tells the kernel goes in few calls, and nothing else runs on the thread for long.
#[test]
fn many_commands_are_few_batches_and_leave_time_for_others() {
    alone(|kernel| {
        let spec = spec(SetType::Net, Family::V4, 200_000);
        let mut commands = vec![create("cali40a", spec)];
        commands.extend((0..50_000).map(|n| add("cali40a", &address(n))));
        let longest = kernel.runtime.block_on(async {
            let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
            let other = tokio::spawn(async move {
                let mut longest = Duration::ZERO;
                let mut last = std::time::Instant::now();
                while stopped.try_recv().is_err() {
                    tokio::task::yield_now().await;
                    longest = longest.max(last.elapsed());
                    last = std::time::Instant::now();
                }
                longest
            });
            assert_eq!(kernel.sets.write(&commands).await.unwrap(), []);
            assert_eq!(kernel.sets.read().await.unwrap()["cali40a"].members.len(), 50_000);
            stop.send(()).unwrap();
            other.await.unwrap()
        });
        assert!(longest < Duration::from_millis(200), "{longest:?}");
        assert_eq!(kernel.counters.ipset_restores.get(), 101);
        assert_eq!(kernel.counters.ipset_lines.get(), 50_001);
        assert_eq!(kernel.counters.ipset_saves.get(), 1);
    });
}
