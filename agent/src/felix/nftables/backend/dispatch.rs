//! By what the class of a packet's endpoint is found: the group of its interface, or its name.
//!
//! Groups are the cheap way, and ours alone only as long as nobody else uses them. Somebody does who had put an
//! interface of a pod into a group before we came, or who puts it into another one again and again. Where the
//! settings leave it to us, names are used from then on, and stay: a table in the kernel is taken over as
//! it is, one that goes by names as one that goes by groups.

use std::fmt;

use super::Nftables;
use super::places::NONE;
use crate::config::NftablesDispatch;
use crate::felix::nftables::groups::Grouped;
use crate::felix::nftables::object::SetKind;
use crate::felix::nftables::read::Found;
use crate::felix::nftables::render::groups::{COUNT, is_ours};
use crate::felix::nftables::render::names;
use crate::felix::scene::Scene;

/// What is said where there are more classes than groups.
pub(super) const NO_GROUP: &str = "all 65535 groups of interfaces are given out (NftablesDispatch = \
                                   Interfaces knows no such limit)";
const _: () = assert!(COUNT == 65_535);

/// By what classes are found, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dispatch {
    setting: NftablesDispatch,
    /// Why groups are somebody else's.
    theirs: Option<String>,
}

impl Dispatch {
    /// What the setting says.
    pub(super) fn new(setting: NftablesDispatch) -> Self {
        Self { setting, theirs: None }
    }

    /// True when groups are used.
    pub(super) fn by_groups(&self) -> bool {
        match self.setting {
            NftablesDispatch::Auto => self.theirs.is_none(),
            NftablesDispatch::Groups => true,
            NftablesDispatch::Interfaces => false,
        }
    }

    /// Takes over another setting. What was found out is forgotten with the old one.
    pub(super) fn set_up(&mut self, setting: NftablesDispatch) {
        if self.setting != setting {
            *self = Self::new(setting);
        }
    }

    /// Looks whether groups are somebody else's, before the first run of this process does anything.
    pub(super) fn look<'a>(
        &mut self,
        found: Option<&Found>,
        links: impl IntoIterator<Item = &'a Grouped>,
        scene: &Scene<'_>,
    ) {
        match found.and_then(way_of) {
            Some(SetKind::VerdictsByName) => {
                self.yields(|| "it was so when the agent started".to_owned());
                return;
            }
            // Groups were ours when it was made; what is in another one was changed since.
            Some(SetKind::VerdictsByGroup) => return,
            _ => {}
        }
        let foreign = |link: &&Grouped| {
            let of_pod = scene.interfaces.endpoint(&link.name).is_some();
            of_pod && link.group != NONE && !is_ours(link.group)
        };
        if let Some(link) = links.into_iter().find(foreign) {
            let Grouped { name, group, .. } = link;
            self.yields(|| format!("somebody had put {name} into the group {group}"));
        }
    }

    /// Somebody else uses groups. False when that is known, or nobody asks.
    fn yields(&mut self, why: impl FnOnce() -> String) -> bool {
        let news = self.setting == NftablesDispatch::Auto && self.theirs.is_none();
        if news {
            self.theirs = Some(why());
        }
        news
    }
}

impl fmt::Display for Dispatch {
    /// Nothing where groups are used.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.theirs, self.by_groups()) {
            (_, true) => Ok(()),
            (Some(why), false) => write!(f, "; pods by the names of interfaces: {why}"),
            (None, false) => {
                f.write_str("; pods by the names of interfaces: the settings ask for it")
            }
        }
    }
}

impl Nftables {
    /// Somebody puts interfaces of pods into other groups again and again. True when something follows from it
    /// for the next run.
    pub(in crate::felix) fn groups_are_fought_about(&mut self, interface: &str) -> bool {
        let yields =
            self.dispatch.yields(|| format!("somebody else keeps changing the {interface}"));
        self.sure &= !yields;
        yields
    }

    /// Makes the renderer do what was found out. True when it uses groups and what is in the kernel goes by
    /// names: as long as it does, groups mean nothing, so they can be set beforehand.
    pub(super) fn turn_to(&mut self, found: Option<&Found>) -> bool {
        let groups = self.dispatch.by_groups();
        if self.renderer.uses_groups() != groups {
            self.renderer.use_groups(groups);
        }
        groups && found.and_then(way_of) == Some(SetKind::VerdictsByName)
    }
}

/// The kind of the map by which a table in the kernel finds classes.
fn way_of(found: &Found) -> Option<SetKind> {
    Some(found.sets.get(names::FROM)?.spec?.kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use calico_datastore::model::TierAction;

    use crate::config::Settings;
    use crate::desired::{AclClass, DesiredState, DirectionAcl, LocalEndpoint, TierAcl};
    use crate::felix::counters::Counters;
    use crate::felix::scene::Stage;
    use crate::felix::watch::Changes;
    use crate::routes::monitor::Links;

    fn class(n: u32) -> AclClass {
        let tier = TierAcl {
            tier: format!("t{n}").as_str().into(),
            policies: Vec::new(),
            default_action: TierAction::Deny,
        };
        let ingress = DirectionAcl { tiers: vec![tier], ..DirectionAcl::default() };
        AclClass { active: true, ingress, ..AclClass::default() }
    }

    fn endpoint(class: &AclClass) -> LocalEndpoint {
        LocalEndpoint {
            interface: "cali1".parse().unwrap(),
            active: true,
            mac: None,
            addresses: Vec::new(),
            nat: Vec::new(),
            spoof: Vec::new(),
            class: class.id(),
        }
    }

    #[test]
    fn endpoints_beyond_the_last_group_are_refused_until_there_is_room() {
        let mut state = DesiredState::default();
        for n in 0..=COUNT {
            let class = class(n);
            state.classes.insert(class.id(), Arc::new(class));
        }
        let (_, last) = state.classes.get_max().cloned().unwrap();
        let (first_id, first) = state.classes.get_min().cloned().unwrap();
        let settings = Settings::default();
        let made = Nftables::new(&settings, Counters::default(), Changes::default(), String::new());
        let mut nftables = made.unwrap();
        nftables.renderer.all(&Stage::of(&Arc::new(state.clone()), &Links::new()).scene(&state));
        assert!(nftables.refuses() && !nftables.renderer.has_room());
        let said = nftables.refusal(&endpoint(&last)).unwrap();
        assert!(said.starts_with("all 65535 groups of interfaces are given out"), "{said}");
        assert_eq!(nftables.refusal(&endpoint(&first)), None);
        // One that goes makes room for it.
        let old = Arc::new(state.clone());
        state.classes.remove(&first_id);
        let mut stage = Stage::of(&old, &Links::new());
        let update = stage.update(&Arc::new(state.clone()), &Links::new());
        nftables.renderer.changed(&stage.scene(&state), update.changed().unwrap());
        assert!(nftables.renderer.has_room());
        nftables.renderer.all(&stage.scene(&state));
        assert!(!nftables.refuses() && nftables.refusal(&endpoint(&last)).is_none());
    }

    #[test]
    fn why_names_are_used_is_said_once() {
        let mut dispatch = Dispatch::new(NftablesDispatch::Auto);
        assert!(dispatch.by_groups() && dispatch.to_string().is_empty());
        assert!(dispatch.yields(|| "first".to_owned()) && !dispatch.yields(|| "second".to_owned()));
        assert_eq!(dispatch.to_string(), "; pods by the names of interfaces: first");
        dispatch.set_up(NftablesDispatch::Auto);
        assert!(!dispatch.by_groups());
        dispatch.set_up(NftablesDispatch::Groups);
        assert!(dispatch.by_groups() && !dispatch.yields(|| "third".to_owned()));
        dispatch.set_up(NftablesDispatch::Interfaces);
        assert!(!dispatch.by_groups());
    }
}
