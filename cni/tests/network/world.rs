//! A "host" and pods: namespaces of the test's own, gone with it. The witness is `ip -j`.

use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// `None`, aloud, where namespaces cannot be made.
pub(crate) fn world() -> Option<World> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root for network namespaces");
        return None;
    }
    Some(World { host: Netns::new("host") })
}

/// A host without pods.
pub(crate) struct World {
    pub(crate) host: Netns,
}

impl World {
    pub(crate) fn pod(&self) -> Netns {
        Netns::new("pod")
    }

    /// Runs `work` on a thread inside the host, as the plugin runs: with a runtime of one thread.
    pub(crate) fn run<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        self.host.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(work())
        })
    }
}

/// A namespace under `/run/netns`.
pub(crate) struct Netns {
    pub(crate) name: String,
}

impl Netns {
    fn new(what: &str) -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cninet-{}-{what}{count}", std::process::id());
        run("ip", &["netns", "add", &name]);
        Self { name }
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `work` on a thread inside.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.path()).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip`, which must succeed.
    pub(crate) fn ip(&self, line: &str) -> String {
        let args: Vec<&str> = ["-n", &self.name].into_iter().chain(line.split(' ')).collect();
        run("ip", &args)
    }

    /// What `ip -j` says, a list.
    pub(crate) fn list(&self, line: &str) -> Vec<Value> {
        let text = self.ip(&format!("-j -d {line}"));
        if text.trim().is_empty() {
            return Vec::new();
        }
        let Value::Array(list) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
        list
    }

    /// The names of its interfaces, without the loopback and what modules put into each namespace.
    pub(crate) fn interfaces(&self) -> Vec<String> {
        let links = self.list("link show");
        let names = links.iter().map(|link| link["ifname"].as_str().unwrap().to_owned());
        let own = ["lo", "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip6_vti0"];
        names.filter(|name| !own.contains(&name.as_str())).collect()
    }

    pub(crate) fn write(&self, key: &str, value: &str) {
        self.enter(|| std::fs::write(format!("/proc/sys/net/{key}"), value).unwrap());
    }

    pub(crate) fn read(&self, key: &str) -> String {
        self.enter(|| std::fs::read_to_string(format!("/proc/sys/net/{key}")).unwrap())
            .trim()
            .to_owned()
    }

    /// The kernel puts an interface to work a moment after the other end of its cable, which on a busy
    /// machine is long. What it drops until then says nothing about us.
    fn settle(&self) {
        let waiting = |link: &Value| {
            let has = |flag| link["flags"].as_array().unwrap().iter().any(|f| f == flag);
            has("UP") && has("LOWER_UP") && (link["qdisc"] == "noop" || link["operstate"] == "DOWN")
        };
        for _ in 0..250 {
            if !self.list("link show").iter().any(waiting) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{:?}", self.list("link show"));
    }

    /// Whether a datagram gets from here (`own`) to `there` (`to`), and an answer back, within half a
    /// second. `scope` is the interface for a link-local destination.
    pub(crate) fn reaches(&self, own: &str, there: &Self, to: &str, scope: &str) -> bool {
        self.settle();
        there.settle();
        let wait = Some(Duration::from_millis(500));
        let server = there.enter(|| UdpSocket::bind((served(to), 0)).unwrap());
        let mut to: SocketAddr =
            (to.parse::<IpAddr>().unwrap(), server.local_addr().unwrap().port()).into();
        if let (SocketAddr::V6(to), false) = (&mut to, scope.is_empty()) {
            let link = self.list(&format!("link show {scope}")).remove(0);
            to.set_scope_id(u32::try_from(link["ifindex"].as_u64().unwrap()).unwrap());
        }
        server.set_read_timeout(wait).unwrap();
        let client = self.enter(|| UdpSocket::bind((own.parse::<IpAddr>().unwrap(), 0)).unwrap());
        client.set_read_timeout(wait).unwrap();
        // "No route" and "link down" are answers too.
        if client.send_to(b"question", to).is_err() {
            return false;
        }
        let mut buffer = [0; 16];
        let Ok((_, from)) = server.recv_from(&mut buffer) else { return false };
        server.send_to(b"answer", from).is_ok()
            && client.recv(&mut buffer).is_ok_and(|len| &buffer[..len] == b"answer")
    }
}

/// Where the server listens. Not everywhere: the answer must come from the address that was asked,
/// also where that is not the first one. But a link-local one would need its scope.
fn served(to: &str) -> IpAddr {
    if to.starts_with("fe80:") { Ipv6Addr::UNSPECIFIED.into() } else { to.parse().unwrap() }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = output("ip", &["netns", "delete", &self.name], "");
    }
}

/// Runs a program with `input`.
#[expect(clippy::disallowed_methods, reason = "the witness is not the code under test")]
pub(crate) fn output(program: &str, args: &[&str], input: &str) -> Output {
    let mut command = std::process::Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn run(program: &str, args: &[&str]) -> String {
    let output = output(program, args, "");
    let (out, err) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{program} {args:?}: {err}");
    String::from_utf8(out).unwrap()
}
