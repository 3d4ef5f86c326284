//! Requests, attribute by attribute.

use super::{HEADER, NESTED};

/// A message while it is written. An attribute holds up to 65531 bytes: whoever writes more in one, or in
/// those within it, has to begin another.
#[derive(Clone, Debug)]
pub(crate) struct Message(Vec<u8>);

/// Where an attribute began that others go into.
#[derive(Debug)]
#[must_use]
pub(crate) struct Opened(usize);

impl Message {
    /// `header` is what the protocol puts before the attributes, a multiple of four long.
    pub(crate) fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut out = vec![0; HEADER];
        out[4..6].copy_from_slice(&kind.to_ne_bytes());
        out[6..8].copy_from_slice(&flags.to_ne_bytes());
        out.extend(header);
        Self(out)
    }

    /// An attribute.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.pad();
    }

    /// An attribute that ends in NUL.
    pub(crate) fn put_text(&mut self, kind: u16, text: &str) {
        let opened = self.open(kind);
        self.0.extend(text.as_bytes());
        self.0.push(0);
        self.end(opened.0);
    }

    /// Begins an attribute that holds others.
    pub(crate) fn nest(&mut self, kind: u16) -> Opened {
        self.open(kind | NESTED)
    }

    /// Ends it.
    pub(crate) fn close(&mut self, Opened(at): Opened) {
        self.end(at);
    }

    /// The message.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }

    fn open(&mut self, kind: u16) -> Opened {
        let opened = Opened(self.0.len());
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        opened
    }

    fn end(&mut self, at: usize) {
        let length = u16::try_from(self.0.len() - at).unwrap_or(u16::MAX);
        self.0[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{attribute, messages, text};

    #[test]
    fn attributes_within_attributes() {
        let mut message = Message::new(7, 5, &[2, 0, 0, 0]);
        let outer = message.nest(1);
        message.put(1, b"abcde");
        let inner = message.nest(2);
        message.put_text(3, "cali40x");
        message.close(inner);
        message.close(outer);
        message.put(4, &[1]);
        let bytes = message.finish();
        let (header, body) = messages(&bytes).next().unwrap();
        assert_eq!((header.kind, header.flags, bytes.len() % 4), (7, 5, 0));
        let outer = attribute(&body[4..], 1).unwrap();
        assert_eq!(attribute(outer, 1), Some(&b"abcde"[..]));
        assert_eq!(attribute(outer, 9), None);
        let inner = attribute(outer, 2).unwrap();
        assert_eq!(attribute(inner, 3).and_then(text), Some("cali40x"));
        assert_eq!(attribute(&body[4..], 4), Some(&[1][..]));
    }
}
