//! Keeps BIRD's configuration as it should be. While the policy comes from disk the configuration
//! does too: the one that is there stays as it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use calico_datastore::model::Cidr;
use imbl::{OrdMap, OrdSet};
use tokio::time::Instant;
use tracing::info;

use super::control::{self, ControlError};
use super::file::{self, FileError, Stamp};
use super::fit::fit;
use super::render::{Input, RenderError, render};
use crate::desired::BgpState;
use crate::drift::{Change, Drift};
use crate::exec::Exec;
use crate::reconcile::{Problem, Reconciler, Report, Wake, World};
use crate::stored::dated;
use crate::telemetry::chain;

/// BIRD's program when nothing else is asked for: found in `PATH`.
pub(super) const PROGRAM: &str = "bird";
/// How often something that does not change by itself is looked at.
const PROBE: Duration = Duration::from_secs(30);
/// How often the file is looked at (stat(2), nothing more as long as it is the same), since others
/// may have edited or removed it, and BIRD is asked whether it runs.
const LOOK: Duration = Duration::from_secs(1);
/// So many times in a row a file that others changed is put right at once; then ever more seldom.
const FREELY: u32 = 4;
/// So long nothing is said of a host that is not registered: the first listing of the datastore comes
/// before its registration.
const GRACE: Duration = Duration::from_secs(10);
/// How soon after a failure it is tried again: BIRD may be starting just now.
const RETRY: Duration = Duration::from_secs(2);

/// The reconciler of BIRD.
#[derive(Debug)]
pub struct Bird {
    config: PathBuf,
    socket: PathBuf,
    program: String,
    exec: Exec,
    rendered: Option<Rendered>,
    /// The text that BIRD is known to run with.
    loaded: Option<Arc<str>>,
    /// What BIRD calls itself.
    version: String,
    /// The text that BIRD refused: it need not be asked again.
    refused: Option<(Arc<str>, String)>,
    /// Since when this host is not registered.
    unregistered: Option<Instant>,
    /// The configuration is one from before the boot: of when.
    from_disk: Option<String>,
    writes: u64,
    reloads: u64,
    /// The file when it held the text that is wanted.
    seen: Option<Stamp>,
    /// How many looks in a row found the file changed.
    changed: u32,
    drift: Vec<Drift>,
}

/// A text and what it was made from.
#[derive(Debug)]
struct Rendered {
    bgp: Arc<BgpState>,
    blocks: OrdSet<Cidr>,
    prefixes: Vec<String>,
    text: Arc<str>,
    /// What the text has not, although the datastore has it.
    left_out: Vec<Problem>,
}

/// Something that keeps BIRD from being as it should be.
#[derive(Debug, thiserror::Error)]
enum BirdError {
    #[error("BIRD is not configured")]
    Render(#[source] RenderError),
    #[error("BIRD's configuration is not up to date")]
    File(#[source] FileError),
    #[error("routes are not exchanged, or not with the newest configuration")]
    Control(#[source] ControlError),
    #[error("BIRD reads {}, not {}: start it with `-c {}`", theirs.display(), ours.display(), ours.display())]
    OtherFile { theirs: PathBuf, ours: PathBuf },
}

impl Reconciler for Bird {
    const NAME: &'static str = "bird";

    async fn reconcile(&mut self, world: &World, wake: Wake) -> Report {
        let outcome = self.run(world, wake).await;
        let mut report = Report {
            applied: None,
            endpoints: OrdMap::new(),
            problems: Vec::new(),
            facts: BTreeMap::from([
                ("version".to_owned(), self.version.clone()),
                ("writes".to_owned(), self.writes.to_string()),
                ("reloads".to_owned(), self.reloads.to_string()),
            ]),
            drift: std::mem::take(&mut self.drift),
            wake_after: Some(self.look_again()),
            retry: false,
            ..Report::default()
        };
        if self.changed > FREELY {
            report.problems.push(Problem {
                subject: "bird".to_owned(),
                message: format!(
                    "{} is changed again and again by another program: put right {} times; stop \
                     that program (confd of calico/node?)",
                    self.config.display(),
                    self.changed
                ),
            });
        }
        // A text of another state says nothing of this one.
        let rendered = self.rendered.as_ref().filter(|text| text.bgp == world.desired.bgp);
        report.problems.extend(rendered.into_iter().flat_map(|text| text.left_out.clone()));
        if let Some(dated) = &self.from_disk {
            report.facts.insert("configuration".to_owned(), format!("{dated} from disk"));
        }
        let grace = self.grace(&outcome);
        match outcome {
            Ok(()) => report.applied = Some(world.desired.generation),
            Err(_) if grace.is_some() => {
                report.wake_after = grace;
                let waits = "waits for this host's registration".to_owned();
                report.facts.insert("configuration".to_owned(), waits);
            }
            Err(error) => {
                // Nothing changes by itself when there is no address, or BIRD refuses the text.
                let standing = matches!(
                    error,
                    BirdError::Render(_) | BirdError::File(FileError::Refused { .. })
                );
                report.wake_after = Some(if standing { PROBE } else { RETRY });
                report.problems.push(describe(&error));
            }
        }
        report.problems.sort();
        report
    }
}

impl Bird {
    /// A reconciler that has looked at nothing yet: `config` from
    /// [`crate::paths::Paths::bird_config`], `socket` from [`crate::paths::Paths::bird_socket`].
    pub fn new(config: PathBuf, socket: PathBuf, exec: Exec) -> Self {
        Self {
            config,
            socket,
            program: PROGRAM.to_owned(),
            exec,
            rendered: None,
            loaded: None,
            version: String::new(),
            refused: None,
            unregistered: None,
            from_disk: None,
            writes: 0,
            reloads: 0,
            seen: None,
            changed: 0,
            drift: Vec::new(),
        }
    }

    /// Uses another program than `bird` to check the configuration.
    #[must_use]
    pub fn with_program(mut self, program: impl Into<String>) -> Self {
        self.program = program.into();
        self
    }

    async fn run(&mut self, world: &World, wake: Wake) -> Result<(), BirdError> {
        let text = match self.kept(world).await? {
            Some(text) => text,
            None => self.render(world)?,
        };
        let quiet = matches!(wake, Wake::Desired | Wake::Links | Wake::Kernel);
        if quiet && self.loaded.as_ref() == Some(&text) {
            return Ok(());
        }
        let same = self.seen.is_some() && self.seen == file::stamp(&self.config).await;
        if same && self.loaded.as_ref() == Some(&text) && wake == Wake::Timer {
            self.changed = 0;
            return self.probe().await;
        }
        self.write(&text).await?;
        self.seen = file::stamp(&self.config).await;
        if self.loaded.as_ref() == Some(&text) {
            return self.probe().await;
        }
        self.load(&text).await
    }

    /// How long nothing is to be said of a host that is not registered.
    fn grace(&mut self, outcome: &Result<(), BirdError>) -> Option<Duration> {
        if !matches!(outcome, Err(BirdError::Render(RenderError::NotRegistered))) {
            self.unregistered = None;
            return None;
        }
        let since = self.unregistered.get_or_insert_with(Instant::now);
        GRACE.checked_sub(since.elapsed()).filter(|left| !left.is_zero())
    }

    /// When to look at the file the next time.
    fn look_again(&self) -> Duration {
        LOOK.saturating_mul(1 << self.changed.saturating_sub(FREELY).min(8)).min(PROBE)
    }

    /// The text that is on disk, when it is to stay: BIRD runs with it since the boot, and it may be
    /// newer than the policy.
    async fn kept(&mut self, world: &World) -> Result<Option<Arc<str>>, BirdError> {
        let before = self.from_disk.take();
        if !world.desired.origin.is_stored() {
            return Ok(None);
        }
        let text = file::read(&self.config).await.map_err(BirdError::File)?;
        if text.is_empty() {
            return Ok(None);
        }
        if let Some(changed) = file::changed(&self.config).await {
            let dated = dated(changed, SystemTime::now());
            if before.is_none() {
                info!("BIRD's configuration is the one {dated} from disk");
            }
            self.from_disk = Some(dated);
        }
        Ok(Some(text.into()))
    }

    /// The text for that world, rendered again only when what it depends on has changed.
    fn render(&mut self, world: &World) -> Result<Arc<str>, BirdError> {
        let desired = &world.desired;
        let prefixes = &desired.settings.interface_prefixes;
        if let Some(old) = &self.rendered
            && old.bgp == desired.bgp
            && old.blocks == desired.blocks
            && old.prefixes == *prefixes
        {
            return Ok(Arc::clone(&old.text));
        }
        let input =
            Input { bgp: &desired.bgp, blocks: &desired.blocks, interface_prefixes: prefixes };
        let text: Arc<str> = render(&input).map_err(BirdError::Render)?.into();
        self.rendered = Some(Rendered {
            bgp: Arc::clone(&desired.bgp),
            blocks: desired.blocks.clone(),
            prefixes: prefixes.clone(),
            text: Arc::clone(&text),
            left_out: fit(&desired.bgp).left_out,
        });
        Ok(text)
    }

    /// Brings the text to the disk, unless it is there.
    async fn write(&mut self, text: &Arc<str>) -> Result<(), BirdError> {
        let there = file::read(&self.config).await.map_err(BirdError::File)?;
        if there == **text {
            return Ok(());
        }
        // BIRD runs with this text, so the file held it.
        let drifted = self.loaded.as_ref() == Some(text);
        if let Some((refused, message)) = &self.refused
            && refused == text
        {
            return Err(BirdError::File(FileError::Refused { message: message.clone() }));
        }
        match file::swap(&self.exec, &self.program, &self.config, text).await {
            Ok(()) => {
                self.writes += 1;
                self.refused = None;
                self.loaded = None;
                if drifted {
                    self.changed += 1;
                    self.drift.push(describe_drift(&self.config, &there, text));
                }
                info!(file = %self.config.display(), "BIRD's configuration was written");
                Ok(())
            }
            Err(error) => {
                if let FileError::Refused { message } = &error {
                    self.refused = Some((Arc::clone(text), message.clone()));
                }
                Err(BirdError::File(error))
            }
        }
    }

    /// Makes BIRD read the file. At the start always, once: the agent may have ended between the
    /// rename and the reload. BIRD compares, so an unchanged file disturbs no session.
    async fn load(&mut self, text: &Arc<str>) -> Result<(), BirdError> {
        let theirs = control::configure(&self.socket).await.map_err(BirdError::Control)?;
        self.reloads += 1;
        if let Some(theirs) = theirs.filter(|theirs| theirs.is_absolute() && *theirs != self.config)
        {
            return Err(BirdError::OtherFile { theirs, ours: self.config.clone() });
        }
        let status = control::status(&self.socket).await.map_err(BirdError::Control)?;
        self.version = status.version;
        self.loaded = Some(Arc::clone(text));
        info!("BIRD reads its configuration again");
        Ok(())
    }

    /// Asks whether BIRD still runs. One that was started in the meantime has read the file
    /// itself; but whether before or after it was swapped nobody knows, so it is told again.
    async fn probe(&mut self) -> Result<(), BirdError> {
        match control::status(&self.socket).await {
            Ok(status) => {
                self.version = status.version;
                Ok(())
            }
            Err(error) => {
                self.loaded = None;
                Err(BirdError::Control(error))
            }
        }
    }
}

fn describe_drift(path: &Path, there: &str, wanted: &str) -> Drift {
    let change = if there.is_empty() { Change::Missing } else { Change::Modified };
    let differs = there.lines().zip(wanted.lines()).position(|(there, wanted)| there != wanted);
    let first = differs.unwrap_or_else(|| there.lines().count().min(wanted.lines().count()));
    let detail = match there.lines().nth(first) {
        _ if there.is_empty() => String::new(),
        Some(line) => format!("line {} was {:?}", first + 1, line.trim()),
        None => format!("it ended after line {first}"),
    };
    Drift::new(format!("file {}", path.display()), change, detail)
}

fn describe(error: &BirdError) -> Problem {
    Problem { subject: "bird".to_owned(), message: chain(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::DesiredState;
    use crate::routes::monitor::Links;

    fn world(registered: bool) -> World {
        let bgp = Arc::new(BgpState { registered, ..BgpState::default() });
        let desired = Arc::new(DesiredState { bgp, ..DesiredState::default() });
        World { desired, links: Links::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_is_given_time_to_register() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        let mut bird = Bird::new(path("bird.cfg"), path("bird.ctl"), Exec::default());
        // Its Node comes a moment after the rest.
        let report = bird.reconcile(&world(false), Wake::Start).await;
        assert_eq!((report.applied, report.problems), (None, vec![]));
        tokio::time::sleep(report.wake_after.unwrap() - Duration::from_secs(1)).await;
        let report = bird.reconcile(&world(false), Wake::Links).await;
        assert_eq!((report.wake_after, report.problems), (Some(Duration::from_secs(1)), vec![]));
        tokio::time::sleep(report.wake_after.unwrap()).await;
        let report = bird.reconcile(&world(false), Wake::Timer).await;
        let message = &report.problems[0].message;
        assert!(message.contains("no node of this host") && !message.contains("--ip"), "{message}");
        assert_eq!(report.wake_after, Some(PROBE));
        // One that is registered has had all the time.
        let report = bird.reconcile(&world(true), Wake::Desired).await;
        assert!(report.problems[0].message.contains("set one with --ip"), "{report:?}");
        // Its Node is deleted.
        let report = bird.reconcile(&world(false), Wake::Desired).await;
        assert_eq!(report.problems, []);
    }
}
