//! A host with pods, and probes between them.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use calico_agent::config::IptablesBackend;
use calico_agent::desired::DesiredState;
use calico_agent::exec::Exec;
use calico_agent::felix::Felix;
use calico_agent::reconcile::{Reconciler as _, Report, Wake, World};
use calico_agent::routes::monitor::{Link, Links};

use crate::netns::{Netns, sh};

/// How long a probe waits before it counts as not answered.
const PATIENCE: Duration = Duration::from_millis(250);

/// What carries policy into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// iptables, legacy tables.
    Legacy,
    /// iptables, nf_tables.
    Nft,
    /// A table of our own of nf_tables.
    Nftables,
}

impl Flavour {
    /// The setting of one of iptables.
    pub(crate) fn iptables(self) -> IptablesBackend {
        match self {
            Self::Legacy => IptablesBackend::Legacy,
            Self::Nft => IptablesBackend::Nft,
            Self::Nftables => IptablesBackend::Auto,
        }
    }
}

/// Those of iptables: what a test is about that speaks of its tables or of address sets.
const IPTABLES: [Flavour; 2] = [Flavour::Legacy, Flavour::Nft];
/// All.
const ALL: [Flavour; 3] = [Flavour::Legacy, Flavour::Nft, Flavour::Nftables];

/// The host: the namespace of the test's own thread.
pub(crate) struct Host {
    pub(crate) felix: Felix,
    pub(crate) links: Links,
    runtime: tokio::runtime::Runtime,
    flavour: Flavour,
}

/// Runs `test` on a new host, once for each flavour of iptables.
pub(crate) fn each_flavour(test: impl Fn(&mut Host, Flavour) + Send + Sync + Copy + 'static) {
    each(&IPTABLES, test);
}

/// Runs `test` on a new host, once for each dataplane.
pub(crate) fn each_dataplane(test: impl Fn(&mut Host, Flavour) + Send + Sync + Copy + 'static) {
    each(&ALL, test);
}

/// Runs `test` on a new host with our own table of nf_tables.
pub(crate) fn on_nftables(test: impl Fn(&mut Host, Flavour) + Send + Sync + Copy + 'static) {
    each(&[Flavour::Nftables], test);
}

fn each(flavours: &[Flavour], test: impl Fn(&mut Host, Flavour) + Send + Sync + Copy + 'static) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root for network namespaces");
        return;
    }
    for &flavour in flavours {
        let netns = Netns::new();
        let outcome = netns.run(move || {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut host = Host::new(flavour);
                test(&mut host, flavour);
            }))
        });
        if let Err(panic) = outcome {
            println!("failed on {flavour:?}");
            std::panic::resume_unwind(panic);
        }
    }
}

impl Host {
    fn new(flavour: Flavour) -> Self {
        sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0
             ip addr add 192.0.2.1/32 dev lo; ip -6 addr add fd99::1/128 dev lo nodad");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self {
            felix: Felix::new(Exec::default(), PathBuf::from("/proc/sys")),
            links: Links::new(),
            runtime,
            flavour,
        }
    }

    /// What carries policy into the kernel.
    pub(crate) fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Starts the agent anew: it knows nothing of what it did.
    pub(crate) fn restart(&mut self) {
        self.felix = Felix::new(Exec::default(), PathBuf::from("/proc/sys"));
    }

    /// One run, whatever comes of it.
    pub(crate) fn run(&mut self, desired: &DesiredState, wake: Wake) -> Report {
        let world = World { desired: Arc::new(desired.clone()), links: self.links.clone() };
        self.runtime.block_on(self.felix.reconcile(&world, wake))
    }

    /// One run that must succeed.
    pub(crate) fn apply(&mut self, desired: &DesiredState, wake: Wake) -> Report {
        let report = self.run(desired, wake);
        assert_eq!(report.problems, [], "{:?}", report.facts);
        assert_eq!(report.applied, Some(desired.generation));
        report
    }

    /// Waits for a future, in the host's namespace.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Waits without doing anything, as the loop does.
    pub(crate) fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    /// What the kernel's tables hold, by the flavour's own tool; without the counters of the
    /// kernel's chains, which any packet in between changes (multicast listener reports come late).
    pub(crate) fn saved(&self, family: u8) -> String {
        let v = if family == 4 { "" } else { "6" };
        match self.flavour {
            // Both families are in one table; elements come in no order.
            Flavour::Nftables => sh("nft -s list ruleset"),
            _ => sh(&format!(r"ip{v}tables-{}-save | sed '/^#/d; /^:/s/ \[.*//'", self.tool())),
        }
    }

    /// The same with the counters of each rule.
    pub(crate) fn saved_with_counters(&self, family: u8) -> String {
        let v = if family == 4 { "" } else { "6" };
        match self.flavour {
            Flavour::Nftables => sh("nft list ruleset"),
            _ => sh(&format!("ip{v}tables-{}-save -c", self.tool())),
        }
    }

    /// What the names of the flavour's programs hold: `legacy` or `nft`.
    pub(crate) fn tool(&self) -> &'static str {
        match self.flavour {
            Flavour::Legacy => "legacy",
            // What others write beside our own table they may write with iptables.
            Flavour::Nft | Flavour::Nftables => "nft",
        }
    }

    /// Runs `iptables` or `ip6tables` of the flavour.
    pub(crate) fn iptables(&self, family: u8, args: &str) {
        let v = if family == 4 { "" } else { "6" };
        sh(&format!("ip{v}tables-{} -w {args}", self.tool()));
    }

    /// Makes the pod number `n`.
    pub(crate) fn pod(&mut self, n: u8) -> Pod {
        self.pod_behind(n, &format!("calipod{n}"))
    }

    /// The same behind an interface of that name.
    pub(crate) fn pod_behind(&mut self, n: u8, interface: &str) -> Pod {
        let pod = Pod { netns: Netns::new(), n, interface: interface.to_owned() };
        let (v4, v6, mac, tid) = (pod.v4(), pod.v6(), pod.mac(), pod.netns.tid);
        sh(&format!(
            "ip link add {interface} address ee:ee:ee:ee:ee:ee type veth \
             peer name eth0 address {mac} netns {tid}
             ip link set {interface} up
             ip route add {v4}/32 dev {interface}
             ip -6 route add {v6}/128 dev {interface}"
        ));
        pod.netns.sh(&format!(
            "sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.eth0.accept_dad=0
             ip addr add {v4}/32 dev eth0
             ip -6 addr add {v6}/128 dev eth0 nodad
             ip link set eth0 up
             ip route add 169.254.1.1 dev eth0
             ip neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent
             ip route add default via 169.254.1.1
             ip -6 route add default via fe80::ecee:eeff:feee:eeee dev eth0"
        ));
        let index = sh(&format!("ip -o link show {interface} | cut -d: -f1"));
        let link = Link {
            index: index.trim().parse().unwrap(),
            up: true,
            mac: None,
            mtu: 1500,
            ..Link::default()
        };
        self.links.insert(interface.parse().unwrap(), link);
        // The kernel needs a moment to bring the link-local addresses up.
        pod.netns.sh("for i in $(seq 100); do ip -6 addr show dev eth0 scope link | grep -q 'inet6 fe80.*scope link $' && exit 0; sleep 0.02; done; ip -6 addr; exit 1");
        pod
    }

    /// Can the host reach an address?
    pub(crate) fn reaches(&self, to: IpAddr, port: u16) -> bool {
        connects(SocketAddr::new(to, port), None)
    }
}

/// A pod: a namespace behind a veth pair.
pub(crate) struct Pod {
    pub(crate) netns: Netns,
    pub(crate) n: u8,
    pub(crate) interface: String,
}

impl Pod {
    pub(crate) fn v4(&self) -> IpAddr {
        v4(self.n)
    }

    pub(crate) fn v6(&self) -> IpAddr {
        v6(self.n)
    }

    pub(crate) fn both(&self) -> [IpAddr; 2] {
        [self.v4(), self.v6()]
    }

    pub(crate) fn mac(&self) -> String {
        format!("02:00:00:00:00:{:02x}", self.n)
    }

    /// Answers on a TCP port, on all addresses, until the test ends.
    pub(crate) fn serve(&self, port: u16) {
        self.netns.run(move || serve(port));
    }

    /// Can it open a connection?
    pub(crate) fn reaches(&self, to: IpAddr, port: u16) -> bool {
        self.netns.run(move || connects(SocketAddr::new(to, port), None))
    }

    /// Can it open a connection from an address of its own choice?
    pub(crate) fn reaches_from(&self, from: IpAddr, to: IpAddr, port: u16) -> bool {
        self.netns.run(move || connects(SocketAddr::new(to, port), Some(from)))
    }
}

pub(crate) fn v4(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 65, 0, n))
}

pub(crate) fn v6(n: u8) -> IpAddr {
    format!("fd65::{n:x}").parse().unwrap()
}

/// Answers every connection with its peer's address.
pub(crate) fn serve(port: u16) {
    let listener = TcpListener::bind(format!("[::]:{port}")).expect("the port is free");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut stream = stream;
                let peer = stream.peer_addr().map(|p| p.ip().to_canonical().to_string());
                let _ = stream.write_all(peer.unwrap_or_default().as_bytes());
                let mut line = [0; 64];
                // Echo for those who stay.
                while let Ok(n @ 1..) = stream.read(&mut line) {
                    let _ = stream.write_all(&line[..n]);
                }
            });
        }
    });
}

/// A socket for datagrams. A program that another test starts just now may still hold the one that was
/// at that port before.
pub(crate) fn receiver(at: SocketAddr) -> UdpSocket {
    let in_use = |socket: &std::io::Result<UdpSocket>| {
        socket.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse)
    };
    let mut socket = UdpSocket::bind(at);
    for _ in 0..100 {
        if !in_use(&socket) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        socket = UdpSocket::bind(at);
    }
    socket.expect("an own address and a free port")
}

/// Opens a connection and reads what [`serve`] says.
pub(crate) fn dial(to: SocketAddr) -> std::io::Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    // It is through; who answers may wait for a processor.
    stream.set_read_timeout(Some(PATIENCE * 20))?;
    let mut text = [0; 64];
    let n = stream.read(&mut text)?;
    Ok((stream, String::from_utf8_lossy(&text[..n]).into_owned()))
}

fn connects(to: SocketAddr, from: Option<IpAddr>) -> bool {
    match from {
        None => dial(to).is_ok(),
        // The standard library cannot bind before it connects.
        Some(from) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let socket = if to.is_ipv4() {
                    tokio::net::TcpSocket::new_v4()
                } else {
                    tokio::net::TcpSocket::new_v6()
                }
                .unwrap();
                socket.bind(SocketAddr::new(from, 0)).unwrap();
                let connected = tokio::time::timeout(PATIENCE, socket.connect(to)).await;
                connected.is_ok_and(|stream| stream.is_ok())
            })
        }
    }
}
