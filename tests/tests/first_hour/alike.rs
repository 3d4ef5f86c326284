//! Whether a command said what the page has: the same lines, but for what is another each time.

/// Any lines, or in a line any characters.
pub(crate) const ANYTHING: char = '…';

/// True when these lines are those of the page. A line of `…` alone stands for any lines.
pub(crate) fn fits(page: &[String], said: &[String]) -> bool {
    match (page.split_first(), said.split_first()) {
        (None, rest) => rest.is_none(),
        (Some((first, more)), rest) if is_gap(first) => {
            fits(more, said) || rest.is_some_and(|(_, fewer)| fits(page, fewer))
        }
        (Some(_), None) => false,
        (Some((first, more)), Some((line, fewer))) => {
            line_fits(&masked(first), &masked(line)) && fits(more, fewer)
        }
    }
}

fn is_gap(line: &str) -> bool {
    line.trim().chars().eq([ANYTHING])
}

/// True when every part between two `…` is in the line, in their order.
fn line_fits(page: &str, line: &str) -> bool {
    let mut parts = page.split(ANYTHING);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some((_, behind)) = rest.split_once(part) else { return false };
        rest = behind;
    }
    rest.ends_with(last)
}

/// A line with marks in the place of times and identifiers that are drawn, and one space for many.
fn masked(line: &str) -> String {
    let words: Vec<String> = line.split_whitespace().map(mask_word).collect();
    let mut text = String::new();
    for (index, word) in words.iter().enumerate() {
        let unit = words.get(index + 1).is_some_and(|next| is_unit(next));
        text += if unit && is_number(word) { "<number>" } else { word };
        text.push(' ');
    }
    text.trim_end().to_owned()
}

fn is_unit(word: &str) -> bool {
    let word = word.trim_end_matches([',', '.', ';', ')']);
    ["ms", "milliseconds", "s", "seconds", "us", "µs"].contains(&word)
}

fn is_number(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit()) && word.parse::<f64>().is_ok()
}

/// A word with marks for its parts between quotes, slashes, brackets and the like.
fn mask_word(word: &str) -> String {
    let mut text = String::new();
    let mut rest = word;
    while !rest.is_empty() {
        let inside = |c: char| c.is_ascii_alphanumeric() || "-.:µ".contains(c);
        let end = rest.find(|c: char| !inside(c)).unwrap_or(rest.len());
        let (part, behind) = rest.split_at(end);
        text += mask_part(part);
        let next = behind.find(inside).unwrap_or(behind.len());
        text += &behind[..next];
        rest = &behind[next..];
    }
    text
}

fn mask_part(part: &str) -> &str {
    let hex = |text: &str| text.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    let clock = |c: char| c.is_ascii_digit() || "-:.TZ".contains(c);
    let time = part.trim_end_matches(['s', 'm', 'µ', 'u', 'h']);
    if part.len() >= 8 && part.contains('-') && hex(part) {
        "<id>"
    } else if part.strip_prefix("cali").is_some_and(|id| id.len() == 11 && hex(id)) {
        "<interface>"
    } else if part.len() >= 8 && part.matches(':').count() >= 2 && part.chars().all(clock) {
        "<time>"
    } else if time != part && is_number(time) {
        "<duration>"
    } else if part.len() == 17 && part.matches(':').count() == 5 {
        "<mac>"
    } else {
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn gaps_stand_for_any_lines_and_nothing_else_does() {
        for (page, said, right) in [
            ("a\nb", "a\nb", true),
            ("a\nb", "a", false),
            ("a", "a\nb", false),
            ("…", "", true),
            ("a\n…\nd", "a\nb\nc\nd", true),
            ("a\n…\nd", "a\nb\nc", false),
            ("…\nb\n…", "a\nb\nc", true),
            ("a … c", "a b c", true),
            ("a … c", "a b d", false),
            ("…c", "abc", true),
            ("a…", "abc", true),
            ("", "", true),
        ] {
            assert_eq!(fits(&lines(page), &lines(said)), right, "{page:?} {said:?}");
        }
    }

    #[test]
    fn what_is_drawn_or_measured_does_not_count_and_addresses_do() {
        let id = "5f0d9f1e-6c02-4d11-8a52-0f8e2b6a4d11";
        let other = "407208a5-9e0c-4d6b-b1c4-3a7f5e8d2c03";
        for (page, said, right) in [
            (format!("pod default/{id}/eth0"), format!("pod default/{other}/eth0"), true),
            (format!("pod default/{id}/eth0"), format!("pod default/{other}/eth1"), false),
            ("after 3001 milliseconds".into(), "after 3002   milliseconds".into(), true),
            (
                "at 2026-11-21T23:50:01Z (1.5s)".into(),
                "at 2027-01-01T00:00:00Z (12ms)".into(),
                true,
            ),
            ("dev cali5f0d9f1e-6c".into(), "dev cali407208a5-9e".into(), true),
            ("10.65.0.1/32".into(), "10.65.0.2/32".into(), false),
            ("port 80".into(), "port 8080".into(), false),
            ("1 pods".into(), "2 pods".into(), false),
            ("v0.1.0".into(), "v0.2.0".into(), false),
        ] {
            assert_eq!(fits(&lines(&page), &lines(&said)), right, "{page:?} {said:?}");
        }
    }
}
