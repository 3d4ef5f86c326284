//! What rkt leaves behind is found by the agent and removed, with the real plugin; what lives beside
//! it is not touched and loses no packet.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::holdings::Holdings;
use calico_e2e::host::{Flavour, Host};
use calico_e2e::probe::{PATIENT, Service, ask_from};
use calico_e2e::rkt::{Rkt, Sandbox, draw_uuid};
use calico_e2e::{tutorial, wait};
use serde_json::{Value, json};

/// The documentation's minutes are for people.
const COLLECTOR: &str = "interval = 0.3\ngrace = 1.5\n";
/// Everything that is not collected after this long stays.
const LONG: Duration = Duration::from_secs(6);
/// Addresses are looked at in each tenth look only.
const LIMIT: Duration = Duration::from_secs(40);

struct Lab {
    cluster: Cluster,
    rkt: Rkt,
}

fn lab(label: &str, flavour: Flavour) -> Result<Lab> {
    let mut cluster = Cluster::new(label)?;
    cluster.etcd.put_all(&tutorial::before_pods())?;
    let rkt = Rkt::new(&cluster.hosts[0])?;
    let toml = format!("[collector]\n{COLLECTOR}rkt_data_dir = {:?}\n", rkt.data());
    std::fs::write(cluster.hosts[0].config_dir().join("agent.toml"), toml)?;
    rkt.network("network1", &json!({ "policy_setup_timeout_seconds": 30 }))?;
    cluster.start_agents(flavour)?;
    cluster.wait_until_ready()?;
    Ok(Lab { cluster, rkt })
}

impl Lab {
    fn host(&self) -> &Host {
        &self.cluster.hosts[0]
    }

    fn pod(&self) -> Result<Sandbox> {
        let mut pod = self.rkt.prepare(self.cluster.run(), &draw_uuid()?)?;
        let connected = self.rkt.connect(&mut pod, &[("network1", "")]);
        connected.with_context(|| self.cluster.logs())?;
        Ok(pod)
    }

    fn held(&self) -> Result<Holdings> {
        Holdings::read(&self.cluster.etcd, &self.cluster.hosts)
    }

    fn has_address(&self, pod: &Sandbox) -> Result<bool> {
        Ok(self.held()?.addresses.contains_key(&pod.v4(0)?.into()))
    }

    fn has_interface(&self, pod: &Sandbox) -> Result<bool> {
        let links = self.host().ns().command("ip").args(["-o", "link", "show"]).run()?;
        Ok(links.contains(&interface(&pod.uuid)))
    }

    /// The lines of the journal about a pod's collection.
    fn collections(&self, uuid: &str) -> Result<Vec<String>> {
        let log = std::fs::read_to_string(self.host().agent_log())?;
        let lines = log
            .lines()
            .filter(|line| line.contains("collected what was left behind") && line.contains(uuid));
        Ok(lines.map(str::to_owned).collect())
    }

    fn until_collected(&self, uuid: &str) -> Result<String> {
        let what = format!("collection of {uuid}");
        wait::until(&what, LIMIT, || Ok(self.collections(uuid)?.pop()))
            .with_context(|| format!("{}\n{:?}", self.cluster.logs(), self.host().status_text()))
    }

    /// Nothing of the pod is left, in the store and on the host.
    fn gone(&self, uuid: &str, address: Ipv4Addr) -> Result<()> {
        let held = self.held()?;
        ensure!(!held.addresses.contains_key(&address.into()), "{address} is not free: {held}");
        ensure!(!held.endpoints.iter().any(|name| name.contains(uuid)), "endpoint: {held}");
        ensure!(!held.records.iter().any(|name| name.contains(uuid)), "record: {held}");
        let blocks = self.cluster.etcd.get_prefix("/calico/ipam/v2/assignment/ipv4/block/")?;
        let mut free = false;
        for (_, block) in blocks {
            let block: Value = serde_json::from_str(&block)?;
            let cidr = block["cidr"].as_str().context("a block without cidr")?;
            let base: Ipv4Addr = cidr.split('/').next().unwrap_or_default().parse()?;
            let ordinal = u32::from(address).wrapping_sub(u32::from(base));
            let unallocated = block["unallocated"].as_array().context("no list")?;
            free |= unallocated.contains(&json!(ordinal));
        }
        ensure!(free, "{address} is in no list of free addresses");
        Ok(())
    }
}

fn interface(uuid: &str) -> String {
    format!("cali{}", &uuid[..11])
}

fn what_rkt_left_behind_goes_and_what_lives_stays(label: &str, flavour: Flavour) -> Result<()> {
    let lab = lab(label, flavour)?;
    let (asks, answers) = (lab.pod()?, lab.pod()?);
    let (from, to) = (asks.ns().name().to_owned(), answers.v4(0)?);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| -> Result<usize> {
            let mut count = 0;
            while !over.load(Ordering::Relaxed) {
                let answer = ask_from(&from, to.into(), Service::Icmp, PATIENT)?;
                ensure!(answer.reached(), "lost after {count}: {answer:?}");
                count += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(count)
        });
        let result = leak(&lab);
        over.store(true, Ordering::Relaxed);
        let count = traffic.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result?;
        let count = count.with_context(|| lab.cluster.logs())?;
        ensure!(count > 100, "hardly asked: {count}");
        anyhow::Ok(())
    })?;
    for pod in [&asks, &answers] {
        ensure!(lab.has_address(pod)? && lab.has_interface(pod)?, "{} suffered", pod.uuid);
        ensure!(lab.collections(&pod.uuid)?.is_empty(), "{}", lab.cluster.logs());
    }
    let status = lab.host().status_text()?;
    let line = status.lines().find(|line| line.starts_with("Collector"));
    ensure!(line.is_some_and(|line| line.contains("0 suspected")), "{status}");
    for pod in [asks, answers] {
        let refusals = lab.rkt.remove(pod)?;
        ensure!(refusals.is_empty(), "{refusals:?}");
    }
    ensure!(lab.held()?.is_empty(), "{}", lab.held()?);
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: what_rkt_left_behind_goes_and_what_lives_stays, "col";
}

/// Leaves things behind in every way there is, beside things that only look so.
fn leak(lab: &Lab) -> Result<()> {
    // rkt forgot the pod and kept its namespace, so its interface does not go by itself.
    let forgotten = lab.pod()?;
    // The same, but a process lives in it: rkt was told to keep this one elsewhere (--dir).
    let elsewhere = lab.pod()?;
    let sleeping = elsewhere.ns().command("sleep").arg("600");
    let mut process = sleeping.start(&elsewhere.dir().with_extension("log"))?;
    // Its DEL failed, and the namespace went with the pod; no record tells of it.
    let unknown = lab.pod()?;
    // Stopped, not removed; and one whose link is down for long.
    let mut stopped = lab.pod()?;
    let flapped = lab.pod()?;
    let addresses = [&forgotten, &elsewhere, &unknown].map(|pod| pod.v4(0));
    let [at_forgotten, at_elsewhere, at_unknown] = addresses;

    for pod in [&forgotten, &elsewhere] {
        std::fs::remove_dir_all(pod.dir())?;
    }
    let unknown_id = unknown.uuid.clone();
    let records = lab.host().state_dir().join("attachments");
    std::fs::remove_file(records.join(format!("{unknown_id}_eth0.json")))?;
    std::fs::remove_dir_all(unknown.dir())?;
    drop(unknown);
    stopped.stop();
    let garbage = lab.rkt.data().join("pods/exited-garbage").join(&stopped.uuid);
    std::fs::rename(stopped.dir(), &garbage)?;
    lab.host().ns().ip(&format!("link set {} down\n", interface(&flapped.uuid)))?;

    let line = lab.until_collected(&forgotten.uuid)?;
    let expected =
        [&*at_forgotten?.to_string(), "rkt has no such pod", &interface(&forgotten.uuid)]
            .map(str::to_owned);
    ensure!(expected.iter().all(|part| line.contains(part)), "{line}");
    ensure!(!lab.has_interface(&forgotten)?, "the interface is still there");
    lab.gone(&forgotten.uuid, forgotten.v4(0)?)?;
    lab.until_collected(&unknown_id)?;
    lab.gone(&unknown_id, at_unknown?)?;
    killed_add(lab)?;

    // What only looks so stays, however long.
    std::thread::sleep(LONG);
    for pod in [&elsewhere, &stopped, &flapped] {
        let (address, interface) = (lab.has_address(pod)?, lab.has_interface(pod)?);
        ensure!(
            address && interface,
            "{}: {address} {interface}\n{}",
            pod.uuid,
            lab.cluster.logs()
        );
        ensure!(lab.collections(&pod.uuid)?.is_empty(), "{}", lab.cluster.logs());
    }
    // Until its last process ends, or it is removed as well.
    process.kill();
    lab.until_collected(&elsewhere.uuid)?;
    lab.gone(&elsewhere.uuid, at_elsewhere?)?;
    lab.host().ns().ip(&format!("link set {} up\n", interface(&flapped.uuid)))?;
    let refusals = lab.rkt.remove(flapped)?;
    ensure!(refusals.is_empty(), "{refusals:?}");
    std::fs::remove_dir_all(&garbage)?;
    lab.until_collected(&stopped.uuid)?;
    lab.gone(&stopped.uuid, stopped.v4(0)?)?;
    ensure!(lab.collections(&forgotten.uuid)?.len() == 1, "collected again and again");
    Ok(())
}

/// Plugins killed at work, later and later until one has got as far as an address. rkt has the pods
/// still, but nobody runs in them.
fn killed_add(lab: &Lab) -> Result<()> {
    let mut killed = Vec::new();
    let mut held = false;
    for step in 1..60 {
        let after = Duration::from_millis(step * 3);
        let rkt = lab.rkt.clone().killing_after(after);
        let mut pod = rkt.prepare(lab.cluster.run(), &draw_uuid()?)?;
        if rkt.connect(&mut pod, &[("network1", "")]).is_ok() {
            lab.rkt.remove(pod)?;
            continue;
        }
        held |= lab.held()?.addresses.values().any(|handle| handle.contains(&pod.uuid));
        killed.push(pod);
        if held && killed.len() > 3 {
            break;
        }
    }
    ensure!(held, "{} were killed, and none had an address", killed.len());
    wait::until("end of what the killed had", LIMIT, || {
        let held = lab.held()?;
        let texts = [held.addresses.values().collect::<Vec<_>>()];
        let of = |pod: &Sandbox| texts.iter().flatten().any(|handle| handle.contains(&pod.uuid));
        let endpoint = |pod: &Sandbox| held.endpoints.iter().any(|name| name.contains(&pod.uuid));
        let record = |pod: &Sandbox| held.records.iter().any(|name| name.contains(&pod.uuid));
        let left = killed.iter().filter(|pod| of(pod) || endpoint(pod) || record(pod)).count();
        ensure!(left == 0, "{left} of {} are left: {held}", killed.len());
        for pod in &killed {
            ensure!(!lab.has_interface(pod)?, "the interface of {} is left", pod.uuid);
        }
        Ok(Some(()))
    })
    .with_context(|| lab.cluster.logs())
}
