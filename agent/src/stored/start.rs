//! What a start may do with the last good policy.
//!
//! | the kernel | the policy is |
//! |---|---|
//! | booted since the policy was written: it holds nothing of ours | published at once |
//! | was given it, or something newer, in this boot | what the kernel was given last; nothing is published, what the kernel holds stays until the datastore has answered |
//!
//! The second line needs more than the boot in the file: after a boot the datastore may have said
//! something newer that never came to the disk, because that is full. So a mark in the run directory,
//! which a boot empties, says that the kernel has been given something from the datastore.

use std::fs;
use std::path::Path;

use calico_datastore::model::Name;

use super::{StoredPolicy, file};
use crate::paths::Paths;
use crate::reconcile::Problem;
use crate::telemetry::chain;

/// Where the kernel says which boot this is.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What a start may do.
#[derive(Clone, Debug, Default)]
pub enum Found {
    /// Nothing: wait for the datastore.
    #[default]
    Nothing,
    /// Publish it: the kernel holds nothing.
    Publish(StoredPolicy),
    /// Nothing: the kernel was given it, or something newer, in this boot.
    InKernel,
}

/// Reads what there is, on a thread that may wait for the disk. What cannot be used is a problem
/// that `status` shows.
pub async fn find(paths: &Paths, node: &Name, boot: &str) -> (Found, Vec<Problem>) {
    let (paths, node, boot) = (paths.clone(), node.clone(), boot.to_owned());
    let found = tokio::task::spawn_blocking(move || look(&paths, &node, &boot)).await;
    found.unwrap_or_else(|error| (Found::Nothing, vec![problem(format!("not read: {error}"))]))
}

fn look(paths: &Paths, node: &Name, boot: &str) -> (Found, Vec<Problem>) {
    let stored = match file::read(&paths.stored_policy()) {
        Ok(Some(stored)) => stored,
        Ok(None) => return (Found::Nothing, Vec::new()),
        Err(error) => {
            let message = format!("{}; started without it", chain(&error));
            tracing::error!(reason = message, "the last good policy cannot be used");
            return (Found::Nothing, vec![problem(message)]);
        }
    };
    let marked = fs::read_to_string(paths.policy_marker()).unwrap_or_default();
    (judge(stored, node, boot, marked.trim()), Vec::new())
}

/// What may be done with that policy on the host `node`, in that boot. `marked`: the boot in which
/// the kernel was last given something from the datastore.
fn judge(stored: StoredPolicy, node: &Name, boot: &str, marked: &str) -> Found {
    if stored.node != *node {
        let theirs = stored.node.as_str();
        tracing::warn!(node = theirs, "the last good policy on disk is another node's; not used");
        Found::Nothing
    } else if boot.is_empty() {
        tracing::warn!(
            "the kernel does not say which boot this is; the policy on disk is not used"
        );
        Found::Nothing
    } else if stored.boot == boot {
        Found::InKernel
    } else if marked == boot {
        // The kernel holds something newer, nobody knows what.
        Found::Nothing
    } else {
        Found::Publish(stored)
    }
}

/// This boot's id; empty when the kernel does not say.
pub fn boot_id(path: &Path) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Something about the file, for `status`.
pub(super) fn problem(message: String) -> Problem {
    Problem { subject: "policy on disk".to_owned(), message }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::UNIX_EPOCH;

    use super::*;

    fn stored() -> StoredPolicy {
        StoredPolicy {
            node: "a".into(),
            boot: "before".to_owned(),
            written: UNIX_EPOCH,
            state: Arc::default(),
            settings: super::super::StoreSettings::default(),
        }
    }

    #[test]
    fn only_a_kernel_that_was_given_nothing_gets_it() {
        let judged = |node: &str, boot, marked| match judge(stored(), &node.into(), boot, marked) {
            Found::Nothing => "nothing",
            Found::Publish(_) => "publish",
            Found::InKernel => "in kernel",
        };
        assert_eq!(judged("a", "now", ""), "publish");
        assert_eq!(judged("a", "now", "before"), "publish");
        assert_eq!(judged("a", "before", ""), "in kernel");
        assert_eq!(judged("a", "before", "before"), "in kernel");
        assert_eq!(judged("a", "now", "now"), "nothing");
        assert_eq!(judged("b", "now", ""), "nothing");
        assert_eq!(judged("b", "before", ""), "nothing");
        assert_eq!(judged("a", "", ""), "nothing");
    }
}
