//! Agents on this host: the one that belongs here, and those that would fight with it.

use crate::check::finding::{Finding, Findings, Group};

/// A process in this network namespace that programs what we program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// What it is called.
    pub name: String,
    /// The run directory of one of ours.
    pub run_dir: Option<String>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct AgentFacts {
    /// The run directory that is asked about.
    pub run_dir: String,
    /// Agents like this one.
    pub ours: Vec<Process>,
    /// Processes of the original.
    pub originals: Vec<Process>,
    /// What the agent of the run directory said of itself; `None`: none answers.
    pub state: Option<String>,
}

/// Judges them.
pub fn judge(facts: &AgentFacts) -> Vec<Finding> {
    let mut out = Findings::of(Group::Agents);
    for process in &facts.originals {
        out.fail(
            &process.name,
            format!("runs (pid {}) and programs the same chains", process.pid),
            "stop calico/node and keep it from starting again",
        );
    }
    let strangers = || {
        let other = |process: &&Process| process.run_dir.as_deref() != Some(&facts.run_dir);
        facts.ours.iter().filter(other)
    };
    for process in strangers() {
        let dir = process.run_dir.as_deref().unwrap_or("unknown");
        out.fail(
            "calico-agent",
            format!(
                "another one runs (pid {}, run directory {dir}) and programs the same chains",
                process.pid
            ),
            "stop one of them; if that is the one you mean, say --run-dir",
        );
    }
    match (&facts.state, facts.ours.len() - strangers().count()) {
        (Some(state), _) if state == "ready" => out.ok("calico-agent", "runs and is ready"),
        (Some(state), _) => out.warn(
            "calico-agent",
            format!("runs and is {state}"),
            "`calico-agent status` says why",
        ),
        (None, 0) => out.ok("calico-agent", "does not run"),
        (None, _) => out.warn(
            "calico-agent",
            "runs and does not answer on its socket",
            "`journalctl -u calico-agent` says why; it may just be starting",
        ),
    }
    out.done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::{Level, worst};

    #[test]
    fn one_of_ours_is_fine_and_every_other_is_not() {
        let process =
            |dir: &str| Process { pid: 7, name: "calico-agent".into(), run_dir: Some(dir.into()) };
        let none = AgentFacts { run_dir: "/run/calico".into(), ..Default::default() };
        let state = |text: &str| Some(text.to_owned());
        for (facts, level) in [
            (none.clone(), Level::Ok),
            (
                AgentFacts {
                    ours: vec![process("/run/calico")],
                    state: state("ready"),
                    ..none.clone()
                },
                Level::Ok,
            ),
            (AgentFacts { state: state("degraded"), ..none.clone() }, Level::Warn),
            (AgentFacts { ours: vec![process("/run/calico")], ..none.clone() }, Level::Warn),
            (AgentFacts { ours: vec![process("/other")], ..none.clone() }, Level::Fail),
            (
                AgentFacts {
                    originals: vec![Process { name: "calico-felix".into(), ..process("") }],
                    ..none
                },
                Level::Fail,
            ),
        ] {
            assert_eq!(worst(&judge(&facts)), level, "{facts:?}");
        }
    }
}
