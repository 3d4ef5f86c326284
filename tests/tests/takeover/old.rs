//! What the original Felix leaves on `calico-01`, loaded into the kernel with the tools that it used.

use anyhow::{Context, Result};
use calico_e2e::netns::Place;
use calico_e2e::tutorial::{HOSTS, PODS};

/// A Felix.
pub(crate) struct Generation {
    /// Sets and tables.
    rules: &'static str,
    /// It knows tiers: the tutorial's policies were in force.
    pub(crate) policy: bool,
    /// The protocol of its blackholes and tunnel routes; before, BIRD wrote them.
    blackholes: bool,
}

/// Python; legacy iptables. It knew no tiers.
pub(crate) const FELIX_1_4: Generation =
    Generation { rules: include_str!("felix-1.4.rules"), policy: false, blackholes: false };
/// Go, with etcd v2.
pub(crate) const FELIX_2_6: Generation =
    Generation { rules: include_str!("felix-2.6.rules"), policy: true, blackholes: false };
/// As of 3.32.
pub(crate) const FELIX_3: Generation =
    Generation { rules: include_str!("felix-3.rules"), policy: true, blackholes: true };

/// The text for one family. `%` is the comment that holds a rule's hash, another in each rule.
fn text(generation: &Generation, family: u8) -> String {
    let mut count = 0;
    let mut out = String::new();
    for line in generation.rules.lines() {
        let line = match line.split_once('|') {
            Some(("4", line)) if family == 4 => line,
            Some(("6", line)) if family == 6 => line,
            Some(("4" | "6", _)) => continue,
            _ => line,
        };
        let (inet, pool) = match family {
            4 => ("inet", "192.168.0.0/16"),
            _ => ("inet6", "fd80:24e2:f998:72d6::/64"),
        };
        count += 1;
        let mut line = line
            .replace('%', &format!("-m comment --comment \"cali:oLd_{family}-{count:010}\""))
            .replace("{v}", &family.to_string())
            .replace("{inet}", inet)
            .replace("{pool}", pool);
        let host = if family == 4 { HOSTS[0].v4.to_string() } else { HOSTS[0].v6.to_string() };
        line = line.replace("{host}", &host);
        for pod in &PODS {
            let address = if family == 4 { pod.v4.to_string() } else { pod.v6.to_string() };
            line = line
                .replace(&format!("{{if-{}}}", pod.name), &pod.interface())
                .replace(&format!("{{mac-{}}}", pod.name), pod.mac)
                .replace(&format!("{{{}}}", pod.name), &address);
        }
        out += &line;
        out.push('\n');
    }
    out
}

/// Makes the kernel as that Felix leaves it.
pub(crate) fn load(ns: &Place, generation: &Generation, flavour: &str) -> Result<()> {
    for family in [4, 6] {
        let text = text(generation, family);
        let (sets, tables) = text.split_once("\n*").context("sets, then tables")?;
        ns.command("ipset").arg("restore").input(format!("{sets}\n")).run()?;
        let program = if family == 4 { "iptables" } else { "ip6tables" };
        let restore = ns.command(format!("{program}-{flavour}-restore")).arg("--noflush");
        restore.input(format!("*{tables}")).run().with_context(|| format!("IPv{family}"))?;
    }
    let mut lines = String::new();
    for pod in PODS.iter().filter(|pod| pod.host == "calico-01") {
        let interface = pod.interface();
        for (key, value) in
            [("route_localnet", "1"), ("proxy_arp", "1"), ("forwarding", "1"), ("rp_filter", "1")]
        {
            ns.sysctl(&format!("ipv4/conf/{interface}/{key}"), value)?;
        }
        ns.sysctl(&format!("ipv6/conf/{interface}/proxy_ndp"), "1")?;
        lines +=
            &format!("neigh replace {} lladdr {} dev {interface} nud permanent\n", pod.v4, pod.mac);
    }
    ns.sysctl("ipv4/ip_forward", "1")?;
    ns.sysctl("ipv6/conf/all/forwarding", "1")?;
    // BIRD was there until a moment ago; its routes outlive it.
    lines += &format!(
        "route add 192.168.0.64/26 via {} proto bird\n\
         route add fd80:24e2:f998:72d6::40/122 via {} proto bird\n",
        HOSTS[1].v4, HOSTS[1].v6
    );
    let protocol = if generation.blackholes { "80" } else { "bird" };
    lines += &format!(
        "route add blackhole 192.168.0.0/26 proto {protocol}\n\
         route add blackhole fd80:24e2:f998:72d6::/122 proto {protocol}\n"
    );
    if generation.blackholes {
        // What it routed through an overlay. It goes after the grace for routes that BIRD replaces.
        lines += "route add 192.168.0.33 dev eth0 proto 80 scope link\n";
    }
    ns.ip(&lines)
}

/// What this Felix does when it starts on a host that is as our agent leaves it: its sets; each table in one
/// transaction, in which chains and jumps go that are not its own; sets that are not its own; routes
/// to pods.
pub(crate) fn start(ns: &Place, generation: &Generation, flavour: &str) -> Result<()> {
    for family in [4, 6] {
        let text = text(generation, family);
        let (sets, tables) = text.split_once("\n*").context("sets, then tables")?;
        let there = ns.command("ipset").args(["list", "-name"]).run()?;
        let there: Vec<&str> = there.lines().collect();
        let named = |line: &str| line.split(' ').nth(1).unwrap_or_default().to_owned();
        // One of that name has the same members.
        let missing = sets.lines().filter(|line| !there.contains(&named(line).as_str()));
        let missing: String = missing.map(|line| format!("{line}\n")).collect();
        ns.command("ipset").arg("restore").input(missing).run()?;
        let program = if family == 4 { "iptables" } else { "ip6tables" };
        for table in format!("*{tables}").split_inclusive("COMMIT\n") {
            let name = table.lines().next().unwrap_or_default().trim_start_matches('*').to_owned();
            let save = ns.command(format!("{program}-{flavour}-save")).args(["-t", &name]).run()?;
            let input = exchanged(table, &save);
            let restore = ns.command(format!("{program}-{flavour}-restore")).arg("--noflush");
            restore.input(input).run().with_context(|| format!("IPv{family} {name}"))?;
        }
        let own: Vec<String> = sets.lines().map(named).collect();
        let prefix = format!("cali{family}");
        for set in there.iter().filter(|set| set.starts_with(&prefix)) {
            if !own.iter().any(|name| name == set) {
                ns.command("ipset").args(["destroy", set]).run()?;
            }
        }
    }
    let mut lines = String::new();
    for pod in PODS.iter().filter(|pod| pod.host == "calico-01") {
        let (interface, metric) = (pod.interface(), if generation.blackholes { 1024 } else { 0 });
        lines += &format!(
            "route replace {} dev {interface} scope link proto boot metric {metric}\n\
             -6 route replace {} dev {interface} proto boot metric 1024\n",
            pod.v4, pod.v6
        );
    }
    // A batch takes no option for one line.
    let (v6, v4): (Vec<&str>, Vec<&str>) = lines.lines().partition(|line| line.starts_with("-6 "));
    ns.ip(&(v4.join("\n") + "\n"))?;
    let v6: Vec<&str> = v6.iter().map(|line| line.trim_start_matches("-6 ")).collect();
    let command = ns.command("ip").args(["-6", "-batch", "-"]).input(v6.join("\n") + "\n");
    command.run().map(drop)
}

/// A table of ours made that of another, in one transaction: what is to be put in, and what is there.
fn exchanged(table: &str, save: &str) -> String {
    let chains = |text: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(':'));
        lines.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
    };
    let own = chains(table);
    let strange: Vec<String> = chains(save)
        .into_iter()
        .filter(|chain| chain.starts_with("cali-") && !own.contains(chain))
        .collect();
    let jumps = save.lines().filter_map(|line| line.strip_prefix("-A "));
    let jumps = jumps.filter(|rule| !rule.starts_with("cali-") && rule.contains("cali:"));
    let mut input = String::new();
    for line in table.lines().filter(|line| *line != "COMMIT") {
        input += &format!("{line}\n");
        // Behind the first line, which names the table.
        if line.starts_with('*') {
            input += &strange.iter().map(|chain| format!(":{chain} - [0:0]\n")).collect::<String>();
        }
    }
    input += &jumps.map(|rule| format!("-D {rule}\n")).collect::<String>();
    input += &strange.iter().map(|chain| format!("-X {chain}\n")).collect::<String>();
    input + "COMMIT\n"
}

/// True for a line of [`anything`] that this Felix has made.
pub(crate) fn is_of(generation: &Generation, line: &str) -> bool {
    let names = [4, 6].map(|family| text(generation, family));
    let mut names = names.iter().flat_map(|text| text.lines()).filter_map(|line| {
        line.strip_prefix(':').or_else(|| line.strip_prefix("create "))?.split(' ').next()
    });
    line.contains("cali:oLd_")
        || names
            .any(|name| line.contains(&format!(":{name} ")) || line.ends_with(&format!(" {name}")))
}

/// Lines of the kernel that look like anything of a Felix or of ours.
pub(crate) fn anything(ns: &Place) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for flavour in ["legacy", "nft"] {
        for program in ["iptables", "ip6tables"] {
            let text = ns.command(format!("{program}-{flavour}-save")).run()?;
            let ours = text.lines().filter(|line| {
                [":cali", ":felix", " cali-", " felix-", "cali:", "tunl0"]
                    .iter()
                    .any(|mark| line.contains(mark))
            });
            all.extend(ours.map(|line| format!("{program}-{flavour}: {line}")));
        }
    }
    let own = ns.command("nft").args(["list", "tables"]).run()?;
    let own = own.lines().filter(|table| *table == "table inet calico");
    all.extend(own.map(|table| format!("nft: {table}")));
    let sets = ns.command("ipset").args(["list", "-name"]).run()?;
    let ours = sets.lines().filter(|set| set.starts_with("cali") || set.starts_with("felix"));
    all.extend(ours.map(|set| format!("ipset: {set}")));
    for family in ["-4", "-6"] {
        let routes = ns.command("ip").args([family, "route", "show", "proto", "80"]).run()?;
        all.extend(routes.lines().map(|route| format!("route: {route}")));
    }
    Ok(all)
}

/// What of this Felix's is there that no agent of ours makes.
pub(crate) fn left(ns: &Place, generation: &Generation) -> Result<Vec<String>> {
    let names = generation.rules.lines().filter_map(|line| {
        let line = line.strip_prefix("4|").or_else(|| line.strip_prefix("6|")).unwrap_or(line);
        let name = line.strip_prefix(':').or_else(|| line.strip_prefix("create "))?;
        name.split(' ').next().map(|name| name.replace("{v}", "4"))
    });
    // Names that ours have too: then the hash tells.
    let shared = [
        "cali-FORWARD",
        "cali-INPUT",
        "cali-PREROUTING",
        "cali-POSTROUTING",
        "cali-nat-outgoing",
        "cali-from-wl-dispatch",
        "cali-to-wl-dispatch",
        "cali-wl-to-host",
        "cali-pri-backend",
        "cali-pri-frontend",
        "cali-pro-backend",
        "cali-pro-frontend",
        "cali40all-ipam-pools",
        "cali40masq-ipam-pools",
    ];
    let mut names: Vec<String> = names.filter(|name| !shared.contains(&name.as_str())).collect();
    for pod in &PODS {
        for name in &mut names {
            *name = name.replace(&format!("{{if-{}}}", pod.name), &pod.interface());
        }
    }
    names.extend(["cali:oLd_".to_owned(), "felix-".to_owned(), "tunl0".to_owned()]);
    names.push("192.168.0.33 dev eth0".to_owned());
    let found = anything(ns)?;
    Ok(found.into_iter().filter(|line| names.iter().any(|name| line.contains(name))).collect())
}
