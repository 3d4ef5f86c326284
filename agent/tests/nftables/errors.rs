//! What the kernel refuses is named, and nothing of it is in force.

use calico_agent::felix::counters::Counters;
use calico_agent::felix::nftables::object::*;
use calico_agent::felix::nftables::subject::Subject;
use calico_agent::felix::nftables::table::{Table, WriteError};
use calico_agent::felix::nftables::trial;
use calico_datastore::model::Family;

use crate::support::{Kernel, base, chain, contents, drops, from, jump, rule, set};

/// A small table: `top` leads to `a`, and to `b` by a map.
fn small() -> calico_agent::felix::nftables::contents::Contents {
    let dispatch = Statement::Dispatch { key: DispatchKey::InGroup, map: "m".into() };
    let top = vec![rule(vec![], vec![dispatch]), jump("a")];
    let range = |a: &str, b: &str| Element::Range(a.parse().unwrap(), b.parse().unwrap());
    contents(
        [
            ("a", chain(vec![drops(vec![from("s")])])),
            ("b", chain(vec![])),
            ("top", base(BaseKind::Filter, Hook::Forward, 0, top)),
        ],
        [
            ("s", set(SetKind::Address(Family::V4), vec![address(1), address(2), address(3)])),
            ("i", set(SetKind::Interval(Family::V4), vec![range("10.0.0.0", "10.0.0.9")])),
            ("m", set(SetKind::VerdictsByGroup, vec![group(1, "b")])),
        ],
    )
}

fn address(n: u8) -> Element {
    Element::Address(std::net::Ipv4Addr::new(10, 0, 0, n).into())
}

fn group(key: u32, to: &str) -> Element {
    Element::Group(key, Verdict::Goto(to.into()))
}

fn put(name: &str, rules: Vec<Rule>) -> Change {
    Change::PutChain(name.into(), chain(rules))
}

/// Writes what must be refused. Returns what was named and the whole text.
#[track_caller]
fn refused(kernel: &Kernel, changes: &[Change]) -> (Subject, String, WriteError) {
    let before = kernel.list();
    // Something that is fine, which must not come either.
    let mut changes = changes.to_vec();
    changes.push(Change::Add("s".into(), address(77)));
    let error = kernel.write(&changes).expect_err("it was taken");
    assert_eq!(kernel.list(), before, "some of it is in force");
    let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    println!("{text}");
    (error.subject().unwrap().clone(), text, error)
}

#[track_caller]
fn assert_refused(changes: &[Change], subject: &Subject, words: &str) {
    let kernel = Kernel::new();
    kernel.fill(&small());
    let (named, text, _) = refused(&kernel, changes);
    assert_eq!(&named, subject, "{text}");
    assert!(text.contains(words), "{words}: {text}");
    // And the next thing is taken.
    kernel.write(&[Change::Add("s".into(), address(78))]).unwrap();
    assert!(kernel.list().contains("10.0.0.78"));
}

/// What a start asks the kernel, whose tables are in use.
#[test]
fn what_is_only_asked_leaves_nothing_and_says_what_is_refused() {
    let kernel = Kernel::new();
    kernel.netns.sh("nft add table inet theirs");
    let all = || kernel.netns.sh("nft list ruleset");
    let before = all();
    let asked = || {
        let mut table = Table::open("other", Counters::default()).unwrap();
        let fine = small().as_changes();
        assert!(table.rehearse(&fine).is_ok() && table.rehearse(&fine).is_ok());
        let net = "192.0.2.1/32".parse().unwrap();
        let many = vec![Match::Address { side: Side::Source, net, not: true }; 200];
        let error = table.rehearse(&[put("a", vec![drops(vec![]), drops(many)])]).unwrap_err();
        assert_eq!(error.subject(), Some(&Subject::Rule("a".into(), 2)), "{error}");
        assert_eq!(trial::lack(), None);
    };
    kernel.netns.run(asked);
    assert_eq!(all(), before);
}

#[test]
fn a_rule_that_leads_nowhere() {
    let rules = vec![jump("b"), jump("nowhere")];
    assert_refused(&[put("a", rules)], &Subject::Rule("a".into(), 2), "rule 2 of chain a");
}

#[test]
fn a_rule_that_asks_a_set_that_is_not_there() {
    let matches = vec![Match::InterfaceIn { way: Way::In, set: "none".into(), not: false }];
    assert_refused(&[put("a", vec![drops(matches)])], &Subject::Rule("a".into(), 1), "No such");
}

#[test]
fn a_key_that_leads_nowhere() {
    let changes = [Change::Add("m".into(), group(7, "b")), Change::Add("m".into(), group(8, "x"))];
    assert_refused(&changes, &Subject::Element("m".into(), "8 : goto x".into()), "No such");
}

#[test]
fn an_element_of_a_set_that_is_not_there() {
    let changes = [Change::Add("none".into(), address(9))];
    assert_refused(&changes, &Subject::Element("none".into(), "[0a, 00, 00, 09]".into()), "none");
}

#[test]
fn elements_that_are_not_there_or_there_already() {
    let changes = [2, 9, 3].map(|n| Change::Delete("s".into(), address(n)));
    assert_refused(&changes, &Subject::Element("s".into(), "10.0.0.9".into()), "No such");
    let range = Element::Range("10.0.0.5".parse().unwrap(), "10.0.0.20".parse().unwrap());
    let changes = [Change::Add("i".into(), range)];
    assert_refused(&changes, &Subject::Element("i".into(), "10.0.0.5".into()), "exists");
}

#[test]
fn what_others_wrote_asks_for_another_look() {
    let kernel = Kernel::new();
    kernel.fill(&small());
    kernel.netns.sh("nft add element inet calico m '{ 5 : drop }'");
    let (subject, _, error) = refused(&kernel, &[Change::Add("m".into(), group(5, "b"))]);
    assert_eq!(subject, Subject::Element("m".into(), "5 : goto b".into()));
    assert!(error.needs_resync());
    // Having looked it knows that the key has to go first.
    kernel.table().read().unwrap();
    kernel.write(&[Change::Add("m".into(), group(5, "b"))]).unwrap();
    assert!(kernel.list().contains("5 : goto b"));
}

#[test]
fn what_the_kernel_lacks_just_then_is_told_from_what_it_does_not_take() {
    let refused = |errno| WriteError::Refused {
        subject: Subject::Rule("c".into(), 1),
        said: None,
        source: std::io::Error::from_raw_os_error(errno),
        count: 1,
    };
    let asks = |errno| (refused(errno).needs_resync(), refused(errno).is_circumstance());
    use nix::libc;
    for errno in [libc::EEXIST, libc::ENOENT, libc::EBUSY] {
        assert_eq!(asks(errno), (true, false), "{errno}");
    }
    for errno in [libc::EPERM, libc::ENOMEM, libc::ENOBUFS, libc::EINTR, libc::EAGAIN] {
        assert_eq!(asks(errno), (false, true), "{errno}");
    }
    for errno in [libc::EINVAL, libc::EOPNOTSUPP, libc::EMLINK, libc::ELOOP, libc::E2BIG] {
        assert_eq!(asks(errno), (false, false), "{errno}");
    }
}

#[test]
fn a_table_that_others_deleted_asks_for_another_look() {
    let kernel = Kernel::new();
    kernel.fill(&small());
    kernel.netns.sh("nft delete table inet calico");
    let error = kernel.write(&[Change::Add("s".into(), address(9))]).unwrap_err();
    assert!(error.needs_resync(), "{error}");
    assert_eq!(kernel.table().read().unwrap(), None);
    let difference = kernel.differs(&small());
    kernel.write(&difference.now).unwrap();
    assert!(kernel.differs(&small()).is_none());
}

#[test]
fn circles_and_depths() {
    let changes = [put("a", vec![jump("b")]), put("b", vec![drops(vec![]), jump("a")])];
    assert_refused(&changes, &Subject::Rule("a".into(), 1), "a circle: top → b → a → b");
    let mut deep: Vec<_> =
        (1..16).map(|n| put(&format!("c{n:02}"), vec![jump(&format!("c{:02}", n + 1))])).collect();
    deep.push(put("c16", vec![]));
    deep.push(put("b", vec![jump("c01")]));
    let (subject, words) =
        (Subject::Rule("c14".into(), 1), "more than 16 chains deep: top → b → c01");
    assert_refused(&deep, &subject, words);
}

#[test]
fn statements_that_a_hook_has_no_use_for() {
    let masquerade = Statement::Snat { to: None, ports: None, random_fully: false };
    let changes = [put("a", vec![jump("b"), rule(vec![], vec![masquerade])])];
    assert_refused(&changes, &Subject::Rule("a".into(), 2), "masquerade");
}

#[test]
fn what_is_in_use_cannot_go() {
    let subject = Subject::Chain("b".into());
    assert_refused(&[Change::DeleteChain("b".into())], &subject, "busy");
    let changes = [Change::DeleteSet("m".into())];
    assert_refused(&changes, &Subject::Set("m".into()), "busy");
}

#[test]
fn sixteen_chains_are_not_too_deep() {
    let kernel = Kernel::new();
    kernel.fill(&small());
    let mut deep: Vec<_> =
        (1..14).map(|n| put(&format!("c{n:02}"), vec![jump(&format!("c{:02}", n + 1))])).collect();
    deep.push(put("c14", vec![]));
    deep.push(put("b", vec![jump("c01")]));
    kernel.write(&deep).unwrap();
}
