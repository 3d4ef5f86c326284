//! This process, this kernel's parameters, and the other processes of this network namespace.

use std::path::{Path, PathBuf};

use calico_datastore::model::Family;
use nix::unistd::{AccessFlags, access};

use crate::check::judge::agents::Process;
use crate::check::judge::node::NodeFacts;
use crate::check::judge::rights::{Access, Place, RightsFacts};
use crate::check::judge::sysctls::SysctlFacts;
use crate::config::{NodeConfig, Settings};
use crate::node::name::{self, NameError};
use crate::paths::Paths;

/// What this process may do. `lock`: the file that legacy iptables locks, when it is used.
pub fn rights(paths: &Paths, proc: &Path, lock: Option<&Path>) -> RightsFacts {
    let status = std::fs::read_to_string(proc.join("self/status")).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    let place = |what, path: &Path, access| {
        let path = path.display().to_string();
        Place { what, path, access }
    };
    let forward = proc.join("sys/net/ipv4/ip_forward");
    let mut places = vec![
        place("kernel parameters", &forward, writable(&forward)),
        place("run directory", &paths.run_dir, writable(&paths.run_dir)),
        place("state directory", &paths.state_dir, writable(&paths.state_dir)),
    ];
    if paths.config_dir.exists() {
        let readable = can(&paths.config_dir, AccessFlags::R_OK | AccessFlags::X_OK);
        places.push(place("configuration directory", &paths.config_dir, readable));
    }
    places.extend(lock.map(|path| place("lock of iptables", path, writable(path))));
    RightsFacts { capabilities, places }
}

fn can(path: &Path, flags: AccessFlags) -> Access {
    match access(path, flags) {
        Ok(()) => Access::Yes,
        Err(errno) => Access::No(errno.desc().to_lowercase()),
    }
}

/// Whether a path can be written, or made where it is not there.
fn writable(path: &Path) -> Access {
    match can(path, AccessFlags::W_OK) {
        Access::No(why) if path.exists() => Access::No(why),
        Access::Yes => Access::Yes,
        _ => {
            let above = path.ancestors().skip(1).find(|above| above.exists());
            match above.map(|above| can(above, AccessFlags::W_OK | AccessFlags::X_OK)) {
                Some(Access::Yes) => Access::CanBeMade,
                Some(no) => no,
                None => Access::No("there is nothing above it".to_owned()),
            }
        }
    }
}

/// The parameters of the kernel that are judged.
pub fn sysctls(proc_sys: &Path, settings: &Settings) -> SysctlFacts {
    let read = |path: &str| {
        let text = std::fs::read_to_string(proc_sys.join(path)).ok()?;
        Some(text.trim().to_owned())
    };
    let number = |path: &str| read(path)?.parse::<u64>().ok();
    let small = |path: &str| number(path).and_then(|value| u32::try_from(value).ok());
    let ipv6_known = knows_ipv6(proc_sys);
    let mut forwarding = vec![(Family::V4, read("net/ipv4/ip_forward"))];
    if settings.ipv6 && ipv6_known {
        forwarding.push((Family::V6, read("net/ipv6/conf/all/forwarding")));
    }
    SysctlFacts {
        forwarding,
        switches_on: settings.ip_forwarding,
        ipv6_wanted: settings.ipv6,
        ipv6_known,
        rp_filter_all: small("net/ipv4/conf/all/rp_filter"),
        rp_filter_default: small("net/ipv4/conf/default/rp_filter"),
        conntrack_count: number("net/netfilter/nf_conntrack_count"),
        conntrack_max: number("net/netfilter/nf_conntrack_max"),
    }
}

/// True when this kernel has IPv6.
pub fn knows_ipv6(proc_sys: &Path) -> bool {
    proc_sys.join("net/ipv6").is_dir()
}

/// Who this host would be.
pub fn node(config: &NodeConfig, paths: &Paths) -> NodeFacts {
    let kept = std::fs::read_to_string(paths.nodename()).ok();
    let name = name::determine(config, &paths.nodename()).map_err(|error| match &error {
        NameError::Read { source, .. } => format!("{error}: {source}"),
        _ => error.to_string(),
    });
    NodeFacts { name, kept }
}

/// Processes of this network namespace that program what we program: agents like this one (never
/// this process), and those of the original. What may not be looked at is left out.
pub fn processes(proc: &Path) -> (Vec<Process>, Vec<Process>) {
    let namespace = |pid: &str| std::fs::read_link(proc.join(pid).join("ns/net")).ok();
    let Some(here) = namespace("self") else { return (Vec::new(), Vec::new()) };
    let own = std::process::id();
    let (mut ours, mut originals) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(proc).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let Some(pid) = file.to_str().filter(|name| name.parse::<u32>().is_ok()) else { continue };
        let id = pid.parse().unwrap_or(own);
        let dir = proc.join(pid);
        let name = std::fs::read_to_string(dir.join("comm")).unwrap_or_default();
        let name = name.trim();
        let original = ["calico-felix", "calico-node", "felix"].contains(&name);
        if id == own
            || (name != "calico-agent" && !original)
            || namespace(pid) != Some(here.clone())
        {
            continue;
        }
        let line = command_line(proc, id);
        // The original has short-lived helpers of the same name; ours are asked things.
        if original {
            let name = name.to_owned();
            originals.push(Process { pid: id, name, run_dir: None });
        } else if line.get(1).is_some_and(|word| word == "run") {
            let environment = std::fs::read(dir.join("environ")).unwrap_or_default();
            let run_dir = run_dir_of(&line, &words(&environment));
            ours.push(Process { pid: id, name: name.to_owned(), run_dir: Some(run_dir) });
        }
    }
    (ours, originals)
}

/// The words of a process's command line.
pub fn command_line(proc: &Path, pid: u32) -> Vec<String> {
    words(&std::fs::read(proc.join(pid.to_string()).join("cmdline")).unwrap_or_default())
}

fn words(bytes: &[u8]) -> Vec<String> {
    let parts = bytes.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

/// The value of an option, as `--name value`, `--name=value`.
pub fn option<'a>(line: &'a [String], name: &str) -> Option<&'a str> {
    line.iter().enumerate().find_map(|(at, word)| match word.strip_prefix(name)? {
        "" => line.get(at + 1).map(String::as_str),
        rest => rest.strip_prefix('='),
    })
}

fn run_dir_of(line: &[String], environment: &[String]) -> String {
    let variable = || environment.iter().find_map(|word| word.strip_prefix("CALICO_RUN_DIR="));
    let dir = option(line, "--run-dir").or_else(variable).map(PathBuf::from);
    dir.unwrap_or_else(|| Paths::default().run_dir).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_directory_of_another_agent() {
        let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        for (line, environment, expected) in [
            ("calico-agent run", "A=b", "/run/calico"),
            ("calico-agent run --run-dir /x", "CALICO_RUN_DIR=/y", "/x"),
            ("calico-agent run --run-dir=/x", "", "/x"),
            ("calico-agent run", "CALICO_RUN_DIR=/y", "/y"),
        ] {
            assert_eq!(run_dir_of(&words(line), &words(environment)), expected, "{line}");
        }
    }

    #[test]
    fn what_is_not_there_is_made_where_that_is_possible() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(writable(dir.path()), Access::Yes);
        assert_eq!(writable(&dir.path().join("a/b")), Access::CanBeMade);
        assert!(matches!(writable(Path::new("/proc/self/none/x")), Access::No(_)));
    }
}
