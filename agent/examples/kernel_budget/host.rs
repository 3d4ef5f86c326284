//! A host in the namespace of the calling thread: interfaces, and the reconciler of policy.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_agent::config::DataplaneSetting;
use calico_agent::desired::DesiredState;
use calico_agent::exec::Exec;
use calico_agent::felix::Felix;
use calico_agent::felix::preview::preview;
use calico_agent::felix::tally::Tally;
use calico_agent::reconcile::{Reconciler as _, Wake, World};
use calico_agent::routes::monitor::{Link, Links};

use crate::netns::run;
use crate::samples::Samples;
use crate::tools::Script;
use crate::world;

/// So many links are made by one process.
const LINKS: u32 = 250;

pub struct Host {
    felix: Felix,
    pub links: Links,
    runtime: tokio::runtime::Runtime,
    generation: u64,
}

/// What a change took by us and by the tools, and back.
#[derive(Debug, Default)]
pub struct Took {
    pub ours: Vec<Duration>,
    pub back: Vec<Duration>,
    pub tools: Vec<Duration>,
    pub tools_back: Vec<Duration>,
    /// Bytes that ours sent to the kernel the last time.
    pub bytes: u64,
}

impl Host {
    /// With interfaces for so many endpoints; both ends of each pair are one.
    pub fn new(endpoints: u32) -> Self {
        let endpoints = endpoints.next_multiple_of(2);
        for first in (0..endpoints).step_by(LINKS as usize) {
            let some = (first..endpoints.min(first + LINKS)).step_by(2);
            let lines = some.map(|n| {
                let (one, other) = (world::interface(n), world::interface(n + 1));
                format!(
                    "link add {one} type veth peer name {other}\n\
                     link set {one} up\nlink set {other} up\n"
                )
            });
            run(&["ip", "-batch", "-"], &lines.collect::<String>());
        }
        let links = (0..endpoints).map(|number| {
            let name = world::interface(number);
            let index = nix::net::if_::if_nametoindex(name.as_str()).unwrap();
            (name, Link { index, up: true, mtu: 1500, ..Link::default() })
        });
        let links = links.collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let felix = Felix::new(Exec::default(), PathBuf::from("/proc/sys"));
        Self { felix, links, runtime, generation: 0 }
    }

    fn world(&mut self, state: &DesiredState) -> World {
        self.generation += 1;
        let desired = DesiredState { generation: self.generation, ..state.clone() };
        World { desired: Arc::new(desired), links: self.links.clone() }
    }

    /// Brings a state into the kernel; how long it took until the kernel had acknowledged all of it.
    pub fn apply(&mut self, state: &DesiredState, wake: Wake) -> Duration {
        let world = self.world(state);
        let begin = Instant::now();
        let report = self.runtime.block_on(self.felix.reconcile(&world, wake));
        let took = begin.elapsed();
        assert_eq!(report.applied, Some(world.desired.generation), "{:?}", report.problems);
        took
    }

    /// Reads what the kernel counted of every endpoint.
    pub fn ask_counters(&mut self, state: &DesiredState) -> Duration {
        let tally = Tally::new(self.felix.changes());
        let begin = Instant::now();
        let all = self.runtime.block_on(tally.ask(state)).unwrap();
        let took = begin.elapsed();
        assert_eq!(all.len(), state.endpoints.len());
        took
    }

    /// Bytes that were sent to the kernel or to a tool so far.
    fn bytes(&self) -> u64 {
        let counters = self.felix.counters();
        counters.iptables_bytes.get() + counters.ipset_bytes.get() + counters.nftables_bytes.get()
    }

    /// How the tools would bring a state into the kernel.
    pub fn script(&mut self, state: &DesiredState) -> Script {
        let world = self.world(state);
        let (exec, proc_sys) = (Exec::default(), PathBuf::from("/proc/sys"));
        let plan = self.runtime.block_on(preview(&exec, proc_sys, &world));
        Script::of(&plan.unwrap_or_else(|error| panic!("{error:?}")))
    }

    /// Brings the kernel from one state, which it holds, to another and back, by us and by the tools in
    /// turn. Which group a class gets differs each time; what iptables is told does not.
    pub fn there_and_back(
        &mut self,
        from: &DesiredState,
        to: &DesiredState,
        samples: Samples,
    ) -> Took {
        let changes = from.settings.dataplane == DataplaneSetting::Nftables;
        let mut took = self.take_turns(from, to, Samples::ONE, true);
        let turns = self.take_turns(from, to, samples.but_one(), changes);
        took.append(turns);
        let writes = self.felix.counters().writes();
        self.apply(from, Wake::Retry);
        assert_eq!(self.felix.counters().writes(), writes, "the tools come to the same as we");
        took
    }

    /// The same of much at once, after which we keep what the tools would not make: sets that have
    /// grown.
    pub fn load(&mut self, from: &DesiredState, to: &DesiredState, samples: Samples) -> Took {
        self.take_turns(from, to, samples, true)
    }

    /// With `anew` the tools are told what follows from the kernel as it is each time.
    fn take_turns(
        &mut self,
        from: &DesiredState,
        to: &DesiredState,
        samples: Samples,
        anew: bool,
    ) -> Took {
        let mut took = Took::default();
        let mut scripts = None;
        for _ in samples.turns() {
            let before = self.bytes();
            took.ours.push(self.apply(to, Wake::Desired));
            took.bytes = self.bytes() - before;
            took.back.push(self.apply(from, Wake::Desired));
            let (there, back) = match scripts.take().filter(|_| !anew) {
                Some((there, back)) => {
                    took.tools.push(Script::run(&there));
                    took.tools_back.push(Script::run(&back));
                    (there, back)
                }
                None => {
                    let there = self.script(to);
                    took.tools.push(there.run());
                    let back = self.script(from);
                    took.tools_back.push(back.run());
                    self.apply(from, Wake::Retry);
                    (there, back)
                }
            };
            scripts = Some((there, back));
        }
        took
    }
}

impl Took {
    fn append(&mut self, mut other: Self) {
        self.ours.append(&mut other.ours);
        self.back.append(&mut other.back);
        self.tools.append(&mut other.tools);
        self.tools_back.append(&mut other.tools_back);
        self.bytes = other.bytes;
    }
}
