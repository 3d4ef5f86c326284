//! `calico-agent explain` beside real packets: what it says is what they do, on a running agent and
//! from the datastore, and what it foretells of a change comes true when the change is made.

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::{Flavour, Host};
use calico_e2e::matrix::Family;
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from};
use calico_e2e::tutorial::{self, DNS, HOSTS, HTTP, OTHER, PODS, SERVICES};
use calico_e2e::world::{Entity, GlobalNetworkPolicy, NetworkPolicy, Resource, Rule};
use serde_json::Value;

const ALLOWED: Option<i32> = Some(0);
const FAILED: Option<i32> = Some(1);
const NOT_RUNNING: Option<i32> = Some(4);
const DENIED: Option<i32> = Some(6);
const UNKNOWN: Option<i32> = Some(7);
const USAGE: Option<i32> = Some(64);

fn said(host: &Host, offline: bool, words: &str, code: Option<i32>) -> Result<String> {
    let output = host.explain(offline, words)?;
    let all = format!("{}{}", output.stdout, output.stderr);
    ensure!(output.status.code() == code, "{words}: {} instead of {code:?}\n{all}", output.status);
    Ok(all)
}

fn json(host: &Host, offline: bool, words: &str) -> Result<Value> {
    let output = host.explain(offline, &format!("{words} --json"))?;
    serde_json::from_str(&output.stdout).with_context(|| format!("{words}: {}", output.stderr))
}

fn words(service: Service) -> String {
    match service {
        Service::Tcp(port) => format!("--protocol tcp --port {port}"),
        Service::Udp(port) => format!("--protocol udp --port {port}"),
        Service::Icmp => "--protocol icmp".to_owned(),
    }
}

/// What people would type for a site: pods by the beginning of their container's id.
fn peer(site: &str) -> Result<String> {
    if let Some(pod) = tutorial::pod(site) {
        return Ok(pod.container_id[..8].to_owned());
    }
    Ok(match HOSTS.iter().find(|host| host.name == site) {
        Some(host) => host.name.to_owned(),
        None => "outside".to_owned(),
    })
}

/// Every cell of the table that `check` has just measured with packets. `explain` knows both sides
/// from the datastore; the agents know them where both pods are theirs.
fn compare(cluster: &Cluster, policy: bool) -> Result<(usize, usize)> {
    cluster.check(policy)?;
    let expected = tutorial::expected(policy, Family::V4)?;
    let (mut asked, mut denied) = (0, 0);
    for (from, to, passes) in expected.cells() {
        let named = [from, to].map(tutorial::pod);
        let flat = || named.iter().flatten();
        if flat().next().is_none() {
            continue;
        }
        let questions = SERVICES.map(|(letter, service)| (passes.contains(letter), service));
        for (pass, service) in questions {
            let text = format!("--from {} --to {} {}", peer(from)?, peer(to)?, words(service));
            let code = if pass { ALLOWED } else { DENIED };
            said(&cluster.hosts[0], true, &text, code).with_context(|| format!("{from} → {to}"))?;
            asked += 1;
            denied += usize::from(!pass);
            // The agent of a host on which all of it is.
            let here =
                cluster.hosts.iter().find(|host| flat().all(|pod| pod.host == host.spec.name));
            if let Some(host) = here {
                said(host, false, &text, code).with_context(|| format!("{from} → {to}"))?;
                asked += 1;
            }
        }
    }
    Ok((asked, denied))
}

fn what_explain_says_is_what_packets_do(label: &str, flavour: Flavour) -> Result<()> {
    let cluster = Cluster::tutorial(label, flavour)?;
    let plain = compare(&cluster, false)?;
    cluster.put_and_wait(&tutorial::policies())?;
    let policed = compare(&cluster, true)?;
    for (asked, denied) in [plain, policed] {
        ensure!(asked > 150 && denied > 30 && asked > 2 * denied, "{asked} asked, {denied} denied");
    }
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: what_explain_says_is_what_packets_do, "exp";
}

/// Before everything else: backends get nothing over TCP.
fn no_tcp() -> Resource<GlobalNetworkPolicy> {
    let spec = NetworkPolicy {
        tier: Some("security".to_owned()),
        order: Some(1),
        ingress: vec![
            Rule::new("Log"),
            Rule::new("Deny").protocol("TCP").from(Entity::selector("role == 'frontend'")),
        ],
        selector: "role == 'backend'".to_owned(),
        types: vec!["Ingress".to_owned()],
        ..NetworkPolicy::default()
    };
    Resource::new("security.no-tcp", GlobalNetworkPolicy(spec))
}

fn what_is_foretold_of_a_change_comes_true(label: &str, flavour: Flavour) -> Result<()> {
    let cluster = Cluster::tutorial(label, flavour)?;
    cluster.put_and_wait(&tutorial::policies())?;
    cluster.wait_until_ready()?;
    let host = &cluster.hosts[0];
    let [front, back] = [&PODS[0], &PODS[1]];
    let asked = format!("--from {} --to {} --port {HTTP}", front.container_id, back.interface());
    let named = asked.replace(&HTTP.to_string(), "http");
    let packet = |limit| {
        ask_from(cluster.pod(front.name)?.ns().name(), back.v4.into(), Service::Tcp(HTTP), limit)
    };
    for offline in [false, true] {
        said(host, offline, &asked, ALLOWED)?;
        let text = said(host, offline, &named, ALLOWED)?;
        ensure!(text.contains("default.backend-ports of tier default, ingress[0]"), "{text}");
    }
    ensure!(packet(PATIENT)?.reached(), "no packet passes before the change");

    // A manifest as people write it.
    let (key, value) = no_tcp().pair();
    let file = host.dir().join("no-tcp.yaml");
    std::fs::write(&file, &value)?;
    let with = format!("{asked} --with {}", file.display());
    let foretold = json(host, true, &with)?;
    ensure!(foretold["answers"][0]["outcome"] == "denied", "{foretold:#}");
    let because = "ingress: policy security.no-tcp of tier security, ingress[1]";
    ensure!(foretold["answers"][0]["because"] == because, "{foretold:#}");
    let changes = &foretold["basis"]["changes"];
    ensure!(changes[0] == "+ GlobalNetworkPolicy security.no-tcp", "{changes}");
    // Nothing was written.
    said(host, true, &asked, ALLOWED)?;
    ensure!(packet(PATIENT)?.reached(), "the question changed something");

    cluster.put_and_wait(&[(key.clone(), value)])?;
    cluster.wait_until_ready()?;
    let now = json(host, false, &asked)?;
    ensure!(now["answers"] == foretold["answers"], "{now:#}\ninstead of\n{foretold:#}");
    said(host, false, &asked, DENIED)?;
    ensure!(packet(BRIEF)? == Answer::Silence, "the foretold drop did not come");
    // UDP is none of its business, and another policy denies it.
    let udp = format!("--from {} --to {} --protocol udp --port {DNS}", front.v4, back.v4);
    let text = said(host, false, &udp, DENIED)?;
    ensure!(text.contains("security.no-udp-from-frontends of tier security, ingress[0]"), "{text}");

    // And without it again.
    let without = format!("{asked} --without globalnetworkpolicy/security.no-tcp");
    let text = said(host, true, &without, ALLOWED)?;
    ensure!(text.contains("- GlobalNetworkPolicy security.no-tcp"), "{text}");
    let revision = cluster.etcd.delete(&key)?;
    cluster.wait_for_revision(host, revision)?;
    cluster.wait_until_ready()?;
    said(host, false, &asked, ALLOWED)?;
    ensure!(packet(PATIENT)?.reached(), "what was foretold without it did not come");
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: what_is_foretold_of_a_change_comes_true, "fot";
}

fn what_cannot_be_told_and_what_is_drawn(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::tutorial(label, flavour)?;
    cluster.put_and_wait(&tutorial::policies())?;
    cluster.wait_until_ready()?;
    let host = &cluster.hosts[0];
    let [front, back] = [&PODS[0], &PODS[1]];
    let to = |text: &str| format!("--from {} --to {text} --port {OTHER}", front.v4);
    for offline in [false, true] {
        let text = said(host, offline, &to("web"), FAILED)?;
        ensure!(
            text.contains("\"web\" is no address") && text.contains(back.container_id),
            "{text}"
        );
        // All of this namespace begin so.
        let text = said(host, offline, &to("default/"), FAILED)?;
        ensure!(text.contains("may be any of") && text.contains(front.container_id), "{text}");
        for bad in ["--protocol tcp", "--protocol nonsense --port 1", "--protocol icmp --port 1"] {
            let bad = format!("--from {} --to {} {bad}", front.v4, back.v4);
            said(host, offline, &bad, USAGE)?;
        }
        said(host, offline, "--from 10.0.0.1 --port 80", USAGE)?;
    }
    // A pod of the other host: its agent knows, and so does the datastore.
    let there = &PODS[3];
    let text = said(host, false, &to(&there.v4.to_string()), UNKNOWN)?;
    ensure!(text.contains("--offline"), "{text}");
    said(&cluster.hosts[1], false, &to(&there.v4.to_string()), UNKNOWN)?;
    said(host, true, &to(&there.v4.to_string()), ALLOWED)?;
    said(host, false, &to(there.container_id), FAILED)?;

    for missing in ["--with /nowhere.yaml", "--without GlobalNetworkPolicy/none"] {
        said(host, true, &format!("{} {missing}", to("outside")), FAILED)?;
    }
    let file = host.dir().join("bad.yaml");
    std::fs::write(
        &file,
        "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: x}\nspec: {orders: 1}\n",
    )?;
    let text = said(host, true, &format!("{} --with {}", to("outside"), file.display()), FAILED)?;
    ensure!(text.contains("orders"), "{text}");

    // The same graph from both; every pod of the host is in it.
    for format in ["dot", "svg", "json"] {
        let words = format!("--graph {format} --port {HTTP}");
        let [live, calculated] = [false, true].map(|offline| said(host, offline, &words, ALLOWED));
        let (live, calculated) = (live?, calculated?);
        ensure!(live == calculated, "{live}\ninstead of\n{calculated}");
        for pod in PODS.iter().filter(|pod| pod.host == host.spec.name) {
            ensure!(live.contains(pod.container_id), "{live}");
        }
    }
    let svg = said(host, false, "--graph svg", ALLOWED)?;
    ensure!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
    said(host, false, "--graph dot --from 10.0.0.1 --to 10.0.0.2", USAGE)?;

    cluster.hosts[0].stop_agent()?;
    let host = &cluster.hosts[0];
    said(host, false, &to("outside"), NOT_RUNNING)?;
    said(host, true, &to("outside"), ALLOWED)?;
    cluster.etcd.stop()?;
    let text = said(&cluster.hosts[0], true, &to("outside"), FAILED)?;
    ensure!(text.contains("datastore"), "{text}");
    // An agent that has lost it answers, and says so.
    let text = said(
        &cluster.hosts[1],
        false,
        &format!("--from {} --to outside --port 1", there.v4),
        ALLOWED,
    )?;
    ensure!(text.contains("the datastore is not read now") || text.contains("revision"), "{text}");
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: what_cannot_be_told_and_what_is_drawn, "exr";
}
