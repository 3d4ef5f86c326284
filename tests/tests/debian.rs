//! The Debian package: what is in it, and its life on a machine with systemd, from installation to
//! purge, while packets flow.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::flow;
use calico_e2e::host::Flavour;
use calico_e2e::kernel::Snapshot;
use calico_e2e::machine::{self, Image, Machine};
use calico_e2e::netns::Place;
use calico_e2e::probe::{Answer, BRIEF, Service, ask_from};
use calico_e2e::process::Command;
use calico_e2e::tutorial::{self, HTTP, PODS};
use calico_e2e::{package, run, wait};

const SOON: Duration = Duration::from_secs(20);

/// False, saying why, where no package can be made or no machine be booted.
fn can_run() -> bool {
    if let Some(program) = package::missing().or_else(machine::missing) {
        #[expect(clippy::print_stderr, reason = "a skipped test says so")]
        {
            eprintln!("skipped: {program} is not installed (scripts/setup --tests)");
        }
        return false;
    }
    run::can_run()
}

/// The same input gives the same bytes, wherever and however it is called; another gives others.
#[test]
fn a_package_is_made_of_its_input_alone() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let one = package::build(&dir.path().join("one"), "0.1.0")?;
    std::thread::sleep(Duration::from_millis(1100));
    let again = package::build(&dir.path().join("again"), "0.1.0")?;
    ensure!(std::fs::read(&one)? == std::fs::read(again)?, "two packages of one input");
    let other = package::build(&dir.path().join("other"), "0.1.1")?;
    ensure!(std::fs::read(&one)? != std::fs::read(&other)?, "two versions, one package");

    let ask = |args: &[&str]| Command::new("dpkg-deb").args(args).arg(&one).run();
    let control = ask(&["--field"])?;
    let field = |name: &str| {
        let line = control.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.map(str::to_owned).with_context(|| format!("no {name}: {control}"))
    };
    // What the programs are linked with, and who starts them; the rest is the host's choice.
    let depends = field("Depends")?;
    let mut depends: Vec<_> = depends.split(", ").filter_map(|one| one.split(' ').next()).collect();
    depends.sort_unstable();
    ensure!(depends == ["libc6", "libgcc-s1", "systemd"], "{depends:?}");
    ensure!(field("Recommends")? == "bird2, iptables | nftables");

    let listing = ask(&["--contents"])?;
    let path = |line: &str| line.split_whitespace().nth(5).unwrap_or_default().to_owned();
    let strangers: Vec<_> = listing.lines().filter(|line| !line.contains(" root/root ")).collect();
    ensure!(strangers.is_empty(), "{strangers:#?}");
    let dates = listing.lines().filter(|line| !line.contains(" 2023-11-14 22:13 ")).count();
    ensure!(dates == 0, "{listing}");
    let open = listing.lines().filter(|line| !line.starts_with('l') && line[8..9] == *"w").count();
    ensure!(open == 0, "{listing}");
    let paths: BTreeSet<String> = listing.lines().map(path).collect();
    for wanted in [
        "./usr/sbin/calico-agent",
        "./opt/cni/bin/calico-ipam",
        "./usr/lib/rkt/plugins/net/calico",
        "./usr/lib/systemd/system/calico-agent.service",
        "./usr/lib/sysusers.d/calico.conf",
        "./usr/lib/tmpfiles.d/calico.conf",
        "./usr/lib/modules-load.d/calico.conf",
        "./usr/lib/sysctl.d/60-calico.conf",
        "./usr/lib/systemd/networkd.conf.d/calico.conf",
        "./usr/lib/systemd/network/05-calico.network",
        "./usr/lib/NetworkManager/conf.d/calico.conf",
        "./usr/share/man/man8/calico-agent.8.gz",
        "./usr/share/man/man8/calico-agent-explain.8.gz",
        "./usr/share/bash-completion/completions/calico-agent",
        "./usr/share/zsh/vendor-completions/_calico-agent",
        "./usr/share/fish/vendor_completions.d/calico-agent.fish",
        "./etc/default/calico-agent",
    ] {
        ensure!(paths.contains(wanted), "{wanted} is not in\n{listing}");
    }
    // Whatever is in /etc is an administrator's: dpkg asks before it is replaced.
    let configured = paths.iter().filter(|path| path.starts_with("./etc/") && !path.ends_with('/'));
    let configured: Vec<&str> = configured.map(|path| path.trim_start_matches('.')).collect();
    let conffiles = Command::new("dpkg-deb").arg("--info").arg(&one).arg("conffiles").run()?;
    ensure!(conffiles.lines().eq(configured.iter().copied()), "{conffiles} {configured:?}");
    Ok(())
}

/// What a machine holds, to be compared.
#[derive(Debug, PartialEq)]
struct State {
    files: BTreeSet<String>,
    users: String,
    kernel: Snapshot,
}

impl State {
    fn take(machine: &Machine, host: &Place) -> Result<Self> {
        // Not what every installation of anything leaves: logs, dpkg's books, backups of passwd.
        const FIND: &str = r"find / -xdev \( -path /var/log -o -path /var/lib/dpkg -o -path /var/cache \
            -o -path /var/lib/systemd -o -path /root -o -path /tmp -o -path /var/tmp \) -prune -o -print \
            | grep -vE '^/etc/(passwd-|group-|shadow-|gshadow-|subuid|subgid|\.pwd\.lock|\.updated)|^/var/\.updated'; \
            ls -d /run/calico* 2>/dev/null || true";
        let files = machine.run(&["sh", "-c", FIND])?.lines().map(str::to_owned).collect();
        let users = machine.run(&["cat", "/etc/passwd", "/etc/group"])?;
        // Empty frames of tables belong to nobody.
        let frames =
            ["*", ":PREROUTING", ":INPUT", ":FORWARD", ":OUTPUT", ":POSTROUTING", "COMMIT"];
        let frames_of_nft = ["table ip", "chain ", "type ", "}"];
        let kernel = Snapshot::take(host)?.written().filter(|line| {
            let frame = frames.iter().any(|frame| line.starts_with(frame));
            let line = line.trim();
            !frame && !line.is_empty() && !frames_of_nft.iter().any(|frame| line.starts_with(frame))
        });
        Ok(Self { files, users, kernel })
    }
}

/// `dpkg` does something; what it said.
fn dpkg(machine: &Machine, args: &[&str]) -> Result<String> {
    let args = [&["env", "DEBIAN_FRONTEND=noninteractive", "dpkg"], args].concat();
    let said = machine.exec(&args)?;
    let text = format!("{}{}", said.stdout, said.stderr);
    ensure!(said.status.success(), "{args:?}: {}\n{text}", said.status);
    Ok(text)
}

/// Puts another version in the place of the one that runs, and waits until that one is ready.
fn exchange(machine: &Machine, package: &str, version: &str) -> Result<()> {
    let before = machine.property("calico-agent", "MainPID")?;
    dpkg(machine, &["-i", package])?;
    wait::until("another agent that is ready", SOON, || {
        let other = machine.property("calico-agent", "MainPID")? != before;
        let active = machine.property("calico-agent", "ActiveState")? == "active";
        Ok((other && active).then_some(()))
    })
    .with_context(|| machine.journal("calico-agent"))?;
    let installed = machine.run(&["dpkg-query", "-W", "-f", "${Version}", "calico-agent"])?;
    ensure!(installed == version, "{installed}");
    ensure!(machine.property("calico-agent", "Result")? == "success");
    Ok(())
}

/// What becomes of the distribution's BIRD when its package comes after ours, which dpkg tells: one that
/// nobody configured is disabled, once; one that somebody configured, or wants back, is not.
fn settles_with_bird_once(machine: &Machine) -> Result<()> {
    let sh = |script: &str| machine.run(&["sh", "-ec", script]);
    let comes = "systemctl -q enable bird
        dpkg-trigger --no-await --by-package=bird2 /lib/systemd/system/bird.service
        dpkg --triggers-only -a >/dev/null
        systemctl is-enabled bird || :";
    let mark = "/var/lib/calico/debian/bird.service";
    ensure!(sh(comes)?.trim() == "enabled", "it is wanted back, and disabled again");
    sh(&format!(
        "rm {mark}; cp -p /etc/bird/bird.conf /root/; echo '# mine' >>/etc/bird/bird.conf"
    ))?;
    ensure!(sh(comes)?.trim() == "enabled", "one that is configured was disabled");
    sh("cp -p /root/bird.conf /etc/bird/")?;
    ensure!(sh(comes)?.trim() == "disabled", "one that comes later is left enabled");
    sh(&format!("test -e {mark}")).map(drop)
}

#[test]
fn from_installation_to_purge_while_packets_flow() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mut cluster = Cluster::new("deb")?;
    let dir = cluster.run().dir().join("packages");
    let versions = [("/root/one.deb", "0.1.0"), ("/root/two.deb", "0.1.1")];
    let image = Image::new(cluster.run(), "deb")?;
    for (path, version) in versions {
        image.write(path, std::fs::read(package::build(&dir, version)?)?)?;
    }
    std::fs::remove_dir_all(&dir)?;
    let (one, two) = (versions[0].0, versions[1].0);
    cluster.etcd.put_all(&tutorial::base())?;
    for pod in &PODS {
        cluster.place_pod(pod)?;
    }
    // Pods that were there before and stay: their routes are not the agent's. Nor are kernel parameters,
    // which no purge sets back, for nobody knows what they were.
    let first = &cluster.hosts[0];
    for pod in PODS.iter().filter(|pod| pod.host == first.spec.name) {
        cluster.pod(pod.name)?.add_cni_routes(first)?;
    }
    first.ns().sysctl("ipv4/ip_forward", "1")?;
    first.ns().sysctl("ipv6/conf/all/forwarding", "1")?;
    let (name, address) = (first.spec.name, first.spec.v4);
    image.write("/etc/hostname", format!("{name}\n"))?;
    let machine = image.boot(first.ns())?;
    let place = first.ns().place();
    machine.run(&["systemctl", "restart", "bird"])?;
    let is_enabled = |unit: &str| -> Result<String> {
        Ok(machine.exec(&["systemctl", "is-enabled", unit])?.stdout.trim().to_owned())
    };
    ensure!(is_enabled("bird")? == "enabled" && machine.property("bird", "MainPID")? != "0");
    let before = State::take(&machine, &place)?;

    // Installed: nothing runs, nothing is enabled, nothing is in the kernel; BIRD as it came is off.
    let said = dpkg(&machine, &["-i", one])?;
    ensure!(said.contains("bird.service of the distribution"), "{said}");
    ensure!(said.contains("systemctl enable --now calico-agent calico-bird"), "{said}");
    ensure!(is_enabled("bird")? == "disabled" && machine.property("bird", "MainPID")? == "0");
    for unit in ["calico-agent", "calico-bird"] {
        ensure!(is_enabled(unit)? == "disabled", "{unit} {}", is_enabled(unit)?);
        ensure!(machine.property(unit, "ActiveState")? == "inactive", "{unit}");
    }
    let kernel = State::take(&machine, &place)?.kernel;
    ensure!(kernel == before.kernel, "{:#?}", before.kernel.difference(&kernel));
    ensure!(machine.run(&["id", "-un", "calico-bird"])?.trim() == "calico-bird");
    settles_with_bird_once(&machine)?;
    let page = machine.run(&["zcat", "/usr/share/man/man8/calico-agent-run.8.gz"])?;
    ensure!(page.contains(".TH"), "{page}");

    // What it says to do next, done. The command returns when policy is in the kernel.
    let root = machine.root();
    let etcd = cluster.etcd.endpoint();
    let env = format!("ETCD_ENDPOINTS={etcd}\nIP={address}/24\n");
    std::fs::write(root.join("etc/calico/calico.env"), env)?;
    machine.run(&["systemctl", "enable", "--now", "calico-agent", "calico-bird"])?;
    let rules = machine.run(&["sh", "-c", "iptables-save; nft list ruleset"])?;
    ensure!(rules.contains("cali-FORWARD"), "{rules}");
    machine.wait_for_unit("calico-bird", "active", SOON)?;
    let second = cluster.host("calico-02")?;
    second.flavour = Flavour::Auto;
    second.start_agent()?;
    second.start_bird(SOON)?;
    cluster.check(false).with_context(|| machine.journal("calico-agent"))?;

    // Another version and back, while packets flow; what an administrator wrote stays.
    let edited = root.join("etc/default/calico-agent");
    let text = std::fs::read_to_string(&edited)? + "FELIX_LOGSEVERITYSCREEN=debug\n";
    std::fs::write(&edited, &text)?;
    let bird = machine.property("calico-bird", "MainPID")?;
    flow::during(&mut cluster, &flow::of_networks(), || {
        exchange(&machine, two, "0.1.1")?;
        exchange(&machine, one, "0.1.0")
    })
    .with_context(|| machine.journal("calico-agent"))?;
    ensure!(machine.property("calico-bird", "MainPID")? == bird, "BIRD was restarted");
    ensure!(std::fs::read_to_string(&edited)? == text);
    let level = "journalctl -u calico-agent -p debug..debug -q -n 1 | grep -q .";
    machine.run(&["sh", "-c", level]).context("/etc/default/calico-agent is not read")?;

    // Removed: policy stays, and with it who reaches whom on this host; others hear from BIRD that it
    // ends. The distribution's BIRD comes with the next boot.
    let rules = |machine: &Machine| {
        machine.run(&["sh", "-c", "iptables-save -t filter; nft list ruleset"]).map(|text| {
            let kept = text.lines().filter(|line| line.contains("cali"));
            kept.map(|line| line.split(" counter packets").next().unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
        })
    };
    let enforced = rules(&machine)?;
    let said = dpkg(&machine, &["-r", "calico-agent"])?;
    ensure!(said.contains("stay in the kernel"), "{said}");
    ensure!(said.contains("enabled again"), "{said}");
    ensure!(is_enabled("bird")? == "enabled");
    ensure!(machine.property("calico-agent", "LoadState")? == "not-found");
    ensure!(rules(&machine)? == enforced && !enforced.is_empty());
    let ask = |from: &str, to: &str| -> Result<Answer> {
        let address = cluster.pod(to)?.spec.v4.into();
        ask_from(cluster.netns(from)?.name(), address, Service::Tcp(HTTP), BRIEF)
    };
    ensure!(ask("calico-01", "frontend-1")?.reached(), "a pod cannot be reached: {said}");
    ensure!(ask("backend-1", "frontend-1")? == Answer::Silence, "nobody polices pods: {said}");

    // Purged: as it was, but for what others keep in our directory, and what is there of old.
    // A mistake in the configuration does not keep it, and is told.
    std::fs::write(root.join("etc/calico/calicoctl.cfg"), "datastoreType: etcdv3\n")?;
    std::fs::write(root.join("etc/calico/agent.toml"), "[nod]\n")?;
    let said = dpkg(&machine, &["-P", "calico-agent"])?;
    ensure!(said.contains("agent.toml") && said.contains("nod"), "{said}");
    ensure!(said.contains("/etc/calico holds files"), "{said}");
    let after = State::take(&machine, &place)?;
    let new: Vec<&String> = after.files.difference(&before.files).collect();
    ensure!(new == ["/etc/calico", "/etc/calico/calicoctl.cfg"], "left: {new:#?}");
    let gone: Vec<&String> = before.files.difference(&after.files).collect();
    ensure!(gone.is_empty(), "gone: {gone:#?}");
    ensure!(after.users == before.users, "{}", after.users);
    let difference = before.kernel.difference(&after.kernel);
    ensure!(difference.is_empty(), "{difference:#?}");
    ensure!(Path::new(&machine.root()).join("run/xtables.lock").exists());
    Ok(())
}
