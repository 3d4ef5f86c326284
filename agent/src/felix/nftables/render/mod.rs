//! What a desired state is as objects of our table: pure.
//!
//! [`Renderer`] makes everything ([`Renderer::all`]) or what a change concerns ([`Renderer::changed`]);
//! both come to the same. It remembers what must not change by itself: which group stands for which
//! class ([`groups`]), and how large the shapes of sets have grown ([`shape`]).
//!
//! What is asked when:
//!
//! | hook, priority | base chain | |
//! |---|---|---|
//! | prerouting −300 | `raw-prerouting` | every packet of a pod: is it its source? Policies that are not tracked |
//! | prerouting −150 | `mangle-prerouting` | policies before the destination is translated |
//! | forward −3 | `forward-from-host` | the interface of the host that it comes in by |
//! | forward −2 | `forward-from-pod` | the egress of the pod that sends |
//! | forward −1 | `forward-to-pod` | the ingress of the pod that receives |
//! | forward 0 | `forward-to-host` | the interface of the host that it leaves by |
//! | input −2, −1, 0 | `input-from-pod`, `input-pod-to-host`, `input-host` | the egress of the pod; what the host takes from pods; what it takes from others |
//! | output −300, 0 | `raw-output`, `output-host` | what the host sends |
//! | postrouting −150 | `mangle-postrouting` | what the host sends to an address that was translated |
//! | nat | `nat-prerouting`, `nat-output`, `nat-postrouting` | |

mod ask;
mod changed;
mod elements;
pub mod groups;
mod hosts;
mod members;
pub mod names;
mod nat;
pub mod place;
mod pods;
mod rules;
pub mod shape;
mod shapes;
mod spoof;
mod style;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calico_datastore::model::Family;

use self::ask::{Asked, Key, Unit};
use self::elements::{Sets, dispatch, own};
use self::groups::Groups;
use self::hosts::Hosts;
use self::nat::Nat;
use self::place::Place;
use self::pods::{Pods, at, base};
use self::shapes::Shapes;
use self::style::Style;
use self::units::Units;
use super::contents::{Contents, Elements, Set};
use super::object::{Change, Element, Hook, Name, Rule, SetSpec, Verdict};
use crate::config::Settings;
use crate::desired::{AclClass, ClassId, SetId};
use crate::felix::iptables::uses::Subject;
use crate::felix::ruleset::Direction;
use crate::felix::scene::Scene;

/// What the host lets us do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The groups of interfaces are ours to use. Without them classes are found by interface.
    pub groups: bool,
    /// The kernel knows `fully-random`.
    pub random_fully: bool,
}

/// What brings the table from one state to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// One transaction.
    pub now: Vec<Change>,
    /// Another one, for when the interfaces have the groups of their classes: what classes that are no
    /// more leave behind. Empty when nothing has to wait.
    pub after: Vec<Change>,
}

/// Makes objects, and remembers what must not change by itself.
#[derive(Clone, Debug)]
pub struct Renderer {
    style: Style,
    options: Options,
    groups: Groups,
    shapes: Shapes,
    /// Families of which some endpoint had prefixes.
    nets: [bool; 2],
    /// Some endpoint had a MAC.
    macs: bool,
    shut: BTreeSet<Subject>,
    units: Units,
    /// The sets of endpoints and of pools that there are.
    frame_sets: BTreeMap<Name, SetSpec>,
}

impl Renderer {
    /// A renderer for these settings; `None` when the mask of the mark has no bit.
    pub fn new(settings: &Settings, options: Options) -> Option<Self> {
        Some(Self {
            style: Style::new(settings)?,
            options,
            groups: Groups::default(),
            shapes: Shapes::default(),
            nets: [false; 2],
            macs: false,
            shut: BTreeSet::new(),
            units: Units::default(),
            frame_sets: BTreeMap::new(),
        })
    }

    /// Takes over other settings; [`Renderer::all`] has to follow. `None`, and nothing is changed, when
    /// the mask of the mark has no bit.
    #[must_use]
    pub fn set_up(&mut self, settings: &Settings) -> Option<()> {
        self.style = Style::new(settings)?;
        Some(())
    }

    /// Takes over the names of sets and the groups that are in force: what the map of the kernel says, and of classes that
    /// are not in it what their interfaces say, as long as they are among themselves. Before the first
    /// [`Renderer::all`]. A class that is not in the next state loses its group there.
    pub fn take_over<'a>(
        &mut self,
        scene: &Scene<'_>,
        held: &Contents,
        links: impl IntoIterator<Item = (u32, Option<&'a ClassId>)>,
    ) {
        let families = self.style.families.clone();
        self.shapes.take_over(scene.state, &families, |name| held.sets.contains_key(name));
        let ids: BTreeMap<&str, &ClassId> =
            scene.state.classes.keys().map(|id| (id.as_str(), id)).collect();
        for map in [names::FROM, names::TO] {
            let elements = held.sets.get(map).into_iter().flat_map(|set| set.elements.iter());
            for element in elements {
                // Agents before this one wrote "goto".
                let Element::Group(group, Verdict::Jump(chain) | Verdict::Goto(chain)) = element
                else {
                    continue;
                };
                self.groups.avoid(group);
                let class = names::class_of_chain(&chain).and_then(|text| ids.get(text));
                if let Some(class) = class {
                    self.groups.take_over(group, class);
                }
            }
        }
        self.groups.take_over_from_links(links);
    }

    /// Sets of rules that are `chosen` by their names become others, with the same members: for those
    /// that hold something else in the kernel while the rules that name them may say something else,
    /// too. Each only once: `renewed` are those that were before. True when there are some: then
    /// [`Renderer::all`] has to follow.
    pub fn renew(&mut self, chosen: impl Fn(&str) -> bool, renewed: &mut BTreeSet<SetId>) -> bool {
        self.shapes.renew(chosen, renewed)
    }

    /// The group that the interfaces of a class must have. `None` without groups, and of a class that
    /// is not in force.
    pub fn group_of(&self, class: &ClassId) -> Option<u32> {
        self.groups.get(class).filter(|_| self.options.groups)
    }

    /// The classes that have no group because all of them are given out: nothing leads to them, so what
    /// their endpoints send and get is dropped.
    pub fn groupless(&self) -> &BTreeSet<ClassId> {
        self.groups.without()
    }

    /// True when groups are given out again that one of those classes may get: [`Renderer::all`] has to follow.
    pub fn has_room(&self) -> bool {
        !self.groups.without().is_empty() && self.groups.is_free()
    }

    /// True when classes are found by the groups of interfaces.
    pub fn uses_groups(&self) -> bool {
        self.options.groups
    }

    /// Classes are found by groups from now on, or by the names of interfaces. [`Renderer::all`] has to follow.
    pub fn use_groups(&mut self, groups: bool) {
        self.options.groups = groups;
        if !groups {
            self.groups = Groups::default();
        }
    }

    /// The class that a group stands for.
    pub fn class_of(&self, group: u32) -> Option<&ClassId> {
        self.groups.class(group)
    }

    /// Everything.
    pub fn all(&mut self, scene: &Scene<'_>) -> Contents {
        let mut out = Contents::default();
        let state = scene.state;
        self.grow(scene);
        let families = self.style.families.clone();
        self.shapes.all(state, &families, &mut out);
        let active = || state.classes.iter().filter(|(_, class)| class.active);
        self.groups.retain(|id| state.classes.get(id).is_some_and(|class| class.active));

        let sets = self.sets(scene);
        self.frame_sets = sets.specs();
        for (name, spec) in &self.frame_sets {
            out.sets.insert(name.clone(), Set { spec: *spec, elements: Elements::default() });
        }
        let mut put = |(set, element): (Name, Element)| {
            if let Some(set) = out.sets.get_mut(&set) {
                set.elements.insert(element);
            }
        };
        for (_, endpoint) in scene.interfaces.owners() {
            self.sets(scene).of_endpoint(endpoint).into_iter().for_each(&mut put);
        }
        for (id, _) in active() {
            self.class_elements(id).into_iter().for_each(&mut put);
        }
        for (name, (spec, elements)) in elements::pools(state, &families) {
            self.frame_sets.insert(name.clone(), spec);
            let elements = elements.into_iter().collect();
            out.sets.insert(name, Set { spec, elements });
        }

        let mut units = Units::default();
        let classes = active().map(|(id, _)| Key::Class(id.clone()));
        let roots = classes.chain([Key::Frame, Key::Nat]).collect();
        units.make(roots, [], |key| self.unit(key, scene), &mut Vec::new());
        let chains = units.chains();
        out.chains = chains.map(|(name, chain)| (name.clone(), Arc::clone(chain))).collect();
        self.units = units;
        out
    }

    /// Closes these policies and profiles, which the kernel does not take, and opens all others.
    pub fn shut(&mut self, scene: &Scene<'_>, subjects: BTreeSet<Subject>) -> Vec<Change> {
        let old = std::mem::replace(&mut self.shut, subjects);
        let again = old.symmetric_difference(&self.shut).flat_map(|subject| {
            self.units.askers(subject).cloned().chain(self.units.of_subject(subject))
        });
        let again = again.collect();
        let mut out = Vec::new();
        self.make(again, [], scene, &mut out);
        out
    }

    /// The policy that this rule of a chain is of, where it is written into the chain of those who ask it.
    pub fn writer_of(&self, chain: &str, rule: &Rule, scene: &Scene<'_>) -> Option<Subject> {
        let Self { style, shapes, shut, .. } = self;
        let asked = Asked { state: scene.state, style, shapes, shut };
        let wrote =
            |subject: &&Subject| Place::all().any(|place| asked.writes(place, subject, rule));
        self.units.asked_with(chain).find(wrote).cloned()
    }

    fn make(
        &mut self,
        again: BTreeSet<Key>,
        gone: impl IntoIterator<Item = Key>,
        scene: &Scene<'_>,
        out: &mut Vec<Change>,
    ) {
        let mut units = std::mem::take(&mut self.units);
        units.make(again, gone, |key| self.unit(key, scene), out);
        self.units = units;
    }

    /// Notes what the sets of endpoints have to hold.
    fn grow(&mut self, scene: &Scene<'_>) {
        for (_, endpoint) in scene.interfaces.owners() {
            for family in Family::ALL {
                self.nets[at(family)] |= own(endpoint, family).any(|net| !net.is_host());
            }
            self.macs |= endpoint.mac.is_some();
        }
    }

    fn spoofers(scene: &Scene<'_>) -> [bool; 2] {
        Family::ALL.map(|family| scene.interfaces.spoofers().contains_key(&family))
    }

    fn sets(&self, scene: &Scene<'_>) -> Sets<'_> {
        let (nets, macs, groups) = (self.nets, self.macs, self.options.groups);
        Sets { style: &self.style, nets, spoofers: Self::spoofers(scene), macs, groups }
    }

    /// The elements that lead to a class.
    fn class_elements(&mut self, id: &ClassId) -> Vec<(Name, Element)> {
        let group = self.options.groups.then(|| self.groups.give(id)).flatten();
        let Some(group) = group else { return Vec::new() };
        let to = |direction| elements::leads(id, direction);
        dispatch().map(|(map, direction)| (map, Element::Group(group, to(direction)))).collect()
    }

    /// Makes what belongs to a key.
    fn unit(&self, key: &Key, scene: &Scene<'_>) -> Unit {
        let Self { style, shapes, shut, .. } = self;
        let asked = Asked { state: scene.state, style, shapes, shut };
        match key {
            Key::Frame => self.frame(asked, scene),
            Key::Nat => {
                let externals = scene.interfaces.externals();
                let random_fully = self.options.random_fully;
                Nat { style, state: scene.state, externals, random_fully }.unit()
            }
            Key::Class(id) => scene
                .state
                .classes
                .get(id)
                .map(|class| of_class(id, class, asked))
                .unwrap_or_default(),
            Key::Rules(place, subject) => asked.unit(*place, subject),
            Key::Deny(place, point) => {
                let mut unit = Unit::default();
                unit.put(names::deny(*place, &point.0), style.reporting(*place, &point.0));
                unit
            }
        }
    }

    fn frame(&self, asked: Asked<'_>, scene: &Scene<'_>) -> Unit {
        let mut unit = Unit::default();
        let (nets, macs, groups) = (self.nets, self.macs, self.options.groups);
        let pods = Pods { style: &self.style, nets, spoofers: Self::spoofers(scene), macs, groups };
        pods.put(&mut unit);
        let hosts = Hosts { asked, chosen: scene.chosen };
        let mut rules: Vec<_> = hosts.first().into_iter().collect();
        rules.extend(pods.prerouting());
        rules.extend(hosts.untracked(Direction::Ingress, &mut unit));
        unit.chains.insert("raw-prerouting".into(), base(Hook::Prerouting, -300, rules));
        hosts.put(&mut unit);
        unit
    }
}

/// Both directions of a class: what nothing decides about is dropped.
fn of_class(id: &ClassId, class: &AclClass, asked: Asked<'_>) -> Unit {
    let mut unit = Unit::default();
    for (direction, acl) in
        [(Direction::Ingress, &class.ingress), (Direction::Egress, &class.egress)]
    {
        let (place, name) = (Place::Pod(direction), names::class(id, direction));
        let tiers = asked.tiers(&acl.tiers, place, true, &name, &mut unit);
        let rules = asked.profiles(tiers, &acl.profiles, place, &mut unit);
        unit.put(name, rules);
    }
    unit
}
