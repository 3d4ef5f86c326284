//! Each criterion and each target, beside the packet that it does not mean.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use calico_ruleset::{End, Family, Host, Packet, ParseError, Ruleset, State, Strictness, Table};

const SETS: &str = "create nets hash:net family inet hashsize 1024 maxelem 1048576
add nets 10.0.0.0/24
create web hash:ip,port family inet
add web 10.0.0.2,tcp:80
add web 10.0.0.1,udp:53
create ifs hash:net,iface family inet
add ifs 10.0.0.1,cali1
create six hash:net family inet6
add six fd00::/64
";

fn from_cali() -> Packet {
    let ends = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    Packet::tcp(ends.0, ends.1, 40_000, 80).into_interface("cali1").with_mac([2, 0, 0, 0, 0, 1])
}

fn ruleset(rule: &str) -> Result<Ruleset, ParseError> {
    let text = format!("*filter\n:x - [0:0]\n:y - [0:0]\n-A x {rule}\n-A y -j DROP\nCOMMIT\n");
    Ruleset::parse(Family::V4, &text, SETS)
}

fn ask(rule: &str, packet: &Packet) -> (End, u32) {
    let ruleset = ruleset(rule).unwrap_or_else(|error| panic!("{error}"));
    let mut host = Host::default();
    host.address("10.0.0.2".parse().unwrap());
    ruleset.ask(&host, Table::Filter, "x", packet).unwrap()
}

#[test]
fn each_criterion_and_what_it_does_not_mean() {
    let tcp = from_cali();
    let udp = Packet { protocol: 17, ports: Some((53, 53)), ..tcp.clone() };
    let ping = Packet { protocol: 1, ports: None, icmp: Some((8, 3)), ..tcp.clone() };
    let gre = Packet { protocol: 47, ports: None, ..tcp.clone() };
    let other = Packet {
        source: "11.0.0.1".parse().unwrap(),
        destination: "11.0.0.2".parse().unwrap(),
        ..tcp.clone().into_interface("eth0")
    };
    let cases: [(&str, &[&Packet], &[&Packet]); 33] = [
        ("", &[&tcp, &udp, &ping, &gre, &other], &[]),
        ("-i cali1", &[&tcp], &[&other]),
        ("-i cali+", &[&tcp], &[&other]),
        ("-i cali", &[], &[&tcp]),
        ("! -i cali+", &[&other], &[&tcp]),
        ("-s 10.0.0.0/8", &[&tcp], &[&other]),
        ("! --source 10.0.0.1", &[&other], &[&tcp]),
        ("--destination 10.0.0.2/32", &[&tcp], &[&other]),
        ("-p tcp", &[&tcp], &[&udp, &ping, &gre]),
        ("! -p 6", &[&udp, &ping, &gre], &[&tcp]),
        ("-p all", &[&tcp, &gre], &[]),
        ("-p tcp -m tcp --dport 80", &[&tcp], &[&udp]),
        ("-p udp --sport 50:60", &[&udp], &[&tcp]),
        ("-p tcp -m tcp ! --dport :79", &[&tcp], &[&udp]),
        ("-p tcp -m multiport --dports 79,81:90", &[], &[&tcp]),
        (
            "-p tcp -m multiport --destination-ports 79:80 -m multiport ! --sports 1,2",
            &[&tcp],
            &[&udp],
        ),
        ("-p udp -m multiport ! --source-ports 53", &[], &[&udp, &tcp]),
        ("-p tcp -m multiport --ports 40000", &[&tcp], &[]),
        ("-p icmp -m icmp --icmp-type 8", &[&ping], &[&tcp]),
        ("-p icmp -m icmp --icmp-type 8/0", &[], &[&ping]),
        ("-p icmp -m icmp ! --icmp-type 8/0", &[&ping], &[&tcp]),
        ("-m set --match-set nets src", &[&tcp], &[&other]),
        ("-m set ! --match-set nets dst", &[&other], &[&tcp]),
        ("-m set --match-set web dst,dst", &[&tcp], &[&udp, &ping, &gre, &other]),
        ("-m set --match-set web src,src", &[&udp], &[&tcp]),
        ("-m set ! --match-set web dst,dst", &[&udp, &ping, &gre, &other], &[&tcp]),
        ("-m set --match-set ifs src,src", &[&tcp], &[&other]),
        ("-m set --match-set ifs src,dst", &[], &[&tcp]),
        ("-m set --match-set ifs src,src ! --update-counters", &[&tcp], &[&other]),
        ("-m set ! --match-set ifs src,src ! --update-counters", &[&other], &[&tcp]),
        ("-m mac --mac-source 02:00:00:00:00:01", &[&tcp], &[]),
        ("-m mac ! --mac-source 02:00:00:00:00:01", &[], &[&tcp]),
        ("-m addrtype --dst-type LOCAL -m comment --comment \"a ! b\"", &[&tcp], &[&other]),
    ];
    for (rule, yes, no) in cases {
        let rule = format!("{rule} -j DROP");
        for packet in yes {
            assert_eq!(ask(&rule, packet).0, End::Dropped, "{rule}: {packet:?}");
        }
        for packet in no {
            assert_eq!(ask(&rule, packet).0, End::Returned, "{rule}: {packet:?}");
        }
    }
    // A frame that came from nowhere has no address, not another one.
    let none = Packet { mac: None, ..tcp };
    assert_eq!(ask("-m mac ! --mac-source 02:00:00:00:00:01 -j DROP", &none).0, End::Returned);
}

#[test]
fn marks_keep_what_they_are_not_asked_to_change() {
    let marked = Packet { mark: 0xff00_0003, ..from_cali() };
    for (target, mark) in [
        ("--set-mark 0x10/0xf0", 0xff00_0013),
        ("--set-mark 0x0/0x3", 0xff00_0000),
        ("--set-mark 0x30/0x10", 0xff00_0033),
        ("--set-xmark 0x1/0x0", 0xff00_0002),
        ("--set-mark 7", 7),
        ("--and-mark 0xff", 3),
        ("--or-mark 0x8", 0xff00_000b),
        ("--xor-mark 0x1", 0xff00_0002),
    ] {
        assert_eq!(ask(&format!("-j MARK {target}"), &marked), (End::Returned, mark), "{target}");
    }
    for (rule, end) in [
        ("--mark 0x3/0x3", End::Dropped),
        ("--mark 0x0/0x4", End::Dropped),
        ("--mark 0x0/0x3", End::Returned),
        ("--mark 3", End::Returned),
        ("! --mark 0x0/0x3", End::Dropped),
    ] {
        let rule = if let Some(rest) = rule.strip_prefix("! ") {
            format!("-m mark ! {rest} -j DROP")
        } else {
            format!("-m mark {rule} -j DROP")
        };
        assert_eq!(ask(&rule, &marked).0, end, "{rule}");
    }
}

#[test]
fn states_of_connections() {
    let established = from_cali().with_state(State::Established);
    let rule = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
    assert_eq!(ask(rule, &established).0, End::Accepted);
    assert_eq!(ask(rule, &from_cali()).0, End::Returned);
    assert_eq!(ask("-m conntrack ! --ctstate NEW -j DROP", &from_cali()).0, End::Returned);
    assert_eq!(ask("-m conntrack --ctstate INVALID,DNAT -j DROP", &from_cali()).0, End::Returned);
}

#[test]
fn a_limit_is_what_the_host_says() {
    let ruleset = ruleset("-m limit --limit 5/sec --limit-burst 9 -j DROP").unwrap();
    let mut host = Host::default();
    for (matches, end) in [(false, End::Returned), (true, End::Dropped)] {
        host.limits_match(matches);
        assert_eq!(ruleset.ask(&host, Table::Filter, "x", &from_cali()).unwrap().0, end);
    }
}

#[test]
fn what_is_not_understood_is_an_error_that_names_the_rule() {
    for rule in [
        "-m socket -j DROP",
        "-m tcp --dport 80 -j DROP",
        "-p udp -m tcp --dport 80 -j DROP",
        "! -p tcp -m tcp --dport 80 -j DROP",
        "-p tcp -m tcp --dport 80 -m tcp ! --sport 80 -j DROP",
        "-m multiport --dports 80 -j DROP",
        "-m icmp --icmp-type 8 -j DROP",
        "-p icmp -m icmp --icmp-type echo-request -j DROP",
        "-p tcp --tcp-flags SYN SYN -j DROP",
        "-p tcp -m multiport --dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14:15,16 -j DROP",
        "-s 10.0.0.1 -s 10.0.0.2 -j DROP",
        "-s fd00::1 -j DROP",
        "-m set --match-set gone src -j DROP",
        "-m set --match-set six src -j DROP",
        "-m set --match-set web src -j DROP",
        "-m set --match-set nets src,src -j DROP",
        "-m set -j DROP",
        "-m set --match-set nets src --packets-gt 3 -j DROP",
        "-m conntrack --ctstatus ASSURED -j DROP",
        "-m conntrack --ctstate OTHER -j DROP",
        "-j gone",
        "-g DROP",
        "-j x",
        "-j DROP --hard",
        "-j DROP -j ACCEPT",
        "-j REDIRECT --to-ports 80",
        "-j DROP !",
        "! ! -p tcp -j DROP",
        "! -j DROP",
        "-j CT --notrack",
        "-j DNAT --to-destination 10.0.0.9",
        "-j MARK --set-mark 0xg",
        "-j LOG --log-prefix \"open",
    ] {
        let error = ruleset(rule).expect_err(rule);
        match &error {
            ParseError::Rule { rule: named, .. } => assert!(named.contains(rule), "{error}"),
            ParseError::Loop { chain, .. } => assert_eq!(chain, "x"),
            other => panic!("{rule}: {other}"),
        }
    }
    // The last one, that such rules are not errors of the frame.
    assert!(ruleset("-j y").is_ok());
    let parse = |text: &str| Ruleset::parse(Family::V4, text, SETS);
    for bad in [
        "-A INPUT -j DROP",
        "*security\nCOMMIT",
        "*filter\n-A gone -j DROP\nCOMMIT",
        "*filter\n-I INPUT -j DROP\nCOMMIT",
        "*filter\n:x DROP [0:0]\nCOMMIT",
        "*filter\n:INPUT QUEUE [0:0]\nCOMMIT",
        "*filter\n:x -\n:y -\n-A x -j y\n-A y -g x\nCOMMIT",
        "*filter\n-A INPUT -m set --match-set nets src -j DROP\n-A INPUT -j SET --add-set nets src\nCOMMIT",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
    assert!(parse("*filter\n-A INPUT -j SET --add-set ifs src,src --exist\nCOMMIT").is_ok());
}

#[test]
fn fragments_of_rules_need_no_protocol() {
    let text = "*filter\n:x -\n-A x -m multiport --dports 80 -j DROP\nCOMMIT";
    assert!(Ruleset::parse(Family::V4, text, "").is_err());
    let ruleset = Ruleset::parse_with(Strictness::Fragments, Family::V4, text, "").unwrap();
    let ask =
        |packet: &Packet| ruleset.ask(&Host::default(), Table::Filter, "x", packet).unwrap().0;
    assert_eq!(ask(&from_cali()), End::Dropped);
    assert_eq!(ask(&Packet { protocol: 47, ports: None, ..from_cali() }), End::Returned);
}
