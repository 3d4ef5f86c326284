//! How long an ADD takes, and where its time goes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::Flavour;
use calico_e2e::netns::Netns;
use calico_e2e::pod::{GATEWAY_V4, HOST_MAC};
use calico_e2e::rkt::{Attached, Rkt, draw_uuid};
use calico_e2e::tutorial;
use serde_json::json;

use crate::report::{Report, Row, Spread};

const TITLE: &str = "one pod more: an ADD of the plugin, and its steps";
/// What is left over of an ADD beside the steps that it tells.
const PROCESS: &str = "start and end of the process";

/// ADDs of one pod after the other with an agent that has nothing else to do, beside `ip` and two
/// writes to etcd.
pub(crate) fn measure(count: u16, report: &mut Report) -> Result<()> {
    let mut cluster = Cluster::new("benchp")?;
    cluster.etcd.put_all(&tutorial::before_pods())?;
    cluster.start_agents(Flavour::Nft)?;
    cluster.wait_until_ready()?;
    let rkt = Rkt::new(&cluster.hosts[0])?;
    rkt.network("network1", &json!({ "log_level": "debug" }))?;
    // The first pod of a network makes its profile and the host's first block.
    let mut pods = Vec::new();
    let mut add = || -> Result<Attached> {
        let mut pod = rkt.prepare(cluster.run(), &draw_uuid()?)?;
        rkt.connect(&mut pod, &[("network1", "")]).with_context(|| cluster.logs())?;
        let attached = pod.attached[0].clone();
        pods.push(pod);
        std::thread::sleep(Duration::from_millis(20));
        Ok(attached)
    };
    add()?;
    let all = (0..count).map(|_| add()).collect::<Result<Vec<_>>>()?;

    let mut took: Vec<Duration> = all.iter().map(|attached| attached.took).collect();
    let mut raw = reference(&cluster, count)?;
    let ours = Spread::of(&mut took);
    let row = Row::new("pod", "ADD by the plugin", ours).within("p50 ≤ 30 ms", ours.p50 <= 30.0);
    report.add(TITLE, row.beside("`ip` twice, two writes", Spread::of(&mut raw)));
    let mut steps: Vec<String> = Vec::new();
    let mut times: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    for attached in &all {
        for (step, time) in told(attached)? {
            if !steps.contains(&step) {
                steps.push(step.clone());
            }
            times.entry(step).or_default().push(time);
        }
    }
    for step in steps {
        let times = times.entry(step.clone()).or_default();
        let note = if times.len() == all.len() { "" } else { " (not each time)" };
        report.add(TITLE, Row::new("pod", format!("· {step}{note}"), Spread::of(times)));
    }
    Ok(())
}

/// The steps of an ADD with the time that each took, from what it said.
fn told(attached: &Attached) -> Result<Vec<(String, Duration)>> {
    let (mut all, mut last) = (Vec::new(), Duration::ZERO);
    for line in attached.stderr.lines().filter_map(|line| line.strip_prefix("calico: debug: ")) {
        let (time, rest) = line.split_once(" ms: ").with_context(|| line.to_owned())?;
        let time = Duration::from_secs_f64(time.parse::<f64>()? / 1e3);
        // Fields come after the words.
        let words = rest.split(' ').take_while(|word| !word.contains('='));
        all.push((words.collect::<Vec<_>>().join(" "), time.saturating_sub(last)));
        last = time;
    }
    ensure!(all.len() > 3, "it says nothing of its steps: {}", attached.stderr);
    all.push((PROCESS.to_owned(), attached.took.saturating_sub(last)));
    Ok(all)
}

/// What has to be done at least: both sides of the pair by `ip` (a process each), an address block and
/// an endpoint written over a connection that is open already.
fn reference(cluster: &Cluster, count: u16) -> Result<Vec<Duration>> {
    let host = cluster.hosts[1].ns();
    let mut etcd = cluster.etcd.writer()?;
    let base = tutorial::base();
    let block = base.iter().find(|(key, _)| key.contains("/block/")).context("no block")?;
    let (_, endpoint) = tutorial::PODS[0].endpoint().pair();
    let mut pods = Vec::new();
    let mut times = Vec::new();
    for number in 0..count {
        let pod = Netns::fresh(cluster.run(), &format!("raw{number}"))?;
        let (name, [high, low]) = (pod.name().to_owned(), number.to_be_bytes());
        let begin = Instant::now();
        host.ip(&format!(
            "link add raw{number} address {HOST_MAC} type veth peer name eth0 netns {name}\n\
             link set raw{number} up\n"
        ))?;
        pod.ip(&format!(
            "link set eth0 up\naddr add 192.168.{high}.{low}/32 dev eth0\n\
             route add {GATEWAY_V4} dev eth0 scope link\n\
             route add default via {GATEWAY_V4} dev eth0\n\
             neigh replace {GATEWAY_V4} lladdr {HOST_MAC} dev eth0 nud permanent\n"
        ))?;
        etcd.put(&format!("/raw/block/{number}"), &block.1)?;
        etcd.put(&format!("/raw/endpoint/{number}"), &endpoint)?;
        times.push(begin.elapsed());
        pods.push(pod);
    }
    Ok(times)
}
