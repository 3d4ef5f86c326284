//! What single values are: prefixes, addresses, protocols, numbers. What reads, writes and
//! reads again is the same.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use calico_datastore::model::{AsNumber, Cidr, InterfaceName, Mac, Protocol};

fn round_trip<T: FromStr + Display + Debug + PartialEq>(text: &str) -> Option<T> {
    let value: T = text.parse().ok()?;
    let written = value.to_string();
    let read = written.parse::<T>().ok();
    assert_eq!(read.as_ref(), Some(&value), "{text:?} is written {written:?}");
    Some(value)
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Some(cidr) = round_trip::<Cidr>(text) {
        assert!(cidr.contains(cidr.address()) && cidr.covers(&cidr));
        assert!(cidr.prefix_len() <= cidr.family().host_len());
        assert_eq!(cidr.is_host(), cidr.halves().is_none());
        if let Some((low, high)) = cidr.halves() {
            assert!(cidr.covers(&low) && cidr.covers(&high) && low < high);
            assert!(!low.covers(&high) && !high.covers(&low));
            assert_eq!(low.address(), cidr.address(), "host bits are zero");
        }
    }
    if let Some(protocol) = round_trip::<Protocol>(text) {
        assert_eq!(Protocol::from_number(protocol.number()), Some(protocol));
    }
    if let Some(name) = round_trip::<InterfaceName>(text) {
        assert!((1..16).contains(&name.as_str().len()), "IFNAMSIZ");
    }
    round_trip::<Mac>(text);
    round_trip::<AsNumber>(text);
});
