//! What else decides about packets: rules of others beside, before and behind ours, in the iptables
//! that we use, in the other one, and in nf_tables itself.
//!
//! A packet that we accept is accepted in our tables only. It goes through the other iptables and
//! through every table of nf_tables as well, and each of them may drop it.

use calico_datastore::model::Family;

use super::nft;
use super::ruleset::{End, Ruleset};
use crate::check::finding::{Finding, Findings, Group};
use crate::config::{AllowAction, InsertMode};
use crate::felix::Flavour;

/// What was read.
#[derive(Clone, Debug)]
pub struct FirewallFacts {
    /// The iptables that the agent uses, or would.
    pub chosen: Option<Flavour>,
    /// Where its jumps go.
    pub insert_mode: InsertMode,
    /// What an allowed packet does at the end of our chains.
    pub allow: AllowAction,
    /// What `iptables-save` and `ip6tables-save` print.
    pub saves: Vec<(Flavour, Family, String)>,
    /// What `nft -t list ruleset` prints; `None`: not asked, or no such program.
    pub nft: Option<String>,
    /// Every BGP session is up: whatever lets BGP in does.
    pub bgp_works: bool,
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
        let what = format!("{family} {flavour} FORWARD");
        match facts.chosen {
            Some(chosen) if chosen == *flavour => ours(&mut out, &what, rules, facts),
            Some(_) => other(&mut out, &what, rules),
            None => {}
        }
    }
    both(&mut out, &parsed, facts.chosen);
    if !facts.bgp_works {
        for (flavour, family, rules) in &parsed {
            bgp(&mut out, &format!("{family} {flavour} INPUT"), rules);
        }
    }
    for chain in facts.nft.as_deref().map(nft::forward_chains).unwrap_or_default() {
        let what = format!("nf_tables {}", chain.name);
        match chain.drops {
            Some(why) if !chain.mentions_pods => out.fail(
                what,
                format!("{why}: what policy accepts is dropped here all the same"),
                "accept packets from and to cali* in it (firewalld: put the interfaces into the zone trusted)",
            ),
            _ => out.ok(what, "drops nothing that policy accepts, as far as can be seen"),
        }
    }
    out.done()
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

/// The same chain of the iptables that we do not use.
fn other(out: &mut Findings, what: &str, rules: &Ruleset) {
    match rules.end_of("FORWARD") {
        Some((End::Drop, rule)) if !rules.accepts_pods("FORWARD") => out.fail(
            what,
            format!("`{rule}` drops what policy accepts: we use the other iptables, and an ACCEPT there does not count here"),
            "remove it, or move everything to one iptables (FELIX_IPTABLESBACKEND)",
        ),
        _ => {}
    }
}

fn both(out: &mut Findings, parsed: &[(Flavour, Family, Ruleset)], chosen: Option<Flavour>) {
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
    if let (Some((flavour, ..)), Some(_)) = (leftover, chosen) {
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

/// The port of BGP.
const BGP: &str = "179";

fn bgp(out: &mut Findings, what: &str, rules: &Ruleset) {
    if let Some((End::Drop, rule)) = rules.end_of("INPUT")
        && !rules.mentions_port(BGP)
    {
        out.warn(
            what,
            format!("`{rule}`, and no rule names TCP port {BGP}: BGP from the other hosts may be dropped"),
            "let it in from the other hosts (iptables -I INPUT -p tcp --dport 179 -s <hosts> -j ACCEPT)",
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
            insert_mode: InsertMode::Insert,
            allow: AllowAction::Accept,
            saves: vec![(flavour, Family::V4, text)],
            nft: None,
            bgp_works: false,
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
            (Legacy, "DROP", &["-A FORWARD -i cali+ -j ACCEPT"], Level::Ok),
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
        let found = judge(&facts(Flavour::Legacy, ufw.to_owned()));
        // Some come back out of it; what becomes of them is not known.
        assert_eq!(worst(&found), Level::Ok, "{found:#?}");
        let all = ufw.replace("-A ufw-forward -s 10.0.0.1/32 -j RETURN\n", "");
        let found = judge(&facts(Flavour::Legacy, all));
        assert_eq!(worst(&found), Level::Fail, "{found:#?}");
        assert!(found.iter().any(|f| f.finding.contains("ufw")), "{found:#?}");
    }

    #[test]
    fn bgp_has_to_come_in() {
        let closed = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\nCOMMIT\n".to_owned();
        let mut facts = facts(Flavour::Nft, closed.clone());
        assert_eq!(worst(&judge(&facts)), Level::Warn);
        facts.bgp_works = true;
        assert_eq!(worst(&judge(&facts)), Level::Ok);
        facts.bgp_works = false;
        let open = "-A INPUT -p tcp -m tcp --dport 179 -j ACCEPT\nCOMMIT";
        facts.saves[0].2 = closed.replace("COMMIT", open);
        assert_eq!(worst(&judge(&facts)), Level::Ok);
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
