//! Reports: what was really programmed, told to the CNI plugin (files), to the cluster (keys in
//! etcd) and to systemd.
//!
//! * [`overview`] knows where everything that is known can be asked; the socket answers from it.
//! * [`document`] is what it answers.
//! * [`aggregate`] is the task that puts the reports together.
//! * [`combine`] makes one state per endpoint of what each reconciler says. Pure.
//! * `instead` says what counts in the place of a refused value. Pure.
//! * [`files`] keeps a file per programmed endpoint, which the CNI plugin waits for.
//! * [`keys`] decides which status keys to write, [`report`] writes them.
//! * [`systemd`] speaks with the supervisor: ready, status line, that we live.
//! * [`watchdog`] finds the loop that hangs.
//!
//! Nothing here changes the dataplane, and a report that fails never stops it.

pub mod aggregate;
pub mod combine;
pub mod document;
pub mod files;
pub mod forwarded;
mod hosts;
mod instead;
pub mod keys;
pub mod overview;
pub mod report;
pub mod systemd;
pub mod watchdog;
