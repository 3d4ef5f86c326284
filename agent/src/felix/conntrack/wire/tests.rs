use proptest::prelude::*;

use super::*;
use crate::netlink::{attributes, messages};

/// A connection as the kernel lists it.
fn listed(one: &Connection, status: u32) -> Vec<u8> {
    let mut message = Message::new(GET - 1, 0, &head(Some(one.family())));
    put_tuple(&mut message, attr::ORIGINAL, one);
    let zones = Zones { original: one.zones.reply, ..one.zones };
    put_tuple(&mut message, attr::REPLY, &Connection { original: one.reply, zones, ..*one });
    message.put(attr::STATUS, &status.to_be_bytes());
    if one.zones.both != 0 {
        message.put(attr::ZONE, &one.zones.both.to_be_bytes());
    }
    if let Some(id) = one.id {
        message.put(attr::ID, &id.to_be_bytes());
    }
    message.finish()
}

fn body(message: &[u8]) -> &[u8] {
    messages(message).next().unwrap().1
}

fn tuples(protocol: u8, v6: bool) -> impl Strategy<Value = Tuple> {
    let address = move || {
        let v4 = any::<[u8; 4]>().prop_map(IpAddr::from);
        let six = any::<[u8; 16]>().prop_map(IpAddr::from);
        if v6 { six.boxed() } else { v4.boxed() }
    };
    let numbers = (any::<u16>(), any::<u16>(), any::<u8>(), any::<u8>());
    (address(), address(), numbers).prop_map(move |(source, destination, (a, b, kind, code))| {
        let has_ports = WITH_PORTS.contains(&protocol);
        let icmp = ICMP.contains(&protocol);
        let also = match (has_ports, icmp) {
            (true, _) => None,
            (_, true) => Some((a, 0)),
            _ => (protocol == 47).then_some((a, b)),
        };
        Tuple {
            source,
            destination,
            ports: has_ports.then_some((a, b)),
            icmp: icmp.then_some((kind, code)),
            also,
        }
    })
}

fn connections() -> impl Strategy<Value = Connection> {
    let protocol = prop::sample::select(vec![1, 2, 6, 17, 33, 47, 58, 132, 136, 200_u8]);
    let rest = (any::<(u16, u16, u16)>(), any::<bool>(), prop::option::of(any::<u32>()));
    (protocol, any::<bool>(), rest).prop_flat_map(|(protocol, v6, (zones, replied, id))| {
        (tuples(protocol, v6), tuples(protocol, v6)).prop_map(move |(original, reply)| {
            let (both, original_zone, reply_zone) = zones;
            let zones = Zones { both, original: original_zone, reply: reply_zone };
            Connection { protocol, original, reply, zones, replied, id }
        })
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(one in connections()) {
        let status = if one.replied { SEEN_REPLY | 8 } else { 8 };
        prop_assert_eq!(connection(body(&listed(&one, status))), Ok(one));
    }

    /// Whatever the connection is, what deletes it says all of its original direction, its zones and its
    /// number.
    #[test]
    fn what_deletes_one_is_about_that_one_alone(one in connections()) {
        let bytes = delete(&one);
        let body = body(&bytes);
        let (protocol, original, zone) =
            tuple(attribute(&body[HEAD..], attr::ORIGINAL).unwrap(), one.family()).unwrap();
        prop_assert_eq!((protocol, original, zone), (one.protocol, one.original, one.zones.original));
        let number = attribute(&body[HEAD..], attr::ID).and_then(be32);
        let both = attribute(&body[HEAD..], attr::ZONE).and_then(be16).unwrap_or(0);
        prop_assert_eq!((number, both), (one.id, one.zones.both));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = connection(&bytes);
    }

    #[test]
    fn what_is_cut_off_is_never_another_connection(one in connections(), cut in 0..400_usize) {
        let whole = listed(&one, 0);
        let whole = body(&whole);
        if let Ok(read) = connection(&whole[..cut.min(whole.len())]) {
            prop_assert_eq!((read.original, read.reply), (one.original, one.reply));
        }
    }
}

#[test]
fn a_filter_names_the_part_that_has_to_match() {
    let address: IpAddr = [10, 0, 0, 1].into();
    for (side, direction, place, bits) in [
        (Side::Opener, attr::ORIGINAL, 1, [1, 0]),
        (Side::Asked, attr::ORIGINAL, 2, [2, 0]),
        (Side::Answerer, attr::REPLY, 1, [0, 1]),
    ] {
        let bytes = list(Family::V4, Some((side, address)));
        let body = &body(&bytes)[HEAD..];
        let addresses = attribute(attribute(body, direction).unwrap(), half::ADDRESSES).unwrap();
        let said: Vec<_> = attributes(addresses).collect();
        assert_eq!(said, [(place, &[10, 0, 0, 1][..])], "{side:?}");
        let filter = attribute(body, attr::FILTER).unwrap();
        let flags: Vec<u32> = attributes(filter)
            .map(|(_, value)| u32::from_ne_bytes(value.try_into().unwrap()))
            .collect();
        assert_eq!(flags, bits, "{side:?}");
    }
    assert_eq!(attributes(&body(&list(Family::V6, None))[HEAD..]).count(), 0);
}
