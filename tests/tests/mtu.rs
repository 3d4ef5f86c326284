//! The agent tells the CNI plugin which MTU pods get: `mtu` in its state directory follows the
//! host's interfaces and the overlays of pools.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::{Flavour, Host};
use calico_e2e::world::{IPPool, Resource};
use calico_e2e::{tutorial, wait};

/// Within which a change is in the file.
const SOON: Duration = Duration::from_secs(1);

fn says(host: &Host, expected: &str, what: &str) -> Result<()> {
    let path = host.state_dir().join("mtu");
    let mut held = String::new();
    wait::until_true(what, SOON, || {
        held = std::fs::read_to_string(&path).unwrap_or_default();
        held == expected
    })
    .with_context(|| format!("{expected} is expected, it says {held:?}"))
}

fn pool(ipip: &str, vxlan: &str) -> Resource<IPPool> {
    let plain = IPPool::plain("192.168.0.0/16", 26, true);
    let pool = IPPool { ipip_mode: ipip.to_owned(), vxlan_mode: vxlan.to_owned(), ..plain };
    Resource::new("default-ipv4-ippool", pool)
}

fn the_mtu_of_pods_follows_interfaces_and_overlays(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::new(label)?;
    cluster.hosts[0].ns().ip("link set eth0 mtu 1400\n")?;
    cluster.etcd.put_all(&tutorial::base())?;
    cluster.start_agents(flavour)?;
    cluster.wait_until_ready()?;
    let check = |cluster: &Cluster, expected: [&str; 2], what: &str| -> Result<()> {
        let mut both = cluster.hosts.iter().zip(expected);
        both.try_for_each(|(host, expected)| says(host, expected, what))
            .with_context(|| cluster.logs())
    };
    check(&cluster, ["1400", "1500"], "the MTU at the start")?;
    cluster.hosts[0].ns().ip("link set eth0 mtu 1300\n")?;
    check(&cluster, ["1300", "1500"], "another MTU of eth0")?;
    for (ipip, vxlan, expected) in [
        ("Always", "Never", ["1280", "1480"]),
        ("Never", "CrossSubnet", ["1250", "1450"]),
        ("Never", "Never", ["1300", "1500"]),
    ] {
        let (key, value) = pool(ipip, vxlan).pair();
        cluster.etcd.put(&key, &value)?;
        check(&cluster, expected, "the room that the overlay needs")?;
    }
    // Nothing is written that was there, also by the next run.
    let path = cluster.hosts[0].state_dir().join("mtu");
    let before = path.metadata()?.modified()?;
    cluster.hosts[0].kill_agent();
    cluster.hosts[0].start_agent()?;
    cluster.wait_until_ready()?;
    check(&cluster, ["1300", "1500"], "the MTU after a restart")?;
    ensure!(path.metadata()?.modified()? == before, "written without need");
    // What keeps the file from being written is told, and mended by itself.
    let obstacle = cluster.hosts[0].state_dir().join("mtu.new");
    std::fs::create_dir(&obstacle)?;
    cluster.hosts[0].ns().ip("link set eth0 mtu 1350\n")?;
    wait::until("a problem", SOON, || {
        let problems = cluster.hosts[0].status()?.problems().join("\n");
        Ok(problems.contains("MTU of pods").then_some(()))
    })?;
    says(&cluster.hosts[0], "1300", "the old MTU")?;
    std::fs::remove_dir(&obstacle)?;
    wait::until("an end of the problem", Duration::from_secs(10), || {
        Ok(cluster.hosts[0].status()?.is_ready().then_some(()))
    })?;
    check(&cluster, ["1350", "1500"], "the MTU when the disk takes it")
}

calico_e2e::on_each_dataplane! {
    full: the_mtu_of_pods_follows_interfaces_and_overlays, "mtu";
}
