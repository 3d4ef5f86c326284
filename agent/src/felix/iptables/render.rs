//! Which chains a desired state needs, object by object: a change makes the chains of what changed
//! again and no others.

mod nat;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use calico_datastore::model::{Action, Family};

use super::chains::{self, Hosts};
use super::mac;
use super::marks::Marks;
use super::names;
use super::plan::{Jump, Place};
use super::rules::{Report, Style};
use super::save::Table;
use super::tables::FamilyTables;
use super::uses::{Subject, Uses};
use crate::config::{DenyAction, InsertMode, Settings};
use crate::desired::{AclClass, ActiveRules, Change, ClassId, DesiredState, SetId};
use crate::felix::endpoints::Interfaces;
use crate::felix::hosts::choose::choose;
use crate::felix::ruleset::deny::{self, DeniedBy, DenyPoint};
use crate::felix::ruleset::{self, Direction};
use crate::felix::scene::{Changed, Scene};
use crate::routes::monitor::Links;

/// Writes the chains of one family into [`FamilyTables`].
#[derive(Clone, Debug)]
pub struct Renderer {
    style: Style,
    /// The settings switch the family off.
    off: bool,
    random_fully: bool,
}

impl Renderer {
    /// A renderer for these settings; `None` when the mark mask has too few bits.
    pub fn new(settings: &Settings, family: Family, random_fully: bool) -> Option<Self> {
        // LOG takes 29 characters; the colon and the space are two.
        let mut prefix = settings.log_prefix.replace(['"', '\\', '\n'], "");
        while prefix.len() > 27 {
            prefix.pop();
        }
        let style = Style {
            family,
            marks: Marks::of_mask(settings.mark_mask)?,
            deny: match settings.filter_deny {
                DenyAction::Drop => "--jump DROP".into(),
                DenyAction::Reject => "--jump REJECT".into(),
            },
            report: settings.denied_log.then_some(Report {
                group: settings.denied_log_group,
                rate: settings.denied_log_rate,
            }),
            counted: settings.endpoint_counters,
            log_prefix: format!("{prefix}: "),
        };
        let off = family == Family::V6 && !settings.ipv6;
        Some(Self { style, off, random_fully })
    }

    /// True when the settings switch the family off: nothing of it passes.
    pub fn is_off(&self) -> bool {
        self.off
    }

    /// What stands in for a chain that the kernel refuses.
    pub fn closed(&self, table: Table, chain: &str) -> Vec<String> {
        let style = self.style.of(table);
        let drop = names::direction(chain).map(|direction| style.drops(direction));
        vec![drop.map_or_else(|| "--jump DROP".to_owned(), Cow::into_owned)]
    }

    /// Everything anew, where nothing is known of the host's own interfaces: a host endpoint that says
    /// addresses is about none then.
    pub fn all(&self, state: &DesiredState, interfaces: &Interfaces, out: &mut FamilyTables) {
        let chosen = choose(&state.host_endpoints, &Links::new(), &state.settings);
        let uses = Uses::of(state, &chosen);
        self.scene(&Scene { state, interfaces, chosen: &chosen, uses: &uses }, out);
    }

    /// Everything anew.
    pub fn scene(&self, scene: &Scene<'_>, out: &mut FamilyTables) {
        out.clear();
        let state = scene.state;
        if self.off {
            for table in [Table::Raw, Table::Filter] {
                let mut jumps = jumps(table, &state.settings, false);
                let chains = chains::off(table, &state.settings);
                jumps.retain(|jump| chains.iter().any(|(name, _)| name == jump.to));
                out.replace(table, chains, jumps);
            }
            return;
        }
        self.policies(scene, |_| false, true, out);
        for (id, class) in &state.classes {
            self.class(id, class, state, out);
        }
        self.dispatch(scene, out);
        self.base(scene, out);
        self.ends(scene, out);
        self.nat(state, scene.interfaces.externals(), out);
    }

    /// Every policy and profile, or with `others` false only the closed ones. Those that name a set for
    /// which `incomplete` says yes let nothing through: a set without some of its members would let
    /// its "deny" leak, and its "not in".
    pub fn policies(
        &self,
        scene: &Scene<'_>,
        incomplete: impl Fn(&SetId) -> bool,
        others: bool,
        out: &mut FamilyTables,
    ) {
        for subject in scene.uses.subjects() {
            let Some(rules) = rules_of(subject, scene.state) else { continue };
            let shut = ruleset::sets_named(rules).any(&incomplete);
            if !shut && !others {
                continue;
            }
            for (table, direction) in scene.uses.places(subject) {
                if shut {
                    let lines = chains::closed(direction, &self.style.of(table));
                    out.put(table, name_of(subject, direction), lines);
                } else {
                    self.rules(subject, rules, direction, table, out);
                }
            }
        }
    }

    /// What changed.
    pub fn changed(&self, scene: &Scene<'_>, changed: Changed<'_>, out: &mut FamilyTables) {
        if self.off {
            return;
        }
        let Changed { diff, interfaces, hosts, uses, .. } = changed;
        let state = scene.state;
        let policies = diff.policies.iter().chain(&diff.hosts.policies).map(|(id, _)| id.clone());
        let profiles =
            diff.profiles.iter().chain(&diff.hosts.profiles).map(|(name, _)| name.clone());
        let subjects = policies.map(Subject::Policy).chain(profiles.map(Subject::Profile));
        for subject in subjects.chain(uses.iter().cloned()).collect::<BTreeSet<_>>() {
            self.subject(&subject, scene, out);
        }
        for (id, change) in &diff.classes {
            match change {
                Change::Added(class) | Change::Updated { new: class, .. } => {
                    self.class(id, class, state, out);
                }
                Change::Removed(_) => {
                    for direction in Direction::ALL {
                        out.remove(Table::Filter, &names::class(id, direction));
                    }
                }
            }
        }
        if !diff.classes.is_empty() || interfaces.spoofers {
            self.dispatch(scene, out);
        }
        if interfaces.macs || interfaces.spoofers || hosts {
            self.base(scene, out);
        }
        if !diff.classes.is_empty() || hosts {
            self.ends(scene, out);
        }
        if diff.pools || !interfaces.moved.is_empty() {
            self.nat(state, scene.interfaces.externals(), out);
        }
    }

    /// The chains of a policy or profile, where they are used and nowhere else.
    fn subject(&self, subject: &Subject, scene: &Scene<'_>, out: &mut FamilyTables) {
        let rules = rules_of(subject, scene.state);
        let places = scene.uses.places(subject);
        for table in Table::ALL {
            for direction in Direction::ALL {
                match rules.filter(|_| places.contains(&(table, direction))) {
                    Some(rules) => self.rules(subject, rules, direction, table, out),
                    None => {
                        out.remove(table, &name_of(subject, direction));
                        out.remove(table, &names::deny(&point_of(subject, direction)));
                    }
                }
            }
        }
    }

    /// The chain of a policy or profile, and what reports the packets that it drops.
    fn rules(
        &self,
        subject: &Subject,
        rules: &ActiveRules,
        direction: Direction,
        table: Table,
        out: &mut FamilyTables,
    ) {
        let neutral = ruleset::rules(rules, direction, self.style.family);
        let style = self.style.of(table);
        let point = point_of(subject, direction);
        let lines = match subject {
            Subject::Policy(_) => chains::policy(&neutral, &style.at(&point)),
            Subject::Profile(_) => chains::profile(&neutral, &style.at(&point)),
        };
        out.put(table, name_of(subject, direction), lines);
        let denies = neutral.iter().any(|rule| rule.action == Action::Deny);
        match chains::denied(&point, &style).filter(|_| denies) {
            Some((name, lines)) => out.put(table, name, lines),
            None => out.remove(table, &names::deny(&point)),
        }
    }

    fn class(&self, id: &ClassId, class: &AclClass, state: &DesiredState, out: &mut FamilyTables) {
        if !class.active {
            // Its endpoints are in no set, so all their packets are dropped before any class.
            return;
        }
        for (direction, acl) in
            [(Direction::Ingress, &class.ingress), (Direction::Egress, &class.egress)]
        {
            let lines = chains::class(acl, direction, state, &self.style);
            out.put(Table::Filter, names::class(id, direction), lines);
        }
    }

    fn dispatch(&self, scene: &Scene<'_>, out: &mut FamilyTables) {
        let family = self.style.family;
        let spoofers = scene.interfaces.spoofers().get(&family);
        for direction in Direction::ALL {
            let classes = scene.state.classes.iter();
            let active = classes.filter(|(_, class)| class.active).map(|(id, _)| id);
            let lines = chains::dispatch(active, spoofers, direction, &self.style);
            out.put(Table::Filter, chains::dispatch_name(direction).to_owned(), lines);
        }
    }

    /// What packets meet first, and all that follows from host endpoints.
    fn base(&self, scene: &Scene<'_>, out: &mut FamilyTables) {
        let Scene { state, interfaces, chosen, .. } = *scene;
        let family = self.style.family;
        let spoofers = interfaces.spoofers().contains_key(&family);
        let hosts = Hosts { state, chosen, style: &self.style };
        let police = !chosen.is_empty();
        for table in [Table::Raw, Table::Mangle, Table::Filter] {
            let mut chains = hosts.chains(table);
            match table {
                Table::Raw => {
                    let tree = mac::tree(interfaces.macs());
                    let root = tree.first().map(|(name, _)| name.clone());
                    let mut raw = chains::raw(&state.settings, family, root.as_deref(), spoofers);
                    if let Some((_, first)) = raw.first_mut() {
                        hosts.prerouting(first);
                    }
                    chains.extend(raw);
                    chains.extend(tree);
                }
                Table::Filter => {
                    chains.extend(chains::filter(&state.settings, &self.style, spoofers, police));
                }
                Table::Mangle | Table::Nat => {}
            }
            let mut jumps = jumps(table, &state.settings, police);
            jumps.retain(|jump| chains.iter().any(|(name, _)| name == jump.to));
            let others =
                |name: &str| names::is_policy_or_profile(name) || chains::is_of_classes(name);
            out.replace_but(others, table, chains, jumps);
        }
    }

    /// What reports packets where tiers, classes and host endpoints end, which share it.
    fn ends(&self, scene: &Scene<'_>, out: &mut FamilyTables) {
        let Scene { state, chosen, .. } = *scene;
        let mut ends: [(Table, BTreeMap<String, Vec<String>>); 2] =
            [(Table::Mangle, BTreeMap::new()), (Table::Filter, BTreeMap::new())];
        if self.style.report.is_some() {
            let endpoints = chosen
                .endpoints()
                .filter_map(|(_, id)| state.host_endpoints.endpoints.get(id))
                .map(|endpoint| &**endpoint);
            let of_hosts = deny::ends_of_hosts(endpoints);
            let of_pods = deny::ends(state);
            for (table, wanted) in &mut ends {
                let style = self.style.of(*table);
                // What is asked before the destination is translated drops nothing where it ends.
                let filter = *table == Table::Filter;
                let late = of_hosts.iter().filter(|at| filter || at.direction == Direction::Egress);
                let pods = of_pods.iter().filter(|_| filter);
                wanted.extend(late.chain(pods).filter_map(|at| chains::denied(at, &style)));
            }
        }
        for (table, wanted) in ends {
            let left: Vec<String> = out
                .desired(table)
                .map(|(name, _)| name)
                .filter(|name| name.starts_with(names::DENY_AT_END) && !wanted.contains_key(*name))
                .map(str::to_owned)
                .collect();
            for name in left {
                out.remove(table, &name);
            }
            for (name, lines) in wanted {
                out.put(table, name, lines);
            }
        }
    }
}

/// What pods and hosts both need is the same.
fn rules_of<'a>(subject: &Subject, state: &'a DesiredState) -> Option<&'a ActiveRules> {
    let hosts = &state.host_endpoints;
    let rules = match subject {
        Subject::Policy(id) => state.policies.get(id).or_else(|| hosts.policies.get(id)),
        Subject::Profile(name) => state.profiles.get(name).or_else(|| hosts.profiles.get(name)),
    };
    rules.map(|rules| &**rules)
}

/// Where a policy or a profile drops.
fn point_of(subject: &Subject, direction: Direction) -> DenyPoint {
    let place = match subject {
        Subject::Policy(id) => DeniedBy::Policy(id.clone()),
        Subject::Profile(name) => DeniedBy::Profile(name.clone()),
    };
    DenyPoint { direction, place }
}

fn name_of(subject: &Subject, direction: Direction) -> String {
    match subject {
        Subject::Policy(id) => names::policy(id, direction),
        Subject::Profile(name) => names::profile(name, direction),
    }
}

/// Our jumps in the kernel's chains of a table; `hosts`: host endpoints are in force.
///
/// Without them there is none in OUTPUT of `filter`: packets of the host to its own pods are never
/// policed. And the shared chains are entered from chains of the kernel only, so nothing of ours is
/// reachable otherwise.
fn jumps(table: Table, settings: &Settings, hosts: bool) -> Vec<Jump> {
    let place = match (settings.insert_mode, table) {
        (InsertMode::Append, _) => Place::End,
        (InsertMode::Insert, Table::Nat) => Place::Anywhere,
        (InsertMode::Insert, _) => Place::Top,
    };
    let jump = |from, to| Jump { from, to, place };
    let mut jumps = match table {
        Table::Raw => vec![jump("PREROUTING", "cali-PREROUTING")],
        Table::Mangle => Vec::new(),
        Table::Nat => vec![
            jump("PREROUTING", "cali-PREROUTING"),
            jump("OUTPUT", "cali-OUTPUT"),
            jump("POSTROUTING", "cali-POSTROUTING"),
        ],
        Table::Filter => {
            vec![jump("FORWARD", "cali-FORWARD"), jump("INPUT", "cali-INPUT")]
        }
    };
    if hosts {
        match table {
            Table::Raw | Table::Filter => jumps.push(jump("OUTPUT", "cali-OUTPUT")),
            Table::Mangle => jumps.extend([
                jump("PREROUTING", "cali-PREROUTING"),
                jump("POSTROUTING", "cali-POSTROUTING"),
            ]),
            Table::Nat => {}
        }
    }
    jumps
}
