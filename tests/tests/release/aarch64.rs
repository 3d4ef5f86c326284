//! The programs for aarch64 on a machine of that architecture, which is emulated: the kernel's structures and
//! what the compiler makes of ours are others there. Only where `CALICO_DIST` holds that release and
//! `CALICO_AARCH64` names what `scripts/machine-aarch64` prepared.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::netns::Netns;
use calico_e2e::process::Command;
use calico_e2e::run::{Run, can_run};

use crate::{NAME, dist};

/// What a machine types, once it is up.
const JOB: &str = include_str!("job.sh");
/// 100 s where this machine has nothing else to do.
const LIMIT: Duration = Duration::from_secs(900);

/// Where `scripts/machine-aarch64` has put what is booted; `None`, saying so, when nobody names it.
fn prepared() -> Option<PathBuf> {
    let dir = std::env::var_os("CALICO_AARCH64");
    if dir.is_none() {
        #[expect(clippy::print_stderr, reason = "a skipped test says so")]
        {
            eprintln!("skipped: CALICO_AARCH64 names no machine (scripts/machine-aarch64)");
        }
    }
    dir.map(|dir| Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(dir))
}

/// The prepared archive with the tarball and the job behind it: the kernel unpacks both.
fn initrd(prepared: &Path, tarball: &Path, dir: &Path) -> Result<PathBuf> {
    let more = dir.join("more");
    std::fs::create_dir_all(more.join("opt"))?;
    Command::new("tar").arg("-C").arg(more.join("opt")).arg("-xzf").arg(tarball).run()?;
    std::fs::write(more.join("job"), JOB)?;
    let initrd = dir.join("initrd");
    Command::new("sh")
        .args(["-ec", r#"cp "$1/initrd" "$2"; find . | "$1/busybox" cpio -o -H newc >>"$2""#, "-"])
        .arg(prepared)
        .arg(&initrd)
        .dir(&more)
        .run()?;
    Ok(initrd)
}

#[test]
fn the_programs_for_aarch64_police_pods_on_every_dataplane() -> Result<()> {
    let (Some(dist), Some(prepared), true) = (dist(), prepared(), can_run()) else {
        return Ok(());
    };
    let tarball = dist.join(format!("{NAME}-aarch64.tar.gz"));
    ensure!(tarball.exists(), "{} is not there: make dist ARCH=aarch64", tarball.display());
    // Whoever interrupts a test leaves no machine behind.
    let run = Run::new("arm")?;
    let place = Netns::fresh(&run, "qemu")?;
    let initrd = initrd(&prepared, &tarball, run.dir())?;
    let console = run.dir().join("console");
    let mut machine = place
        .command(prepared.join("qemu-system-aarch64"))
        .args(["-M", "virt", "-cpu", "cortex-a57", "-smp", "2", "-m", "2048", "-net", "none"])
        .args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"])
        .arg("-kernel")
        .arg(prepared.join("vmlinuz"))
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", "console=ttyAMA0 quiet panic=-1"])
        .start(&console)?;
    let ended = machine.wait(LIMIT);
    let said = String::from_utf8_lossy(&std::fs::read(&console)?).replace('\r', "");
    ended.with_context(|| said.clone())?;
    println!("{said}");
    let seen: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("seen: ")).collect();
    let of = |what: &'static str| {
        let dataplanes = ["nftables", "iptables-nft", "iptables-legacy"];
        dataplanes.map(|dataplane| format!("{dataplane}: {what}"))
    };
    let mut wanted = vec!["aarch64".to_owned()];
    for (packets, left) in of("passes and is dropped").into_iter().zip(of("nothing is left")) {
        wanted.extend([packets, left]);
    }
    ensure!(seen == wanted, "{said}");
    ensure!(said.lines().any(|line| line == "job: 0"), "{said}");
    ensure!(said.lines().any(|line| line == "calico-agent 0.1.0"), "{said}");
    Ok(())
}
