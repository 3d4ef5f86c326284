//! What the fuzz targets share: the laws that decoding obeys, whatever the bytes.
//!
//! A target is one decoder. It checks more than that nothing panics: that equal bytes decode
//! equally, that what was read can be written and read again, that nothing grows out of bounds.
//! Seeds are in `seeds/<target>/`; what a run finds goes to `corpus/<target>/`.

use std::sync::Arc;

use calico_agent::acl::Calculator;
use calico_agent::config::Settings;
use calico_agent::desired::DesiredState;
use calico_datastore::layout::{Decoded, v3};
use calico_datastore::model::{
    Cidr, Labels, Name, Policy, Selector, Update, WorkloadEndpoint, WorkloadEndpointId,
};

/// The longest reason of a rejection, with its ellipsis.
const REASON_MAX: usize = 1000 + '…'.len_utf8();

/// What a decoded object may take as text, for each byte of its value and by itself. The factor
/// only has to be one: nothing is squared.
const GROWTH: (usize, usize) = (200, 20_000);

/// A target for one kind of resource: its key without [`v3::RESOURCES_PREFIX`].
#[macro_export]
macro_rules! resource {
    ($path:literal) => {
        libfuzzer_sys::fuzz_target!(|value: &[u8]| {
            let key = format!("{}{}", calico_datastore::layout::v3::RESOURCES_PREFIX, $path);
            let _ = $crate::resource(&key, value);
        });
    };
}

/// Decodes a value of a key that stands for an object, and checks what must hold of the result.
pub fn resource(key: &str, value: &[u8]) -> Option<Update> {
    let decoded = v3::decode(key, value);
    assert_eq!(v3::decode(key, value), decoded, "equal values decode equally");
    let id = v3::id_of(key).expect("the key of an object");
    match decoded {
        Decoded::Object(update) => {
            assert_eq!(update.id(), id, "names come from the key");
            let same = |value: &[u8], what: &str| match v3::decode(key, value) {
                Decoded::Object(other) => assert_eq!(other, update, "{what}"),
                other => panic!("{what}: {other:?}"),
            };
            same(&[b" \r\n\t", value, b"\n "].concat(), "white space around a value");
            if let Some(more) = with_unknown_field(value) {
                same(&more, "an unknown field");
            }
            let (factor, more) = GROWTH;
            let size = format!("{update:?}").len();
            assert!(size <= factor * value.len() + more, "{size} bytes of {}", value.len());
            Some(update)
        }
        Decoded::Rejected(rejection) => {
            assert_eq!((rejection.key.as_str(), &rejection.id), (key, &Some(id)));
            reason(&rejection.reason);
            None
        }
        other => panic!("{key} is an object's key, and decodes to {other:?}"),
    }
}

/// What must hold of the reason of a rejection.
pub fn reason(reason: &str) {
    assert!(!reason.is_empty() && reason.len() <= REASON_MAX, "{reason}");
    assert!(!reason.contains(['\n', '\r', '\0', '\u{1b}']), "goes into a log: {reason:?}");
}

/// The document with a field more at its top that nobody knows.
fn with_unknown_field(value: &[u8]) -> Option<Vec<u8>> {
    let start = value.iter().position(|byte| !b" \r\n\t".contains(byte))?;
    let rest = value[start..].strip_prefix(b"{")?;
    let first = rest.iter().find(|byte| !b" \r\n\t".contains(byte))?;
    let comma: &[u8] = if *first == b'}' { b"" } else { b"," };
    Some([b"{\"x-unknown\":[{}]", comma, rest].concat())
}

/// The state of a host with one endpoint to which a policy applies, whatever its selector says.
pub fn state_with(policy: &Policy) -> Arc<DesiredState> {
    let node = Name::from("a");
    let id = WorkloadEndpointId {
        node: node.clone(),
        orchestrator: "cni".into(),
        workload: "default/w".into(),
        endpoint: "eth0".into(),
    };
    let addresses: [Cidr; 2] = ["10.0.0.1", "fd00::1"].map(|text| text.parse().expect("a CIDR"));
    let endpoint = WorkloadEndpoint {
        interface: "cali0".parse().expect("a name"),
        active: true,
        mac: None,
        addresses: addresses.to_vec(),
        nat: Vec::new(),
        spoof: Vec::new(),
        profiles: Vec::new(),
        labels: Labels::default(),
        ports: Vec::new(),
    };
    let policy = Policy { selector: Selector::all(), ..policy.clone() };
    let policy_id = calico_datastore::model::PolicyId { namespace: None, name: "p".into() };
    let mut calculator = Calculator::new(node);
    calculator.apply([
        Update::WorkloadEndpoint(id, Some(Arc::new(endpoint))),
        Update::Policy(policy_id, Some(Arc::new(policy))),
    ]);
    calculator.desired(Arc::new(Settings::default()), 0)
}
