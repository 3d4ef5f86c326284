//! What goes into the archive: the list, which the command works through. Pure.

use std::path::{Path, PathBuf};

use crate::paths::Paths;

/// One file of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its path in the archive.
    pub name: String,
    /// Where it comes from.
    pub source: Source,
}

/// Where a file of the archive comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// What a program prints.
    Program(&'static str, Vec<String>),
    /// What BIRD answers its client.
    Bird(Vec<String>),
    /// What several programs say of their versions.
    Versions,
    /// A file of this host.
    File(PathBuf),
    /// Files below a directory: their contents, one behind the other.
    Files(PathBuf),
    /// The same of networks alone: beside them lie plugins (rkt's), and what others log in with.
    Networks(PathBuf),
    /// Names, sizes and modes below a directory, no contents.
    Listing(PathBuf),
    /// What the running agent answers.
    Agent(&'static str),
    /// The running agent's status as people read it.
    Status,
    /// `calico-agent check`.
    Check,
    /// `calico-agent plan`.
    Plan,
    /// The address sets of ours, read from the kernel.
    Sets,
    /// What the datastore holds.
    Datastore,
}

/// Programs whose versions are asked, and how.
pub const VERSIONS: [(&str, &str); 15] = [
    ("uname", "-a"),
    ("systemctl", "--version"),
    ("bird", "--version"),
    ("iptables", "--version"),
    ("ip6tables", "--version"),
    ("iptables-legacy", "--version"),
    ("iptables-nft", "--version"),
    ("nft", "--version"),
    ("ipset", "--version"),
    ("ip", "-V"),
    ("conntrack", "--version"),
    ("rkt", "version"),
    ("etcdctl", "version"),
    ("calicoctl", "version"),
    ("docker", "--version"),
];

/// How files of networks end.
pub(super) const NETWORKS: [&str; 3] = ["conf", "conflist", "json"];

/// Our units.
const UNITS: [&str; 3] = ["calico-agent.service", "calico-bird.service", "calico-bird.path"];

/// The most lines of the journal of one unit.
const JOURNAL_LINES: &str = "20000";

/// Everything, in the order of the archive.
pub fn pieces(paths: &Paths, datastore: bool) -> Vec<Piece> {
    let mut list = List(Vec::new());
    // First: what is secret in their environment may stand in all that follows.
    for unit in UNITS {
        list.program(&format!("systemd/{unit}.txt"), "systemctl", &format!("cat {unit}"));
        let show = format!("show {unit}");
        list.program(&format!("systemd/{unit}-properties.txt"), "systemctl", &show);
    }
    list.add("versions.txt", Source::Versions);
    list.file("os-release", "/etc/os-release");
    list.program("date.txt", "date", "--iso-8601=seconds");
    list.program("uptime.txt", "uptime", "");

    list.add("agent/status.txt", Source::Status);
    for (name, path) in [
        ("agent/status.json", "/status"),
        ("agent/graph.json", "/graph"),
        ("agent/denied.json", "/denied"),
        ("agent/ready.txt", "/ready"),
        ("agent/live.txt", "/live"),
    ] {
        list.add(name, Source::Agent(path));
    }
    list.add("agent/check.txt", Source::Check);
    list.add("agent/plan.txt", Source::Plan);

    let (config, state) = (&paths.config_dir, &paths.state_dir);
    list.add("config/calico.env", Source::File(config.join("calico.env")));
    list.add("config/agent.toml", Source::File(paths.agent_toml()));
    list.file("config/default-calico-agent", "/etc/default/calico-agent");
    list.file("config/sysconfig-calico-agent", "/etc/sysconfig/calico-agent");
    list.add("config/resources.txt", Source::Files(config.join("resources")));
    list.add("config/directory.txt", Source::Listing(config.clone()));
    list.add("config/rkt-net.d.txt", Source::Networks("/etc/rkt/net.d".into()));
    list.add("config/cni-net.d.txt", Source::Networks("/etc/cni/net.d".into()));

    list.add("state/policy.json", Source::File(paths.stored_policy()));
    list.add("state/nodename", Source::File(paths.nodename()));
    list.add("state/mtu", Source::File(paths.mtu()));
    list.add("state/attachments.txt", Source::Files(state.join("attachments")));
    list.add("state/directory.txt", Source::Listing(state.clone()));
    list.add("state/run.txt", Source::Listing(paths.run_dir.clone()));
    if datastore {
        list.add("datastore.txt", Source::Datastore);
    }

    for program in ["iptables-save", "ip6tables-save"] {
        list.program(&format!("kernel/{program}.txt"), program, "-c");
    }
    list.program("kernel/iptables-legacy-save.txt", "iptables-legacy-save", "-c");
    list.program("kernel/ip6tables-legacy-save.txt", "ip6tables-legacy-save", "-c");
    list.program("kernel/nft-ruleset.txt", "nft", "-a list ruleset");
    list.add("kernel/sets.txt", Source::Sets);
    list.program("kernel/ipset-save.txt", "ipset", "save");
    for (name, words) in [
        ("links", "-d -s link show"),
        ("addresses", "address show"),
        ("rules-v4", "-4 rule show"),
        ("rules-v6", "-6 rule show"),
        ("routes-v4", "-4 route show table all"),
        ("routes-v6", "-6 route show table all"),
        ("neighbours", "neighbour show"),
        ("namespaces", "netns list"),
    ] {
        list.program(&format!("kernel/ip-{name}.txt"), "ip", words);
    }
    for name in ["nf_conntrack_count", "nf_conntrack_max", "nf_conntrack_buckets"] {
        let path = format!("/proc/sys/net/netfilter/{name}");
        list.file(&format!("kernel/conntrack/{name}"), &path);
    }
    list.file("kernel/conntrack/stat.txt", "/proc/net/stat/nf_conntrack");
    list.program("kernel/sysctl.txt", "sysctl", "-a --pattern ^net\\.");
    list.file("kernel/modules.txt", "/proc/modules");
    list.file("kernel/meminfo.txt", "/proc/meminfo");
    list.program("kernel/sockets.txt", "ss", "-tuxlnp");

    list.add("bird/bird.cfg", Source::File(paths.bird_config()));
    let socket = paths.bird_socket();
    for (name, words) in [
        ("status", "show status"),
        ("protocols", "show protocols all"),
        ("routes", "show route all"),
        ("memory", "show memory"),
    ] {
        list.bird(&format!("bird/{name}.txt"), &socket, words);
    }

    for unit in UNITS {
        let words = format!("-u {unit} -n {JOURNAL_LINES} --no-pager -o short-iso-precise");
        list.program(&format!("journal/{unit}.txt"), "journalctl", &words);
    }
    let kernel = "-k -n 2000 --no-pager -o short-iso-precise";
    list.program("journal/kernel.txt", "journalctl", kernel);
    list.program("rkt-pods.txt", "rkt", "list --full");
    list.0
}

struct List(Vec<Piece>);

impl List {
    fn add(&mut self, name: &str, source: Source) {
        self.0.push(Piece { name: name.to_owned(), source });
    }

    fn file(&mut self, name: &str, path: &str) {
        self.add(name, Source::File(PathBuf::from(path)));
    }

    fn program(&mut self, name: &str, program: &'static str, words: &str) {
        let words = words.split_whitespace().map(str::to_owned).collect();
        self.add(name, Source::Program(program, words));
    }

    fn bird(&mut self, name: &str, socket: &Path, words: &str) {
        let mut args = vec!["-s".to_owned(), socket.display().to_string()];
        args.extend(words.split_whitespace().map(str::to_owned));
        self.add(name, Source::Bird(args));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_there_once_and_stays_inside() {
        let pieces = pieces(&Paths::default(), true);
        let mut names: Vec<_> = pieces.iter().map(|piece| piece.name.clone()).collect();
        assert!(names.iter().all(|name| !name.starts_with('/') && !name.contains("..")));
        // What is learned of units counts for what comes after them.
        let later = names.iter().skip_while(|name| name.starts_with("systemd/"));
        assert!(later.clone().count() + 2 * UNITS.len() == names.len());
        assert!(!later.clone().any(|name| name.starts_with("systemd/")));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), pieces.len());
        // Keys and certificates are files that are listed and never read.
        assert!(!pieces.iter().any(|piece| piece.source == Source::Files("/etc/calico".into())));
    }
}
