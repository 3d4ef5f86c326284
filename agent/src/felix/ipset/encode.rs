//! Commands as netlink messages: pure.

use super::wire::{self, Dialect, attr, flag, head};
use super::{Command, element, words};
use crate::netlink::NET_BYTE_ORDER;
use crate::netlink::build::Message;

/// A message.
#[derive(Clone, Debug)]
pub(super) struct Encoded {
    /// `None`: not even its first command can be said.
    pub(super) bytes: Option<Vec<u8>>,
    /// The first of the commands, from 0, that cannot be said, and why. It and those behind it are not in
    /// the message.
    pub(super) unspeakable: Option<(usize, String)>,
}

impl From<Message> for Encoded {
    fn from(message: Message) -> Self {
        Self { bytes: Some(message.finish()), unspeakable: None }
    }
}

/// The message for commands, by their places, that go together. There is at least one.
pub(super) fn encode(dialect: &Dialect, commands: &[Command], places: &[usize]) -> Encoded {
    let first = &commands[places[0]];
    let begin = |kind| {
        let mut message = dialect.message(kind, 0);
        message.put_text(attr::NAME, first.set());
        message
    };
    let kind = match first {
        Command::Create(_, spec) => {
            let revision = dialect.revisions.get(&(spec.kind, spec.family)).copied().flatten();
            let Some(revision) = revision else {
                return Encoded { bytes: None, unspeakable: Some((0, words::no_type(*spec))) };
            };
            let mut message = begin(wire::CREATE);
            message.put_text(attr::TYPE, spec.kind.name());
            message.put(attr::REVISION, &[revision]);
            message.put(attr::FAMILY, &[wire::family_number(spec.family)]);
            let data = message.nest(attr::DATA);
            if let Some(size) = spec.hash_size() {
                message.put(head::HASH_SIZE | NET_BYTE_ORDER, &size.to_be_bytes());
            }
            message.put(head::MAX | NET_BYTE_ORDER, &spec.max.to_be_bytes());
            if spec.counters {
                message.put(head::FLAGS | NET_BYTE_ORDER, &flag::WITH_COUNTERS.to_be_bytes());
            }
            message.close(data);
            return message.into();
        }
        Command::Swap(_, other) => {
            let mut message = begin(wire::SWAP);
            message.put_text(attr::OTHER_NAME, other);
            return message.into();
        }
        Command::Destroy(_) => return begin(wire::DESTROY).into(),
        Command::Add(..) | Command::Count(..) => wire::ADD,
        Command::Delete(..) => wire::DELETE,
    };
    let mut message = begin(kind);
    // The kernel writes the line of the member that it refuses here.
    message.put(attr::LINE, &0_u32.to_ne_bytes());
    let members = message.nest(attr::MEMBERS);
    let mut line = 0_u32;
    let mut unspeakable = None;
    for (at, place) in places.iter().enumerate() {
        let (entry, counts) = match &commands[*place] {
            Command::Add(_, entry) => (entry, None),
            Command::Count(_, entry, counts) => (entry, Some(*counts)),
            Command::Delete(_, entry) => (entry, None),
            Command::Create(..) | Command::Swap(..) | Command::Destroy(_) => continue,
        };
        if kind == wire::ADD {
            unspeakable = element::unspeakable(entry).map(|why| (at, why));
        }
        if unspeakable.is_some() {
            break;
        }
        line += 1;
        let one = message.nest(attr::DATA);
        element::write(&mut message, entry);
        if let Some(counts) = counts {
            element::write_counts(&mut message, counts);
        }
        message.put(attr::LINE, &line.to_ne_bytes());
        message.close(one);
    }
    message.close(members);
    Encoded { bytes: (line > 0).then(|| message.finish()), unspeakable }
}

#[cfg(test)]
mod tests {
    use calico_datastore::model::{Family, Protocol};

    use super::*;
    use crate::felix::ipset::element::members;
    use crate::felix::ipset::{Counts, Entry, SetSpec, SetType};
    use crate::netlink::{attribute, attributes, be32, messages, text, u32_at};

    fn dialect() -> Dialect {
        Dialect { version: 7, revisions: [((SetType::Net, Family::V4), Some(3))].into() }
    }

    fn all(commands: &[Command]) -> Encoded {
        encode(&dialect(), commands, &(0..commands.len()).collect::<Vec<_>>())
    }

    fn body(bytes: &[u8]) -> (u16, &[u8]) {
        let (header, body) = messages(bytes).next().unwrap();
        (header.kind, body)
    }

    #[test]
    fn a_set_is_made_in_the_revision_that_the_kernel_has() {
        let spec = SetSpec { kind: SetType::Net, family: Family::V4, max: 9, counters: true };
        let bytes = all(&[Command::Create("cali40x".to_owned(), spec)]).bytes.unwrap();
        let (kind, body) = body(&bytes);
        let said = |kind| attribute(&body[4..], kind).unwrap();
        assert_eq!(
            (kind, said(attr::REVISION), said(attr::FAMILY)),
            (wire::CREATE, &[3][..], &[2][..])
        );
        assert_eq!(
            (text(said(attr::NAME)), text(said(attr::TYPE))),
            (Some("cali40x"), Some("hash:net"))
        );
        let data: Vec<_> = attributes(said(attr::DATA))
            .map(|(kind, value)| (kind, be32(value).unwrap()))
            .collect();
        assert_eq!(data, [(head::MAX, 9), (head::FLAGS, flag::WITH_COUNTERS)]);
        // One that it does not have is not asked for.
        let other = SetSpec { family: Family::V6, ..spec };
        let encoded = all(&[Command::Create("cali60x".to_owned(), other)]);
        let (0, why) = encoded.unspeakable.unwrap() else { panic!("the first") };
        assert!(encoded.bytes.is_none() && why.contains("ip_set_hash_net"), "{why}");
    }

    #[test]
    fn the_longest_members_fit_their_message() {
        let counts = Counts { packets: u64::MAX, bytes: u64::MAX };
        let entry = |n: usize| {
            let interface = format!("cali{n:011}").parse().unwrap();
            Entry::NetIface("fd65::1/127".parse().unwrap(), interface)
        };
        let commands: Vec<_> = (0..super::super::batch::MEMBERS)
            .map(|n| Command::Count("cali60local-endpoints-and-more".to_owned(), entry(n), counts))
            .collect();
        let bytes = all(&commands).bytes.unwrap();
        let (_, body) = body(&bytes);
        let read: Vec<_> = members(body).collect();
        assert_eq!(read.len(), commands.len());
        for (n, one) in read.iter().enumerate() {
            let line = attribute(one, attr::LINE).and_then(|line| u32_at(line, 0)).unwrap();
            assert_eq!(line as usize, n + 1);
            let read = element::Element::read(one).unwrap();
            assert_eq!(
                (read.counts, read.entry(SetType::NetIface)),
                (Some(counts), Some(entry(n)))
            );
        }
    }

    #[test]
    fn what_cannot_be_said_ends_the_message() {
        let entry = |protocol| Entry::Port([10, 0, 0, 1].into(), protocol, 5);
        let (good, bad) = (entry(Protocol::TCP), entry(Protocol::ICMP));
        let add = |entry: &Entry| Command::Add("cali40n:x".to_owned(), entry.clone());
        let encoded = all(&[add(&good), add(&bad), add(&good)]);
        assert_eq!(encoded.unspeakable.unwrap().0, 1);
        assert_eq!(members(body(&encoded.bytes.unwrap()).1).count(), 1);
        let encoded = all(&[add(&bad), add(&good)]);
        assert_eq!((encoded.unspeakable.unwrap().0, encoded.bytes), (0, None));
        // What is there can be taken away, whatever it is.
        let delete = Command::Delete("cali40n:x".to_owned(), bad);
        assert!(all(&[delete]).unspeakable.is_none());
    }
}
