use super::*;
use crate::drift::Change;
use std::collections::BTreeSet;

const TOOK: Duration = Duration::from_millis(20);

fn touched() -> Touched {
    let by = Some("nft (process 7)".to_owned());
    Touched { tables: BTreeSet::from([Family::V4]), by, ..Touched::default() }
}

fn drift(subject: &str) -> Drift {
    Drift::new(subject.to_owned(), Change::Missing, String::new())
}

/// Somebody changes `subject` all the time; returns when it was repaired, in seconds.
fn fight(pace: &mut Pace, start: Instant, subject: &str, repairs: usize) -> Vec<u64> {
    let mut now = start;
    let mut at = Vec::new();
    while at.len() < repairs {
        pace.note(touched(), now);
        let taken = pace.take(now);
        if taken.is_empty() || taken.tables.is_empty() {
            now = pace.next(now).unwrap();
            continue;
        }
        at.push((now - start).as_secs());
        pace.looked(&taken, &[drift(subject)], TOOK, now);
        now += Duration::from_millis(100);
    }
    at
}

#[tokio::test(start_paused = true)]
async fn a_fight_is_answered_ever_more_slowly_and_told() {
    let (mut pace, start) = (Pace::default(), Instant::now());
    let at = fight(&mut pace, start, "IPv4 filter chain cali-FORWARD", 12);
    assert_eq!(at, [0, 0, 0, 0, 0, 0, 1, 3, 7, 15, 31, 61]);
    let now = start + Duration::from_secs(61);
    let problems = pace.problems(now);
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].subject, "IPv4 filter chain cali-FORWARD");
    let said = &problems[0].message;
    assert!(said.contains("at least 8 times so far, first by nft (process 7)"), "{said}");
    assert!(said.contains("every 30 s at most"), "{said}");
    // What has nothing to do with it is repaired at once.
    let sets = BTreeSet::from(["cali40x".to_owned()]);
    pace.note(Touched { sets, ..touched() }, now);
    let taken = pace.take(now);
    assert!(!taken.sets.is_empty() && taken.tables.is_empty());
    // It is over by itself.
    let later = now + Duration::from_secs(45);
    assert!(pace.problems(later).is_empty());
    pace.note(touched(), later);
    assert!(!pace.take(later).tables.is_empty());
    pace.looked(&touched(), &[drift("IPv4 filter chain cali-FORWARD")], TOOK, later);
    assert!(pace.problems(later).is_empty() && !pace.rests(Kind::Tables(Family::V4), later));
}

#[tokio::test(start_paused = true)]
async fn different_things_one_after_the_other_are_no_fight() {
    let (mut pace, mut now) = (Pace::default(), Instant::now());
    for n in 0..20 {
        pace.note(touched(), now);
        let taken = pace.take(now);
        assert!(!taken.tables.is_empty(), "{n}");
        pace.looked(&taken, &[drift(&format!("IPv4 filter chain {n}"))], TOOK, now);
        now += Duration::from_millis(100);
    }
    assert!(pace.problems(now).is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_touches_without_changing_is_read_ever_less_often() {
    for (took, expected) in [
        (20, [0, 100, 300, 700, 1500, 3100, 5100, 7100]),
        (1, [0, 50, 150, 350, 750, 1550, 2550, 3550]),
        (500, [0, 1000, 3000, 7000, 15_000, 25_000, 35_000, 45_000]),
    ] {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let mut now = start;
        let mut at = Vec::new();
        while at.len() < expected.len() {
            pace.note(touched(), now);
            let taken = pace.take(now);
            if taken.tables.is_empty() {
                now = pace.next(now).unwrap();
                continue;
            }
            at.push((now - start).as_millis());
            pace.looked(&taken, &[], Duration::from_millis(took), now);
        }
        assert_eq!(at, expected, "{took} ms");
        assert!(!pace.rests(Kind::Tables(Family::V6), now));
    }
}

#[tokio::test(start_paused = true)]
async fn who_deletes_our_chains_is_let_finish_but_not_for_ever() {
    let (mut pace, start) = (Pace::default(), Instant::now());
    let torn = || Touched { torn: true, ..touched() };
    // Four tables, one after the other.
    let mut now = start;
    for _ in 0..4 {
        pace.note(torn(), now);
        assert!(pace.take(now).tables.is_empty());
        assert_eq!(pace.next(now), Some(now + SILENCE.0));
        now += Duration::from_millis(10);
    }
    now = pace.next(now).unwrap();
    assert_eq!(now - start, Duration::from_millis(30 + 75));
    // What else there is does not wait.
    let sets = BTreeSet::from(["cali40x".to_owned()]);
    pace.note(Touched { sets, ..Touched::default() }, start);
    assert!(!pace.take(start).sets.is_empty());
    let taken = pace.take(now);
    assert!(!taken.tables.is_empty() && !taken.torn);
    pace.looked(&taken, &[drift("IPv4 filter chain cali-FORWARD")], TOOK, now);
    // It goes on for ever.
    let begin = now;
    loop {
        pace.note(torn(), now);
        if !pace.take(now).tables.is_empty() {
            break;
        }
        now += Duration::from_millis(20);
    }
    assert_eq!(now - begin, SILENCE.1);
    // A rule that is gone is put right at once.
    now += Duration::from_millis(1);
    pace.note(touched(), now);
    assert!(!pace.take(now).tables.is_empty());
}

/// firewalld deletes our chains several times when it starts, and writes a lot in between.
#[tokio::test(start_paused = true)]
async fn what_is_deleted_again_just_after_a_look_is_put_right_soon() {
    let (mut pace, mut now) = (Pace::default(), Instant::now());
    for n in 0..4 {
        pace.note(touched(), now);
        let found = drift(&format!("IPv4 filter chain {n}"));
        let taken = pace.take(now);
        pace.looked(&taken, &[found], TOOK, now);
        // What we heard of was over when we looked.
        pace.note(touched(), now);
        let taken = pace.take(now);
        assert!(!taken.tables.is_empty());
        pace.looked(&taken, &[], TOOK, now);
        pace.note(touched(), now);
        let next = pace.next(now).unwrap();
        assert!(next - now <= Duration::from_millis(100), "{n}: {:?}", next - now);
        now = next;
    }
}

#[test]
fn a_subject_tells_its_kind() {
    assert_eq!(Kind::of(&drift("IPv6 nat chain x")), Kind::Tables(Family::V6));
    assert_eq!(Kind::of(&drift("address set cali40x")), Kind::Sets);
    assert_eq!(Kind::of(&drift("sysctl net.ipv4.ip_forward")), Kind::Parameters);
    assert_eq!(Kind::of(&drift("nftables chain forward")), Kind::Table);
    assert_eq!(Kind::of(&drift("group of interface cali1")), Kind::Groups);
}
