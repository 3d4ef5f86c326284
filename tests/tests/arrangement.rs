//! Which test runs on which dataplane: on each of the three, or for a reason that is written here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// What runs on every dataplane in each run of all tests: what an administrator relies on first, and what
/// found faults that one dataplane had and the others had not. Everything else runs on one of them, and in
/// `make full` on all.
const SMOKE: [&str; 16] = [
    "a_boot_without_etcd_starts_with_the_last_policy",
    "a_crash_and_an_outage_change_nothing",
    "a_denied_flow_ends_with_its_hole",
    "a_pod_made_again_gets_its_file_with_its_rules",
    "a_restart_on_an_unchanged_world_writes_nothing",
    "both_tables_are_right",
    "foreign_things_are_untouched",
    "no_packet_is_wrong_while_agents_are_killed",
    "one_endpoint_costs_the_same_among_many",
    "random_policies",
    "the_first_packet_of_a_pod_is_judged",
    "the_first_packet_to_a_pod_is_judged",
    "the_host_is_as_it_was",
    "the_page_about_host_endpoints",
    "the_tutorial",
    "what_others_change_is_repaired",
];

/// Programs, or single tests of one (`program::test`), that do not run on each dataplane.
const APART: [(&str, &str); 34] = [
    ("arrangement", "it reads the tests"),
    ("bad_input::without_iptables_policy_is_enforced_by_nftables", "it says which"),
    (
        "bad_input::without_the_iptables_that_is_wanted_it_ends_with_one_error_and_touches_nothing",
        "it wants what is missing",
    ),
    ("check", "no policy is programmed but beside a running agent, of the one that `auto` takes"),
    ("commands", "what the documents say, with `auto`"),
    ("credentials", "how the agent comes to its keys for etcd"),
    ("debian", "the package, with `auto`"),
    ("demo::the_program_ends_with_success_when_all_is_right", "the program, with `auto`"),
    ("demo::the_program_ends_with_failure_when_an_agent_does", "no agent runs"),
    ("demo::an_interrupt_cleans_up", "the program, with `auto`"),
    ("demo::what_was_kept_runs_on_until_it_is_cleaned", "the program, with `auto`"),
    ("diags", "what is packed, with `auto`"),
    ("documents", "what README.md says, with what it says"),
    ("evaluators", "calculated only"),
    ("first_hour", "what the page says, with `auto`"),
    ("fixture::every_piece_of_the_fixture_decides_about_some_packet", "calculated only"),
    ("fixture::the_checksum_is_that_of_the_standard", "calculated only"),
    ("groups", "what is written to the datastore"),
    ("hangs", "what hangs beside the agent; programs: only iptables has any"),
    ("harness", "no agent runs"),
    (
        "kills::a_packet_that_slips_through_and_one_that_is_lost_are_counted",
        "agents are stopped: how the test counts is tested",
    ),
    (
        "kills::a_program_that_outlives_its_agent_opens_nothing_for_long",
        "the lock of legacy tables",
    ),
    ("least_rights", "what etcd allows"),
    ("node_command", "the units, with `auto`"),
    ("managers", "each names two dataplanes: its own and the manager's"),
    ("originals", "who shares a datastore, with `auto`"),
    ("plugin_agent::an_agent_that_cannot_write_protects_nobody", "the lock of legacy tables"),
    ("provisioning", "machines that set themselves up, with `auto`"),
    ("release", "what is handed out"),
    ("spoof::forged_senders_come_through_without_an_agent", "no agent runs"),
    ("spoof::link_local_senders_come_through_without_an_agent", "no agent runs"),
    ("systemd", "the units, with `auto`"),
    ("takeover", "each names two dataplanes: that of an original Felix and ours"),
    ("virtual_machine", "a kernel of its own: with `auto`, and there with each"),
];

/// A program of tests: its name, and the text of all its files.
fn programs() -> Result<Vec<(String, String)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        let name = path.file_stem().context("a name")?.to_string_lossy().into_owned();
        let mut files: Vec<PathBuf> = if path.is_dir() {
            let inside = std::fs::read_dir(&path)?;
            inside.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?
        } else {
            vec![path]
        };
        files.retain(|file| file.extension().is_some_and(|kind| kind == "rs"));
        files.sort();
        let texts = files.iter().map(std::fs::read_to_string);
        all.push((name, texts.collect::<Result<Vec<_>, _>>()?.concat()));
    }
    all.sort();
    Ok(all)
}

/// The tests of a program that run on each dataplane, by their set, and those that do not.
fn tests(text: &str) -> (Vec<(&str, &str)>, Vec<&str>) {
    let (mut sets, mut apart, mut next) = (Vec::new(), Vec::new(), false);
    for line in text.lines() {
        let line = line.trim();
        for set in ["smoke", "full"] {
            let test = line.strip_prefix(set).and_then(|rest| rest.strip_prefix(": "));
            let test = test.filter(|rest| rest.ends_with("\";")).and_then(|r| r.split_once(','));
            sets.extend(test.map(|(test, _)| (set, test)));
        }
        next |= line == "#[test]";
        if let Some(name) = line.strip_prefix("fn ").filter(|_| next) {
            apart.push(name.split('(').next().unwrap_or_default());
            next = false;
        }
    }
    (sets, apart)
}

#[test]
fn every_test_runs_on_each_dataplane_or_is_named_here() -> Result<()> {
    let (mut smoke, mut odd, mut used) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
    let mut count = 0;
    for (program, text) in programs()? {
        let (sets, apart) = tests(&text);
        count += sets.len();
        smoke.extend(sets.iter().filter(|(set, _)| *set == "smoke").map(|(_, t)| t.to_string()));
        for test in apart {
            let names = [program.clone(), format!("{program}::{test}")];
            match APART.iter().find(|(name, _)| names.iter().any(|own| own == name)) {
                Some((name, _)) => drop(used.insert(*name)),
                None => odd.push(format!("{program}::{test} runs on one dataplane only")),
            }
        }
        // Nobody may choose for himself but who is named.
        let chooses = text.contains("Flavour::Auto") && !APART.iter().any(|(p, _)| *p == program);
        odd.extend(chooses.then(|| format!("{program} leaves its dataplane to the agent")));
    }
    let unused = APART.iter().filter(|(name, _)| !used.contains(name));
    odd.extend(unused.map(|(name, why)| format!("there is no {name} any more ({why})")));
    ensure!(odd.is_empty(), "{}", odd.join("\n"));
    let expected: BTreeSet<String> = SMOKE.iter().map(|test| (*test).to_owned()).collect();
    ensure!(smoke == expected, "the smoke set is {smoke:#?}");
    ensure!(count > 50, "{count} tests run on each dataplane");
    Ok(())
}
