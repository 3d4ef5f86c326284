//! `calico-agent diags`: what helps is in the archive, with and without an agent, and no secret is.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::{Flavour, Host, agent_binary};
use calico_e2e::process::Command;
use calico_e2e::rkt::plugin_binary;
use calico_e2e::{run, wait};

/// Nobody says this by chance.
const MARK: &str = "hunter2";
/// Keys that calicoctl would write.
const RESOURCES: &str = "/calico/resources/v3/projectcalico.org";

/// The files of an archive by their names.
fn unpacked(archive: &Path) -> Result<BTreeMap<String, String>> {
    let dir = archive.with_extension("d");
    std::fs::create_dir(&dir)?;
    Command::new("tar").arg("xzf").arg(archive).arg("-C").arg(&dir).run()?;
    let mut found = BTreeMap::new();
    let top: Vec<PathBuf> = std::fs::read_dir(&dir)?.flatten().map(|entry| entry.path()).collect();
    ensure!(top.len() == 1, "one directory: {top:?}");
    let mut open = top.clone();
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let name = path.strip_prefix(&top[0])?.display().to_string();
            found.insert(name, String::from_utf8_lossy(&std::fs::read(&path)?).into_owned());
        }
    }
    Ok(found)
}

/// A host with BIRD as the tarball brings it, and rkt's plugin beside a network: for one program,
/// what is changed is gone with it.
const TARBALL: &str = r#"
mount -t tmpfs none "$SCRATCH"
client=$(command -v birdc)
for dir in /etc "${client%/*}"; do
  mkdir -p "$SCRATCH$dir/new" "$SCRATCH$dir/work"
  mount -t overlay none -o "lowerdir=$dir,upperdir=$SCRATCH$dir/new,workdir=$SCRATCH$dir/work" "$dir"
done
rm "$client"
mkdir -p /etc/rkt/net.d
ln -s "$PLUGIN" /etc/rkt/net.d/calico
echo '{"type": "calico"}' > /etc/rkt/net.d/10-calico.conf
exec "$0" "$@"
"#;

fn diags(host: &Host, output: &Path, path: &str) -> Result<Command> {
    diags_by(host.ns().command(agent_binary()?), host, output, path)
}

fn diags_by(command: Command, host: &Host, output: &Path, path: &str) -> Result<Command> {
    let command = command.args(["diags", "--nodename", host.spec.name]);
    let command = command.arg("--config-dir").arg(host.config_dir());
    let command = command.arg("--run-dir").arg(host.run_dir());
    let command = command.arg("--state-dir").arg(host.state_dir());
    let path = format!("{path}:{}", std::env::var("PATH").unwrap_or_default());
    let command = command.env("PATH", path).env("XTABLES_LOCKFILE", host.xtables_lock());
    Ok(command.arg("--output").arg(output).limit(Duration::from_secs(180)))
}

/// No secret, under whichever name.
fn clean(files: &BTreeMap<String, String>) -> Result<()> {
    for (name, text) in files {
        let line = text.lines().find(|line| line.contains(MARK));
        ensure!(line.is_none(), "{name}: {}", line.unwrap_or_default());
    }
    Ok(())
}

fn put(path: impl AsRef<Path>, text: &str) -> Result<()> {
    let path = path.as_ref();
    std::fs::create_dir_all(path.parent().context("a directory")?)?;
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

fn program(path: impl AsRef<Path>, script: &str) -> Result<()> {
    put(&path, &format!("#!/bin/sh\n{script}\n"))?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}

#[test]
fn what_helps_is_in_it_and_no_secret() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let mut cluster = Cluster::tutorial("diag", Flavour::Auto)?;
    let etcd = cluster.etcd.endpoint().to_owned();
    let (config, state) = (cluster.hosts[0].config_dir(), cluster.hosts[0].state_dir());
    // Wherever people put them.
    put(
        config.join("calico.env"),
        &format!(
            "#ETCD_PASSWORD={MARK}-1\nREGISTRY_TOKEN={MARK}-2\nTLS_KEY='{MARK}-3 {MARK}-3'\n\
             HTTPS_PROXY=http://joe:{MARK}-4@proxy:3128\nPEER_CERT={MARK}-5\n"
        ),
    )?;
    put(
        config.join("agent.toml"),
        &format!("# password = \"{MARK}-6\"\n[datastore]\nendpoints = [\"{etcd}\"]\n"),
    )?;
    put(
        config.join("resources/peer.yaml"),
        &format!(
            "kind: BGPPeer\nspec:\n  password: {MARK}-7 and {MARK}-8\n  token: |\n    {MARK}-9\n"
        ),
    )?;
    let peer = format!(
        r#"{{"kind":"BGPPeer","metadata":{{"annotations":{{"applied":"{{\"password\":\"{MARK}-10\"}}"}}}},"spec":{{"password":"{MARK}-11"}}}}"#
    );
    cluster.etcd.put(&format!("{RESOURCES}/bgppeers/rack"), &peer)?;
    cluster.etcd.put(&format!("{RESOURCES}/odd/EtcdPassword"), &format!("{MARK}-12"))?;
    let noted = format!("{{\"apiToken\":\"{MARK}-13\",\"note\":\"{MARK}-2 was used\"}}");
    put(state.join("attachments/one"), &noted)?;

    wait::until_true("a stored policy", Duration::from_secs(10), || {
        cluster.hosts[0].stored_policy().exists()
    })?;

    let archive = cluster.run().dir().join("with.tar.gz");
    let output = diags(&cluster.hosts[0], &archive, "")?.output()?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(output.stdout.starts_with(&format!("{}\n", archive.display())), "{}", output.stdout);
    // No terminal: a line for each file.
    ensure!(output.stderr.lines().count() > 50 && output.stderr.contains("] agent/status.txt"));
    ensure!(archive.metadata()?.permissions().mode() & 0o777 == 0o600);
    let files = unpacked(&archive)?;
    clean(&files)?;
    for (name, holds) in [
        ("summary.txt", "Agent    answers"),
        ("versions.txt", "--- bird --version\nBIRD version"),
        ("agent/status.txt", "Node        calico-01"),
        ("agent/status.json", "\"endpoints\""),
        ("agent/graph.json", "frontend"),
        ("agent/ready.txt", "ready"),
        ("agent/check.txt", "ok"),
        ("agent/plan.txt", ""),
        ("config/calico.env", "HTTPS_PROXY=http://[removed]@proxy:3128"),
        ("config/agent.toml", "endpoints = "),
        ("config/resources.txt", "password: [removed]"),
        ("state/policy.json", "frontend"),
        ("state/nodename", "calico-01"),
        ("datastore.txt", "/workloadendpoints/default/"),
        ("datastore.txt", "odd/EtcdPassword @"),
        ("kernel/iptables-save.txt", "cali-FORWARD"),
        ("kernel/sets.txt", "members"),
        ("kernel/ip-routes-v4.txt", "192.168.0.0 dev cali"),
        ("kernel/ip-rules-v6.txt", "lookup main"),
        ("kernel/ip-neighbours.txt", "PERMANENT"),
        ("kernel/ip-links.txt", "cali"),
        ("bird/bird.cfg", "router id"),
        ("bird/protocols.txt", "Mesh_172_18_18_102"),
        ("bird/routes.txt", "192.168.0.0"),
        ("errors.txt", "config/default-calico-agent: /etc/default/calico-agent: No such file"),
    ] {
        let text = files.get(name).with_context(|| format!("no {name}: {:?}", files.keys()))?;
        ensure!(text.contains(holds), "{name} without {holds:?}:\n{text}");
    }
    // What is no secret stays.
    let stored = &files["datastore.txt"];
    ensure!(stored.contains("\"frontend\"") && stored.contains("has(frontend)"), "{stored}");

    // With the other client of BIRD, and a program where only networks are looked for.
    let archive = cluster.run().dir().join("tarball.tar.gz");
    let scratch = cluster.run().dir().join("scratch");
    std::fs::create_dir_all(&scratch)?;
    let host = &cluster.hosts[0];
    let command = host.ns().command("unshare").args(["--mount", "sh", "-ec", TARBALL]);
    let command = command.env("SCRATCH", &scratch).env("PLUGIN", plugin_binary()?);
    diags_by(command.arg(agent_binary()?), host, &archive, "")?.run()?;
    let files = unpacked(&archive)?;
    let protocols = &files["bird/protocols.txt"];
    ensure!(protocols.contains("Mesh_172_18_18_102"), "{protocols}");
    let networks = &files["config/rkt-net.d.txt"];
    let expected = "10-calico.conf\n{\"type\": \"calico\"}\n--- /etc/rkt/net.d/calico\nnot read";
    ensure!(networks.contains(expected) && !networks.contains(['\0', '\u{7f}']), "{networks}");

    // Without an agent, with a program that hangs, and with an etcd that wants a password.
    cluster.hosts[0].stop_agent()?;
    cluster.hosts[0].stop_bird()?;
    let authority = etcd.strip_prefix("http://").context("a plain etcd")?;
    put(
        config.join("agent.toml"),
        &format!(
            "[datastore]\nendpoints = [\"http://{authority}\"]\nusername = \"root\"\npassword = \"{MARK}-14\"\n"
        ),
    )?;
    let bird = state.join("bird/bird.cfg");
    let text = std::fs::read_to_string(&bird)?;
    std::fs::write(
        &bird,
        format!(
            "{text}\n# password \"{MARK}-15\";\nprotocol bgp x {{ password \"{MARK}-15\"; }}\n"
        ),
    )?;
    let bin = cluster.run().dir().join("bin");
    program(bin.join("rkt"), &format!("echo {MARK}-14\nsleep 600"))?;
    // A password in a drop-in, which systemctl quotes, and who repeats it.
    program(
        bin.join("systemctl"),
        &format!("echo 'Environment=A=b \"ETCD_PASSWORD=x, {MARK} & 16\" C=d'"),
    )?;
    program(bin.join("uptime"), &format!("echo 'x, {MARK} & 16 twice'"))?;
    let archive = cluster.run().dir().join("without.tar.gz");
    let begun = Instant::now();
    let output = diags(&cluster.hosts[0], &archive, &bin.display().to_string())?.output()?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
    let files = unpacked(&archive)?;
    clean(&files)?;
    for (name, holds) in [
        ("summary.txt", "Agent    does not answer: "),
        ("agent/status.txt", "not available: no agent answers on "),
        ("rkt-pods.txt", "not available: rkt did not finish within 10s"),
        ("errors.txt", "rkt-pods.txt: rkt did not finish"),
        ("errors.txt", "datastore.txt: "),
        ("bird/bird.cfg", "password \"[removed]\";"),
        ("bird/protocols.txt", "not available: "),
        ("kernel/iptables-save.txt", "cali-FORWARD"),
        ("systemd/calico-agent.service-properties.txt", "=A=b \"ETCD_PASSWORD=[removed]\" C=d\n"),
        ("uptime.txt", "[removed] twice\n"),
        ("config/agent.toml", "password = \"[removed]\""),
    ] {
        let text = files.get(name).with_context(|| format!("no {name}"))?;
        ensure!(text.contains(holds), "{name} without {holds:?}:\n{text}");
    }

    // Where it cannot be written nothing is left, and it says so at once.
    let nowhere = cluster.run().dir().join("nowhere/x.tar.gz");
    let output = diags(&cluster.hosts[0], &nowhere, "")?.output()?;
    let said = output.status.code() == Some(1) && output.stderr.contains("cannot write");
    ensure!(said, "{output:?}");
    Ok(())
}
