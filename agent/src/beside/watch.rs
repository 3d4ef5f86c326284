//! Notices what others do to accepted packets while the agent runs, and says it.
//!
//! The kernel tells every transaction of nf_tables; legacy tables are looked at each two seconds. What
//! is read then costs programs, so it is read once for a burst, and less often where it costs much:
//! `SETTLE` after the first event, and not before `REST` (or twenty times what the last look took)
//! after the last look. Nothing is started while nothing happens.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use calico_datastore::model::{Family, InterfaceName};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::{Bgp, Facts, Obstacle, manager, obstacles, read, save};
use crate::config::Settings;
use crate::desired::{BgpState, DesiredState};
use crate::exec::Exec;
use crate::felix::Flavour;
use crate::felix::watch::{Changes, Foreign};
use crate::reconcile::Problem;
use crate::routes::defaults;
use crate::routes::monitor::Links;
use crate::status::systemd::Heartbeat;
use crate::telemetry::event;

/// A manager that starts writes many transactions.
const SETTLE: Duration = Duration::from_millis(300);
/// Between two looks.
const REST: Duration = Duration::from_secs(2);
/// The longest between two looks, however long one takes.
const LONGEST: Duration = Duration::from_secs(60);
/// How often legacy tables are looked at.
const TICK: Duration = Duration::from_secs(2);

/// What the task looks at.
#[derive(Debug)]
pub struct Inputs {
    /// The settings, and addresses of pods.
    pub desired: watch::Receiver<Option<Arc<DesiredState>>>,
    /// The interfaces.
    pub links: watch::Receiver<Links>,
    /// Says which iptables is ours.
    pub changes: Changes,
    /// Starts the programs.
    pub exec: Exec,
    /// The watchdog's question.
    pub heartbeat: Heartbeat,
}

/// What a look depends on, besides the tables. Made at each tick, so it costs little: interfaces of
/// pods come and go, and default routes are asked for by the look itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Basis {
    flavour: Option<Flavour>,
    /// Interfaces that are not of pods, their index, and whether they hold addresses.
    links: Vec<(InterfaceName, u32, bool)>,
    settings: Arc<Settings>,
    bgp: Arc<BgpState>,
}

/// Runs until an input ends. `problems`: what drops accepted packets.
pub async fn run(mut inputs: Inputs, problems: watch::Sender<Vec<Problem>>) {
    let mut foreign = Foreign::open();
    let mut basis: Option<Basis> = None;
    // When to look; `None`: nothing has happened.
    let mut due: Option<Instant> = None;
    let mut rested = Instant::now();
    let mut tick = Instant::now();
    loop {
        let now = Instant::now();
        let mut news = foreign.hear();
        if now >= tick {
            tick = now + TICK;
            news |= foreign.poll(now);
            let current = inputs.basis(basis.as_ref());
            news |= current.is_some() && current != basis;
            basis = current.or(basis);
        }
        if news && due.is_none() {
            due = Some(rested.max(now + SETTLE));
        }
        if due.is_some_and(|due| due <= now)
            && let Some(basis) = &basis
        {
            due = None;
            let found = {
                let mut look = pin!(look(&inputs.exec, &inputs.desired, &inputs.links, basis));
                loop {
                    tokio::select! {
                        // The look is pinned outside and polled to its end.
                        found = &mut look => break found,
                        () = inputs.heartbeat.beat() => {}
                    }
                }
            };
            let took = now.elapsed();
            rested = Instant::now() + (took * 20).clamp(REST, LONGEST);
            debug!(
                ?took,
                obstacles = found.as_ref().map_or(0, Vec::len),
                "looked at rules of others"
            );
            match found {
                Ok(found) => tell(&problems, &found, basis),
                // What was known holds until more is known.
                Err(error) => {
                    warn!(%error, "cannot read the rules of others");
                    due = Some(rested);
                }
            }
        }
        let until = due.map_or(tick, |due| due.min(tick));
        tokio::select! {
            // Every arm only waits and is cancel-safe: what came stays in its socket.
            () = foreign.ready() => {}
            () = sleep_until(until) => {}
            changed = inputs.desired.changed() => if changed.is_err() { return },
            () = inputs.heartbeat.beat() => {}
        }
    }
}

impl Inputs {
    /// `None` until there is a desired state.
    fn basis(&mut self, before: Option<&Basis>) -> Option<Basis> {
        let desired = self.desired.borrow_and_update().clone()?;
        let settings = Arc::clone(&desired.settings);
        let same = |before: &&Basis| Arc::ptr_eq(&before.settings, &settings);
        let changed = self.links.has_changed().unwrap_or(true);
        let links = match before.filter(same) {
            Some(before) if !changed => before.links.clone(),
            _ => {
                let links = self.links.borrow_and_update();
                let hosts = links.iter().filter(|(name, _)| !is_pods(&settings, name.as_str()));
                let hosts = hosts
                    .map(|(name, link)| (name.clone(), link.index, !link.addresses.is_empty()));
                hosts.collect()
            }
        };
        let bgp = Arc::clone(&desired.bgp);
        Some(Basis { flavour: self.changes.in_use(), links, settings, bgp })
    }
}

fn is_pods(settings: &Settings, name: &str) -> bool {
    settings.interface_prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))
}

/// The interfaces that lead to other hosts: those of default routes, or else all that hold addresses.
pub fn uplinks(
    links: &Links,
    defaults: &BTreeSet<u32>,
    is_pods: impl Fn(&str) -> bool,
) -> Vec<String> {
    let leads = |name: &str, link: &crate::routes::monitor::Link| match defaults.is_empty() {
        false => defaults.contains(&link.index),
        true => !link.addresses.is_empty() && name != "lo" && !is_pods(name),
    };
    let found = links.iter().filter(|(name, link)| leads(name.as_str(), link));
    found.map(|(name, _)| name.as_str().to_owned()).collect()
}

/// An address of a pod, of each family: of one that is there, or in a pool.
pub fn sample(desired: Option<&DesiredState>, ipv6: bool) -> Vec<std::net::IpAddr> {
    let families = [Some(Family::V4), ipv6.then_some(Family::V6)];
    let one = |family: Family| {
        let fits = |net: &calico_datastore::model::Cidr| net.family() == family;
        let pods = desired.into_iter().flat_map(|desired| desired.endpoints.values());
        let mut pods = pods.flat_map(|pod| &pod.addresses).map(|net| net.address());
        let pools = desired.into_iter().flat_map(|desired| desired.pools.keys());
        let of_pod = pods.find(|address| Family::of(*address) == family);
        of_pod.or_else(|| pools.copied().find(fits).map(|net| net.address())).unwrap_or(
            match family {
                Family::V4 => std::net::Ipv4Addr::new(192, 168, 0, 1).into(),
                Family::V6 => std::net::Ipv6Addr::new(0xfd80, 0, 0, 0, 0, 0, 0, 1).into(),
            },
        )
    };
    families.into_iter().flatten().map(one).collect()
}

async fn look(
    exec: &Exec,
    desired: &watch::Receiver<Option<Arc<DesiredState>>>,
    links: &watch::Receiver<Links>,
    basis: &Basis,
) -> Result<Vec<Obstacle>, String> {
    let settings = &basis.settings;
    let (saves, nft, defaults) =
        tokio::join!(read::saves(exec, settings.ipv6), read::nft(exec), defaults::interfaces());
    let links = links.borrow().clone();
    let is_pods = |name: &str| is_pods(settings, name);
    let uplinks = uplinks(&links, &defaults.unwrap_or_default(), is_pods);
    let pods = sample(desired.borrow().as_deref(), settings.ipv6);
    Ok(obstacles(&Facts {
        // Without the program nobody says what is there.
        nft: nft?.unwrap_or_default(),
        iptables: saves
            .iter()
            .map(|(flavour, family, text)| {
                (*flavour, *family, save::parse(*flavour, *family, text))
            })
            .collect(),
        chosen: basis.flavour,
        allow: settings.filter_allow,
        prefixes: settings.interface_prefixes.clone(),
        uplinks,
        pods,
        bgp: Bgp::of(&basis.bgp),
    }))
}

/// Passes on what was found, and says once what is new and what is gone.
fn tell(problems: &watch::Sender<Vec<Problem>>, found: &[Obstacle], basis: &Basis) {
    // What may be dropped, for all that is understood, is for `check`.
    let now: Vec<Problem> = found
        .iter()
        .filter(|obstacle| obstacle.unless.is_none())
        .map(|obstacle| Problem {
            subject: format!("rules of others: {}", obstacle.place()),
            message: format!(
                "{} \u{2014} {}",
                obstacle.finding(),
                manager::advice(obstacle, &basis.settings.interface_prefixes)
            ),
        })
        .collect();
    problems.send_if_modified(|before| {
        for problem in now.iter().filter(|problem| !before.contains(problem)) {
            let subject = problem.subject.as_str();
            warn!(event = event::OBSTACLE, subject, "{}", problem.message);
        }
        for problem in before.iter() {
            if !now.iter().any(|other| other.subject == problem.subject) {
                let subject = problem.subject.as_str();
                info!(event = event::OBSTACLE_GONE, subject, "drops accepted packets no longer");
            }
        }
        let changed = *before != now;
        *before = now;
        changed
    });
}
