use std::collections::BTreeSet;

use super::*;

const TOML: &str = "/etc/calico/agent.toml";
const ENV: &str = "/etc/calico/calico.env";
const DEFAULT: &str = "/etc/default/calico-agent";

fn files(toml: &str, env: &str, default: &str) -> Files {
    let file = |path: &str, text: &str| HostFile { path: path.into(), text: text.to_owned() };
    Files { toml: file(TOML, toml), env: vec![file(ENV, env), file(DEFAULT, default)] }
}

fn args(ip: &str, etcd: &str) -> NodeArgs {
    let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    NodeArgs { ip: said(ip), etcd: said(etcd), ..NodeArgs::default() }
}

/// What the files hold afterwards; done again it changes nothing.
fn after(args: &NodeArgs, mut files: Files) -> (Vec<String>, Files) {
    let mut changes = Vec::new();
    for edit in edits(args, &files).unwrap() {
        let all = [&mut files.toml].into_iter().chain(&mut files.env);
        let file = all.into_iter().find(|file| file.path == edit.path).unwrap();
        assert_ne!(file.text, edit.text);
        file.text = edit.text;
        changes.extend(edit.changes);
    }
    assert_eq!(edits(args, &files).unwrap(), []);
    (changes, files)
}

#[test]
fn a_new_host_gets_agent_toml() {
    let all = NodeArgs {
        ip6: Some("fd00::1".to_owned()),
        as_number: Some("1.10".to_owned()),
        nodename: Some("calico-01".to_owned()),
        ..args("10.0.0.1", "http://a:1,http://b:2")
    };
    let (changes, files) = after(&all, files("", "", ""));
    assert_eq!(changes.len(), 5, "{changes:?}");
    assert_eq!(changes[1], "[node] ip = 10.0.0.1");
    let file = FileConfig::parse(&files.toml.text).unwrap();
    let local = Local::resolve(&Flags::default(), &Env::default(), &file).unwrap();
    assert_eq!(local.node.name.as_deref(), Some("calico-01"));
    assert!(files.toml.text.contains("endpoints = [\"http://a:1\", \"http://b:2\"]"));
    // Nothing typed, nothing changed.
    assert_eq!(after(&NodeArgs::default(), files).0, [""; 0]);
}

#[test]
fn a_setting_is_changed_where_it_counts() {
    // The environment goes before the file, so the file alone would change nothing.
    let before = files("[node]\nip = \"10.0.0.9\" # old\n", "IP=10.0.0.8\n", "IP=10.0.0.7\nX=1\n");
    let (changes, after_ip) = after(&args("10.0.0.1", ""), before);
    assert_eq!(changes, ["IP=10.0.0.1 (was 10.0.0.8)", "IP=10.0.0.1 (was 10.0.0.7)"]);
    assert_eq!(after_ip.env[1].text, "IP=10.0.0.1\nX=1\n");
    assert!(after_ip.toml.text.contains("10.0.0.9"), "what was written there does not count");
    // etcd is in both: the plugin asks agent.toml and nothing else.
    let old = files("", "ETCD_AUTHORITY=old:4001\nETCD_PASSWORD=x\n", "");
    let old = Files {
        env: vec![HostFile {
            text: old.env[0].text.replace("ETCD_PASSWORD=x\n", ""),
            ..old.env[0].clone()
        }],
        ..old
    };
    let (changes, after_etcd) = after(&args("", "http://new:1"), old);
    assert_eq!(changes[0], "ETCD_ENDPOINTS=http://new:1 (was old:4001)");
    assert_eq!(after_etcd.env[0].text, "ETCD_ENDPOINTS=http://new:1\n");
    assert!(after_etcd.toml.text.contains("endpoints = [\"http://new:1\"]"));
}

#[test]
fn a_password_that_was_there_is_not_said() {
    // The agent takes no such URL; other programs do, so it may stand there.
    let old = files(
        "[datastore]\nendpoints = [\"https://u:Old-1@a:1\", \"http://b:2\"]\n",
        "ETCD_ENDPOINTS=http://u:O@ld-2@a:1\n",
        "ETCD_AUTHORITY=u:Old,-:/3://@a:1\n",
    );
    let (changes, _) = after(&args("10.0.0.1", "http://a:1"), old);
    let expected = [
        "ETCD_ENDPOINTS=http://a:1 (was [removed]@a:1)",
        "ETCD_ENDPOINTS=http://a:1 (was http://[removed]@a:1)",
        "[datastore] endpoints = http://a:1 (was https://[removed]@a:1,http://b:2)",
        "[node] ip = 10.0.0.1",
    ];
    assert_eq!(changes.iter().map(String::as_str).collect::<BTreeSet<_>>(), expected.into());
}

#[test]
fn the_same_address_with_its_prefix_stays() {
    for (toml, env) in [("[node]\nip = \"10.0.0.1/24\"\n", ""), ("", "IP=\"10.0.0.1/24\"\n")] {
        assert_eq!(edits(&args("10.0.0.1", ""), &files(toml, env, "")).unwrap(), []);
        assert_eq!(edits(&args("10.0.0.1/16", ""), &files(toml, env, "")).unwrap().len(), 1);
    }
}

#[test]
fn what_cannot_be_brought_into_force_is_refused() {
    let refused = |args: &NodeArgs, toml: &str, env: &str| {
        crate::telemetry::chain(&edits(args, &files(toml, env, "")).unwrap_err())
    };
    let none = args("", "");
    assert!(refused(&none, "[node]\nipp = 1\n", "").contains("agent.toml has mistakes: line 2"));
    assert!(refused(&args("10.0.0.300", ""), "", "").starts_with("[node] ip"), "the new value");
    let error = refused(&args("", "http://a:1"), "[datastore]\ntype = \"directory\"\n", "");
    assert!(error.contains("--datastore etcd"), "{error}");
    let error = refused(&args("", "http://a:1"), "", "CALICO_DATASTORE=dir:/x\n");
    assert!(error.contains("CALICO_DATASTORE"), "{error}");
    // Both said, it is meant so.
    let both = NodeArgs { datastore: Some("etcd".to_owned()), ..args("", "http://a:1") };
    let (_, now) = after(&both, files("[datastore]\ntype = \"directory\"\n", "", ""));
    assert!(now.toml.text.contains("type = \"etcd\""));
    let alone = NodeArgs { datastore: Some("dir:/etc/x".to_owned()), ..NodeArgs::default() };
    let (_, now) = after(&alone, files("", "", ""));
    assert!(now.toml.text.contains("type = \"directory\"\ndirectory = \"/etc/x\""));
}
