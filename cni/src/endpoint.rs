//! A pod's endpoint in the datastore.

use calico_datastore::layout::v3::keys;
use calico_datastore::layout::v3::write::endpoint::{self, EndpointEdit};
use calico_datastore::model::WorkloadEndpointId;
use calico_datastore::store::{Store, Stored};

use crate::protocol::{CniError, Code};
use crate::{birth, failure};

/// How often another writer may be faster before we give up.
const RACES: usize = 10;

/// It is not written, or that is not known.
#[derive(Debug)]
pub(crate) struct Unwritten {
    /// Why.
    pub(crate) error: CniError,
    /// The store did not answer the write: it may have been done, or may be done yet.
    pub(crate) unsure: bool,
}

impl From<CniError> for Unwritten {
    fn from(error: CniError) -> Self {
        Self { error, unsure: false }
    }
}

/// Writes an endpoint, in place of what was stored under its name.
///
/// # Errors
/// When its name cannot be stored, the store does not answer, or somebody else writes it all the
/// time.
pub(crate) async fn write<S: Store>(
    store: &S,
    id: &WorkloadEndpointId,
    edit: &EndpointEdit,
) -> Result<(), Unwritten> {
    let msg = || format!("the endpoint {id} cannot be written");
    let key = keys::workload_endpoint(id).unwrap_or_default();
    // It is not there, nearly always: nothing is read first.
    let mut stored: Option<Stored> = None;
    for _ in 0..RACES {
        let bytes = stored.as_ref().map(|stored| stored.value.as_slice());
        let new = endpoint::write(id, edit, bytes, &birth::now()?)
            .map_err(|error| failure::malformed(msg(), &error))?;
        let Some(new) = new else { return Ok(()) };
        let done = match &stored {
            None => store.create(&key, &new).await,
            Some(stored) => store.replace(&key, &new, stored.revision).await,
        };
        let fail = |error| failure::store(msg(), &error);
        let done = done.map_err(|error| {
            // Nobody has to look for what was refused.
            let unsure = !error.is_refused();
            Unwritten { error: fail(error), unsure }
        })?;
        if done {
            return Ok(());
        }
        stored = store.get(&key).await.map_err(fail)?;
    }
    Err(CniError::new(Code::TryAgainLater, msg(), "somebody else writes it all the time").into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_datastore::model::Name;
    use calico_datastore::store::memory::Memory;

    fn edit() -> EndpointEdit {
        EndpointEdit {
            addresses: vec!["10.1.0.1".parse().unwrap()],
            profiles: vec![Name::from("frontend")],
            interface: "cali1".parse().unwrap(),
            mac: "ca:fe:1d:52:bb:e1".parse().unwrap(),
            labels: [].into(),
        }
    }

    #[tokio::test]
    async fn what_was_there_is_replaced_and_a_race_is_no_error() {
        let id = endpoint::id(&Name::from("n"), "c", "eth0");
        let key = keys::workload_endpoint(&id).unwrap();
        let store = Memory::with(&[(&key, r#"{"metadata":{"uid":"u"},"spec":{}}"#)]);
        store.race(&key, r#"{"metadata":{"uid":"v"},"spec":{}}"#);
        write(&store, &id, &edit()).await.unwrap();
        let text = store.text(&key).unwrap();
        assert!(text.contains("10.1.0.1/32") && text.contains(r#""uid":"v""#), "{text}");
        store.take_writes();
        write(&store, &id, &edit()).await.unwrap();
        assert_eq!(store.take_writes(), [""; 0], "what is stored says the same");
        let bad = endpoint::id(&Name::from("n"), "c-", "eth0");
        assert!(!write(&store, &bad, &edit()).await.unwrap_err().unsure);
        store.fail(1);
        let other = endpoint::id(&Name::from("n"), "d", "eth0");
        assert!(write(&store, &other, &edit()).await.unwrap_err().unsure);
        store.refuse(1);
        let refused = write(&store, &other, &edit()).await.unwrap_err();
        assert!(!refused.unsure && refused.error.code == 102, "{refused:?}");
    }
}
