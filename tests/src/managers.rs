//! Docker, firewalld and ufw of Debian, each in a host's network namespace: the real programs, with
//! directories of their own, and nothing of them left afterwards.
//!
//! `scripts/managers` has unpacked them. They are laid over `/usr` and `/etc` in a mount namespace, so
//! that each finds its files where it looks for them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::host::{Flavour, Host};
use crate::process::{Command, Output, Process};
use crate::wait;

/// A manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Docker's daemon and containerd.
    Docker,
    /// firewalld with tables of nf_tables, as Debian has it.
    Firewalld,
    /// firewalld with `FirewallBackend=iptables`.
    FirewalldIptables,
    /// ufw.
    Ufw,
}

impl Kind {
    fn package(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Firewalld | Self::FirewalldIptables => "firewalld",
            Self::Ufw => "ufw",
        }
    }

    fn unpacked(self) -> PathBuf {
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        project.join("target/managers").join(self.package())
    }

    /// True when it is unpacked here.
    pub fn is_here(self) -> bool {
        self.unpacked().join("ready").exists()
    }
}

/// Lays the tree `$TREE` over the system's, with a `/run` and a `/var` of its own. What the host under
/// test keeps in `$HOST` stays in sight: the lock of the legacy tables is one for all of a host.
const BOX: &str = r#"
mount --make-rprivate /
mkdir -p "$HOST/box"
mount -t tmpfs none "$HOST/box"
for dir in usr etc var; do
  mkdir -p "$HOST/box/$dir" "$HOST/box/new-$dir" "$HOST/box/work-$dir"
  lower="/$dir"
  [ ! -d "$TREE/$dir" ] || lower="$TREE/$dir:$lower"
  mount -t overlay none -o "lowerdir=$lower,upperdir=$HOST/box/new-$dir,workdir=$HOST/box/work-$dir" "$HOST/box/$dir"
done
mkdir "$HOST/box/host"
mount --bind "$HOST" "$HOST/box/host"
cd "$HOST/box"
for dir in usr etc var; do mount --move "$dir" "/$dir"; done
mount -t tmpfs none /run
mkdir -p "$HOST" /run/dbus
mount --move host "$HOST"
cd /
mount -t proc proc /proc
# firewalld gives its tools no environment: they take the lock where it is on a real host.
touch "$LOCK" /run/xtables.lock
mount --bind "$LOCK" /run/xtables.lock
for program in iptables ip6tables; do
  for what in "" -save -restore; do
    ln -sf "/usr/sbin/$program-$THEIRS$what" "/etc/alternatives/$program$what"
  done
done
# Nobody is asked whether root may: there is no service that it could be.
cat > /run/bus.conf <<END
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen>
<auth>EXTERNAL</auth><policy context="default"><allow user="*"/><allow own="*"/>
<allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>
END
touch /run/made
exec sleep infinity
"#;

const DOCKER: &str = r#"
containerd --root /run/containerd-root --state /run/containerd --address /run/containerd.sock \
  --log-level warn > /run/containerd.log 2>&1 < /dev/null &
for i in $(seq 100); do [ -S /run/containerd.sock ] && break; sleep 0.05; done
dockerd --containerd /run/containerd.sock --data-root /run/docker-data --storage-driver vfs \
  --pidfile /run/dockerd.pid > /run/dockerd.log 2>&1 < /dev/null &
for i in $(seq 200); do docker version > /dev/null 2>&1 && exit 0; sleep 0.05; done
cat /run/containerd.log /run/dockerd.log >&2
exit 1
"#;

const FIREWALLD: &str = r#"
sed -i "s/^FirewallBackend=.*/FirewallBackend=$BACKEND/" /etc/firewalld/firewalld.conf
[ -S /run/dbus/system_bus_socket ] ||
  dbus-daemon --config-file=/run/bus.conf --fork --nopidfile > /dev/null 2>&1 < /dev/null
firewalld --nopid > /run/firewalld.log 2>&1 < /dev/null
for i in $(seq 100); do firewall-cmd --state > /dev/null 2>&1 && exit 0; sleep 0.05; done
cat /run/firewalld.log >&2
exit 1
"#;

const NO_DOCKER: &str = r#"
kill "$(cat /run/dockerd.pid)"
for i in $(seq 200); do [ -e /run/dockerd.pid ] || exit 0; sleep 0.05; done
exit 1
"#;

/// A manager of a host.
#[derive(Debug)]
pub struct Manager {
    kind: Kind,
    netns: PathBuf,
    lock: PathBuf,
    /// Everything in it ends with this.
    place: Process,
}

impl Manager {
    /// Makes the place for it; it does not run yet. `theirs`: what `iptables` is to it.
    ///
    /// # Errors
    /// When it is not unpacked, or the kernel refuses.
    pub fn install(host: &Host, kind: Kind, theirs: Flavour) -> Result<Self> {
        let name = kind.package();
        ensure!(kind.is_here(), "{name} is not unpacked: run `scripts/managers {name}`");
        let unpacked = std::fs::canonicalize(kind.unpacked())?;
        let log = host.dir().join(format!("{name}.log"));
        let command = host.ns().command("unshare");
        let command =
            command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", BOX]);
        let command = command.env("TREE", unpacked).env("HOST", host.dir());
        let command = command.env("LOCK", host.xtables_lock());
        let theirs = if theirs == Flavour::Legacy { "legacy" } else { "nft" };
        let place = command.env("THEIRS", theirs).start(&log)?;
        let manager = Self { kind, netns: host.ns().path(), lock: host.xtables_lock(), place };
        wait::until(&format!("a place for {name}"), Duration::from_secs(5), || {
            Ok(manager.sh("test -e /run/made").and_then(|command| command.run()).ok())
        })
        .with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
        Ok(manager)
    }

    /// A shell where it is.
    ///
    /// # Errors
    /// When its place is gone.
    pub fn sh(&self, script: &str) -> Result<Command> {
        let pid = self.place.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let inside = children.split_whitespace().next().context("nothing runs in its place")?;
        let net = format!("--net={}", self.netns.display());
        let command = Command::new("nsenter").args(["--mount", "--pid", "--target", inside, &net]);
        let backend = if self.kind == Kind::FirewalldIptables { "iptables" } else { "nftables" };
        let command = command.env("XTABLES_LOCKFILE", &self.lock).env("BACKEND", backend);
        Ok(command.args(["sh", "-ec", script]).limit(Duration::from_secs(60)))
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&self) -> Result<()> {
        let script = match self.kind {
            Kind::Docker => DOCKER,
            Kind::Firewalld | Kind::FirewalldIptables => FIREWALLD,
            Kind::Ufw => "ufw --force enable",
        };
        self.sh(script)?.run().map(drop)
    }

    /// What its administrator does after a change.
    ///
    /// # Errors
    /// When it fails.
    pub fn reload(&self) -> Result<()> {
        match self.kind {
            Kind::Docker => {
                self.sh(NO_DOCKER)?.run()?;
                self.start()
            }
            Kind::Firewalld | Kind::FirewalldIptables => {
                self.sh("firewall-cmd --reload")?.run().map(drop)
            }
            Kind::Ufw => self.sh("ufw reload")?.run().map(drop),
        }
    }

    /// Does what somebody was advised to do.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn obey(&self, commands: &str) -> Result<Output> {
        self.sh(commands)?.output()
    }
}
