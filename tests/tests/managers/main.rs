//! The real Docker, firewalld and ufw of Debian beside the agent, in every order: what policy allows
//! passes and what it denies does not; where another's rules drop what it allows, `status` says so
//! within seconds and `check` too, and what they advise helps.
//!
//! Docker is large: it is here where `scripts/managers docker` has unpacked it, as `make full` does.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what is measured, and what is skipped"
)]

mod lab;

use anyhow::Result;
use calico_e2e::host::Flavour;
use calico_e2e::managers::Kind;
use calico_e2e::run;

use self::lab::{Case, First, play};

/// Plays it, or says aloud that it is not.
fn case(label: &str, kind: Kind, agent: Flavour, theirs: Flavour, first: First) -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    // ufw is always there (`scripts/setup --tests`); the others `make full` unpacks.
    if kind != Kind::Ufw && !kind.is_here() {
        eprintln!("skipped: {kind:?} beside the agent: `scripts/managers` unpacks it");
        return Ok(());
    }
    play(label, Case { kind, agent, theirs, first })
}

#[test]
fn firewalld_comes_later() -> Result<()> {
    case("mgfire", Kind::Firewalld, Flavour::Nft, Flavour::Nft, First::Agent)
}

#[test]
fn firewalld_is_there_before_an_agent_on_legacy_tables() -> Result<()> {
    case("mgfirel", Kind::Firewalld, Flavour::Legacy, Flavour::Legacy, First::Manager)
}

#[test]
fn ufw_is_there_before_and_the_agent_goes_where_it_is() -> Result<()> {
    case("mgufwa", Kind::Ufw, Flavour::Auto, Flavour::Legacy, First::Manager)
}

#[test]
fn ufw_comes_later_in_the_other_iptables() -> Result<()> {
    case("mgufwo", Kind::Ufw, Flavour::Nft, Flavour::Legacy, First::Agent)
}

#[test]
fn ufw_comes_later_beside_nftables() -> Result<()> {
    case("mgufwn", Kind::Ufw, Flavour::Nftables, Flavour::Nft, First::Agent)
}

#[test]
fn firewalld_is_there_before_nftables() -> Result<()> {
    case("mgfiren", Kind::Firewalld, Flavour::Nftables, Flavour::Nft, First::Manager)
}

#[test]
fn docker_is_there_before_in_the_other_iptables() -> Result<()> {
    case("mgdocko", Kind::Docker, Flavour::Nft, Flavour::Legacy, First::Manager)
}

/// All that is left, of each manager: every dataplane of ours, both iptables of both, in both orders.
#[test]
fn every_manager_in_every_order() -> Result<()> {
    if std::env::var_os("CALICO_MANAGERS").is_none_or(|all| all != "all") {
        eprintln!("skipped: every manager in every order: CALICO_MANAGERS=all, as `make full`");
        return Ok(());
    }
    use Flavour::{Legacy, Nft, Nftables};
    for kind in [Kind::Ufw, Kind::Firewalld, Kind::FirewalldIptables, Kind::Docker] {
        for (agent, theirs) in [
            (Nft, Nft),
            (Nft, Legacy),
            (Legacy, Nft),
            (Legacy, Legacy),
            (Nftables, Nft),
            (Nftables, Legacy),
        ] {
            for first in [First::Agent, First::Manager] {
                case("mgall", kind, agent, theirs, first)?;
            }
        }
    }
    Ok(())
}
