//! What a new object in the datastore needs: a random identity and the time.

use std::io::Read as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use calico_datastore::layout::v3::write::Birth;

use crate::protocol::{CniError, Code};

/// An object's birth, now.
///
/// # Errors
/// When the kernel gives no random numbers.
pub(crate) fn now() -> Result<Birth, CniError> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|e| CniError::new(Code::Io, "cannot read /dev/urandom", e.to_string()))?;
    let (timestamp, _) = civil(since_1970());
    Ok(Birth { uid: uuid(bytes), timestamp: format!("{}Z", timestamp.replace(' ', "T")) })
}

/// Now, as the original writes it into the attributes of an address: Go's way to print a time.
pub(crate) fn go_timestamp() -> String {
    let (text, nanos) = civil(since_1970());
    // Go leaves zeros at the end out, and the point with them.
    let fraction = format!(".{nanos:09}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{fraction} +0000 UTC")
}

/// A clock before 1970 counts as 1970.
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// `2017-05-04 10:11:12` and the nanoseconds.
fn civil(since: Duration) -> (String, u32) {
    let seconds = since.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March, so that the leap day comes last; an era is 400 years. 719,468 days lie
    // between 0000-03-01 and 1970-01-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let text = format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}");
    (text, since.subsec_nanos())
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
    fn known_moments() {
        // From `date -u -d @N '+%F %T'`.
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_493_892_672, "2017-05-04 10:11:12"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(civil(Duration::new(seconds, 7)), (text.to_owned(), 7));
        }
        let born = now().unwrap();
        assert_eq!((born.timestamp.len(), born.uid.len()), (20, 36), "{born:?}");
        assert_ne!(born.uid, now().unwrap().uid);
        assert!(go_timestamp().ends_with(" +0000 UTC"));
    }

    #[test]
    fn uuids_are_of_version_4() {
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
    }
}
