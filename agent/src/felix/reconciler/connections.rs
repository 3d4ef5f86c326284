//! Connections that came to be while our rules were not in force. They are established, so policy
//! would never be asked about them, and no address would be translated; here it is done, once. Where it
//! is wanted (`DeniedConnections`), the same is done after each change of policy.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use calico_datastore::model::Family;
use tokio::time::Instant;
use tracing::{debug, info};

use super::{Felix, Run};
use crate::desired::verdict::Judge;
use crate::desired::{DesiredState, Externals};
use crate::drift::Drift;
use crate::felix::conntrack::{Connection, ConntrackError};
use crate::felix::watch::Kind;
use crate::telemetry::{chain, event};

/// How many connections one run cuts. What is left is for the next one, which comes at once.
const MOST: usize = 16_384;
/// How many connections are judged before other tasks get their turn.
const BREATH: usize = 1000;
/// How many of the connections that were cut are named.
const NAMED: usize = 3;

/// The shortest time between two changes of policy about which all connections are asked; of a host with
/// very many it is so many times what asking took.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSES: u32 = 20;

/// Connections of which a change of policy may deny some.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    any: bool,
    /// When they are asked about again at the earliest.
    rest: Option<Instant>,
}

/// Something others changed may have let connections pass that policy denies.
fn is_hole(drift: &Drift) -> bool {
    match Kind::of(drift) {
        Kind::Tables(family) => ["filter", "raw", "mangle"].iter().any(|table| {
            let (chains, whole) = (format!("{family} {table} "), format!("{family} table {table}"));
            drift.subject.starts_with(&chains) || drift.subject == whole
        }),
        Kind::Table => !translates(drift),
        Kind::Groups | Kind::Sets => true,
        Kind::Parameters => false,
    }
}

/// What begins so is a chain of our own table.
const CHAIN: &str = "nftables chain ";

/// True for the chains of our own table that translate and decide nothing.
fn translates(drift: &Drift) -> bool {
    let chain = drift.subject.strip_prefix(CHAIN);
    chain.is_some_and(|chain| chain.starts_with("nat-") || chain == "external-to-pods")
}

/// Something others changed may have kept packets for external addresses from being translated.
fn untranslated(drift: &Drift) -> Vec<Family> {
    match Kind::of(drift) {
        Kind::Tables(family) => {
            let (chains, whole) = (format!("{family} nat "), format!("{family} table nat"));
            let nat = drift.subject.starts_with(&chains) || drift.subject == whole;
            if nat { vec![family] } else { Vec::new() }
        }
        // What is none of the other chains: the table as a whole, and sets of both families.
        Kind::Table if translates(drift) || !drift.subject.starts_with(CHAIN) => {
            Family::ALL.to_vec()
        }
        Kind::Table | Kind::Groups | Kind::Sets | Kind::Parameters => Vec::new(),
    }
}

/// A connection to an external address that does not go where that leads, or that a pod opened to
/// itself without coming as that address. It stays as it is: only its first packet is translated.
fn is_misled(one: &Connection, externals: &Externals) -> bool {
    let Some(target) = externals.given.get(&one.original.destination) else { return false };
    let (from, to) = (one.original.source, one.reply.source);
    to != target.internal || (from == to && one.reply.destination == from)
}

/// A connection that should leave a pool under another address, does so under the pod's, and gets no
/// answer: the way back leads nowhere. Which interface it leaves by is not known, so nothing is said
/// where that matters.
fn is_bare(one: &Connection, state: &DesiredState, host: &BTreeSet<IpAddr>) -> bool {
    let flow = one.flow();
    let in_pool = |address: IpAddr, wanted: fn(bool) -> bool| {
        state.pools.iter().any(|(pool, nat)| wanted(*nat) && pool.contains(address))
    };
    !one.replied
        && one.reply.destination == flow.source
        && state.settings.nat_outgoing_interface.is_none()
        && in_pool(flow.source, |nat| nat)
        && !in_pool(flow.destination, |_| true)
        && ![flow.source, flow.destination].iter().any(|address| host.contains(address))
}

impl Felix {
    /// Notes which families have connections that were not asked. A set is of either family, as far
    /// as its name tells, and so is a table of our own.
    pub(super) fn note_holes(&mut self, drift: &[Drift]) {
        for drift in drift.iter().filter(|drift| is_hole(drift)) {
            match Kind::of(drift) {
                Kind::Tables(family) => drop(self.unasked.insert(family)),
                _ => self.unasked.extend(Family::ALL),
            }
        }
        self.untranslated.extend(drift.iter().flat_map(untranslated));
    }

    /// Notes that policy may deny connections that it allowed, where these are to be cut. Returns when they
    /// are asked about, unless now.
    pub(super) fn note_change(
        &mut self,
        may_deny: bool,
        state: &DesiredState,
        now: Instant,
    ) -> Option<Instant> {
        let suspects = &mut self.suspects;
        suspects.any = state.settings.cut_denied_connections && (suspects.any || may_deny);
        // What a state from disk denies the datastore may allow.
        if !suspects.any || state.origin.is_stored() {
            return None;
        }
        if let Some(rest) = suspects.rest.filter(|rest| *rest > now) {
            return Some(rest);
        }
        suspects.any = false;
        self.unasked.extend(Family::ALL);
        None
    }

    /// Asks policy about the connections of the families that were noted, and cuts those that it
    /// denies, and those whose address should have been translated. `in_force`: packets meet our
    /// rules again; until then it would be in vain.
    pub(super) async fn ask_connections(
        &mut self,
        state: &DesiredState,
        in_force: bool,
        run: &mut Run,
    ) {
        if !in_force || (self.unasked.is_empty() && self.untranslated.is_empty()) {
            return;
        }
        let families = &self.on;
        self.unasked.retain(|family| families.contains(family) && !state.endpoints.is_empty());
        let externals = self.stage.interfaces().externals();
        let masquerades =
            |family: Family| state.pools.iter().any(|(pool, nat)| *nat && pool.family() == family);
        self.untranslated.retain(|family| {
            let any = externals.pairs(*family).next().is_some() || masquerades(*family);
            any && families.contains(family)
        });
        let doubted: BTreeSet<Family> = self.unasked.union(&self.untranslated).copied().collect();
        if doubted.is_empty() {
            return;
        }
        let host = match host_addresses() {
            Ok(host) => host,
            Err(error) => {
                run.surprise = true;
                return run.problem("connections", format!("the host's addresses: {error}"));
            }
        };
        let judge = Judge::new(state, &host);
        let begin = Instant::now();
        for family in doubted {
            match self.cut_denied(family, &judge, &host, state, run).await {
                Ok(true) => {
                    self.unasked.remove(&family);
                    self.untranslated.remove(&family);
                }
                Ok(false) => run.surprise = true,
                Err(error) => {
                    run.surprise = true;
                    let message = format!(
                        "{family} connections that policy denies may still be there: {}",
                        chain(&error)
                    );
                    run.problem("connections", message);
                }
            }
        }
        self.suspects.rest = Some(Instant::now() + PAUSE.max(begin.elapsed() * PAUSES));
    }

    /// False when some are left for the next run.
    async fn cut_denied(
        &mut self,
        family: Family,
        judge: &Judge<'_>,
        host: &BTreeSet<IpAddr>,
        state: &DesiredState,
        run: &mut Run,
    ) -> Result<bool, ConntrackError> {
        let (connections, bad) = self.conntrack.list(family).await?;
        if let Some(bad) = bad {
            run.problem("connections", chain(&bad));
        }
        let ask = self.unasked.contains(&family);
        let externals = self.stage.interfaces().externals();
        let mut misled = 0;
        let mut cut: Vec<Connection> = Vec::new();
        for some in connections.chunks(BREATH) {
            for one in some {
                let flow = one.flow();
                let mut verdicts = Vec::new();
                if ask {
                    verdicts.extend(judge.judge(&flow));
                    verdicts.extend(judge.ask_spoofers(&flow));
                }
                if is_misled(one, externals) || is_bare(one, state, host) {
                    misled += 1;
                    cut.push(*one);
                } else if let Some(verdict) = verdicts.iter().find(|verdict| !verdict.allowed) {
                    debug!(connection = ?one, ?verdict, "a connection that policy denies");
                    cut.push(*one);
                }
            }
            tokio::task::yield_now().await;
        }
        // One may be listed twice.
        cut.sort_unstable();
        cut.dedup();
        let (all, denied) = (connections.len(), cut.len());
        debug!(%family, all, denied, misled, "connections judged");
        let complete = cut.len() <= MOST;
        cut.truncate(MOST);
        let (gone, failed) = self.conntrack.cut(&cut).await;
        if !gone.is_empty() {
            self.counters.connections_cut.count(gone.len() as u64);
            let first: Vec<String> = gone.iter().take(NAMED).map(|one| one.to_string()).collect();
            let more = if gone.len() > NAMED { ", …" } else { "" };
            let (count, first) = (gone.len(), first.join(", "));
            let why = if misled == 0 {
                "that policy denies"
            } else {
                "that policy denies or whose address was not translated"
            };
            info!(
                event = event::CUT,
                %family,
                "connections cut: {count} {why} ({first}{more})"
            );
        }
        failed.map_or(Ok(complete), Err)
    }

    /// Forgets those of addresses that left. What could not be forgotten is tried again in the next run, which
    /// comes soon unless the kernel cannot do it at all.
    pub(super) async fn forget_connections(&mut self, run: &mut Run) {
        if let Err(error) = self.conntrack.forget(&self.leaving, &self.moved).await {
            run.surprise |= !matches!(error, ConntrackError::Unsupported(_));
            let message =
                format!("connections of addresses that left may still be there: {}", chain(&error));
            run.problem("conntrack", message);
        } else {
            self.leaving.clear();
            self.moved.clear();
        }
    }

    /// Says that the kernel lacks something before it is needed. `look`: it may have come since.
    pub(super) async fn check_conntrack(&mut self, look: bool, run: &mut Run) {
        if self.conntrack_works.is_none() || (look && self.conntrack_works == Some(false)) {
            let works = self.conntrack.probe().await;
            self.conntrack_works = Some(works.is_ok());
        }
        if self.conntrack_works == Some(false) {
            run.problem(
                "conntrack",
                "the kernel does not tell about connections, so they cannot be cut (module \
                 nf_conntrack_netlink)",
            );
        }
    }
}

/// The addresses of this namespace's interfaces.
fn host_addresses() -> Result<BTreeSet<IpAddr>, nix::errno::Errno> {
    let addresses = nix::ifaddrs::getifaddrs()?.filter_map(|one| one.address);
    Ok(addresses
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Target;
    use crate::drift::Change;

    #[test]
    fn what_decides_about_packets_is_a_hole_and_nothing_else() {
        for (subject, hole) in [
            ("IPv4 table filter", true),
            ("IPv6 table raw", true),
            ("IPv4 filter chain cali-pi-web", true),
            ("IPv4 filter jump FORWARD → cali-FORWARD", true),
            ("IPv6 raw jump PREROUTING → cali-PREROUTING", true),
            ("address set cali40local-endpoints", true),
            ("IPv4 mangle chain cali-fh-eth0", true),
            ("nftables chain forward-from-pod", true),
            ("nftables chain nat-postrouting", false),
            ("nftables chain external-to-pods", false),
            ("nftables set pods4", true),
            ("nftables the table", true),
            ("group of interface cali1", true),
            ("IPv4 table nat", false),
            ("IPv4 nat chain cali-nat-outgoing", false),
            ("sysctl net.ipv4.ip_forward", false),
        ] {
            let subject = subject.to_owned();
            let drift = Drift::new(subject, Change::Missing, String::new());
            assert_eq!(is_hole(&drift), hole, "{}", drift.subject);
        }
    }

    #[test]
    fn external_addresses_are_lost_by_the_table_nat_alone() {
        for (subject, families) in [
            ("IPv4 table nat", &[Family::V4][..]),
            ("IPv6 nat chain cali-fip-dnat", &[Family::V6]),
            ("IPv4 nat jump OUTPUT → cali-OUTPUT", &[Family::V4]),
            ("IPv4 table filter", &[]),
            ("address set cali40local-endpoints", &[]),
            ("nftables chain nat-prerouting", &Family::ALL),
            ("nftables the table", &Family::ALL),
            ("nftables chain to-pod", &[]),
            ("group of interface cali1", &[]),
        ] {
            let subject = subject.to_owned();
            let drift = Drift::new(subject, Change::Missing, String::new());
            assert_eq!(untranslated(&drift), families, "{}", drift.subject);
        }
    }

    #[test]
    fn who_went_by_an_external_address_was_misled() {
        let mut externals = Externals::default();
        let endpoint = calico_datastore::model::WorkloadEndpointId {
            node: "host".into(),
            orchestrator: "cni".into(),
            workload: "default/web".into(),
            endpoint: "eth0".into(),
        };
        let target = Target { endpoint, internal: "10.65.0.2".parse().unwrap() };
        externals.given.insert("203.0.113.7".parse().unwrap(), target);
        for (from, to, back_from, back_to, misled) in [
            ("198.51.100.2", "203.0.113.7", "10.65.0.2", "198.51.100.2", false),
            ("198.51.100.2", "203.0.113.7", "203.0.113.7", "198.51.100.2", true),
            ("198.51.100.2", "203.0.113.7", "10.65.0.3", "198.51.100.2", true),
            ("198.51.100.2", "203.0.113.8", "203.0.113.8", "198.51.100.2", false),
            ("198.51.100.2", "10.65.0.2", "10.65.0.2", "198.51.100.2", false),
            // To itself: as its external address, or from itself to itself.
            ("10.65.0.2", "203.0.113.7", "10.65.0.2", "203.0.113.7", false),
            ("10.65.0.2", "203.0.113.7", "10.65.0.2", "10.65.0.2", true),
        ] {
            let line = format!(
                "ipv4 2 udp 17 29 src={from} dst={to} sport=9 dport=53 src={back_from} \
                 dst={back_to} sport=53 dport=9 use=1"
            );
            let one = crate::felix::conntrack::parse(&line).unwrap();
            assert_eq!(is_misled(&one, &externals), misled, "{line}");
        }
    }

    #[test]
    fn who_left_a_pool_as_itself_and_got_no_answer_is_bare() {
        let mut state = DesiredState::default();
        for (pool, nat) in [("10.65.0.0/24", true), ("10.66.0.0/24", false)] {
            state.pools.insert(pool.parse().unwrap(), nat);
        }
        let host = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
        let bare = |from: &str, to: &str, back_to: &str, flag: &str, state: &DesiredState| {
            let line = format!(
                "ipv4 2 udp 17 29 src={from} dst={to} sport=9 dport=53 {flag} src={to} \
                 dst={back_to} sport=53 dport=9 use=1"
            );
            is_bare(&crate::felix::conntrack::parse(&line).unwrap(), state, &host)
        };
        let (pod, far) = ("10.65.0.2", "198.51.100.2");
        for (from, to, back_to, flag, expected) in [
            (pod, far, pod, "[UNREPLIED]", true),
            (pod, far, pod, "[ASSURED]", false),
            (pod, far, "192.0.2.1", "[UNREPLIED]", false),
            (pod, "10.65.0.3", pod, "[UNREPLIED]", false),
            (pod, "10.66.0.3", pod, "[UNREPLIED]", false),
            (pod, "192.0.2.1", pod, "[UNREPLIED]", false),
            ("10.66.0.2", far, "10.66.0.2", "[UNREPLIED]", false),
            ("192.0.2.1", far, "192.0.2.1", "[UNREPLIED]", false),
        ] {
            assert_eq!(bare(from, to, back_to, flag, &state), expected, "{from} {to} {flag}");
        }
        let settings = crate::config::Settings {
            nat_outgoing_interface: Some("eth0".to_owned()),
            ..crate::config::Settings::default()
        };
        state.settings = std::sync::Arc::new(settings);
        assert!(!bare(pod, far, pod, "[UNREPLIED]", &state), "by which interface?");
    }
}
