//! The status keys: what they should say, and which of them to write next. Pure.
//!
//! A host has one that vanishes when it stops reporting, one that stays, and one for each of its
//! endpoints. What they are called and how they are written is the layout's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use calico_datastore::layout::Reports;
use calico_datastore::layout::v3::write;
use calico_datastore::model::{HostEndpointId, Name, WorkloadEndpointId};
use calico_datastore::timestamp::rfc3339;
use write::status::EndpointStatus;

use crate::reconcile::EndpointState;

/// The value of both keys of the host. `first`: the first report of this process.
pub fn host_value(now: SystemTime, uptime: Duration, first: bool) -> String {
    write::status::host(&rfc3339(now), uptime, first)
}

/// The time to the next report: the interval and up to a tenth of it, so that hosts that started
/// together do not write together. `random` is any number. `None`: reports are off.
pub fn next_report(interval: Duration, random: u64) -> Option<Duration> {
    let spread = interval.as_secs_f64() * 0.1;
    let share = (random >> 11) as f64 / (1u64 << 53) as f64;
    (!interval.is_zero()).then(|| interval + Duration::from_secs_f64(spread * share))
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Writes a key that stays.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: String,
    },
}

/// What should be stored about endpoints, what is, and so what to write.
#[derive(Clone, Debug, Default)]
pub struct EndpointKeys {
    reports: Reports,
    wanted: BTreeMap<String, &'static str>,
    stored: BTreeMap<String, String>,
    dirty: BTreeSet<String>,
}

impl EndpointKeys {
    /// Nothing wanted, nothing stored, in a store with these keys.
    pub fn new(reports: Reports) -> Self {
        Self { reports, ..Self::default() }
    }

    /// The state of an endpoint changed; `None`: it is gone.
    pub fn set(&mut self, id: &WorkloadEndpointId, state: Option<&EndpointState>) {
        self.put(self.reports.workload_status(id), state);
    }

    /// The same of a host endpoint of `node`.
    pub fn set_host(&mut self, node: &Name, id: &HostEndpointId, state: Option<&EndpointState>) {
        self.put(self.reports.host_endpoint_status(node, id), state);
    }

    fn put(&mut self, key: String, state: Option<&EndpointState>) {
        match state {
            Some(state) => self.wanted.insert(key.clone(), value_of(state)),
            None => self.wanted.remove(&key),
        };
        self.judge(key);
    }

    /// What the store holds under the prefix of this host's endpoints now. Statuses of endpoints that we do not
    /// know will be deleted; call it only when all endpoints are known.
    pub fn listed(&mut self, stored: impl IntoIterator<Item = (String, Vec<u8>)>) {
        let text = |value| String::from_utf8(value).unwrap_or_default();
        self.stored = stored.into_iter().map(|(key, value)| (key, text(value))).collect();
        self.dirty.clear();
        let keys: BTreeSet<_> = self.stored.keys().chain(self.wanted.keys()).cloned().collect();
        for key in keys {
            self.judge(key);
        }
    }

    fn judge(&mut self, key: String) {
        let wanted = self.wanted.get(&key).copied();
        if wanted == self.stored.get(&key).map(String::as_str) {
            self.dirty.remove(&key);
        } else {
            self.dirty.insert(key);
        }
    }

    /// The next write, when there is something to write. The same until [`done`](Self::done).
    pub fn next(&self) -> Option<Write> {
        let key = self.dirty.first()?.clone();
        Some(match self.wanted.get(&key) {
            Some(value) => Write::Put { key, value: (*value).to_owned() },
            None => Write::Delete { key },
        })
    }

    /// The write has succeeded.
    pub fn done(&mut self, write: Write) {
        let key = match write {
            Write::Put { key, value } => {
                self.stored.insert(key.clone(), value);
                key
            }
            Write::Delete { key } => {
                self.stored.remove(&key);
                key
            }
        };
        self.judge(key);
    }
}

fn value_of(state: &EndpointState) -> &'static str {
    write::status::endpoint(match state {
        EndpointState::Up => EndpointStatus::Up,
        EndpointState::Down(_) => EndpointStatus::Down,
        EndpointState::Error(_) => EndpointStatus::Error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload_status(id: &WorkloadEndpointId) -> String {
        Reports::V3.workload_status(id)
    }

    fn id(workload: &str) -> WorkloadEndpointId {
        WorkloadEndpointId {
            node: "calico-01".into(),
            orchestrator: "cni".into(),
            workload: workload.into(),
            endpoint: "eth0".into(),
        }
    }

    fn writes(keys: &mut EndpointKeys) -> Vec<Write> {
        let mut writes = vec![];
        while let Some(write) = keys.next() {
            keys.done(write.clone());
            writes.push(write);
        }
        writes
    }

    fn put(workload: &str, status: &str) -> Write {
        let value = format!(r#"{{"status":"{status}"}}"#);
        Write::Put { key: workload_status(&id(workload)), value }
    }

    #[test]
    fn the_time_is_written_as_the_datastore_has_it() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_730_801_472);
        let value = host_value(time, Duration::from_micros(123_456_789), false);
        let expected =
            r#"{"time":"2024-11-05T10:11:12Z","uptime":123.456789,"first_update":false}"#;
        assert_eq!(value, expected);
    }

    #[test]
    fn only_what_differs_is_written_and_only_once() {
        let mut keys = EndpointKeys::default();
        keys.set(&id("a"), Some(&EndpointState::Up));
        keys.set(&id("b"), Some(&EndpointState::Down("x".to_owned())));
        assert_eq!(writes(&mut keys), [put("a", "up"), put("b", "down")]);
        keys.set(&id("a"), Some(&EndpointState::Up));
        keys.set(&id("b"), Some(&EndpointState::Down("y".to_owned())));
        assert_eq!(writes(&mut keys), []);
        // There and back between two writes is no write.
        keys.set(&id("a"), Some(&EndpointState::Error(String::new())));
        keys.set(&id("a"), Some(&EndpointState::Up));
        assert_eq!(keys.next(), None);
        keys.set(&id("a"), None);
        assert_eq!(writes(&mut keys), [Write::Delete { key: workload_status(&id("a")) }]);
        keys.set(&id("never written"), None);
        assert_eq!(keys.next(), None);
    }

    #[test]
    fn a_write_that_failed_is_the_next_again() {
        let mut keys = EndpointKeys::default();
        keys.set(&id("a"), Some(&EndpointState::Up));
        assert_eq!(keys.next(), keys.next());
        // Changed while it was being written: the newer state is still to write.
        let write = keys.next().unwrap();
        keys.set(&id("a"), Some(&EndpointState::Down(String::new())));
        keys.done(write);
        assert_eq!(writes(&mut keys), [put("a", "down")]);
    }

    #[test]
    fn statuses_of_endpoints_that_are_gone_are_deleted() {
        let mut keys = EndpointKeys::default();
        keys.set(&id("same"), Some(&EndpointState::Up));
        keys.set(&id("other"), Some(&EndpointState::Up));
        let up = br#"{"status":"up"}"#.to_vec();
        let stored = [
            (workload_status(&id("same")), up.clone()),
            (workload_status(&id("gone")), up),
            (workload_status(&id("other")), b"\xff".to_vec()),
        ];
        keys.listed(stored);
        let gone = Write::Delete { key: workload_status(&id("gone")) };
        assert_eq!(writes(&mut keys), [gone, put("other", "up")]);
    }

    #[test]
    fn the_interval_has_at_most_a_tenth_of_jitter() {
        assert_eq!(next_report(Duration::ZERO, 7), None);
        let interval = Duration::from_secs(30);
        assert_eq!(next_report(interval, 0), Some(interval));
        let longest = next_report(interval, u64::MAX).unwrap();
        assert!(longest > Duration::from_millis(32_999) && longest <= Duration::from_secs(33));
    }
}
