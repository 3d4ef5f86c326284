//! Those who manage networks, with the files of the package: udev, systemd-networkd, NetworkManager. Each
//! beside the same without the file.

use anyhow::{Context, Result, ensure};
use calico_e2e::pod::HOST_MAC;
use calico_e2e::tutorial::PODS;
use calico_e2e::virtual_machine::until;

use super::{SOON, Stage, number, prepared};

/// The way to the other host's pods, which BIRD wrote, and one that nobody knows.
const WAYS: [&str; 2] = ["192.168.0.64/26 via 172.18.18.102", "blackhole 198.51.100.0/24"];

#[test]
fn who_manages_networks_leaves_pods_and_routes_alone() -> Result<()> {
    let Some(prepared) = prepared() else { return Ok(()) };
    let stage = Stage::whole(&prepared, "vmnet")?;
    names_and_addresses_stay(&stage)?;
    network_manager_keeps_away(&stage)?;
    networkd_keeps_routes(&stage)?;
    stage.packets()?;
    stage.nothing_is_wrong()
}

/// udev and systemd-networkd leave the pods' interfaces alone, also where a file of the administrator is for
/// every interface.
fn names_and_addresses_stay(stage: &Stage) -> Result<()> {
    let machine = &stage.machine;
    let every = "/etc/systemd/network/90-every.network";
    machine.write(every, "[Match]\nName=cali* other*\n[Network]\nLinkLocalAddressing=ipv6")?;
    machine.run("ip link add other type dummy; ip link set other up; networkctl reload")?;
    let pod = PODS[0].interface();
    until("what udev and systemd-networkd do", SOON, || {
        let said = machine.run("networkctl --no-pager list other eth0")?;
        ensure!(said.matches("configured").count() == 2, "{said}");
        let said = machine.run(&format!("networkctl --no-pager status {pod}"))?;
        for wanted in ["05-calico.link", "(unmanaged)", HOST_MAC] {
            ensure!(said.contains(wanted), "no {wanted}: {said}");
        }
        Ok(Some(()))
    })?;
    machine.run(&format!("rm {every}; ip link del other; networkctl reload")).map(drop)
}

fn networkd_keeps_routes(stage: &Stage) -> Result<()> {
    let machine = &stage.machine;
    machine.run("ip route add blackhole 198.51.100.0/24 proto static")?;
    let routes = || machine.run("ip route | sed 's/ *$//' | sort");
    until("ways", SOON, || {
        let found = routes()?;
        Ok(WAYS.iter().all(|way| found.contains(way)).then_some(()))
    })?;
    let before = routes()?;
    let configured = "/lib/systemd/systemd-networkd-wait-online -i eth0 --timeout=60";
    for what in ["networkctl reload", "systemctl restart systemd-networkd"] {
        machine.run(what)?;
        machine.run(configured)?;
        // A restart takes the host's own address away for a moment, and the kernel with it what leads to a
        // router (systemd 252, unless KeepConfiguration= says otherwise): BIRD's is back at once.
        until(&format!("ways after {what}"), SOON, || {
            let after = routes()?;
            ensure!(after == before, "{before}\n{after}");
            Ok(Some(()))
        })?;
    }
    // What docs/install.md says of the address.
    let restart = "(timeout 6 ip -o monitor address >/run/watched 2>&1 &); sleep 1
        systemctl restart systemd-networkd; sleep 6; grep -c 'Deleted.* inet 172' /run/watched";
    ensure!(number(&machine.sh(restart)?.stdout)? > 0, "a restart takes no address away");
    let kept = "/etc/systemd/network/50-eth0.network.d/keep.conf";
    machine.write(kept, "[Network]\nKeepConfiguration=static")?;
    machine.run("networkctl reload")?;
    ensure!(number(&machine.sh(restart)?.stdout)? == 0, "KeepConfiguration= keeps nothing");
    machine.run(&format!("rm {kept}; networkctl reload"))?;
    // Without the file.
    let other = "/etc/systemd/networkd.conf.d/zz.conf";
    machine.write(other, "[Network]\nManageForeignRoutes=yes")?;
    machine.run("systemctl restart systemd-networkd")?;
    machine.run(configured)?;
    ensure!(
        !routes()?.contains(WAYS[1]),
        "systemd-networkd leaves routes alone without being told"
    );
    machine.run(&format!("rm {other}; systemctl restart systemd-networkd; {configured}"))?;
    // What is the agent's and BIRD's they have brought back.
    until("the way to the other host", SOON, || Ok(routes()?.contains(WAYS[0]).then_some(())))
}

fn network_manager_keeps_away(stage: &Stage) -> Result<()> {
    let machine = &stage.machine;
    // systemd-networkd has this one.
    let own = "[keyfile]\nunmanaged-devices+=interface-name:eth0";
    machine.write("/etc/NetworkManager/conf.d/eth0.conf", own)?;
    // Veths it leaves alone by itself, so one that it would take has the name of a pod's. Of what others made
    // it takes what has an address.
    for (device, address) in [("caliother", "203.0.113.1/32"), ("other", "203.0.113.2/32")] {
        machine.run(&format!(
            "ip link add {device} type dummy; ip link set {device} up; ip addr add {address} dev {device}"
        ))?;
    }
    let is_managed = |device: &str| -> Result<bool> {
        let said = machine.run("nmcli -t -f DEVICE,STATE device")?;
        let state = said.lines().find_map(|line| line.strip_prefix(&format!("{device}:")));
        Ok(state.with_context(|| format!("no {device}: {said}"))? != "unmanaged")
    };
    let becomes = |device: &str, managed: bool| {
        let what = format!("{device}, {}managed", if managed { "" } else { "not " });
        until(&what, SOON, || Ok((is_managed(device)? == managed).then_some(())))
            .with_context(|| machine.journal("NetworkManager"))
    };
    let pod = PODS[0].interface();
    machine.run("systemctl start NetworkManager")?;
    becomes("other", true)?;
    for device in ["caliother", &pod, "eth0"] {
        becomes(device, false)?;
    }
    stage.packets()?;
    // Without the file: one of the same name in /etc hides it.
    let hidden = "/etc/NetworkManager/conf.d/calico.conf";
    machine.run(&format!(": >{hidden}; systemctl restart NetworkManager"))?;
    becomes("caliother", true)?;
    // With it again, at once, as when the package is installed.
    machine.run(&format!("rm {hidden}; systemctl reload NetworkManager"))?;
    becomes("caliother", false)?;
    becomes("other", true)?;
    machine.run("systemctl stop NetworkManager; ip link del caliother; ip link del other")?;
    Ok(())
}
