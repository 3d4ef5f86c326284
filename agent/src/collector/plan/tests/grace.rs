//! How long something has to look left behind, and what begins that anew.

use super::*;

#[test]
fn not_when_it_was_seen_only_once() {
    let look = with_record(record(GONE, Stage::Added));
    let said = |at: &[u64]| judged(&at.iter().map(|at| (*at, look.clone())).collect::<Vec<_>>());
    assert_eq!(said(&[0]), [Said::Suspect]);
    // Twice, but not a grace period apart.
    assert_eq!(said(&[0, 119]), [Said::Suspect, Said::Suspect]);
    assert_eq!(said(&[0, 120]), [Said::Suspect, Said::Collect(POD_GONE)]);
    // Even without a grace period.
    let now = Instant::now();
    let first = judge(&look, &Ledger::default(), now, Duration::ZERO);
    assert!(matches!(first.verdicts[0].1, Verdict::Suspect { .. }));
    let again = judge(&look, &first.ledger, now, Duration::ZERO);
    assert!(matches!(again.verdicts[0].1, Verdict::Suspect { .. }), "the same look twice");
    let later = now + Duration::from_millis(1);
    let third = judge(&look, &again.ledger, later, Duration::ZERO);
    assert!(matches!(third.verdicts[0].1, Verdict::Collect { .. }));
}

#[test]
fn one_look_to_the_contrary_starts_anew() {
    let gone = with_record(record(GONE, Stage::Added));
    let contraries = [
        Look { pods: Some(pods(&[GONE])), ..gone.clone() },
        Look { pods: None, ..gone.clone() },
        lived_in(wired(gone.clone())),
    ];
    for contrary in contraries {
        let looks = [(0, gone.clone()), (100, contrary), (130, gone.clone()), (249, gone.clone())];
        let said = judged(&looks);
        assert_eq!(said[2..], [Said::Suspect, Said::Suspect]);
        let later = [looks.to_vec(), vec![(250, gone.clone())]].concat();
        assert_eq!(judged(&later).pop(), Some(Said::Collect(POD_GONE)));
    }
}

#[test]
fn what_was_done_anew_starts_anew() {
    // The runtime tries again, and is killed again.
    let first = with_record(record(OTHER, adding()));
    let second = with_record(record(OTHER, Stage::Adding { pid: 43, started: 9999 }));
    let looks = [(0, first.clone()), (110, second.clone()), (200, second.clone()), (230, second)];
    let killed = Said::Collect(Why::AddKilled);
    assert_eq!(judged(&looks), [Said::Suspect, Said::Suspect, Said::Suspect, killed]);
    // One call failed after another.
    let failed = with_record(record(OTHER, Stage::Deleting));
    let looks = [(0, first), (110, failed.clone()), (200, failed.clone()), (230, failed)];
    let failed = Said::Collect(Why::DelFailed);
    assert_eq!(judged(&looks), [Said::Suspect, Said::Suspect, Said::Suspect, failed]);
    // An endpoint that got another address, and an address that was given again.
    let before = endpoint("cni", &format!("default/{GONE}"));
    let after = Endpoint { addresses: vec![address(10)], ..before.clone() };
    let looks = [(0, with_endpoint(before)), (130, with_endpoint(after))];
    assert_eq!(judged(&looks), [Said::Suspect, Said::Suspect]);
    let before = with_address(&format!("frontend.{GONE}"), Some("calico-01"));
    let mut after = before.clone();
    let given = &mut after.allocations.as_mut().unwrap()[0].attributes;
    given.insert("timestamp".to_owned(), "now".to_owned());
    assert_eq!(judged(&[(0, before), (130, after)]), [Said::Suspect, Said::Suspect]);
}

/// The disk with rkt's pods comes and goes: what is seen below its mount point is another directory.
#[test]
fn another_directory_of_pods_starts_anew() {
    let here = with_record(record(GONE, Stage::Added));
    let there = Pods { place: Place::new(8, 2), uuids: BTreeSet::new() };
    let there = Look { pods: Some(there), ..here.clone() };
    let looks = [(0, here), (110, there.clone()), (200, there.clone()), (230, there)];
    let gone = Said::Collect(Why::PodGone(Place::new(8, 2)));
    assert_eq!(judged(&looks), [Said::Suspect, Said::Suspect, Said::Suspect, gone]);
}

#[test]
fn addresses_that_were_not_looked_at_stay_suspected() {
    let with = with_address(&format!("frontend.{GONE}"), Some("calico-01"));
    let without = Look { allocations: None, ..look() };
    let begin = Instant::now();
    let mut ledger = judge(&with, &Ledger::default(), begin, GRACE).ledger;
    for minute in 1..5 {
        let now = begin + Duration::from_secs(60 * minute);
        let judgement = judge(&without, &ledger, now, GRACE);
        assert!(judgement.verdicts.is_empty(), "never collected unseen");
        ledger = judgement.ledger;
    }
    let now = begin + Duration::from_secs(600);
    let verdict = judge(&with, &ledger, now, GRACE).verdicts[0].1;
    assert_eq!(verdict, Verdict::Collect { why: POD_GONE, since: begin });
    // What acquits them does so without them, too.
    let unknown = Look { pods: None, ..without };
    let acquitted = judge(&unknown, &ledger, now, GRACE).ledger;
    assert_eq!(acquitted, Ledger::default());
}
