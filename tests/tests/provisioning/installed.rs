//! What a machine becomes that was given one of the files: booted with systemd, `/usr` read-only.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::machine::{self, Image, Machine};
use calico_e2e::process::Command;
use calico_e2e::tutorial::{self, PODS};
use calico_e2e::{document, flow, run, wait};

use super::layout::{self, NAME};
use super::{Provision, container_linux, flatcar, text};

const SOON: Duration = Duration::from_secs(30);

/// What Flatcar does at each boot when extensions are merged: early, so that `basic.target` is still to come.
const ENSURE_SYSEXT: &str = "\
[Unit]
DefaultDependencies=no
After=systemd-sysext.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=systemctl daemon-reload
ExecStart=systemctl restart --no-block sockets.target timers.target multi-user.target
";

/// False, saying why, where no machine can be booted.
fn can_boot() -> bool {
    if let Some(program) = machine::missing() {
        #[expect(clippy::print_stderr, reason = "a skipped test says so")]
        {
            eprintln!("skipped: {program} is not installed (scripts/setup --tests)");
        }
        return false;
    }
    run::can_run()
}

/// The addresses of the example as those of the cluster's first host.
fn for_host(cluster: &Cluster, text: &str) -> String {
    let host = &cluster.hosts[0];
    text.replace("http://127.0.0.1:2379", cluster.etcd.endpoint())
        .replace("$private_ipv4", &host.spec.v4.to_string())
        .replace("10.0.0.11", &host.spec.v4.to_string())
}

/// Files, links, and units but for those that need what is not here (containers, the internet).
fn write(image: &Image, provision: &Provision, without: &[&str]) -> Result<()> {
    for (path, content) in &provision.files {
        image.write(path, content)?;
    }
    for (path, target) in &provision.links {
        image.link(path, target)?;
    }
    for unit in provision.units.iter().filter(|unit| !without.contains(&unit.name.as_str())) {
        if let Some(content) = &unit.content {
            image.write(&format!("/etc/systemd/system/{}", unit.name), content)?;
        }
        for (name, content) in &unit.drop_ins {
            image.write(&format!("/etc/systemd/system/{}.d/{name}", unit.name), content)?;
        }
    }
    Ok(())
}

/// Agent and BIRD do their work: ready, BGP with the second host, packets as they should be.
fn works(cluster: &mut Cluster, machine: &Machine) -> Result<()> {
    machine.wait_for_unit("calico-agent", "active", SOON)?;
    machine.wait_for_unit("calico-bird", "active", SOON)?;
    ensure!(machine.property("calico-agent", "NRestarts")? == "0");
    let journals = || ["calico-agent", "calico-bird"].map(|unit| machine.journal(unit)).concat();
    cluster.check(false).with_context(journals)
}

/// Types what puts another version into force while packets flow, and waits until it has taken over.
fn exchange(cluster: &mut Cluster, machine: &Machine, commands: &str) -> Result<()> {
    flow::during(cluster, &flow::of_networks(), || {
        let units = ["calico-agent", "calico-bird"];
        let before = units.map(|unit| machine.property(unit, "MainPID").ok());
        let said = machine.type_in(&format!("set -e\n{commands}"))?;
        ensure!(said.status.success(), "{commands}: {}", said.stdout);
        for (unit, before) in units.iter().zip(before) {
            wait::until(&format!("another {unit}"), SOON, || {
                let now = machine.property(unit, "MainPID")?;
                Ok((now != "0" && Some(now) != before).then_some(()))
            })?;
            machine.wait_for_unit(unit, "active", SOON)?;
        }
        let protocols = "PATH=$PATH:/opt/bin; birdcl -s /run/calico/bird.ctl show protocols";
        wait::until("BGP", SOON, || {
            Ok(machine.exec(&["sh", "-c", protocols])?.stdout.contains("Established").then_some(()))
        })
    })
    .with_context(|| machine.journal("calico-bird"))
}

/// Off and on again. The network namespace is not the machine's: what it forgets is removed by hand,
/// once nobody puts it back.
fn power_cycle(cluster: &mut Cluster, machine: &mut Machine) -> Result<()> {
    machine.run(&["systemctl", "stop", "calico-bird.path", "calico-bird", "calico-agent"])?;
    cluster.hosts[0].power_cycle()?;
    machine.reboot()
}

/// The second host is an ordinary one.
fn second_host(cluster: &mut Cluster) -> Result<()> {
    let second = cluster.host("calico-02")?;
    second.start_agent()?;
    second.start_bird(SOON)?;
    for pod in &PODS {
        cluster.place_pod(pod)?;
    }
    Ok(())
}

#[test]
fn a_machine_of_the_cloud_config_fetches_verifies_and_works() -> Result<()> {
    if !can_boot() {
        return Ok(());
    }
    let mut cluster = Cluster::new("core")?;
    cluster.etcd.put_all(&tutorial::base())?;
    let image = Image::new(cluster.run(), "one")?;

    // Where it is fetched from is a file; curl does not care.
    let dir = tempfile::tempdir()?;
    layout::make("opt", dir.path())?;
    let tarball = dir.path().join("release.tar.gz");
    Command::new("tar")
        .args(["-I", "gzip -1", "-C"])
        .arg(dir.path())
        .arg("-cf")
        .args([tarball.as_os_str(), NAME.as_ref()])
        .limit(Duration::from_secs(120))
        .run()?;
    image.write("/srv/release.tar.gz", std::fs::read(&tarball)?)?;
    let sum = Command::new("sha256sum").arg(&tarball).output()?.stdout;
    let sum = sum.split(' ').next().context("no sum")?.to_owned();

    let yaml = for_host(&cluster, &text(container_linux::CLOUD_CONFIG)?);
    let url = format!("https://downloads.example.org/{NAME}-x86_64.tar.gz");
    ensure!(yaml.contains(&url), "{url} is not in it");
    let yaml =
        yaml.replace(&url, "file:///srv/release.tar.gz").replace("RestartSec=10s", "RestartSec=1s");
    let provision = container_linux::read(&yaml)?;
    write(&image, &provision, &["httpd.service", "etcd-member.service"])?;
    let machine = image.boot(cluster.hosts[0].ns())?;
    machine.run(&["mount", "--bind", "/usr", "/usr"])?;
    machine.run(&["mount", "-o", "remount,bind,ro", "/usr"])?;
    ensure!(!machine.exec(&["touch", "/usr/here"])?.status.success(), "/usr can be written to");

    let enabled = provision.units.iter().find(|unit| unit.name == "calico-install.service");
    ensure!(enabled.is_some_and(|unit| unit.enabled), "it would not be there after a reboot");
    machine.run(&["systemctl", "enable", "calico-install"])?;

    // The checksum of the example is no file's: nothing is unpacked, and it is tried again.
    let starts = machine.exec(&["systemctl", "start", "calico-install"])?;
    ensure!(!starts.status.success(), "unpacked what nobody verified");
    let left = machine.run(&["ls", "/opt"])?;
    ensure!(!left.contains("calico-agent-"), "{left}");

    // With the right one it is fetched at the next try, and put into force.
    let sums = format!("{sum}  /opt/calico-agent.tar.gz\n");
    let file = machine.root().join("etc/calico/release.sha256");
    std::fs::write(file, sums)?;
    wait::until("calico-agent", SOON, || {
        Ok((machine.property("calico-agent", "ActiveState")? == "active").then_some(()))
    })
    .with_context(|| machine.journal("calico-install"))?;
    second_host(&mut cluster)?;
    works(&mut cluster, &machine)?;
    let left = machine.run(&["ls", "/opt"])?;
    ensure!(left.split_whitespace().eq(["bin", "calico", NAME, "cni"]), "{left}");
    // The whole way from the file to rkt's plugin.
    let plugin = machine.exec(&["/etc/rkt/net.d/calico", "--version"])?;
    ensure!(plugin.status.code() != Some(127) && plugin.status.code() != Some(126), "{plugin:?}");
    let status = machine.run(&["/opt/bin/calico-agent", "status"])?;
    ensure!(status.contains("ready"), "{status}");

    // Another version beside it, which has lost a file and need not be told of rkt; and back, as a boot with
    // this file does it.
    let other = "/opt/calico-agent-0.1.1";
    machine.run(&["cp", "-a", &format!("/opt/{NAME}"), other])?;
    let lost = ["/etc/modules-load.d/calico.conf", "/.ready-0.1.0"];
    machine.run(&["rm", &format!("{other}{}", lost[0]), &format!("{other}{}", lost[1])])?;
    let page = document::block("docs/tarball.md", "sh", "graceful restart")?.text;
    ensure!(page.contains(other), "{page}");
    let ours = format!("/opt/{NAME}");
    let ways = [(other, &*page, false), (&*ours, "systemctl start calico-install", true)];
    for (version, commands, files) in ways {
        exchange(&mut cluster, &machine, commands)?;
        works(&mut cluster, &machine)?;
        ensure!(machine.run(&["readlink", "-f", "/opt/calico"])?.trim() == version);
        let runs = machine.property("calico-agent", "MainPID")?;
        let runs = machine.run(&["readlink", &format!("/proc/{runs}/exe")])?;
        ensure!(runs.trim() == format!("{version}/bin/calico-agent"), "{runs}");
        for (path, there) in
            [("/etc/modules-load.d/calico.conf", files), ("/etc/rkt/net.d/calico", true)]
        {
            let found = machine.exec(&["test", "-e", path])?.status.success();
            ensure!(found == there, "{version}: {path}");
        }
    }
    machine.run(&["rm", "-r", other])?;

    // A reboot fetches nothing.
    let mut machine = machine;
    machine.run(&["rm", "/srv/release.tar.gz"])?;
    power_cycle(&mut cluster, &mut machine)?;
    works(&mut cluster, &machine)?;
    let installed = machine.property("calico-install", "ConditionResult")?;
    ensure!(installed == "no", "calico-install ran again");

    // And it leaves as it came.
    let remove = format!("/opt/{NAME}/install");
    ensure!(!machine.exec(&[&remove, "--remove"])?.status.success(), "removed while it runs");
    machine.run(&[
        "systemctl",
        "disable",
        "--now",
        "calico-agent",
        "calico-bird",
        "calico-bird.path",
    ])?;
    // One that waits for etcd runs, too.
    let env = machine.root().join("etc/calico/calico.env");
    std::fs::write(env, "ETCD_ENDPOINTS=http://127.0.0.1:1\nIP=10.0.0.11/24\n")?;
    machine.run(&["systemctl", "start", "--no-block", "calico-agent"])?;
    machine.wait_for_unit("calico-agent", "activating", SOON)?;
    let said = machine.exec(&[&remove, "--remove"])?;
    ensure!(
        !said.status.success() && said.stderr.contains("calico-agent.service runs"),
        "{said:?}"
    );
    machine.run(&["systemctl", "stop", "calico-agent", "calico-bird.path"])?;
    machine.run(&[&remove, "--remove"])?;
    // What is the operator's, and the directory itself, stays.
    let find = format!(
        "find /etc /opt -name '*calico*' ! -path '/opt/{NAME}*' ! -path '/etc/calico*' ! -path '/etc/*-calico-*.conf' \
         ! -name 'calico-install.service'"
    );
    let left = machine.run(&["sh", "-c", &find])?;
    ensure!(left.trim().is_empty(), "left behind:\n{left}");
    Ok(())
}

#[test]
fn a_machine_of_the_ignition_file_merges_the_extension_and_works() -> Result<()> {
    if !can_boot() {
        return Ok(());
    }
    let mut cluster = Cluster::new("flat")?;
    cluster.etcd.put_all(&tutorial::base())?;
    let image = Image::new(cluster.run(), "one")?;
    let dir = tempfile::tempdir()?;
    let tree = layout::make("sysext", dir.path())?;
    extension_release(&tree)?;

    let mut provision = flatcar::read(&text(flatcar::IGNITION)?)?;
    for (_, content) in &mut provision.files {
        *content = for_host(&cluster, content);
    }
    // A machine in a container cannot attach an image; systemd takes a directory in its place.
    let place = provision.links.iter().position(|(path, _)| path.starts_with("/etc/extensions/"));
    let (link, target) = provision.links.remove(place.context("no extension")?);
    let (link, installed) = (link.trim_end_matches(".raw"), target.trim_end_matches(".raw"));
    let files = provision.files.len();
    provision.files.retain(|(path, _)| *path != target);
    ensure!(provision.files.len() + 1 == files, "{target} is not fetched");
    image.copy(&tree, installed)?;
    image.link(link, installed)?;
    write(&image, &provision, &["etcd-member.service"])?;
    // Enabled on Flatcar.
    let wants = "/etc/systemd/system/sysinit.target.wants/systemd-sysext.service";
    image.link(wants, "/usr/lib/systemd/system/systemd-sysext.service")?;
    image.write("/etc/systemd/system/ensure-sysext.service", ENSURE_SYSEXT)?;
    image.link(
        "/etc/systemd/system/sysinit.target.wants/ensure-sysext.service",
        "/etc/systemd/system/ensure-sysext.service",
    )?;

    let mut machine = image.boot(cluster.hosts[0].ns())?;
    for boot in ["first", "second"] {
        let merged = machine.run(&["systemd-sysext", "status"])?;
        ensure!(merged.contains("calico-agent"), "{boot} boot: {merged}");
        ensure!(!machine.exec(&["touch", "/usr/here"])?.status.success(), "/usr can be written to");
        if boot == "first" {
            second_host(&mut cluster)?;
        }
        works(&mut cluster, &machine).context(boot)?;
        // systemd gives up one of the units in a circle, whichever it likes.
        let said = machine.run(&["journalctl", "-b", "-o", "cat", "_PID=1"])?;
        ensure!(said.contains("calico"), "{boot} boot: {said}");
        ensure!(!said.contains("ordering cycle"), "{boot} boot: {said}");
        ensure!(
            machine.run(&["readlink", "-f", "/opt/cni/bin/calico"])?.trim()
                == "/usr/libexec/calico/calico"
        );
        if boot == "first" {
            power_cycle(&mut cluster, &mut machine)?;
        }
    }
    // Another version, which has a directory more.
    let next = installed.replace("0.1.0", "0.1.1");
    machine.run(&["cp", "-a", installed, &next])?;
    let more = format!("echo 'd /run/of-the-next' >> {next}/usr/lib/tmpfiles.d/calico.conf");
    machine.run(&["sh", "-c", &more])?;
    let page = document::block("docs/flatcar.md", "sh", "graceful restart")?.text;
    ensure!(page.contains(&format!("{next}.raw")), "{page}");
    exchange(&mut cluster, &machine, &page.replace(".raw", ""))?;
    works(&mut cluster, &machine)?;
    machine.run(&["test", "-d", "/run/of-the-next"])?;
    // Taken away, /usr is what it was.
    machine.run(&["systemctl", "stop", "calico-agent", "calico-bird", "calico-bird.path"])?;
    machine.run(&["systemd-sysext", "unmerge"])?;
    ensure!(!machine.exec(&["test", "-e", "/usr/bin/calico-agent"])?.status.success());
    Ok(())
}

/// The file by which systemd knows an extension, as `packaging/dist/build` writes it.
fn extension_release(tree: &Path) -> Result<()> {
    let release = text("packaging/sysext/extension-release")?;
    let release = release.replace("@ARCHITECTURE@", "x86-64").replace("@VERSION@", "0.1.0");
    let file = tree.join("usr/lib/extension-release.d/extension-release.calico-agent");
    std::fs::create_dir_all(file.parent().context("a file has a directory")?)?;
    Ok(std::fs::write(file, release)?)
}
