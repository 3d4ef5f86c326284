//! A machine with systemd as PID 1: `systemd-nspawn --boot` of a Debian 12, in the network namespace
//! of a host, so that pods and the other host reach what runs inside.
//!
//! The root is made once by `debootstrap` and kept; each machine writes to an overlay of its own
//! that goes with the run.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};

use crate::cluster::Cluster;
use crate::host::agent_binary;
use crate::netns::Netns;
use crate::process::{Command, Output, Process};
use crate::rkt::plugin_binary;
use crate::run::Run;
use crate::wait;

/// What the root holds besides Debian's minimum: what a host of ours needs, and what looks at it from
/// outside.
const PACKAGES: &str =
    "systemd,systemd-sysv,dbus,iproute2,iptables,ipset,nftables,kmod,procps,conntrack,bird2,curl";

/// Where roots are kept. They are built again when this directory is removed.
const CACHE: &str = "/var/cache/calico-e2e";

/// Own cgroups (or two machines collide), own mounts, then the machine. `$0` the run's directory of
/// the machine, `$1` its name, `$2` the root, `$3` the network namespace, the rest for nspawn.
const BOOT: &str = r#"
set -e
for hierarchy in unified systemd; do
    group=/sys/fs/cgroup/$hierarchy/$1
    mkdir -p "$group"
    echo $$ >"$group/cgroup.procs"
done
exec unshare --mount --propagation private sh -c '
    set -e
    mount -t overlay overlay -o "lowerdir=$2,upperdir=$0/upper,workdir=$0/work" "$0/root"
    umount -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    dir=$0 name=$1 netns=$3
    shift 3
    exec systemd-nspawn -q -D "$dir/root" --machine="$name" --boot --register=no --keep-unit \
        --console=pipe --kill-signal=SIGRTMIN+3 --capability=CAP_NET_ADMIN --network-namespace-path="$netns" "$@"
' "$0" "$@"
"#;

/// A booted machine. Dropping it switches it off.
#[derive(Debug)]
pub struct Machine {
    image: Image,
    netns: PathBuf,
    leader: u32,
    process: Process,
}

/// A machine that is not booted yet: files can be put into it.
#[derive(Debug)]
pub struct Image {
    name: String,
    dir: PathBuf,
    sysctls: bool,
}

/// True when this machine can boot one; otherwise the missing program.
///
/// # Errors
/// Never; the result is for the caller's message.
pub fn missing() -> Option<&'static str> {
    ["systemd-nspawn", "debootstrap"]
        .into_iter()
        .find(|program| Command::new(program).arg("--version").output().is_err())
}

impl Image {
    /// A fresh overlay over the kept root.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn new(run: &Run, what: &str) -> Result<Self> {
        let dir = run.dir().join(format!("machine-{what}"));
        for sub in ["upper", "work", "root"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        // nspawn allows letters, digits and dashes.
        Ok(Self { name: format!("{}-{what}", run.name()), dir, sysctls: false })
    }

    /// With `/proc/sys/net` to be written to, as on a machine that is no container.
    #[must_use]
    pub fn with_sysctls(mut self) -> Self {
        self.sysctls = true;
        self
    }

    /// Writes a file into the machine.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) -> Result<()> {
        let file = self.dir.join("upper").join(path.trim_start_matches('/'));
        fs::create_dir_all(file.parent().context("a file has a directory")?)?;
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
        Ok(())
    }

    /// Makes a symbolic link in the machine.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn link(&self, path: &str, target: &str) -> Result<()> {
        let link = self.dir.join("upper").join(path.trim_start_matches('/'));
        fs::create_dir_all(link.parent().context("a link has a directory")?)?;
        std::os::unix::fs::symlink(target, &link)
            .with_context(|| format!("cannot make {}", link.display()))
    }

    /// Puts a directory with all that is in it into the machine.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn copy(&self, tree: &Path, path: &str) -> Result<()> {
        let target = self.dir.join("upper").join(path.trim_start_matches('/'));
        fs::create_dir_all(target.parent().context("a directory has one above it")?)?;
        Command::new("cp").args(["-dR", "--preserve=mode"]).arg(tree).arg(target).run()?;
        Ok(())
    }

    /// Installs the agent under test as packages do.
    ///
    /// # Errors
    /// When it is not built or cannot be copied.
    pub fn install_agent(&self) -> Result<()> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        Command::new(source.join("packaging/install"))
            .arg(self.dir.join("upper"))
            .env("BINARY", agent_binary()?)
            .env("PLUGIN", plugin_binary()?)
            .run()?;
        Ok(())
    }

    /// A machine in the place of the cluster's first host, with the agent installed and told where
    /// etcd is; `drop_in` changes the agent's unit.
    ///
    /// # Errors
    /// When the machine does not come up.
    pub fn boot_first_host(cluster: &Cluster, drop_in: &str) -> Result<Machine> {
        let host = &cluster.hosts[0];
        let image = Self::new(cluster.run(), "one")?;
        image.install_agent()?;
        image.write("/etc/hostname", format!("{}\n", host.spec.name))?;
        let (etcd, address) = (cluster.etcd.endpoint(), host.spec.v4);
        let env = format!("ETCD_ENDPOINTS={etcd}\nIP={address}/24\n");
        image.write("/etc/calico/calico.env", env)?;
        if !drop_in.is_empty() {
            image.write("/etc/systemd/system/calico-agent.service.d/test.conf", drop_in)?;
        }
        image.boot(host.ns())
    }

    /// Boots it inside `ns` and waits until systemd answers.
    ///
    /// # Errors
    /// When the root cannot be built or the machine does not come up.
    pub fn boot(self, ns: &Netns) -> Result<Machine> {
        let netns = ns.path();
        let (leader, process) = self.start(&netns)?;
        let machine = Machine { image: self, netns, leader, process };
        machine.wait_until_up()?;
        Ok(machine)
    }

    /// Starts nspawn; returns PID 1 of the machine, as seen from here, and nspawn.
    fn start(&self, netns: &Path) -> Result<(u32, Process)> {
        let process = Command::new("sh")
            .args(["-c", BOOT])
            .arg(&self.dir)
            .arg(&self.name)
            .arg(root()?)
            .arg(netns)
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", if self.sysctls { "network" } else { "no" })
            .start(&self.dir.join("console.log"))?;
        let leader = wait::until("PID 1 of the machine", Duration::from_secs(20), || {
            Ok(child_named(process.pid(), "systemd"))
        })
        .with_context(|| process.log())?;
        Ok((leader, process))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        for hierarchy in ["unified", "systemd"] {
            remove_groups(&Path::new("/sys/fs/cgroup").join(hierarchy).join(&self.name));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Machine {
    /// Switches it off and on again: `/run` is empty then, what was written elsewhere is still there.
    /// The network namespace is not the machine's, so what it holds stays too.
    ///
    /// # Errors
    /// When the machine does not come up.
    pub fn reboot(&mut self) -> Result<()> {
        self.power_off();
        (self.leader, self.process) = self.image.start(&self.netns)?;
        self.wait_until_up()
    }

    fn power_off(&mut self) {
        let leader = self.leader.to_string();
        let _ = Command::new("kill").args(["-s", "RTMIN+4", &leader]).output();
        if self.process.wait(Duration::from_secs(10)).is_err() {
            self.process.kill();
        }
    }

    fn wait_until_up(&self) -> Result<()> {
        wait::until("running systemd", Duration::from_secs(30), || {
            let state = self.exec(&["systemctl", "is-system-running"])?.stdout;
            // `starting` for ever when a unit of ours waits for etcd; `degraded` when the
            // distribution's bird.service failed for want of a router id.
            Ok(matches!(state.trim(), "starting" | "running" | "degraded").then_some(()))
        })
        .with_context(|| self.process.log())
    }

    /// Its file system as seen from here, what it mounted itself included.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.leader))
    }

    /// Runs a program inside, as root.
    ///
    /// # Errors
    /// When it cannot be started or takes too long.
    pub fn exec(&self, args: &[&str]) -> Result<Output> {
        self.command().args(args).output()
    }

    /// A line as root types it at the console, in root's directory; standard error among standard
    /// output, as there.
    ///
    /// # Errors
    /// When it takes more than a minute.
    pub fn type_in(&self, line: &str) -> Result<Output> {
        const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let script = format!("exec 2>&1\ncd /root\n{line}");
        let command = self.command().args(["bash", "-c", &script]).limit(Duration::from_secs(60));
        command.env("PATH", PATH).env("HOME", "/root").output()
    }

    /// A program inside, ready for its name.
    fn command(&self) -> Command {
        Command::new("nsenter").args(["-t", &self.leader.to_string(), "-a", "--"])
    }

    /// As [`Self::exec`]; a failure is an error. Returns standard output.
    ///
    /// # Errors
    /// When it ends with another status than 0.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.exec(args)?;
        ensure!(output.status.success(), "{args:?}: {}: {}", output.status, output.stderr.trim());
        Ok(output.stdout)
    }

    /// A property of a unit, as `systemctl show` has it.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        let text = self.run(&["systemctl", "show", "--property", name, "--value", unit])?;
        Ok(text.trim().to_owned())
    }

    /// Waits until a unit is in a state (`active`, `activating`…).
    ///
    /// # Errors
    /// When it is not after `limit`; carries the unit's journal.
    pub fn wait_for_unit(&self, unit: &str, state: &str, limit: Duration) -> Result<()> {
        wait::until(&format!("{state} {unit}"), limit, || {
            Ok((self.property(unit, "ActiveState")? == state).then_some(()))
        })
        .with_context(|| self.journal(unit))
    }

    /// What systemd says of a unit and what is in its journal, since the last boot.
    pub fn journal(&self, unit: &str) -> String {
        let say = |args: &[&str]| self.exec(args).map(|output| output.stdout).unwrap_or_default();
        let mut text = say(&["systemctl", "--no-pager", "--full", "status", unit]);
        text += &say(&["systemctl", "--no-pager", "list-jobs"]);
        text += &say(&["journalctl", "--no-pager", "-b", "-u", unit]);
        text
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_off();
    }
}

/// Removes a cgroup and those below it; a cgroup directory holds no files that could be deleted.
fn remove_groups(group: &Path) {
    let Ok(entries) = fs::read_dir(group) else { return };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_groups(&entry.path());
    }
    let _ = fs::remove_dir(group);
}

/// The first process named `name` among the descendants of `pid`.
fn child_named(pid: u32, name: &str) -> Option<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(path).ok()?;
    children.split_whitespace().filter_map(|child| child.parse().ok()).find_map(|child: u32| {
        let comm = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
        if comm.trim() == name { Some(child) } else { child_named(child, name) }
    })
}

/// The kept root; built when it is not there. Only one process builds, the others wait.
fn root() -> Result<PathBuf> {
    let name = format!(
        "bookworm-{:x}",
        PACKAGES.bytes().fold(5381_u64, |hash, byte| { hash.wrapping_mul(33) ^ u64::from(byte) })
    );
    let root = Path::new(CACHE).join(name);
    fs::create_dir_all(CACHE)?;
    let lock = File::create(Path::new(CACHE).join("lock"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .context("cannot lock the cache")?;
    if !root.exists() {
        let young = root.with_extension("young");
        if young.exists() {
            fs::remove_dir_all(&young)?;
        }
        Command::new("debootstrap")
            .args(["--variant=minbase", &format!("--include={PACKAGES}"), "bookworm"])
            .arg(&young)
            .limit(Duration::from_secs(600))
            .run()?;
        fs::rename(&young, &root)?;
    }
    Ok(root)
}
