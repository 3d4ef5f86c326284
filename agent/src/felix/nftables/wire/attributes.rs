//! Attributes, written straight into a buffer.

/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;

/// Appends attributes to a buffer.
#[derive(Debug)]
pub(in crate::felix::nftables) struct Writer<'a>(pub(in crate::felix::nftables) &'a mut Vec<u8>);

impl Writer<'_> {
    /// Bytes as they are.
    pub(in crate::felix::nftables) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let start = self.begin(kind);
        self.0.extend_from_slice(value);
        self.end(start);
    }

    /// A number in network order.
    pub(in crate::felix::nftables) fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A long number in network order.
    pub(in crate::felix::nftables) fn be64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A short number in network order.
    pub(in crate::felix::nftables) fn be16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A text with its NUL.
    pub(in crate::felix::nftables) fn text(&mut self, kind: u16, value: &str) {
        let start = self.begin(kind);
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
        self.end(start);
    }

    /// What `fill` writes, as one attribute.
    pub(in crate::felix::nftables) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.begin(kind | NESTED);
        fill(self);
        self.end(start);
    }

    /// Begins an attribute whose length [`Writer::end`] writes.
    fn begin(&mut self, kind: u16) -> usize {
        let start = self.0.len();
        self.0.extend_from_slice(&[0, 0]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn end(&mut self, start: usize) {
        let len = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}
