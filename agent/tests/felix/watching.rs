//! What others change is noticed, what we change ourselves and what is not ours wakes nobody.

use std::time::{Duration, Instant};

use calico_agent::config::IptablesBackend;
use calico_agent::desired::DesiredState;
use calico_agent::drift::Change;
use calico_agent::felix::watch::{Changes, Touched, Watch};
use calico_agent::reconcile::Wake;
use calico_agent::status::systemd::Watchdog;
use calico_datastore::model::{Action, Family};

use crate::host::{Host, Pod, each_flavour};
use crate::netns::sh;
use crate::world::*;

/// The longest that noticing may take: what is polled is so each second, members every other.
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
    fn new(host: &'a mut Host, flavour: IptablesBackend) -> Self {
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
        watched.host.apply(&watched.state, Wake::Start);
        watched
    }

    /// What is noticed within `limit`.
    fn notice(&mut self, limit: Duration) -> Touched {
        let heartbeat = self.watchdog.register("watch");
        let notify = self.changes.notify();
        let watch = &mut self.watch;
        self.host.block_on(async {
            tokio::select! {
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
        let sets = sh("ipset save | sed 's/ initval [^ ]*//' | sort");
        [self.host.saved(4), self.host.saved(6), sets, sh(sysctls)]
    }

    /// Somebody does `what`: it is noticed, and repaired by what the reconciler is told.
    fn tamper(&mut self, what: &str, expected: impl Fn(&Touched) -> bool) {
        let whole = self.kernel();
        let begin = Instant::now();
        sh(what);
        assert_ne!(self.kernel(), whole, "{what} did nothing");
        let mut touched = Touched::default();
        while !expected(&touched) {
            assert!(begin.elapsed() < LIMIT * 2, "{what} is not noticed, but {touched:?}");
            touched.merge(self.notice(LIMIT));
        }
        self.changes.touch(|all| all.merge(touched));
        while self.kernel() != whole {
            assert!(begin.elapsed() < LIMIT * 3, "{what} is not repaired: {:#?}", self.kernel());
            self.host.apply(&self.state, Wake::Kernel);
            self.host.sleep(Duration::from_millis(50));
        }
        self.is_quiet(&format!("after the repair of {what}"));
    }
}

#[test]
fn show() {
    each_flavour(|host, flavour| {
        let watched = Watched::new(host, flavour);
        println!("{}", watched.kernel().join("\n----\n"));
    });
}
