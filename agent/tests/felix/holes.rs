//! A hole in our rules, and what became established through it: cut when the rules are back, and
//! nothing else is.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use calico_agent::desired::DesiredState;
use calico_agent::reconcile::{Report, Wake};
use calico_datastore::model::{Action, Cidr, PortRange, Protocol};

use crate::host::{Flavour, Host, Pod, dial, each_dataplane, serve};
use crate::netns::{Netns, sh};
use crate::world::*;

const OUTSIDE: [&str; 2] = ["198.51.100.2", "2001:db8::2"];

pub(crate) struct Place {
    pub(crate) a: Pod,
    pub(crate) b: Pod,
    _outside: Netns,
    pub(crate) state: DesiredState,
}

fn udp(action: Action, port: u16) -> calico_agent::desired::ActiveRule {
    let mut rule = any(action);
    rule.protocol = Some(Protocol::UDP);
    rule.destination.ports = vec![PortRange::single(port)];
    rule
}

/// Two pods and a machine outside, where pods are masqueraded. `b` takes TCP to 80 and UDP to 5000.
pub(crate) fn place(host: &mut Host, flavour: Flavour) -> Place {
    let (a, b) = (host.pod(1), host.pod(2));
    let outside = Netns::new();
    sh(&format!(
        "ip link add eth9 type veth peer name eth0 netns {}
         ip addr add 198.51.100.1/24 dev eth9; ip -6 addr add 2001:db8::1/64 dev eth9 nodad
         ip link set eth9 up",
        outside.tid
    ));
    outside.sh("sysctl -qw net.ipv6.conf.eth0.accept_dad=0
         ip addr add 198.51.100.2/24 dev eth0; ip -6 addr add 2001:db8::2/64 dev eth0 nodad
         ip link set eth0 up");
    outside.run(|| serve(80));
    b.serve(80);
    b.serve(81);
    for port in [5000, 5001] {
        b.netns.run(move || echo(port));
    }
    // Connections are tracked also while none of our rules is there.
    for (v, mangle) in [("", "-t mangle -A FORWARD"), ("6", "-t mangle -A FORWARD")] {
        let tool = host.tool();
        sh(&format!("ip{v}tables-{tool} -w {mangle} -m conntrack --ctstate NEW -j RETURN"));
    }
    let mut state = empty(flavour);
    profile(
        &mut state,
        "some",
        vec![tcp(Action::Allow, &[80]), udp(Action::Allow, 5000)],
        vec![any(Action::Allow)],
    );
    endpoint(&mut state, &a, &profiles(&["some"]), true);
    endpoint(&mut state, &b, &profiles(&["some"]), true);
    for pool in ["10.65.0.0/16", "fd65::/64"] {
        state.pools.insert(pool.parse::<Cidr>().unwrap(), true);
    }
    Place { a, b, _outside: outside, state }
}

/// Answers datagrams with what they hold.
pub(crate) fn echo(port: u16) {
    for any in ["0.0.0.0", "::"] {
        // One socket for each family: the answer has to come from the address that was asked.
        let fd = nix::sys::socket::socket(
            if any == "::" {
                nix::sys::socket::AddressFamily::Inet6
            } else {
                nix::sys::socket::AddressFamily::Inet
            },
            nix::sys::socket::SockType::Datagram,
            nix::sys::socket::SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        if any == "::" {
            nix::sys::socket::setsockopt(&fd, nix::sys::socket::sockopt::Ipv6V6Only, &true)
                .unwrap();
        }
        let here = SocketAddr::new(any.parse().unwrap(), port);
        let raw: Box<dyn nix::sys::socket::SockaddrLike> = match here {
            SocketAddr::V4(here) => Box::new(nix::sys::socket::SockaddrIn::from(here)),
            SocketAddr::V6(here) => Box::new(nix::sys::socket::SockaddrIn6::from(here)),
        };
        nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&fd), raw.as_ref()).unwrap();
        let socket = UdpSocket::from(fd);
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((n, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..n], from);
            }
        });
    }
}

/// A connection that lasts: one socket.
#[derive(Debug)]
pub(crate) enum Line {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Line {
    fn tcp(from: &Pod, to: IpAddr, port: u16) -> Option<Self> {
        let to = SocketAddr::new(to, port);
        from.netns.run(move || dial(to)).ok().map(|(stream, _)| Self::Tcp(stream))
    }

    pub(crate) fn udp(from: &Pod, to: IpAddr, port: u16) -> Self {
        let socket = from.netns.run(move || {
            let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
            let socket = UdpSocket::bind(SocketAddr::new(any, 0)).unwrap();
            socket.connect(SocketAddr::new(to, port)).unwrap();
            socket
        });
        socket.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
        Self::Udp(socket)
    }

    /// Is one message answered?
    pub(crate) fn echoes(&self) -> bool {
        let mut buffer = [0; 8];
        match self {
            Self::Tcp(stream) => {
                let mut stream = stream;
                stream.write_all(b"x").is_ok() && matches!(stream.read(&mut buffer), Ok(1..))
            }
            Self::Udp(socket) => socket.send(b"x").is_ok() && socket.recv(&mut buffer).is_ok(),
        }
    }
}

impl Place {
    fn flush(&self, host: &Host) {
        if host.flavour() == Flavour::Nftables {
            sh("nft delete table inet calico");
            return;
        }
        for v in ["", "6"] {
            let tool = format!("ip{v}tables-{} -w", host.tool());
            sh(&format!("for t in raw filter; do {tool} -t $t -F; {tool} -t $t -X; done"));
        }
    }

    pub(crate) fn allowed(&self) -> Vec<Line> {
        let outside = OUTSIDE.map(|to| Line::tcp(&self.a, to.parse().unwrap(), 80).unwrap());
        let inside = self
            .b
            .both()
            .into_iter()
            .flat_map(|to| [Line::tcp(&self.a, to, 80).unwrap(), Line::udp(&self.a, to, 5000)]);
        outside.into_iter().chain(inside).collect()
    }

    /// What only a hole lets through.
    pub(crate) fn denied(&self) -> Vec<Line> {
        let both = self.b.both().into_iter();
        both.flat_map(|to| {
            [Line::tcp(&self.a, to, 81).expect("there is a hole"), Line::udp(&self.a, to, 5001)]
        })
        .collect()
    }
}

/// Every connection by its number in the kernel, and to which port.
fn tracked() -> Vec<String> {
    let mut all = Vec::new();
    for family in ["ipv4", "ipv6"] {
        let listed = sh(&format!("conntrack -L -f {family} -o extended,id 2> /dev/null"));
        all.extend(listed.lines().filter_map(|line| {
            let port = line.split(' ').find(|word| word.starts_with("dport="))?;
            let id = line.split(' ').find(|word| word.starts_with("id="))?;
            Some(format!("{port} {id}"))
        }));
    }
    all.sort();
    all
}

fn only<'t>(all: &'t [String], ports: &[&str]) -> Vec<&'t String> {
    all.iter().filter(|one| ports.iter().any(|port| one.starts_with(port))).collect()
}

pub(crate) fn cut(report: &Report) -> u64 {
    report.facts["connections_cut"].parse().unwrap()
}

const DENIED: [&str; 2] = ["dport=81 ", "dport=5001 "];
const ALLOWED: [&str; 2] = ["dport=80 ", "dport=5000 "];

#[test]
fn what_came_through_a_hole_is_cut_and_nothing_else() {
    each_dataplane(|host, flavour| {
        let place = place(host, flavour);
        host.apply(&place.state, Wake::Start);
        let allowed = place.allowed();
        assert!(allowed.iter().all(Line::echoes));
        for to in place.b.both() {
            assert!(Line::tcp(&place.a, to, 81).is_none(), "denied: {to}");
            assert!(!Line::udp(&place.a, to, 5001).echoes(), "denied: {to}");
        }
        let before = cut(&host.run(&place.state, Wake::Retry));

        place.flush(host);
        let denied = place.denied();
        assert!(denied.iter().all(Line::echoes), "all pass through the hole");
        let tracked_before = tracked();
        assert_eq!(only(&tracked_before, &DENIED).len(), 4, "{tracked_before:?}");
        let report = host.run(&place.state, Wake::Retry);
        assert_eq!(report.problems, []);
        assert!(!report.drift.is_empty());
        assert_eq!(cut(&report), before + 4);
        assert!(!denied.iter().any(Line::echoes), "cut");
        assert!(allowed.iter().all(Line::echoes), "the others go on");
        let tracked = tracked();
        assert_eq!(only(&tracked, &DENIED), [""; 0]);
        assert_eq!(only(&tracked, &ALLOWED), only(&tracked_before, &ALLOWED), "the same ones");
        assert!(only(&tracked, &ALLOWED).len() >= 6);
        assert_eq!(cut(&host.run(&place.state, Wake::Retry)), before + 4);
    });
}

#[test]
fn a_member_that_was_taken_from_a_set_is_a_hole_too() {
    each_dataplane(|host, flavour| {
        let mut place = place(host, flavour);
        set(&mut place.state, "s:bad", &[1]);
        let mut deny = from_set(any(Action::Deny), "s:bad");
        deny.protocol = Some(Protocol::TCP);
        let rules = vec![deny, any(Action::Allow)];
        profile(&mut place.state, "some", rules, vec![any(Action::Allow)]);
        // Nothing may open a connection to `a`: else what `b` sends again would, by the port that
        // it was asked at, as after any loss of the connection.
        profile(&mut place.state, "none", vec![], vec![any(Action::Allow)]);
        endpoint(&mut place.state, &place.a, &profiles(&["none"]), true);
        host.apply(&place.state, Wake::Start);
        assert!(Line::tcp(&place.a, place.b.v4(), 80).is_none());
        let kept = Line::udp(&place.a, place.b.v4(), 5000);
        assert!(kept.echoes());
        sh(if flavour == Flavour::Nftables {
            "nft delete element inet calico set4-s-bad '{ 10.65.0.1 }'"
        } else {
            "ipset del cali40s:bad 10.65.0.1"
        });
        let line = Line::tcp(&place.a, place.b.v4(), 80).expect("there is a hole");
        assert!(line.echoes());
        let report = host.run(&place.state, Wake::Retry);
        assert_eq!(cut(&report), 1, "{:?}", report.drift);
        assert!(!line.echoes(), "cut");
        assert!(kept.echoes(), "the other goes on");
    });
}

#[test]
fn a_start_cuts_what_a_hole_let_through_and_not_what_an_older_policy_allowed() {
    each_dataplane(|host, flavour| {
        let place = place(host, flavour);
        host.apply(&place.state, Wake::Start);
        let allowed = place.allowed();
        host.restart();
        place.flush(host);
        let denied = place.denied();
        assert!(denied.iter().all(Line::echoes), "all pass through the hole");
        let report = host.apply(&place.state, Wake::Start);
        assert_eq!((cut(&report), report.drift.len()), (4, 0));
        assert!(!denied.iter().any(Line::echoes), "cut");
        assert!(allowed.iter().all(Line::echoes), "the others go on");

        // The rules were in force all the time; they only say another thing now.
        host.restart();
        let mut state = next(&place.state);
        profile(&mut state, "some", vec![], vec![any(Action::Allow)]);
        assert_eq!(cut(&host.apply(&state, Wake::Start)), 0);
        assert!(allowed.iter().all(Line::echoes), "established connections are not asked again");
        assert!(Line::tcp(&place.a, place.b.v4(), 80).is_none(), "a new one is");
    });
}

/// `DeniedConnections`: what policy allowed and denies now goes on, or is cut; what it still allows goes on.
#[test]
fn a_change_of_policy_cuts_what_it_denies_where_that_is_wanted() {
    each_dataplane(|host, flavour| {
        let mut place = place(host, flavour);
        set(&mut place.state, "s:friends", &[1]);
        let open = |state: &mut DesiredState| {
            let mut udp = udp(Action::Allow, 5000);
            udp.source.sets = vec![calico_agent::desired::SetId::new("s:friends")];
            profile(state, "some", vec![tcp(Action::Allow, &[80]), udp], vec![any(Action::Allow)]);
        };
        open(&mut place.state);
        host.apply(&place.state, Wake::Start);
        let lines = |place: &Place| -> Vec<(Line, Line)> {
            let both = place.b.both().into_iter();
            both.map(|to| (Line::tcp(&place.a, to, 80).unwrap(), Line::udp(&place.a, to, 5000)))
                .collect()
        };
        let outside = |place: &Place| {
            OUTSIDE.map(|to| Line::tcp(&place.a, to.parse().unwrap(), 80).expect("it is allowed"))
        };
        let all = |lines: &[(Line, Line)]| {
            let both: Vec<_> =
                lines.iter().map(|(tcp, udp)| (tcp.echoes(), udp.echoes())).collect();
            assert!(both.iter().all(|one| *one == both[0]), "both families: {both:?}");
            both[0]
        };
        let (old, far) = (lines(&place), outside(&place));
        assert_eq!(all(&old), (true, true));
        let before = cut(&host.run(&place.state, Wake::Retry));

        // As the original does it: they go on, whatever changes.
        let mut state = next(&place.state);
        set(&mut state, "s:friends", &[2]);
        host.apply(&state, Wake::Desired);
        assert_eq!(all(&old), (true, true), "keep");
        assert!(!Line::udp(&place.a, place.b.v4(), 5000).echoes(), "a new one is asked");
        let mut state = next(&place.state);
        host.apply(&state, Wake::Desired);

        // Who wants it now is asked about what there is: nothing is denied.
        settings(&mut state, |s| s.cut_denied_connections = true);
        let mut state = next(&state);
        assert_eq!(cut(&host.apply(&state, Wake::Desired)), before);
        assert_eq!(all(&old), (true, true));

        // A member leaves: not at once after the last time, but in a second.
        set(&mut state, "s:friends", &[2]);
        let mut state = next(&state);
        let report = host.apply(&state, Wake::Desired);
        let wait = report.wake_after.expect("it comes back to that");
        // A second, or twenty times what it took on a busy machine.
        assert!(wait <= Duration::from_secs(10), "{wait:?}");
        assert_eq!(cut(&report), before);
        host.sleep(wait);
        let begin = Instant::now();
        assert!(cut(&host.apply(&state, Wake::Timer)) >= before + 2);
        let rest = |begin: Instant| Duration::from_secs(2).max(begin.elapsed() * 20);
        let pause = rest(begin);
        assert_eq!(all(&old), (true, false), "UDP is denied, TCP is not");

        // A rule goes.
        host.sleep(pause);
        profile(&mut state, "some", vec![], vec![any(Action::Allow)]);
        let mut state = next(&state);
        let begin = Instant::now();
        host.apply(&state, Wake::Desired);
        let pause = rest(begin);
        assert_eq!(all(&old), (false, false));
        assert!(far.iter().all(Line::echoes), "what goes out is still allowed");

        // Another class: what the endpoint may send.
        host.sleep(pause);
        open(&mut state);
        profile(&mut state, "mute", vec![any(Action::Allow)], vec![]);
        endpoint(&mut state, &place.a, &profiles(&["mute"]), true);
        let mut state = next(&state);
        host.apply(&state, Wake::Desired);
        assert!(!far.iter().any(Line::echoes), "cut");

        // While no agent ran.
        endpoint(&mut state, &place.a, &profiles(&["some"]), true);
        set(&mut state, "s:friends", &[1]);
        let mut state = next(&state);
        host.apply(&state, Wake::Desired);
        let new = lines(&place);
        assert_eq!(all(&new), (true, true));
        host.restart();
        set(&mut state, "s:friends", &[2]);
        host.apply(&next(&state), Wake::Start);
        assert_eq!(all(&new), (true, false));
    });
}
