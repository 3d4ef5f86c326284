//! How long ago something was, for people.

use std::time::Duration;

/// How long ago something was, for people: `5 s`, `12 min`, `3 h`, `2 d`.
pub fn age(passed: Duration) -> String {
    match passed.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3_600 => format!("{} min", seconds / 60),
        seconds @ 3_600..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let of = |seconds| age(Duration::from_secs(seconds));
        assert_eq!([of(0), of(59), of(60), of(3_599)], ["0 s", "59 s", "1 min", "59 min"]);
        assert_eq!([of(3_600), of(11_000), of(172_800)], ["1 h", "3 h", "2 d"]);
    }
}
