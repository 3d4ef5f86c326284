use super::*;
use crate::config::{DATASTORE_KEYS, NODE_KEYS};
use calico_datastore::backend::etcd3::Etcd3Config;

fn etcd(local: &Local) -> &Etcd3Config {
    match &local.datastore {
        Choice::Etcd3(etcd) | Choice::Etcd2(etcd) => etcd,
        Choice::Directory(path) => panic!("{}", path.display()),
    }
}

fn local<const N: usize>(env: [(&str, &str); N], file: &str) -> Result<Local, LocalError> {
    let file = FileConfig::parse(file).unwrap();
    Local::resolve(&Flags::default(), &Env::from(env), &file)
}

#[test]
fn the_ways_to_say_where_etcd_is() {
    let file = "[datastore]\nendpoints = [\"http://file:2379\"]";
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (&[], "", &["http://127.0.0.1:2379"]),
        (&[], file, &["http://file:2379"]),
        (&[("ETCD_ENDPOINTS", "http://a:1/, https://b:2,")], file, &["http://a:1", "https://b:2"]),
        (&[("ETCD_AUTHORITY", "a:1")], file, &["http://a:1"]),
        (&[("ETCD_AUTHORITY", "a:1"), ("ETCD_SCHEME", "https")], "", &["https://a:1"]),
        (&[("ETCD_AUTHORITY", "a:1"), ("ETCD_ENDPOINTS", "http://b:2")], "", &["http://b:2"]),
        (&[("FELIX_ETCDADDR", "a:1"), ("FELIX_EtcdScheme", "https")], "", &["https://a:1"]),
        (&[("felix_etcdendpoints", "http://a:1"), ("ETCD_ENDPOINTS", "")], file, &["http://a:1"]),
        (&[("ETCD_ENDPOINTS", "http://[::1]:2379")], "", &["http://[::1]:2379"]),
    ];
    for (env, file, endpoints) in cases {
        let env: Env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let file = FileConfig::parse(file).unwrap();
        let local = Local::resolve(&Flags::default(), &env, &file).unwrap();
        assert_eq!(etcd(&local).endpoints, *endpoints, "{env:?}");
    }
    let flags = Flags { etcd_endpoints: Some("http://flag:1".to_owned()), ..Flags::default() };
    let env = Env::from([("ETCD_ENDPOINTS", "http://env:1")]);
    let local = Local::resolve(&flags, &env, &FileConfig::default()).unwrap();
    assert_eq!(etcd(&local).endpoints, ["http://flag:1"]);
}

#[test]
fn a_directory_takes_the_place_of_etcd() {
    let file = "[datastore]\ntype = 'directory'\ndirectory = '/file'\n";
    let ask = |flag: Option<&str>, env: &[(&str, &str)], file: &str| {
        let flags = Flags { datastore: flag.map(str::to_owned), ..Flags::default() };
        let env: Env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Local::resolve(&flags, &env, &FileConfig::parse(file).unwrap()).map(|l| l.datastore)
    };
    let directory = |path: &str| Ok(Choice::Directory(path.into()));
    let urls = [("ETCD_ENDPOINTS", "http://env:1")];
    let store = [("CALICO_DATASTORE", "dir:/env")];
    assert_eq!(ask(None, &[], file), directory("/file"));
    assert_eq!(ask(None, &store, file), directory("/env"));
    assert_eq!(ask(Some("dir:/flag"), &store, file), directory("/flag"));
    assert_eq!(ask(Some("dir:/flag"), &urls, ""), directory("/flag"));
    assert!(matches!(ask(None, &urls, file), Ok(Choice::Etcd3(_))), "the environment is stronger");
    assert!(matches!(ask(Some("etcd"), &store, file), Ok(Choice::Etcd3(_))));
    let error = ask(Some("dir:relative"), &[], "").unwrap_err().to_string();
    assert!(error.starts_with("--datastore is") && error.contains("begins with /"), "{error}");
}

#[test]
fn a_bad_endpoint_is_named_with_its_source() {
    for bad in ["etcd:2379", "ftp://a:1", "http://", "http://:1", "http://a/b", ",", "http://u@a:1"]
    {
        let error = local([("ETCD_ENDPOINTS", bad)], "").unwrap_err();
        assert!(error.to_string().starts_with("ETCD_ENDPOINTS is"), "{error}");
    }
}

#[test]
fn half_of_a_pair_and_certificates_without_tls_are_refused() {
    let error = local([("ETCD_CERT_FILE", "/c")], "").unwrap_err();
    assert_eq!(
        error.to_string(),
        "ETCD_CERT_FILE is set and ETCD_KEY_FILE is not: both are needed"
    );
    assert!(local([("ETCD_PASSWORD", "x")], "").is_err());
    let error = local([("ETCD_CA_CERT_FILE", "/ca")], "").unwrap_err();
    assert!(matches!(error, LocalError::Datastore(LocationError::PlainText(_))), "{error}");
    let tls = [("ETCD_CA_CERT_FILE", "/ca"), ("ETCD_ENDPOINTS", "https://a:1")];
    let local = local(tls, "[datastore]\ncert_file='/c'\nkey_file='/k'").unwrap();
    let config = etcd(&local).clone();
    assert_eq!((config.ca_cert, config.cert), (Some("/ca".into()), Some("/c".into())));
}

#[test]
fn no_secret_is_shown() {
    let pair = [("ETCD_USERNAME", "felix"), ("ETCD_PASSWORD", "hunter2")];
    let local = local(pair, "").unwrap();
    assert_eq!(etcd(&local).password.as_deref(), Some("hunter2"));
    let file = FileConfig::parse("[datastore]\npassword='hunter2'").unwrap();
    let shown = format!("{local:?} {:?} {file:?}", Env::from(pair));
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn addresses() {
    use AddressChoice::{Absent, Detect, Fixed, Stored};
    let v4 = IpAddr::from([172, 18, 18, 101]);
    for (text, expected) in [
        ("172.18.18.101", Some(Fixed(v4, None))),
        ("172.18.18.101/24", Some(Fixed(v4, Some(24)))),
        ("autodetect", Some(Detect)),
        ("None", Some(Absent)),
        (" ", Some(Stored)),
        ("172.18.18.101/33", None),
        ("172.18.18.101/0", None),
        ("fd00::1", None),
        ("0.0.0.0", None),
        ("127.0.0.1", None),
        ("calico-01", None),
    ] {
        let ip = local([("IP", text)], "").map(|local| local.node.ip).ok();
        assert_eq!(ip, expected, "{text}");
    }
    assert!(local([("IP6", "fd00::1/64")], "").is_ok());
    assert!(local([("IP6", "10.0.0.1")], "").is_err());
    let error = local([], "[node]\nip = '10.0.0'").unwrap_err();
    assert!(error.to_string().contains("[node] ip in agent.toml"), "{error}");
}

#[test]
fn as_numbers_and_the_address_check() {
    let node = |env: [(&str, &str); 2]| local(env, "[node]\nas_number = 64520").map(|l| l.node);
    let set = node([("AS", "1.10"), ("DISABLE_NODE_IP_CHECK", "true")]).unwrap();
    assert_eq!((set.as_number, set.skip_address_check), (Some(AsNumber(65546)), true));
    let unset = node([("AS", ""), ("DISABLE_NODE_IP_CHECK", "")]).unwrap();
    assert_eq!((unset.as_number, unset.skip_address_check), (Some(AsNumber(64520)), false));
    assert!(node([("AS", "many"), ("X", "")]).is_err());
}

#[test]
fn what_needs_a_restart_is_told_by_its_name() {
    let ask = |file: FileConfig| Local::resolve(&Flags::default(), &Env::default(), &file).unwrap();
    let before = ask(FileConfig::default());
    assert_eq!(before.differences(&before), [""; 0]);
    // Every key of agent.toml that is not a setting.
    let value = |key: &'static str| {
        let value = match key {
            "type" => "etcd",
            "directory" => "/d",
            "endpoints" => "https://etcd:2379",
            "ip" => "10.0.0.1",
            "ip6" => "fd00::1",
            "as_number" => "7",
            _ => "x",
        };
        (key, value.to_owned())
    };
    let keys = |list: &'static [(&str, &str)]| list.iter().map(|(key, _)| *key);
    let changed = FileConfig {
        datastore: keys(DATASTORE_KEYS).map(value).collect(),
        node: keys(NODE_KEYS).map(value).collect(),
        ..FileConfig::default()
    };
    let all: Vec<_> = keys(DATASTORE_KEYS).chain(keys(NODE_KEYS)).collect();
    assert_eq!(ask(changed).differences(&before), all[2..]);
    // Of another store nothing else is comparable.
    assert_eq!(&all[..2], ["type", "directory"]);
    let directory = |path: &str| {
        let path = ("directory", path.to_owned());
        ask(FileConfig { datastore: [path].into(), ..FileConfig::default() })
    };
    assert_eq!(directory("/d").differences(&before), ["type"]);
    assert_eq!(directory("/d").differences(&directory("/e")), ["directory"]);
    assert_eq!(directory("/d").differences(&directory("/d")), [""; 0]);
}
