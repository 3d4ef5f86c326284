//! What another plugin answers: a result of any version, or an error.
#![no_main]

use calico_cni::protocol::{CniError, Success, Version};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = serde_json::from_slice(bytes) else { return };
    if let Some(error) = CniError::from_json(&value) {
        assert_ne!(error.code, 0);
        assert_eq!(CniError::from_json(&error.to_json(Version::LATEST)), Some(error));
    }
    let Ok(result) = Success::from_json(&value) else { return };
    for ip in &result.ips {
        assert!(ip.address.1 <= ip.family().host_len());
        assert!(ip.interface.is_none_or(|index| index < result.interfaces.len()));
    }
    // Nothing is lost in the newest version, and in the others nothing more the second time.
    assert_eq!(Success::from_json(&result.to_json(Version::LATEST)).as_ref(), Ok(&result));
    for version in Version::ALL {
        let json = result.to_json(version);
        let reduced = Success::from_json(&json).expect("what we print can be read");
        assert_eq!(reduced.to_json(version), json);
    }
});
