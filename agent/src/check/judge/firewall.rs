//! What else decides about packets: rules of others beside, before and behind ours, in the iptables
//! that we use, in the other one, and in nf_tables itself.
//!
//! A packet that we accept is accepted in our tables only. It goes through the other iptables and
//! through every table of nf_tables as well, and each of them may drop it.

use std::net::IpAddr;

use calico_datastore::model::Family;

use super::ruleset::{End, Ruleset};
use crate::beside::rules::Table;
use crate::beside::{Bgp, Facts, Flow, manager, obstacles, save};
use crate::check::finding::{Finding, Findings, Group};
use crate::config::{AllowAction, InsertMode};
use crate::felix::Flavour;

/// What was read.
#[derive(Clone, Debug)]
pub struct FirewallFacts {
    /// The iptables that the agent uses, or would.
    pub chosen: Option<Flavour>,
    /// It uses, or would, a table of its own instead.
    pub nftables: bool,
    /// Where its jumps go.
    pub insert_mode: InsertMode,
    /// What an allowed packet does at the end of our chains.
    pub allow: AllowAction,
    /// What `iptables-save` and `ip6tables-save` print.
    pub saves: Vec<(Flavour, Family, String)>,
    /// The tables of nf_tables that are neither ours nor of iptables; `None`: there is no `nft`.
    pub nft: Result<Option<Vec<Table>>, String>,
    /// The hosts from which BGP has to come in, unless every session is up.
    pub bgp: Bgp,
    /// What names of pods' interfaces begin with.
    pub prefixes: Vec<String>,
    /// The interfaces that lead to other hosts.
    pub uplinks: Vec<String>,
    /// An address of a pod, of each family that is in use.
    pub pods: Vec<IpAddr>,
}

/// Judges all rule sets.
pub fn judge(facts: &FirewallFacts) -> Vec<Finding> {
    let mut out = Findings::of(Group::Firewall);
    let parsed: Vec<(Flavour, Family, Ruleset)> = facts
        .saves
        .iter()
        .map(|(flavour, family, text)| (*flavour, *family, Ruleset::parse(text)))
        .collect();
    for (flavour, family, rules) in &parsed {
        if facts.chosen == Some(*flavour) {
            ours(&mut out, &format!("{family} {flavour} FORWARD"), rules, facts);
        }
    }
    both(&mut out, &parsed, facts);
    beside(&mut out, facts);
    out.done()
}

/// What drops accepted packets where our chains cannot help: in the other iptables, in another table.
fn beside(out: &mut Findings, facts: &FirewallFacts) {
    let nft = match &facts.nft {
        Ok(Some(tables)) => tables.clone(),
        Ok(None) => {
            out.warn(
                "nf_tables",
                "there is no nft, so nobody can say whether tables of others drop what policy accepts",
                "install the package nftables",
            );
            Vec::new()
        }
        Err(error) => {
            out.warn("nf_tables", error.clone(), "try `nft -j list chains`");
            Vec::new()
        }
    };
    let is_own = facts.nftables;
    let facts = Facts {
        nft,
        iptables: facts
            .saves
            .iter()
            .map(|(flavour, family, text)| {
                (*flavour, *family, save::parse(*flavour, *family, text))
            })
            .collect(),
        chosen: facts.chosen,
        allow: facts.allow,
        prefixes: facts.prefixes.clone(),
        uplinks: facts.uplinks.clone(),
        pods: facts.pods.clone(),
        bgp: facts.bgp.clone(),
    };
    let found = obstacles(&facts);
    for obstacle in &found {
        let bgp = obstacle.flows == [Flow::Bgp];
        // What is in the chain that calls ours is judged above.
        let judged = obstacle.flavour == facts.chosen && obstacle.chain == "FORWARD";
        let is_idle = facts.chosen.is_none() && !is_own;
        if obstacle.flavour.is_some() && (is_idle || judged && !bgp) {
            continue;
        }
        let place = match obstacle.flavour {
            Some(_) => obstacle.place(),
            None => format!("nf_tables {}", obstacle.place()),
        };
        let advice = manager::advice(obstacle, &facts.prefixes);
        // Who lets in some hosts, or does what is not understood, has mostly thought of it.
        let somebody = facts.bgp == Bgp::Somewhere;
        match (bgp, obstacle.unless.is_some()) {
            (true, true) => {}
            (true, false) if somebody => out.warn(place, obstacle.finding(), advice),
            (false, true) => out.warn(place, obstacle.finding(), advice),
            (_, false) => out.fail(place, obstacle.finding(), advice),
        }
    }
    for table in &facts.nft {
        if !found.iter().any(|obstacle| obstacle.table == table.name) {
            let what = format!("nf_tables {}", table.name);
            out.ok(what, "drops nothing that policy accepts, as far as can be seen");
        }
    }
}

/// The chain that ours is called from.
fn ours(out: &mut Findings, what: &str, rules: &Ruleset, facts: &FirewallFacts) {
    let before = rules.end_before_ours("FORWARD");
    let appended = facts.insert_mode == InsertMode::Append;
    if let (Some((end, rule)), true) = (before, appended || rules.has_ours("FORWARD")) {
        let effect = match end {
            End::Accept => "accepts everything before policy is asked",
            End::Drop => "drops everything before policy is asked",
        };
        let advice = if appended {
            "remove it, or leave out FELIX_CHAININSERTMODE=append"
        } else {
            "the agent puts its jump before it again; find out who inserts it"
        };
        out.fail(what, format!("`{rule}` {effect}"), advice);
        return;
    }
    let strangers = rules.before_ours("FORWARD");
    if strangers > 0 && !appended {
        out.warn(
            what,
            format!("{strangers} rules of others stand before our jump and decide first"),
            "the agent moves its jump back; find out who inserts them",
        );
        return;
    }
    let behind = rules.end_behind_ours("FORWARD");
    match (facts.allow, behind) {
        (AllowAction::Return, Some((End::Drop, rule))) => out.fail(
            what,
            format!(
                "`{rule}` drops what policy accepts, because IptablesFilterAllowAction is Return"
            ),
            "accept packets from and to cali* before it, or leave out that setting",
        ),
        (_, Some((End::Drop, rule))) => {
            out.ok(what, format!("`{rule}`, behind what policy accepts"));
        }
        _ => out.ok(what, "nothing of others drops what policy accepts"),
    }
}

fn both(out: &mut Findings, parsed: &[(Flavour, Family, Ruleset)], facts: &FirewallFacts) {
    let FirewallFacts { chosen, nftables, .. } = *facts;
    let count = |wanted: Flavour| -> usize {
        parsed.iter().filter(|(f, ..)| *f == wanted).map(|(.., rules)| rules.foreign()).sum()
    };
    let (legacy, nft) = (count(Flavour::Legacy), count(Flavour::Nft));
    if legacy > 0 && nft > 0 {
        out.warn(
            "two iptables",
            format!("others have {legacy} rules in iptables-legacy and {nft} in iptables-nft: whoever looks at one does not see the other, and a packet has to pass both"),
            "move everything to one (update-alternatives --config iptables)",
        );
    }
    let leftover = parsed.iter().find(|(f, _, rules)| Some(*f) != chosen && rules.holds_ours());
    if let Some((flavour, ..)) = leftover.filter(|_| chosen.is_some() || nftables) {
        out.warn(
            "two iptables",
            format!("chains of ours are in {flavour}, which is not the one in use"),
            "the agent removes them when it starts: systemctl restart calico-agent",
        );
    }
    let mut names: Vec<&str> = parsed.iter().flat_map(|(.., rules)| rules.owners()).collect();
    names.sort_unstable();
    names.dedup();
    if !names.is_empty() {
        out.ok("rules of others", format!("{} is at work here as well", names.join(", ")));
    }
    let felix = parsed.iter().any(|(.., rules)| rules.holds_felix());
    if felix {
        out.warn(
            "rules of Felix",
            "chains of the original agent are there",
            "stop calico/node for good; the agent takes them over when it starts",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::{Level, worst};

    const OURS: &str = "-A FORWARD -m comment --comment \"cali:abcdefghijklmnop\" -j cali-FORWARD";

    fn save(policy: &str, rules: &[&str]) -> String {
        format!(
            "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD {policy} [0:0]\n:cali-FORWARD - [0:0]\n{}\nCOMMIT\n",
            rules.join("\n")
        )
    }

    fn facts(flavour: Flavour, text: String) -> FirewallFacts {
        FirewallFacts {
            chosen: Some(Flavour::Nft),
            nftables: false,
            insert_mode: InsertMode::Insert,
            allow: AllowAction::Accept,
            saves: vec![(flavour, Family::V4, text)],
            nft: Ok(Some(Vec::new())),
            bgp: Bgp::Somewhere,
            prefixes: vec!["cali".to_owned()],
            uplinks: vec!["eth0".to_owned()],
            pods: vec![IpAddr::from([192, 168, 0, 1])],
        }
    }

    #[test]
    fn beside_a_table_of_our_own_every_iptables_may_drop() {
        let let_in = ["-A FORWARD -i cali+ -j ACCEPT", "-A FORWARD -o cali+ -j ACCEPT"];
        for flavour in [Flavour::Legacy, Flavour::Nft] {
            for (policy, rules, level) in [
                ("ACCEPT", &[][..], Level::Ok),
                ("DROP", &[], Level::Fail),
                ("DROP", &let_in, Level::Ok),
                // What an earlier run left.
                ("ACCEPT", &[OURS], Level::Warn),
            ] {
                let text = save(policy, rules).replace(
                    ":cali-FORWARD - [0:0]\n",
                    if rules == [OURS] { ":cali-FORWARD - [0:0]\n" } else { "" },
                );
                let on = |nftables| {
                    judge(&FirewallFacts { chosen: None, nftables, ..facts(flavour, text.clone()) })
                };
                assert_eq!(worst(&on(true)), level, "{flavour} {policy} {rules:?}");
                // Where no agent can run, nothing is dropped of it.
                assert_eq!(worst(&on(false)), Level::Ok, "{flavour} {policy} {rules:?}");
            }
        }
    }

    #[test]
    fn what_would_drop_an_accepted_packet() {
        let reject = "-A FORWARD -j REJECT --reject-with icmp-host-prohibited";
        let drop_some = "-A FORWARD -s 10.9.0.0/16 -j DROP";
        let accept = "-A FORWARD -j ACCEPT";
        use Flavour::{Legacy, Nft};
        for (flavour, policy, rules, level) in [
            (Nft, "ACCEPT", &[][..], Level::Ok),
            (Nft, "ACCEPT", &[OURS], Level::Ok),
            // Behind ours, where everything of a pod is decided.
            (Nft, "DROP", &[OURS], Level::Ok),
            (Nft, "DROP", &[], Level::Ok),
            (Nft, "ACCEPT", &[OURS, reject], Level::Ok),
            (Nft, "ACCEPT", &[reject], Level::Ok),
            // Before ours.
            (Nft, "ACCEPT", &[reject, OURS], Level::Fail),
            (Nft, "ACCEPT", &[accept, OURS], Level::Fail),
            (Nft, "ACCEPT", &[drop_some, OURS], Level::Warn),
            // In the other iptables.
            (Legacy, "ACCEPT", &[], Level::Ok),
            (Legacy, "ACCEPT", &[drop_some], Level::Ok),
            (Legacy, "DROP", &[], Level::Fail),
            (Legacy, "DROP", &[accept], Level::Ok),
            (Legacy, "ACCEPT", &[reject], Level::Fail),
            (Legacy, "DROP", &["-A FORWARD -i cali+ -j ACCEPT"], Level::Fail),
            (Legacy, "DROP", &["-A FORWARD -o cali+ -j ACCEPT"], Level::Fail),
            (
                Legacy,
                "DROP",
                &["-A FORWARD -i cali+ -j ACCEPT", "-A FORWARD -o cali+ -j ACCEPT"],
                Level::Ok,
            ),
            // Perhaps, who knows.
            (Legacy, "DROP", &["-A FORWARD -m mark --mark 0x1 -j ACCEPT"], Level::Warn),
        ] {
            let mut text = save(policy, rules);
            if flavour == Legacy {
                text = text.replace(":cali-FORWARD - [0:0]\n", "");
            }
            let found = judge(&facts(flavour, text));
            assert_eq!(worst(&found), level, "{flavour} {policy} {rules:?}: {found:#?}");
        }
    }

    #[test]
    fn settings_change_what_is_harmless() {
        let mut facts = facts(Flavour::Nft, save("DROP", &[OURS]));
        facts.allow = AllowAction::Return;
        assert_eq!(worst(&judge(&facts)), Level::Fail);
        facts.saves[0].2 = save("ACCEPT", &[OURS]);
        assert_eq!(worst(&judge(&facts)), Level::Ok);
        facts.allow = AllowAction::Accept;
        facts.insert_mode = InsertMode::Append;
        facts.saves[0].2 = save("ACCEPT", &["-A FORWARD -j REJECT"]);
        assert_eq!(worst(&judge(&facts)), Level::Fail);
    }

    #[test]
    fn a_jump_that_ends_in_a_reject_is_one() {
        let ufw = "*filter\n:FORWARD ACCEPT [0:0]\n:ufw-forward - [0:0]\n:ufw-reject - [0:0]\n\
                   -A FORWARD -j ufw-forward\n-A ufw-forward -s 10.0.0.1/32 -j RETURN\n\
                   -A ufw-forward -j ufw-reject\n-A ufw-reject -j REJECT\nCOMMIT\n";
        // What comes back out of it are others' packets.
        let found = judge(&facts(Flavour::Legacy, ufw.to_owned()));
        assert_eq!(worst(&found), Level::Fail, "{found:#?}");
        let pods = ufw.replace("-s 10.0.0.1/32", "-d 0.0.0.0/0");
        let found = judge(&facts(Flavour::Legacy, pods));
        assert_eq!(worst(&found), Level::Ok, "{found:#?}");
        assert!(found.iter().any(|f| f.finding.contains("ufw")), "{found:#?}");
    }

    #[test]
    fn bgp_has_to_come_in() {
        let closed = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\nCOMMIT\n".to_owned();
        let mut facts = facts(Flavour::Nft, closed.clone());
        assert_eq!(worst(&judge(&facts)), Level::Warn);
        facts.bgp = Bgp::Works;
        assert_eq!(worst(&judge(&facts)), Level::Ok);
        facts.bgp = Bgp::Somewhere;
        let open = "-A INPUT -p tcp -m tcp --dport 179 -j ACCEPT\nCOMMIT";
        facts.saves[0].2 = closed.replace("COMMIT", open);
        assert_eq!(worst(&judge(&facts)), Level::Ok);
        // From some hosts: which they have to be is not known here.
        facts.saves[0].2 = closed.replace("COMMIT", &open.replace("-p", "-s 10.9.0.0/16 -p"));
        assert_eq!(worst(&judge(&facts)), Level::Ok);
        facts.saves[0].2 = closed.replace("COMMIT", &open.replace("179", "22"));
        assert_eq!(worst(&judge(&facts)), Level::Warn);
    }

    #[test]
    fn both_iptables_in_use_and_what_an_original_left() {
        let rule = "-A FORWARD -s 10.9.0.0/16 -j DROP";
        let mut two = facts(Flavour::Nft, save("ACCEPT", &[OURS, rule]));
        assert_eq!(worst(&judge(&two)), Level::Ok);
        let legacy = save("ACCEPT", &[rule]).replace(":cali-FORWARD - [0:0]\n", "");
        two.saves.push((Flavour::Legacy, Family::V4, legacy));
        assert_eq!(worst(&judge(&two)), Level::Warn);
        let felix = ":felix-FORWARD - [0:0]\nCOMMIT";
        let left = facts(Flavour::Nft, save("ACCEPT", &[OURS]).replace("COMMIT", felix));
        assert_eq!(worst(&judge(&left)), Level::Warn);
    }
}
