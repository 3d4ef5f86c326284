//! `calico-agent addgroup`, `addtogroup`: what they did in calicoctl 0.0.6, with packets.

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::{Flavour, agent_binary};
use calico_e2e::probe::{BRIEF, PATIENT, Service, ask_from};
use calico_e2e::process::{Command, Output};
use calico_e2e::run;
use calico_e2e::tutorial::{self, HTTP};
use calico_e2e::wait;

/// A command of the first host, with etcd said as calicoctl took it.
fn said(cluster: &Cluster, words: &[&str]) -> Result<Output> {
    let host = &cluster.hosts[0];
    let etcd = cluster.etcd.endpoint();
    let etcd = etcd.strip_prefix("http://").context("a plain etcd")?;
    let command = host.ns().command(agent_binary()?).args(words);
    let command = command.arg(format!("--etcd={etcd}")).arg("--state-dir").arg(host.state_dir());
    command.arg("--config-dir").arg(host.config_dir()).output()
}

fn reaches(cluster: &Cluster, from: &str, to: &str, passes: bool) -> Result<bool> {
    let to = tutorial::pod(to).context("a pod")?;
    let limit = if passes { PATIENT } else { BRIEF };
    let answer = ask_from(cluster.netns(from)?.name(), to.v4.into(), Service::Tcp(HTTP), limit)?;
    Ok(answer.reached())
}

#[test]
fn pods_of_a_group_reach_each_other_and_no_others_do() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let cluster = Cluster::tutorial("group", Flavour::Auto)?;
    cluster.check(false)?;
    let (frontend, backend) = (tutorial::pod("frontend-1"), tutorial::pod("backend-1"));
    let (frontend, backend) = frontend.zip(backend).context("two pods")?;
    ensure!(!reaches(&cluster, "frontend-1", "backend-1", false)?, "networks are apart");

    let fails = |words: &[&str], why: &str| -> Result<()> {
        let output = said(&cluster, words)?;
        let right = output.status.code() == Some(1) && output.stderr.contains(why);
        ensure!(right, "{words:?}: {output:?}");
        Ok(())
    };
    fails(&["addtogroup", backend.container_id, "mixed"], "there is no group mixed")?;
    let output = said(&cluster, &["addgroup", "mixed"])?;
    ensure!(output.stdout == "created the group mixed\n", "{output:?}");
    let output = said(&cluster, &["addgroup", "mixed"])?;
    let again = output.status.success() && output.stdout == "the group mixed exists already\n";
    ensure!(again, "{output:?}");
    let output = said(&cluster, &["showgroups"])?;
    ensure!(output.stdout == "backend\nfrontend\nmixed\n", "{output:?}");

    // By the whole id and by its beginning.
    let output = said(&cluster, &["addtogroup", frontend.container_id, "mixed"])?;
    ensure!(output.stdout.contains("added ") && output.stdout.contains("to the group mixed"));
    ensure!(!reaches(&cluster, "frontend-1", "backend-1", false)?, "one alone is no group");
    let output = said(&cluster, &["addtogroup", &backend.container_id[..6], "mixed"])?;
    ensure!(output.stdout.contains("added "), "{output:?}");
    wait::until_true("the group in force", PATIENT, || {
        reaches(&cluster, "frontend-1", "backend-1", true).unwrap_or(false)
    })?;
    ensure!(reaches(&cluster, "backend-1", "frontend-1", true)?, "the other way round");
    // Their networks hold as before, for them and for all others.
    ensure!(reaches(&cluster, "frontend-2", "frontend-1", true)?, "its network");
    ensure!(!reaches(&cluster, "frontend-2", "backend-1", false)?, "who is in no group");
    ensure!(!reaches(&cluster, "frontend-1", "backend-2", false)?, "who is in no group");
    let status = cluster.hosts[0].status_text()?;
    ensure!(status.contains("profile frontend, profile mixed"), "{status}");

    fails(&["addtogroup", "beef", "mixed"], "calico-01 has no pod beef")?;
    // Of another host: that host's command.
    let elsewhere = tutorial::pod("backend-2").context("a pod")?;
    fails(&["addtogroup", elsewhere.container_id, "mixed"], "calico-01 has no pod")?;
    fails(&["addgroup", "no/group"], "cannot name a profile")?;
    let master = Command::new(agent_binary()?).args(["master", "--ip=10.0.0.1"]).output()?;
    ensure!(master.status.success() && master.stdout.contains("No master is needed"), "{master:?}");
    Ok(())
}
