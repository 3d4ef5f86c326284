//! A batch: messages between a begin and an end, which the kernel does all of or nothing; and which
//! message says what about which object.

use super::super::subject::Subject;
use super::attributes::Writer;

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN` and `_END`.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `NLM_F_ACK`.
const ACK: u16 = 4;
/// `NLM_F_DUMP`.
const DUMP: u16 = 0x300;
/// `NLM_F_EXCL`: it is new.
pub(in crate::felix::nftables) const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_CREATE`.
pub(in crate::felix::nftables) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: behind the other rules.
pub(in crate::felix::nftables) const APPEND: u16 = 0x800;
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// Size of `nlmsghdr` and of both headers.
const HEADER: usize = 16;
pub(in crate::felix::nftables) const HEADERS: usize = 20;

/// `NFT_MSG_…`.
pub(in crate::felix::nftables) mod kind {
    pub(in crate::felix::nftables) const NEW_TABLE: u16 = 0;
    pub(in crate::felix::nftables) const GET_TABLE: u16 = 1;
    pub(in crate::felix::nftables) const DELETE_TABLE: u16 = 2;
    pub(in crate::felix::nftables) const NEW_CHAIN: u16 = 3;
    pub(in crate::felix::nftables) const GET_CHAIN: u16 = 4;
    pub(in crate::felix::nftables) const DELETE_CHAIN: u16 = 5;
    pub(in crate::felix::nftables) const NEW_RULE: u16 = 6;
    pub(in crate::felix::nftables) const GET_RULE: u16 = 7;
    pub(in crate::felix::nftables) const DELETE_RULE: u16 = 8;
    pub(in crate::felix::nftables) const NEW_SET: u16 = 9;
    pub(in crate::felix::nftables) const GET_SET: u16 = 10;
    pub(in crate::felix::nftables) const DELETE_SET: u16 = 11;
    pub(in crate::felix::nftables) const NEW_ELEMENTS: u16 = 12;
    pub(in crate::felix::nftables) const GET_ELEMENTS: u16 = 13;
    pub(in crate::felix::nftables) const DELETE_ELEMENTS: u16 = 14;
}

/// Messages on their way to the kernel.
#[derive(Debug)]
pub(in crate::felix::nftables) struct Batch {
    bytes: Vec<u8>,
    /// Where each message begins, without the begin and the end, and what it is about.
    messages: Vec<(usize, Subject)>,
    /// The number of the begin. The messages follow.
    first: u32,
}

impl Batch {
    /// An empty batch whose messages are numbered from `first`.
    pub(in crate::felix::nftables) fn new(first: u32) -> Self {
        let mut batch = Self { bytes: Vec::with_capacity(4096), messages: Vec::new(), first };
        batch.bracket(BATCH_BEGIN);
        batch
    }

    fn header(&mut self, kind: u16, flags: u16, family: u8, resource: u16, sequence: u32) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        let len = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    fn bracket(&mut self, kind: u16) {
        let sequence = self.next();
        let start = self.header(kind, REQUEST, 0, SUBSYSTEM, sequence);
        self.close(start);
    }

    /// The number that the next message gets.
    fn next(&self) -> u32 {
        let messages = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        let begun = u32::from(!self.bytes.is_empty());
        self.first.wrapping_add(messages).wrapping_add(begun)
    }

    /// Appends a message with the attributes that `fill` writes.
    pub(in crate::felix::nftables) fn push(
        &mut self,
        kind: u16,
        flags: u16,
        subject: Subject,
        fill: impl FnOnce(&mut Writer<'_>),
    ) {
        let sequence = self.next();
        let start = self.header(SUBSYSTEM << 8 | kind, REQUEST | flags, INET, 0, sequence);
        fill(&mut Writer(&mut self.bytes));
        self.close(start);
        self.messages.push((start, subject));
    }

    /// Says what the last message is about, where that is known only afterwards.
    pub(in crate::felix::nftables) fn rename_last(&mut self, subject: Subject) {
        if let Some(last) = self.messages.last_mut() {
            last.1 = subject;
        }
    }

    /// The finished batch: the last message is acknowledged, and only that.
    pub(in crate::felix::nftables) fn finish(mut self) -> Sealed {
        if let Some((start, _)) = self.messages.last() {
            let flags = start + 6;
            self.bytes[flags] |= ACK.to_ne_bytes()[0];
            self.bytes[flags + 1] |= ACK.to_ne_bytes()[1];
        }
        let last = self.next().wrapping_sub(1);
        self.bracket(BATCH_END);
        Sealed { bytes: self.bytes, messages: self.messages, first: self.first, last }
    }

    /// How many messages there are.
    pub(in crate::felix::nftables) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Bytes so far.
    pub(in crate::felix::nftables) fn size(&self) -> usize {
        self.bytes.len()
    }
}

/// A batch that can be sent.
#[derive(Debug)]
pub(in crate::felix::nftables) struct Sealed {
    /// What is sent.
    pub(in crate::felix::nftables) bytes: Vec<u8>,
    messages: Vec<(usize, Subject)>,
    /// The number of the begin, which the refusal of the whole batch carries.
    pub(in crate::felix::nftables) first: u32,
    /// The number of the message that is acknowledged.
    pub(in crate::felix::nftables) last: u32,
}

impl Sealed {
    /// What a message was about, and its bytes without the headers.
    pub(in crate::felix::nftables) fn message(&self, sequence: u32) -> Option<(&Subject, &[u8])> {
        let index = sequence.wrapping_sub(self.first).checked_sub(1)? as usize;
        let (start, subject) = self.messages.get(index)?;
        let end = self.messages.get(index + 1).map(|(start, _)| *start);
        let bytes = self.bytes.get(*start..end.unwrap_or(self.bytes.len()))?;
        Some((subject, bytes.get(HEADERS..)?))
    }

    /// How many messages it has, without begin and end.
    pub(in crate::felix::nftables) fn len(&self) -> usize {
        self.messages.len()
    }
}

/// One request outside of a batch that asks for a list of what `fill` says.
pub(in crate::felix::nftables) fn dump(kind: u16, fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut batch = Batch { bytes: Vec::new(), messages: Vec::new(), first: 0 };
    let start = batch.header(SUBSYSTEM << 8 | kind, REQUEST | DUMP, INET, 0, 0);
    fill(&mut Writer(&mut batch.bytes));
    batch.close(start);
    batch.bytes
}

/// Size of `nlmsghdr`, where the body of a message begins that the kernel sends.
pub(in crate::felix::nftables) const BODY: usize = HEADERS - HEADER;
