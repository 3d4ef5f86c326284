//! getsockopt(2) of legacy iptables: `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`, and what IPv6
//! calls the same (linux/netfilter_ipv4/ip_tables.h). The one place with `unsafe`: no crate has
//! these options.
//!
//! A table that is not there would be made by asking. Ask for those only that the kernel lists.
#![expect(unsafe_code, reason = "getsockopt(2) with options that no safe wrapper knows")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use calico_datastore::model::Family;
use nix::libc::{IPPROTO_IP, IPPROTO_IPV6, c_int, c_void, getsockopt, socklen_t};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// `IPT_BASE_CTL`, the same for IPv6.
const GET_INFO: c_int = 64;
const GET_ENTRIES: c_int = 65;
/// `XT_TABLE_MAXNAMELEN`.
const NAME: usize = 32;
/// `struct ipt_getinfo`: the name, hooks, five entries, five underflows, number, size.
const INFO: usize = NAME + 4 * 13;
/// `struct ipt_get_entries` before the entries: the name, the size, and the gap before numbers of
/// 64 bits.
const ENTRIES: usize = (NAME + 4).next_multiple_of(align_of::<u64>());

/// What the kernel says about a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Info {
    /// Where the kernel's own chains begin, by hook; `None` where the table has none.
    pub(super) hooks: [Option<u32>; 5],
    underflow: [u32; 5],
    entries: u32,
    /// Bytes of all entries.
    pub(super) size: u32,
}

/// A raw socket of one family.
#[derive(Debug)]
pub(super) struct Xtables {
    socket: OwnedFd,
    level: c_int,
    buffer: Vec<u8>,
}

impl Xtables {
    /// A socket in the network namespace of the calling thread. Needs CAP_NET_RAW.
    pub(super) fn open(family: Family) -> io::Result<Self> {
        let (address, level) = match family {
            Family::V4 => (AddressFamily::Inet, IPPROTO_IP),
            Family::V6 => (AddressFamily::Inet6, IPPROTO_IPV6),
        };
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(address, SockType::Raw, flags, SockProtocol::Raw)?;
        Ok(Self { socket, level, buffer: Vec::new() })
    }

    /// How large a table is, and where its chains are. Costs microseconds.
    pub(super) fn info(&mut self, table: &str) -> io::Result<Info> {
        self.ask(GET_INFO, table, INFO, 0)?;
        let number = |index: usize| {
            let bytes = self.buffer.get(NAME + 4 * index..).and_then(<[u8]>::first_chunk);
            bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
        };
        let valid = number(0);
        let hook = |hook| (valid >> hook & 1 == 1).then(|| number(1 + hook));
        Ok(Info {
            hooks: std::array::from_fn(hook),
            underflow: std::array::from_fn(|hook| number(6 + hook)),
            entries: number(11),
            size: number(12),
        })
    }

    /// The entries of a table. `EAGAIN` when it has changed since `info` was asked.
    pub(super) fn entries(&mut self, table: &str, info: &Info) -> io::Result<&[u8]> {
        self.ask(GET_ENTRIES, table, ENTRIES + info.size as usize, info.size)?;
        Ok(&self.buffer[ENTRIES..ENTRIES + info.size as usize])
    }

    /// Fills the first `length` bytes of the buffer, which never shrinks. The kernel reads the table's name there and,
    /// for entries, their size behind it.
    fn ask(&mut self, option: c_int, table: &str, length: usize, size: u32) -> io::Result<()> {
        // One byte is left for the NUL.
        if table.len() >= NAME {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if self.buffer.len() < length {
            self.buffer.resize(length, 0);
        }
        // The kernel leaves gaps, behind the data of matches and targets.
        self.buffer[..length].fill(0);
        self.buffer[..table.len()].copy_from_slice(table.as_bytes());
        self.buffer[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
        let mut told = socklen_t::try_from(length).map_err(io::Error::other)?;
        // SAFETY: the kernel reads and writes at most `told` bytes behind the pointer, and writes
        // the length that it used into `told`. The buffer has at least that many initialised
        // bytes, is exclusively borrowed, and any bytes are valid in it. The descriptor is open
        // as long as `self`.
        let result = unsafe {
            getsockopt(
                self.socket.as_fd().as_raw_fd(),
                self.level,
                option,
                self.buffer.as_mut_ptr().cast::<c_void>(),
                &raw mut told,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
