//! ADD: connects a container.
//!
//! What is about to be made is written into the attachment's record first, so that a killed ADD
//! leaves nothing that the record does not name. A failed one takes back what it made, by the same
//! way as DEL. Pool and profile stay: they are the network's, and another pod may use them already.

use std::path::Path;
use std::time::SystemTime;

use calico_datastore::ipam::Ipam;
use calico_datastore::layout::endpoint_status_file_name;
use calico_datastore::layout::v3::write::endpoint::{self as layout, EndpointEdit};
use calico_datastore::model::{Family, InterfaceName, Name, WorkloadEndpointId};
use calico_datastore::store::AnyStore;

use crate::attachment::{Attachment, Attachments, Stage, boot_id};
use crate::container::{handle, list, lock};
use crate::directories::Directories;
use crate::facts::Facts;
use crate::interface::{self, Connected};
use crate::journal::{self, Priority};
use crate::network;
use crate::protocol::{CniError, Code, Dns, Invocation, Success, print};
use crate::teardown::{Remains, teardown};
use crate::waiting::{self, Expected};
use crate::{
    addresses, answer, datastore, delegate, delegation, endpoint, failure, gateway, pool, profile,
};

/// Connects, and prints the result: if nobody reads it, the runtime takes the ADD for failed, and so
/// do we.
///
/// # Errors
/// Everything that was made is taken back; where that failed too, the details say so.
pub(crate) async fn add(call: &Invocation) -> Result<(), CniError> {
    let dirs = Directories::of(&call.conf);
    let node = Name::from(dirs.node_name(&call.conf)?);
    let records = Attachments::in_state_dir(&dirs.state);
    let locked = lock(&records, call)?;
    let added = locked_add(call, &dirs, node, &records).await;
    records.unlock(locked, &call.container_id);
    added
}

async fn locked_add(
    call: &Invocation,
    dirs: &Directories,
    node: Name,
    records: &Attachments,
) -> Result<(), CniError> {
    let (netns, ifname) = pod_side(call)?;
    let store = datastore::open(&call.conf)?;
    let id = layout::id(&node, &call.container_id, &call.ifname);
    layout::check(&id).map_err(|error| {
        let msg = "CNI_CONTAINERID, CNI_IFNAME or this host's name cannot name an endpoint";
        CniError::new(Code::InvalidEnvironment, msg, failure::chain(&error))
    })?;
    tracing::debug!("begun");
    let facts = Facts::read(&store, call, &id).await?;
    tracing::debug!("the datastore is read");
    let inside = network::inspect(netns, &ifname).await;
    let inside = inside.map_err(|error| {
        failure::network(format!("CNI_NETNS {} cannot be used", netns.display()), &error)
    })?;
    // Only this container's: a host may have a thousand records. That a name is another pod's is
    // seen when the interface is made.
    let all = records.of_container(&call.container_id);
    let all =
        all.map_err(|error| failure::attachment("its earlier attachments are not known", &error))?;
    clean(call, &store, records, &all, &id, &facts, inside.is_some()).await?;

    let mut add = Add {
        call,
        dirs,
        store: &store,
        records,
        facts: &facts,
        id: &id,
        record: Attachment {
            container_id: call.container_id.clone(),
            ifname: call.ifname.clone(),
            network: call.conf.name.clone(),
            netns: call.netns.clone(),
            host_name: None,
            handle: handle(&call.conf.name, &call.container_id),
            addresses: vec![],
            node: node.as_str().to_owned(),
            boot: boot_id(),
            stage: Stage::adding_now(),
            delegated: delegation::remembered(call)?,
        },
        unsure: false,
    };
    match add.run(netns, &ifname, &all).await {
        Ok(()) => Ok(()),
        Err(error) => Err(add.roll_back(error, &all).await),
    }
}

fn pod_side(call: &Invocation) -> Result<(&Path, InterfaceName), CniError> {
    let wrong = |msg: String| CniError::new(Code::InvalidEnvironment, msg, "");
    let netns = call.netns.as_deref().ok_or_else(|| wrong("CNI_NETNS is missing".to_owned()))?;
    if !network::is_namespace(netns) {
        let why = "it is a path to a network namespace, which the runtime made";
        let msg = format!("CNI_NETNS {} is not a network namespace", netns.display());
        return Err(CniError::new(Code::InvalidEnvironment, msg, why));
    }
    let ifname = call.ifname.parse().map_err(|_| wrong("CNI_IFNAME is no name".to_owned()))?;
    Ok((netns, ifname))
}

/// Removes what an earlier ADD of the same interface left. One that succeeded and still has its
/// interface is no remains: the runtime must not add twice.
async fn clean(
    call: &Invocation,
    store: &AnyStore,
    records: &Attachments,
    own: &[Attachment],
    id: &WorkloadEndpointId,
    facts: &Facts,
    inside: bool,
) -> Result<(), CniError> {
    let (container, ifname) = (&call.container_id, &call.ifname);
    let earlier = own.iter().find(|a| a.ifname == *ifname);
    let unfinished =
        earlier.is_some_and(|earlier| earlier.stage != Stage::Added && earlier.netns == call.netns);
    if inside && !unfinished {
        let netns = call.netns.as_deref().unwrap_or(Path::new("")).display();
        return Err(CniError::new(
            Code::InvalidEnvironment,
            format!("the container {container} has an interface {ifname} already"),
            format!("it is in {netns}; DEL it first, or give this one another CNI_IFNAME"),
        ));
    }
    if earlier.is_none() && facts.endpoint.is_none() {
        return Ok(());
    }
    let everybody = list(records)?;
    let remains = match (earlier, &facts.endpoint) {
        (Some(record), _) => Remains::of_record(record, &everybody),
        (None, stored) => {
            let held = stored.as_ref().map(|stored| layout::holdings(&stored.value));
            let interface = held.and_then(|held| held.interface);
            let handle = handle(&call.conf.name, container);
            Remains::of_endpoint(id.clone(), interface, handle, &everybody)
        }
    };
    tracing::debug!(container, ifname, "an earlier ADD left something: it is removed");
    let removed = teardown(store, &remains).await;
    let msg = "what an earlier ADD of this interface left cannot be removed";
    match failure::teardown(msg, &removed) {
        Some(error) => Err(error),
        None => records.remove(container, ifname).map_err(|error| failure::attachment(msg, &error)),
    }
}

/// One ADD at work.
struct Add<'a> {
    call: &'a Invocation,
    dirs: &'a Directories,
    store: &'a AnyStore,
    records: &'a Attachments,
    facts: &'a Facts,
    id: &'a WorkloadEndpointId,
    record: Attachment,
    /// The store did not say whether the endpoint is written: that may still happen. One that it
    /// refused never comes, and leaves no record; what it refuses to take back does.
    unsure: bool,
}

impl Add<'_> {
    async fn run(
        &mut self,
        netns: &Path,
        ifname: &InterfaceName,
        all: &[Attachment],
    ) -> Result<(), CniError> {
        self.remember()?;
        tracing::debug!("the attachment is recorded");
        let network = Name::from(&*self.call.conf.name);
        if !self.facts.profile {
            profile::ensure(self.store, &network).await?;
            tracing::debug!(%network, "the profile is there");
        }
        let dns = self.addresses(all).await?;
        tracing::debug!(addresses = ?self.record.addresses, "addresses are assigned");
        self.remember()?;
        let connected = self.interface(netns, ifname, all).await?;
        let edit = EndpointEdit {
            addresses: self.record.addresses.clone(),
            profiles: vec![network],
            interface: connected.host_name.clone(),
            mac: connected.mac,
            labels: self.call.labels(),
        };
        let written = SystemTime::now();
        endpoint::write(self.store, self.id, &edit).await.map_err(|failed| {
            self.unsure = failed.unsure;
            failed.error
        })?;
        tracing::debug!(endpoint = %self.id, "the endpoint is written");
        // While the agent is at work.
        let success = self.success(&connected, dns);
        self.protected(&connected, written).await?;
        tracing::debug!("the policy is in force");

        self.record.stage = Stage::Added;
        self.remember()?;
        print::success(&success, self.call.conf.version)?;
        tracing::debug!("the result is printed");
        self.tell(&connected);
        Ok(())
    }

    fn tell(&self, connected: &Connected) {
        let Attachment { container_id, ifname, network, addresses, .. } = &self.record;
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let message = format!(
            "connected {ifname} of {container_id} to {network}: {} behind {}",
            addresses.join(", "),
            connected.host_name
        );
        journal::say(Priority::Info, &message, container_id, ifname);
    }

    /// Writes the record down before the next step.
    fn remember(&self) -> Result<(), CniError> {
        self.records
            .store(&self.record)
            .map_err(|error| failure::attachment("the attachment cannot be recorded", &error))
    }

    /// Gets addresses from whoever gives them, and what that plugin says of DNS.
    async fn addresses(&mut self, all: &[Attachment]) -> Result<Dns, CniError> {
        let conf = &self.call.conf;
        if conf.ipam.is_delegated() {
            let given = delegate::add(self.call).await?;
            self.record.addresses = given.ips.iter().map(|ip| ip.address.0).collect();
            self.record.addresses.sort_by_key(|address| Family::of(*address));
            return Ok(given.dns);
        }
        let pool = match &conf.ipam.subnet {
            Some(subnet) => Some(pool::ensure(self.store, subnet).await?),
            None => None,
        };
        let wanted = addresses::wanted(&conf.ipam, self.call.requested_ips(), pool)?;
        addresses::must_be_free(&wanted, all, &self.record.ifname)?;
        let ipam = Ipam::new(self.store.clone(), self.id.node.clone());
        self.record.addresses =
            addresses::assign(&ipam, &self.record.node, &self.record.handle, &wanted).await?;
        Ok(Dns::default())
    }

    /// Makes the interface under the first name that is free.
    async fn interface(
        &mut self,
        netns: &Path,
        ifname: &InterfaceName,
        all: &[Attachment],
    ) -> Result<Connected, CniError> {
        let wanted = interface::wanted(self.call, self.dirs, netns, &self.record.addresses).await?;
        let mut last = None;
        let msg = format!("the interface {ifname} cannot be made");
        for host_name in interface::names(self.call, all) {
            // Before it is recorded: what the record names is removed with it.
            match network::exists(&host_name).await {
                Ok(false) => {}
                Ok(true) => {
                    last = Some(network::NetworkError::TakenOutside { name: host_name });
                    continue;
                }
                Err(error) => return Err(failure::network(msg, &error)),
            }
            // Before it is made: whoever finds the record knows what may be there.
            self.record.host_name = Some(host_name.as_str().to_owned());
            self.remember()?;
            match interface::make(&wanted, netns, ifname, &host_name).await {
                Ok(connected) => return Ok(connected),
                Err(error) => {
                    use network::NetworkError::{TakenInside, TakenOutside};
                    let outside = matches!(error, TakenOutside { .. });
                    if outside || matches!(error, TakenInside { .. }) {
                        // Nothing was made, and that name is another pod's by now.
                        self.record.host_name = None;
                        self.remember()?;
                    }
                    last = Some(error);
                    if !outside {
                        break;
                    }
                }
            }
        }
        Err(match last {
            Some(error) => failure::network(msg, &error),
            None => CniError::new(Code::Kernel, msg, "every name for its host side is taken"),
        })
    }

    /// Waits until the agent has the policy in the kernel.
    async fn protected(&self, connected: &Connected, written: SystemTime) -> Result<(), CniError> {
        let limit = self.call.conf.policy_timeout.unwrap_or(waiting::USUAL);
        if limit.is_zero() {
            return Ok(());
        }
        let expected = Expected {
            mac: connected.mac,
            interface: connected.host_name.clone(),
            index: nix::net::if_::if_nametoindex(connected.host_name.as_str()).ok(),
            addresses: self.record.addresses.clone(),
            written,
        };
        let file = self.dirs.endpoint_status.join(endpoint_status_file_name(self.id));
        waiting::wait(&file, &self.dirs.agent_socket(), &expected, limit).await
    }

    fn success(&self, connected: &Connected, given: Dns) -> Success {
        let node = gateway::node(&self.id.node, self.facts.node.as_ref());
        let host = self.call.conf.says_host_as_gateway();
        let gateway = |family| {
            if host { gateway::of_host(family, node.as_ref()) } else { gateway::link_local(family) }
        };
        let dns = if self.call.conf.dns.is_empty() { given } else { self.call.conf.dns.clone() };
        answer::success(self.call, connected, &self.record.addresses, &gateway, dns)
    }

    /// Takes back what was made.
    async fn roll_back(&mut self, error: CniError, all: &[Attachment]) -> CniError {
        // What is others' may be another container's as well.
        let everybody = list(self.records).unwrap_or_else(|_| all.to_vec());
        let removed = teardown(self.store, &Remains::of_record(&self.record, &everybody)).await;
        let failed = failure::teardown("", &removed).map(|error| error.details);
        // An endpoint that was found is removed for good; one that was not may come yet, and then
        // the agent's collector has to know of it.
        let may_come = self.unsure && !removed.endpoint;
        let kept = match &failed {
            None if !may_come => {
                self.records.remove(&self.record.container_id, &self.record.ifname)
            }
            _ => {
                if failed.is_none() {
                    // It is gone; whoever has that name later is somebody else.
                    self.record.host_name = None;
                }
                self.record.stage = Stage::Failed;
                self.records.store(&self.record)
            }
        };
        let trouble = failed.into_iter().chain(kept.err().map(|error| failure::chain(&error)));
        let trouble: Vec<_> = trouble.collect();
        if trouble.is_empty() {
            return error;
        }
        let details = format!(
            "{}; and not everything could be taken back, the agent tries again: {}",
            error.details,
            trouble.join("; ")
        );
        CniError { details, ..error }
    }
}
