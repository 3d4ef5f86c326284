//! Keys for etcd that the agent itself may not read, handed over by systemd: the example of
//! `packaging/etcd-credentials.conf.example`, beside an etcd that lets nobody in without a certificate.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::document;
use calico_e2e::machine::{self, Image, Machine};
use calico_e2e::process::Command;
use calico_e2e::{run, wait};

const SOON: Duration = Duration::from_secs(20);
/// Not the port of the cluster's own etcd, which anybody may ask.
const PORT: u16 = 12379;
/// Whom the keys belong to: nobody that the agent is.
const OWNER: u32 = 4711;

/// An authority, and what it signed for an etcd at `address` and for this host.
fn authority(dir: &Path, address: &str) -> Result<()> {
    let openssl = |args: &str| -> Result<()> {
        let command = Command::new("openssl").args(args.split_whitespace());
        command.dir(dir).run().map(drop)
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=ca"))?;
    std::fs::write(dir.join("ext"), format!("subjectAltName=IP:{address}\n"))?;
    for name in ["server", "client"] {
        openssl(&format!("req -new {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"))?;
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -extfile ext -out {name}.pem"
        ))?;
    }
    Ok(())
}

/// The agent is started, and what it says after a while.
fn status(machine: &Machine, wanted: &str) -> Result<()> {
    machine.run(&["systemctl", "restart", "--no-block", "calico-agent"])?;
    wait::until(wanted, SOON, || {
        let state = machine.property("calico-agent", "ActiveState")?;
        let said = state + &machine.journal("calico-agent");
        Ok(said.contains(wanted).then_some(()))
    })
    .with_context(|| machine.journal("calico-agent"))
}

#[test]
fn keys_come_from_systemd() -> Result<()> {
    if machine::missing().is_some() || !run::can_run() {
        return Ok(());
    }
    let cluster = Cluster::new("cred")?;
    let (first, second) = (&cluster.hosts[0], &cluster.hosts[1]);
    let dir = cluster.run().dir().join("certs");
    std::fs::create_dir(&dir)?;
    let address = second.spec.v4.to_string();
    authority(&dir, &address)?;
    let url = format!("https://{address}:{PORT}");
    let etcd = second.ns().command("etcd").args(["--listen-client-urls", &url]);
    let etcd = etcd.args(["--advertise-client-urls", &url, "--client-cert-auth"]);
    let etcd = etcd.arg("--trusted-ca-file").arg(dir.join("ca.pem"));
    let etcd = etcd.arg("--cert-file").arg(dir.join("server.pem"));
    let etcd = etcd.arg("--key-file").arg(dir.join("server.key"));
    let etcd = etcd.arg("--data-dir").arg(dir.join("data"));
    let _etcd = etcd.start(&dir.join("etcd.log"))?;

    let image = Image::new(cluster.run(), "cred")?;
    image.install_agent()?;
    image.write("/etc/hostname", format!("{}\n", first.spec.name))?;
    for (from, to) in [("ca.pem", "ca.pem"), ("client.pem", "cert.pem"), ("client.key", "key.pem")]
    {
        image.write(&format!("/etc/calico/certs/{to}"), std::fs::read(dir.join(from))?)?;
    }
    let names = [("CA_CERT", "ca"), ("CERT", "cert"), ("KEY", "key")];
    let files =
        names.map(|(name, file)| format!("ETCD_{name}_FILE=/etc/calico/certs/{file}.pem\n"));
    let plain = format!("ETCD_ENDPOINTS={url}\nIP={address}/24\n", address = first.spec.v4);
    image.write("/etc/calico/calico.env", format!("{plain}{}", files.concat()))?;
    let machine = image.boot(first.ns())?;
    machine.run(&["chown", "-R", &OWNER.to_string(), "/etc/calico/certs"])?;
    machine.run(&["chmod", "0600", "/etc/calico/certs/key.pem"])?;

    // The files themselves: root without the right to read what is another's.
    status(&machine, "Permission denied")?;
    ensure!(machine.property("calico-agent", "ActiveState")? != "active");

    // The same files, handed over.
    let root = machine.root();
    std::fs::write(root.join("etc/calico/calico.env"), plain)?;
    for command in document::block("docs/install.md", "sh", "etcd-credentials.conf")?.commands() {
        let said = machine.type_in(&command)?;
        ensure!(said.status.success(), "{command}: {said:?}");
    }
    machine.wait_for_unit("calico-agent", "active", SOON)?;
    Ok(())
}
