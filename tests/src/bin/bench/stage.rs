//! A host with many endpoints, and packets to and from them.
//!
//! `calico-01` runs the agent. The far ends of all its pods' veths lie in one namespace, `pods`, which
//! takes their addresses, all of a /12, as its own; `calico-02` is every remote endpoint,
//! with the upper half. So a packet for or from any endpoint can be sent without another namespace.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::{Flavour, Host};
use calico_e2e::netns::{Netns, Place};
use calico_e2e::tutorial;
use calico_e2e::wait;
use calico_e2e::world::{IPPool, Pair, Resource, WorkloadEndpoint, workload_endpoint};

/// Where every pod listens.
pub(crate) const PORT: u16 = 5001;
/// How often a packet is sent while one is waited for. The kernel adds its timer slack.
const EVERY: Duration = Duration::from_micros(50);
/// So many links are made by one process.
const LINKS: usize = 250;
/// The host's end of the veth of an endpoint with a namespace of its own.
const HOST_MAC: &str = "ee:ee:ee:ee:ee:ee";
/// Nothing takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// Of one of the endpoints by its number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endpoint {
    number: u32,
    remote: bool,
}

impl Endpoint {
    /// The one on the host that is measured whose far end lies apart ([`Stage::wire_apart`]).
    pub(crate) const APART: Self = Self { number: 1 << 20, remote: false };

    /// On the host that is measured, 0 to 30,000.
    pub(crate) fn local(number: u32) -> Self {
        Self { number, remote: false }
    }

    /// On the other host, 0 to 100,000.
    pub(crate) fn remote(number: u32) -> Self {
        Self { number, remote: true }
    }

    /// Its address.
    pub(crate) fn address(self) -> Ipv4Addr {
        // 10.64.0.0/11 and 10.96.0.0/11 are the two halves of the pool 10.64.0.0/10.
        let half: u32 = if self.remote { 0x0a60_0000 } else { 0x0a40_0000 };
        Ipv4Addr::from(half + 256 + self.number)
    }

    fn id(self) -> String {
        let side = if self.remote { 'e' } else { 'b' };
        format!("{side}{:07x}-0000-4000-8000-000000000000", self.number)
    }

    fn interface(self) -> String {
        format!("cali{}", &self.id()[..11])
    }

    fn mac(self) -> String {
        let [_, a, b, c] = self.number.to_be_bytes();
        format!("ca:fe:00:{a:02x}:{b:02x}:{c:02x}")
    }

    fn object(self, label: &str) -> Resource<WorkloadEndpoint> {
        let spec = WorkloadEndpoint {
            orchestrator: "cni".to_owned(),
            node: if self.remote { "calico-02" } else { "calico-01" }.to_owned(),
            container_id: self.id(),
            endpoint: "eth0".to_owned(),
            networks: vec![format!("{}/32", self.address())],
            profiles: vec!["frontend".to_owned()],
            interface: self.interface(),
            mac: self.mac(),
            ports: Vec::new(),
        };
        workload_endpoint(spec).label("turn", label)
    }

    /// Its key.
    pub(crate) fn key(self) -> String {
        self.object("0").key()
    }

    /// Its key and value; another `turn` makes another value of the same meaning.
    pub(crate) fn pair(self, turn: &str) -> Pair {
        self.object(turn).pair()
    }
}

/// The set-up.
pub(crate) struct Stage {
    /// Its parts.
    pub(crate) cluster: Cluster,
    pods: Netns,
    wired: u32,
    ready: UnixDatagram,
}

impl Stage {
    /// Hosts, wire, etcd with a pool and the network `frontend`; no agent yet.
    pub(crate) fn new(label: &str, flavour: Flavour) -> Result<Self> {
        let mut cluster = Cluster::new(label)?;
        let mut base = tutorial::base();
        base.retain(|(key, _)| !key.contains("/ippools/"));
        base.push(Resource::new("bench", IPPool::plain("10.64.0.0/10", 26, false)).pair());
        cluster.etcd.put_all(&base)?;
        let pods = Netns::new(cluster.run(), "pods")?;
        let any = |ns: &Place, half: &str| ns.ip(&format!("route add local {half} dev lo\n"));
        any(&pods, "10.64.0.0/12")?;
        pods.sysctl("ipv4/conf/default/rp_filter", "0")?;
        pods.sysctl("ipv4/conf/all/rp_filter", "0")?;
        let there = cluster.hosts[1].spec.v4;
        any(cluster.hosts[1].ns(), "10.96.0.0/11")?;
        let ns = cluster.hosts[0].ns();
        ns.ip(&format!("route add 10.96.0.0/11 via {there}\n"))?;
        let here = cluster.hosts[0].spec.v4;
        cluster.hosts[1].ns().ip(&format!("route add 10.64.0.0/11 via {here}\n"))?;
        ns.sysctl("ipv4/ip_forward", "1")?;
        let socket = cluster.run().dir().join("notify");
        let ready = UnixDatagram::bind(&socket)?;
        ready.set_read_timeout(Some(LIMIT))?;
        let host = &mut cluster.hosts[0];
        host.flavour = flavour;
        host.env.push(("NOTIFY_SOCKET".to_owned(), socket.display().to_string()));
        // As systemd/calico-agent.service has it.
        host.env.push(("MALLOC_ARENA_MAX".to_owned(), "1".to_owned()));
        Ok(Self { cluster, pods, wired: 0, ready })
    }

    /// The host that is measured.
    pub(crate) fn host(&self) -> &Host {
        &self.cluster.hosts[0]
    }

    /// Its agent's process.
    pub(crate) fn pid(&mut self) -> Result<u32> {
        Ok(self.cluster.hosts[0].agent()?.pid())
    }

    /// Makes the veths of the local endpoints up to that number.
    pub(crate) fn wire(&mut self, up_to: u32) -> Result<()> {
        let missing: Vec<u32> = (self.wired..up_to).collect();
        for some in missing.chunks(LINKS) {
            let (mut links, mut ends) = (String::new(), String::new());
            for number in some {
                let endpoint = Endpoint::local(*number);
                let (name, mac) = (endpoint.interface(), endpoint.mac());
                let peer = name.replace("cali", "peer");
                links += &format!(
                    "link add {name} address {HOST_MAC} type veth peer name {peer} address {mac} netns {}\n\
                     link set {name} up\n",
                    self.pods.name()
                );
                ends += &format!("link set {peer} up\n");
            }
            self.host().ns().ip(&links)?;
            self.pods.ip(&ends)?;
        }
        self.wired = self.wired.max(up_to);
        Ok(())
    }

    /// Makes the veth of [`Endpoint::APART`]: its far end has a namespace of its own. The first of the
    /// others is there.
    pub(crate) fn wire_apart(&self) -> Result<Netns> {
        let one = Endpoint::APART;
        let apart = Netns::new(self.cluster.run(), "apart")?;
        let (name, mac, address) = (one.interface(), one.mac(), one.address());
        self.host().ns().ip(&format!(
            "link add {name} address {HOST_MAC} type veth peer name eth0 address {mac} netns {}\n\
             link set {name} up\n",
            apart.name()
        ))?;
        // The others answer by the veth of the first of them.
        let first = Endpoint::local(0).interface().replace("cali", "peer");
        self.pods.ip(&format!(
            "neigh add 169.254.1.1 lladdr {HOST_MAC} dev {first} nud permanent\n\
             route add {address} via 169.254.1.1 dev {first} onlink src {}\n",
            Endpoint::local(0).address()
        ))?;
        apart.ip(&format!(
            "link set eth0 up\naddr add {address}/32 dev eth0\n\
             route add 169.254.1.1 dev eth0 scope link\nroute add default via 169.254.1.1 dev eth0\n\
             neigh add 169.254.1.1 lladdr {HOST_MAC} dev eth0 nud permanent\n"
        ))?;
        Ok(apart)
    }

    /// Routes to these as the agent makes them.
    pub(crate) fn route_by_hand(&self, endpoints: &[Endpoint]) -> Result<()> {
        let lines = endpoints.iter().map(|one| {
            let (name, mac, address) = (one.interface(), one.mac(), one.address());
            format!(
                "route add {address} dev {name} scope link\n\
                 neigh replace {address} lladdr {mac} dev {name} nud permanent\n"
            )
        });
        self.host().ns().ip(&lines.collect::<String>())
    }

    /// A socket of all pods that lie together.
    pub(crate) fn door(&self) -> Result<UdpSocket> {
        let door = self.pods.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?))?;
        door.set_read_timeout(Some(LIMIT))?;
        Ok(door)
    }

    /// Waits until the agent has told that so many local endpoints are in the kernel.
    pub(crate) fn settle(&self, locals: u32) -> Result<()> {
        let what = format!("{locals} endpoints in the kernel");
        let all = || (0..locals).all(|n| self.is_told(Endpoint::local(n)));
        wait::until_true(&what, LIMIT, all)
    }

    /// Waits until the agent does not tell of an endpoint any more; of a remote one it never does.
    pub(crate) fn gone(&self, endpoint: Endpoint) -> Result<()> {
        wait::until_true("an endpoint that goes", LIMIT, || !self.is_told(endpoint))
    }

    /// True when the agent says that the endpoint is in the kernel.
    fn is_told(&self, endpoint: Endpoint) -> bool {
        self.host().has_status_file(&format!("cni default%2F{} eth0", endpoint.id()))
    }

    /// Starts the agent; how long it took until it said that everything is in the kernel.
    pub(crate) fn start(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        self.cluster.hosts[0].start_agent()?;
        let mut buffer = [0; 4096];
        loop {
            let length = self.ready.recv(&mut buffer).context("the agent is not ready")?;
            let text = String::from_utf8_lossy(&buffer[..length]);
            if text.lines().any(|line| line == "READY=1") {
                return Ok(begin.elapsed());
            }
            ensure!(begin.elapsed() < LIMIT, "the agent is not ready: {}", self.cluster.logs());
        }
    }

    /// Ends the agent, and forgets what it said.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.cluster.hosts[0].stop_agent()?;
        self.ready.set_nonblocking(true)?;
        let mut buffer = [0; 4096];
        while self.ready.recv(&mut buffer).is_ok() {}
        self.ready.set_nonblocking(false)?;
        Ok(())
    }

    /// Begins to send packets from `from` (remote) to `to` (local), and to listen for them.
    pub(crate) fn knock(&self, from: Endpoint, to: Endpoint) -> Result<Knock> {
        let door = self.door()?;
        let send = || Ok(UdpSocket::bind((from.address(), 0))?);
        let socket = self.cluster.hosts[1].ns().enter(send)?;
        let (over, to) = (Arc::new(AtomicBool::new(false)), SocketAddrV4::new(to.address(), PORT));
        let stop = Arc::clone(&over);
        let sender = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // What nobody lets through is nobody's error.
                let _ = socket.send_to(b"knock", to);
                std::thread::sleep(EVERY);
            }
        });
        Ok(Knock { door, over, sender: Some(sender) })
    }
}

/// Packets of one pair.
pub(crate) struct Knock {
    door: UdpSocket,
    over: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
}

impl Knock {
    /// Ends with an error when a packet came.
    pub(crate) fn none_came(&self) -> Result<()> {
        self.door.set_nonblocking(true)?;
        let came = self.door.recv(&mut [0; 16]).is_ok();
        self.door.set_nonblocking(false)?;
        if came {
            bail!("a packet passed before it was allowed")
        }
        Ok(())
    }

    /// When the first one came.
    pub(crate) fn first(&self) -> Result<Instant> {
        self.door.recv(&mut [0; 16]).context("no packet came")?;
        Ok(Instant::now())
    }
}

impl Drop for Knock {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
    }
}
