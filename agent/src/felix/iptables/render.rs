//! Which chains a desired state needs, object by object: a change makes the chains of what changed
//! again and no others.

mod nat;

use std::collections::BTreeMap;

use calico_datastore::model::{Action, Family, Name, PolicyId};

use super::chains;
use super::mac;
use super::marks::Marks;
use super::names;
use super::plan::{Jump, Place};
use super::rules::{Report, Style};
use super::save::Table;
use super::tables::FamilyTables;
use crate::config::{DenyAction, InsertMode, Settings};
use crate::desired::{AclClass, ActiveRules, Change, ClassId, DesiredDiff, DesiredState, SetId};
use crate::felix::endpoints::{InterfaceChanges, Interfaces};
use crate::felix::ruleset::deny::{self, DeniedBy, DenyPoint};
use crate::felix::ruleset::{self, Direction};

/// Writes the chains of one family into [`FamilyTables`].
#[derive(Clone, Debug)]
pub struct Renderer {
    style: Style,
    /// The settings switch the family off.
    off: bool,
    random_fully: bool,
}

/// Makes the chain of a policy or of a profile.
type Make = fn(&[ruleset::Rule], &Style) -> Vec<String>;

/// A policy or a profile.
#[derive(Clone, Copy)]
enum Source<'a> {
    Policy(&'a PolicyId),
    Profile(&'a Name),
}

impl Source<'_> {
    fn chain(self, direction: Direction) -> String {
        match self {
            Self::Policy(id) => names::policy(id, direction),
            Self::Profile(name) => names::profile(name, direction),
        }
    }

    fn make(self) -> Make {
        match self {
            Self::Policy(_) => chains::policy,
            Self::Profile(_) => chains::profile,
        }
    }

    fn point(self, direction: Direction) -> DenyPoint {
        let place = match self {
            Self::Policy(id) => DeniedBy::Policy(id.clone()),
            Self::Profile(name) => DeniedBy::Profile(name.clone()),
        };
        DenyPoint { direction, place }
    }
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
            log_prefix: format!("{prefix}: "),
        };
        let off = family == Family::V6 && !settings.ipv6;
        Some(Self { style, off, random_fully })
    }

    /// True when the settings switch the family off: nothing of it passes.
    pub fn is_off(&self) -> bool {
        self.off
    }

    /// The text that stands in for a chain that the kernel refuses.
    pub fn closed(&self) -> Vec<String> {
        chains::closed(&self.style)
    }

    /// Everything anew.
    pub fn all(&self, state: &DesiredState, interfaces: &Interfaces, out: &mut FamilyTables) {
        out.clear();
        if self.off {
            for table in [Table::Raw, Table::Filter] {
                let mut jumps = jumps(table, &state.settings);
                let chains = chains::off(table, &state.settings);
                jumps.retain(|jump| chains.iter().any(|(name, _)| name == jump.to));
                out.replace(table, chains, jumps);
            }
            return;
        }
        self.policies(state, |_| false, true, out);
        for (id, class) in &state.classes {
            self.class(id, class, state, out);
        }
        self.base(state, interfaces, out);
        self.dispatch(state, interfaces, out);
        self.raw(state, interfaces, out);
        self.nat(state, interfaces.externals(), out);
    }

    /// Every policy and profile, or with `others` false only the closed ones. Those that name a set for which `incomplete` says yes let nothing
    /// through: a set without some of its members would let its "deny" leak, and its "not in".
    pub fn policies(
        &self,
        state: &DesiredState,
        incomplete: impl Fn(&SetId) -> bool,
        others: bool,
        out: &mut FamilyTables,
    ) {
        let mut put = |rules: &ActiveRules, source: Source<'_>| {
            if ruleset::sets_named(rules).any(&incomplete) {
                for direction in Direction::ALL {
                    out.put(Table::Filter, source.chain(direction), self.closed());
                }
            } else if others {
                self.rules(rules, source, out);
            }
        };
        for (id, rules) in &state.policies {
            put(rules, Source::Policy(id));
        }
        for (name, rules) in &state.profiles {
            put(rules, Source::Profile(name));
        }
    }

    /// What changed.
    pub fn changed(
        &self,
        state: &DesiredState,
        diff: &DesiredDiff,
        interfaces: &Interfaces,
        changes: &InterfaceChanges,
        out: &mut FamilyTables,
    ) {
        if self.off {
            return;
        }
        for (id, change) in &diff.policies {
            self.rules_changed(change, Source::Policy(id), out);
        }
        for (name, change) in &diff.profiles {
            self.rules_changed(change, Source::Profile(name), out);
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
        if changes.spoofers {
            self.base(state, interfaces, out);
        }
        if !diff.classes.is_empty() || changes.spoofers {
            self.dispatch(state, interfaces, out);
        }
        if changes.macs || changes.spoofers {
            self.raw(state, interfaces, out);
        }
        if diff.pools || !changes.moved.is_empty() {
            self.nat(state, interfaces.externals(), out);
        }
    }

    fn rules_changed(
        &self,
        change: &Change<std::sync::Arc<ActiveRules>>,
        source: Source<'_>,
        out: &mut FamilyTables,
    ) {
        match change {
            Change::Added(rules) | Change::Updated { new: rules, .. } => {
                self.rules(rules, source, out);
            }
            Change::Removed(_) => {
                for direction in Direction::ALL {
                    out.remove(Table::Filter, &source.chain(direction));
                    out.remove(Table::Filter, &names::deny(&source.point(direction)));
                }
            }
        }
    }

    fn rules(&self, rules: &ActiveRules, source: Source<'_>, out: &mut FamilyTables) {
        for direction in Direction::ALL {
            let neutral = ruleset::rules(rules, direction, self.style.family);
            let point = source.point(direction);
            let lines = source.make()(&neutral, &self.style.at(&point));
            out.put(Table::Filter, source.chain(direction), lines);
            let denies = neutral.iter().any(|rule| rule.action == Action::Deny);
            match chains::denied(&point, &self.style).filter(|_| denies) {
                Some((name, lines)) => out.put(Table::Filter, name, lines),
                None => out.remove(Table::Filter, &names::deny(&point)),
            }
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

    /// What follows from the settings.
    fn base(&self, state: &DesiredState, interfaces: &Interfaces, out: &mut FamilyTables) {
        let spoofers = interfaces.spoofers().contains_key(&self.style.family);
        for (name, lines) in chains::filter(&state.settings, &self.style, spoofers) {
            out.put(Table::Filter, name, lines);
        }
    }

    fn dispatch(&self, state: &DesiredState, interfaces: &Interfaces, out: &mut FamilyTables) {
        let family = self.style.family;
        let spoofers = interfaces.spoofers().get(&family);
        for direction in Direction::ALL {
            let active = state.classes.iter().filter(|(_, class)| class.active).map(|(id, _)| id);
            let lines = chains::dispatch(active, spoofers, direction, family);
            out.put(Table::Filter, chains::dispatch_name(direction).to_owned(), lines);
        }
        self.ends(state, out);
    }

    /// What reports packets at the ends of tiers and classes, which share it.
    fn ends(&self, state: &DesiredState, out: &mut FamilyTables) {
        let mut ends: BTreeMap<String, Vec<String>> = BTreeMap::new();
        if self.style.report.is_some() {
            let ends_of = deny::ends(state);
            ends = ends_of.iter().filter_map(|at| chains::denied(at, &self.style)).collect();
        }
        let left: Vec<String> = out
            .desired(Table::Filter)
            .map(|(name, _)| name)
            .filter(|name| name.starts_with(names::DENY_AT_END) && !ends.contains_key(*name))
            .map(str::to_owned)
            .collect();
        for name in left {
            out.remove(Table::Filter, &name);
        }
        for (name, lines) in ends {
            out.put(Table::Filter, name, lines);
        }
    }

    fn raw(&self, state: &DesiredState, interfaces: &Interfaces, out: &mut FamilyTables) {
        let tree = mac::tree(interfaces.macs());
        let spoofers = interfaces.spoofers().contains_key(&self.style.family);
        let root = tree.first().map(|(name, _)| name.clone());
        let mut chains = chains::raw(&state.settings, self.style.family, root.as_deref(), spoofers);
        chains.extend(tree);
        out.replace(Table::Raw, chains, jumps(Table::Raw, &state.settings));
        out.jumps(Table::Filter, jumps(Table::Filter, &state.settings));
    }
}

/// Our jumps in the kernel's chains of a table.
///
/// There is none in OUTPUT of `filter`: packets of the host to its own pods are never policed. And the shared
/// chains are entered from chains of the kernel only, so nothing of ours is reachable otherwise.
fn jumps(table: Table, settings: &Settings) -> Vec<Jump> {
    let place = match (settings.insert_mode, table) {
        (InsertMode::Append, _) => Place::End,
        (InsertMode::Insert, Table::Nat) => Place::Anywhere,
        (InsertMode::Insert, _) => Place::Top,
    };
    let jump = |from, to| Jump { from, to, place };
    match table {
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
    }
}
