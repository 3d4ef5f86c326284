//! `calico-agent check`: what this host lacks, before the agent ever ran or beside a running one.
//!
//! It tries what the agent really does instead of looking for the names of modules: in a network
//! namespace of its own, which is gone afterwards. On the host itself it only reads.
//!
//! [`probe`] collects facts and judges nothing, [`judge`] makes findings of facts and does no I/O,
//! [`finding`] prints them. [`features`] is the list of what our rules need.

pub mod features;
pub mod finding;
pub mod judge;
pub mod probe;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use calico_datastore::location::Location;
use calico_datastore::model::{Family, Name};

use self::finding::Finding;
use self::judge::agents::AgentFacts;
use self::judge::config::ConfigFacts;
use self::judge::firewall::FirewallFacts;
use self::judge::interfaces::InterfaceFacts;
use self::probe::kernel::Request;
use crate::api::client;
use crate::beside::{Bgp, read, watch};
use crate::cli::RunArgs;
use crate::config::{AddressChoice, Env, FileConfig, Local, NodeConfig, Settings};
use crate::exec::Exec;
use crate::felix::Flavour;
use crate::node::addresses::host_addresses;
use crate::paths::Paths;
use crate::preview::snapshot;
use crate::routes::defaults;
use crate::routes::monitor::{Links, Monitor};
use crate::startup;
use crate::status::document::Overall;
use crate::status::systemd::Heartbeat;

/// The longest that one program may take.
const PROGRAM_LIMIT: Duration = Duration::from_secs(5);
/// The longest that one snapshot of the datastore is waited for.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(5);
/// The file that legacy iptables locks unless its environment names another.
const XTABLES_LOCK: &str = "/run/xtables.lock";

/// Looks at everything and says what was found, in the order of [`finding::Group`]. Never fails: what cannot
/// be looked at is a finding.
pub async fn check(args: &RunArgs, env: Env) -> Vec<Finding> {
    let (paths, flags) = (args.paths(), args.flags());
    let mut config =
        ConfigFacts { path: paths.agent_toml().display().to_string(), ..ConfigFacts::default() };
    config.present = paths.agent_toml().exists();
    let file = FileConfig::load(&paths.agent_toml()).unwrap_or_else(|error| {
        config.file = judge::config::mistakes_of(&error);
        FileConfig::default()
    });
    config.local = judge::config::local_mistakes(&flags, &env, &file);
    let local = Local::resolve(&flags, &env, &file).ok();
    let layers = startup::layers(&paths, env.clone(), file);
    let resolution = layers.resolve(None, None, None);
    config.settings.clone_from(&resolution.problems);
    config.ignored = resolution.ignored.iter().cloned().collect();

    let proc = Path::new("/proc");
    let proc_sys = proc.join("sys");
    // Read once, with the datastore's settings where it can be had: they change what is judged.
    let node = local.as_ref().map(|local| probe::host::node(&local.node, &paths));
    let name = node.as_ref().and_then(|facts| Some(facts.name.as_ref().ok()?.0.clone()));
    let location = local.as_ref().map(|local| local.datastore.clone().below(&paths.state_dir));
    // Not waited for where nobody answers, or where there is nothing to be read yet.
    let (store, answers) = match &location {
        Some(location) => look_at_store(location).await,
        None => (Vec::new(), false),
    };
    let read = match (&location, name) {
        (Some(location), Some(name)) if answers => read_store(location, name, layers).await,
        _ => None,
    };
    let (settings, owned, bgp) = match read {
        Some((settings, owned, bgp)) => (settings, Some(owned), Some(bgp)),
        None => (resolution.settings, None, None),
    };
    let host = Host { paths, proc: proc.to_owned(), proc_sys, settings };
    let mut found = judge::config::judge(&config);
    let etcd = location.as_ref().map_or(&[][..], Location::servers);
    found.extend(judge::failsafe::judge(&host.settings, etcd));
    found.extend(node.iter().flat_map(judge::node::judge));
    let addresses = host_addresses().await.ok();
    let present: Option<Vec<IpAddr>> =
        addresses.as_ref().map(|all| all.iter().map(|own| own.address).collect());
    let given = local.iter().flat_map(|local| given_addresses(&local.node)).collect::<Vec<_>>();
    found.extend(judge::node::judge_addresses(&given, present.as_deref()));
    let root = Path::new("/");
    let mut cni = probe::cni::probe(root, &addresses.unwrap_or_default());
    cni.store = location;
    found.extend(judge::cni::judge(&cni));
    found.extend(host.look(&env, owned, bgp).await);
    found.extend(store);
    found.extend(judge::systemd::judge_clock(
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
    ));
    found.sort_by_key(|finding: &Finding| finding.group);
    found
}

/// The addresses that were said to be this host's, and by which variable.
fn given_addresses(node: &NodeConfig) -> impl Iterator<Item = (&'static str, IpAddr)> {
    let choices = [("IP", node.ip), ("IP6", node.ip6)];
    choices.into_iter().filter_map(|(variable, choice)| match choice {
        AddressChoice::Fixed(address, _) => Some((variable, address)),
        AddressChoice::Stored | AddressChoice::Detect | AddressChoice::Absent => None,
    })
}

/// What is wrong with the datastore, and whether it can be read.
async fn look_at_store(location: &Location) -> (Vec<Finding>, bool) {
    match location {
        Location::Etcd3(config) => {
            let (members, problem) = probe::etcd::probe(config).await;
            let is_ready = |member: &judge::etcd::Member| {
                member.answer.as_ref().is_ok_and(|answer| answer.ready == Some(true))
            };
            let found = judge::etcd::judge(&members, problem.as_deref());
            (found, members.iter().any(is_ready))
        }
        Location::Etcd2(config) => {
            let (members, problem) = probe::etcd2::probe(config).await;
            let is_ready = |member: &judge::etcd::Member| {
                member.answer.as_ref().is_ok_and(|answer| answer.ready == Some(true))
            };
            let found = judge::etcd::judge(&members, problem.as_deref());
            (found, members.iter().any(is_ready))
        }
        Location::Directory(config) => {
            let facts = probe::directory::probe(config).await;
            (judge::directory::judge(&facts), facts.is_readable())
        }
    }
}

/// The settings in force, the interfaces that endpoints of this host name, and from where BGP comes.
async fn read_store(
    location: &Location,
    node: Name,
    layers: crate::calculation::Layers,
) -> Option<(Settings, BTreeSet<String>, Bgp)> {
    let read = snapshot::read(location, node, layers, SNAPSHOT_LIMIT).await;
    let desired = read.ok()?.desired;
    let names = desired.endpoints.values().map(|endpoint| endpoint.interface.to_string());
    Some((Settings::clone(&desired.settings), names.collect(), Bgp::of(&desired.bgp)))
}

/// Where to look.
struct Host {
    paths: Paths,
    proc: PathBuf,
    proc_sys: PathBuf,
    settings: Settings,
}

impl Host {
    /// Everything that does not depend on how the configuration is spelled, at once.
    async fn look(
        &self,
        env: &Env,
        owned: Option<BTreeSet<String>>,
        bgp: Option<Bgp>,
    ) -> Vec<Finding> {
        let exec = Exec::new(PROGRAM_LIMIT);
        let ipv6 = self.settings.ipv6 && probe::host::knows_ipv6(&self.proc_sys);
        let booted = Path::new("/run/systemd/system").is_dir();
        let tools = async {
            let (programs, dataplane) = probe::tools::programs(&exec, &self.settings, ipv6).await;
            let families = if ipv6 { Family::ALL.to_vec() } else { vec![Family::V4] };
            let kernel = probe::kernel::probe(Request {
                exec: exec.clone(),
                dataplane: dataplane.clone(),
                nftables: programs.nftables.is_some(),
                families,
                settings: self.settings.clone(),
                proc_sys: self.proc_sys.clone(),
            })
            .await;
            (programs, dataplane, kernel)
        };
        let ((programs, dataplane, kernel), saves, nft, units, bird, links, state) = tokio::join!(
            tools,
            read::saves(&exec, ipv6),
            read::nft(&exec),
            probe::tools::systemd(&exec, booted),
            probe::bird::probe(&self.paths, &self.proc),
            self.links(),
            self.state(),
        );
        let chosen = dataplane.map(|dataplane| dataplane.flavour);
        let lock = (chosen == Some(Flavour::Legacy))
            .then(|| PathBuf::from(env.get("XTABLES_LOCKFILE").unwrap_or(XTABLES_LOCK)));
        let rights = probe::host::rights(&self.paths, &self.proc, lock.as_deref());

        let mut found = judge::rights::judge(&rights);
        found.extend(judge::programs::judge(&programs));
        // Without the right everything is refused, and the kernel is not to blame.
        if rights.may_administer() {
            found.extend(judge::kernel::judge(&kernel));
        }
        found.extend(judge::sysctls::judge(&probe::host::sysctls(&self.proc_sys, &self.settings)));
        let prefixes = &self.settings.interface_prefixes;
        let like_a_pod =
            |name: &&str| prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
        let defaults = defaults::interfaces().await.unwrap_or_default();
        found.extend(judge::firewall::judge(&FirewallFacts {
            chosen,
            nftables: programs.nftables.is_some(),
            insert_mode: self.settings.insert_mode,
            allow: self.settings.filter_allow,
            saves,
            nft,
            bgp: match (bird.all_established(), bgp) {
                (true, _) => Bgp::Works,
                (false, Some(bgp)) => bgp,
                (false, None) => Bgp::Somewhere,
            },
            prefixes: prefixes.clone(),
            uplinks: watch::uplinks(&links, &defaults, |name| like_a_pod(&name)),
            pods: watch::sample(None, ipv6),
        }));
        let root = Path::new("/");
        found.extend(judge::interfaces::judge(&InterfaceFacts {
            present: links
                .keys()
                .map(|name| name.as_str())
                .filter(like_a_pod)
                .map(str::to_owned)
                .collect(),
            owned,
            network_manager: probe::managers::network_manager(root, prefixes),
            networkd: probe::managers::networkd(root, prefixes),
        }));
        let (ours, originals) = probe::host::processes(&self.proc);
        let run_dir = self.paths.run_dir.display().to_string();
        found.extend(judge::agents::judge(&AgentFacts { run_dir, ours, originals, state }));
        found.extend(judge::bird::judge(&bird));
        found.extend(judge::systemd::judge(&units));
        found
    }

    async fn links(&self) -> Links {
        match Monitor::start(self.settings.interface_prefixes.clone(), Heartbeat::unasked()).await {
            Ok((monitor, _)) => monitor.links.borrow().clone(),
            Err(_) => Links::new(),
        }
    }

    /// What a running agent says of itself.
    async fn state(&self) -> Option<String> {
        let status = client::status(&self.paths.api_socket()).await.ok()?;
        Some(match status.state {
            Overall::Ready => "ready".to_owned(),
            Overall::Starting => "starting".to_owned(),
            Overall::Degraded => "degraded".to_owned(),
        })
    }
}
