//! A unified diff of two texts: pure.

use std::fmt::Write as _;

/// Lines around a change that are shown with it.
const CONTEXT: usize = 3;
/// Above this many comparisons what differs is shown as replaced altogether.
const MOST: usize = 16 << 20;

/// A line of both texts, or of one.
#[derive(Clone, Copy)]
enum Line<'a> {
    Same(&'a str),
    Gone(&'a str),
    New(&'a str),
}

/// What turns `old` into `new`, as `diff -u` prints it. Empty when they are equal.
pub(super) fn unified(name: &str, old: &str, new: &str) -> String {
    if old == new {
        return String::new();
    }
    let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let lines = lines(&a, &b);
    let from = if old.is_empty() { "/dev/null" } else { name };
    let mut text = format!("--- {from}\n+++ {name}\n");
    let changed = |line: &Line<'_>| !matches!(line, Line::Same(_));
    let (mut at, mut left, mut right) = (0, 0, 0);
    while let Some(next) = lines[at..].iter().position(changed).map(|ahead| at + ahead) {
        let begin = next.saturating_sub(CONTEXT).max(at);
        // A change that is near belongs to the same hunk.
        let mut end = next;
        let mut quiet = 0;
        for (index, line) in lines.iter().enumerate().skip(next) {
            quiet = if changed(line) { 0 } else { quiet + 1 };
            if quiet > 2 * CONTEXT {
                break;
            }
            if quiet <= CONTEXT {
                end = index + 1;
            }
        }
        let skipped = begin - at;
        (left, right) = (left + skipped, right + skipped);
        let hunk = &lines[begin..end];
        let count = |not: fn(&Line<'_>) -> bool| hunk.iter().filter(|line| !not(line)).count();
        let olds = count(|line| matches!(line, Line::New(_)));
        let news = count(|line| matches!(line, Line::Gone(_)));
        let start = |before: usize, count: usize| before + usize::from(count > 0);
        let _ =
            writeln!(text, "@@ -{},{olds} +{},{news} @@", start(left, olds), start(right, news));
        for line in hunk {
            let _ = match line {
                Line::Same(line) => writeln!(text, " {line}"),
                Line::Gone(line) => writeln!(text, "-{line}"),
                Line::New(line) => writeln!(text, "+{line}"),
            };
        }
        (left, right, at) = (left + olds, right + news, end);
    }
    text
}

fn lines<'a>(a: &[&'a str], b: &[&'a str]) -> Vec<Line<'a>> {
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (rest_a, rest_b) = (&a[head..], &b[head..]);
    let tail = rest_a.iter().rev().zip(rest_b.iter().rev()).take_while(|(x, y)| x == y).count();
    let (mid_a, mid_b) = (&rest_a[..rest_a.len() - tail], &rest_b[..rest_b.len() - tail]);
    let mut out: Vec<Line<'a>> = a[..head].iter().map(|line| Line::Same(line)).collect();
    middle(mid_a, mid_b, &mut out);
    out.extend(a[a.len() - tail..].iter().map(|line| Line::Same(line)));
    out
}

/// The longest common subsequence.
fn middle<'a>(a: &[&'a str], b: &[&'a str], out: &mut Vec<Line<'a>>) {
    let width = b.len() + 1;
    let mut longest = Vec::new();
    if a.len().saturating_mul(b.len()) <= MOST {
        longest = vec![0_u32; (a.len() + 1) * width];
        for i in (0..a.len()).rev() {
            for j in (0..b.len()).rev() {
                longest[i * width + j] = if a[i] == b[j] {
                    longest[(i + 1) * width + j + 1] + 1
                } else {
                    longest[(i + 1) * width + j].max(longest[i * width + j + 1])
                };
            }
        }
    }
    let at = |i: usize, j: usize| longest.get(i * width + j).copied().unwrap_or(0);
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] && !longest.is_empty() {
            out.push(Line::Same(a[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < a.len() && (j == b.len() || at(i + 1, j) >= at(i, j + 1)) {
            out.push(Line::Gone(a[i]));
            i += 1;
        } else {
            out.push(Line::New(b[j]));
            j += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_diff_prints_it() {
        let old: Vec<String> = (1..=20).map(|n| format!("line {n}")).collect();
        let mut new = old.clone();
        new[2] = "third".into();
        new.remove(17);
        let text =
            |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        insta::assert_snapshot!(unified("f", &text(&old), &text(&new)), @r"
        --- f
        +++ f
        @@ -1,6 +1,6 @@
         line 1
         line 2
        -line 3
        +third
         line 4
         line 5
         line 6
        @@ -15,6 +15,5 @@
         line 15
         line 16
         line 17
        -line 18
         line 19
         line 20
        ");
        assert_eq!(unified("f", "a\n", "a\n"), "");
        assert_eq!(unified("f", "", "a\nb\n"), "--- /dev/null\n+++ f\n@@ -0,0 +1,2 @@\n+a\n+b\n");
    }
}
