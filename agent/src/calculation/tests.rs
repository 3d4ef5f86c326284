use calico_datastore::layout::Rejection;
use calico_datastore::model::{ClusterInformation, Order, PolicyId, Profile, ResourceId};

use super::last_good::tests::policy;
use super::news::News;
use super::*;
use crate::status::systemd::Watchdog;
use crate::telemetry::capture::Captured;
use calico_datastore::layout::v3;

struct Rig {
    calculation: Calculation,
    outputs: Outputs,
    desired: watch::Receiver<Option<Arc<DesiredState>>>,
    sync: watch::Receiver<SyncState>,
    settings: watch::Receiver<Arc<Settings>>,
}

fn layers(env: &[(&str, &str)]) -> Arc<Layers> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Arc::new(Layers { env, ..Layers::default() })
}

fn outputs() -> (Outputs, Rig) {
    let (desired_tx, desired) = watch::channel(None);
    let (sync_tx, sync) = watch::channel(SyncState::default());
    let (settings_tx, settings) = watch::channel(Arc::default());
    let (store_settings_tx, _) = watch::channel(StoreSettings::default());
    let make = || Outputs {
        desired: desired_tx.clone(),
        sync: sync_tx.clone(),
        settings: settings_tx.clone(),
        store_settings: store_settings_tx.clone(),
    };
    let calculation = Calculation::new("calico-01".into(), layers(&[]), None);
    (make(), Rig { calculation, outputs: make(), desired, sync, settings })
}

impl Rig {
    fn new() -> Self {
        outputs().1
    }

    /// Takes an event and publishes; what was published counts as seen.
    fn take(&mut self, event: SyncEvent) {
        self.desired.borrow_and_update();
        self.calculation.take(event);
        self.calculation.publish(&self.outputs);
    }

    fn changes(&mut self, batch: Batch) {
        self.take(SyncEvent::Changes(batch));
    }

    fn state(&self) -> Arc<DesiredState> {
        self.desired.borrow().clone().unwrap()
    }
}

fn waiting(reason: &str) -> SyncEvent {
    SyncEvent::Waiting { reason: reason.to_owned() }
}

fn felix(name: &str, parameters: &[(&str, &str)]) -> Update {
    let parameters = parameters.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    let value = FelixConfiguration { parameters: parameters.collect() };
    Update::FelixConfiguration(name.into(), Some(Arc::new(value)))
}

fn updates(updates: impl IntoIterator<Item = Update>) -> Batch {
    Batch { updates: updates.into_iter().collect(), ..Batch::default() }
}

#[test]
fn nothing_is_published_before_the_first_snapshot() {
    let mut rig = Rig::new();
    rig.take(waiting("etcd: away"));
    rig.calculation.set_layers(layers(&[("FELIX_LOGSEVERITYSCREEN", "debug")]));
    rig.take(waiting("etcd: away"));
    assert!(rig.desired.borrow().is_none());
    assert_eq!(rig.sync.borrow().waiting.as_deref(), Some("etcd: away"));
    assert!(!rig.sync.borrow().complete);
    // The settings of this host count all the same: it is now that somebody wants to see more.
    assert_eq!(rig.settings.borrow().log_level, "debug");
    // An empty store is a snapshot like any other.
    rig.changes(Batch { revision: 7, ..Batch::default() });
    assert_eq!((rig.state().generation, rig.state().revision), (1, 7));
    let sync = rig.sync.borrow();
    assert_eq!((sync.complete, sync.revision, &sync.waiting), (true, 7, &None));
}

#[test]
fn a_store_that_is_away_leaves_the_desired_state_as_it_is() {
    let mut rig = Rig::new();
    rig.changes(Batch { revision: 7, ..Batch::default() });
    let before = rig.state();
    rig.take(waiting("etcd: away"));
    assert!(!rig.desired.has_changed().unwrap());
    assert!(rig.sync.borrow().waiting.is_some() && rig.sync.borrow().complete);
    // Back, and nothing has happened meanwhile: the reconcilers hear nothing.
    rig.changes(Batch { revision: 9, ..Batch::default() });
    assert!(!rig.desired.has_changed().unwrap());
    assert!(Arc::ptr_eq(&before, &rig.state()));
    assert_eq!((rig.sync.borrow().revision, &rig.sync.borrow().waiting), (9, &None));
    // What concerns nobody here changes nothing either.
    let info = ClusterInformation { datastore_ready: true, guid: None, calico_version: None };
    let profile = Update::Profile("p".into(), Some(Arc::new(Profile::default())));
    rig.changes(updates([Update::ClusterInformation(Some(Arc::new(info))), profile]));
    assert!(!rig.desired.has_changed().unwrap());
}

#[test]
fn settings_follow_the_store_and_this_host() {
    let mut rig = Rig::new();
    let level = |rig: &Rig| {
        // The dataplane and the reports see the same.
        assert_eq!(rig.state().settings, *rig.settings.borrow());
        rig.state().settings.log_level.clone()
    };
    rig.changes(updates([felix("default", &[("LogSeverityScreen", "error")])]));
    assert_eq!(level(&rig), "error");
    // The node's goes before the cluster's, another node's does not count.
    rig.changes(updates([
        felix("node.calico-01", &[("LogSeverityScreen", "debug")]),
        felix("node.calico-02", &[("LogSeverityScreen", "fatal")]),
    ]));
    assert_eq!(level(&rig), "debug");
    let generation = rig.state().generation;
    // Read again from this host's layers.
    rig.calculation.set_layers(layers(&[("FELIX_LOGSEVERITYSCREEN", "warning")]));
    rig.calculation.publish(&rig.outputs);
    assert_eq!(level(&rig), "warn");
    assert_eq!(rig.state().generation, generation + 1);
    rig.calculation.set_layers(layers(&[]));
    rig.changes(updates([Update::FelixConfiguration("node.calico-01".into(), None)]));
    assert_eq!(level(&rig), "error");
    // The same again is no change.
    rig.changes(updates([felix("default", &[("LogSeverityScreen", "error")])]));
    assert!(!rig.desired.has_changed().unwrap());
}

#[test]
fn the_order_of_policies_is_that_of_the_cluster_or_of_who_sets_one() {
    let cluster = |version: &str| {
        let info = ClusterInformation {
            datastore_ready: true,
            guid: None,
            calico_version: Some(version.into()),
        };
        updates([Update::ClusterInformation(Some(Arc::new(info)))])
    };
    let order = |rig: &Rig| rig.sync.borrow().policy_order.clone();
    let mut rig = Rig::new();
    assert_eq!(order(&rig), "", "nobody has read it");
    rig.changes(cluster("v3.29.1"));
    assert!(order(&rig).contains("3.29 to 3.31") && order(&rig).contains("v3.29.1"));
    rig.calculation.set_layers(layers(&[("FELIX_CALICOVERSION", "3.20")]));
    rig.calculation.publish(&rig.outputs);
    assert!(order(&rig).contains("3.0 to 3.28") && order(&rig).contains("is set to 3.20"));
    // What is set to no version keeps the last good one: a policy must not move by a slip.
    rig.calculation.set_layers(layers(&[("FELIX_CALICOVERSION", "many")]));
    rig.calculation.publish(&rig.outputs);
    assert!(order(&rig).contains("is set to 3.20"), "{}", order(&rig));
    assert_eq!(rig.sync.borrow().settings.len(), 1);
    rig.calculation.set_layers(layers(&[]));
    rig.changes(cluster("master"));
    assert!(order(&rig).contains("says none"), "{}", order(&rig));
    assert_eq!(rig.state().notices.len(), 1);
}

#[test]
fn a_bad_setting_is_a_problem_until_it_is_mended() {
    let mut rig = Rig::new();
    rig.changes(updates([felix("default", &[("MaxIpsetSize", "many")])]));
    assert_eq!(rig.sync.borrow().settings.len(), 1);
    rig.changes(updates([felix("default", &[("MaxIpsetSize", "1024")])]));
    assert_eq!(rig.sync.borrow().settings, []);
}

#[test]
fn refused_keys_and_unsupported_kinds_are_kept_count_of() {
    let mut rig = Rig::new();
    let refuse = |key: &str, reason: &str| Rejection {
        key: key.to_owned(),
        id: None,
        reason: reason.to_owned(),
    };
    rig.changes(Batch {
        rejections: vec![refuse("/a", "bad"), refuse("/b", "bad")],
        unsupported: vec![("bgppeers".to_owned(), 2), ("bgpfilters".to_owned(), 1)],
        ..Batch::default()
    });
    rig.changes(Batch {
        rejections: vec![refuse("/b", "worse")],
        accepted: vec!["/a".to_owned(), "/never-refused".to_owned()],
        unsupported: vec![("bgppeers".to_owned(), 0)],
        ..Batch::default()
    });
    let sync = rig.sync.borrow();
    let rejected: Vec<_> = sync.rejected.iter().map(|(k, r)| (k.as_str(), r.as_str())).collect();
    assert_eq!(rejected, [("/b", "worse")]);
    assert_eq!(sync.unsupported.iter().collect::<Vec<_>>(), [(&"bgpfilters".to_owned(), &1)]);
}

/// A refused value is said with the state that it is the first to be missing in, and found by its object.
#[test]
fn a_refused_value_has_its_object_and_its_generation() {
    let captured = Captured::begin();
    let mut rig = Rig::new();
    let id = ResourceId::Profile("web".into());
    let key = v3::keys::key_of(&id).unwrap();
    let rejection = Rejection { key: key.clone(), id: Some(id), reason: "no JSON".to_owned() };
    rig.changes(Batch { rejections: vec![rejection], ..Batch::default() });
    rig.changes(Batch { accepted: vec![key.clone()], ..Batch::default() });
    let key = format!("CALICO_KEY={key}\n");
    let lines = captured.lines();
    for event in ["refused", "accepted"] {
        let event = format!("CALICO_EVENT={event}\n");
        let line = lines.iter().find(|line| line.contains(&event)).unwrap();
        for field in [key.as_str(), "CALICO_PROFILE=web\n", "CALICO_GENERATION="] {
            assert!(line.contains(field), "{field}: {line}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_piled_up_becomes_one_state_and_the_end_of_the_queue_ends_the_task() {
    let (outputs, mut rig) = outputs();
    let (_layers, layers_rx) = watch::channel(layers(&[]));
    let (events, events_rx) = mpsc::channel(100);
    for revision in 1..=50 {
        let level = if revision % 2 == 0 { "debug" } else { "error" };
        let updates = vec![felix("default", &[("LogSeverityScreen", level)])];
        let batch = Batch { revision, updates, ..Batch::default() };
        events.try_send(SyncEvent::Changes(batch)).unwrap();
    }
    let heartbeat = Watchdog::new().register("calculation");
    let task = tokio::spawn(run("n".into(), layers_rx, events_rx, None, outputs, heartbeat));
    rig.desired.changed().await.unwrap();
    assert_eq!((rig.state().generation, rig.state().revision), (1, 50));
    assert_eq!(rig.state().settings.log_level, "debug");
    drop(events);
    task.await.unwrap();
}

#[test]
fn a_notice_is_told_when_it_comes_changes_or_goes_and_not_again() {
    let notices = |of: &[(&'static str, &'static str)]| -> Notices {
        of.iter().map(|(subject, message)| (Arc::from(*subject), Arc::from(*message))).collect()
    };
    let before = notices(&[("IPPool a", "IPIP"), ("IPPool b", "IPIP"), ("IPPool c", "IPIP")]);
    let now =
        notices(&[("HostEndpoint x", "not yet"), ("IPPool a", "IPIP"), ("IPPool b", "VXLAN")]);
    assert_eq!(
        notice_news(&before, &now),
        [
            News::Raised("HostEndpoint x", "not yet"),
            News::Raised("IPPool b", "VXLAN"),
            News::Over("IPPool c"),
        ]
    );
    assert_eq!(notice_news(&now, &now), []);
}

/// A policy from disk with that log level in the FelixConfiguration of then.
fn stored(level: &str) -> StoredPolicy {
    let parameters = [("LogSeverityScreen".into(), level.into())].into();
    let block = "10.0.0.0/26".parse().unwrap();
    let state =
        DesiredState { revision: 5, blocks: imbl::OrdSet::unit(block), ..Default::default() };
    StoredPolicy {
        node: "calico-01".into(),
        boot: "before".to_owned(),
        written: SystemTime::UNIX_EPOCH,
        state: Arc::new(state),
        settings: StoreSettings {
            node: None,
            cluster: Some(Arc::new(FelixConfiguration { parameters })),
        },
    }
}

#[test]
fn the_policy_from_disk_is_in_force_until_the_first_snapshot() {
    let mut rig = Rig::new();
    rig.calculation = Calculation::new("calico-01".into(), layers(&[]), Some(stored("error")));
    rig.calculation.publish(&rig.outputs);
    let state = rig.state();
    assert_eq!((state.generation, state.revision, state.blocks.len()), (0, 5, 1));
    assert_eq!(state.origin, crate::desired::Origin::Stored { since: 0 });
    // The datastore of then; this host of now.
    assert_eq!(state.settings.log_level, "error");
    rig.take(waiting("etcd: away"));
    assert!(!rig.desired.has_changed().unwrap(), "nothing new is known");
    assert_eq!(rig.settings.borrow().log_level, "error");
    rig.calculation.set_layers(layers(&[("FELIX_LOGSEVERITYSCREEN", "debug")]));
    rig.take(waiting("etcd: still away"));
    assert_eq!(rig.state().settings.log_level, "debug");
    assert!(rig.state().origin.is_stored() && !rig.sync.borrow().complete);
    // An object that is not in the snapshot is not there, whatever was on disk.
    rig.calculation.set_layers(layers(&[]));
    rig.changes(Batch { revision: 9, ..Batch::default() });
    let state = rig.state();
    assert_eq!((state.generation, state.revision, state.blocks.len()), (1, 9, 0));
    assert_eq!((state.origin.is_stored(), state.settings.log_level.as_str()), (false, "info"));
    rig.calculation.set_layers(layers(&[("FELIX_LOGSEVERITYSCREEN", "error")]));
    rig.take(waiting("etcd: away again"));
    assert!(!rig.state().origin.is_stored());
    assert_eq!(rig.state().settings.log_level, "error");
}

/// What a reader of the store says of one policy: of an order, or one that cannot be read.
fn policed(revision: i64, version: Option<u8>) -> Batch {
    let id = PolicyId { namespace: None, name: "default.p".into() };
    let key = v3::keys::key_of(&ResourceId::Policy(id.clone())).unwrap();
    let mut batch = Batch { revision, ..Batch::default() };
    if let Some(version) = version {
        let policy = policy(Order::new(f64::from(version)).unwrap());
        batch.updates.push(Update::Policy(id, Some(Arc::new(policy))));
        batch.accepted.push(key);
    } else {
        batch.updates.push(Update::Policy(id.clone(), None));
        let id = Some(ResourceId::Policy(id));
        batch.rejections.push(Rejection { key, id, reason: "broken".to_owned() });
    }
    batch
}

#[test]
fn a_policy_that_breaks_counts_as_the_settings_of_now_say() {
    let policies = |rig: &Rig| rig.state().policies.len();
    let kept = |rig: &Rig| rig.sync.borrow().kept.len();
    let mut rig = Rig::new();
    // The settings come with the objects, behind them.
    let mut first = policed(1, Some(1));
    first.updates.push(felix("default", &[("InvalidPolicy", "keep-last")]));
    rig.changes(first);
    assert_eq!((policies(&rig), kept(&rig)), (1, 0));
    rig.changes(policed(2, None));
    assert_eq!((policies(&rig), kept(&rig), rig.sync.borrow().rejected.len()), (1, 1, 1));
    // Any other setting may change.
    rig.changes(updates([felix(
        "default",
        &[("InvalidPolicy", "keep-last"), ("MaxIpsetSize", "1024")],
    )]));
    assert_eq!((policies(&rig), kept(&rig)), (1, 1));
    // A word that is none leaves it as it is.
    rig.changes(updates([felix("default", &[("InvalidPolicy", "perhaps")])]));
    assert_eq!((policies(&rig), kept(&rig)), (1, 1));
    // Taken back, and again: the last version is still known.
    rig.changes(updates([felix("default", &[])]));
    assert_eq!((policies(&rig), kept(&rig), rig.sync.borrow().rejected.len()), (0, 0, 1));
    rig.calculation.set_layers(layers(&[("FELIX_INVALIDPOLICY", "keep-last")]));
    rig.calculation.publish(&rig.outputs);
    assert_eq!((policies(&rig), kept(&rig)), (1, 1));
    // Mended.
    rig.changes(policed(9, Some(2)));
    assert_eq!((policies(&rig), kept(&rig), rig.sync.borrow().rejected.len()), (1, 0, 0));
}

#[test]
fn a_policy_that_breaks_in_the_breath_in_which_the_setting_changes_counts_as_the_new_one_says() {
    for (mode, expected) in [("keep-last", 1), ("absent", 0)] {
        let other = if mode == "absent" { "keep-last" } else { "absent" };
        let mut rig = Rig::new();
        let mut first = policed(1, Some(1));
        first.updates.push(felix("default", &[("InvalidPolicy", other)]));
        rig.changes(first);
        let mut breaks = policed(2, None);
        breaks.updates.insert(0, felix("default", &[("InvalidPolicy", mode)]));
        rig.changes(breaks);
        assert_eq!(rig.state().policies.len(), expected, "{mode}");
        assert_eq!(rig.sync.borrow().kept.len(), expected, "{mode}");
    }
}

#[test]
fn a_policy_that_was_broken_from_the_start_is_absent_in_either_mode() {
    for mode in ["keep-last", "absent"] {
        let mut rig = Rig::new();
        let mut first = policed(1, None);
        first.updates.push(felix("default", &[("InvalidPolicy", mode)]));
        rig.changes(first);
        let sync = rig.sync.borrow();
        assert_eq!(rig.state().policies.len(), 0, "{mode}");
        assert_eq!((sync.kept.len(), sync.rejected.len()), (0, 1), "{mode}");
    }
}
