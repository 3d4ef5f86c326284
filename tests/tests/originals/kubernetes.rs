//! A Kubernetes without any object. `calicoctl ipam check` wants one to ask for services, also where
//! the datastore is etcd; this answers that there are none.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use calico_e2e::host::Host;
use serde_json::json;

/// Where it is.
#[derive(Debug)]
pub(crate) struct Kubernetes {
    kubeconfig: PathBuf,
}

impl Kubernetes {
    /// Runs until the test's process ends.
    pub(crate) fn run(host: &Host) -> Result<Self> {
        let listener = host.ns().enter(|| Ok(TcpListener::bind("127.0.0.1:0")?))?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away is none of our business.
                let _ = answer(stream);
            }
        });
        let kubeconfig = host.dir().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{ "name": "here", "cluster": { "server": format!("http://{address}") } }],
            "contexts": [{ "name": "here", "context": { "cluster": "here", "user": "nobody" } }],
            "users": [{ "name": "nobody", "user": {} }],
        });
        std::fs::write(&kubeconfig, config.to_string())
            .with_context(|| format!("no {address} in {}", kubeconfig.display()))?;
        Ok(Self { kubeconfig })
    }

    /// The file for `KUBECONFIG`.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

/// One request, one answer.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = Vec::new();
    let mut part = [0; 4096];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut part)? {
            0 => break,
            length => request.extend_from_slice(&part[..length]),
        }
    }
    let services = request.starts_with(b"GET /api/v1/services");
    let (status, body) = if services {
        let list =
            json!({ "kind": "ServiceList", "apiVersion": "v1", "metadata": {}, "items": [] });
        ("200 OK", list.to_string())
    } else {
        ("404 Not Found", String::new())
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
}
