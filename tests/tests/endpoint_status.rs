//! The files that tell the CNI plugin that a pod's policy is in the kernel.

use std::time::Duration;

use anyhow::{Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::{Flavour, Host};
use calico_e2e::tutorial::{self, PODS};
use calico_e2e::{kernel, run, wait};

fn files(host: &Host) -> Vec<String> {
    let entries = std::fs::read_dir(host.run_dir().join("endpoint-status"));
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_says_that_an_endpoint_is_programmed() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let mut cluster = Cluster::new("files")?;
    cluster.etcd.put_all(&tutorial::base())?;
    let (first, second) = (PODS[0], PODS[1]);
    ensure!(first.host == second.host, "both on one host");

    // What an earlier run left must not be trusted: it is gone before anything is programmed.
    let dir = cluster.hosts[0].run_dir().join("endpoint-status");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("cni default%2Fold eth0"), "")?;
    std::fs::write(dir.join(second.status_file()), "")?;

    // An endpoint without its interface is not up.
    let (key, value) = second.endpoint().pair();
    cluster.etcd.put(&key, &value)?;
    cluster.start_agents(Flavour::Auto)?;
    cluster.add_pod(&first)?;
    let host = &cluster.hosts[0];
    wait::until("file of the first pod alone", Duration::from_secs(10), || {
        let files = files(host);
        Ok((files == [first.status_file()]).then_some(()).ok_or(files))
            .and_then(|r| r.map(Some).map_err(|files| anyhow::anyhow!("{files:?}")))
    })?;
    // At that moment, its chains and routes are there.
    ensure!(kernel::chains(host.ns())?.legacy + kernel::chains(host.ns())?.nft > 0, "no chains");
    let routes = kernel::routes(host.ns(), "-4")?;
    let to = format!("{} dev {}", first.v4, first.interface());
    ensure!(routes.iter().any(|route| route.starts_with(&to)), "{routes:?}");

    // The interface comes, the file comes; the endpoint goes, the file goes.
    cluster.wire_pod(&second)?;
    let host = &cluster.hosts[0];
    let limit = Duration::from_secs(10);
    wait::until_true("second file", limit, || host.has_status_file(&second.status_file()))?;
    cluster.etcd.delete(&key)?;
    wait::until_true("end of it", limit, || files(host) == [first.status_file()])
}
