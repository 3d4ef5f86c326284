//! The tutorial that every user of Calico with rkt followed, on the demo's two hosts: the plugin is
//! called as rkt calls it, with the tutorial's conf files as they are.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::holdings::Holdings;
use calico_e2e::host::Flavour;
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from, shout};
use calico_e2e::rkt::{Rkt, Sandbox, draw_uuid};
use calico_e2e::server::Server;
use calico_e2e::tutorial::{self, DNS, HTTP};
use calico_e2e::wait;
use calico_e2e::world::{
    GlobalNetworkPolicy, NetworkPolicy, RESOURCES, Resource, Rule, network_profile,
};
use serde_json::{Value, json};

/// `/etc/rkt/net.d/10-calico-network1.conf`, byte for byte.
const NETWORK1: &str = r#"{
    "name": "network1",
    "cniVersion": "0.1.0",
    "type": "calico",
    "ipam": {
        "type": "calico-ipam"
    }
}
"#;

struct Lab {
    cluster: Cluster,
    rkts: Vec<Rkt>,
    servers: BTreeMap<String, Server>,
}

impl Lab {
    /// Agents, BIRD, pools, `network1` and `network2` on both hosts; no pod.
    fn new(label: &str, flavour: Flavour) -> Result<Self> {
        let mut cluster = Cluster::new(label)?;
        cluster.etcd.put_all(&tutorial::before_pods())?;
        cluster.start_agents(flavour)?;
        cluster.wait_until_ready()?;
        let mut rkts = Vec::new();
        for host in &cluster.hosts {
            let rkt = Rkt::new(host)?.as_installed(host)?;
            for (file, name) in
                [("10-calico-network1", "network1"), ("20-calico-network2", "network2")]
            {
                let text = NETWORK1.replace("network1", name);
                rkt.write_network(&format!("{file}.conf"), text)?;
            }
            rkts.push(rkt);
        }
        // The first host's plugin is told where etcd is by agent.toml, the second's by rkt's
        // environment.
        let toml = format!("[datastore]\nendpoints = [{:?}]\n", cluster.etcd.endpoint());
        std::fs::write(cluster.hosts[0].config_dir().join("agent.toml"), toml)?;
        rkts[0] = rkts[0].clone().without_env("ETCD_ENDPOINTS");
        Ok(Self { cluster, rkts, servers: BTreeMap::new() })
    }

    /// `rkt run --net=…` on a host, with an httpd in it.
    fn start(&mut self, host: usize, networks: &[(&str, &str)]) -> Result<Sandbox> {
        let rkt = &self.rkts[host];
        let mut pod = rkt.prepare(self.cluster.run(), &draw_uuid()?)?;
        rkt.connect(&mut pod, networks).with_context(|| self.cluster.logs())?;
        let addresses: Vec<IpAddr> =
            (0..pod.attached.len()).map(|n| pod.v4(n).map(IpAddr::from)).collect::<Result<_>>()?;
        let server = Server::start(pod.ns().name(), &addresses, &[HTTP], &[DNS])?;
        self.servers.insert(pod.uuid.clone(), server);
        Ok(pod)
    }

    /// `rkt rm`.
    fn remove(&mut self, host: usize, pod: Sandbox) -> Result<()> {
        self.servers.remove(&pod.uuid);
        let refusals = self.rkts[host].remove(pod)?;
        ensure!(refusals.is_empty(), "{refusals:?}");
        Ok(())
    }

    fn holdings(&self) -> Result<Holdings> {
        Holdings::read(&self.cluster.etcd, &self.cluster.hosts)
    }

    /// Whether a pod can fetch from an address. The other host learns of a new pod by itself.
    fn fetches(&self, pod: &Sandbox, to: Ipv4Addr) -> Result<()> {
        let name = pod.ns().name();
        wait::until(&format!("answer of {to} to {name}"), Duration::from_secs(10), || {
            Ok(ask_from(name, to.into(), Service::Tcp(HTTP), BRIEF)?.reached().then_some(()))
        })
        .with_context(|| self.cluster.logs())
    }

    /// A pod is not answered: a time-out, not an error.
    fn times_out(&self, pod: &Sandbox, to: Ipv4Addr) -> Result<()> {
        for service in [Service::Tcp(HTTP), Service::Udp(DNS), Service::Icmp] {
            let answer = ask_from(pod.ns().name(), to.into(), service, BRIEF)?;
            ensure!(answer == Answer::Silence, "{service} to {to}: {answer:?}");
        }
        Ok(())
    }

    fn profile(&self, name: &str) -> Result<Value> {
        let key = format!("{RESOURCES}/profiles/{name}");
        let text = self.cluster.etcd.get(&key)?.with_context(|| format!("no {key}"))?;
        Ok(serde_json::from_str(&text)?)
    }

    fn endpoint(&self, pod: &Sandbox, ifname: &str) -> Result<Value> {
        let all = self.cluster.etcd.get_prefix(&format!("{RESOURCES}/workloadendpoints/"))?;
        let parsed = all.iter().map(|(_, text)| serde_json::from_str::<Value>(text));
        let all = parsed.collect::<Result<Vec<_>, _>>()?;
        let mine = |value: &&Value| {
            value["spec"]["containerID"] == *pod.uuid && value["spec"]["endpoint"] == ifname
        };
        all.iter().find(mine).cloned().with_context(|| format!("no endpoint {ifname} in {all:#?}"))
    }
}

fn the_tutorial(label: &str, flavour: Flavour) -> Result<()> {
    let mut lab = Lab::new(label, flavour)?;

    // rkt run --net=network1:IP=192.168.0.0 … httpd
    let httpd = lab.start(0, &[("network1", "IP=192.168.0.0")])?;
    let address = Ipv4Addr::new(192, 168, 0, 0);
    ensure!(httpd.v4(0)? == address, "{:?}", httpd.attached);
    let ip4 = httpd.attached[0].result.ip4.clone().context("no ip4")?;
    // What rkt needs for port forwarding and the metadata service: an address of the host.
    ensure!(ip4.gateway == lab.cluster.hosts[0].spec.v4.to_string(), "{ip4:?}");
    let shown = httpd.ns().command("ip").args(["-o", "-4", "addr", "show", "eth0"]).run()?;
    ensure!(shown.contains("inet 192.168.0.0/32 "), "{shown}");

    // A pod on network1 of either host can fetch from it, one on network2 times out.
    let near = lab.start(0, &[("network1", "")])?;
    let far = lab.start(1, &[("network1", "")])?;
    let near2 = lab.start(0, &[("network2", "")])?;
    let far2 = lab.start(1, &[("network2", "")])?;
    for pod in [&near, &far] {
        lab.fetches(pod, address)?;
    }
    for pod in [&near2, &far2] {
        lab.times_out(pod, address)?;
    }
    // Not because network2 would not work.
    lab.fetches(&near2, far2.v4(0)?)?;
    lab.fetches(&far2, near2.v4(0)?)?;
    lab.times_out(&httpd, far2.v4(0)?)?;

    // calicoctl get profiles
    for network in ["network1", "network2"] {
        let (_, wanted) = network_profile(network).pair();
        let wanted: Value = serde_json::from_str(&wanted)?;
        let found = lab.profile(network)?;
        ensure!(found["spec"] == wanted["spec"], "{found:#}");
        ensure!(found["metadata"]["name"] == network, "{found:#}");
    }

    // No address twice, all from this host's blocks, each found by its handle.
    let held = lab.holdings()?;
    ensure!(held.contradictions().is_empty(), "{:?}", held.contradictions());
    ensure!(held.addresses.len() == 5 && held.endpoints.len() == 5, "{held}");
    ensure!(held.records.len() == 5 && held.interfaces.len() == 5, "{held}");
    for pod in [&httpd, &near, &far, &near2, &far2] {
        let handle = &held.addresses[&pod.v4(0)?.into()];
        ensure!(handle.ends_with(&format!(".{}", pod.uuid)), "{handle}");
    }

    // rkt rm: everything is given back. After a reboot the namespace is gone.
    lab.servers.remove(&far2.uuid);
    let refusals = lab.rkts[1].remove_after_reboot(far2)?;
    ensure!(refusals.is_empty(), "{refusals:?}");
    ensure!(lab.holdings()?.addresses.len() == 4, "{}", lab.holdings()?);
    for (host, pod) in [(0, httpd), (0, near), (1, far), (0, near2)] {
        lab.remove(host, pod)?;
    }
    let held = lab.holdings()?;
    ensure!(held.is_empty(), "{held}");
    // Networks outlive their pods.
    lab.profile("network1").map(drop)
}

calico_e2e::on_each_dataplane! {
    smoke: the_tutorial, "rkt";
}

/// One pod in both networks: each interface has its own address, endpoint and policy, and answers
/// leave by the interface that was asked.
fn a_pod_in_two_networks(label: &str, flavour: Flavour) -> Result<()> {
    let mut lab = Lab::new(label, flavour)?;
    // Named in another order than that of the files.
    let both = lab.start(0, &[("network2", ""), ("network1", "IP=192.168.0.7")])?;
    let names: Vec<_> = both.attached.iter().map(|a| (&*a.ifname, &*a.network)).collect();
    ensure!(names == [("eth0", "network1"), ("eth1", "network2")], "{names:?}");
    ensure!(both.v4(0)? == Ipv4Addr::new(192, 168, 0, 7), "{:?}", both.attached);
    let hosts = ["eth0", "eth1"].map(|ifname| lab.endpoint(&both, ifname));
    let [first, second] = hosts;
    let (first, second) = (first?, second?);
    let name = |endpoint: &Value| endpoint["spec"]["interfaceName"].clone();
    ensure!(name(&first) == format!("cali{}", &both.uuid[..11]), "{first:#}");
    ensure!(name(&second) != name(&first), "one name for two interfaces");
    ensure!(second["spec"]["profiles"] == json!(["network2"]), "{second:#}");

    let one = lab.start(1, &[("network1", "")])?;
    let two = lab.start(1, &[("network2", "")])?;
    lab.fetches(&one, both.v4(0)?)?;
    lab.fetches(&two, both.v4(1)?)?;
    lab.times_out(&one, both.v4(1)?)?;
    lab.times_out(&two, both.v4(0)?)?;
    // What the pod sends by itself leaves by the first interface.
    lab.fetches(&both, one.v4(0)?)?;
    // Each interface lets only its own address out.
    let server = &lab.servers[&one.uuid];
    let to = SocketAddr::new(one.v4(0)?.into(), DNS);
    both.ns().ip(&format!("addr add {}/32 dev eth0\n", both.v4(1)?))?;
    both.ns().ip("rule add pref 1 lookup main\n")?;
    shout(both.ns().name(), (both.v4(1)?, 0).into(), to, "wrong interface")?;
    shout(both.ns().name(), (both.v4(0)?, 0).into(), to, "right interface")?;
    wait::until_true("the right one", PATIENT, || !server.arrivals(b"right").is_empty())?;
    std::thread::sleep(Duration::from_millis(100));
    ensure!(server.arrivals(b"wrong").is_empty(), "through the wrong interface");

    lab.remove(0, both)?;
    lab.remove(1, one)?;
    lab.remove(1, two)?;
    let held = lab.holdings()?;
    ensure!(held.is_empty(), "{held}");
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: a_pod_in_two_networks, "rtw";
}

/// When the second network cannot be had, the pod does not start, and nothing of the first is left.
fn one_network_that_fails_takes_the_pod_with_it(label: &str, flavour: Flavour) -> Result<()> {
    let mut lab = Lab::new(label, flavour)?;
    let owner = lab.start(1, &[("network2", "IP=192.168.3.3")])?;
    let before = lab.holdings()?;
    let rkt = lab.rkts[0].clone();
    let mut pod = rkt.prepare(lab.cluster.run(), &draw_uuid()?)?;
    let taken = [("network1", ""), ("network2", "IP=192.168.3.3")];
    let error = rkt.connect(&mut pod, &taken).err().context("the address was given twice")?;
    let refusal = error.downcast::<calico_e2e::rkt::Refusal>()?;
    ensure!(refusal.code == Some(101) && refusal.network == "network2", "{refusal}");
    ensure!(refusal.msg.contains("192.168.3.3"), "{refusal}");
    let after = lab.holdings()?;
    ensure!(after == before, "left behind: {after}\nbefore: {before}");
    // The same pod, with an address that is free.
    rkt.connect(&mut pod, &[("network1", ""), ("network2", "IP=192.168.3.4")])?;
    lab.remove(0, pod)?;
    lab.remove(1, owner)
}

calico_e2e::on_each_dataplane! {
    full: one_network_that_fails_takes_the_pod_with_it, "rkf";
}

/// `CNI_ARGS` and the conf label a pod; a policy finds it by them.
fn labels_are_what_policies_select(label: &str, flavour: Flavour) -> Result<()> {
    let mut lab = Lab::new(label, flavour)?;
    let conf = NETWORK1.replace("\"ipam\"", "\"labels\": {\"stage\": \"test\"}, \"ipam\"");
    lab.rkts[0].write_network("10-calico-network1.conf", conf)?;
    let args = "label.role=closed;K8S_POD_NAME=foo;IgnoreUnknown=1";
    let closed = lab.start(0, &[("network1", args)])?;
    let open = lab.start(0, &[("network1", "label.role=open")])?;
    let asks = lab.start(0, &[("network1", "")])?;
    let labels = &lab.endpoint(&closed, "eth0")?["metadata"]["labels"];
    ensure!(labels["role"] == "closed" && labels["stage"] == "test", "{labels:#}");
    lab.fetches(&asks, closed.v4(0)?)?;

    let spec = NetworkPolicy {
        order: Some(1),
        ingress: vec![Rule::new("Deny")],
        selector: "role == 'closed' && stage == 'test'".to_owned(),
        types: vec!["Ingress".to_owned()],
        ..NetworkPolicy::default()
    };
    let policy = Resource::new("default.closed", GlobalNetworkPolicy(spec));
    lab.cluster.put_and_wait(&[policy.pair()])?;
    lab.times_out(&asks, closed.v4(0)?)?;
    lab.fetches(&asks, open.v4(0)?)
}

calico_e2e::on_each_dataplane! {
    full: labels_are_what_policies_select, "rla";
}

/// The kernel draws the Ethernet address of a pod, and the pod may use no other; nor may it use an
/// address that is not its own.
fn a_pod_sends_as_itself(label: &str, flavour: Flavour) -> Result<()> {
    let mut lab = Lab::new(label, flavour)?;
    let hears = lab.start(0, &[("network1", "")])?;
    let speaks = lab.start(0, &[("network1", "")])?;
    let (name, own) = (speaks.ns().name(), speaks.v4(0)?);
    let drawn = lab.endpoint(&speaks, "eth0")?["spec"]["mac"].clone();
    let drawn = drawn.as_str().context("no MAC")?;
    let server = &lab.servers[&hears.uuid];
    let to = SocketAddr::new(hears.v4(0)?.into(), DNS);
    let mac = |mac: &str| {
        speaks.ns().ip(&format!(
            "link set eth0 address {mac}\n\
             neigh replace 169.254.1.1 lladdr {} dev eth0 nud permanent\n",
            calico_e2e::pod::HOST_MAC
        ))
    };
    mac("02:00:00:00:66:66")?;
    shout(name, (own, 0).into(), to, "bad MAC")?;
    mac(drawn)?;
    speaks.ns().ip("addr add 192.168.99.99/32 dev lo\n")?;
    shout(name, (Ipv4Addr::new(192, 168, 99, 99), 0).into(), to, "bad address")?;
    shout(name, (own, 0).into(), to, "good")?;
    wait::until_true("what is right", PATIENT, || !server.arrivals(b"good").is_empty())?;
    std::thread::sleep(Duration::from_millis(100));
    let bad = server.arrivals(b"bad");
    ensure!(bad.is_empty(), "{bad:?}");
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: a_pod_sends_as_itself, "rsp";
}
