//! What etcd answers: nodes, events and errors as JSON.

use serde::Deserialize;

/// A key or a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Node {
    /// The key, with a slash in front.
    pub key: String,
    /// The value of a key; a directory has none.
    pub value: Option<String>,
    /// True of a directory.
    pub dir: bool,
    /// What a directory holds, where it was asked for.
    pub nodes: Vec<Node>,
    /// The index of its last change.
    pub modified_index: i64,
    /// The index at which it was made. To overwrite a key makes it anew.
    pub created_index: i64,
}

impl Node {
    /// Every key at or below this node, without the directories.
    pub fn keys(&self) -> impl Iterator<Item = &Node> {
        let mut stack = vec![self];
        std::iter::from_fn(move || {
            loop {
                let node = stack.pop()?;
                if !node.dir {
                    return Some(node);
                }
                stack.extend(node.nodes.iter().rev());
            }
        })
    }
}

/// What happened, or what was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Event {
    /// `get`, `set`, `create`, `update`, `compareAndSwap`, `delete`, `compareAndDelete`, `expire`.
    pub action: String,
    /// To what.
    pub node: Node,
}

/// What etcd says when it does not do what it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Fault {
    /// etcd's number of it; 0 when it gave none.
    pub error_code: u32,
    /// What it is, in words.
    pub message: String,
    /// More about it.
    pub cause: String,
    /// The store's index.
    pub index: i64,
}

/// The numbers of errors that are told apart here.
mod code {
    pub(super) const KEY_NOT_FOUND: u32 = 100;
    pub(super) const TEST_FAILED: u32 = 101;
    pub(super) const NOT_A_FILE: u32 = 102;
    pub(super) const NODE_EXISTS: u32 = 105;
    pub(super) const UNAUTHORIZED: u32 = 110;
    pub(super) const RAFT_INTERNAL: u32 = 300;
    pub(super) const LEADER_ELECTION: u32 = 301;
    pub(super) const WATCHER_CLEARED: u32 = 400;
    pub(super) const EVENT_INDEX_CLEARED: u32 = 401;
}

impl Fault {
    /// There is no such key.
    pub fn is_not_found(&self) -> bool {
        self.error_code == code::KEY_NOT_FOUND
    }

    /// What a write was to depend on is not so.
    pub fn is_conflict(&self) -> bool {
        matches!(self.error_code, code::TEST_FAILED | code::NODE_EXISTS | code::NOT_A_FILE)
    }

    /// The history does not reach back to the index that was asked for.
    pub fn is_cleared(&self) -> bool {
        matches!(self.error_code, code::EVENT_INDEX_CLEARED | code::WATCHER_CLEARED)
    }

    /// The user may not do this.
    pub fn is_unauthorized(&self) -> bool {
        self.error_code == code::UNAUTHORIZED
    }

    /// The cluster has no leader, or the member no cluster.
    pub fn is_unavailable(&self) -> bool {
        matches!(self.error_code, code::RAFT_INTERNAL | code::LEADER_ELECTION)
    }
}

/// One answer: what happened, or why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What was asked for.
    Event(Event),
    /// An error of etcd's.
    Fault(Fault),
}

/// Reads an answer.
///
/// # Errors
/// When it is no JSON of etcd's.
pub fn parse(body: &[u8]) -> Result<Answer, serde_json::Error> {
    /// Both forms at once: what is missing says which it is.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Both {
        #[serde(default)]
        error_code: Option<u32>,
        #[serde(default)]
        message: Option<String>,
        #[serde(default)]
        cause: Option<String>,
        #[serde(default)]
        index: Option<i64>,
        #[serde(default)]
        action: Option<String>,
        #[serde(default)]
        node: Option<Node>,
    }
    // A derived struct would fill its fields from an array by position.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(serde::de::Error::custom("is no object"));
    }
    // etcd nests as deep as keys have segments; nobody has 128 of them.
    let both: Both = serde_json::from_slice(body)?;
    Ok(match (both.action, both.node) {
        (Some(action), Some(node)) => Answer::Event(Event { action, node }),
        _ => Answer::Fault(Fault {
            error_code: both.error_code.unwrap_or_default(),
            message: both.message.unwrap_or_default(),
            cause: both.cause.unwrap_or_default(),
            index: both.index.unwrap_or_default(),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_nested_directories_come_in_order() {
        let body = br#"{"action":"get","node":{"key":"/a","dir":true,"nodes":[
            {"key":"/a/b","dir":true,"nodes":[{"key":"/a/b/1","value":"x","modifiedIndex":7,
             "createdIndex":5}]},
            {"key":"/a/c","dir":true},{"key":"/a/d","value":""}]}}"#;
        let Ok(Answer::Event(event)) = parse(body) else { panic!("no event") };
        let keys: Vec<_> = event.node.keys().map(|node| node.key.as_str()).collect();
        assert_eq!(keys, ["/a/b/1", "/a/d"]);
        let first = event.node.keys().next().unwrap();
        assert_eq!((first.modified_index, first.created_index), (7, 5));
    }

    #[test]
    fn errors_of_etcd() {
        let body = br#"{"errorCode":401,"message":"The event in requested index is outdated and
            cleared","cause":"[2007/1000]","index":3006}"#;
        let body: Vec<u8> = body.iter().copied().filter(|byte| *byte != b'\n').collect();
        let Ok(Answer::Fault(fault)) = parse(&body) else { panic!("no fault") };
        assert!(fault.is_cleared() && !fault.is_not_found() && !fault.is_unavailable());
        assert_eq!(fault.index, 3006);
        // Of the access control, which knows no numbers.
        let Ok(Answer::Fault(fault)) = parse(br#"{"message":"Insufficient credentials"}"#) else {
            panic!("no fault");
        };
        assert_eq!((fault.error_code, fault.message.as_str()), (0, "Insufficient credentials"));
        for body in ["", "404 page not found", "[]", "null"] {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
    }
}
