use std::path::Path;

use super::*;
use crate::verbs::node::facts::{RKT_NETWORKS, RKT_PLUGINS, Rkt};
use crate::verbs::node::wanted::{Files, HostFile};

fn facts() -> Facts {
    let file = |path: &str| HostFile { path: path.into(), text: String::new() };
    let unit =
        |name: &'static str| (name, Unit { loaded: true, id: name.to_owned(), ..Unit::default() });
    Facts {
        root: PathBuf::from("/"),
        systemd: true,
        units: [unit(AGENT), unit(BIRD)].into(),
        files: Files { toml: file("/etc/calico/agent.toml"), env: vec![] },
        rkt: Rkt::default(),
        places: Places { networks: RKT_NETWORKS.into(), plugins: RKT_PLUGINS.into() },
        sysusers: true,
        tmpfiles: true,
        modules: vec!["ip_set".to_owned()],
    }
}

fn args() -> NodeArgs {
    NodeArgs { ip: Some("10.0.0.1".to_owned()), ..NodeArgs::default() }
}

fn lines(args: &NodeArgs, facts: &Facts) -> Vec<String> {
    plan(args, facts).unwrap().steps.iter().map(Step::to_do).collect()
}

#[test]
fn a_new_host_from_nothing_to_running() {
    let mut facts = facts();
    facts.rkt.plugin = Some("/opt/cni/bin/calico".into());
    let lines = lines(&NodeArgs { rkt: true, ..args() }, &facts);
    let expected = [
        "write /etc/calico/agent.toml: [node] ip = 10.0.0.1",
        "link /usr/lib/rkt/plugins/net/calico to /opt/cni/bin/calico",
        "link /usr/lib/rkt/plugins/net/calico-ipam to /opt/cni/bin/calico",
        "write /etc/rkt/net.d/10-calico.conf: the network calico: rkt run --net=calico",
        "run systemd-sysusers calico.conf (the user of BIRD)",
        "run systemd-tmpfiles --create calico.conf (the directories of the agent)",
        "run systemctl restart systemd-modules-load (modules that are not loaded: ip_set)",
        "run systemctl enable calico-agent.service calico-bird.service (start at boot)",
        "run systemctl start --no-block calico-bird.service calico-bird.path (BGP)",
        "run systemctl start --no-block calico-agent.service (the agent)",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_host_that_is_a_node_stays_as_it_is() {
    let mut facts = facts();
    facts.modules.clear();
    (facts.sysusers, facts.tmpfiles) = (false, false);
    for unit in facts.units.values_mut() {
        (unit.enabled, unit.active, unit.pid) = (true, true, Some(7));
    }
    let bird = facts.units[BIRD].clone();
    facts.units.insert(STOCK_BIRD, bird);
    facts.rkt = Rkt { found: PROGRAMS.to_vec(), has_network: true, ..Rkt::default() };
    let same = NodeArgs { ip: None, rkt: true, ..args() };
    let made = plan(&same, &facts).unwrap();
    assert_eq!(made, Plan { starts: true, ..Plan::default() });
    // Another address: the agent that runs gives way.
    let made = plan(&args(), &facts).unwrap();
    assert_eq!((made.steps.len(), made.replaces), (2, Some(7)));
    assert!(made.steps[1].to_do().starts_with("run systemctl restart --no-block calico-agent"));
    // The distribution's BIRD runs in the place of ours.
    facts.units.get_mut(STOCK_BIRD).unwrap().id = STOCK_BIRD.to_owned();
    let lines = lines(&same, &facts);
    assert!(lines.len() == 1 && lines[0].contains("restart --no-block calico-bird"), "{lines:?}");
}

#[test]
fn without_bird_its_unit_is_left_alone_and_it_is_said() {
    let mut facts = facts();
    facts.units.get_mut(BIRD).unwrap().lacks = Some("bird".to_owned());
    let made = plan(&args(), &facts).unwrap();
    assert!(made.notes.len() == 1 && made.notes[0].starts_with("bird is not installed"));
    let lines = lines(&args(), &facts);
    assert!(
        lines.iter().any(|line| line.starts_with("run systemctl enable calico-agent.service ("))
    );
    assert!(!lines.iter().any(|line| line.contains("calico-bird")), "{lines:?}");
}

#[test]
fn where_usr_is_read_only_rkt_finds_the_plugin_beside_its_networks() {
    let mut facts = facts();
    let rkt = NodeArgs { rkt: true, ..NodeArgs::default() };
    assert!(matches!(plan(&rkt, &facts), Err(PlanError::NoPlugin)));
    facts.rkt = Rkt {
        plugin: Some("/opt/cni/bin/calico".into()),
        found: vec!["calico"],
        usr_read_only: true,
        has_network: true,
    };
    let lines = lines(&rkt, &facts);
    assert_eq!(lines[0], "link /etc/rkt/net.d/calico-ipam to /opt/cni/bin/calico");
    assert!(!lines.iter().any(|line| line.contains("10-calico.conf")));
}

#[test]
fn an_image_is_prepared_and_nothing_is_started() {
    let mut facts = facts();
    (facts.root, facts.systemd, facts.modules) = ("/image".into(), false, vec![]);
    facts.files.toml.path = "/image/etc/calico/agent.toml".into();
    let made = plan(&args(), &facts).unwrap();
    assert!(!made.starts);
    let lines = lines(&args(), &facts);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[1].starts_with("run systemctl enable --root=/image calico-agent.service"));
    assert!(Path::new("/image/etc/calico/agent.toml").starts_with(&facts.root));
}

#[test]
fn what_is_missing_is_named_before_anything_is_done() {
    let mut facts = facts();
    facts.units.remove(BIRD);
    let error = plan(&args(), &facts).unwrap_err().to_string();
    assert!(error.contains("systemd knows no calico-bird.service"), "{error}");
    facts.systemd = false;
    let error = plan(&args(), &facts).unwrap_err().to_string();
    assert!(error.contains("systemd does not run this host"), "{error}");
}
