//! What the agent lives on: its datastore, and the BGP sessions of the host. Fail-safe ports protect
//! both by default; who writes a list of his own, or moves a port, may cut them off. That is obeyed,
//! and said.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use calico_datastore::model::{Family, HostEndpointId, Protocol};

use super::choose::Chosen;
use crate::config::Failsafe;
use crate::desired::DesiredState;
use crate::desired::verdict::{Flow, Judge, Passage};
use crate::reconcile::Problem;
use crate::routes::monitor::Links;

/// The port of BGP.
const BGP: u16 = 179;
/// How many peers are looked at.
const MOST_PEERS: usize = 64;
/// A port that a client may use: any does that no rule is likely to name.
const ANY_PORT: u16 = 50_000;

/// A connection that the host must be able to open or to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifeline {
    /// What it is, for people.
    pub what: String,
    /// The other side.
    pub remote: IpAddr,
    /// The port of who takes the connection.
    pub port: u16,
    /// True when the host opens it.
    pub outbound: bool,
}

/// The servers behind these URLs (`http://192.0.2.1:2379`), as far as they say an address: names are
/// not asked for.
pub fn servers(urls: &[String]) -> Vec<SocketAddr> {
    let address = |url: &String| {
        let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        rest.split('/').next()?.parse().ok()
    };
    urls.iter().filter_map(address).collect()
}

/// The lifelines of a host with these servers of the datastore.
pub fn lifelines(datastore: &[SocketAddr], state: &DesiredState) -> Vec<Lifeline> {
    let mut out: Vec<Lifeline> = datastore
        .iter()
        .map(|server| Lifeline {
            what: format!("etcd at {server}"),
            remote: server.ip(),
            port: server.port(),
            outbound: true,
        })
        .collect();
    let port = state.bgp.listen_port.unwrap_or(BGP);
    for peer in state.bgp.mesh.iter().take(MOST_PEERS) {
        let own = match Family::of(peer.address) {
            Family::V4 => state.bgp.ipv4.is_some(),
            Family::V6 => state.bgp.ipv6.is_some(),
        };
        // Either side may open a session, and one is enough: what is asked is the way in.
        if own {
            let what = format!("BGP from node {} ({})", peer.node, peer.address);
            out.push(Lifeline { what, remote: peer.address, port, outbound: false });
        }
    }
    out
}

/// The host's own address that packets to `remote` have, as routing says. Nothing is sent.
pub fn local_address(remote: IpAddr) -> Option<IpAddr> {
    let any: SocketAddr = match remote {
        IpAddr::V4(_) => ([0; 4], 0).into(),
        IpAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect((remote, BGP)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// What host endpoints cut off. `local`: the host's address towards another.
pub fn cut_off(
    state: &DesiredState,
    chosen: &Chosen,
    links: &Links,
    lifelines: &[Lifeline],
    local: impl Fn(IpAddr) -> Option<IpAddr>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    if chosen.is_empty() {
        return problems;
    }
    let settings = &state.settings;
    let own: BTreeSet<IpAddr> =
        links.values().flat_map(|link| link.addresses.iter().copied()).collect();
    let judge = Judge::new(state, &own);
    for line in lifelines {
        let list =
            if line.outbound { &settings.failsafe_outbound } else { &settings.failsafe_inbound };
        let off = Family::of(line.remote) == Family::V6 && !settings.ipv6;
        let safe = list.iter().any(|one| covers(one, line));
        if off || safe || own.contains(&line.remote) || line.remote.is_loopback() {
            continue;
        }
        let Some(address) = local(line.remote) else { continue };
        let Some((interface, _)) = links.iter().find(|(_, link)| link.addresses.contains(&address))
        else {
            continue;
        };
        let Some(id) = chosen.governing(interface, settings) else { continue };
        if !allows(&judge, id, line, address) {
            let message = format!(
                "it cuts off {}: port {} is not fail-safe, and no policy allows it",
                line.what, line.port
            );
            problems.push(Problem { subject: format!("HostEndpoint {}", id.name), message });
        }
    }
    problems
}

fn covers(one: &Failsafe, line: &Lifeline) -> bool {
    let peer = one.net.is_none_or(|net| net.contains(line.remote));
    one.protocol == Protocol::TCP && one.port == line.port && peer
}

/// Asks the endpoint about the first packet.
fn allows(judge: &Judge<'_>, id: &HostEndpointId, line: &Lifeline, address: IpAddr) -> bool {
    let (source, destination, passage) = if line.outbound {
        (address, line.remote, Passage::FromHost)
    } else {
        (line.remote, address, Passage::ToHost)
    };
    let ports = Some((ANY_PORT, line.port));
    let flow = Flow { source, destination, protocol: Some(Protocol::TCP), ports, icmp: None };
    let asked = judge.trace_passage(id, passage, &flow, &flow);
    asked.iter().all(|(_, traced)| traced.verdict.allowed)
}

#[cfg(test)]
mod tests;
