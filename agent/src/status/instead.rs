//! What counts in the place of a value that was refused, and how that is said to people: in the journal,
//! by `status` and by `plan` alike.

use calico_datastore::layout::{is_key, object_of};
use calico_datastore::model::ResourceId;

use super::document::Instead;

impl Instead {
    /// In the place of the value of a key, or of a file. `kept`: its last version goes on to count.
    pub(crate) fn of(key: &str, kept: bool) -> Self {
        let of_host = || matches!(object_of(key), Some(ResourceId::HostEndpoint(_)));
        match kept {
            _ if !is_key(key) => Self::AsTheReasonSays,
            true if of_host() => Self::WithoutAddresses,
            true => Self::LastVersion,
            false if of_host() => Self::AbsentOpen,
            false => Self::Absent,
        }
    }

    /// Half a sentence; `None` where the reason says it.
    pub(crate) fn said(self) -> Option<&'static str> {
        Some(match self {
            Self::Absent => "it counts as absent",
            Self::AbsentOpen => "it counts as absent, so what only it polices is OPEN",
            Self::LastVersion => "its last version counts",
            Self::WithoutAddresses => {
                "its interface goes on being policed, its addresses are in no set"
            }
            Self::AsTheReasonSays => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use calico_datastore::layout::v3;
    use calico_datastore::model::{HostEndpointId, PolicyId};

    use super::*;

    #[test]
    fn what_counts_in_the_place_of_a_refused_value() {
        let key = |id: ResourceId| v3::keys::key_of(&id).unwrap();
        let policy = key(ResourceId::Policy(PolicyId { namespace: None, name: "p".into() }));
        assert_eq!(Instead::of(&policy, true), Instead::LastVersion);
        assert_eq!(Instead::of(&policy, false), Instead::Absent);
        // One that is absent opens its interface, and of one that is kept no address is.
        let host = key(ResourceId::HostEndpoint(HostEndpointId { name: "h".into() }));
        assert_eq!(Instead::of(&host, true), Instead::WithoutAddresses);
        assert_eq!(Instead::of(&host, false), Instead::AbsentOpen);
        // A file of the directory store: what it said before, unless there was nothing.
        for kept in [false, true] {
            let of_file = Instead::of("/etc/calico/resources/p.yaml", kept);
            assert_eq!((of_file, of_file.said()), (Instead::AsTheReasonSays, None));
        }
    }
}
