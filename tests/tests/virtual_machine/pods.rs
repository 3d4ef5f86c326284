//! Pods in the machine, and what passes between them and those of the other host.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::pod::{GATEWAY_V4, HOST_MAC};
use calico_e2e::probe::{Answer, Service, ask_from};
use calico_e2e::tutorial::{self, HTTP, PODS, PodSpec};
use calico_e2e::virtual_machine::{Disk, until};

use super::{SOON, Stage};

/// How long silence is listened to before it is believed.
const SILENCE: Duration = Duration::from_secs(2);

/// `pod add|delete|wire NAME UUID NETWORK ADDRESS MAC INTERFACE`: with the plugin, or by hand as the plugin
/// does it, for a host whose datastore is away.
const PROGRAM: &str = r#"#!/bin/bash
set -e
what=$1 name=$2 uuid=$3 network=$4 address=$5 mac=$6 interface=$7
call() {
    CNI_COMMAND=$1 CNI_CONTAINERID=$uuid CNI_NETNS=/run/netns/$name CNI_IFNAME=eth0 \
        CNI_ARGS="IP=$address;MAC=$mac" CNI_PATH=/usr/lib/rkt/plugins/net CNI_VERSION=0.1.0 \
        /usr/lib/rkt/plugins/net/calico <"/etc/rkt/net.d/10-calico-$network.conf"
}
if [ "$what" = delete ]; then
    [ -e "/run/netns/$name" ] || ip netns add "$name"
    call DEL
    systemctl stop "serve-$name" 2>/dev/null || :
    ip netns del "$name"
    exit 0
fi
ip netns add "$name"
ip -n "$name" link set lo up
if [ "$what" = add ]; then
    call ADD
else
    ip link add "$interface" address @HOST@ type veth peer name eth0 address "$mac" netns "$name"
    ip link set "$interface" up
    ip -n "$name" link set eth0 up
    ip -n "$name" addr add "$address/32" dev eth0
    ip -n "$name" route add @GATEWAY@ dev eth0 scope link
    ip -n "$name" route add default via @GATEWAY@ dev eth0
    ip -n "$name" neigh replace @GATEWAY@ lladdr @HOST@ dev eth0 nud permanent
fi
systemd-run -q --unit="serve-$name" ip netns exec "$name" socat TCP-LISTEN:@PORT@,fork,reuseaddr 'SYSTEM:echo reached'
"#;

/// A pod of the machine beside those of the tutorial: one that its neighbour may reach.
const NEIGHBOUR: PodSpec = PodSpec {
    name: "frontend-3",
    container_id: "71f0c5de-3c55-4e0e-8a34-90a1f5a7c305",
    v4: Ipv4Addr::new(192, 168, 0, 2),
    mac: "ca:fe:1d:52:bb:e5",
    ..PODS[0]
};

/// The machine's.
const OWN: [PodSpec; 3] = [PODS[0], PODS[1], NEIGHBOUR];

/// The networks, as in the tutorial, and the program that makes pods.
pub(super) fn prepare(disk: &Disk) -> Result<()> {
    for network in ["frontend", "backend"] {
        let conf = format!(
            r#"{{"name": "{network}", "cniVersion": "0.1.0", "type": "calico", "labels": {{"role": "{network}"}},
                "policy_setup_timeout_seconds": 60, "ipam": {{"type": "calico-ipam"}}}}"#
        );
        disk.write(&format!("/etc/rkt/net.d/10-calico-{network}.conf"), conf)?;
    }
    let program = PROGRAM.replace("@HOST@", HOST_MAC).replace("@GATEWAY@", GATEWAY_V4);
    disk.program("/usr/local/sbin/pod", &program.replace("@PORT@", &HTTP.to_string()))
}

impl Stage {
    /// Pods by the plugin, which returns when their policy is in force.
    pub(super) fn add_pods(&self) -> Result<()> {
        self.pods("add")
    }

    /// The plugin takes them back.
    pub(super) fn delete_pods(&self) -> Result<()> {
        self.pods("delete")
    }

    /// Pods that the datastore knows from before, by hand.
    pub(super) fn wire_pods(&self) -> Result<()> {
        self.pods("wire")
    }

    fn pods(&self, what: &str) -> Result<()> {
        for pod in OWN {
            let PodSpec { name, container_id, network, v4, mac, .. } = pod;
            let interface = pod.interface();
            let call = format!("pod {what} {name} {container_id} {network} {v4} {mac} {interface}");
            self.machine.run(&call).with_context(|| self.machine.journal("calico-agent"))?;
        }
        Ok(())
    }

    /// What the networks of the tutorial allow, soon, and beside each what they deny: within the machine,
    /// out of it, and into it.
    pub(super) fn packets(&self) -> Result<()> {
        self.packets_allowed_and_denied().with_context(|| self.machine.journal("calico-agent"))
    }

    fn packets_allowed_and_denied(&self) -> Result<()> {
        for to in [&NEIGHBOUR, spec("frontend-2")?] {
            self.leaves("frontend-1", to, true)?;
            self.leaves("backend-1", to, false)?;
        }
        self.comes("frontend-2", &PODS[0], true)?;
        self.comes("backend-2", &PODS[0], false)
    }

    /// A connection from a pod of the machine.
    fn leaves(&self, from: &str, to: &PodSpec, allowed: bool) -> Result<()> {
        let (seconds, address) = (SILENCE.as_secs(), to.v4);
        let ask = format!(
            "ip netns exec {from} timeout {seconds} bash -c 'cat </dev/tcp/{address}/{HTTP}'"
        );
        let what = format!("{from} reaches {}", to.name);
        if allowed {
            return until(&what, SOON, || {
                let said = self.machine.sh(&ask)?;
                Ok((said.status.success() && !said.stdout.is_empty()).then_some(()))
            });
        }
        // A refusal or a missing route is no drop.
        let said = self.machine.sh(&ask)?;
        ensure!(said.status.code() == Some(124), "{what}, or is told so: {said:?}");
        Ok(())
    }

    /// A connection from a pod of the other host.
    fn comes(&self, from: &str, to: &PodSpec, allowed: bool) -> Result<()> {
        let place = self.cluster.netns(from)?.name().to_owned();
        let ask = || ask_from(&place, to.v4.into(), Service::Tcp(HTTP), SILENCE);
        let what = format!("{from} reaches {}", to.name);
        if allowed {
            return until(&what, SOON, || Ok(ask()?.reached().then_some(())));
        }
        let said = ask()?;
        ensure!(said == Answer::Silence, "{what}, or is told so: {said:?}");
        Ok(())
    }
}

fn spec(name: &str) -> Result<&'static PodSpec> {
    tutorial::pod(name).with_context(|| format!("no pod {name}"))
}
