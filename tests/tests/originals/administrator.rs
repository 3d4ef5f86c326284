//! `calicoctl` after our plugin: it understands everything, finds nothing wrong, and what it takes
//! away is gone.

use anyhow::{Context, Result, ensure};
use calico_e2e::holdings::Holdings;
use calico_e2e::process::Output;
use calico_e2e::rkt::Sandbox;
use serde_json::{Value, json};

use super::kubernetes::Kubernetes;
use super::programs::{Lab, Maker, Originals, pool};

/// `calicoctl ipam check`: what it says of problems, and all that it says.
fn check(lab: &Lab, kubernetes: &Kubernetes) -> Result<(u32, String)> {
    let command = lab.originals.calicoctl(lab.host(0), "ipam check --show-all-ips");
    let text = command.env("KUBECONFIG", kubernetes.kubeconfig()).run()?;
    let last = text.split("Check complete; found ").nth(1).and_then(|rest| rest.split(' ').next());
    let problems = last.and_then(|number| number.parse().ok());
    Ok((problems.with_context(|| text.clone())?, text))
}

fn say(lab: &Lab, words: &str) -> Result<String> {
    lab.originals.calicoctl(lab.host(0), words).run()
}

/// The numbers of `ipam show` in the line of a CIDR: all, in use.
fn usage(table: &str, cidr: &str) -> Result<(u32, u32)> {
    let line = table.lines().find(|line| line.contains(&format!(" {cidr} ")));
    let cells: Vec<_> = line.with_context(|| table.to_owned())?.split('|').collect();
    let number = |at: usize| cells.get(at)?.split_whitespace().next()?.parse().ok();
    number(3).zip(number(4)).with_context(|| table.to_owned())
}

#[test]
fn calicoctl_finds_nothing_wrong_and_frees_what_it_is_told() -> Result<()> {
    let Some(originals) = Originals::find()? else { return Ok(()) };
    // Two blocks of four: one host has more pods than addresses.
    let pools = [pool("v4", "10.65.0.0/29", 30), pool("v6", "fd65::/125", 126)];
    let lab = Lab::new(originals, "origadmin", &pools)?;
    // For `ipam check`, which asks what is to be counted of services.
    let of_controllers = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "KubeControllersConfiguration",
        "metadata": { "name": "default" }, "spec": { "controllers": {} },
    });
    lab.originals.apply(lab.host(0), &of_controllers)?;
    let kubernetes = Kubernetes::run(lab.host(0))?;
    let far = lab.add(1, Maker::Ours, ("network2", ""))?;
    let mut near = Vec::new();
    for network in ["network2", "network2", "network2", "network1", "network1"] {
        near.push(lab.add(0, Maker::Ours, (network, ""))?);
    }

    let (problems, text) = check(&lab, &kubernetes)?;
    ensure!(problems == 0, "{text}");
    ensure!(text.contains("IPAM blocks record 10 allocations"), "{text}");
    let table = say(&lab, "ipam show --show-blocks")?;
    ensure!(usage(&table, "10.65.0.0/29")? == (8, 6), "{table}");
    let blocks = ["10.65.0.0/30", "10.65.0.4/30"].map(|block| usage(&table, block));
    let [first, second] = blocks;
    let mut used = [first?, second?];
    used.sort_unstable();
    ensure!(used == [(4, 2), (4, 4)], "{table}");
    let borrowed = say(&lab, "ipam show --show-borrowed")?;
    ensure!(borrowed.matches("calico-0").count() >= 2, "{borrowed}");
    let pod = near.last().context("no pod")?;
    let shown = say(&lab, &format!("ipam show --ip={}", pod.v4(0)?))?;
    ensure!(shown.contains("in use") && shown.contains("calico-01"), "{shown}");

    leaks_are_seen(&lab, &kubernetes, pod)?;

    let pod = near.pop().context("no pod")?;
    release(&lab, pod)?;
    let (problems, text) = check(&lab, &kubernetes)?;
    ensure!(problems == 0, "{text}");
    for pod in near {
        lab.remove(0, Maker::Ours, pod)?;
    }
    lab.remove(1, Maker::Ours, far)?;
    let (problems, text) = check(&lab, &kubernetes)?;
    ensure!(problems == 0 && text.contains("record 0 allocations"), "{text}");
    let left = Holdings::read(&lab.cluster.etcd, &lab.cluster.hosts)?;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}

/// The control: the check is one.
fn leaks_are_seen(lab: &Lab, kubernetes: &Kubernetes, pod: &Sandbox) -> Result<()> {
    let etcd = &lab.cluster.etcd;
    let handle = format!("/calico/ipam/v2/handle/network1.{}", pod.uuid);
    let stored = etcd.get(&handle)?.context("no handle")?;
    let orphan = format!("{handle}-nobody");
    etcd.put(&orphan, &stored)?;
    let (problems, text) = check(lab, kubernetes)?;
    // Older ones do not look at handles.
    let wanted = u32::from(lab.originals.is_at_least(3, 28)?);
    ensure!(problems == wanted, "{text}");
    etcd.delete(&orphan)?;
    let endpoints = etcd.get_prefix("/calico/resources/v3/projectcalico.org/workloadendpoints/")?;
    let own = endpoints.into_iter().find(|(_, value)| value.contains(&pod.uuid));
    let (key, value) = own.context("no endpoint")?;
    etcd.delete(&key)?;
    let (problems, text) = check(lab, kubernetes)?;
    ensure!(problems == 1, "{text}");
    etcd.put(&key, &value)?;
    Ok(())
}

/// Its address is taken from a pod that lives, and given to another. Its DEL takes from nobody.
fn release(lab: &Lab, pod: Sandbox) -> Result<()> {
    let address = pod.v4(0)?;
    let held = || Holdings::read(&lab.cluster.etcd, &lab.cluster.hosts);
    let handle = format!("network1.{}", pod.uuid);
    ensure!(held()?.addresses.get(&address.into()) == Some(&handle));
    say(lab, &format!("ipam release --ip={address}"))?;
    let now = held()?;
    ensure!(!now.addresses.contains_key(&address.into()), "still given: {now}");
    ensure!(now.contradictions().is_empty(), "{:?}", now.contradictions());
    // It goes without a complaint although nothing is left that is its own. On its host its address
    // could not be another pod's before.
    let next = lab.add(1, Maker::Ours, ("network2", &format!("IP={address}")))?;
    lab.remove(0, Maker::Ours, pod)?;
    ensure!(next.v4(0)? == address, "{next:?}");
    let now = held()?;
    let owner = now.addresses.get(&address.into());
    ensure!(owner == Some(&format!("network2.{}", next.uuid)), "{now}");
    lab.remove(1, Maker::Ours, next)
}

/// What `get` shows can be sent back unchanged: every field is one that `calicoctl` knows and finds
/// valid.
#[test]
fn calicoctl_reads_what_we_write_and_takes_it_back() -> Result<()> {
    let Some(originals) = Originals::find()? else { return Ok(()) };
    let lab = Lab::new(originals, "origread", &[pool("v6", "fd65::/120", 124)])?;
    let conf = json!({
        "ipam": { "type": "calico-ipam", "subnet": "10.66.0.0/24", "assign_ipv6": "true" },
        "labels": { "role": "frontend" },
    });
    lab.network("network3", &conf)?;
    let pod = lab.add(0, Maker::Ours, ("network3", "label.tier=web;MAC=ca:fe:00:00:00:07"))?;
    let get = |words: &str| lab.originals.get(lab.host(0), words);
    let version = lab.originals.version()?;
    let said = say(&lab, "version")?;
    ensure!(said.contains(&version), "the plugin is {version}, calicoctl says {said}");

    let endpoints = get("workloadendpoint -A")?;
    let spec = &endpoints["items"][0]["spec"];
    let wanted = json!({
        "containerID": pod.uuid, "endpoint": "eth0", "interfaceName": format!("cali{}", &pod.uuid[..11]),
        "ipNetworks": ["10.66.0.0/32", "fd65::/128"], "mac": "ca:fe:00:00:00:07",
        "node": "calico-01", "orchestrator": "cni", "profiles": ["network3"],
    });
    for (field, value) in wanted.as_object().into_iter().flatten() {
        if field == "ipNetworks" {
            let networks = spec[field].as_array().context("no networks")?;
            ensure!(networks.len() == 2, "{spec}");
            ensure!(networks[0] == json!(format!("{}/32", pod.v4(0)?)), "{spec}");
        } else {
            ensure!(spec[field] == *value, "{field}: {spec}");
        }
    }
    let labels = &endpoints["items"][0]["metadata"]["labels"];
    ensure!(labels["role"] == "frontend" && labels["tier"] == "web", "{labels}");
    let yaml = say(&lab, "get workloadendpoint -A -o yaml")?;
    ensure!(yaml.contains(&format!("containerID: {}", pod.uuid)), "{yaml}");

    let profile = get("profile network3")?;
    ensure!(profile["spec"]["labelsToApply"] == json!({ "network3": "" }), "{profile}");
    ensure!(profile["spec"]["ingress"][0]["source"]["selector"] == "has(network3)", "{profile}");
    let pools = get("ippool")?;
    let pools = pools["items"].as_array().context("no pools")?;
    let made: Vec<&Value> =
        pools.iter().filter(|pool| pool["spec"]["cidr"] == "10.66.0.0/24").collect();
    ensure!(made.len() == 1, "{pools:?}");

    let mut taken = 0;
    let own = |pool: &Value| pool["metadata"]["name"].as_str().map(str::to_owned);
    let pool = own(made[0]).context("a pool without a name")?;
    for words in [
        "workloadendpoint -A",
        "profile network3",
        &format!("ippool {pool}"),
        "node calico-01",
        "node calico-02",
        "felixconfiguration node.calico-01",
    ] {
        let shown = get(words)?;
        let one = if shown["items"].is_null() { &shown } else { &shown["items"][0] };
        let kind = one["kind"].as_str().unwrap_or_default().to_owned();
        lab.originals.apply(lab.host(0), one).with_context(|| words.to_owned())?;
        let again = get(words)?;
        let again = if again["items"].is_null() { &again } else { &again["items"][0] };
        // It adds its own defaults to what it writes.
        for (field, value) in one["spec"].as_object().into_iter().flatten() {
            ensure!(again["spec"][field] == *value, "{kind}, {field}: {again} after {one}");
        }
        ensure!(again["metadata"]["labels"] == one["metadata"]["labels"], "{again} after {one}");
        taken += 1;
    }
    ensure!(taken == 6, "{taken} objects");
    // The control: it does not take everything.
    let mut bad = get("profile network3")?;
    bad["spec"]["ingress"][0]["action"] = json!("Perhaps");
    let Output { status, .. } = lab.originals.submit(lab.host(0), "apply", &bad)?;
    ensure!(!status.success(), "calicoctl takes anything");
    let information = get("clusterinformation default")?;
    ensure!(information["spec"]["datastoreReady"] == true, "{information}");
    println!("{taken} objects of ours sent back unchanged");
    lab.remove(0, Maker::Ours, pod)
}
