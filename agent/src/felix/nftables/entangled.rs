//! Which sets may not change where they are, when a table that is there becomes another: pure.

use std::collections::BTreeSet;

use super::contents::Contents;
use super::expr::{Expr, SetRef};
use super::object::{Element, Name, Verdict};
use super::plan::target;
use super::read::{Found, FoundChain};
use super::render::Renderer;
use crate::felix::scene::Scene;

/// The sets that hold something else, and that rules ask which say something else, too. A packet that
/// is in the old rules while the change comes into force would find the new members.
///
/// Only chains that are there and change count, with what they jump to: no packet is in a new one yet,
/// and one that goes is in nobody's way any more. Verdict maps are not followed: an interface comes into
/// the group of another class before or after the change of the table, not with it. But the chains that a
/// key led to count when it leads elsewhere from now on. A set of another type is one of them, whatever
/// asks it.
fn entangled(found: &Found, wanted: &Contents) -> BTreeSet<Name> {
    let mut others = BTreeSet::new();
    let mut out = BTreeSet::new();
    for (name, wanted) in &wanted.sets {
        let Some(set) = found.sets.get(name) else { continue };
        if set.spec != Some(wanted.spec) {
            out.insert(name.clone());
        } else if !set.holds(wanted) {
            others.insert(name.clone());
        }
    }
    if others.is_empty() {
        return out;
    }
    let changing = wanted.chains.iter().filter(|(name, chain)| !found.holds(name, chain));
    let mut seen: BTreeSet<&str> = changing.map(|(name, _)| &**name).collect();
    seen.extend(left(found, wanted));
    let mut ahead: Vec<&str> = seen.iter().copied().collect();
    while let Some(name) = ahead.pop() {
        let Some(chain) = found.chains.get(name) else { continue };
        for expr in exprs(chain) {
            match expr {
                Expr::Lookup { set: SetRef::Named(name), .. } => {
                    out.extend(others.get(name.as_str()).cloned());
                }
                Expr::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) if seen.insert(to) => {
                    ahead.push(to);
                }
                _ => {}
            }
        }
    }
    out
}

/// Gives such sets other names, so that the rules that are there go on asking the old ones. Rules that name
/// one of them become others as well, and what else they name follows.
pub(in crate::felix) fn apart(
    renderer: &mut Renderer,
    scene: &Scene<'_>,
    found: &Found,
    mut wanted: Contents,
) -> Contents {
    let mut renewed = BTreeSet::new();
    loop {
        let entangled = entangled(found, &wanted);
        if !renderer.renew(|name| entangled.contains(name), &mut renewed) {
            return wanted;
        }
        wanted = renderer.all(scene);
    }
}

/// The chains that keys of maps lead to which lead elsewhere from now on.
fn left<'a>(found: &'a Found, wanted: &'a Contents) -> impl Iterator<Item = &'a str> {
    let maps = found.sets.iter().filter_map(|(name, set)| Some((set, wanted.sets.get(name)?)));
    let keys = maps.flat_map(|(set, wanted)| set.elements.iter().map(move |one| (one, wanted)));
    keys.filter_map(|(element, wanted)| {
        let (Element::Group(_, verdict) | Element::Named(_, verdict)) = element else {
            return None;
        };
        let (old, new) = (target(verdict)?, wanted.elements.verdict(element)?);
        (target(new) != Some(old)).then_some(&**old)
    })
}

fn exprs(chain: &FoundChain) -> impl Iterator<Item = &Expr> {
    chain.rules.iter().flat_map(|rule| &rule.exprs)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use calico_datastore::model::{Action, Family};

    use super::super::compare::tests::shown;
    use super::super::contents::Set;
    use super::super::object::{Chain, Match, Rule, SetKind, SetSpec, Side, Statement};
    use super::super::render::Options;
    use super::*;
    use crate::config::Settings;
    use crate::desired::{
        AclClass, ActiveRule, ActiveRules, AddressSet, DesiredState, DirectionAcl, Member, SetId,
        SetKind as MemberKind, SideMatch,
    };
    use crate::felix::scene::Stage;
    use crate::routes::monitor::Links;

    fn asks(set: &str, verdict: Verdict) -> Rule {
        let (side, family) = (Side::Source, Family::V4);
        let ask = Match::AddressIn { side, family, set: set.into(), mask: None, not: false };
        Rule { matches: vec![ask], statements: vec![Statement::Verdict(verdict)], comment: None }
    }

    fn to(chain: &str) -> Rule {
        let verdict = Verdict::Jump(chain.into());
        Rule { matches: vec![], statements: vec![Statement::Verdict(verdict)], comment: None }
    }

    fn with(chains: &[(&str, Vec<Rule>)], sets: &[(&str, &[&str])]) -> Contents {
        let spec = SetSpec { kind: SetKind::Address(Family::V4), counters: false };
        let chain = |rules: &Vec<Rule>| Arc::new(Chain { base: None, rules: rules.clone() });
        let element = |text: &&str| Element::Address(text.parse().unwrap());
        let set = |all: &[&str]| Set { spec, elements: all.iter().map(element).collect() };
        Contents {
            chains: chains.iter().map(|(name, rules)| ((*name).into(), chain(rules))).collect(),
            sets: sets.iter().map(|(name, all)| ((*name).into(), set(all))).collect(),
        }
    }

    fn names(found: &Contents, wanted: &Contents) -> Vec<String> {
        entangled(&shown(found), wanted).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_sets_that_change_with_rules_that_packets_are_in() {
        use Verdict::{Accept, Drop};
        let policy = || ("policy", vec![asks("s", Accept)]);
        let class = |name: &'static str| (name, vec![to("policy")]);
        let small: [(&str, &[&str]); 2] = [("s", &["10.0.0.1"]), ("t", &["10.0.0.1"])];
        let large: [(&str, &[&str]); 2] = [("s", &["10.0.0.1", "10.0.0.2"]), ("t", &["10.0.0.1"])];
        let before = with(&[class("a"), policy()], &small);

        // A member more, and a class more that asks for it.
        assert_eq!(names(&before, &with(&[class("a"), policy()], &large)), [""; 0]);
        let more = with(&[class("a"), class("b"), policy()], &large);
        assert_eq!(names(&before, &more), [""; 0]);
        // A class less.
        assert_eq!(names(&more, &with(&[class("a"), policy()], &small)), [""; 0]);
        // The rule that asks, too.
        let denies = ("policy", vec![asks("s", Drop)]);
        assert_eq!(names(&before, &with(&[class("a"), denies.clone()], &large)), ["s"]);
        // The same members.
        assert_eq!(names(&before, &with(&[class("a"), denies], &small)), [""; 0]);
        // What leads there.
        let first = ("a", vec![asks("t", Drop), to("policy")]);
        assert_eq!(names(&before, &with(&[first, policy()], &large)), ["s"]);
        // What asks only from now on.
        let elsewhere = ("b", vec![asks("s", Drop)]);
        let old = with(&[class("a"), policy(), ("b", vec![])], &small);
        assert_eq!(names(&old, &with(&[class("a"), policy(), elsewhere], &large)), [""; 0]);
    }

    #[test]
    fn so_are_sets_of_a_class_that_an_interface_leaves_with_the_change() {
        let accepts = || vec![asks("s", Verdict::Accept)];
        let table = |class: &str, goes_there: fn(Name) -> Verdict, members: &[&str]| {
            let chains = [("a", vec![to("policy")]), ("b", vec![]), ("policy", accepts())];
            let mut all = with(&chains, &[("s", members)]);
            let spec = SetSpec { kind: SetKind::VerdictsByName, counters: false };
            let key = Element::Named("cali1".parse().unwrap(), goes_there(class.into()));
            all.sets.insert("map".into(), Set { spec, elements: [key].into_iter().collect() });
            all
        };
        let before = table("a", Verdict::Goto, &["10.0.0.1"]);
        let more = ["10.0.0.1", "10.0.0.2"];
        assert_eq!(names(&before, &table("b", Verdict::Jump, &more)), ["s"]);
        // The same place by another verdict, and an interface that is no more.
        assert_eq!(names(&before, &table("a", Verdict::Jump, &more)), [""; 0]);
        let mut gone = table("a", Verdict::Jump, &more);
        gone.sets.get_mut("map").unwrap().elements = Default::default();
        assert_eq!(names(&before, &gone), [""; 0]);
    }

    /// Profiles of these names, whose rules are about these sets, of as many members.
    fn state(profiles: &[(&str, &[(Action, &str)])], members: u8) -> Arc<DesiredState> {
        let mut state = DesiredState::default();
        let rule = |(action, set): &(Action, &str)| ActiveRule {
            origin: 0,
            action: *action,
            family: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: SideMatch { sets: vec![SetId::new(*set)], ..SideMatch::default() },
            destination: SideMatch::default(),
        };
        for (name, rules) in profiles {
            for (_, id) in *rules {
                let net = |n| Member::Net(format!("10.0.0.{n}/32").parse().unwrap());
                let members = (1..=members).map(net).collect();
                let set = AddressSet { kind: MemberKind::Net, selector: "all()".into(), members };
                state.sets.insert(SetId::new(*id), set);
            }
            let ingress = rules.iter().map(rule).collect();
            let rules = ActiveRules { ingress, egress: Vec::new() };
            state.profiles.insert((*name).into(), Arc::new(rules));
        }
        let profiles = profiles.iter().map(|(name, _)| (*name).into()).collect();
        let ingress = DirectionAcl { profiles, ..DirectionAcl::default() };
        let class = AclClass { active: true, ingress, ..AclClass::default() };
        state.classes.insert(class.id(), Arc::new(class));
        Arc::new(state)
    }

    #[test]
    fn rules_that_change_for_that_reason_only_take_their_other_sets_along() {
        use Action::{Allow, Deny};
        let q: &[_] = &[(Allow, "t"), (Allow, "u")];
        let before = state(&[("p", &[(Allow, "s"), (Allow, "t")]), ("q", q)], 1);
        let after = state(&[("p", &[(Deny, "s"), (Allow, "t")]), ("q", q)], 2);
        let options = Options { groups: true, random_fully: true };
        let new = || Renderer::new(&Settings::default(), options).unwrap();
        let stage = Stage::of(&before, &Links::new());
        let found = shown(&new().all(&stage.scene(&before)));
        let stage = Stage::of(&after, &Links::new());
        let scene = stage.scene(&after);
        let mut renderer = new();
        renderer.take_over(&scene, &found.contents(), []);
        let wanted = renderer.all(&scene);
        let asked = |wanted: &Contents| -> Vec<String> {
            let sets = wanted.sets.keys().filter(|name| name.starts_with("set4-"));
            sets.map(ToString::to_string).collect()
        };
        assert_eq!(asked(&wanted), ["set4-s", "set4-t", "set4-u"]);
        assert_eq!(entangled(&found, &wanted), ["set4-s".into(), "set4-t".into()].into());
        let wanted = apart(&mut renderer, &scene, &found, wanted);
        assert_eq!(asked(&wanted), ["set4-s.b", "set4-t.b", "set4-u.b"]);
    }

    #[test]
    fn a_circle_ends() {
        let circle = |verdict| vec![("a", vec![to("b")]), ("b", vec![to("a"), asks("s", verdict)])];
        let before = with(&circle(Verdict::Accept), &[("s", &[])]);
        let after = with(&circle(Verdict::Drop), &[("s", &["10.0.0.1"])]);
        assert_eq!(names(&before, &after), ["s"]);
    }
}
