//! What an operator gives to a machine that sets itself up: `packaging/container-linux/cloud-config.yaml`
//! and `packaging/flatcar/calico-agent.bu`, with the tarball and the system extension behind them.

mod container_linux;
mod flatcar;
mod installed;
mod layout;
mod tools;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use calico_e2e::process::Command;

/// What either form says the machine is to hold.
#[derive(Debug, Default)]
struct Provision {
    /// Path and content.
    files: Vec<(String, String)>,
    /// Path and target.
    links: Vec<(String, String)>,
    units: Vec<Unit>,
}

#[derive(Debug)]
struct Unit {
    name: String,
    enabled: bool,
    content: Option<String>,
    /// Name and content.
    drop_ins: Vec<(String, String)>,
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: impl AsRef<Path>) -> Result<String> {
    let path = project().join(path);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// What `systemd-analyze verify` says of the units in `brought` (a directory) and of those that are
/// provisioned; nothing when all is well. `None`: it is not installed.
fn verify(provision: &Provision, brought: &Path) -> Result<Option<String>> {
    if Command::new("sh").args(["-c", "command -v systemd-analyze"]).run().is_err() {
        return Ok(None);
    }
    let dir = tempfile::tempdir()?;
    let mut names = Vec::new();
    let mut add = |name: &str, text: &str| -> Result<()> {
        std::fs::write(dir.path().join(name), without_programs(text))?;
        names.push(dir.path().join(name));
        Ok(())
    };
    for entry in std::fs::read_dir(brought)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_file() && (name.ends_with(".service") || name.ends_with(".path")) {
            add(&name, &std::fs::read_to_string(&path)?)?;
        }
    }
    for unit in &provision.units {
        // What only gets a drop-in is the system's own.
        let stand_in = "[Service]\nType=notify\nExecStart=/bin/true\n";
        add(&unit.name, unit.content.as_deref().unwrap_or(stand_in))?;
        for (name, content) in &unit.drop_ins {
            let drop_ins = dir.path().join(format!("{}.d", unit.name));
            std::fs::create_dir_all(&drop_ins)?;
            std::fs::write(drop_ins.join(name), content)?;
        }
    }
    let path = format!("{}:", dir.path().display());
    let said = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(&names)
        .env("SYSTEMD_UNIT_PATH", path)
        .output()?;
    ensure!(said.status.success() || !said.stderr.is_empty(), "{}", said.status);
    Ok(Some(said.stderr))
}

/// A unit with `/bin/true` for each program that this machine has not.
fn without_programs(unit: &str) -> String {
    let line = |line: &str| {
        let Some((key, command)) = line.split_once('=') else { return line.to_owned() };
        let program = command.trim_start_matches(['-', '+', '!', '@', ':']);
        let program = program.split(' ').next().unwrap_or_default();
        if !key.starts_with("Exec") || !program.starts_with('/') || Path::new(program).exists() {
            return line.to_owned();
        }
        line.replacen(program, "/bin/true", 1)
    };
    unit.lines().map(line).collect::<Vec<_>>().join("\n") + "\n"
}
