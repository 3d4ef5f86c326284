//! `calico-agent node` on a machine with a real systemd: from an installed package to a node that is
//! ready, with one command; and with an image that is only prepared.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::agent_binary;
use calico_e2e::machine::{self, Image};
use calico_e2e::probe::PATIENT;
use calico_e2e::process::{Command, Output};
use calico_e2e::{run, tutorial, wait};

#[test]
fn one_command_makes_a_host_a_node() -> Result<()> {
    if let Some(program) = machine::missing() {
        eprintln!("skipped: {program} is not installed (scripts/setup --tests)");
        return Ok(());
    }
    if !run::can_run() {
        return Ok(());
    }
    let mut cluster = Cluster::new("nodecmd")?;
    cluster.etcd.put_all(&tutorial::base())?;
    let (name, address) = (cluster.hosts[0].spec.name, cluster.hosts[0].spec.v4);
    let image = Image::new(cluster.run(), "cmd")?;
    image.install_agent()?;
    image.write("/etc/hostname", format!("{name}\n"))?;
    // What an administrator wrote before.
    image.write("/etc/calico/agent.toml", "# mine\n[felix]\nipv6_support = true # why\n")?;
    image.write(
        "/etc/calico/calico.env",
        "# mine, too\nIP=10.9.9.9\nFELIX_LOGSEVERITYSCREEN=info\n",
    )?;
    let machine = image.boot(cluster.hosts[0].ns())?;

    let etcd = cluster.etcd.endpoint().to_owned();
    let authority = etcd.strip_prefix("http://").context("a plain etcd")?.to_owned();
    let (ip, at) = (format!("--ip={address}"), format!("--etcd={authority}"));
    let node = |more: &[&str]| -> Result<Output> {
        let words = ["calico-agent", "node", &ip, &at, "--rkt"];
        machine.exec(&[&words[..], more].concat())
    };
    let read = |path: &str| machine.run(&["cat", path]);

    // Only said.
    let said = node(&["--dry-run"])?;
    ensure!(said.status.success(), "{said:?}");
    for line in [
        &format!("would write /etc/calico/calico.env: IP={address} (was 10.9.9.9)"),
        &format!("would write /etc/calico/agent.toml: [datastore] endpoints = {etcd}"),
        "would write /etc/rkt/net.d/10-calico.conf: ",
        "would run systemctl enable calico-agent.service calico-bird.service ",
        "would run systemctl start --no-block calico-agent.service ",
    ] {
        ensure!(said.stdout.contains(line), "no {line:?}:\n{}", said.stdout);
    }
    ensure!(machine.property("calico-agent", "ActiveState")? == "inactive");
    ensure!(read("/etc/calico/calico.env")?.contains("10.9.9.9"), "it wrote");

    // Done; the distribution's BIRD gives way.
    machine.run(&["systemctl", "restart", "bird"])?;
    let said = node(&[])?;
    let journal = || machine.journal("calico-agent") + &machine.journal("calico-bird");
    ensure!(
        said.stdout.contains(&format!("ready: this host is {name}")),
        "{said:?}\n{}",
        journal()
    );
    ensure!(said.status.success(), "{said:?}\n{}", journal());
    ensure!(machine.property("calico-agent", "ActiveState")? == "active");
    // What waits for BIRD's first configuration was there before the one who writes it.
    let when = |unit: &str, property: &str| -> Result<u64> {
        machine.property(unit, property)?.parse().context("a time")
    };
    let waits = when("calico-bird.path", "ActiveEnterTimestampMonotonic")?;
    let writes = when("calico-agent", "ExecMainStartTimestampMonotonic")?;
    ensure!(0 < waits && waits < writes, "{waits} {writes}");
    for unit in ["calico-agent", "calico-bird"] {
        ensure!(machine.property(unit, "UnitFileState")? == "enabled", "{unit}");
    }
    ensure!(machine.property("bird", "Id")? == "calico-bird.service", "bird.service is not ours");
    let rules = machine.run(&["iptables-save"])?;
    ensure!(rules.contains("cali-FORWARD"), "ready, and nothing is in force: {rules}");
    let env = read("/etc/calico/calico.env")?;
    ensure!(env == format!("# mine, too\nIP={address}\nFELIX_LOGSEVERITYSCREEN=info\n"), "{env}");
    let toml = read("/etc/calico/agent.toml")?;
    ensure!(toml.starts_with("# mine\n[felix]\nipv6_support = true # why\n"), "{toml}");
    ensure!(toml.contains(&format!("endpoints = [\"{etcd}\"]")), "{toml}");
    let node_entry =
        cluster.etcd.get(&format!("/calico/resources/v3/projectcalico.org/nodes/{name}"))?;
    ensure!(node_entry.is_some_and(|node| node.contains(&address.to_string())));
    machine.run(&["test", "-x", "/usr/lib/rkt/plugins/net/calico"])?;
    ensure!(read("/etc/rkt/net.d/10-calico.conf")?.contains("\"type\": \"calico\""));

    // Again: nothing is to be done, and nothing is restarted.
    let pid = machine.property("calico-agent", "MainPID")?;
    let said = node(&[])?;
    ensure!(said.status.success() && !said.stdout.contains("wrote"), "{said:?}");
    ensure!(machine.property("calico-agent", "MainPID")? == pid, "it was restarted");

    // Another setting: the agent that answers afterwards has it.
    let said = node(&["--as=64999"])?;
    ensure!(said.stdout.contains("[node] as_number = 64999"), "{said:?}");
    ensure!(said.status.success(), "{said:?}");
    ensure!(machine.property("calico-agent", "MainPID")? != pid, "it was not restarted");

    // Another log level while it runs, and everything in one file, with the journal.
    let said = machine.run(&["calico-agent", "log-level", "debug", "--for=10m"])?;
    ensure!(said == "the log level is debug for 600s\n", "{said}");
    wait::until_true("the level", PATIENT, || journal().contains("log level"))?;
    machine.run(&["calico-agent", "diags", "--output=/root/diags.tar.gz"])?;
    let out = |name: &str| {
        machine.run(&["tar", "xzOf", "/root/diags.tar.gz", "--wildcards", &format!("*/{name}")])
    };
    ensure!(out("journal/calico-agent.service.txt")?.contains("calico-agent starts"));
    ensure!(out("systemd/calico-agent.service.txt")?.contains("ExecStart=/usr/sbin/calico-agent"));
    ensure!(out("config/calico.env")?.contains(&ip[2..].replace("ip", "IP")));

    // etcd is away: it says what it waits for, and that the time is over.
    cluster.etcd.stop()?;
    let said = node(&["--as=64998", "--timeout=12"])?;
    ensure!(said.status.code() == Some(3), "{said:?}");
    ensure!(said.stderr.contains("the datastore: "), "{said:?}");
    cluster.etcd.start()?;

    // An agent that cannot start says why.
    let bad = machine.exec(&["calico-agent", "node", "--ip=10.0.0.300"])?;
    ensure!(bad.status.code() == Some(1) && bad.stderr.contains("10.0.0.300"), "{bad:?}");
    ensure!(!read("/etc/calico/calico.env")?.contains("10.0.0.300"), "it wrote");
    let broken = "systemctl stop calico-agent && mkdir -p /run/systemd/system/calico-agent.service.d \
         && printf '[Service]\\nExecStart=\\nExecStart=/usr/sbin/calico-agent run --config-dir /proc/version\\n' \
         > /run/systemd/system/calico-agent.service.d/bad.conf && systemctl daemon-reload";
    machine.run(&["sh", "-ec", broken])?;
    let said = node(&[])?;
    let right = said.status.code() == Some(1) && said.stderr.contains("the agent does not start");
    ensure!(right, "{said:?}");
    Ok(())
}

/// Without systemd below it: the files, and what systemd will start at the first boot.
#[test]
fn an_image_is_prepared() -> Result<()> {
    if Command::new("systemctl").arg("--version").output().is_err() {
        return Ok(());
    }
    let root = tempfile::tempdir()?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let plugin = root.path().join("plugin");
    std::fs::write(&plugin, "#!/bin/sh\n")?;
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755))?;
    let image = root.path().join("image");
    std::fs::create_dir(&image)?;
    let install = Command::new(source.join("packaging/install")).arg(&image);
    install.env("BINARY", agent_binary()?).env("PLUGIN", &plugin).run()?;
    // A package that does not know of rkt.
    std::fs::remove_dir_all(image.join("usr/lib/rkt"))?;
    let node = |more: &[&str]| {
        let command = Command::new(agent_binary()?).args(["node", "--ip=10.0.0.1", "--rkt"]);
        command.arg("--root").arg(&image).args(more).output()
    };
    let dry = node(&["--dry-run"])?;
    ensure!(dry.status.success() && dry.stdout.contains("systemctl enable --root="), "{dry:?}");
    ensure!(!image.join("etc/calico/agent.toml").exists(), "it wrote");
    let done = node(&[])?;
    ensure!(done.status.success(), "{done:?}");
    let toml = std::fs::read_to_string(image.join("etc/calico/agent.toml"))?;
    ensure!(toml.contains("ip = \"10.0.0.1\""), "{toml}");
    let wants = image.join("etc/systemd/system/multi-user.target.wants");
    for unit in ["calico-agent.service", "calico-bird.service", "calico-bird.path"] {
        ensure!(wants.join(unit).symlink_metadata().is_ok(), "{unit} is not enabled");
    }
    ensure!(image.join("etc/rkt/net.d/10-calico.conf").exists());
    for program in ["calico", "calico-ipam"] {
        let link = std::fs::read_link(image.join("usr/lib/rkt/plugins/net").join(program))?;
        ensure!(link == Path::new("/opt/cni/bin/calico"), "{program} leads to {}", link.display());
    }
    let again = node(&[])?;
    ensure!(again.status.success() && again.stdout.is_empty(), "{again:?}");
    let other = node(&["--ip6=fd00::1", "--dry-run"])?;
    ensure!(other.stdout.lines().count() == 1 && other.stdout.contains("[node] ip6"), "{other:?}");
    Ok(())
}
