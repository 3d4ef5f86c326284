//! The transaction by itself: the same changes through our table of nf_tables, beside the bytes of a
//! transaction that were made beforehand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_agent::desired::DesiredState;
use calico_agent::felix::counters::Counters;
use calico_agent::felix::nftables::object::Change;
use calico_agent::felix::nftables::render::{Options, Renderer};
use calico_agent::felix::nftables::table::Table;
use calico_agent::felix::scene::Stage;
use calico_agent::routes::monitor::Links;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};

use crate::samples::Samples;

/// More than any batch has.
const BUFFER: usize = 64 << 20;

/// A table with what renders into it.
pub struct Kernel {
    table: Table,
    raw: Socket,
    renderer: Renderer,
    stage: Stage,
    links: Links,
}

/// What a change took by our table and by prepared bytes, and back.
#[derive(Debug, Default)]
pub struct Took {
    pub ours: Vec<Duration>,
    pub back: Vec<Duration>,
    pub raw: Vec<Duration>,
    pub raw_back: Vec<Duration>,
    pub bytes: usize,
}

impl Kernel {
    /// In the namespace of the calling thread.
    pub fn new(settings: &calico_agent::config::Settings, links: Links) -> Self {
        let mut raw = Socket::new(NETLINK_NETFILTER).unwrap();
        raw.bind_auto().unwrap();
        raw.connect(&SocketAddr::new(0, 0)).unwrap();
        setsockopt(&raw, sockopt::SndBufForce, &BUFFER).unwrap();
        let options = Options { groups: true, random_fully: true };
        let renderer = Renderer::new(settings, options).unwrap();
        let table = Table::open("calico", Counters::default()).unwrap();
        Self { table, raw, renderer, stage: Stage::default(), links }
    }

    /// What brings the table from the last state to this one.
    fn changes(&mut self, state: &DesiredState) -> Vec<Change> {
        let state = Arc::new(state.clone());
        let update = self.stage.update(&state, &self.links);
        let scene = self.stage.scene(&state);
        match update.changed() {
            None => self.renderer.all(&scene).as_changes(),
            Some(changed) => {
                let steps = self.renderer.changed(&scene, changed);
                [steps.now, steps.after].concat()
            }
        }
    }

    /// Fills the table.
    pub fn fill(&mut self, state: &DesiredState) -> Duration {
        let changes = self.changes(state);
        self.write(&changes)
    }

    fn write(&mut self, changes: &[Change]) -> Duration {
        let begin = Instant::now();
        self.table.write(changes).unwrap();
        begin.elapsed()
    }

    /// Sends bytes and waits for the acknowledgement.
    fn send(&mut self, bytes: &[u8]) -> Duration {
        if bytes.is_empty() {
            // Nothing would answer.
            return Duration::ZERO;
        }
        let begin = Instant::now();
        self.raw.send(bytes, 0).unwrap();
        let mut answer = Vec::with_capacity(4096);
        self.raw.recv(&mut answer, 0).unwrap();
        let took = begin.elapsed();
        // The code stands behind the header.
        assert_eq!(answer.get(16..20), Some([0; 4].as_slice()), "the kernel refused: {answer:?}");
        took
    }

    /// Sends what brings the table to that state, made beforehand. Our table has to be told afterwards.
    fn raw(&mut self, state: &DesiredState, bytes: &mut usize) -> Duration {
        let changes = self.changes(state);
        let batch = self.table.batch(&changes);
        *bytes = batch.len();
        let took = self.send(&batch);
        self.table.read().unwrap();
        took
    }

    /// From one state, which the table holds, to another and back, by both in turn.
    pub fn there_and_back(
        &mut self,
        from: &DesiredState,
        to: &DesiredState,
        samples: Samples,
    ) -> Took {
        let mut took = Took::default();
        for _ in samples.turns() {
            let there = self.changes(to);
            took.ours.push(self.write(&there));
            let back = self.changes(from);
            took.back.push(self.write(&back));
            let raw = self.raw(to, &mut took.bytes);
            took.raw.push(raw);
            took.raw_back.push(self.raw(from, &mut 0));
        }
        took
    }
}
