//! A host of two with a manager on it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::{CONVERGENCE, Cluster, OUTSIDE_V4};
use calico_e2e::flow::{Flow, Flows, RATE};
use calico_e2e::host::{Flavour, Host};
use calico_e2e::managers::{Kind, Manager};
use calico_e2e::matrix::Family;
use calico_e2e::probe::{BRIEF, PATIENT, Service, ask_from};
use calico_e2e::tutorial::{OTHER, PODS, before_pods};
use calico_e2e::wait;
use serde_json::Value;

/// Who is there first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// The agent, its pods and their traffic.
    Agent,
    /// The manager.
    Manager,
}

/// Who meets whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// The manager.
    pub(crate) kind: Kind,
    /// The dataplane of the agent.
    pub(crate) agent: Flavour,
    /// What `iptables` is to the manager.
    pub(crate) theirs: Flavour,
    /// Who is there first.
    pub(crate) first: First,
}

impl Case {
    /// Whether it drops what policy accepts, as long as nobody has told it of pods.
    fn drops(self) -> bool {
        let apart = self.agent != Flavour::Auto && self.agent != self.theirs;
        match self.kind {
            // Its tables are asked after ours, whichever iptables ours are in.
            Kind::Firewalld => true,
            Kind::FirewalldIptables | Kind::Ufw => apart,
            // It drops when it switches forwarding on, which an agent has done before.
            Kind::Docker => apart && self.first == First::Manager,
        }
    }

    fn name(self) -> &'static str {
        match self.kind {
            Kind::Docker => "Docker",
            Kind::Firewalld | Kind::FirewalldIptables => "firewalld",
            Kind::Ufw => "ufw",
        }
    }
}

/// Within what `status` names what has come: the bound that docs/beside.md gives.
const NAMED: Duration = Duration::from_secs(8);

/// A host whose agent runs, with pods on both hosts, and the manager on the first.
pub(crate) fn play(label: &str, case: Case) -> Result<()> {
    let mut cluster = Cluster::new(label)?;
    cluster.etcd.put_all(&before_pods())?;
    let manager = Manager::install(&cluster.hosts[0], case.kind, case.theirs)?;
    if case.first == First::Manager {
        manager.start()?;
    }
    for host in &mut cluster.hosts {
        host.flavour = case.agent;
        host.start_agent()?;
        host.start_bird(CONVERGENCE)?;
    }
    for pod in &PODS {
        cluster.add_pod(pod)?;
    }
    let result = meet(&cluster, &manager, case);
    result.with_context(|| format!("{case:?}\n{}", cluster.logs()))
}

fn meet(cluster: &Cluster, manager: &Manager, case: Case) -> Result<()> {
    cluster.wait_until_programmed()?;
    let host = &cluster.hosts[0];
    let begin = Instant::now();
    if case.first == First::Agent {
        cluster.wait_for_routes()?;
        wait::until_true("traffic before the manager", CONVERGENCE, || passes(cluster))?;
        ensure!(named(host)?.is_empty(), "{:?}", named(host)?);
        manager.start()?;
    }
    let came = Instant::now();
    // Both let nobody in that they do not know.
    let bgp = case.kind != Kind::Docker;
    let found = wait::until("status names what it drops, and nothing else", NAMED, || {
        let found = named(host)?;
        let (sessions, pods): (Vec<_>, Vec<_>) =
            found.iter().partition(|line| line.contains("of BGP from other hosts"));
        Ok((sessions.is_empty() != bgp && pods.is_empty() != case.drops()).then_some(found))
    });
    let found = found.with_context(|| format!("{:?}", named(host)))?;
    let (after, before) = (came.elapsed(), came - begin);
    println!("{case:?}: {} named {after:?} after it was there ({before:?} to start)", found.len());
    let whose = format!("{}: `", case.name());
    ensure!(found.iter().all(|line| line.starts_with(&whose)), "{found:?}");
    if !found.is_empty() {
        ensure!(host.status()?.is_degraded(), "not degraded");
        let text = host.status_text()?;
        ensure!(text.contains(&whose), "{text}");
    }
    let mut done = Vec::new();
    let bgp = |line: &&String| line.contains("of BGP from other hosts");
    obey(manager, found.iter().filter(bgp), &mut done)?;
    cluster.wait_for_routes()?;
    if case.drops() {
        // It is true.
        ensure!(denied(cluster)?, "something denied passes");
        ensure!(!any_passes(cluster, case), "it is named, and passes");
        let alarms = alarms(host)?;
        let names = |(level, line, _): &(String, String, String)| {
            level == "fail" && line.contains(&whose) && line.contains("from pods, to pods")
        };
        ensure!(alarms.iter().any(names), "check does not name it: {alarms:#?}");
        obey(manager, found.iter().filter(|line| !bgp(line)), &mut done)?;
    }
    // A manager that is slow to come may have been seen in the middle: one family is named after the other.
    wait::until("advice that helps", NAMED + CONVERGENCE, || {
        let left = named(host)?;
        obey(manager, left.iter(), &mut done)?;
        Ok(left.is_empty().then_some(()))
    })
    .with_context(|| format!("{:?}", named(host)))?;
    settled(cluster, case)?;
    reloaded(cluster, manager, case).context("while it reloads")?;
    settled(cluster, case).context("after its reload")
}

/// A port where nobody else listens.
const COUNTED: u16 = 5999;

/// What a reload may cost where it deletes our chains: they come back when the agent has noticed.
const REPAIRED: Duration = Duration::from_secs(1);

/// Reloads it while everybody sends: new flows every time, so that policy is asked.
fn reloaded(cluster: &Cluster, manager: &Manager, case: Case) -> Result<()> {
    let flow = |from: &str, allowed, family| Flow {
        from: from.to_owned(),
        to: "frontend-1".to_owned(),
        family,
        service: Service::Udp(COUNTED),
        spoofed: None,
        allowed,
    };
    let flows = [Family::V4, Family::V6]
        .map(|family| [flow("frontend-2", true, family), flow("backend-2", false, family)]);
    let flows = Flows::start(flows.as_flattened(), &cluster.sites())?;
    manager.reload()?;
    std::thread::sleep(Duration::from_secs(1));
    let tallies = flows.finish()?;
    let mut slipped = 0;
    for tally in &tallies {
        println!("{case:?}: its reload: {tally}");
        if !tally.stream.flow.allowed {
            slipped += tally.arrived + tally.slipped;
        }
    }
    // firewalld deletes all of iptables before it writes its own, if any. The others touch theirs only.
    let most = match case.kind {
        _ if case.agent.is_nftables() => 0,
        Kind::Firewalld | Kind::FirewalldIptables => 4 * REPAIRED.as_millis() / RATE.as_millis(),
        Kind::Docker | Kind::Ufw => 0,
    };
    ensure!(u128::from(slipped) <= most, "{slipped} denied packets passed, {tallies:#?}");
    Ok(())
}

/// All is as policy wants it, and nobody says anything else.
fn settled(cluster: &Cluster, case: Case) -> Result<()> {
    let host = &cluster.hosts[0];
    wait::until("a host that is ready", NAMED + CONVERGENCE, || {
        Ok((host.status()?.is_ready() && named(host)?.is_empty()).then_some(()))
    })
    .with_context(|| format!("{:?}", host.status().map(|status| status.problems())))?;
    wait::until_true("what policy allows", CONVERGENCE, || passes(cluster))?;
    ensure!(denied(cluster)?, "something denied passes");
    // It stays: what has been named late would be by now.
    std::thread::sleep(Duration::from_secs(3));
    ensure!(named(host)?.is_empty(), "{:?}", named(host)?);
    let alarms = alarms(host)?;
    let wrong: Vec<_> = alarms.iter().filter(|(level, ..)| level == "fail").collect();
    ensure!(wrong.is_empty(), "{case:?}: {wrong:#?}");
    Ok(())
}

/// Does what is advised, word by word, unless it is done.
fn obey<'a>(
    manager: &Manager,
    said: impl Iterator<Item = &'a String>,
    done: &mut Vec<String>,
) -> Result<()> {
    for line in said {
        let (_, advice) =
            line.split_once('\u{2014}').with_context(|| format!("no advice: {line}"))?;
        let commands = advice.split('`').nth(1).with_context(|| format!("no command: {line}"))?;
        // One advice may stand at several of its chains.
        if done.iter().any(|one| one == commands) {
            continue;
        }
        let said = manager.obey(commands)?;
        ensure!(said.status.success(), "{commands}: {}{}", said.stdout, said.stderr);
        done.push(commands.to_owned());
    }
    Ok(())
}

/// What `status` says of rules of others.
fn named(host: &Host) -> Result<Vec<String>> {
    let status = host.status()?;
    let notices = status.0["notices"].as_array().into_iter().flatten();
    let of_others = notices.filter(|notice| {
        notice["subject"].as_str().is_some_and(|subject| subject.starts_with("rules of others: "))
    });
    Ok(of_others.map(|notice| notice["message"].as_str().unwrap_or_default().to_owned()).collect())
}

/// What `check` says of firewalls that is not well: level, line, advice.
fn alarms(host: &Host) -> Result<Vec<(String, String, String)>> {
    let output = host.command("check", &[])?.args(["--output", "json"]).output()?;
    let findings: Vec<Value> = serde_json::from_str(&output.stdout)
        .with_context(|| format!("{}{}", output.stdout, output.stderr))?;
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let bad = findings.iter().filter(|f| f["group"] == "firewall" && f["level"] != "ok");
    Ok(bad
        .map(|f| {
            let line = format!("{}: {}", text(f, "what"), text(f, "finding"));
            (text(f, "level"), line, text(f, "advice"))
        })
        .collect())
}

/// What policy allows through the first host: from where, to where.
const ALLOWED: [(&str, IpAddr); 5] = [
    ("frontend-2", IpAddr::V4(PODS[0].v4)),
    ("frontend-1", IpAddr::V4(PODS[3].v4)),
    ("frontend-1", IpAddr::V4(OUTSIDE_V4)),
    ("frontend-2", IpAddr::V6(PODS[0].v6)),
    ("frontend-1", IpAddr::V6(PODS[3].v6)),
];

fn reaches(cluster: &Cluster, from: &str, to: IpAddr, limit: Duration) -> Result<bool> {
    Ok(ask_from(cluster.netns(from)?.name(), to, Service::Tcp(OTHER), limit)?.reached())
}

/// True when all of it passes.
fn passes(cluster: &Cluster) -> bool {
    ALLOWED.iter().all(|(from, to)| reaches(cluster, from, *to, PATIENT).unwrap_or(false))
}

/// True when any of it passes that should be dropped. Docker knows of IPv4 alone.
fn any_passes(cluster: &Cluster, case: Case) -> bool {
    let dropped = ALLOWED.iter().filter(|(_, to)| to.is_ipv4() || case.kind != Kind::Docker);
    let mut answers = dropped.map(|(from, to)| reaches(cluster, from, *to, BRIEF).unwrap_or(true));
    answers.any(|reached| reached)
}

/// True when nothing passes that policy denies: from another network, on this host and from the other.
fn denied(cluster: &Cluster) -> Result<bool> {
    for (from, to) in [("backend-1", 0), ("backend-2", 0), ("frontend-1", 1), ("frontend-2", 1)] {
        for address in [PODS[to].v4.into(), PODS[to].v6.into()] {
            if reaches(cluster, from, address, BRIEF)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}
