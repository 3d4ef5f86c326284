//! The groups of interfaces (`IFLA_GROUP`): an interface is in one, 0 unless somebody says another, and
//! takes it along until it is gone.

use std::collections::BTreeMap;
use std::io;

use calico_datastore::model::InterfaceName;

use crate::felix::watch::Dialogue;
use crate::netlink::{DUMP, REQUEST, attribute, request, text, u32_at};

/// `RTM_GETLINK`, `RTM_SETLINK`, `RTM_NEWLINK`.
const GET: u16 = 18;
const SET: u16 = 19;
pub(in crate::felix) const NEW: u16 = 16;
/// Size of `ifinfomsg`.
const IFINFOMSG: usize = 16;
/// `IFLA_IFNAME`, `IFLA_GROUP`, `IFLA_EXT_MASK`.
const NAME: u16 = 3;
const GROUP: u16 = 27;
const EXT_MASK: u16 = 29;
/// `RTEXT_FILTER_SKIP_STATS`.
const SKIP_STATS: u32 = 8;

/// How often interfaces are listed while some come or go.
const TRIES: usize = 20;

/// An interface and its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::felix) struct Grouped {
    /// Its index.
    pub(in crate::felix) index: u32,
    /// Its name.
    pub(in crate::felix) name: InterfaceName,
    /// Its group.
    pub(in crate::felix) group: u32,
}

/// What the body of an `RTM_NEWLINK` says. `None` for bridges, which repeat their ports, and where a name
/// could not be written into a rule.
pub(in crate::felix) fn decode(body: &[u8]) -> Option<Grouped> {
    let index = u32_at(body, 4).filter(|_| body.first() == Some(&0))?;
    let attributes = body.get(IFINFOMSG..)?;
    let name = attribute(attributes, NAME).and_then(text)?.parse().ok()?;
    let group = attribute(attributes, GROUP).and_then(|value| u32_at(value, 0)).unwrap_or(0);
    Some(Grouped { index, name, group })
}

fn header(index: u32) -> [u8; IFINFOMSG] {
    let mut header = [0; IFINFOMSG];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

/// Reads and sets groups.
#[derive(Debug)]
pub(in crate::felix) struct Groups {
    dialogue: Dialogue,
}

impl Groups {
    /// In the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub(in crate::felix) fn open() -> io::Result<Self> {
        Ok(Self { dialogue: Dialogue::open(netlink_sys::protocols::NETLINK_ROUTE)? })
    }

    /// Those of all interfaces, by name.
    ///
    /// # Errors
    /// When the kernel does not list them, or interfaces come and go each time while it does.
    pub(in crate::felix) fn read(&mut self) -> io::Result<BTreeMap<InterfaceName, Grouped>> {
        for _ in 1..TRIES {
            match self.list() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                listed => return listed,
            }
        }
        self.list()
    }

    fn list(&mut self) -> io::Result<BTreeMap<InterfaceName, Grouped>> {
        let mask = SKIP_STATS.to_ne_bytes();
        let asked = request(GET, REQUEST | DUMP, &header(0), &[(EXT_MASK, &mask)]);
        let mut found = BTreeMap::new();
        self.dialogue.ask(&asked, |body| {
            found.extend(decode(body).map(|one| (one.name.clone(), one)));
        })?;
        Ok(found)
    }

    /// Puts an interface into a group: for each packet it is in one or in the other. False when there is
    /// no such interface.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub(in crate::felix) fn set(&mut self, index: u32, group: u32) -> io::Result<bool> {
        let group = group.to_ne_bytes();
        let asked = request(SET, REQUEST, &header(index), &[(GROUP, &group)]);
        match self.dialogue.ask(&asked, |_| {}) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn link(family: u8, name: &[u8], group: Option<u32>) -> Vec<u8> {
        let mut head = header(7);
        head[0] = family;
        let group = group.map(u32::to_ne_bytes);
        let mut all: Vec<(u16, &[u8])> = vec![(NAME, name)];
        all.extend(group.as_ref().map(|group| (GROUP, &group[..])));
        request(NEW, 0, &head, &all).split_off(16)
    }

    #[test]
    fn what_a_link_says_of_its_group() {
        let grouped = |group| Some(Grouped { index: 7, name: "cali1".parse().unwrap(), group });
        assert_eq!(decode(&link(0, b"cali1\0", Some(0x4a11_0001))), grouped(0x4a11_0001));
        assert_eq!(decode(&link(0, b"cali1\0", None)), grouped(0));
        // AF_BRIDGE.
        assert_eq!(decode(&link(7, b"cali1\0", Some(1))), None);
        assert_eq!(decode(&[]), None);
    }

    /// Needs root, and runs in a network namespace of its own thread.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test that makes its own interfaces")]
    fn interfaces_are_listed_while_others_come_and_go() {
        if !nix::unistd::Uid::effective().is_root() {
            return;
        }
        let ip = || {
            let mut command = std::process::Command::new("ip");
            command.args(["-force", "-batch", "-"]).stdin(std::process::Stdio::piped());
            let mut ip = command.spawn().unwrap();
            let input = ip.stdin.take().unwrap();
            (ip, input)
        };
        let inside = move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let (mut all, mut input) = ip();
            for n in 0..100 {
                writeln!(input, "link add a{n} type veth peer name b{n}").unwrap();
            }
            drop(input);
            assert!(all.wait().unwrap().success());
            let (mut others, mut input) = ip();
            let stop = Arc::new(AtomicBool::new(false));
            let stopped = Arc::clone(&stop);
            let churn = std::thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let lines = "link add x type veth peer name y\nlink del x\n";
                    input.write_all(lines.as_bytes()).unwrap();
                }
            });
            let mut groups = Groups::open().unwrap();
            let begin = std::time::Instant::now();
            let (mut interrupted, mut failed) = (0, 0);
            while interrupted < 10 && begin.elapsed().as_secs() < 60 {
                interrupted += usize::from(groups.list().is_err());
                match groups.read() {
                    Ok(found) => assert!(found.len() > 200, "{}", found.len()),
                    Err(_) => failed += 1,
                }
            }
            stop.store(true, Ordering::Relaxed);
            churn.join().unwrap();
            others.kill().unwrap();
            others.wait().unwrap();
            assert!(interrupted >= 10, "{interrupted}: nothing is shown");
            assert_eq!(failed, 0);
        };
        std::thread::spawn(inside).join().unwrap();
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&bytes);
        }
    }
}
