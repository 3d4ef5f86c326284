//! The keys by which a host tells the cluster of itself and of its endpoints.
//!
//! Keys and values are written down here as users of calico/node know them, not taken from the code
//! under test.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::Flavour;
use calico_e2e::tutorial::{self, PODS, PodSpec};
use calico_e2e::wait;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(10);
const HOSTS: &str = "/calico/felix/v2/no-region/host/";
const SETTINGS: &str = "/calico/resources/v3/projectcalico.org/felixconfigurations/default";
const TTL: i64 = 5;

const UP: &str = r#"{"status":"up"}"#;
const DOWN: &str = r#"{"status":"down"}"#;

fn configure(cluster: &Cluster, endpoints: bool) -> Result<()> {
    let value = json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "FelixConfiguration",
        "metadata": { "name": "default" },
        "spec": {
            "reportingInterval": "1s",
            "reportingTTL": format!("{TTL}s"),
            "endpointReportingEnabled": endpoints,
        },
    });
    cluster.etcd.put(SETTINGS, &value.to_string()).map(drop)
}

fn host_key(host: &str, name: &str) -> String {
    format!("{HOSTS}{host}/{name}")
}

fn endpoint_key(pod: &PodSpec) -> String {
    let (host, id) = (pod.host, pod.container_id);
    format!("{HOSTS}{host}/workload/cni/default%2f{id}/endpoint/eth0")
}

/// Waits until a key has a value, or none.
fn wait_for(cluster: &Cluster, key: &str, value: Option<&str>) -> Result<()> {
    wait::until(&format!("{value:?} in {key}"), SOON, || {
        let found = cluster.etcd.get(key)?;
        ensure!(found.as_deref() == value, "it has {found:?}");
        Ok(Some(()))
    })
    .with_context(|| cluster.logs())
}

/// What the host says of itself: the three fields, each of its type, and no more.
fn report(cluster: &Cluster, key: &str) -> Result<Option<Value>> {
    let Some(text) = cluster.etcd.get(key)? else { return Ok(None) };
    let value: Value = serde_json::from_str(&text).context(text)?;
    let fields = value.as_object().context("no object")?;
    let names: BTreeSet<&str> = fields.keys().map(String::as_str).collect();
    ensure!(names == BTreeSet::from(["first_update", "time", "uptime"]), "{value}");
    ensure!(fields["first_update"].is_boolean() && fields["uptime"].is_f64(), "{value}");
    let time = fields["time"].as_str().context("no time")?;
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    ensure!(shape == "0000-00-00T00:00:00Z", "{value}");
    Ok(Some(value))
}

fn the_host_reports_and_its_report_vanishes_with_it(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::on(label, flavour)?;
    cluster.etcd.put_all(&tutorial::base())?;
    configure(&cluster, false)?;
    cluster.hosts[0].start_agent()?;
    let pod = PODS[0];
    cluster.place_pod(&pod)?;
    let name = cluster.hosts[0].spec.name;
    let (status, last) = (host_key(name, "status"), host_key(name, "last_reported_status"));

    // The first report says that it is the first, the next does not, and time goes on.
    let first = wait::until("first report", SOON, || report(&cluster, &last))
        .with_context(|| cluster.logs())?;
    ensure!(first["first_update"] == true, "{first}");
    let next = wait::until("next report", SOON, || {
        Ok(report(&cluster, &last)?.filter(|value| value["first_update"] == false))
    })?;
    ensure!(next["uptime"].as_f64() > first["uptime"].as_f64(), "{first} {next}");
    ensure!(report(&cluster, &status)?.is_some(), "no {status}");

    cluster.hosts[0].read_back()?;
    // Only the one that shall vanish hangs on a lease, and the lease is the TTL of the settings.
    let left = cluster.etcd.ttl(&status)?.context("no lease")?;
    ensure!((1..=TTL).contains(&left), "{left} s");
    ensure!(cluster.etcd.ttl(&last)?.is_none(), "{last} has a lease");

    // Endpoints are not reported unless somebody asks for it: the pod is up, and has no key.
    let host = &cluster.hosts[0];
    wait::until_true("programmed pod", SOON, || host.has_status_file(&pod.status_file()))?;
    wait::until("report after that", SOON, || {
        let now = report(&cluster, &last)?;
        Ok(now.filter(|now| now["uptime"].as_f64() > next["uptime"].as_f64()))
    })?;
    let keys = cluster.etcd.get_prefix(HOSTS)?;
    ensure!(keys.iter().map(|(key, _)| key).eq([&last, &status]), "{keys:?}");

    // A crash: the report goes when its time is over, the last one stays.
    cluster.hosts[0].kill_agent();
    ensure!(cluster.etcd.get(&status)?.is_some(), "gone before its time");
    wait::until("end of the report", Duration::from_secs(15), || {
        Ok(cluster.etcd.get(&status)?.is_none().then_some(()))
    })?;
    ensure!(report(&cluster, &last)?.is_some(), "{last} is gone");
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: the_host_reports_and_its_report_vanishes_with_it, "skh";
}

fn an_endpoint_is_up_down_and_gone(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::on(label, flavour)?;
    cluster.etcd.put_all(&tutorial::base())?;
    configure(&cluster, true)?;
    let (first, second) = (PODS[0], PODS[1]);
    ensure!(first.host == second.host, "both on one host");
    // What is left of endpoints that are gone, here and elsewhere.
    let other = cluster.hosts.iter().map(|host| host.spec.name).find(|name| *name != first.host);
    let other = other.context("two hosts")?;
    let stale = |host: &str| host_key(host, "workload/cni/default%2fgone/endpoint/eth0");
    // A host whose name begins with ours is another host.
    let neighbour = format!("{}0", first.host);
    let longer = stale(&neighbour);
    for key in [stale(first.host), stale(other), longer.clone()] {
        cluster.etcd.put(&key, UP)?;
    }
    // One that is known and not there: its old status is corrected.
    let (key, value) = second.endpoint().pair();
    cluster.etcd.put(&key, &value)?;
    cluster.etcd.put(&endpoint_key(&second), UP)?;

    cluster.hosts[0].start_agent()?;
    wait_for(&cluster, &stale(first.host), None)?;
    wait_for(&cluster, &endpoint_key(&second), Some(DOWN))?;
    cluster.place_pod(&first)?;
    wait_for(&cluster, &endpoint_key(&first), Some(UP))?;
    cluster.hosts[0].read_back()?;
    ensure!(cluster.etcd.ttl(&endpoint_key(&first))?.is_none(), "an endpoint's key has a lease");

    // Its interface goes: down. The endpoint goes: no key.
    let interface = first.interface();
    cluster.hosts[0].ns().ip(&format!("link del {interface}\n"))?;
    wait_for(&cluster, &endpoint_key(&first), Some(DOWN))?;
    cluster.etcd.delete(&first.endpoint().pair().0)?;
    wait_for(&cluster, &endpoint_key(&first), None)?;

    // The other's interface comes: up.
    cluster.wire_pod(&second)?;
    wait_for(&cluster, &endpoint_key(&second), Some(UP))?;
    // What is said of other hosts was never touched.
    for key in [stale(other), longer] {
        ensure!(cluster.etcd.get(&key)?.as_deref() == Some(UP), "{key} is gone");
    }
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: an_endpoint_is_up_down_and_gone, "ske";
}
