//! What docs/rkt.md and docs/one-host.md tell people to do, done.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::document;
use calico_e2e::holdings::Holdings;
use calico_e2e::host::{Flavour, Host};
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from};
use calico_e2e::process::Command;
use calico_e2e::rkt::{Rkt, draw_uuid};
use calico_e2e::run::{self, Run};
use calico_e2e::server::Server;
use calico_e2e::tutorial::{self, HOSTS, HTTP, OTHER};
use calico_e2e::wait;

/// The first block of a language that has `content` in it.
fn block(page: &str, language: &str, content: &str) -> Result<String> {
    Ok(document::block(page, language, content)?.text)
}

/// The unit of a pod is one that systemd understands.
#[test]
fn the_unit_of_a_pod_is_valid() -> Result<()> {
    if Command::new("sh").args(["-c", "command -v systemd-analyze"]).run().is_err() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let unit = block("docs/rkt.md", "ini", "ExecStart=/usr/bin/rkt run")?;
    // rkt and the agent need not be installed here.
    let unit = unit.replace("/usr/bin/rkt", "/bin/true");
    std::fs::write(dir.path().join("httpd.service"), &unit)?;
    let agent = document::read("systemd/calico-agent.service")?;
    let agent = agent.replace("/usr/sbin/calico-agent", "/bin/true");
    std::fs::write(dir.path().join("calico-agent.service"), agent)?;
    let verify = || {
        let path = format!("{}:", dir.path().display());
        let command =
            Command::new("systemd-analyze").args(["verify", "--man=no", "--recursive-errors=no"]);
        command.env("SYSTEMD_UNIT_PATH", path).arg(dir.path().join("httpd.service")).output()
    };
    let said = verify()?;
    ensure!(said.status.success() && said.stderr.is_empty(), "{}", said.stderr);
    // It would have said so.
    std::fs::write(dir.path().join("httpd.service"), unit.replace("Slice=", "Slize="))?;
    ensure!(verify()?.stderr.contains("Slize"), "{}", verify()?.stderr);
    Ok(())
}

/// ADD and DEL by hand, as the page prints them.
#[test]
fn the_plugin_is_called_by_hand() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let mut cluster = Cluster::new("docs")?;
    cluster.etcd.put_all(&tutorial::before_pods())?;
    cluster.start_agents(Flavour::Auto)?;
    cluster.wait_until_ready()?;
    let host = &cluster.hosts[0];
    let rkt = Rkt::new(host)?.as_installed(host)?;
    let toml = format!("[datastore]\nendpoints = [{:?}]\n", cluster.etcd.endpoint());
    std::fs::write(host.config_dir().join("agent.toml"), toml)?;
    let networks = block("docs/rkt.md", "sh", "> /etc/rkt/net.d/10-calico")?;
    rkt.shell(&networks).run()?;
    let calls = block("docs/rkt.md", "sh", "call ADD IP=192.168.0.0")?;
    // The namespace is noted by nobody, so it must go also when a step fails.
    let calls = format!("trap 'ip netns del $netns 2>/dev/null || :' EXIT\n{calls}");
    let said = rkt.shell(&calls).output()?;
    let all = format!("{}\n{}", said.stdout, said.stderr);
    ensure!(said.status.success(), "{all}\n{}", cluster.logs());
    ensure!(said.stdout.contains(r#""ip":"192.168.0.0/32""#), "{all}");
    ensure!(said.stdout.contains(r#""gateway":"172.18.18.101""#), "{all}");
    ensure!(said.stdout.contains("inet 192.168.0.0/32 "), "{all}");
    let held = Holdings::read(&cluster.etcd, &cluster.hosts)?;
    ensure!(held.is_empty(), "{held}");
    Ok(())
}

/// A host without etcd, from the files that docs/one-host.md prints to a pod under policy.
#[test]
fn one_host_starts_quickly() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let files = block("docs/one-host.md", "sh", "type = \"directory\"")?;
    // Below it is done as rkt does it.
    block("docs/one-host.md", "sh", "rkt run --net=\"frontend:label.role=web\"")?;

    let run = Run::new("quick")?;
    let admin = run.dir().join(HOSTS[0].name).join("etc/resources");
    let mut host = Host::new(&run, &HOSTS[0], &format!("dir:{}", admin.display()))?;
    host.ns().ip(&format!(
        "link add eth0 type veth peer name nobody\nlink set eth0 up\nlink set nobody up\n\
         addr add {}/24 dev eth0\n",
        HOSTS[0].v4
    ))?;
    // agent.toml is all that the plugin has to go by.
    let rkt = Rkt::new(&host)?.as_installed(&host)?.without_env("CALICO_DATASTORE");
    rkt.shell(&files).run()?;
    host.start_agent()?;
    // What systemd waits for.
    host.start_bird(Duration::from_secs(20))?;
    wait::until("agent that is ready", Duration::from_secs(20), || {
        Ok(host.status()?.is_ready().then_some(()))
    })
    .with_context(|| host.logs())?;

    let mut pods = Vec::new();
    for args in ["label.role=web", ""] {
        let mut pod = rkt.prepare(&run, &draw_uuid()?)?;
        let added = rkt.connect(&mut pod, &[("frontend", args)]);
        added.with_context(|| host.logs())?;
        let address = pod.v4(0)?.into();
        let server = Server::start(pod.ns().name(), &[address], &[HTTP, OTHER], &[])?;
        pods.push((pod, address, server));
    }
    let ask = |from: usize, to: usize, port, limit| {
        ask_from(pods[from].0.ns().name(), pods[to].1, Service::Tcp(port), limit)
    };
    let answers = [ask(1, 0, HTTP, PATIENT)?, ask(1, 0, OTHER, BRIEF)?, ask(0, 1, OTHER, PATIENT)?];
    let [web, other, back] = &answers;
    ensure!(web.reached() && *other == Answer::Silence && back.reached(), "{answers:?}");

    // What the plugin keeps of a pod on this host: its endpoint, its note, its interface.
    let kept = || -> Result<String> {
        let files = Command::new("find").arg(host.state_dir()).args(["-name", "*eth0*"]).run()?;
        let links = host.ns().command("ip").args(["-o", "link", "show"]).run()?;
        let links = links.lines().filter(|line| line.contains("cali"));
        Ok(files + &links.collect::<Vec<_>>().join("\n"))
    };
    ensure!(kept()?.lines().count() == 6, "{}", kept()?);
    for (pod, _, server) in pods {
        drop(server);
        let refusals = rkt.remove(pod)?;
        ensure!(refusals.is_empty(), "{refusals:?}");
    }
    ensure!(kept()?.is_empty(), "{}", kept()?);
    Ok(())
}
