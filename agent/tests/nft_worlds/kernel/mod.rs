//! The objects of nftables: rendered, and an interpreter of them that knows nothing of policy.

mod look;
mod walk;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use calico_agent::felix::nftables::contents::Contents;
use calico_agent::felix::nftables::object::{BaseKind, Chain, Hook, Name};
use calico_agent::felix::nftables::render::{Options, Renderer};
use calico_agent::felix::nftables::text;
use calico_agent::felix::scene::Stage;
use calico_agent::reconcile::World;
use calico_datastore::model::Family;
use calico_ruleset::Fate;

/// What the trace of a packet to a pod, and from one, says when policy was asked.
pub(crate) const ASKED: [&str; 2] = ["pods-to", "pods-from"];

/// A rule of others that translates a destination.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Translation {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    /// Not only of what the host itself sends.
    pub(crate) everywhere: bool,
}

/// What was made of a world.
pub(crate) struct Made {
    ruleset: Ruleset,
}

/// Objects in a kernel.
#[derive(Clone, Debug)]
pub(crate) struct Ruleset {
    contents: Contents,
    /// The groups of interfaces.
    groups: HashMap<String, u32>,
    others: Vec<Translation>,
    /// Base chains by hook, in order.
    base: Vec<(Hook, i32, BaseKind, Name)>,
}

/// Where a rule stands.
pub(crate) type At = (Name, usize);

/// What became of a packet.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) fate: Fate,
    /// What dropped it.
    by: Option<At>,
    /// The rules that matched, in order.
    matched: Vec<At>,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) masqueraded: bool,
    pub(crate) untracked: bool,
}

impl Outcome {
    pub(crate) fn decided(&self, ruleset: &Ruleset) -> String {
        self.by.as_ref().map_or_else(|| "nothing".to_owned(), |at| ruleset.text(at))
    }

    pub(crate) fn trace(&self, ruleset: &Ruleset) -> String {
        self.matched.iter().map(|at| ruleset.text(at) + "\n").collect()
    }
}

impl Made {
    pub(crate) fn new(world: &World) -> Self {
        let state = &world.desired;
        let stage = Stage::of(state, &world.links);
        let scene = stage.scene(state);
        // By what the settings are: both ways to find a class are asked of every kind of world.
        let groups = !state.settings.rkt_metadata_service || state.settings.endpoint_counters;
        let options = Options { groups, random_fully: true };
        let mut renderer = Renderer::new(&state.settings, options).unwrap();
        let contents = renderer.all(&scene);
        let owners = scene.interfaces.owners();
        let groups = owners
            .filter_map(|(name, one)| Some((name.to_string(), renderer.group_of(&one.class)?)))
            .collect();
        Self { ruleset: Ruleset::new(contents, groups) }
    }

    pub(crate) fn rules(&self) -> usize {
        self.ruleset.contents.chains.values().map(|chain| chain.rules.len()).sum()
    }

    pub(crate) fn ruleset(&self, _: Family) -> &Ruleset {
        &self.ruleset
    }

    pub(crate) fn among(&self, _: Family, others: &[Translation]) -> Ruleset {
        Ruleset { others: others.to_vec(), ..self.ruleset.clone() }
    }
}

impl Ruleset {
    pub(crate) fn new(contents: Contents, groups: HashMap<String, u32>) -> Self {
        let bases = contents.chains.iter().filter_map(|(name, chain)| {
            let base = chain.base?;
            Some((base.hook, base.priority, base.kind, Arc::clone(name)))
        });
        let mut base: Vec<_> = bases.collect();
        base.sort_by_key(|(hook, priority, ..)| (*hook, *priority));
        let places: Vec<_> = base.iter().map(|(hook, priority, ..)| (*hook, *priority)).collect();
        let mut distinct = places.clone();
        distinct.dedup();
        assert_eq!(places, distinct, "two base chains of one place have no order");
        Self { contents, groups, others: Vec::new(), base }
    }

    pub(crate) fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The same with other objects.
    pub(crate) fn with(&self, contents: Contents) -> Self {
        let Self { groups, others, .. } = self.clone();
        Self { others, ..Self::new(contents, groups) }
    }

    /// As nft takes it.
    pub(crate) fn listing(&self) -> String {
        text::table("calico", &self.contents)
    }

    fn chain(&self, name: &Name) -> &Chain {
        self.contents.chains.get(name).unwrap_or_else(|| panic!("no chain {name}"))
    }

    fn text(&self, (chain, number): &At) -> String {
        format!("{chain} {number}: {}", text::rule(&self.chain(chain).rules[*number]))
    }
}
