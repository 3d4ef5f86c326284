//! What goes wrong is named, and leaves nothing.

use std::error::Error as _;
use std::io;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use calico_cni::network::{self, NetworkError, Plan};

use super::world::{Netns, World, output, world};
use super::{ips, name, plan};

/// Fails, and neither side has anything of it.
fn refused(world: &World, pod: &Netns, plan: &Plan) -> NetworkError {
    let error = world.run(async || network::create(plan).await.unwrap_err());
    assert_eq!(world.host.interfaces(), [""; 0], "{error}");
    assert_eq!(pod.interfaces(), [""; 0], "{error}");
    error
}

fn errno(error: &NetworkError) -> Option<i32> {
    error.source().and_then(|source| source.downcast_ref::<io::Error>()?.raw_os_error())
}

#[test]
fn an_address_that_the_kernel_refuses() {
    let Some(world) = world() else { return };
    let pod = world.pod();
    for (addresses, subject, number) in [
        (["10.65.0.2", "10.65.0.2"], "10.65.0.2/32 to eth0", 17),
        (["10.65.0.2", "ff02::5"], "ff02::5/128 to eth0", 99),
    ] {
        let error = refused(&world, &pod, &Plan { addresses: ips(&addresses), ..plan(&pod) });
        assert_eq!(error.to_string(), format!("cannot add the address {subject}"));
        assert_eq!(errno(&error), Some(number), "{error:?}");
    }
    // The namespace is as good as before.
    world.run(async || network::create(&plan(&pod)).await.unwrap());
}

#[test]
fn an_mtu_that_the_kernel_refuses() {
    let Some(world) = world() else { return };
    let pod = world.pod();
    let error = refused(&world, &pod, &Plan { mtu: 20, ..plan(&pod) });
    assert!(error.to_string().starts_with("cannot make the veth pair cali1 with eth0"), "{error}");
    assert_eq!(errno(&error), Some(22));
    // Too little for IPv6: the kernel takes the link and refuses the address.
    let error = refused(&world, &pod, &Plan { mtu: 1000, ..plan(&pod) });
    assert!(errno(&error).is_some() || matches!(error, NetworkError::Sysctl { .. }), "{error:?}");
}

#[test]
fn a_name_that_is_taken_outside() {
    let Some(world) = world() else { return };
    let pod = world.pod();
    world.host.ip("link add cali1 type bridge");
    let before = world.host.ip("-d link show cali1");
    let error = world.run(async || network::create(&plan(&pod)).await.unwrap_err());
    assert!(matches!(&error, NetworkError::TakenOutside { name } if name.as_str() == "cali1"));
    assert_eq!(world.host.ip("-d link show cali1"), before);
    assert_eq!(pod.interfaces(), [""; 0]);
}

#[test]
fn a_name_that_is_taken_inside() {
    let Some(world) = world() else { return };
    let pod = world.pod();
    pod.ip("link add eth0 type bridge");
    let before = pod.ip("-d link show eth0");
    let error = world.run(async || network::create(&plan(&pod)).await.unwrap_err());
    assert!(
        matches!(&error, NetworkError::TakenInside { name, netns }
            if name.as_str() == "eth0" && *netns == pod.path()),
        "{error:?}"
    );
    assert_eq!(pod.ip("-d link show eth0"), before);
    assert_eq!(world.host.interfaces(), [""; 0]);
}

#[test]
fn what_is_no_namespace() {
    let Some(world) = world() else { return };
    let pod = world.pod();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cni-gone");
    std::fs::write(&file, "").unwrap();
    let at = |path: &Path| Plan { netns: path.to_owned(), ..plan(&pod) };
    for path in [
        file.as_path(),
        directory.path(),
        Path::new("/proc/self/ns/mnt"),
        Path::new("/proc/self/status"),
    ] {
        let error = refused(&world, &pod, &at(path));
        assert!(
            matches!(&error, NetworkError::NotANamespace { path: named } if named == path),
            "{error:?}"
        );
        assert!(!network::is_namespace(path), "{}", path.display());
        let read = world.run(async || network::inspect(path, &name("eth0")).await);
        assert!(matches!(read, Err(NetworkError::NotANamespace { .. })));
        // Nothing to remove there: a namespace's file outlives it.
        let removed = world.run(async || network::delete_inside(path, &name("eth0")).await);
        match removed {
            Ok(removed) => assert!(!removed),
            // A namespace, though of another kind: nobody left that behind.
            Err(NetworkError::NotANamespace { .. }) => {
                assert!(path.starts_with("/proc/self/ns"), "{}", path.display());
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    let missing = directory.path().join("missing");
    let error = refused(&world, &pod, &at(&missing));
    assert!(matches!(&error, NetworkError::NoNamespace { path, .. } if *path == missing));
    assert!(!network::is_namespace(&missing));
    assert!(network::is_namespace(&pod.path()));

    // A pod that shares the host's: its default route would replace the host's.
    let error = refused(&world, &pod, &at(&world.host.path()));
    assert!(matches!(error, NetworkError::HostNamespace { .. }), "{error:?}");
    let own = world.host.path();
    let removed = world.run(async || network::delete_inside(&own, &name("eth0")).await);
    assert!(matches!(removed, Err(NetworkError::HostNamespace { .. })), "{removed:?}");
}

#[test]
fn removing_twice_is_fine_and_strangers_are_spared() {
    let Some(world) = world() else { return };
    let pod = world.pod();
    let plan = plan(&pod);
    world.host.ip("link add cali9 type bridge");
    pod.ip("link add eth9 type bridge");
    world.run(async || {
        assert!(!network::delete(&plan.host_name).await.unwrap());
        network::create(&plan).await.unwrap();
        assert!(network::delete(&plan.host_name).await.unwrap());
        assert!(!network::delete(&plan.host_name).await.unwrap());
        assert!(!network::delete_inside(&plan.netns, &plan.ifname).await.unwrap());

        network::create(&plan).await.unwrap();
        assert!(network::delete_inside(&plan.netns, &plan.ifname).await.unwrap());
        assert!(!network::exists(&plan.host_name).await.unwrap());
        let missing = plan.netns.with_file_name("cninet-missing");
        assert!(!network::delete_inside(&missing, &plan.ifname).await.unwrap());

        let error = network::delete(&name("cali9")).await.unwrap_err();
        assert_eq!(error.to_string(), "the interface cali9 is no veth");
        let error = network::delete_inside(&plan.netns, &name("eth9")).await.unwrap_err();
        assert!(matches!(error, NetworkError::Foreign { .. }));
    });
    assert_eq!(
        (world.host.interfaces(), pod.interfaces()),
        (vec!["cali9".into()], vec!["eth9".into()])
    );
}

#[test]
fn twenty_at_once() {
    let Some(world) = world() else { return };
    let pods: Vec<Netns> = (0..20).map(|_| world.pod()).collect();
    let barrier = Barrier::new(pods.len());
    let each = |n: usize, host_name: &str| {
        let addresses = ips(&[&format!("10.65.0.{n}"), &format!("fd80::{n}")]);
        let plan = Plan { addresses, host_name: name(host_name), ..plan(&pods[n]) };
        barrier.wait();
        world.run(async || network::create(&plan).await)
    };
    let all = |host_name: &(dyn Fn(usize) -> String + Sync)| -> Vec<_> {
        std::thread::scope(|scope| {
            let each = &each;
            let threads: Vec<_> =
                (0..pods.len()).map(|n| scope.spawn(move || each(n, &host_name(n)))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    };
    // All want the same name: one gets it, and keeps it.
    let outcomes = all(&|_| "cali1".to_owned());
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for (pod, outcome) in pods.iter().zip(&outcomes) {
        match outcome {
            Ok(_) => assert_eq!(
                pod.list("neigh show nud permanent dev eth0")
                    .iter()
                    .filter(|entry| entry["lladdr"] == network::HOST_MAC)
                    .count(),
                2
            ),
            Err(error) => {
                assert!(matches!(error, NetworkError::TakenOutside { .. }), "{error:?}");
                assert_eq!(pod.interfaces(), [""; 0]);
            }
        }
    }
    world.run(async || network::delete(&name("cali1")).await.unwrap());
    let outcomes = all(&|n| format!("cali-{n}"));
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(world.host.interfaces().len(), 20);
    world.run(async || {
        for (n, pod) in pods.iter().enumerate() {
            let found = network::inspect(&pod.path(), &name("eth0")).await.unwrap().unwrap();
            assert_eq!(found.host_name, Some(name(&format!("cali-{n}"))));
        }
    });
}

#[test]
fn a_namespace_that_dies_meanwhile_leaves_nothing() {
    let Some(world) = world() else { return };
    let mut made = 0;
    for round in 0..20u32 {
        let pod = world.pod();
        let plan = plan(&pod);
        let outcome = std::thread::scope(|scope| {
            let creating = scope.spawn(|| world.run(async || network::create(&plan).await));
            std::thread::sleep(Duration::from_micros(u64::from(round) * 150));
            output("ip", &["netns", "delete", &pod.name], "");
            creating.join().unwrap()
        });
        made += u32::from(outcome.is_ok());
        assert!(
            matches!(
                outcome,
                Ok(_) | Err(NetworkError::NoNamespace { .. } | NetworkError::NotANamespace { .. })
            ),
            "{outcome:?}"
        );
        // The kernel removes what was inside a dead namespace in its own time.
        let end = Instant::now() + Duration::from_secs(5);
        while !world.host.interfaces().is_empty() {
            assert!(Instant::now() < end, "round {round}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    println!("{made} of 20 were made before");
}
