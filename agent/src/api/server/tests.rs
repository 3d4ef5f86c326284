use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::*;
use crate::api::client::{self, ClientError};
use crate::calculation::Layers;
use crate::config::{Flags, Local};
use crate::desired::DesiredState;
use crate::explain::document::Outcome;
use crate::paths::Paths;
use crate::status::overview::{Registration, SyncState};
use crate::status::watchdog::Silence;

/// What a client that is not ours sees: status code and body.
async fn get(socket: &Path, path: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (code, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

fn question(from: &str, to: &str, port: &str) -> Question {
    let [from, to, port] = [from, to, port].map(str::to_owned);
    Question { from, to, port: Some(port), ..Question::default() }
}

#[tokio::test]
async fn questions_and_answers_over_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let error = client::status(&socket).await.unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");

    // What an agent that was killed leaves behind: nobody listens on it.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let error = client::status(&socket).await.unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
    let listener = listen(&socket).unwrap();
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left, std::slice::from_ref(&socket));

    let (sync, sync_rx) = watch::channel(SyncState::default());
    let (_registration, registration) = watch::channel(Registration::default());
    let (desired, desired_rx) = watch::channel(None);
    let (ready, ready_rx) = watch::channel(false);
    let (_files, files) = watch::channel(Vec::new());
    let (silent, silent_rx) = watch::channel(Vec::new());
    let overview = Overview {
        location: String::new(),
        node: "calico-01".to_owned(),
        started: std::time::Instant::now(),
        sync: sync_rx,
        registration,
        desired: desired_rx,
        parts: Vec::new(),
        ready: ready_rx,
        files,
        silent: silent_rx,
        kept: watch::channel(Vec::new()).1,
        mtu: watch::channel(Vec::new()).1,
        denied: watch::channel(Vec::new()).1,
        beside: watch::channel(Vec::new()).1,
        book: crate::denied::Book::default(),
        collector: watch::channel(Default::default()).1,
        bird_socket: dir.path().join("bird.ctl"),
        programs: None,
        tally: None,
    };
    let switch = Switch::default();
    let paths = Paths { config_dir: dir.path().to_owned(), ..Paths::default() };
    let file = paths.agent_toml();
    let (flags, layers) = (Flags::default(), Layers::default());
    let local = Local::resolve(&flags, &layers.env, &layers.file).unwrap();
    let layers = watch::Sender::new(Arc::new(layers));
    let reloader = Arc::new(Reloader { paths, flags, local, layers });
    tokio::spawn(serve(listener, Arc::new(overview), switch.clone(), reloader));

    let status = client::status(&socket).await.unwrap();
    assert_eq!((status.node.as_str(), status.state), ("calico-01", Overall::Starting));
    assert_eq!(status.pid, std::process::id());
    assert_eq!(get(&socket, "/ready").await, (503, "not ready\n".to_owned()));
    assert_eq!(get(&socket, "/live").await, (200, "live\n".to_owned()));
    assert_eq!(get(&socket, "/nothing").await.0, 404);

    let asked = question("203.0.113.1", "198.51.100.1", "80");
    let error = client::explain(&socket, &asked).await.unwrap_err();
    assert_eq!(error.to_string(), "nothing is known yet: reading the datastore");
    assert_eq!(get(&socket, "/graph").await.0, 503);

    sync.send_modify(|sync| sync.complete = true);
    desired.send_replace(Some(Arc::new(DesiredState { generation: 4, ..DesiredState::default() })));
    ready.send_replace(true);
    // Not registered: degraded, but what is wanted is in force.
    assert_eq!(get(&socket, "/ready").await, (200, "ready\n".to_owned()));
    let status = client::status(&socket).await.unwrap();
    assert_eq!((status.generation, status.state), (4, Overall::Degraded));
    assert!(status.hanging.is_empty());

    let explanation = client::explain(&socket, &asked).await.unwrap();
    assert_eq!(explanation.outcome(), Outcome::Unpoliced);
    assert_eq!(explanation.basis.agent.as_deref(), Some("calico-01"));
    let strange = question("we & they = 100 % ü/", "198.51.100.1", "80");
    let error = client::explain(&socket, &strange).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused(_)), "{error}");
    assert!(
        error.to_string().starts_with("from \"we & they = 100 % ü/\" is no address"),
        "{error}"
    );
    let typed = Question { icmp_type: Some(3), icmp_code: Some(1), ..Question::default() };
    assert_eq!(client::graph(&socket, &typed).await.unwrap().services, ["icmp 3/1"]);
    let (code, said) = get(&socket, "/explain?from=10.0.0.1&to=10.0.0.2").await;
    assert_eq!((code, said.as_str()), (400, "tcp needs --port"));
    assert_eq!(get(&socket, "/explain?from=10.0.0.1&to=10.0.0.2&source_port=x").await.0, 400);

    // A loop that hangs: what is in force stays in force, but somebody has to do something.
    let since = std::time::Instant::now() - Duration::from_secs(31);
    silent.send_replace(vec![Silence { name: "felix", since }]);
    let (code, said) = get(&socket, "/live").await;
    assert_eq!((code, said.as_str()), (503, "felix: no sign of life for 31 s\n"));
    assert_eq!(get(&socket, "/ready").await.0, 200);
    let status = client::status(&socket).await.unwrap();
    assert_eq!((status.hanging[0].name.as_str(), status.hanging[0].seconds), ("felix", 31));
    silent.send_replace(Vec::new());
    assert_eq!(get(&socket, "/live").await.0, 200);

    // Another log level, for a while.
    let minute = Duration::from_secs(60);
    let said = client::log_level(&socket, "debug", Some(minute)).await.unwrap();
    assert_eq!(said, "the log level is debug for 60s\n");
    assert_eq!(switch.subscribe().borrow().level, Some("debug"));
    let error = client::log_level(&socket, "loud&level=x", None).await.unwrap_err();
    assert!(error.to_string().starts_with("\"loud&level=x\" is no log level"), "{error}");
    assert_eq!(get(&socket, "/log-level?level=debug").await.0, 405);

    // The file is read again: well, with something that has to wait, and with a mistake.
    assert_eq!(client::reload(&socket).await.unwrap(), "");
    std::fs::write(&file, "[node]\nname = \"other\"\n").unwrap();
    let said = client::reload(&socket).await.unwrap();
    assert_eq!(said, "these changed and count only after a restart of the agent: name\n");
    std::fs::write(&file, "[felix]\nnonsense = 1\n").unwrap();
    let error = client::reload(&socket).await.unwrap_err().to_string();
    assert!(error.contains("agent.toml:2:1: ") && error.contains("nothing changed"), "{error}");
    assert_eq!(get(&socket, "/reload").await.0, 405);
}

#[tokio::test]
async fn an_answer_that_is_no_document_is_said_so() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = listen(&socket).unwrap();
    let router = Router::new().route("/status", get_route());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let error = client::status(&socket).await.unwrap_err();
    assert!(matches!(error, ClientError::Answer(_)), "{error}");
}

fn get_route() -> axum::routing::MethodRouter {
    axum::routing::get(async || "{}")
}
