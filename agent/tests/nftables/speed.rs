//! What writing costs, beside `nft -f` of the same. For people: `cargo test --release -p calico-agent
//! --test nftables speed -- --ignored --nocapture --test-threads 1`.

use std::time::{Duration, Instant};

use calico_agent::felix::nftables::object::*;

use calico_agent::felix::nftables::table::{WriteError, Written};

use crate::large::{endpoint, world};
use crate::support::{Kernel, chain, drops, jump};

/// The median and the largest of some runs.
fn timed(runs: usize, mut run: impl FnMut(usize) -> Duration) -> (Duration, Duration) {
    let mut times: Vec<_> = (0..runs).map(&mut run).collect();
    times.sort();
    (times[runs / 2], times[runs - 1])
}

fn written(result: Result<Written, WriteError>) {
    result.unwrap();
}

fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

#[test]
#[ignore = "a measurement"]
fn one_endpoint_joins_its_class() {
    for endpoints in [10, 100, 500, 2000] {
        let kernel = Kernel::new();
        kernel.fill(&world(endpoints, endpoints.min(100)));
        let mut table = kernel.table();
        let (median, worst) = timed(1001, |n| {
            let element = endpoint(1_000_000 + u32::try_from(n).unwrap() / 2);
            let add = Change::Add("addresses".into(), element.clone());
            let delete = Change::Delete("addresses".into(), element);
            let change = if n % 2 == 0 { add } else { delete };
            time(|| written(table.write(std::slice::from_ref(&change))))
        });
        println!(
            "{endpoints:>5} endpoints: an address comes or goes {median:.1?}, at worst {worst:.1?}"
        );
    }
}

#[test]
#[ignore = "a measurement"]
fn classes_come_and_policies_change() {
    for classes in [10, 100, 1000] {
        let kernel = Kernel::new();
        let world = world(2000, classes);
        kernel.fill(&world);
        let mut table = kernel.table();
        let (new, _) = timed(51, |n| {
            let name = |what: &str| Name::from(format!("{what}-{n}"));
            let rules = vec![jump("policy-from-0-0"), jump("policy-from-0-1"), drops(vec![])];
            let group = 0x4b11_0000 + u32::try_from(n).unwrap();
            let mut changes = Vec::new();
            for way in ["from", "to"] {
                let class = name(way);
                changes.push(Change::PutChain(class.clone(), chain(rules.clone())));
                let element = Element::Group(group, Verdict::Goto(class));
                changes.push(Change::Add(way.into(), element));
            }
            time(|| written(table.write(&changes)))
        });
        let (policy, _) = timed(51, |n| {
            let mut rules = world.chains["policy-from-0-0"].rules.clone();
            rules.rotate_left(n % 3);
            rules.truncate(2 + n % 2);
            let changes = [Change::PutChain("policy-from-0-0".into(), chain(rules))];
            time(|| written(table.write(&changes)))
        });
        println!("{classes:>5} classes: a new one {new:.1?}, a policy's rules {policy:.1?}");
    }
}

#[test]
#[ignore = "a measurement"]
fn a_full_load_beside_nft() {
    for (endpoints, classes) in [(100, 10), (2000, 100), (2000, 1000)] {
        let world = world(endpoints, classes);
        let changes = world.as_changes();
        let file = tempfile::NamedTempFile::new().unwrap();
        let (mut ours, mut theirs, mut reads) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = 0;
        for _ in 0..9 {
            let kernel = Kernel::new();
            ours.push(time(|| bytes = kernel.write(&changes).unwrap().bytes));
            reads.push(time(|| assert!(kernel.differs(&world).is_none())));
            std::fs::write(file.path(), kernel.list()).unwrap();
            let other = Kernel::new();
            let script = format!("nft -f {}", file.path().display());
            theirs.push(time(|| drop(other.netns.sh(&script))));
        }
        [&mut ours, &mut theirs, &mut reads].into_iter().for_each(|times| times.sort());
        let (ours, theirs, read) = (ours[4], theirs[4], reads[4]);
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
        println!(
            "{endpoints:>5} endpoints, {classes:>4} classes: {bytes} bytes in {ours:.1?}, nft -f \
             {theirs:.1?}, ratio {ratio:.2}; read and compared in {read:.1?}"
        );
    }
}

#[test]
#[ignore = "a measurement"]
fn one_rule_of_a_long_chain() {
    for length in [3, 30, 300, 3000] {
        let kernel = Kernel::new();
        let mut world = world(100, 10);
        let rule = |n: usize| {
            let net = format!("10.{}.{}.0/24", n / 256, n % 256).parse().unwrap();
            drops(vec![Match::Address { side: Side::Source, net, not: false }])
        };
        let rules = |n| (0..n).map(rule).collect::<Vec<_>>();
        world.chains.insert("policy-from-0-0".into(), chain(rules(length)));
        kernel.fill(&world);
        let mut table = kernel.table();
        let (median, worst) = timed(51, |n| {
            let rules = rules(length + 1 - n % 2);
            let changes = [Change::PutChain("policy-from-0-0".into(), chain(rules))];
            time(|| written(table.write(&changes)))
        });
        println!("a rule more or less in a chain of {length}: {median:.1?}, at worst {worst:.1?}");
    }
}

#[test]
#[ignore = "a measurement"]
fn a_large_set() {
    use calico_datastore::model::Family;
    let kernel = Kernel::new();
    let address = |n: u32| Element::Address(std::net::Ipv4Addr::from_bits(0x0b00_0000 + n).into());
    let spec = SetSpec { kind: SetKind::Address(Family::V4), counters: false };
    let mut changes = vec![Change::CreateSet("s".into(), spec)];
    changes.extend((0..100_000).map(|n| Change::Add("s".into(), address(n))));
    let all = time(|| written(kernel.write(&changes)));
    let mut table = kernel.table();
    let (one, worst) = timed(501, |n| {
        let changes = [Change::Add("s".into(), address(200_000 + u32::try_from(n).unwrap()))];
        time(|| written(table.write(&changes)))
    });
    let read = time(|| drop(table.read().unwrap()));
    println!(
        "100,000 addresses {all:.1?}; one more {one:.1?}, at worst {worst:.1?}; read {read:.1?}"
    );
}
