//! A host of Calico 2.6: its objects lie in etcd's v2 API, and our agent is in the place of
//! calico/node.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::etcd::Etcd;
use calico_e2e::host::{Flavour, Host};
use calico_e2e::pod::Pod;
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from};
use calico_e2e::run::Run;
use calico_e2e::server::Server;
use calico_e2e::tutorial::{HOSTS, HTTP, OTHER, PODS, PodSpec};
use calico_e2e::wait;

const LIMIT: Duration = Duration::from_secs(30);

/// A third pod on the first host.
const STRANGER: PodSpec = PodSpec {
    name: "stranger",
    network: "stranger",
    container_id: "5f1d3c77-8a52-4c3f-9d6c-5f0d9f1e6c05",
    v4: Ipv4Addr::new(192, 168, 0, 2),
    v6: std::net::Ipv6Addr::new(0xfd80, 0x24e2, 0xf998, 0x72d6, 0, 0, 0, 2),
    mac: "ca:fe:1d:52:bb:e5",
    ..PODS[0]
};

/// What calico/node and calicoctl of that time leave: the host, the pool, settings.
const CLUSTER: [(&str, &str); 13] = [
    ("/calico/v1/config/EndpointReportingEnabled", "true"),
    ("/calico/v1/config/ReportingIntervalSecs", "1"),
    ("/calico/v1/config/LogSeverityScreen", "info"),
    ("/calico/v1/host/calico-01/metadata", "{}"),
    ("/calico/v1/host/calico-01/bird_ip", "172.18.18.101"),
    ("/calico/v1/host/calico-01/config/DefaultEndpointToHostAction", "RETURN"),
    (
        "/calico/v1/ipam/v4/pool/192.168.0.0-16",
        r#"{"cidr":"192.168.0.0/16","ipip":"","ipip_mode":"","masquerade":false,"ipam":true,"disabled":false}"#,
    ),
    ("/calico/bgp/v1/global/as_num", "64512"),
    ("/calico/bgp/v1/global/node_mesh", r#"{"enabled": true}"#),
    ("/calico/bgp/v1/host/calico-01/ip_addr_v4", "172.18.18.101"),
    ("/calico/bgp/v1/host/calico-01/ip_addr_v6", ""),
    ("/calico/v1/host/calico-01/endpoint/wire", r#"{"name":"eth0","profile_ids":["host"]}"#),
    (
        "/calico/v1/policy/profile/host/rules",
        r#"{"inbound_rules":[{"action":"allow"}],"outbound_rules":[{"action":"allow"}]}"#,
    ),
];

const READY: &str = "/calico/v1/Ready";

/// Rules of a profile that let its own pods in, and those of `from` to the port.
fn rules(own: &str, from: &str) -> String {
    format!(
        r#"{{"id":"{own}","inbound_rules":[{{"action":"allow","src_tag":"{own}"}},{{"action":"allow","protocol":"tcp","src_tag":"{from}","dst_ports":[{HTTP}]}}],"outbound_rules":[{{"action":"allow"}}]}}"#
    )
}

fn profile(name: &str, piece: &str) -> String {
    format!("/calico/v1/policy/profile/{name}/{piece}")
}

fn workload(pod: &PodSpec) -> String {
    format!("host/calico-01/workload/cni/{}/endpoint/eth0", pod.container_id)
}

struct World {
    _servers: Vec<Server>,
    frontend: Pod,
    backend: Pod,
    stranger: Pod,
    etcd: Etcd,
    host: Host,
    _run: Run,
}

impl World {
    fn new(label: &str, flavour: Flavour) -> Result<Self> {
        let run = Run::new(label)?;
        let mut host = Host::new(&run, &HOSTS[0], "http://127.0.0.1:2379")?;
        host.flavour = flavour;
        host.env.push(("CALICO_DATASTORE".to_owned(), "etcdv2".to_owned()));
        host.ns().ip(&format!(
            "link add eth0 type veth peer name nobody\nlink set eth0 up\nlink set nobody up\n\
             addr add {}/24 dev eth0\n",
            HOSTS[0].v4
        ))?;
        let mut etcd = Etcd::new(&run, host.ns(), Ipv4Addr::LOCALHOST.into()).with_v2();
        etcd.start()?;
        let [frontend, backend, stranger] = [&PODS[0], &PODS[1], &STRANGER];
        let frontend = Pod::create(&run, &host, frontend)?;
        let backend = Pod::create(&run, &host, backend)?;
        let stranger = Pod::create(&run, &host, stranger)?;
        let serve = |pod: &Pod| {
            let addresses = [pod.spec.v4.into(), pod.spec.v6.into()];
            Server::start(pod.ns().name(), &addresses, &[HTTP, OTHER], &[])
        };
        let servers = vec![serve(&backend)?, serve(&stranger)?];
        Ok(Self { _servers: servers, frontend, backend, stranger, etcd, host, _run: run })
    }

    /// The endpoint as the first rkt plugin writes it: with its profile only at the end.
    fn add_endpoint(&self, pod: &PodSpec) -> Result<()> {
        let key = format!("/calico/v1/{}", workload(pod));
        let value = |profiles: &str| {
            format!(
                r#"{{"ipv6_gateway": null, "state": "active", "name": "{}", "ipv4_gateway": "172.18.18.101", "ipv6_nets": ["{}/128"], "profile_ids": [{profiles}], "mac": "{}", "ipv4_nets": ["{}/32"]}}"#,
                pod.interface(),
                pod.v6,
                pod.mac,
                pod.v4
            )
        };
        let network = pod.network;
        self.etcd.put_v2(&key, &value(""))?;
        self.etcd.put_v2(&profile(network, "tags"), &format!(r#"["{network}"]"#))?;
        self.etcd.put_v2(&profile(network, "rules"), &rules(network, "frontend"))?;
        self.etcd.put_v2(&key, &value(&format!("\"{network}\"")))
    }

    /// Waits until the backend is reached at its port by one, and by the other not; at its other port
    /// by neither. Over both families.
    fn expect(&self, what: &str, allowed: &Pod, denied: &Pod) -> Result<()> {
        let (open, closed) = (allowed.ns().name(), denied.ns().name());
        for address in [self.backend.spec.v4.into(), self.backend.spec.v6.into()] {
            wait::until(&format!("{what}: {address}"), LIMIT, || {
                let silent = |from: &str, port| {
                    let answer = ask_from(from, address, Service::Tcp(port), BRIEF)?;
                    anyhow::Ok(answer == Answer::Silence)
                };
                let reached = ask_from(open, address, Service::Tcp(HTTP), PATIENT)?.reached();
                let right = reached && silent(closed, HTTP)? && silent(open, OTHER)?;
                Ok(right.then_some(()))
            })
            .with_context(|| self.host.logs())?;
        }
        Ok(())
    }

    /// Waits until nobody reaches the backend, while the stranger, whose profile is as it was, is
    /// reached at its port.
    fn expect_closed(&self, what: &str) -> Result<()> {
        let backend = self.backend.spec.v4.into();
        wait::until(what, LIMIT, || {
            let silent = |pod: &Pod| {
                let answer = ask_from(pod.ns().name(), backend, Service::Tcp(HTTP), BRIEF)?;
                anyhow::Ok(answer == Answer::Silence)
            };
            Ok((silent(&self.frontend)? && silent(&self.stranger)?).then_some(()))
        })
        .with_context(|| self.host.logs())?;
        let (from, to) = (self.frontend.ns().name(), self.stranger.spec.v4.into());
        let answer = ask_from(from, to, Service::Tcp(HTTP), PATIENT)?;
        ensure!(answer.reached(), "{what}: the stranger lets the frontend in, and {answer:?}");
        Ok(())
    }

    fn wait_for_key(&self, key: &str, right: impl Fn(Option<&str>) -> bool) -> Result<()> {
        wait::until(key, LIMIT, || {
            let value = self.etcd.get_v2(key)?;
            Ok(right(value.as_deref()).then_some(()))
        })
        .with_context(|| self.host.logs())
    }
}

fn a_host_of_calico_2_6(label: &str, flavour: Flavour) -> Result<()> {
    let mut world = World::new(label, flavour)?;
    for (key, value) in CLUSTER {
        world.etcd.put_v2(key, value)?;
    }
    for pod in [&PODS[0], &PODS[1], &STRANGER] {
        world.add_endpoint(pod)?;
    }
    world.host.start_agent()?;
    // Nothing is programmed while the store does not say that it is ready.
    std::thread::sleep(Duration::from_secs(2));
    ensure!(world.host.status().is_ok_and(|status| !status.is_ready()), "{}", world.host.logs());
    world.etcd.put_v2(READY, "true")?;
    world.host.start_bird(LIMIT)?;
    world.expect("the profiles as they come", &world.frontend, &world.stranger)?;
    world.host.read_back()?;

    // Reports of endpoints and of the host, where Calico of that time looks for them.
    for pod in [&PODS[0], &PODS[1], &STRANGER] {
        let key = format!("/calico/felix/v1/{}", workload(pod));
        world.wait_for_key(&key, |value| value == Some(r#"{"status":"up"}"#))?;
    }
    let wire = "/calico/felix/v1/host/calico-01/endpoint/wire";
    world.wait_for_key(wire, |value| value == Some(r#"{"status":"up"}"#))?;
    for name in ["status", "last_reported_status"] {
        let key = format!("/calico/felix/v1/host/calico-01/{name}");
        world.wait_for_key(&key, |value| value.is_some_and(|value| value.contains("uptime")))?;
    }
    wait::until("ready", LIMIT, || Ok(world.host.status()?.is_ready().then_some(())))
        .with_context(|| {
            format!("{}{}", world.host.status_text().unwrap_or_default(), world.host.logs())
        })?;

    // Another tag may come in.
    world.etcd.put_v2(&profile("backend", "rules"), &rules("backend", "stranger"))?;
    world.expect("other rules", &world.stranger, &world.frontend)?;

    // A value that nobody can read: the profile denies, and `status` names the key.
    world.etcd.put_v2(&profile("backend", "rules"), "{\"inbound_rules\": [{\"action\": 1}]}")?;
    world.expect_closed("rules that cannot be read")?;
    wait::until("the key in status", LIMIT, || {
        let text = world.host.status_text()?;
        Ok((text.contains(&profile("backend", "rules"))).then_some(()))
    })?;
    world.etcd.put_v2(&profile("backend", "rules"), &rules("backend", "frontend"))?;
    world.expect("rules that can be read again", &world.frontend, &world.stranger)?;

    // A policy goes before profiles: it lets the other one in, and nobody else.
    let policy = "/calico/v1/policy/tier/default/policy/only-strangers";
    let value = format!(
        r#"{{"order":1,"selector":"has(backend)","types":["ingress"],"inbound_rules":[{{"action":"allow","protocol":"tcp","src_selector":"has(stranger)","dst_ports":[{HTTP}]}}]}}"#
    );
    world.etcd.put_v2(policy, &value)?;
    world.expect("a policy", &world.stranger, &world.frontend)?;
    world.etcd.remove_v2(policy)?;
    world.expect("no policy", &world.frontend, &world.stranger)?;

    // A profile goes with its directory, which is one event.
    world.etcd.remove_v2("/calico/v1/policy/profile/backend")?;
    world.expect_closed("a profile that is gone")?;
    world.etcd.put_v2(&profile("backend", "tags"), "[\"backend\"]")?;
    world.etcd.put_v2(&profile("backend", "rules"), &rules("backend", "frontend"))?;
    world.expect("a profile that is back", &world.frontend, &world.stranger)?;

    // Without etcd everything stays as it is; what is written after it counts.
    world.etcd.stop()?;
    wait::until("an outage", LIMIT, || {
        let text = world.host.status_text()?;
        Ok(text.contains("cannot connect to http://127.0.0.1:2379").then_some(()))
    })
    .with_context(|| world.host.status_text().unwrap_or_default())?;
    world.expect("an outage", &world.frontend, &world.stranger)?;
    world.etcd.start()?;
    world.etcd.put_v2(&profile("backend", "rules"), &rules("backend", "stranger"))?;
    world.expect("after the outage", &world.stranger, &world.frontend)?;

    // The other commands read the same store.
    let plan = world.host.command("plan", &[])?.output()?;
    ensure!(plan.status.success(), "{}{}", plan.stdout, plan.stderr);
    let check = world.host.command("check", &[])?.output()?;
    ensure!(check.stdout.contains("127.0.0.1:2379"), "{}{}", check.stdout, check.stderr);

    // The plugin's way to take an endpoint away: the directory of its workload.
    let key = format!("/calico/v1/host/calico-01/workload/cni/{}", PODS[0].container_id);
    world.etcd.remove_v2(&key)?;
    let status = format!("/calico/felix/v1/{}", workload(&PODS[0]));
    world.wait_for_key(&status, |value| value.is_none())?;
    world.host.stop_agent()
}

calico_e2e::on_each_dataplane! {
    full: a_host_of_calico_2_6, "etv";
}
