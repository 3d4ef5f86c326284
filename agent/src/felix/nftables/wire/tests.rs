use proptest::prelude::*;
use proptest::sample::select;

use super::super::encode::Encoder;
use super::super::expr::{Expr, SetRef};
use super::super::lower::{comment, lower};
use super::super::object::{Chain, Element, Name, SetSpec};
use super::super::plan::{Gone, Step};
use super::super::strategies::{elements, rule};
use super::super::subject::Subject;
use super::attributes::Writer;
use super::element::{AnonymousReader, ELEMENTS, Reader, at, describe};
use super::message::{BODY, Sealed};
use super::set::KINDS;
use super::{read, set};
use crate::netlink::{attribute, messages, text};

/// The messages of a batch: their kind, flags and attributes.
fn bodies(batch: &Sealed) -> Vec<(u16, u16, &[u8])> {
    messages(&batch.bytes)
        .map(|(header, body)| (header.kind, header.flags, &body[BODY..]))
        .collect()
}

fn one_step(step: &Step<'_>) -> Sealed {
    let mut encoder = Encoder::new("calico", 7);
    encoder.step(step);
    encoder.batch.finish()
}

#[test]
fn a_batch_is_numbered_and_only_its_last_message_acknowledged() {
    let name = Name::from("c");
    let mut encoder = Encoder::new("calico", u32::MAX - 1);
    encoder.make_table();
    encoder.step(&Step::MakeChain(&name, None));
    encoder.step(&Step::Flush(&name));
    let batch = encoder.batch.finish();
    let seen: Vec<_> =
        messages(&batch.bytes).map(|(h, _)| (h.kind, h.flags & 4, h.sequence)).collect();
    let first = u32::MAX - 1;
    assert_eq!(
        seen,
        [(16, 0, first), (0xa00, 0, first + 1), (0xa03, 0, 0), (0xa08, 4, 1), (17, 0, 2)]
    );
    assert_eq!((batch.first, batch.last, batch.len()), (first, 1, 3));
    assert_eq!(batch.message(first), None, "the begin is about no object");
    assert_eq!(batch.message(0).map(|(subject, _)| subject), Some(&Subject::Chain(name.clone())));
    assert_eq!(batch.message(1).map(|(subject, _)| subject), Some(&Subject::Rules(name)));
    assert_eq!(batch.message(2), None, "neither is the end");
}

#[test]
fn a_long_list_of_elements_is_several_messages() {
    let name = Name::from("s");
    let all: Vec<_> = (0..20_000_u32)
        .map(|n| Element::Address(std::net::Ipv4Addr::from_bits(n).into()))
        .collect();
    let batch = one_step(&Step::Insert(&name, all.iter().collect()));
    let mut reader = Reader::new(KINDS[0]);
    let (mut lists, mut told) = (0, 0);
    for (index, (kind, _, body)) in bodies(&batch).into_iter().enumerate() {
        if kind == 0xa0c {
            lists += 1;
            assert!(body.len() < usize::from(u16::MAX) + 100);
            reader.read(body);
            let subject = batch.message(7 + u32::try_from(index).unwrap()).unwrap().0.clone();
            let Subject::Elements(_, count) = subject else { panic!("{subject:?}") };
            told += count;
        }
    }
    let (mut read, strange) = reader.finish();
    read.sort();
    assert_eq!((read.len(), strange.len(), told), (20_000, 0, 20_000));
    assert_eq!(read, all);
    assert!((4..=8).contains(&lists), "{lists}");
}

#[test]
fn the_kernels_offset_finds_the_element() {
    let name = Name::from("s");
    let all: Vec<_> =
        (0..3_u32).map(|n| Element::Address(std::net::Ipv4Addr::from_bits(n).into())).collect();
    let batch = one_step(&Step::Insert(&name, all.iter().collect()));
    let (_, body) = batch.message(8).unwrap();
    let list = attribute(body, 3).unwrap();
    let start = body.len() - 24 - list.len();
    let raw = at(body, start + list.len() / 3 + 4).unwrap();
    assert_eq!(describe(Some(KINDS[0]), raw), "0.0.0.1");
    assert_eq!(describe(None, raw), "[00, 00, 00, 01]");
}

/// A catch-all element, as the kernel lists it: it has no key. Another has one that says nothing with that flag.
#[test]
fn an_element_without_a_key_is_not_nothing() {
    let list = |fill: fn(&mut Writer<'_>)| {
        let mut body = Vec::new();
        Writer(&mut body).nest(ELEMENTS, |w| w.nest(1, fill));
        body
    };
    let any = list(|w| w.be32(3, 2));
    let odd = list(|w| {
        w.be32(3, 4);
        w.nest(1, |w| w.bytes(1, &[10, 0, 0, 1]));
    });
    for kind in KINDS {
        let strange = |bodies: &[&Vec<u8>]| {
            let mut reader = Reader::new(kind);
            bodies.iter().for_each(|body| reader.read(body));
            let (elements, strange) = reader.finish();
            assert_eq!(elements, [], "{kind:?}");
            strange
        };
        assert_eq!(strange(&[&any]), ["*"], "{kind:?}");
        assert_eq!(strange(&[&any, &odd]), ["*", "[0a, 00, 00, 01]"], "{kind:?}");
    }
    for (body, interval) in [(&any, false), (&any, true), (&odd, false), (&odd, true)] {
        let mut reader = AnonymousReader::new(interval);
        reader.read(body);
        assert_eq!(reader.finish(), None, "interval: {interval}");
    }
}

proptest! {
    #[test]
    fn a_rule_is_read_as_it_was_written(rule in rule()) {
        let name = Name::from("chain");
        let chain = Chain { base: None, rules: vec![rule.clone()] };
        let batch = one_step(&Step::Fill(&name, chain.into()));
        let mut sets = Vec::new();
        let mut lists: Vec<(u32, AnonymousReader)> = Vec::new();
        let mut read = None;
        for (kind, _, body) in bodies(&batch) {
            prop_assert!(kind < 0xa00 || attribute(body, 1).and_then(text) == Some("calico"));
            match kind {
                0xa06 => read = read::read_rule(body),
                0xa09 => sets.push(set::read(body).unwrap()),
                0xa0c => {
                    let mut reader = AnonymousReader::new(sets.last().unwrap().interval);
                    reader.read(body);
                    lists.push((0, reader));
                }
                _ => {}
            }
        }
        let read = read.unwrap();
        prop_assert_eq!(&read.chain, "chain");
        prop_assert_eq!(read.comment, rule.comment.as_deref().map(comment));
        let mut contents = lists.into_iter().map(|(_, reader)| reader.finish().unwrap());
        let expected = lower(&rule);
        prop_assert_eq!(expected.len(), read.exprs.len());
        for (expected, read) in expected.into_iter().zip(read.exprs) {
            let Expr::Lookup { set: SetRef::Anonymous(set), reg, not, verdict } = expected else {
                prop_assert_eq!(expected, read);
                continue;
            };
            prop_assert_eq!(set.ranges, contents.next().unwrap());
            let set = SetRef::Named("__set%d".to_owned());
            prop_assert_eq!(Expr::Lookup { set, reg, not, verdict }, read);
        }
    }

    #[test]
    fn elements_are_read_as_they_were_written(
        (kind, elements) in select(KINDS.to_vec()).prop_flat_map(|k| (Just(k), elements(k))),
        counters in any::<bool>(),
    ) {
        let name = Name::from("set");
        let batch = one_step(&Step::Insert(&name, elements.iter().collect()));
        let mut reader = Reader::new(kind);
        bodies(&batch).into_iter().for_each(|(_, _, body)| reader.read(body));
        let (mut read, strange) = reader.finish();
        read.sort();
        let mut elements = elements;
        elements.sort();
        prop_assert_eq!(&read, &elements);
        prop_assert!(strange.is_empty());

        let gone = elements.iter().map(Gone::Asked).collect();
        let batch = one_step(&Step::Remove(&name, gone));
        for (_, _, body) in bodies(&batch) {
            prop_assert!(elements.is_empty() || attribute(body, 3).is_some() || body.is_empty());
        }

        let spec = SetSpec { kind, counters };
        let batch = one_step(&Step::MakeSet(&name, spec));
        let listed = set::read(bodies(&batch)[1].2).unwrap();
        prop_assert_eq!(listed.spec, Some(spec));
        prop_assert!(!listed.anonymous);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        kind in select(KINDS.to_vec()),
        offset in any::<usize>(),
    ) {
        decode(&bytes, kind, offset);
    }

    /// Random bytes seldom are attributes. What is almost right reaches more of the decoder.
    #[test]
    fn no_broken_message_makes_a_decoder_panic(
        rule in rule(),
        (kind, elements) in select(KINDS.to_vec()).prop_flat_map(|k| (Just(k), elements(k))),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let name = Name::from("n");
        let mut encoder = Encoder::new("calico", 7);
        encoder.step(&Step::Fill(&name, Chain { base: None, rules: vec![rule] }.into()));
        encoder.step(&Step::Insert(&name, elements.iter().collect()));
        encoder.step(&Step::MakeSet(&name, SetSpec { kind, counters: true }));
        let batch = encoder.batch.finish();
        for (_, _, body) in bodies(&batch) {
            let mut body = body.to_vec();
            if body.is_empty() {
                continue;
            }
            for (place, byte) in &damage {
                let place = place.index(body.len());
                body[place] = *byte;
            }
            let cut = cut.index(body.len());
            decode(&body, kind, cut);
            body.truncate(cut);
            decode(&body, kind, cut);
        }
    }
}

fn decode(bytes: &[u8], kind: crate::felix::nftables::object::SetKind, offset: usize) {
    let _ = (read::read_chain(bytes), read::read_rule(bytes), set::read(bytes));
    for kind in [kind, KINDS[2]] {
        let mut reader = Reader::new(kind);
        reader.read(bytes);
        reader.finish();
    }
    for interval in [false, true] {
        let mut reader = AnonymousReader::new(interval);
        reader.read(bytes);
        reader.finish();
    }
    if let Some(raw) = at(bytes, offset) {
        describe(Some(kind), raw);
    }
    describe(Some(kind), bytes);
}
