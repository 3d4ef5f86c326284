//! Where commands are typed: a booted machine in the place of the first host of the tutorial.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::machine::{self, Image, Machine};
use calico_e2e::tutorial::{self, PODS};
use calico_e2e::{package, run};

const SOON: Duration = Duration::from_secs(20);

/// What stands in the place of calico/node.
const CALICO_NODE: &str =
    "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";
/// What `denied` needs.
const DROP_IN: &str = "[Service]\nEnvironment=FELIX_DENIEDLOG=true\n";
const POLICY: &str = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\n\
    metadata: {name: default.new}\nspec: {selector: all(), types: [Ingress], ingress: [{action: Allow}]}\n";

/// Exit codes that tell of the host and not of the call.
const TELLING: [(&str, &[i32]); 4] = [
    ("calico-agent status", &[0, 3]),
    ("calico-agent node", &[0, 3]),
    ("calico-agent plan", &[0, 2]),
    ("calico-agent explain", &[0, 6, 7]),
];

/// The machine, dropped before what it stands in.
pub(crate) struct World {
    machine: Machine,
    cluster: Cluster,
}

impl World {
    /// A machine with the package in its directory, and etcd; `None`, saying why, where none can be
    /// booted.
    pub(crate) fn new() -> Result<Option<Self>> {
        if let Some(program) = package::missing().or_else(machine::missing) {
            #[expect(clippy::print_stderr, reason = "a skipped test says so")]
            {
                eprintln!("skipped: {program} is not installed (scripts/setup --tests)");
            }
            return Ok(None);
        }
        if !run::can_run() {
            return Ok(None);
        }
        let cluster = Cluster::new("cmds")?;
        cluster.etcd.put_all(&tutorial::base())?;
        let dir = cluster.run().dir().join("package");
        let package = package::build(&dir, "0.1.0")?;
        let name = package.file_name().context("a file")?.to_string_lossy().into_owned();
        let image = Image::new(cluster.run(), "cmds")?.with_sysctls();
        image.write(&format!("/root/target/deb/{name}"), std::fs::read(&package)?)?;
        std::fs::remove_dir_all(&dir)?;
        image.write("/etc/hostname", format!("{}\n", cluster.hosts[0].spec.name))?;
        image.write("/etc/systemd/system/calico-node.service", CALICO_NODE)?;
        image.write("/etc/systemd/system/calico-agent.service.d/test.conf", DROP_IN)?;
        image.write("/root/new-policy.yaml", POLICY)?;
        let machine = image.boot(cluster.hosts[0].ns())?;
        Ok(Some(Self { machine, cluster }))
    }

    /// The second host, and the pods of the tutorial on both.
    pub(crate) fn populate(&mut self) -> Result<()> {
        let second = self.cluster.host("calico-02")?;
        second.start_agent()?;
        second.start_bird(SOON)?;
        for pod in &PODS {
            self.cluster.place_pod(pod)?;
        }
        self.cluster.check(false).with_context(|| self.machine.journal("calico-agent"))
    }

    /// Types a command of a document, with what is here in the place of its examples.
    pub(crate) fn type_in(&self, place: &str, command: &str) -> Result<()> {
        let mut typed = self.filled(command);
        let open = typed.find('<').map(|at| &typed[at + 1..]);
        let open = open.filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
        ensure!(open.is_none(), "{place}: nothing stands for a word of {typed}");
        // It would go on for ever.
        let endless = typed.contains(" --follow") || typed.contains(" -f ");
        if endless {
            typed = format!("timeout 2 {typed}");
        }
        let output = self.machine.type_in(&typed)?;
        let code = output.status.code().context("ended by a signal")?;
        let telling = TELLING.iter().find(|(begin, _)| command.starts_with(begin));
        let mut right = telling.map_or([0].as_slice(), |(_, codes)| codes).to_vec();
        right.extend(endless.then_some(124));
        ensure!(
            right.contains(&code),
            "{place}: {typed}\nended with {code}: {}\n{}",
            output.stdout,
            self.machine.journal("calico-agent")
        );
        Ok(())
    }

    fn filled(&self, command: &str) -> String {
        let [first, second] = [0, 1].map(|index| self.cluster.hosts[index].spec.v4.to_string());
        let etcd = self.cluster.etcd.endpoint();
        let authority = etcd.trim_start_matches("http://");
        let session = format!("Mesh_{}", second.replace('.', "_"));
        let pod = PODS[0].container_id;
        let mut text = command.to_owned();
        for (example, here) in [
            ("http://10.0.0.1:2379", etcd),
            ("10.0.0.11", &first),
            ("<its address>", &first),
            ("<where etcd is>", authority),
            ("<address>", &second),
            ("<session>", &session),
            ("<pod>", pod),
            ("<uuid>", pod),
            ("<number>", "1"),
            ("…", "x"),
        ] {
            text = text.replace(example, here);
        }
        text
    }
}
