//! The tools of their makers: Butane and Ignition's validator where `scripts/provisioning` has built
//! them (make full does), coreos-cloudinit where `CALICO_CLOUDINIT` names it.

use anyhow::{Result, ensure};
use calico_e2e::process::Command;

use super::container_linux::CLOUD_CONFIG;
use super::flatcar::{BUTANE, IGNITION};
use super::{project, text};

#[test]
fn butane_writes_the_json_and_ignition_takes_it() -> Result<()> {
    let tools = project().join("target/provisioning");
    if !tools.join("ignition-validate").exists() {
        eprintln!("skipped: butane is not built (scripts/provisioning)");
        return Ok(());
    }
    let butane = |input: String| {
        Command::new(tools.join("butane")).args(["--strict", "--pretty"]).input(input).output()
    };
    let said = butane(text(BUTANE)?)?;
    ensure!(said.status.success() && said.stderr.is_empty(), "{}", said.stderr);
    ensure!(said.stdout == text(IGNITION)?, "scripts/provisioning write");
    ensure!(!butane(text(BUTANE)?.replace("hash:", "sum:"))?.status.success());

    let validate = |input: String| {
        Command::new(tools.join("ignition-validate")).arg("-").input(input).output()
    };
    let said = validate(text(IGNITION)?)?;
    ensure!(said.status.success() && said.stderr.is_empty(), "{}", said.stderr);
    ensure!(!validate(text(IGNITION)?.replace("sha256-", "md5-"))?.status.success());
    Ok(())
}

#[test]
fn coreos_cloudinit_takes_the_cloud_config() -> Result<()> {
    let Some(program) = std::env::var_os("CALICO_CLOUDINIT") else {
        eprintln!("skipped: CALICO_CLOUDINIT names no coreos-cloudinit");
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let validate = |yaml: &str| {
        let file = dir.path().join("user-data");
        std::fs::write(&file, yaml)?;
        Command::new(&program).args(["-validate", "-from-file"]).arg(file).output()
    };
    let yaml = text(CLOUD_CONFIG)?;
    let said = validate(&yaml)?;
    let quiet = !said.stderr.contains("warning") && !said.stderr.contains("error");
    ensure!(said.status.success() && quiet, "{}", said.stderr);
    ensure!(validate(&yaml.replace("write_files:", "write_file:"))?.stderr.contains("warning"));
    ensure!(!validate(&yaml.replace("command: start", "command: begin"))?.status.success());
    Ok(())
}
