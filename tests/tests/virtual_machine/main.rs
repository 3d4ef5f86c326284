//! The package on a whole machine: Debian's kernel with its modules, udev, and limits of memory that
//! somebody enforces. Only where `CALICO_MACHINE` names what `scripts/machine` prepared, as `make full` does.

mod boot;
mod kernels;
mod memory;
mod network_managers;
mod pods;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::Flavour;
use calico_e2e::run;
use calico_e2e::tutorial::{self, PODS};
use calico_e2e::virtual_machine::{self, Disk, Kernel, VirtualMachine, take_the_place_of};

/// Everything is slower where processors are emulated.
const SOON: Duration = Duration::from_secs(90);

/// The two hosts of the tutorial: a virtual machine in the place of the first one, and an ordinary second.
struct Stage {
    // Dropped first.
    machine: VirtualMachine,
    cluster: Cluster,
}

impl Stage {
    /// The machine with `more` on its disk; the datastore as it is before the first pod, unless it is `away`.
    fn boot(
        prepared: &Path,
        label: &str,
        away: bool,
        more: impl FnOnce(&Disk) -> Result<()>,
    ) -> Result<Self> {
        let mut cluster = Cluster::new(label)?;
        if away {
            cluster.etcd.stop()?;
        } else {
            cluster.etcd.put_all(&tutorial::before_pods())?;
        }
        take_the_place_of(&cluster.hosts[0])?;
        let disk = Disk::new(&cluster, prepared)?;
        pods::prepare(&disk)?;
        more(&disk)?;
        let machine = disk.boot(Kernel::Debian)?;
        Ok(Self { machine, cluster })
    }

    /// Both hosts with their agents and all pods.
    fn whole(prepared: &Path, label: &str) -> Result<Self> {
        let mut stage = Self::boot(prepared, label, false, |_| Ok(()))?;
        stage.machine.wait_for_unit("calico-agent", "active", SOON)?;
        stage.second_host()?;
        stage.add_pods()?;
        stage.packets()?;
        Ok(stage)
    }

    /// An agent, BIRD and the pods of the other host.
    fn second_host(&mut self) -> Result<()> {
        let second = self.cluster.host("calico-02")?;
        second.flavour = Flavour::Auto;
        second.start_agent()?;
        second.start_bird(SOON)?;
        for pod in PODS.iter().filter(|pod| pod.host == "calico-02") {
            self.cluster.add_pod(pod)?;
        }
        Ok(())
    }

    /// Nothing is wrong with the machine, and nothing is left to be done.
    fn nothing_is_wrong(&self) -> Result<()> {
        let said = self.machine.sh_within(SOON, "calico-agent check")?;
        let failed = said.stdout.lines().any(|line| line.starts_with("  fail"));
        ensure!(said.status.success() && !failed, "{}{}", said.stdout, said.stderr);
        let said = self.machine.sh_within(SOON, "calico-agent plan")?;
        let quiet = said.stdout.is_empty() && said.status.code() == Some(0);
        ensure!(quiet, "plan: {}{}", said.stdout, said.stderr);
        Ok(())
    }
}

/// Where the machine is prepared; `None`, saying so, where it is not.
fn prepared() -> Option<std::path::PathBuf> {
    virtual_machine::prepared().filter(|_| run::can_run())
}

/// The first number in a text.
fn number(text: &str) -> Result<u64> {
    let digits: String = text.trim().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("no number: {text:?}"))
}
