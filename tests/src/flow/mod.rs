//! Flows that never stop: numbered packets at a steady rate, on one socket and on ever new ones, and
//! a count of what arrived. What is allowed must arrive exactly once, what is denied never.
//!
//! `send` sends, `receive` receives, `tally` counts. What a flow is expected to do is the
//! caller's. A packet carries the number of its flow, so it is counted wherever it ends up.

mod during;
mod receive;
mod send;
mod tally;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use self::during::during;
use self::tally::Count;
pub use self::tally::Tally;
use crate::matrix::{Family, Site};
use crate::netns::{Place, place};
use crate::probe::Service;
use crate::tutorial::{DNS, HTTP};

/// How often a flow on one socket sends; one on new sockets half as often.
pub const RATE: Duration = Duration::from_millis(10);
/// How long packets under way are waited for at the end.
const SETTLE: Duration = Duration::from_secs(3);

/// Who sends what to whom, and what should become of it.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The site that sends.
    pub from: String,
    /// The site that is sent to.
    pub to: String,
    /// Over which family.
    pub family: Family,
    /// Over TCP or UDP, and to which port.
    pub service: Service,
    /// Sent from this address, which the sender has given to itself.
    pub spoofed: Option<IpAddr>,
    /// It should arrive.
    pub allowed: bool,
}

/// What the networks of the tutorial allow from host to host, and beside each what they deny.
pub fn of_networks() -> Vec<Flow> {
    let flow = |from: &str, to: &str, service, allowed| {
        let (from, to) = (from.to_owned(), to.to_owned());
        Flow { from, to, family: Family::V4, service, spoofed: None, allowed }
    };
    let (tcp, udp) = (Service::Tcp(HTTP), Service::Udp(DNS));
    vec![
        flow("frontend-1", "frontend-2", tcp, true),
        flow("frontend-1", "backend-2", tcp, false),
        flow("backend-2", "backend-1", udp, true),
        flow("frontend-2", "backend-1", udp, false),
    ]
}

/// Which sockets a flow uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sockets {
    /// One for all: policy is asked once, routes and anti-spoofing every time.
    One,
    /// A new one for each packet: policy is asked every time.
    New,
}

/// A flow over one kind of sockets.
#[derive(Clone, Debug)]
pub struct Stream {
    /// What is sent.
    pub flow: Flow,
    /// Over what.
    pub sockets: Sockets,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Flow { from, to, family, service, spoofed, allowed } = &self.flow;
        let verdict = if *allowed { "allowed" } else { "denied" };
        let family = if *family == Family::V4 { "IPv4" } else { "IPv6" };
        let sockets = if self.sockets == Sockets::One { "one socket" } else { "new sockets" };
        let spoofed = if spoofed.is_some() { " (spoofed)" } else { "" };
        write!(f, "{verdict} {from}{spoofed} → {to} {service} {family}, {sockets}")
    }
}

/// Running flows. Dropping them stops them.
#[derive(Debug)]
pub struct Flows {
    streams: Vec<Arc<Running>>,
    senders: Vec<JoinHandle<()>>,
    receivers: Vec<receive::Receiver>,
    gates: Vec<Gate>,
    epoch: Instant,
}

/// A stream and what is known of it.
#[derive(Debug)]
struct Running {
    stream: Stream,
    count: Count,
}

/// A rule in a pod that counts what of a denied flow came in, whether or not a socket took it.
#[derive(Debug)]
struct Gate {
    place: Place,
    id: usize,
}

/// The table of the [`Gate`]s.
const GATES: &str = "flows";

impl Flows {
    /// Starts all of them among `sites`; whoever serves their ports must have been stopped.
    ///
    /// # Errors
    /// When a flow names no site, or a socket cannot be made.
    pub fn start(flows: &[Flow], sites: &[Site]) -> Result<Self> {
        let site = |name: &str| {
            let mut all = sites.iter();
            all.find(|site| site.name == name).with_context(|| format!("no site {name}"))
        };
        let epoch = Instant::now();
        let mut streams = Vec::new();
        for flow in flows {
            for sockets in [Sockets::One, Sockets::New] {
                let tcp = match flow.service {
                    Service::Tcp(_) => true,
                    Service::Udp(_) => false,
                    Service::Icmp => bail!("an echo has no socket to arrive at"),
                };
                // A connection that is denied is none: nothing can be sent over it.
                if !flow.allowed && tcp && sockets == Sockets::One {
                    continue;
                }
                let stream = Stream { flow: flow.clone(), sockets };
                streams.push(Arc::new(Running { stream, count: Count::default() }));
            }
        }
        let mut this =
            Self { streams, senders: Vec::new(), receivers: Vec::new(), gates: Vec::new(), epoch };
        let mut targets: BTreeMap<&str, Vec<Service>> = BTreeMap::new();
        for flow in flows {
            let services = targets.entry(&flow.to).or_default();
            if !services.contains(&flow.service) {
                services.push(flow.service);
            }
        }
        for (name, services) in targets {
            let receiver = receive::Receiver::start(site(name)?, &services, &this.streams)?;
            this.receivers.push(receiver);
        }
        for (id, running) in this.streams.iter().enumerate() {
            let (from, to) = (site(&running.stream.flow.from)?, site(&running.stream.flow.to)?);
            if !running.stream.flow.allowed {
                this.gates.extend(Gate::make(id, &running.stream.flow, from, to)?);
            }
        }
        for (id, running) in this.streams.iter().enumerate() {
            let flow = &running.stream.flow;
            let (from, to) = (site(&flow.from)?, site(&flow.to)?.address(flow.family));
            let sender = send::start(id, Arc::clone(running), &from.netns, to, epoch)?;
            this.senders.push(sender);
        }
        Ok(this)
    }

    /// The moment from which the tallies' times count.
    pub fn epoch(&self) -> Instant {
        self.epoch
    }

    /// Stops sending, waits for what is under way, and says what became of each stream.
    ///
    /// # Errors
    /// When a counter cannot be read.
    pub fn finish(mut self) -> Result<Vec<Tally>> {
        self.stop();
        let end = Instant::now() + SETTLE;
        let missing = |running: &Arc<Running>| {
            running.stream.flow.allowed && running.count.arrived() < running.count.sent()
        };
        while Instant::now() < end && self.streams.iter().any(missing) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut tallies: Vec<Tally> =
            self.streams.iter().map(|running| running.count.tally(&running.stream)).collect();
        for gate in &self.gates {
            tallies[gate.id].slipped = gate.read()?;
        }
        Ok(tallies)
    }

    fn stop(&mut self) {
        self.streams.iter().for_each(|running| running.count.stop());
        for sender in self.senders.drain(..) {
            let _ = sender.join();
        }
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Gate {
    /// `None` on a host: what comes in there meets the agent's rules afterwards.
    fn make(id: usize, flow: &Flow, from: &Site, to: &Site) -> Result<Option<Self>> {
        let (protocol, port) = match flow.service {
            Service::Tcp(port) => ("tcp", port),
            Service::Udp(port) => ("udp", port),
            Service::Icmp => return Ok(None),
        };
        if flow.spoofed.is_some() || to.name.starts_with("calico-") {
            return Ok(None);
        }
        let place = place(&to.netns);
        let family = if flow.family == Family::V4 { "ip" } else { "ip6" };
        let source = from.address(flow.family);
        let text = format!(
            "add table inet {GATES}\n\
             add chain inet {GATES} in {{ type filter hook input priority 0 ; }}\n\
             add counter inet {GATES} flow{id}\n\
             add rule inet {GATES} in {family} saddr {source} {protocol} dport {port} counter name flow{id}\n"
        );
        place.command("nft").args(["-f", "-"]).input(text).run()?;
        Ok(Some(Self { place, id }))
    }

    fn read(&self) -> Result<u64> {
        let name = format!("flow{}", self.id);
        let text =
            self.place.command("nft").args(["list", "counter", "inet", GATES, &name]).run()?;
        let number = text.split_once("packets ").and_then(|(_, rest)| rest.split_once(' '));
        number
            .and_then(|(number, _)| number.parse().ok())
            .with_context(|| format!("no count: {text}"))
    }
}
