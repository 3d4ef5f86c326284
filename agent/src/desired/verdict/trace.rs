//! What was asked on the way to a verdict. Who only wants the verdict pays nothing for it.

use calico_datastore::model::{Name, PolicyId};

use super::{Miss, Verdict};
use crate::desired::{ActiveRule, TierAcl};

/// One thing that was asked, in order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step<'a> {
    /// A tier begins.
    Tier(&'a TierAcl),
    /// A policy of the tier begins.
    Policy(&'a PolicyId),
    /// No rule of the tier decided.
    EndOfTier(&'a TierAcl),
    /// No rule of the tier decided, where the end of one drops nothing.
    OpenEnd(&'a TierAcl),
    /// No tier decided, and a profile begins.
    Profile(&'a Name),
    /// A rule was asked; why it does not match, or `None`: it does.
    Rule(&'a ActiveRule, Option<Miss<'a>>),
}

/// A verdict and the way to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Traced<'a> {
    /// The verdict.
    pub verdict: Verdict,
    /// What was asked. Empty where no policy had to be asked.
    pub steps: Vec<Step<'a>>,
}

/// Who is told of the steps.
pub(super) trait Trace<'a> {
    /// Rules with the action Log are asked, too.
    const WANTS_LOG: bool;

    fn step(&mut self, step: Step<'a>);
}

impl<'a> Trace<'a> for () {
    const WANTS_LOG: bool = false;

    fn step(&mut self, _: Step<'a>) {}
}

impl<'a> Trace<'a> for Vec<Step<'a>> {
    const WANTS_LOG: bool = true;

    fn step(&mut self, step: Step<'a>) {
        self.push(step);
    }
}
