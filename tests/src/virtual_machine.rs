//! A whole machine under qemu: Debian's own kernel with its modules, systemd as PID 1, a disk that outlives
//! a reboot. It stands in the place of a cluster's host, on the same wire.
//!
//! What the machine beneath shows of itself in a container (its kernel, memory that nobody limits, network
//! parameters that are read-only, no udev) is here as on a host. `scripts/machine` prepares what is booted;
//! `CALICO_MACHINE` names where that is.

mod disk;
mod serial;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use self::disk::Disk;
use self::serial::Serial;
use crate::host::Host;
use crate::process::{Output, Process};
use crate::wait;

/// How long a boot may take until a shell answers: 10 s where this machine has nothing else to do.
const BOOT: Duration = Duration::from_secs(300);
/// How long an ordinary command may take.
const BRIEF: Duration = Duration::from_secs(30);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(250);

/// Where `scripts/machine` has put what is booted; `None`, saying so, when nobody names it.
pub fn prepared() -> Option<PathBuf> {
    let dir = std::env::var_os("CALICO_MACHINE");
    if dir.is_none() {
        #[expect(clippy::print_stderr, reason = "a skipped test says so")]
        {
            eprintln!("skipped: CALICO_MACHINE names no virtual machine (scripts/machine)");
        }
    }
    // Tests run in the folder of their crate.
    dir.map(|dir| Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(dir))
}

/// The kernels of `scripts/machine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Debian's own.
    Debian,
    /// Debian's for the machines of clouds, without the module `ipip`.
    Cloud,
}

impl Kernel {
    fn directory(self) -> &'static str {
        match self {
            Self::Debian => "amd64",
            Self::Cloud => "cloud",
        }
    }
}

/// A running machine. Dropping it ends qemu.
#[derive(Debug)]
pub struct VirtualMachine {
    serial: Mutex<Serial>,
    process: Process,
    disk: Disk,
}

/// The wire of `host` leads to the machine from now on, and its addresses are the machine's.
///
/// # Errors
/// When the kernel refuses.
pub fn take_the_place_of(host: &Host) -> Result<()> {
    host.ns().ip("addr flush dev eth0\n\
         link add machine type bridge\n\
         link set eth0 master machine\n\
         tuntap add dev tap0 mode tap\n\
         link set tap0 master machine\n\
         link set tap0 up\n\
         link set machine up\n")
}

impl VirtualMachine {
    /// Starts qemu and waits until a shell answers.
    fn start(disk: Disk, kernel: Kernel) -> Result<Self> {
        let (process, serial) = switch_on(&disk, kernel)?;
        Ok(Self { serial: Mutex::new(serial), process, disk })
    }

    /// `systemctl reboot`, with another kernel or the same: what is on disk is there afterwards, and nothing
    /// else.
    ///
    /// # Errors
    /// When it does not end by itself or does not come up.
    pub fn reboot(&mut self, kernel: Kernel) -> Result<()> {
        self.run("sync; systemctl --no-block reboot")?;
        let ended = self.process.wait(BOOT).with_context(|| self.disk.console())?;
        ensure!(ended.success(), "qemu: {ended}");
        let (process, serial) = switch_on(&self.disk, kernel)?;
        (self.process, self.serial) = (process, Mutex::new(serial));
        Ok(())
    }

    /// Runs a script of bash inside, as root, and what it says; at most 30 s.
    ///
    /// # Errors
    /// When the machine does not answer.
    pub fn sh(&self, script: &str) -> Result<Output> {
        self.sh_within(BRIEF, script)
    }

    /// The same, at most `limit`: it is ended then, with status 124.
    ///
    /// # Errors
    /// When the machine does not answer.
    pub fn sh_within(&self, limit: Duration, script: &str) -> Result<Output> {
        let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
        serial.call(script, limit).with_context(|| self.disk.console())
    }

    /// As [`Self::sh`]; a failure is an error. Returns standard output.
    ///
    /// # Errors
    /// When it ends with another status than 0.
    pub fn run(&self, script: &str) -> Result<String> {
        let said = self.sh(script)?;
        ensure!(said.status.success(), "{script}: {}\n{}{}", said.status, said.stdout, said.stderr);
        Ok(said.stdout)
    }

    /// Writes a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        self.run(&format!("mkdir -p $(dirname {path}); cat >{path} <<'END'\n{text}\nEND")).map(drop)
    }

    /// A property of a unit, as `systemctl show` has it.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        let text = self.run(&format!("systemctl show --property {name} --value {unit}"))?;
        Ok(text.trim().to_owned())
    }

    /// The same of a number, such as a time: microseconds since the boot.
    ///
    /// # Errors
    /// When it is none.
    pub fn number(&self, unit: &str, name: &str) -> Result<u64> {
        let text = self.property(unit, name)?;
        text.parse().with_context(|| format!("{name} of {unit} is {text:?}"))
    }

    /// Waits until a unit is in a state (`active`, `activating`…).
    ///
    /// # Errors
    /// When it is not after `limit`; carries its journal.
    pub fn wait_for_unit(&self, unit: &str, state: &str, limit: Duration) -> Result<()> {
        until(&format!("{state} {unit}"), limit, || {
            Ok((self.property(unit, "ActiveState")? == state).then_some(()))
        })
        .with_context(|| self.journal(unit))
    }

    /// What systemd says of a unit and what is in its journal, since the last boot.
    pub fn journal(&self, unit: &str) -> String {
        let script = format!(
            "systemctl --no-pager --full status {unit}
             systemctl --no-pager list-jobs
             journalctl --no-pager -b -u {unit} | tail -n 150"
        );
        self.sh(&script).map(|said| said.stdout).unwrap_or_default()
    }
}

/// As [`wait::until`], but each question costs the machine itself something: it is asked four times a second.
///
/// # Errors
/// As there.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    wait::until(what, limit, || {
        let said = check();
        if !matches!(said, Ok(Some(_))) {
            std::thread::sleep(PAUSE);
        }
        said
    })
}

fn switch_on(disk: &Disk, kernel: Kernel) -> Result<(Process, Serial)> {
    let booted = disk.prepared().join(kernel.directory());
    let _ = std::fs::remove_file(disk.control());
    let process = disk
        .place()
        .command(disk.prepared().join("qemu-system-x86_64"))
        .args(["-M", "q35", "-m", "1024", "-smp", "2", "-cpu", "max"])
        // Not the processor's own virtualisation: where this machine is a virtual one itself, it may hang.
        .args(["-accel", "tcg,thread=multi"])
        // A reboot ends it, so that the next boot may have another kernel.
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(booted.join("vmlinuz"))
        .arg("-initrd")
        .arg(booted.join("initrd"))
        .arg("-append")
        .arg("console=ttyS0 net.ifnames=0 systemd.mask=serial-getty@ttyS0.service")
        .arg("-drive")
        .arg(format!("file={},if=virtio,format=raw,cache=unsafe", disk.image().display()))
        .args(["-netdev", "tap,id=wire,ifname=tap0,script=no,downscript=no"])
        .args(["-device", "virtio-net-pci,netdev=wire,mac=52:54:00:12:34:56,romfile="])
        .arg("-chardev")
        .arg(format!("file,id=console,append=on,path={}", disk.console_log().display()))
        .args(["-serial", "chardev:console", "-chardev"])
        .arg(format!("socket,id=control,server=on,wait=off,path={}", disk.control().display()))
        .args(["-serial", "chardev:control"])
        .start(&disk.console_log())?;
    let serial = Serial::connect(&disk.control(), BOOT).with_context(|| disk.console())?;
    Ok((process, serial))
}
