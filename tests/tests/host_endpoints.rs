//! What docs/host-endpoints.md tells people to write, on a host with three machines around it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::host::{Flavour, Host};
use calico_e2e::netns::Netns;
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from};
use calico_e2e::run::Run;
use calico_e2e::server::Server;
use calico_e2e::tutorial::HOSTS;
use calico_e2e::wait;

const LIMIT: Duration = Duration::from_secs(30);

/// What the policy of the page opens, what it does not, and SSH.
const PORTS: [u16; 3] = [9100, 9101, 22];
const ALL: &[u16] = &PORTS;
const NONE: &[u16] = &[];

/// The blocks of the page in YAML.
fn blocks() -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/host-endpoints.md");
    let text = std::fs::read_to_string(path)?;
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let blocks: Vec<String> = blocks.map(str::to_owned).collect();
    ensure!(blocks.len() == 2, "{} blocks", blocks.len());
    Ok(blocks)
}

struct World {
    _servers: Vec<Server>,
    machines: Vec<(&'static str, Netns)>,
    host: Host,
    admin: PathBuf,
    _run: Run,
}

impl World {
    /// The host, and machines at the addresses of the page: monitoring, one that is blocked, another.
    fn new(label: &str, flavour: Flavour) -> Result<Self> {
        let run = Run::new(label)?;
        let admin = run.dir().join(HOSTS[0].name).join("etc/resources");
        let mut host = Host::new(&run, &HOSTS[0], &format!("dir:{}", admin.display()))?;
        host.flavour = flavour;
        std::fs::create_dir_all(&admin)?;
        let (v4, v6) = (HOSTS[0].v4, HOSTS[0].v6);
        host.ns().ip(&format!(
            "link add eth0 type bridge\nlink set eth0 up\naddr add {v4}/24 dev eth0\n\
             addr add {v6}/64 dev eth0 nodad\n"
        ))?;
        let mut machines = Vec::new();
        for (name, last) in [("monitoring", 102), ("blocked", 103), ("other", 104)] {
            let ns = Netns::new(&run, name)?;
            let (v4, v6) = addresses(last);
            ns.ip(&format!(
                "link add eth0 type veth peer name {name} netns {}\nlink set eth0 up\n\
                 addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\n",
                host.ns().name()
            ))?;
            host.ns().ip(&format!("link set {name} master eth0 up\n"))?;
            machines.push((name, ns));
        }
        let own = [v4.into(), v6.into()];
        let mut servers = vec![Server::start(host.ns().name(), &own, &PORTS, &[])?];
        let (_, other) = &machines[2];
        let (v4, v6) = addresses(104);
        servers.push(Server::start(other.name(), &[v4.into(), v6.into()], &PORTS, &[])?);
        Ok(Self { _servers: servers, machines, host, admin, _run: run })
    }

    fn machine(&self, name: &str) -> Result<&str> {
        let found = self.machines.iter().find(|(machine, _)| *machine == name);
        Ok(found.context("no such machine")?.1.name())
    }

    fn reaches(from: &str, to: IpAddr) -> Result<Vec<u16>> {
        let mut open = Vec::new();
        for port in PORTS {
            match ask_from(from, to, Service::Tcp(port), BRIEF)? {
                Answer::Reached(_) => open.push(port),
                Answer::Silence => {}
                other => anyhow::bail!("{port} of {to}: {other:?}"),
            }
        }
        Ok(open)
    }

    /// Which ports of the host each machine reaches, over IPv4 and over IPv6.
    fn expect(&self, what: &str, expected: [(&str, &[u16], &[u16]); 3]) -> Result<()> {
        let (v4, v6) = (HOSTS[0].v4.into(), HOSTS[0].v6.into());
        wait::until(what, LIMIT, || {
            for (name, over_v4, over_v6) in expected {
                let machine = self.machine(name)?;
                for (to, wanted) in [(v4, over_v4), (v6, over_v6)] {
                    let open = Self::reaches(machine, to)?;
                    ensure!(open == wanted, "{name} reaches {open:?} of {to}, not {wanted:?}");
                }
            }
            Ok(Some(()))
        })
        .with_context(|| self.told())
    }

    fn told(&self) -> String {
        format!("{}\n{}", self.host.status_text().unwrap_or_default(), self.host.logs())
    }

    fn status_says(&self, text: &str) -> Result<()> {
        wait::until(&format!("status that says {text:?}"), LIMIT, || {
            Ok(self.host.status_text()?.contains(text).then_some(()))
        })
        .with_context(|| self.told())
    }

    fn rules(&self) -> Result<String> {
        self.host.read_back()?;
        if self.host.flavour.is_nftables() {
            let list = ["list", "table", "inet", "calico"];
            return self.host.ns().command("nft").args(list).run();
        }
        let flavour = self.host.flavour.iptables();
        let mut all = String::new();
        for tool in ["iptables", "ip6tables"] {
            let save = format!("{tool}-{flavour}-save");
            all += &self.host.ns().command(save).run()?;
        }
        Ok(all)
    }
}

fn addresses(last: u8) -> (Ipv4Addr, Ipv6Addr) {
    let mut v6 = HOSTS[0].v6.segments();
    v6[7] = u16::from(last);
    (Ipv4Addr::new(172, 18, 18, last), v6.into())
}

fn the_page_about_host_endpoints(label: &str, flavour: Flavour) -> Result<()> {
    let mut world = World::new(label, flavour)?;
    let blocks = blocks()?;
    let put = |world: &World, name: &str, text: &str| std::fs::write(world.admin.join(name), text);
    world.host.start_agent()?;
    let open = [("monitoring", ALL, ALL), ("blocked", ALL, ALL), ("other", ALL, ALL)];
    world.expect("a host that nobody protects", open)?;

    put(&world, "hosts.yaml", &blocks[0])?;
    // SSH is fail-safe; the policy opens a port to one address, of IPv4.
    world.expect(
        "the policy of the host",
        [("monitoring", &[9100, 22], &[22]), ("blocked", &[22], &[22]), ("other", &[22], &[22])],
    )?;
    world.status_says("calico-01-eth0")?;
    // No BIRD runs here, which is all that is wrong.
    let problems = world.host.status()?.problems().join("\n");
    ensure!(!problems.contains("HostEndpoint"), "{problems}");
    let (v4, v6) = addresses(104);
    for to in [IpAddr::from(v4), v6.into()] {
        let open = World::reaches(world.host.ns().name(), to)?;
        ensure!(open == PORTS, "the host may go out everywhere, and reaches {open:?} of {to}");
    }
    let echo =
        |name: &str| ask_from(world.machine(name)?, HOSTS[0].v4.into(), Service::Icmp, PATIENT);
    ensure!(echo("other")?.reached(), "ICMP is allowed");

    // Not even what is allowed behind it, but for SSH.
    put(&world, "blocked.yaml", &blocks[1])?;
    let text = blocks[0].replace("172.18.18.102/32", "172.18.18.0/24");
    put(&world, "hosts.yaml", &text)?;
    world.expect(
        "the policy that does not track",
        [
            ("monitoring", &[9100, 22], &[22]),
            ("blocked", &[22], &[22]),
            ("other", &[9100, 22], &[22]),
        ],
    )?;
    ensure!(
        ask_from(world.machine("blocked")?, HOSTS[0].v4.into(), Service::Icmp, BRIEF)?
            == Answer::Silence
    );
    let rules = world.rules()?;
    // What leads to the endpoint, and its policies.
    let ours = match flavour {
        Flavour::Nftables => {
            ["chain from-host-eth0 ", "chain to-host-eth0 ", "host-pi-", "host-po-"]
        }
        _ => ["cali-from-host-endpoint", "cali-to-host-endpoint", "cali-pi-", "cali-po-"],
    };
    ensure!(ours.iter().all(|name| rules.contains(name)), "{rules}");

    // Without fail-safe ports SSH is a port like others. Nothing here needs etcd or BGP.
    let settings = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata:\n  \
                    name: default\nspec:\n  failsafeInboundHostPorts: []\n";
    put(&world, "felix.yaml", settings)?;
    world.expect(
        "no fail-safe port",
        [("monitoring", &[9100], NONE), ("blocked", NONE, NONE), ("other", &[9100], NONE)],
    )?;

    // The endpoint alone goes: the host is as open as it was, and nothing of it is left.
    let (policy, _) = text.split_once("---").context("one document")?;
    put(&world, "hosts.yaml", policy)?;
    world.expect("the endpoint is gone", open)?;
    let rules = world.rules()?;
    for name in ours {
        ensure!(
            !rules.contains(name),
            "{name} is left:
{rules}"
        );
    }
    Ok(())
}

calico_e2e::on_each_dataplane! {
    smoke: the_page_about_host_endpoints, "hep";
}
