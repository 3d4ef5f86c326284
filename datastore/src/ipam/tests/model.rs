//! Random pods on random hosts over a store that fails at random, against a map.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Assign {
        v4: usize,
        v6: usize,
        manual: bool,
    },
    Exactly {
        index: u32,
    },
    ReleaseAll,
    ReleaseOne {
        index: u32,
    },
    /// The blocks of `p4` and `p6` get another size.
    Resize {
        by: u8,
    },
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    One(u64),
    Lost(u64),
    Killed(u64),
}

fn steps(resizes: u32) -> impl Strategy<Value = Vec<(usize, usize, Step, Fault)>> {
    let step = prop_oneof![
        5 => (0..4_usize, 0..3_usize, any::<bool>())
            .prop_map(|(v4, v6, manual)| Step::Assign { v4, v6, manual }),
        2 => (0..24_u32).prop_map(|index| Step::Exactly { index }),
        3 => Just(Step::ReleaseAll),
        1 => (0..24_u32).prop_map(|index| Step::ReleaseOne { index }),
        resizes => (0..3_u8).prop_map(|by| Step::Resize { by }),
    ];
    let fault = prop_oneof![
        3 => Just(Fault::None),
        1 => (0..30_u64).prop_map(Fault::One),
        1 => (0..30_u64).prop_map(Fault::Lost),
        1 => (0..30_u64).prop_map(Fault::Killed),
    ];
    proptest::collection::vec((0..3_usize, 0..6_usize, step, fault), 1..40)
}

const FOREIGN: &str = r#"{"cidr":"10.0.0.4/30","affinity":"host:z","affinity_claim_time":"then","allocations":[null,0,null,null],"unallocated":[0,2,3],"attributes":[{"handle_id":"foreign","secondary":{"node":"z"},"alternateOwnerAttrs":{"x":"y"}}],"sequenceNumber":7,"sequenceNumberForAllocation":{"1":3},"deleted":false,"future":{"z":[1]}}"#;

/// Three IPv4 pools of 16, 8 and 0 usable addresses, one of 8 in IPv6; one block is somebody
/// else's, written by a newer version.
fn world() -> Arc<Memory> {
    let block = cidr("10.0.0.4/30");
    cluster(&[
        pool("p4", r#"{"cidr":"10.0.0.0/28","blockSize":30}"#),
        pool("q4", r#"{"cidr":"10.0.0.16/29","blockSize":30,"assignmentMode":"Manual"}"#),
        pool("r4", r#"{"cidr":"10.0.0.0/27","blockSize":29,"disabled":true}"#),
        pool("p6", r#"{"cidr":"fd00::/125","blockSize":127}"#),
        (keys::block(block), FOREIGN.to_owned()),
        (keys::affinity(&"z".into(), block), r#"{"state":"confirmed"}"#.to_owned()),
        (keys::handle("foreign"), r#"{"block":{"10.0.0.4/30":1},"later":true}"#.to_owned()),
    ])
}

fn address(index: u32) -> IpAddr {
    cidr("10.0.0.0/27").nth(u128::from(index)).unwrap()
}

/// How many addresses of a pool nobody has.
fn free(held: &BTreeMap<IpAddr, String>, pool: &str) -> usize {
    let pool = cidr(pool);
    usize::try_from(pool.size()).unwrap() - held.keys().filter(|a| pool.contains(**a)).count()
}

fn walk(steps: &[(usize, usize, Step, Fault)]) {
    let store = world();
    let mut expected: BTreeMap<IpAddr, String> = [(ip("10.0.0.5"), "foreign".to_owned())].into();
    let mut resized = false;
    for (who, pod, step, fault) in steps {
        if let Step::Resize { by } = step {
            resized = true;
            for (name, cidr, size) in [("p4", "10.0.0.0/28", 29), ("p6", "fd00::/125", 125)] {
                let spec = format!(r#"{{"cidr":"{cidr}","blockSize":{}}}"#, size + by);
                let (key, value) = pool(name, &spec);
                put(&store, &key, &value);
            }
            continue;
        }
        let name = ["a", "b", "c"][*who];
        let handle = format!("net.{pod}");
        let owner = owner(name, &handle);
        let ipam = host(&store, name);
        match *fault {
            Fault::None => {}
            Fault::One(call) => store.fail_after(call, 1),
            Fault::Lost(call) => store.lose_answer(call),
            Fault::Killed(call) => store.fail_after(call, u64::MAX / 2),
        }
        let result = match *step {
            Step::Assign { v4, v6, manual } => {
                let pools_v4 = if manual { vec![PoolChoice::Name("q4".into())] } else { vec![] };
                let request = Request { v4, v6, pools_v4, pools_v6: vec![] };
                let result = run(ipam.assign(&owner, &request));
                if let Ok(given) = &result {
                    assert_eq!(given.len(), v4 + v6);
                    let pool = cidr(if manual { "10.0.0.16/29" } else { "10.0.0.0/28" });
                    assert!(given.iter().take(v4).all(|given| given.pool == pool));
                }
                let enough = v4
                    <= free(&expected, if manual { "10.0.0.16/29" } else { "10.0.0.0/28" })
                    && v6 <= free(&expected, "fd00::/125");
                if let Err(IpamError::NoAddress { .. }) = &result {
                    // Beside a block of another size there may be addresses out of reach.
                    assert!(resized || !enough, "{step:?} of {expected:?}");
                }
                assert!(result.is_err() || enough);
                result.map(|given| {
                    for given in given {
                        let before = expected.insert(given.address, handle.clone());
                        assert_eq!(before, None, "{} was given twice", given.address);
                    }
                })
            }
            Step::Exactly { index } => {
                let address = address(index);
                let result = run(ipam.assign_exactly(&owner, &[address]));
                let other = expected.get(&address).filter(|by| **by != handle);
                match &result {
                    Err(IpamError::Taken { handle, .. }) => assert_eq!(handle.as_ref(), other),
                    Ok(_) => assert_eq!(other, None),
                    Err(IpamError::Overlap { .. }) => assert!(resized && other.is_none()),
                    Err(_) => {}
                }
                result.map(|_| drop(expected.insert(address, handle.clone())))
            }
            Step::ReleaseAll => run(ipam.release_handle(&handle)).map(|back| {
                for address in back {
                    assert_eq!(expected.remove(&address).as_ref(), Some(&handle));
                }
                assert!(!expected.values().any(|by| *by == handle));
            }),
            Step::ReleaseOne { index } => run(ipam.release(address(index), &handle)).map(|had| {
                assert_eq!(had, expected.get(&address(index)) == Some(&handle));
                if had {
                    expected.remove(&address(index));
                }
            }),
            Step::Resize { .. } => Ok(()),
        };
        store.heal();
        match result {
            Ok(()) => {}
            Err(
                IpamError::NoAddress { .. } | IpamError::Taken { .. } | IpamError::Overlap { .. },
            ) if matches!(fault, Fault::None) => {}
            Err(
                IpamError::NoAddress { .. }
                | IpamError::Taken { .. }
                | IpamError::Overlap { .. }
                | IpamError::Store(_),
            ) => {
                assert!(!matches!(fault, Fault::None));
                // What is left of it is found by its handle.
                run(ipam.release_handle(&handle)).unwrap();
                expected.retain(|_, by| *by != handle);
            }
            Err(other) => panic!("{step:?} with {fault:?}: {other}"),
        }
        assert_eq!(held(&store), expected, "{step:?} with {fault:?}");
        assert_eq!(counts(&store), true_counts(&store), "{step:?} with {fault:?}");
    }
    for pod in 0..6 {
        run(host(&store, "a").release_handle(&format!("net.{pod}"))).unwrap();
    }
    assert_eq!(held(&store).len(), 1);
    let foreign = store.text(&keys::block(cidr("10.0.0.4/30"))).unwrap();
    for kept in [
        r#""affinity":"host:z","affinity_claim_time":"then""#,
        r#"{"handle_id":"foreign","secondary":{"node":"z"},"alternateOwnerAttrs":{"x":"y"}}"#,
        r#""future":{"z":[1]}"#,
        r#""sequenceNumberForAllocation":{"1":3}"#,
    ] {
        assert!(foreign.contains(kept), "{foreign}");
    }
    let handle = store.text(&keys::handle("foreign")).unwrap();
    assert_eq!(handle, r#"{"block":{"10.0.0.4/30":1},"later":true}"#);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_given_twice_and_nothing_is_lost(steps in steps(0)) {
        walk(&steps);
    }

    #[test]
    fn nor_while_the_sizes_of_blocks_change(steps in steps(2)) {
        walk(&steps);
    }
}
