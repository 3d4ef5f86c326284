//! Lists of elements that do not come in one piece.
//!
//! A hash that the kernel is just enlarging has another order with each message of its list, and each message
//! goes on behind as many elements as were told before: some are told twice, and as many not at all. The
//! kernel says nothing of it, but who is told something twice knows. It is over within milliseconds.

use std::time::Duration;

/// How often a set is listed that does not come in one piece.
const TRIES: usize = 20;
/// What the kernel is left for enlarging a hash.
const PAUSE: Duration = Duration::from_millis(5);

/// What was read of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told<T> {
    /// All of it, each element once.
    Whole(T),
    /// Something twice, and so perhaps something else not at all.
    Torn(T),
}

/// Asks for a list until it is whole: what `list` says the last time. Waits up to a tenth of a second in between,
/// so it is a blocking thread's.
pub(super) fn until_whole<T, E>(
    mut list: impl FnMut() -> Result<Told<T>, E>,
) -> Result<Told<T>, E> {
    for _ in 1..TRIES {
        if let whole @ Told::Whole(_) = list()? {
            return Ok(whole);
        }
        std::thread::sleep(PAUSE);
    }
    list()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers to the questions of `until_whole`, the last one again and again; and how many there were.
    fn ask(answers: &[Result<Told<u8>, &'static str>]) -> (Result<Told<u8>, &'static str>, usize) {
        let mut asked = 0;
        let told = until_whole(|| {
            asked += 1;
            answers[(asked - 1).min(answers.len() - 1)]
        });
        (told, asked)
    }

    #[test]
    fn what_is_torn_is_asked_for_again() {
        use Told::{Torn, Whole};
        assert_eq!(ask(&[Ok(Whole(1))]), (Ok(Whole(1)), 1));
        assert_eq!(ask(&[Ok(Torn(1)), Ok(Torn(2)), Ok(Whole(3))]), (Ok(Whole(3)), 3));
        assert_eq!(ask(&[Ok(Torn(1)), Err("refused")]), (Err("refused"), 2));
        assert_eq!(ask(&[Ok(Torn(1))]), (Ok(Torn(1)), TRIES));
    }
}
