//! A world with its host and trips, as a file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use calico_datastore::model::{Cidr, Name, Protocol};
use calico_reference::{Failsafe, Host, Interface};
use serde_json::{Map, Value, json};

use super::{NotACase, files};
use crate::trip::Trip;
use crate::world::World;

/// A world and its host that somebody judged wrongly once, and about what.
#[derive(Clone, Debug, PartialEq)]
pub struct HostCase {
    /// What it is about, for people.
    pub about: String,
    /// The datastore.
    pub world: World,
    /// The host.
    pub host: Host,
    /// The trips that were judged wrongly.
    pub trips: Vec<Trip>,
}

impl HostCase {
    /// The form of a file: JSON.
    pub fn to_text(&self) -> String {
        let Host { node, interfaces, failsafe_in, failsafe_out } = &self.host;
        let objects: Map<String, Value> =
            self.world.objects.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let trips: Vec<String> = self.trips.iter().map(ToString::to_string).collect();
        let interfaces: Map<String, Value> = interfaces
            .iter()
            .map(|one| (one.name.to_string(), json!(texts(&one.addresses))))
            .collect();
        let json = json!({
            "about": self.about, "node": node.as_str(), "trips": trips, "objects": objects,
            "interfaces": interfaces,
            "failsafeIn": failsafe_in.iter().map(written).collect::<Vec<_>>(),
            "failsafeOut": failsafe_out.iter().map(written).collect::<Vec<_>>(),
        });
        format!("{json:#}\n")
    }

    /// Reads [`HostCase::to_text`].
    ///
    /// # Errors
    /// When it is something else.
    pub fn from_text(text: &str) -> Result<Self, NotACase> {
        let bad = |what: &str| NotACase(what.to_owned());
        let json: Value =
            serde_json::from_str(text).map_err(|error| NotACase(error.to_string()))?;
        let string = |field: &str| json[field].as_str().ok_or_else(|| bad(field));
        let object = |field: &str| json[field].as_object().ok_or_else(|| bad(field));
        let list = |field: &str| json[field].as_array().ok_or_else(|| bad(field));
        let trip = |value: &Value| -> Result<Trip, NotACase> {
            value.as_str().ok_or_else(|| bad("a trip"))?.parse().map_err(NotACase)
        };
        let failsafes = |field: &str| -> Result<Vec<Failsafe>, NotACase> {
            list(field)?.iter().map(|one| failsafe(one).ok_or_else(|| bad(field))).collect()
        };
        let interface = |(name, addresses): (&String, &Value)| {
            let addresses = addresses.as_array()?.iter();
            let addresses = addresses.map(|one| one.as_str()?.parse::<IpAddr>().ok());
            Some(Interface {
                name: name.parse().ok()?,
                addresses: addresses.collect::<Option<_>>()?,
            })
        };
        let interfaces = object("interfaces")?.iter().map(interface).collect::<Option<_>>();
        let node = Name::from(string("node")?);
        Ok(Self {
            about: string("about")?.to_owned(),
            world: World {
                node: node.clone(),
                objects: object("objects")?.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            },
            host: Host {
                node,
                interfaces: interfaces.ok_or_else(|| bad("interfaces"))?,
                failsafe_in: failsafes("failsafeIn")?,
                failsafe_out: failsafes("failsafeOut")?,
            },
            trips: list("trips")?.iter().map(trip).collect::<Result<_, _>>()?,
        })
    }

    /// Every case in a directory, by the name of its file; only `*.json` count.
    ///
    /// # Errors
    /// When the directory or a file cannot be read, or a file is no case.
    pub fn read_all(directory: &Path) -> Result<BTreeMap<String, Self>, NotACase> {
        files(directory, Self::from_text)
    }
}

fn texts(all: &[IpAddr]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

/// `tcp 22`, `udp 68 10.0.0.0/8`.
fn written(one: &Failsafe) -> String {
    let net = one.net.map(|net| format!(" {net}")).unwrap_or_default();
    format!("{} {}{net}", one.protocol.number(), one.port)
}

fn failsafe(value: &Value) -> Option<Failsafe> {
    let mut words = value.as_str()?.split(' ');
    let protocol = Protocol::from_number(words.next()?.parse().ok()?)?;
    let port = words.next()?.parse().ok()?;
    let net = match words.next() {
        None => None,
        Some(net) => Some(net.parse::<Cidr>().ok()?),
    };
    Some(Failsafe { protocol, port, net })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back() {
        for seed in 0..4 {
            let (world, host) = (World::with_hosts(seed), World::host(seed));
            let trips = world.trips_of(&world.updates(), &host, seed, 5);
            let case = HostCase { about: "x".to_owned(), world, host, trips };
            assert_eq!(HostCase::from_text(&case.to_text()), Ok(case));
        }
        for text in ["", "{}", r#"{"about":"x","node":"near","trips":[],"objects":{}}"#] {
            assert!(HostCase::from_text(text).is_err(), "{text}");
        }
    }
}
