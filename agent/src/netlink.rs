//! As much of netlink's format as we need: messages, attributes, requests. Pure; what does not fit its
//! length ends the walk, and nothing panics whatever the bytes are.

pub(crate) mod build;

/// `nlmsghdr` (netlink(7)) without its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// `nlmsg_type`.
    pub(crate) kind: u16,
    /// `nlmsg_flags`.
    pub(crate) flags: u16,
    /// `nlmsg_seq`: that of the request that it answers.
    pub(crate) sequence: u32,
    /// `nlmsg_pid`: the port of the sender.
    pub(crate) port: u32,
}

/// `NLMSG_ERROR`.
pub(crate) const ERROR: u16 = 2;
/// `NLMSG_DONE`.
pub(crate) const DONE: u16 = 3;
/// Size of `nlmsghdr`.
const HEADER: usize = 16;
/// `NLM_F_REQUEST | NLM_F_ACK`.
pub(crate) const REQUEST: u16 = 1 | 4;
/// `NLM_F_DUMP`.
pub(crate) const DUMP: u16 = 0x300;
/// `NLM_F_DUMP_INTR`: what is listed changed meanwhile.
pub(crate) const INTERRUPTED: u16 = 0x10;
/// `NLA_TYPE_MASK`: the rest says nested, and in which byte order.
const TYPE_MASK: u16 = 0x3fff;
/// `NLA_F_NESTED`.
pub(crate) const NESTED: u16 = 1 << 15;
/// `NLA_F_NET_BYTEORDER`.
pub(crate) const NET_BYTE_ORDER: u16 = 1 << 14;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// An attribute's value in network byte order.
pub(crate) fn be32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

/// An attribute's value that ends in NUL.
pub(crate) fn text(value: &[u8]) -> Option<&str> {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).ok()
}

/// The messages of one datagram with what follows their header.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32_at(rest, 0)? as usize;
        let (kind, flags) = (u16_at(rest, 4)?, u16_at(rest, 6)?);
        let (sequence, port) = (u32_at(rest, 8)?, u32_at(rest, 12)?);
        let header = Header { kind, flags, sequence, port };
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((header, body))
    })
}

/// What the kernel says of a request by number, from an [`ERROR`]: 0 = carried out, else an error's
/// number, positive; and the request, or the beginning of it.
pub(crate) fn verdict(body: &[u8]) -> (i32, &[u8]) {
    let code = u32_at(body, 0).unwrap_or(0).cast_signed().wrapping_neg();
    (code, body.get(4..).unwrap_or_default())
}

/// Attributes: type and value.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of that type.
pub(crate) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// The number by which the answers to a request are known.
pub(crate) fn number(request: &mut [u8], sequence: u32) {
    if let Some(place) = request.get_mut(8..12) {
        place.copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// A request: `header` is what the protocol puts before the attributes, a multiple of four long.
pub(crate) fn request(
    kind: u16,
    flags: u16,
    header: &[u8],
    attributes: &[(u16, &[u8])],
) -> Vec<u8> {
    let mut message = build::Message::new(kind, flags, header);
    for (kind, value) in attributes {
        message.put(*kind, value);
    }
    message.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let header = [2, 0, 0, 0];
        let mut one =
            request(0x0a06, REQUEST, &header, &[(1, b"filter\0"), (2 | 1 << 15, b"abcd")]);
        let first = one.clone();
        number(&mut one, 7);
        let two = [first, one].concat();
        let all: Vec<_> = messages(&two).collect();
        assert_eq!(all.len(), 2);
        let (head, body) = all[1];
        assert_eq!((head.kind, head.sequence, &body[..4]), (0x0a06, 7, &header[..]));
        assert_eq!(all[0].0.sequence, 0);
        assert_eq!(attribute(&body[4..], 1).and_then(text), Some("filter"));
        assert_eq!(attribute(&body[4..], 2).and_then(be32), Some(0x6162_6364));
        assert_eq!(attribute(&body[4..], 3), None);
    }

    #[test]
    fn a_length_that_cannot_be_ends_the_walk() {
        assert_eq!(messages(&[0; 64]).count(), 0);
        assert_eq!(attributes(&[0; 64]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 5]).count(), 0);
        assert_eq!(messages(&[255; 64]).count(), 0);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_loop(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(messages(&bytes).count() <= 20);
            prop_assert!(attributes(&bytes).count() <= 60);
            let _ = text(&bytes);
        }
    }
}
