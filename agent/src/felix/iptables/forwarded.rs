//! Ports of this host that others lead to pods: rkt (`--port`) and the CNI plugin `portmap` write a
//! chain per pod into the table `nat`. They are read for `status`, when somebody asks, and never
//! written: policy sees the packet behind the translation, so it needs no rule for them.

use std::net::SocketAddr;

use calico_datastore::model::{Cidr, Family, Protocol};

use crate::exec::Exec;

/// A port of this host that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forwarded {
    /// Its protocol.
    pub protocol: Protocol,
    /// The port of the host.
    pub port: u16,
    /// Only at these addresses of the host; `None`: at all.
    pub at: Option<Cidr>,
    /// Where it leads.
    pub to: SocketAddr,
    /// Who wrote it.
    pub by: &'static str,
}

/// What the chains begin with in which a pod's ports are, and whose they are.
const CHAINS: [(&str, &str); 2] = [("RKT-PFWD-DNAT-", "rkt"), ("CNI-DN-", "portmap")];

/// Finds them in what `iptables-save` prints. Rules that are written in another way are left out.
pub fn parse(text: &str) -> Vec<Forwarded> {
    let mut found = Vec::new();
    let mut nat = false;
    for line in text.lines() {
        if let Some(table) = line.strip_prefix('*') {
            nat = table == "nat";
        } else if nat && let Some(rule) = line.strip_prefix("-A ") {
            found.extend(of_rule(rule));
        }
    }
    found
}

/// `RKT-PFWD-DNAT-c89f2f35 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 192.168.0.0:80`.
fn of_rule(rule: &str) -> Option<Forwarded> {
    let (_, by) = CHAINS.into_iter().find(|(prefix, _)| rule.starts_with(prefix))?;
    let words: Vec<&str> = rule.split(' ').collect();
    let value = |option: &str| {
        let mut pairs = words.windows(2).filter(|pair| pair[0] == option);
        pairs.next().map(|pair| pair[1])
    };
    // What is negated, or more than one port, is nothing that they write.
    let plain = !words.contains(&"!") && value("-j") == Some("DNAT");
    Some(Forwarded {
        protocol: value("-p").filter(|_| plain)?.parse().ok()?,
        port: value("--dport")?.parse().ok()?,
        at: value("-d").map(str::parse).transpose().ok()?,
        to: value("--to-destination")?.parse().ok()?,
        by,
    })
}

/// Reads them all, sorted: of every iptables that this host has, because those programs use the
/// plain name and the agent may use another. Tables that do not exist are not made by looking.
///
/// # Errors
/// In words, when a program that is there fails; what others said is lost then.
pub async fn read(exec: &Exec, ipv6: bool) -> Result<Vec<Forwarded>, String> {
    let families = [Some(Family::V4), ipv6.then_some(Family::V6)];
    let reads = families.into_iter().flatten().map(|family| read_family(exec, family));
    let mut all = futures::future::try_join_all(reads).await?.concat();
    all.sort();
    all.dedup();
    Ok(all)
}

async fn read_family(exec: &Exec, family: Family) -> Result<Vec<Forwarded>, String> {
    let base = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    let mut found = Vec::new();
    let mut there = false;
    for suffix in ["-nft", "-legacy", ""] {
        // The plain name is one of the others where those exist.
        if suffix.is_empty() && there {
            break;
        }
        match exec.run::<&str>(&format!("{base}{suffix}-save"), &[], b"").await {
            Ok(output) => {
                there = true;
                found.extend(parse(&String::from_utf8_lossy(&output.stdout)));
            }
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(crate::telemetry::chain(&error)),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rkt_and_portmap_write_is_found_and_nothing_else() {
        let text = "\
*filter
-A RKT-PFWD-DNAT-c89f2f35 -p tcp -m tcp --dport 1 -j DNAT --to-destination 192.168.0.0:1
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:RKT-PFWD-DNAT-c89f2f35 - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j RKT-PFWD-DNAT-c89f2f35
-A PREROUTING -p tcp -m tcp --dport 9 -j DNAT --to-destination 192.168.0.0:9
-A RKT-PFWD-DNAT-c89f2f35 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 192.168.0.0:80
-A RKT-PFWD-DNAT-c89f2f35 -d 172.18.18.101/32 -p udp -m udp --dport 53 -j DNAT --to-destination 192.168.0.0:5353
-A RKT-PFWD-DNAT-c89f2f35 ! -d 172.18.18.101/32 -p udp -m udp --dport 53 -j DNAT --to-destination 192.168.0.0:5353
-A RKT-PFWD-SNAT-c89f2f35 -s 127.0.0.1/32 -d 192.168.0.0/32 -p tcp -m tcp --dport 80 -j MASQUERADE
-A CNI-DN-e0a2b1c0d9f8e7a6b5c4d -s 192.168.0.1/32 -p tcp -m tcp --dport 8081 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-e0a2b1c0d9f8e7a6b5c4d -p tcp -m tcp --dport 8081 -j DNAT --to-destination 192.168.0.1:81
-A CNI-DN-e0a2b1c0d9f8e7a6b5c4d -p tcp -m tcp --dport 8081 -j DNAT --to-destination [fd80::1]:81
COMMIT
";
        let found = |protocol, port, at: Option<&str>, to: &str, by| Forwarded {
            protocol,
            port,
            at: at.map(|net| net.parse().unwrap()),
            to: to.parse().unwrap(),
            by,
        };
        assert_eq!(
            parse(text),
            [
                found(Protocol::TCP, 8080, None, "192.168.0.0:80", "rkt"),
                found(Protocol::UDP, 53, Some("172.18.18.101/32"), "192.168.0.0:5353", "rkt"),
                found(Protocol::TCP, 8081, None, "192.168.0.1:81", "portmap"),
                found(Protocol::TCP, 8081, None, "[fd80::1]:81", "portmap"),
            ]
        );
    }
}
