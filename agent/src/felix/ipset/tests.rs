use std::collections::{BTreeMap, HashSet};

use calico_datastore::model::{Family, Protocol};

use super::*;
use crate::desired::Member;
use crate::felix::ipset::plan::members_gone;

const SAVED: &str = "\
create cali40s:abc hash:net family inet hashsize 1024 maxelem 1048576 bucketsize 12 initval 0x1
add cali40s:abc 10.0.0.1
add cali40s:abc 10.1.0.0/16
create foreign hash:ip family inet hashsize 1024 maxelem 65536
add foreign 10.0.0.1
create cali60n:p hash:ip,port family inet6 hashsize 1024 maxelem 10
add cali60n:p fd00::1,tcp:80
create cali40c:x hash:net,iface family inet hashsize 64 maxelem 10
add cali40c:x 10.0.0.1,cali1-2
create cali40old hash:ip family inet hashsize 1024 maxelem 10
";

fn net(text: &str) -> Entry {
    Entry::Net(text.parse().unwrap())
}

fn spec(kind: SetType, family: Family, max: u32) -> SetSpec {
    SetSpec { kind, family, max, counters: false }
}

#[test]
fn only_ours_are_read() {
    let sets = save::parse(SAVED);
    assert_eq!(sets.len(), 4);
    let abc = &sets["cali40s:abc"];
    assert_eq!(abc.spec, Some(spec(SetType::Net, Family::V4, 1_048_576)));
    assert_eq!(abc.members, HashSet::from([net("10.0.0.1/32"), net("10.1.0.0/16")]));
    let port = Entry::Port("fd00::1".parse().unwrap(), Protocol::TCP, 80);
    assert_eq!(sets["cali60n:p"].members, HashSet::from([port]));
    let iface = Entry::NetIface("10.0.0.1".parse().unwrap(), "cali1-2".parse().unwrap());
    assert_eq!(sets["cali40c:x"].members, HashSet::from([iface]));
    assert_eq!((sets["cali40old"].spec, sets["cali40old"].shape), (None, None));
    let odd = save::parse(
        "create cali40s:a hash:net family inet hashsize 64 maxelem 9 timeout 5\n\
         add cali40s:a 10.0.0.1 timeout 3\nadd cali40s:a 10.0.0.2 timeout 3 nomatch\n",
    );
    assert_eq!(
        (odd["cali40s:a"].spec, odd["cali40s:a"].shape),
        (None, Some((SetType::Net, Family::V4)))
    );
    assert_eq!(odd["cali40s:a"].members, HashSet::from([net("10.0.0.1/32")]));
    assert_eq!(odd["cali40s:a"].negated, HashSet::from([net("10.0.0.2/32")]));
}

#[test]
fn a_full_plan_says_only_what_differs() {
    let actual = save::parse(SAVED);
    let mut desired: BTreeMap<String, (SetSpec, HashSet<Entry>)> = actual
        .iter()
        .filter_map(|(name, set)| Some((name.clone(), (set.spec?, set.members.clone()))))
        .collect();
    // Only what we do not know is in the way.
    let phases = full(&desired, &actual);
    assert_eq!(phases.before, []);
    assert_eq!(phases.after, [Command::Destroy("cali40old".to_owned())]);

    desired.get_mut("cali40s:abc").unwrap().1 =
        HashSet::from([net("10.1.0.0/16"), net("10.2.0.0/16")]);
    desired.get_mut("cali60n:p").unwrap().0.max = 20;
    desired.remove("cali40c:x");
    let new = spec(SetType::Net, Family::V6, 10);
    desired.insert("cali60s:new".to_owned(), (new, HashSet::from([net("fd00::/64")])));
    let phases = full(&desired, &actual);
    let text = |commands: &[Command]| {
        commands.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(text(&phases.before), @r"
    add cali40s:abc 10.2.0.0/16
    create cali6t0 hash:ip,port family inet6 maxelem 20
    add cali6t0 fd00::1,tcp:80
    swap cali6t0 cali60n:p
    destroy cali6t0
    create cali60s:new hash:net family inet6 maxelem 10
    add cali60s:new fd00::/64
    ");
    insta::assert_snapshot!(text(&phases.after), @r"
    del cali40s:abc 10.0.0.1/32
    destroy cali40c:x
    destroy cali40old
    ");

    // A type that cannot be swapped in.
    let old = spec(SetType::Net, Family::V4, 10);
    let desired = [("cali40old".to_owned(), (old, HashSet::from([net("10.0.0.0/8")])))].into();
    insta::assert_snapshot!(text(&full(&desired, &actual).before), @r"
    destroy cali40old
    create cali40old hash:net family inet maxelem 10
    add cali40old 10.0.0.0/8
    ");
}

const COUNTED: &str = "\
create cali40x hash:net,iface family inet hashsize 64 maxelem 10 counters bucketsize 12 initval 0x1
add cali40x 10.0.0.1,cali1 packets 7 bytes 420
add cali40x 10.0.0.2,cali2 packets 0 bytes 0
add cali40x 10.0.0.3,cali3 nomatch packets 1 bytes 60
";

fn behind(address: &str, interface: &str) -> Entry {
    Entry::NetIface(address.parse().unwrap(), interface.parse().unwrap())
}

#[test]
fn a_set_that_counts_is_another_one_and_what_it_counted_is_not_its_members() {
    let sets = save::parse(COUNTED);
    let counted = SetSpec { counters: true, ..spec(SetType::NetIface, Family::V4, 10) };
    let set = &sets["cali40x"];
    assert_eq!(set.spec, Some(counted));
    let members = HashSet::from([behind("10.0.0.1", "cali1"), behind("10.0.0.2", "cali2")]);
    assert_eq!((&set.members, set.negated.len()), (&members, 1));
    assert_eq!(set.counts[&behind("10.0.0.1", "cali1")], Counts { packets: 7, bytes: 420 });
    assert_eq!(set.counts.len(), 2, "of nothing nothing is kept");
    // Whatever was counted, it is as it should be.
    let sets =
        save::parse(&COUNTED.replace("add cali40x 10.0.0.3,cali3 nomatch", "add y 10.0.0.3"));
    let desired = [("cali40x".to_owned(), (counted, members.clone()))].into();
    assert_eq!(full(&desired, &sets), Phases::default());
    assert_eq!(compare(&desired, &sets, &Phases::default(), |_| false), []);
    // One that does not count is not what was wanted, and the other way round.
    let plain = [("cali40x".to_owned(), (SetSpec { counters: false, ..counted }, members))].into();
    assert_eq!(compare(&plain, &sets, &Phases::default(), |_| false).len(), 1);
    assert_eq!(
        full(&plain, &sets).before[0].to_string(),
        "create cali4t0 hash:net,iface family inet hashsize 64 maxelem 10"
    );
}

#[test]
fn a_set_that_takes_the_place_of_another_goes_on_counting() {
    let spec = |max, counters| SetSpec { counters, ..spec(SetType::NetIface, Family::V4, max) };
    let members = HashSet::from([behind("10.0.0.1", "cali1"), behind("10.0.0.4", "cali4")]);
    let before = |spec, text: &str| -> String {
        let desired = [("cali40x".to_owned(), (spec, members.clone()))].into();
        let commands = full(&desired, &save::parse(text)).before;
        commands.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(before(spec(20, true), COUNTED), @r"
    create cali4t0 hash:net,iface family inet hashsize 64 maxelem 20 counters
    add cali4t0 10.0.0.1/32,cali1
    add cali4t0 10.0.0.4/32,cali4
    add cali4t0 10.0.0.1/32,cali1 packets 7 bytes 420
    swap cali4t0 cali40x
    destroy cali4t0
    ");
    // From one that did not count, and to one that does not.
    let plain = COUNTED.replace(" counters", "").replace(" packets 7 bytes 420", "");
    let begins = before(spec(10, true), &plain);
    assert!(begins.contains("maxelem 10 counters") && !begins.contains("packets"), "{begins}");
    let ends = before(spec(10, false), COUNTED);
    assert!(ends.contains("swap") && !ends.contains("counters") && !ends.contains("packets"));
}

#[test]
fn what_others_changed_is_told_and_what_we_are_about_to_change_is_not() {
    let actual = save::parse(SAVED);
    let mut desired: BTreeMap<String, (SetSpec, HashSet<Entry>)> = actual
        .iter()
        .filter_map(|(name, set)| Some((name.clone(), (set.spec?, set.members.clone()))))
        .collect();
    let told = |desired: &_, pending: &Phases, unsure: &str| -> Vec<String> {
        let drift = compare(desired, &actual, pending, |name| name == unsure);
        drift.iter().map(|d| format!("{} {}: {}", d.subject, d.change, d.detail)).collect()
    };
    let nothing = Phases::default();
    assert_eq!(told(&desired, &nothing, "cali40old"), [""; 0]);
    assert_eq!(told(&desired, &nothing, ""), ["address set cali40old unexpected: 0 members"]);

    desired.get_mut("cali40s:abc").unwrap().1 =
        (0..5).map(|n| net(&format!("10.2.{n}.0/24"))).collect();
    desired.get_mut("cali60n:p").unwrap().0.max = 20;
    desired.remove("cali40c:x");
    let new = spec(SetType::Net, Family::V6, 10);
    desired.insert("cali60s:new".to_owned(), (new, HashSet::from([net("fd00::/64")])));
    insta::assert_snapshot!(told(&desired, &nothing, "cali40old").join("\n"), @r"
    address set cali40s:abc modified: missing 5 members: 10.2.0.0/24, 10.2.1.0/24, 10.2.2.0/24, …; unexpected 2 members: 10.0.0.1/32, 10.1.0.0/16
    address set cali60n:p modified: it is of another type, family or size
    address set cali60s:new missing: 1 member
    address set cali40c:x unexpected: 1 member
    ");
    // The same as our own work.
    let mut pending = full(&desired, &actual);
    pending.after.retain(|command| command.set() != "cali40old");
    assert_eq!(told(&desired, &pending, "cali40old"), [""; 0]);
    // And half of it.
    pending.before.retain(|command| !matches!(command, Command::Add(_, Entry::Net(n)) if n.to_string() == "10.2.4.0/24"));
    assert_eq!(
        told(&desired, &pending, "cali40old"),
        ["address set cali40s:abc missing: 1 member: 10.2.4.0/24"]
    );
}

#[test]
fn everywhere_is_two_halves() {
    let everywhere = Member::Net("0.0.0.0/0".parse().unwrap());
    let low = Member::Net("0.0.0.0/1".parse().unwrap());
    let halves = vec![net("0.0.0.0/1"), net("128.0.0.0/1")];
    assert_eq!(members_of(&everywhere, Family::V4), halves);
    assert!(members_of(&everywhere, Family::V6).is_empty());

    assert_eq!(members_gone(&everywhere, Family::V4, |_| false), halves);
    // A half that is a member by itself stays, and so does one that everywhere needs.
    assert_eq!(members_gone(&everywhere, Family::V4, |m| *m == low), [net("128.0.0.0/1")]);
    assert!(members_gone(&low, Family::V4, |m| *m == everywhere).is_empty());
    assert_eq!(members_gone(&low, Family::V4, |_| false), [net("0.0.0.0/1")]);
}
