//! What is to be done so that a host is a node. Pure.

use std::path::PathBuf;

use super::NodeArgs;
use super::facts::{AGENT, BIRD, Facts, PROGRAMS, Places, STOCK_BIRD, Unit};
use super::wanted::{self, Edit, WantedError};

/// The network that rkt gets when it has none of ours.
const NETWORK: &str = r#"{
    "name": "calico",
    "cniVersion": "0.1.0",
    "type": "calico",
    "ipam": {
        "type": "calico-ipam"
    }
}
"#;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A file of the configuration gets another text.
    Write(Edit),
    /// A link, in the place of whatever has its name.
    Link {
        /// Where.
        path: PathBuf,
        /// To what, as the system sees it.
        target: PathBuf,
    },
    /// A program.
    Run {
        /// Which.
        program: &'static str,
        /// With what.
        args: Vec<String>,
        /// What for.
        purpose: String,
        /// Whether nothing works without.
        must: bool,
    },
}

/// Everything that is to be done, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The steps.
    pub(super) steps: Vec<Step>,
    /// The agent runs afterwards, or is about to.
    pub(super) starts: bool,
    /// The agent that runs now and gives way to a new one.
    pub(super) replaces: Option<u32>,
    /// What people should know.
    pub(super) notes: Vec<String>,
}

/// It cannot be done here.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Something else starts programs on this host.
    #[error(
        "systemd does not run this host: start `calico-agent run --ip …` by what does (and prepare an \
         image with --root)"
    )]
    NoSystemd,
    /// The agent was not installed.
    #[error("systemd knows no {0}: install the package, or `make build install`")]
    NoUnit(&'static str),
    /// There is no plugin to give to rkt.
    #[error("the CNI plugin is not at /opt/cni/bin/calico, and not beside this program")]
    NoPlugin,
    /// What was typed cannot be brought into force.
    #[error(transparent)]
    Wanted(WantedError),
}

/// Decides what is to be done.
///
/// # Errors
/// When it cannot be done here. Then nothing is.
pub(super) fn plan(args: &NodeArgs, facts: &Facts) -> Result<Plan, PlanError> {
    let image = facts.root.as_os_str() != "/";
    if !image && !facts.systemd {
        return Err(PlanError::NoSystemd);
    }
    let unit = |name| facts.units.get(name).cloned().unwrap_or_default();
    let (agent, bird, stock) = (unit(AGENT), unit(BIRD), unit(STOCK_BIRD));
    for (name, unit) in [(AGENT, &agent), (BIRD, &bird)] {
        if !unit.loaded {
            return Err(PlanError::NoUnit(name));
        }
    }
    let edits = wanted::edits(args, &facts.files).map_err(PlanError::Wanted)?;
    let changed = !edits.is_empty();
    let mut steps: Vec<Step> = edits.into_iter().map(Step::Write).collect();
    if args.rkt {
        steps.extend(rkt(facts)?);
    }
    if facts.sysusers && facts.systemd {
        steps.push(run("systemd-sysusers", &["calico.conf"], "the user of BIRD", true));
    }
    if facts.tmpfiles && facts.systemd {
        let purpose = "the directories of the agent";
        steps.push(run("systemd-tmpfiles", &["--create", "calico.conf"], purpose, true));
    }
    if !facts.modules.is_empty() {
        // It stays active after its first run, so it is started again. A container may not do it.
        let purpose = format!("modules that are not loaded: {}", facts.modules.join(" "));
        steps.push(run("systemctl", &["restart", "systemd-modules-load"], purpose, false));
    }
    // A unit that cannot start would be started for ever.
    let mut notes = Vec::new();
    if let Some(program) = &bird.lacks {
        notes.push(format!(
            "{program} is not installed, so there is no BGP: policy works, and routes stay on this \
             host. Install BIRD 2 and do this again."
        ));
    }
    let units = [(AGENT, Some(&agent)), (BIRD, Some(&bird).filter(|bird| bird.lacks.is_none()))];
    let units = units.into_iter().filter_map(|(name, unit)| Some((name, unit?)));
    let disabled = units.filter(|(_, unit)| !unit.enabled);
    let disabled: Vec<&str> = disabled.map(|(name, _)| name).collect();
    if !disabled.is_empty() {
        let root = format!("--root={}", facts.root.display());
        let mut words = vec!["enable"];
        if image {
            words.push(&root);
        }
        words.extend(&disabled);
        steps.push(run("systemctl", &words, "start at boot", true));
    }
    let mut replaces = None;
    if facts.systemd {
        if bird.lacks.is_none() {
            steps.extend(start_bird(&bird, &stock));
        }
        let restart = agent.active && changed;
        replaces = agent.pid.filter(|_| restart);
        if restart || !agent.active {
            let (verb, purpose) = match restart {
                true => ("restart", "the new configuration; the kernel stays as it is meanwhile"),
                false => ("start", "the agent"),
            };
            // Ready is waited for here, where it can be said what is missing.
            steps.push(run("systemctl", &[verb, "--no-block", AGENT], purpose, true));
        }
    }
    Ok(Plan { steps, starts: facts.systemd, replaces, notes })
}

fn run(program: &'static str, words: &[&str], purpose: impl Into<String>, must: bool) -> Step {
    let args = words.iter().map(|word| (*word).to_owned()).collect();
    Step::Run { program, args, purpose: purpose.into(), must }
}

/// BIRD waits for its configuration, which the agent writes.
fn start_bird(bird: &Unit, stock: &Unit) -> Option<Step> {
    // Enabling gives ours the name of the distribution's: one that runs is ours for systemd from
    // then on, and only a restart puts ours in its place.
    let stock_runs = stock.active && stock.id == STOCK_BIRD;
    let (verb, purpose) = match (stock_runs, bird.active) {
        (true, _) => ("restart", "BGP, in the place of the distribution's BIRD"),
        (false, true) => return None,
        (false, false) => ("start", "BGP"),
    };
    Some(run("systemctl", &[verb, "--no-block", BIRD, "calico-bird.path"], purpose, true))
}

fn rkt(facts: &Facts) -> Result<Vec<Step>, PlanError> {
    let mut steps = Vec::new();
    let missing: Vec<_> = PROGRAMS.into_iter().filter(|p| !facts.rkt.found.contains(p)).collect();
    if !missing.is_empty() {
        let plugin = facts.rkt.plugin.clone().ok_or(PlanError::NoPlugin)?;
        // rkt looks beside its networks first.
        let Places { networks, plugins } = &facts.places;
        let place = if facts.rkt.usr_read_only { networks } else { plugins };
        steps.extend(
            missing
                .into_iter()
                .map(|program| Step::Link { path: place.join(program), target: plugin.clone() }),
        );
    }
    if !facts.rkt.has_network {
        steps.push(Step::Write(Edit {
            path: facts.places.networks.join("10-calico.conf"),
            text: NETWORK.to_owned(),
            changes: vec!["the network calico: rkt run --net=calico".to_owned()],
        }));
    }
    Ok(steps)
}

impl Step {
    /// `write /etc/…: …`, for people.
    pub(super) fn to_do(&self) -> String {
        match self {
            Self::Write(Edit { path, changes, .. }) => {
                format!("write {}: {}", path.display(), changes.join("; "))
            }
            Self::Link { path, target } => {
                format!("link {} to {}", path.display(), target.display())
            }
            Self::Run { program, args, purpose, .. } => {
                format!("run {program} {} ({purpose})", args.join(" "))
            }
        }
    }
}

#[cfg(test)]
mod tests;
