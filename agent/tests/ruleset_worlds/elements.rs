//! Lines of a ruleset taken apart into criteria and target, to break them.

use std::fmt;

/// A line: a rule, or anything else when there is no chain.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) chain: String,
    /// Each criterion with its match, the target last; or all of what is no rule.
    pub(crate) elements: Vec<String>,
}

/// What a lookup ends with that is not counted.
const UNCOUNTED: &str = " ! --update-counters";

/// What begins an element.
const FIRST: [&str; 8] = ["-m", "-p", "-i", "-o", "--source", "--destination", "--jump", "--goto"];

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest: Vec<&str> =
            self.elements.iter().map(String::as_str).filter(|one| !one.is_empty()).collect();
        if self.is_frame() {
            return f.write_str(&rest.join(" "));
        }
        write!(f, "-A {} {}", self.chain, rest.join(" "))
    }
}

impl Line {
    pub(crate) fn all(text: &str) -> Vec<Self> {
        text.lines().map(Self::new).collect()
    }

    pub(crate) fn text(lines: &[Self]) -> String {
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    fn new(line: &str) -> Self {
        let Some((chain, rest)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' '))
        else {
            return Self { chain: String::new(), elements: vec![line.to_owned()] };
        };
        let mut elements: Vec<String> = Vec::new();
        let mut not = false;
        for word in rest.split(' ') {
            if FIRST.contains(&word) {
                elements.push(if not { format!("! {word}") } else { word.to_owned() });
                not = false;
                continue;
            }
            // In front of an option that begins an element, or within one.
            if word == "!" && !elements.last().is_some_and(|last| last.starts_with("-m ")) {
                not = true;
                continue;
            }
            if word == "!" {
                not = true;
                continue;
            }
            let last = elements.last_mut().expect("a rule begins with an option");
            last.push_str(if not { " ! " } else { " " });
            not = false;
            last.push_str(word);
        }
        Self { chain: chain.to_owned(), elements }
    }

    /// No rule.
    pub(crate) fn is_frame(&self) -> bool {
        self.chain.is_empty()
    }

    pub(crate) fn is_criterion(&self, element: usize) -> bool {
        let text = &self.elements[element];
        !self.is_frame() && !text.starts_with("--jump") && !text.starts_with("--goto")
    }

    /// The kind of a rule: its chain, the marks that it asks for, its target; where only the agent
    /// writes the criteria, all of them.
    pub(crate) fn kind(&self) -> String {
        let chain = kind_of_chain(&self.chain);
        let elements = self.elements.iter().enumerate().filter(|(at, text)| {
            chain != RULES || !self.is_criterion(*at) || text.starts_with("-m mark")
        });
        let kinds: Vec<String> = elements.map(|(at, _)| self.bare(at)).collect();
        format!("{chain}: {}", kinds.join(" "))
    }

    /// The kind of one element, in chains like this.
    pub(crate) fn kind_of(&self, element: usize) -> String {
        format!("{}: {}", kind_of_chain(&self.chain), self.bare(element))
    }

    /// An element without names, numbers and family.
    fn bare(&self, element: usize) -> String {
        let chain = kind_of_chain(&self.chain);
        let mut before = "";
        let mut kind: Vec<String> = Vec::new();
        for word in self.elements[element].split(' ') {
            kind.push(match before {
                "--match-set" => {
                    let set = word.replace("cali60", "cali").replace("cali40", "cali");
                    set.split_once(':').map_or(set.clone(), |(kind, _)| format!("{kind}:*"))
                }
                "--jump" if word == "LOG" => {
                    kind.push("LOG".to_owned());
                    break;
                }
                "--jump" if word == "REJECT" => "DROP".to_owned(),
                "--goto" if drops(word) => return "--jump DROP".to_owned(),
                "--jump" | "--goto" => kind_of_chain(word),
                "--source-ports" | "--destination-ports" | "--mac-source" => "*".to_owned(),
                "--source" | "--destination" | "-p" if chain == RULES => "*".to_owned(),
                "-i" if chain == "mac" => "*".to_owned(),
                "--icmp-type" | "--icmpv6-type" if chain == RULES => {
                    if word.contains('/') { "*/*" } else { "*" }.to_owned()
                }
                _ => word.replace("icmp6", "icmp").replace("icmpv6", "icmp"),
            });
            before = word;
        }
        kind.join(" ")
    }

    pub(crate) fn negate(&mut self, element: usize) -> bool {
        let text = &self.elements[element];
        if !self.is_criterion(element) || text.is_empty() {
            return false;
        }
        // That it does not count is no criterion.
        let text = text.strip_suffix(UNCOUNTED).unwrap_or(text);
        let other = if let Some(rest) = text.strip_prefix("! ") {
            rest.to_owned()
        } else if text.contains(" ! ") {
            text.replace(" ! ", " ")
        } else if let Some(at) = text.find(" --") {
            format!("{} !{}", &text[..at], &text[at..])
        } else if text.starts_with("-m ") {
            return false;
        } else {
            format!("! {text}")
        };
        self.elements[element] = other;
        true
    }

    pub(crate) fn forget(&mut self, element: usize) -> bool {
        let some = self.is_criterion(element) && !self.elements[element].is_empty();
        if some {
            self.elements[element].clear();
        }
        some
    }

    pub(crate) fn retarget(&mut self) -> bool {
        let Some(target) = self.elements.last_mut() else { return false };
        let other = match target.as_str() {
            "--jump DROP" | "--jump REJECT" => "--jump ACCEPT",
            "--jump ACCEPT" | "--jump RETURN" => "--jump DROP",
            "--jump MARK --set-mark 0x10000/0x10000" => "--jump MARK --set-mark 0x20000/0x20000",
            "--jump MARK --set-mark 0x20000/0x20000" => "--jump MARK --set-mark 0x10000/0x10000",
            "--jump MARK --set-mark 0x40000/0x40000" => "--jump MARK --set-mark 0x80000/0x80000",
            "--jump MARK --set-mark 0x80000/0x80000" => "--jump MARK --set-mark 0x40000/0x40000",
            "--jump MARK --set-mark 0x0/0xc0000" => "--jump MARK --set-mark 0x40000/0xc0000",
            "--jump MARK --set-mark 0x40000/0xc0000" => "--jump MARK --set-mark 0x0/0xc0000",
            // What ends in these is dropped.
            goto if goto.strip_prefix("--goto ").is_some_and(drops) => "--jump ACCEPT",
            goto if goto.starts_with("--goto") => {
                *target = goto.replace("--goto", "--jump");
                return true;
            }
            jump if jump.starts_with("--jump cali-") => {
                *target = jump.replace("--jump", "--goto");
                return true;
            }
            _ => return false,
        };
        other.clone_into(target);
        true
    }
}

/// True for the name of a chain that counts, and drops everything.
fn drops(chain: &str) -> bool {
    chain.starts_with("cali-drop-") || chain.starts_with("cali-reject-")
}

/// A chain without the name of a policy, a profile or a class: what one part of the renderer writes is
/// of one kind.
pub(crate) fn kind_of_chain(name: &str) -> String {
    let starts = |kinds: &[&str]| kinds.iter().any(|kind| name.starts_with(kind));
    if starts(&["cali-pi-", "cali-po-", "cali-pri-", "cali-pro-"]) {
        RULES.to_owned()
    } else if starts(&["cali-tw-", "cali-fw-"]) {
        "class".to_owned()
    } else if starts(&["cali-mac"]) {
        "mac".to_owned()
    } else {
        name.replace("from-wl", "wl").replace("to-wl", "wl")
    }
}

/// The chains of policies and profiles.
const RULES: &str = "rules";
