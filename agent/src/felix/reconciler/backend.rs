//! What carries policy into the kernel: one of the dataplanes.
//!
//! A backend owns what it knows of the kernel's objects, what was refused of them, and when it wants to
//! look at them again. Everything that is the same whatever the objects are is [`super::Felix`]'s:
//! interfaces, parameters, connections, the states of endpoints, what is said.

use std::fmt;

use calico_datastore::model::Family;
use tokio::time::Instant;

use super::run::Run;
use crate::config::Settings;
use crate::desired::LocalEndpoint;
use crate::felix::iptables::backend::Iptables;
use crate::felix::nftables::backend::Nftables;
use crate::felix::scene::{Changed, Scene};
use crate::felix::watch::{Rules, Touched};
use crate::routes::monitor::Links;

/// What a run of a backend is about.
#[derive(Clone, Copy, Debug)]
pub(in crate::felix) struct Job<'a> {
    /// What should be. In settings that this backend was set up with.
    pub(in crate::felix) scene: Scene<'a>,
    /// The interfaces of this host.
    pub(in crate::felix) links: &'a Links,
    /// What changed since the last run; `None`: everything is made anew.
    pub(in crate::felix) changed: Option<Changed<'a>>,
    /// The families of the kernel, whether they are switched on or not.
    pub(in crate::felix) known: &'a [Family],
    /// Those that are switched on.
    pub(in crate::felix) on: &'a [Family],
    /// Everything in the kernel is read again, whatever is known of it.
    pub(in crate::felix) all: bool,
    /// It is time to look at what should not change by itself.
    pub(in crate::felix) check: bool,
    /// What others touched.
    pub(in crate::felix) told: &'a Touched,
    /// What is read again.
    pub(in crate::felix) doubtful: &'a Touched,
    /// Until now a state from disk was in force, and now it is another.
    pub(in crate::felix) from_disk: bool,
    /// When the run began.
    pub(in crate::felix) now: Instant,
}

/// The dataplane in use.
#[derive(Debug)]
pub(in crate::felix) enum Backend {
    /// Tables of iptables, and address sets.
    Iptables(Box<Iptables>),
    /// A table of our own of nf_tables, and the groups of interfaces.
    Nftables(Box<Nftables>),
}

impl fmt::Display for Backend {
    /// Which one, and why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iptables(iptables) => iptables.dataplane().fmt(f),
            Self::Nftables(nftables) => nftables.fmt(f),
        }
    }
}

impl Backend {
    /// Where the watch has to look.
    pub(super) fn rules(&self) -> Rules {
        match self {
            Self::Iptables(iptables) => Rules::Iptables(iptables.dataplane().flavour),
            Self::Nftables(_) => Rules::Nftables,
        }
    }

    /// Takes over settings: before the first run, and when they change.
    ///
    /// # Errors
    /// In words, when it cannot work with them.
    pub(super) fn set_up(&mut self, settings: &Settings, known: &[Family]) -> Result<(), String> {
        match self {
            Self::Iptables(iptables) => iptables.set_up(settings, known),
            Self::Nftables(nftables) => nftables.set_up(settings),
        }
    }

    /// True when it is time to look at the rules, whether anybody touched them or not.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        match self {
            Self::Iptables(iptables) => iptables.is_due(now),
            Self::Nftables(nftables) => nftables.is_due(now),
        }
    }

    /// Puts right what others did since the last run, before anything new is done: where what should
    /// be there is known from `scene`, that of the last run, and from nothing else.
    pub(super) async fn look_back(&mut self, scene: &Scene<'_>, doubtful: &Touched, run: &mut Run) {
        match self {
            // It finds out while it does what is new.
            Self::Iptables(_) => {}
            Self::Nftables(nftables) => nftables.look_back(scene, doubtful, run).await,
        }
    }

    /// Makes the kernel's objects so. True when policy is in force, of every family that is
    /// switched on.
    pub(super) async fn run(&mut self, job: &Job<'_>, run: &mut Run) -> bool {
        match self {
            Self::Iptables(iptables) => iptables.run(job, run).await,
            Self::Nftables(nftables) => nftables.run(job, run).await,
        }
    }

    /// Somebody puts interfaces of pods into other groups again and again. True when the next run does
    /// something about it.
    pub(super) fn groups_are_fought_about(&mut self, interface: &str) -> bool {
        match self {
            Self::Iptables(_) => false,
            Self::Nftables(nftables) => nftables.groups_are_fought_about(interface),
        }
    }

    /// True when the last run left something refused that may be of a single endpoint.
    pub(super) fn refuses(&self) -> bool {
        match self {
            Self::Iptables(iptables) => iptables.refuses(),
            Self::Nftables(nftables) => nftables.refuses(),
        }
    }

    /// What was refused of an endpoint.
    pub(super) fn refusal(&self, endpoint: &LocalEndpoint) -> Option<String> {
        match self {
            Self::Iptables(iptables) => iptables.refusal(endpoint),
            Self::Nftables(nftables) => nftables.refusal(endpoint),
        }
    }

    /// When it wants to run again although nothing changes. `began`: when this run did.
    pub(super) fn next_look(&self, began: Instant) -> Option<Instant> {
        match self {
            Self::Iptables(iptables) => iptables.next_look(began),
            Self::Nftables(nftables) => nftables.next_look(),
        }
    }
}
