//! Mutual TLS with an authority of our own.

use std::path::Path;

use calico_datastore::backend::etcd3::{Etcd3, Etcd3Config};
use tempfile::TempDir;

use crate::support::*;

/// Runs openssl; false when there is none.
#[allow(clippy::disallowed_methods, reason = "a tool of the test, not of the agent")]
fn openssl(dir: &Path, args: &str) -> bool {
    let run = std::process::Command::new("openssl")
        .args(args.split_whitespace())
        .current_dir(dir)
        .output();
    match run {
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "openssl {args}: {stderr}");
            true
        }
        Err(error) => {
            eprintln!("skipped: openssl: {error}");
            false
        }
    }
}

/// An authority `ca` and what it signed: `server` and `client`. And `other`, which it did not.
fn authority(dir: &Path) -> bool {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    for name in ["ca", "other"] {
        let made = openssl(
            dir,
            &format!("req -x509 {key} -keyout {name}.key -out {name}.pem -subj /CN={name}"),
        );
        if !made {
            return false;
        }
    }
    for name in ["server", "client"] {
        openssl(
            dir,
            &format!("req -new {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"),
        );
        std::fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
        openssl(
            dir,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                 -extfile ext -out {name}.pem"
            ),
        );
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls_works_and_its_failures_are_told() {
    let dir = TempDir::new().unwrap();
    if !authority(dir.path()) {
        return;
    }
    let path = |name: &str| dir.path().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    let (ca, cert, key) = (text("ca.pem"), text("server.pem"), text("server.key"));
    let args = [
        "--cert-file",
        &cert,
        "--key-file",
        &key,
        "--trusted-ca-file",
        &ca,
        "--client-cert-auth=true",
    ];
    let access = Etcd3Config {
        ca_cert: Some(path("ca.pem")),
        cert: Some(path("client.pem")),
        key: Some(path("client.key")),
        ..Etcd3Config::default()
    };
    let Some(etcd) = etcd_with(&args, "https", access).await else { return };
    etcd.client().put(READY_KEY, READY).await.unwrap();
    let mut reader = etcd.follow();
    reader.changes().await;
    etcd.client().put(&profile_key("a"), &value(1)).await.unwrap();
    assert_eq!(reader.changes().await.updates.len(), 1);

    let wrong = [
        (
            "another authority",
            "ETCD_CA_CERT_FILE",
            Etcd3Config { ca_cert: Some(path("other.pem")), ..etcd.config() },
        ),
        (
            "no certificate",
            "ETCD_CERT_FILE",
            Etcd3Config { cert: None, key: None, ..etcd.config() },
        ),
        (
            "a certificate of another authority",
            "ETCD_CERT_FILE",
            Etcd3Config {
                cert: Some(path("other.pem")),
                key: Some(path("other.key")),
                ..etcd.config()
            },
        ),
        (
            "no such file",
            "none.pem",
            Etcd3Config { ca_cert: Some(path("none.pem")), ..etcd.config() },
        ),
    ];
    for (what, names, config) in wrong {
        let error = Etcd3::new(config).unwrap().get(READY_KEY).await.expect_err(what);
        let said = error.chain();
        eprintln!("{what}: {said}");
        assert!(said.contains(names), "{what}: {said}");
        assert!(what == "no such file" || said.contains("127.0.0.1"), "{what}: {said}");
    }
}
