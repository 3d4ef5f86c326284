//! How long it takes, against `ip -batch`, which does the same in two processes. Prints the figures.

use std::time::{Duration, Instant};

use calico_cni::network;

use super::plan;
use super::world::{Netns, World, output, world};

/// How many, unless `CALICO_ROUNDS` says: removing a veth takes the kernel 20 ms.
const ROUNDS: usize = 40;

fn by_ip(world: &World, pod: &Netns) {
    let host = format!(
        "link add cali1 mtu 1430 address {} type veth peer name eth0 mtu 1430 netns {}\n\
         link set cali1 addrgenmode eui64 up\n",
        network::HOST_MAC,
        pod.name
    );
    let inside = "link set lo up\nlink set eth0 up\n\
         addr add 10.65.0.2/32 dev eth0\n\
         addr add fd80::2/128 dev eth0 nodad\n\
         neigh replace 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent\n\
         neigh replace fe80::ecee:eeff:feee:eeee lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent\n\
         route add 169.254.1.1 dev eth0 scope link\n\
         route add default via 169.254.1.1 dev eth0\n\
         route add default via fe80::ecee:eeff:feee:eeee dev eth0\n";
    for (name, lines) in [(&world.host.name, host.as_str()), (&pod.name, inside)] {
        let done = output("ip", &["-n", name, "-batch", "-"], lines);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

/// The best: what it takes while nobody else makes the kernel wait, as the other tests do.
fn figures(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let at = |percent: usize| times[times.len() * percent / 100].as_micros();
    println!("{what}: best {} us, p50 {} us, p99 {} us", at(0), at(50), at(99));
    times[0]
}

#[test]
fn faster_than_ip() {
    let Some(world) = world() else { return };
    let pod = world.pod();
    let plan = plan(&pod);
    let (mut own, mut theirs, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    let rounds = std::env::var("CALICO_ROUNDS").ok().and_then(|text| text.parse().ok());
    for _ in 0..rounds.unwrap_or(ROUNDS) {
        let (made, removed) = world.run(async || {
            let start = Instant::now();
            network::create(&plan).await.unwrap();
            let made = start.elapsed();
            network::delete(&plan.host_name).await.unwrap();
            (made, start.elapsed() - made)
        });
        own.push(made);
        gone.push(removed);
        let start = Instant::now();
        by_ip(&world, &pod);
        theirs.push(start.elapsed());
        world.run(async || network::delete(&plan.host_name).await.unwrap());
    }
    let (own, theirs) = (figures("create", own), figures("ip -batch", theirs));
    figures("delete", gone);
    assert!(own < theirs, "{own:?} against {theirs:?}");
}
