//! The roles of docs/security.md: with access control on, agent and plugin do all of their work with
//! them, and nothing that they must not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::Flavour;
use calico_e2e::process::Output;
use calico_e2e::rkt::{Rkt, draw_uuid};
use calico_e2e::{run, tutorial, wait};
use serde_json::json;

const DOCUMENT: &str = include_str!("../../docs/security.md");
const RESOURCES: &str = "/calico/resources/v3/projectcalico.org";
const AGENT: &str = "calico-agent:agents-secret";
const PLUGIN: &str = "calico-cni:plugins-secret";
const ROOT: &str = "root:roots-secret";

fn etcdctl(cluster: &Cluster, user: Option<&str>, words: &[&str]) -> Result<Output> {
    let endpoint = format!("--endpoints={}", cluster.etcd.endpoint());
    let user = user.map(|user| format!("--user={user}"));
    let command = cluster.outside().command("etcdctl").env("ETCDCTL_API", "3").arg(endpoint);
    command.args(user).args(words).output()
}

fn succeeds(cluster: &Cluster, user: Option<&str>, words: &[&str]) -> Result<String> {
    let output = etcdctl(cluster, user, words)?;
    ensure!(output.status.success(), "etcdctl {}: {}", words.join(" "), output.stderr);
    Ok(output.stdout)
}

fn is_denied(cluster: &Cluster, user: &str, words: &[&str]) -> Result<()> {
    let output = etcdctl(cluster, Some(user), words)?;
    let denied = !output.status.success() && output.stderr.contains("permission denied");
    ensure!(denied, "{user} may {}: {}{}", words.join(" "), output.stdout, output.stderr);
    Ok(())
}

/// Keys below a prefix, as root sees them.
fn keys(cluster: &Cluster, prefix: &str) -> Result<Vec<String>> {
    let words = ["get", "--prefix", "--keys-only", prefix];
    let text = succeeds(cluster, Some(ROOT), &words)?;
    Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// The commands of the document, one after the other.
fn give_roles(cluster: &Cluster) -> Result<usize> {
    let lines = DOCUMENT.lines().filter_map(|line| line.strip_prefix("etcdctl "));
    let lines: Vec<Vec<&str>> = lines.map(|line| line.split_whitespace().collect()).collect();
    for words in &lines {
        succeeds(cluster, None, words)?;
    }
    Ok(lines.len())
}

#[test]
fn agent_and_plugin_do_their_work_with_the_roles_of_the_document() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let mut cluster = Cluster::new("roles")?;
    cluster.etcd.put_all(&tutorial::before_pods())?;
    let given = give_roles(&cluster)?;
    ensure!(given > 15, "the document has {given} commands only");
    let refused = etcdctl(&cluster, None, &["get", "/calico/"])?;
    ensure!(!refused.status.success(), "access control is off: {}", refused.stdout);

    for host in &mut cluster.hosts {
        let (name, password) = AGENT.split_once(':').context("a user")?;
        host.env.push(("ETCD_USERNAME".to_owned(), name.to_owned()));
        host.env.push(("ETCD_PASSWORD".to_owned(), password.to_owned()));
        host.env.push(("FELIX_REPORTINGINTERVALSECS".to_owned(), "1".to_owned()));
        host.env.push(("FELIX_ENDPOINTREPORTINGENABLED".to_owned(), "true".to_owned()));
    }
    let rkt = Rkt::new(&cluster.hosts[0])?;
    let toml =
        format!("[collector]\ninterval = 0.3\ngrace = 1.5\nrkt_data_dir = {:?}\n", rkt.data());
    std::fs::write(cluster.hosts[0].config_dir().join("agent.toml"), toml)?;
    cluster.start_agents(Flavour::Auto)?;
    cluster.wait_until_ready()?;

    // A pod comes and goes.
    let (name, password) = PLUGIN.split_once(':').context("a user")?;
    rkt.network("network1", &json!({ "etcd_username": name, "etcd_password": password }))?;
    let mut pod = rkt.prepare(cluster.run(), &draw_uuid()?)?;
    rkt.connect(&mut pod, &[("network1", "")]).with_context(|| cluster.logs())?;
    let endpoints = format!("{RESOURCES}/workloadendpoints/");
    ensure!(keys(&cluster, &endpoints)?.len() == 1, "{:?}", keys(&cluster, &endpoints)?);
    ensure!(!keys(&cluster, "/calico/ipam/v2/handle/")?.is_empty());
    ensure!(!keys(&cluster, &format!("{RESOURCES}/profiles/network1"))?.is_empty());
    wait::until_true("status of the endpoint", Duration::from_secs(20), || {
        let found = keys(&cluster, "/calico/felix/").unwrap_or_default();
        found.iter().any(|key| key.contains(&pod.uuid))
    })?;
    let refusals = rkt.remove(pod)?;
    ensure!(refusals.is_empty(), "{refusals:?}");
    ensure!(keys(&cluster, &endpoints)?.is_empty());
    ensure!(keys(&cluster, "/calico/ipam/v2/handle/")?.is_empty());

    // One goes without a word, and the agent gives back what it had.
    let mut lost = rkt.prepare(cluster.run(), &draw_uuid()?)?;
    rkt.connect(&mut lost, &[("network1", "")])?;
    ensure!(keys(&cluster, &endpoints)?.len() == 1);
    std::fs::remove_dir_all(lost.dir())?;
    drop(lost);
    wait::until_true("end of what was left behind", Duration::from_secs(40), || {
        let left = |prefix: &str| keys(&cluster, prefix).is_ok_and(|keys| !keys.is_empty());
        !left(&endpoints) && !left("/calico/ipam/v2/handle/")
    })
    .with_context(|| cluster.logs())?;

    // Nothing that it tried was refused.
    for host in &mut cluster.hosts {
        let log = host.agent()?.log();
        ensure!(!log.contains("permission denied"), "{log}");
    }

    // What they must not, each beside what they may.
    let policy = format!("{RESOURCES}/globalnetworkpolicies/x");
    let profile = format!("{RESOURCES}/profiles/x");
    let node = format!("{RESOURCES}/nodes/x");
    let pool = format!("{RESOURCES}/ippools/x");
    let host_endpoint = format!("{RESOURCES}/hostendpoints/x");
    for key in [&policy, &profile, &pool, &host_endpoint] {
        is_denied(&cluster, AGENT, &["put", key, "{}"])?;
        is_denied(&cluster, AGENT, &["del", key])?;
        succeeds(&cluster, Some(AGENT), &["get", key])?;
    }
    succeeds(&cluster, Some(AGENT), &["put", &node, "{}"])?;
    for key in [&policy, &node, &pool, &host_endpoint] {
        is_denied(&cluster, PLUGIN, &["put", key, "{}"])?;
    }
    is_denied(&cluster, PLUGIN, &["get", &policy])?;
    is_denied(&cluster, PLUGIN, &["get", &host_endpoint])?;
    succeeds(&cluster, Some(PLUGIN), &["get", &node])?;
    is_denied(&cluster, AGENT, &["put", "/elsewhere", "x"])?;
    is_denied(&cluster, AGENT, &["get", "/elsewhere"])?;
    Ok(())
}
