//! TLS and etcd's access control.

use std::path::Path;

use calico_datastore::backend::etcd2::{Etcd2, Etcd2Error};
use calico_datastore::backend::etcd3::Etcd3Config;
use tempfile::TempDir;

use crate::process::etcd_with;
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

/// Authorities `ca` and `other`, and what the first signed: `server` and `client`.
fn authority(dir: &Path) -> bool {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    for name in ["ca", "other"] {
        let args = format!("req -x509 {key} -keyout {name}.key -out {name}.pem -subj /CN={name}");
        if !openssl(dir, &args) {
            return false;
        }
    }
    std::fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    for name in ["server", "client"] {
        openssl(
            dir,
            &format!("req -new {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"),
        );
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
        "--enable-v2",
        "--client-cert-auth",
        "--trusted-ca-file",
        &ca,
        "--cert-file",
        &cert,
        "--key-file",
        &key,
    ];
    let access = Etcd3Config {
        ca_cert: Some(path("ca.pem")),
        cert: Some(path("client.pem")),
        key: Some(path("client.key")),
        ..Etcd3Config::default()
    };
    let Some(etcd) = etcd_with(&args, "https", access).await else { return };
    fill(&etcd, &[(&tags("a"), "[]")]).await;
    let mut reader = Reader::start(etcd.config());
    reader.until_profiles(&["a"]).await;
    client(&etcd).put(&tags("b"), b"[]", None).await.unwrap();
    reader.until_profiles(&["a", "b"]).await;

    let fails = async |config: Etcd3Config| {
        let error = Etcd2::new(config).unwrap().get(&tags("a")).await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
        error.chain()
    };
    let wrong = Etcd3Config { ca_cert: Some(path("other.pem")), ..etcd.config() };
    let said = fails(wrong).await;
    assert!(said.contains("certificate"), "{said}");
    fails(Etcd3Config { cert: None, key: None, ..etcd.config() }).await;

    let half = Etcd3Config { key: None, ..etcd.config() };
    assert!(matches!(Etcd2::new(half), Err(Etcd2Error::HalfIdentity)));
    let none = Etcd3Config { ca_cert: None, ..etcd.config() };
    assert!(matches!(Etcd2::new(none), Err(Etcd2Error::NoAuthority(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_access_is_told() {
    let Some(etcd) = etcd().await else { return };
    fill(&etcd, &[(&tags("a"), "[]")]).await;
    let json = "application/json";
    let root = r#"{"user":"root","password":"secret"}"#;
    raw(&etcd, "PUT", "/v2/auth/users/root", root, json);
    raw(&etcd, "PUT", "/v2/auth/enable", "", json);
    // Without a user one is a guest, who may do everything until that is taken from him. Only root
    // may do that now, so it is asked for with the password in the URL's header form.
    let guest = r#"{"role":"guest","revoke":{"kv":{"read":["/*"],"write":["/*"]}}}"#;
    let authority = etcd.endpoint.strip_prefix("http://").unwrap();
    let head = format!(
        "PUT /v2/auth/roles/guest HTTP/1.0\r\nHost: {authority}\r\nContent-Type: {json}\r\n\
         Authorization: Basic cm9vdDpzZWNyZXQ=\r\nContent-Length: {}\r\n\r\n{guest}",
        guest.len()
    );
    let answer = {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(authority).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(answer.contains("200 OK"), "{answer}");

    let mut reader = Reader::start(etcd.config());
    let reason = reader.waiting().await;
    assert!(reason.contains("ETCD_USERNAME"), "{reason}");
    let user = |password: &str| Etcd3Config {
        username: Some("root".to_owned()),
        password: Some(password.to_owned()),
        ..etcd.config()
    };
    let wrong = Etcd2::new(user("wrong")).unwrap().get(&tags("a")).await.unwrap_err();
    assert!(wrong.is_refused(), "{wrong:?}");
    let mut reader = Reader::start(user("secret"));
    reader.until_profiles(&["a"]).await;
}
