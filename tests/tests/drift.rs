//! Somebody else changes what is ours in the kernel: it is repaired within seconds, `status` and the
//! log say so, and what was denied does not pass once it is repaired.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use calico_e2e::cluster::{CONVERGENCE, Cluster};
use calico_e2e::host::{Flavour, Host};
use calico_e2e::kernel::Snapshot;
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from};
use calico_e2e::tutorial::{self, HTTP, OTHER};
use calico_e2e::wait;

/// From the end of what somebody did until it is as it was.
const REPAIRED: Duration = Duration::from_secs(3);
/// The same for a rule of legacy tables that is replaced without the lock of the tools: only the
/// clock finds it, less often where reading costs more, which it does in a build for tests.
const POLLED: Duration = Duration::from_secs(35);

/// What somebody does, and how `status` names what was repaired. `T4` and `T6` are the flavour's
/// tools; `I` is the interface of the first pod of the host, `A` its address.
#[derive(Clone, Copy)]
struct Tampering {
    what: &'static str,
    subject: &'static str,
}

const fn by(what: &'static str, subject: &'static str) -> Tampering {
    Tampering { what, subject }
}

/// On both flavours. What concerns one thing is spread over the list: again and again is a fight.
const TAMPERINGS: [Tampering; 14] = [
    by("T4 -D cali-wl-forward 3", "IPv4 filter chain cali-wl-forward"),
    by("ipset del cali40local-endpoints A,I", "address set cali40local-endpoints"),
    // A rule that says something else under the comment that it had.
    by(
        r#"rule=$(T4 -S cali-to-wl-dispatch | tail -1 | sed 's/^-A cali-to-wl-dispatch//; s/-g cali-drop-.*/-j ACCEPT/')
        eval "T4 -R cali-to-wl-dispatch $(($(T4 -S cali-to-wl-dispatch | wc -l) - 1)) $rule""#,
        "IPv4 filter chain cali-to-wl-dispatch",
    ),
    by("sysctl -qw net.ipv4.conf.I.rp_filter=0", "sysctl net.ipv4.conf.I.rp_filter"),
    by("T6 -F cali-wl-to-host", "IPv6 filter chain cali-wl-to-host"),
    by("ipset flush cali40all-ipam-pools", "address set cali40all-ipam-pools"),
    by("T4 -t nat -F POSTROUTING", "IPv4 nat jump POSTROUTING"),
    by("sysctl -qw net.ipv4.conf.I.route_localnet=0", "sysctl net.ipv4.conf.I.route_localnet"),
    by("T4 -I cali-from-wl-dispatch -j ACCEPT", "IPv4 filter chain cali-from-wl-dispatch"),
    // One member in the place of another.
    by(
        "ipset del cali40masq-ipam-pools 192.168.0.0/16; ipset add cali40masq-ipam-pools 10.9.0.0/16",
        "address set cali40masq-ipam-pools",
    ),
    by("T6 -t raw -D PREROUTING 1", "IPv6 raw jump PREROUTING"),
    by(
        "ipset create x hash:net maxelem 7; ipset swap x cali40all-ipam-pools; ipset destroy x",
        "address set cali40all-ipam-pools",
    ),
    by("T4 -F", "IPv4 filter chain cali-FORWARD"),
    by("sysctl -qw net.ipv4.ip_forward=0", "sysctl net.ipv4.ip_forward"),
];

/// Only where tables are legacy.
const UNLOCKED: Tampering = TAMPERINGS[2];

/// Only where tables are nf_tables: what `systemctl restart nftables` does, among others.
const NFT: [Tampering; 3] = [
    by("nft flush ruleset", "IPv6 table filter"),
    by("nft delete table ip filter", "IPv4 table filter"),
    by("nft delete table ip6 raw", "IPv6 table raw"),
];

/// Where the table is the agent's own. `@I` is the interface of the first pod of the host.
const OWN: [Tampering; 12] = [
    by("nft flush chain inet calico forward-to-pod", "nftables chain forward-to-pod"),
    by("nft delete table inet calico", "nftables the table"),
    by("ip link set @I group 0", "group of interface @I"),
    by("sysctl -qw net.ipv4.conf.@I.rp_filter=0", "sysctl net.ipv4.conf.@I.rp_filter"),
    by("nft insert rule inet calico forward-from-pod accept", "nftables chain forward-from-pod"),
    by("nft flush set inet calico pods4", "nftables set pods4"),
    by("nft flush ruleset", "nftables the table"),
    by("nft add element inet calico pods-to '{ 0 : accept }'", "nftables set pods-to"),
    by("nft flush chain inet calico nat-postrouting", "nftables chain nat-postrouting"),
    by("nft add chain inet calico theirs", "nftables chain theirs"),
    by("ip link set @I group 4711", "group of interface @I"),
    by("sysctl -qw net.ipv4.ip_forward=0", "sysctl net.ipv4.ip_forward"),
];

/// What the kernel holds, as far as it has to be the same afterwards.
fn kernel(host: &Host) -> Result<Vec<String>> {
    if host.flavour.is_nftables() {
        return own(host);
    }
    let text = Snapshot::take(host.ns())?.without_counters().to_string();
    // Handles are new with each write, and so is the seed of a set's hash; members have no order.
    let lines = text.lines().filter(|line| !line.contains("# handle"));
    let lines = lines.map(|line| line.split(" initval ").next().unwrap_or(line).to_owned());
    let sysctls = "sysctl -a 2> /dev/null | grep -E '\\.(ip_forward|rp_filter|route_localnet|proxy_arp|forwarding) ='";
    let sysctls = host.ns().command("sh").args(["-c", sysctls]).run()?;
    let mut lines: Vec<String> = lines.chain(sysctls.lines().map(str::to_owned)).collect();
    lines.sort();
    Ok(lines)
}

/// The same where the table is the agent's own. Elements have no order.
fn own(host: &Host) -> Result<Vec<String>> {
    let look = "nft -s list ruleset; ip -o link | grep -o ' cali.*@\\| group [^ ]*'
        sysctl -a 2> /dev/null | grep -E '\\.(ip_forward|rp_filter|route_localnet|proxy_arp|forwarding) ='";
    let text = host.ns().command("sh").args(["-c", look]).run()?;
    let parts = text.lines().flat_map(|line| line.split(['{', '}', ',']));
    let parts = parts.map(|part| part.trim().to_owned()).filter(|part| !part.is_empty());
    let mut parts: Vec<String> = parts.collect();
    parts.sort();
    Ok(parts)
}

fn differs(whole: &[String], now: &[String]) -> String {
    let lost: Vec<_> = whole.iter().filter(|line| !now.contains(line)).collect();
    let new: Vec<_> = now.iter().filter(|line| !whole.contains(line)).collect();
    format!("lost {lost:#?}, new {new:#?}")
}

/// How often `status` says that something was repaired.
fn repairs(host: &Host, subject: &str) -> Result<u64> {
    let status = host.status()?;
    let parts = status.0["parts"].as_array().context("no parts")?.iter();
    let repairs = parts.filter_map(|part| part["repairs"].as_array()).flatten();
    let of = repairs.filter(|one| one["subject"].as_str().is_some_and(|s| s.starts_with(subject)));
    Ok(of.filter_map(|one| one["count"].as_u64()).sum())
}

/// Fresh connections: one that is allowed passes, one that is denied does not.
fn flows(cluster: &Cluster, number: usize) -> Result<()> {
    let (from, open, closed) = match number {
        0 => ("frontend-1", ("backend-1", HTTP), ("backend-1", OTHER)),
        _ => ("frontend-2", ("frontend-1", OTHER), ("backend-2", HTTP)),
    };
    let from = cluster.pod(from)?.ns().name().to_owned();
    for (to, port, passes) in [(open.0, open.1, true), (closed.0, closed.1, false)] {
        let to = cluster.pod(to)?.spec;
        for address in [to.v4.into(), to.v6.into()] {
            let limit = if passes { PATIENT } else { BRIEF };
            let answer = ask_from(&from, address, Service::Tcp(port), limit)?;
            let right = if passes { answer.reached() } else { answer == Answer::Silence };
            ensure!(right, "{} port {port}: {answer:?}", to.name);
        }
    }
    Ok(())
}

fn what_others_change_is_repaired(label: &str, flavour: Flavour) -> Result<()> {
    let tool = flavour.iptables();
    let cluster = Cluster::tutorial(label, flavour)?;
    cluster.etcd.put_all(&tutorial::policies())?;
    cluster.check(true)?;
    cluster.wait_until_ready()?;
    let (first, more) = match flavour {
        Flavour::Nftables => (&OWN[..], &[][..]),
        Flavour::Nft => (&TAMPERINGS[..], &NFT[..]),
        _ => (&TAMPERINGS[..], &[UNLOCKED][..]),
    };
    for (number, tampering) in first.iter().chain(more).enumerate() {
        let with_lock = flavour.is_nftables() || flavour == Flavour::Nft || number < first.len();
        let limit = if with_lock { REPAIRED } else { POLLED };
        // One host after the other: each has its rest.
        let number = number % 2;
        let host = &cluster.hosts[number];
        let pod = tutorial::PODS.iter().find(|pod| pod.host == host.spec.name);
        let pod = pod.context("a pod of the host")?;
        let fill = |text: &str| {
            text.replace("T4 ", &format!("iptables-{tool} -w "))
                .replace("T6 ", &format!("ip6tables-{tool} -w "))
                .replace("A,I", &format!("{},{}", pod.v4, pod.interface()))
                .replace(".I.", &format!(".{}.", pod.interface()))
                .replace("@I", &pod.interface())
        };
        let (what, subject) = (fill(tampering.what), fill(tampering.subject));
        let (whole, before) = (kernel(host)?, repairs(host, &subject)?);
        let command = host.ns().command("sh").args(["-ec", &what]);
        // The lock that the tools of a host share with its agent, or another one: the machine's.
        let lock = with_lock.then(|| ("XTABLES_LOCKFILE", host.xtables_lock()));
        lock.into_iter().fold(command, |command, (key, path)| command.env(key, path)).run()?;
        let begin = Instant::now();
        loop {
            let look = begin.elapsed();
            let now = kernel(host)?;
            if now == whole {
                break;
            }
            if look > limit {
                bail!("{what} is not repaired: {}\n{}", differs(&whole, &now), cluster.logs());
            }
        }
        flows(&cluster, number).with_context(|| format!("after {what}\n{}", cluster.logs()))?;
        wait::until(&format!("repair of {subject} after {what}"), REPAIRED, || {
            Ok((repairs(host, &subject)? > before).then_some(()))
        })
        .with_context(|| cluster.logs())?;
        let log = std::fs::read_to_string(host.agent_log())?;
        ensure!(log.contains(&format!("somebody changed {subject}")), "{subject}: {log}");
    }
    cluster.check(true)
}

calico_e2e::on_each_dataplane! {
    smoke: what_others_change_is_repaired, "dri";
}

/// Somebody writes the same thing again as soon as it was repaired: that is told, and costs little.
fn a_fight_is_told_and_is_not_hot(label: &str, flavour: Flavour) -> Result<()> {
    let cluster = Cluster::tutorial(label, flavour)?;
    cluster.check(false)?;
    cluster.wait_until_ready()?;
    let name = format!("net.ipv4.conf.{}.rp_filter", tutorial::PODS[0].interface());
    let fights = [
        (format!("sysctl {name}"), format!("sysctl -qw {name}=0"), ""),
        match flavour {
            Flavour::Nftables => (
                "nftables chain forward-to-pod".to_owned(),
                "nft flush chain inet calico forward-to-pod".to_owned(),
                "first by nft (process ",
            ),
            Flavour::Nft => (
                "IPv4 raw jump PREROUTING".to_owned(),
                "iptables-nft -t raw -F PREROUTING".to_owned(),
                "first by iptables-nft (process ",
            ),
            // Who wrote the old tables, nobody tells; that somebody did, the tools' lock.
            _ => (
                "IPv4 raw jump PREROUTING".to_owned(),
                "iptables-legacy -w -t raw -F PREROUTING".to_owned(),
                "",
            ),
        },
    ];
    let told = |host: &Host, subject: &str| -> Result<Option<String>> {
        let problems = host.status()?.problems();
        Ok(problems.into_iter().find(|text| text.contains(subject)))
    };
    let mut fighters = Vec::new();
    // What happens to the old tables while the agent is still at work on them, it takes for its own until the look
    // that follows each write.
    let pause = if flavour == Flavour::Legacy { "0.4" } else { "0.05" };
    for (host, (_, what, _)) in cluster.hosts.iter().zip(&fights) {
        let script = format!("while :; do {what}; sleep {pause}; done");
        let whole = kernel(host)?;
        let log = host.run_dir().join("fighter.log");
        fighters.push((whole, host.ns().command("sh").args(["-c", &script]).start(&log)?));
    }
    for (host, (subject, _, by)) in cluster.hosts.iter().zip(&fights) {
        let problem = wait::until("problem about the fight", CONVERGENCE, || told(host, subject))?;
        ensure!(problem.contains("again each time") && problem.contains(by), "{problem}");
    }
    let count = |(host, (subject, ..)): (&Host, &(String, _, _))| repairs(host, subject);
    let all = || cluster.hosts.iter().zip(&fights).map(count).collect::<Result<Vec<_>>>();
    let before = all()?;
    std::thread::sleep(Duration::from_secs(4));
    for ((before, after), (subject, ..)) in before.iter().zip(all()?).zip(&fights) {
        let hot = after - before;
        ensure!((1..=3).contains(&hot), "{subject}: {hot} repairs in four seconds of a fight");
    }
    fighters.iter_mut().for_each(|(_, fighter)| fighter.kill());
    // It is repaired when its time comes, and forgotten.
    for ((host, (whole, _)), (subject, ..)) in cluster.hosts.iter().zip(&fighters).zip(&fights) {
        wait::until("end of the fight", CONVERGENCE, || {
            let now = kernel(host)?;
            ensure!(now == *whole, "{}", differs(whole, &now));
            Ok(Some(()))
        })
        .with_context(|| cluster.logs())?;
        let over = || Ok(told(host, subject)?.is_none().then_some(()));
        wait::until("end of the problem", CONVERGENCE * 2, over)?;
    }
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: a_fight_is_told_and_is_not_hot, "drf";
}
