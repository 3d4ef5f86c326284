//! What the kernel holds, read with the system's own tools: the witness against the agent.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::dataplane::Flavour;
use crate::netns::Place;
use crate::process::Process;
use crate::wait;

/// Everything that an agent may write, as text. Rule counters included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    parts: Vec<(&'static str, String)>,
}

/// The commands whose output makes a [`Snapshot`].
const COMMANDS: [(&str, &[&str]); 12] = [
    ("iptables-legacy-save", &["-c"]),
    ("ip6tables-legacy-save", &["-c"]),
    ("iptables-nft-save", &["-c"]),
    ("ip6tables-nft-save", &["-c"]),
    ("nft", &["-a", "list", "ruleset"]),
    ("ipset", &["save"]),
    ("ip", &["-4", "-d", "route", "show", "table", "all"]),
    ("ip", &["-6", "-d", "route", "show", "table", "all"]),
    ("ip", &["-4", "rule", "show"]),
    ("ip", &["-6", "rule", "show"]),
    ("ip", &["-4", "neigh", "show", "nud", "permanent"]),
    ("ip", &["-6", "neigh", "show", "nud", "permanent"]),
];

impl Snapshot {
    /// Reads everything inside `ns`.
    ///
    /// # Errors
    /// When a tool fails.
    pub fn take(ns: &Place) -> Result<Self> {
        let mut parts = Vec::new();
        for (program, args) in COMMANDS {
            let text = ns.command(program).args(args).run()?;
            // Comments hold the time of day.
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            parts.push((program, lines.map(|line| format!("{line}\n")).collect()));
        }
        Ok(Self { parts })
    }

    /// Only the lines that `keep` likes, order kept.
    #[must_use]
    pub fn filter(&self, keep: impl Fn(&str) -> bool) -> Self {
        let lines = |text: &String| {
            let kept = text.lines().filter(|line| keep(line));
            kept.map(|line| format!("{line}\n")).collect()
        };
        Self { parts: self.parts.iter().map(|(p, text)| (*p, lines(text))).collect() }
    }

    /// The same with every counter as zero.
    #[must_use]
    pub fn without_counters(&self) -> Self {
        let line = |line: &str| match line.strip_prefix('[').and_then(|l| l.split_once("] ")) {
            Some((_, rule)) => format!("[0:0] {rule}\n"),
            None => {
                // `counter packets 3 bytes 96` of nft, `:INPUT ACCEPT [3:96]` of iptables.
                let mut zero = false;
                let words = line.split(' ').map(|word| {
                    let counter = zero && word.bytes().all(|b| b.is_ascii_digit());
                    zero = matches!(word, "packets" | "bytes");
                    if counter { "0" } else { word }
                });
                let words = words.map(|w| if w.starts_with('[') { "[0:0]" } else { w });
                words.collect::<Vec<_>>().join(" ") + "\n"
            }
        };
        let parts = self.parts.iter();
        Self { parts: parts.map(|(p, text)| (*p, text.lines().map(line).collect())).collect() }
    }

    /// What somebody wrote: every counter as zero, and without the kernel's own routes. A new link sends
    /// packets of its own (listener reports, router solicitations), and its addresses are usable a moment
    /// later, which makes routes.
    #[must_use]
    pub fn written(&self) -> Self {
        self.without_counters().filter(|line| !line.contains(" proto kernel "))
    }

    /// The lines that one has and the other has not.
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let mut all = Vec::new();
        for ((program, a), (_, b)) in self.parts.iter().zip(&other.parts) {
            let only = |a: &str, b: &str, sign: char| {
                let lines = a.lines().filter(|line| !b.lines().any(|other| other == *line));
                lines.map(|line| format!("{sign} {program}: {line}")).collect::<Vec<_>>()
            };
            all.extend(only(a, b, '-'));
            all.extend(only(b, a, '+'));
        }
        all
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|(program, text)| write!(f, "## {program}\n{text}"))
    }
}

/// Hears from the kernel what is written to a namespace. Legacy iptables tells nobody.
#[derive(Debug)]
pub struct Witness {
    place: Place,
    watchers: Vec<(Process, usize)>,
    round: u8,
}

impl Witness {
    /// Begins to listen: to routes, rules and neighbours (`ip monitor`) and nf_tables
    /// (`nft monitor`). Logs go to `dir`.
    ///
    /// # Errors
    /// When a listener does not come up.
    pub fn start(place: &Place, dir: &Path) -> Result<Self> {
        let mut watchers = Vec::new();
        for (program, args) in
            [("ip", &["monitor", "route", "neigh", "rule"][..]), ("nft", &["monitor"])]
        {
            let log = dir.join(format!("{program}-monitor.log"));
            watchers.push((place.command(program).args(args).start(&log)?, 0));
        }
        let mut witness = Self { place: place.clone(), watchers, round: 0 };
        witness.writes()?;
        Ok(witness)
    }

    /// What was written since the last call. Not counted: neighbours that the kernel resolved by
    /// itself, and this witness's own marks.
    ///
    /// # Errors
    /// When a listener does not report any more.
    pub fn writes(&mut self) -> Result<Vec<String>> {
        // A mark of our own, last: who reports it has reported everything before it. Repeated,
        // because a listener that is only just starting misses the first.
        self.round += 1;
        let (route, table) = (format!("192.0.2.{}", self.round), format!("witness{}", self.round));
        wait::until("mark of the witness", Duration::from_secs(5), || {
            self.place.ip(&format!(
                "route replace blackhole {route} proto 251\nroute del blackhole {route}\n"
            ))?;
            for verb in ["add", "delete"] {
                self.place.command("nft").args([verb, "table", "inet", &table]).run()?;
            }
            std::thread::sleep(Duration::from_millis(20));
            let marked = |log: &str| log.contains(&format!("{route} ")) || log.contains(&table);
            Ok(self.watchers.iter().all(|(watcher, _)| marked(&watcher.log())).then_some(()))
        })?;
        let mut all = Vec::new();
        for (watcher, read) in &mut self.watchers {
            let log = watcher.log();
            let news = log[*read..].lines().filter(|line| !is_noise(line)).map(str::to_owned);
            all.extend(news);
            *read = log.len();
        }
        Ok(all)
    }
}

/// Lines of the listeners that are nobody's write.
fn is_noise(line: &str) -> bool {
    let own = ["192.0.2.", "witness", "# new generation"];
    let resolved = [" STALE", " REACHABLE", " DELAY", " PROBE", " INCOMPLETE", " FAILED", " NOARP"];
    line.is_empty() || own.iter().chain(&resolved).any(|part| line.contains(part))
}

/// How many of the agent's chains the kernel holds in each flavour, both families together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chains {
    /// Through `iptables-legacy-save`.
    pub legacy: usize,
    /// Through `iptables-nft-save`.
    pub nft: usize,
    /// In the table of the agent's own, through `nft list ruleset`.
    pub own: usize,
}

impl Chains {
    /// All of them.
    #[must_use]
    pub fn all(self) -> usize {
        self.legacy + self.nft + self.own
    }

    /// The dataplane that has them, if it is one alone.
    #[must_use]
    pub fn only(self) -> Option<Flavour> {
        match self {
            Self { legacy: 1.., nft: 0, own: 0 } => Some(Flavour::Legacy),
            Self { legacy: 0, nft: 1.., own: 0 } => Some(Flavour::Nft),
            Self { legacy: 0, nft: 0, own: 1.. } => Some(Flavour::Nftables),
            _ => None,
        }
    }
}

impl fmt::Display for Chains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { legacy, nft, own } = self;
        write!(f, "iptables-legacy: {legacy} cali chains, iptables-nft: {nft}, nftables: {own}")
    }
}

/// Counts the agent's chains inside `ns`.
///
/// # Errors
/// When a tool fails.
pub fn chains(ns: &Place) -> Result<Chains> {
    let count = |flavour: &str| -> Result<usize> {
        let mut all = 0;
        for family in ["iptables", "ip6tables"] {
            let text = ns.command(format!("{family}-{flavour}-save")).run()?;
            all += text.lines().filter(|line| line.starts_with(":cali")).count();
        }
        Ok(all)
    };
    let ruleset = ns.command("nft").args(["-t", "list", "ruleset"]).run()?;
    let mut ours = false;
    let own = ruleset.lines().filter(|line| {
        if line.starts_with("table ") {
            ours = *line == "table inet calico {";
        }
        ours && line.trim_start().starts_with("chain ")
    });
    Ok(Chains { legacy: count("legacy")?, nft: count("nft")?, own: own.count() })
}

/// `ip route` lines of one family, of the main table.
///
/// # Errors
/// When the tool fails.
pub fn routes(ns: &Place, family: &str) -> Result<Vec<String>> {
    let text = ns.command("ip").args([family, "route", "show"]).run()?;
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}
