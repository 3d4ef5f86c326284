//! Messages of the kernel's packet log (`linux/netfilter/nfnetlink_log.h`). Pure; what does not fit
//! its length ends the walk, and nothing panics whatever the bytes are.

use crate::netlink::{self, attribute, attributes, messages, request};

/// `NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET`.
const PACKET: u16 = 4 << 8;
/// `NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG`.
const CONFIG: u16 = 4 << 8 | 1;
/// Size of `nfgenmsg`.
const NFGENMSG: usize = 4;

/// `NFULA_CFG_CMD`, and its `NFULNL_CFG_CMD_BIND`.
const CFG_CMD: u16 = 1;
const BIND: u8 = 1;
/// `NFULA_CFG_MODE`, and its `NFULNL_COPY_PACKET`.
const CFG_MODE: u16 = 2;
const COPY_PACKET: u8 = 2;
/// `NFULA_CFG_TIMEOUT`, in hundredths of a second.
const CFG_TIMEOUT: u16 = 4;

/// How much of a packet is wanted: IPv6 with some extension headers, and ports.
const COPY: u32 = 128;
/// How long the kernel may wait for more packets before it tells of one, in hundredths of a second.
const TIMEOUT: u32 = 10;

/// `NFULA_IFINDEX_INDEV`.
const IN_DEVICE: u16 = 4;
/// `NFULA_IFINDEX_OUTDEV`.
const OUT_DEVICE: u16 = 5;
/// `NFULA_PAYLOAD`.
const PAYLOAD: u16 = 9;
/// `NFULA_PREFIX`.
const PREFIX: u16 = 10;

/// A packet as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Logged<'a> {
    /// What the rule says that reported it.
    pub(super) prefix: &'a str,
    /// Index of the interface it came in by.
    pub(super) came_by: Option<u32>,
    /// Index of the interface it was to go out by.
    pub(super) goes_by: Option<u32>,
    /// The packet from its IP header on, cut off after 128 bytes.
    pub(super) packet: &'a [u8],
}

/// The requests that make a socket the reader of a group.
pub(super) fn subscribe(group: u16) -> [Vec<u8>; 2] {
    let [high, low] = group.to_be_bytes();
    // AF_UNSPEC, NFNETLINK_V0, and the group as `res_id`.
    let header = [0, 0, high, low];
    let mut mode = COPY.to_be_bytes().to_vec();
    mode.extend([COPY_PACKET, 0]);
    [
        request(CONFIG, netlink::REQUEST, &header, &[(CFG_CMD, &[BIND])]),
        request(
            CONFIG,
            netlink::REQUEST,
            &header,
            &[(CFG_MODE, &mode), (CFG_TIMEOUT, &TIMEOUT.to_be_bytes())],
        ),
    ]
}

/// What the kernel answered to a request of [`subscribe`]: `None` as long as it has not.
pub(super) fn answer(datagram: &[u8]) -> Option<std::io::Result<()>> {
    messages(datagram).find(|(header, _)| header.kind == netlink::ERROR).map(|(_, body)| {
        match netlink::u32_at(body, 0).unwrap_or(0).cast_signed() {
            0 => Ok(()),
            code => Err(std::io::Error::from_raw_os_error(code.wrapping_neg())),
        }
    })
}

/// The packets of a datagram.
pub(super) fn logged(datagram: &[u8]) -> impl Iterator<Item = Logged<'_>> {
    messages(datagram).filter(|(header, _)| header.kind == PACKET).filter_map(|(_, body)| {
        let body = body.get(NFGENMSG..)?;
        let index = |kind| attribute(body, kind).and_then(netlink::be32).filter(|i| *i != 0);
        Some(Logged {
            prefix: attribute(body, PREFIX).and_then(netlink::text)?,
            came_by: index(IN_DEVICE),
            goes_by: index(OUT_DEVICE),
            packet: attributes(body).find(|(kind, _)| *kind == PAYLOAD)?.1,
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_report_is_read() {
        let report = |attributes: &[(u16, &[u8])]| request(PACKET, 0, &[2, 0, 0, 7], attributes);
        let full = report(&[
            (PREFIX, b"cali:abc\0"),
            (IN_DEVICE, &[0, 0, 0, 5]),
            (OUT_DEVICE, &[0, 0, 0, 0]),
            (PAYLOAD, b"\x45packet"),
        ]);
        let bare = report(&[(PAYLOAD, b"x")]);
        let other = request(CONFIG, 0, &[0; 4], &[(PREFIX, b"no"), (PAYLOAD, b"x")]);
        let datagram = [full, bare, other].concat();
        let found: Vec<_> = logged(&datagram).collect();
        assert_eq!(
            found,
            [Logged { prefix: "cali:abc", came_by: Some(5), goes_by: None, packet: b"\x45packet" }]
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(logged(&bytes).count() <= 20);
            let _ = answer(&bytes);
        }
    }
}
