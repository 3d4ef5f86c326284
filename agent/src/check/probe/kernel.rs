//! Tries what the agent does to a kernel in a network namespace that lives as long as the trial, with
//! the agent's own code; where no namespace can be made, asks without writing.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use calico_datastore::model::{Cidr, Family, InterfaceName, Mac};
use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::{LinkUnspec, LinkVeth};
use tokio::sync::oneshot;

use crate::check::features::{self, Feature};
use crate::check::judge::kernel::{KernelFacts, Need, Outcome, Trial, Tried};
use crate::config::Settings;
use crate::exec::Exec;
use crate::felix::Dataplane;
use crate::felix::conntrack::Conntrack;
use crate::felix::counters::Counters;
use crate::felix::ipset::{Command, Entry, SetSpec, SetType, Sets};
use crate::felix::iptables::names;
use crate::felix::nftables::trial::trials;
use crate::felix::sysctl::{SysctlError, Sysctls};
use crate::routes::changes::Changes;
use crate::routes::kernel::{Kernel, RouteFilter};
use crate::routes::plan::{CALICO_PROTOCOL, Neighbour, Op, Route, RouteKind};
use crate::telemetry::chain;

/// The longest that all of it may take; each call has a bound of its own.
const LIMIT: Duration = Duration::from_secs(30);
/// The interface of the trial and its other end.
const VETH: [&str; 2] = ["cali-check0", "cali-check1"];

/// What the trial is made with.
#[derive(Clone, Debug)]
pub struct Request {
    /// Starts the tools.
    pub exec: Exec,
    /// Which iptables; `None`: there is none.
    pub dataplane: Option<Dataplane>,
    /// It is not iptables that would be used but a table of our own.
    pub nftables: bool,
    /// The families that are switched on and known to this kernel.
    pub families: Vec<Family>,
    /// What the rules depend on.
    pub settings: Settings,
    /// `/proc/sys`.
    pub proc_sys: PathBuf,
}

/// Tries everything.
pub async fn probe(request: Request) -> KernelFacts {
    let (tell, told) = oneshot::channel();
    let dry = request.clone();
    // A namespace belongs to a thread, so this one is nobody else's; the namespace goes with it.
    let spawned = std::thread::Builder::new().name("check".to_owned()).spawn(move || {
        let _ = tell.send(in_namespace(request));
    });
    let why = match spawned {
        Err(error) => error.to_string(),
        Ok(_) => match tokio::time::timeout(LIMIT, told).await {
            Ok(Ok(Ok(tried))) => return KernelFacts { trial: Trial::Namespace, tried },
            Ok(Ok(Err(why))) => why,
            Ok(Err(_)) => "the trial ended early".to_owned(),
            Err(_) => format!("the trial took longer than {LIMIT:?}"),
        },
    };
    KernelFacts { trial: Trial::Dry(why), tried: without_writing(&dry).await }
}

fn in_namespace(request: Request) -> Result<Vec<Tried>, String> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .map_err(|errno| errno.desc().to_lowercase())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    Ok(runtime.block_on(async move {
        let mut tried = if request.nftables {
            nftables()
        } else {
            let mut tried = sets(&request).await;
            tried.extend(rules(&request, false).await);
            tried
        };
        tried.extend(network(&request).await);
        tried.extend(connections(&request).await);
        tried
    }))
}

/// Nothing here may change anything.
async fn without_writing(request: &Request) -> Vec<Tried> {
    let mut tried = rules(request, true).await;
    let sets = if request.nftables { NFTABLES } else { ("address sets", "hash:net") };
    let untried = [sets, ("routes and neighbours", "route")];
    for (area, what) in untried {
        tried.push(Tried {
            area: area.to_owned(),
            what: what.to_owned(),
            need: Need::Always,
            outcome: Outcome::NotTried,
        });
    }
    tried
}

/// Where nothing of our own table could be tried.
const NFTABLES: (&str, &str) = ("nftables", "chains and rules");

/// All that our own table is made of.
fn nftables() -> Vec<Tried> {
    let trials = trials().into_iter().map(|trial| Tried {
        area: NFTABLES.0.to_owned(),
        what: trial.what.to_owned(),
        need: trial.needed_for.map_or(Need::Always, Need::For),
        outcome: trial.result.map_or_else(Outcome::Refused, |()| Outcome::Works),
    });
    trials.collect()
}

/// The sets as the agent makes them, each with a member.
async fn sets(request: &Request) -> Vec<Tried> {
    let sets = Sets::new(Counters::default());
    let mut tried = Vec::new();
    for &family in &request.families {
        let [net, port, iface] = features::sets(family);
        let host = Cidr::host(example(family));
        let entries = [
            (net, SetType::Net, Entry::Net(host)),
            (
                port,
                SetType::Port,
                Entry::Port(example(family), calico_datastore::model::Protocol::TCP, 80),
            ),
            (iface, SetType::NetIface, Entry::NetIface(host, interface())),
        ];
        for (name, kind, entry) in entries {
            let counters = kind == SetType::NetIface && request.settings.endpoint_counters;
            let spec = SetSpec { kind, family, max: request.settings.max_ipset_size, counters };
            let what = Command::Create(name.clone(), spec).to_string();
            let commands = [Command::Create(name.clone(), spec), Command::Add(name, entry)];
            let outcome = match sets.write(&commands).await {
                Ok(refused) => match refused.first() {
                    None => Outcome::Works,
                    Some(refused) => Outcome::Refused(refused.to_string()),
                },
                Err(error) => Outcome::Refused(chain(&error)),
            };
            let what = what.split(' ').nth(2).unwrap_or_default().to_owned();
            tried.push(Tried {
                area: format!("{family} address sets"),
                what,
                need: Need::Always,
                outcome,
            });
        }
    }
    tried
}

/// Matches and targets. All at once, and only when that is refused one by one.
async fn rules(request: &Request, dry: bool) -> Vec<Tried> {
    let mut tried = Vec::new();
    let Some(dataplane) = &request.dataplane else { return tried };
    for &family in &request.families {
        let [.., iface] = features::sets(family);
        // Without writing only a set that the agent made earlier can be named.
        let set = if dry { names::local_endpoints(family) } else { iface };
        let exists = !dry || Sets::new(Counters::default()).has(&set).unwrap_or(false);
        let (settings, random) = (&request.settings, dataplane.random_fully);
        let all = features::features(family, settings, random, &set);
        let usable = |feature: &&Feature| exists || !feature.uses_set;
        let program = dataplane.program(family, "restore");
        let ask = async |text: String| {
            let mut args = vec!["--noflush"];
            args.extend(dry.then_some("--test"));
            request.exec.run(&program, &args, text.as_bytes()).await
        };
        let whole = ask(features::transaction(&all.iter().filter(usable).collect::<Vec<_>>()))
            .await
            .is_ok();
        for feature in &all {
            let outcome = if !usable(&feature) {
                Outcome::NotTried
            } else if whole {
                Outcome::Works
            } else {
                match ask(features::transaction(&[feature])).await {
                    Ok(_) => Outcome::Works,
                    Err(error) => Outcome::Refused(error.to_string()),
                }
            };
            tried.push(Tried {
                area: format!("{family} table {}", feature.table.name()),
                what: feature.name.to_owned(),
                need: feature.need,
                outcome,
            });
        }
    }
    tried
}

/// A veth, its parameters, routes and neighbours.
async fn network(request: &Request) -> Vec<Tried> {
    let mut tried = Vec::new();
    let mut add = |area: &str, what: &str, need, result: Result<(), String>| {
        let outcome = result.map_or_else(Outcome::Refused, |()| Outcome::Works);
        tried.push(Tried { area: area.to_owned(), what: what.to_owned(), need, outcome });
    };
    let device = match veth().await {
        Ok(device) => device,
        Err(error) => {
            add("interfaces", "veth", Need::Always, Err(error.to_string()));
            return tried;
        }
    };
    add("interfaces", "veth", Need::Always, Ok(()));

    let sysctls = Sysctls::new(request.proc_sys.clone(), Counters::default());
    let mut errors = sysctls.forwarding(&request.families).errors;
    errors.extend(sysctls.interface(&interface(), &request.families, false).errors);
    // A read-only /proc/sys is told among the rights.
    let forbidden = |error: &SysctlError| {
        use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        [PermissionDenied, ReadOnlyFilesystem].contains(&error.source.kind())
    };
    errors.retain(|error| !forbidden(error));
    let result = errors.first().map_or(Ok(()), |error| Err(chain(error)));
    add("interfaces", "parameters of a pod's interface", Need::Always, result);

    let kernel = match Kernel::open(&Changes::default()) {
        Ok(kernel) => kernel,
        Err(error) => {
            add("routes and neighbours", "rtnetlink", Need::Always, Err(chain(&error)));
            return tried;
        }
    };
    for &family in &request.families {
        let address = example(family);
        let route = |destination: Cidr, kind, device: Option<u32>, protocol| Route {
            destination,
            metric: Route::default_metric(family),
            tos: 0,
            scope: if device.is_some() { Route::pod_scope(family) } else { 0 },
            kind,
            device,
            indirect: false,
            protocol,
            source: None,
        };
        let protocol = request.settings.route_protocol;
        let block = Cidr::new(address, family.host_len() - 6).unwrap_or(Cidr::host(address));
        let ops = [
            (
                "neighbour",
                Op::SetNeighbour(Neighbour {
                    device,
                    address,
                    mac: Some(Mac::new([2, 0, 0, 0, 0, 1])),
                    marked: true,
                }),
            ),
            (
                "route",
                Op::AddRoute(route(
                    Cidr::host(address),
                    RouteKind::Unicast,
                    Some(device),
                    protocol,
                )),
            ),
            ("blackhole", Op::AddRoute(route(block, RouteKind::Blackhole, None, CALICO_PROTOCOL))),
        ];
        for (what, op) in ops {
            let result = kernel.apply(&[op]).await.into_iter().try_for_each(|(_, result)| result);
            let what = format!("{family} {what}");
            add("routes and neighbours", &what, Need::Always, result.map_err(|f| f.reason()));
        }
        let found = kernel
            .routes(RouteFilter::Protocol(protocol), |route| route.device == Some(device))
            .await;
        let result = match found {
            Ok(routes) if routes.len() == 1 => Ok(()),
            Ok(_) => Err("a route was written and is not listed with its protocol".to_owned()),
            Err(error) => Err(chain(&error)),
        };
        add(
            "routes and neighbours",
            &format!("{family} route protocol {protocol}"),
            Need::Always,
            result,
        );
        // The next family's would be counted as well.
        let gone = route(Cidr::host(address), RouteKind::Unicast, Some(device), protocol);
        let _ = kernel.apply(&[Op::DeleteRoute(gone)]).await;
    }
    tried
}

/// Makes the pair of interfaces; returns the index of the first.
async fn veth() -> Result<u32, rtnetlink::Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| {
        rtnetlink::Error::InvalidNla(format!("cannot open an rtnetlink socket: {error}"))
    })?;
    let driver = tokio::spawn(connection);
    let work = async {
        handle.link().add(LinkVeth::new(VETH[0], VETH[1]).build()).execute().await?;
        let found = handle.link().get().match_name(VETH[0].to_owned()).execute();
        let found: Option<LinkMessage> = Box::pin(found).try_next().await?;
        let index = found.map_or(0, |link| link.header.index);
        handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?;
        Ok(index)
    };
    let result = work.await;
    driver.abort();
    result
}

/// Cutting the connections of an address.
async fn connections(request: &Request) -> Vec<Tried> {
    let conntrack = Conntrack::new(Counters::default());
    let addresses: BTreeSet<IpAddr> = request.families.iter().copied().map(example).collect();
    let outcome = match conntrack.forget(&addresses, &addresses).await {
        Ok(()) => Outcome::Works,
        Err(error) => Outcome::Refused(chain(&error)),
    };
    let need = Need::For("cutting the connections of a pod that left");
    vec![Tried {
        area: "connections".to_owned(),
        what: "nf_conntrack_netlink".to_owned(),
        need,
        outcome,
    }]
}

/// An address that nobody has (RFC 5737, RFC 3849).
fn example(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 0, 2, 1]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    }
}

fn interface() -> InterfaceName {
    VETH[0].parse().expect("a name that interfaces may have")
}
