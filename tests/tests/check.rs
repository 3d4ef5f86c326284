//! `calico-agent check`: finds what is planted, says nothing of a host that lacks nothing, and
//! leaves the kernel as it is.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::{CONVERGENCE, Cluster};
use calico_e2e::host::{Flavour, Host};
use calico_e2e::kernel::Snapshot;
use calico_e2e::process::{Command, Output, Process};
use calico_e2e::{run, wait};
use serde_json::Value;

/// What `check` said.
struct Said {
    code: Option<i32>,
    findings: Vec<Value>,
}

impl Said {
    fn of(command: &Command) -> Result<Self> {
        let Output { status, stdout, stderr } =
            command.clone().args(["--output", "json"]).output()?;
        let findings: Vec<Value> = serde_json::from_str(&stdout)
            .with_context(|| format!("{status}\n{stdout}\n{stderr}"))?;
        ensure!(findings.len() > 20, "{findings:#?}");
        Ok(Self { code: status.code(), findings })
    }

    /// Everything that is not ok, a line each.
    fn alarms(&self) -> Vec<String> {
        let bad = self.findings.iter().filter(|finding| finding["level"] != "ok");
        bad.map(|finding| {
            let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
            let (group, level) = (text("group"), text("level"));
            format!(
                "{level} {group} {}: {} \u{2014} {}",
                text("what"),
                text("finding"),
                text("advice")
            )
        })
        .collect()
    }

    /// Fails unless the one alarm begins so, and says so.
    fn only(&self, begins: &str, contains: &str) -> Result<()> {
        let alarms = self.alarms();
        let right = |line: &String| line.starts_with(begins) && line.contains(contains);
        ensure!(!alarms.is_empty() && alarms.iter().all(right), "{begins} {contains}: {alarms:#?}");
        let expected = i32::from(begins.starts_with("fail"));
        ensure!(self.code == Some(expected), "{:?} with {alarms:#?}", self.code);
        // Nobody is left alone with a finding.
        ensure!(alarms.iter().all(|line| !line.ends_with("\u{2014} ")), "{alarms:#?}");
        Ok(())
    }

    /// Without what the agent of the host says of itself: it may have noticed by now what is wrong.
    fn beside_the_agents_word(mut self) -> Self {
        let word = |finding: &Value| {
            let said = finding["finding"].as_str().unwrap_or_default();
            finding["group"] == "agents" && said.contains("is degraded")
        };
        self.findings.retain(|finding| !word(finding));
        self
    }

    fn nothing(&self) -> Result<()> {
        ensure!(self.alarms().is_empty() && self.code == Some(0), "{:#?}", self.alarms());
        Ok(())
    }
}

fn check(host: &Host) -> Result<Said> {
    Said::of(&host.command("check", &[])?)
}

/// The same host with `script` having run in its namespace; undone by `undo`.
fn planted(host: &Host, script: &str, undo: &str, begins: &str, contains: &str) -> Result<()> {
    let sh = |script: &str| host.ns().command("sh").args(["-ec", script]).run();
    sh(script)?;
    let said = check(host)?;
    sh(undo)?;
    said.only(begins, contains).with_context(|| script.to_owned())?;
    check(host)?.nothing().with_context(|| format!("after {undo}"))
}

#[test]
fn a_host_before_its_first_agent() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let mut cluster = Cluster::new("chkclean")?;
    let host = &mut cluster.hosts[0];
    for flavour in [Flavour::Nft, Flavour::Legacy] {
        host.flavour = flavour;
        let before = Snapshot::take(host.ns())?.written();
        check(host)?.nothing()?;
        let after = Snapshot::take(host.ns())?.written();
        ensure!(before == after, "check changed: {:#?}", before.difference(&after));
        let dirs = [host.config_dir(), host.run_dir(), host.state_dir()];
        for dir in dirs {
            ensure!(std::fs::read_dir(&dir)?.next().is_none(), "check wrote to {}", dir.display());
        }
    }
    host.flavour = Flavour::Nft;

    // What others do to packets.
    let host = &cluster.hosts[0];
    let drop = "drops what policy accepts";
    planted(
        host,
        "iptables-legacy -P FORWARD DROP",
        "iptables-legacy -P FORWARD ACCEPT",
        "fail firewall IPv4 iptables-legacy FORWARD",
        drop,
    )?;
    planted(
        host,
        "ip6tables-legacy -A FORWARD -j REJECT",
        "ip6tables-legacy -D FORWARD -j REJECT",
        "fail firewall IPv6 iptables-legacy FORWARD",
        drop,
    )?;
    let firewalld = "nft -f - <<EOF
table inet firewalld {
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    reject with icmpx admin-prohibited
  }
}
EOF";
    planted(
        host,
        firewalld,
        "nft delete table inet firewalld",
        "fail firewall nf_tables inet firewalld filter_FORWARD",
        "dropped here",
    )?;
    // In the iptables that we use it is behind what policy accepts: no alarm.
    let sh = |script: &str| host.ns().command("sh").args(["-ec", script]).run();
    sh("iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -j REJECT")?;
    check(host)?.nothing()?;
    sh("iptables-nft -F FORWARD; iptables-nft -P FORWARD ACCEPT")?;
    planted(
        host,
        "iptables-nft -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; \
         iptables-nft -P INPUT DROP",
        "iptables-nft -P INPUT ACCEPT; iptables-nft -F INPUT",
        "warn firewall IPv4 iptables-nft INPUT",
        "179",
    )?;
    planted(
        host,
        "iptables-nft -A INPUT -s 192.0.2.1 -j DROP; iptables-legacy -A INPUT -s 192.0.2.1 -j DROP",
        "iptables-nft -F INPUT; iptables-legacy -F INPUT",
        "warn firewall two iptables",
        "1 rules in iptables-legacy and 1 in iptables-nft",
    )?;
    planted(
        host,
        "iptables-nft -N felix-FORWARD",
        "iptables-nft -X felix-FORWARD",
        "warn firewall rules of Felix",
        "original",
    )?;
    // Parameters.
    planted(
        host,
        "echo 2 > /proc/sys/net/ipv4/conf/all/rp_filter",
        "echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter",
        "warn sysctls net.ipv4.conf.all.rp_filter",
        "loose",
    )?;
    Ok(())
}

#[test]
fn what_this_host_was_told_and_what_it_lacks() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let mut cluster = Cluster::new("chklack")?;
    let host = &cluster.hosts[0];
    let with = |key: &str, value: &str| -> Result<Said> {
        Said::of(&host.command("check", &[])?.env(key, value))
    };
    with("ETCD_ENDPOINTS", "")?.nothing()?;
    with("FELIX_IPV6SUPPORT", "perhaps")?.only("warn configuration Ipv6Support", "perhaps")?;
    with("FELIX_IPV6SUPORT", "true")?.only("warn configuration", "unknown name")?;
    let localhost = host.command("check", &[])?.args(["--nodename", "localhost"]);
    // Said twice, an option is a mistake of its own: a usage error, not a plan with changes.
    ensure!(localhost.output()?.status.code() == Some(64));
    std::fs::write(host.state_dir().join("nodename"), "other")?;
    check(host)?.only("warn node name", "it was other before")?;
    std::fs::remove_file(host.state_dir().join("nodename"))?;

    // Every mistake of the file at once.
    let toml = host.config_dir().join("agent.toml");
    std::fs::write(&toml, "[felix]\nnonsense = 1\n[node]\nnam = \"x\"\n")?;
    let said = check(host)?;
    said.only("fail configuration agent.toml", "unknown key")?;
    ensure!(said.alarms().len() == 2, "{:#?}", said.alarms());
    std::fs::remove_file(&toml)?;

    // A directory with every program but some.
    let dir = host.run_dir().join("bin");
    std::fs::create_dir(&dir)?;
    let path = dir.display();
    let link = format!("ln -s /usr/bin/* /usr/sbin/* {path} 2> /dev/null || true");
    Command::new("sh").args(["-ec", &link]).run()?;
    let path = path.to_string();
    with("PATH", &path)?.nothing()?;
    for (program, begins, contains) in [
        ("bird", "warn programs bird", "package bird2"),
        ("ip6tables-nft-restore", "fail", "ip6tables"),
    ] {
        std::fs::rename(dir.join(program), dir.join("away"))?;
        let said = with("PATH", &path)?;
        std::fs::rename(dir.join("away"), dir.join(program))?;
        let alarms = said.alarms();
        let found = alarms.iter().any(|line| line.starts_with(begins) && line.contains(contains));
        ensure!(found, "{program}: {alarms:#?}");
    }
    // These are not needed.
    for program in ["ipset", "conntrack"] {
        std::fs::remove_file(dir.join(program))?;
    }
    with("PATH", &path)?.nothing()?;

    // A kernel without one match: refused to whoever asks, and named.
    let real = dir.join("iptables-nft-restore");
    std::fs::rename(&real, dir.join("real-restore"))?;
    let script = format!(
        "#!/bin/sh\nt=$(cat)\ncase \"$t\" in *'-m mac'*) echo 'no match mac' >&2; exit 2;; esac\n\
         printf '%s\\n' \"$t\" | exec -a iptables-nft-restore {}/real-restore \"$@\"\n",
        dir.display()
    );
    write_program(&real, &script.replace("#!/bin/sh", "#!/bin/bash"))?;
    let said = with("PATH", &path)?;
    said.only("warn kernel IPv4 table raw: mac", "no match mac")?;
    ensure!(said.alarms().len() == 1, "{:#?}", said.alarms());

    // Without the right to program the kernel.
    let how = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];
    let said = Said::of(&host.command("check", &how)?)?;
    let alarms = said.alarms();
    let missing = |line: &String| line.starts_with("fail rights CAP_NET_ADMIN: missing");
    ensure!(alarms.iter().any(missing) && said.code == Some(1), "{alarms:#?}");
    ensure!(!alarms.iter().any(|line| line.starts_with("fail kernel")), "{alarms:#?}");
    // Where no namespace can be made, as in the unit, what was not tried is said, and nothing fails.
    let how = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"];
    Said::of(&host.command("check", &how)?)?.only("warn kernel not tried", "address sets")?;

    cluster.etcd.stop()?;
    check(&cluster.hosts[0])?.only("fail etcd http://172.18.18.1:2379", "is etcd running")?;
    cluster.etcd.start()?;
    check(&cluster.hosts[0])?.nothing()
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// An authority, a certificate for 127.0.0.1 that it signed, and another authority.
const CERTIFICATES: &str = "
cd $DIR
for ca in good bad; do
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
    -subj /CN=$ca -keyout $ca.key -out $ca.pem
done
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=etcd \
  -keyout etcd.key -out etcd.csr
echo subjectAltName=IP:127.0.0.1 > san
openssl x509 -req -in etcd.csr -CA good.pem -CAkey good.key -CAcreateserial -days 2 \
  -extfile san -out etcd.pem
";

#[test]
fn an_etcd_whose_certificate_somebody_else_signed() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let cluster = Cluster::new("chktls")?;
    let host = &cluster.hosts[0];
    let dir = host.run_dir();
    let text = |name: &str| dir.join(name).display().to_string();
    let openssl = Command::new("sh").args(["-ec", CERTIFICATES]).env("DIR", &dir);
    openssl.run()?;
    let url = "https://127.0.0.1:2379";
    let etcd = host.ns().command("etcd").args([
        "--listen-client-urls",
        url,
        "--advertise-client-urls",
        url,
        "--listen-peer-urls",
        "http://127.0.0.1:2380",
        "--cert-file",
        &text("etcd.pem"),
        "--key-file",
        &text("etcd.key"),
        "--data-dir",
        &text("etcd"),
    ]);
    let _etcd: Process = etcd.start(&host.run_dir().join("etcd.log"))?;
    let ask = |ca: &str| -> Result<Said> {
        let command = host.ns().command(calico_e2e::host::agent_binary()?).arg("check");
        let command = command.args(["--run-dir", &text("run"), "--state-dir", &text("lib")]);
        let command = command.args(["--config-dir", &text("etc"), "--nodename", "calico-01"]);
        let command = command.args(["--etcd-endpoints", url]);
        Said::of(&command.env("ETCD_CA_CERT_FILE", text(ca)))
    };
    wait::until("etcd with TLS", Duration::from_secs(10), || {
        Ok(ask("good.pem")?.nothing().is_ok().then_some(()))
    })?;
    ask("bad.pem")?.only("fail etcd https://127.0.0.1:2379", "ETCD_CA_CERT_FILE")?;
    ask("none.pem")?.only("fail etcd https://127.0.0.1:2379", "cannot read")
}

/// Makes a host with a runtime of this machine, for one program: what is written is gone with it.
const RUNTIME: &str = r#"
mount -t tmpfs none "$SCRATCH"
for dir in etc opt usr/lib; do
  mkdir -p "$SCRATCH/$dir/new" "$SCRATCH/$dir/work"
  mount -t overlay none -o "lowerdir=/$dir,upperdir=$SCRATCH/$dir/new,workdir=$SCRATCH/$dir/work" "/$dir"
done
mkdir -p /etc/rkt/net.d /usr/lib/rkt/plugins/net
cat > /etc/rkt/net.d/10-calico-network1.conf
for program in $PROGRAMS; do
  printf '#!/bin/sh\n' > "/usr/lib/rkt/plugins/net/$program"
  chmod 755 "/usr/lib/rkt/plugins/net/$program"
done
exec "$0" "$@"
"#;

#[test]
fn a_host_with_a_runtime() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let mut cluster = Cluster::new("chkcni")?;
    let scratch = cluster.run().dir().join("scratch");
    std::fs::create_dir_all(&scratch)?;
    let host = &cluster.hosts[0];
    let how = ["unshare", "--mount", "sh", "-ec", RUNTIME];
    let ask = |network: &str, programs: &str| -> Result<Said> {
        let command = host.command("check", &how)?.env("SCRATCH", &scratch);
        Said::of(&command.env("PROGRAMS", programs).input(network))
    };
    let both = "calico calico-ipam";
    let with = |store: &str, subnet: &str| {
        format!(
            r#"{{"name":"network1","type":"calico"{store},"ipam":{{"type":"calico-ipam"{subnet}}}}}"#
        )
    };
    let store = format!(r#","etcd_endpoints":"{}""#, host.etcd());
    let conf = |subnet: &str| with(&store, subnet);
    ask(&conf(""), both)?.nothing()?;
    // The agent was told on its command line, which the plugin does not see.
    ask(&with("", ""), both)?
        .only("warn cni /etc/rkt/net.d/10-calico-network1.conf", "an ADD waits for its policy")?;
    ask(&conf(r#","subnet":"192.168.0.0/16""#), both)?.nothing()?;
    ask(&conf(""), "calico")?.only("warn cni plugin: calico-ipam is not in", "/usr/lib/rkt")?;
    ask(&conf(r#","subnet":"172.18.0.0/16""#), both)?
        .only("warn cni /etc/rkt/net.d/10-calico-network1.conf", "overlaps 172.18.18.0/24")?;
    ask(&conf(","), both)?.only("warn cni /etc/rkt/net.d/10-calico-network1.conf", "is no JSON")?;
    ensure!(!Path::new("/etc/rkt").exists(), "it has not stayed within");

    // An address that is another host's.
    cluster.hosts[0].spec.v4 = cluster.hosts[1].spec.v4;
    check(&cluster.hosts[0])?.only("warn node address: IP=172.18.18.102", "no interface")
}

#[test]
fn beside_a_running_agent() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let mut cluster = Cluster::tutorial("chkrun", Flavour::Nft)?;
    cluster.wait_until_ready()?;
    // Sessions come up in their own time.
    wait::until("a host without alarms", CONVERGENCE, || {
        Ok(check(&cluster.hosts[0])?.nothing().is_ok().then_some(()))
    })?;
    let host = &mut cluster.hosts[0];
    let before = Snapshot::take(host.ns())?.written();
    check(host)?.nothing()?;
    let after = Snapshot::take(host.ns())?.written();
    ensure!(before == after, "check changed: {:#?}", before.difference(&after));

    planted(
        host,
        "ip link add calilost type veth peer name other",
        "ip link del calilost",
        "warn interfaces of pods",
        "calilost",
    )?;
    // Another agent with directories of its own.
    let other = host.run_dir().join("other");
    std::fs::create_dir(&other)?;
    let dir = |name: &str| other.join(name).display().to_string();
    let command = host.ns().command(calico_e2e::host::agent_binary()?).arg("run");
    let command = command.args(["--run-dir", &dir("run"), "--state-dir", &dir("lib")]);
    // It waits for an etcd that is not there, so it does nothing.
    let command = command.args(["--etcd-endpoints", "http://127.0.0.1:1", "--nodename", "x"]);
    let process = command.start(&other.join("agent.log"))?;
    let said = check(host)?;
    drop(process);
    said.only("fail agents calico-agent", "another one runs")?;

    // A BIRD that reads another file.
    host.stop_bird()?;
    let said = check(host)?.beside_the_agents_word();
    said.only("warn bird bird: nobody answers", "calico-bird")?;
    let copy = other.join("bird.cfg");
    std::fs::copy(host.state_dir().join("bird/bird.cfg"), &copy)?;
    let bird = host.ns().command("bird").arg("-f").arg("-c").arg(&copy).arg("-s");
    let process = bird.arg(host.bird_socket()).start(&other.join("bird.log"))?;
    let socket = host.bird_socket();
    wait::until_true("the other BIRD", Duration::from_secs(5), || socket.exists())?;
    let found = wait::until("the other file", Duration::from_secs(5), || {
        let alarms = check(host)?.alarms();
        let other = |line: &String| line.starts_with("fail bird configuration: it reads");
        Ok(alarms.iter().any(other).then_some(()))
    });
    drop(process);
    found?;
    host.start_bird(CONVERGENCE)?;

    // A rule before ours, while nobody repairs it.
    host.stop_agent()?;
    host.ns().command("iptables-nft").args(["-I", "FORWARD", "-j", "REJECT"]).run()?;
    let alarms = check(host)?.alarms();
    let rejects = |line: &String| {
        line.starts_with("fail firewall IPv4 iptables-nft FORWARD")
            && line.contains("before policy")
    };
    ensure!(alarms.iter().any(rejects), "{alarms:#?}");
    Ok(())
}
