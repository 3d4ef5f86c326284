//! What the runtimes of this host need to make pods with our plugin: its programs, and network
//! configurations that make sense here.

use calico_datastore::location::{Location, without_credentials};
use calico_datastore::model::Cidr;

use crate::check::finding::{Finding, Findings, Group};

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniFacts {
    /// The runtimes that have a directory of network configurations.
    pub runtimes: Vec<Runtime>,
    /// Network configurations of ours, and files that may be some.
    pub networks: Vec<NetworkFile>,
    /// The networks that this host's interfaces are in. Loopback, link-local networks and single
    /// addresses are none.
    pub host: Vec<Cidr>,
    /// The datastore that the agent uses; `None`: not known.
    pub store: Option<Location>,
}

/// A kind of runtime: rkt, or another one that follows CNI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Where it looks for network configurations.
    pub networks: String,
    /// Where it looks for plugins; the first is where ours belong.
    pub plugins: Vec<String>,
    /// Those of [`PROGRAMS`] that are in none of `plugins`, or cannot be executed there.
    pub missing: Vec<&'static str>,
}

/// The programs of our plugin, as network configurations name them (`type`).
pub const PROGRAMS: [&str; 2] = ["calico", "calico-ipam"];

/// A file of network configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkFile {
    /// The file.
    pub path: String,
    /// What it says, or why that is no JSON.
    pub content: Result<Network, String>,
}

/// What a network configuration of ours says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// `name`.
    pub name: Option<String>,
    /// `ipam.subnet`, from which the pool is made.
    pub subnet: Option<String>,
    /// The datastore that the plugin uses for it when its environment says nothing, or what it
    /// answers instead.
    pub store: Option<Result<Location, String>>,
}

/// Judges them.
pub fn judge(facts: &CniFacts) -> Vec<Finding> {
    let mut out = Findings::of(Group::Cni);
    for runtime in &facts.runtimes {
        let place = runtime.plugins.first().map_or("", String::as_str);
        if runtime.missing.is_empty() {
            out.ok("plugin", format!("{} find it", runtime.networks));
        } else {
            out.warn(
                "plugin",
                format!(
                    "{} is not in {}: networks of type calico in {} do not work",
                    runtime.missing.join(" and "),
                    runtime.plugins.join(" or "),
                    runtime.networks,
                ),
                format!("put the programs into {place} (`make install` does)"),
            );
        }
    }
    for file in &facts.networks {
        match &file.content {
            Err(error) => out.warn(
                &file.path,
                format!("is no JSON: {error}"),
                "correct it; rkt starts no pod while a file in its directory is like that",
            ),
            Ok(network) => {
                judge_network(&file.path, network, &facts.host, &mut out);
                judge_store(&file.path, network, facts.store.as_ref(), &mut out);
            }
        }
    }
    out.done()
}

fn judge_network(path: &str, network: &Network, host: &[Cidr], out: &mut Findings) {
    let Some(name) = network.name.as_deref().filter(|name| !name.is_empty()) else {
        return out.warn(path, "has no name", "give the network a `name`: it is its profile's");
    };
    let Some(subnet) = &network.subnet else {
        return out.ok(path, format!("network {name}"));
    };
    let Ok(net) = subnet.parse::<Cidr>() else {
        return out.warn(
            path,
            format!("ipam.subnet {subnet:?} is no prefix"),
            "write it as 192.168.0.0/16, or leave it out where there are pools",
        );
    };
    match host.iter().find(|own| own.covers(&net) || net.covers(own)) {
        Some(own) => out.warn(
            path,
            format!("ipam.subnet {net} overlaps {own}, which this host's own interface is in: pods would get addresses of that network"),
            "choose a prefix that nothing else here uses",
        ),
        None => out.ok(path, format!("network {name}, pods from {net}")),
    }
}

/// Agent and plugin ask their sources in another order: the environment of the agent's unit goes before
/// `agent.toml`, and the plugin, which a runtime starts, does not even have it.
fn judge_store(path: &str, network: &Network, agent: Option<&Location>, out: &mut Findings) {
    // Without a name there is a finding already.
    let Some(store) = network.store.as_ref().filter(|_| network.name.is_some()) else { return };
    let plugin = match store {
        Ok(plugin) => plugin,
        Err(said) => {
            return out.warn(path, format!("the plugin refuses it: {said}"), "correct it");
        }
    };
    let Some(agent) = agent else { return };
    let then = match compare(agent, plugin) {
        Sameness::Same => return,
        Sameness::Unknown => {
            ", and no member is in both: unless these are members of one cluster, an ADD waits for its policy in vain"
        }
        Sameness::Different => ": an ADD waits for its policy in vain",
    };
    out.warn(
        path,
        format!(
            "the plugin writes its pods to {}, and the agent reads {}{then}",
            plugin.describe(),
            agent.describe()
        ),
        "say it once, under [datastore] in agent.toml, and nowhere else: ETCD_… and CALICO_DATASTORE of the agent's environment are not the plugin's, and what the network's configuration says goes before agent.toml",
    );
}

/// Whether two locations are the same store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sameness {
    Same,
    Different,
    /// Nothing they say tells.
    Unknown,
}

/// Of etcd each may know other members of a cluster, or the same ones by other names: one that both
/// know is enough, and without one nothing is certain, unless one of them is always this host itself.
fn compare(one: &Location, other: &Location) -> Sameness {
    let certain = |same| if same { Sameness::Same } else { Sameness::Different };
    match (one, other) {
        (Location::Etcd3(one), Location::Etcd3(other))
        | (Location::Etcd2(one), Location::Etcd2(other)) => {
            let [one, other] = [one, other]
                .map(|etcd| etcd.endpoints.iter().map(|url| member(url)).collect::<Vec<String>>());
            let local = |members: &[String]| members.iter().all(|member| is_loopback(member));
            if one.iter().any(|member| other.contains(member)) {
                Sameness::Same
            } else if local(&one) || local(&other) {
                Sameness::Different
            } else {
                Sameness::Unknown
            }
        }
        (Location::Directory(one), Location::Directory(other)) => certain(one == other),
        // The two APIs of one etcd are two stores.
        (Location::Etcd3(_), Location::Directory(_) | Location::Etcd2(_))
        | (Location::Etcd2(_), Location::Directory(_) | Location::Etcd3(_))
        | (Location::Directory(_), Location::Etcd3(_) | Location::Etcd2(_)) => Sameness::Different,
    }
}

/// Whether a [`member`] is this host, whichever host that is.
fn is_loopback(member: &str) -> bool {
    member.starts_with("127.") || member.starts_with("[::1]")
}

/// Host and port of a URL: how it is spoken to is another question.
fn member(url: &str) -> String {
    let url = without_credentials(url.trim_end_matches('/'));
    let address = url.split_once("://").map_or(url, |(_, address)| address);
    address.replacen("localhost:", "127.0.0.1:", 1).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use calico_datastore::backend::directory::DirectoryConfig;
    use calico_datastore::backend::etcd3::Etcd3Config;

    use super::*;
    use crate::check::finding::{Level, worst};

    fn runtime(missing: &[&'static str]) -> Runtime {
        Runtime {
            networks: "/etc/rkt/net.d".to_owned(),
            plugins: vec!["/usr/lib/rkt/plugins/net".to_owned(), "/etc/rkt/net.d".to_owned()],
            missing: missing.to_vec(),
        }
    }

    #[test]
    fn the_plugin_is_wanted_where_a_runtime_is() {
        assert_eq!(judge(&CniFacts::default()), []);
        let of = |missing: &[&'static str]| {
            judge(&CniFacts { runtimes: vec![runtime(missing)], ..CniFacts::default() })
        };
        assert_eq!(worst(&of(&[])), Level::Ok);
        let found = of(&["calico-ipam"]);
        assert_eq!((found.len(), found[0].level), (1, Level::Warn));
        assert!(found[0].finding.starts_with("calico-ipam is not in /usr/lib/rkt/plugins/net or"));
        let advice = found[0].advice.as_deref().unwrap();
        assert!(advice.contains("into /usr/lib/rkt/plugins/net ("), "{advice}");
    }

    #[test]
    fn networks() {
        let host = vec!["172.18.18.0/24".parse().unwrap(), "fd00:172::/64".parse().unwrap()];
        let judged = |content: Result<Network, String>| {
            let networks = vec![NetworkFile { path: "/etc/rkt/net.d/10.conf".into(), content }];
            let found = judge(&CniFacts { networks, host: host.clone(), ..CniFacts::default() });
            assert_eq!(found.len(), 1);
            (found[0].level, found[0].finding.clone())
        };
        let named = |subnet: Option<&str>| {
            Ok(Network {
                name: Some("network1".into()),
                subnet: subnet.map(str::to_owned),
                store: None,
            })
        };
        for (content, level, part) in [
            (named(None), Level::Ok, "network network1"),
            (named(Some("192.168.0.0/16")), Level::Ok, "pods from 192.168.0.0/16"),
            (named(Some("172.18.0.0/16")), Level::Warn, "overlaps 172.18.18.0/24"),
            (named(Some("172.18.18.128/25")), Level::Warn, "overlaps 172.18.18.0/24"),
            (named(Some("fd00:172::/48")), Level::Warn, "overlaps fd00:172::/64"),
            (named(Some("192.168.0.0/33")), Level::Warn, "is no prefix"),
            (Ok(Network::default()), Level::Warn, "has no name"),
            (Err("expected `,` at line 2".into()), Level::Warn, "is no JSON: expected"),
        ] {
            let (is, finding) = judged(content);
            assert!(is == level && finding.contains(part), "{finding}");
        }
    }

    fn etcd(endpoints: &[&str]) -> Location {
        Location::Etcd3(Etcd3Config {
            endpoints: endpoints.iter().map(|url| (*url).to_owned()).collect(),
            ..Etcd3Config::default()
        })
    }

    fn directory(admin: &str, state: &str) -> Location {
        Location::Directory(DirectoryConfig { admin: admin.into(), state: state.into() })
    }

    #[test]
    fn agent_and_plugin_use_one_datastore() {
        let default = etcd(&["http://127.0.0.1:2379", "http://127.0.0.1:4001"]);
        let usual = directory("/etc/calico/resources", "/var/lib/calico/resources");
        let moved = directory("/etc/calico/resources", "/srv/calico/resources");
        let cluster = etcd(&["https://a.example:2379", "https://b.example:2379"]);
        let one = etcd(&["https://B.example:2379/"]);
        for (agent, plugin, same) in [
            (&etcd(&["http://localhost:2379"]), &default, true),
            (&cluster, &one, true),
            (&usual, &usual, true),
            (&cluster, &default, false),
            (&etcd(&["http://127.0.0.1:2380"]), &default, false),
            (&usual, &default, false),
            (&cluster, &usual, false),
            (&usual, &moved, false),
        ] {
            let network = Network {
                name: Some("n".to_owned()),
                subnet: None,
                store: Some(Ok(plugin.clone())),
            };
            let path = "/etc/rkt/net.d/10.conf".to_owned();
            let networks = vec![NetworkFile { path: path.clone(), content: Ok(network) }];
            let facts = CniFacts { networks, store: Some(agent.clone()), ..CniFacts::default() };
            let found = judge(&facts);
            assert_eq!(worst(&found) == Level::Ok, same, "{found:?}");
            if !same {
                let Finding { what, finding, advice, .. } = found.last().unwrap();
                assert_eq!(*what, path);
                for named in [agent.describe(), plugin.describe()] {
                    assert!(finding.contains(&named), "{finding}");
                }
                assert!(advice.as_ref().unwrap().contains("agent.toml"));
            }
            // Where the agent's is not known there is nothing to compare.
            assert_eq!(worst(&judge(&CniFacts { store: None, ..facts })), Level::Ok);
        }
    }

    /// The same cluster by a name and by an address, or by two of its members.
    #[test]
    fn other_members_may_be_of_one_cluster() {
        let named = etcd(&["https://etcd1.example:2379"]);
        let said = |plugin: &Location| {
            let store = Some(Ok(plugin.clone()));
            let network = Network { name: Some("n".to_owned()), subnet: None, store };
            let path = "/etc/rkt/net.d/10.conf".to_owned();
            let networks = vec![NetworkFile { path, content: Ok(network) }];
            let store = Some(named.clone());
            let found = judge(&CniFacts { networks, store, ..CniFacts::default() });
            assert_eq!(worst(&found), Level::Warn);
            found.last().unwrap().finding.clone()
        };
        for other in ["https://10.0.0.5:2379", "https://etcd2.example:2379"] {
            assert!(said(&etcd(&[other])).contains("unless these are members of one cluster"));
        }
        for other in ["http://127.0.0.1:2379", "http://localhost:2379", "http://[::1]:2379"] {
            assert!(!said(&etcd(&[other])).contains("unless"), "{other}");
        }
    }

    #[test]
    fn what_the_plugin_refuses_is_said() {
        let network = Network {
            name: Some("n".to_owned()),
            subnet: None,
            store: Some(Err("\"mtu\" is not a number".to_owned())),
        };
        let networks = vec![NetworkFile { path: "/x.conf".to_owned(), content: Ok(network) }];
        let found = judge(&CniFacts { networks, ..CniFacts::default() });
        assert_eq!(worst(&found), Level::Warn);
        assert!(found[1].finding.contains("\"mtu\" is not a number"), "{found:?}");
    }
}
