//! What bad input gets: an empty or absent datastore, values that do not parse, missing programs.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::Flavour;
use calico_e2e::kernel::Snapshot;
use calico_e2e::matrix::{Expected, Family};
use calico_e2e::tutorial::{self, PODS, SERVICES};
use calico_e2e::world::{ClusterInformation, RESOURCES, Resource};
use calico_e2e::{run, wait};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(10);

/// Lines of a log that are warnings or errors.
fn complaints(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect()
}

/// All that an agent may not touch before it knows the world. BIRD's routes are not looked at, no
/// BIRD runs.
fn kernel(cluster: &Cluster) -> Result<Snapshot> {
    // Counters of built-in chains count etcd's packets; that a legacy table was looked at makes it, empty.
    let frame = |line: &str| line.starts_with([':', '*']) || line == "COMMIT";
    Ok(Snapshot::take(cluster.hosts[0].ns())?.filter(|line| !frame(line)))
}

fn an_absent_etcd_is_waited_for(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::on(label, flavour)?;
    cluster.etcd.put_all(&tutorial::base())?;
    for pod in &PODS {
        cluster.place_pod(pod)?;
    }
    cluster.etcd.stop()?;
    let before = kernel(&cluster)?;
    cluster.hosts[0].start_agent()?;
    std::thread::sleep(Duration::from_secs(4));
    let touched = before.difference(&kernel(&cluster)?);
    ensure!(touched.is_empty(), "touched without a datastore: {touched:#?}");
    ensure!(cluster.hosts[0].agent()?.ended().is_none(), "the agent gave up");
    let log = cluster.hosts[0].agent()?.log();
    let said = complaints(&log);
    // Back-off is capped at 3 s: by now it has tried several times, and said it once.
    ensure!(said.len() == 1, "said {} times:\n{log}", said.len());
    let status = cluster.hosts[0].status()?;
    ensure!(!status.is_ready(), "ready without a datastore: {status:?}");

    cluster.etcd.start()?;
    let host = &cluster.hosts[0];
    for pod in PODS.iter().filter(|pod| pod.host == "calico-01") {
        wait::until_true(pod.name, LIMIT, || host.has_status_file(&pod.status_file()))
            .with_context(|| cluster.logs())?;
    }
    host.read_back()
}

calico_e2e::on_each_dataplane! {
    full: an_absent_etcd_is_waited_for, "noe";
}

fn a_datastore_that_is_not_ready_is_waited_for(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::on(label, flavour)?;
    cluster.etcd.put_all(&tutorial::base())?;
    let information = |ready| {
        let spec = ClusterInformation {
            cluster_guid: "8a1f6ef3b4c14d0f9e5a7c2b1d3e4f50".to_owned(),
            cluster_type: "bgp".to_owned(),
            calico_version: "v3.29.0".to_owned(),
            datastore_ready: ready,
        };
        Resource::new("default", spec).pair()
    };
    cluster.etcd.put_all(&[information(false)])?;
    for pod in &PODS {
        cluster.place_pod(pod)?;
    }
    let before = kernel(&cluster)?;
    cluster.hosts[0].start_agent()?;
    std::thread::sleep(Duration::from_secs(3));
    let touched = before.difference(&kernel(&cluster)?);
    ensure!(touched.is_empty(), "touched before the datastore was ready: {touched:#?}");
    let value = cluster.etcd.get(&information(true).0)?.unwrap_or_default();
    ensure!(value.contains(r#""datastoreReady":false"#), "the agent overwrote it: {value}");
    let log = cluster.hosts[0].agent()?.log();
    ensure!(complaints(&log).len() == 1, "not said once:\n{log}");

    cluster.etcd.put_all(&[information(true)])?;
    let host = &cluster.hosts[0];
    let pod = PODS[0];
    wait::until_true(pod.name, LIMIT, || host.has_status_file(&pod.status_file()))?;
    host.read_back()?;

    // Leaving `ready` tears nothing down.
    let programmed = kernel(&cluster)?.without_counters();
    cluster.etcd.put_all(&[information(false)])?;
    std::thread::sleep(Duration::from_secs(1));
    let now = kernel(&cluster)?.without_counters();
    ensure!(programmed == now, "{:#?}", programmed.difference(&now));
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: a_datastore_that_is_not_ready_is_waited_for, "nor";
}

fn a_malformed_endpoint_is_dropped_and_the_others_work(
    label: &str,
    flavour: Flavour,
) -> Result<()> {
    let cluster = Cluster::tutorial(label, flavour)?;
    cluster.check(false)?;
    let bad = cluster.pod("backend-1")?.spec;
    let (key, value) = bad.endpoint().pair();
    let broken = value.replace(&format!("{}/32", bad.v4), "192.168.0.300/32");
    ensure!(broken != value, "nothing was broken");
    cluster.etcd.put(&key, &broken)?;
    // Not asked: towards it. Without an endpoint there is no route, which is not silence.
    let table = "
                    frontend-1 frontend-2 backend-2 calico-01 calico-02 outside
        frontend-1      -          *          .         *         *        *
        backend-1       .          .          .         .         .        .
        frontend-2      *          -          .         *         *        *
        backend-2       .          .          -         *         *        *";
    let measured = cluster.measure(&Expected::parse(table, &SERVICES)?, Family::V4)?;
    ensure!(measured.differences().is_empty(), "{measured}\n{}", cluster.logs());
    let status = cluster.hosts[0].status()?;
    ensure!(status.is_degraded() && status.rejected() == [key.clone()], "{status:?}");
    let log = cluster.hosts[0].logs();
    ensure!(complaints(&log).iter().filter(|l| l.contains(&key)).count() == 1, "not once:\n{log}");

    cluster.put_and_wait(&[(key, value)])?;
    cluster.check(false)?;
    let status = cluster.hosts[0].status()?;
    ensure!(status.rejected().is_empty(), "{status:?}");
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: a_malformed_endpoint_is_dropped_and_the_others_work, "bep";
}

fn a_malformed_policy_is_an_alarm_with_its_key(label: &str, flavour: Flavour) -> Result<()> {
    let cluster = Cluster::tutorial(label, flavour)?;
    let policies = tutorial::policies();
    cluster.etcd.put_all(&policies)?;
    cluster.check(true)?;
    // Neither a selector that does not parse nor plain rubbish counts as a policy: the others hold.
    let key = format!("{RESOURCES}/globalnetworkpolicies/security.broken");
    let (_, like) = policies.iter().find(|(k, _)| k.ends_with("quarantine")).context("none")?;
    let selector = like
        .replace("quarantine == 'yes'", "quarantine = yes")
        .replace("security.quarantine", "security.broken");
    for broken in [selector.as_str(), "{", "[]"] {
        cluster.put_and_wait(&[(key.clone(), broken.to_owned())])?;
        cluster.check(true)?;
        for host in &cluster.hosts {
            let status = host.status()?;
            let said = (status.rejected(), &status.0["state"], &status.0["datastore"]);
            ensure!(status.is_degraded() && said.0 == [key.clone()], "{broken}: {said:?}");
            let log = host.logs();
            ensure!(log.lines().any(|l| l.contains("ERROR") && l.contains(&key)), "{log}");
        }
    }
    // It parses now, and acts: nothing is in quarantine by this name, everything is denied.
    let deny_all = selector.replace("quarantine = yes", "all()");
    cluster.put_and_wait(&[(key, deny_all)])?;
    let table = "
                    frontend-1 backend-1 frontend-2 backend-2 calico-02
        frontend-1      -          .         .          .         .
        calico-01       *          *         .          .         *";
    let measured = cluster.measure(&Expected::parse(table, &SERVICES)?, Family::V4)?;
    ensure!(measured.differences().is_empty(), "{measured}\n{}", cluster.logs());
    ensure!(cluster.hosts[0].status()?.rejected().is_empty(), "still rejected");
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: a_malformed_policy_is_an_alarm_with_its_key, "bpo";
}

/// Says to every agent what a policy that breaks counts as.
fn set_invalid_policy(cluster: &mut Cluster, mode: &str) -> Result<()> {
    for host in &mut cluster.hosts {
        let text = format!("[felix]\ninvalid_policy = \"{mode}\"\n");
        std::fs::write(host.config_dir().join("agent.toml"), text)?;
        host.agent()?.signal(Signal::SIGHUP)?;
    }
    Ok(())
}

/// Waits until every host says what counts in the place of the one value that is refused.
fn wait_for_instead(cluster: &Cluster, expected: &str) -> Result<()> {
    wait::until(expected, LIMIT, || {
        let mut all = true;
        for host in &cluster.hosts {
            let rejected = &host.status()?.0["datastore"]["rejected"];
            all &= rejected[0]["instead"] == *expected && rejected[1].is_null();
        }
        Ok(all.then_some(()))
    })
    .with_context(|| cluster.logs())
}

fn ensure_measured(cluster: &Cluster, expected: &Expected) -> Result<()> {
    let measured = cluster.measure(expected, Family::V4)?;
    ensure!(measured.differences().is_empty(), "{measured}\n{}", cluster.logs());
    Ok(())
}

fn a_policy_that_breaks_stays_as_it_was_when_that_is_asked_for(
    label: &str,
    flavour: Flavour,
) -> Result<()> {
    let mut cluster = Cluster::tutorial(label, flavour)?;
    let policies = tutorial::policies();
    cluster.etcd.put_all(&policies)?;
    cluster.check(true)?;
    let key = format!("{RESOURCES}/globalnetworkpolicies/security.closed");
    let (_, like) = policies.iter().find(|(k, _)| k.ends_with("quarantine")).context("none")?;
    let deny_all = like
        .replace("quarantine == 'yes'", "all()")
        .replace("security.quarantine", "security.closed");
    let broken = deny_all.replace("all()", "all( ");
    ensure!(broken != deny_all && deny_all != *like, "nothing was broken");
    let closed = "
                    frontend-1 backend-1 frontend-2 backend-2 calico-02
        frontend-1      -          .         .          .         .
        calico-01       *          *         .          .         *";
    let closed = Expected::parse(closed, &SERVICES)?;
    set_invalid_policy(&mut cluster, "keep-last")?;
    cluster.put_and_wait(&[(key.clone(), deny_all)])?;
    ensure_measured(&cluster, &closed)?;
    cluster.put_and_wait(&[(key.clone(), broken)])?;
    wait_for_instead(&cluster, "last-version")?;
    ensure!(cluster.hosts[0].status()?.is_degraded(), "an alarm all the same");
    ensure_measured(&cluster, &closed)?;
    // Without the setting it is absent, and with it again what it was.
    set_invalid_policy(&mut cluster, "absent")?;
    wait_for_instead(&cluster, "absent")?;
    cluster.check(true)?;
    set_invalid_policy(&mut cluster, "keep-last")?;
    wait_for_instead(&cluster, "last-version")?;
    ensure_measured(&cluster, &closed)?;
    // Who deletes it is rid of it.
    cluster.etcd.delete(&key)?;
    wait::until("its end", Duration::from_secs(5), || {
        let status = cluster.hosts[0].status()?;
        Ok(status.rejected().is_empty().then_some(()))
    })?;
    cluster.wait_until_ready()?;
    cluster.check(true)
}

calico_e2e::on_each_dataplane! {
    full: a_policy_that_breaks_stays_as_it_was_when_that_is_asked_for, "kel";
}

/// A directory with links to all programs but those whose names hold one of `without`.
fn programs_without(dir: &Path, without: &[&str]) -> Result<String> {
    std::fs::create_dir_all(dir)?;
    for path in ["/usr/sbin", "/sbin", "/usr/bin", "/bin"] {
        for entry in std::fs::read_dir(path)?.flatten() {
            let name = entry.file_name();
            let text = name.to_string_lossy();
            if !without.iter().any(|part| text.contains(part)) {
                // The same program is in several directories.
                let _ = symlink(entry.path(), dir.join(&name));
            }
        }
    }
    Ok(dir.to_string_lossy().into_owned())
}

/// What the networks' profiles say, on one host: no router is needed for that.
fn enforced_on_one_host(cluster: &Cluster) -> Result<()> {
    let table = "
                    frontend-1 backend-1 calico-01 outside
        frontend-1      -          .         *        *
        backend-1       .          -         *        *
        calico-01       *          *         -        *";
    let measured = cluster.measure(&Expected::parse(table, &SERVICES)?, Family::V4)?;
    ensure!(measured.differences().is_empty(), "{measured}\n{}", cluster.logs());
    Ok(())
}

#[test]
fn without_iptables_policy_is_enforced_by_nftables() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let mut cluster = Cluster::new("ownta")?;
    cluster.etcd.put_all(&tutorial::base())?;
    let path =
        programs_without(&cluster.run().dir().join("bin"), &["iptables", "ip6tables", "xtables"])?;
    for host in &mut cluster.hosts {
        host.env = vec![("PATH".to_owned(), path.clone())];
        host.start_agent()?;
    }
    for pod in &PODS {
        cluster.place_pod(pod)?;
    }
    cluster.wait_until_programmed()?;
    enforced_on_one_host(&cluster)?;
    let host = cluster.hosts[0].ns();
    ensure!(host.command("nft").args(["list", "tables"]).run()?.contains("table inet calico"));
    for family in ["iptables-nft-save", "iptables-legacy-save"] {
        let saved = host.command(family).run()?;
        ensure!(!saved.contains("cali"), "{saved}");
    }
    Ok(())
}

#[test]
fn without_the_iptables_that_is_wanted_it_ends_with_one_error_and_touches_nothing() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let mut cluster = Cluster::new("noipt")?;
    cluster.etcd.put_all(&tutorial::base())?;
    for pod in &PODS {
        cluster.place_pod(pod)?;
    }
    let path =
        programs_without(&cluster.run().dir().join("bin"), &["iptables", "ip6tables", "xtables"])?;
    let before = kernel(&cluster)?;
    let host = &mut cluster.hosts[0];
    host.flavour = Flavour::Nft;
    host.env = vec![("PATH".to_owned(), path)];
    host.start_agent()?;
    let status = host.agent()?.wait(LIMIT)?;
    let log = host.agent()?.log();
    ensure!(status.code() == Some(1), "{status}:\n{log}");
    let errors = log.lines().filter(|l| l.contains("ERROR") || l.contains("error:")).count();
    ensure!(errors == 1 && log.contains("iptables"), "not one error that names it:\n{log}");
    ensure!(log.contains("install"), "does not say what to install:\n{log}");
    let touched = before.difference(&kernel(&cluster)?);
    ensure!(touched.is_empty(), "{touched:#?}");
    Ok(())
}

fn without_bird_policy_is_enforced_and_status_says_so(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::on(label, flavour)?;
    cluster.etcd.put_all(&tutorial::base())?;
    let path = programs_without(&cluster.run().dir().join("bin"), &["bird"])?;
    for host in &mut cluster.hosts {
        host.env = vec![("PATH".to_owned(), path.clone())];
        host.start_agent()?;
    }
    for pod in &PODS {
        cluster.place_pod(pod)?;
    }
    cluster.wait_until_programmed()?;
    enforced_on_one_host(&cluster)?;
    let status = cluster.hosts[0].status()?;
    let said = status.problems().join("\n").to_lowercase();
    ensure!(status.is_degraded() && said.contains("bird"), "{status:?}");
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: without_bird_policy_is_enforced_and_status_says_so, "nob";
}
