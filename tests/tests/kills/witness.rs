//! What must not change on a host while its agent comes and goes: routes, BGP sessions, counters of
//! rules that stay, and in the end everything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use calico_e2e::host::Host;
use calico_e2e::kernel::Snapshot;
use calico_e2e::own_table;
use calico_e2e::process::Process;
use calico_e2e::tutorial::{HOSTS, PODS};

/// Chains that no change of this test touches, by what their names begin with: those that the
/// kernel's own chains call, and those of the two policies that never change.
const STEADY: [&str; 7] = [
    "cali-FORWARD",
    "cali-INPUT",
    "cali-OUTPUT",
    "cali-PREROUTING",
    "cali-POSTROUTING",
    "cali-pi-security.no-udp",
    "cali-pi-default.http",
];

/// The same in the agent's own table.
const STEADY_OWN: [&str; 7] = [
    "forward-from-pod",
    "forward-to-pod",
    "input-",
    "raw-prerouting",
    "anti-spoof",
    "pi-security.no-udp",
    "pi-default.http",
];

/// Watches a host.
pub(super) struct Witness {
    monitor: Process,
    sessions: Vec<Session>,
    counters: BTreeMap<(String, String), u64>,
    /// What `nft` tells of sets that are made, where the agent has a table of its own.
    made: Option<Process>,
    /// How much of that belongs to the time before the counters were read.
    told: usize,
    /// How many counters were compared in all.
    pub(super) compared: usize,
}

impl Witness {
    pub(super) fn start(host: &Host, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{}-routes.log", host.spec.name));
        let monitor = host.ns().command("ip").args(["monitor", "route"]).start(&log)?;
        let sessions = sessions(host)?;
        ensure!(!sessions.is_empty(), "no BGP session on {}", host.spec.name);
        let made = host.flavour.is_nftables().then(|| {
            let log = dir.join(format!("{}-sets.log", host.spec.name));
            host.ns().command("nft").args(["monitor", "new", "sets"]).start(&log)
        });
        let made = made.transpose()?;
        Ok(Self { monitor, sessions, counters: BTreeMap::new(), made, told: 0, compared: 0 })
    }

    /// The sets of our own table that were made since the last time. One that changes together with rules
    /// that name it becomes another set, and rules that name it are written anew: twice, and the rule reads
    /// as before.
    fn sets_made(&mut self) -> Result<BTreeSet<String>> {
        let Some(monitor) = &mut self.made else { return Ok(BTreeSet::new()) };
        ensure!(monitor.ended().is_none(), "nobody watched the sets");
        let log = monitor.log();
        let news = log.get(self.told..).unwrap_or_default();
        let lines = news.lines().filter_map(|line| line.strip_prefix("create set inet calico "));
        let made = lines.filter_map(|line| line.split_whitespace().next());
        let made = made.map(str::to_owned).collect();
        self.told = log.len();
        Ok(made)
    }

    /// Compares the counters with those of the last time. Nothing may be writing.
    pub(super) fn compare_counters(&mut self, host: &Host) -> Result<Vec<String>> {
        let now = counters(host)?;
        let made = self.sets_made()?;
        let mut wrong = Vec::new();
        for (rule, before) in &self.counters {
            if let Some(after) = now.get(rule) {
                let named = rule.1.split_whitespace().filter_map(|word| word.strip_prefix('@'));
                if named.into_iter().any(|set| made.contains(set)) {
                    continue;
                }
                self.compared += 1;
                if after < before {
                    wrong.push(format!(
                        "{}: {rule:?} went from {before} to {after}",
                        host.spec.name
                    ));
                }
            }
        }
        self.counters = now;
        Ok(wrong)
    }

    /// What became of routes and sessions.
    pub(super) fn complaints(&mut self, host: &Host) -> Result<Vec<String>> {
        let name = host.spec.name;
        ensure!(self.monitor.ended().is_none(), "nobody watched the routes of {name}");
        let log = self.monitor.log();
        let pods = PODS.iter().flat_map(|pod| [pod.v4.to_string(), pod.v6.to_string()]);
        let blocks = HOSTS
            .iter()
            .flat_map(|host| [format!("{}/26", host.block4), format!("{}/122", host.block6)]);
        let steady: Vec<String> = pods.chain(blocks).map(|to| format!("{to} ")).collect();
        let lost = |line: &&str| {
            line.strip_prefix("Deleted ").is_some_and(|rest| {
                let rest = rest.strip_prefix("blackhole ").unwrap_or(rest);
                steady.iter().any(|to| rest.starts_with(to))
            })
        };
        let mut all: Vec<String> =
            log.lines().filter(lost).map(|line| format!("{name}: {line}")).collect();
        let sessions = sessions(host)?;
        let same = |(a, b): (&Session, &Session)| a.is(b);
        if sessions.len() != self.sessions.len() || !sessions.iter().zip(&self.sessions).all(same) {
            all.push(format!("{name}: {:?} became {sessions:?}", self.sessions));
        }
        Ok(all)
    }
}

/// BIRD's BGP sessions: name, state, and since when.
/// A BGP session: what BIRD says of it, and since when.
#[derive(Debug)]
struct Session {
    text: String,
    since: Duration,
}

/// BIRD works out the time of day from its own clock each time that it is asked, and is a millisecond
/// off now and then. A session that went down is not up again within this.
const SINCE: Duration = Duration::from_millis(50);

impl Session {
    fn read(line: &str) -> Result<Self> {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        ensure!(words.len() > 4, "a session: {line}");
        let since = words.remove(4);
        let number = |text: &str| text.parse::<f64>().with_context(|| line.to_owned());
        let seconds = since
            .split(':')
            .try_fold(0.0, |sum, part| Ok::<_, Error>(sum * 60.0 + number(part)?))?;
        Ok(Self { text: words.join(" "), since: Duration::try_from_secs_f64(seconds)? })
    }

    fn is(&self, other: &Self) -> bool {
        self.text == other.text && self.since.abs_diff(other.since) <= SINCE
    }
}

fn sessions(host: &Host) -> Result<Vec<Session>> {
    let socket = host.bird_socket();
    let command = host.ns().command("birdc").arg("-s").arg(socket).args(["show", "protocols"]);
    let text = command.run()?;
    text.lines().filter(|line| line.contains(" BGP ")).map(Session::read).collect()
}

fn tool(host: &Host, family: &str, verb: &str) -> String {
    format!("{family}-{}{verb}", host.flavour.iptables())
}

/// Packets by table and rule, of rules that exist once in a steady chain.
fn counters(host: &Host) -> Result<BTreeMap<(String, String), u64>> {
    let (mut all, mut twice) = (BTreeMap::new(), BTreeSet::new());
    if host.flavour.is_nftables() {
        for (chain, rule) in own_table::rules(host.ns())? {
            let Some(packets) = own_table::packets(&rule) else { continue };
            if !STEADY_OWN.iter().any(|steady| chain.starts_with(steady)) {
                continue;
            }
            let counts = format!("counter packets {packets} bytes ");
            let (before, after) = rule.split_once(&counts).context("a counter")?;
            let after = after.split_once(' ').map_or("", |(_, after)| after);
            let key = (chain, format!("{before}{after}"));
            if all.insert(key.clone(), packets).is_some() {
                twice.insert(key);
            }
        }
        all.retain(|key, _| !twice.contains(key));
        return Ok(all);
    }
    for family in ["iptables", "ip6tables"] {
        let text = host.ns().command(tool(host, family, "-save")).arg("-c").run()?;
        let mut table = "";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            }
            let Some((count, rule)) = line.strip_prefix('[').and_then(|l| l.split_once("] -A "))
            else {
                continue;
            };
            if !STEADY.iter().any(|chain| rule.starts_with(chain)) {
                continue;
            }
            let packets = count.split(':').next().and_then(|count| count.parse().ok());
            let key = (format!("{family} {table}"), rule.to_owned());
            if all.insert(key.clone(), packets.context("no counter")?).is_some() {
                twice.insert(key);
            }
        }
    }
    all.retain(|key, _| !twice.contains(key));
    Ok(all)
}

/// Everything that the agent of a host wrote, in an order that does not depend on its history.
pub(super) fn everything(host: &Host) -> Result<BTreeSet<String>> {
    let snapshot = Snapshot::take(host.ns())?.without_counters().to_string();
    // What nft shows is what iptables shows, with numbers that depend on the order of writing.
    let mut text = String::new();
    let mut part = "";
    let mut table = "";
    for line in snapshot.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            part = name;
        }
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        }
        // Tables and chains of the kernel's own: that a table was looked at makes it.
        let own = line.starts_with(['*', '#']) || line == "COMMIT";
        if part == "nft" || own || line.starts_with(':') && !line.contains("cali") {
            continue;
        }
        let mut words: Vec<&str> = line.split_whitespace().collect();
        if part == "ipset" {
            // How a set grew, its random seed, and what it counted.
            for key in ["hashsize", "initval", "bucketsize", "packets", "bytes"] {
                if let Some(at) = words.iter().position(|word| *word == key) {
                    words.drain(at..(at + 2).min(words.len()));
                }
            }
        }
        let place = if part.contains("save") { table } else { "" };
        text += &format!("{part} {place} {}\n", words.join(" "));
    }
    let own = own_table::lines(host.ns())?;
    Ok(text.lines().map(str::to_owned).chain(own).collect())
}

/// Removes everything that the agent of a host wrote, for one that begins with nothing.
pub(super) fn wipe(host: &Host) -> Result<()> {
    let ns = host.ns();
    if host.flavour.is_nftables() {
        ns.command("nft").args(["delete", "table", "inet", "calico"]).run()?;
        for (interface, _) in own_table::groups(ns)? {
            ns.ip(&format!("link set {interface} group 0\n"))?;
        }
    }
    let families: &[&str] =
        if host.flavour.is_nftables() { &[] } else { &["iptables", "ip6tables"] };
    for family in families {
        for table in ["filter", "nat", "mangle", "raw"] {
            for verb in ["-F", "-X"] {
                ns.command(tool(host, family, "")).args(["-w", "-t", table, verb]).run()?;
            }
        }
    }
    ns.command("ipset").arg("destroy").run()?;
    for family in ["-4", "-6"] {
        ns.command("ip").args([family, "route", "flush", "proto", "80"]).run()?;
    }
    for pod in PODS.iter().filter(|pod| pod.host == host.spec.name) {
        ns.command("ip")
            .args(["neigh", "flush", "dev", &pod.interface(), "nud", "permanent"])
            .run()?;
    }
    Ok(())
}
