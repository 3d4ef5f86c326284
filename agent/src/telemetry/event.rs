//! The events that an operator waits for or is woken by, each with a message id for the journal.
//!
//! A line that has the field `event` gets `MESSAGE_ID=` of that event, so that
//! `journalctl MESSAGE_ID=…` finds every one of them and `journalctl -x` explains it: the
//! explanations are in `systemd/calico-agent.catalog`. Ids and names never change their meaning;
//! lines may change their words.

/// The agent starts.
pub const STARTED: &str = "started";
/// What the datastore asks for is in force for the first time.
pub const READY: &str = "ready";
/// The agent ends; the kernel stays as it is.
pub const STOPPING: &str = "stopping";
/// The datastore does not answer.
pub const WAITING: &str = "waiting";
/// The datastore answers again.
pub const IN_SYNC: &str = "in-sync";
/// What is in force comes from disk until the datastore answers.
pub const FROM_DISK: &str = "from-disk";
/// A value of the datastore, or a file, cannot be used.
pub const REFUSED: &str = "refused";
/// One that was refused is right again, or gone.
pub const ACCEPTED: &str = "accepted";
/// An object is in the store and not, or not wholly, in force.
pub const NOTICE: &str = "notice";
/// Something that the agent has to do fails.
pub const PROBLEM: &str = "problem";
/// It does not fail any more.
pub const PROBLEM_OVER: &str = "problem-over";
/// An endpoint is not in force though it should be.
pub const ENDPOINT_FAILED: &str = "endpoint-failed";
/// An endpoint has its policy and its routes.
pub const ENDPOINT_UP: &str = "endpoint-up";
/// Somebody changed what is the agent's; it was put right.
pub const REPAIRED: &str = "repaired";
/// Rules of somebody else drop what policy accepts.
pub const OBSTACLE: &str = "obstacle";
/// They do so no longer.
pub const OBSTACLE_GONE: &str = "obstacle-gone";
/// Policy was changed in the kernel.
pub const APPLIED: &str = "applied";
/// A loop of the agent gives no sign of life.
pub const HANGS: &str = "hangs";
/// It does again.
pub const ALIVE: &str = "alive";
/// A setting, or the whole of agent.toml, is not valid.
pub const BAD_SETTING: &str = "bad-setting";
/// Settings were changed that count after a restart only.
pub const RESTART_NEEDED: &str = "restart-needed";
/// A BGP session is established.
pub const PEER_UP: &str = "peer-up";
/// A BGP session is established no more.
pub const PEER_DOWN: &str = "peer-down";
/// Policy denied packets.
pub const DENIED: &str = "denied";
/// What a pod left behind was removed.
pub const COLLECTED: &str = "collected";
/// This host has another name than before.
pub const RENAMED: &str = "renamed";
/// Connections were cut.
pub const CUT: &str = "connections-cut";

/// Each event with its message id: 128 bits at random, as sd-id128(3) asks for.
pub const ALL: [(&str, &str); 27] = [
    (STARTED, "ab927772acbb45d68c33865be0708835"),
    (READY, "3e633a5d2be64e7e9dd89325a34b96f7"),
    (STOPPING, "31a374055cba4cb4b36ffa4ebafacf05"),
    (WAITING, "af50ccd35845463eb5f72370c6bc2fa7"),
    (IN_SYNC, "61bdae17cfa84d68aafa0991b0bd17c5"),
    (FROM_DISK, "15a01fb14c7d42378c9917ebd41a98f5"),
    (REFUSED, "56d88ea67c0344d2a37cea3dd82eeb60"),
    (ACCEPTED, "d27f93f8d0844bbdaa5f1f51d7e13f0d"),
    (NOTICE, "ccbe5db4f9f74adbb35ab47eb0990d28"),
    (PROBLEM, "895162ceea3946cc9455d137c70904b7"),
    (PROBLEM_OVER, "fbbe898ecf154593a933ecd2b92e5d82"),
    (ENDPOINT_FAILED, "bea028e9870b49febc94c130d37a7129"),
    (ENDPOINT_UP, "501f9e28dd134f48995645479de9679a"),
    (REPAIRED, "611d46033ebb409c8f8812450fc1e29d"),
    (OBSTACLE, "43ed5d84832d400fab844abaa75c40f7"),
    (OBSTACLE_GONE, "a34a761dbf69480fb96196a41f2cf163"),
    (APPLIED, "bfd90e9c81c6431e8fa1fc867bb50657"),
    (HANGS, "91d97d56b5814e63aff1b9823c52bc8b"),
    (ALIVE, "a65698d2b9c547fda93328cb315dd761"),
    (BAD_SETTING, "657b80aa06264f00abe2a1c06f9238de"),
    (RESTART_NEEDED, "b5ae0a8fc00b4688b8e391e2bad02dd2"),
    (PEER_UP, "b5beb0dd4acc43bca001ecc8b30045d6"),
    (PEER_DOWN, "14e94901023b40be946d3dc684015de9"),
    (DENIED, "53a9863461894592939944bb825aa9b5"),
    (COLLECTED, "5e8a193ad229456cb5dce2056215aa69"),
    (RENAMED, "d62a44498fef4674a29d0c7152ad2df1"),
    (CUT, "cf3c9664387f4ed985a502c3cf8b36c4"),
];

/// The message id of an event.
pub(super) fn message_id(event: &str) -> Option<&'static str> {
    ALL.iter().find(|(name, _)| *name == event).map(|(_, id)| *id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_events_have_one_id() {
        let ids: BTreeSet<_> = ALL.iter().map(|(_, id)| id).collect();
        let names: BTreeSet<_> = ALL.iter().map(|(name, _)| name).collect();
        assert_eq!((ids.len(), names.len()), (ALL.len(), ALL.len()));
        for (name, id) in ALL {
            assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{name}: {id}");
            assert_eq!(message_id(name), Some(id));
        }
        assert_eq!(message_id("nothing"), None);
    }
}
