//! What a reboot takes from a host: everything in the kernel and in the run directory, and the
//! boot's identity. Interfaces and addresses stay, for the pods' sake.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::host::Host;
use crate::kernel;
use crate::process::Command;

/// A boot that never was.
const OTHER_BOOT: &str = "00000000-0000-4000-8000-000000000000";

impl Host {
    /// Ends agent and BIRD as a power cut would and empties the kernel: rules of both flavours,
    /// sets, connections, routes and neighbours that agent and BIRD wrote, forwarding. The policy
    /// on disk is made one of another boot, since all namespaces of a machine share one.
    ///
    /// # Errors
    /// When the kernel refuses, or holds something of the agent's all the same.
    pub fn power_cycle(&mut self) -> Result<()> {
        self.kill_agent();
        self.stop_bird()?;
        let lock = self.run_dir().with_file_name("xtables.lock");
        for program in ["iptables-legacy", "ip6tables-legacy"] {
            for table in ["raw", "mangle", "nat", "filter"] {
                for action in ["-F", "-X"] {
                    let command = self.ns().command(program).args(["-w", "-t", table, action]);
                    command.env("XTABLES_LOCKFILE", &lock).run()?;
                }
            }
        }
        self.ns().command("nft").args(["flush", "ruleset"]).run()?;
        self.ns().command("ipset").arg("destroy").run()?;
        self.ns().command("conntrack").arg("-F").output()?;
        for family in ["-4", "-6"] {
            for what in [["proto", "80"], ["proto", "bird"]] {
                let flush = ["route", "flush", "table", "main"];
                self.ns().command("ip").arg(family).args(flush).args(what).run()?;
            }
            let flush = ["neigh", "flush", "nud", "permanent"];
            self.ns().command("ip").arg(family).args(flush).run()?;
        }
        self.ns().sysctl("ipv4/ip_forward", "0")?;
        self.ns().sysctl("ipv6/conf/all/forwarding", "0")?;
        for entry in fs::read_dir(self.run_dir())? {
            let path = entry?.path();
            let removed =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
        let chains = kernel::chains(self.ns())?;
        ensure!(chains.all() == 0, "a reboot leaves nothing: {chains}");
        let policy = self.stored_policy();
        if policy.exists() {
            edit_header(&policy, |header| header["boot"] = OTHER_BOOT.into())?;
        }
        Ok(())
    }
}

/// Changes the header of a policy on disk, and the checksum with it.
///
/// # Errors
/// When there is none, or the file cannot be written.
pub fn edit_header(path: &Path, edit: impl FnOnce(&mut serde_json::Value)) -> Result<()> {
    let text = fs::read_to_string(path)?;
    let (header, rest) = text.split_once('\n').context("no header")?;
    let (content, _) = rest.trim_end().rsplit_once('\n').context("no trailer")?;
    let mut header = serde_json::from_str(header)?;
    edit(&mut header);
    let covered = format!("{header}\n{content}\n");
    let sum = Command::new("sha256sum").input(&covered).run()?;
    let sum = sum.split_whitespace().next().context("sha256sum says nothing")?;
    fs::write(path, format!("{covered}{{\"sha256\":\"{sum}\"}}\n"))?;
    Ok(())
}

/// The canonical content of a policy on disk: the same text for equal desired states, whenever and
/// by whichever agent they were calculated. Neither a generation nor a time is in it.
///
/// # Errors
/// When there is no such file, or it is no such file.
pub fn content(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines: Vec<&str> = text.lines().collect();
    ensure!(lines.len() > 2 && lines[0].contains("calico-agent policy"), "not a policy: {text}");
    Ok(lines[1..lines.len() - 1].join("\n"))
}

/// A field of the header of a policy on disk.
///
/// # Errors
/// When there is no such file.
pub fn header(path: &Path, field: &str) -> Result<serde_json::Value> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let header: serde_json::Value = serde_json::from_str(text.lines().next().unwrap_or_default())?;
    Ok(header[field].clone())
}
