//! Which iptables is chosen, and what is said when there is none.

use calico_agent::config::{IptablesBackend, Wanted};
use calico_agent::exec::Exec;
use calico_agent::felix::conntrack::Conntrack;
use calico_agent::felix::counters::Counters;
use calico_agent::felix::ipset::{Command, SetError, Sets};
use calico_agent::felix::pick::{Pick, pick};
use calico_agent::felix::{Flavour, ProbeError, probe};

use crate::netns::{Netns, sh};

fn in_new_host<T: Send + 'static>(work: impl FnOnce(&Exec) -> T + Send + 'static) -> Option<T> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root for network namespaces");
        return None;
    }
    Some(Netns::new().run(move || work(&Exec::default())))
}

fn choose(exec: &Exec, wanted: IptablesBackend) -> calico_agent::felix::Probed {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(probe(exec, wanted)).unwrap()
}

#[test]
fn auto_goes_where_the_rules_of_others_are() {
    in_new_host(|exec| {
        let empty = choose(exec, IptablesBackend::Auto).chosen;
        assert_eq!(empty.flavour, Flavour::Nft);
        assert!(empty.to_string().contains("no rules of others"), "{empty}");
        sh("iptables-legacy -A FORWARD -j ACCEPT");
        let legacy = choose(exec, IptablesBackend::Auto).chosen;
        assert_eq!(legacy.flavour, Flavour::Legacy);
        assert!(legacy.to_string().ends_with("a rule of somebody else is there"), "{legacy}");
        sh("iptables-nft -A FORWARD -j ACCEPT; iptables-nft -A INPUT -j ACCEPT");
        assert_eq!(choose(exec, IptablesBackend::Auto).chosen.flavour, Flavour::Nft);
        assert_eq!(choose(exec, IptablesBackend::Legacy).chosen.flavour, Flavour::Legacy);
        // Ours are no reason to stay when others moved, but they are to be cleaned.
        sh("iptables-legacy -N cali-old");
        let probed = choose(exec, IptablesBackend::Auto);
        assert_eq!(probed.abandoned.map(|d| d.flavour), Some(Flavour::Legacy));
    });
}

/// Runs one of the ignored tests, by its path, in a process of its own, started by `how`.
pub(crate) fn alone(how: &str, test: &str) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let me = std::env::current_exe().unwrap();
    let said = sh(&format!("unshare -n {how} {} --exact {test} --ignored 2>&1", me.display()));
    assert!(said.contains("1 passed"), "{said}");
}

fn picked(wanted: Wanted) -> Result<Pick, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let picked = runtime.block_on(pick(&Exec::default(), wanted, true));
    picked.map(|picked| picked.pick).map_err(|error| error.to_string())
}

fn refused() -> ProbeError {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(probe(&Exec::default(), IptablesBackend::Auto)).unwrap_err()
}

#[test]
fn without_the_right_to_program_the_kernel_that_is_said() {
    alone(
        "setpriv --bounding-set=-net_admin --inh-caps=-net_admin",
        "probing::child_without_net_admin",
    );
}

#[test]
#[ignore = "run by the test above"]
fn child_without_net_admin() {
    let error = refused();
    assert!(matches!(error, ProbeError::NotPermitted { .. }), "{error:?}");
    assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    for wanted in [Wanted::Nftables, Wanted::Auto] {
        let error = picked(wanted).unwrap_err();
        assert!(error.contains("CAP_NET_ADMIN"), "{error}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(Sets::new(Counters::default()).read()).unwrap_err();
    assert!(matches!(error, SetError::NotPermitted(_)), "{error:?}");
    let destroy = [Command::Destroy("cali40x".to_owned())];
    let error = runtime.block_on(Sets::new(Counters::default()).write(&destroy)).unwrap_err();
    assert!(matches!(error, SetError::NotPermitted(_)), "{error:?}");
    let addresses = [[192, 0, 2, 1].into()].into();
    let conntrack = Conntrack::new(Counters::default());
    assert!(runtime.block_on(conntrack.forget(&addresses, &addresses)).is_err());
}

#[test]
fn a_missing_tool_is_named_with_its_package() {
    alone("env PATH=/nonexistent", "probing::child_without_iptables");
}

#[test]
#[ignore = "run by the test above"]
fn child_without_iptables() {
    let error = refused();
    assert!(error.to_string().contains("install the package iptables"), "{error}");
    // What is asked for is not there; who asks for nothing gets what needs no program.
    let error = picked(Wanted::Iptables(IptablesBackend::Auto)).unwrap_err();
    assert!(error.contains("install the package iptables"), "{error}");
    let native = picked(Wanted::Auto).unwrap().to_string();
    assert_eq!(native, "nftables: iptables is not on this host");
    let native = picked(Wanted::Nftables).unwrap().to_string();
    assert_eq!(native, "nftables: the settings ask for it");
}
