//! Which source wins: a pure function from everything that was said to one [`Settings`].
//!
//! It is asked again each time a FelixConfiguration changes, so that a change needs no restart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use calico_datastore::model::FelixConfiguration;

use super::env::Env;
use super::file::FileConfig;
use super::local::is_local;
use super::params::{OnBad, PARAMS, Param, folded};
use super::settings::Settings;
use super::unsupported::why_unsupported;
use crate::reconcile::Problem;

/// Where a value came from, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// `FELIX_<NAME>`.
    Environment,
    /// `agent.toml`, section `[felix]`.
    File,
    /// FelixConfiguration `node.<name>`.
    Node,
    /// FelixConfiguration `default`.
    Global,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Environment => "the environment",
            Self::File => "agent.toml",
            Self::Node => "FelixConfiguration of this node",
            Self::Global => "FelixConfiguration default",
        })
    }
}

/// Everything that was said.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// The process's environment.
    pub env: &'a Env,
    /// `agent.toml`.
    pub file: &'a FileConfig,
    /// FelixConfiguration `node.<name>`, when there is one.
    pub node: Option<&'a FelixConfiguration>,
    /// FelixConfiguration `default`, when there is one.
    pub global: Option<&'a FelixConfiguration>,
}

/// A name that has no effect, with the reason when it is a parameter that Felix knows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ignored {
    /// Where it stands.
    pub source: Source,
    /// The name as written there.
    pub name: String,
    /// Why it has no effect.
    pub reason: &'static str,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Resolution {
    /// The settings.
    pub settings: Settings,
    /// The parameters that have another value than by default, or were given one: text and source.
    pub given: BTreeMap<&'static str, (Source, String)>,
    /// Values that were refused, one each: `status` shows them and they are logged once.
    pub problems: Vec<Problem>,
    /// Names without effect, sorted, for the debug log.
    pub ignored: BTreeSet<Ignored>,
}

/// Asks the sources in their order for every parameter.
///
/// `defaults` is what holds where nobody says anything ([`Settings::default`], with the run
/// directory as `endpoint_status_prefix`). `last` is what this function returned the time before;
/// a bad value of a parameter with [`OnBad::KeepLast`] leaves its last good value in force.
pub fn resolve(
    sources: &Sources<'_>,
    defaults: &Settings,
    last: Option<&Resolution>,
) -> Resolution {
    let mut ignored = BTreeSet::new();
    let said = said(sources, &mut ignored);
    let mut result = Resolution {
        settings: defaults.clone(),
        given: BTreeMap::new(),
        problems: vec![],
        ignored,
    };
    for param in PARAMS {
        for (source, value) in said.get(param.name).into_iter().flatten() {
            match param.apply(value, &mut result.settings) {
                Ok(()) => {
                    result.given.insert(param.name, (*source, (*value).to_owned()));
                    break;
                }
                Err(error) => {
                    let kept = param.on_bad == OnBad::KeepLast;
                    let then = if kept { keep(param, last, &mut result) } else { "ignored" };
                    result.problems.push(Problem {
                        subject: param.name.to_owned(),
                        message: format!("{error} (from {source}; {then})"),
                    });
                    if kept {
                        break;
                    }
                }
            }
        }
    }
    result
}

/// Puts the last good value of `param` into `result`; says what now holds.
fn keep(param: &Param, last: Option<&Resolution>, result: &mut Resolution) -> &'static str {
    let Some((source, text)) = last.and_then(|last| last.given.get(param.name)) else {
        return "the default holds";
    };
    // A text that was good once is good again: what a parameter takes never changes.
    match param.apply(text, &mut result.settings) {
        Ok(()) => {
            result.given.insert(param.name, (*source, text.clone()));
            "the last good value holds"
        }
        Err(_) => "the default holds",
    }
}

/// Parameter → what was said about it, the strongest source first.
fn said<'a>(
    sources: &Sources<'a>,
    ignored: &mut BTreeSet<Ignored>,
) -> BTreeMap<&'static str, Vec<(Source, &'a str)>> {
    let mut said: BTreeMap<&'static str, Vec<(Source, &'a str)>> = BTreeMap::new();
    let mut say = |source: Source, name: &str, value: &'a str| {
        // An empty value says nothing; `none` is how a feature is switched off.
        if value.trim().is_empty() {
            return;
        }
        if let Some(param) = Param::find(name) {
            said.entry(param.name).or_default().push((source, value));
        } else if source != Source::Environment || !is_local(name) {
            let reason = if is_local(name) {
                "it counts only in the environment and in agent.toml"
            } else {
                why_unsupported(name).unwrap_or("unknown name")
            };
            ignored.insert(Ignored { source, name: name.to_owned(), reason });
        }
    };
    for (name, value) in sources.env.felix() {
        say(Source::Environment, name, value);
    }
    for (name, value) in &sources.file.felix {
        say(Source::File, name, value);
    }
    for (source, object) in [(Source::Node, sources.node), (Source::Global, sources.global)] {
        for (name, value) in object.iter().flat_map(|object| &object.parameters) {
            say(source, name, value);
        }
    }
    said
}

/// True when `name` is set by a source that this host's administrator controls, so that nothing
/// should be written about it to the datastore.
pub fn set_locally(env: &Env, file: &FileConfig, name: &str) -> bool {
    let wanted = folded(name);
    env.felix_value(name).is_some() || file.felix.keys().any(|key| folded(key) == wanted)
}
