//! Container Linux: what coreos-cloudinit takes.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{Provision, Unit, text};

pub(super) const CLOUD_CONFIG: &str = "packaging/container-linux/cloud-config.yaml";

/// The keys of coreos-cloudinit that we use. It passes over what it does not know; a mistake would go
/// unnoticed there, and does not here.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CloudConfig {
    hostname: String,
    write_files: Vec<File>,
    coreos: CoreOs,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    path: String,
    permissions: String,
    content: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CoreOs {
    units: Vec<CloudUnit>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CloudUnit {
    name: String,
    enable: bool,
    command: Command,
    content: Option<String>,
    #[serde(default, rename = "drop-ins")]
    drop_ins: Vec<DropIn>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Command {
    Start,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DropIn {
    name: String,
    content: String,
}

/// Reads it, and refuses what coreos-cloudinit would.
pub(super) fn read(yaml: &str) -> Result<Provision> {
    ensure!(yaml.lines().next() == Some("#cloud-config"), "nobody would take it for one");
    let config: CloudConfig = serde_yaml_ng::from_str(yaml)?;
    let mut provision = Provision::default();
    provision.files.push(("/etc/hostname".to_owned(), config.hostname + "\n"));
    let mut paths = BTreeSet::new();
    for file in config.write_files {
        ensure!(file.path.starts_with('/') && paths.insert(file.path.clone()), "{}", file.path);
        ensure!(!file.path.starts_with("/usr/"), "{} cannot be written to", file.path);
        let mode = u32::from_str_radix(&file.permissions, 8).context("permissions")?;
        ensure!(mode <= 0o777 && file.permissions.len() >= 3, "{}", file.permissions);
        provision.files.push((file.path, file.content));
    }
    for unit in config.coreos.units {
        let CloudUnit { name, enable: enabled, command: Command::Start, content, drop_ins } = unit;
        let drop_ins = drop_ins.into_iter().map(|part| (part.name, part.content)).collect();
        provision.units.push(Unit { name, enabled, content, drop_ins });
    }
    Ok(provision)
}

#[test]
fn the_cloud_config_is_of_the_dialect_and_systemd_understands_its_units() -> Result<()> {
    let yaml = text(CLOUD_CONFIG)?;
    let dir = tempfile::tempdir()?;
    let units = super::layout::make("opt", dir.path())?.join("etc/systemd/system");
    if let Some(said) = super::verify(&read(&yaml)?, &units)? {
        ensure!(said.is_empty(), "{said}");
        let wrong = read(&yaml.replace("Slice=machine", "Slize=machine"))?;
        let said = super::verify(&wrong, &units)?.unwrap_or_default();
        ensure!(said.contains("Slize"), "{said}");
    }
    // It would have said so.
    for (right, wrong) in [
        ("#cloud-config\n", "# cloud-config\n"),
        ("write_files:", "write-file:"),
        ("command: start", "command: begin"),
        ("drop-ins:", "dropins:"),
        ("permissions: \"0644\"", "mode: \"0644\""),
        ("path: /etc/calico/agent.toml", "path: /usr/lib/agent.toml"),
    ] {
        ensure!(yaml.contains(right), "{right} is not in it");
        ensure!(read(&yaml.replacen(right, wrong, 1)).is_err(), "{wrong} is taken");
    }
    Ok(())
}

/// Files of networks and of the agent are ones that their readers take.
#[test]
fn what_it_writes_is_read() -> Result<()> {
    let provision = read(&text(CLOUD_CONFIG)?)?;
    let networks = provision.files.iter().filter(|(path, _)| path.ends_with(".conf"));
    let mut count = 0;
    for (path, content) in networks {
        let network: serde_json::Value = serde_json::from_str(content).context(path.clone())?;
        // rkt takes answers of this age only.
        ensure!(network["type"] == "calico" && network["cniVersion"] == "0.1.0", "{network}");
        count += 1;
    }
    ensure!(count == 2, "{count} networks");
    Ok(())
}
