//! Answers on BIRD's control socket.
#![no_main]

use arbitrary::Arbitrary;
use calico_agent::routes::bird::control::{Reply, parse_sessions, parse_status};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    cut: u16,
    bytes: &'a [u8],
}

libfuzzer_sys::fuzz_target!(|input: Input<'_>| {
    let whole = Reply::default().feed(input.bytes);
    let (first, second) = input.bytes.split_at(usize::from(input.cut).min(input.bytes.len()));
    let mut reply = Reply::default();
    let portions = match reply.feed(first) {
        Ok(None) => reply.feed(second),
        ended => ended,
    };
    assert_eq!(portions.as_ref().ok(), whole.as_ref().ok(), "any portions make one answer");
    assert_eq!(portions.is_err(), whole.is_err());
    let Ok(Some(lines)) = whole else { return };
    assert!(!lines.is_empty() && lines.len() <= input.bytes.len());
    let text: usize = lines.iter().map(|line| line.text.len()).sum();
    assert!(text <= 3 * input.bytes.len(), "bytes that are no text become three each");
    let sessions = parse_sessions(&lines);
    assert!(sessions.len() <= lines.iter().filter(|line| line.code == 1002).count());
    for session in &sessions {
        assert!(!session.name.contains(char::is_whitespace));
        assert!(!session.is_established() || session.info.starts_with("Established"));
    }
    assert_eq!(parse_status(lines.clone()), parse_status(lines));
});
