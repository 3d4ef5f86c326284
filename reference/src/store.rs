//! The objects, read once.

use std::collections::BTreeMap;

use calico_datastore::model::{
    self, Action, Cidr, HostEndpoint, HostEndpointId, Name, NetworkSet, NetworkSetId, PolicyId,
    Profile, ResourceId, Rule, Tier, Update, WorkloadEndpoint, WorkloadEndpointId,
};

use crate::member::Member;
use crate::packet::Direction;
use crate::rule::Read;
use crate::selector::{Expression, Labels};
use crate::tier::{Asked, Generation, arrange};

/// The profile that allows everything. It is never stored.
const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

/// Rules of both directions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    ingress: Vec<Read>,
    egress: Vec<Read>,
}

impl Rules {
    fn new(ingress: &[Rule], egress: &[Rule]) -> Option<Self> {
        let read = |rules: &[Rule]| rules.iter().map(Read::new).collect::<Option<Vec<_>>>();
        Some(Self { ingress: read(ingress)?, egress: read(egress)? })
    }

    pub(crate) fn of(&self, direction: Direction) -> &[Read] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// A policy with its selectors read.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) object: model::Policy,
    pub(crate) selector: Expression,
    pub(crate) rules: Rules,
}

/// The objects of a datastore, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    pub(crate) workloads: BTreeMap<WorkloadEndpointId, WorkloadEndpoint>,
    pub(crate) hosts: BTreeMap<HostEndpointId, HostEndpoint>,
    pub(crate) policies: BTreeMap<PolicyId, Policy>,
    pub(crate) profiles: BTreeMap<Name, Rules>,
    pub(crate) tiers: Vec<Asked>,
    pub(crate) members: Vec<Member>,
    /// Settings that are stored: of all nodes (`default`), of one (`node.<name>`).
    pub(crate) configurations: BTreeMap<Name, model::FelixConfiguration>,
    /// `labelsToApply` of each profile.
    inherited: BTreeMap<Name, Labels>,
}

impl Reference {
    /// Takes the objects in. Of several updates of one object the last counts; one without a value
    /// removes it.
    ///
    /// # Panics
    /// Never: a selector of the model always reads, and a test draws many.
    pub fn new<'a>(objects: impl IntoIterator<Item = &'a Update>) -> Self {
        let mut last: BTreeMap<ResourceId, &Update> = BTreeMap::new();
        for update in objects {
            last.insert(update.id(), update);
        }
        let mut this = Self::default();
        let mut generation = Generation::Unknown;
        let mut tiers: BTreeMap<Name, Tier> = BTreeMap::new();
        let mut sets: BTreeMap<NetworkSetId, NetworkSet> = BTreeMap::new();
        let allow = [Rule::any(Action::Allow)];
        this.add_profile(
            &Name::from(DEFAULT_ALLOW),
            &Profile { ingress: allow.to_vec(), egress: allow.to_vec(), ..Profile::default() },
        );
        for update in last.into_values() {
            match update {
                Update::ClusterInformation(Some(cluster)) => {
                    let version = cluster.calico_version.as_deref();
                    generation = version.map_or(Generation::Unknown, Generation::of);
                }
                Update::FelixConfiguration(name, Some(one)) => {
                    this.configurations.insert(name.clone(), (**one).clone());
                }
                Update::Tier(name, Some(tier)) => drop(tiers.insert(name.clone(), **tier)),
                Update::NetworkSet(id, Some(set)) => drop(sets.insert(id.clone(), (**set).clone())),
                Update::Profile(name, Some(profile)) if *name != *DEFAULT_ALLOW => {
                    this.add_profile(name, profile);
                }
                Update::Policy(id, Some(policy)) => this.add_policy(id, policy),
                Update::HostEndpoint(id, Some(endpoint)) => {
                    this.hosts.insert(id.clone(), (**endpoint).clone());
                }
                Update::WorkloadEndpoint(id, Some(endpoint)) => {
                    this.workloads.insert(id.clone(), (**endpoint).clone());
                }
                _ => {}
            }
        }
        this.tiers = arrange(generation, &tiers, &this.policies);
        this.members = this.all_members(&sets);
        this
    }

    fn add_profile(&mut self, name: &Name, profile: &Profile) {
        let rules = Rules::new(&profile.ingress, &profile.egress)
            .expect("every selector of the model can be read");
        self.profiles.insert(name.clone(), rules);
        self.inherited.insert(name.clone(), own(&profile.labels));
    }

    fn add_policy(&mut self, id: &PolicyId, policy: &model::Policy) {
        let read = "every selector of the model can be read";
        let policy = Policy {
            object: policy.clone(),
            selector: Expression::read(policy.selector.canonical()).expect(read),
            rules: Rules::new(&policy.ingress, &policy.egress).expect(read),
        };
        self.policies.insert(id.clone(), policy);
    }

    fn all_members(&self, sets: &BTreeMap<NetworkSetId, NetworkSet>) -> Vec<Member> {
        let workloads = self.workloads.values().map(|endpoint| Member {
            labels: self.labels(&endpoint.labels, &endpoint.profiles),
            nets: endpoint.addresses.clone(),
            ports: endpoint.ports.clone(),
        });
        let hosts = self.hosts.values().map(|endpoint| Member {
            labels: self.labels(&endpoint.labels, &endpoint.profiles),
            nets: endpoint.expected_addresses.iter().map(|ip| Cidr::host(*ip)).collect(),
            ports: endpoint.ports.clone(),
        });
        let sets = sets.values().map(|set| Member {
            labels: self.labels(&set.labels, &set.profiles),
            nets: set.nets.clone(),
            ports: Vec::new(),
        });
        workloads.chain(hosts).chain(sets).collect()
    }

    /// The own labels, then those of each profile in its order; the first one of a key wins.
    pub(crate) fn labels(&self, labels: &model::Labels, profiles: &[Name]) -> Labels {
        let mut all = own(labels);
        for inherited in profiles.iter().filter_map(|name| self.inherited.get(name)) {
            for (key, value) in inherited {
                if !all.contains_key(key) {
                    all.insert(key.clone(), value.clone());
                }
            }
        }
        all
    }

    /// The workload endpoints of every host.
    pub fn workloads(&self) -> impl Iterator<Item = (&WorkloadEndpointId, &WorkloadEndpoint)> {
        self.workloads.iter()
    }

    /// The host endpoints of every host.
    pub fn hosts(&self) -> impl Iterator<Item = (&HostEndpointId, &HostEndpoint)> {
        self.hosts.iter()
    }
}

fn own(labels: &model::Labels) -> Labels {
    labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}
