//! What others own on a host, for tests that must leave it alone.

use anyhow::Result;

use crate::kernel::Snapshot;
use crate::netns::Place;

/// A port of which only the foreign rules know.
pub const PORT: u16 = 7777;

/// Rules, sets, routes, neighbours of others, in tables of this flavour.
///
/// # Errors
/// When the kernel refuses.
pub fn make(ns: &Place, flavour: &str) -> Result<()> {
    let mut lines = vec![
        "ipset create foreign4 hash:ip counters".to_owned(),
        "ipset add foreign4 172.18.18.250".to_owned(),
        "ipset add foreign4 10.77.0.1".to_owned(),
        "ip route add 10.77.0.0/16 via 172.18.18.1 proto static".to_owned(),
        "ip route add blackhole 10.77.9.0/24 proto 99".to_owned(),
        "ip route add 10.77.1.0/24 via 172.18.18.1 table 77".to_owned(),
        "ip -6 route add fd00:77::/64 via fd00:172:18:18::1 proto static".to_owned(),
        "ip rule add fwmark 0x77/0xff lookup 77".to_owned(),
        "ip -6 rule add fwmark 0x77/0xff lookup 77".to_owned(),
        "ip neigh add 172.18.18.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent".to_owned(),
        "nft add table inet foreign".to_owned(),
        "nft add chain inet foreign input { type filter hook input priority -5 ; }".to_owned(),
        format!("nft add rule inet foreign input udp dport {PORT} counter comment foreign"),
    ];
    for program in [format!("iptables-{flavour}"), format!("ip6tables-{flavour}")] {
        // As rkt does: its jump at position 1 of a nat chain; as an administrator does: a chain,
        // and a rule that marks.
        for rule in [
            "-t filter -N FOREIGN".to_owned(),
            format!("-t filter -A FOREIGN -p udp --dport {PORT} -m comment --comment foreign"),
            format!("-t filter -A INPUT -p udp --dport {PORT} -j FOREIGN"),
            format!("-t filter -A FORWARD -p udp --dport {PORT} -j FOREIGN"),
            "-t nat -N RKT-FOREIGN".to_owned(),
            format!("-t nat -I PREROUTING 1 -p udp --dport {PORT} -j RKT-FOREIGN"),
            format!(
                "-t mangle -A INPUT -p udp --dport {PORT} -m comment --comment foreign \
                     -j MARK --set-xmark 0x77/0xff"
            ),
            format!("-t raw -A PREROUTING -p udp --dport {PORT} -m comment --comment foreign"),
        ] {
            lines.push(format!("{program} {rule}"));
        }
    }
    lines.push(format!(
        "iptables-{flavour} -t filter -A INPUT -p udp --dport {PORT} \
         -m set --match-set foreign4 src -m comment --comment foreign"
    ));
    for line in lines {
        let mut words = line.split_whitespace();
        ns.command(words.next().unwrap_or_default()).args(words).run()?;
    }
    Ok(())
}

/// The lines about foreign things. Of nft's own listing too, where each rule has a handle that
/// changes when it is written again.
///
/// # Errors
/// When a tool fails.
pub fn snapshot(ns: &Place) -> Result<Snapshot> {
    // The port alone would be any rule or chain that has counted to it.
    let marks = ["foreign", "FOREIGN", "10.77.", "fd00:77", "0x77/", "18.77 ", "dport 7777"];
    let foreign = |line: &str| marks.iter().any(|mark| line.contains(mark));
    Ok(Snapshot::take(ns)?.filter(|line| foreign(line) && !line.contains("cali")))
}
