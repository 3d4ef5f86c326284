//! The commands of an operator beside those that ask the running agent: one module for each, with
//! its part of the command line. Those that `calicoctl` 0.0.6 had keep their names and their meaning.
//!
//! | command | module |
//! |---|---|
//! | `node` | [`node`]: this host configured, its units started, waited for |
//! | `addgroup`, `addtogroup`, `showgroups` | [`group`]: groups of pods, which are profiles |
//! | `master` | [`master`]: says that there is none |
//! | `diags` | [`diags`]: everything that somebody who helps would ask for, in one file |
//! | `log-level` | [`log_level`]: what the running agent writes to the journal |
//! | `reload` | [`reload`]: the running agent reads `agent.toml` again |

pub mod diags;
pub mod group;
pub mod log_level;
pub mod master;
pub mod node;
pub mod place;
pub mod reload;
