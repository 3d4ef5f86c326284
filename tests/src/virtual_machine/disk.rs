//! The disk of a machine: the prepared Debian with the package installed in it, and what a test adds.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Kernel, VirtualMachine, serial};
use crate::cluster::{Cluster, ETCD};
use crate::netns::Place;
use crate::package;
use crate::process::Command;
use crate::run;

/// The network of the machine is systemd-networkd's.
const NETWORK: &str = "\
[Match]
Name=eth0
[Network]
Address=@V4@/24
Address=@V6@/64
Gateway=@GATEWAY@
IPv6AcceptRA=no
LLMNR=no
";

/// The package is installed as an image builder does it: no systemd runs, so its scripts only prepare the
/// first boot. `$0` the directory, `$1` the prepared root, the rest is enabled.
const MAKE: &str = r#"
set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive SYSTEMD_OFFLINE=1
cd "$0"
root=$1
shift
mount -t overlay overlay -o "lowerdir=$root,upperdir=upper,workdir=work" merged
chroot merged dpkg -i /root/agent.deb
chroot merged systemctl -q enable "$@"
rm merged/root/agent.deb
truncate -s 3G disk
mkfs.ext4 -q -F -O ^has_journal -E lazy_itable_init=1 -d merged disk
"#;

/// A disk that is not in a machine yet: files can be put onto it.
#[derive(Debug)]
pub struct Disk {
    prepared: PathBuf,
    dir: PathBuf,
    control: PathBuf,
    console: PathBuf,
    place: Place,
}

impl Disk {
    /// A disk for the place of the cluster's first host, with the package of what is built, told where etcd
    /// is, and its units to be enabled.
    ///
    /// # Errors
    /// When a part is not built or prepared.
    pub fn new(cluster: &Cluster, prepared: &Path) -> Result<Self> {
        let prepared = fs::canonicalize(prepared);
        let prepared = prepared.context("CALICO_MACHINE: nothing is there (scripts/machine)")?;
        sweep(&prepared);
        let (run, host) = (cluster.run(), &cluster.hosts[0]);
        let label: String = run.name().chars().take_while(|c| !c.is_ascii_digit()).collect();
        let dir = prepared.join(format!("run-{}", run.name()));
        for sub in ["upper", "work", "merged"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let disk = Self {
            console: prepared.join(format!("console-{label}.log")),
            // A socket's path is short.
            control: run.dir().join("control"),
            place: host.ns().place(),
            prepared,
            dir,
        };
        fs::write(&disk.console, "")?;
        let package = package::build(&disk.dir.join("package"), "0.1.0")?;
        disk.write("/root/agent.deb", fs::read(package)?)?;
        let spec = host.spec;
        disk.write("/etc/hostname", format!("{}\n", spec.name))?;
        disk.write("/etc/hosts", format!("127.0.0.1 localhost\n{} {}\n", spec.v4, spec.name))?;
        let network = NETWORK.replace("@V4@", &spec.v4.to_string());
        let network = network.replace("@V6@", &spec.v6.to_string());
        let network = network.replace("@GATEWAY@", &ETCD.to_string());
        disk.write("/etc/systemd/network/50-eth0.network", network)?;
        let (etcd, address) = (cluster.etcd.endpoint(), spec.v4);
        // In agent.toml, where the plugin reads it too. Its pods are not rkt's: nobody is to collect them.
        let configuration = format!(
            "[datastore]\nendpoints = [\"{etcd}\"]\n[node]\nip = \"{address}/24\"\n[collector]\ninterval = 0\n"
        );
        disk.write("/etc/calico/agent.toml", configuration)?;
        disk.write("/etc/systemd/system/control.service", serial::UNIT)?;
        disk.program("/usr/local/sbin/control", serial::PROGRAM)?;
        Ok(disk)
    }

    /// Writes a file.
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

    /// Writes a program.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn program(&self, path: &str, text: &str) -> Result<()> {
        self.write(path, text)?;
        let file = self.dir.join("upper").join(path.trim_start_matches('/'));
        Ok(fs::set_permissions(file, fs::Permissions::from_mode(0o755))?)
    }

    /// Installs the package, and boots; returns when a shell answers.
    ///
    /// # Errors
    /// When the package cannot be installed, or the machine does not come up.
    pub fn boot(self, kernel: Kernel) -> Result<VirtualMachine> {
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", MAKE])
            .arg(&self.dir)
            .arg(self.prepared.join("root"))
            .args(["control", "systemd-networkd", "nftables", "calico-agent", "calico-bird"])
            .limit(Duration::from_secs(180))
            .run()?;
        VirtualMachine::start(self, kernel)
    }

    pub(super) fn prepared(&self) -> &Path {
        &self.prepared
    }

    pub(super) fn image(&self) -> PathBuf {
        self.dir.join("disk")
    }

    pub(super) fn control(&self) -> PathBuf {
        self.control.clone()
    }

    /// All that the kernel and systemd said, in all boots of this test. It stays after the test.
    pub(super) fn console_log(&self) -> PathBuf {
        self.console.clone()
    }

    /// The end of it, for who wants to know what went wrong.
    pub(super) fn console(&self) -> String {
        let log = fs::read(&self.console).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(30)..].join("\n");
        format!("{end}\n(all of it: {})", self.console.display())
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Removes what tests left whose process was killed.
fn sweep(prepared: &Path) {
    let runs = run::list();
    for entry in fs::read_dir(prepared).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let dead =
            name.strip_prefix("run-").is_some_and(|run| runs.iter().all(|(own, _)| own != run));
        if dead {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
