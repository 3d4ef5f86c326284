//! Which network namespaces a process lives in: told by `/proc`, only read.
//!
//! A pod whose namespace nobody is in sends and receives nothing. Which namespace a process is in only
//! those are told who may trace it, and inside its unit the agent may not. But what a process's
//! network looks like (`/proc/<pid>/net`) everybody may read, so a namespace is known by its
//! addresses as well.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Processes cannot be seen.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
pub struct ProcError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn error(path: &Path) -> impl FnOnce(io::Error) -> ProcError {
    move |source| ProcError { path: path.to_owned(), source }
}

/// A network namespace: device and inode of the file that stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    device: u64,
    inode: u64,
}

impl Namespace {
    /// The namespace with these numbers.
    pub const fn new(device: u64, inode: u64) -> Self {
        Self { device, inode }
    }

    /// That of a path (`/run/netns/…`), if there is anything.
    pub fn at(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// A network namespace with a process in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inhabited {
    /// Which; `None` where we are not told.
    pub namespace: Option<Namespace>,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// Every namespace with a process in it, but for the agent's own.
///
/// # Errors
/// When processes of others cannot be seen: then nobody knows who lives where.
pub fn find(proc: &Path) -> Result<Vec<Inhabited>, ProcError> {
    // What is mounted with `hidepid` hides the first process like any other.
    let first = proc.join("1/net/dev");
    fs::metadata(&first).map_err(error(&first))?;
    let own = proc.join("self/net/dev");
    // The inode of this file is that of the namespace it speaks of.
    let own = fs::metadata(&own).map_err(error(&own))?.ino();
    let mut seen = BTreeSet::from([own]);
    let mut found = Vec::new();
    for entry in fs::read_dir(proc).map_err(error(proc))? {
        let name = entry.map_err(error(proc))?.file_name();
        if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let process = proc.join(name);
        let net = process.join("net");
        // What cannot be read has ended meanwhile.
        let Ok(namespace) = fs::metadata(net.join("dev")) else { continue };
        if seen.contains(&namespace.ino()) {
            continue;
        }
        let Ok(v4) = fs::read_to_string(net.join("fib_trie")) else { continue };
        // Without IPv6 there is none.
        let v6 = fs::read_to_string(net.join("if_inet6")).unwrap_or_default();
        let (v4, v6) = (local_v4(&v4).map(IpAddr::from), local_v6(&v6).map(IpAddr::from));
        seen.insert(namespace.ino());
        found.push(Inhabited {
            namespace: Namespace::at(&process.join("ns/net")),
            addresses: v4.chain(v6).collect(),
        });
    }
    Ok(found)
}

/// The addresses of `fib_trie`: a line `|-- <address>` with `/32 host LOCAL` below it.
fn local_v4(text: &str) -> impl Iterator<Item = Ipv4Addr> {
    let mut last = None;
    text.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        }
        last.filter(|_| line == "/32 host LOCAL")
    })
}

/// The addresses of `if_inet6`: 32 digits at the beginning of each line.
fn local_v6(text: &str) -> impl Iterator<Item = Ipv6Addr> {
    text.lines().filter_map(|line| {
        let digits = line.split(' ').next().filter(|digits| digits.len() == 32)?;
        u128::from_str_radix(digits, 16).ok().map(Ipv6Addr::from)
    })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test that makes its own namespace")]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_kernels_lists_are_understood() {
        let v4 = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     |-- 192.168.0.9
        /32 host LOCAL
     +-- 192.168.0.64/26 2 0 2
        |-- 192.168.0.64
           /26 link UNICAST
           /32 host LOCAL
        |-- 192.168.0.127
           /32 link BROADCAST
";
        let found: Vec<_> = local_v4(v4).map(|address| address.to_string()).collect();
        assert_eq!(found, ["192.168.0.9", "192.168.0.64"]);
        let v6 = "fd8024e2f998 00\nfd8024e2f99872d60000000000000009 02 80 00 80     eth0\n";
        let found: Vec<_> = local_v6(v6).map(|address| address.to_string()).collect();
        assert_eq!(found, ["fd80:24e2:f998:72d6::9"]);
    }

    #[test]
    fn hidden_processes_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = find(dir.path()).unwrap_err();
        assert!(error.to_string().ends_with("1/net/dev"), "{error}");
    }

    /// Removes its namespace when it is dropped.
    struct Netns(String);

    impl Netns {
        fn ip(&self, command: &str) {
            let mut words = vec!["-n", &self.0];
            words.extend(command.split(' '));
            assert!(Command::new("ip").args(words).status().unwrap().success(), "{command}");
        }
    }

    impl Drop for Netns {
        fn drop(&mut self) {
            let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
        }
    }

    #[test]
    fn only_a_namespace_with_a_process_counts() {
        if !nix::unistd::Uid::effective().is_root() {
            return;
        }
        let namespace = Netns(format!("inhabit-{}", std::process::id()));
        let made = Command::new("ip").args(["netns", "add", &namespace.0]).status().unwrap();
        assert!(made.success());
        namespace.ip("link set lo up");
        namespace.ip("addr add 198.51.100.77/32 dev lo");
        namespace.ip("addr add 2001:db8:77::1/128 dev lo nodad");
        let wanted: [IpAddr; 2] =
            ["198.51.100.77".parse().unwrap(), "2001:db8:77::1".parse().unwrap()];
        let number = Namespace::at(&Path::new("/run/netns").join(&namespace.0));
        let there = || {
            let found = find(Path::new("/proc")).unwrap();
            let one = found.iter().find(|one| one.namespace == number);
            one.is_some_and(|one| wanted.iter().all(|address| one.addresses.contains(address)))
        };
        assert!(number.is_some() && !there());
        let words = ["netns", "exec", &namespace.0, "sleep", "60"];
        let mut process = Command::new("ip").args(words).spawn().unwrap();
        let begin = std::time::Instant::now();
        while !there() {
            assert!(begin.elapsed().as_secs() < 20, "not seen");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        process.kill().unwrap();
        // Not waited for yet: what has ended lives nowhere.
        while there() {
            assert!(begin.elapsed().as_secs() < 20, "seen for ever");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        process.wait().unwrap();
    }
}
