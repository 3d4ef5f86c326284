//! No packet wrong across a restart: agents are killed with SIGKILL at any moment of their life and
//! started again, while flows run that are allowed and flows that are denied, and while everything
//! changes that leaves their verdicts as they are.
//!
//! `CALICO_KILLS` says how many agents are killed in each flavour, `CALICO_SEED` repeats a run.

#![allow(clippy::print_stdout, reason = "a test that counts says what it counted")]

#[path = "../random_policies/chance.rs"]
#[allow(dead_code, reason = "another test uses all of it")]
mod chance;
mod churn;
mod orphan;
mod scene;
mod witness;

use std::fmt;
use std::fs::File;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::{CONVERGENCE, Cluster};
use calico_e2e::flow::{Flow, Flows, Sockets, Tally};
use calico_e2e::host::Flavour;
use calico_e2e::matrix::Family;
use calico_e2e::tutorial::{self, PODS};
use calico_e2e::{run, wait};
use nix::fcntl::{Flock, FlockArg};

use chance::Chance;
use witness::Witness;

/// How many agents are killed in each flavour unless `CALICO_KILLS` says otherwise.
const KILLS: u64 = 40;
/// How long flows run before the first kill: there must be something to lose.
const WARM: Duration = Duration::from_millis(500);

/// What the agent is doing when it is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Starting, reading.
    Start,
    /// Carrying out a change that was just written.
    Apply,
    /// The same, while somebody else holds the lock of the legacy tables: what the agent started
    /// outlives it, and writes when the next one runs.
    Locked,
    /// Waiting.
    Idle,
    /// Anything, with a change somewhere in between.
    Any,
}

const MOMENTS: [Moment; 6] =
    [Moment::Start, Moment::Start, Moment::Apply, Moment::Locked, Moment::Idle, Moment::Any];

/// One kill.
#[derive(Clone, Copy, Debug)]
struct Kill {
    at: Duration,
    host: usize,
    moment: Moment,
    after: Duration,
    /// How many programs it had running.
    programs: usize,
    /// Something changed while the agent was down.
    missed: bool,
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, host, moment, after, programs, missed } = self;
        let at = at.as_secs_f64();
        write!(f, "{at:.3} s calico-0{} {moment:?} +{after:?}", host + 1)?;
        write!(f, ", {programs} programs, missed a change: {missed}")
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Everything in place for the flows.
fn prepared(label: &str, flavour: Flavour) -> Result<Cluster> {
    let mut cluster = prepared_and_served(label, flavour)?;
    scene::prepare(&mut cluster)?;
    Ok(cluster)
}

/// The policies in force, and everybody answers.
fn prepared_and_served(label: &str, flavour: Flavour) -> Result<Cluster> {
    let mut cluster = Cluster::new(label)?;
    cluster.etcd.put_all(&tutorial::base())?;
    cluster.start_agents(flavour)?;
    for pod in &PODS {
        cluster.place_pod(pod)?;
    }
    cluster.wait_until_programmed()?;
    cluster.put_and_wait(&scene::policies())?;
    cluster.wait_until_ready()?;
    cluster.wait_for_routes()?;
    Ok(cluster)
}

/// One at a time: the packets of two such worlds are more than two processors send.
static ALONE: Mutex<()> = Mutex::new(());

fn no_packet_is_wrong_while_agents_are_killed(label: &str, flavour: Flavour) -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = number("CALICO_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    let kills = number("CALICO_KILLS").unwrap_or(KILLS);
    println!("{flavour:?}: CALICO_SEED={seed} CALICO_KILLS={kills}");
    let mut chance = Chance::new(seed);

    let mut cluster = prepared(label, flavour)?;
    let dir = cluster.run().dir().to_owned();
    let witnesses = cluster.hosts.iter().map(|host| Witness::start(host, &dir));
    let mut witnesses = witnesses.collect::<Result<Vec<_>>>()?;

    let flows = Flows::start(&scene::flows(), &cluster.sites())?;
    let begin = flows.epoch();
    std::thread::sleep(WARM);
    let mut story = Vec::new();
    let mut complaints = Vec::new();
    for nth in 0..kills {
        let host = chance.below(cluster.hosts.len());
        story.push(kill(&mut cluster, host, begin, &mut chance)?);
        // Half-way in any case: counters are compared with those of an earlier time.
        if chance.percent(15) || nth == kills / 2 {
            calm(&mut cluster)?;
            for (witness, host) in witnesses.iter_mut().zip(&cluster.hosts) {
                complaints.extend(witness.compare_counters(host)?);
            }
        }
    }
    calm(&mut cluster)?;
    std::thread::sleep(WARM);
    let took = begin.elapsed();
    let tallies = flows.finish()?;
    for (witness, host) in witnesses.iter_mut().zip(&cluster.hosts) {
        complaints.extend(witness.compare_counters(host)?);
        complaints.extend(witness.complaints(host)?);
    }
    let compared: usize = witnesses.iter().map(|witness| witness.compared).sum();

    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    for tally in &tallies {
        println!("{tally}");
    }
    println!(
        "{flavour:?}: {} kills in {took:.1?} ({} while programs ran), {} flows, {} packets sent, {} arrived, {} wrong; \
         {compared} counters compared; CALICO_SEED={seed}",
        story.len(),
        story.iter().filter(|kill| kill.programs > 0).count(),
        tallies.len(),
        sum(|tally| tally.sent),
        sum(|tally| tally.arrived),
        sum(Tally::wrong),
    );
    let told = || story.iter().map(Kill::to_string).collect::<Vec<_>>().join("\n");
    ensure!(tallies.iter().all(|tally| tally.sent > 20), "a flow hardly sent");
    ensure!(sum(Tally::wrong) == 0, "packets went wrong; kills:\n{}\n{}", told(), cluster.logs());
    ensure!(complaints.is_empty(), "{}\nkills:\n{}", complaints.join("\n"), told());
    ensure!(compared > 10, "hardly a counter was compared: {compared}");
    as_fresh(&mut cluster)
}

/// Kills the agent of a host at one moment of its life, and starts it again.
fn kill(cluster: &mut Cluster, host: usize, begin: Instant, chance: &mut Chance) -> Result<Kill> {
    let time = |chance: &mut Chance, limit: u64| {
        Duration::from_micros(chance.next() % (limit * 1_000).max(1))
    };
    let moment = *chance.one(&MOMENTS);
    let after = match moment {
        Moment::Start => {
            cluster.hosts[host].kill_agent();
            cluster.hosts[host].start_agent()?;
            time(chance, 250)
        }
        Moment::Apply => {
            ready(cluster, host)?;
            churn::change(&cluster.etcd, chance)?;
            // Half of the times blindly, half of the times when a program has just been started. With a
            // table of its own there is none, and all is over sooner.
            let end = Instant::now() + Duration::from_millis(300);
            if chance.percent(50) {
                time(chance, 40)
            } else if cluster.hosts[host].flavour.is_nftables() {
                time(chance, 8)
            } else {
                while cluster.hosts[host].agent()?.children() == 0 && Instant::now() < end {
                    std::hint::spin_loop();
                }
                time(chance, 8)
            }
        }
        Moment::Locked => {
            ready(cluster, host)?;
            let path = cluster.hosts[host].xtables_lock();
            let file = File::options().create(true).append(true).open(path)?;
            let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
            churn::change(&cluster.etcd, chance)?;
            let held = time(chance, 300);
            std::thread::spawn(move || {
                std::thread::sleep(held);
                drop(lock);
            });
            time(chance, 100)
        }
        Moment::Idle => {
            ready(cluster, host)?;
            time(chance, 100)
        }
        Moment::Any => {
            let before = time(chance, 300);
            std::thread::sleep(before);
            churn::change(&cluster.etcd, chance)?;
            time(chance, 300)
        }
    };
    std::thread::sleep(after);
    let dead = cluster.hosts[host].agent()?.ended();
    ensure!(dead.is_none(), "an agent ended by itself with {dead:?}\n{}", cluster.logs());
    let at = begin.elapsed();
    let programs = cluster.hosts[host].agent()?.children();
    cluster.hosts[host].kill_agent();
    let missed = chance.percent(50);
    if missed {
        churn::change(&cluster.etcd, chance)?;
    }
    if chance.percent(50) {
        std::thread::sleep(time(chance, 50));
    }
    cluster.hosts[host].start_agent()?;
    Ok(Kill { at, host, moment, after, programs, missed })
}

/// Waits until the agent of a host has everything in force.
fn ready(cluster: &Cluster, host: usize) -> Result<()> {
    wait::until("agent that is ready", CONVERGENCE, || {
        Ok(cluster.hosts[host].status()?.is_ready().then_some(()))
    })
    .with_context(|| cluster.logs())
}

/// Waits until nobody writes any more.
fn calm(cluster: &mut Cluster) -> Result<()> {
    cluster.wait_until_ready()?;
    wait::until("writes that end", CONVERGENCE, || {
        let writes = |cluster: &Cluster| -> Result<Vec<_>> {
            cluster.hosts.iter().map(|host| host.status()?.writes()).collect()
        };
        let before = writes(cluster)?;
        std::thread::sleep(Duration::from_millis(100));
        Ok((writes(cluster)? == before).then_some(()))
    })
}

/// The kernel after all the kills equals the kernel of an agent that begins with nothing.
fn as_fresh(cluster: &mut Cluster) -> Result<()> {
    calm(cluster)?;
    let survived = cluster.hosts.iter().map(witness::everything).collect::<Result<Vec<_>>>()?;
    for host in &mut cluster.hosts {
        host.stop_agent()?;
        witness::wipe(host)?;
        host.start_agent()?;
    }
    calm(cluster)?;
    for (host, survived) in cluster.hosts.iter().zip(survived) {
        wait::until("the kernel of a fresh agent", CONVERGENCE, || {
            let fresh = witness::everything(host)?;
            let difference: Vec<_> = survived.symmetric_difference(&fresh).collect();
            ensure!(difference.is_empty(), "{}: {difference:#?}", host.spec.name);
            Ok(Some(()))
        })?;
    }
    Ok(())
}

/// The same flows, and somebody who opens and shuts: what the other tests do not find must be
/// something that they would find.
#[test]
fn a_packet_that_slips_through_and_one_that_is_lost_are_counted() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let mut cluster = prepared("kilsee", Flavour::Nft)?;
    // An agent would put it right before it is seen.
    for host in &mut cluster.hosts {
        host.stop_agent()?;
    }
    let flows = Flows::start(&scene::flows(), &cluster.sites())?;
    std::thread::sleep(WARM);
    for (chain, verdict) in [("FORWARD", "ACCEPT"), ("FORWARD", "DROP"), ("INPUT", "DROP")] {
        for family in ["iptables-nft", "ip6tables-nft"] {
            for verb in ["-I", "-D"] {
                let rule = ["-w", verb, chain, "-i", "cali+", "-j", verdict];
                cluster.host("calico-01")?.ns().command(family).args(rule).run()?;
                std::thread::sleep(Duration::from_millis(60));
            }
        }
    }
    let tallies = flows.finish()?;
    for (from, to, family, wrong) in [
        ("frontend-1", "backend-1", Family::V4, true),
        ("frontend-1", "backend-1", Family::V6, true),
        ("frontend-1", "calico-01", Family::V4, true),
        ("frontend-1", "frontend-2", Family::V4, true),
        ("backend-2", "calico-02", Family::V4, false),
        ("calico-01", "backend-2", Family::V4, false),
    ] {
        let mut all = tallies.iter().filter(|tally| {
            let Flow { from: f, to: t, family: v, spoofed, .. } = &tally.stream.flow;
            (f, t, *v, spoofed) == (&from.to_owned(), &to.to_owned(), family, &None)
        });
        let found = all.clone().map(Tally::to_string).collect::<Vec<_>>().join("\n");
        // A connection that is established sends again what was lost.
        let new = |tally: &&Tally| tally.stream.sockets == Sockets::New;
        let seen = if wrong {
            all.filter(new).all(|t| t.wrong() > 0)
        } else {
            all.all(|t| t.wrong() == 0)
        };
        ensure!(!found.is_empty() && seen, "wrong: {wrong}, but\n{found}");
    }
    Ok(())
}

calico_e2e::on_each_dataplane! {
    smoke: no_packet_is_wrong_while_agents_are_killed, "kil";
}
