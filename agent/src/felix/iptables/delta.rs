//! From one list of rules to another, rule by rule: pure.
//!
//! A chain that holds something of every endpoint (its MAC rule) must not be written anew for each
//! of them: what is sent to the kernel should grow with what changed, and rules that stay keep
//! their counters.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::chain::Chain;
use super::hash::RuleHash;

/// The most comparisons that are spent on finding out which rules of the middle stay.
const MOST_COMPARISONS: usize = 10_000;

/// The lines that change the chain `name` from `old` to `new` and how many they are; `None` when it
/// is better written anew: when that is not longer, or when equal rules stand in it, since the
/// kernel's tools delete by text and find the first.
///
/// `old`: the hash of each rule that is as it was written, and a text by which it is found.
pub(super) fn delta(
    name: &str,
    old: &[(Option<RuleHash>, String)],
    new: &Chain,
) -> Option<(String, u64)> {
    let distinct: BTreeSet<&str> = old.iter().map(|(_, text)| text.as_str()).collect();
    if distinct.len() != old.len() {
        return None;
    }
    let (had, wanted): (Vec<_>, Vec<_>) = (
        old.iter().map(|(hash, _)| *hash).collect(),
        new.hashes.iter().copied().map(Some).collect(),
    );
    let stays = common(&had, &wanted);
    let kept: BTreeSet<usize> = stays.iter().map(|(_, at)| *at).collect();
    let changed = had.len() + wanted.len() - 2 * stays.len();
    if changed > wanted.len() {
        return None;
    }
    let mut text = String::new();
    let left: BTreeSet<usize> = stays.iter().map(|(at, _)| *at).collect();
    for (_, (_, rule)) in old.iter().enumerate().filter(|(at, _)| !left.contains(at)) {
        let _ = writeln!(text, "-D {name} {rule}");
    }
    // Front to back: everything before a rule stands already when it is put in.
    let fresh = (0..wanted.len()).filter(|at| !kept.contains(at));
    for (len, at) in (stays.len()..).zip(fresh) {
        if at == len {
            let _ = writeln!(text, "-A {name} {}", new.rule(at));
        } else {
            let _ = writeln!(text, "-I {name} {} {}", at + 1, new.rule(at));
        }
    }
    Some((text, changed as u64))
}

/// A longest common subsequence, as pairs of places: what both ends share, and of the middle too
/// when that is not too long to look at.
fn common<T: PartialEq>(old: &[T], new: &[T]) -> Vec<(usize, usize)> {
    let shortest = old.len().min(new.len());
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let tail = tail.min(shortest - head);
    let (a, b) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut pairs: Vec<_> = (0..head).map(|at| (at, at)).collect();
    if a.len() * b.len() <= MOST_COMPARISONS {
        // longest[i][j]: the length for what begins at i and j.
        let mut longest = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
        for i in (0..a.len()).rev() {
            for j in (0..b.len()).rev() {
                longest[i][j] = if a[i] == b[j] {
                    longest[i + 1][j + 1] + 1
                } else {
                    longest[i + 1][j].max(longest[i][j + 1])
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < a.len() && j < b.len() {
            if a[i] == b[j] {
                pairs.push((head + i, head + j));
                (i, j) = (i + 1, j + 1);
            } else if longest[i + 1][j] >= longest[i][j + 1] {
                i += 1;
            } else {
                j += 1;
            }
        }
    }
    pairs.extend((0..tail).map(|at| (old.len() - tail + at, new.len() - tail + at)));
    pairs
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::felix::iptables::save::Held;

    fn chain(rules: &[&str]) -> Chain {
        Chain::new("cali-x", rules.iter().map(|&rule| rule.to_owned()).collect())
    }

    fn commands(old: &[&str], new: &[&str]) -> Option<Vec<String>> {
        let old = Held::Known(Arc::new(chain(old))).rules();
        let (text, count) = delta("cali-x", &old, &chain(new))?;
        let lines: Vec<String> = text
            .lines()
            .map(|line| {
                let (head, rule) = line.split_once(" -m comment --comment ").unwrap();
                format!("{head} {}", rule.rsplit(' ').next().unwrap())
            })
            .collect();
        assert_eq!(lines.len() as u64, count);
        Some(lines)
    }

    #[test]
    fn one_rule_more_or_less_is_one_line() {
        let some = ["a", "b", "c", "d"];
        assert_eq!(commands(&some, &["a", "b", "x", "c", "d"]).unwrap(), ["-I cali-x 3 x"]);
        assert_eq!(commands(&some, &["x", "a", "b", "c", "d"]).unwrap(), ["-I cali-x 1 x"]);
        assert_eq!(commands(&some, &["a", "b", "c", "d", "x"]).unwrap(), ["-A cali-x x"]);
        assert_eq!(commands(&some, &["a", "c", "d"]).unwrap(), ["-D cali-x b"]);
        assert_eq!(
            commands(&some, &["a", "x", "c", "d", "y"]).unwrap(),
            ["-D cali-x b", "-I cali-x 2 x", "-A cali-x y"]
        );
    }

    #[test]
    fn what_is_not_shorter_is_written_anew() {
        assert_eq!(commands(&["a", "b"], &["x", "y"]), None);
        assert_eq!(commands(&["a", "b", "c"], &["a"]), None);
    }

    #[test]
    fn a_rule_that_was_changed_is_deleted_as_it_is() {
        let new = chain(&["a", "b", "c"]);
        let mut old = Held::Known(Arc::new(new.clone())).rules();
        old[1] = (None, "-m comment --comment \"cali:what it was\" -j ACCEPT".to_owned());
        let (text, count) = delta("cali-x", &old, &new).unwrap();
        assert_eq!(count, 2);
        let put = format!("-I cali-x 2 {}\n", new.rule(1));
        assert_eq!(text, format!("-D cali-x {}\n{put}", old[1].1));
        // Two of one text cannot be told apart.
        old[2] = old[1].clone();
        assert_eq!(delta("cali-x", &old, &new), None);
    }

    #[test]
    fn equal_rules_cannot_be_told_apart_by_their_text() {
        assert_eq!(commands(&["a", "x", "a", "b"], &["a", "x", "b"]), None);
    }

    #[test]
    fn the_subsequence_is_a_longest_one() {
        assert_eq!(common(&[1, 2, 3, 4], &[2, 4, 1, 3]).len(), 2);
        assert_eq!(common::<u8>(&[], &[1]), []);
        assert_eq!(common(&[1, 1], &[1]), [(0, 0)]);
    }
}
