//! What a new object needs: a random identity and the time.

use std::fs::File;
use std::io::{self, Read as _};
use std::time::SystemTime;

use crate::timestamp::rfc3339;

/// What a new object needs and a pure function cannot make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Birth {
    /// A random UUID (version 4).
    pub uid: String,
    /// Now, RFC 3339.
    pub timestamp: String,
}

impl Birth {
    /// One of now.
    ///
    /// # Errors
    /// When the kernel gives no random numbers (`/dev/urandom`).
    pub fn now() -> io::Result<Self> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self { uid: uuid(bytes), timestamp: rfc3339(SystemTime::now()) })
    }
}

/// A random UUID (RFC 9562, version 4).
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_another() {
        let born = Birth::now().unwrap();
        assert_eq!((born.timestamp.len(), born.uid.len()), (20, 36), "{born:?}");
        assert_ne!(born.uid, Birth::now().unwrap().uid);
    }

    #[test]
    fn uuids_are_of_version_4() {
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
    }
}
