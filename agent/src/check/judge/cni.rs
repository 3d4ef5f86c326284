//! What the runtimes of this host need to make pods with our plugin: its programs, and network
//! configurations that make sense here.

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
            Ok(network) => judge_network(&file.path, network, &facts.host, &mut out),
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

#[cfg(test)]
mod tests {
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
            Ok(Network { name: Some("network1".into()), subnet: subnet.map(str::to_owned) })
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
}
