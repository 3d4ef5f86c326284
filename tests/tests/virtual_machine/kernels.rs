//! Debian's kernels: each dataplane on them, and pools whose packets were to be wrapped, with a kernel that
//! could and with one that cannot.

use anyhow::{Context, Result, ensure};
use calico_e2e::dataplane::Flavour;
use calico_e2e::virtual_machine::{Kernel, until};
use calico_e2e::world::{IPPool, Resource};

use super::{SOON, Stage, prepared};

/// Counts of what is in the kernel: chains in legacy tables, those of iptables on nf_tables, own tables.
const CHAINS: &str =
    "iptables-legacy-save | grep -c '^:cali'; iptables-nft-save 2>/dev/null | grep -c '^:cali'
    nft list tables | grep -c 'inet calico'; true";

#[test]
fn each_dataplane_works_on_each_kernel_and_a_pool_with_ipip_does_no_harm() -> Result<()> {
    let Some(prepared) = prepared() else { return Ok(()) };
    let mut stage = Stage::whole(&prepared, "vmkern")?;
    with_ipip(&stage, false)?;
    dataplanes(&stage)?;

    // A pool that wants its packets wrapped. It is said, and the rest goes on.
    let pool = IPPool::plain("192.168.0.0/16", 26, true);
    let pool = IPPool { ipip_mode: "Always".to_owned(), ..pool };
    stage.cluster.etcd.put_all(&[Resource::new("default-ipv4-ippool", pool).pair()])?;
    with_ipip(&stage, true)?;
    ensure!(stage.machine.sh("modprobe --dry-run ipip")?.status.success(), "no module ipip");
    stage.packets()?;

    stage.machine.reboot(Kernel::Cloud)?;
    ensure!(stage.machine.run("uname -r")?.contains("cloud"));
    ensure!(!stage.machine.sh("modprobe --dry-run ipip")?.status.success(), "a module ipip");
    let made = stage.machine.sh("ip link add probe type ipip remote 172.18.18.102")?;
    ensure!(!made.status.success(), "it can do IPIP");
    stage.machine.wait_for_unit("calico-agent", "active", SOON)?;
    stage.delete_pods()?;
    stage.add_pods()?;
    with_ipip(&stage, true)?;
    dataplanes(&stage)
}

/// What the agent says of a pool with IPIP, if there is one, and what it does not do.
fn with_ipip(stage: &Stage, pool: bool) -> Result<()> {
    let notice = "IPIP between hosts is not yet programmed; its routes are used as they are";
    until("what is said of the pool", SOON, || {
        let status = stage.machine.sh("calico-agent status --output json")?.stdout;
        let state = if pool { "\"degraded\"" } else { "\"ready\"" };
        let right = status.contains(notice) == pool && status.contains(state);
        ensure!(right, "{status}");
        Ok(Some(()))
    })?;
    // Said once, when it came to be.
    let journal = stage.machine.run("journalctl -o cat -u calico-agent -p warning")?;
    ensure!(journal.contains(notice) == pool, "{journal}");
    // Nobody makes the device; where it is there, no route leads through it.
    let links = stage.machine.run("ip -o link; ip route")?;
    ensure!(!links.contains("tunl0"), "{links}");
    Ok(())
}

/// Each dataplane in the place of the one before, without a restart, with the kernel's modules as they
/// are: the agent may load none.
fn dataplanes(stage: &Stage) -> Result<()> {
    let machine = &stage.machine;
    let configuration = machine.run("cat /etc/calico/agent.toml")?;
    let configuration = configuration.split("[felix]").next().unwrap_or_default().to_owned();
    let pid = machine.property("calico-agent", "MainPID")?;
    for flavour in [Flavour::Nftables, Flavour::Legacy, Flavour::Nft] {
        let name = flavour.in_words();
        let text = format!("{configuration}[felix]\ndataplane = \"{name}\"\n");
        machine.write("/etc/calico/agent.toml", &text)?;
        machine.run("systemctl reload calico-agent")?;
        until(&format!("chains of {name} alone"), SOON, || {
            let counts = machine.run(CHAINS)?;
            let counts: Vec<bool> = counts.split_whitespace().map(|count| count != "0").collect();
            let wanted =
                [Flavour::Legacy, Flavour::Nft, Flavour::Nftables].map(|one| one == flavour);
            ensure!(counts == wanted, "{counts:?}");
            Ok(Some(()))
        })
        .with_context(|| machine.journal("calico-agent"))?;
        stage.packets().context(name)?;
        stage.nothing_is_wrong().context(name)?;
    }
    ensure!(machine.property("calico-agent", "MainPID")? == pid, "the agent was restarted");
    Ok(())
}
