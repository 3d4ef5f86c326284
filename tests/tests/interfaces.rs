//! Interfaces that misbehave: they flap, are made again, get other names; addresses move; pods die
//! while they are programmed. After each, what is allowed passes within three seconds and what is
//! denied does not; pods beside it notice nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::{CONVERGENCE, Cluster};
use calico_e2e::flow::{Flow, Flows, Tally};
use calico_e2e::host::Flavour;
use calico_e2e::matrix::Family;
use calico_e2e::probe::{Answer, BRIEF, Service, ask_from};
use calico_e2e::tutorial::{DNS, HTTP, OTHER, PODS, PodSpec};
use calico_e2e::{kernel, wait};

/// The time within which everything is well again.
const RECOVERY: Duration = Duration::from_secs(3);
/// What one question may take within that time.
const ONCE: Duration = Duration::from_millis(500);

/// Flows between pods that nothing happens to: two of them are on the host where it does.
fn bystanders() -> Vec<Flow> {
    let mut all = Vec::new();
    for (from, to, service, allowed) in [
        ("backend-1", "backend-2", Service::Udp(DNS), true),
        ("backend-2", "backend-1", Service::Udp(DNS), true),
        ("backend-2", "backend-1", Service::Tcp(OTHER), true),
        ("frontend-2", "backend-1", Service::Udp(DNS), false),
        ("frontend-2", "backend-1", Service::Tcp(OTHER), false),
    ] {
        let (from, to) = (from.to_owned(), to.to_owned());
        all.extend([Family::V4, Family::V6].map(|family| Flow {
            from: from.clone(),
            to: to.clone(),
            family,
            service,
            spoofed: None,
            allowed,
        }));
    }
    all
}

/// The pod is reached and reaches, over both families, and what is denied to it stays silent.
fn is_well(cluster: &Cluster, pod: &str, what: &str) -> Result<()> {
    let (pod, friend) = (cluster.pod(pod)?, cluster.pod("frontend-2")?);
    let foe = cluster.pod("backend-1")?;
    let (name, other) = (pod.ns().name(), friend.ns().name());
    let own: [IpAddr; 2] = [pod.spec.v4.into(), pod.spec.v6.into()];
    let theirs: [IpAddr; 2] = [friend.spec.v4.into(), friend.spec.v6.into()];
    let closed: [IpAddr; 2] = [foe.spec.v4.into(), foe.spec.v6.into()];
    let begin = Instant::now();
    let asked = own.map(|address| (other, address)).into_iter();
    for (from, to) in asked.chain(theirs.map(|address| (name, address))) {
        wait::until(&format!("way from {from} to {to} after {what}"), RECOVERY, || {
            Ok(ask_from(from, to, Service::Tcp(HTTP), ONCE)?.reached().then_some(()))
        })
        .with_context(|| cluster.logs())?;
    }
    ensure!(begin.elapsed() < RECOVERY + ONCE, "{what}: {:?}", begin.elapsed());
    for to in closed {
        let answer = ask_from(name, to, Service::Tcp(OTHER), BRIEF)?;
        ensure!(answer == Answer::Silence, "{what}: {name} to {to}: {answer:?}");
    }
    Ok(())
}

/// The interface of the pod goes down and comes up faster than anybody looks; is deleted and made
/// again; gets another name and its own back; gets another MTU, another Ethernet address.
fn abuse(cluster: &Cluster) -> Result<()> {
    let (host, pod) = (&cluster.hosts[0], cluster.pod("frontend-1")?);
    let interface = pod.spec.interface();
    let flap = format!("link set {interface} down\nlink set {interface} up\n");
    host.ns().ip(&flap.repeat(20))?;
    is_well(cluster, "frontend-1", "flaps")?;
    for _ in 0..5 {
        host.ns().ip(&flap)?;
        std::thread::sleep(Duration::from_millis(20));
    }
    is_well(cluster, "frontend-1", "slow flaps")?;

    for _ in 0..3 {
        host.ns().ip(&format!("link del {interface}\n"))?;
        pod.wire(host)?;
    }
    is_well(cluster, "frontend-1", "a new interface of the same name")?;

    host.ns().ip(&format!(
        "link set {interface} down\nlink set {interface} name other0\nlink set other0 up\n"
    ))?;
    let address = format!("{} ", pod.spec.v4);
    wait::until("no route over the renamed interface", RECOVERY, || {
        let routes = kernel::routes(host.ns(), "-4")?;
        let left = routes.iter().any(|r| r.starts_with(&address) && r.contains("other0"));
        Ok((!left).then_some(()))
    })?;
    let friend = cluster.pod("frontend-2")?.ns().name();
    let answer = ask_from(friend, pod.spec.v4.into(), Service::Tcp(HTTP), BRIEF)?;
    ensure!(!answer.reached(), "reached over an interface without policy");
    host.ns().ip(&format!(
        "link set other0 down\nlink set other0 name {interface}\nlink set {interface} up\n"
    ))?;
    is_well(cluster, "frontend-1", "a name that came back")?;

    host.ns().ip(&format!(
        "link set {interface} mtu 1400\n\
         link set {interface} address 02:00:00:00:00:01\n\
         link set {interface} address {}\n",
        calico_e2e::pod::HOST_MAC
    ))?;
    is_well(cluster, "frontend-1", "another MTU and Ethernet address")
}

/// The address of one pod becomes another's: in one step, with both claiming it, and back.
fn move_address(cluster: &mut Cluster) -> Result<()> {
    let old = PODS[0];
    let heir = PodSpec {
        name: "heir",
        // Before the old one's in the order of the ids: the first that can have it gets it.
        container_id: "00000000-1b7e-4a57-9d6c-0f8e2b6a4d99",
        mac: "ca:fe:1d:52:bb:f9",
        ..old
    };
    let heir = Box::leak(Box::new(heir));
    cluster.wire_pod(heir)?;
    let (key, value) = old.endpoint().pair();
    let pair = heir.endpoint().pair();
    let over = |cluster: &Cluster, spec: &PodSpec| -> Result<()> {
        wait::until(&format!("{} over {}", spec.v4, spec.interface()), RECOVERY, || {
            let mut routes = kernel::routes(cluster.hosts[0].ns(), "-4")?;
            routes.extend(kernel::routes(cluster.hosts[0].ns(), "-6")?);
            let to = |address: String| {
                let mut over = routes.iter().filter(|r| r.starts_with(&format!("{address} ")));
                over.all(|r| r.contains(&spec.interface()))
            };
            Ok((to(spec.v4.to_string()) && to(spec.v6.to_string())).then_some(()))
        })
    };

    cluster.etcd.exchange(std::slice::from_ref(&key), std::slice::from_ref(&pair))?;
    over(cluster, heir)?;
    is_well(cluster, "heir", "an address that moved")?;
    // The one who had it has no endpoint any more: it reaches nobody under that address.
    let host = cluster.hosts[0].spec.v4;
    let name = cluster.pod("frontend-1")?.ns().name().to_owned();
    let answer = ask_from(&name, host.into(), Service::Tcp(HTTP), BRIEF)?;
    ensure!(answer == Answer::Silence, "the old one still speaks: {answer:?}");

    // Both claim it: the first keeps it, and the other one's error names both.
    cluster.etcd.put(&key, &value)?;
    wait::until("a conflict that is told", CONVERGENCE, || {
        let text = cluster.hosts[0].status()?.problems().join("\n");
        let told = text.contains(old.container_id) && text.contains(heir.container_id);
        Ok((told && text.contains(&old.v4.to_string())).then_some(()))
    })
    .with_context(|| cluster.logs())?;
    over(cluster, heir)?;
    is_well(cluster, "heir", "a conflict")?;

    cluster.etcd.delete(&pair.0)?;
    over(cluster, &old)?;
    is_well(cluster, "frontend-1", "an address that came back")?;
    cluster.stop_server("heir");
    cluster.pods.remove("heir");
    wait::until("an end of the conflict", CONVERGENCE, || {
        Ok(cluster.hosts[0].status()?.is_ready().then_some(()))
    })
}

/// Pods whose namespaces die while they are programmed, several at once.
fn die(cluster: &mut Cluster) -> Result<()> {
    let names = ["dying-0", "dying-1", "dying-2", "dying-3", "dying-4"];
    for round in 0..8_u64 {
        let mut keys = Vec::new();
        for (number, name) in names.into_iter().enumerate() {
            // The kernel ends a namespace some time after its name is gone.
            let id: &'static str = format!("d1e{round:02}{number:02}0-000").leak();
            let last = 30 + u8::try_from(number)?;
            let spec = PodSpec {
                name,
                container_id: id,
                v4: Ipv4Addr::new(192, 168, 0, last),
                v6: Ipv6Addr::new(0xfd80, 0x24e2, 0xf998, 0x72d6, 0, 0, 0, last.into()),
                mac: "ca:fe:1d:52:bb:0d",
                ..PODS[0]
            };
            let spec: &'static PodSpec = Box::leak(Box::new(spec));
            cluster.place_pod(spec)?;
            keys.push(spec.endpoint().key());
        }
        std::thread::sleep(Duration::from_millis(round * 3));
        for name in names {
            cluster.stop_server(name);
            // The namespace takes both ends of the veth with it.
            cluster.pods.remove(name);
        }
        if round % 2 == 0 {
            cluster.etcd.exchange(&keys, &[])?;
        } else {
            // First the interface, and the endpoint a while later.
            std::thread::sleep(Duration::from_millis(50));
            keys.iter().try_for_each(|key| cluster.etcd.delete(key).map(drop))?;
        }
    }
    wait::until("nothing left of the dead", CONVERGENCE, || {
        let routes = kernel::routes(cluster.hosts[0].ns(), "-4")?;
        let left = routes.iter().any(|route| route.contains("calid1e"));
        Ok((!left && cluster.hosts[0].status()?.is_ready()).then_some(()))
    })
    .with_context(|| cluster.logs())?;
    is_well(cluster, "frontend-1", "the death of others")
}

fn misbehaving_interfaces_harm_nobody(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::tutorial(label, flavour)?;
    cluster.wait_for_routes()?;
    is_well(&cluster, "frontend-1", "the start")?;
    ["backend-1", "backend-2"].iter().for_each(|site| cluster.stop_server(site));
    // A program that another test starts just now may hold a port for a moment.
    let start = || Flows::start(&bystanders(), &cluster.sites()).map(Some);
    let flows = wait::until("free ports", Duration::from_secs(5), start)?;
    abuse(&cluster)?;
    move_address(&mut cluster)?;
    die(&mut cluster)?;
    // All of it was done to interfaces; what the kernel did with their routes is nobody's.
    let status = cluster.hosts[0].status()?.0;
    let parts = status["parts"].as_array().context("no parts")?.iter();
    let told: Vec<_> = parts.filter(|p| p["name"] == "routes").map(|p| &p["repairs"]).collect();
    ensure!(told.iter().all(|all| **all == serde_json::json!([])), "told: {told:?}");
    let tallies = flows.finish()?;
    let wrong: Vec<String> =
        tallies.iter().filter(|t| t.wrong() > 0).map(Tally::to_string).collect();
    ensure!(tallies.iter().all(|tally| tally.sent > 50), "a flow hardly sent");
    ensure!(wrong.is_empty(), "others were disturbed:\n{}", wrong.join("\n"));
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: misbehaving_interfaces_harm_nobody, "int";
}
