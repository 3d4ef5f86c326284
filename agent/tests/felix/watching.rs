//! What others change is noticed, what we change ourselves and what is not ours wakes nobody.

use std::time::{Duration, Instant};

use calico_agent::desired::{DesiredState, LocalHostEndpoint};
use calico_agent::drift::Change;
use calico_agent::felix::watch::{Changes, Kept, Touched, Watch};
use calico_agent::reconcile::{Report, Wake};
use calico_agent::status::systemd::Watchdog;
use calico_datastore::model::{Action, Family, InterfaceName};

use crate::host::{Flavour, Host, Pod, each_flavour, on_nftables};
use crate::machines::{Machine, both, host_policy, on, put};
use crate::netns::sh;
use crate::world::*;

/// The longest that noticing may take: what is polled is so each second.
const LIMIT: Duration = Duration::from_secs(3);
/// Long enough for each kind of look to have been taken.
const QUIET: Duration = Duration::from_millis(2500);

/// A host whose kernel is watched, with everything in force.
struct Watched<'a> {
    host: &'a mut Host,
    watch: Watch,
    changes: Changes,
    watchdog: Watchdog,
    state: DesiredState,
    a: Pod,
    b: Pod,
}

impl<'a> Watched<'a> {
    fn new(host: &'a mut Host, flavour: Flavour) -> Self {
        let (a, b) = (host.pod(1), host.pod(2));
        let mut state = empty(flavour);
        network(&mut state, "net", &[1, 2]);
        policy(&mut state, "p", vec![tcp(Action::Deny, &[81])]);
        state.pools.insert("10.65.0.0/16".parse().unwrap(), true);
        for pod in [&a, &b] {
            endpoint(&mut state, pod, &profiles(&["net"]), true);
        }
        let changes = host.felix.changes();
        // The sockets belong to the namespace of the thread, and to the runtime.
        let watch = host.block_on(async { Watch::open(&host.felix) });
        let watchdog = Watchdog::new();
        let mut watched = Self { host, watch, changes, watchdog, state, a, b };
        watched.apply(Wake::Start);
        watched
    }

    /// One run that must succeed. The watch, which waits while the test does something else, has
    /// its first look afterwards; what the run wrote touches nothing.
    fn apply(&mut self, wake: Wake) -> Report {
        let report = self.host.apply(&self.state, wake);
        let touched = self.notice(Duration::from_millis(100));
        assert!(touched.is_empty(), "our own writes: {touched:?}");
        report
    }

    /// What is noticed within `limit`.
    fn notice(&mut self, limit: Duration) -> Touched {
        let heartbeat = self.watchdog.register("watch");
        let notify = self.changes.notify();
        let watch = &mut self.watch;
        self.host.block_on(async {
            tokio::select! {
                // A wake-up may be left of what was put back: the watch has its look before it.
                biased;
                () = watch.run(heartbeat) => {}
                () = notify.notified() => {}
                () = tokio::time::sleep(limit) => {}
            }
        });
        self.changes.take()
    }

    /// Nothing is noticed.
    fn is_quiet(&mut self, why: &str) {
        let touched = self.notice(QUIET);
        assert!(touched.is_empty(), "{why}: {touched:?}");
    }

    /// Tables, sets and parameters as text.
    fn kernel(&self) -> [String; 4] {
        let sysctls = "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding \
                       $(sysctl -aN 2> /dev/null | grep -E 'conf.calipod1.(route_localnet|proxy_arp|forwarding|rp_filter|accept_ra|proxy_ndp)$')";
        let sets = sh("ipset save | sed 's/ initval [^ ]*//; s/ packets .*//' | sort");
        [self.host.saved(4), self.host.saved(6), sets, sh(sysctls)]
    }

    /// Somebody does `what`, and it is noticed.
    fn noticed(&mut self, what: &str, expected: impl Fn(&Touched) -> bool) -> Touched {
        let before = self.kernel();
        let begin = Instant::now();
        sh(what);
        assert_ne!(self.kernel(), before, "{what} did nothing");
        let mut touched = Touched::default();
        while !expected(&touched) {
            assert!(begin.elapsed() < LIMIT * 2, "{what} is not noticed, but {touched:?}");
            touched.merge(self.notice(LIMIT));
        }
        touched
    }

    /// The same, and it is repaired by what the reconciler is told.
    fn repaired(&mut self, what: &str, whole: &[String; 4], expected: impl Fn(&Touched) -> bool) {
        let touched = self.noticed(what, expected);
        self.changes.touch(|all| all.merge(touched));
        let begin = Instant::now();
        while self.kernel() != *whole {
            assert!(begin.elapsed() < LIMIT, "{what} is not repaired: {:#?}", self.kernel());
            self.apply(Wake::Kernel);
            self.host.sleep(Duration::from_millis(50));
        }
    }

    /// With `T` for the flavour's `iptables`.
    fn script(&self, text: &str) -> String {
        let tool = self.host.tool();
        text.replace("T6 ", &format!("ip6tables-{tool} -w "))
            .replace("T4 ", &format!("iptables-{tool} -w "))
    }
}

/// Changes the verdict of a rule, not its comment, and not the size of the table.
const MODIFY: &str = r#"rule=$(T4 -S cali-from-wl-dispatch | tail -1 | sed 's/^-A cali-from-wl-dispatch//; s/-g cali-drop-.*/-j ACCEPT/')
eval "T4 -R cali-from-wl-dispatch 2 $rule""#;

#[test]
fn what_others_do_to_tables_is_noticed_and_repaired() {
    each_flavour(|host, flavour| {
        let mut world = Watched::new(host, flavour);
        world.is_quiet("our own writes");
        let whole = world.kernel();
        let v4 = |t: &Touched| t.tables.contains(&Family::V4);
        let v6 = |t: &Touched| t.tables.contains(&Family::V6);
        let modify = world.script(MODIFY);
        let touched = world.noticed(&modify, v4);
        if flavour == Flavour::Nft {
            let by = touched.by.unwrap();
            assert!(by.starts_with("iptables-nft (process "), "{by}");
        }
        for what in [
            "T4 -F cali-from-wl-dispatch",
            "T4 -D cali-wl-forward 3",
            "T4 -t raw -F PREROUTING",
            "T4 -F",
        ] {
            let what = world.script(what);
            world.repaired(&what, &whole, v4);
        }
        let what = world.script("T6 -t raw -I cali-anti-spoof -j RETURN");
        world.repaired(&what, &whole, v6);
        if flavour == Flavour::Nft {
            world.repaired("nft delete table ip filter", &whole, v4);
            world.repaired("nft flush ruleset", &whole, |t| v4(t) && v6(t));
        }
        world.is_quiet("our own repairs");
    });
}

/// Legacy tables tell nobody; their tools' lock does.
#[test]
fn who_deletes_all_rules_is_noticed_at_once() {
    each_flavour(|host, flavour| {
        let mut world = Watched::new(host, flavour);
        let whole = world.kernel();
        let flush = world.script("T4 -F; T4 -X; T6 -F; T6 -X");
        let mut took = Vec::new();
        for _ in 0..5 {
            sh(&flush);
            let begin = Instant::now();
            let mut touched = world.notice(LIMIT);
            took.push(begin.elapsed());
            while touched.tables.len() < 2 {
                assert!(begin.elapsed() < LIMIT, "{touched:?}");
                touched.merge(world.notice(LIMIT));
            }
            world.changes.touch(|all| all.merge(touched));
            // Who deletes chains is let finish.
            world.apply(Wake::Kernel);
            assert_ne!(world.kernel(), whole);
            world.host.sleep(Duration::from_millis(100));
            world.apply(Wake::Timer);
            assert_eq!(world.kernel(), whole);
            // Not always at the same time of the second.
            world.notice(Duration::from_millis(130));
        }
        // A machine that is busy with other things may keep us waiting once.
        took.sort();
        assert!(took[3] < Duration::from_millis(200), "{took:?}");
    });
}

/// A script is many tools, one after the other; the tables have just been read when the one that
/// changes a rule gives the lock back.
#[test]
fn what_the_last_tool_of_a_script_changes_is_noticed_soon() {
    each_flavour(|host, flavour| {
        let mut world = Watched::new(host, flavour);
        let whole = world.kernel();
        let look = world.script("T4 -S > /dev/null");
        let modify = world.script(MODIFY);
        for pause in [15, 30, 45] {
            // What it costs to read decides how soon they are read again.
            let script = format!("{look}; sleep 0.0{pause}; {modify}");
            let began = Instant::now();
            let shell = std::thread::spawn(move || sh(&script));
            let mut touched = Touched::default();
            while !touched.tables.contains(&Family::V4) {
                assert!(began.elapsed() < LIMIT, "{pause}: {touched:?}");
                touched.merge(world.notice(LIMIT));
            }
            shell.join().unwrap();
            world.changes.touch(|all| all.merge(touched));
            world.apply(Wake::Kernel);
            assert_eq!(world.kernel(), whole, "{pause}");
        }
    });
}

/// The last host endpoint empties `mangle`, the last pool that is masqueraded `nat`.
#[test]
fn a_table_that_we_empty_ourselves_is_no_work_of_others() {
    each_flavour(|host, flavour| {
        let _machine = Machine::new(host, 1);
        let mut world = Watched::new(host, flavour);
        let tool = world.host.tool();
        let filled =
            |table: &str| sh(&format!("iptables-{tool}-save -t {table}")).contains("-A cali-");
        let mut state = next(&world.state);
        host_policy(&mut state, "web", vec![tcp(Action::Allow, &[80])], vec![any(Action::Allow)]);
        put(&mut state, "a", LocalHostEndpoint { normal: both("web"), ..on("eth1") });
        world.state = state;
        world.apply(Wake::Desired);
        assert!(filled("mangle") && filled("nat"));
        let mut state = next(&world.state);
        state.host_endpoints = Default::default();
        state.pools.insert("10.65.0.0/16".parse().unwrap(), false);
        world.state = state;
        // Each looks whether anything is noticed.
        world.apply(Wake::Desired);
        assert!(!filled("mangle") && !filled("nat"));
        world.is_quiet("less");
        let network = |world: &mut Watched<'_>, port| {
            let mut state = next(&world.state);
            let allowed = from_set(tcp(Action::Allow, &[port]), "s:net");
            profile(&mut state, "net", vec![allowed], vec![any(Action::Allow)]);
            world.state = state;
        };
        network(&mut world, 82);
        world.apply(Wake::Desired);
        world.is_quiet("another policy");
        // Who empties one that should hold rules is noticed, also just after we wrote.
        network(&mut world, 83);
        let restores = world.host.felix.counters().iptables_restores.get();
        world.host.apply(&world.state, Wake::Desired);
        assert!(world.host.felix.counters().iptables_restores.get() > restores);
        let flush = world.script("T4 -F; T4 -X");
        world.noticed(&flush, |touched| touched.tables.contains(&Family::V4) && touched.torn);
    });
}

/// firewalld deletes everything more than once, and its tools wait for the same lock.
#[test]
fn who_deletes_all_rules_just_after_the_repair_is_noticed_too() {
    each_flavour(|host, flavour| {
        let mut world = Watched::new(host, flavour);
        let flush = world.script("T4 -F; T4 -X");
        sh(&flush);
        let mut touched = world.notice(LIMIT);
        assert!(touched.tables.contains(&Family::V4), "{touched:?}");
        let mut took = Vec::new();
        for _ in 0..3 {
            world.changes.touch(|all| all.merge(touched));
            world.host.apply(&world.state, Wake::Kernel);
            world.host.sleep(Duration::from_millis(100));
            world.host.apply(&world.state, Wake::Timer);
            // Before the watch has looked at what we wrote.
            sh(&flush);
            let begin = Instant::now();
            touched = world.notice(LIMIT);
            assert!(touched.tables.contains(&Family::V4), "{touched:?}");
            took.push(begin.elapsed());
        }
        // A machine that is busy with other things may keep us waiting once.
        took.sort();
        assert!(took[1] < Duration::from_millis(500), "{took:?}");
    });
}

#[test]
fn what_others_do_to_sets_and_parameters_is_noticed_and_repaired() {
    each_flavour(|host, flavour| {
        let mut world = Watched::new(host, flavour);
        let whole = world.kernel();
        let net = |t: &Touched| t.sets.contains("cali40s:net");
        for what in [
            "ipset del cali40s:net 10.65.0.1; ipset add cali40s:net 10.65.0.9",
            "ipset flush cali40s:net",
            "ipset create x hash:net maxelem 7; ipset add x 10.65.0.1; ipset add x 10.65.0.2
             ipset swap x cali40s:net; ipset destroy x",
        ] {
            world.repaired(what, &whole, net);
        }
        world.repaired("ipset create cali40new hash:net", &whole, |t| t.sets.contains("cali40new"));
        let pod = "calipod1".parse().unwrap();
        for (name, value) in [
            // The kernel tells of these,
            ("net.ipv4.conf.calipod1.rp_filter", 0),
            ("net.ipv6.conf.calipod1.proxy_ndp", 0),
            // and not of these.
            ("net.ipv4.conf.calipod1.route_localnet", 0),
            ("net.ipv6.conf.calipod1.accept_ra", 2),
        ] {
            let what = format!("sysctl -qw {name}={value}");
            world.repaired(&what, &whole, |t| t.sysctls.contains(&pod));
        }
        // Somebody changes sets between our write of sets and the look that follows it.
        let before = world.state.clone();
        world.state = next(&before);
        set(&mut world.state, "s:net", &[1, 2, 3]);
        world.host.apply(&world.state, Wake::Desired);
        sh("ipset del cali40s:net 10.65.0.2; ipset flush cali40all-ipam-pools");
        let touched = world.notice(LIMIT);
        let pools = touched.sets.contains("cali40all-ipam-pools");
        assert!(net(&touched) && pools && touched.sets.len() == 2, "{touched:?}");
        world.changes.touch(|all| all.merge(touched));
        assert_eq!(world.apply(Wake::Kernel).drift.len(), 2);
        world.state = DesiredState { generation: world.state.generation + 1, ..before };
        world.apply(Wake::Desired);
        let touched = world.noticed("sysctl -qw net.ipv4.ip_forward=0", |t| t.forwarding);
        world.changes.touch(|all| all.merge(touched));
        let report = world.apply(Wake::Kernel);
        let found = report.drift.iter().find(|d| d.subject == "sysctl net.ipv4.ip_forward");
        let found = found.unwrap_or_else(|| panic!("{:?}", report.drift));
        assert_eq!((found.change, found.detail.as_str()), (Change::Modified, "was 0, should be 1"));
        world.is_quiet("our own repairs");
        assert_eq!(world.kernel(), whole);
    });
}

/// The reconciler says of which interfaces it has set parameters when it has set all. What somebody changes between that
/// and the write is not lost.
#[test]
fn a_parameter_that_somebody_sets_behind_our_write_is_noticed() {
    on_nftables(|host, flavour| {
        let mut world = Watched::new(host, flavour);
        world.is_quiet("our own writes");
        let pod: InterfaceName = "calipod1".parse().unwrap();
        let index = world.host.links.get(&pod).unwrap().index;
        let families = Family::ALL.to_vec();
        let none = Kept { families, ..Kept::default() };
        let interfaces = [(index, pod.clone())].into_iter().collect();
        let set = Kept { interfaces, ..none.clone() };
        // As when the pod has just come.
        world.changes.keep(none);
        let turn = world.host.block_on(world.changes.turn());
        sh("sysctl -qw net.ipv4.conf.calipod1.rp_filter=2");
        let touched = world.notice(Duration::from_millis(1500));
        assert!(touched.is_empty(), "nobody knows yet whose it is: {touched:?}");
        world.changes.keep(set);
        drop(turn);
        let touched = world.notice(LIMIT);
        assert!(touched.sysctls.contains(&pod), "{touched:?}");
        world.is_quiet("it was told once");
    });
}

#[test]
fn own_changes_and_what_is_not_ours_wake_nobody() {
    each_flavour(|host, flavour| {
        let mut world = Watched::new(host, flavour);
        world.is_quiet("the first run");
        // Ours: an endpoint goes and comes, a policy and a set change.
        let state = world.state.clone();
        let mut less = next(&state);
        less.endpoints.remove(&id(&world.b));
        set(&mut less, "s:net", &[1, 3]);
        policy(&mut less, "p", vec![tcp(Action::Deny, &[82])]);
        world.host.apply(&less, Wake::Desired);
        world.is_quiet("less");
        let more = DesiredState { generation: less.generation + 1, ..state };
        world.host.apply(&more, Wake::Desired);
        world.state = more;
        world.is_quiet("more");
        // Not ours, in tables of ours too.
        let foreign = world.script(
            "T4 -N KUBE-X; T4 -A KUBE-X -s 192.0.2.0/24 -j ACCEPT; T4 -I KUBE-X -j RETURN
             T6 -t raw -N KUBE-Y; T6 -t raw -A KUBE-Y -j RETURN; T4 -D KUBE-X 2
             T4 -t security -N KUBE-Z || true
             nft add table ip foreign; nft add chain ip foreign FORWARD
             nft add rule ip foreign FORWARD drop; nft delete table ip foreign
             ipset create foreign hash:ip; ipset add foreign 192.0.2.1; ipset flush foreign
             sysctl -qw net.ipv4.conf.lo.rp_filter=1 net.ipv4.conf.default.proxy_arp=1",
        );
        sh(&foreign);
        world.is_quiet("what is not ours");
        // What the kernel counts in sets of ours: of what passes, and of what does not.
        world.b.serve(80);
        let counted = || sh("ipset save | grep packets | sort");
        let before = counted();
        for to in world.b.both() {
            assert!(world.a.reaches(to, 80));
            assert!(!world.a.reaches_from(crate::host::v4(1), crate::host::v4(9), 80));
        }
        world.is_quiet("packets");
        assert_ne!(counted(), before);
    });
}
