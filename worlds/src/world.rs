//! A datastore in the v3 layout.

use std::collections::BTreeMap;

use calico_datastore::layout::{Decoded, v3};
use calico_datastore::model::{Name, Update};
use calico_reference::{Packet, Reference};
use serde_json::Value;

use crate::aim::Aim;
use crate::chance::Chance;
use crate::draw;
use crate::question::Question;

/// The objects of a datastore, and the node from which they are looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    /// The node whose endpoints are asked.
    pub node: Name,
    /// Key → value.
    pub objects: BTreeMap<String, Value>,
}

impl World {
    /// The world of a seed: tiers, profiles, policies of every kind, network sets, and endpoints on
    /// two nodes, of both families. A few objects do not parse, a few are only named.
    pub fn random(seed: u64) -> Self {
        draw::world(seed)
    }

    /// The same with what its endpoints may do beside policy: send from prefixes that they list, be
    /// reached by external addresses; and with the settings that give leave for it.
    pub fn with_extras(seed: u64) -> Self {
        let mut world = Self::random(seed);
        draw::extras::add(&mut world, seed);
        world
    }

    /// Packets from endpoints of [`World::node`] whose source is at the edge of a prefix that one
    /// lists, or beside; none where nobody lists any. The same for the same seed.
    pub fn spoofed_questions(&self, updates: &[Update], seed: u64, count: usize) -> Vec<Question> {
        Aim::new(updates).spoofed(&self.node, &mut Chance::new(seed), count)
    }

    /// What the agent would make of it. Objects that are refused are absent.
    pub fn updates(&self) -> Vec<Update> {
        let decode =
            |(key, value): (&String, &Value)| match v3::decode(key, value.to_string().as_bytes()) {
                Decoded::Object(update) => Some(update),
                Decoded::Unsupported { .. }
                | Decoded::Ignored
                | Decoded::Rejected(_)
                | Decoded::Part(_) => None,
            };
        self.objects.iter().filter_map(decode).collect()
    }

    /// The reference of it.
    pub fn reference(&self) -> Reference {
        Reference::new(&self.updates())
    }

    /// Packets that may matter here. The same for the same seed.
    pub fn packets(&self, seed: u64, count: usize) -> Vec<Packet> {
        let aim = Aim::new(&self.updates());
        let mut chance = Chance::new(seed);
        (0..count).map(|_| aim.packet(&mut chance)).collect()
    }

    /// Packets from and to the workload endpoints of [`World::node`], each with the one that is
    /// asked; none when it has no endpoint. The same for the same seed.
    pub fn questions(&self, seed: u64, count: usize) -> Vec<Question> {
        self.questions_of(&self.updates(), seed, count)
    }

    /// [`World::questions`] for whoever has decoded it already.
    pub fn questions_of(&self, updates: &[Update], seed: u64, count: usize) -> Vec<Question> {
        Aim::new(updates).questions(&self.node, &mut Chance::new(seed), count)
    }
}
