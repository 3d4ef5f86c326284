//! What a host has in force, in a form that two agents can be compared by.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use calico_e2e::host::Host;
use calico_e2e::netns::Netns;
use calico_e2e::{own_table, reboot, wait};

/// Chains with their rules in order, sets, routes, neighbours, files.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Picture(BTreeMap<String, Vec<String>>);

/// The policy is on disk a second after it is in force, later where the disk is slow or another
/// one was written just before.
const ON_DISK: Duration = Duration::from_secs(60);
/// Longer than the agent waits before it writes, and between two writes of a small policy.
const STEADY: Duration = Duration::from_secs(3);

impl Picture {
    /// Once what is in force is on disk, too: the file is there and stays as it is.
    pub(crate) fn settled(host: &Host) -> Result<Self> {
        let mut last = None;
        wait::until(&format!("policy in force on disk of {}", host.spec.name), ON_DISK, || {
            let now = reboot::content(&host.stored_policy()).ok();
            let steady = now.is_some() && now == last;
            last = now;
            if !steady {
                std::thread::sleep(STEADY);
            }
            Ok(steady.then_some(()))
        })?;
        Self::take(host)
    }

    pub(crate) fn take(host: &Host) -> Result<Self> {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let ns = host.ns();
        for family in ["iptables", "ip6tables"] {
            for flavour in ["legacy", "nft"] {
                let program = format!("{family}-{flavour}-save");
                let mut table = "";
                for line in ns.command(&program).run()?.lines() {
                    if let Some(name) = line.strip_prefix('*') {
                        table = name;
                    } else if let Some((chain, rule)) =
                        line.strip_prefix("-A ").and_then(|rule| rule.split_once(' '))
                    {
                        // Order counts within a chain only.
                        let chain = format!("{program} {table} {chain}");
                        all.entry(chain).or_default().push(rule.to_owned());
                    } else if let Some(chain) = line.strip_prefix(":cali") {
                        let chain = chain.split(' ').next().unwrap_or_default();
                        all.entry(format!("{program} {table} cali{chain}")).or_default();
                    }
                }
            }
        }
        let lists: [(&str, &[&str]); 5] = [
            ("ipset", &["save"]),
            ("ip", &["-4", "route", "show", "proto", "80"]),
            ("ip", &["-6", "route", "show", "proto", "80"]),
            ("ip", &["-4", "neigh", "show", "nud", "permanent"]),
            ("ip", &["-6", "neigh", "show", "nud", "permanent"]),
        ];
        for (program, args) in lists {
            let text = ns.command(program).args(args).run()?;
            let mut lines: Vec<String> = text.lines().map(steady).collect();
            lines.sort();
            all.insert(format!("{program} {args:?}"), lines);
        }
        all.insert("nftables".to_owned(), own_table::lines(ns)?);
        for (name, text) in files(host)? {
            all.insert(name, text.lines().map(str::to_owned).collect());
        }
        Ok(Self(all))
    }

    /// What one has and the other has not.
    pub(crate) fn difference(&self, other: &Self) -> Vec<String> {
        let mut all = Vec::new();
        let keys = self.0.keys().chain(other.0.keys()).collect::<std::collections::BTreeSet<_>>();
        for key in keys {
            let (a, b) = (self.0.get(key), other.0.get(key));
            if a != b {
                all.push(format!("{key}:\n  {a:?}\n  {b:?}"));
            }
        }
        all
    }
}

/// A set's size grows with its history and its counters with traffic: nobody's decisions.
fn steady(line: &str) -> String {
    let mut words = line.split(' ').filter(|word| !word.is_empty()).peekable();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if matches!(word, "hashsize" | "initval" | "bucketsize" | "packets" | "bytes") {
            words.next();
        } else {
            kept.push(word);
        }
    }
    kept.join(" ")
}

/// What the agent keeps over a reboot and what both must agree on: BIRD's configuration, and the
/// desired state in its canonical form. That is written later than the kernel.
fn files(host: &Host) -> Result<Vec<(String, String)>> {
    let bird = "bird/bird.cfg";
    let text = std::fs::read_to_string(host.state_dir().join(bird)).context(bird)?;
    let policy = reboot::content(&host.stored_policy())?;
    Ok(vec![(bird.to_owned(), text), ("policy.json".to_owned(), policy)])
}

/// Takes everything away that an agent may have written: what comes next begins anew. The agent
/// must not run.
pub(crate) fn wipe(host: &Host) -> Result<()> {
    let ns = host.ns();
    ns.command("nft").args(["flush", "ruleset"]).run()?;
    for program in ["iptables-legacy", "ip6tables-legacy"] {
        for table in ["raw", "mangle", "nat", "filter"] {
            for verb in ["-F", "-X"] {
                let command = ns.command(program).args(["-t", table, verb]);
                command.env("XTABLES_LOCKFILE", host.run_dir().join("wipe.lock")).run()?;
            }
        }
    }
    ns.command("ipset").arg("destroy").run()?;
    flush(ns)?;
    std::fs::remove_dir_all(host.state_dir()).context("the state directory")?;
    std::fs::create_dir(host.state_dir()).context("the state directory")
}

fn flush(ns: &Netns) -> Result<()> {
    for family in ["-4", "-6"] {
        ns.command("ip").args([family, "route", "flush", "proto", "80"]).run()?;
        // Without any entry it complains.
        ns.command("ip").args([family, "neigh", "flush", "nud", "permanent"]).output()?;
    }
    Ok(())
}
