//! Changes one variable in an environment file as systemd reads it, and nothing else in it. Pure.

/// Where the file says something of one of `names`: that it says `value` of the first of them.
/// `None`: it says nothing of them, or this already. Also returns what it said before.
pub(super) fn set(
    text: &str,
    names: &[&str],
    value: &str,
    same: impl Fn(&str) -> bool,
) -> Option<(String, String)> {
    let mut out = String::with_capacity(text.len());
    let mut before = None;
    let mut lines = text.split_inclusive('\n');
    while let Some(line) = lines.next() {
        // An assignment that goes on in the next lines.
        let mut whole = line.to_owned();
        let comment = line.trim_start().starts_with(['#', ';']);
        while !comment && whole.ends_with("\\\n") {
            let Some(next) = lines.next() else { break };
            whole += next;
        }
        let Some(said) = said(&whole, names).filter(|_| !comment) else {
            out += &whole;
            continue;
        };
        if same(&said) {
            out += &whole;
            continue;
        }
        let newline = if whole.ends_with('\n') { "\n" } else { "" };
        out += &format!("{}={value}{newline}", names[0]);
        // Of several lines the last one counted.
        before = Some(said);
    }
    Some((out, before?))
}

/// What a line says of one of these variables. Empty counts as not set.
fn said(line: &str, names: &[&str]) -> Option<String> {
    let (name, value) = line.split_once('=')?;
    let value = value.replace("\\\n", " ");
    let value = value.trim();
    let quoted = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value).trim();
    (names.contains(&name.trim()) && !value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_changes_and_the_others_stay() {
        let text = "# mine\nIP=10.0.0.1\nIP6=\nFELIX_X=a \\\n  b\n;IP=c\nAS='64512'";
        let set = |names: &[&str], value: &str| set(text, names, value, |said| said == value);
        let (new, before) = set(&["IP"], "10.0.0.2").unwrap();
        assert_eq!(
            (new, before.as_str()),
            (text.replace("IP=10.0.0.1", "IP=10.0.0.2"), "10.0.0.1")
        );
        let (new, _) = set(&["AS"], "1").unwrap();
        assert_eq!(new, text.replace("AS='64512'", "AS=1"));
        let (new, before) = set(&["Y", "FELIX_X"], "1").unwrap();
        assert_eq!(new, text.replace("FELIX_X=a \\\n  b", "Y=1"));
        assert_eq!(before, "a    b");
        for (names, value) in
            [(["IP"], "10.0.0.1"), (["AS"], "64512"), (["IP6"], "x"), (["P"], "x")]
        {
            assert_eq!(set(&names, value), None, "{names:?}");
        }
    }
}
