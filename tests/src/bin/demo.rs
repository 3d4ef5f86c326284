//! `calico-demo`: two hosts out of network namespaces, and a table of what passes between the pods.
//!
//! `make demo` runs it. Ends with 0 when everything is as it should be, with 1 when not.
#![expect(clippy::print_stdout, reason = "it talks to the terminal")]

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use calico_e2e::cluster::{Cluster, OUTSIDE_V4};
use calico_e2e::host::{Flavour, agent_binary};
use calico_e2e::kernel::{self, Chains};
use calico_e2e::matrix::Family;
use calico_e2e::process::Command;
use calico_e2e::run;
use calico_e2e::server::Server;
use calico_e2e::tutorial::{self, DNS, HOSTS, HTTP, OTHER, PODS, PodSpec};
use clap::Parser;

#[derive(Parser)]
#[command(name = "calico-demo", about = "Two hosts out of network namespaces")]
struct Cli {
    /// Add tiers and policies, and show the table before and after.
    #[arg(long)]
    policy: bool,
    /// Leave everything running and say what to try next.
    #[arg(long)]
    keep: bool,
    /// Which iptables the agents program.
    #[arg(long, value_enum, default_value = "auto")]
    flavour: Flavour,
    #[command(subcommand)]
    command: Option<Sub>,
}

#[derive(clap::Subcommand)]
enum Sub {
    /// Remove a demo that was kept, or all that are not running any more.
    Clean {
        /// Its name, as `--keep` printed it; without: all that were kept.
        run: Option<String>,
    },
    /// Answer in a namespace until killed (what `--keep` leaves in the pods).
    #[command(hide = true)]
    Serve {
        netns: String,
        #[arg(required = true)]
        addresses: Vec<std::net::IpAddr>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        None => demo(&cli),
        Some(Sub::Clean { run }) => {
            clean(run.as_deref());
            Ok(true)
        }
        Some(Sub::Serve { netns, addresses }) => serve(netns, addresses),
    };
    // What an interrupt pulled from under the demo is no failure of the demo: its clean-up ends us.
    run::stop_if_interrupted();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("calico-demo: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn demo(cli: &Cli) -> Result<bool> {
    let begin = Instant::now();
    let step = |text: &str| println!("{:5.1} s  {text}", begin.elapsed().as_secs_f64());
    let agent = agent_binary()?;

    let mut cluster = Cluster::new("demo")?;
    let name = cluster.run().name().to_owned();
    step(&format!("two hosts and an outsider on one wire: namespaces {name}-…"));
    step(&format!("etcd at {}", cluster.etcd.endpoint()));
    let base = tutorial::before_pods();
    cluster.etcd.put_all(&base)?;
    step(&format!("{} keys: nodes, one pool a family, BGP", base.len()));
    cluster.start_agents(cli.flavour)?;
    step(&format!("an agent ({}) and BIRD on each host", agent.display()));
    for pod in &PODS {
        cluster.add_pod(pod)?;
        let PodSpec { name, host, network, v4, v6, .. } = pod;
        step(&format!("pod {name} on {host}, network {network}, by the plugin: {v4} and {v6}"));
    }
    // A pod that is never reported still gets its row in the table: that says more than an error.
    match cluster.wait_until_programmed() {
        Ok(()) => step("the agents say that all four pods are programmed"),
        Err(error) => step(&format!("NOT programmed: {error:#}")),
    }
    for host in &cluster.hosts {
        step(&format!("{}: the kernel holds {}", host.spec.name, kernel::chains(host.ns())?));
    }

    println!(
        "\nA row asks, a column answers. Each cell: what passes = what should, ≠ if they differ;"
    );
    println!(
        "h tcp {HTTP} (backends call it http), t tcp {OTHER}, u udp {DNS}, i icmp echo, ✓ all, · none."
    );
    let mut right = tables(&cluster, false)?;
    if cli.policy {
        let policies = tutorial::policies();
        cluster.etcd.put_all(&policies)?;
        println!();
        step(&format!(
            "{} keys: tier security before tier default, three policies:",
            policies.len()
        ));
        println!("         backend-2 is in quarantine, no UDP from frontends (security);");
        println!("         frontends reach backends by TCP on the port called http (default).");
        right &= tables(&cluster, true)?;
    }
    for host in &cluster.hosts {
        println!("\n$ calico-agent status    # on {}", host.spec.name);
        match host.status_text() {
            Ok(text) => println!("{}", text.trim_end()),
            Err(error) => {
                println!("{error:#}");
                right = false;
            }
        }
    }
    println!();
    let verdict = if right { "everything is as it should be" } else { "NOT as it should be" };
    step(verdict);
    if !right {
        println!("\n{}", cluster.logs());
    }
    if cli.keep {
        keep(cluster)?;
    }
    Ok(right)
}

fn tables(cluster: &Cluster, policy: bool) -> Result<bool> {
    let mut right = true;
    for (family, name) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        let begin = Instant::now();
        let measured = cluster.measure(&tutorial::expected(policy, family)?, family)?;
        let (asked, silent) = measured.counts();
        let with = if policy { "with policies" } else { "profiles only" };
        let seconds = begin.elapsed().as_secs_f64();
        println!("\n{name}, {with}: {asked} questions, {silent} unanswered, {seconds:.1} s");
        print!("{measured}");
        let differences = measured.differences();
        differences.iter().for_each(|difference| println!("≠ {difference}"));
        right &= differences.is_empty();
    }
    Ok(right)
}

/// Leaves everything running, with servers in processes of their own.
fn keep(mut cluster: Cluster) -> Result<()> {
    let program = std::env::current_exe()?;
    let run_dir = cluster.run().dir().to_owned();
    for site in cluster.sites() {
        cluster.stop_server(&site.name);
        let addresses = [site.v4.to_string(), site.v6.to_string()];
        let command = Command::new(&program).arg("serve").arg(&site.netns).args(addresses);
        let ns = cluster.netns(&site.name)?;
        command.within(ns).start(&run_dir.join("serve.log"))?.keep();
    }
    let run = cluster.run().name().to_owned();
    let agent = agent_binary()?;
    let host = cluster.hosts.first().context("no host")?;
    let backend = tutorial::pod("backend-2").context("no pod")?;
    println!("\nLeft running. Try:");
    println!("\n  # a shell in a pod, and on a host");
    let frontend = cluster.pod("frontend-1")?.ns().path();
    let frontend = frontend.display();
    println!("  nsenter --net={frontend} bash");
    println!("  nsenter --net=/run/netns/{run}-{} bash", HOSTS[0].name);
    println!("  # does frontend-1 reach backend-2? (the answer is the address it is seen under)");
    println!("  nsenter --net={frontend} \\");
    println!("      timeout 1 bash -c 'cat </dev/tcp/{}/{HTTP}' && echo \" reached\"", backend.v4);
    println!("  # masquerade: the outside sees the host");
    println!("  nsenter --net={frontend} \\");
    println!("      timeout 1 bash -c 'cat </dev/tcp/{OUTSIDE_V4}/{HTTP}' && echo");
    println!("  # what the agent says, and what the kernel holds");
    println!("  {} status --run-dir {}", agent.display(), host.run_dir().display());
    let chains = kernel::chains(host.ns())?;
    let show = match chains {
        Chains { own: 1.., .. } => "nft list table inet calico",
        Chains { nft: 1.., .. } => "iptables-nft-save",
        Chains { .. } => "iptables-legacy-save",
    };
    println!("  nsenter --net=/run/netns/{run}-calico-01 {show}");
    println!("  nsenter --net=/run/netns/{run}-calico-01 ip route");
    println!("  birdc -s {} show protocols", host.bird_socket().display());
    println!("  less {}", host.agent_log().display());
    println!("  # the datastore; a pod's endpoint deleted is a pod cut off");
    let etcdctl = format!(
        "nsenter --net=/run/netns/{run}-wire env ETCDCTL_API=3 etcdctl --endpoints={}",
        cluster.etcd.endpoint()
    );
    println!("  {etcdctl} get --prefix --keys-only /calico");
    println!("  {etcdctl} del {}", backend.endpoint().key());
    println!("  # the end");
    println!("  {} clean {run}", program.display());
    cluster.keep()
}

fn clean(run: Option<&str>) {
    run::sweep();
    for (name, kept) in run::list() {
        if run.map_or(kept, |run| run == name) {
            run::destroy(&name);
            println!("removed {name}");
        }
    }
}

fn serve(netns: &str, addresses: &[std::net::IpAddr]) -> Result<bool> {
    let _server = Server::start(netns, addresses, &[HTTP, OTHER], &[DNS])?;
    loop {
        std::thread::park();
    }
}
