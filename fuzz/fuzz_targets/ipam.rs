//! Allocation blocks and affinities.
#![no_main]

use arbitrary::Arbitrary;
use calico_datastore::layout::v3::IPAM_PREFIX;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    which: u8,
    value: &'a [u8],
}

const KEYS: [&str; 4] = [
    "assignment/ipv4/block/10.0.0.0-26",
    "assignment/ipv6/block/fd00::-122",
    "host/a/ipv4/block/10.0.0.0-26",
    "host/a/ipv6/block/fd00::-122",
];

libfuzzer_sys::fuzz_target!(|input: Input<'_>| {
    let key = format!("{IPAM_PREFIX}{}", KEYS[usize::from(input.which) % KEYS.len()]);
    // An affinity that is empty says no more than an affinity with an empty document.
    let _ = calico_fuzz::resource(&key, input.value);
});
