//! What policy denies is told: by `calico-agent denied`, and in the log, with endpoint and policy.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::Flavour;
use calico_e2e::matrix::Family;
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from};
use calico_e2e::process::{Command, Output};
use calico_e2e::tutorial::{HTTP, OTHER, policies};
use calico_e2e::{host, wait};
use nix::sys::signal::Signal;

fn denied(cluster: &Cluster, args: &[&str]) -> Result<Output> {
    let command = Command::new(host::agent_binary()?).arg("denied").arg("--run-dir");
    command.arg(cluster.hosts[0].run_dir()).args(args).limit(Duration::from_secs(5)).output()
}

fn denied_packets_are_told(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::tutorial(label, flavour)?;
    cluster.put_and_wait(&policies())?;
    let off = denied(&cluster, &[])?;
    ensure!(off.status.code() == Some(1) && off.stderr.contains("denied_log = true"), "{off:?}");

    let settings = "[felix]\ndenied_log = true\n";
    std::fs::write(cluster.hosts[0].config_dir().join("agent.toml"), settings)?;
    cluster.hosts[0].agent()?.signal(Signal::SIGHUP)?;
    wait::until_true("the packet log is read", Duration::from_secs(5), || {
        denied(&cluster, &[]).is_ok_and(|output| output.status.success())
    })?;
    cluster.wait_until_ready()?;

    let file = cluster.run().dir().join("denied.out");
    let follow =
        Command::new(host::agent_binary()?).args(["denied", "--follow", "--output", "json"]);
    let mut follow = follow.arg("--run-dir").arg(cluster.hosts[0].run_dir()).start(&file)?;
    let from = cluster.pod("frontend-1")?.ns().name().to_owned();
    let backend = cluster.pod("backend-1")?;
    let site = backend.site();
    for family in [Family::V4, Family::V6] {
        let ask = |port, limit| ask_from(&from, site.address(family), Service::Tcp(port), limit);
        ensure!(ask(HTTP, PATIENT)?.reached(), "what the policy allows");
        ensure!(ask(OTHER, BRIEF)? == Answer::Silence, "what it does not");
    }
    let told = |text: &str| {
        text.lines()
            .filter(|line| {
                [
                    r#""direction":"ingress""#,
                    r#""tier":"default""#,
                    &format!(r#""interface":"{}""#, backend.spec.interface()),
                    &format!(r#""destination_port":{OTHER}"#),
                ]
                .iter()
                .all(|part| line.contains(part))
            })
            .count()
    };
    wait::until_true("both packets in --follow", Duration::from_secs(5), || {
        told(&follow.log()) == 2
    })
    .with_context(|| follow.log())?;
    ensure!(!follow.log().contains(&format!(r#""destination_port":{HTTP},"#)), "{}", follow.log());
    ensure!(follow.ended().is_none(), "--follow ended");
    follow.stop()?;

    let now = denied(&cluster, &["--endpoint", &backend.spec.interface()])?;
    ensure!(now.status.success() && now.stdout.lines().count() == 2, "{now:?}");
    let line = "end of tier default: no policy of it allows it";
    ensure!(now.stdout.lines().all(|text| text.contains(line)), "{now:?}");
    let nobody = denied(&cluster, &["--endpoint", "nobody"])?;
    ensure!(nobody.status.success() && nobody.stdout.is_empty(), "{nobody:?}");
    let log = std::fs::read_to_string(cluster.hosts[0].agent_log())?;
    ensure!(log.contains(&format!("denied: tcp {}", "")) && log.contains(line), "{log}");

    // What is told outlives a restart of the agent: the rules are the same.
    cluster.hosts[0].kill_agent();
    cluster.hosts[0].start_agent()?;
    cluster.wait_until_ready()?;
    ensure!(
        ask_from(&from, site.address(Family::V4), Service::Tcp(OTHER), BRIEF)? == Answer::Silence
    );
    wait::until_true("told after a restart", Duration::from_secs(5), || {
        denied(&cluster, &[]).is_ok_and(|output| output.stdout.contains(line))
    })
}

calico_e2e::on_each_dataplane! {
    full: denied_packets_are_told, "den";
}
