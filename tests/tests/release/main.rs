//! What `make dist` made, taken apart: only where `CALICO_DIST` names its directory, as `make full`
//! does after it has built it.

mod aarch64;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::process::Command;
use calico_e2e::run::{self, Run};
use serde_json::Value;

const NAME: &str = "calico-agent-0.1.0";
/// What a program may need of the host.
const LIBRARIES: [&str; 6] =
    ["libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "ld-linux"];

/// The release, unless nobody made one.
fn dist() -> Option<PathBuf> {
    let dir = std::env::var_os("CALICO_DIST");
    if dir.is_none() {
        #[expect(clippy::print_stderr, reason = "a skipped test says so")]
        {
            eprintln!("skipped: CALICO_DIST names no release (make dist)");
        }
    }
    // Tests run in the folder of their crate.
    dir.map(|dir| Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(dir))
}

/// The tarball unpacked below `root`/opt, and where that is.
fn unpacked(dist: &Path, root: &Path) -> Result<PathBuf> {
    let opt = root.join("opt");
    std::fs::create_dir_all(&opt)?;
    let tarball = dist.join(format!("{NAME}-x86_64.tar.gz"));
    Command::new("tar").arg("-C").arg(&opt).arg("-xzf").arg(tarball).run()?;
    Ok(opt.join(NAME))
}

#[test]
fn every_file_has_its_checksum_and_the_provisioning_files_name_theirs() -> Result<()> {
    let Some(dist) = dist() else { return Ok(()) };
    Command::new("sha256sum")
        .args(["--check", "--strict", "--quiet", "SHA256SUMS"])
        .dir(&dist)
        .run()?;
    let sums = std::fs::read_to_string(dist.join("SHA256SUMS"))?;
    let sum = |file: &str| {
        let mut lines = sums.lines().filter_map(|line| line.split_once("  "));
        lines.find(|(_, name)| *name == file).map(|(sum, _)| sum).context(file.to_owned())
    };
    let tarball = sum(&format!("{NAME}-x86_64.tar.gz"))?;
    let image = sum("x86_64/calico-agent.raw")?;
    for (file, sum) in
        [("cloud-config.yaml", tarball), ("calico-agent.bu", image), ("calico-agent.ign", image)]
    {
        let text = std::fs::read_to_string(dist.join("x86_64").join(file))?;
        ensure!(text.contains(sum), "{file} does not name {sum}");
    }
    Ok(())
}

#[test]
fn no_program_asks_for_a_newer_glibc_or_another_library() -> Result<()> {
    let Some(dist) = dist() else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let bin = unpacked(&dist, dir.path())?.join("bin");
    for program in ["calico-agent", "calico", "bird", "birdcl"] {
        let program = bin.join(program);
        let symbols = Command::new("objdump").arg("-T").arg(&program).run()?;
        let versions = symbols.split("GLIBC_").skip(1);
        let versions: BTreeSet<Vec<u32>> = versions
            .filter_map(|rest| rest.split(|c: char| c != '.' && !c.is_ascii_digit()).next())
            .map(|version| version.split('.').filter_map(|part| part.parse().ok()).collect())
            .collect();
        let newest = versions.last().context("no symbol of glibc")?;
        ensure!(*newest <= vec![2, 17], "{} needs glibc {newest:?}", program.display());
        let needs = Command::new("objdump").arg("-p").arg(&program).run()?;
        for library in needs.lines().filter_map(|line| line.trim().strip_prefix("NEEDED")) {
            let library = library.trim();
            let known = LIBRARIES.iter().any(|known| library.starts_with(known));
            ensure!(known, "{} needs {library}", program.display());
        }
    }
    Ok(())
}

/// The oldest Debian that there is a mirror of.
#[test]
fn the_programs_run_on_an_old_debian_from_where_install_puts_them() -> Result<()> {
    let Some(dist) = dist() else { return Ok(()) };
    if !run::can_run() {
        return Ok(());
    }
    let run = Run::new("old")?;
    let root = run.dir().join("root");
    Command::new("debootstrap")
        .args(["--variant=minbase", "--include=systemd,iproute2,iptables", "bullseye"])
        .arg(&root)
        .limit(Duration::from_secs(600))
        .run()?;
    let top = unpacked(&dist, &root)?;
    let within = |args: &[&str]| Command::new("chroot").arg(&root).args(args).output();
    Command::new(top.join("install")).arg("--rkt").env("ROOT", &root).run()?;
    let said = within(&["/opt/bin/calico-agent", "--version"])?;
    ensure!(said.stdout.trim() == "calico-agent 0.1.0", "{said:?}");
    let said = within(&["/opt/bin/bird", "--version"])?;
    ensure!(
        said.stderr.contains("BIRD version 2") || said.stdout.contains("BIRD version 2"),
        "{said:?}"
    );
    // Without etcd and a network something fails; that it says so is what counts.
    let said = within(&["/opt/bin/calico-agent", "check", "--output", "json"])?;
    ensure!(matches!(said.status.code(), Some(0 | 1)), "{said:?}");
    let _: Value = serde_json::from_str(&said.stdout)?;
    // The plugin, as rkt finds it; 100 and more are the errors of ours, below 100 those of CNI.
    let said = Command::new("chroot")
        .arg(&root)
        .args(["/etc/rkt/net.d/calico"])
        .env("CNI_COMMAND", "VERSION")
        .input(r#"{"cniVersion":"0.4.0"}"#)
        .output()?;
    ensure!(said.status.success() && said.stdout.contains("supportedVersions"), "{said:?}");
    // systemd of the old Debian knows the units.
    let units = ["calico-agent.service", "calico-bird.service", "calico-bird.path"];
    for unit in units {
        let said = within(&["systemctl", "enable", unit])?;
        ensure!(said.status.success(), "{said:?}");
    }
    Command::new(top.join("install")).arg("--remove").env("ROOT", &root).run()?;
    ensure!(!root.join("etc/systemd/system/calico-agent.service").exists());
    ensure!(!root.join("opt/calico").exists() && !root.join("opt/bin/bird").exists());
    Ok(())
}

#[test]
fn the_image_holds_the_same_programs_for_any_system_of_its_architecture() -> Result<()> {
    let Some(dist) = dist() else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let top = unpacked(&dist, dir.path())?;
    let image = dir.path().join("image");
    let raw = dist.join("x86_64/calico-agent.raw");
    Command::new("unsquashfs").args(["-quiet", "-no-progress", "-d"]).arg(&image).arg(raw).run()?;
    for (here, there) in [
        ("bin/calico-agent", "usr/bin/calico-agent"),
        ("bin/calico", "usr/libexec/calico/calico"),
        ("bin/bird", "usr/bin/bird"),
        ("licences/third-party", "usr/share/licenses/calico-agent/third-party"),
    ] {
        ensure!(std::fs::read(top.join(here))? == std::fs::read(image.join(there))?, "{there}");
    }
    let release = image.join("usr/lib/extension-release.d/extension-release.calico-agent");
    let release = std::fs::read_to_string(release)?;
    ensure!(release.contains("ID=_any\nARCHITECTURE=x86-64\n"), "{release}");
    // Nothing that would hide or lock what a host has.
    let tops: Vec<_> =
        std::fs::read_dir(&image)?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(tops == ["usr"] && !image.join("usr/sbin").exists(), "{tops:?}");
    Ok(())
}

#[test]
fn the_bill_of_materials_names_every_crate_and_bird_with_a_licence() -> Result<()> {
    let Some(dist) = dist() else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let top = unpacked(&dist, dir.path())?;
    let bill = std::fs::read_to_string(dist.join(format!("{NAME}-x86_64.cdx.json")))?;
    let bill: Value = serde_json::from_str(&bill)?;
    let parts = bill["components"].as_array().context("no components")?;
    let names: BTreeSet<&str> = parts.iter().filter_map(|part| part["name"].as_str()).collect();
    for name in
        ["calico-agent", "calico-cni", "calico-datastore", "tokio", "ring", "bird", "rust-std"]
    {
        ensure!(names.contains(name), "{name} is not in it");
    }
    for name in ["calico-e2e", "proptest", "serde_derive"] {
        ensure!(!names.contains(name), "{name} is in no program");
    }
    ensure!(parts.iter().all(|part| part["licenses"][0]["expression"].is_string()), "no licence");
    let texts = std::fs::read_to_string(top.join("licences/third-party"))?;
    ensure!(texts.contains("\ntokio 1.") && texts.contains("Permission is hereby granted"));
    ensure!(
        std::fs::read_to_string(top.join("licences/bird/GPL-2"))?.contains("GNU GENERAL PUBLIC")
    );
    Ok(())
}
