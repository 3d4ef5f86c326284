//! `calico-agent plan`: nothing where everything is as it should be, exactly what is not where
//! something is not, in words that the tools themselves take, and what `run` then does.

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::{Flavour, Host};
use calico_e2e::kernel::Snapshot;
use calico_e2e::tutorial::{self, PODS};
use calico_e2e::{own_table, wait};
use serde_json::Value;

/// Lines that are no comments of the plan itself, and the exit code.
fn plan(host: &Host) -> Result<(Option<i32>, Vec<String>)> {
    let output = host.command("plan", &[])?.output()?;
    ensure!(output.stderr.is_empty(), "{}", output.stderr);
    let lines = output.stdout.lines().filter(|line| !line.starts_with('#')).map(str::to_owned);
    Ok((output.status.code(), lines.collect()))
}

fn nothing(host: &Host) -> Result<()> {
    let output = host.command("plan", &[])?.output()?;
    ensure!(output.status.code() == Some(0), "{}{}", output.stdout, output.stderr);
    ensure!(output.stdout.is_empty(), "{}", output.stdout);
    Ok(())
}

fn json(host: &Host) -> Result<Value> {
    let output = host.command("plan", &[])?.args(["--output", "json"]).output()?;
    serde_json::from_str(&output.stdout).with_context(|| output.stderr)
}

fn kernel(host: &Host) -> Result<Snapshot> {
    Ok(Snapshot::take(host.ns())?.written())
}

fn sh(host: &Host, script: &str) -> Result<String> {
    host.ns().command("sh").args(["-ec", script]).run()
}

/// The rules of a chain as `iptables-save` prints them.
fn rules(host: &Host, iptables: &str, table: &str, chain: &str) -> Result<Vec<String>> {
    let text = sh(host, &format!("{iptables}-save -t {table}"))?;
    let begin = format!("-A {chain} ");
    Ok(text.lines().filter(|line| line.starts_with(&begin)).map(str::to_owned).collect())
}

/// Does by hand what the plan says, with the tools that it names.
fn carry_out(host: &Host) -> Result<()> {
    let plan = json(host)?;
    let lines = |key: &str, field: &str| -> Vec<String> {
        let list = plan[key].as_array().into_iter().flatten();
        list.map(|item| item.get(field).unwrap_or(item).as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let feed = |program: &str, args: &[&str], text: String| -> Result<()> {
        host.ns().command(program).args(args).input(text).run().map(drop)
    };
    let ipset = |key: &str| -> Result<()> {
        match lines(key, "").join("\n") {
            text if text.is_empty() => Ok(()),
            text => feed("ipset", &["restore", "-exist"], text + "\n"),
        }
    };
    for key in ["nftables", "groups", "nftables_after"] {
        if key == "groups" {
            for change in plan[key].as_array().into_iter().flatten() {
                let (interface, group) = (change["interface"].as_str(), &change["to"]);
                sh(host, &format!("ip link set {} group {group}", interface.unwrap_or("?")))?;
            }
            continue;
        }
        let text = lines(key, "").join("\n");
        if !text.is_empty() {
            feed("nft", &["-f", "-"], text + "\n")?;
        }
    }
    ipset("sets_before")?;
    for (program, text) in lines("tables", "program").iter().zip(lines("tables", "text")) {
        feed(program, &["--noflush"], text)?;
    }
    ipset("sets_after")?;
    for command in lines("routes", "command") {
        sh(host, &command)?;
    }
    for (path, value) in lines("sysctls", "path").iter().zip(lines("sysctls", "to")) {
        sh(host, &format!("echo {value} > {path}"))?;
    }
    Ok(())
}

/// Tampers, expects exactly `expected` (each line contains its text), and mends by the plan's words.
fn tampered(host: &Host, script: &str, expected: &[&str]) -> Result<()> {
    sh(host, script)?;
    let (code, lines) = plan(host)?;
    ensure!(code == Some(2), "{script}: {code:?} {lines:#?}");
    let right = lines.len() == expected.len()
        && lines.iter().zip(expected).all(|(line, text)| line.contains(text));
    ensure!(right, "{script}: {lines:#?}\ninstead of {expected:#?}");
    carry_out(host).with_context(|| format!("{script}: {lines:#?}"))?;
    nothing(host).with_context(|| format!("after {script} was mended"))
}

/// Rules, a jump and sets of iptables: only what is missing comes back, in its place.
fn tables_are_mended(host: &Host, iptables: &str) -> Result<()> {
    // A rule of ours: that one comes back in its place.
    let chain = "cali-wl-to-host";
    let whole = rules(host, iptables, "filter", chain)?;
    ensure!(whole.len() > 3, "{whole:#?}");
    let back = format!("-I {chain} 2 -m comment --comment \"cali:");
    tampered(host, &format!("{iptables} -D {chain} 2"), &["*filter", &back, "COMMIT"])?;
    ensure!(rules(host, iptables, "filter", chain)? == whole, "not as it was");
    // The jump.
    let jump = "-I FORWARD 1 -m comment --comment \"cali:";
    tampered(host, &format!("{iptables} -D FORWARD 1"), &["*filter", jump, "COMMIT"])?;

    let pod = PODS[0];
    let (v4, interface) = (pod.v4, pod.interface());
    let member = format!("cali40local-endpoints {v4},{interface}");
    tampered(
        host,
        &format!("ipset del {member}"),
        &[&format!("add cali40local-endpoints {v4}/32,{interface}")],
    )?;
    tampered(
        host,
        "ipset add cali40local-endpoints 192.0.2.1,cali1; ipset create cali40stray hash:net",
        &["del cali40local-endpoints 192.0.2.1/32,cali1", "destroy cali40stray"],
    )
}

/// The same of a table of our own: chains come back whole, of sets the elements that are missing.
fn own_table_is_mended(host: &Host) -> Result<()> {
    let pod = PODS[0];
    let (v4, interface) = (pod.v4, pod.interface());
    let element = format!("{{ \"{interface}\" . {v4} }}");
    let groups = own_table::groups(host.ns())?;
    let group = groups.iter().find(|(name, _)| *name == interface).context("no group")?;
    let group: u32 = group.1.parse()?;
    for (damage, expected) in [
        (
            "nft flush chain inet calico drop-to-pod".to_owned(),
            vec!["flush chain inet calico drop-to-pod", "chain drop-to-pod {", "counter drop"],
        ),
        // A base chain: it leads to all others.
        (
            "nft insert rule inet calico forward-to-pod accept".to_owned(),
            vec!["flush chain inet calico forward-to-pod", "goto to-pod"],
        ),
        (
            format!("nft delete element inet calico pods4 '{element}'"),
            vec![&format!("add element inet calico pods4 {element}")[..]],
        ),
        (
            "nft add element inet calico pods4 '{ \"cali1\" . 192.0.2.1 }'; \
             nft add set inet calico stray '{ type ipv4_addr; }'; nft add chain inet calico strange"
                .to_owned(),
            vec![
                "flush chain inet calico strange",
                "delete element inet calico pods4 { \"cali1\" . 192.0.2.1 }",
                "delete set inet calico stray",
                "delete chain inet calico strange",
            ],
        ),
        (
            format!("ip link set {interface} group 77"),
            vec![&format!("ip link set {interface} group {group:#x}")[..]],
        ),
    ] {
        let whole = own_table::lines(host.ns())?;
        sh(host, &damage)?;
        ensure!(own_table::lines(host.ns())? != whole, "{damage}: nothing changed");
        let (code, lines) = plan(host)?;
        let said = |text: &&str| lines.iter().any(|line| line.contains(text));
        ensure!(code == Some(2) && expected.iter().all(said), "{damage}: {lines:#?}");
        // And of nothing else: only one chain is made, and no more commands than those.
        let commands = ["flush ", "add ", "delete ", "ip link "];
        let is_command = |line: &&String| commands.iter().any(|c| line.starts_with(c));
        let of_expected = expected.iter().filter(|e| commands.iter().any(|c| e.starts_with(c)));
        ensure!(
            lines.iter().filter(is_command).count() == of_expected.count()
                && lines.iter().filter(|line| line.contains("chain ") && !is_command(line)).count()
                    <= 1,
            "{damage}: {lines:#?}"
        );
        carry_out(host).with_context(|| format!("{damage}: {lines:#?}"))?;
        nothing(host).with_context(|| format!("after {damage} was mended"))?;
        ensure!(own_table::lines(host.ns())? == whole, "{damage}: not as it was");
    }
    Ok(())
}

/// The chains that a plan makes: those of one policy, in the table of pods, in each family.
fn chains_of(plan: &Value, flavour: Flavour) -> Result<Vec<String>> {
    let mut chains: Vec<String> = Vec::new();
    if flavour.is_nftables() {
        let lines = plan["nftables"].as_array().context("no commands")?.iter();
        let named = lines.filter_map(|line| line.as_str()?.trim().strip_prefix("chain "));
        chains.extend(named.map(|name| name.trim_end_matches(" {").to_owned()));
        ensure!(chains.len() == 1 && chains[0].starts_with("pi-"), "{plan:#}");
        ensure!(plan["tables"] == Value::Array(Vec::new()), "{plan:#}");
        return Ok(chains);
    }
    for table in plan["tables"].as_array().context("no tables")? {
        ensure!(table["table"] == "filter", "{plan:#}");
        let text = table["text"].as_str().unwrap_or_default();
        let declared = text.lines().filter_map(|line| line.strip_prefix(':'));
        chains.extend(declared.filter_map(|line| Some(line.split(' ').next()?.to_owned())));
    }
    ensure!(chains.len() == 2 && chains.iter().all(|c| c.starts_with("cali-pi-")), "{plan:#}");
    Ok(chains)
}

fn plan_is_what_run_does(label: &str, flavour: Flavour) -> Result<()> {
    let iptables = format!("iptables-{}", flavour.iptables());
    let mut cluster = Cluster::tutorial(label, flavour)?;
    cluster.put_and_wait(&tutorial::policies())?;
    cluster.wait_until_ready()?;
    for host in &cluster.hosts {
        nothing(host).context("beside a running agent")?;
    }
    // What BIRD learns is not the plan's doing.
    cluster.wait_for_routes()?;
    cluster.hosts[0].stop_agent()?;
    let host = &cluster.hosts[0];
    let before = kernel(host)?;
    nothing(host).context("after the agent was stopped")?;
    let after = kernel(host)?;
    ensure!(before == after, "plan changed: {:#?}", before.difference(&after));

    match flavour {
        Flavour::Nftables => own_table_is_mended(host)?,
        _ => tables_are_mended(host, &iptables)?,
    }

    let pod = PODS[0];
    let (v4, v6, interface) = (pod.v4, pod.v6, pod.interface());
    tampered(
        host,
        &format!("ip route del {v4}/32"),
        &[&format!("ip route add {v4}/32 dev {interface} proto 80 scope link")],
    )?;
    tampered(
        host,
        &format!("ip -6 route del {v6}/128"),
        &[&format!("ip -6 route add {v6}/128 dev {interface} proto 80")],
    )?;
    let mac = pod.mac;
    tampered(
        host,
        &format!("ip neigh del {v4} dev {interface}"),
        &[&format!("ip neigh replace {v4} lladdr {mac} dev {interface} nud permanent")],
    )?;
    tampered(
        host,
        &format!("ip route add 192.0.2.7/32 dev {interface} proto 99"),
        &[&format!("ip route del 192.0.2.7/32 dev {interface} proto 99 scope link")],
    )?;
    let file = format!("/proc/sys/net/ipv4/conf/{interface}/proxy_arp");
    tampered(host, &format!("echo 0 > {file}"), &[&format!("{file} = 1   # is 0")])?;
    let global = "/proc/sys/net/ipv4/ip_forward";
    let undo = format!("{global} = 1   # is 0");
    // Switching it off switches it off for every interface.
    sh(host, &format!("echo 0 > {global}"))?;
    let (code, lines) = plan(host)?;
    ensure!(code == Some(2) && lines[0] == undo, "{lines:#?}");
    carry_out(host)?;
    nothing(host)?;

    let config = host.state_dir().join("bird/bird.cfg");
    let text = std::fs::read_to_string(&config)?;
    let line = text.lines().find(|line| line.starts_with("router id")).context("no router id")?;
    std::fs::write(&config, text.replace(line, "router id 10.9.9.9;"))?;
    let (code, lines) = plan(host)?;
    let changed: Vec<&String> = lines
        .iter()
        .filter(|l| l.starts_with(['-', '+']) && !l.starts_with("---") && !l.starts_with("+++"))
        .collect();
    ensure!(
        code == Some(2) && changed == ["-router id 10.9.9.9;", &format!("+{line}")],
        "{lines:#?}"
    );
    std::fs::write(&config, &text)?;
    nothing(host)?;

    // A policy that changes while nobody carries it out: its chains, and then `run` does it.
    let deny = tutorial::policies().into_iter().find(|(key, _)| key.contains("backend-ports"));
    let (key, value) = deny.context("no such policy")?;
    let revision = cluster.etcd.put(&key, &value.replace("\"Allow\"", "\"Deny\""))?;
    let plan = json(host)?;
    ensure!(plan["revision"] == revision, "{plan:#}");
    let chains = chains_of(&plan, flavour)?;
    for empty in ["sets_before", "sets_after", "routes", "sysctls"] {
        ensure!(plan[empty].as_array().is_some_and(Vec::is_empty), "{empty}: {plan:#}");
    }
    cluster.hosts[0].start_agent()?;
    let host = &cluster.hosts[0];
    cluster.wait_for_revision(host, revision)?;
    cluster.wait_until_ready()?;
    nothing(host).context("after the agent did it")?;
    if flavour.is_nftables() {
        let there = own_table::rules(host.ns())?;
        let drops = |(chain, rule): &(String, String)| {
            *chain == chains[0] && rule.ends_with("goto drop-to-pod")
        };
        ensure!(there.iter().any(drops), "{there:#?}");
    } else {
        for family in ["iptables", "ip6tables"] {
            let program = format!("{family}-{}", flavour.iptables());
            let there = rules(host, &program, "filter", &chains[0])?;
            ensure!(there.iter().any(|rule| rule.ends_with("-g cali-drop-to-wl")), "{there:#?}");
        }
    }

    // It could not tell.
    cluster.etcd.stop()?;
    let output = cluster.hosts[0].command("plan", &[])?.output()?;
    ensure!(output.status.code() == Some(1) && output.stdout.is_empty(), "{}", output.stdout);
    ensure!(output.stderr.contains("datastore"), "{}", output.stderr);
    let output = cluster.hosts[0].command("plan", &[])?.arg("--nonsense").output()?;
    ensure!(output.status.code() == Some(64), "{:?}", output.status);
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: plan_is_what_run_does, "pla";
}

fn a_host_before_its_first_agent(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::on(label, flavour)?;
    // Nobody has said that the store is ready.
    let output = cluster.hosts[0].command("plan", &[])?.output()?;
    ensure!(output.status.code() == Some(1), "{}", output.stdout);

    cluster.etcd.put_all(&tutorial::base())?;
    // The other host's agent makes it ready.
    cluster.hosts[1].start_agent()?;
    let name = cluster.hosts[0].spec.name;
    for pod in PODS.iter().filter(|pod| pod.host == name) {
        cluster.place_pod(pod)?;
    }
    let host = &cluster.hosts[0];
    cluster.hosts[1].read_back()?;
    let before = kernel(host)?;
    let all = wait::until("a plan for everything", calico_e2e::cluster::CONVERGENCE, || {
        let plan = json(host);
        let key = if flavour.is_nftables() { "nftables" } else { "tables" };
        Ok(plan.ok().filter(|plan| !plan[key].as_array().is_none_or(Vec::is_empty)))
    })?;
    let after = kernel(host)?;
    ensure!(before == after, "plan changed: {:#?}", before.difference(&after));
    for dir in [host.run_dir(), host.state_dir()] {
        ensure!(std::fs::read_dir(&dir)?.next().is_none(), "plan wrote to {}", dir.display());
    }
    let text = all.to_string();
    let of_policy = match flavour {
        Flavour::Nftables => ["chain forward-to-pod", "set pods4"],
        _ => ["cali-FORWARD", "create cali40local-endpoints"],
    };
    for part in of_policy.into_iter().chain(["ip route add", "router id"]) {
        ensure!(text.contains(part), "no {part} in {all:#}");
    }
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: a_host_before_its_first_agent, "plf";
}
