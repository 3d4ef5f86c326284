//! Writing and reading by etcd's v2 API, by hand: requests as `curl` makes them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Etcd;
use crate::netns::enter;

impl Etcd {
    /// Writes one key.
    ///
    /// # Errors
    /// When etcd does not take it.
    pub fn put_v2(&self, key: &str, value: &str) -> Result<()> {
        let (status, answer) = self.ask_v2("PUT", key, &format!("value={}", escaped(value)))?;
        ensure!(status < 300, "cannot write {key}: {answer}");
        Ok(())
    }

    /// The value of one key.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn get_v2(&self, key: &str) -> Result<Option<String>> {
        let (status, answer) = self.ask_v2("GET", key, "")?;
        ensure!(status < 300 || status == 404, "cannot read {key}: {answer}");
        Ok(answer["node"]["value"].as_str().map(str::to_owned))
    }

    /// Removes a key, or a directory with everything in it.
    ///
    /// # Errors
    /// When there is none, or etcd does not answer.
    pub fn remove_v2(&self, key: &str) -> Result<()> {
        let (status, answer) = self.ask_v2("DELETE", &format!("{key}?recursive=true"), "")?;
        ensure!(status < 300, "cannot remove {key}: {answer}");
        Ok(())
    }

    fn ask_v2(&self, method: &str, path: &str, form: &str) -> Result<(u16, Value)> {
        let authority = self.endpoints.strip_prefix("http://").context("no http endpoint")?;
        let text = enter(&self.netns, move || {
            let mut stream = TcpStream::connect(authority)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            let length = form.len();
            write!(
                stream,
                "{method} /v2/keys{path} HTTP/1.0\r\nHost: {authority}\r\n\
                 Content-Type: application/x-www-form-urlencoded\r\n\
                 Content-Length: {length}\r\n\r\n{form}"
            )?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            anyhow::Ok(text)
        })?;
        let (head, body) = text.split_once("\r\n\r\n").context("no answer of etcd")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.context("no status")?, serde_json::from_str(body).unwrap_or_default()))
    }
}

fn escaped(value: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    value.bytes().map(one).collect()
}
