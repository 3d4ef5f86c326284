//! Two writings of what policy means agree: the reference, which takes what the agent's layout
//! decoded, and the evaluator of these tests, which reads the JSON itself. Since the agent agrees
//! with the reference (`agent/tests/worlds`), an error would have to be made three times.
//!
//! `CALICO_WORLDS` = how many worlds (3000), `CALICO_SEED` = the first one.

use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use calico_e2e::evaluator::{Direction, Evaluator, Packet};
use calico_reference::{Reason, Verdict};
use calico_worlds::{Question, World};

const QUESTIONS: usize = 20;

fn number(name: &str) -> Result<Option<u64>> {
    env::var(name).ok().map(|text| Ok(text.parse()?)).transpose()
}

/// The reference's answer in the evaluator's words.
fn words(verdict: &Verdict) -> String {
    let action = if verdict.allowed { "Allow" } else { "Deny" };
    match &verdict.reason {
        Reason::Policy { tier, policy, rule } => {
            format!("{action} by rule {rule} of policy {policy} in tier {tier}")
        }
        Reason::EndOfTier(tier) => format!("end of tier {tier}"),
        Reason::Profile { profile, rule } => {
            format!("{action} by rule {rule} of profile {profile}")
        }
        Reason::MissingProfile(profile) => format!("missing profile {profile}"),
        Reason::NothingAllows => "end of profiles".to_owned(),
        other => other.to_string(),
    }
}

fn ask(evaluator: &Evaluator, question: &Question) -> (bool, String) {
    let calico_reference::Packet { source, destination, protocol, ports, icmp } = question.packet;
    let packet = Packet {
        from: source,
        to: destination,
        protocol,
        source_port: ports.map(|(from, _)| from),
        port: ports.map(|(_, to)| to),
        icmp,
    };
    let direction = match question.direction {
        calico_reference::Direction::Ingress => Direction::Ingress,
        calico_reference::Direction::Egress => Direction::Egress,
    };
    let verdict = evaluator.judge(direction, &packet);
    (verdict.passes, verdict.reason)
}

#[test]
fn the_reference_agrees_with_who_reads_json() -> Result<()> {
    let worlds = number("CALICO_WORLDS")?.unwrap_or(3000);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() % 100_000_000 * 100_000;
    let first = number("CALICO_SEED")?.unwrap_or(now);
    let (mut asked, mut allowed) = (0, 0);
    for seed in first..first + worlds {
        let world = World::random(seed);
        let (evaluator, reference) = (
            Evaluator::new(world.objects.iter().map(|(k, v)| (k.clone(), v.to_string()))),
            world.reference(),
        );
        for question in world.questions(seed, QUESTIONS) {
            // It knows an endpoint by its address alone.
            let near = question.packet.near(question.direction);
            let owners = reference
                .workloads()
                .filter(|(_, endpoint)| endpoint.addresses.iter().any(|net| net.contains(near)));
            if owners.count() != 1 {
                continue;
            }
            let expected =
                reference.workload(&question.endpoint, question.direction, &question.packet);
            let expected = expected.map(|verdict| (verdict.allowed, words(&verdict)));
            let actual = ask(&evaluator, &question);
            asked += 1;
            allowed += usize::from(actual.0);
            ensure!(
                expected.as_ref() == Some(&actual),
                "CALICO_SEED={seed} CALICO_WORLDS=1: {question}\n  reference: {expected:?}\n  \
                 evaluator: {actual:?}\n{}",
                evaluator.describe(near)
            );
        }
    }
    println!(
        "seeds {first}..{}, {asked} questions to two evaluators, {allowed} allowed",
        first + worlds
    );
    ensure!(worlds < 3000 || (asked > 40_000 && allowed > 5_000), "too few: {asked}, {allowed}");
    Ok(())
}
