//! Two hosts and an outsider on one wire, with one etcd: where the parts are put together.

mod changes;
mod waiting;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::etcd::Etcd;
use crate::etcd_cluster::Members;
use crate::host::{Flavour, Host};
use crate::matrix::Site;
use crate::netns::{Netns, Place};
use crate::pod::Pod;
use crate::run::Run;
use crate::server::Server;
use crate::tutorial::{self, DNS, HOSTS, HTTP, OTHER, PODS, PodSpec};
use crate::wait;

/// etcd's address, on the wire.
pub const ETCD: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 18, 1));
/// The outsider's address: on the wire, with no route to any pod.
pub const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(172, 18, 18, 250);
/// The outsider's address.
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x18, 0x18, 0, 0, 0, 0x250);

/// How long agents, BGP and policies may take until everything is as it should be.
pub const CONVERGENCE: Duration = Duration::from_secs(20);

/// The whole set-up. Fields are dropped in their order: what serves and runs before the namespaces
/// it runs in.
#[derive(Debug)]
pub struct Cluster {
    servers: BTreeMap<String, Server>,
    /// The pods that were made, by name.
    pub pods: BTreeMap<String, Pod>,
    /// `calico-01` and `calico-02`.
    pub hosts: Vec<Host>,
    /// The datastore.
    pub etcd: Etcd,
    /// Its members, where it has three.
    pub members: Option<Members>,
    outside: Netns,
    _wire: Netns,
    run: Run,
}

impl Cluster {
    /// Hosts, wire and a running etcd that is empty; no agent, no pod.
    ///
    /// # Errors
    /// Without root, or when a part cannot be made.
    pub fn new(label: &str) -> Result<Self> {
        let (run, wire) = begin(label)?;
        let mut etcd = Etcd::new(&run, &wire, ETCD);
        etcd.start()?;
        Self::around(run, wire, etcd, None)
    }

    /// The same, with hosts whose agents will use this dataplane.
    ///
    /// # Errors
    /// As [`Cluster::new`].
    pub fn on(label: &str, flavour: Flavour) -> Result<Self> {
        let mut cluster = Self::new(label)?;
        cluster.hosts.iter_mut().for_each(|host| host.flavour = flavour);
        Ok(cluster)
    }

    /// The same with an etcd of three members, each in a namespace of its own.
    ///
    /// # Errors
    /// As [`Cluster::new`].
    pub fn with_members(label: &str) -> Result<Self> {
        let (run, wire) = begin(label)?;
        let members = Members::start(&run, &wire)?;
        let etcd = Etcd::of(&wire, members.endpoints());
        Self::around(run, wire, etcd, Some(members))
    }

    fn around(run: Run, wire: Netns, etcd: Etcd, members: Option<Members>) -> Result<Self> {
        let hosts = HOSTS.iter().map(|spec| Host::new(&run, spec, etcd.endpoint()));
        let hosts = hosts.collect::<Result<Vec<_>>>()?;
        for host in &hosts {
            plug(&wire, host.spec.name, host.ns(), host.spec.v4, host.spec.v6)?;
        }
        let outside = Netns::new(&run, "outside")?;
        plug(&wire, "outside", &outside, OUTSIDE_V4, OUTSIDE_V6)?;
        let (servers, pods) = (BTreeMap::new(), BTreeMap::new());
        let cluster = Self { servers, pods, hosts, etcd, members, outside, _wire: wire, run };
        let mut cluster = cluster;
        let mut sites: Vec<Site> = cluster.hosts.iter().map(Host::site).collect();
        sites.push(cluster.outside_site());
        for site in &sites {
            cluster.serve(site)?;
        }
        Ok(cluster)
    }

    /// The tutorial: an agent and BIRD on each host, and its pods, connected by the plugin.
    ///
    /// # Errors
    /// When a part does not come up; carries the agents' logs.
    pub fn tutorial(label: &str, flavour: Flavour) -> Result<Self> {
        let mut cluster = Self::new(label)?;
        cluster.follow_the_tutorial(flavour)?;
        Ok(cluster)
    }

    /// As [`Cluster::tutorial`], in a cluster where nothing was done yet.
    ///
    /// # Errors
    /// When a part does not come up; carries the agents' logs.
    pub fn follow_the_tutorial(&mut self, flavour: Flavour) -> Result<()> {
        self.etcd.put_all(&tutorial::before_pods())?;
        self.start_agents(flavour)?;
        for pod in &PODS {
            self.add_pod(pod)?;
        }
        self.wait_until_programmed()
    }

    /// The name that all its namespaces begin with.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The outsider's namespace.
    pub fn outside(&self) -> &Netns {
        &self.outside
    }

    /// A host by name.
    ///
    /// # Errors
    /// When there is none.
    pub fn host(&mut self, name: &str) -> Result<&mut Host> {
        let host = self.hosts.iter_mut().find(|host| host.spec.name == name);
        host.with_context(|| format!("no host {name}"))
    }

    /// A pod by name.
    ///
    /// # Errors
    /// When it was not made.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods.get(name).with_context(|| format!("no pod {name}"))
    }

    /// What agents and BIRD would do, without any policy: the other side of a test that something
    /// is dropped.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn route_by_hand(&self) -> Result<()> {
        for host in &self.hosts {
            host.ns().sysctl("ipv4/ip_forward", "1")?;
            host.ns().sysctl("ipv6/conf/all/forwarding", "1")?;
            for pod in self.pods.values().map(|pod| pod.spec) {
                let (v4, v6, dev) = (pod.v4, pod.v6, pod.interface());
                let far = HOSTS.iter().find(|far| far.name == pod.host);
                let [to4, to6] = match far.filter(|far| far.name != host.spec.name) {
                    Some(far) => [format!("via {}", far.v4), format!("via {}", far.v6)],
                    None => [format!("dev {dev}"), format!("dev {dev}")],
                };
                host.ns().ip(&format!("route add {v4}/32 {to4}\nroute add {v6}/128 {to6}\n"))?;
            }
        }
        Ok(())
    }

    /// What serves at a site.
    ///
    /// # Errors
    /// When there is no such site.
    pub fn server(&self, site: &str) -> Result<&Server> {
        self.servers.get(site).with_context(|| format!("no server at {site}"))
    }

    /// Starts an agent on each host, and BIRD as soon as it has a configuration.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn start_agents(&mut self, flavour: Flavour) -> Result<()> {
        for host in &mut self.hosts {
            host.flavour = flavour;
            host.start_agent()?;
        }
        let mut result = Ok(());
        for host in &mut self.hosts {
            result = result.and_then(|()| host.start_bird(CONVERGENCE));
        }
        result.with_context(|| self.logs())
    }

    /// Runs a pod with the plugin, and serves in it. Its policy is in force then.
    ///
    /// # Errors
    /// When the plugin fails; carries the agents' logs.
    pub fn add_pod(&mut self, spec: &PodSpec) -> Result<()> {
        let host = self.hosts.iter().find(|host| host.spec.name == spec.host);
        let pod = Pod::run(&self.run, host.context("no such host")?, spec);
        let pod = pod.with_context(|| self.logs())?;
        self.name_ports(spec)?;
        self.serve(&pod.site())?;
        self.pods.insert(spec.name.to_owned(), pod);
        Ok(())
    }

    /// What an administrator does with `calicoctl`: rkt cannot tell a plugin the names of ports.
    fn name_ports(&self, spec: &PodSpec) -> Result<()> {
        let (key, value) = spec.endpoint().pair();
        let wanted: Value = serde_json::from_str(&value)?;
        if let Some(ports) = wanted["spec"].get("ports") {
            let stored = self.etcd.get(&key)?.with_context(|| format!("no {key}"))?;
            let mut stored: Value = serde_json::from_str(&stored)?;
            stored["spec"]["ports"] = ports.clone();
            self.etcd.put(&key, &stored.to_string())?;
        }
        Ok(())
    }

    /// Wires a pod by hand, serves in it, and writes its endpoint, in the CNI plugin's order.
    ///
    /// # Errors
    /// When the kernel or etcd refuses.
    pub fn place_pod(&mut self, spec: &PodSpec) -> Result<()> {
        self.wire_pod(spec)?;
        let (key, value) = spec.endpoint().pair();
        self.etcd.put(&key, &value)?;
        Ok(())
    }

    /// Only wires a pod by hand and serves in it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn wire_pod(&mut self, spec: &PodSpec) -> Result<()> {
        let host = self.hosts.iter().find(|host| host.spec.name == spec.host);
        let pod = Pod::create(&self.run, host.context("no such host")?, spec)?;
        self.serve(&pod.site())?;
        self.pods.insert(spec.name.to_owned(), pod);
        Ok(())
    }

    /// Stops what answers at a site.
    pub fn stop_server(&mut self, site: &str) {
        self.servers.remove(site);
    }

    /// Starts it again.
    ///
    /// # Errors
    /// When there is no such site, or its ports are taken.
    pub fn start_server(&mut self, site: &str) -> Result<()> {
        let all = self.sites();
        let found = all.iter().find(|one| one.name == site);
        self.serve(found.with_context(|| format!("no site {site}"))?)
    }

    /// The namespace of a site.
    ///
    /// # Errors
    /// When there is no such site.
    pub fn netns(&self, site: &str) -> Result<&Place> {
        let pod = self.pods.get(site).map(Pod::ns);
        let host = self.hosts.iter().find(|host| host.spec.name == site).map(|host| &**host.ns());
        let outside = (site == "outside").then_some(&*self.outside);
        pod.or(host).or(outside).with_context(|| format!("no site {site}"))
    }

    fn serve(&mut self, site: &Site) -> Result<()> {
        let addresses = [site.v4.into(), site.v6.into()];
        // A program that another test starts just now may still hold the sockets that were closed.
        let server = wait::until("free ports", Duration::from_secs(5), || {
            Server::start(&site.netns, &addresses, &[HTTP, OTHER], &[DNS]).map(Some)
        })?;
        self.servers.insert(site.name.clone(), server);
        Ok(())
    }

    /// Everything that asks and answers.
    pub fn sites(&self) -> Vec<Site> {
        let pods = self.pods.values().map(Pod::site);
        pods.chain(self.hosts.iter().map(Host::site)).chain([self.outside_site()]).collect()
    }

    fn outside_site(&self) -> Site {
        let (name, netns) = ("outside".to_owned(), self.outside.name().to_owned());
        Site { name, netns, v4: OUTSIDE_V4, v6: OUTSIDE_V6 }
    }

    /// The last lines of all agents and BIRDs.
    pub fn logs(&self) -> String {
        self.hosts.iter().map(Host::logs).collect()
    }

    /// Leaves everything running when this value goes.
    ///
    /// # Errors
    /// When the run cannot be marked.
    pub fn keep(&mut self) -> Result<()> {
        self.run.keep()?;
        self.etcd.keep();
        self.hosts.iter_mut().for_each(Host::keep);
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprint_logs(&self.logs());
        }
    }
}

#[expect(clippy::print_stderr, reason = "what a failed test leaves behind")]
fn eprint_logs(logs: &str) {
    eprintln!("{logs}");
}

/// A run with its wire: a bridge in a namespace.
fn begin(label: &str) -> Result<(Run, Netns)> {
    let run = Run::new(label)?;
    let wire = Netns::new(&run, "wire")?;
    wire.ip(&format!(
        "link add wire type bridge\n\
         link set wire up\n\
         addr add {ETCD}/24 dev wire\n"
    ))?;
    Ok((run, wire))
}

/// A cable from the bridge to `eth0` of a namespace.
pub(crate) fn plug(wire: &Netns, port: &str, ns: &Netns, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<()> {
    wire.ip(&format!(
        "link add {port} type veth peer name eth0 netns {}\n\
         link set {port} master wire up\n",
        ns.name()
    ))?;
    ns.ip(&format!(
        "link set eth0 up\n\
         addr add {v4}/24 dev eth0\n\
         addr add {v6}/64 dev eth0 nodad\n"
    ))
}
