//! Points in time as they are written down, in UTC: RFC 3339 with whole seconds in objects, and Go's
//! own way to print a time in the attributes of addresses.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `2017-05-04T10:11:12Z`. A clock before 1970 counts as 1970.
pub fn rfc3339(time: SystemTime) -> String {
    let Civil { year, month, day, hour, minute, second } = Civil::of(since_1970(time).as_secs());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `2017-05-04 10:11:12.000000007 +0000 UTC`. A clock before 1970 counts as 1970.
pub fn go(time: SystemTime) -> String {
    let since = since_1970(time);
    let Civil { year, month, day, hour, minute, second } = Civil::of(since.as_secs());
    // Go leaves zeros at the end out, and the point with them.
    let fraction = format!(".{:09}", since.subsec_nanos());
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}{fraction} +0000 UTC")
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A moment as calendar and clock show it.
struct Civil {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Civil {
    /// So many seconds after the beginning of 1970.
    fn of(seconds: u64) -> Self {
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Years begin in March, so that the leap day comes last; an era is 400 years. 719,468 days
        // lie between 0000-03-01 and 1970-01-01.
        let days = days + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        Self {
            year,
            month,
            day,
            hour: second / 3_600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }
}

/// What [`rfc3339`] wrote; `None` for any other text, also for other ways to say the same.
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let number = |from: usize, to: usize| -> Option<u64> { text.get(from..to)?.parse().ok() };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    // The way back of the above.
    let (year, from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    let day_of_era = 365 * year_of_era + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    let time = UNIX_EPOCH + Duration::from_secs(seconds);
    // A 31st of February, a 25th hour, another separator: it would be written differently.
    (rfc3339(time) == text).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        // From `date -u -d @N +%FT%TZ`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_493_892_672, "2017-05-04T10:11:12Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(rfc3339(time), text);
            assert_eq!(parse_rfc3339(text), Some(time));
        }
    }

    #[test]
    fn what_nobody_wrote_is_no_moment() {
        for text in [
            "",
            "2024-02-30T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-01-01T25:00:00Z",
            "2024-01-01 00:00:00Z",
            "2024-01-01T00:00:00+00:00",
            "2024-01-00T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}",
            "99999-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn as_go_prints_it() {
        let at = |nanos| UNIX_EPOCH + Duration::new(1_493_892_672, nanos);
        for (nanos, text) in [
            (0, "2017-05-04 10:11:12 +0000 UTC"),
            (7, "2017-05-04 10:11:12.000000007 +0000 UTC"),
            (120_000_000, "2017-05-04 10:11:12.12 +0000 UTC"),
        ] {
            assert_eq!(go(at(nanos)), text);
        }
        let before = UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(go(before), "1970-01-01 00:00:00 +0000 UTC");
        assert_eq!(rfc3339(before), "1970-01-01T00:00:00Z");
    }
}
