//! Kinds of rules: what one part of the renderer writes is of one kind, names and numbers left away.

use calico_agent::felix::nftables::object::{InterfacePattern, Match, Rule, Statement, Verdict};
use calico_agent::felix::nftables::text;

/// What administrators wrote, wherever it is asked: one part of the renderer writes it.
const RULES: &str = "rules";

/// A chain without the name of a policy, a profile, a class or an interface.
pub(crate) fn kind_of_chain(name: &str) -> String {
    let (place, rest) = ["host-", "raw-", "early-", "late-"]
        .iter()
        .find_map(|place| Some((*place, name.strip_prefix(place)?)))
        .unwrap_or(("", name));
    let starts = |kinds: &[&str]| kinds.iter().any(|kind| rest.starts_with(kind));
    if starts(&["pi-", "po-", "pri-", "pro-"]) {
        return RULES.to_owned();
    }
    if starts(&["deny-"]) {
        return format!("{place}deny");
    }
    let tier = name.rsplit_once('/').is_some_and(|(_, last)| last.parse::<usize>().is_ok());
    if tier {
        return RULES.to_owned();
    }
    if name.starts_with("to-class-") || name.starts_with("from-class-") {
        return "class".to_owned();
    }
    for kind in ["from-host", "to-host"] {
        if let Some((before, after)) = name.split_once(kind)
            && after.starts_with(['-', '/'])
        {
            return format!("{before}{kind} endpoint");
        }
    }
    name.replace("reject-", "drop-")
}

/// Chains in which administrators say what is matched.
fn is_free(chain: &str) -> bool {
    chain == RULES
}

/// A criterion without names, numbers and family.
pub(crate) fn kind_of_match(chain: &str, one: &Match) -> String {
    let chain = kind_of_chain(chain);
    let rule = Rule { matches: vec![one.clone()], statements: Vec::new(), comment: None };
    let said = text::rule(&rule).replace("ip6 ", "ip ").replace("icmpv6", "icmp");
    let said = said.replace("0x00010000", "bit").replace("0x00000002", "bit");
    if !is_free(&chain) && !chain.starts_with("failsafe") && !chain.starts_with("raw-failsafe") {
        let said = said.replace("eth0", "eth*").replace("eth1", "eth*");
        let said = said.trim_end_matches("-nets").trim_end_matches(['4', '6']).to_owned();
        let said = said.replace("nfproto ipv4", "nfproto *").replace("nfproto ipv6", "nfproto *");
        let nat = chain.starts_with("nat-") || chain.starts_with("external");
        let said = match said.rsplit_once(' ') {
            Some((before, _)) if nat && matches!(one, Match::Address { .. }) => {
                format!("{before} *")
            }
            _ => said,
        };
        return format!("{chain}: {said}");
    }
    let not = if said.contains("!=") { "not " } else { "" };
    let what = match one {
        Match::Family(_) => "family",
        Match::Protocol { .. } => "protocol",
        Match::Address { .. } => "address",
        Match::AddressAmong { .. } => "addresses",
        Match::AddressIn { mask: Some(_), .. } => "masked set",
        Match::AddressIn { .. } => "set",
        Match::Ports { .. } => "ports",
        Match::AddressPortIn { .. } => "set of ports",
        Match::Icmp { code: None, .. } => "icmp",
        Match::Icmp { .. } => "icmp with code",
        Match::IcmpAmong { .. } => "messages",
        other => return format!("{chain}: {other:?}"),
    };
    format!("{chain}: {not}{what}")
}

/// What a rule does, without names and numbers.
pub(crate) fn kind_of_end(rule: &Rule) -> String {
    let one = |statement: &Statement| match statement {
        Statement::Counter => String::new(),
        Statement::Log { .. } | Statement::LogGroup { .. } => "log ".to_owned(),
        Statement::SetMark { value: 0, .. } => "clear ".to_owned(),
        Statement::SetMark { .. } => "mark ".to_owned(),
        Statement::Dnat { .. } => "dnat".to_owned(),
        Statement::Snat { to: Some(_), .. } => "snat".to_owned(),
        Statement::Snat { .. } => "masquerade".to_owned(),
        Statement::Reject => "drop".to_owned(),
        Statement::Verdict(Verdict::Goto(to)) if drops(to) => "drop".to_owned(),
        Statement::Verdict(Verdict::Goto(to)) => format!("goto {}", kind_of_chain(to)),
        Statement::Verdict(Verdict::Jump(to)) => format!("jump {}", kind_of_chain(to)),
        other => text::statement(other) + " ",
    };
    rule.statements.iter().map(one).collect::<String>().trim_end().to_owned()
}

/// True for the name of a chain that drops everything.
pub(crate) fn drops(chain: &str) -> bool {
    let kind = kind_of_chain(chain);
    kind.ends_with("deny") || kind.starts_with("drop-") || kind.starts_with("reject-")
}

/// No packet tells which of the two comes first: both do the same, or they are about two interfaces.
pub(crate) fn commute(one: &Rule, other: &Rule) -> bool {
    let ends = |rule: &Rule| match rule.statements.last() {
        Some(Statement::Verdict(Verdict::Accept | Verdict::Drop | Verdict::Goto(_))) => true,
        Some(last) => matches!(last, Statement::Dnat { .. } | Statement::Snat { .. }),
        None => false,
    };
    let interface = |rule: &Rule| match rule.matches.first() {
        Some(Match::Interface { name: InterfacePattern::Is(name), not: false, .. }) => {
            Some(name.clone())
        }
        _ => None,
    };
    let address = |rule: &Rule| match rule.matches.first() {
        Some(Match::Address { side, net, not: false }) => Some((*side, *net)),
        _ => None,
    };
    let apart = match (interface(one), interface(other)) {
        (Some(a), Some(b)) => a != b,
        _ => match (address(one), address(other)) {
            (Some((a, x)), Some((b, y))) => a == b && !x.overlaps(&y),
            _ => false,
        },
    };
    let same = kind_of_end(one) == kind_of_end(other) && ends(one);
    same || apart
}

/// The kind of a rule: its chain and what it does; where only the agent says what is matched, that too.
pub(crate) fn kind_of_rule(chain: &str, rule: &Rule) -> String {
    let of = kind_of_chain(chain);
    let end = kind_of_end(rule);
    if is_free(&of) || of.contains("failsafe") {
        return format!("{of}: {end}");
    }
    let matches = rule.matches.iter().map(|one| kind_of_match(chain, one).split_off(of.len() + 2));
    let words: Vec<String> = matches.chain([end]).collect();
    format!("{of}: {}", words.join(" "))
}

#[test]
fn kinds_leave_names_away() {
    for (name, kind) in [
        ("pi-default.a", "rules"),
        ("raw-po-a", "rules"),
        ("from-class-abc", "class"),
        ("from-class-abc/0", "rules"),
        ("from-host/others/2", "rules"),
        ("raw-from-host-eth0", "raw-from-host endpoint"),
        ("forward-to-host/others", "forward-to-host endpoint"),
        ("forward-to-host", "forward-to-host"),
        ("host-deny-iabc", "host-deny"),
        ("from-pod", "from-pod"),
    ] {
        assert_eq!(kind_of_chain(name), kind, "{name}");
    }
    assert!(drops("drop-to-pod") && drops("late-deny-x") && !drops("from-pod"));
}
