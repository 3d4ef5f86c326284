//! Two hosts, eight pods and an outsider that every question can be put to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::ask::{Call, Patience, ask_all};
use calico_e2e::cluster::Cluster;
use calico_e2e::evaluator::{Direction, Evaluator, Packet};
use calico_e2e::host::{Flavour, Host};
use calico_e2e::matrix::{Family, Site};
use calico_e2e::probe::{Answer, Service};
use calico_e2e::server::Server;
use calico_e2e::tutorial::{DNS, HTTP, OTHER};
use calico_e2e::{own_table, tutorial, wait};

use crate::chance::Chance;
use crate::pods::ALL_PODS;
use crate::rules::{SOURCES, TCP, UDP};
use crate::ways::{Expected, Ways};
use crate::world::{ALWAYS, Change, NEVER};

/// How long silence is listened to: at least, after the last expected answer, at most.
const PATIENCE: Patience = Patience {
    least: Duration::from_millis(150),
    after: Duration::from_millis(100),
    most: Duration::from_millis(1500),
};
/// The second time, when an expected answer was missing.
const LONG: Patience = Patience {
    least: Duration::from_millis(500),
    after: Duration::from_millis(300),
    most: Duration::from_secs(5),
};

/// The set-up.
#[derive(Debug)]
pub(crate) struct Lab {
    /// Hosts, pods, etcd.
    pub(crate) cluster: Cluster,
    sites: Vec<Site>,
    _servers: Vec<Server>,
    ports: BTreeMap<(String, u16), u16>,
}

/// Somebody asks somebody something.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    from: Site,
    to: Site,
    family: Family,
    service: Service,
    /// Fixed: what must come out, whatever the evaluator says.
    control: Option<bool>,
    /// The first of the source ports from which this is asked.
    sources: u16,
}

/// A question with what should have come out and what did.
#[derive(Clone, Debug)]
pub(crate) struct Mismatch {
    /// What was asked, and of whom.
    pub(crate) text: String,
    /// The addresses of both ends.
    pub(crate) ends: [IpAddr; 2],
}

/// What came out of one matrix.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Questions that passed as they should.
    pub(crate) passed: usize,
    /// Questions that were dropped as they should.
    pub(crate) dropped: usize,
    /// Questions that passed only when asked again.
    pub(crate) slow: usize,
    /// Questions that passed if it were not for host endpoints.
    pub(crate) closed: usize,
    /// What host endpoints said.
    pub(crate) told: BTreeMap<String, usize>,
}

impl Lab {
    /// Puts everything up but endpoints and policies.
    pub(crate) fn new(label: &str, flavour: Flavour) -> Result<Self> {
        let mut cluster = Cluster::new(label)?;
        cluster.etcd.put_all(&tutorial::base())?;
        cluster.start_agents(flavour)?;
        for pod in &ALL_PODS {
            cluster.wire_pod(pod)?;
        }
        for host in &cluster.hosts {
            let spec = host.spec;
            cluster.outside().ip(&format!(
                "route add {}/26 via {}\nroute add {}/122 via {}\n",
                spec.block4, spec.v4, spec.block6, spec.v6
            ))?;
        }
        let sites = cluster.sites();
        let mut servers = Vec::new();
        for site in &sites {
            let addresses = [site.v4.into(), site.v6.into()];
            let served = [HTTP, OTHER];
            let tcp = TCP.into_iter().chain([ALWAYS, NEVER]).filter(|port| !served.contains(port));
            let udp = UDP.into_iter().filter(|port| *port != DNS);
            let (tcp, udp): (Vec<_>, Vec<_>) = (tcp.collect(), udp.collect());
            servers.push(Server::start(&site.netns, &addresses, &tcp, &udp)?);
        }
        Ok(Self { cluster, sites, _servers: servers, ports: BTreeMap::new() })
    }

    /// Writes a change and waits until both agents say that it is in force.
    pub(crate) fn apply(&self, change: &Change) -> Result<()> {
        let etcd = &self.cluster.etcd;
        let mut revision = 0;
        for key in &change.deletes {
            revision = etcd.delete(key)?;
        }
        if !change.puts.is_empty() {
            revision = etcd.put_all(&change.puts)?;
        }
        for host in &self.cluster.hosts {
            self.cluster.wait_for_revision(host, revision)?;
        }
        Ok(())
    }

    /// Waits for the first routes of the other host.
    pub(crate) fn wait_for_routes(&self) -> Result<()> {
        wait::until("routes of the other host", Duration::from_secs(20), || {
            let both = self.cluster.hosts.iter().map(|host| {
                let v4 = host.ns().command("ip").args(["-4", "route", "show", "proto", "bird"]);
                let v6 = host.ns().command("ip").args(["-6", "route", "show", "proto", "bird"]);
                Ok(!v4.run()?.trim().is_empty() && !v6.run()?.trim().is_empty())
            });
            let all = both.collect::<Result<Vec<_>>>()?;
            Ok(all.into_iter().all(|yes| yes).then_some(()))
        })
    }

    /// So many questions at random, and the controls.
    pub(crate) fn questions(&self, chance: &mut Chance, count: usize) -> Vec<Question> {
        let pods: Vec<&Site> = self.sites_of_pods();
        let (first, last) = (pods[0], pods[pods.len() - 1]);
        let mut all = Vec::new();
        for family in [Family::V4, Family::V6] {
            for (from, to) in [(first, last), (last, first)] {
                for (port, passes) in [(ALWAYS, true), (NEVER, false)] {
                    all.push(Question {
                        from: from.clone(),
                        to: to.clone(),
                        family,
                        service: Service::Tcp(port),
                        control: Some(passes),
                        sources: SOURCES[0],
                    });
                }
            }
        }
        while all.len() < count {
            let mut site = |pod| {
                if chance.percent(pod) { *chance.one(&pods) } else { chance.one(&self.sites) }
            };
            let (from, to) = match site(65) {
                // Hosts and the outside ask each other, too.
                from if !pods.iter().any(|pod| pod.name == from.name) => (from, site(35)),
                from => (from, site(80)),
            };
            if from.name == to.name {
                continue;
            }
            all.push(Question {
                from: from.clone(),
                to: to.clone(),
                family: *chance.one(&[Family::V4, Family::V6]),
                service: match chance.below(10) {
                    0..=4 => Service::Tcp(*chance.one(&TCP)),
                    5..=7 => Service::Udp(*chance.one(&UDP)),
                    _ => Service::Icmp,
                },
                control: None,
                sources: *chance.one(&SOURCES),
            });
        }
        all
    }

    fn sites_of_pods(&self) -> Vec<&Site> {
        let site = |name: &str| self.sites.iter().find(|site| site.name == name);
        ALL_PODS.iter().filter_map(|pod| site(pod.name)).collect()
    }

    /// Asks, and compares with what the evaluator says.
    pub(crate) fn check(
        &mut self,
        evaluator: &Evaluator,
        ways: &Ways,
        questions: &[Question],
    ) -> Result<(Tally, Vec<Mismatch>)> {
        let (mut tally, mut wrong) = (Tally::default(), Vec::new());
        let mut judged: Vec<(&Question, Call, bool, String)> = Vec::new();
        for question in questions {
            if let Some((call, expected)) = self.judge(evaluator, ways, question)? {
                if expected.pods_pass != expected.passes {
                    tally.closed += 1;
                }
                for what in expected.told {
                    *tally.told.entry(what).or_default() += 1;
                }
                judged.push((question, call, expected.passes, expected.reason));
            }
        }
        let calls: Vec<Call> = judged.iter().map(|(_, call, ..)| call.clone()).collect();
        let answers = ask_all(&calls, PATIENCE)?;
        let mut again = Vec::new();
        for ((question, call, passes, reason), answer) in judged.into_iter().zip(answers) {
            if right(evaluator, &call, passes, &answer) {
                *(if passes { &mut tally.passed } else { &mut tally.dropped }) += 1;
            } else {
                again.push((question, passes, reason, answer));
            }
        }
        ensure!(tally.passed > 0 && tally.dropped > 0, "a matrix without control: {tally:?}");
        // An answer may be late on a busy machine; a packet that should be dropped never passes.
        let calls: Vec<Call> = again
            .iter()
            .map(|(question, ..)| {
                let again = self.judge(evaluator, ways, question)?;
                Ok(again.context("another answer the second time")?.0)
            })
            .collect::<Result<_>>()?;
        let second = ask_all(&calls, LONG)?;
        for (((question, passes, reason, answer), call), second) in
            again.into_iter().zip(&calls).zip(second)
        {
            if passes && answer == Answer::Silence && second.reached() {
                tally.slow += 1;
                continue;
            }
            let (from, to) = (&question.from, &question.to);
            let should = if passes { "pass" } else { "drop" };
            let text = format!(
                "{} → {} ({}) {} from port {}: should {should} ({reason}), got {answer:?}, then {second:?}",
                from.name, to.name, call.to, question.service, call.source_port
            );
            let ends = [from.address(question.family), to.address(question.family)];
            wrong.push(Mismatch { text, ends });
        }
        Ok((tally, wrong))
    }

    /// What is to be asked, and what should come of it; `None` when nobody can say.
    fn judge(
        &mut self,
        evaluator: &Evaluator,
        ways: &Ways,
        question: &Question,
    ) -> Result<Option<(Call, Expected)>> {
        let Question { from, to, family, service, .. } = question;
        let counter = self.ports.entry((from.netns.clone(), question.sources)).or_insert(0);
        *counter = (*counter + 1) % 5_000;
        let source_port = question.sources + *counter;
        let (source, target) = (from.address(*family), to.address(*family));
        let (protocol, port, icmp) = match (service, family) {
            (Service::Tcp(port), _) => (6, Some(*port), None),
            (Service::Udp(port), _) => (17, Some(*port), None),
            (Service::Icmp, Family::V4) => (1, None, Some((8, 0))),
            (Service::Icmp, Family::V6) => (58, None, Some((128, 0))),
        };
        let source_of = port.map(|_| source_port);
        let packet =
            Packet { from: source, to: target, protocol, source_port: source_of, port, icmp };
        let pod = |site: &Site| ALL_PODS.iter().find(|pod| pod.name == site.name);
        let mut passes = true;
        let mut reasons = Vec::new();
        if pod(from).is_some() {
            let verdict = evaluator.judge(Direction::Egress, &packet);
            passes &= verdict.passes;
            reasons.push(format!("egress: {}", verdict.reason));
        }
        match pod(to) {
            // A host always reaches its own pods.
            Some(pod) if pod.host == from.name => {
                let is_there = evaluator.endpoint(target).is_some();
                passes &= is_there;
                reasons.push(format!("from its own host, endpoint there: {is_there}"));
            }
            Some(_) => {
                let verdict = evaluator.judge(Direction::Ingress, &packet);
                passes &= verdict.passes;
                reasons.push(format!("ingress: {}", verdict.reason));
            }
            None => {}
        }
        let packet = calico_reference::Packet {
            source,
            destination: target,
            protocol,
            ports: port.map(|port| (source_port, port)),
            icmp,
        };
        let Some(mut expected) = ways.expect(from, to, &packet)? else { return Ok(None) };
        let reason = reasons.join("; ");
        // Two writings of what policy means for pods.
        ensure!(
            passes == expected.pods_pass,
            "{} → {} {service}: the evaluator says {passes}: {reason}; the reference {expected:?}",
            from.name,
            to.name
        );
        expected.reason = format!("{reason}; with host endpoints: {}", expected.reason);
        if let Some(control) = question.control {
            ensure!(expected.passes == control, "wrong about a control: {}", expected.reason);
        }
        let (netns, service) = (from.netns.clone(), *service);
        let passes = expected.passes;
        let call = Call { netns, from: None, to: target, service, source_port, expected: passes };
        Ok(Some((call, expected)))
    }

    /// The chains of the class that an address belongs to, and those that they jump to.
    pub(crate) fn rules_of(&self, address: IpAddr) -> Result<String> {
        let owner = ALL_PODS
            .iter()
            .find(|pod| IpAddr::from(pod.v4) == address || IpAddr::from(pod.v6) == address);
        let Some(pod) = owner else { return Ok(String::new()) };
        let host = self.cluster.hosts.iter().find(|host| host.spec.name == pod.host);
        let host = host.context("no such host")?;
        let status = host.status()?;
        let endpoints = status.0["endpoints"].as_array().cloned().unwrap_or_default();
        let entry = endpoints.iter().find(|entry| entry["interface"] == pod.interface().as_str());
        let Some(class) = entry.and_then(|entry| entry["class"].as_str()) else {
            return Ok(format!(
                "{}: not an endpoint: {}\n",
                pod.name,
                status.problems().join("\n")
            ));
        };
        let mut text = format!("{} has class {class} on {}\n", pod.name, host.spec.name);
        if host.flavour.is_nftables() {
            text += &chains_of_table(host, class)?;
            return Ok(text);
        }
        let saved = save(host, address)?;
        let mut chains: Vec<String> = saved
            .lines()
            .filter(|line| line.contains(&format!("0c:{class}")))
            .filter_map(|line| line.split(" -g ").nth(1).map(str::to_owned))
            .collect();
        let mut at = 0;
        while at < chains.len() {
            let chain = chains[at].clone();
            for line in saved.lines().filter(|line| line.starts_with("-A")) {
                let mut words = line.split_whitespace();
                let own = words.nth(1).is_some_and(|name| name.contains(chain.as_str()));
                if own {
                    text += &format!("{line}\n");
                    let target = line.split(" -j ").nth(1).or(line.split(" -g ").nth(1));
                    let target = target.and_then(|rest| rest.split_whitespace().next());
                    let target = target.filter(|name| name.starts_with("cali"));
                    chains.extend(
                        target.filter(|name| !chains.iter().any(|c| c == name)).map(str::to_owned),
                    );
                }
            }
            at += 1;
        }
        Ok(text)
    }
}

/// The same of the agent's own table.
fn chains_of_table(host: &Host, class: &str) -> Result<String> {
    let rules = own_table::rules(host.ns())?;
    let mut chains = vec![format!("from-class-{class}"), format!("to-class-{class}")];
    let mut text = String::new();
    let mut at = 0;
    while at < chains.len() {
        let name = chains[at].clone();
        for (_, rule) in rules.iter().filter(|(chain, _)| *chain == name) {
            text += &format!("{name}: {rule}\n");
            let mut words = rule.split(' ').skip_while(|word| !matches!(*word, "jump" | "goto"));
            let target = words.nth(1).map(str::to_owned);
            if let Some(target) = target.filter(|name| !chains.contains(name)) {
                chains.push(target);
            }
        }
        at += 1;
    }
    Ok(text)
}

fn save(host: &Host, address: IpAddr) -> Result<String> {
    let flavour = host.flavour.iptables();
    let family = if address.is_ipv4() { "iptables" } else { "ip6tables" };
    host.ns().command(format!("{family}-{flavour}-save")).args(["-t", "filter"]).run()
}

/// A drop is silence; where nothing has the address there may be word that there is no way.
fn right(evaluator: &Evaluator, call: &Call, passes: bool, answer: &Answer) -> bool {
    match answer {
        Answer::Reached(_) => passes,
        Answer::Silence => !passes,
        Answer::Unreachable(_) => !passes && evaluator.endpoint(call.to).is_none(),
        Answer::Refused => false,
    }
}
