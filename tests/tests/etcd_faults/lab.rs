//! A cluster with traffic, a policy that is switched to and fro, and what each fault has cost.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::etcd_cluster::Members;
use calico_e2e::host::{Flavour, Host};
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from};
use calico_e2e::tutorial::DNS;
use calico_e2e::wait;
use calico_e2e::world::{Entity, GlobalNetworkPolicy, NetworkPolicy, Pair, Resource, Rule, Tier};

use crate::picture::{Picture, wipe};
use crate::traffic::{Count, Traffic};

/// How soon after a fault everything must be as it should be again.
pub(crate) const RECOVERY: Duration = Duration::from_secs(10);

/// Longer than it may take to find another member while one is silent: 5.5 s until it is asked for
/// a sign of life, 2 s for its answer, and what a busy machine needs.
const ANOTHER_MEMBER: Duration = Duration::from_secs(15);

/// After this a connection that is dead in one direction was given up.
const NOTICED: Duration = Duration::from_secs(9);

/// A cluster whose etcd is about to suffer.
pub(crate) struct Lab {
    pub(crate) cluster: Cluster,
    traffic: Traffic,
    counted: Count,
    open: bool,
    rows: Vec<Row>,
}

/// What a fault has cost.
struct Row {
    fault: String,
    during: Option<Duration>,
    after: Duration,
    count: Count,
}

/// What the rest of the cluster can do while a fault lasts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meanwhile {
    /// The store is written and the hosts find another member.
    Goes,
    /// The same, and so long that what is only half dead must have been noticed.
    GoesOn,
    /// The store is written and the hosts cannot see it.
    Unseen,
    /// Nobody can write.
    Stands,
}

/// The policy that is switched: what `backend-2` takes from `frontend-2`. No two are equal: whether a
/// write whose answer was lost has been done is told by its value.
pub(crate) fn switch(open: bool) -> Pair {
    static NUMBER: AtomicU16 = AtomicU16::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let action = if open { "Allow" } else { "Deny" };
    let nobody =
        Entity { nets: vec![format!("203.0.113.{}/32", number % 256)], ..Entity::default() };
    let spec = NetworkPolicy {
        tier: Some("default".to_owned()),
        order: Some(10),
        ingress: vec![
            Rule::new(action).from(Entity::selector("role == 'frontend'")),
            Rule::new("Deny").from(nobody),
        ],
        selector: "role == 'backend'".to_owned() + BACKEND_2,
        types: vec!["Ingress".to_owned()],
        ..NetworkPolicy::default()
    };
    Resource::new("default.switch", GlobalNetworkPolicy(spec)).pair()
}

/// `backend-2` alone has this.
const BACKEND_2: &str = " && second == 'yes'";

impl Lab {
    /// The tutorial's world on an etcd of three members, with the policy, and traffic.
    pub(crate) fn new(label: &str, flavour: Flavour) -> Result<Self> {
        let mut cluster = Cluster::with_members(label)?;
        cluster.follow_the_tutorial(flavour)?;
        cluster.etcd.put_all(&extra())?;
        cluster.put_and_wait(&[switch(false)])?;
        cluster.wait_until_ready()?;
        // Until BGP has told the routes.
        let (from, to) = (cluster.pod("frontend-1")?, cluster.pod("frontend-2")?.spec.v4);
        let from = from.ns().name().to_owned();
        wait::until_true("route to the other host", Duration::from_secs(30), || {
            ask_from(&from, to.into(), Service::Udp(DNS), PATIENT).is_ok_and(|a| a.reached())
        })?;
        let traffic = Traffic::start(&cluster)?;
        let counted = Count::default();
        Ok(Self { cluster, traffic, counted, open: false, rows: Vec::new() })
    }

    /// The members.
    pub(crate) fn members(&mut self) -> Result<&mut Members> {
        self.cluster.members.as_mut().context("no members")
    }

    /// The member that the second host talks to: where the change is seen.
    pub(crate) fn serving(&self) -> Result<usize> {
        let members = self.cluster.members.as_ref().context("no members")?;
        members.serving(self.cluster.hosts[1].ns())
    }

    /// Lets something happen, waits, lets it be over, and sees that all is well.
    pub(crate) fn fault(
        &mut self,
        name: &str,
        meanwhile: Meanwhile,
        begin: impl FnOnce(&mut Self) -> Result<()>,
        end: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let mut begun = Instant::now();
        begin(self).with_context(|| format!("beginning: {name}"))?;
        let mut during = None;
        match meanwhile {
            Meanwhile::Goes | Meanwhile::GoesOn => {
                if meanwhile == Meanwhile::GoesOn {
                    std::thread::sleep(NOTICED);
                    begun = Instant::now();
                }
                let revision = self.flip(ANOTHER_MEMBER)?;
                self.in_sync(revision, begun, ANOTHER_MEMBER).with_context(|| name.to_owned())?;
                during = Some(begun.elapsed());
                self.check_switch().with_context(|| format!("during: {name}"))?;
            }
            Meanwhile::Unseen | Meanwhile::Stands => {
                self.until_waiting().with_context(|| format!("during: {name}"))?;
            }
        }
        let unseen =
            (meanwhile == Meanwhile::Unseen).then(|| self.flip(ANOTHER_MEMBER)).transpose()?;
        let mut over = Instant::now();
        end(self).with_context(|| format!("ending: {name}"))?;
        if unseen.is_some() {
            // What hosts cannot see is written first, which takes a while of its own.
            over = Instant::now();
        }
        let revision = match unseen {
            Some(revision) => revision,
            None => self.flip(RECOVERY)?,
        };
        self.in_sync(revision, over, RECOVERY).with_context(|| format!("after: {name}"))?;
        self.note(name, during, over.elapsed())
    }

    /// Notes what a fault has cost, and that no packet went wrong since the last one.
    pub(crate) fn note(
        &mut self,
        name: &str,
        during: Option<Duration>,
        after: Duration,
    ) -> Result<()> {
        self.check_switch().with_context(|| format!("after: {name}"))?;
        let now = self.traffic.count(&self.cluster)?;
        let count = now.since(self.counted);
        self.counted = now;
        self.rows.push(Row { fault: name.to_owned(), during, after, count });
        ensure!(count.sent > 10 && count.denied > 10, "{name}: hardly sent: {count:?}");
        ensure!(count.lost == 0 && count.passed == 0, "{name}: {count:?}\n{}", self.cluster.logs());
        Ok(())
    }

    /// Switches the policy over; repeated until somebody takes it.
    pub(crate) fn flip(&mut self, limit: Duration) -> Result<i64> {
        let (etcd, (key, value)) = (&self.cluster.etcd, switch(!self.open));
        // A member that hangs would otherwise write this again when it runs on, after the next one.
        let revision = wait::until("write", limit, || etcd.replace(&key, &value).map(Some))?;
        self.open = !self.open;
        Ok(revision)
    }

    /// The policy that is in force now is another one than the last that was written.
    pub(crate) fn set_open(&mut self, open: bool) {
        self.open = open;
    }

    /// Waits until both hosts have a revision in force, and wait for nothing.
    pub(crate) fn in_sync(&self, revision: i64, from: Instant, limit: Duration) -> Result<()> {
        let left = limit.saturating_sub(from.elapsed());
        wait::until(&format!("revision {revision} on both hosts"), left, || {
            for host in &self.cluster.hosts {
                let status = host.status()?;
                let in_sync = status.0["datastore"]["in_sync"] == true;
                if !in_sync || status.applied_revision() < revision {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .with_context(|| format!("{}{}", self.cluster.logs(), self.statuses()))
    }

    /// Waits until both hosts say that they wait for the store.
    pub(crate) fn until_waiting(&self) -> Result<()> {
        wait::until("hosts that wait for the store", Duration::from_secs(20), || {
            let mut waiting = true;
            for host in &self.cluster.hosts {
                waiting &= host.status()?.0["datastore"]["waiting"].is_string();
            }
            Ok(waiting.then_some(()))
        })
        .with_context(|| self.cluster.logs())
    }

    /// The last change is really what decides about packets.
    pub(crate) fn check_switch(&self) -> Result<()> {
        let from = self.cluster.pod("frontend-2")?.ns().name();
        let to = self.cluster.pod("backend-2")?.spec.v4.into();
        let limit = if self.open { PATIENT } else { BRIEF };
        let answer = ask_from(from, to, Service::Udp(DNS), limit)?;
        let right = if self.open { answer.reached() } else { answer == Answer::Silence };
        ensure!(right, "open: {}, but {answer:?}\n{}", self.open, self.cluster.logs());
        Ok(())
    }

    fn statuses(&self) -> String {
        self.cluster.hosts.iter().map(|host| host.status_text().unwrap_or_default()).collect()
    }

    /// Ends the traffic, compares each host with one whose agent begins anew, and shows the table.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.cluster.wait_until_ready()?;
        let count = self.traffic.stop(&self.cluster)?;
        ensure!(count.lost == 0 && count.passed == 0, "{count:?}\n{}", self.cluster.logs());
        self.show(count);
        let mut all = Vec::new();
        for host in &mut self.cluster.hosts {
            host.stop_agent()?;
            // While the agent runs the policy on disk may lag behind the kernel for long, where the disk
            // is slow; at its end what is in force is written.
            all.push(Picture::take(host)?);
            wipe(host)?;
            host.start_agent()?;
        }
        self.cluster.wait_until_ready()?;
        for (before, host) in all.iter().zip(&self.cluster.hosts) {
            Picture::settled(host)?;
            // BIRD's file may be a moment behind the kernel.
            wait::until(&format!("{} like a fresh one", host.spec.name), RECOVERY, || {
                let differences = before.difference(&Picture::take(host)?);
                ensure!(differences.is_empty(), "{}", differences.join("\n"));
                Ok(Some(()))
            })?;
        }
        Ok(())
    }

    #[expect(clippy::print_stderr, reason = "the table is what the test is for")]
    fn show(&self, total: Count) {
        let mut text = format!(
            "\n{:<52} {:>9} {:>9} {:>7} {:>5} {:>7} {:>7}\n",
            "fault", "during/s", "after/s", "allowed", "lost", "denied", "passed"
        );
        let mut row = |fault: &str, during: String, after: String, count: &Count| {
            text += &format!(
                "{fault:<52} {during:>9} {after:>9} {:>7} {:>5} {:>7} {:>7}\n",
                count.sent, count.lost, count.denied, count.passed
            );
        };
        let seconds = |time: Duration| format!("{:.1}", time.as_secs_f32());
        for Row { fault, during, after, count } in &self.rows {
            row(fault, during.map_or("-".to_owned(), seconds), seconds(*after), count);
        }
        row("all, and what was between", String::new(), String::new(), &total);
        eprint!("{text}");
    }
}

/// What the tutorial has not: the tier, and the label that the policy looks for.
pub(crate) fn extra() -> Vec<Pair> {
    let tier = Tier { order: 1_000_000, default_action: "Deny".to_owned() };
    let second = calico_e2e::tutorial::pod("backend-2");
    let mut all = vec![Resource::new("default", tier).pair()];
    all.extend(second.map(|pod| pod.endpoint().label("second", "yes").pair()));
    all
}

/// Warnings and errors in a host's log.
pub(crate) fn complaints(host: &Host) -> Vec<String> {
    let log = std::fs::read_to_string(host.agent_log()).unwrap_or_default();
    let bad = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
    bad.map(str::to_owned).collect()
}
