use super::*;

fn at(env: &[(&str, &str)], toml: Option<&str>) -> Result<Location, String> {
    let lookup = |name: &str| {
        env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    };
    locate(&lookup, toml, Path::new("/var/lib/calico")).map_err(|error| error.to_string())
}

fn etcd(endpoints: &[&str]) -> Result<Location, String> {
    let endpoints = endpoints.iter().map(|url| (*url).to_owned()).collect();
    Ok(Location::Etcd3(Etcd3Config { endpoints, ..Etcd3Config::default() }))
}

fn etcd2(endpoints: &[&str]) -> Result<Location, String> {
    let endpoints = endpoints.iter().map(|url| (*url).to_owned()).collect();
    Ok(Location::Etcd2(Etcd3Config { endpoints, ..Etcd3Config::default() }))
}

fn directory(admin: &str) -> Result<Location, String> {
    let state = PathBuf::from("/var/lib/calico/resources");
    Ok(Location::Directory(DirectoryConfig { admin: admin.into(), state }))
}

#[test]
fn who_says_where_the_store_is() {
    let file = "[datastore]\nendpoints = ['http://f:1', 'http://g:1']\nnew_key = 1\n[other]\nx = 2";
    let dir = "[datastore]\ntype = 'directory'\ndirectory = '/d'";
    let env = ("ETCD_ENDPOINTS", "http://e:1");
    type Case<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>, Result<Location, String>);
    let cases: &[Case<'_>] = &[
        (&[], None, etcd(&[DEFAULT_ENDPOINT, OLD_ENDPOINT])),
        (&[], Some(""), etcd(&[DEFAULT_ENDPOINT, OLD_ENDPOINT])),
        (&[env], None, etcd(&["http://e:1"])),
        (&[env], Some(file), etcd(&["http://f:1", "http://g:1"])),
        (&[("ETCD_AUTHORITY", "a:1")], None, etcd(&["http://a:1"])),
        (&[("ETCD_AUTHORITY", "a:1"), ("ETCD_SCHEME", "https")], None, etcd(&["https://a:1"])),
        (&[("ETCD_AUTHORITY", "a:1"), env], None, etcd(&["http://e:1"])),
        (&[("ETCD_ENDPOINTS", " ")], None, etcd(&[DEFAULT_ENDPOINT, OLD_ENDPOINT])),
        (&[env], Some(dir), directory("/d")),
        (&[], Some("[datastore]\ntype = 'directory'"), directory(DEFAULT_DIRECTORY)),
        (&[], Some("[datastore]\ndirectory = '/d'"), directory("/d")),
        (&[], Some("[datastore]\ntype = 'dir:/d'\ndirectory = '/x'"), directory("/d")),
        (&[("CALICO_DATASTORE", "dir:/e")], None, directory("/e")),
        (&[("CALICO_DATASTORE", "dir:/e")], Some(dir), directory("/d")),
        (&[("CALICO_DATASTORE", "dir:/e")], Some(file), etcd(&["http://f:1", "http://g:1"])),
        // By which API may be said elsewhere than where.
        (&[("CALICO_DATASTORE", "etcdv2")], None, etcd2(&[DEFAULT_ENDPOINT, OLD_ENDPOINT])),
        (&[("CALICO_DATASTORE", "etcd2"), env], None, etcd2(&["http://e:1"])),
        (&[("CALICO_DATASTORE", "etcdv2")], Some(file), etcd2(&["http://f:1", "http://g:1"])),
        (&[env], Some("[datastore]\ntype = 'etcdv2'"), etcd2(&["http://e:1"])),
        (
            &[("CALICO_DATASTORE", "etcdv2"), env],
            Some("[datastore]\ntype = 'etcd'"),
            etcd(&["http://e:1"]),
        ),
        (&[("CALICO_DATASTORE", "etcdv3")], Some(file), etcd(&["http://f:1", "http://g:1"])),
        // The type decides; what only the other store needs may stay for later.
        (&[], Some(&format!("{file}\n[datastore.x]")), etcd(&["http://f:1", "http://g:1"])),
        (&[env], Some("[datastore]\ntype = 'etcd'\ndirectory = '/d'"), etcd(&["http://e:1"])),
    ];
    for (env, toml, expected) in cases {
        assert_eq!(&at(env, *toml), expected, "{env:?} {toml:?}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_place() {
    let refused = [
        (&[("CALICO_DATASTORE", "consul")][..], None, "CALICO_DATASTORE is \"consul\""),
        (&[("CALICO_DATASTORE", "dir:x")], None, "begins with /"),
        (&[("ETCD_ENDPOINTS", "ftp://x")], None, "ETCD_ENDPOINTS is"),
        (&[("ETCD_CERT_FILE", "/c")], None, "ETCD_KEY_FILE is not"),
        (&[("ETCD_CA_CERT_FILE", "/c")], None, "not an https URL"),
        (&[], Some("[datastore]\nendpoints = 'x'"), "[datastore] endpoints in agent.toml is"),
        (&[], Some("[datastore]\ndirectory = 'x'"), "[datastore] directory in agent.toml is"),
        (&[], Some("[datastore]\nendpoints = 'http://x'\ndirectory = '/d'"), "which one counts"),
        (&[], Some("datastore = 1"), "write [datastore]"),
        (&[], Some("[datastore"), "cannot read [datastore] in agent.toml"),
    ];
    for (env, toml, expected) in refused {
        let error = at(env, toml).unwrap_err();
        assert!(error.contains(expected), "{env:?} {toml:?}: {error}");
    }
    // What is wrong for a store that does not count is no mistake.
    let env = [("CALICO_DATASTORE", "dir:/d"), ("ETCD_ENDPOINTS", "ftp://x")];
    assert_eq!(at(&env, None), directory("/d"));
}

#[test]
fn a_handle_needs_no_store() {
    let store = directory("/nowhere").unwrap().open().unwrap();
    assert!(matches!(store, AnyStore::Directory(_)));
    assert!(matches!(etcd(&[DEFAULT_ENDPOINT]).unwrap().open(), Ok(AnyStore::Etcd3(_))));
}

#[test]
fn no_error_shows_a_password() {
    let toml = |line: &str| format!("[datastore]\nusername = 'root'\n{line}\n");
    for (line, expected) in [
        ("password = secret", "line 3: "),
        ("password = 'secret", "line 3: "),
        ("password = 'secret'\npassword = 'secret'", "line 4: "),
        ("endpoints = 'root:se@secret@10.0.0.1:2379'", "\"10.0.0.1:2379\""),
        ("endpoints = 'http://root:secret@10.0.0.1:2379'", "\"10.0.0.1:2379\""),
        ("endpoints = 'ftp://10.0.0.1'", "\"ftp://10.0.0.1\""),
    ] {
        let told = at(&[], Some(&toml(line))).unwrap_err();
        assert!(told.contains(expected), "{told}");
        assert!(!told.contains("secret") && !told.contains("root"), "{told}");
        assert!(!told.contains('\n'), "{told}");
    }
    let told = at(&[("ETCD_ENDPOINTS", "http://root:secret@h:1")], None).unwrap_err();
    assert!(told.contains("ETCD_ENDPOINTS is \"h:1\""), "{told}");
}
