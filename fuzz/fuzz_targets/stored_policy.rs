//! The last good policy. The input is header and content; the trailer is made here, since no fuzzer
//! finds a checksum.
#![no_main]

use calico_agent::stored::StoredPolicy;
use calico_agent::stored::format::{Draft, FormatError, content_of, read, write};
use sha2::{Digest as _, Sha256};

/// The text of a policy. Its parts go wherever a file's do.
fn text(stored: &StoredPolicy) -> Vec<u8> {
    let StoredPolicy { node, boot, written, state, settings } = stored.clone();
    let mut text = Vec::new();
    let length = write(&Draft { node, boot, written, state, settings }, &mut text);
    assert_eq!(length.expect("memory takes everything"), text.len() as u64);
    text
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Nothing without the right trailer is used.
    let _ = read(bytes).map(|stored| text(&stored));
    let mut file = bytes.to_vec();
    file.extend_from_slice(b"\n");
    let sum: String = Sha256::digest(&file).iter().map(|byte| format!("{byte:02x}")).collect();
    file.extend_from_slice(format!("{{\"sha256\":\"{sum}\"}}\n").as_bytes());
    match read(&file) {
        Ok(stored) => {
            // What is read can be written and read again, and then nothing changes any more.
            let first = text(&stored);
            let again = read(&first).expect("what was written can be read");
            assert_eq!(String::from_utf8_lossy(&text(&again)), String::from_utf8_lossy(&first));
            assert!(content_of(&first).is_some_and(|content| content.ends_with(b"}\n")));
            assert_eq!(
                (again.settings, again.state.classes.len(), again.written),
                (stored.settings, stored.state.classes.len(), stored.written)
            );
            // One bit that is wrong is noticed.
            let mut damaged = first;
            let middle = damaged.len() / 2;
            damaged[middle] ^= 1;
            assert!(read(&damaged).is_err());
        }
        Err(error) => assert!(!matches!(error, FormatError::Checksum), "{error}"),
    }
});
