//! Routes to pods: on a host without a default route, adopted from the CNI plugin, and gone with
//! the endpoint.

use std::time::Duration;

use anyhow::{Result, ensure};
use calico_e2e::cluster::{Cluster, OUTSIDE_V4};
use calico_e2e::host::Flavour;
use calico_e2e::kernel;
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from};
use calico_e2e::tutorial::{self, HTTP, PODS};
use calico_e2e::{netns::Place, wait};

/// Routes of both families that mention `text`.
fn routes_with(ns: &Place, text: &str) -> Result<Vec<String>> {
    let mut all = kernel::routes(ns, "-4")?;
    all.extend(kernel::routes(ns, "-6")?);
    Ok(all.into_iter().filter(|route| route.contains(text)).collect())
}

fn a_pod_works_on_a_host_without_a_default_route(label: &str, flavour: Flavour) -> Result<()> {
    let cluster = Cluster::tutorial(label, flavour)?;
    for host in &cluster.hosts {
        let default = routes_with(host.ns(), "default")?;
        ensure!(default.is_empty(), "the test means nothing: {default:?}");
    }
    cluster.check(false)?;
    // The permanent neighbour entry is what makes it work: it is permanent after traffic too.
    let pod = cluster.pod("frontend-1")?;
    let entry = pod.ns().command("ip").args(["neigh", "show", "169.254.1.1"]).run()?;
    ensure!(entry.contains("PERMANENT"), "{entry}");
    let answer = ask_from(pod.ns().name(), OUTSIDE_V4.into(), Service::Tcp(HTTP), PATIENT)?;
    ensure!(answer.reached(), "{answer:?}");
    // And the host has one for the pod, so that neither side ever asks.
    let interface = pod.spec.interface();
    let entry =
        cluster.hosts[0].ns().command("ip").args(["neigh", "show", "dev", &interface]).run()?;
    for address in [pod.spec.v4.to_string(), pod.spec.v6.to_string()] {
        let mut lines = entry.lines().filter(|line| line.starts_with(&format!("{address} ")));
        let line = lines.next().unwrap_or_default();
        ensure!(line.contains(pod.spec.mac) && line.contains("PERMANENT"), "{address}: {entry}");
    }
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: a_pod_works_on_a_host_without_a_default_route, "nod";
}

fn routes_of_the_cni_plugin_are_adopted(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::new(label)?;
    cluster.etcd.put_all(&tutorial::base())?;
    for pod in &PODS {
        cluster.place_pod(pod)?;
    }
    // One with the plugin's routes before the agent comes, one without.
    cluster.pod("frontend-1")?.add_cni_routes(&cluster.hosts[0])?;
    cluster.start_agents(flavour)?;
    cluster.wait_until_programmed()?;
    cluster.check(false)?;
    for pod in ["frontend-1", "backend-1"] {
        let spec = cluster.pod(pod)?.spec;
        let ns = cluster.hosts[0].ns();
        let interface = spec.interface();
        let own: Vec<_> = routes_with(ns, &format!("dev {interface} "))?
            .into_iter()
            .filter(|route| !route.starts_with("fe80::/"))
            .collect();
        let v4 = own.iter().filter(|route| route.starts_with(&format!("{} ", spec.v4))).count();
        let v6 = own.iter().filter(|route| route.starts_with(&format!("{} ", spec.v6))).count();
        ensure!((v4, v6, own.len()) == (1, 1, 2), "{pod}: {own:#?}");
    }
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: routes_of_the_cni_plugin_are_adopted, "ado";
}

fn a_removed_endpoint_is_cut_off(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::tutorial(label, flavour)?;
    cluster.check(false)?;
    let (gone, stays) = (cluster.pod("backend-1")?.spec, cluster.pod("frontend-1")?.spec);
    let name = cluster.pod("backend-1")?.ns().name().to_owned();
    let conntrack = |cluster: &Cluster, address: &str| -> Result<usize> {
        let list = cluster.hosts[0].ns().command("conntrack").args(["-L", "-s", address]).run()?;
        Ok(list.lines().count())
    };
    let (gone4, stays4) = (gone.v4.to_string(), stays.v4.to_string());
    ensure!(conntrack(&cluster, &gone4)? > 0 && conntrack(&cluster, &stays4)? > 0, "no flows");
    ensure!(!routes_with(cluster.hosts[0].ns(), &gone.interface())?.is_empty(), "no route");

    cluster.etcd.delete(&gone.endpoint().key())?;
    let host = &cluster.hosts[0];
    wait::until_true("removal of the status file", Duration::from_secs(10), || {
        !host.has_status_file(&gone.status_file())
    })?;
    wait::until("removal of routes and flows", Duration::from_secs(5), || {
        let routes: Vec<_> = routes_with(host.ns(), &gone.interface())?
            .into_iter()
            .filter(|route| !route.starts_with("fe80::/"))
            .collect();
        Ok((routes.is_empty() && conntrack(&cluster, &gone4)? == 0).then_some(()))
    })?;
    // The interface is still up: without an endpoint it is dropped, to the host and to its friend.
    let friend = cluster.pod("backend-2")?.spec.v4;
    for to in [host.spec.v4, friend] {
        let answer = ask_from(&name, to.into(), Service::Udp(tutorial::DNS), BRIEF)?;
        ensure!(answer == Answer::Silence, "to {to}: {answer:?}");
    }
    // The other pod of the host did not notice.
    ensure!(conntrack(&cluster, &stays4)? > 0, "flows of another pod were cut");
    let pod = cluster.pod("frontend-1")?.ns().name().to_owned();
    let to = cluster.pod("frontend-2")?.spec.v4;
    let answer = ask_from(&pod, to.into(), Service::Tcp(HTTP), PATIENT)?;
    ensure!(answer.reached(), "{answer:?}");

    // The same pod again, and all is as it was.
    let (key, value) = gone.endpoint().pair();
    cluster.etcd.put(&key, &value)?;
    cluster.check(false)?;

    // A pod deleted by its runtime: interface and endpoint go together.
    cluster.stop_server("backend-1");
    cluster.pods.remove("backend-1");
    cluster.etcd.delete(&key)?;
    let host = &cluster.hosts[0];
    wait::until_true("removal of the status file", Duration::from_secs(10), || {
        !host.has_status_file(&gone.status_file())
    })?;
    ensure!(routes_with(host.ns(), &format!("{} ", gone.v4))?.is_empty(), "a route is left");
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: a_removed_endpoint_is_cut_off, "gon";
}
