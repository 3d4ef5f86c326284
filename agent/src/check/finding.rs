//! What was found, and how it is printed: pure.

use std::fmt::Write as _;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but not for sure, not for long, or not as its administrator may believe.
    Warn,
    /// The agent cannot do its work, or packets go another way than policy says.
    Fail,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What a finding is about; findings are printed in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Command line, environment, `agent.toml`.
    Configuration,
    /// Who this host is.
    Node,
    /// What this process may do.
    Rights,
    /// The programs that the agent starts.
    Programs,
    /// What the kernel can do.
    Kernel,
    /// Parameters of the kernel.
    Sysctls,
    /// What else decides about packets.
    Firewall,
    /// Interfaces, and who else looks after them.
    Interfaces,
    /// Runtimes, their networks, and the plugin.
    Cni,
    /// Other agents on this host.
    Agents,
    /// The datastore: etcd.
    Etcd,
    /// The datastore: files of this host.
    Directory,
    /// The routing daemon.
    Bird,
    /// The units.
    Systemd,
    /// The time of day.
    Clock,
}

impl Group {
    fn title(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Node => "node",
            Self::Rights => "rights",
            Self::Programs => "programs",
            Self::Kernel => "kernel",
            Self::Sysctls => "sysctls",
            Self::Firewall => "firewall",
            Self::Interfaces => "interfaces",
            Self::Cni => "cni",
            Self::Agents => "agents",
            Self::Etcd => "etcd",
            Self::Directory => "directory",
            Self::Bird => "bird",
            Self::Systemd => "systemd",
            Self::Clock => "clock",
        }
    }
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub group: Group,
    /// How bad it is.
    pub level: Level,
    /// The thing that was looked at.
    pub what: String,
    /// What was found.
    pub finding: String,
    /// What to do about it; always there unless it is ok.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// Makes the findings of one group.
#[derive(Clone, Debug)]
pub struct Findings {
    group: Group,
    list: Vec<Finding>,
}

impl Findings {
    /// None yet.
    pub fn of(group: Group) -> Self {
        Self { group, list: Vec::new() }
    }

    /// It is as it should be.
    pub fn ok(&mut self, what: impl Into<String>, finding: impl Into<String>) {
        self.push(Level::Ok, what.into(), finding.into(), None);
    }

    /// It deserves a look.
    pub fn warn(
        &mut self,
        what: impl Into<String>,
        finding: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.push(Level::Warn, what.into(), finding.into(), Some(advice.into()));
    }

    /// It does not work.
    pub fn fail(
        &mut self,
        what: impl Into<String>,
        finding: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.push(Level::Fail, what.into(), finding.into(), Some(advice.into()));
    }

    fn push(&mut self, level: Level, what: String, finding: String, advice: Option<String>) {
        let group = self.group;
        self.list.push(Finding { group, level, what, finding, advice });
    }

    /// All of them.
    pub fn done(self) -> Vec<Finding> {
        self.list
    }
}

/// The worst of them.
pub fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

/// The text for people: a line each, under the title of its group, and a last line that counts.
pub fn render(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut group = None;
    for finding in findings {
        if group.replace(finding.group) != Some(finding.group) {
            let _ = writeln!(text, "{}", finding.group.title());
        }
        // What a tool said may have many lines; one finding is one line.
        let said = one_line(&finding.finding);
        let _ = write!(text, "  {:<4}  {}: {said}", finding.level.word(), finding.what);
        if let Some(advice) = &finding.advice {
            let _ = write!(text, " \u{2014} {advice}");
        }
        text.push('\n');
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (failed, warnings) = (count(Level::Fail), count(Level::Warn));
    let plural = if warnings == 1 { "" } else { "s" };
    let _ = writeln!(text, "{failed} failed, {warnings} warning{plural}, {} ok", count(Level::Ok));
    text
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_each_under_its_group() {
        let mut node = Findings::of(Group::Node);
        node.ok("name", "calico-01");
        let mut clock = Findings::of(Group::Clock);
        clock.warn("time", "it is\n 1970", "set it");
        clock.fail("zone", "none", "make one");
        let all = [node.done(), clock.done()].concat();
        assert_eq!(
            render(&all),
            "node\n  ok    name: calico-01\nclock\n  warn  time: it is; 1970 \u{2014} set it\n  \
             fail  zone: none \u{2014} make one\n1 failed, 1 warning, 1 ok\n"
        );
        assert_eq!(worst(&all), Level::Fail);
        assert_eq!(worst(&all[..2]), Level::Warn);
        assert_eq!(worst(&[]), Level::Ok);
    }
}
