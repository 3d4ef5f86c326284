//! One HTTP connection to one member.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::config::MAX_ANSWER_BYTES;
use super::error::Etcd2Error;
use super::wire::{self, Answer, Event, Fault};

/// A member's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// As configured, for people.
    pub(super) url: Arc<str>,
    /// `host:port`.
    authority: String,
    /// What its certificate has to be for.
    host: String,
    pub(super) tls: bool,
}

impl Endpoint {
    pub(super) fn parse(url: &str) -> Result<Self, Etcd2Error> {
        let bad = || Etcd2Error::Endpoint(url.to_owned());
        let (tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(bad()),
        };
        let rest = rest.trim_end_matches('/');
        let (host, port) = match rest.rsplit_once(':') {
            // The colons of an address without a port.
            Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| bad())?),
            _ => (rest, if tls { 443_u16 } else { 80 }),
        };
        if host.is_empty() || host.contains(['/', '?', '#', '@', ' ']) {
            return Err(bad());
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { url: url.into(), authority: format!("{host}:{port}"), host: bare, tls })
    }
}

/// The user, as a header has it.
pub(super) fn authorization(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct Ask<'a> {
    /// For messages: `read`, `write`.
    pub(super) op: &'static str,
    /// For messages, and the path.
    pub(super) key: &'a str,
    pub(super) method: Method,
    /// Behind the key: `recursive=true&…`.
    pub(super) query: String,
    /// A form.
    pub(super) body: Option<String>,
}

/// As of when, and of which store, an answer is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) cluster: String,
    pub(super) index: i64,
}

impl Stamp {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let cluster = text("x-etcd-cluster-id").unwrap_or_default().to_owned();
        Some(Self { cluster, index: text("x-etcd-index")?.parse().ok()? })
    }
}

/// An answer whose head has come.
pub(super) struct Begun {
    /// Absent in errors of some kinds.
    pub(super) stamp: Option<Stamp>,
    status: u16,
    body: Incoming,
    /// What has come of the body, and whether that is all.
    bytes: Vec<u8>,
    ended: bool,
}

/// A connection; it ends when it is dropped.
pub(super) struct Connection {
    pub(super) endpoint: Endpoint,
    authorization: Option<Arc<str>>,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects. Whoever calls bounds it in time.
    pub(super) async fn open(
        endpoint: &Endpoint,
        tls: Option<&TlsConnector>,
        authorization: Option<Arc<str>>,
    ) -> Result<Self, Etcd2Error> {
        let failed = |source| Etcd2Error::Connect { endpoint: endpoint.url.to_string(), source };
        let stream = TcpStream::connect(&endpoint.authority).await.map_err(failed)?;
        // Questions are small, and each waits for its answer.
        stream.set_nodelay(true).map_err(failed)?;
        let sender = match tls.filter(|_| endpoint.tls) {
            None => handshake(stream).await,
            Some(tls) => {
                let name = ServerName::try_from(endpoint.host.clone())
                    .map_err(|_| Etcd2Error::Endpoint(endpoint.url.to_string()))?;
                handshake(tls.connect(name, stream).await.map_err(failed)?).await
            }
        };
        let sender = sender.map_err(|source| Etcd2Error::Http {
            op: "connect to",
            key: endpoint.url.to_string(),
            source,
        })?;
        Ok(Self { endpoint: endpoint.clone(), authorization, sender })
    }

    /// Whether it is still there, and the answer before was read to its end.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Waits until it can be asked once more; false when it broke meanwhile. Nothing was sent then.
    pub(super) async fn is_ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Asks, and returns when the head of the answer is there: of a long poll that is at once.
    pub(super) async fn begin(&mut self, ask: &Ask<'_>) -> Result<Begun, Etcd2Error> {
        let failed = |source| Etcd2Error::Http { op: ask.op, key: ask.key.to_owned(), source };
        let unsound = |what: &dyn std::fmt::Display| Etcd2Error::Answer {
            op: ask.op,
            key: ask.key.to_owned(),
            what: what.to_string(),
        };
        let question = if ask.query.is_empty() { "" } else { "?" };
        let path = format!("/v2/keys{}{question}{}", encode_path(ask.key), ask.query);
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(path)
            .header(HOST, &self.endpoint.authority);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, &**authorization);
        }
        if ask.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let body = Full::new(Bytes::from(ask.body.clone().unwrap_or_default()));
        let request = request.body(body).map_err(|error| unsound(&error))?;
        self.sender.ready().await.map_err(failed)?;
        let response: Response<Incoming> =
            self.sender.send_request(request).await.map_err(failed)?;
        Ok(Begun {
            stamp: Stamp::of(response.headers()),
            status: response.status().as_u16(),
            body: response.into_body(),
            bytes: Vec::new(),
            ended: false,
        })
    }
}

impl Begun {
    /// Waits for the body to begin; false: nothing of it came in that time.
    pub(super) async fn speaks(
        &mut self,
        ask: &Ask<'_>,
        patience: Duration,
    ) -> Result<bool, Etcd2Error> {
        let Ok(frame) = tokio::time::timeout(patience, self.body.frame()).await else {
            return Ok(false);
        };
        self.keep(ask, frame)?;
        Ok(true)
    }

    /// Reads what is left; `pause` is how long the sender may be silent in between.
    pub(super) async fn finish(
        mut self,
        ask: &Ask<'_>,
        pause: Duration,
    ) -> Result<(Event, Option<Stamp>), Etcd2Error> {
        while !self.ended {
            let late =
                |_| Etcd2Error::Timeout { op: ask.op, key: ask.key.to_owned(), after: pause };
            let frame = tokio::time::timeout(pause, self.body.frame()).await.map_err(late)?;
            self.keep(ask, frame)?;
        }
        match wire::parse(&self.bytes) {
            Ok(Answer::Event(event)) if (200..300).contains(&self.status) => {
                Ok((event, self.stamp))
            }
            Ok(Answer::Fault(fault)) if fault != Fault::default() => {
                let (op, key) = (ask.op, ask.key.to_owned());
                Err(Etcd2Error::Fault { op, key, status: self.status, fault })
            }
            Ok(_) | Err(_) => {
                let said = String::from_utf8_lossy(&self.bytes[..self.bytes.len().min(100)]);
                let said = said.trim().replace(char::is_control, " ");
                Err(self.unsound(
                    ask,
                    format_args!("HTTP {} {said:?}, which is not etcd's v2 API", self.status),
                ))
            }
        }
    }

    /// Keeps a piece of the body, or that there is no further one.
    fn keep(
        &mut self,
        ask: &Ask<'_>,
        frame: Option<Result<Frame<Bytes>, hyper::Error>>,
    ) -> Result<(), Etcd2Error> {
        let Some(frame) = frame else {
            self.ended = true;
            return Ok(());
        };
        let frame = frame.map_err(|source| Etcd2Error::Http {
            op: ask.op,
            key: ask.key.to_owned(),
            source,
        })?;
        self.bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if self.bytes.len() > MAX_ANSWER_BYTES {
            return Err(self.unsound(ask, format_args!("more than {MAX_ANSWER_BYTES} bytes")));
        }
        Ok(())
    }

    fn unsound(&self, ask: &Ask<'_>, what: std::fmt::Arguments<'_>) -> Etcd2Error {
        Etcd2Error::Answer { op: ask.op, key: ask.key.to_owned(), what: what.to_string() }
    }
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends when the sender is dropped, or the connection breaks; whoever asks then is told.
    tokio::spawn(connection);
    Ok(sender)
}

/// A key as a path of a URL. The escapes of keys are not those of URLs: a `%` is a character here.
fn encode_path(key: &str) -> String {
    encode(key, |byte| byte.is_ascii_alphanumeric() || b"-_.~/:@=+,".contains(&byte))
}

/// A value as a form has it.
pub(super) fn encode_form(value: &str) -> String {
    encode(value, |byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte))
}

fn encode(text: &str, plain: impl Fn(u8) -> bool) -> String {
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if plain(byte) {
            encoded.push(byte.into());
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escapes_of_keys_are_characters_in_urls() {
        assert_eq!(encode_path("/calico/v1/a%2fb c"), "/calico/v1/a%252fb%20c");
        assert_eq!(encode_form("{\"a\": 1}&b=é"), "%7B%22a%22%3A%201%7D%26b%3D%C3%A9");
    }

    #[test]
    fn endpoints() {
        for (url, authority, host, tls) in [
            ("http://10.0.0.1:2379", "10.0.0.1:2379", "10.0.0.1", false),
            ("https://etcd.example.com:2379/", "etcd.example.com:2379", "etcd.example.com", true),
            ("http://[fd00::1]:4001", "[fd00::1]:4001", "fd00::1", false),
            ("https://[fd00::1]", "[fd00::1]:443", "fd00::1", true),
            ("http://etcd", "etcd:80", "etcd", false),
        ] {
            let endpoint = Endpoint::parse(url).unwrap();
            assert_eq!((endpoint.authority.as_str(), endpoint.host.as_str()), (authority, host));
            assert_eq!((endpoint.tls, &*endpoint.url), (tls, url));
        }
        for url in
            ["", "etcd:2379", "http://", "http://a:x", "http://:2379", "ftp://a", "http://a/b"]
        {
            assert!(Endpoint::parse(url).is_err(), "{url}");
        }
    }
}
