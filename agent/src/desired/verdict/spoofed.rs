//! Who may have sent a flow although its source is none of their addresses.

use calico_datastore::model::WorkloadEndpointId;

use super::{Flow, Judge, Side, Subject, Verdict};
use crate::desired::LocalEndpoint;

impl<'a> Judge<'a> {
    /// Each endpoint of this host that lists the flow's source (`allowSpoofedSourcePrefixes`) and has
    /// leave to, and what its policy says of the flow. Whether it sent it, the flow does not tell:
    /// the address may be used by somebody outside as well. Nobody where the source is the host's own,
    /// or that of an endpoint that is in force or not policed, which is taken for the sender; and not who
    /// has the destination.
    pub fn ask_spoofers(&self, flow: &Flow) -> Vec<Verdict> {
        let Flow { source, destination, .. } = *flow;
        if self.spoofers.is_empty()
            || self.host.contains(&source)
            || self.owners.has(source)
            || self.unpoliced.has(source)
        {
            return Vec::new();
        }
        let lists = |endpoint: &LocalEndpoint| {
            endpoint.spoof.iter().any(|net| net.contains(source))
                && !endpoint.addresses.iter().any(|net| net.contains(destination))
        };
        let decide = |(id, endpoint): &(&'a WorkloadEndpointId, &'a LocalEndpoint)| {
            let (allowed, reason) = self.decide(endpoint, Side::Source, flow, &mut ());
            let subject = Subject::Workload((*id).clone());
            Verdict { subject, side: Side::Source, allowed, reason }
        };
        self.spoofers.iter().filter(|(_, endpoint)| lists(endpoint)).map(decide).collect()
    }
}
