//! The original plugin waits for the files that our agent writes. It waits for pods of Kubernetes
//! only, so the pod says that it is one.

use std::time::Duration;

use anyhow::{Result, ensure};
use calico_e2e::rkt::Sandbox;
use serde_json::json;

use super::programs::{Lab, Maker, Originals, pool};

/// The first version that waits.
const WAITS: (u32, u32) = (3, 28);
const LIMIT: u64 = 4;
const TOO_LATE: &str = "timed out waiting for endpoint status file";

fn args(pod: &str) -> String {
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};\
         K8S_POD_INFRA_CONTAINER_ID={pod}"
    )
}

fn add(lab: &Lab, pod: &str) -> Result<Sandbox> {
    lab.add(0, Maker::Theirs, ("network1", &args(pod)))
}

#[test]
fn the_original_plugin_waits_until_our_agent_has_programmed_the_policy() -> Result<()> {
    let Some(originals) = Originals::find()? else { return Ok(()) };
    if !originals.is_at_least(WAITS.0, WAITS.1)? {
        println!("skipped: these originals wait for nobody");
        return Ok(());
    }
    let mut lab = Lab::new(originals, "origwait", &[pool("v4", "10.65.0.0/24", 28)])?;
    // Nobody is asked: it only has to be said.
    let kubernetes = json!({ "k8s_api_root": "http://127.0.0.1:9" });
    let conf = json!({ "policy_setup_timeout_seconds": LIMIT, "kubernetes": kubernetes });
    lab.network("network1", &conf)?;
    let file = |pod: &str| format!("k8s default%2F{pod} eth0");
    let limit = Duration::from_secs(LIMIT);

    let mut pods = Vec::new();
    for name in ["web-1", "web-2", "web-3"] {
        let pod = add(&lab, name)?;
        let attached = &pod.attached[0];
        ensure!(!attached.stderr.contains(TOO_LATE), "{}", attached.stderr);
        ensure!(attached.took < limit, "{:?}: {}", attached.took, attached.stderr);
        ensure!(lab.host(0).has_status_file(&file(name)), "{name} starts without its policy");
        pods.push(pod);
    }
    // The other side: without an agent the limit passes, and it says which file it missed.
    lab.cluster.hosts[0].stop_agent()?;
    let late = add(&lab, "late")?;
    let attached = &late.attached[0];
    ensure!(attached.took >= limit, "{:?}: {}", attached.took, attached.stderr);
    ensure!(attached.stderr.contains(TOO_LATE), "{}", attached.stderr);
    ensure!(attached.stderr.contains(&file("late")), "another name: {}", attached.stderr);
    let took: Vec<_> = pods.iter().map(|pod| pod.attached[0].took).collect();
    println!("with our agent {took:.1?}, without {:.1?}", attached.took);

    lab.cluster.hosts[0].start_agent()?;
    lab.cluster.wait_until_ready()?;
    ensure!(lab.host(0).has_status_file(&file("late")), "the agent does not know it");
    for pod in pods.into_iter().chain([late]) {
        lab.remove(0, Maker::Theirs, pod)?;
    }
    Ok(())
}
