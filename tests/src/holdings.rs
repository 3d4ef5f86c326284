//! Everything that pods hold: in the datastore (endpoints, addresses, handles) and on the hosts
//! (interfaces, records of attachments). Read with nobody's code but this crate's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::etcd::Etcd;
use crate::host::Host;
use crate::world::RESOURCES;

const IPAM: &str = "/calico/ipam/v2";

/// What is held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// `<container id>/<interface>` of every endpoint.
    pub endpoints: BTreeSet<String>,
    /// Every address that a block says is given out, with its handle.
    pub addresses: BTreeMap<IpAddr, String>,
    /// Handles, each with the number of addresses that it counts.
    pub handles: BTreeMap<String, u64>,
    /// `<host>/<interface>` of the hosts' sides.
    pub interfaces: BTreeSet<String>,
    /// `<host>/<file>` of the plugin's records.
    pub records: BTreeSet<String>,
}

impl Holdings {
    /// Reads the datastore and the hosts.
    ///
    /// # Errors
    /// When something cannot be read, or a block contradicts itself.
    pub fn read(etcd: &Etcd, hosts: &[Host]) -> Result<Self> {
        let mut all = Self::default();
        for (key, value) in etcd.get_prefix(&format!("{RESOURCES}/workloadendpoints/"))? {
            let spec = &json(&key, &value)?["spec"];
            let word = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
            all.endpoints.insert(format!("{}/{}", word("containerID"), word("endpoint")));
        }
        for (key, value) in etcd.get_prefix(&format!("{IPAM}/assignment/"))? {
            all.read_block(&json(&key, &value)?).with_context(|| key)?;
        }
        let prefix = format!("{IPAM}/handle/");
        for (key, value) in etcd.get_prefix(&prefix)? {
            let value = json(&key, &value)?;
            let blocks = value["block"].as_object().context("a handle without blocks")?;
            let count = blocks.values().filter_map(Value::as_u64).sum();
            all.handles.insert(key[prefix.len()..].to_owned(), count);
        }
        for host in hosts {
            let name = host.spec.name;
            let links = host.ns().command("ip").args(["-o", "link", "show"]).run()?;
            let links = links.lines().filter_map(|line| line.split(": ").nth(1));
            let links = links.filter(|link| link.starts_with("cali"));
            let links = links.map(|link| link.split('@').next().unwrap_or(link));
            all.interfaces.extend(links.map(|link| format!("{name}/{link}")));
            let records = std::fs::read_dir(host.state_dir().join("attachments"));
            let records = records.into_iter().flatten().flatten();
            let records = records.filter_map(|record| record.file_name().into_string().ok());
            let records = records.filter(|record| record.ends_with(".json"));
            all.records.extend(records.map(|record| format!("{name}/{record}")));
        }
        Ok(all)
    }

    fn read_block(&mut self, block: &Value) -> Result<()> {
        let cidr = block["cidr"].as_str().context("no cidr")?;
        let base: IpAddr = cidr.split('/').next().unwrap_or_default().parse()?;
        // The original's own of a new block are null.
        let attributes = match &block["attributes"] {
            Value::Null => &[],
            attributes => attributes.as_array().context("no attributes")?.as_slice(),
        };
        let allocations = block["allocations"].as_array().context("no allocations")?;
        let free = block["unallocated"].as_array().context("no unallocated")?;
        let free: BTreeSet<u64> = free.iter().filter_map(Value::as_u64).collect();
        let mut used = BTreeSet::new();
        for (ordinal, allocation) in (0_u64..).zip(allocations) {
            let Some(index) = allocation.as_u64() else {
                ensure!(free.contains(&ordinal), "{ordinal} is neither given out nor free");
                continue;
            };
            ensure!(!free.contains(&ordinal), "{ordinal} is given out and free");
            used.insert(index);
            let attribute = attributes.get(usize::try_from(index)?).context("no attribute")?;
            let handle = attribute["handle_id"].as_str().unwrap_or_default();
            self.addresses.insert(nth(base, ordinal)?, handle.to_owned());
        }
        ensure!(used.len() == attributes.len(), "attributes that nobody has");
        Ok(())
    }

    /// What contradicts itself: an endpoint or a handle without addresses, addresses whose handle
    /// does not count them.
    pub fn contradictions(&self) -> Vec<String> {
        let mut counted: BTreeMap<&str, u64> = BTreeMap::new();
        for handle in self.addresses.values() {
            *counted.entry(handle).or_default() += 1;
        }
        let mut all = Vec::new();
        for (handle, count) in &self.handles {
            let really = counted.get(handle.as_str()).copied().unwrap_or(0);
            if really != *count {
                all.push(format!("handle {handle} counts {count}, blocks {really}"));
            }
        }
        for handle in counted.keys().filter(|handle| !self.handles.contains_key(**handle)) {
            all.push(format!("addresses of {handle}, which is not there"));
        }
        all
    }

    /// True when nothing is held.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Holdings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "endpoints: {:#?}", self.endpoints)?;
        writeln!(f, "addresses: {:#?}", self.addresses)?;
        writeln!(f, "handles: {:#?}", self.handles)?;
        writeln!(f, "interfaces: {:#?}", self.interfaces)?;
        write!(f, "records: {:#?}", self.records)
    }
}

fn json(key: &str, value: &str) -> Result<Value> {
    serde_json::from_str(value).with_context(|| format!("{key}: {value}"))
}

fn nth(base: IpAddr, ordinal: u64) -> Result<IpAddr> {
    Ok(match base {
        IpAddr::V4(base) => {
            let sum = u32::from(base).checked_add(u32::try_from(ordinal)?);
            Ipv4Addr::from(sum.context("beyond the last address")?).into()
        }
        IpAddr::V6(base) => {
            let sum = u128::from(base).checked_add(ordinal.into());
            Ipv6Addr::from(sum.context("beyond the last address")?).into()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tutorial;

    fn with(blocks: &[Value]) -> Result<Holdings> {
        let mut all = Holdings::default();
        blocks.iter().try_for_each(|block| all.read_block(block))?;
        Ok(all)
    }

    fn tutorial_block() -> Value {
        let block = tutorial::base().into_iter().find(|(key, _)| key.contains("192.168.0.64-26"));
        serde_json::from_str(&block.unwrap().1).unwrap()
    }

    #[test]
    fn a_block_is_read_as_it_is_stored() {
        let all = with(&[tutorial_block()]).unwrap();
        let given: Vec<_> = all.addresses.iter().map(|(ip, of)| format!("{ip} {of}")).collect();
        assert_eq!(
            given,
            [
                "192.168.0.64 backend.407208a5-9e0c-4d6b-b1c4-3a7f5e8d2c03",
                "192.168.0.65 frontend.e5c1a9f4-02d8-4f1b-a6e7-8b9c0d1e2f04"
            ]
        );
        assert_eq!(all.contradictions().len(), 2, "their handles are not there");
    }

    #[test]
    fn a_block_that_contradicts_itself_is_an_error() {
        for (path, value) in [
            ("/unallocated/0", serde_json::json!(0)),
            ("/allocations/5", serde_json::json!(1)),
            ("/allocations/0", serde_json::json!(7)),
            ("/allocations/1", serde_json::json!(0)),
        ] {
            let mut block = tutorial_block();
            *block.pointer_mut(path).unwrap() = value;
            assert!(with(&[block]).is_err(), "{path}");
        }
    }
}
