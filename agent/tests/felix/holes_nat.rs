//! What became established through a hole and does not say by itself whose it is: connections from a
//! source that a pod lists, and connections to external addresses.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use calico_agent::reconcile::Wake;
use calico_datastore::model::{Action, PortRange, Protocol};

use crate::holes::{cut, echo};
use crate::host::{Flavour, Host, Pod, dial, each_dataplane, receiver};
use crate::nat::{EXTERNAL, OUTSIDE, give, lead_to, outside, world};
use crate::netns::{Netns, sh};
use crate::spoofing::{FOREIGN, LISTED, addresses, spoofing_world};
use crate::world::*;

/// Takes our rules away, and those of everybody else.
fn flush(host: &Host, tables: &[&str]) {
    if host.flavour() == Flavour::Nftables {
        let nat = ["nat-prerouting", "nat-output", "nat-postrouting"];
        let flushed = |chain: &&str| format!("nft flush chain inet calico {chain} 2>&1 || true");
        sh(&match tables {
            ["nat"] => nat.iter().map(flushed).collect::<Vec<_>>().join("\n"),
            // All but that one.
            [_, _] => "for chain in $(nft list table inet calico | grep -oP 'chain \\K[^ ]*'); do
                case $chain in nat-*|external-*) ;; *) nft flush chain inet calico $chain;; esac; done"
                .to_owned(),
            _ => "nft delete table inet calico".to_owned(),
        });
        return;
    }
    for v in ["", "6"] {
        let tool = format!("ip{v}tables-{} -w", host.tool());
        for table in tables {
            sh(&format!("{tool} -t {table} -F; {tool} -t {table} -X"));
        }
    }
}

/// Tracks connections while none of our rules is there.
fn track(host: &Host) {
    for family in [4, 6] {
        host.iptables(family, "-t mangle -A FORWARD -m conntrack --ctstate NEW -j RETURN");
    }
}

/// Datagrams from one source to a port of a pod, which answers each: for the kernel that is a
/// connection, also when no answer finds its way.
struct Stream<'a> {
    sender: UdpSocket,
    at: &'a UdpSocket,
}

impl<'a> Stream<'a> {
    fn new(from: &Pod, source: IpAddr, at: &'a UdpSocket) -> Self {
        let sender = from.netns.run(move || UdpSocket::bind((source, 0)).expect("its address"));
        at.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        Self { sender, at }
    }

    /// One that should arrive has some tries: neighbours may have to be found first.
    fn passes(&self, expected: bool) -> bool {
        let tries = if expected { 5 } else { 1 };
        let own = self.sender.local_addr().unwrap();
        (0..tries).any(|_| {
            // A refusal by the sender's own kernel is as good as silence.
            let _ = self.sender.send_to(b"datagram", self.at.local_addr().unwrap());
            while let Ok((_, from)) = self.at.recv_from(&mut [0; 16]) {
                let _ = self.at.send_to(b"answer", from);
                if from == own {
                    return true;
                }
            }
            false
        })
    }
}

/// One of each family.
fn streams<'a>(from: &Pod, sources: [IpAddr; 2], at: &'a [UdpSocket; 2]) -> [Stream<'a>; 2] {
    [0, 1].map(|family| Stream::new(from, sources[family], &at[family]))
}

#[test]
fn a_source_that_a_pod_lists_is_asked_for_its_policy() {
    each_dataplane(|host, flavour| {
        let (a, b, state) = spoofing_world(host, flavour);
        track(host);
        // Its answers have to come by the host.
        b.netns.sh("for v4 in 10.66.0.5 10.67.0.5; do ip addr del $v4/32 dev eth0; done
             for v6 in fd66::5 fd67::5; do ip -6 addr del $v6/128 dev eth0; done");
        host.apply(&state, Wake::Start);
        let ports = [5000, 5001].map(|port| {
            b.both().map(|to| b.netns.run(move || receiver(SocketAddr::new(to, port))))
        });
        let [allowed, denied] = &ports;
        let kept = streams(&a, addresses(LISTED), allowed);
        let wrong = streams(&a, addresses(LISTED), denied);
        let forged = streams(&a, addresses(FOREIGN), allowed);
        let own = streams(&a, a.both(), allowed);
        let all = |streams: &[Stream<'_>; 2], expected: bool| {
            for one in streams {
                let from = one.sender.local_addr().unwrap();
                assert_eq!(one.passes(expected), expected, "{from}");
            }
        };
        all(&kept, true);
        all(&own, true);
        all(&wrong, false);
        all(&forged, false);

        let before = cut(&host.run(&state, Wake::Retry));
        flush(host, &["raw", "filter"]);
        all(&wrong, true);
        all(&forged, true);
        let report = host.run(&state, Wake::Retry);
        assert_eq!(report.problems, []);
        assert_eq!(cut(&report), before + 2);
        all(&wrong, false);
        // That one is stopped by each packet's source; no connection is asked.
        all(&forged, false);
        all(&kept, true);
        all(&own, true);
        assert_eq!(cut(&host.run(&state, Wake::Retry)), before + 2);
    });
}

/// A TCP connection that lasts.
fn line(from: &Netns, to: &str, port: u16) -> Option<TcpStream> {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    from.run(move || (0..4).find_map(|_| dial(to).ok().map(|(stream, _)| stream)))
}

fn answers(mut stream: &TcpStream) -> bool {
    stream.write_all(b"x").is_ok() && matches!(stream.read(&mut [0; 8]), Ok(1..))
}

#[test]
fn what_came_by_an_external_address_is_asked_as_what_it_leads_to() {
    each_dataplane(|host, flavour| {
        let (a, b, mut state) = world(host, flavour);
        let outside = outside();
        give(&mut state, &b, &EXTERNAL);
        lead_to(&b);
        host.apply(&state, Wake::Start);
        let from = [&a.netns, &outside, &b.netns];
        let open = |port| {
            let both = EXTERNAL.into_iter().flat_map(|to| from.map(|from| line(from, to, port)));
            both.collect::<Vec<_>>()
        };
        let allowed: Vec<_> = open(80).into_iter().flatten().collect();
        assert_eq!(allowed.len(), 6);
        assert!(open(81).iter().all(Option::is_none), "policy allows port 80 only");

        flush(host, &["raw", "filter"]);
        let denied: Vec<_> = open(81).into_iter().flatten().collect();
        assert_eq!(denied.len(), 6, "there is a hole");
        assert!(denied.iter().all(answers));
        let report = host.run(&state, Wake::Retry);
        assert_eq!(report.problems, []);
        assert_eq!(cut(&report), 6);
        assert!(!denied.iter().any(answers), "cut");
        assert!(allowed.iter().all(answers), "the others go on");
    });
}

/// Datagrams to an external address, always from the same port.
struct Asker {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Asker {
    fn new(socket: UdpSocket, to: &str, port: u16) -> Self {
        socket.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
        Self { socket, to: SocketAddr::new(to.parse().unwrap(), port) }
    }

    fn is_answered(&self) -> bool {
        let tries = (0..4).find(|_| {
            self.socket.send_to(b"question", self.to).is_ok()
                && self.socket.recv(&mut [0; 16]).is_ok()
        });
        tries.is_some()
    }
}

fn any_port(to: &str) -> UdpSocket {
    UdpSocket::bind(if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" }).unwrap()
}

#[test]
fn who_went_by_an_external_address_while_it_was_not_translated_is_led_there_again() {
    each_dataplane(|host, flavour| {
        let (_a, b, mut state) = world(host, flavour);
        let outside = outside();
        track(host);
        for port in [5000, 5001] {
            b.netns.run(move || echo(port));
        }
        let takes = |ports: [u16; 2]| {
            let mut rule = any(Action::Allow);
            rule.protocol = Some(Protocol::UDP);
            rule.destination.ports = vec![PortRange::new(ports[0], ports[1]).unwrap()];
            vec![rule]
        };
        profile(&mut state, "web", takes([5000, 5001]), vec![any(Action::Allow)]);
        give(&mut state, &b, &EXTERNAL);
        lead_to(&b);
        host.apply(&state, Wake::Start);
        let from_outside =
            |to: &'static str, port| Asker::new(outside.run(move || any_port(to)), to, port);
        let from_host = |to: &'static str| Asker::new(any_port(to), to, 5000);
        let older: Vec<Asker> = EXTERNAL
            .into_iter()
            .flat_map(|to| [from_outside(to, 5000), from_outside(to, 5001), from_host(to)])
            .collect();
        assert!(older.iter().all(Asker::is_answered));
        // A connection is asked once: what is there goes on.
        state = next(&state);
        profile(&mut state, "web", takes([5000, 5000]), vec![any(Action::Allow)]);
        host.apply(&state, Wake::Desired);
        for to in EXTERNAL {
            assert!(!from_outside(to, 5001).is_answered(), "a new one is denied: {to}");
        }

        // The host's own: nothing but the translation was away, so no policy is asked again.
        let before = cut(&host.run(&state, Wake::Retry));
        flush(host, &["nat"]);
        let late = EXTERNAL.map(from_host);
        assert!(!late.iter().any(Asker::is_answered), "they lead nowhere");
        let report = host.run(&state, Wake::Retry);
        assert_eq!(report.problems, []);
        assert_eq!(cut(&report), before + 2, "{:?}", report.drift);
        assert!(late.iter().all(Asker::is_answered), "the same ones");
        assert!(older.iter().all(Asker::is_answered));

        // All was away, while no agent ran; 5001 is denied by now.
        host.restart();
        flush(host, &["raw", "filter", "nat"]);
        let late = EXTERNAL.map(|to| from_outside(to, 5000));
        assert!(!late.iter().any(Asker::is_answered), "they lead nowhere");
        let report = host.apply(&state, Wake::Start);
        assert_eq!(cut(&report), 4);
        assert!(late.iter().all(Asker::is_answered), "the same ones");
        let goes_on = |one: &&Asker| one.to.port() == 5000;
        assert!(older.iter().filter(goes_on).all(Asker::is_answered));
        assert!(!older.iter().filter(|one| !goes_on(one)).any(Asker::is_answered));
    });
}

#[test]
fn who_left_without_another_address_while_it_was_not_translated_gets_one_again() {
    each_dataplane(|host, flavour| {
        let (a, _b, mut state) = world(host, flavour);
        let outside = outside();
        // Nothing comes back to a pod's own address.
        outside.sh("ip route del default; ip -6 route del default");
        outside.run(|| echo(5000));
        for pool in ["10.65.0.0/16", "fd65::/64"] {
            state.pools.insert(pool.parse().unwrap(), true);
        }
        host.apply(&state, Wake::Start);
        let asker = |to: &'static str| Asker::new(a.netns.run(move || any_port(to)), to, 5000);
        let older = OUTSIDE.map(asker);
        assert!(older.iter().all(Asker::is_answered));
        let before = cut(&host.run(&state, Wake::Retry));
        for restart in [false, true] {
            if restart {
                host.restart();
            }
            flush(host, &["nat"]);
            let late = OUTSIDE.map(asker);
            assert!(!late.iter().any(Asker::is_answered), "they go out as what they are");
            let report = host.run(&state, if restart { Wake::Start } else { Wake::Retry });
            assert_eq!(report.problems, []);
            let base = if restart { 0 } else { before };
            assert_eq!(cut(&report), base + 2, "{:?}", report.drift);
            assert!(late.iter().all(Asker::is_answered), "the same ones");
            assert!(older.iter().all(Asker::is_answered), "the others go on");
        }
    });
}
