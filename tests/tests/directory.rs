//! A host by itself: no etcd anywhere, policy from files of the administrator, endpoints from the
//! files that the plugin writes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
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
    v4: std::net::Ipv4Addr::new(192, 168, 0, 2),
    v6: std::net::Ipv6Addr::new(0xfd80, 0x24e2, 0xf998, 0x72d6, 0, 0, 0, 2),
    mac: "ca:fe:1d:52:bb:e5",
    ..PODS[0]
};

/// Every profile allows everything, so what does not pass was denied by a policy.
fn profiles() -> String {
    let one = |name: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata: {{name: {name}}}\nspec:\n  \
             ingress: [{{action: Allow}}]\n  egress: [{{action: Allow}}]\n"
        )
    };
    ["frontend", "backend", "stranger"].map(one).join("---\n")
}

/// Lets `role` in to the port of the backend.
fn policy(role: &str) -> String {
    format!(
        "# Who may talk to the backend.\napiVersion: projectcalico.org/v3\nkind: \
         GlobalNetworkPolicy\nmetadata:\n  name: backend\nspec:\n  selector: role == 'backend'\n  \
         ingress:\n  - action: Allow\n    protocol: TCP\n    source:\n      selector: role == \
         '{role}'\n    destination:\n      ports: [{HTTP}]\n"
    )
}

struct World {
    _servers: Vec<Server>,
    frontend: Pod,
    backend: Pod,
    stranger: Pod,
    host: Host,
    admin: PathBuf,
    _run: Run,
}

impl World {
    fn new(label: &str, flavour: Flavour) -> Result<Self> {
        let run = Run::new(label)?;
        let admin = run.dir().join(HOSTS[0].name).join("etc/resources");
        let mut host = Host::new(&run, &HOSTS[0], &format!("dir:{}", admin.display()))?;
        host.flavour = flavour;
        std::fs::create_dir_all(&admin)?;
        // The address that it registers with; nobody else is on this wire.
        host.ns().ip(&format!(
            "link add eth0 type veth peer name nobody\nlink set eth0 up\nlink set nobody up\n\
             addr add {}/24 dev eth0\n",
            HOSTS[0].v4
        ))?;
        let [frontend, backend, stranger] = [&PODS[0], &PODS[1], &STRANGER];
        let frontend = Pod::create(&run, &host, frontend)?;
        let backend = Pod::create(&run, &host, backend)?;
        let stranger = Pod::create(&run, &host, stranger)?;
        let serve = |pod: &Pod| {
            let addresses = [pod.spec.v4.into(), pod.spec.v6.into()];
            Server::start(pod.ns().name(), &addresses, &[HTTP, OTHER], &[])
        };
        let servers = vec![serve(&backend)?, serve(&frontend)?];
        Ok(Self { _servers: servers, frontend, backend, stranger, host, admin, _run: run })
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        std::fs::write(self.admin.join(name), text).with_context(|| name.to_owned())
    }

    /// An endpoint as the plugin leaves it.
    fn add_endpoint(&self, pod: &PodSpec) -> Result<()> {
        let (key, value) = pod.endpoint().pair();
        let (_, rest) = key.split_once("projectcalico.org/").context("no resource")?;
        let path = self.host.state_dir().join("resources").join(format!("{rest}.json"));
        std::fs::create_dir_all(path.parent().context("no parent")?)?;
        let new = self.host.state_dir().join("resources/.new");
        std::fs::write(&new, value)?;
        std::fs::rename(&new, &path)?;
        Ok(())
    }

    /// Waits until the backend is reached at its port by one and not by the other, over both
    /// families; at its other port by nobody. The way back is always open.
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
        let back = self.frontend.spec.v4.into();
        let answer = ask_from(closed, back, Service::Tcp(OTHER), PATIENT)?;
        ensure!(answer.reached(), "{what}: nothing governs the frontend, and {answer:?}");
        Ok(())
    }

    /// Waits until `status` is ready, or degraded and names this.
    fn wait_for_status(&self, named: Option<&str>) -> Result<String> {
        let what = format!("status that says {named:?}");
        let text = wait::until(&what, LIMIT, || {
            let (status, text) = (self.host.status()?, self.host.status_text()?);
            let right = match named {
                None => status.is_ready() && status.rejected().is_empty(),
                Some(named) => status.is_degraded() && text.contains(named),
            };
            Ok(right.then_some(text))
        })
        .with_context(|| {
            format!("{}\n{}", self.host.status_text().unwrap_or_default(), self.host.logs())
        })?;
        self.host.read_back()?;
        Ok(text)
    }
}

fn a_host_without_etcd(label: &str, flavour: Flavour) -> Result<()> {
    let mut world = World::new(label, flavour)?;
    world.write("10-profiles.yaml", &profiles())?;
    world.write("20-policy.yaml", &policy("frontend"))?;
    world.host.start_agent()?;
    world.host.start_bird(LIMIT)?;
    for pod in [&PODS[0], &PODS[1], &STRANGER] {
        world.add_endpoint(pod)?;
    }
    world.expect("the policy", &world.frontend, &world.stranger)?;
    let text = world.wait_for_status(None)?;
    let place = format!("in sync with directory {}", world.admin.display());
    ensure!(text.contains(&place) && !text.contains("etcd"), "{text}");
    let node = world.host.state_dir().join("resources/nodes/calico-01.json");
    ensure!(node.exists(), "not registered");
    // Beside a running agent nothing is left to do, and every file is well.
    let plan = world.host.command("plan", &[])?.output()?;
    ensure!(plan.status.code() == Some(0), "plan: {}{}", plan.stdout, plan.stderr);
    let check = world.host.command("check", &[])?.output()?;
    let file = world.admin.join("20-policy.yaml").display().to_string();
    ensure!(check.stdout.contains(&file) && check.stdout.contains("objects"), "{}", check.stdout);

    // A mistake: what was said before is in force, and the file is named with the place.
    let broken = policy("stranger").replace("action: Allow", "action: Alow");
    world.write("20-policy.yaml", &broken)?;
    let text = world.wait_for_status(Some("20-policy.yaml"))?;
    ensure!(text.contains("document 1 (line 2): spec.ingress[0].action"), "{text}");
    world.expect("the policy of before", &world.frontend, &world.stranger)?;
    let check = world.host.command("check", &[])?.output()?;
    ensure!(check.stdout.contains("spec.ingress[0].action"), "{}", check.stdout);
    world.write("20-policy.yaml", &policy("stranger"))?;
    world.expect("the repaired policy", &world.stranger, &world.frontend)?;
    world.wait_for_status(None)?;

    // A restart finds everything again, and a file that goes takes its policy with it.
    world.host.stop_agent()?;
    world.expect("without an agent", &world.stranger, &world.frontend)?;
    world.host.start_agent()?;
    world.wait_for_status(None)?;
    world.expect("after the restart", &world.stranger, &world.frontend)?;
    std::fs::remove_file(world.admin.join("20-policy.yaml"))?;
    let (from, to) = (world.frontend.ns().name(), world.backend.spec.v4.into());
    wait::until("a way without the policy", LIMIT, || {
        Ok(ask_from(from, to, Service::Tcp(OTHER), PATIENT)?.reached().then_some(()))
    })?;
    world.host.stop_bird()?;
    world.host.stop_agent()
}

calico_e2e::on_each_dataplane! {
    full: a_host_without_etcd, "dir";
}

fn what_the_administrator_has_in_a_file_is_not_registered_over(
    label: &str,
    flavour: Flavour,
) -> Result<()> {
    let mut world = World::new(label, flavour)?;
    let node = |address: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {{name: calico-01, labels: \
             {{rack: r1}}}}\nspec: {{bgp: {{ipv4Address: {address}}}}}\n"
        )
    };
    world.write("node.yaml", &node("10.9.9.9/24"))?;
    world.host.start_agent()?;
    let text = world.wait_for_status(Some("node.yaml is only read"))?;
    ensure!(text.contains("172.18.18.101/24"), "what is missing there is not told: {text}");
    ensure!(text.contains("registered with"), "{text}");
    let log = std::fs::read_to_string(world.host.agent_log())?;
    ensure!(!log.contains("not registered"), "{log}");
    // Without the directory nothing is known, and nothing goes.
    let aside = world.admin.with_extension("aside");
    std::fs::rename(&world.admin, &aside)?;
    wait::until("status that waits", LIMIT, || {
        Ok(world.host.status_text()?.contains("waiting: cannot read").then_some(()))
    })?;
    std::fs::rename(&aside, &world.admin)?;
    world.wait_for_status(Some("node.yaml is only read"))?;
    world.host.stop_agent()
}

calico_e2e::on_each_dataplane! {
    full: what_the_administrator_has_in_a_file_is_not_registered_over, "dia";
}
