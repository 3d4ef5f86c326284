//! What sets have counted, read while the kernel is enlarging them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use calico_agent::desired::{AclClass, DesiredState, LocalEndpoint};
use calico_agent::felix::nftables::object::*;
use calico_agent::felix::tally::{Counts, Tally};
use calico_agent::felix::watch::{Changes, Rules};
use calico_datastore::model::{Family, InterfaceName, Name as ModelName, WorkloadEndpointId};

use crate::support::Kernel;

/// How many addresses have sent a packet.
const SENT: u32 = 12_200;
/// How many come after that. A hash with 16,384 places is enlarged when three of four are taken.
const MORE: u32 = 120;
/// How often they are read while they come.
const ROUNDS: usize = 15;

fn interface() -> InterfaceName {
    "cali1".parse().unwrap()
}

fn address(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a41_0000 + n).into()
}

/// One endpoint with that interface.
fn state() -> DesiredState {
    let class = AclClass { active: true, ..AclClass::default() };
    let endpoint = LocalEndpoint {
        interface: interface(),
        active: true,
        mac: None,
        addresses: Vec::new(),
        nat: Vec::new(),
        spoof: Vec::new(),
        class: class.id(),
    };
    let id = WorkloadEndpointId {
        node: ModelName::from("host"),
        orchestrator: ModelName::from("cni"),
        workload: ModelName::from("pod1"),
        endpoint: ModelName::from("eth0"),
    };
    DesiredState {
        classes: [(class.id(), Arc::new(class))].into_iter().collect(),
        endpoints: [(id, Arc::new(endpoint))].into_iter().collect(),
        ..DesiredState::default()
    }
}

/// A hash that the kernel enlarges is listed with some elements twice and as many not at all.
#[test]
fn what_is_told_twice_is_counted_once() {
    let kernel = Kernel::new();
    let name = Name::from("sent4");
    let spec = SetSpec { kind: SetKind::InterfaceAddress(Family::V4), counters: true };
    let set = [Change::CreateSet(name.clone(), spec)];
    let counted = |n| format!("\"cali1\" . {} counter packets 1 bytes 100", address(n));
    let counted = (0..SENT).map(counted).collect::<Vec<_>>().join(", ");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sent.nft");
    std::fs::write(&file, format!("add element inet calico sent4 {{ {counted} }}\n")).unwrap();
    let load = format!("nft -f {}", file.display());
    let more: Vec<_> = (SENT..SENT + MORE)
        .map(|n| Change::Add(name.clone(), Element::InterfaceAddress(interface(), address(n))))
        .collect();
    let state = state();
    let all = Counts { packets: u64::from(SENT), bytes: u64::from(SENT) * 100 };
    for round in 0..ROUNDS {
        kernel.table().remove().unwrap();
        kernel.write(&set).unwrap();
        kernel.netns.sh(&load);
        let (more, state) = (more.clone(), state.clone());
        let changes = Changes::default();
        let tally = Tally::new(changes.clone());
        let table = kernel.shared();
        // In the namespace, whose sockets the tally opens.
        kernel.netns.run(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            let mut turn = runtime.block_on(changes.turn());
            changes.set_rules(Rules::Nftables, &mut turn);
            drop(turn);
            let ask = || {
                let told = runtime.block_on(tally.ask(&state)).unwrap();
                told.values().next().unwrap().egress.allowed
            };
            assert_eq!(ask(), all, "round {round}");
            table.lock().unwrap().write(&more).unwrap();
            for _ in 0..3 {
                assert_eq!(ask(), all, "round {round}");
            }
        });
    }
}
