//! Flatcar: the JSON that Ignition takes, and that it says what the Butane file beside it does.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Provision, Unit, text};

pub(super) const IGNITION: &str = "packaging/flatcar/calico-agent.ign";
pub(super) const BUTANE: &str = "packaging/flatcar/calico-agent.bu";

/// The parts of Ignition's specification 3.3 that we use; what is not here is a mistake.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    ignition: Header,
    storage: Storage,
    systemd: Systemd,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Storage {
    files: Vec<File>,
    links: Vec<Link>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    path: String,
    mode: u32,
    contents: Contents,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    source: String,
    /// Butane says that it packed nothing with an empty word.
    #[serde(default)]
    compression: String,
    verification: Option<Verification>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Verification {
    hash: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    path: String,
    target: String,
    hard: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Systemd {
    units: Vec<SystemdUnit>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SystemdUnit {
    name: String,
    #[serde(default)]
    enabled: bool,
    contents: Option<String>,
    #[serde(default)]
    dropins: Vec<DropIn>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DropIn {
    name: String,
    contents: String,
}

/// Reads a configuration, and refuses what Ignition would.
pub(super) fn read(json: &str) -> Result<Provision> {
    let config: Config = serde_json::from_str(json)?;
    ensure!(config.ignition.version == "3.3.0", "version {}", config.ignition.version);
    let mut provision = Provision::default();
    let mut paths = BTreeSet::new();
    let mut place = |path: &str| -> Result<()> {
        let plain = path.starts_with('/') && !path.split('/').any(|part| part == "..");
        ensure!(plain && !path.ends_with('/'), "{path} is no place for a file");
        ensure!(paths.insert(path.to_owned()), "{path} is there twice");
        Ok(())
    };
    for file in config.storage.files {
        place(&file.path)?;
        ensure!(file.mode <= 0o777, "mode {:o} of {}", file.mode, file.path);
        ensure!(file.contents.compression.is_empty(), "{} is packed", file.path);
        let content = match inline(&file.contents.source)? {
            Some(text) => text,
            None => {
                let source = file.contents.source;
                ensure!(source.starts_with("https://"), "{} from {source}", file.path);
                let hash = file.contents.verification.context("a download nobody verifies")?.hash;
                let sum = hash.strip_prefix("sha256-").context("a hash of another kind")?;
                let hex = sum.len() == 64 && sum.bytes().all(|c| c.is_ascii_hexdigit());
                ensure!(hex, "{sum} is no SHA-256");
                source
            }
        };
        provision.files.push((file.path, content));
    }
    for link in config.storage.links {
        place(&link.path)?;
        ensure!(
            link.target.starts_with('/') && !link.hard,
            "link {} to {}",
            link.path,
            link.target
        );
        provision.links.push((link.path, link.target));
    }
    let mut names = BTreeSet::new();
    for unit in config.systemd.units {
        ensure!(names.insert(unit.name.clone()), "{} is there twice", unit.name);
        let kinds = [".service", ".path", ".mount", ".socket", ".target", ".timer"];
        ensure!(kinds.iter().any(|kind| unit.name.ends_with(kind)), "{} is no unit", unit.name);
        let drop_ins = unit.dropins.into_iter().map(|part| (part.name, part.contents));
        let drop_ins: Vec<_> = drop_ins.collect();
        ensure!(drop_ins.iter().all(|(name, _)| name.ends_with(".conf")), "{drop_ins:?}");
        provision.units.push(Unit {
            name: unit.name,
            enabled: unit.enabled,
            content: unit.contents,
            drop_ins,
        });
    }
    Ok(provision)
}

/// The text of a data URL; nothing when it is another one.
fn inline(source: &str) -> Result<Option<String>> {
    if let Some(data) = source.strip_prefix("data:;base64,") {
        return Ok(Some(String::from_utf8(STANDARD.decode(data)?)?));
    }
    source.strip_prefix("data:,").map(percent_decoded).transpose()
}

fn percent_decoded(text: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let mut parts = text.split('%');
    bytes.extend(parts.next().unwrap_or_default().bytes());
    for part in parts {
        let (code, rest) = part.split_at_checked(2).context("a % at the end")?;
        bytes.push(u8::from_str_radix(code, 16)?);
        bytes.extend(rest.bytes());
    }
    Ok(String::from_utf8(bytes)?)
}

/// What Butane makes of its file: names in camel case, modes as numbers, texts as data URLs.
fn translated(butane: &str) -> Result<Value> {
    // YAML 1.1, which Butane reads, writes modes with a zero in front.
    let butane = butane.replace("mode: 0644", &format!("mode: {}", 0o644));
    let mut value: Value = serde_yaml_ng::from_str(&butane)?;
    let map = value.as_object_mut().context("no mapping")?;
    ensure!(map.remove("variant") == Some(json!("flatcar")), "another variant");
    ensure!(map.remove("version") == Some(json!("1.0.0")), "another version");
    map.insert("ignition".to_owned(), json!({"version": "3.3.0"}));
    Ok(value)
}

/// The same of the JSON: data URLs as texts.
fn comparable(ignition: &str) -> Result<Value> {
    let mut value: Value = serde_json::from_str(ignition)?;
    let files = value["storage"]["files"].as_array_mut().context("no files")?;
    for file in files {
        let contents = file["contents"].as_object_mut().context("no contents")?;
        let Some(Value::String(source)) = contents.get("source") else { bail!("no source") };
        if let Some(text) = inline(source)? {
            let packed = contents.get("compression") != Some(&json!(""));
            ensure!(!packed, "{source} is packed");
            contents.clear();
            contents.insert("inline".to_owned(), json!(text));
        }
    }
    Ok(value)
}

#[test]
fn the_json_is_ignitions_and_says_what_the_butane_file_says() -> Result<()> {
    let json = text(IGNITION)?;
    let provision = read(&json)?;
    ensure!(provision.files.len() >= 5 && provision.links.len() >= 4, "{provision:?}");
    ensure!(
        comparable(&json)? == translated(&text(BUTANE)?)?,
        "run scripts/provisioning, see docs/flatcar.md"
    );

    // It would have said so.
    for (right, wrong) in [
        ("\"mode\": 420", "\"mode\": \"0644\""),
        ("\"mode\": 420", "\"permissions\": 420"),
        ("\"path\": \"/etc/hostname\"", "\"path\": \"/etc/calico/calico.env\""),
        ("sha256-", "md5-"),
        ("\"version\": \"3.3.0\"", "\"version\": \"2.3.0\""),
        ("20-calico.conf", "20-calico"),
    ] {
        ensure!(json.contains(right), "{right} is not in it");
        ensure!(read(&json.replace(right, wrong)).is_err(), "{wrong} is taken");
    }
    Ok(())
}

#[test]
fn systemd_understands_the_units_and_those_of_the_image() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let image = super::layout::make("sysext", dir.path())?;
    let units = image.join("usr/lib/systemd/system");
    let mut provision = read(&text(IGNITION)?)?;
    // systemd has it itself; a stand-in would hide it.
    provision.units.retain(|unit| unit.name != "systemd-sysext.service");
    let Some(said) = super::verify(&provision, &units)? else { return Ok(()) };
    ensure!(said.is_empty(), "{said}");
    // Every unit that is linked to is in the image.
    for (path, target) in &provision.links {
        if path.starts_with("/etc/systemd/") {
            ensure!(image.join(target.trim_start_matches('/')).is_file(), "{target}");
        }
    }
    let drop_in = &mut provision.units[0].drop_ins[0].1;
    *drop_in = drop_in.replace("Environment=", "Enviroment=");
    let said = super::verify(&provision, &units)?.unwrap_or_default();
    ensure!(said.contains("Enviroment"), "{said}");
    Ok(())
}
